//! The metrics there are: names, meanings and labels are those of the kubelet's own cAdvisor, which these
//! metrics replace (github.com/google/cadvisor, docs/storage/prometheus.md), so that dashboards go on.
//!
//! Values are whole numbers, as the interface has them: also seconds, rounded down.

use crate::proto::v1 as cri;
use cri::MetricType::{Counter, Gauge};

/// Labels that each metric begins with, in this order.
pub(super) const COMMON: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

/// A metric.
#[derive(Debug, Clone, Copy)]
pub(super) struct Described {
    pub(super) name: &'static str,
    pub(super) kind: cri::MetricType,
    /// Labels after [`COMMON`].
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

macro_rules! described {
    ($($id:ident $name:literal $kind:ident $labels:tt $help:literal;)*) => {
        $(pub(super) const $id: Described = Described {
            name: $name,
            kind: $kind,
            labels: &$labels,
            help: $help,
        };)*
        /// All.
        pub(super) const ALL: &[Described] = &[$($id),*];
    };
}

described! {
    SPEC_CPU_PERIOD "container_spec_cpu_period" Gauge [] "CPU period of the container";
    SPEC_CPU_QUOTA "container_spec_cpu_quota" Gauge [] "CPU quota of the container";
    SPEC_CPU_SHARES "container_spec_cpu_shares" Gauge [] "CPU share of the container";
    SPEC_MEMORY_LIMIT "container_spec_memory_limit_bytes" Gauge [] "Memory limit for the container, 0 if there is none";
    SPEC_MEMORY_RESERVATION "container_spec_memory_reservation_limit_bytes" Gauge []
        "Memory reservation limit for the container, 0 if there is none";
    SPEC_MEMORY_SWAP "container_spec_memory_swap_limit_bytes" Gauge []
        "Memory swap limit for the container, 0 if there is none";
    CPU_USER "container_cpu_user_seconds_total" Counter [] "Cumulative user CPU time consumed in seconds";
    CPU_SYSTEM "container_cpu_system_seconds_total" Counter [] "Cumulative system CPU time consumed in seconds";
    CPU_USAGE "container_cpu_usage_seconds_total" Counter [] "Cumulative CPU time consumed in seconds";
    CFS_PERIODS "container_cpu_cfs_periods_total" Counter [] "Number of elapsed enforcement period intervals";
    CFS_THROTTLED "container_cpu_cfs_throttled_periods_total" Counter [] "Number of throttled period intervals";
    CFS_SECONDS "container_cpu_cfs_throttled_seconds_total" Counter []
        "Total time duration the container has been throttled, in seconds";
    MEMORY_CACHE "container_memory_cache" Gauge [] "Number of bytes of page cache memory";
    MEMORY_RSS "container_memory_rss" Gauge [] "Size of RSS in bytes";
    MEMORY_KERNEL "container_memory_kernel_usage" Gauge [] "Size of kernel memory allocated in bytes";
    MEMORY_MAPPED "container_memory_mapped_file" Gauge [] "Size of memory mapped files in bytes";
    MEMORY_SWAP "container_memory_swap" Gauge [] "Container swap usage in bytes";
    MEMORY_FAILCNT "container_memory_failcnt" Counter []
        "Number of memory usage hits limits; with cgroup v2 always 0";
    MEMORY_USAGE "container_memory_usage_bytes" Gauge []
        "Current memory usage in bytes, including all memory regardless of when it was accessed";
    MEMORY_MAX "container_memory_max_usage_bytes" Gauge [] "Maximum memory usage recorded in bytes";
    MEMORY_WORKING_SET "container_memory_working_set_bytes" Gauge [] "Current working set in bytes";
    MEMORY_ACTIVE_FILE "container_memory_total_active_file_bytes" Gauge [] "Current total active file in bytes";
    MEMORY_INACTIVE_FILE "container_memory_total_inactive_file_bytes" Gauge [] "Current total inactive file in bytes";
    MEMORY_FAILURES "container_memory_failures_total" Counter ["failure_type", "scope"]
        "Cumulative count of memory allocation failures";
    OOM_EVENTS "container_oom_events_total" Counter [] "Count of out of memory events observed for the container";
    RECEIVE_BYTES "container_network_receive_bytes_total" Counter ["interface"] "Cumulative count of bytes received";
    RECEIVE_PACKETS "container_network_receive_packets_total" Counter ["interface"]
        "Cumulative count of packets received";
    RECEIVE_ERRORS "container_network_receive_errors_total" Counter ["interface"]
        "Cumulative count of errors encountered while receiving";
    RECEIVE_DROPPED "container_network_receive_packets_dropped_total" Counter ["interface"]
        "Cumulative count of packets dropped while receiving";
    TRANSMIT_BYTES "container_network_transmit_bytes_total" Counter ["interface"]
        "Cumulative count of bytes transmitted";
    TRANSMIT_PACKETS "container_network_transmit_packets_total" Counter ["interface"]
        "Cumulative count of packets transmitted";
    TRANSMIT_ERRORS "container_network_transmit_errors_total" Counter ["interface"]
        "Cumulative count of errors encountered while transmitting";
    TRANSMIT_DROPPED "container_network_transmit_packets_dropped_total" Counter ["interface"]
        "Cumulative count of packets dropped while transmitting";
    FS_INODES_FREE "container_fs_inodes_free" Gauge ["device"] "Number of available inodes";
    FS_INODES "container_fs_inodes_total" Gauge ["device"] "Number of inodes";
    FS_LIMIT "container_fs_limit_bytes" Gauge ["device"]
        "Number of bytes that can be consumed by the container on this filesystem";
    FS_USAGE "container_fs_usage_bytes" Gauge ["device"]
        "Number of bytes that are consumed by the container on this filesystem";
    FS_READ_BYTES "container_fs_reads_bytes_total" Counter ["device"] "Cumulative count of bytes read";
    FS_READS "container_fs_reads_total" Counter ["device"] "Cumulative count of reads completed";
    FS_WRITE_BYTES "container_fs_writes_bytes_total" Counter ["device"] "Cumulative count of bytes written";
    FS_WRITES "container_fs_writes_total" Counter ["device"] "Cumulative count of writes completed";
    BLKIO "container_blkio_device_usage_total" Counter ["device", "major", "minor", "operation"]
        "Blkio device bytes usage";
    HUGE_USAGE "container_hugetlb_usage_bytes" Gauge ["pagesize"] "Current hugepage usage in bytes";
    HUGE_MAX "container_hugetlb_max_usage_bytes" Gauge ["pagesize"] "Maximum hugepage usages in bytes";
    PROCESSES "container_processes" Gauge [] "Number of processes running inside the container";
    DESCRIPTORS "container_file_descriptors" Gauge [] "Number of open file descriptors for the container";
    SOCKETS "container_sockets" Gauge [] "Number of open sockets for the container";
    THREADS_MAX "container_threads_max" Gauge []
        "Maximum number of threads allowed inside the container, infinity if value is zero";
    THREADS "container_threads" Gauge [] "Number of threads running inside the container";
    ULIMITS "container_ulimits_soft" Gauge ["ulimit"] "Soft ulimit values for the container root process";
    CPU_WAITING "container_pressure_cpu_waiting_seconds_total" Counter []
        "Total time in seconds that tasks in the container have waited for CPU";
    CPU_STALLED "container_pressure_cpu_stalled_seconds_total" Counter []
        "Total time in seconds that no task in the container could make progress for want of CPU";
    MEMORY_WAITING "container_pressure_memory_waiting_seconds_total" Counter []
        "Total time in seconds that tasks in the container have waited for memory";
    MEMORY_STALLED "container_pressure_memory_stalled_seconds_total" Counter []
        "Total time in seconds that no task in the container could make progress for want of memory";
    IO_WAITING "container_pressure_io_waiting_seconds_total" Counter []
        "Total time in seconds that tasks in the container have waited for input and output";
    IO_STALLED "container_pressure_io_stalled_seconds_total" Counter []
        "Total time in seconds that no task in the container could make progress for want of input and output";
    LAST_SEEN "container_last_seen" Gauge [] "Last time a container was seen by the exporter";
    START_TIME "container_start_time_seconds" Gauge [] "Start time of the container since unix epoch in seconds";
}

/// The answer of ListMetricDescriptors.
pub(crate) fn descriptors() -> Vec<cri::MetricDescriptor> {
    let told = |one: &Described| cri::MetricDescriptor {
        name: one.name.to_owned(),
        help: one.help.to_owned(),
        label_keys: COMMON
            .iter()
            .chain(one.labels)
            .map(|&label| label.to_owned())
            .collect(),
    };
    ALL.iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn descriptors_are_well_formed() {
        let names: BTreeSet<_> = ALL.iter().map(|one| one.name).collect();
        assert_eq!(names.len(), ALL.len(), "each name once");
        for one in descriptors() {
            assert!(one.name.starts_with("container_"), "{}", one.name);
            assert!(!one.help.is_empty(), "{}", one.name);
            assert_eq!(one.label_keys[..COMMON.len()], COMMON, "{}", one.name);
            let labels: BTreeSet<_> = one.label_keys.iter().collect();
            assert_eq!(labels.len(), one.label_keys.len(), "{}", one.name);
        }
        for one in ALL {
            // How many inodes there are is no sum, whatever cAdvisor calls it.
            let sum = one.name.ends_with("_total") && one.name != FS_INODES.name;
            assert!(!sum || one.kind == Counter, "{}", one.name);
        }
    }
}
