//! `process` of config.json -> a finished description of the program to run and what it may do
//! (runtime-spec config.md, "Process" and "POSIX process", "Linux Process"). Pure.

use std::ffi::CString;

use oci_spec::runtime as oci;

use crate::error::{Error, Result};
use crate::sys::exec::Vector;
use crate::sys::sched::SchedAttr;

use super::capabilities::Capabilities;
use super::{c_path, c_string};

/// Search path for programs when the environment names none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Umask when the configuration names none.
const DEFAULT_UMASK: u32 = 0o022;
/// Room for a home directory looked up in the container's passwd file.
pub const HOME_MAX: usize = 4096;

/// The program, its identity and its limits.
#[derive(Debug)]
pub struct Process {
    /// What is executed; nothing while the configuration has no process (`start` refuses that).
    pub program: Option<Program>,
    /// environ; has a slot for `HOME=` when the configuration does not set it.
    pub env: Vector,
    /// Absolute working directory.
    pub cwd: CString,
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container.
    pub gid: u32,
    /// Supplementary groups; nothing: those of the caller.
    pub groups: Option<Vec<rustix::process::Gid>>,
    /// File mode creation mask.
    pub umask: u32,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// No new privileges.
    pub no_new_privs: bool,
    /// `(RLIMIT_*, soft, hard)`.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Badness adjustment, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// AppArmor profile for the program.
    pub apparmor: Option<CString>,
    /// SELinux label for the program.
    pub selinux: Option<CString>,
    /// Scheduling class.
    pub scheduler: Option<SchedAttr>,
    /// `(class, level)`.
    pub io_priority: Option<(u32, u32)>,
    /// Processors while the process enters the container (`exec` only).
    pub affinity_initial: Option<Vec<u64>>,
    /// Processors of the program itself (`exec` only).
    pub affinity_final: Option<Vec<u64>>,
    /// Execution domain.
    pub personality: Option<u32>,
    /// `(mode with flags, node mask)`.
    pub memory_policy: Option<(i32, Vec<u64>)>,
    /// A pseudo-terminal becomes the standard streams.
    pub terminal: bool,
    /// `(rows, columns)` of the terminal.
    pub console_size: Option<(u16, u16)>,
}

/// The program and its arguments.
#[derive(Debug)]
pub struct Program {
    /// What the user called it.
    pub name: CString,
    /// Paths to try, in order; the first that is an executable file is run.
    pub candidates: Vec<CString>,
    /// argv.
    pub args: Vector,
}

impl Process {
    /// Decides for the `process` section. `preserved` is how many descriptors beyond stderr the
    /// program inherits as LISTEN_FDS, if that protocol is in use.
    pub fn plan(
        process: &oci::Process,
        linux: &oci::Linux,
        listen_fds: Option<u32>,
    ) -> Result<Self> {
        let args = process.args().as_deref().unwrap_or_default();
        let program = args.first().filter(|a| !a.is_empty());
        let program = program.ok_or_else(|| Error::invalid("process.args must not be empty"))?;
        let mut env = environment(process.env().as_deref().unwrap_or_default());
        if let Some(count) = listen_fds {
            env.push(format!("LISTEN_FDS={count}"));
            env.push("LISTEN_PID=1".to_owned());
        }
        let affinity = process.exec_cpu_affinity().as_ref();
        let user = process.user();
        Ok(Self {
            program: Some(Program {
                name: c_string(program)?,
                candidates: candidates(program, &env)?,
                args: Vector::new(c_strings(args)?),
            }),
            env: environment_vector(&env)?,
            cwd: c_path(process.cwd())?,
            uid: user.uid(),
            gid: user.gid(),
            groups: Some(
                user.additional_gids()
                    .iter()
                    .flatten()
                    .map(|g| rustix::process::Gid::from_raw(*g))
                    .collect(),
            ),
            umask: user.umask().unwrap_or(DEFAULT_UMASK),
            capabilities: match process.capabilities() {
                Some(sets) => Capabilities::plan(sets)?,
                None => Capabilities::default(),
            },
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
            oom_score_adj: process.oom_score_adj(),
            apparmor: label(process.apparmor_profile().as_deref())?,
            selinux: label(process.selinux_label().as_deref())?,
            scheduler: process.scheduler().as_ref().map(scheduler),
            io_priority: process
                .io_priority()
                .as_ref()
                .map(io_priority)
                .transpose()?,
            affinity_initial: cpus(affinity.and_then(|a| a.initial().as_deref()))?,
            affinity_final: cpus(affinity.and_then(|a| a.cpu_affinity_final().as_deref()))?,
            terminal: process.terminal().unwrap_or(false),
            console_size: process.console_size().as_ref().map(|size| {
                let clamp = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
                (clamp(size.height()), clamp(size.width()))
            }),
            ..Self::absent(linux)?
        })
    }

    /// What the init of a container without `process` is until its end: root, without rights.
    pub fn absent(linux: &oci::Linux) -> Result<Self> {
        Ok(Self {
            program: None,
            env: Vector::new(Vec::new()),
            cwd: c"/".to_owned(),
            uid: 0,
            gid: 0,
            groups: Some(Vec::new()),
            umask: DEFAULT_UMASK,
            capabilities: Capabilities::default(),
            no_new_privs: false,
            rlimits: Vec::new(),
            oom_score_adj: None,
            apparmor: None,
            selinux: None,
            scheduler: None,
            io_priority: None,
            affinity_initial: None,
            affinity_final: None,
            personality: linux.personality().as_ref().map(personality),
            memory_policy: linux
                .memory_policy()
                .as_ref()
                .map(memory_policy)
                .transpose()?,
            terminal: false,
            console_size: None,
        })
    }
}

/// A later setting of the same variable replaces the earlier one, in the earlier one's place.
fn environment(settings: &[String]) -> Vec<String> {
    let name = |setting: &str| {
        setting
            .split_once('=')
            .map_or(setting.to_owned(), |s| s.0.to_owned())
    };
    let mut result: Vec<String> = Vec::with_capacity(settings.len());
    let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for setting in settings {
        match seen.entry(name(setting)) {
            std::collections::hash_map::Entry::Occupied(at) => {
                result[*at.get()].clone_from(setting);
            }
            std::collections::hash_map::Entry::Vacant(at) => {
                at.insert(result.len());
                result.push(setting.clone());
            }
        }
    }
    result
}

fn environment_vector(env: &[String]) -> Result<Vector> {
    let strings = c_strings(env)?;
    let has_home = env
        .iter()
        .any(|s| s.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()));
    if has_home {
        return Ok(Vector::new(strings));
    }
    let without = strings
        .into_iter()
        .filter(|s| s.as_bytes() != b"HOME=")
        .collect();
    Ok(Vector::with_slot(without, "HOME=".len() + HOME_MAX))
}

fn candidates(program: &str, env: &[String]) -> Result<Vec<CString>> {
    if program.contains('/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = env
        .iter()
        .find_map(|s| s.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    // Relative entries would make the program depend on the working directory.
    path.split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| c_string(&format!("{}/{program}", dir.trim_end_matches('/'))))
        .collect()
}

fn c_strings(strings: &[String]) -> Result<Vec<CString>> {
    strings.iter().map(|s| c_string(s)).collect()
}

fn label(text: Option<&str>) -> Result<Option<CString>> {
    text.filter(|t| !t.is_empty()).map(c_string).transpose()
}

fn rlimit(limit: &oci::PosixRlimit) -> (u32, u64, u64) {
    use oci::PosixRlimitType as T;
    let resource = match limit.typ() {
        T::RlimitCpu => libc::RLIMIT_CPU,
        T::RlimitFsize => libc::RLIMIT_FSIZE,
        T::RlimitData => libc::RLIMIT_DATA,
        T::RlimitStack => libc::RLIMIT_STACK,
        T::RlimitCore => libc::RLIMIT_CORE,
        T::RlimitRss => libc::RLIMIT_RSS,
        T::RlimitNproc => libc::RLIMIT_NPROC,
        T::RlimitNofile => libc::RLIMIT_NOFILE,
        T::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        T::RlimitAs => libc::RLIMIT_AS,
        T::RlimitLocks => libc::RLIMIT_LOCKS,
        T::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        T::RlimitNice => libc::RLIMIT_NICE,
        T::RlimitRtprio => libc::RLIMIT_RTPRIO,
        T::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    (resource, limit.soft(), limit.hard())
}

fn scheduler(scheduler: &oci::Scheduler) -> SchedAttr {
    use oci::{LinuxSchedulerFlag as F, LinuxSchedulerPolicy as P};
    let policy = match scheduler.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => 4,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                F::SchedResetOnFork => 0x01,
                F::SchedFlagReclaim => 0x02,
                F::SchedFlagDLOverrun => 0x04,
                F::SchedFlagKeepPolicy => 0x08,
                F::SchedFlagKeepParams => 0x10,
                F::SchedFlagUtilClampMin => 0x20,
                F::SchedFlagUtilClampMax => 0x40,
            }
    });
    SchedAttr {
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(scheduler.priority().unwrap_or(0)).unwrap_or(u32::MAX),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedAttr::default()
    }
}

fn io_priority(priority: &oci::LinuxIOPriority) -> Result<(u32, u32)> {
    let class = match priority.class() {
        oci::IOPriorityClass::IoprioClassRt => 1,
        oci::IOPriorityClass::IoprioClassBe => 2,
        oci::IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(priority.priority())
        .ok()
        .filter(|level| *level <= 7);
    let level = level.ok_or_else(|| {
        let level = priority.priority();
        Error::invalid(format!(
            "process.ioPriority.priority {level} is not between 0 and 7"
        ))
    })?;
    Ok((class, level))
}

/// Flags are none yet (runtime-spec config-linux.md, "Personality"): `spec::validate` warns of them.
fn personality(personality: &oci::LinuxPersonality) -> u32 {
    match personality.domain() {
        oci::LinuxPersonalityDomain::PerLinux => 0,
        oci::LinuxPersonalityDomain::PerLinux32 => 8,
    }
}

fn memory_policy(policy: &oci::LinuxMemoryPolicy) -> Result<(i32, Vec<u64>)> {
    use oci::{MemoryPolicyFlagType as F, MemoryPolicyModeType as M};
    let mode = match policy.mode() {
        M::MpolDefault => 0,
        M::MpolPreferred => 1,
        M::MpolBind => 2,
        M::MpolInterleave => 3,
        M::MpolLocal => 4,
        M::MpolPreferredMany => 5,
        M::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                F::MpolFStaticNodes => 1 << 15,
                F::MpolFRelativeNodes => 1 << 14,
                F::MpolFNumaBalancing => 1 << 13,
            }
    });
    let nodes = match policy.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(list) => super::bit_list(list).map_err(|e| e.context("linux.memoryPolicy.nodes"))?,
    };
    Ok((mode | flags, nodes))
}

fn cpus(list: Option<&str>) -> Result<Option<Vec<u64>>> {
    list.filter(|l| !l.is_empty())
        .map(super::bit_list)
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: serde_json::Value) -> Result<Process> {
        Process::plan(
            &serde_json::from_value(json).unwrap(),
            &oci::Linux::default(),
            None,
        )
    }

    fn minimal() -> serde_json::Value {
        serde_json::json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sh"]})
    }

    #[test]
    fn an_absent_process_has_no_program() {
        let linux = serde_json::json!({"personality": {"domain": "LINUX32", "flags": ["X"]}});
        let process = Process::absent(&serde_json::from_value(linux).unwrap()).unwrap();
        assert!(process.program.is_none());
        assert_eq!(process.personality, Some(8));
    }

    #[test]
    fn programs_are_looked_up_in_the_containers_path() {
        let mut json = minimal();
        json["env"] = serde_json::json!(["PATH=/a:rel::/b/"]);
        let process = plan(json).unwrap();
        let program = process.program.unwrap();
        let paths: Vec<_> = program
            .candidates
            .iter()
            .map(|c| c.to_str().unwrap())
            .collect();
        assert_eq!(paths, ["/a/sh", "/b/sh"]);
    }

    #[test]
    fn a_missing_home_reserves_a_slot() {
        assert!(plan(minimal()).unwrap().env.has_slot());
        let mut json = minimal();
        json["env"] = serde_json::json!(["HOME=/root"]);
        assert!(!plan(json).unwrap().env.has_slot());
    }

    #[test]
    fn later_variables_win() {
        let env = ["A=1".to_owned(), "B=2".to_owned(), "A=3".to_owned()];
        assert_eq!(environment(&env), ["A=3", "B=2"]);
    }

    #[test]
    fn capability_names_become_masks() {
        let mut json = minimal();
        json["capabilities"] =
            serde_json::json!({"bounding": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]});
        let sets = plan(json).unwrap().capabilities;
        assert_eq!(
            sets,
            Capabilities {
                bounding: 1 | 1 << 10,
                ..Capabilities::default()
            }
        );
    }

    #[test]
    fn empty_programs_and_nul_bytes_are_refused() {
        let mut json = minimal();
        json["args"] = serde_json::json!([]);
        assert!(plan(json).is_err());
        let mut json = minimal();
        json["env"] = serde_json::json!(["A=\u{0}"]);
        assert!(plan(json).is_err());
    }
}
