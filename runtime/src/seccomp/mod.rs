//! Seccomp: compiles the profile of the configuration into the kernel's program.
//!
//! Owns the whole way from `linux.seccomp` to instructions, in pure code that runs in the parent; the
//! child only calls [`crate::sys::seccomp::load`]. Also hands a notification listener to the agent
//! ([`notify`]). Does not decide when the filter is loaded. Runtime specification, config-linux.md,
//! "Seccomp"; kernel, Documentation/userspace-api/seccomp_filter.rst.

mod arch;
mod compile;
pub mod notify;
mod program;
mod rules;
mod table;
// The expected numbers are those of one native architecture.
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests;

use std::path::PathBuf;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

use crate::error::{Error, Result};
use crate::sys::seccomp as sys;
pub use crate::sys::seccomp::SockFilter;

/// Architectures a profile may list, sorted.
pub const ARCHITECTURES: [&str; 23] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// Actions a profile may use, sorted.
pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// Operators a profile may use, sorted.
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Filter flags a profile may set, with the kernel's bits. TSYNC is accepted and has no effect: the
/// filter is loaded by a process with one thread.
pub const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", sys::FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_LOG", sys::FLAG_LOG),
    (
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        sys::FLAG_WAIT_KILLABLE_RECV,
    ),
];

/// Those of [`FLAGS`] that the running kernel knows.
pub fn supported_flags() -> Vec<&'static str> {
    let known = |bit: u32| sys::flag_supported(if bit == 0 { sys::FLAG_TSYNC } else { bit });
    FLAGS.iter().filter(|f| known(f.1)).map(|f| f.0).collect()
}

/// Who is told about calls with `SCMP_ACT_NOTIFY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Socket of the agent.
    pub listener_path: PathBuf,
    /// Passed on to the agent as it is.
    pub metadata: Option<String>,
}

/// A filter that is ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// At most 4096 instructions.
    pub program: Vec<SockFilter>,
    /// Flags of seccomp(2), `NEW_LISTENER` included when `notify` is set.
    pub flags: u32,
    /// Set when a rule notifies.
    pub notify: Option<Notify>,
    /// System calls of the profile that do not exist here, and so need no rule.
    pub unknown: Vec<String>,
}

/// Compiles a profile. `None`: it forbids nothing, and no filter is needed.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Option<Filter>> {
    let syscalls = seccomp.syscalls().as_deref().unwrap_or(&[]);
    if syscalls.is_empty() && seccomp.default_action() == LinuxSeccompAction::ScmpActAllow {
        return Ok(None);
    }
    let notify = check_notify(seccomp)?;
    let mut flags = flag_bits(seccomp.flags().as_deref());
    if notify.is_some() {
        flags |= sys::FLAG_NEW_LISTENER;
    }
    // The native architecture is always filtered, listed or not.
    let mut abis = vec![arch::abi(Arch::ScmpArchNative)];
    for listed in seccomp.architectures().iter().flatten() {
        let abi = arch::abi(*listed);
        if !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    let profile = rules::Profile::new(seccomp, &abis)?;
    let program = compile::generate(&profile)?;
    Ok(Some(Filter {
        program,
        flags,
        notify,
        unknown: profile.unknown,
    }))
}

fn flag_bits(flags: Option<&[LinuxSeccompFilterFlag]>) -> u32 {
    use LinuxSeccompFilterFlag as F;
    let Some(flags) = flags else {
        return sys::FLAG_SPEC_ALLOW;
    };
    flags.iter().fold(0, |bits, flag| {
        bits | match flag {
            F::SeccompFilterFlagTsync => 0,
            F::SeccompFilterFlagLog => sys::FLAG_LOG,
            F::SeccompFilterFlagSpecAllow => sys::FLAG_SPEC_ALLOW,
            F::SeccompFilterFlagWaitKillableRecv => sys::FLAG_WAIT_KILLABLE_RECV,
        }
    })
}

/// The listener's descriptor leaves the container by a write(2) of the process that is filtered, which
/// would block for ever if an agent that has no descriptor yet had to allow it.
fn check_notify(seccomp: &LinuxSeccomp) -> Result<Option<Notify>> {
    let notifies = |action| action == LinuxSeccompAction::ScmpActNotify;
    let mut wanted = false;
    for entry in seccomp
        .syscalls()
        .iter()
        .flatten()
        .filter(|e| notifies(e.action()))
    {
        wanted = true;
        for call in ["write", "sendmsg"] {
            if entry.names().iter().any(|n| n == call) {
                return Err(Error::invalid(format!(
                    "SCMP_ACT_NOTIFY cannot be used for the {call} syscall"
                )));
            }
        }
    }
    if notifies(seccomp.default_action()) {
        return Err(Error::invalid(
            "SCMP_ACT_NOTIFY cannot be used as default action",
        ));
    }
    if !wanted {
        return Ok(None);
    }
    match seccomp.listener_path() {
        Some(path) if !path.as_os_str().is_empty() => Ok(Some(Notify {
            listener_path: path.clone(),
            metadata: seccomp.listener_metadata().clone(),
        })),
        _ => Err(Error::invalid("seccomp listenerPath is not set")),
    }
}
