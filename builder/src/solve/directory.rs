//! `WORKDIR`: a directory with those above it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::access::{accounts_of, owner};
use super::{Solved, Solver};
use crate::context::copy::Owner;
use crate::{Context, Error, Result};

/// Links that may follow one another.
const LINKS: usize = 40;

impl Solver<'_> {
    pub(super) fn make_directory(
        &self,
        state: &Solved,
        root: &OwnedFd,
        path: &str,
        user: &str,
    ) -> Result<()> {
        // Asked only when something is made: what is there already belongs to whoever it does.
        let owner = || match user {
            "" => Ok(None),
            user => {
                let accounts = accounts_of(self.store, &state.layers, self.marks)?;
                owner(&accounts, user).map(Some)
            }
        };
        make(root.as_fd(), path, &owner).context(|| format!("cannot make directory {path}"))
    }
}

/// Makes what is missing of a path in a root, following its links inside the root.
pub(super) fn make(
    root: BorrowedFd<'_>,
    path: &str,
    owner: &dyn Fn() -> Result<Option<Owner>>,
) -> Result<()> {
    let mut done = String::new();
    let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done.truncate(done.rfind('/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let parent = open(root, &done)?;
        match rustix::fs::mkdirat(&parent, &part, Mode::from(0o755)) {
            Ok(()) => {
                // Whatever the umask.
                let made = open(root, &format!("{done}/{part}"))?;
                let made =
                    rustix::fs::openat(&made, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                        .context(|| "cannot open it")?;
                if let Some(Owner { uid, gid }) = owner()? {
                    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                    rustix::fs::fchown(&made, Some(uid), Some(gid))
                        .context(|| "cannot set its owner")?;
                }
                rustix::fs::fchmod(&made, Mode::from(0o755)).context(|| "cannot set its mode")?;
            }
            Err(Errno::EXIST) => {
                let target = rustix::fs::readlinkat(&parent, &part, Vec::new());
                if let Ok(target) = target {
                    links += 1;
                    if links > LINKS {
                        return Err(Error::invalid("too many links"));
                    }
                    let target = target.to_string_lossy().into_owned();
                    if target.starts_with('/') {
                        done.clear();
                    }
                    rest.extend(target.split('/').rev().map(str::to_owned));
                    continue;
                }
                let stat = rustix::fs::statat(&parent, &part, AtFlags::SYMLINK_NOFOLLOW)
                    .context(|| format!("cannot examine {part}"))?;
                if rustix::fs::FileType::from_raw_mode(stat.st_mode)
                    != rustix::fs::FileType::Directory
                {
                    return Err(Error::invalid(format!("{done}/{part} is no directory")));
                }
            }
            Err(errno) => return Err(errno).context(|| format!("cannot make {done}/{part}")),
        }
        done = format!("{done}/{part}");
    }
    Ok(())
}

/// A directory whose path has no links left.
fn open(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
        .context(|| format!("cannot open /{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_to_where_they_would_in_the_image() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (
            directory.path().join("root"),
            directory.path().join("outside"),
        );
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../../../outside", root.join("real/relative")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let fd = OwnedFd::from(std::fs::File::open(&root).unwrap());
        for path in ["/a/b/c", "/absolute/x", "/real/relative/y", "/real/../up"] {
            make(fd.as_fd(), path, &|| Ok(None)).unwrap();
        }
        make(fd.as_fd(), "/a/b", &|| Ok(None)).unwrap();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert!(root.join("a/b/c").is_dir() && root.join("up").is_dir());
        let inside = root.join(outside.strip_prefix("/").unwrap());
        assert!(inside.join("x").is_dir());
        assert!(root.join("outside/y").is_dir());
        make(fd.as_fd(), "/loop/x", &|| Ok(None)).unwrap_err();
        make(fd.as_fd(), "/file/x", &|| Ok(None)).unwrap_err();
    }
}
