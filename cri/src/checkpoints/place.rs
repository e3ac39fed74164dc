//! The file that an archive becomes: it has no name until it is whole and on the disk, so whatever happens
//! nothing of it is left.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path};

use rcrun_overlay::durable::sync_directory;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::{Context, Error, ErrorKind, Result};

/// A file in the making.
#[derive(Debug)]
pub(super) struct Place {
    directory: OwnedFd,
    name: String,
    location: String,
    file: File,
}

/// Directory and name; an error if it is none for an archive. Pure.
fn split(location: &str) -> std::result::Result<(&Path, &str), &'static str> {
    let path = Path::new(location);
    if !path.is_absolute() {
        return Err("it is not an absolute path");
    }
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if location.contains('\0') || !path.components().all(plain) {
        return Err("it is not a plain path");
    }
    match (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) {
        (Some(parent), Some(name)) if !location.ends_with('/') => Ok((parent, name)),
        _ => Err("it is not the path of a file"),
    }
}

impl Place {
    /// Makes the file, as yet without a name.
    pub(super) fn new(location: &str) -> Result<Self> {
        let failed = || format!("cannot write a checkpoint to {location:?}");
        let (parent, name) = split(location).map_err(Error::invalid).context(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(parent, flags, Mode::empty()) {
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => {
                let error = Error::invalid(format!("its directory is not on this node: {errno}"));
                return Err(error).context(failed);
            }
            other => other.context(failed)?,
        };
        let place = Self {
            file: unnamed(&directory).context(failed)?,
            name: name.to_owned(),
            location: location.to_owned(),
            directory,
        };
        place.is_free().context(failed)?;
        Ok(place)
    }

    /// It is seen early what would be seen at the end.
    fn is_free(&self) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(&self.directory, &self.name, flags) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
            Ok(stat) => {
                let what = match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => "there is a file of this name",
                    _ => "there is something of this name that is no file",
                };
                Err(Error::new(ErrorKind::Exists, what))
            }
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, once it is on the disk. `check` is asked after that too: after an error nothing
    /// is there.
    pub(super) fn finish(self, check: impl Fn() -> Result<()>) -> Result<()> {
        let failed = || format!("cannot write a checkpoint to {:?}", self.location);
        self.file.sync_all().context(failed)?;
        check()?;
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = AtFlags::SYMLINK_FOLLOW;
        match rustix::fs::linkat(CWD, path, &self.directory, &self.name, flags) {
            Err(Errno::EXIST) => {
                let error = Error::new(ErrorKind::Exists, "there is a file of this name");
                return Err(error).context(failed);
            }
            other => other.context(failed)?,
        }
        let done = sync_directory(&self.directory)
            .context(failed)
            .and_then(|()| check());
        if done.is_err() {
            // The first error matters more.
            let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
        done
    }
}

fn unnamed(directory: &OwnedFd) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, ".", flags, Mode::from_raw_mode(0o600)) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => Err(Error::unsupported(
            "its file system cannot have files without names (O_TMPFILE): choose another",
        )),
        other => Ok(other?.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn locations() {
        for (location, expected) in [
            ("/a/b.tar", Ok((Path::new("/a"), "b.tar"))),
            ("/b", Ok((Path::new("/"), "b"))),
            ("b.tar", Err("it is not an absolute path")),
            ("", Err("it is not an absolute path")),
            ("/", Err("it is not the path of a file")),
            ("/a/", Err("it is not the path of a file")),
            ("/a/../b", Err("it is not a plain path")),
            ("/a/b\0", Err("it is not a plain path")),
        ] {
            assert_eq!(split(location), expected, "{location:?}");
        }
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let location = dir.path().join("one.tar").display().to_string();
        let place = Place::new(&location).unwrap();
        place.file().write_all(b"half").unwrap();
        drop(place);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let place = Place::new(&location).unwrap();
        place.file().write_all(b"whole").unwrap();
        place.finish(|| Ok(())).unwrap();
        assert_eq!(std::fs::read(&location).unwrap(), b"whole");
        let mode = std::fs::metadata(&location).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // What is there is not replaced, whenever it came; links are not followed.
        assert_eq!(Place::new(&location).unwrap_err().kind(), ErrorKind::Exists);
        let late = dir.path().join("late.tar").display().to_string();
        let place = Place::new(&late).unwrap();
        std::os::unix::fs::symlink("/nonexistent", &late).unwrap();
        let error = place.finish(|| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        // Somebody who has gone meanwhile finds nothing.
        let gone = dir.path().join("gone.tar");
        for calls in 0..2 {
            let left = std::cell::Cell::new(calls);
            let check = || match left.replace(left.get() - 1) {
                0 => Err(Error::new(ErrorKind::Deadline, "gone")),
                _ => Ok(()),
            };
            let place = Place::new(&gone.display().to_string()).unwrap();
            assert_eq!(place.finish(check).unwrap_err().kind(), ErrorKind::Deadline);
            assert!(!gone.exists());
        }
        let below = dir.path().join("no/where.tar").display().to_string();
        assert_eq!(
            Place::new(&below).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}
