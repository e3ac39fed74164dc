//! What the server counts of itself, for Prometheus: requests, pulls, what was lost.
//!
//! Owns the counters; [`text`] writes them, [`serve`] answers who scrapes. Every label has few values: a
//! method that there is not is counted as `other`. What is true of this moment, such as the number of pods,
//! is asked for when it is told ([`told`]).

mod histogram;
pub(crate) mod serve;
mod text;
mod told;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tonic::Code;

use histogram::Histogram;

/// Methods of both services, sorted.
const METHODS: [&str; 43] = [
    "Attach",
    "CheckpointContainer",
    "CheckpointPod",
    "ContainerStats",
    "ContainerStatus",
    "CreateContainer",
    "Exec",
    "ExecSync",
    "GetContainerEvents",
    "ImageFsInfo",
    "ImageStatus",
    "ListContainerStats",
    "ListContainers",
    "ListImages",
    "ListMetricDescriptors",
    "ListPodSandbox",
    "ListPodSandboxMetrics",
    "ListPodSandboxStats",
    "PodSandboxStats",
    "PodSandboxStatus",
    "PortForward",
    "PullImage",
    "RemoveContainer",
    "RemoveImage",
    "RemovePodSandbox",
    "ReopenContainerLog",
    "RestorePod",
    "RunPodSandbox",
    "RuntimeConfig",
    "StartContainer",
    "Status",
    "StopContainer",
    "StopPodSandbox",
    "StreamContainerStats",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxMetrics",
    "StreamPodSandboxStats",
    "StreamPodSandboxes",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
    "UpdateRuntimeConfig",
    "Version",
];
/// All others.
const OTHER: &str = "other";

/// All counters; they begin anew with the server.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    counted: Mutex<Counted>,
    pull_bytes: AtomicU64,
    monitors_lost: AtomicU64,
    listeners_dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Counted {
    /// By method and code.
    requests: BTreeMap<(&'static str, &'static str), u64>,
    /// By method.
    durations: BTreeMap<&'static str, Histogram>,
    /// By code.
    pulls: BTreeMap<&'static str, u64>,
    pull_durations: Option<Histogram>,
}

impl Meter {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of this path was answered; of a stream, its beginning.
    pub(crate) fn answered(&self, path: &str, code: Code, took: Duration) {
        let method = method(path);
        let mut counted = self.counted();
        *counted.requests.entry((method, name(code))).or_default() += 1;
        let durations = &mut counted.durations;
        let histogram = durations.entry(method);
        histogram.or_insert_with(Histogram::of_requests).add(took);
    }

    /// A pull has ended; how many asked for it does not matter.
    pub(crate) fn pulled(&self, code: Code, took: Duration) {
        let mut counted = self.counted();
        *counted.pulls.entry(name(code)).or_default() += 1;
        let histogram = &mut counted.pull_durations;
        histogram.get_or_insert_with(Histogram::of_pulls).add(took);
    }

    /// So many bytes of an image have arrived.
    pub(crate) fn received(&self, bytes: u64) {
        self.pull_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A monitor ended before its container did.
    pub(crate) fn lost_monitor(&self) {
        self.monitors_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// How many listeners were too slow.
    #[cfg(test)]
    pub(crate) fn dropped(&self) -> u64 {
        self.listeners_dropped.load(Ordering::Relaxed)
    }

    /// Somebody who listened to events was too slow.
    pub(crate) fn dropped_listener(&self) {
        self.listeners_dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// The method of a path `/SERVICE/METHOD`.
fn method(path: &str) -> &'static str {
    let method = path
        .strip_prefix("/runtime.v1.RuntimeService/")
        .or_else(|| path.strip_prefix("/runtime.v1.ImageService/"));
    let found = method.and_then(|method| METHODS.binary_search(&method).ok());
    found.map_or(OTHER, |index| METHODS[index])
}

/// As gRPC calls it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_those_of_the_interface() {
        let interface = include_str!("../../proto/api.proto");
        let mut methods: Vec<&str> = interface
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next())
            .collect();
        methods.sort_unstable();
        assert_eq!(methods, METHODS);
    }

    #[test]
    fn a_method_that_there_is_not_makes_no_series() {
        for (path, expected) in [
            ("/runtime.v1.RuntimeService/Version", "Version"),
            ("/runtime.v1.ImageService/PullImage", "PullImage"),
            ("/runtime.v1.RuntimeService/version", OTHER),
            ("/runtime.v1.RuntimeService/", OTHER),
            ("/evil/Version", OTHER),
            ("", OTHER),
        ] {
            assert_eq!(method(path), expected, "{path}");
        }
        let meter = Meter::default();
        for number in 0..1000 {
            meter.answered(&format!("/x/{number}"), Code::Unimplemented, Duration::ZERO);
        }
        let counted = meter.counted();
        assert_eq!(counted.requests[&(OTHER, "UNIMPLEMENTED")], 1000);
        assert_eq!((counted.requests.len(), counted.durations.len()), (1, 1));
    }
}
