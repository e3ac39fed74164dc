//! Containers of images, as people make them.

use super::runtime::Running;
use super::store::{Image, Shelf};
use super::{Env, Output};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A store with an image `app` of the base root file system, and what is made of it.
pub(crate) struct People<'a> {
    pub(crate) env: &'a Env,
    pub(crate) shelf: Shelf<'a>,
}

/// Program and links of the base, with a few files, as a layer's archive.
pub(crate) fn layer(env: &Env, files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let base = env.base();
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "var"] {
        entry(&mut builder, name, tar::EntryType::Directory, 0o755, &[]);
    }
    entry(&mut builder, "tmp", tar::EntryType::Directory, 0o1777, &[]);
    let mut names: Vec<PathBuf> = fs::read_dir(base.join("bin"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    for path in names {
        let name = format!("bin/{}", path.file_name().unwrap().to_str().unwrap());
        match fs::read_link(&path) {
            Ok(target) => link(&mut builder, &name, target.to_str().unwrap()),
            // The probe is large, and not needed.
            Err(_) if name == "bin/probe" => {}
            Err(_) => {
                let content = fs::read(&path).unwrap();
                entry(
                    &mut builder,
                    &name,
                    tar::EntryType::Regular,
                    0o755,
                    &content,
                );
            }
        }
    }
    for name in ["etc/passwd", "etc/group"] {
        let content = fs::read(base.join(name)).unwrap();
        entry(&mut builder, name, tar::EntryType::Regular, 0o644, &content);
    }
    for (name, mode, content) in files {
        entry(&mut builder, name, tar::EntryType::Regular, *mode, content);
    }
    builder.into_inner().unwrap()
}

/// An archive with one symbolic link for each pair.
pub(crate) fn links(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, target) in pairs {
        link(&mut builder, name, target);
    }
    builder.into_inner().unwrap()
}

fn entry(
    builder: &mut tar::Builder<Vec<u8>>,
    name: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, name, content).unwrap();
}

fn link(builder: &mut tar::Builder<Vec<u8>>, name: &str, target: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_mode(0o777);
    header.set_size(0);
    builder.append_link(&mut header, name, target).unwrap();
}

impl<'a> People<'a> {
    pub(crate) fn new(env: &'a Env) -> Self {
        Self::with(
            env,
            json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "A=image"]}),
        )
    }

    /// The image has this configuration.
    pub(crate) fn with(env: &'a Env, config: Value) -> Self {
        let people = Self {
            env,
            shelf: Shelf::new(env),
        };
        people.image("app", &[layer(env, &[])], config);
        people
    }

    /// Publishes and pulls another image.
    pub(crate) fn image(&self, name: &str, layers: &[Vec<u8>], config: Value) {
        let mut image = Image::new(layers);
        image.config = config;
        self.shelf.publish(name, &image);
        self.shelf.ok(&["pull", "--quiet", &self.shelf.name(name)]);
    }

    /// `run` of `app` with flags, a command behind it.
    pub(crate) fn command(&self, flags: &[&str], command: &[&str]) -> Command {
        self.command_of("app", flags, command)
    }

    pub(crate) fn command_of(&self, image: &str, flags: &[&str], command: &[&str]) -> Command {
        let image = self.shelf.name(image);
        let parent = format!("--cgroup-parent={}", self.env.tag);
        let words = [&["run", "--pull=never", &parent], flags, &[&image], command].concat();
        self.shelf.command(&words)
    }

    #[track_caller]
    pub(crate) fn run(&self, flags: &[&str], command: &[&str]) -> Output {
        self.env.rt.finish(self.spawn(flags, command))
    }

    #[track_caller]
    pub(crate) fn spawn(&self, flags: &[&str], command: &[&str]) -> Running {
        self.env.rt.spawn(self.command(flags, command))
    }

    /// What a shell script in a container of `app` prints, which is removed at its end.
    #[track_caller]
    pub(crate) fn sh(&self, flags: &[&str], script: &str) -> String {
        let flags = [&["--rm"], flags].concat();
        self.run(&flags, &["sh", "-c", script]).ok().stdout
    }

    /// Directories of containers, whole or not.
    pub(crate) fn containers(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.shelf.path().join("containers"));
        let mut found: Vec<PathBuf> = all
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().is_some_and(|name| name.len() == 64))
            .collect();
        found.sort();
        found
    }

    /// Names that are taken.
    pub(crate) fn names(&self) -> Vec<String> {
        let all = fs::read_dir(self.shelf.path().join("containers/names"));
        let mut found: Vec<String> = all
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        found
    }

    /// Names of snapshots.
    pub(crate) fn snapshots(&self) -> usize {
        // What a killed maker began is no snapshot, and the next sweep takes it (docs/on-disk.md).
        let whole =
            |entry: &fs::DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".new-");
        let entries = fs::read_dir(self.shelf.path().join("snapshots"));
        entries.map_or(0, |entries| entries.flatten().filter(whole).count())
    }

    /// The container's record.
    #[track_caller]
    pub(crate) fn record(&self, directory: &Path) -> Value {
        serde_json::from_slice(&fs::read(directory.join("container.json")).unwrap()).unwrap()
    }

    /// Removes a container, whatever it does.
    #[track_caller]
    pub(crate) fn remove(&self, name: &str) {
        self.shelf.ok(&["rm", "--force", name]);
    }

    /// Nothing of any container is left.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.containers(), Vec::<PathBuf>::new());
        assert_eq!(self.names(), Vec::<String>::new());
        assert_eq!(self.snapshots(), 0);
    }

    /// A file in the test's directory.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.env.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }
}
