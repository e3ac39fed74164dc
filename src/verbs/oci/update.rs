//! `rcrun update`.

use std::io::Read;
use std::path::{Path, PathBuf};

use rcrun_runtime::error::{Context, Error, Result};
use rcrun_runtime::spec::load;
use rcrun_runtime::spec::types::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::size;
use crate::settings::Settings;

/// update container resource constraints
#[derive(Debug, Default, clap::Parser)]
#[command(name = "update", disable_help_flag = true)]
pub(crate) struct Update {
    /// path to the file containing the resources to update or '-' to read from the standard input
    ///
    /// The file holds the "resources" object of config.json; what is left out
    /// stays as it is:
    ///
    /// {
    ///   "memory": {
    ///     "limit": 0,
    ///     "reservation": 0,
    ///     "swap": 0,
    ///     "checkBeforeUpdate": true
    ///   },
    ///   "cpu": {
    ///     "shares": 0,
    ///     "quota": 0,
    ///     "burst": 0,
    ///     "period": 0,
    ///     "realtimeRuntime": 0,
    ///     "realtimePeriod": 0,
    ///     "cpus": "",
    ///     "mems": "",
    ///     "idle": 0
    ///   },
    ///   "blockIO": {
    ///     "weight": 0
    ///   }
    /// }
    ///
    /// With it the other options are ignored, except for the schemata.
    #[arg(long, short, value_name = "string", verbatim_doc_comment)]
    resources: Option<PathBuf>,
    /// Specifies per cgroup weight, range is from 10 to 1000
    #[arg(long, value_name = "int", default_value_t = 0)]
    blkio_weight: u16,
    /// CPU CFS period to be used for hardcapping (in usecs). 0 to use system default
    #[arg(long, value_name = "string")]
    cpu_period: Option<String>,
    /// CPU CFS hardcap limit (in usecs). Allowed cpu time in a given period
    #[arg(long, value_name = "string")]
    cpu_quota: Option<String>,
    /// CPU CFS hardcap burst limit (in usecs). Allowed accumulated cpu time additionally for burst a given period
    #[arg(long, value_name = "string")]
    cpu_burst: Option<String>,
    /// CPU shares (relative weight vs. other containers)
    #[arg(long, value_name = "string")]
    cpu_share: Option<String>,
    /// CPU realtime period to be used for hardcapping (in usecs). 0 to use system default
    #[arg(long, value_name = "string")]
    cpu_rt_period: Option<String>,
    /// CPU realtime hardcap limit (in usecs). Allowed cpu time in a given period
    #[arg(long, value_name = "string")]
    cpu_rt_runtime: Option<String>,
    /// CPU(s) to use
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// Memory node(s) to use
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    #[arg(long, hide = true)]
    kernel_memory: Option<String>,
    #[arg(long, hide = true)]
    kernel_memory_tcp: Option<String>,
    /// Memory limit (in bytes)
    #[arg(long, value_name = "string")]
    memory: Option<String>,
    /// set cgroup SCHED_IDLE or not, 0: default behavior, 1: SCHED_IDLE
    #[arg(long, value_name = "string")]
    cpu_idle: Option<String>,
    /// Memory reservation or soft_limit (in bytes)
    #[arg(long, value_name = "string")]
    memory_reservation: Option<String>,
    /// Total memory usage (memory + swap); set '-1' to enable unlimited swap
    #[arg(long, value_name = "string")]
    memory_swap: Option<String>,
    /// Maximum number of pids allowed in the container
    #[arg(long, value_name = "int")]
    pids_limit: Option<i64>,
    /// The string of Intel RDT/CAT L3 cache schema
    #[arg(long, value_name = "string")]
    l3_cache_schema: Option<String>,
    /// The string of Intel RDT/MBA memory bandwidth schema
    #[arg(long, value_name = "string")]
    mem_bw_schema: Option<String>,
    id: String,
}

impl crate::verbs::Run for Update {
    fn run(self, settings: &Settings) -> Result<u8> {
        let resources = match super::container::given(self.resources.clone()) {
            Some(path) => read(&path)?,
            None => self.resources()?,
        };
        if resources.memory().is_some_and(asks_for_kernel_memory) {
            tracing::warn!("Kernel memory settings are ignored and will be removed");
        }
        let l3_cache = given(self.l3_cache_schema.as_deref());
        let bandwidth = given(self.mem_bw_schema.as_deref());
        settings
            .runtime
            .update(&self.id, &resources, l3_cache, bandwidth)?;
        Ok(0)
    }
}

fn read(path: &Path) -> Result<LinuxResources> {
    if path != Path::new("-") {
        return load::resources_file(path);
    }
    let mut text = Vec::new();
    let limit = u64::try_from(load::SIZE_LIMIT).unwrap_or(u64::MAX);
    std::io::stdin()
        .take(limit)
        .read_to_end(&mut text)
        .context(|| "cannot read resources from standard input")?;
    load::resources(&text)
}

fn asks_for_kernel_memory(memory: LinuxMemory) -> bool {
    memory.kernel().is_some() || memory.kernel_tcp().is_some()
}

fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

impl Update {
    fn resources(&self) -> Result<LinuxResources> {
        let mut resources = LinuxResources::default();
        let memory = self.memory()?;
        if memory != LinuxMemory::default() {
            resources.set_memory(Some(memory));
        }
        let cpu = self.cpu()?;
        if cpu != LinuxCpu::default() {
            resources.set_cpu(Some(cpu));
        }
        if self.blkio_weight != 0 {
            let mut block = LinuxBlockIo::default();
            block.set_weight(Some(self.blkio_weight));
            resources.set_block_io(Some(block));
        }
        if let Some(limit) = self.pids_limit {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        Ok(resources)
    }

    fn memory(&self) -> Result<LinuxMemory> {
        let mut memory = LinuxMemory::default();
        memory.set_limit(bytes("memory", self.memory.as_deref())?);
        memory.set_swap(bytes("memory-swap", self.memory_swap.as_deref())?);
        memory.set_reservation(bytes(
            "memory-reservation",
            self.memory_reservation.as_deref(),
        )?);
        memory.set_kernel(bytes("kernel-memory", self.kernel_memory.as_deref())?);
        memory.set_kernel_tcp(bytes(
            "kernel-memory-tcp",
            self.kernel_memory_tcp.as_deref(),
        )?);
        Ok(memory)
    }

    fn cpu(&self) -> Result<LinuxCpu> {
        let mut cpu = LinuxCpu::default();
        cpu.set_cpus(given(self.cpuset_cpus.as_deref()).map(str::to_owned));
        cpu.set_mems(given(self.cpuset_mems.as_deref()).map(str::to_owned));
        cpu.set_idle(number("cpu-idle", self.cpu_idle.as_deref())?);
        cpu.set_burst(number("cpu-burst", self.cpu_burst.as_deref())?);
        cpu.set_period(number("cpu-period", self.cpu_period.as_deref())?);
        cpu.set_realtime_period(number("cpu-rt-period", self.cpu_rt_period.as_deref())?);
        cpu.set_shares(number("cpu-share", self.cpu_share.as_deref())?);
        cpu.set_quota(number("cpu-quota", self.cpu_quota.as_deref())?);
        cpu.set_realtime_runtime(number("cpu-rt-runtime", self.cpu_rt_runtime.as_deref())?);
        Ok(cpu)
    }
}

fn number<T>(flag: &str, text: Option<&str>) -> Result<Option<T>>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let parse = |text: &str| {
        text.parse()
            .map_err(|e| Error::invalid(format!("invalid value for {flag}: parsing {text:?}: {e}")))
    };
    given(text).map(parse).transpose()
}

fn bytes(flag: &str, text: Option<&str>) -> Result<Option<i64>> {
    let parse = |text: &str| {
        size::bytes(text).map_err(|e| Error::invalid(format!("invalid value for {flag}: {e}")))
    };
    given(text).map(parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_is_set() {
        let update = Update::default();
        assert_eq!(update.resources().unwrap(), LinuxResources::default());

        let update = Update {
            memory: Some("32M".into()),
            memory_swap: Some("-1".into()),
            cpu_quota: Some("-1".into()),
            pids_limit: Some(0),
            ..Update::default()
        };
        let resources = update.resources().unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(32 << 20));
        assert_eq!(resources.memory().unwrap().swap(), Some(-1));
        assert_eq!(resources.memory().unwrap().reservation(), None);
        assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(-1));
        assert_eq!(resources.pids().unwrap().limit(), 0);
        assert!(resources.block_io().is_none());
    }

    #[test]
    fn wrong_values_name_their_flag() {
        for (update, flag) in [
            (
                Update {
                    memory: Some("x".into()),
                    ..Update::default()
                },
                "memory",
            ),
            (
                Update {
                    cpu_share: Some("-1".into()),
                    ..Update::default()
                },
                "cpu-share",
            ),
            (
                Update {
                    cpu_quota: Some("1s".into()),
                    ..Update::default()
                },
                "cpu-quota",
            ),
            (
                Update {
                    cpu_idle: Some("yes".into()),
                    ..Update::default()
                },
                "cpu-idle",
            ),
        ] {
            let message = update.resources().unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("invalid value for {flag}: ")),
                "{message}"
            );
        }
    }
}
