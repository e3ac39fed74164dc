//! Which mounts are ours, as the kernel says: tables of mounts (proc_pid_mountinfo(5)).
//!
//! A mount's source is [`SOURCE`], with a colon and the snapshot's name behind it where it is one of
//! a snapshot. So nothing has to be written down about mounts, and what is written nowhere is right
//! after any crash.

use std::collections::HashSet;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::lease::SnapshotId;
use crate::{Context, Error, Result};

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

/// Those of all mount namespaces that have a process which can be seen.
pub fn mounts_everywhere() -> Result<Vec<Mounted>> {
    let mut found = mounts_here()?;
    let own = rustix::fs::readlink("/proc/thread-self/ns/mnt", Vec::new())
        .context(|| "cannot tell the mount namespace")?;
    let mut seen = HashSet::from([own.into_bytes()]);
    for entry in std::fs::read_dir("/proc").context(|| "cannot list processes")? {
        let entry = entry.context(|| "cannot list processes")?;
        let pid = entry.file_name();
        let Some(pid) = pid.to_str().filter(|pid| pid.parse::<u32>().is_ok()) else {
            continue;
        };
        let namespace = match rustix::fs::readlink(format!("/proc/{pid}/ns/mnt"), Vec::new()) {
            Ok(link) => link.into_bytes(),
            // It has ended.
            Err(Errno::NOENT | Errno::SRCH) => continue,
            Err(errno) => return Err(unseen(errno.into(), pid)),
        };
        if seen.contains(&namespace) {
            continue;
        }
        match std::fs::read(format!("/proc/{pid}/mountinfo")) {
            Ok(table) => {
                found.extend(table.split(is_newline).filter_map(ours));
                seen.insert(namespace);
            }
            // The same, in the end without any namespace.
            Err(error) if has_ended(&error) => {}
            Err(error) => return Err(unseen(error.into(), pid)),
        }
    }
    Ok(found)
}

fn has_ended(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::SRCH | Errno::INVAL))
}

fn unseen(error: Error, pid: &str) -> Error {
    error.context(format!("cannot tell what is mounted for process {pid}"))
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

/// Blanks, newlines and backslashes are three octal digits behind a backslash.
fn unescaped(mut text: &[u8]) -> Vec<u8> {
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
