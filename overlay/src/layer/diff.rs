//! The upper directory of an overlay mount as a layer archive.
//!
//! The archive is a function of the directory alone: entries in the order of their names (a
//! directory before its content, its opaque mark and deletions first), owners as numbers, no access
//! times, sparse files in full. Times are whole seconds, as Docker, containerd and buildah write
//! them; nanoseconds on request. The root itself is no entry, as with the others.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::attributes::{is_overlay, of_stat, read_extended, read_extended_of};
use super::options::Overlay;
use super::tree::is_kernels_whiteout;
use super::tree::{self, Place, Tree};
use crate::archive::limits::PATH_BYTES;
use crate::archive::name::{join, show};
use crate::archive::{Attribute, Entry, Kind, Time, Writer, whiteout};
use crate::compress::{Compression, Encoder};
use crate::digest::{Algorithm, Hasher};
use crate::{Context, Digest, Error, ErrorKind, Result};

/// How a directory becomes an archive.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which mount wrote the directory.
    pub overlay: Overlay,
    /// Later times become this one (SOURCE_DATE_EPOCH).
    pub latest: Option<i64>,
    /// Keep fractions of seconds.
    pub nanoseconds: bool,
    /// How hard it is compressed; none: as usual.
    pub level: Option<i32>,
}

impl Options {
    /// As other engines do it.
    pub fn new(overlay: Overlay) -> Self {
        Self {
            overlay,
            latest: None,
            nanoseconds: false,
            level: None,
        }
    }
}

/// What an archive became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the archive.
    pub diff_id: Digest,
    /// Bytes of the archive.
    pub size: u64,
    /// Digest of the compressed archive.
    pub digest: Digest,
    /// Bytes of the compressed archive.
    pub compressed: u64,
}

/// Archives a directory, compresses that with so many threads beside this one, and writes it to
/// `sink`.
pub fn pack<W: Write>(
    upper: BorrowedFd<'_>,
    options: Options,
    compression: Compression,
    threads: usize,
    sink: W,
) -> Result<(Packed, W)> {
    let context = || "cannot write a layer";
    let sink = Hashing::new(sink);
    let encoder =
        Encoder::with_level(compression, options.level, sink, threads).context(context)?;
    let buffered = BufWriter::with_capacity(128 << 10, Hashing::new(encoder));
    let buffered = write(upper, options, buffered)?;
    let hashing = buffered
        .into_inner()
        .map_err(|error| Error::from(error.into_error()).context(context()))?;
    let (encoder, diff_id, size) = hashing.finish();
    let (mut sink, digest, compressed) = encoder.finish().context(context)?.finish();
    sink.flush().context(context)?;
    Ok((
        Packed {
            diff_id,
            size,
            digest,
            compressed,
        },
        sink,
    ))
}

/// Hashes and counts what passes.
struct Hashing<W> {
    sink: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(sink: W) -> Self {
        Self {
            sink,
            hasher: Algorithm::Sha256.hasher(),
            size: 0,
        }
    }

    fn finish(self) -> (W, Digest, u64) {
        (self.sink, self.hasher.finish(), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Writes the archive of a directory, which must not change meanwhile.
pub fn write<W: Write>(upper: BorrowedFd<'_>, options: Options, sink: W) -> Result<W> {
    let mut walk = Walk {
        tree: Tree::new(upper)?,
        options,
        writer: Writer::new(sink),
        links: HashMap::new(),
    };
    // Directories that are not finished, each with the names that remain, last first.
    let mut open = vec![(Vec::new(), walk.enter(b"")?)];
    while let Some((parent, names)) = open.last_mut() {
        let Some(name) = names.pop() else {
            open.pop();
            continue;
        };
        let path = join(parent, &name);
        let entered = walk
            .file(parent, &name)
            .map_err(|error| error.context(format!("cannot archive {}", show(&path))))?;
        if entered {
            let names = walk.enter(&path)?;
            open.push((path, names));
        }
    }
    walk.writer.finish()
}

struct Walk<W: Write> {
    tree: Tree,
    options: Options,
    writer: Writer<W>,
    /// Files with several names: the first one, by device and inode number.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Walk<W> {
    fn place(&mut self, path: &[u8]) -> Result<Place> {
        match self.tree.open(path)? {
            Some(place) if place.path == path => Ok(place),
            _ => Err(changed()),
        }
    }

    /// Writes the mark of an opaque directory and its deletions; the other names, last first.
    fn enter(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let place = self.place(path)?;
        let directory = tree::readable(&place.fd).context(|| "cannot open a directory")?;
        if super::merged::is_opaque(directory.as_fd(), self.options.overlay)? {
            self.mark(&join(path, whiteout::OPAQUE))?;
        }
        let mut names = Vec::new();
        for name in tree::names(&place.fd)? {
            if self.is_deletion(&place, &name)? {
                let marked = [whiteout::PREFIX, &name].concat();
                self.mark(&join(path, &marked))?;
            } else {
                names.push(name);
            }
        }
        names.reverse();
        Ok(names)
    }

    fn is_deletion(&self, place: &Place, name: &[u8]) -> Result<bool> {
        let stat = stat(place, name)?;
        if is_kernels_whiteout(&stat) {
            return Ok(true);
        }
        // The other form, of file systems without device nodes: an empty file with an attribute.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size != 0 {
            return Ok(false);
        }
        let file = open(place, name)?;
        let mark = self.options.overlay.attribute("whiteout");
        Ok(rustix::fs::fgetxattr(&file, &*mark, &mut [0_u8; 256][..]).is_ok())
    }

    fn mark(&mut self, path: &[u8]) -> Result<()> {
        // Without an owner and of 1970: it says nothing but its name.
        let entry = Entry {
            path: path.to_vec(),
            kind: Kind::Regular,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: 0,
            map: None,
            attributes: Vec::new(),
        };
        self.writer.append(&entry, &mut io::empty())
    }

    /// Writes an entry; true for a directory.
    fn file(&mut self, parent: &[u8], name: &[u8]) -> Result<bool> {
        if name.starts_with(whiteout::PREFIX) {
            return Err(Error::invalid("its name would mean a deletion in a layer"));
        }
        let path = join(parent, name);
        if path.len() > PATH_BYTES {
            return Err(Error::invalid("its path is longer than 4095 bytes"));
        }
        let place = self.place(parent)?;
        let stat = stat(&place, name)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let several = kind != FileType::Directory && stat.st_nlink > 1;
        let inode = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&inode).filter(|_| several) {
            let kind = Kind::Hardlink(first.clone().into());
            let entry = self.entry(path, kind, &stat, Vec::new())?;
            self.writer.append(&entry, &mut io::empty())?;
            return Ok(false);
        }
        let device = || {
            (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            )
        };
        let kind = match kind {
            FileType::RegularFile => {
                self.regular(&place, name, &path, &stat)?;
                None
            }
            FileType::Directory => {
                let directory = tree::refer(place.fd.as_fd(), name)?;
                let directory = tree::readable(&directory).context(|| "cannot open it")?;
                let extended = read_extended(directory.as_fd())?;
                let entry = self.entry(path, Kind::Directory, &stat, extended)?;
                self.writer.append(&entry, &mut io::empty())?;
                return Ok(true);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&place.fd, name, Vec::new())
                    .context(|| "cannot read a link")?;
                Some(Kind::Symlink(target.into_bytes().into()))
            }
            FileType::CharacterDevice => Some(Kind::Character(device().0, device().1)),
            FileType::BlockDevice => Some(Kind::Block(device().0, device().1)),
            FileType::Fifo => Some(Kind::Fifo),
            // Sockets live as long as their process; tar knows none, and all engines leave them out.
            FileType::Socket => return Ok(false),
            FileType::Unknown => return Err(Error::invalid("unknown type of file")),
        };
        if let Some(kind) = kind {
            let file = tree::refer(place.fd.as_fd(), name)?;
            let extended = read_extended_of(file.as_fd())?;
            let entry = self.entry(path.clone(), kind, &stat, extended)?;
            self.writer.append(&entry, &mut io::empty())?;
        }
        if several {
            self.links.insert(inode, path);
        }
        Ok(false)
    }

    fn regular(&mut self, place: &Place, name: &[u8], path: &[u8], stat: &Stat) -> Result<()> {
        let mut file = open(place, name)?;
        let now = rustix::fs::fstat(&file).context(|| "cannot examine it")?;
        if (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(changed());
        }
        let extended = read_extended(file.as_fd())?;
        let entry = self.entry(path.to_vec(), Kind::Regular, &now, extended)?;
        self.writer.append(&entry, &mut file as &mut dyn Read)
    }

    fn entry(
        &self,
        path: Vec<u8>,
        kind: Kind,
        stat: &Stat,
        extended: Vec<Attribute>,
    ) -> Result<Entry> {
        for (name, _) in extended.iter().filter(|(name, _)| is_overlay(name)) {
            let name = &name[name
                .iter()
                .rposition(|byte| *byte == b'.')
                .unwrap_or_default()..];
            // Data or name would be in a layer below: archived, the file would be something else.
            if matches!(name, b".metacopy" | b".redirect") {
                let message = "the overlay was mounted with metacopy or redirect_dir";
                return Err(Error::unsupported(message));
            }
        }
        let attributes = of_stat(stat, extended);
        let mut mtime = attributes.mtime;
        if !self.options.nanoseconds {
            mtime.nanoseconds = 0;
        }
        if let Some(latest) = self.options.latest {
            mtime = mtime.min(Time {
                seconds: latest,
                nanoseconds: 0,
            });
        }
        Ok(Entry {
            path,
            kind,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            map: None,
            attributes: attributes.extended,
        })
    }
}

fn changed() -> Error {
    Error::new(ErrorKind::Busy, "it was exchanged while it was read")
}

fn stat(place: &Place, name: &[u8]) -> Result<Stat> {
    rustix::fs::statat(&place.fd, name, AtFlags::SYMLINK_NOFOLLOW)
        .context(|| format!("cannot examine {}", show(name)))
}

/// Opens a regular file; should it be a pipe by now, that does not wait for a writer.
fn open(place: &Place, name: &[u8]) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&place.fd, name, flags, Mode::empty())
        .context(|| format!("cannot open {}", show(name)))?;
    Ok(File::from(file))
}
