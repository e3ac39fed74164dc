//! Scheduling class, input/output priority, personality and memory policy of the calling process.

use rustix::io::Errno;

use super::check;

/// struct sched_attr (sched_setattr(2)), version 1.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Size of this structure.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub period: u64,
    /// Utilisation clamp, lower bound.
    pub util_min: u32,
    /// Utilisation clamp, upper bound.
    pub util_max: u32,
}

/// `sched_setattr(0, attr, 0)`.
pub fn set_scheduler(attr: &SchedAttr) -> Result<(), Errno> {
    let mut attr = *attr;
    attr.size = std::mem::size_of::<SchedAttr>() as u32;
    // SAFETY: the structure carries its own size and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// `ioprio_set(IOPRIO_WHO_PROCESS, 0, class << 13 | priority)`.
pub fn set_io_priority(class: u32, priority: u32) -> Result<(), Errno> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain integers.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            WHO_PROCESS,
            0,
            (class << 13) | priority,
        )
    })
    .map(drop)
}

/// `personality(2)`.
pub fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: plain integer.
    check(libc::c_long::from(unsafe {
        libc::personality(libc::c_ulong::from(persona))
    }))
    .map(drop)
}

/// `set_mempolicy(mode, nodes)`; `nodes` is a bit mask of NUMA nodes.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<(), Errno> {
    let bits = if nodes.is_empty() {
        0
    } else {
        nodes.len() * 64 + 1
    };
    let mask = if nodes.is_empty() {
        std::ptr::null()
    } else {
        nodes.as_ptr()
    };
    // SAFETY: the mask is null, or valid for `bits` - 1 bits (the kernel subtracts one) and outlives
    // the call.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// `sched_setaffinity(pid, cpus)`; `cpus` is a bit mask of any length, pid 0 is the caller.
pub fn set_affinity(pid: i32, cpus: &[u64]) -> Result<(), Errno> {
    // SAFETY: the mask is valid for its length and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            pid,
            std::mem::size_of_val(cpus),
            cpus.as_ptr(),
        )
    })
    .map(drop)
}

/// `prlimit(pid, resource, {soft, hard})`; pid 0 is the caller.
pub fn set_rlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the new limit is valid for the call and the old one is not asked for.
    check(libc::c_long::from(unsafe {
        libc::prlimit64(pid, resource, &raw const limit, std::ptr::null_mut())
    }))
    .map(drop)
}

/// The caller's hard limit of a resource.
pub fn hard_limit(resource: u32) -> Result<u64, Errno> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is valid for the kernel to write to.
    check(libc::c_long::from(unsafe {
        libc::prlimit64(0, resource, std::ptr::null(), &raw mut limit)
    }))
    .map(|_| limit.rlim_max)
}
