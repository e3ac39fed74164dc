//! Against repositories on loopback.

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
