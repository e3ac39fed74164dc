//! Statistics of containers and pods, for the kubelet's summary and for crictl.
//!
//! [`cgroup`] and [`network`] read; what changes slowly and costs much to measure, the files that a
//! container wrote, is measured at most every [`FILES`]. Rates are over the time since the last request.

mod cgroup;
mod network;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rcrun_overlay::lease::SnapshotId;
use rcrun_overlay::snapshot::{Snapshots, Used};
use tonic::Status;

use crate::Result;
use crate::core::{Container, Core, Life, Pod};
use crate::proto::v1 as cri;
use crate::records::now;
use crate::report::has_labels;
use cgroup::{Pressure, Sample, Stalled};
use network::Device;

/// How old the size of a container's files may be.
const FILES: Duration = Duration::from_secs(10);
/// The shortest time that a rate is taken over, in nanoseconds.
const SHORTEST: i64 = 500_000_000;

/// What was measured before.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Before>);

#[derive(Debug, Default)]
struct Before {
    cpu: HashMap<String, Cpu>,
    files: HashMap<String, (Instant, i64, Used)>,
}

/// A container's or pod's use of processors.
#[derive(Debug, Clone, Copy)]
struct Cpu {
    at: i64,
    used: u64,
    /// Nanoseconds per second, of the time before that.
    rate: Option<u64>,
}

impl Known {
    fn before(&self) -> MutexGuard<'_, Before> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rate since the last time, or that of then if that was just now.
    fn rate(&self, id: &str, at: i64, used: u64) -> Option<u64> {
        let mut before = self.before();
        let Some(last) = before.cpu.get(id).copied() else {
            before.cpu.insert(
                id.to_owned(),
                Cpu {
                    at,
                    used,
                    rate: None,
                },
            );
            return None;
        };
        if at - last.at < SHORTEST {
            return last.rate;
        }
        let rate = rate(last, at, used);
        before.cpu.insert(id.to_owned(), Cpu { at, used, rate });
        rate
    }

    /// Who is gone is forgotten.
    pub(crate) fn forget(&self, id: &str) {
        let mut before = self.before();
        before.cpu.remove(id);
        before.files.remove(id);
    }
}

fn rate(last: Cpu, at: i64, used: u64) -> Option<u64> {
    let time = u128::try_from(at - last.at).ok().filter(|time| *time > 0)?;
    let used = u128::from(used.saturating_sub(last.used));
    u64::try_from(used * 1_000_000_000 / time).ok()
}

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

fn psi(pressure: Option<Pressure>) -> Option<cri::PsiStats> {
    let line = |stalled: Stalled| cri::PsiData {
        total: stalled.total,
        avg10: stalled.averages[0],
        avg60: stalled.averages[1],
        avg300: stalled.averages[2],
    };
    pressure.map(|pressure| cri::PsiStats {
        some: Some(line(pressure.some)),
        full: Some(line(pressure.full)),
    })
}

fn cpu(sample: &Sample, rate: Option<u64>) -> Option<cri::CpuUsage> {
    sample.cpu.map(|used| cri::CpuUsage {
        timestamp: sample.at,
        usage_core_nano_seconds: value(used),
        usage_nano_cores: value(rate.unwrap_or(0)),
        psi: psi(sample.pressure[0]),
    })
}

fn memory(sample: &Sample) -> Option<cri::MemoryUsage> {
    sample.memory.map(|memory| cri::MemoryUsage {
        timestamp: sample.at,
        working_set_bytes: value(memory.working_set),
        available_bytes: value(
            memory
                .limit
                .map_or(0, |limit| limit.saturating_sub(memory.working_set)),
        ),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.faults),
        major_page_faults: value(memory.major_faults),
        psi: psi(sample.pressure[1]),
    })
}

fn swap(sample: &Sample) -> Option<cri::SwapUsage> {
    let memory = sample.memory?;
    let used = memory.swap?;
    Some(cri::SwapUsage {
        timestamp: sample.at,
        swap_available_bytes: value(
            memory
                .swap_limit
                .map_or(0, |limit| limit.saturating_sub(used)),
        ),
        swap_usage_bytes: value(used),
    })
}

fn io(sample: &Sample) -> Option<cri::IoUsage> {
    sample.pressure[2].map(|pressure| cri::IoUsage {
        timestamp: sample.at,
        psi: psi(Some(pressure)),
    })
}

fn interface(device: &Device) -> cri::NetworkInterfaceUsage {
    cri::NetworkInterfaceUsage {
        name: device.name.clone(),
        rx_bytes: value(device.received[0]),
        rx_errors: value(device.received[2]),
        tx_bytes: value(device.sent[0]),
        tx_errors: value(device.sent[2]),
    }
}

impl Core {
    /// Of one container; it may have ended.
    pub(crate) async fn container_stats(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<cri::ContainerStats, Status> {
        let container = self.container(id)?;
        let core = Arc::clone(self);
        self.light.run(move || core.stats_of(&container)).await
    }

    /// Of all containers that a filter leaves.
    pub(crate) async fn all_container_stats(
        self: &Arc<Self>,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Vec<cri::ContainerStats>, Status> {
        let filter = filter.unwrap_or_default();
        let wanted = |container: &Arc<Container>| {
            container.id.starts_with(&filter.id)
                && container.pod.id.starts_with(&filter.pod_sandbox_id)
                && has_labels(&container.config().labels, &filter.label_selector)
        };
        let all: Vec<_> = self.containers().into_iter().filter(wanted).collect();
        let core = Arc::clone(self);
        let read = move || all.iter().map(|one| core.stats_of(one)).collect();
        self.light.run(read).await
    }

    /// Of one pod.
    pub(crate) async fn pod_stats(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<cri::PodSandboxStats, Status> {
        let pod = self.pod(id)?;
        let core = Arc::clone(self);
        self.light.run(move || core.stats_of_pod(&pod)).await
    }

    /// Of all pods that a filter leaves.
    pub(crate) async fn all_pod_stats(
        self: &Arc<Self>,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Result<Vec<cri::PodSandboxStats>, Status> {
        let filter = filter.unwrap_or_default();
        let wanted = |pod: &Arc<Pod>| {
            pod.id.starts_with(&filter.id)
                && has_labels(&pod.config().labels, &filter.label_selector)
        };
        let all: Vec<_> = self.pods().into_iter().filter(wanted).collect();
        let core = Arc::clone(self);
        let read = move || all.iter().map(|one| core.stats_of_pod(one)).collect();
        self.light.run(read).await
    }

    fn stats_of(&self, container: &Container) -> Result<cri::ContainerStats> {
        let config = container.config();
        let sample = match container.life() {
            Life::Running | Life::Made => cgroup::read(&self.cgroup_of(container)?)?,
            Life::Ended(_) => Sample::default(),
        };
        let rate = sample
            .cpu
            .and_then(|used| self.known.rate(&container.id, sample.at, used));
        Ok(cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: container.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            cpu: cpu(&sample, rate),
            memory: memory(&sample),
            writable_layer: self.files_of(container),
            swap: swap(&sample),
            io: io(&sample),
        })
    }

    fn stats_of_pod(&self, pod: &Pod) -> Result<cri::PodSandboxStats> {
        let config = pod.config();
        let plan = crate::spec::pod(&config, &self.node)?;
        let sample = match pod.is_ready() {
            true => cgroup::read(&plan.cgroup.directory())?,
            false => Sample::default(),
        };
        let rate = sample
            .cpu
            .and_then(|used| self.known.rate(&pod.id, sample.at, used));
        let containers = pod.containers();
        let living = containers.iter().filter(|one| one.life() == Life::Running);
        let containers: Result<Vec<_>> = living.clone().map(|one| self.stats_of(one)).collect();
        let inside = living
            .into_iter()
            .find_map(|one| self.runtime.init(&one.id).ok().flatten());
        let devices = match inside {
            Some((pid, _pidfd)) if plan.namespaces.network => network::devices(pid),
            _ => Vec::new(),
        };
        let own = devices
            .iter()
            .find(|device| device.name == crate::pods::INTERFACE);
        Ok(cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: pod.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: cpu(&sample, rate),
                memory: memory(&sample),
                network: own.map(|own| cri::NetworkUsage {
                    timestamp: now(),
                    default_interface: Some(interface(own)),
                    interfaces: devices.iter().map(interface).collect(),
                }),
                process: sample.processes.map(|count| cri::ProcessUsage {
                    timestamp: sample.at,
                    process_count: value(count),
                }),
                containers: containers?,
                io: io(&sample),
            }),
            windows: None,
        })
    }

    /// A container's cgroup, in each hierarchy.
    pub(crate) fn cgroup_of(&self, container: &Container) -> Result<String> {
        let plan = crate::spec::pod(&container.pod.config(), &self.node)?;
        Ok(plan.cgroup.container_directory(&container.id))
    }

    /// What it wrote.
    fn files_of(&self, container: &Container) -> Option<cri::FilesystemUsage> {
        let known = self.known.before().files.get(&container.id).copied();
        let fresh = known.filter(|(measured, _, _)| measured.elapsed() < FILES);
        let (at, used) = match fresh {
            Some((_, at, used)) => (at, used),
            None => {
                let id: SnapshotId = container.state().record.snapshot.parse().ok()?;
                let snapshots = Snapshots::new(&self.host.store).ok()?;
                let used = snapshots.open(&id).ok()??.usage().ok()?;
                let at = now();
                let measured = (Instant::now(), at, used);
                self.known
                    .before()
                    .files
                    .insert(container.id.clone(), measured);
                (at, used)
            }
        };
        Some(cri::FilesystemUsage {
            timestamp: at,
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: self.host.store.path().display().to_string(),
            }),
            used_bytes: value(used.bytes),
            inodes_used: value(used.inodes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let known = Known::default();
        let second = 1_000_000_000;
        assert_eq!(known.rate("a", 0, 0), None);
        // Too soon to tell.
        assert_eq!(known.rate("a", second / 10, 5), None);
        assert_eq!(known.rate("a", second, 500_000_000), Some(500_000_000));
        assert_eq!(known.rate("a", second + 1, 900_000_000), Some(500_000_000));
        assert_eq!(known.rate("a", 3 * second, 500_000_000), Some(0));
        // Counters begin anew with the container.
        assert_eq!(known.rate("a", 4 * second, 1), Some(0));
        known.forget("a");
        assert_eq!(known.rate("a", 5 * second, 2), None);
    }
}
