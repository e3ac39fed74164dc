//! `rcrun cp`: between a container and the host, or standard streams.

use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rcrun_overlay::archive::Reader;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::get_with_record;
use crate::containers::copy::{
    self, Base, Destination, Packing, Place, Source, Split, Unpacking, split,
};
use crate::containers::{Container, Record, RootDirectory as Root};
use crate::report;
use crate::settings::Settings;

pub(super) const USAGE: &str = "CONTAINER:PATH PATH|-  || PATH|- CONTAINER:PATH

The container may run or not. A directory goes into one that exists, under its own
name; with `/.` behind it only what is in it. A destination that is a link stands
for what it leads to, within the container. `-` is an archive (tar) on standard
input, which is unpacked into a directory, or on standard output.

What is copied into a container belongs to its root, what is copied out to you;
set-user-id bits, file capabilities and devices do not leave it. With --archive
all of this stays.";

/// copy files into or out of a container
#[derive(Debug, clap::Parser)]
#[command(name = "cp", disable_help_flag = true)]
pub(crate) struct Copy {
    /// keep owners and all else that files have
    #[arg(long, short)]
    archive: bool,
    /// copy what the source links to
    #[arg(long, short = 'L')]
    follow_link: bool,
    /// accepted as docker has it: no progress is shown
    #[arg(long, short)]
    quiet: bool,
    source: String,
    destination: String,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Stream,
    Host(&'a str),
    Container(&'a str, &'a str),
}

impl<'a> End<'a> {
    /// A colon before any slash is behind a container's name.
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            Some((name, path))
                if !name.is_empty() && !name.contains('/') && !name.starts_with('.') =>
            {
                Self::Container(name, path)
            }
            _ => Self::Host(text),
        }
    }
}

impl crate::verbs::Run for Copy {
    fn run(self, settings: &Settings) -> Result<u8> {
        match (End::parse(&self.source), End::parse(&self.destination)) {
            (End::Container(name, from), to @ (End::Host(_) | End::Stream)) => {
                let inside = Inside::find(settings, name, from, false)?;
                let failed = || format!("cannot copy from container {name}");
                self.leave(&inside.root(settings)?, from, &to)
                    .context(failed)
            }
            (from @ (End::Host(_) | End::Stream), End::Container(name, to)) => {
                let inside = Inside::find(settings, name, to, true)?;
                let failed = || format!("cannot copy to container {name}");
                self.enter(&inside.root(settings)?, &from, to)
                    .context(failed)
            }
            (End::Container(..), End::Container(..)) => Err(Error::unsupported(
                "cannot copy from one container to another: copy to the host in between",
            )),
            _ => Err(Error::invalid(
                "source or destination has to be in a container: CONTAINER:PATH",
            )),
        }
        .map(|()| 0)
    }
}

/// The container's side.
struct Inside {
    container: Container,
    record: Record,
    writable: bool,
    path: String,
}

impl Inside {
    fn find(settings: &Settings, name: &str, path: &str, writable: bool) -> Result<Self> {
        let (_, container, record) = get_with_record(settings, name)?;
        Ok(Self {
            container,
            record,
            writable,
            path: path.to_owned(),
        })
    }

    fn root(&self, settings: &Settings) -> Result<Root<'_>> {
        let store = settings.store_path()?;
        let root = self.container.root(&self.record, &store, self.writable)?;
        if root.is_snapshot() {
            self.refuse_mounts()?;
        }
        Ok(root)
    }

    /// What is mounted into the container is not there while it does not run.
    fn refuse_mounts(&self) -> Result<()> {
        let path =
            rcrun_runtime::template::clean(std::path::Path::new("/").join(&self.path).as_ref());
        for target in self.container.mount_targets()? {
            if path.starts_with(&target) {
                let target = target.display();
                let text = format!("{target} is mounted only while the container runs");
                return Err(Error::new(ErrorKind::FailedPrecondition, text)
                    .with_hint("start the container, or copy on the host"));
            }
        }
        Ok(())
    }
}

/// Something that is there.
struct Found {
    fd: OwnedFd,
    is_directory: bool,
}

impl Found {
    fn new(fd: OwnedFd) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok(Self { fd, is_directory })
    }

    fn destination(found: Option<&Self>) -> Destination {
        match found {
            None => Destination::Missing,
            Some(found) if found.is_directory => Destination::Directory,
            Some(_) => Destination::File,
        }
    }
}

/// Opens by one way or the other; none if nothing is there.
fn look(path: &str, open: impl FnOnce() -> rustix::io::Result<OwnedFd>) -> Result<Option<Found>> {
    match open() {
        Ok(fd) => Found::new(fd).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("cannot open {path}")),
    }
}

/// How many links at a destination are followed, one after the other.
const LINKS: usize = 40;

/// What a destination stands for: where it is a link, also one to nothing, that is where the copy goes, as
/// docker has it. `open` opens what a path names, without following a last link, within whatever is
/// the root; so a link leads nowhere else.
fn behind_links(path: &str, open: &dyn Fn(&str) -> rustix::io::Result<OwnedFd>) -> Result<String> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let parts = split(&path);
        if parts.slash || parts.name.is_none() {
            return Ok(path);
        }
        let file = match open(&path) {
            Ok(file) => file,
            // Told of when it is opened for good.
            Err(_) => return Ok(path),
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(path);
        }
        let target = rustix::fs::readlinkat(&file, c"", Vec::new())?;
        let unreadable = || Error::invalid(format!("{path} links to what is no text"));
        let target = target.into_string().map_err(|_| unreadable())?;
        path = match (target.starts_with('/'), path.rsplit_once('/')) {
            (true, _) | (false, None) => target,
            (false, Some((parent, _))) => format!("{parent}/{target}"),
        };
    }
    Err(Error::from(Errno::LOOP)).context(|| format!("cannot open {path}"))
}

fn on_host(path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
}

impl Copy {
    /// Flags that open a source: a last link is followed when asked for, or for the slash behind it.
    fn source_flags(&self, parts: &Split<'_>) -> OFlags {
        match self.follow_link || parts.slash || parts.contents {
            true => OFlags::PATH,
            false => OFlags::PATH | OFlags::NOFOLLOW,
        }
    }

    fn source(found: Option<Found>, path: &str, parts: &Split<'_>) -> Result<(OwnedFd, Source)> {
        let missing = || Error::new(ErrorKind::NotFound, format!("{path} does not exist"));
        let found = found.ok_or_else(missing)?;
        let source = match (found.is_directory, parts.contents) {
            (true, true) => Source::Contents,
            (true, false) => Source::Directory,
            (false, _) if parts.slash => {
                return Err(Error::invalid(format!("{path} is not a directory")));
            }
            (false, _) => Source::File,
        };
        Ok((found.fd, source))
    }

    fn leave(&self, root: &Root<'_>, from: &str, to: &End<'_>) -> Result<()> {
        let parts = split(from);
        let flags = self.source_flags(&parts);
        let found = look(from, || root.open(from.as_bytes(), flags))?;
        let (fd, source) = Self::source(found, from, &parts)?;
        let id = |id| root.id_inside(id);
        let packing = Packing { id: &id };
        let own = parts.name.unwrap_or_default();
        let End::Host(to) = to else {
            let name = if source == Source::Contents { "" } else { own };
            let out = std::io::BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
            let mut out = copy::pack(fd.as_fd(), name.as_bytes(), &packing, out)?;
            return out.flush().context(|| "cannot write to standard output");
        };
        let to = behind_links(to, &|path| on_host(path, OFlags::PATH | OFlags::NOFOLLOW))?;
        let to = to.as_str();
        let target = split(to);
        let there = look(to, || on_host(to, OFlags::PATH))?;
        let place = copy::place(source, Found::destination(there.as_ref()), target.slash)?;
        let (base, name) = match (place, there) {
            (Place::Within, Some(there)) => (there.fd, own),
            (Place::Merged, Some(there)) => (there.fd, ""),
            _ => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let parent = match (target.parent, to.starts_with('/')) {
                    ("", true) => "/",
                    (parent, _) => parent,
                };
                let base = on_host(parent, flags).context(|| format!("cannot open {parent:?}"))?;
                (base, target.name.unwrap_or_default())
            }
        };
        let own = (!self.archive).then(own_ids);
        let unpacking = Unpacking {
            owner: own,
            id: &Some,
            powerful: self.archive,
        };
        transfer(
            |sink| copy::pack(fd.as_fd(), name.as_bytes(), &packing, sink).map(drop),
            |reader| copy::unpack(Base::Host(base), reader, &unpacking),
        )
    }

    fn enter(&self, root: &Root<'_>, from: &End<'_>, to: &str) -> Result<()> {
        let inside = |path: &str| root.open(path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW);
        let to = behind_links(to, &inside)?;
        let to = to.as_str();
        let target = split(to);
        let there = look(to, || root.open(to.as_bytes(), OFlags::PATH))?;
        let id = |id| root.id_here(id);
        let no_root = || Error::invalid("the container has no root user");
        let owner = match self.archive {
            true => None,
            false => Some(root.id_here(0).map(|id| (id, id)).ok_or_else(no_root)?),
        };
        let unpacking = Unpacking {
            owner,
            id: &id,
            powerful: true,
        };
        let base = |path: &str| Base::Container {
            root: root.fd(),
            path: path.trim_matches('/').as_bytes().to_vec(),
        };
        let End::Host(from) = from else {
            if !there.is_some_and(|there| there.is_directory) {
                return Err(Error::invalid(format!("{to} is not a directory")));
            }
            let input = BufReader::with_capacity(1 << 20, std::io::stdin().lock());
            // Of a stream, owners are said by whoever made it, as docker has it.
            let unpacking = Unpacking {
                owner: None,
                ..unpacking
            };
            return copy::unpack(base(to), &mut Reader::new(input), &unpacking).map(drop);
        };
        let parts = split(from);
        let flags = self.source_flags(&parts);
        let found = look(from, || on_host(from, flags))?;
        let (fd, source) = Self::source(found, from, &parts)?;
        let absolute = std::path::absolute(from).unwrap_or_default();
        let own = match parts.name {
            Some(name) => name.to_owned(),
            // `..` and the like: the name of what it stands for.
            None => absolute
                .canonicalize()
                .ok()
                .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                .unwrap_or_default(),
        };
        let place = copy::place(source, Found::destination(there.as_ref()), target.slash)?;
        let (base, name) = match place {
            Place::Within => (base(to), own.as_str()),
            Place::Merged => (base(to), ""),
            Place::Named => {
                let parent = look(target.parent, || {
                    root.open(target.parent.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)
                })?;
                if parent.is_none() {
                    let text = format!("directory {}/ does not exist", target.parent);
                    return Err(Error::new(ErrorKind::NotFound, text));
                }
                (base(target.parent), target.name.unwrap_or_default())
            }
        };
        let packing = Packing { id: &|id| id };
        transfer(
            |sink| copy::pack(fd.as_fd(), name.as_bytes(), &packing, sink).map(drop),
            |reader| copy::unpack(base, reader, &unpacking),
        )
    }
}

fn own_ids() -> (u32, u32) {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    (user.as_raw(), group.as_raw())
}

/// Packs and unpacks at the same time, and tells what was left out.
fn transfer(
    pack: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    unpack: impl FnOnce(&mut Reader<BufReader<Box<dyn Read>>>) -> Result<Vec<String>>,
) -> Result<()> {
    for one in copy::through(pack, unpack)? {
        report::warn(&format!("{one} was left out: it takes --archive"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        for (text, expected) in [
            ("-", End::Stream),
            ("web:/etc", End::Container("web", "/etc")),
            ("web:", End::Container("web", "")),
            ("web:a:b", End::Container("web", "a:b")),
            ("./a:b", End::Host("./a:b")),
            ("/a:b", End::Host("/a:b")),
            ("a/b:c", End::Host("a/b:c")),
            (":x", End::Host(":x")),
            ("file", End::Host("file")),
        ] {
            assert_eq!(End::parse(text), expected, "{text}");
        }
    }
}
