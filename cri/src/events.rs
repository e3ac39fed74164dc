//! What GetContainerEvents tells: everything that happens to containers and pods, in order, to all who
//! listen (the kubelet's evented PLEG).

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc::{self, error::TrySendError};
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

use crate::core::{Container, Pod};
use crate::meter::Meter;
use crate::proto::v1 as cri;
use crate::records::now;
use crate::report;

/// Events that a listener may be behind; one that is further behind has to list everything anew.
const BEHIND: usize = 1000;
/// How many may listen: a kubelet, and people who look.
const LISTENERS: usize = 64;

/// All listeners.
#[derive(Debug)]
pub(crate) struct Events {
    /// What waits for several of them is there once.
    all: Mutex<Vec<mpsc::Sender<Arc<cri::ContainerEventResponse>>>>,
    meter: Arc<Meter>,
}

impl Events {
    pub(crate) fn new(meter: &Arc<Meter>) -> Self {
        Self {
            all: Mutex::default(),
            meter: Arc::clone(meter),
        }
    }

    /// How many listen.
    pub(crate) fn listeners(&self) -> u64 {
        let mut all = self.all();
        all.retain(|listener| !listener.is_closed());
        u64::try_from(all.len()).unwrap_or(u64::MAX)
    }

    /// Of a container.
    pub(crate) fn of_container(&self, container: &Container, kind: cri::ContainerEventType) {
        self.tell(&container.id, &container.pod, kind);
    }

    /// Of a pod.
    pub(crate) fn of_pod(&self, pod: &Pod, kind: cri::ContainerEventType) {
        self.tell(&pod.id, pod, kind);
    }

    fn all(&self) -> MutexGuard<'_, Vec<mpsc::Sender<Arc<cri::ContainerEventResponse>>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, id: &str, pod: &Pod, kind: cri::ContainerEventType) {
        let mut all = self.all();
        if all.is_empty() {
            return;
        }
        let containers = pod.containers();
        let event = Arc::new(cri::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: Some(report::pod(pod)),
            containers_statuses: containers
                .iter()
                .map(|one| report::container(one))
                .collect(),
        });
        // Who is too far behind, or gone, loses its sender.
        all.retain(|listener| {
            let sent = listener.try_send(Arc::clone(&event));
            if matches!(sent, Err(TrySendError::Full(_))) {
                self.meter.dropped_listener();
                tracing::warn!("a listener to events is {BEHIND} behind: it is cut off");
            }
            sent.is_ok()
        });
    }

    /// From now on.
    pub(crate) fn listen(&self) -> Result<Listening, Status> {
        let (sender, receiver) = mpsc::channel(BEHIND);
        let mut all = self.all();
        all.retain(|listener| !listener.is_closed());
        if all.len() >= LISTENERS {
            let text = format!("{LISTENERS} clients listen to events: no more may");
            return Err(Status::resource_exhausted(text));
        }
        all.push(sender);
        Ok(Listening {
            receiver,
            ended: false,
        })
    }

    /// The server stops.
    pub(crate) fn stop(&self) {
        self.all().clear();
    }
}

/// What a listener hears: events, and in the end why there are no more.
#[derive(Debug)]
pub(crate) struct Listening {
    receiver: mpsc::Receiver<Arc<cri::ContainerEventResponse>>,
    ended: bool,
}

impl Stream for Listening {
    type Item = Result<cri::ContainerEventResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(match ready!(self.receiver.poll_recv(task)) {
            Some(event) => Ok(Arc::unwrap_or_clone(event)),
            None => {
                self.ended = true;
                let text = "the listener is too slow, or the server stops: list everything anew";
                Err(Status::unavailable(text))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::PodRecord;

    #[test]
    fn a_slow_listener_is_cut_off() {
        let meter = Arc::<Meter>::default();
        let events = Events::new(&meter);
        let config = cri::PodSandboxConfig::default();
        let pod = Pod::new(
            PodRecord::new("id", &config, ""),
            config,
            None,
            &Arc::default(),
        );
        let tell = || events.of_pod(&pod, cri::ContainerEventType::ContainerCreatedEvent);
        let mut slow = events.listen().unwrap();
        let gone = events.listen().unwrap();
        assert_eq!(events.listeners(), 2);
        drop(gone);
        (0..BEHIND).for_each(|_| tell());
        let mut quick = events.listen().unwrap();
        assert_eq!((events.listeners(), meter.dropped()), (2, 0));
        tell();
        // It is as far behind as it may be, and has lost the last one.
        assert_eq!((events.listeners(), meter.dropped()), (1, 1));
        let next = |listening: &mut Listening| {
            let mut task = Context::from_waker(std::task::Waker::noop());
            match Pin::new(listening).poll_next(&mut task) {
                Poll::Ready(Some(Ok(_))) => "event",
                Poll::Ready(Some(Err(status))) => {
                    assert_eq!(status.code(), tonic::Code::Unavailable);
                    "error"
                }
                Poll::Ready(None) => "end",
                Poll::Pending => "wait",
            }
        };
        for _ in 0..BEHIND {
            assert_eq!(next(&mut slow), "event");
        }
        assert_eq!((next(&mut slow), next(&mut slow)), ("error", "end"));
        assert_eq!((next(&mut quick), next(&mut quick)), ("event", "wait"));
        let more: Vec<_> = (1..LISTENERS).map(|_| events.listen().unwrap()).collect();
        let refused = events.listen().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(more);
        events.listen().unwrap();
    }
}
