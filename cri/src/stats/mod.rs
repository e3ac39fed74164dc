//! Statistics of containers and pods, for the kubelet's summary and for crictl; metrics, for its
//! /metrics/cadvisor.
//!
//! [`cgroup`], [`detail`], [`network`] and [`process`] read; [`files`] keeps what changes slowly and costs much
//! to measure, what containers wrote. Rates are over the time since the last request. What goes away
//! meanwhile is left out: that is no error.

mod cgroup;
mod descriptors;
mod detail;
mod files;
mod metrics;
mod network;
mod process;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::Status;

use crate::Result;
use crate::core::{Container, Core, Life, Pod};
use crate::proto::v1 as cri;
use crate::records::now;
use crate::report::has_labels;
use cgroup::{Pressure, Sample, Stalled};
pub(crate) use descriptors::descriptors;
use files::Files;
use network::Device;

/// From so many pods on two threads read.
const MANY: usize = 50;
/// The shortest time that a rate is taken over, in nanoseconds.
const SHORTEST: i64 = 500_000_000;

/// What was measured before.
#[derive(Debug, Default)]
pub(crate) struct Known {
    cpu: Mutex<HashMap<String, Cpu>>,
    files: Files,
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
    fn cpu(&self) -> MutexGuard<'_, HashMap<String, Cpu>> {
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rate since the last time, or that of then if that was just now.
    fn rate(&self, id: &str, at: i64, used: u64) -> Option<u64> {
        let mut all = self.cpu();
        let last = all.get(id).copied();
        let rate = match last {
            Some(last) if at - last.at < SHORTEST => return last.rate,
            Some(last) => rate(last, at, used),
            None => None,
        };
        all.insert(id.to_owned(), Cpu { at, used, rate });
        rate
    }

    /// Who is gone is forgotten.
    pub(crate) fn forget(&self, id: &str) {
        self.cpu().remove(id);
        self.files.forget(id);
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

/// A list in which one that cannot be read, which is told, does not cost the others.
fn readable<T>(what: &str, id: &str, read: Result<T>) -> Option<T> {
    read.inspect_err(|error| tracing::warn!("no statistics of {what} {id}: {}", error.chain()))
        .ok()
}

/// Of each pod with its devices what is there of it, in this order; of many by two threads.
fn in_parts<T: Send>(
    pods: &[Arc<Pod>],
    devices: Vec<Vec<Device>>,
    read: impl Fn(&Arc<Pod>, &[Device]) -> Option<T> + Sync,
) -> Vec<T> {
    let all: Vec<_> = pods.iter().zip(devices).collect();
    let some = |part: &[(&Arc<Pod>, Vec<Device>)]| -> Vec<T> {
        let each = part.iter();
        each.filter_map(|(pod, devices)| read(pod, devices))
            .collect()
    };
    let (first, second) = all.split_at(all.len() / 2);
    if all.len() < MANY {
        return some(&all);
    }
    std::thread::scope(|scope| {
        let other = std::thread::Builder::new()
            .name("rcrun-stats".to_owned())
            .spawn_scoped(scope, || some(second));
        let mut found = some(first);
        match other.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(rest)) => found.extend(rest),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            // No thread is to be had: slower then.
            Err(_) => found.extend(some(second)),
        }
        found
    })
}

impl Core {
    /// Of one container; it may have ended.
    pub(crate) async fn container_stats(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<cri::ContainerStats, Status> {
        let container = self.container(id)?;
        self.measure_files(vec![Arc::clone(&container)]).await;
        let core = Arc::clone(self);
        let read = move || core.stats_of(&container);
        self.light.run(read).await
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
        self.measure_files(all.clone()).await;
        let core = Arc::clone(self);
        let one = move |container: &Arc<Container>| {
            let read = core.stats_of(container);
            readable("container", &container.id, read)
        };
        self.light
            .run(move || Ok(all.iter().filter_map(one).collect()))
            .await
    }

    /// Of one pod.
    pub(crate) async fn pod_stats(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<cri::PodSandboxStats, Status> {
        let pod = self.pod(id)?;
        self.measure_files(pod.containers()).await;
        let core = Arc::clone(self);
        let read = move || {
            let devices = core.networks(&[Arc::clone(&pod)])?.pop();
            core.stats_of_pod(&pod, &devices.unwrap_or_default())
        };
        self.light.run(read).await
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
        self.measure_files(all.iter().flat_map(|pod| pod.containers()).collect())
            .await;
        let core = Arc::clone(self);
        let read = move || {
            let networks = core.networks(&all)?;
            Ok(in_parts(&all, networks, |pod, devices| {
                readable("pod", &pod.id, core.stats_of_pod(pod, devices))
            }))
        };
        self.light.run(read).await
    }

    /// The rate of what may be gone by now; then nothing is kept of it.
    fn rate(&self, id: &str, sample: &Sample, is_there: impl Fn() -> bool) -> Option<u64> {
        let rate = self.known.rate(id, sample.at, sample.cpu?);
        if !is_there() {
            self.known.forget(id);
        }
        rate
    }

    fn stats_of(&self, container: &Container) -> Result<cri::ContainerStats> {
        let plan = container.pod.plan()?;
        let (id, config) = (&container.id, container.config());
        let sample = match container.life() {
            Life::Running | Life::Made => cgroup::read(&plan.cgroup.container_directory(id))?,
            Life::Ended(_) => Sample::default(),
        };
        let rate = self.rate(id, &sample, || self.container(id).is_ok());
        Ok(cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: id.clone(),
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

    fn stats_of_pod(&self, pod: &Pod, devices: &[Device]) -> Result<cri::PodSandboxStats> {
        let config = pod.config();
        let plan = pod.plan()?;
        let sample = match pod.is_ready() {
            true => cgroup::read(&plan.cgroup.directory())?,
            false => Sample::default(),
        };
        let rate = self.rate(&pod.id, &sample, || self.pod(&pod.id).is_ok());
        let containers = pod.containers();
        let living = containers.iter().filter(|one| one.life() == Life::Running);
        let containers: Result<Vec<_>> = living.map(|one| self.stats_of(one)).collect();
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
