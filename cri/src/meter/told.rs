//! The page: the counters, and what is true of this moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Meter;
use super::text::{Kind, Page, float};
use crate::core::{Core, Life};
use crate::records::PodStage;

/// How long the size of the store is waited for; without it the page has none.
const PATIENCE: Duration = Duration::from_secs(1);

/// The whole page.
pub(super) async fn page(core: &Arc<Core>) -> String {
    let taken = tokio::time::timeout(PATIENCE, core.images.taken()).await;
    let mut page = Page::default();
    let version = [(vec![("version", core.host.version)], 1.0)];
    page.all(
        Kind::Gauge,
        "rcrun_build_info",
        "The program; always 1.",
        version,
    );
    counters(&mut page, &core.meter);
    states(&mut page, core);
    if let Ok(Ok([images, containers])) = taken {
        let series = [("images", images), ("containers", containers)];
        let series = series.map(|(part, bytes)| (vec![("part", part)], float(bytes)));
        let help = "What the store takes on the disk: images, and what containers wrote.";
        page.all(Kind::Gauge, "rcrun_store_bytes", help, series);
    }
    process(&mut page);
    page.finish()
}

fn counters(page: &mut Page, meter: &Meter) {
    let counted = meter.counted();
    let requests = counted.requests.iter();
    page.all(
        Kind::Counter,
        "rcrun_cri_requests_total",
        "Requests that were answered, by method and gRPC code.",
        requests.map(|((method, code), count)| {
            (vec![("method", *method), ("code", *code)], float(*count))
        }),
    );
    let durations = counted.durations.iter();
    page.histograms(
        "rcrun_cri_request_duration_seconds",
        "How long requests took; of streams, until they began.",
        durations.map(|(method, histogram)| (vec![("method", *method)], histogram)),
    );
    let pulls = counted.pulls.iter();
    page.all(
        Kind::Counter,
        "rcrun_cri_image_pulls_total",
        "Pulls that have ended, by gRPC code.",
        pulls.map(|(code, count)| (vec![("code", *code)], float(*count))),
    );
    page.histograms(
        "rcrun_cri_image_pull_duration_seconds",
        "How long pulls took, also those that failed, without the wait for their turn.",
        counted
            .pull_durations
            .iter()
            .map(|histogram| (vec![], histogram)),
    );
    drop(counted);
    let of = |counter: &AtomicU64| float(counter.load(Ordering::Relaxed));
    for (name, help, counter) in [
        (
            "rcrun_cri_image_pull_bytes_total",
            "Bytes of images that have arrived from registries.",
            &meter.pull_bytes,
        ),
        (
            "rcrun_cri_monitors_lost_total",
            "Monitors that ended before their containers did.",
            &meter.monitors_lost,
        ),
        (
            "rcrun_cri_event_listeners_dropped_total",
            "Listeners to events that were too slow, and have lost some.",
            &meter.listeners_dropped,
        ),
    ] {
        page.one(Kind::Counter, name, help, of(counter));
    }
}

fn states(page: &mut Page, core: &Core) {
    let mut pods = BTreeMap::from([("ready", 0), ("not_ready", 0)]);
    for pod in core.pods() {
        let ready = pod.state().record.state == PodStage::Ready;
        *pods
            .entry(if ready { "ready" } else { "not_ready" })
            .or_default() += 1;
    }
    let mut containers = BTreeMap::from([("created", 0), ("running", 0), ("exited", 0)]);
    for container in core.containers() {
        let state = match container.life() {
            Life::Made => "created",
            Life::Running => "running",
            Life::Ended(_) => "exited",
        };
        *containers.entry(state).or_default() += 1;
    }
    for (name, help, states) in [
        ("rcrun_cri_pods", "Pods by state.", pods),
        ("rcrun_cri_containers", "Containers by state.", containers),
    ] {
        let series = states
            .iter()
            .map(|(state, count)| (vec![("state", *state)], float(*count)));
        page.all(Kind::Gauge, name, help, series);
    }
    let listeners = float(core.events.listeners());
    let help = "Listeners to events.";
    page.one(Kind::Gauge, "rcrun_cri_event_listeners", help, listeners);
}

/// As other programs tell it (prometheus.io/docs/instrumenting/writing_clientlibs, "Process metrics").
fn process(page: &mut Page) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let descriptors = std::fs::read_dir("/proc/self/fd").map(Iterator::count);
    let descriptors = descriptors.ok().and_then(|count| u64::try_from(count).ok());
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            field("VmRSS:").map(|kibibytes| kibibytes * 1024),
        ),
        ("process_threads", "Number of threads.", field("Threads:")),
        (
            "process_open_fds",
            "Number of open file descriptors.",
            // The directory itself is one.
            descriptors.map(|count| count.saturating_sub(1)),
        ),
    ] {
        if let Some(value) = value {
            page.one(Kind::Gauge, name, help, float(value));
        }
    }
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = Duration::try_from(used).unwrap_or_default().as_secs_f64();
    let help = "Total user and system CPU time spent in seconds.";
    page.one(Kind::Counter, "process_cpu_seconds_total", help, used);
}
