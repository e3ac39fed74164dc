//! Every rule of COPY and ADD, on real files.

mod add;
mod checksums;
mod faithful;
mod from_ignored;
mod hostile;
mod rules;
mod scale;

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Chmod, Options, Owner, Report, Request, Source, Times, Unpack, select};
use crate::Result;
use crate::context::ignore::Ignore;
use crate::context::tree::{Owners, Tree};

/// A directory to copy from, and a root to copy into.
struct Case {
    directory: tempfile::TempDir,
    tree: Tree,
    times: Times,
}

/// Any moment that is not now.
fn moment() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// Makes files: `name` with its name as content, `name=content`, `dir/`, `link -> target`.
fn populate(root: &Path, files: &[&str]) {
    for file in files {
        if let Some((name, target)) = file.split_once(" -> ") {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
        } else if file.ends_with('/') {
            std::fs::create_dir_all(root.join(file)).unwrap();
        } else {
            let (name, content) = file.split_once('=').unwrap_or((file, file));
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

impl Case {
    fn new(files: &[&str]) -> Self {
        Self::within(tempfile::tempdir().unwrap(), files)
    }

    /// In memory, where there is room for many files in little time.
    fn large() -> Self {
        let memory = tempfile::tempdir_in("/dev/shm");
        Self::within(memory.or_else(|_| tempfile::tempdir()).unwrap(), &[])
    }

    fn within(directory: tempfile::TempDir, files: &[&str]) -> Self {
        for name in ["from", "root"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        populate(&directory.path().join("from"), files);
        let tree = Tree::open(&directory.path().join("from"), "the build context").unwrap();
        Self {
            directory,
            tree,
            times: Times::Set(moment()),
        }
    }

    /// As a stage, whose owners count.
    fn stage(files: &[&str]) -> Self {
        let mut case = Self::new(files);
        let root = std::fs::File::open(case.from("")).unwrap();
        case.tree = Tree::new(OwnedFd::from(root), Owners::Kept, "stage \"base\"");
        case
    }

    fn ignoring(mut self, text: &str) -> Self {
        self.tree = self.tree.ignoring(Ignore::parse(text.as_bytes()).unwrap());
        self
    }

    /// With these files in the root.
    fn onto(self, files: &[&str]) -> Self {
        populate(&self.root(""), files);
        self
    }

    fn from(&self, path: &str) -> PathBuf {
        self.directory.path().join("from").join(path)
    }

    fn root(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    fn request(&self, sources: &[&str], dest: &str) -> Request {
        let source = |path: &&str| Source::Path {
            tree: self.tree.clone(),
            path: (*path).to_owned(),
        };
        Request {
            sources: sources.iter().map(source).collect(),
            dest: dest.to_owned(),
            owner: None,
            chmod: None,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::No,
        }
    }

    fn run(&self, request: &Request) -> Result<Report> {
        let selection = select(request)?;
        let root = OwnedFd::from(std::fs::File::open(self.root("")).unwrap());
        selection.execute(
            root.as_fd(),
            Options {
                times: self.times,
                threads: 2,
            },
        )
    }

    /// COPY SOURCES DEST.
    fn copy(&self, sources: &[&str], dest: &str) -> Result<Report> {
        self.run(&self.request(sources, dest))
    }

    /// What is in the root, in order: see [`listing`].
    fn listing(&self) -> String {
        listing(&self.root(""))
    }
}

/// Names with contents; directories end with a slash, links show their targets.
fn listing(root: &Path) -> String {
    fn add(path: &Path, shown: &str, out: &mut String) {
        let mut entries: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{shown}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                let below = out.len();
                add(&entry.path(), &format!("{name}/"), out);
                if out.len() == below {
                    write!(out, "{name}/ ").unwrap();
                }
            } else if kind.is_symlink() {
                let target = std::fs::read_link(entry.path()).unwrap();
                write!(out, "{name}->{} ", target.display()).unwrap();
            } else if kind.is_file() {
                let content = std::fs::read_to_string(entry.path());
                let content = content.unwrap_or_else(|_| "?".to_owned());
                let last = entry.file_name();
                let relative = content == last.to_string_lossy()
                    || content.ends_with(&format!("/{}", last.to_string_lossy()));
                match relative {
                    true => write!(out, "{name} ").unwrap(),
                    false => write!(out, "{name}={content} ").unwrap(),
                }
            } else if kind.is_fifo() {
                write!(out, "{name}| ").unwrap();
            } else {
                write!(out, "{name}? ").unwrap();
            }
        }
    }
    let mut out = String::new();
    add(root, "", &mut out);
    out.trim_end().to_owned()
}

/// `mode uid gid mtime`.
fn attributes(path: &Path) -> String {
    let stat = std::fs::symlink_metadata(path).unwrap();
    let mode = stat.permissions().mode() & 0o7777;
    format!("{mode:o} {} {} {}", stat.uid(), stat.gid(), stat.mtime())
}

fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root {what}");
    }
    root
}
