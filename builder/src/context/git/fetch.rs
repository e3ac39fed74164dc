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
        let update = [
            "submodule",
            "--quiet",
            "update",
            "--init",
            "--recursive",
            "--depth=1",
        ];
        git.run(&update)?;
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
        let time = git.run(&["log", "-1", "--format=%ct", &resolved.commit])?;
        let seconds: i64 = time
            .trim()
            .parse()
            .map_err(|_| Error::invalid("a commit has no time"))?;
        set_times(&root, seconds)?;
    }
    let root = match &address.subdir {
        Some(subdir) => subdirectory(&root, subdir, address)?,
        None => root,
    };
    Ok(Tree::new(root, Owners::Root, &address.remote))
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
mod tests {
    use std::process::Command;

    use super::*;
    use crate::context::git::parse;
    use crate::context::testing::Server;

    struct Repository {
        directory: tempfile::TempDir,
        server: Server,
    }

    impl Repository {
        /// With a file, a directory, a link, a branch, both kinds of tag; none without git.
        fn new() -> Option<Self> {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().to_owned();
            let script = "git init -q -b main . && git config user.email a@b && git config user.name n \
                && mkdir -p sub/deep && echo one > file && echo x > sub/deep/x && chmod 700 sub/deep/x \
                && ln -s /etc way && ln -s sub near && git add . \
                && GIT_COMMITTER_DATE='1000000000 +0000' git commit -q -m one && git tag light \
                && git checkout -q -b other && echo two > file && git commit -q -am two \
                && git tag -a -m note heavy && git checkout -q main && git update-server-info";
            let status = Command::new("sh")
                .args(["-c", script])
                .current_dir(&root)
                .env("HOME", "/dev/null")
                .status();
            if !status.is_ok_and(|status| status.success()) {
                println!("skipped: no git");
                return None;
            }
            let server = Server::files(root);
            Some(Self { directory, server })
        }

        fn git(&self, script: &str) -> String {
            let output = Command::new("sh")
                .args(["-c", script])
                .current_dir(self.directory.path())
                .env("HOME", "/dev/null")
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        }

        fn get(&self, suffix: &str) -> Result<(tempfile::TempDir, Resolved, Tree)> {
            let address = parse(&self.server.url(&format!("/.git{suffix}")))?.unwrap();
            let settings = Settings::default();
            let resolved = resolve(&address, &settings)?;
            let scratch = tempfile::tempdir().unwrap();
            let tree = checkout(&address, &resolved, &settings, scratch.path())?;
            Ok((scratch, resolved, tree))
        }
    }

    fn names(tree: &Tree) -> String {
        let names = open::names(tree.root()).unwrap();
        let names = names
            .iter()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn references_and_subdirectories() {
        let Some(repository) = Repository::new() else {
            return;
        };
        let (main, other) = (
            repository.git("git rev-parse main"),
            repository.git("git rev-parse other"),
        );
        let tag = repository.git("git rev-parse heavy");
        let short = &main[..7];
        for (suffix, commit, listed) in [
            (String::new(), &main, "file near sub way"),
            ("#main".to_owned(), &main, "file near sub way"),
            ("#other:sub".to_owned(), &other, "deep"),
            ("?subdir=/sub/deep/".to_owned(), &main, "x"),
            ("?tag=light".to_owned(), &main, "file near sub way"),
            ("#heavy".to_owned(), &other, "file near sub way"),
            ("#refs/heads/other".to_owned(), &other, "file near sub way"),
            (format!("#{other}"), &other, "file near sub way"),
            (
                format!("?checksum={short}#main"),
                &main,
                "file near sub way",
            ),
            (
                format!("?checksum={tag}&tag=heavy"),
                &other,
                "file near sub way",
            ),
            (
                format!("?fetch-by-commit&checksum={main}#main"),
                &main,
                "file near sub way",
            ),
            (
                "?keep-git-dir=1".to_owned(),
                &main,
                ".git file near sub way",
            ),
        ] {
            let (_scratch, resolved, tree) = repository.get(&suffix).unwrap();
            assert_eq!(resolved.commit, **commit, "{suffix}");
            assert_eq!(names(&tree), listed, "{suffix}");
        }
        let (scratch, _, _) = repository.get("?mtime=commit").unwrap();
        for path in ["tree/file", "tree/sub", "tree/way"] {
            let stat = std::fs::symlink_metadata(scratch.path().join(path)).unwrap();
            use std::os::unix::fs::MetadataExt;
            assert_eq!(stat.mtime(), 1_000_000_000, "{path}");
            if path == "tree/file" {
                assert_eq!(stat.mode() & 0o777, 0o644);
            }
        }
    }

    #[test]
    fn what_is_not_there() {
        let Some(repository) = Repository::new() else {
            return;
        };
        for (suffix, words) in [
            ("#nope", "\"nope\""),
            ("?checksum=abcdef#main", "abcdef"),
            ("#:nope", "\"nope\""),
            ("#:file", "must be a directory"),
            ("#0123456789012345678901234567890123456789", "0123456789"),
            ("?fetch-by-commit&checksum=abc", "whole commit"),
        ] {
            let error = repository.get(suffix).unwrap_err().chain().to_string();
            assert!(error.contains(words), "{suffix}: {error}");
        }
    }

    #[test]
    fn e7_a_link_leads_to_no_subdirectory() {
        let Some(repository) = Repository::new() else {
            return;
        };
        for suffix in ["#:way", "#:near", "#:near/deep", "?subdir=way/ssh"] {
            let error = repository.get(suffix).unwrap_err().chain().to_string();
            assert!(error.contains("no link"), "{suffix}: {error}");
        }
    }

    /// A server whose HEAD is an option for git.
    #[test]
    fn e7_a_server_names_an_option() {
        let Some(repository) = Repository::new() else {
            return;
        };
        let canary = repository.directory.path().join("canary");
        let head = format!(
            "ref: refs/heads/--upload-pack=touch${{IFS}}{}\n",
            canary.display()
        );
        std::fs::write(repository.directory.path().join(".git/HEAD"), head).unwrap();
        repository.get("").unwrap_err();
        assert!(!canary.exists());
    }

    #[test]
    fn e7_hooks_and_files_of_the_host_stay_out() {
        let Some(repository) = Repository::new() else {
            return;
        };
        let canary = repository.directory.path().join("canary");
        let script = format!(
            "printf '[submodule \"s\"]\\n\\tpath = s\\n\\turl = file://{0}/.git\\n' > .gitmodules \
             && git update-index --add --cacheinfo 160000,$(git rev-parse main),s && git add .gitmodules \
             && git commit -q -m sub && git update-server-info",
            repository.directory.path().display()
        );
        repository.git(&script);
        let error = repository.get("").unwrap_err().chain().to_string();
        assert!(error.contains("submodule"), "{error}");
        let (_scratch, _, tree) = repository.get("?submodules=false").unwrap();
        assert!(names(&tree).contains(".gitmodules"));
        assert!(!canary.exists());
    }

    #[test]
    fn picked() {
        let id = |digit: &str| digit.repeat(40);
        let listed = format!(
            "{}\trefs/heads/v1\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n{}\trefs/tags/only\nx\trefs/heads/bad\n",
            id("1"),
            id("2"),
            id("3"),
            id("4")
        );
        for (reference, expected) in [
            ("v1", Some((id("1"), id("1"), "refs/heads/v1"))),
            ("refs/tags/v1", Some((id("2"), id("3"), "refs/tags/v1"))),
            ("only", Some((id("4"), id("4"), "refs/tags/only"))),
            ("tags/v1", Some((id("2"), id("3"), "refs/tags/v1"))),
            ("bad", None),
            ("none", None),
        ] {
            let picked = pick(&listed, reference);
            let expected = expected.map(|(object, commit, name)| (object, commit, name.to_owned()));
            assert_eq!(picked, expected, "{reference}");
        }
    }
}
