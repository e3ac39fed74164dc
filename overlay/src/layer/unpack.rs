//! Unpacks an archive into the directory of one layer, as overlayfs wants it.
//!
//! Entries follow each other as in image-spec layer.md, "Applying": a later one replaces an earlier
//! one of the same name, except that a directory stays. Deletions become overlayfs's own, so a
//! layer does not need those below: what does need them is handed out as [`Pending`].
//!
//! Directories get owner, mode, ACL and times at the end: before, they would hand a group or an
//! ACL to what is made in them, and lose their times by it.

mod kinds;

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::attributes::{self, Attributes, Fresh, complete_directory, complete_file};
use super::content;
use super::implied::{self, Pending};
use super::options::{Options, Owners};
use super::tree::{self, Instead, Place, Tree, is_whiteout, path_in};
use crate::archive::limits::REMEMBERED_BYTES;
use crate::archive::name::{show, split};
use crate::archive::whiteout::{Meaning, meaning};
use crate::archive::{Entry, Kind, Reader};
use crate::compress::{Decoded, decode_ahead};
use crate::{Context, Digest, Error, ErrorKind, Result};

/// What was unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// Digest of the archive.
    pub diff_id: Digest,
    /// Bytes of the archive.
    pub size: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Extended attributes that the file system or missing privilege did not allow.
    pub skipped: u64,
    /// Whether nothing of the layers below remains: overlayfs does not look for that mark at the
    /// root of a layer, so whoever mounts has to leave those layers out.
    pub opaque_root: bool,
    /// Whether deleted files are marked with sockets, since the file system allows no other mark.
    pub stand_ins: bool,
    /// What needs the layers below.
    pub pending: Pending,
}

/// Unpacks one layer, compressed or not. The caller has made the directory, alone uses it, throws
/// it away after an error, and makes it durable after success.
pub fn unpack_layer<R: Read + Send>(
    source: R,
    directory: BorrowedFd<'_>,
    options: &Options,
) -> Result<Unpacked> {
    let unpack = |ahead: &mut _| {
        let mut unpacker = Unpacker::new(directory, options.clone())?;
        unpacker.unpack(&mut Reader::new(ahead))?;
        unpacker.finish()
    };
    let (done, decoded) = decode_ahead(source, options.inflate, unpack)?;
    let Decoded { diff_id, size, .. } = decoded;
    let Done {
        entries,
        skipped,
        opaque_root,
        stand_ins,
        pending,
    } = done;
    Ok(Unpacked {
        diff_id,
        size,
        entries,
        skipped,
        opaque_root,
        stand_ins,
        pending,
    })
}

/// What an [`Unpacker`] leaves.
#[derive(Debug)]
pub struct Done {
    /// Entries of the archive.
    pub entries: u64,
    /// See [`Unpacked::skipped`].
    pub skipped: u64,
    /// See [`Unpacked::opaque_root`].
    pub opaque_root: bool,
    /// See [`Unpacked::stand_ins`].
    pub stand_ins: bool,
    /// See [`Unpacked::pending`].
    pub pending: Pending,
}

/// A directory of the layer, until the end.
#[derive(Debug, Default)]
struct Directory {
    /// Nothing if the archive has not mentioned it.
    attributes: Option<Attributes>,
    opaque: bool,
}

/// Unpacks entries into the directory of a layer.
#[derive(Debug)]
pub struct Unpacker {
    tree: Tree,
    options: Options,
    fresh: Fresh,
    directories: BTreeMap<Box<[u8]>, Directory>,
    links: Vec<implied::Link>,
    remembered: usize,
    entries: u64,
    skipped: u64,
    stand_ins: bool,
}

impl Unpacker {
    /// Into this directory, which should be empty.
    pub fn new(directory: BorrowedFd<'_>, options: Options) -> Result<Self> {
        let root = tree::readable(directory).context(|| "cannot open the directory of a layer")?;
        let owner = plain_root(&root)?;
        let fresh = Fresh {
            umask: attributes::umask(),
            owner,
            chown: options.owners == Owners::Archive,
        };
        Ok(Self {
            tree: Tree::new(root.as_fd())?,
            options,
            fresh,
            directories: BTreeMap::new(),
            links: Vec::new(),
            remembered: 0,
            entries: 0,
            skipped: 0,
            stand_ins: false,
        })
    }

    /// Unpacks all entries.
    pub fn unpack<R: BufRead>(&mut self, reader: &mut Reader<R>) -> Result<()> {
        reader.limit_entries(self.options.entries);
        while let Some(entry) = reader.next_entry()? {
            let path = entry.path.clone();
            self.entry(entry, reader)
                .map_err(|error| error.context(format!("cannot unpack {}", show(&path))))?;
        }
        self.entries += reader.entries();
        Ok(())
    }

    fn entry<R: BufRead>(&mut self, entry: Entry, reader: &mut Reader<R>) -> Result<()> {
        let (parent, name) = split(&entry.path);
        let deleted = match meaning(&entry.path)? {
            Meaning::Plain => None,
            Meaning::Ignored => return Ok(()),
            special => {
                if !matches!(entry.kind, Kind::Regular | Kind::Hardlink(_)) {
                    return Err(Error::invalid("refuse a whiteout that is no regular file"));
                }
                match special {
                    Meaning::Deleted(name) => Some(name),
                    _ => return self.opaque(parent),
                }
            }
        };
        if entry.path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(Error::invalid("refuse a root that is no directory"));
            }
            return self.remember(Vec::new(), Some(entry.into()));
        }
        let place = self.parent(parent)?;
        if let Some(name) = deleted {
            return self.delete(&place, name);
        }
        // Overlayfs cannot tell this device from its own deletions, nor can we.
        if entry.kind == Kind::Character(0, 0) {
            return self.delete(&place, name);
        }
        if !self.links.is_empty() {
            let path = path_in(&place, name)?;
            self.links.retain(|link| link.path != path);
        }
        match &entry.kind {
            Kind::Directory => {
                let path = self.directory(&place, name)?;
                self.remember(path, Some(entry.into()))
            }
            Kind::Regular => self.regular(&place, name, &entry, reader),
            Kind::Hardlink(target) => self.hardlink(&place, name, target),
            _ => self.special(&place, name, &entry),
        }
    }

    /// The directory of an entry, made if the archive has not mentioned it.
    fn parent(&mut self, path: &[u8]) -> Result<Place> {
        let (tree, directories) = (&mut self.tree, &mut self.directories);
        let remembered = &mut self.remembered;
        tree.open_or_make(path, &mut |made, instead| {
            let directory = directories.entry(made.into()).or_default();
            directory.opaque |= instead == Instead::Deletion;
            more(remembered, made.len())
        })
    }

    /// Remembers what a directory is to become.
    fn remember(&mut self, path: Vec<u8>, attributes: Option<Attributes>) -> Result<()> {
        let lists = attributes
            .iter()
            .flat_map(|attributes| &attributes.extended);
        let bytes: usize = lists.map(|(name, value)| name.len() + value.len()).sum();
        more(&mut self.remembered, path.len() + bytes)?;
        self.directories.entry(path.into()).or_default().attributes = attributes;
        Ok(())
    }

    fn directory(&mut self, place: &Place, name: &[u8]) -> Result<Vec<u8>> {
        let path = path_in(place, name)?;
        match rustix::fs::mkdirat(&place.fd, name, Mode::from(0o755)) {
            Err(Errno::EXIST) => {}
            other => {
                other.context(|| format!("mkdirat({})", show(name)))?;
                return Ok(path);
            }
        }
        let stat = self.stat(place, name)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(path);
        }
        self.remove(place, name)?;
        rustix::fs::mkdirat(&place.fd, name, Mode::from(0o755))
            .context(|| format!("mkdirat({})", show(name)))?;
        // Deleted below and made anew: nothing of the one below may show through.
        if is_whiteout(&stat) {
            self.directories
                .entry(path.clone().into())
                .or_default()
                .opaque = true;
        }
        Ok(path)
    }

    fn stat(&self, place: &Place, name: &[u8]) -> Result<Stat> {
        rustix::fs::statat(&place.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .context(|| format!("fstatat({})", show(name)))
    }

    /// Makes room for an entry, and forgets what was known below.
    fn remove(&mut self, place: &Place, name: &[u8]) -> Result<()> {
        let path = path_in(place, name)?;
        self.tree.forget(&path);
        self.directories.remove(&*path);
        // '0' follows '/'.
        let (start, end) = ([&*path, b"/"].concat(), [&*path, b"0"].concat());
        let bounds = (Bound::Included(&*start), Bound::Excluded(&*end));
        let below = self.directories.range::<[u8], _>(bounds);
        let below: Vec<_> = below.map(|(path, _)| path.clone()).collect();
        for path in below {
            self.directories.remove(&path);
        }
        self.links
            .retain(|link| !tree::is_within(&link.path, &path));
        tree::remove(place.fd.as_fd(), name)
    }

    /// Makes something; what has the name already is removed first.
    fn replacing<T>(
        &mut self,
        place: &Place,
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let made = match make(place.fd.as_fd()) {
            Err(Errno::EXIST) => {
                self.remove(place, name)?;
                make(place.fd.as_fd())
            }
            other => other,
        };
        made.context(|| format!("cannot create {}", show(name)))
    }

    fn regular<R: BufRead>(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<()> {
        let file = self.create(place, name, entry.mode)?;
        content::write(&file, entry, reader)?;
        self.complete(&file, entry)
    }

    fn create(&mut self, place: &Place, name: &[u8], mode: u32) -> Result<OwnedFd> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from(mode & 0o777);
        self.replacing(place, name, |at| rustix::fs::openat(at, name, flags, mode))
    }

    fn complete(&mut self, file: &OwnedFd, entry: &Entry) -> Result<()> {
        let attributes = entry.clone().into();
        complete_file(file.as_fd(), &attributes, self.fresh, &mut self.skipped)
    }

    /// Deletes a file of the layers below. What this layer itself has is not meant, in whatever
    /// order they come: a directory that replaces the one below is opaque.
    fn delete(&mut self, place: &Place, name: &[u8]) -> Result<()> {
        let make = |kind| rustix::fs::mknodat(&place.fd, name, kind, Mode::empty(), 0);
        let mut made = make(FileType::CharacterDevice);
        // On an overlayfs, and in user namespaces before Linux 5.8. Such a layer can be copied only.
        if made == Err(Errno::PERM) {
            made = make(FileType::Socket);
            self.stand_ins |= made.is_ok();
        }
        match made {
            Err(Errno::EXIST) => {}
            other => return other.context(|| format!("cannot create whiteout {}", show(name))),
        }
        if FileType::from_raw_mode(self.stat(place, name)?.st_mode) == FileType::Directory {
            let path = path_in(place, name)?;
            self.directories.entry(path.into()).or_default().opaque = true;
        }
        Ok(())
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let place = self.parent(path)?;
        more(&mut self.remembered, place.path.len())?;
        self.directories
            .entry(place.path.into())
            .or_default()
            .opaque = true;
        Ok(())
    }

    /// Completes the directories, those inside others first.
    pub fn finish(mut self) -> Result<Done> {
        let opaque = self.options.overlay.attribute("opaque");
        let mut implied = Vec::new();
        let mut opaque_root = false;
        // The root too is a directory that the archive may not have mentioned.
        self.directories.entry(Vec::new().into()).or_default();
        for (path, directory) in std::mem::take(&mut self.directories).into_iter().rev() {
            let context = || format!("cannot complete directory {}", show(&path));
            // A link in its place now is not ours.
            let place = self.tree.open(&path)?.filter(|place| *place.path == *path);
            let Some(place) = place else {
                return Err(Errno::NOENT).context(context);
            };
            let fd = tree::readable(&place.fd).context(context)?;
            if directory.opaque {
                opaque_root |= path.is_empty();
                rustix::fs::fsetxattr(&fd, &*opaque, b"y", XattrFlags::empty())
                    .context(|| format!("fsetxattr({opaque})"))
                    .map_err(|error| error.context(context()))?;
            }
            let attributes = match directory.attributes {
                Some(attributes) => attributes,
                None => {
                    if !directory.opaque {
                        implied.push(path.to_vec());
                    }
                    Attributes {
                        mode: 0o755,
                        ..Attributes::default()
                    }
                }
            };
            complete_directory(fd.as_fd(), &attributes, self.fresh, &mut self.skipped)
                .map_err(|error| error.context(context()))?;
        }
        implied.reverse();
        let pending = Pending::new(implied, self.links, self.fresh);
        let (entries, skipped) = (self.entries, self.skipped);
        Ok(Done {
            entries,
            skipped,
            opaque_root,
            stand_ins: self.stand_ins,
            pending,
        })
    }
}

/// Makes sure that a new root hands nothing down to what is made in it, and says who owns what is.
fn plain_root(root: &OwnedFd) -> Result<Option<(u32, u32)>> {
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match rustix::fs::fremovexattr(root, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno).context(|| format!("fremovexattr({name})")),
        }
    }
    let stat = rustix::fs::fstat(root).context(|| "cannot examine the directory of a layer")?;
    let mode = stat.st_mode & 0o7777;
    if mode & 0o2000 != 0 {
        rustix::fs::fchmod(root, Mode::from(mode & !0o2000))
            .context(|| "cannot change the directory of a layer")?;
    }
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    // Some file systems are mounted so that files get the group of their directory.
    Ok((stat.st_gid == gid).then_some((uid, gid)))
}

fn more(remembered: &mut usize, bytes: usize) -> Result<()> {
    // What a record needs besides its text.
    *remembered += bytes + 128;
    if *remembered > REMEMBERED_BYTES {
        let message = "refuse a layer with more directories and links than fit into 256 MiB";
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    Ok(())
}
