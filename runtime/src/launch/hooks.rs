//! Running hooks: a fork, the state on standard input, a deadline (runtime-spec runtime.md,
//! "Lifecycle", and config.md, "POSIX-platform Hooks").
//!
//! Used by `rcrun` for the hooks of the runtime namespace and by the init for those of the
//! container; allocates nothing.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus};

use crate::plan::Hook;
use crate::rootfs::{Detail, Fail};
use crate::sys::exec::Vector;
use crate::sys::process::{CloneArgs, Cloned, SingleThreaded, clone, dup_onto, exit_now};
use crate::sys::{exec, process as sys};

/// Added to a signal number to tell it from an exit code in [`Fail::errno`].
pub(crate) const SIGNALLED: i32 = 256;

/// What a hook's three streams are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams<'a> {
    /// A file that holds the state.
    pub state: BorrowedFd<'a>,
    /// Receives standard output.
    pub output: BorrowedFd<'a>,
    /// Receives standard error.
    pub error: BorrowedFd<'a>,
}

impl Streams<'_> {
    /// Forgets what the last hook printed.
    pub(crate) fn clear(&self) -> Result<(), Errno> {
        rustix::fs::ftruncate(self.output, 0)?;
        rustix::fs::ftruncate(self.error, 0)
    }
}

/// Runs a hook to its end. A hook that configures no environment has `env`, or none at all; `prepare`
/// runs in the forked process before the hook does.
pub(crate) fn run(
    proof: SingleThreaded,
    hook: &Hook,
    streams: Streams<'_>,
    env: Option<&Vector>,
    prepare: &dyn Fn() -> Result<(), Fail>,
) -> Result<(), Fail> {
    rustix::fs::seek(streams.state, SeekFrom::Start(0))?;
    match clone(proof, &CloneArgs::default())? {
        Cloned::Child => become_hook(hook, streams, env, prepare),
        Cloned::Parent(_, pidfd) => wait(&pidfd, hook.timeout),
    }
}

fn become_hook(
    hook: &Hook,
    streams: Streams<'_>,
    env: Option<&Vector>,
    prepare: &dyn Fn() -> Result<(), Fail>,
) -> ! {
    let ready = dup_onto(streams.state, 0)
        .and_then(|()| dup_onto(streams.output, 1))
        .and_then(|()| dup_onto(streams.error, 2))
        .and_then(|()| {
            sys::close_range_cloexec(3, u32::MAX)
                .or_else(|e| if e == Errno::NOSYS { Ok(()) } else { Err(e) })
        })
        .is_ok()
        && prepare().is_ok();
    if ready {
        sys::restore_signals();
        let _ = rustix::process::setsid();
        let env = env
            .filter(|_| hook.env.strings().is_empty())
            .unwrap_or(&hook.env);
        exec::execve(&hook.path, &hook.args, env);
        let _ = rustix::io::write(streams.error, b"cannot execute ");
        let _ = rustix::io::write(streams.error, hook.path.to_bytes());
    }
    exit_now(127)
}

fn wait(pidfd: &OwnedFd, timeout: Option<u32>) -> Result<(), Fail> {
    let fail = |code: i32| Fail {
        errno: Errno::from_raw_os_error(code),
        detail: Detail::HookStatus,
    };
    if let Some(seconds) = timeout
        && !ends_within(pidfd, Duration::from_secs(u64::from(seconds)))?
    {
        let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        reap(pidfd)?;
        return Err(fail(Errno::TIMEDOUT.raw_os_error() + 2 * SIGNALLED));
    }
    let Some(status) = reap(pidfd)? else {
        return Err(Errno::CHILD.into());
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(fail(code)),
        (None, signal) => Err(fail(SIGNALLED + signal.unwrap_or(0))),
    }
}

fn reap(pidfd: &OwnedFd) -> Result<Option<WaitIdStatus>, Errno> {
    rustix::io::retry_on_intr(|| {
        rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
    })
}

/// Waits until the process is gone; false when the time is up.
pub(crate) fn ends_within(pidfd: &OwnedFd, time: Duration) -> Result<bool, Errno> {
    let deadline = std::time::Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
