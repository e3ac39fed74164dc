//! Images, looked at before criu does: the filters of system calls and the mounts that they ask for.
//!
//! An image is two magic numbers, then messages with their lengths before them (criu, "Images"; the
//! messages are those of its images/seccomp.proto and images/mnt.proto).

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::refused;
use crate::checkpoint::rpc::wire::{Value, fields, find};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::seccomp;

/// The longest image that is looked at.
const LONGEST: u64 = 16 << 20;
/// Both magic numbers.
const MAGIC: usize = 8;
const SECCOMP: &str = "seccomp.img";
/// What the image of mounts is called, before the number of its namespace.
const MOUNTS: &str = "mountpoints-";
const EXTENSION: &str = ".img";
/// The field of a mount that says where it is.
const MOUNT_POINT: u64 = 7;

/// What of the images can be compared with the configuration before anything is made of them. Says whether
/// system calls are filtered.
pub(in super::super) fn images(
    spec: &Spec,
    places: &HashSet<PathBuf>,
    directory: BorrowedFd<'_>,
) -> Result<bool> {
    let profile = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    let filter = profile.map(seccomp::compile).transpose()?.flatten();
    if let Some(filter) = &filter {
        let image = read(directory, SECCOMP)?;
        let missing = || refused("it was not restricted in its system calls".to_owned());
        let program = bytes_of(filter);
        begins_with(&image.ok_or_else(missing)?, &program)?;
    }
    let names = names(directory)?;
    let of_mounts = |name: &&Vec<u8>| {
        name.starts_with(MOUNTS.as_bytes()) && name.ends_with(EXTENSION.as_bytes())
    };
    let tables: Vec<_> = names.iter().filter(of_mounts).collect();
    if tables.len() > 1 {
        return Err(refused("it had mount namespaces within its own".to_owned()));
    }
    for name in tables {
        let name = OsStr::from_bytes(name).to_string_lossy().into_owned();
        mounts(&read(directory, &name)?.unwrap_or_default(), places)?;
    }
    Ok(filter.is_some())
}

/// All programs that were loaded first are this one. What was loaded later restricts further.
fn begins_with(image: &[u8], program: &[u8]) -> Result<()> {
    let mut first = 0;
    for message in messages(image)? {
        for field in fields(message) {
            let (1, filter) = field? else { continue };
            if find(filter, 2)?.is_some() {
                continue;
            }
            first += 1;
            if find(filter, 1)?.map(Value::bytes) != Some(program) {
                let text = "its system calls were restricted in another way";
                return Err(refused(text.to_owned()));
            }
        }
    }
    match first {
        0 => Err(refused(
            "it was not restricted in its system calls".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Nothing is mounted where the configuration does not mount.
fn mounts(image: &[u8], places: &HashSet<PathBuf>) -> Result<()> {
    for message in messages(image)? {
        let mut place = None;
        for field in fields(message) {
            if let (MOUNT_POINT, value) = field? {
                place = Some(value.text());
            }
        }
        let place = place.ok_or_else(|| damaged("has a mount without a place"))?;
        let known = plain(Path::new(&place)).is_some_and(|place| places.contains(&place));
        if !known {
            return Err(refused(format!("it had a mount at {place:?}")));
        }
    }
    Ok(())
}

/// Below the root; none: the path is not plain.
fn plain(place: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::from("/");
    for part in place.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

fn bytes_of(filter: &seccomp::Filter) -> Vec<u8> {
    let one = |i: &crate::sys::seccomp::SockFilter| {
        let mut bytes = Vec::with_capacity(8);
        bytes.extend(i.code.to_ne_bytes());
        bytes.extend([i.jt, i.jf]);
        bytes.extend(i.k.to_ne_bytes());
        bytes
    };
    filter.program.iter().flat_map(one).collect()
}

fn damaged(what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("an image of the checkpoint {what}"),
    )
}

fn messages(image: &[u8]) -> Result<Vec<&[u8]>> {
    let mut rest = image.get(MAGIC..).ok_or_else(|| damaged("is too short"))?;
    let mut all = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (message, behind) = behind
            .split_at_checked(length)
            .ok_or_else(|| damaged("ends within a message"))?;
        all.push(message);
        rest = behind;
    }
    match rest {
        [] => Ok(all),
        _ => Err(damaged("ends within a length")),
    }
}

fn read(directory: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    let failed = || format!("cannot read {name} of the checkpoint");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.context(failed)?,
    };
    let stat = rustix::fs::fstat(&file).context(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(damaged("is not a file")).context(failed);
    }
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(file).take(LONGEST + 1);
    file.read_to_end(&mut bytes).context(failed)?;
    match bytes.len() as u64 > LONGEST {
        true => Err(damaged(&format!("is longer than {LONGEST} bytes"))).context(failed),
        false => Ok(Some(bytes)),
    }
}

fn names(directory: BorrowedFd<'_>) -> Result<BTreeSet<Vec<u8>>> {
    let failed = || "cannot list the images of the checkpoint";
    let mut all = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(directory).context(failed)? {
        let entry = entry.context(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        all.insert(name.as_bytes().to_vec());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::rpc::wire::Encoder;

    fn image(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut image = vec![0; MAGIC];
        for message in messages {
            image.extend(u32::try_from(message.len()).unwrap().to_le_bytes());
            image.extend(message);
        }
        image
    }

    fn filters(all: &[(&[u8], Option<u64>)]) -> Vec<u8> {
        let mut entry = Encoder::default();
        for (program, previous) in all {
            let mut filter = Encoder::default();
            filter.bytes(1, program);
            if let Some(previous) = previous {
                filter.number(2, *previous);
            }
            entry.bytes(1, &filter.0);
        }
        image(&[entry.0])
    }

    #[test]
    fn what_was_loaded_first_is_the_filter_of_the_request() {
        for (all, good) in [
            (&[(&b"ours"[..], None)][..], true),
            (&[(b"ours", None), (b"more", Some(0))], true),
            (&[], false),
            (&[(b"all", None)], false),
            (&[(b"all", None), (b"ours", Some(0))], false),
            (&[(b"ours", None), (b"all", None)], false),
        ] {
            assert_eq!(begins_with(&filters(all), b"ours").is_ok(), good, "{all:?}");
        }
        let whole = filters(&[(b"ours", None)]);
        for end in 0..whole.len() {
            assert!(begins_with(&whole[..end], b"ours").is_err(), "{end}");
        }
    }

    #[test]
    fn mounts_are_where_the_configuration_has_them() {
        let places = ["/", "/proc"].map(PathBuf::from).into();
        let of = |places: &[&str]| -> Vec<u8> {
            let one = |place: &&str| {
                let mut mount = Encoder::default();
                mount.bytes(MOUNT_POINT, place.as_bytes());
                mount.0
            };
            image(&places.iter().map(one).collect::<Vec<_>>())
        };
        for (all, good) in [
            (&["/", "/proc"][..], true),
            (&["./", "./proc"], true),
            (&["/", "/host"], false),
            (&["/", "/proc/../host"], false),
            (&["/proc/sys"], false),
            (&["/proc\0"], false),
        ] {
            assert_eq!(mounts(&of(all), &places).is_ok(), good, "{all:?}");
        }
        assert!(mounts(&image(&[Vec::new()]), &places).is_err());
        assert!(mounts(&[0; 3], &places).is_err());
    }
}
