//! A tree, as an archive. Whoever owns the tree may change it at the same time: each file is opened by
//! name once, without following a link, and what is asked afterwards is asked of the descriptor.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rcrun_overlay::archive::{Entry, Kind, Writer};
use rcrun_overlay::layer::attributes::{of_stat, read_extended_of};
use rcrun_overlay::layer::tree::{names, readable as readable_directory};
use rcrun_runtime::error::{Context, Error, Result};
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::containers::root::readable;

/// How deep a tree may be: each level is an open directory.
const DEPTH: usize = 500;
/// Kernel file systems (linux/magic.h), whose files are no data: proc, sysfs, cgroup, cgroup2, devpts,
/// mqueue, debugfs, tracefs, securityfs, bpf.
const KERNELS: [i64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
];

/// How a tree is packed.
pub(crate) struct Packing<'a> {
    /// The owner or group to write for the one that is found.
    pub(crate) id: &'a (dyn Fn(u32) -> u32 + Sync),
}

impl std::fmt::Debug for Packing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packing").finish_non_exhaustive()
    }
}

struct Level {
    path: Vec<u8>,
    directory: OwnedFd,
    device: u64,
    /// Last first.
    names: Vec<Vec<u8>>,
}

/// Packs what an O_PATH descriptor names, under this path (the empty one is the archive's root).
pub(crate) fn pack<W: Write>(
    source: BorrowedFd<'_>,
    path: &[u8],
    packing: &Packing<'_>,
    sink: W,
) -> Result<W> {
    let mut writer = Writer::new(sink);
    let mut links = HashMap::new();
    let mut append = |file: BorrowedFd<'_>, path: &[u8], device: Option<u64>| {
        append(&mut writer, &mut links, file, path, device, packing)
            .context(|| format!("cannot copy {:?}", String::from_utf8_lossy(path)))
    };
    let mut levels: Vec<Level> = append(source, path, None)?.into_iter().collect();
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        let path = match level.path.is_empty() {
            true => name.clone(),
            false => [level.path.as_slice(), b"/", &name].concat(),
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&level.directory, &*name, flags, Mode::empty()) {
            // Removed since the directory was read.
            Err(rustix::io::Errno::NOENT) => continue,
            other => {
                other.context(|| format!("cannot open {:?}", String::from_utf8_lossy(&path)))?
            }
        };
        let device = level.device;
        if let Some(next) = append(file.as_fd(), &path, Some(device))? {
            if levels.len() >= DEPTH {
                let text = format!("the tree is deeper than {DEPTH} directories");
                return Err(Error::invalid(text));
            }
            levels.push(next);
        }
    }
    writer.finish()
}

/// Appends one file; a directory is to be entered then.
fn append<W: Write>(
    writer: &mut Writer<W>,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    file: BorrowedFd<'_>,
    path: &[u8],
    device: Option<u64>,
    packing: &Packing<'_>,
) -> Result<Option<Level>> {
    let stat = rustix::fs::fstat(file)?;
    let attributes = of_stat(&stat, read_extended_of(file)?);
    let mut entry = Entry {
        path: path.to_vec(),
        kind: Kind::Regular,
        mode: attributes.mode,
        uid: (packing.id)(stat.st_uid),
        gid: (packing.id)(stat.st_gid),
        mtime: attributes.mtime,
        size: 0,
        map: None,
        attributes: attributes.extended,
    };
    let node = |stat: &Stat| {
        (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        )
    };
    entry.kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(file, c"", Vec::new())?;
            Kind::Symlink(target.into_bytes().into())
        }
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::Character(node(&stat).0, node(&stat).1),
        FileType::BlockDevice => Kind::Block(node(&stat).0, node(&stat).1),
        FileType::RegularFile => Kind::Regular,
        // A socket is an address, not a file.
        _ => return Ok(None),
    };
    if entry.kind == Kind::Directory {
        writer.append(&entry, &mut std::io::empty())?;
        let entered = enter(file, path, stat.st_dev, device);
        return entered;
    }
    if stat.st_nlink > 1 {
        match links.entry((stat.st_dev, stat.st_ino)) {
            std::collections::hash_map::Entry::Occupied(first) => {
                entry.kind = Kind::Hardlink(first.get().as_slice().into());
            }
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(path.to_vec());
            }
        }
    }
    if entry.kind != Kind::Regular {
        writer.append(&entry, &mut std::io::empty())?;
        return Ok(None);
    }
    if let Some(data) = readable(file)? {
        entry.size = u64::try_from(rustix::fs::fstat(&data)?.st_size).unwrap_or(0);
        writer.append(&entry, &mut std::fs::File::from(data))?;
    }
    Ok(None)
}

/// Opens a directory to walk through it, unless the kernel makes its files up.
fn enter(
    file: BorrowedFd<'_>,
    path: &[u8],
    device: u64,
    parent: Option<u64>,
) -> Result<Option<Level>> {
    if parent.is_some_and(|parent| parent != device)
        && KERNELS.contains(&rustix::fs::fstatfs(file)?.f_type)
    {
        return Ok(None);
    }
    let directory = readable_directory(file)?;
    let mut names = names(&directory)?;
    names.reverse();
    Ok(Some(Level {
        path: path.to_vec(),
        directory,
        device,
        names,
    }))
}
