//! What the clients of the socket may take, all together: connections, requests at a time, bytes of requests.
//!
//! Only root connects, so these are bounds against clients that are broken: an agent that leaks connections, one
//! that is stopped in the middle of a request. What is beyond them is refused at once, and those who
//! behave notice nothing. The bounds of exec, attach and port-forward are those of rcrun-streaming.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Connections at a time. A kubelet has two, each call of crictl one.
const CONNECTIONS: usize = 256;
/// Requests at a time, of all connections: a node that is drained stops hundreds of containers at once.
const REQUESTS: usize = 4096;
/// Requests at a time on one connection: the same, since a kubelet has one for all it does.
pub(crate) const STREAMS: u32 = 4096;
/// What a request may be large without counting below: a kubelet's have some KiB.
const SMALL: usize = 64 << 10;
/// Bytes, beyond those, of all requests that are being answered: four of the longest.
const BYTES: usize = 64 << 20;
/// Requests of which only a part has arrived: of more, the one that began first goes.
const ARRIVING: usize = 256;
/// How long a request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(20);
/// A client that does not answer a ping, after so long and for so long, is gone, or stopped.
pub(crate) const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Between two warnings that a bound was reached.
const QUIET: Duration = Duration::from_secs(10);

/// The bounds, and what of them is taken.
#[derive(Debug)]
pub(crate) struct Bounds {
    connections: Mutex<Vec<Arc<Connection>>>,
    requests: Arc<Semaphore>,
    bytes: AtomicUsize,
    arriving: Mutex<VecDeque<Weak<Notify>>>,
    warned: Mutex<Option<Instant>>,
}

/// A connection, as long as it is there.
#[derive(Debug)]
struct Connection {
    /// How many of its requests are being answered.
    running: AtomicUsize,
    /// When the last of them began or ended.
    used: Mutex<Instant>,
    unwanted: Notify,
}

/// A connection's place among all; what holds it goes with its last value.
#[derive(Debug)]
pub(crate) struct Place {
    bounds: Arc<Bounds>,
    connection: Arc<Connection>,
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bounds {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            connections: Mutex::default(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            bytes: AtomicUsize::new(0),
            arriving: Mutex::default(),
            warned: Mutex::default(),
        })
    }

    /// A place for one more connection. Where there is none, the one that was not used for the longest time has to go;
    /// where all are in use, there is none.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        let connection = Arc::new(Connection {
            running: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
            unwanted: Notify::new(),
        });
        let mut all = lock(&self.connections);
        if all.len() >= CONNECTIONS {
            self.warn("connections");
            let idle = all
                .iter()
                .enumerate()
                .filter(|(_, one)| one.running.load(Ordering::Acquire) == 0);
            let (oldest, _) = idle.min_by_key(|(_, one)| *lock(&one.used))?;
            all.swap_remove(oldest).unwanted.notify_one();
        }
        all.push(Arc::clone(&connection));
        Some(Place {
            bounds: Arc::clone(self),
            connection,
        })
    }

    /// One more request of which a part is missing; it is told when it has to go.
    fn await_rest(&self) -> Arc<Notify> {
        let unwanted = Arc::new(Notify::new());
        let mut all = lock(&self.arriving);
        if all.len() >= ARRIVING {
            all.retain(|one| one.strong_count() > 0);
        }
        if all.len() >= ARRIVING {
            self.warn("requests that do not arrive");
            if let Some(first) = all.pop_front().and_then(|first| first.upgrade()) {
                first.notify_one();
            }
        }
        all.push_back(Arc::downgrade(&unwanted));
        unwanted
    }

    fn warn(&self, what: &str) {
        let mut warned = lock(&self.warned);
        if warned.is_none_or(|before| before.elapsed() > QUIET) {
            *warned = Some(Instant::now());
            tracing::warn!("clients have taken all {what} there may be: is one of them broken?");
        }
    }
}

impl Place {
    /// Waits until the connection has to go.
    pub(crate) async fn unwanted(&self) {
        self.connection.unwanted.notified().await;
    }

    /// A request on this connection.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Use, Status> {
        let requests = Arc::clone(&self.bounds.requests);
        let Ok(permit) = requests.try_acquire_owned() else {
            self.bounds.warn("requests");
            let text = format!("{REQUESTS} requests are being answered: try again later");
            return Err(Status::resource_exhausted(text));
        };
        self.connection.running.fetch_add(1, Ordering::AcqRel);
        *lock(&self.connection.used) = Instant::now();
        Ok(Use {
            place: Arc::clone(self),
            bytes: AtomicUsize::new(0),
            _permit: permit,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.bounds.connections).retain(|one| !Arc::ptr_eq(one, &self.connection));
    }
}

/// A request, until its answer is on its way.
#[derive(Debug)]
pub(crate) struct Use {
    place: Arc<Place>,
    /// Of its message, so far.
    bytes: AtomicUsize,
    _permit: OwnedSemaphorePermit,
}

/// What of a request's bytes counts.
fn counted(bytes: usize) -> usize {
    bytes.saturating_sub(SMALL)
}

impl Use {
    fn take(&self, bytes: usize) -> Result<(), Status> {
        let bounds = &self.place.bounds;
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let more = counted(before + bytes) - counted(before);
        if more == 0 || bounds.bytes.fetch_add(more, Ordering::AcqRel) + more <= BYTES {
            return Ok(());
        }
        bounds.warn("memory for requests");
        Err(Status::resource_exhausted(format!(
            "long requests that are being answered have more than {} MiB: try again later",
            BYTES >> 20
        )))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let Place { bounds, connection } = &*self.place;
        bounds.bytes.fetch_sub(
            counted(self.bytes.load(Ordering::Acquire)),
            Ordering::AcqRel,
        );
        *lock(&connection.used) = Instant::now();
        connection.running.fetch_sub(1, Ordering::AcqRel);
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A message that arrives: within its time, and within the bytes of all.
pub(crate) struct Arriving {
    body: Incoming,
    request: Arc<Use>,
    late: Option<Pin<Box<dyn Future<Output = Status> + Send>>>,
}

impl Arriving {
    pub(crate) fn new(body: Incoming, request: &Arc<Use>) -> Self {
        Self {
            body,
            request: Arc::clone(request),
            late: None,
        }
    }
}

/// Waits until a request has to go of which a part is missing.
async fn is_late(unwanted: Arc<Notify>) -> Status {
    tokio::select! {
        () = tokio::time::sleep(ARRIVAL) => {
            let text = format!("the request did not arrive in {} s", ARRIVAL.as_secs());
            Status::deadline_exceeded(text)
        }
        () = unwanted.notified() => {
            Status::resource_exhausted("too many requests have begun to arrive after this one")
        }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = AnyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnyError>>> {
        match Pin::new(&mut self.body).poll_frame(task) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = frame.data_ref().map_or(0, Bytes::len);
                let taken = self.request.take(taken).map(|()| frame);
                Poll::Ready(Some(taken.map_err(AnyError::from)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let Self { late, request, .. } = &mut *self;
                let late = late
                    .get_or_insert_with(|| Box::pin(is_late(request.place.bounds.await_rest())));
                late.as_mut()
                    .poll(task)
                    .map(|status| Some(Err(status.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer that leaves; its request lasts as long.
pub(crate) struct Leaving {
    body: tonic::body::Body,
    _request: Arc<Use>,
}

impl Leaving {
    pub(crate) fn new(body: tonic::body::Body, request: Arc<Use>) -> Self {
        Self {
            body,
            _request: request,
        }
    }
}

impl Body for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(task)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_unwanted(place: &Place) -> bool {
        let mut task = Context::from_waker(std::task::Waker::noop());
        let unwanted = std::pin::pin!(place.unwanted());
        unwanted.poll(&mut task).is_ready()
    }

    #[test]
    fn the_connection_that_is_idle_for_the_longest_time_goes() {
        let bounds = Bounds::new();
        let places: Vec<_> = (0..CONNECTIONS)
            .map(|_| Arc::new(bounds.enter().unwrap()))
            .collect();
        // The first is in use, the second was used last.
        let first = places[0].begin().unwrap();
        drop(places[1].begin().unwrap());
        let another = bounds.enter().unwrap();
        let gone: Vec<_> = (0..CONNECTIONS)
            .filter(|at| is_unwanted(&places[*at]))
            .collect();
        assert_eq!(gone, [2]);
        drop(another);
        // There is room again, and nobody has to go.
        let another = bounds.enter().unwrap();
        assert!(!places.iter().any(|place| is_unwanted(place)));
        drop((first, another));
    }

    #[test]
    fn connections_in_use_stay() {
        let bounds = Bounds::new();
        let places: Vec<_> = (0..CONNECTIONS)
            .map(|_| Arc::new(bounds.enter().unwrap()))
            .collect();
        let uses: Vec<_> = places.iter().map(|place| place.begin().unwrap()).collect();
        assert!(bounds.enter().is_none());
        assert!(!places.iter().any(|place| is_unwanted(place)));
        drop(uses);
        assert!(bounds.enter().is_some());
    }

    #[test]
    fn what_does_not_arrive_makes_room() {
        let bounds = Bounds::new();
        let told = |one: &Notify| {
            let mut task = Context::from_waker(std::task::Waker::noop());
            std::pin::pin!(one.notified()).poll(&mut task).is_ready()
        };
        // Those that have arrived are not among them.
        (0..3 * ARRIVING).for_each(|_| drop(bounds.await_rest()));
        let all: Vec<_> = (0..ARRIVING + 2).map(|_| bounds.await_rest()).collect();
        let gone: Vec<_> = (0..all.len()).filter(|at| told(&all[*at])).collect();
        assert_eq!(gone, [0, 1]);
    }

    #[test]
    fn requests_and_their_bytes_are_counted() {
        let bounds = Bounds::new();
        let place = Arc::new(bounds.enter().unwrap());
        let mut all: Vec<_> = (0..REQUESTS).map(|_| place.begin().unwrap()).collect();
        assert_eq!(
            place.begin().unwrap_err().code(),
            tonic::Code::ResourceExhausted
        );
        all.truncate(2);
        all[0].take(BYTES + SMALL).unwrap();
        // Those of the usual size are not in its way.
        all[1].take(SMALL).unwrap();
        let refused = all[1].take(1).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        all.remove(0);
        all[0].take(BYTES - 1).unwrap();
        drop(all);
        assert_eq!(bounds.bytes.load(Ordering::Acquire), 0);
        assert_eq!(place.connection.running.load(Ordering::Acquire), 0);
    }
}
