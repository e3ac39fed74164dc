//! What the processes of a container hold, as /proc tells: descriptors, sockets, limits (proc_pid_fd(5),
//! proc_pid_limits(5)).
//!
//! Looking has bounds, since a container may have as many processes and descriptors as it likes: what is
//! beyond them is not counted. Processes come and go meanwhile, which is no error.

use std::os::fd::AsFd;

use rustix::fs::{CWD, Dir, Mode, OFlags};

/// Processes of a container that are looked at.
const MOST_PROCESSES: usize = 4096;
/// Descriptors of a container that are looked at.
const MOST_DESCRIPTORS: u64 = 100_000;
/// The longest target that can be that of a socket: `socket:[18446744073709551615]`.
const TARGET: usize = 32;

/// What they hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) descriptors: u64,
    pub(super) sockets: u64,
    /// Threads; 0 where they were not asked for.
    pub(super) threads: u64,
}

/// Looks at processes; counts their threads too if nothing else does.
pub(super) fn held(pids: &[i32], threads: bool) -> Held {
    let mut held = Held::default();
    for pid in pids.iter().take(MOST_PROCESSES) {
        // Whatever does not work here: the process has ended.
        let _ = descriptors(*pid, &mut held);
        if threads {
            held.threads += count_threads(*pid);
        }
    }
    held
}

fn descriptors(pid: i32, held: &mut Held) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, format!("/proc/{pid}/fd"), flags, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if held.descriptors >= MOST_DESCRIPTORS {
            break;
        }
        held.descriptors += 1;
        held.sockets += u64::from(is_socket(directory.as_fd(), entry.file_name()));
    }
    Ok(())
}

fn is_socket(directory: std::os::fd::BorrowedFd<'_>, name: &std::ffi::CStr) -> bool {
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); TARGET];
    let read = rustix::fs::readlinkat_raw(directory, name, &mut buffer);
    read.is_ok_and(|(target, _)| target.starts_with(b"socket:["))
}

fn count_threads(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    tasks.map_or(0, |tasks| u64::try_from(tasks.count()).unwrap_or(0))
}

/// The soft limit of open files.
pub(super) fn open_files(pid: i32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    soft(&limits, "Max open files")
}

/// `Max open files            1024                 524288               files`; none if it is `unlimited`.
fn soft(limits: &str, name: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_threads_are_counted() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        let kept: Vec<_> = (0..50)
            .map(|_| std::os::unix::net::UnixStream::pair().unwrap())
            .collect();
        let with = held(&[own], true);
        // Other tests open and close some meanwhile.
        assert!(
            with.sockets >= 100 && with.descriptors > with.sockets,
            "{with:?}"
        );
        assert!(with.threads >= 2, "{with:?}");
        assert_eq!(held(&[own], false).threads, 0);
        drop(kept);
        go.send(()).unwrap();
        thread.join().unwrap().unwrap();
        assert!(open_files(own).is_some_and(|limit| limit > 3));
    }

    #[test]
    fn who_is_gone_holds_nothing() {
        assert_eq!(held(&[i32::MAX, -1, 0], true), Held::default());
        assert_eq!(open_files(i32::MAX), None);
    }

    #[test]
    fn limits() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max file locks            unlimited            unlimited            locks     \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(soft(text, "Max open files"), Some(1024));
        assert_eq!(soft(text, "Max file locks"), None);
        assert_eq!(soft(text, "Max processes"), None);
    }
}
