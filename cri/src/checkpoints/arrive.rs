//! Archives of checkpoints, read: anybody's, from a file or from the layers of an image. What is wanted of one
//! is copied, under names that are known to be plain; everything else is passed over.

use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rcrun_overlay::archive::name::show;
use rcrun_overlay::archive::{Kind, Reader, from_io};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;

use super::capture::Data;
use super::documents::{self, Base};
use super::{CONFIG, DELETED, IMAGES, LOG, ROOTFS};
use crate::{Context, Error, Result};

/// Bytes of `config.dump`.
const CONFIG_MOST: u64 = 1 << 20;
/// Bytes of `deleted.files`.
const DELETED_MOST: u64 = 16 << 20;
/// Bytes of a log that goes on; a longer one is left behind.
const LOG_MOST: u64 = 64 << 20;
/// Images of one checkpoint: a few for each process.
const IMAGES_MOST: usize = 200_000;
/// Entries of an archive.
const ENTRIES: u64 = 1_000_000;
/// Bytes of a name of an image.
const NAME_MOST: usize = 128;
/// Bytes of the buffer before a file.
const BUFFER: usize = 1 << 20;
/// Names of streams, beside the images.
const DESCRIPTORS: &str = "descriptors.json";
/// The log, as CRI-O calls it.
const LOG_OF_CRIO: &str = "io.kubernetes.cri-o.LogPath";

/// Where a checkpoint comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A file.
    Archive(File),
    /// The directory of an image.
    Tree(OwnedFd),
}

/// What has arrived, in the directory that it was unpacked into.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// What the container had changed of its image.
    pub(super) changes: Option<File>,
    /// What it had deleted of it.
    pub(super) deleted: Vec<Vec<u8>>,
    images: usize,
    has_log: bool,
}

/// What a name in an archive stands for. Pure.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Image(&'a str),
    Changes,
    Deleted,
    Log,
    /// Nothing that is wanted.
    Other,
}

fn part(path: &[u8]) -> std::result::Result<Part<'_>, &'static str> {
    let Ok(path) = std::str::from_utf8(path) else {
        return Ok(Part::Other);
    };
    let Some(name) = path
        .strip_prefix(IMAGES)
        .and_then(|rest| rest.strip_prefix('/'))
    else {
        return Ok(match path {
            ROOTFS => Part::Changes,
            DELETED => Part::Deleted,
            LOG | LOG_OF_CRIO => Part::Log,
            _ => Part::Other,
        });
    };
    if !(name.ends_with(".img") || name == DESCRIPTORS) {
        return Ok(Part::Other);
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    match name.len() <= NAME_MOST && !name.starts_with('.') && name.bytes().all(plain) {
        true => Ok(Part::Image(name)),
        false => Err("no image of criu has such a name"),
    }
}

fn refuse<T>(path: &[u8], why: &str) -> Result<T> {
    Err(Error::invalid(format!(
        "refuse {} of the checkpoint: {why}",
        show(path)
    )))
}

impl Origin {
    /// An archive on this node.
    pub(super) fn open(path: &str) -> Result<Self> {
        let failed = || format!("cannot open checkpoint {path:?}");
        // Without NONBLOCK a fifo would be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::LOOP) => {
                return Err(Error::invalid("it is a symbolic link")).context(failed);
            }
            other => other.context(failed)?,
        };
        let stat = rustix::fs::fstat(&file).context(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Self::Archive(file.into())),
            _ => Err(Error::invalid("it is not a regular file")).context(failed),
        }
    }

    /// Which image is below.
    pub(super) fn base(&self) -> Result<Base> {
        let text = match self {
            Self::Archive(file) => {
                let mut reader = reader(file)?;
                let mut text = None;
                while text.is_none() {
                    let Some(entry) = reader.next_entry()? else {
                        break;
                    };
                    if entry.path == CONFIG.as_bytes() {
                        check_entry(&entry, length(file)?)?;
                        text = Some(limited(&mut Data(&mut reader), CONFIG_MOST, CONFIG)?);
                    }
                }
                text
            }
            Self::Tree(tree) => match plain_file(tree, Path::new(CONFIG))? {
                Some((mut file, _)) => Some(limited(&mut file, CONFIG_MOST, CONFIG)?),
                None => None,
            },
        };
        let missing = || Error::invalid(format!("it is no checkpoint: it has no {CONFIG}"));
        documents::base(&text.ok_or_else(missing)?)
    }

    /// Copies what is wanted into an empty directory of ours.
    pub(super) fn unpack(&self, into: &OwnedFd) -> Result<Arrived> {
        rustix::fs::mkdirat(into, IMAGES, Mode::from_raw_mode(0o700))
            .context(|| format!("cannot make {IMAGES}"))?;
        let images = rcrun_overlay::durable::open_directory(into, IMAGES)?;
        let mut arriving = Arriving {
            into,
            images,
            arrived: Arrived::default(),
        };
        match self {
            Self::Archive(file) => arriving.archive(file)?,
            Self::Tree(tree) => arriving.tree(tree)?,
        }
        match arriving.arrived.images {
            0 => Err(Error::invalid(
                "it is no checkpoint: it has no images of criu",
            )),
            _ => Ok(arriving.arrived),
        }
    }
}

struct Arriving<'a> {
    into: &'a OwnedFd,
    images: OwnedFd,
    arrived: Arrived,
}

impl Arriving<'_> {
    fn archive(&mut self, file: &File) -> Result<()> {
        let length = length(file)?;
        let mut reader = reader(file)?;
        while let Some(entry) = reader.next_entry()? {
            let part = part(&entry.path).or_else(|why| refuse(&entry.path, why))?;
            if part != Part::Other {
                check_entry(&entry, length)?;
                self.take(&part, entry.size, &mut Data(&mut reader))?;
            }
        }
        Ok(())
    }

    fn tree(&mut self, tree: &OwnedFd) -> Result<()> {
        let mut names = vec![ROOTFS.to_owned(), DELETED.to_owned()];
        names.extend([LOG, LOG_OF_CRIO].map(str::to_owned));
        if let Some(images) = open_below(tree, Path::new(IMAGES), OFlags::DIRECTORY)? {
            for entry in Dir::read_from(&images)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if !matches!(&*name, "." | "..") {
                    names.push(format!("{IMAGES}/{name}"));
                }
                if names.len() > IMAGES_MOST {
                    return too_many();
                }
            }
        }
        for name in names {
            let path = name.as_bytes();
            let part = part(path).or_else(|why| refuse(path, why))?;
            if part == Part::Other {
                continue;
            }
            if let Some((mut file, size)) = plain_file(tree, Path::new(&name))? {
                self.take(&part, size, &mut file)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, part: &Part<'_>, size: u64, data: &mut dyn Read) -> Result<()> {
        match part {
            Part::Image(name) => {
                self.arrived.images += 1;
                if self.arrived.images > IMAGES_MOST {
                    return too_many();
                }
                copy(&self.images, name, data).map(drop)
            }
            Part::Changes => {
                self.arrived.changes = Some(copy(self.into, ROOTFS, data)?);
                Ok(())
            }
            Part::Deleted => {
                let text = limited(data, DELETED_MOST, DELETED)?;
                self.arrived.deleted = documents::deleted(&text)?;
                Ok(())
            }
            Part::Log if self.arrived.has_log => Ok(()),
            Part::Log if size > LOG_MOST => {
                tracing::warn!("the log of a checkpoint is left behind: it has {size} bytes");
                Ok(())
            }
            Part::Log => {
                self.arrived.has_log = true;
                copy(self.into, LOG, data).map(drop)
            }
            Part::Other => Ok(()),
        }
    }
}

fn too_many<T>() -> Result<T> {
    Err(Error::invalid(format!(
        "the checkpoint has more than {IMAGES_MOST} images"
    )))
}

fn length(file: &File) -> Result<u64> {
    Ok(file
        .metadata()
        .context(|| "cannot examine the checkpoint")?
        .len())
}

fn reader(file: &File) -> Result<Reader<BufReader<&File>>> {
    rustix::fs::seek(file, SeekFrom::Start(0)).context(|| "cannot read the checkpoint")?;
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER, file));
    reader.limit_entries(ENTRIES);
    Ok(reader)
}

/// What is wanted is a file whose bytes are all there: nothing grows on its way.
fn check_entry(entry: &rcrun_overlay::archive::Entry, length: u64) -> Result<()> {
    if entry.kind != Kind::Regular {
        return refuse(&entry.path, "it is not a regular file");
    }
    if entry.map.is_some() {
        return refuse(&entry.path, "it is a file with holes");
    }
    match entry.size > length {
        true => refuse(&entry.path, "it is longer than the archive"),
        false => Ok(()),
    }
}

fn limited(data: &mut dyn Read, most: u64, name: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    data.take(most + 1)
        .read_to_end(&mut text)
        .map_err(from_io)
        .context(|| format!("cannot read {name} of the checkpoint"))?;
    match text.len() as u64 > most {
        true => refuse(name.as_bytes(), &format!("it is longer than {most} bytes")),
        false => Ok(text),
    }
}

fn copy(directory: &OwnedFd, name: &str, data: &mut dyn Read) -> Result<File> {
    let failed = || format!("cannot copy {name} of the checkpoint");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600)) {
        Err(Errno::EXIST) => return refuse(name.as_bytes(), "it is there twice"),
        other => other.context(failed)?,
    };
    let mut file = File::from(file);
    let mut buffer = vec![0; BUFFER];
    loop {
        match data.read(&mut buffer).map_err(from_io).context(failed)? {
            0 => break,
            read => file.write_all(&buffer[..read]).context(failed)?,
        }
    }
    rustix::fs::seek(&file, SeekFrom::Start(0)).context(failed)?;
    Ok(file)
}

fn open_below(tree: &OwnedFd, path: &Path, more: OFlags) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(tree.as_fd(), path, flags, Mode::empty(), resolve) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno @ (Errno::LOOP | Errno::XDEV | Errno::NXIO)) => refuse(
            path.as_os_str().as_encoded_bytes(),
            &format!("it is not a regular file ({errno})"),
        ),
        Err(errno) => {
            Err(errno).context(|| format!("cannot open {} of the checkpoint", path.display()))
        }
    }
}

/// A file of an image, and its length.
fn plain_file(tree: &OwnedFd, path: &Path) -> Result<Option<(File, u64)>> {
    let name = path.as_os_str().as_encoded_bytes();
    let Some(file) = open_below(tree, path, OFlags::empty())? else {
        return Ok(None);
    };
    let failed = || format!("cannot examine {} of the checkpoint", path.display());
    let stat = rustix::fs::fstat(&file).context(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refuse(name, "it is not a regular file");
    }
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    match rustix::fs::seek(&file, SeekFrom::Hole(0)) {
        Ok(hole) if hole < size => return refuse(name, "it is a file with holes"),
        // Empty, or of a file system that does not tell.
        Ok(_) | Err(Errno::NXIO | Errno::INVAL) => {}
        Err(errno) => return Err(errno).context(failed),
    }
    rustix::fs::seek(&file, SeekFrom::Start(0)).context(failed)?;
    Ok(Some((file.into(), size)))
}

#[cfg(test)]
mod tests;
