//! How `exec` gets into a container whose init still waits for `start`, without the right to trace it.
//!
//! `setns` by pidfd and `/proc/PID/ns` ask for the right to trace the process (ptrace(2), "Ptrace
//! access mode checking"), and until it executes the program the init is undumpable: that takes
//! CAP_SYS_PTRACE in the user namespace where rcrun was executed, which an ordinary user has not. So
//! an init made by such a caller opens its own namespaces while it still sees the host's /proc, keeps
//! the descriptors, and sends them to who connects to `start.sock`, which only the owner can.
//!
//! To become dumpable instead, as runc's init does in a new user namespace, would open it to whatever
//! else is in there: processes of an earlier `exec`, or of a pid namespace that was joined. They could
//! read the memory it shares with rcrun (environment and configuration of the host), take its
//! descriptors, write to the file it was executed from or have it do things (CVE-2016-9962,
//! CVE-2019-5736). To become so for a moment, when asked, would make that a race. The descriptors name
//! namespaces of the container, which its program is in anyhow, and nothing else of the host; they are
//! close-on-exec, and out of reach like everything else of an undumpable process (CVE-2024-21626).

use std::ffi::CStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{CapabilitySet, capabilities};

use super::wire::{Message, Tag, Wire};
use crate::state::Directory;

/// Kinds of namespaces and the links that name a process's own: the user namespace first, since the
/// rights to enter the others may come from it; the mount namespace last, since it takes away the
/// root.
const KINDS: [(u64, &CStr); 8] = [
    (libc::CLONE_NEWUSER as u64, c"self/ns/user"),
    (libc::CLONE_NEWPID as u64, c"self/ns/pid"),
    (libc::CLONE_NEWCGROUP as u64, c"self/ns/cgroup"),
    (libc::CLONE_NEWIPC as u64, c"self/ns/ipc"),
    (libc::CLONE_NEWNET as u64, c"self/ns/net"),
    (libc::CLONE_NEWUTS as u64, c"self/ns/uts"),
    (libc::CLONE_NEWTIME as u64, c"self/ns/time"),
    (libc::CLONE_NEWNS as u64, c"self/ns/mnt"),
];

/// Whether the calling process may trace an undumpable process that it made.
pub(crate) fn may_trace() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
}

/// The init's descriptors of its own namespaces.
#[derive(Debug, Default)]
pub(crate) struct Held([Option<OwnedFd>; KINDS.len()]);

impl Held {
    /// Opens those of `namespaces`. One that cannot be opened is none: `exec` says what it lacks.
    pub(crate) fn open(proc: BorrowedFd<'_>, namespaces: u64) -> Self {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Self(KINDS.map(|(kind, path)| {
            let wanted = namespaces & kind != 0;
            let open = || rustix::fs::openat(proc, path, flags, Mode::empty()).ok();
            wanted.then(open).flatten()
        }))
    }

    /// Their numbers; -1 where there is none.
    pub(crate) fn numbers(&self) -> [i32; KINDS.len()] {
        let number = |held: &OwnedFd| held.as_raw_fd();
        std::array::from_fn(|kind| self.0[kind].as_ref().map_or(-1, number))
    }

    /// Sends all to who asked.
    pub(crate) fn send(&self, wire: &Wire) {
        for ((kind, _), held) in KINDS.iter().zip(&self.0) {
            let Some(held) = held else { continue };
            let mut message = Message::new(Tag::Namespace);
            message.value = kind.cast_signed();
            if wire.send_with(&message, held.as_fd()).is_err() {
                return;
            }
        }
    }
}

/// Asks the init for its namespaces, in the order in which they are to be entered. None when it does
/// not wait any more, or was made by somebody with more rights.
pub(crate) fn ask(directory: &Directory) -> Vec<(u64, OwnedFd)> {
    let Ok(wire) = crate::operations::start::connect(directory).map(Wire::from_fd) else {
        return Vec::new();
    };
    let mut answers = Vec::new();
    if wire.send(&Message::new(Tag::Enter)).is_err() {
        return answers;
    }
    while let Ok(Some((message, Some(namespace)))) = wire.receive() {
        if message.tag == Tag::Namespace {
            answers.push((message.value.cast_unsigned(), namespace));
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_arrive_in_order() {
        let wanted = (libc::CLONE_NEWNS | libc::CLONE_NEWUSER | libc::CLONE_NEWUTS) as u64;
        let proc = crate::launch::parent::open_proc().unwrap();
        let held = Held::open(proc.as_fd(), wanted);
        assert_eq!(held.numbers().iter().filter(|fd| **fd >= 0).count(), 3);
        let (a, b) = Wire::pair().unwrap();
        held.send(&a);
        drop(a);
        for name in ["user", "uts", "mnt"] {
            let (message, fd) = b.receive().unwrap().unwrap();
            let (sent, own) = (
                rustix::fs::fstat(fd.unwrap()).unwrap(),
                rustix::fs::stat(format!("/proc/self/ns/{name}")).unwrap(),
            );
            assert_eq!(
                (sent.st_dev, sent.st_ino),
                (own.st_dev, own.st_ino),
                "{name}"
            );
            assert_eq!(message.tag, Tag::Namespace);
            assert!(wanted & message.value.cast_unsigned() != 0);
        }
        assert!(b.receive().unwrap().is_none());
    }
}
