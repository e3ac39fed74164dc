//! Owner, mode, extended attributes and times of files: how they are set and read.
//!
//! Order matters: changing the owner clears set-user-id bits and file capabilities, a mode replaces
//! the mask of an ACL, and everything changes times.
//!
//! Of the extended attributes, those describe an image: `user.*`, `trusted.*`, file capabilities
//! and POSIX ACLs. Labels and signatures of security modules are the host's policy and never taken
//! from an image or put into one; overlayfs's own (`trusted.overlay.*`, `user.overlay.*`) in an
//! image would redirect and hide files, and are dropped.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::tree::{proc_path, refer};
use crate::archive::name::show;
use crate::archive::{Attribute, Entry, Time};
use crate::{Context, Error, Result};

/// What a file has besides its content.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// The lower twelve mode bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time; access time is the same.
    pub mtime: Time,
    /// Extended attributes.
    pub extended: Vec<Attribute>,
}

impl From<Entry> for Attributes {
    fn from(entry: Entry) -> Self {
        let Entry {
            mode,
            uid,
            gid,
            mtime,
            attributes: extended,
            ..
        } = entry;
        Self {
            mode,
            uid,
            gid,
            mtime,
            extended,
        }
    }
}

/// What new files of this process are like.
#[derive(Debug, Clone, Copy)]
pub struct Fresh {
    /// Mode bits that the kernel takes away.
    pub umask: u32,
    /// Their owner and group, where those are certain and to be compared with.
    pub owner: Option<(u32, u32)>,
    /// Whether owners are to be set at all.
    pub chown: bool,
}

/// The process's file mode mask. It can only be read by changing it, which other threads would
/// notice, or from a file; if that is missing, nothing is assumed.
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
        .unwrap_or(0o7777)
}

/// Whether images have this attribute.
pub fn is_kept(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ if is_overlay(name) => false,
        _ => name.starts_with(b"user.") || name.starts_with(b"trusted."),
    }
}

/// Whether an attribute is overlayfs's own.
pub fn is_overlay(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Timestamps with this modification time.
fn timestamps(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

impl Fresh {
    fn needs_owner(&self, attributes: &Attributes) -> bool {
        self.chown && self.owner != Some((attributes.uid, attributes.gid))
    }

    /// Whether a file made with these mode bits does not have them yet.
    fn needs_mode(&self, mode: u32) -> bool {
        mode & 0o7000 != 0 || mode & self.umask != 0
    }
}

/// Completes a regular file that was just made with the mode's lower nine bits and written.
/// Counts attributes that could not be set in `skipped`.
pub fn complete_file(
    fd: BorrowedFd<'_>,
    attributes: &Attributes,
    fresh: Fresh,
    skipped: &mut u64,
) -> Result<()> {
    if fresh.needs_owner(attributes) {
        own(fd, attributes)?;
    }
    if fresh.needs_mode(attributes.mode) {
        set_mode(fd, attributes.mode)?;
    }
    finish(fd, attributes, fresh, skipped)
}

/// Sets everything of a directory, whatever it had.
pub fn complete_directory(
    fd: BorrowedFd<'_>,
    attributes: &Attributes,
    fresh: Fresh,
    skipped: &mut u64,
) -> Result<()> {
    if fresh.chown {
        own(fd, attributes)?;
    }
    set_mode(fd, attributes.mode)?;
    finish(fd, attributes, fresh, skipped)
}

fn own(fd: BorrowedFd<'_>, attributes: &Attributes) -> Result<()> {
    let (uid, gid) = (attributes.uid, attributes.gid);
    rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(|errno| not_owned(errno, uid, gid))
        .context(|| format!("fchown({uid}, {gid})"))
}

/// The kernel's answer for ids that a user namespace does not have says nothing of that.
fn not_owned(errno: Errno, uid: u32, gid: u32) -> Error {
    match errno {
        Errno::INVAL => {
            let text = format!("the user namespace has no user {uid} or no group {gid}");
            Error::unsupported(text).with_hint(
                "images take 65536 ids: /etc/subuid and /etc/subgid say how many there are",
            )
        }
        errno => errno.into(),
    }
}

fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    rustix::fs::fchmod(fd, Mode::from(mode)).context(|| format!("fchmod({mode:o})"))
}

fn finish(
    fd: BorrowedFd<'_>,
    attributes: &Attributes,
    fresh: Fresh,
    skipped: &mut u64,
) -> Result<()> {
    for (name, value) in &attributes.extended {
        if is_kept(name) {
            let set = rustix::fs::fsetxattr(fd, &**name, value, XattrFlags::empty());
            count(set, name, fresh, skipped)?;
        }
    }
    rustix::fs::futimens(fd, &timestamps(attributes.mtime)).context(|| "futimens")
}

/// A file system without attributes, or a user who may not set them, still gets the files.
/// Capabilities and ACLs, though, decide what a program may do: without privilege only.
fn count(set: rustix::io::Result<()>, name: &[u8], fresh: Fresh, skipped: &mut u64) -> Result<()> {
    let plain = name.starts_with(b"user.") || name.starts_with(b"trusted.");
    match set {
        Err(Errno::OPNOTSUPP | Errno::PERM) if plain || !fresh.chown => {
            *skipped += 1;
            Ok(())
        }
        other => other.context(|| format!("fsetxattr({})", show(name))),
    }
}

/// Completes a link, device or pipe that was just made.
pub fn complete_other(
    parent: BorrowedFd<'_>,
    name: &[u8],
    attributes: &Attributes,
    fresh: Fresh,
    is_link: bool,
    skipped: &mut u64,
) -> Result<()> {
    if fresh.needs_owner(attributes) {
        let (uid, gid) = (attributes.uid, attributes.gid);
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| not_owned(errno, uid, gid))
            .context(|| format!("fchownat({}, {uid}, {gid})", show(name)))?;
    }
    let mode = !is_link && fresh.needs_mode(attributes.mode);
    let extended = attributes.extended.iter().any(|(name, _)| is_kept(name));
    if mode || extended {
        // No call sets these by a name without following a link: refer to the file itself.
        let file = refer(parent, name)?;
        let path = proc_path(file.as_fd())?;
        if mode {
            let stat = rustix::fs::fstat(&file).context(|| "fstat")?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                return Err(Error::invalid(format!(
                    "{} was exchanged for a link",
                    show(name)
                )));
            }
            rustix::fs::chmod(&path, Mode::from(attributes.mode))
                .context(|| format!("chmod({}, {:o})", show(name), attributes.mode))?;
        }
        for (key, value) in attributes.extended.iter().filter(|(key, _)| is_kept(key)) {
            let set = rustix::fs::setxattr(&path, &**key, value, XattrFlags::empty());
            count(set, key, fresh, skipped)?;
        }
    }
    let times = timestamps(attributes.mtime);
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .context(|| format!("utimensat({})", show(name)))
}

/// All extended attributes of an open file or directory, sorted.
pub fn read_extended(fd: BorrowedFd<'_>) -> Result<Vec<Attribute>> {
    read_with(
        |list| rustix::fs::flistxattr(fd, list),
        |name, value| rustix::fs::fgetxattr(fd, name, value),
    )
}

/// All extended attributes of a file that cannot be opened.
pub fn read_extended_of(file: BorrowedFd<'_>) -> Result<Vec<Attribute>> {
    let path = proc_path(file)?;
    read_with(
        |list| rustix::fs::listxattr(&path, list),
        |name, value| rustix::fs::getxattr(&path, name, value),
    )
}

fn read_with(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<Vec<Attribute>> {
    // XATTR_LIST_MAX and XATTR_SIZE_MAX: larger ones do not exist. Most files have none.
    let small = &mut [0_u8; 1024][..];
    let mut large = Vec::new();
    let length = match list(small) {
        Err(Errno::RANGE) => {
            large.resize(1 << 16, 0);
            list(&mut large)
        }
        other => other,
    };
    let length = match length {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other.context(|| "cannot list extended attributes")?,
    };
    let names = if large.is_empty() {
        &small[..length]
    } else {
        &large[..length]
    };
    let mut value = vec![0; 1 << 16];
    let mut attributes: Vec<Attribute> = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        match get(name, &mut value) {
            Ok(length) => attributes.push((name.into(), value[..length].into())),
            // Gone meanwhile, or a list that mentions more than may be read.
            Err(Errno::NODATA) => {}
            Err(errno) => {
                return Err(errno).context(|| format!("cannot read attribute {}", show(name)));
            }
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// What a file has, with its extended attributes already read.
pub fn of_stat(stat: &Stat, mut extended: Vec<Attribute>) -> Attributes {
    extended.retain(|(name, _)| is_kept(name));
    Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        },
        extended,
    }
}
