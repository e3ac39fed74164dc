//! Pulls: one for all who ask for the same image with the same credentials, and none for nobody.
//!
//! A pull is called off when the last who asked for it has gone (its deadline passed, or the client went
//! away), when no byte comes for too long, and when the server stops. What has arrived is kept, and the
//! next pull goes on with it. Who asks with other credentials has a pull of its own, for it must show that
//! it may: what both fetch is fetched once, which `rcrun_image::pull` sees to.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rcrun_image::Digest;
use rcrun_image::catalog::Image;
use rcrun_image::platform::Platform;
use rcrun_image::progress::Event;
use rcrun_image::pull::{self, DOWNLOADS, Request};
use rcrun_image::reference::Reference;
use rcrun_image::registry::{Cancel, Client, Credential, Credentials};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::host::{Current, Host};
use crate::meter::Meter;
use crate::work::Gate;
use crate::{Error, ErrorKind, Result};

/// How long a pull that was called off may take to end.
const END: Duration = Duration::from_secs(5);

/// The identifier of what was pulled.
type Outcome = Result<Digest, Status>;

/// All pulls of the server.
#[derive(Debug, Clone)]
pub(super) struct Pulls {
    host: Arc<Host>,
    gate: Gate,
    flights: Arc<Mutex<Flights>>,
    meter: Arc<Meter>,
}

/// What a pull is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// The name.
    pub(super) image: Reference,
    /// What the request brought.
    pub(super) credential: Option<Credential>,
}

#[derive(Debug, Default)]
struct Flights {
    stopped: bool,
    next: u64,
    /// Few at a time, and credentials have no order.
    all: HashMap<u64, Flight>,
}

#[derive(Debug)]
struct Flight {
    wanted: Wanted,
    waiting: usize,
    cancel: Cancel,
    outcome: watch::Receiver<Option<Outcome>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulls {
    pub(super) fn new(host: &Arc<Host>, parallel: usize, meter: Arc<Meter>) -> Self {
        Self {
            host: Arc::clone(host),
            gate: Gate::new(parallel),
            flights: Arc::default(),
            meter,
        }
    }

    pub(super) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// Pulls an image, or waits for the pull that is under way.
    pub(super) async fn pull(&self, wanted: Wanted) -> Outcome {
        let (_ticket, mut outcome) = self.join(wanted)?;
        let done = outcome.wait_for(Option::is_some).await;
        let done = done.ok().and_then(|done| done.clone());
        done.unwrap_or_else(|| Err(Status::internal("the pull ended without a result")))
    }

    /// Calls all of them off, for good.
    pub(super) fn stop(&self) {
        let mut flights = lock(&self.flights);
        flights.stopped = true;
        for flight in flights.all.values() {
            flight.cancel.cancel();
        }
    }

    /// A place in a pull.
    fn join(&self, wanted: Wanted) -> Result<(Ticket, watch::Receiver<Option<Outcome>>), Status> {
        let mut flights = lock(&self.flights);
        if flights.stopped {
            return Err(Status::unavailable("the server stops"));
        }
        let ticket = |number| Ticket {
            number,
            flights: Arc::clone(&self.flights),
        };
        let same = |flight: &Flight| flight.wanted == wanted && !flight.cancel.is_cancelled();
        let found = flights.all.iter_mut().find(|(_, flight)| same(flight));
        if let Some((number, flight)) = found {
            flight.waiting += 1;
            return Ok((ticket(*number), flight.outcome.clone()));
        }
        let (done, outcome) = watch::channel(None);
        let cancel = Cancel::new();
        let number = flights.next;
        flights.next += 1;
        flights.all.insert(
            number,
            Flight {
                wanted: wanted.clone(),
                waiting: 1,
                cancel: cancel.clone(),
                outcome: outcome.clone(),
            },
        );
        drop(flights);
        let pulls = self.clone();
        let landing = Landing(number, Arc::clone(&self.flights));
        tokio::spawn(async move {
            let begun = Instant::now();
            let result = pulls.fly(wanted, cancel).await;
            let code = result.as_ref().err().map_or(Code::Ok, Status::code);
            pulls.meter.pulled(code, begun.elapsed());
            // Who asks from now on asks the registry anew.
            drop(landing);
            let _ = done.send(Some(result));
        });
        Ok((ticket(number), outcome))
    }

    async fn fly(&self, wanted: Wanted, cancel: Cancel) -> Outcome {
        let image = wanted.image.clone();
        let current = {
            let host = Arc::clone(&self.host);
            let read = READERS.run(move || (host.current)()).await;
            // Not the request is wrong.
            read.map_err(|status| Status::failed_precondition(status.message()))?
        };
        let limit = Duration::from_secs(current.cri.pull_progress_timeout);
        let progress = Arc::new(Progress {
            meter: self.meter(),
            ..Progress::default()
        });
        let (host, off, seen) = (
            Arc::clone(&self.host),
            cancel.clone(),
            Arc::clone(&progress),
        );
        let begun = Instant::now();
        let work = self
            .gate
            .run(move || pull(&host, &wanted, current, &off, &seen));
        let mut work = std::pin::pin!(work);
        let result = loop {
            match tokio::time::timeout(progress.left(limit), work.as_mut()).await {
                Ok(result) => break result,
                Err(_) if progress.left(limit).is_zero() => {
                    progress.stalled.store(true, Ordering::SeqCst);
                    cancel.cancel();
                    let ended = tokio::time::timeout(END, work.as_mut()).await;
                    break ended.unwrap_or_else(|_| Err(Status::deadline_exceeded("")));
                }
                Err(_) => {}
            }
        };
        let result = match result {
            Err(_) if progress.stalled.load(Ordering::SeqCst) => {
                Err(Status::deadline_exceeded(format!(
                    "cannot pull {image}: no progress in {} s; the registry or the network is too slow, \
                     or cri.pull_progress_timeout too short",
                    limit.as_secs()
                )))
            }
            Err(_) if cancel.is_cancelled() && lock(&self.flights).stopped => Err(
                Status::unavailable(format!("cannot pull {image}: the server stops")),
            ),
            Err(_) if cancel.is_cancelled() => {
                tracing::info!(%image, "the pull was called off: nobody waits for it any more");
                return Err(Status::cancelled(format!(
                    "cannot pull {image}: nobody waits for it"
                )));
            }
            result => result,
        };
        match &result {
            Ok(id) => {
                let milliseconds = begun.elapsed().as_millis();
                tracing::info!(%image, %id, milliseconds, "pulled");
            }
            Err(status) => tracing::warn!(code = ?status.code(), "{}", status.message()),
        }
        result
    }
}

/// Places for reading the settings.
static READERS: std::sync::LazyLock<Gate> = std::sync::LazyLock::new(|| Gate::new(2));

/// Takes a pull off the list when it ends, even by a panic.
struct Landing(u64, Arc<Mutex<Flights>>);

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.1).all.remove(&self.0);
    }
}

/// Somebody who waits for a pull.
struct Ticket {
    number: u64,
    flights: Arc<Mutex<Flights>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights);
        let Some(flight) = flights.all.get_mut(&self.number) else {
            return;
        };
        flight.waiting -= 1;
        if flight.waiting == 0 {
            flight.cancel.cancel();
        }
    }
}

/// The pull has not begun.
const WAITING: u64 = u64::MAX;

/// When something last came.
#[derive(Debug)]
struct Progress {
    begun: Instant,
    /// Milliseconds after that; [`WAITING`] until it is its turn.
    last: AtomicU64,
    /// Blobs that are still to come; nothing is known at first.
    missing: AtomicUsize,
    /// It was too slow.
    stalled: AtomicBool,
    seen: Mutex<HashSet<Digest>>,
    /// Bytes of blobs that have arrived.
    received: Mutex<HashMap<Digest, u64>>,
    meter: Arc<Meter>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(WAITING),
            missing: AtomicUsize::new(usize::MAX),
            stalled: AtomicBool::new(false),
            seen: Mutex::default(),
            received: Mutex::default(),
            meter: Arc::default(),
        }
    }
}

impl Progress {
    fn moved(&self) {
        let now = self.begun.elapsed().as_millis();
        self.last
            .store(u64::try_from(now).unwrap_or(0), Ordering::SeqCst);
    }

    fn saw(&self, event: &Event) {
        self.moved();
        let mut seen = lock(&self.seen);
        match event {
            Event::Resolved { layers, .. } => {
                let layers: HashSet<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
                self.missing.store(layers.len(), Ordering::SeqCst);
            }
            Event::Exists(digest) | Event::Fetched(digest) if seen.insert(digest.clone()) => {
                let less = |missing: usize| Some(missing.saturating_sub(1));
                let _ = self
                    .missing
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
            }
            Event::Received(digest, bytes) => {
                let mut received = lock(&self.received);
                let before = received.entry(digest.clone()).or_insert(0);
                self.meter.received(bytes.saturating_sub(*before));
                *before = *bytes.max(before);
            }
            _ => {}
        }
    }

    /// How long nothing may come from now on. When all has come, the disk may take its time.
    fn left(&self, limit: Duration) -> Duration {
        let last = self.last.load(Ordering::SeqCst);
        if last == WAITING || self.missing.load(Ordering::SeqCst) == 0 {
            return limit;
        }
        let last = Duration::from_millis(last);
        (last + limit).saturating_sub(self.begun.elapsed())
    }
}

/// Ends what a client still has when it is dropped: idle connections, and hooks that know of one another.
struct End<'a>(&'a Cancel);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.cancel();
        // A pull needs more memory than anything else here.
        rcrun_runtime::sys::process::trim_memory();
    }
}

/// The pull itself, which blocks.
fn pull(
    host: &Host,
    wanted: &Wanted,
    current: Current,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Digest> {
    cancel.check()?;
    progress.moved();
    // Of this client alone, so that its connections can be let go of at the end, whoever holds them.
    let cancel = &cancel.child();
    let _end = End(cancel);
    let mut options = current.registries;
    options.cancel = cancel.clone();
    options.credentials = credentials(&wanted.image, wanted.credential.as_ref(), &current.cri);
    let client = Client::new(options);
    let request = Request {
        reference: &wanted.image,
        platform: &Platform::host(),
        unpack: Some(host.way),
        downloads: DOWNLOADS,
        watch: &|event| progress.saw(&event),
        cancel,
    };
    let pulled = pull::pull(&host.store, &client, &request)?;
    let image = Image::read(&host.store.content(), &pulled.manifest)?;
    let image = image.ok_or_else(|| {
        Error::new(
            ErrorKind::Unavailable,
            format!("image {} was removed while it was pulled", wanted.image),
        )
    })?;
    Ok(image.id)
}

/// What a request brought is for the image's registry; the file that the settings name, for all others,
/// and for that one if the request brought nothing.
fn credentials(
    image: &Reference,
    brought: Option<&Credential>,
    settings: &crate::Settings,
) -> Credentials {
    let file = settings.auth_file.as_ref().and_then(|path| path.to_str());
    let credentials = match file {
        None => Credentials::none(),
        Some(file) => Credentials::new(|name| match name {
            "REGISTRY_AUTH_FILE" => Some(file.to_owned()),
            "PATH" => std::env::var(name).ok(),
            _ => None,
        }),
    };
    match brought {
        None => credentials,
        Some(credential) => credentials.with(image.host(), credential),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcrun_image::document::{Descriptor, media};

    fn layer(text: &str) -> Descriptor {
        serde_json::from_value(serde_json::json!({
            "mediaType": media::OCI_LAYER, "digest": Digest::of(text.as_bytes()), "size": 1,
        }))
        .unwrap()
    }

    #[test]
    fn the_time_without_progress() {
        let progress = Progress::default();
        let limit = Duration::from_millis(80);
        std::thread::sleep(Duration::from_millis(100));
        // It waits for its turn.
        assert_eq!(progress.left(limit), limit);
        progress.moved();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(progress.left(limit), Duration::ZERO);
        let digest = Digest::of(b"a");
        progress.saw(&Event::Resolved {
            digest: digest.clone(),
            layers: vec![layer("a"), layer("a")],
        });
        assert!(!progress.left(limit).is_zero());
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(progress.left(limit), Duration::ZERO);
        // All is there: unpacking may take its time.
        progress.saw(&Event::Fetched(digest));
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(progress.left(limit), limit);
    }

    #[test]
    fn credentials_of_requests_and_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auth.json");
        std::fs::write(
            &file,
            r#"{"auths":{"a.io":{"username":"f","password":"f"},"b.io":{"username":"f","password":"f"}}}"#,
        )
        .unwrap();
        let image: Reference = "a.io/x:1".parse().unwrap();
        let credential = Credential::Registry {
            token: rcrun_image::registry::Secret::new("t"),
        };
        let none = crate::Settings::default();
        let with = crate::Settings {
            auth_file: Some(file),
            ..Default::default()
        };
        let kind = |brought, settings: &crate::Settings, host: &str| {
            let all = credentials(&image, brought, settings);
            match all.find(host, "x").unwrap() {
                None => "none",
                Some(Credential::Registry { .. }) => "request",
                Some(_) => "file",
            }
        };
        let brought = Some(&credential);
        for (found, expected) in [
            (kind(None, &none, "a.io"), "none"),
            (kind(brought, &none, "a.io"), "request"),
            (kind(brought, &none, "b.io"), "none"),
            (kind(None, &with, "a.io"), "file"),
            (kind(brought, &with, "a.io"), "request"),
            (kind(brought, &with, "b.io"), "file"),
            (kind(brought, &with, "c.io"), "none"),
        ] {
            assert_eq!(found, expected);
        }
    }
}
