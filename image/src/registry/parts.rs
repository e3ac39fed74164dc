//! One blob from one endpoint, in as many parts and tries as it takes.
//!
//! The missing ranges are cut into parts. The first worker's first answer says whether the endpoint
//! gives ranges (RFC 9110, 14); only then do others join in, each with a connection of its own. An
//! endpoint that does not is read from the beginning, and what is there already is skipped.
//!
//! From an endpoint on this machine one connection brings as much as several, and a killed process
//! loses less with it (`transport::socket`): others join in only if it turns out to be slow.

use std::collections::VecDeque;
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::header;

use super::client::Client;
use super::download::{Sink, blob_call};
use super::endpoints::Endpoint;
use super::retry::{Failure, Policy};
use super::transport::{BUFFER, Body, Response, broken};
use crate::document::Descriptor;
use crate::{Error, ErrorKind, Result};

/// A part of a large blob; each is a request of its own.
const PART: u64 = 16 << 20;
/// What a broken connection must at least have brought to be progress.
const PROGRESS: u64 = 64 << 10;

/// How long one connection within this machine is watched at a time, and what it is to bring in that
/// time, 32 MB/s, unless it is we who take longer.
const TRIAL: Duration = Duration::from_millis(200);
const FAST: u64 = 32_000_000 / 5;

/// Why a job ended early.
pub(super) enum Stopped {
    Sink(Error),
    Endpoint(Error),
}

/// One blob from one endpoint.
pub(super) struct Job<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    wanted: &'a Descriptor,
    sink: &'a Sink<'a>,
    policy: Policy,
    what: &'a str,
    state: Mutex<JobState>,
    bell: Condvar,
    /// Bytes that have come.
    received: AtomicU64,
    /// Nanoseconds that were waited for them.
    waited: AtomicU64,
}

#[derive(Default)]
struct JobState {
    parts: VecDeque<Range<u64>>,
    /// Whether the endpoint gives parts, once that is known.
    ranges: Option<bool>,
    /// The endpoint is on this machine.
    near: bool,
    stopped: Option<Stopped>,
    /// The first worker is done: there is nothing to wait for any more.
    over: bool,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        client: &'a Client,
        endpoint: &'a Endpoint,
        wanted: &'a Descriptor,
        sink: &'a Sink<'a>,
        policy: Policy,
        what: &'a str,
    ) -> Self {
        Self {
            client,
            endpoint,
            wanted,
            sink,
            policy,
            what,
            state: Mutex::default(),
            bell: Condvar::new(),
            received: AtomicU64::new(0),
            waited: AtomicU64::new(0),
        }
    }

    pub(super) fn run(self) -> Result<(), Stopped> {
        let missing = (self.sink.missing)().map_err(Stopped::Sink)?;
        let workers = {
            let mut state = self.state();
            state.parts = cut(&missing);
            self.endpoint.host.connections.min(state.parts.len())
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|| {
                    if self.wait_for_ranges() && self.wait_while_fast() {
                        self.work();
                    }
                });
            }
            self.work();
            self.state().over = true;
            self.bell.notify_all();
        });
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        state.stopped.map_or(Ok(()), Err)
    }

    fn state(&self) -> MutexGuard<'_, JobState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More connections only help if each can fetch a part.
    fn wait_for_ranges(&self) -> bool {
        let mut state = self.state();
        while state.ranges.is_none() && state.stopped.is_none() && !state.over {
            state = self
                .bell
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.ranges == Some(true) && state.stopped.is_none()
    }

    /// Nor if one brings as much as can be taken. False: it brought everything.
    fn wait_while_fast(&self) -> bool {
        let mut state = self.state();
        while state.near && state.stopped.is_none() && !state.over {
            let so_far = || {
                let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
                (
                    load(&self.received),
                    Duration::from_nanos(load(&self.waited)),
                )
            };
            let before = so_far();
            let waited = self
                .bell
                .wait_timeout_while(state, TRIAL, |state| state.stopped.is_none() && !state.over);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let now = so_far();
            let (came, waited) = (now.0 - before.0, now.1.saturating_sub(before.1));
            if came == 0 || (came < FAST && waited > TRIAL * 3 / 4) {
                break;
            }
        }
        state.stopped.is_none() && !state.over
    }

    fn set_ranges(&self, ranges: bool, near: bool) {
        let mut state = self.state();
        (state.ranges, state.near) = (Some(ranges), near);
        drop(state);
        self.bell.notify_all();
    }

    fn stop(&self, why: Stopped) {
        self.state().stopped.get_or_insert(why);
        self.bell.notify_all();
    }

    /// Fetches parts until there are none.
    fn work(&self) {
        loop {
            let part = {
                let mut state = self.state();
                match state.stopped {
                    Some(_) => None,
                    None => state.parts.pop_front(),
                }
            };
            let Some(mut part) = part else { return };
            let mut attempts = self.client.attempts(self.policy);
            while part.start < part.end && self.state().stopped.is_none() {
                let before = part.start;
                let failure = match self.fetch(&mut part) {
                    Ok(()) => continue,
                    Err(Broken::Sink(e)) => return self.stop(Stopped::Sink(e)),
                    Err(Broken::Endpoint(failure)) => failure,
                };
                if part.start - before >= PROGRESS {
                    attempts.progressed();
                }
                if let Err(e) = attempts.wait(failure) {
                    return self.stop(Stopped::Endpoint(e));
                }
            }
        }
    }

    /// Fetches some of a part, or of everything if the endpoint gives no parts.
    fn fetch(&self, part: &mut Range<u64>) -> Result<(), Broken> {
        let size = self.wanted.size;
        let _permit = self.client.enter(self.endpoint).map_err(Failure::last)?;
        let mut call = blob_call(self.endpoint, &self.wanted.digest, self.what);
        let whole = part.start == 0 && part.end == size;
        if !whole && self.state().ranges != Some(false) {
            let range = format!("bytes={}-{}", part.start, part.end - 1);
            call.headers.push((header::RANGE, range));
        }
        let response = self.client.call(self.endpoint, &call, || Ok(Body::None))?;
        match response.status {
            206 => {
                let Some(end) = given(&response, part, size) else {
                    self.set_ranges(false, response.near);
                    return Err(self
                        .wrong("sends another range than it was asked for")
                        .into());
                };
                check_encoding(&response, end - part.start)?;
                self.set_ranges(true, response.near);
                self.copy(response, part, end)
            }
            200 => {
                check_encoding(&response, size)?;
                if response
                    .number("content-length")
                    .is_some_and(|length| length != size)
                {
                    let length = response.header("content-length").unwrap_or_default();
                    let words = format!("has {length} bytes for it, and not {size}");
                    return Err(Failure::last(self.corrupt(&words)).into());
                }
                if whole {
                    return self.copy(response, part, size);
                }
                self.set_ranges(false, response.near);
                self.copy_missing(response, part)
            }
            416 if self.state().ranges != Some(false) => {
                self.set_ranges(false, response.near);
                Err(self.wrong("refuses a range").into())
            }
            _ => Err(response.failure(self.what).into()),
        }
    }

    fn wrong(&self, words: &str) -> Failure {
        let host = &self.endpoint.authority;
        Failure::passing(Error::new(
            ErrorKind::Unavailable,
            format!("{host} {words}"),
        ))
    }

    fn corrupt(&self, words: &str) -> Error {
        let host = &self.endpoint.authority;
        Error::new(ErrorKind::Corrupt, format!("{host} {words}"))
    }

    /// Writes a body that begins at the part's start and ends at `end`.
    fn copy(&self, response: Response, part: &mut Range<u64>, end: u64) -> Result<(), Broken> {
        self.read(response, part.start, end, |offset, bytes| {
            (self.sink.write)(offset, bytes)?;
            part.start = offset + bytes.len() as u64;
            Ok(())
        })
    }

    /// Writes what is missing out of the whole blob, which is all that this endpoint gives.
    fn copy_missing(&self, response: Response, part: &mut Range<u64>) -> Result<(), Broken> {
        self.state().parts.clear();
        let missing = (self.sink.missing)().map_err(Broken::Sink)?;
        self.read(response, 0, self.wanted.size, |offset, bytes| {
            let end = offset + bytes.len() as u64;
            for range in &missing {
                let (from, to) = (range.start.max(offset), range.end.min(end));
                if from < to {
                    let inside = (from - offset) as usize..(to - offset) as usize;
                    (self.sink.write)(from, &bytes[inside])?;
                }
            }
            Ok(())
        })?;
        part.start = part.end;
        Ok(())
    }

    fn read(
        &self,
        response: Response,
        mut offset: u64,
        end: u64,
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<(), Broken> {
        let url = response.url;
        let mut reader = response.body.into_reader();
        let mut buffer = vec![0_u8; BUFFER];
        loop {
            self.client.cancel.check().map_err(Failure::last)?;
            let began = Instant::now();
            let length = reader.read(&mut buffer).map_err(|e| broken(e, &url))?;
            let waited = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.waited.fetch_add(waited, Ordering::Relaxed);
            if length == 0 && offset == end {
                return Ok(());
            }
            if length == 0 {
                return Err(self.wrong(&format!("ends after {offset} bytes")).into());
            }
            if length as u64 > end - offset {
                let words = format!("sends more than the {end} bytes asked for");
                return Err(Failure::last(self.corrupt(&words)).into());
            }
            write(offset, &buffer[..length]).map_err(Broken::Sink)?;
            offset += length as u64;
            self.received.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
}

/// Why a part was not fetched as a whole.
enum Broken {
    Sink(Error),
    Endpoint(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Endpoint(failure)
    }
}

/// Cuts what is missing into parts, in order: whoever unpacks while it comes needs the beginning
/// first.
fn cut(missing: &[Range<u64>]) -> VecDeque<Range<u64>> {
    let total: u64 = missing
        .iter()
        .map(|range| range.end.saturating_sub(range.start))
        .sum();
    let mut parts = VecDeque::new();
    for range in missing {
        let mut start = range.start;
        while start < range.end {
            let end = if total < 2 * PART {
                range.end
            } else {
                range.end.min(start + PART)
            };
            parts.push_back(start..end);
            start = end;
        }
    }
    parts
}

/// Where the range ends that an answer 206 gives, if it begins where it should.
fn given(response: &Response, part: &Range<u64>, size: u64) -> Option<u64> {
    let (range, total) = response
        .header("content-range")?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let end = last.checked_add(1)?;
    let total_fits = total == "*" || total.parse() == Ok(size);
    let length_fits = response
        .number("content-length")
        .is_none_or(|length| length == end - first);
    (total_fits && length_fits && first == part.start && end > first && end <= part.end)
        .then_some(end)
}

/// A blob is its bytes. Storage services say `gzip` of bytes that were stored as gzip, which is fine
/// if they are as many as they should; a proxy that compresses on the way is not.
fn check_encoding(response: &Response, length: u64) -> Result<(), Failure> {
    let encoding = response.header("content-encoding").unwrap_or("identity");
    if encoding.eq_ignore_ascii_case("identity")
        || response.number("content-length") == Some(length)
    {
        return Ok(());
    }
    let host = response.url.authority();
    let shown: String = encoding.chars().take(40).collect();
    let message =
        format!("{host} sends it with Content-Encoding {shown:?}, which changes its bytes");
    Err(Error::new(ErrorKind::Corrupt, message).into())
}
