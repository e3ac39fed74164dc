//! Which mounts are ours, as the kernel says: tables of mounts (proc_pid_mountinfo(5)).
//!
//! A mount's source is [`SOURCE`], with a colon and the snapshot's name behind it where it is one of
//! a snapshot. So nothing has to be written down about mounts, and what is written nowhere is right
//! after any crash.

use std::collections::HashSet;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::owner::NOBODY;
use crate::lease::SnapshotId;
use crate::{Context, Result};

/// What the source of such mounts is, or begins with.
pub const SOURCE: &str = "rcrun";

/// A mount at a place that somebody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The snapshot that it shows, if it is one.
    pub id: Option<SnapshotId>,
    /// Where, as seen from the root directory of the process whose table it is in.
    pub path: PathBuf,
    /// Nothing can be changed through it.
    pub read_only: bool,
}

/// Those of this process's mount namespace, in the order in which they were mounted.
pub fn mounts_here() -> Result<Vec<Mounted>> {
    Ok(read_table()?.split(is_newline).filter_map(ours).collect())
}

/// What is mounted in the mount namespaces of all processes that can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Everywhere {
    /// All of them, those of this process's mount namespace first.
    pub mounts: Vec<Mounted>,
    /// The mount namespaces that were looked at: their numbers (inodes).
    pub namespaces: HashSet<u64>,
    /// Some process would not tell us about its mount namespace.
    pub partial: bool,
}

/// The number of this process's mount namespace.
pub fn mount_namespace() -> Result<u64> {
    let link = rustix::fs::stat("/proc/thread-self/ns/mnt");
    Ok(link.context(|| "cannot tell the mount namespace")?.st_ino)
}

/// Looks at all mount namespaces that have a process which can be seen.
pub fn mounts_everywhere() -> Result<Everywhere> {
    let mut found = Everywhere {
        mounts: mounts_here()?,
        namespaces: HashSet::from([mount_namespace()?]),
        partial: false,
    };
    for entry in std::fs::read_dir("/proc").context(|| "cannot list processes")? {
        let entry = entry.context(|| "cannot list processes")?;
        let pid = entry.file_name();
        if let Some(pid) = pid.to_str().filter(|pid| pid.parse::<u32>().is_ok()) {
            // It ended meanwhile, or is in the rights of somebody else.
            let looked = found.look(pid);
            found.partial |= looked.is_err_and(|error| !has_ended(&error) && !is_foreign(pid));
        }
    }
    Ok(found)
}

impl Everywhere {
    /// The first mount of a snapshot for which something holds.
    pub fn find(&self, id: &SnapshotId, holds: impl Fn(&Mounted) -> bool) -> Option<&Mounted> {
        let mut mounts = self.mounts.iter();
        mounts.find(|one| one.id.as_ref() == Some(id) && holds(one))
    }

    fn look(&mut self, pid: &str) -> std::io::Result<()> {
        let namespace = rustix::fs::stat(format!("/proc/{pid}/ns/mnt"))?.st_ino;
        if !self.namespaces.contains(&namespace) {
            let table = std::fs::read(format!("/proc/{pid}/mountinfo"))?;
            let found = table.split(is_newline).filter_map(ours);
            self.mounts.extend(found);
            self.namespaces.insert(namespace);
        }
        Ok(())
    }
}

/// Whether a process that will not be looked at belongs to a user that this user namespace does not have:
/// then it has never been where this user mounts something.
fn is_foreign(pid: &str) -> bool {
    rustix::fs::stat(format!("/proc/{pid}")).is_ok_and(|stat| stat.st_uid == NOBODY)
}

fn has_ended(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::SRCH | Errno::INVAL))
}

/// Whether the mount of this number, in this mount namespace, is ours.
pub(super) fn is_ours(mount: u64) -> Result<bool> {
    let id = mount.to_string();
    let table = read_table()?;
    let mut lines = table.split(is_newline).filter_map(Line::read);
    Ok(lines.any(|line| line.id == id.as_bytes() && line.is_ours()))
}

fn read_table() -> Result<Vec<u8>> {
    std::fs::read("/proc/thread-self/mountinfo").context(|| "cannot read /proc/self/mountinfo")
}

fn is_newline(byte: &u8) -> bool {
    *byte == b'\n'
}

fn ours(line: &[u8]) -> Option<Mounted> {
    let line = Line::read(line).filter(Line::is_ours)?;
    let name = line.source.strip_prefix(SOURCE.as_bytes())?;
    let name = std::str::from_utf8(name).ok()?.strip_prefix(':');
    Some(Mounted {
        id: name.and_then(|name| name.parse().ok()),
        path: PathBuf::from(std::ffi::OsString::from_vec(unescaped(line.path))),
        read_only: line
            .options
            .split(|byte| *byte == b',')
            .any(|one| one == b"ro"),
    })
}

/// A path as the table writes it: blanks, newlines and backslashes are three octal digits behind a backslash.
pub fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        let number = match rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'))
            }
            _ => None,
        };
        plain.push(number.unwrap_or(*first));
        text = if number.is_some() { &rest[3..] } else { rest };
    }
    plain
}

/// What matters in a line.
struct Line<'a> {
    id: &'a [u8],
    path: &'a [u8],
    options: &'a [u8],
    kind: &'a [u8],
    source: &'a [u8],
}

impl<'a> Line<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = fields.next()?;
        let (path, options) = (fields.nth(3)?, fields.next()?);
        // A number of optional fields, which end with this.
        fields.find(|field| *field == b"-")?;
        let (kind, source) = (fields.next()?, fields.next()?);
        Some(Self {
            id,
            path,
            options,
            kind,
            source,
        })
    }

    fn is_ours(&self) -> bool {
        let rest = self.source.strip_prefix(SOURCE.as_bytes());
        matches!(self.kind, b"overlay" | b"tmpfs")
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let read = |line: &str| ours(line.as_bytes());
        let overlay =
            "50 1 0:40 / /a\\040b rw,relatime shared:5 master:2 - overlay rcrun:c.1 rw,x=y";
        assert_eq!(
            read(overlay),
            Some(Mounted {
                id: Some("c.1".parse().unwrap()),
                path: "/a b".into(),
                read_only: false,
            })
        );
        assert_eq!(Line::read(overlay.as_bytes()).unwrap().id, b"50");
        let tmpfs = read("51 1 0:41 / /m nosuid,ro - tmpfs rcrun ro").unwrap();
        assert_eq!((tmpfs.id, tmpfs.read_only), (None, true));
        for line in [
            "",
            "52 1 0:41 / /m ro - overlay",
            "52 1 0:41 / /m ro - overlay overlay rw",
            "52 1 0:41 / /m ro - overlay rcrunner rw",
            "52 1 0:41 / /rcrun ro - tmpfs tmpfs rw,rcrun",
            "52 1 0:41 / /m ro - fuse rcrun rw",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn paths_are_unescaped() {
        for (escaped, plain) in [
            ("/a", "/a"),
            ("/a\\040b\\011\\012\\134", "/a b\t\n\\"),
            ("/a\\04", "/a\\04"),
            ("/a\\", "/a\\"),
            ("/a\\999", "/a\\999"),
        ] {
            assert_eq!(unescaped(escaped.as_bytes()), plain.as_bytes(), "{escaped}");
        }
    }
}
