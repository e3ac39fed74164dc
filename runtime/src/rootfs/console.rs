//! The container's terminal: a pseudo-terminal of its own devpts, its master sent to whoever shows
//! it, its slave the standard streams and /dev/console.
//!
//! The slave is opened from the master itself (TIOCGPTPEER), never by a name that could have been
//! exchanged (CVE-2025-52565).

use std::ffi::CStr;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pty::OpenptFlags;

use super::mount::{attach, clone_tree};
use super::resolve::{Links, Want};
use super::{Detail, During as _, Fail, Root};

/// Major numbers of pseudo-terminal slaves (UNIX98_PTY_SLAVE_MAJOR and the seven after it).
const SLAVE_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// Opens a new pseudo-terminal below the root; returns master and slave.
///
/// With `raw`, line feeds are not turned into carriage return and line feed.
pub(crate) fn open(
    root: &Root,
    size: Option<(u16, u16)>,
    uid: u32,
    raw: bool,
) -> Result<(OwnedFd, OwnedFd), Fail> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = root
        .open(c"/dev/pts/ptmx", flags, Links::Follow)
        .during(Detail::Open)?;
    let stat = rustix::fs::fstat(&master).during(Detail::Open)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || stat.st_rdev != rustix::fs::makedev(5, 2)
    {
        return Err(Fail {
            errno: Errno::NOTTY,
            detail: Detail::Mismatch,
        });
    }
    rustix::pty::unlockpt(&master).during(Detail::Open)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).during(Detail::Open)?;
    let stat = rustix::fs::fstat(&slave).during(Detail::Open)?;
    if !SLAVE_MAJORS.contains(&rustix::fs::major(stat.st_rdev)) {
        return Err(Fail {
            errno: Errno::NOTTY,
            detail: Detail::Mismatch,
        });
    }
    if raw {
        let mut modes = rustix::termios::tcgetattr(&slave)?;
        modes
            .output_modes
            .remove(rustix::termios::OutputModes::ONLCR);
        rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &modes)?;
    }
    if let Some((rows, columns)) = size {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&slave, size)?;
    }
    // The program's user owns its terminal; the group stays as devpts' gid= option has it.
    rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>).during(Detail::Owner)?;
    Ok((master, slave))
}

/// Puts the slave at /dev/console.
pub(crate) fn bind_console(root: &Root, slave: BorrowedFd<'_>) -> Result<(), Fail> {
    let (target, _) = root
        .ensure(c"/dev/console", Want::File, Links::Refuse)
        .during(Detail::Target)?;
    let tree = clone_tree(slave, c"", false).during(Detail::Source)?;
    attach(tree.as_fd(), target.as_fd()).during(Detail::Attach)
}

/// Sends the master, with `name` as the message, to a console socket.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    name: &CStr,
    master: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let text = [IoSlice::new(name.to_bytes())];
    rustix::net::sendmsg(socket, &text, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Gives standard streams that are not the program's user's to that user; also to the group, but for
/// devices: that of a terminal lets others write to it. The host's /dev/null becomes the container's:
/// a file of a mount that the container does not have cannot be checkpointed.
pub(crate) fn own_streams(uid: u32, gid: u32) -> Result<(), Errno> {
    let mut null = None;
    for number in 0..=2 {
        let Ok(stream) = crate::sys::process::borrow_inherited(number) else {
            continue;
        };
        let stat = rustix::fs::fstat(stream)?;
        if is_null(&stat) {
            // Opened only when it is needed: a filter may watch by now.
            if let Some(null) = null.get_or_insert_with(open_null) {
                crate::sys::process::dup_onto(null.as_fd(), number)?;
            }
            continue;
        }
        if stat.st_uid == uid {
            continue;
        }
        let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        let gid = (!device).then(|| Gid::from_raw(gid));
        match rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), gid) {
            // An id the user namespace does not know, or a file system that keeps no owners.
            Ok(())
            | Err(Errno::INVAL | Errno::PERM | Errno::ROFS | Errno::ACCESS | Errno::NOSYS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The container's /dev/null; what the container may have put there instead does not count. Opened
/// from inside the container's cgroup, so that no device is touched that the container may not.
fn open_null() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/dev/null", flags, rustix::fs::Mode::empty()).ok()?;
    rustix::fs::fstat(&file)
        .is_ok_and(|stat| is_null(&stat))
        .then_some(file)
}

fn is_null(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3)
}
