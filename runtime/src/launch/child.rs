//! What the container's init and the process of `exec` have in common.
//!
//! Runs after `clone3` in a copy of the single-threaded parent: nothing in here allocates, logs or
//! takes a lock, and the only ways out are `execve` and `_exit`. What fails is sent to the parent as
//! a number ([`super::wire::Message`]).

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;

use super::steps::Step;
use super::wire::{Message, Tag, Wire};
use crate::rootfs::{Detail, During as _, Fail};
use crate::seccomp::Filter;
use crate::sys::process::SingleThreaded;

/// The first descriptor that is no standard stream.
const FIRST: u32 = 3;

/// Descriptors and facts that the parent laid out for its child.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// Held by the child as well: it has one thread, like its parent.
    pub proof: SingleThreaded,
    /// The host's /proc, verified.
    pub proc: BorrowedFd<'a>,
    /// `tasks` files of v1 cgroups to join.
    pub tasks: &'a [OwnedFd],
    /// Where the terminal's master goes.
    pub console: Option<BorrowedFd<'a>>,
    /// The master stays with our own parent, which wants output as the program wrote it.
    pub raw_console: bool,
    /// Descriptors above stderr that stay open, in order.
    pub preserved: &'a [RawFd],
    /// Session keyring to join.
    pub keyring: Option<&'a CStr>,
    /// The filter, loaded last.
    pub seccomp: Option<&'a Filter>,
}

/// A child process on its way: where it is and how to say what went wrong.
#[derive(Debug)]
pub(crate) struct Progress {
    /// To the parent; after `start` connected, to that process.
    pub wire: Wire,
    /// Which of several objects a step is at.
    pub index: u32,
}

impl Progress {
    /// Tells the other side what failed and ends the process.
    pub(crate) fn fail(&self, step: Step, fail: Fail, text: &[u8]) -> ! {
        let mut message = Message::new(Tag::Failed);
        message.step = step;
        message.detail = fail.detail;
        message.errno = fail.errno.raw_os_error();
        message.index = self.index;
        message.set_text(text);
        let _ = self.wire.send(&message);
        crate::sys::process::exit_now(1)
    }
}

impl Setup<'_> {
    /// Moves the calling process into its v1 cgroups. Writing `0`, that is oneself, to `tasks` takes
    /// no lock that waits for an RCU grace period, which writing a pid to cgroup.procs does.
    pub(crate) fn join_cgroups(&self) -> Result<(), Fail> {
        for tasks in self.tasks {
            rustix::io::retry_on_intr(|| rustix::io::write(tasks, b"0")).during(Detail::Write)?;
        }
        Ok(())
    }

    /// All processors of the cgroup, whatever rcrun itself was confined to. Where that is not allowed
    /// the confinement stays.
    pub(crate) fn reset_affinity() {
        let _ = crate::sys::sched::set_affinity(0, &[u64::MAX; 128]);
    }

    /// While the init waits, perhaps for days, it holds nothing but what it needs: `keep` and the
    /// preserved descriptors.
    pub(crate) fn close_all_but(&self, keep: &[RawFd]) -> Result<(), Fail> {
        let mut first = FIRST;
        let next = |first| {
            let kept = keep.iter().chain(self.preserved);
            let kept = kept.filter_map(|fd| u32::try_from(*fd).ok());
            kept.filter(|fd| *fd >= first).min()
        };
        while let Some(fd) = next(first) {
            if fd > first {
                close_range(first, fd - 1)?;
            }
            first = fd + 1;
        }
        close_range(first, u32::MAX)
    }

    /// Nobody may trace this process, or reach its descriptors through /proc, until it executes the
    /// program (CVE-2016-9962).
    pub(crate) fn hide(&self) -> Result<(), Fail> {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(())
    }

    /// Undoes [`Setup::hide`], for a moment: the process's files in /proc are its own again.
    pub(crate) fn show(&self) -> Result<(), Fail> {
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        Ok(())
    }

    /// Joins the container's session keyring, which gets the program's SELinux label: the program may
    /// not be allowed to use one with rcrun's. Kernels without keyrings have none to protect.
    pub(crate) fn join_keyring(&self, label: Option<&CStr>) -> Result<(), Fail> {
        let Some(name) = self.keyring else {
            return Ok(());
        };
        let Some(label) = label else {
            return Self::join_keyring_named(name);
        };
        let attribute = c"thread-self/attr/keycreate";
        self.write_proc(attribute, label.to_bytes())?;
        Self::join_keyring_named(name)?;
        // Keys made from here on get the label of who makes them.
        self.write_proc(attribute, b"\n")
    }

    fn join_keyring_named(name: &CStr) -> Result<(), Fail> {
        match crate::sys::keyring::join_session(name) {
            Ok(serial) => match crate::sys::keyring::allow_user_search(serial) {
                Err(Errno::ACCESS | Errno::PERM) | Ok(()) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            Err(Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes a file below the host's /proc, never through a link or into another file system.
    pub(crate) fn write_proc(&self, path: &CStr, value: &[u8]) -> Result<(), Fail> {
        let file = self.open_proc(path).during(Detail::Open)?;
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, value));
        match written.during(Detail::Write)? {
            length if length == value.len() => Ok(()),
            _ => Err(Fail {
                errno: Errno::INVAL,
                detail: Detail::Write,
            }),
        }
    }

    fn open_proc(&self, path: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(self.proc, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS) => rustix::fs::openat(self.proc, path, flags, Mode::empty()),
            answer => answer,
        }
    }

    /// Only the standard streams and the preserved descriptors survive `execve`.
    pub(crate) fn close_descriptors(&self) -> Result<(), Fail> {
        match self.close_between() {
            Err(Errno::NOSYS | Errno::INVAL) => self.close_one_by_one()?,
            answer => answer?,
        }
        Ok(())
    }

    fn close_between(&self) -> Result<(), Errno> {
        let mut first = FIRST;
        for fd in self.preserved {
            let fd = u32::try_from(*fd).map_err(|_| Errno::BADF)?;
            if fd > first {
                crate::sys::process::close_range_cloexec(first, fd - 1)?;
            }
            first = fd + 1;
        }
        crate::sys::process::close_range_cloexec(first, u32::MAX)
    }

    fn close_one_by_one(&self) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(self.proc, c"self/fd", flags, Mode::empty())?;
        let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 2048];
        let mut entries = rustix::fs::RawDir::new(directory.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let name = entry?.file_name().to_bytes().to_owned_number();
            let fd = match name.filter(|fd| *fd >= FIRST) {
                Some(fd) => i32::try_from(fd).map_err(|_| Errno::BADF)?,
                None => continue,
            };
            if !self.preserved.contains(&fd) {
                crate::sys::process::set_cloexec(fd, true)?;
            }
        }
        Ok(())
    }
}

fn close_range(first: u32, last: u32) -> Result<(), Fail> {
    match crate::sys::process::close_range(first, last) {
        // Before 5.9: they are closed by execve at the latest.
        Err(Errno::NOSYS) => Ok(()),
        answer => Ok(answer?),
    }
}

trait Number {
    fn to_owned_number(&self) -> Option<u32>;
}

impl Number for [u8] {
    fn to_owned_number(&self) -> Option<u32> {
        let mut number = 0u32;
        for digit in self {
            let digit = (*digit as char).to_digit(10)?;
            number = number.checked_mul(10)?.checked_add(digit)?;
        }
        (!self.is_empty()).then_some(number)
    }
}
