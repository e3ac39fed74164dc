//! From a remote to a tree.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use rcrun_overlay::archive::name::join;
use rcrun_overlay::layer::tree::remove;

use super::Settings;
use super::address::{Address, is_reference};
use super::program::Git;
use crate::context::open;
use crate::context::tree::{Owners, Tree};
use crate::{Context, Error, ErrorKind, Result};

/// Which commit an address means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Its id: with [`Address::subdir`], submodules and keep-git-dir the cache key.
    pub commit: String,
    /// The full name of the reference, where it is one.
    pub reference: Option<String>,
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Asks the remote.
pub fn resolve(address: &Address, settings: &Settings) -> Result<Resolved> {
    let wrong = |found: &str, expected: &str| {
        let remote = &address.remote;
        let message =
            format!("expected the commit of {remote} to begin with {expected}, got {found}");
        Err(Error::invalid(message)
            .with_hint("the reference is another commit than the checksum says"))
    };
    let checksum = address.checksum.as_deref().unwrap_or_default();
    let named = address.reference.as_deref().filter(|text| is_commit(text));
    if let Some(commit) = named {
        let commit = commit.to_ascii_lowercase();
        if !commit.starts_with(checksum) {
            return wrong(&commit, checksum);
        }
        return Ok(Resolved {
            commit,
            reference: None,
        });
    }
    if address.by_commit {
        if !is_commit(checksum) {
            let message = format!(
                "fetch-by-commit of {} needs a whole commit id",
                address.remote
            );
            return Err(Error::invalid(message));
        }
        let qualified = |text: &String| match text.starts_with("refs/") {
            true => text.clone(),
            false => format!("refs/heads/{text}"),
        };
        return Ok(Resolved {
            commit: checksum.to_owned(),
            reference: address.reference.as_ref().map(qualified),
        });
    }
    let git = Git::new(address, settings);
    let reference = match &address.reference {
        Some(reference) => reference.clone(),
        None => default_branch(&git, address)?,
    };
    let peeled = format!("{reference}^{{}}");
    let listed = git.run(&["ls-remote", "--", &address.remote, &reference, &peeled])?;
    let Some((object, commit, name)) = pick(&listed, &reference) else {
        let message = format!("cannot find reference {reference:?} in {}", address.remote);
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    if !object.starts_with(checksum) && !commit.starts_with(checksum) {
        return wrong(&commit, checksum);
    }
    Ok(Resolved {
        commit,
        reference: Some(name),
    })
}

/// The branch that HEAD is. The server says it, so it is checked like any other.
fn default_branch(git: &Git<'_>, address: &Address) -> Result<String> {
    let listed = git.run(&["ls-remote", "--symref", "--", &address.remote, "HEAD"])?;
    let branch = listed.lines().find_map(|line| {
        let line = line.strip_prefix("ref: ")?;
        let (name, head) = line.split_once('\t')?;
        (head == "HEAD" && name.starts_with("refs/heads/")).then(|| name.to_owned())
    });
    let branch = branch.filter(|name| is_reference(name));
    branch.ok_or_else(|| {
        let message = format!("cannot find the default branch of {}", address.remote);
        Error::new(ErrorKind::NotFound, message)
    })
}

/// Object, commit and name of a reference, of what `ls-remote` lists. As git, a branch comes before
/// a tag.
fn pick(listed: &str, reference: &str) -> Option<(String, String, String)> {
    let rest = |prefix: &str| {
        reference
            .strip_prefix(prefix)
            .unwrap_or(reference)
            .to_owned()
    };
    let names = [
        format!("refs/{}", rest("refs/")),
        format!("refs/heads/{}", rest("refs/heads/")),
        format!("refs/tags/{}", rest("refs/tags/")),
    ];
    let object = |name: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
        let (id, _) = lines.find(|(id, found)| *found == name && is_commit(id))?;
        Some(id.to_ascii_lowercase())
    };
    names.into_iter().find_map(|name| {
        let found = object(&name)?;
        let commit = object(&format!("{name}^{{}}")).unwrap_or_else(|| found.clone());
        Some((found, commit, name))
    })
}

/// Fetches exactly that commit into an empty scratch directory; the tree is its subdirectory where
/// the address names one.
pub fn checkout(
    address: &Address,
    resolved: &Resolved,
    settings: &Settings,
    scratch: &Path,
) -> Result<Tree> {
    let tree = scratch.join("tree");
    let keep = address.keep_git_dir.unwrap_or(settings.keep_git_dir) && address.subdir.is_none();
    let repository = if keep {
        tree.join(".git")
    } else {
        scratch.join("repository")
    };
    for directory in [&tree, &repository] {
        rustix::fs::mkdir(directory, Mode::from(0o755))
            .context(|| format!("cannot make {}", directory.display()))?;
    }
    let git = Git::new(address, settings).within(&repository, &tree);
    let format = match resolved.commit.len() {
        64 => "--object-format=sha256",
        _ => "--object-format=sha1",
    };
    git.run(&["init", "--quiet", format])?;
    obtain(&git, address, resolved)?;
    if keep && let Some(reference) = &resolved.reference {
        git.run(&["update-ref", reference, &resolved.commit])?;
    }
    git.run(&[
        "checkout",
        "--quiet",
        "--force",
        "--detach",
        &resolved.commit,
    ])?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = rustix::fs::openat(CWD, &tree, flags, Mode::empty())
        .context(|| format!("cannot open {}", tree.display()))?;
    let modules = open::stat(&root, b".gitmodules")?.is_some();
    if modules && address.submodules != Some(false) {
        submodules(&git)?;
    }
    if keep {
        git.run(&["remote", "add", "origin", &address.remote])?;
        git.run(&["reflog", "expire", "--all", "--expire=now"])?;
        let head = repository.join("FETCH_HEAD");
        match rustix::fs::unlink(&head) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => {
                return Err(errno).context(|| format!("cannot remove {}", head.display()));
            }
        }
    } else if modules {
        // They name the repository, which nobody keeps.
        each(&root, &mut |at, name, _| match name {
            b".git" => remove(at.as_fd(), name),
            _ => Ok(()),
        })?;
    }
    if address.commit_times {
        set_times(&root, time_of(&git, &resolved.commit)?)?;
    }
    let root = match &address.subdir {
        Some(subdir) => subdirectory(&root, subdir, address)?,
        None => root,
    };
    Ok(Tree::new(root, Owners::Root, &address.remote))
}

/// All submodules, and theirs: shallow where their servers can.
fn submodules(git: &Git<'_>) -> Result<()> {
    let update = [
        "submodule",
        "--quiet",
        "update",
        "--init",
        "--recursive",
        "--depth=1",
    ];
    let shallow = git.run(&update);
    match shallow {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        // A server that only knows files, such as any web server, has no shallow history.
        Err(_) => git.run(&update[..update.len() - 1]).map(drop),
    }
}

/// When a commit was made, seconds since 1970: one that [`checkout`] fetched into this directory.
pub fn time(address: &Address, commit: &str, scratch: &Path) -> Result<i64> {
    let tree = scratch.join("tree");
    let kept = tree.join(".git");
    let repository = match rustix::fs::stat(&kept) {
        Ok(_) => kept,
        Err(_) => scratch.join("repository"),
    };
    let settings = Settings::default();
    let git = Git::new(address, &settings).within(&repository, &tree);
    time_of(&git, commit).context(|| format!("cannot tell the time of commit {commit}"))
}

fn time_of(git: &Git<'_>, commit: &str) -> Result<i64> {
    let time = git.run(&["log", "-1", "--format=%ct", commit])?;
    let none = |_| Error::invalid("a commit has no time");
    time.trim().parse().map_err(none)
}

/// Fetches the commit in the cheapest way that the server allows.
fn obtain(git: &Git<'_>, address: &Address, resolved: &Resolved) -> Result<()> {
    let (remote, commit) = (address.remote.as_str(), resolved.commit.as_str());
    let reference = resolved
        .reference
        .as_ref()
        .map(|name| format!("+{name}:refs/rcrun/wanted"));
    let everything = [
        "+refs/heads/*:refs/rcrun/heads/*",
        "+refs/tags/*:refs/rcrun/tags/*",
    ];
    let mut ways: Vec<(bool, Vec<&str>)> = vec![(true, vec![commit]), (false, vec![commit])];
    if let Some(reference) = &reference {
        ways.extend([
            (true, vec![reference.as_str()]),
            (false, vec![reference.as_str()]),
        ]);
    }
    ways.push((false, everything.to_vec()));
    let wanted = format!("{commit}^{{commit}}");
    let mut first = None;
    for (shallow, references) in ways {
        let mut arguments = vec!["fetch", "--quiet", "--no-tags", "--force"];
        if shallow {
            arguments.push("--depth=1");
        }
        arguments.extend(["--", remote]);
        arguments.extend(references);
        match git.run(&arguments) {
            Ok(_) if git.run(&["cat-file", "-e", &wanted]).is_ok() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(error),
            Err(error) => {
                git.notice().otherwise(&error);
                first.get_or_insert(error);
            }
        }
    }
    let message = format!("cannot find commit {commit} in {remote}");
    Err(match first {
        Some(error) => error.context(message),
        None => Error::new(ErrorKind::NotFound, message),
    })
}

/// Opens a directory of the repository. A link may not lead to it: it could lead anywhere.
fn subdirectory(root: &OwnedFd, subdir: &str, address: &Address) -> Result<OwnedFd> {
    let names: Vec<&[u8]> = open::parts(subdir.as_bytes()).collect();
    open::directory(root, &names.join(&b'/')).context(|| {
        format!(
            "cannot use {subdir:?} of {}: it must be a directory that no link leads to",
            address.remote
        )
    })
}

/// Is given a directory, a name in it, and whether that is a directory.
type Visit<'a> = &'a mut dyn FnMut(&OwnedFd, &[u8], bool) -> Result<()>;

/// Visits everything below a directory, what is in a directory before it.
fn each(root: &OwnedFd, visit: Visit<'_>) -> Result<()> {
    let mut waiting: Vec<(Vec<u8>, bool)> = vec![(Vec::new(), false)];
    while let Some((path, done)) = waiting.pop() {
        if done {
            let (above, name) = rcrun_overlay::archive::name::split(&path);
            if !path.is_empty() {
                visit(&open::directory(root, above)?, name, true)?;
            }
            continue;
        }
        waiting.push((path.clone(), true));
        let directory = open::directory(root, &path)?;
        for name in open::names(directory.as_fd())? {
            let Some(stat) = open::stat(&directory, &name)? else {
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => waiting.push((join(&path, &name), false)),
                _ => visit(&directory, &name, false)?,
            }
        }
    }
    Ok(())
}

fn set_times(root: &OwnedFd, seconds: i64) -> Result<()> {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    each(root, &mut |at, name, _| {
        let name = CString::new(name).map_err(|_| Error::invalid("a name has a zero byte"))?;
        rustix::fs::utimensat(at, &name, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .context(|| "cannot set times")
    })?;
    rustix::fs::futimens(root, &times).context(|| "cannot set times")
}

#[cfg(test)]
mod tests;
