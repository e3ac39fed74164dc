//! Downloads: what a tag means, documents by digest, and blobs in as many parts as it takes.
//!
//! A blob goes to a [`Sink`]: whoever keeps blobs says which ranges are missing, takes bytes at an
//! offset and verifies the whole. A transfer that breaks goes on at the first missing byte, from the
//! same or the next endpoint, in this or another process. `If-Range` is not needed: what a digest
//! names never changes.

use std::collections::VecDeque;
use std::io::Read;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ureq::http::{Method, header};

use super::authenticate::Scopes;
use super::client::{Call, Client};
use super::endpoints::{Endpoint, Purpose};
use super::retry::{Attempts, Failure, Policy, tried};
use super::transport::{BUFFER, Body, Response, broken};
use crate::document::{Descriptor, Document, MAX_DOCUMENT, MAX_INDEX_DEPTH, check_size, media};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// A part of a large blob; each is a request of its own.
pub const PART: u64 = 16 << 20;
/// What a broken connection must at least have brought to be progress.
const PROGRESS: u64 = 64 << 10;

/// A document that was fetched and verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What they mean.
    pub document: Document,
    /// The endpoint that it came from.
    pub source: String,
}

/// Where a blob goes. All may be called from several threads.
pub struct Sink<'a> {
    /// The ranges that are not there yet, ascending.
    pub missing: &'a (dyn Fn() -> Result<Vec<Range<u64>>> + Sync),
    /// Takes bytes at an offset, always within a missing range.
    pub write: &'a (dyn Fn(u64, &[u8]) -> Result<()> + Sync),
    /// Verifies the whole. [`ErrorKind::Corrupt`] means that the bytes are not the blob.
    pub verify: &'a (dyn Fn() -> Result<()> + Sync),
    /// Forgets all bytes, to begin anew elsewhere.
    pub discard: &'a (dyn Fn() -> Result<()> + Sync),
}

impl std::fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Client {
    /// What a reference means now: its index or manifest, verified against the reference's digest
    /// or the one that the registry names.
    pub fn resolve(&self, reference: &Reference) -> Result<Fetched> {
        let purpose = match reference.digest() {
            Some(_) => Purpose::Pull,
            None => Purpose::Resolve,
        };
        let what = format!("resolve {reference}");
        self.first_of(reference, purpose, &what, |endpoint, policy| {
            self.manifest(
                endpoint,
                policy,
                &reference.manifest_name(),
                reference.digest(),
                None,
            )
        })
    }

    /// The digest that a reference stands for now, without fetching anything. `None`: the registry
    /// does not say, and [`Client::resolve`] does.
    pub fn digest(&self, reference: &Reference) -> Result<Option<Digest>> {
        if let Some(digest) = reference.digest() {
            return Ok(Some(digest.clone()));
        }
        let what = format!("resolve {reference}");
        self.first_of(reference, Purpose::Resolve, &what, |endpoint, policy| {
            let name = reference.manifest_name();
            tried(policy, &self.cancel, || {
                let call = manifest_call(Method::HEAD, endpoint, &name, &what);
                let response = self.call(endpoint, &call, || Ok(Body::None))?;
                match response.status {
                    200 => Ok(said_digest(&response)?),
                    _ => Err(response.failure("find it")),
                }
            })
        })
    }

    /// A document that another one names.
    pub fn document(&self, reference: &Reference, wanted: &Descriptor) -> Result<Fetched> {
        let what = format!("fetch {}@{}", reference.name(), wanted.digest);
        check_size(usize::try_from(wanted.size).unwrap_or(usize::MAX))
            .context(|| format!("cannot {what}"))?;
        let name = wanted.digest.to_string();
        self.first_of(reference, Purpose::Pull, &what, |endpoint, policy| {
            let digest = Some(&wanted.digest);
            let fetched =
                self.manifest(endpoint, policy, &name, digest, Some(&wanted.media_type))?;
            check_length(fetched.bytes.len() as u64, wanted)?;
            Ok(fetched)
        })
    }

    /// The manifest for a platform: a reference's own, or the one its index (or an index in it)
    /// names. What was read on the way comes first.
    pub fn image(&self, reference: &Reference, platform: &Platform) -> Result<Vec<Fetched>> {
        let mut way = vec![self.resolve(reference)?];
        while let Some(Document::Index(index)) = way.last().map(|last| &last.document) {
            if way.len() > MAX_INDEX_DEPTH {
                return Err(Error::invalid(format!(
                    "cannot resolve {reference}: more than {MAX_INDEX_DEPTH} indexes inside one another"
                )));
            }
            let chosen = index
                .select(platform)
                .context(|| format!("cannot use {reference}"))?;
            let fetched = self.document(reference, chosen)?;
            way.push(fetched);
        }
        if let Some(Document::Manifest(manifest)) = way.last().map(|last| &last.document) {
            manifest
                .check_image()
                .context(|| format!("cannot use {reference}"))?;
        }
        Ok(way)
    }

    fn manifest(
        &self,
        endpoint: &Endpoint,
        policy: Policy,
        name: &str,
        wanted: Option<&Digest>,
        media_type: Option<&str>,
    ) -> Result<Fetched> {
        tried(policy, &self.cancel, || {
            let what = format!("fetch the manifest {name} of {}", endpoint.repository);
            let call = manifest_call(Method::GET, endpoint, name, &what);
            let response = self.call(endpoint, &call, || Ok(Body::None))?;
            if response.status != 200 {
                return Err(response.failure(&what));
            }
            let said = said_digest(&response)?;
            let announced = response.header("content-type").map(str::to_owned);
            let bytes = response.bytes(MAX_DOCUMENT as u64)?;
            let wanted = wanted.or(said.as_ref());
            let digest = match wanted {
                Some(wanted) => verified(&bytes, wanted, &endpoint.authority)?,
                None => Digest::of(&bytes),
            };
            let document = Document::read(&bytes, media_type.or(announced.as_deref()))
                .and_then(|_| Document::read(&bytes, announced.as_deref()))
                .context(|| format!("{digest} from {}", endpoint.authority))?;
            let source = endpoint.authority.clone();
            Ok(Fetched {
                digest,
                bytes,
                document,
                source,
            })
        })
    }

    /// A small blob, such as a configuration, as a whole.
    pub fn small_blob(&self, reference: &Reference, wanted: &Descriptor) -> Result<Vec<u8>> {
        let what = format!("fetch {}@{}", reference.name(), wanted.digest);
        check_size(usize::try_from(wanted.size).unwrap_or(usize::MAX))
            .context(|| format!("cannot {what}"))?;
        self.first_of(reference, Purpose::Pull, &what, |endpoint, policy| {
            tried(policy, &self.cancel, || {
                let call = blob_call(endpoint, &wanted.digest, &what);
                let response = self.call(endpoint, &call, || Ok(Body::None))?;
                if response.status != 200 {
                    return Err(response.failure(&what));
                }
                let bytes = response.bytes(wanted.size)?;
                check_length(bytes.len() as u64, wanted)?;
                verified(&bytes, &wanted.digest, &endpoint.authority)?;
                Ok(bytes)
            })
        })
    }

    /// Brings a blob's missing bytes to a sink, and lets it verify them. Bytes that turn out wrong
    /// are discarded, and the next endpoint is asked.
    pub fn blob(&self, reference: &Reference, wanted: &Descriptor, sink: &Sink<'_>) -> Result<()> {
        let what = format!("fetch {}@{}", reference.name(), wanted.digest);
        // What the sink says is about this machine: nobody else can help.
        let own = Mutex::new(None);
        let result = self.first_of(reference, Purpose::Pull, &what, |endpoint, policy| {
            if let Some(error) = take(&own) {
                return Err(error);
            }
            let job = Job::new(self, endpoint, wanted, sink, policy, &what);
            match job.run() {
                Ok(()) => {}
                Err(Stopped::Sink(e)) => {
                    *own.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    return Err(Error::new(ErrorKind::Internal, "the store failed"));
                }
                Err(Stopped::Endpoint(e)) => return Err(e),
            }
            (sink.verify)()
                .or_else(|e| {
                    if e.kind() == ErrorKind::Corrupt {
                        (sink.discard)()?;
                    }
                    Err(e)
                })
                .context(|| format!("from {}", endpoint.authority))
        });
        match take(&own) {
            Some(error) => Err(error.context(format!("cannot {what}"))),
            None => result,
        }
    }
}

fn take(own: &Mutex<Option<Error>>) -> Option<Error> {
    own.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn manifest_call<'a>(method: Method, endpoint: &Endpoint, name: &str, what: &'a str) -> Call<'a> {
    let path = format!("{}/manifests/{name}", endpoint.repository);
    let mut call = Call::new(method, path, Scopes::pull(&endpoint.repository), what);
    call.headers
        .push((header::ACCEPT, media::MANIFESTS.join(", ")));
    call
}

fn blob_call<'a>(endpoint: &Endpoint, digest: &Digest, what: &'a str) -> Call<'a> {
    let path = format!("{}/blobs/{digest}", endpoint.repository);
    Call::new(Method::GET, path, Scopes::pull(&endpoint.repository), what)
}

fn said_digest(response: &Response) -> Result<Option<Digest>> {
    let said = response.header("docker-content-digest");
    let host = response.url.authority();
    said.map(str::parse)
        .transpose()
        .context(|| format!("{host} sends a wrong Docker-Content-Digest"))
}

fn verified(bytes: &[u8], wanted: &Digest, host: &str) -> Result<Digest> {
    let mut hasher = wanted.algorithm().hasher();
    hasher.update(bytes);
    let digest = hasher.finish();
    if &digest != wanted {
        let message = format!("{host} sent {digest} instead of {wanted}");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(digest)
}

fn check_length(length: u64, wanted: &Descriptor) -> Result<()> {
    if length != wanted.size {
        let size = wanted.size;
        let message = format!("{} has {length} bytes, and not {size}", wanted.digest);
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(())
}

/// Why a job ended early.
enum Stopped {
    Sink(Error),
    Endpoint(Error),
}

/// One blob from one endpoint.
struct Job<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    wanted: &'a Descriptor,
    sink: &'a Sink<'a>,
    policy: Policy,
    what: &'a str,
    state: Mutex<JobState>,
    bell: Condvar,
}

#[derive(Default)]
struct JobState {
    parts: VecDeque<Range<u64>>,
    /// Whether the endpoint gives parts, once that is known.
    ranges: Option<bool>,
    stopped: Option<Stopped>,
    /// The first worker is done: there is nothing to wait for any more.
    over: bool,
}

impl<'a> Job<'a> {
    fn new(
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
        }
    }

    fn run(self) -> Result<(), Stopped> {
        let missing = (self.sink.missing)().map_err(Stopped::Sink)?;
        let workers = {
            let mut state = self.state();
            state.parts = cut(&missing);
            self.endpoint.host.connections.min(state.parts.len())
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|| {
                    if self.wait_for_ranges() {
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

    fn set_ranges(&self, ranges: bool) {
        self.state().ranges = Some(ranges);
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
            let mut attempts = Attempts::new(self.policy, &self.client.cancel);
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
                    self.set_ranges(false);
                    return Err(self
                        .wrong("sends another range than it was asked for")
                        .into());
                };
                check_encoding(&response, end - part.start)?;
                self.set_ranges(true);
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
                self.set_ranges(false);
                self.copy_missing(response, part)
            }
            416 if self.state().ranges != Some(false) => {
                self.set_ranges(false);
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
            let length = reader.read(&mut buffer).map_err(|e| broken(e, &url))?;
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
