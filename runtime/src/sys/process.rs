//! Making processes: `clone3`, `_exit`, signals by pidfd, capability prctls.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::check;

/// What [`clone`] makes.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneArgs<'a> {
    /// `CLONE_NEW*`, `CLONE_PARENT`; the exit signal is always SIGCHLD.
    pub flags: u64,
    /// Directory of a cgroup v2 cgroup the child is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Which side of [`clone`] one is on.
#[derive(Debug)]
pub enum Cloned {
    /// The calling process: the child's pid in this pid namespace, and a pidfd.
    Parent(i32, OwnedFd),
    /// The new process, single-threaded, with a copy of all memory.
    Child,
}

/// Proof that the process had one thread when it was made; entering namespaces and cloning without
/// `execve` is only sound then, since locks held by other threads stay held for ever in the copy.
#[derive(Debug, Clone, Copy)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Asks the kernel: the link count of /proc/self/task is 2 plus the number of threads. One that was joined
    /// still counts while the kernel takes it apart, which its mount namespace may make long: that is waited for.
    pub fn prove() -> Option<Self> {
        let since = std::time::Instant::now();
        loop {
            let stat = rustix::fs::stat("/proc/self/task").ok()?;
            if stat.st_nlink == 3 {
                return Some(Self(()));
            }
            if since.elapsed() > LEAVING || !all_others_leave(rustix::process::getpid()) {
                return None;
            }
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}

/// How long the kernel may take to take a thread apart.
const LEAVING: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether no other thread of this process comes back from the kernel.
fn all_others_leave(own: rustix::process::Pid) -> bool {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return false;
    };
    threads.flatten().all(|thread| {
        let name = thread.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        number == Some(own.as_raw_nonzero().get()) || leaves(&thread.path().join("stat"))
    })
}

/// Whether a thread has gone or is on its way (proc_pid_stat(5), `flags`; `PF_EXITING` of linux/sched.h).
fn leaves(stat: &std::path::Path) -> bool {
    const EXITING: u64 = 4;
    let Ok(text) = std::fs::read_to_string(stat) else {
        return true;
    };
    // After the name: state, ppid, pgrp, session, tty, tpgid, flags.
    let flags = text.rsplit_once(") ").and_then(|(_, rest)| {
        let flags = rest.split(' ').nth(6)?;
        flags.parse::<u64>().ok()
    });
    flags.is_some_and(|flags| flags & EXITING != 0)
}

#[repr(C, align(8))]
#[derive(Default)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `clone3(2)` in the manner of fork, with a pidfd. Where the kernel lacks clone3 (or a seccomp
/// filter hides it behind ENOSYS), clone(2) with the same flags; `cgroup` needs clone3.
pub fn clone(_proof: SingleThreaded, args: &CloneArgs<'_>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let flags = args.flags | libc::CLONE_PIDFD as u64;
    let mut raw = RawCloneArgs {
        flags,
        pidfd: &raw mut pidfd as u64,
        // With CLONE_PARENT the kernel takes the caller's own.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 {
            libc::SIGCHLD as u64
        } else {
            0
        },
        ..RawCloneArgs::default()
    };
    let mut size = 64; // CLONE_ARGS_SIZE_VER0: all kernels that have clone3
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
        size = std::mem::size_of::<RawCloneArgs>();
    }
    // SAFETY: `raw` outlives the call and has the layout of struct clone_args (linux/sched.h); the
    // child gets its own copy of the address space (no CLONE_VM, no stack), so this is fork(2); the
    // caller proved that no other thread can hold a lock of ours in the copy.
    let ret = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size) });
    let ret = match ret {
        Err(Errno::NOSYS) if args.cgroup.is_none() => old_clone(flags, &mut pidfd),
        other => other,
    }?;
    if ret == 0 {
        return Ok(Cloned::Child);
    }
    if pidfd < 0 {
        // Before 5.2 the flag is ignored. The child finds the wire closed and ends.
        return Err(Errno::NOSYS);
    }
    // SAFETY: the kernel stored a new descriptor in `pidfd` for the parent; nobody else owns it.
    Ok(Cloned::Parent(ret as i32, unsafe {
        OwnedFd::from_raw_fd(pidfd)
    }))
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn old_clone(flags: u64, pidfd: &mut RawFd) -> Result<libc::c_long, Errno> {
    // CLONE_NEWTIME shares bits with the exit signal: only clone3 and unshare know it.
    if flags & libc::CLONE_NEWTIME as u64 != 0 {
        return Err(Errno::NOSYS);
    }
    let flags = flags | libc::SIGCHLD as u64;
    // SAFETY: as for clone3 above; clone's third argument receives the pidfd (CLONE_PIDFD), the null
    // stack means copy-on-write of the caller's.
    check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut *pidfd, 0, 0) })
}

/// Ends this process at once: no destructors, no exit handlers, no flushing of copied buffers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Signals the process behind a pidfd (signal 0 probes it). rustix only takes named signals;
/// `kill` must also pass real-time ones.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: plain integers; the null siginfo asks for kill(2)'s default.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            0usize,
            0,
        )
    })
    .map(drop)
}

/// Signals a process by pid.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// Drops one capability from the bounding set.
pub fn drop_bounding(capability: u32) -> Result<(), Errno> {
    // SAFETY: prctl with integer arguments.
    check(libc::c_long::from(unsafe {
        libc::prctl(
            libc::PR_CAPBSET_DROP,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    }))
    .map(drop)
}

/// Whether a capability is in the bounding set; EINVAL means that this kernel does not know it.
pub fn in_bounding(capability: u32) -> Result<bool, Errno> {
    // SAFETY: prctl with integer arguments.
    check(libc::c_long::from(unsafe {
        libc::prctl(
            libc::PR_CAPBSET_READ,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    }))
    .map(|r| r == 1)
}

/// Raises one capability in the ambient set.
pub fn raise_ambient(capability: u32) -> Result<(), Errno> {
    // SAFETY: prctl with integer arguments.
    check(libc::c_long::from(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            libc::c_ulong::from(capability),
            0,
            0,
        )
    }))
    .map(drop)
}

/// Empties the ambient set.
pub fn clear_ambient() -> Result<(), Errno> {
    // SAFETY: prctl with integer arguments.
    check(libc::c_long::from(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
            0,
            0,
            0,
        )
    }))
    .map(drop)
}

/// Permitted, effective and inheritable sets of the calling thread, as bit masks.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    }; // _LINUX_CAPABILITY_VERSION_3
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [
        [low(effective), low(permitted), low(inheritable)],
        [high(effective), high(permitted), high(inheritable)],
    ];
    // SAFETY: header and two data elements have the layout of version 3 (linux/capability.h) and
    // outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Makes descriptors from `first` to `last` close at `execve`; ENOSYS or EINVAL on kernels before 5.11.
pub fn close_range_cloexec(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: only sets a flag on descriptors, closes none.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Closes descriptors by number. Only for a process that will drop none of their owners any more:
/// one that ends in `execve` or `_exit`.
pub fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: plain integers; see above for the owners.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Sets or clears close-on-exec by number, for descriptors that are not ours to own.
pub fn set_cloexec(fd: RawFd, on: bool) -> Result<(), Errno> {
    let flag = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: fcntl with integers; a number that is not open gives EBADF.
    check(libc::c_long::from(unsafe {
        libc::fcntl(fd, libc::F_SETFD, flag)
    }))
    .map(drop)
}

/// Makes `fd` the standard stream `number` (0, 1 or 2).
pub fn dup_onto(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    debug_assert!((0..=2).contains(&number));
    // SAFETY: the standard streams are owned by nobody in this program, so replacing one does not
    // close a descriptor behind an owner's back.
    check(libc::c_long::from(unsafe {
        libc::dup2(fd.as_raw_fd(), number)
    }))
    .map(drop)
}

/// Borrows a descriptor that the caller of the program handed down (standard streams, preserved
/// ones). The number is checked to be open.
pub fn borrow_inherited(fd: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    // SAFETY: fcntl with integers.
    check(libc::c_long::from(unsafe {
        libc::fcntl(fd, libc::F_GETFD)
    }))?;
    // SAFETY: it is open, and inherited descriptors are never closed by this program before it ends.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Takes over a descriptor that the caller of the program handed down for this very purpose; a standard
/// stream is left as /dev/null would be: see [`dup_onto`].
pub fn take_inherited(fd: RawFd) -> Result<OwnedFd, Errno> {
    let copy = rustix::io::fcntl_dupfd_cloexec(borrow_inherited(fd)?, 3)?;
    if fd > 2 {
        // SAFETY: close with an integer. The number came from the command line, so nobody in this program
        // owns it; what `borrow_inherited` gave out for it is used no more.
        check(libc::c_long::from(unsafe { libc::close(fd) }))?;
    }
    Ok(copy)
}

/// Gives memory that was freed back to the kernel.
pub fn trim_memory() {
    // SAFETY: malloc_trim(3) may be called at any time; it only releases what is free.
    unsafe { libc::malloc_trim(0) };
}

/// Gives pages of the stack back that deeper calls have used, and no caller does: all but a few below this
/// function. For a process with one thread that has done its work and stays.
#[inline(never)]
pub fn trim_stack(_proof: SingleThreaded) {
    /// What the calls that follow may use at once without another page fault.
    const KEPT: usize = 16 << 10;
    /// Deeper than any of our calls goes; where nothing is mapped nothing happens.
    const DEPTH: usize = 1 << 20;
    const PAGE: usize = 4 << 10;
    let mark = 0_u8;
    let here = std::ptr::from_ref(std::hint::black_box(&mark)).addr();
    let top = (here - KEPT) & !(PAGE - 1);
    let bottom = top - DEPTH;
    // SAFETY: the range lies below the frame of this function on the only thread's stack (the first one's,
    // below which the kernel maps nothing else that near: stack_guard_gap and more), where no live value
    // is; the kernel passes over what of it is not mapped (ENOMEM, after it did the rest).
    unsafe {
        libc::madvise(
            std::ptr::without_provenance_mut(bottom),
            top - bottom,
            libc::MADV_DONTNEED,
        )
    };
}

/// Makes the standard input the controlling terminal of this session.
pub fn take_controlling_terminal() -> Result<(), Errno> {
    // SAFETY: ioctl with an integer argument on descriptor 0.
    check(libc::c_long::from(unsafe {
        libc::ioctl(0, libc::TIOCSCTTY, 0)
    }))
    .map(drop)
}

extern "C" fn end_at_once(signal: libc::c_int) {
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(128 + signal) }
}

/// Makes this process end on every signal whose default is to end it. The first process of a pid
/// namespace is spared from defaults, but a container that only waits must be stoppable. `execve`
/// gives all handled signals their default back.
pub fn end_on_signals() {
    let spared = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGPIPE,
    ];
    for signal in (1..=64).filter(|signal| !spared.contains(signal)) {
        let handler = end_at_once as extern "C" fn(libc::c_int);
        // SAFETY: the handler only calls _exit. Numbers that cannot be handled are refused (EINVAL),
        // which is fine. What the caller ignores becomes handled, and default after execve; it is set
        // back below.
        unsafe {
            let before = libc::signal(signal, handler as libc::sighandler_t);
            if before == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

/// Lets the kernel reap this process's children, also those that others leave to it (sigaction(2),
/// `SIGCHLD`).
pub fn reap_nobody() {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Blocks all signals, so that they wait for [`next_signal`], also those that would be ignored.
pub fn block_signals() -> Result<(), Errno> {
    // SAFETY: an all-zero sigset_t is valid, sigfillset makes it the full set, and the pointers are
    // valid for the calls.
    let done = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut())
    };
    check(done.into()).map(drop)
}

/// Waits for the next of the blocked signals and takes it.
pub fn next_signal() -> Result<i32, Errno> {
    // SAFETY: as above; nobody asks for more than the signal's number.
    let signal = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigwaitinfo(&raw const all, std::ptr::null_mut())
    };
    check(signal.into()).map(|_| signal)
}

/// Gives SIGPIPE its default disposition back (the Rust runtime ignores it) and unblocks all signals.
/// What the caller ignores otherwise, the container's program ignores too, as with any `execve`.
pub fn restore_signals() {
    // SAFETY: SIG_DFL is a valid disposition; an all-zero sigset_t is the empty set on Linux and the
    // pointers are valid for the call.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let empty: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
    }
}

/// The working directory as the kernel names it; `(unreachable)/...` when it lies outside the root.
pub fn current_directory(buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the buffer is valid for its length; the kernel writes at most that much.
    check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })
        .map(|length| (length as usize).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever was joined is not taken for a thread that may hold a lock, however long the kernel is busy with it.
    #[test]
    fn threads_that_were_joined_have_left() {
        let stat = |thread| std::path::PathBuf::from(format!("/proc/self/task/{thread}/stat"));
        for _ in 0..500 {
            let thread = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero());
            let number = thread.join().unwrap();
            assert!(leaves(&stat(number)));
        }
        let own = rustix::thread::gettid().as_raw_nonzero();
        assert!(!leaves(&stat(own)));
        // Tests run in threads of their own.
        if own != rustix::process::getpid().as_raw_nonzero() {
            assert!(!all_others_leave(rustix::process::getpid()));
        }
    }
}
