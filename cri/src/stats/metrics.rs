//! Metrics of pods and containers, in place of the kubelet's own cAdvisor: figures -> what
//! ListPodSandboxMetrics answers.
//!
//! Of a pod: its network, and what its cgroup has used, its containers' share included (label `container`
//! empty, as with cAdvisor). Of a running container: everything. Where the kernel keeps a figure nowhere
//! on this machine that dashboards add up, such as pressure without PSI, it is 0; series that have a label
//! for a device, a size or an interface are not there where there is none.

use std::path::Path;
use std::sync::Arc;

use tonic::Status;

use super::cgroup::{Pressure, Sample};
use super::descriptors::*;
use super::detail::Detail;
use super::network::Device;
use super::process::{self, Held};
use super::{cgroup, detail, in_parts, network, readable};
use crate::Result;
use crate::core::{Container, Core, Life, Pod};
use crate::proto::v1 as cri;
use crate::records::now;
use crate::spec::PodPlan;

const NANOSECONDS: u64 = 1_000_000_000;
const MICROSECONDS: u64 = 1_000_000;

/// Metrics of one pod or container.
struct Sheet {
    /// Values of [`COMMON`].
    common: [String; COMMON.len()],
    metrics: Vec<cri::Metric>,
}

impl Sheet {
    fn of_pod(pod: &Pod, config: &cri::PodSandboxConfig) -> Self {
        let meta = config.metadata.clone().unwrap_or_default();
        let none = String::new;
        Self {
            common: [meta.name, meta.namespace, none(), pod.id.clone(), none()],
            metrics: Vec::new(),
        }
    }

    fn of_container(container: &Container, pod: &cri::PodSandboxConfig) -> Self {
        let config = container.config();
        let mut sheet = Self::of_pod(&container.pod, pod);
        let meta = config.metadata.clone().unwrap_or_default();
        let image = config.image.clone().unwrap_or_default();
        sheet.common[2] = meta.name;
        sheet.common[3].clone_from(&container.id);
        // A kubelet asks by digest, and says besides what the user wrote.
        sheet.common[4] = match image.user_specified_image.is_empty() {
            true => image.image,
            false => image.user_specified_image,
        };
        sheet
    }

    /// A figure of this moment.
    fn put(&mut self, what: &Described, labels: &[&str], value: u64) {
        self.put_at(0, what, labels, value);
    }

    /// A figure of then.
    fn put_at(&mut self, at: i64, what: &Described, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), what.labels.len(), "{}", what.name);
        let common = self.common.iter().map(String::as_str);
        let labels = common.chain(labels.iter().copied());
        self.metrics.push(cri::Metric {
            name: what.name.to_owned(),
            timestamp: at,
            metric_type: what.kind.into(),
            label_values: labels.map(str::to_owned).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }

    fn times(&mut self, since: i64) {
        let seconds = |at: i64| u64::try_from(at).unwrap_or(0) / NANOSECONDS;
        self.put(&LAST_SEEN, &[], seconds(now()));
        self.put(&START_TIME, &[], seconds(since));
    }

    fn network(&mut self, devices: &[Device]) {
        const RECEIVED: [Described; 4] = [
            RECEIVE_BYTES,
            RECEIVE_PACKETS,
            RECEIVE_ERRORS,
            RECEIVE_DROPPED,
        ];
        const SENT: [Described; 4] = [
            TRANSMIT_BYTES,
            TRANSMIT_PACKETS,
            TRANSMIT_ERRORS,
            TRANSMIT_DROPPED,
        ];
        for device in devices {
            for (kinds, values) in [(RECEIVED, device.received), (SENT, device.sent)] {
                for (kind, value) in kinds.iter().zip(values) {
                    self.put(kind, &[&device.name], value);
                }
            }
        }
    }

    /// What a cgroup tells; nothing of one that is gone.
    fn cgroup(&mut self, sample: &Sample, detail: &Detail, asked: Option<u64>) {
        if let Some(used) = sample.cpu {
            self.put(&CPU_USAGE, &[], used / NANOSECONDS);
            self.cpu(detail, asked);
        }
        if sample.memory.is_some() {
            self.memory(sample, detail);
        }
        if sample.cpu.is_some() || sample.memory.is_some() {
            self.pressure(sample.pressure);
            self.put(&THREADS_MAX, &[], detail.tasks_max.unwrap_or(0));
        }
        for huge in &detail.huge {
            self.put(&HUGE_USAGE, &[&huge.size], huge.usage);
            if let Some(most) = huge.most {
                self.put(&HUGE_MAX, &[&huge.size], most);
            }
        }
    }

    fn cpu(&mut self, detail: &Detail, asked: Option<u64>) {
        let cpu = &detail.cpu;
        self.put(&CPU_USER, &[], cpu.user / NANOSECONDS);
        self.put(&CPU_SYSTEM, &[], cpu.system / NANOSECONDS);
        self.put(&CFS_PERIODS, &[], cpu.periods);
        self.put(&CFS_THROTTLED, &[], cpu.throttled_periods);
        self.put(&CFS_SECONDS, &[], cpu.throttled / NANOSECONDS);
        self.put(&SPEC_CPU_PERIOD, &[], cpu.period.unwrap_or(0));
        // As with cAdvisor there is no quota of 0.
        if let Some(quota) = cpu.quota {
            self.put(&SPEC_CPU_QUOTA, &[], quota);
        }
        // With cgroup v2 a weight is kept, which several shares have in common.
        self.put(&SPEC_CPU_SHARES, &[], asked.or(cpu.shares).unwrap_or(0));
    }

    fn memory(&mut self, sample: &Sample, detail: &Detail) {
        let (used, more) = (sample.memory.unwrap_or_default(), &detail.memory);
        for (what, value) in [
            (MEMORY_USAGE, used.usage),
            (MEMORY_WORKING_SET, used.working_set),
            (MEMORY_MAX, more.most),
            (MEMORY_RSS, used.rss),
            (MEMORY_CACHE, more.cache),
            (MEMORY_MAPPED, more.mapped),
            (MEMORY_ACTIVE_FILE, more.active_file),
            (MEMORY_INACTIVE_FILE, more.inactive_file),
            (MEMORY_KERNEL, more.kernel),
            (MEMORY_SWAP, used.swap.unwrap_or(0)),
            (MEMORY_FAILCNT, more.hits),
            (OOM_EVENTS, more.oom_kills),
            (SPEC_MEMORY_LIMIT, used.limit.unwrap_or(0)),
            (SPEC_MEMORY_RESERVATION, more.reservation.unwrap_or(0)),
            (SPEC_MEMORY_SWAP, more.swap_limit.unwrap_or(0)),
        ] {
            self.put(&what, &[], value);
        }
        let whole = [used.faults, used.major_faults];
        for (scope, values) in [("container", more.own_faults), ("hierarchy", whole)] {
            for (kind, value) in ["pgfault", "pgmajfault"].into_iter().zip(values) {
                self.put(&MEMORY_FAILURES, &[kind, scope], value);
            }
        }
    }

    fn pressure(&mut self, pressure: [Option<Pressure>; 3]) {
        let kinds = [
            (CPU_WAITING, CPU_STALLED),
            (MEMORY_WAITING, MEMORY_STALLED),
            (IO_WAITING, IO_STALLED),
        ];
        for ((waiting, stalled), pressure) in kinds.into_iter().zip(pressure) {
            let pressure = pressure.unwrap_or_default();
            self.put(&waiting, &[], pressure.some.total / MICROSECONDS);
            self.put(&stalled, &[], pressure.full.total / MICROSECONDS);
        }
    }

    fn devices(&mut self, detail: &Detail) {
        for moved in &detail.moved {
            let (major, minor) = moved.device;
            let name = device_name(major, minor).unwrap_or_default();
            let (major, minor) = (major.to_string(), minor.to_string());
            let labels = [name.as_str(), &major, &minor, moved.operation];
            self.put(&BLKIO, &labels, moved.bytes);
            let (bytes, count) = match moved.operation {
                "Read" => (FS_READ_BYTES, FS_READS),
                "Write" => (FS_WRITE_BYTES, FS_WRITES),
                _ => continue,
            };
            self.put(&bytes, &[&name], moved.bytes);
            self.put(&count, &[&name], moved.count);
        }
    }

    fn processes(&mut self, pids: usize, threads: u64, held: Held, files: Option<u64>) {
        self.put(&PROCESSES, &[], u64::try_from(pids).unwrap_or(u64::MAX));
        self.put(&THREADS, &[], threads);
        self.put(&DESCRIPTORS, &[], held.descriptors);
        self.put(&SOCKETS, &[], held.sockets);
        if let Some(files) = files {
            self.put(&ULIMITS, &["max_open_files"], files);
        }
    }

    fn files(&mut self, system: &FileSystem, used: Option<(i64, u64)>) {
        let device = [system.device.as_str()];
        self.put(&FS_LIMIT, &device, system.bytes);
        self.put(&FS_INODES, &device, system.inodes);
        self.put(&FS_INODES_FREE, &device, system.free_inodes);
        if let Some((at, used)) = used {
            self.put_at(at, &FS_USAGE, &device, used);
        }
    }
}

/// The store's file system, on which containers write.
#[derive(Debug, Default)]
struct FileSystem {
    device: String,
    bytes: u64,
    inodes: u64,
    free_inodes: u64,
}

impl FileSystem {
    fn of(path: &Path) -> Result<Self> {
        let all = rustix::fs::statvfs(path)?;
        let device = rustix::fs::stat(path)?.st_dev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Ok(Self {
            // That of a file system that spans devices, or has none, is a number without a name.
            device: device_name(major, minor).unwrap_or_else(|| format!("{major}:{minor}")),
            bytes: all.f_blocks.saturating_mul(all.f_frsize),
            inodes: all.f_files,
            free_inodes: all.f_ffree,
        })
    }
}

/// `/dev/sda`, as the kernel calls the device (sysfs(5), /sys/dev/block).
fn device_name(major: u32, minor: u32) -> Option<String> {
    let target = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(format!("/dev/{}", target.file_name()?.to_str()?))
}

impl Core {
    /// ListPodSandboxMetrics: of all pods that are ready.
    pub(crate) async fn all_metrics(
        self: &Arc<Self>,
    ) -> Result<Vec<cri::PodSandboxMetrics>, Status> {
        let mut pods = self.pods();
        pods.retain(|pod| pod.is_ready());
        self.measure_files(pods.iter().flat_map(|pod| pod.containers()).collect())
            .await;
        let core = Arc::clone(self);
        self.light.run(move || core.metrics_of(&pods)).await
    }

    fn metrics_of(&self, pods: &[Arc<Pod>]) -> Result<Vec<cri::PodSandboxMetrics>> {
        let system = FileSystem::of(self.host.store.path())?;
        let networks = self.networks(pods)?;
        Ok(in_parts(pods, networks, |pod, devices| {
            readable("pod", &pod.id, self.metrics_of_pod(pod, devices, &system))
        }))
    }

    fn metrics_of_pod(
        &self,
        pod: &Pod,
        devices: &[Device],
        system: &FileSystem,
    ) -> Result<cri::PodSandboxMetrics> {
        let config = pod.config();
        let plan = pod.plan()?;
        let containers = pod.containers();
        let running = containers.iter().filter(|one| one.life() == Life::Running);
        let containers: Result<Vec<_>> = running
            .map(|one| self.metrics_of_container(one, &config, plan, system))
            .collect();
        let mut sheet = Sheet::of_pod(pod, &config);
        sheet.times(pod.created);
        sheet.network(devices);
        let cgroup = cgroup::find(&plan.cgroup.directory())?;
        sheet.cgroup(&cgroup::sample(&cgroup), &detail::read(&cgroup), None);
        Ok(cri::PodSandboxMetrics {
            pod_sandbox_id: pod.id.clone(),
            metrics: sheet.metrics,
            container_metrics: containers?,
        })
    }

    fn metrics_of_container(
        &self,
        container: &Container,
        pod: &cri::PodSandboxConfig,
        plan: &PodPlan,
        system: &FileSystem,
    ) -> Result<cri::ContainerMetrics> {
        let mut sheet = Sheet::of_container(container, pod);
        sheet.times(
            container
                .state()
                .record
                .started
                .unwrap_or(container.created),
        );
        let cgroup = cgroup::find(&plan.cgroup.container_directory(&container.id))?;
        let (sample, detail) = (cgroup::sample(&cgroup), detail::read(&cgroup));
        let config = container.config();
        let resources = config
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref());
        let shares = resources.and_then(|asked| u64::try_from(asked.cpu_shares).ok());
        sheet.cgroup(&sample, &detail, shares.filter(|shares| *shares > 0));
        sheet.devices(&detail);
        // It may end in this moment.
        let pids = cgroup.processes().unwrap_or_default();
        let held = process::held(&pids, sample.processes.is_none());
        let init = self.runtime.init(&container.id).ok().flatten();
        let files = init.and_then(|(pid, _pidfd)| process::open_files(pid));
        // Those of the controller `pids` are tasks.
        let threads = sample.processes.unwrap_or(held.threads);
        sheet.processes(pids.len(), threads, held, files);
        sheet.files(system, self.known_files(&container.id));
        Ok(cri::ContainerMetrics {
            container_id: container.id.clone(),
            metrics: sheet.metrics,
        })
    }

    /// What the devices of each of these pods have moved; nothing of a pod in the node's network.
    pub(super) fn networks(&self, pods: &[Arc<Pod>]) -> Result<Vec<Vec<Device>>> {
        let connected = |pod: &Arc<Pod>| pod.is_ready() && pod.state().record.connected;
        let directories = pods
            .iter()
            .filter(|pod| connected(pod))
            .map(|pod| (pod.id.clone(), self.places.of_boot(&pod.id)));
        let (ids, directories): (Vec<_>, Vec<_>) = directories.unzip();
        let found = network::devices(directories)?;
        let mut found: std::collections::HashMap<_, _> = ids.into_iter().zip(found).collect();
        Ok(pods
            .iter()
            .map(|pod| found.remove(&pod.id).unwrap_or_default())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::Memory;
    use super::super::detail::{Cpu, Huge, Moved};
    use super::*;
    use std::collections::BTreeMap;

    fn sheet() -> Sheet {
        Sheet {
            common: ["p", "n", "c", "i", "m"].map(str::to_owned),
            metrics: Vec::new(),
        }
    }

    /// Values by names and labels after the common ones.
    fn values(sheet: &Sheet) -> BTreeMap<String, u64> {
        let one = |metric: &cri::Metric| {
            let mut labels = vec![metric.name.trim_start_matches("container_").to_owned()];
            labels.extend_from_slice(&metric.label_values[COMMON.len()..]);
            (labels.join(" "), metric.value.unwrap().value)
        };
        let all: BTreeMap<_, _> = sheet.metrics.iter().map(one).collect();
        assert_eq!(all.len(), sheet.metrics.len(), "no series twice");
        all
    }

    fn sample() -> Sample {
        let mut pressure = Pressure::default();
        pressure.some.total = 4_000_001;
        Sample {
            at: 1,
            cpu: Some(2_999_999_999),
            memory: Some(Memory {
                usage: 100,
                limit: Some(500),
                faults: 9,
                ..Memory::default()
            }),
            processes: Some(3),
            pressure: [Some(pressure), None, None],
        }
    }

    fn detail() -> Detail {
        let moved = |operation, bytes, count| Moved {
            device: (0, 9999),
            operation,
            bytes,
            count,
        };
        Detail {
            cpu: Cpu {
                user: 1_500_000_000,
                quota: Some(20_000),
                shares: Some(7),
                ..Cpu::default()
            },
            huge: vec![Huge {
                size: "2MB".to_owned(),
                usage: 1,
                most: Some(2),
            }],
            moved: vec![moved("Read", 10, 2), moved("Total", 30, 3)],
            ..Detail::default()
        }
    }

    fn full() -> Sheet {
        let mut sheet = sheet();
        sheet.times(5_000_000_000);
        sheet.cgroup(&sample(), &detail(), Some(1024));
        sheet.devices(&detail());
        sheet.processes(2, 3, Held::default(), Some(64));
        sheet.files(&FileSystem::default(), Some((77, 4096)));
        sheet.network(&[Device {
            name: "eth0".to_owned(),
            received: [1, 2, 3, 4],
            sent: [5, 6, 7, 8],
        }]);
        sheet
    }

    #[test]
    fn figures_are_told_in_their_units() {
        let found = values(&full());
        for (name, value) in [
            ("cpu_usage_seconds_total", 2),
            ("cpu_user_seconds_total", 1),
            ("spec_cpu_quota", 20_000),
            ("spec_cpu_shares", 1024),
            ("spec_memory_limit_bytes", 500),
            ("memory_usage_bytes", 100),
            ("memory_failures_total pgfault hierarchy", 9),
            ("memory_failures_total pgfault container", 0),
            ("pressure_cpu_waiting_seconds_total", 4),
            ("pressure_io_stalled_seconds_total", 0),
            ("hugetlb_max_usage_bytes 2MB", 2),
            ("fs_reads_bytes_total ", 10),
            ("fs_reads_total ", 2),
            ("blkio_device_usage_total  0 9999 Total", 30),
            ("fs_usage_bytes ", 4096),
            ("processes", 2),
            ("threads", 3),
            ("ulimits_soft max_open_files", 64),
            ("network_receive_errors_total eth0", 3),
            ("network_receive_packets_dropped_total eth0", 4),
            ("network_transmit_bytes_total eth0", 5),
            ("start_time_seconds", 5),
        ] {
            assert_eq!(found.get(name), Some(&value), "{name}: {found:?}");
        }
    }

    #[test]
    fn everything_that_is_described_is_told() {
        let sheet = full();
        let told: std::collections::BTreeSet<_> =
            sheet.metrics.iter().map(|one| one.name.as_str()).collect();
        // There were no writes.
        for one in ALL.iter().filter(|one| !one.name.contains("fs_writes")) {
            assert!(told.contains(one.name), "{}", one.name);
        }
        let cached = sheet.metrics.iter().filter(|one| one.timestamp != 0);
        let cached: Vec<_> = cached
            .map(|one| (one.name.as_str(), one.timestamp))
            .collect();
        assert_eq!(cached, [("container_fs_usage_bytes", 77)]);
        for metric in &sheet.metrics {
            let described = ALL.iter().find(|one| one.name == metric.name).unwrap();
            let labels = COMMON.len() + described.labels.len();
            assert_eq!(metric.label_values.len(), labels, "{}", metric.name);
        }
    }

    #[test]
    fn of_a_cgroup_that_is_gone_nothing_is_told() {
        let mut sheet = sheet();
        sheet.cgroup(&Sample::default(), &Detail::default(), Some(2));
        assert!(sheet.metrics.is_empty());
    }

    #[test]
    fn the_file_system_has_a_size() {
        let directory = tempfile::tempdir().unwrap();
        let found = FileSystem::of(directory.path()).unwrap();
        assert!(found.bytes > 0 && !found.device.is_empty(), "{found:?}");
        assert!(FileSystem::of(Path::new("/no/such")).is_err());
    }
}
