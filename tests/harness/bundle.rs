//! A bundle: a root file system made of hard links, and a spec that a test edits before using it.

use super::runtime::Running;
use super::{Container, Env, Output};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The spec is written to `config.json` by each verb that uses it.
#[derive(Debug)]
pub(crate) struct Bundle<'e> {
    pub(crate) env: &'e Env,
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    pub(crate) spec: Value,
}

impl<'e> Bundle<'e> {
    pub(crate) fn new(env: &'e Env, mut spec: Value) -> Self {
        let id = env.unique();
        let path = env.dir.join(&id);
        link_tree(&env.base(), &path.join("rootfs"));
        if spec.pointer("/linux/cgroupsPath").is_some() {
            spec["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", env.tag));
        }
        Self {
            env,
            id,
            path,
            spec,
        }
    }

    pub(crate) fn args(&mut self, args: &[&str]) -> &mut Self {
        self.spec["process"]["args"] = json!(args);
        self
    }

    /// A shell script as the container's process.
    pub(crate) fn sh(&mut self, script: &str) -> &mut Self {
        self.args(&["sh", "-c", script])
    }

    /// Sets what a JSON pointer names, making the objects on its way.
    #[track_caller]
    pub(crate) fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut at = &mut self.spec;
        for key in pointer.trim_start_matches('/').split('/') {
            at = match key.parse::<usize>() {
                Ok(index) if at.is_array() => &mut at[index],
                _ => &mut at[key],
            };
        }
        *at = value;
        self
    }

    /// Appends to the array that a JSON pointer names, making it if need be.
    #[track_caller]
    pub(crate) fn push(&mut self, pointer: &str, value: Value) -> &mut Self {
        if self.spec.pointer(pointer).is_none() {
            self.set(pointer, json!([]));
        }
        self.spec
            .pointer_mut(pointer)
            .unwrap()
            .as_array_mut()
            .unwrap()
            .push(value);
        self
    }

    pub(crate) fn unset(&mut self, parent: &str, key: &str) -> &mut Self {
        self.spec
            .pointer_mut(parent)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove(key);
        self
    }

    pub(crate) fn mount(&mut self, mount: Value) -> &mut Self {
        self.push("/mounts", mount)
    }

    /// A bind mount with options besides `bind`.
    pub(crate) fn bind(&mut self, source: &Path, target: &str, options: &[&str]) -> &mut Self {
        let mut all = vec!["bind"];
        all.extend(options);
        self.mount(json!({"destination": target, "type": "bind", "source": source, "options": all}))
    }

    /// Removes the mounts on this destination.
    pub(crate) fn without_mount(&mut self, destination: &str) -> &mut Self {
        let mounts = self.spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != destination);
        self
    }

    /// Grants capabilities in all sets but inheritable and ambient.
    pub(crate) fn caps(&mut self, names: &[&str]) -> &mut Self {
        for set in ["bounding", "effective", "permitted"] {
            for name in names {
                self.push(&format!("/process/capabilities/{set}"), json!(name));
            }
        }
        self
    }

    pub(crate) fn without_namespace(&mut self, kind: &str) -> &mut Self {
        let all = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|n| n["type"] != kind);
        self
    }

    /// Replaces the namespace of this kind by the one a path names.
    pub(crate) fn join(&mut self, kind: &str, path: impl AsRef<Path>) -> &mut Self {
        self.without_namespace(kind);
        self.push(
            "/linux/namespaces",
            json!({"type": kind, "path": path.as_ref()}),
        )
    }

    /// A user namespace in which container id 0 is host id 100000, 65536 ids long.
    pub(crate) fn userns(&mut self) -> &mut Self {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        self.push("/linux/namespaces", json!({"type": "user"}));
        self.set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
    }

    pub(crate) fn rootfs(&self, relative: &str) -> PathBuf {
        self.path
            .join("rootfs")
            .join(relative.trim_start_matches('/'))
    }

    /// A file inside the root file system; parents are made.
    pub(crate) fn file(&self, relative: &str, content: &str) -> PathBuf {
        let path = self.rootfs(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        path
    }

    /// An executable file inside the root file system.
    pub(crate) fn program(&self, relative: &str, content: &[u8]) -> PathBuf {
        let path = self.file(relative, "");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// An executable shell script inside the root file system.
    pub(crate) fn script(&self, relative: &str, body: &str) -> PathBuf {
        self.program(relative, format!("#!/bin/sh\n{body}\n").as_bytes())
    }

    /// Adds a hook of this kind.
    pub(crate) fn hook(&mut self, kind: &str, hook: Value) -> &mut Self {
        self.push(&format!("/hooks/{kind}"), hook)
    }

    /// Gives the bundle copies of the programs instead of hard links: for attacks that write to them.
    pub(crate) fn own_programs(&self) -> &Self {
        for name in ["bin/busybox", "bin/probe"] {
            let path = self.rootfs(name);
            fs::remove_file(&path).unwrap();
            fs::copy(self.env.base().join(name), &path).unwrap();
        }
        self
    }

    pub(crate) fn directory(&self, relative: &str) -> PathBuf {
        let path = self.rootfs(relative);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn link(&self, relative: &str, target: impl AsRef<Path>) -> PathBuf {
        let path = self.rootfs(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir(&path).unwrap();
        } else {
            let _ = fs::remove_file(&path);
        }
        symlink(target, &path).unwrap();
        path
    }

    pub(crate) fn write(&self) {
        let text = serde_json::to_vec_pretty(&self.spec).unwrap();
        fs::write(self.path.join("config.json"), text).unwrap();
    }

    /// `VERB [extra] --bundle PATH ID`, not yet started.
    pub(crate) fn command(&self, verb: &str, extra: &[&str]) -> Command {
        self.write();
        let path = self.path.to_str().unwrap();
        let mut args = vec![verb];
        args.extend(extra);
        args.extend(["--bundle", path, &self.id]);
        self.env.rt.command(&args)
    }

    /// Runs the container in the foreground and returns what it printed.
    #[track_caller]
    pub(crate) fn run(&self) -> Output {
        self.run_with(&[])
    }

    /// Runs a process and sees that it ran: a runtime that does nothing must not pass.
    #[track_caller]
    pub(crate) fn runs(&mut self) {
        self.args(&["/bin/busybox", "echo", "it ran"])
            .run()
            .ok()
            .prints("it ran");
    }

    #[track_caller]
    pub(crate) fn run_with(&self, extra: &[&str]) -> Output {
        self.env
            .rt
            .finish(self.env.rt.spawn(self.command("run", extra)))
    }

    /// Starts `run` and does not wait.
    #[track_caller]
    pub(crate) fn run_in_background(&self, extra: &[&str]) -> Running {
        self.env.rt.spawn(self.command("run", extra))
    }

    #[track_caller]
    pub(crate) fn create(&self) -> Container<'e> {
        self.create_with(&[])
    }

    #[track_caller]
    pub(crate) fn create_with(&self, extra: &[&str]) -> Container<'e> {
        let running = self.env.rt.spawn(self.command("create", extra));
        let stdout = running.take_stdout();
        self.env.rt.finish(running).ok();
        Container::new(self.env, &self.id, stdout)
    }

    /// A created and started container.
    #[track_caller]
    pub(crate) fn start(&self) -> Container<'e> {
        let container = self.create();
        container.start();
        container
    }

    /// A started container that sleeps until it is killed.
    #[track_caller]
    pub(crate) fn sleeper(&mut self) -> Container<'e> {
        self.args(&["sleep", "1000"]);
        self.start()
    }

    /// `create` that must be refused, and must leave nothing.
    #[track_caller]
    pub(crate) fn refused(&self) -> Output {
        let output = self
            .env
            .rt
            .finish(self.env.rt.spawn(self.command("create", &[])));
        if output.code == 0 {
            let _ = self.env.rt.call(&["delete", "--force", &self.id]);
        }
        let output = output.fails();
        let state = self.env.rt.root.join(&self.id);
        assert!(
            !state.exists(),
            "a refused container keeps {}:\n{output}",
            state.display()
        );
        output
    }

    /// Runs the probe with these arguments and parses what it prints.
    #[track_caller]
    pub(crate) fn probe(&mut self, args: &[&str]) -> Value {
        let mut all = vec!["/bin/probe"];
        all.extend(args);
        self.args(&all).run().ok().json()
    }

    /// What a process sees that is started with this spec.
    #[track_caller]
    pub(crate) fn facts(&mut self) -> Value {
        self.probe(&["facts"])
    }

    /// Tries each operation inside the container: errno 0 means that it succeeded.
    #[track_caller]
    pub(crate) fn errnos(&mut self, operations: &[&str]) -> Vec<i32> {
        let answers = self.attempts(operations);
        answers.into_iter().map(|(errno, _)| errno).collect()
    }

    /// The same, with what the operations gave.
    #[track_caller]
    pub(crate) fn attempts(&mut self, operations: &[&str]) -> Vec<(i32, String)> {
        let mut all = vec!["try"];
        all.extend(operations);
        attempts(&self.probe(&all))
    }
}

/// The errno and text of each attempt that the probe printed.
#[track_caller]
pub(crate) fn attempts(printed: &Value) -> Vec<(i32, String)> {
    let one = |entry: &Value| {
        let errno = i32::try_from(entry["errno"].as_i64().unwrap()).unwrap();
        (errno, entry["text"].as_str().unwrap().to_owned())
    };
    printed.as_array().unwrap().iter().map(one).collect()
}

/// Directories are made, files are hard-linked, symlinks are made again.
pub(crate) fn link_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            link_tree(&source, &target);
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source).unwrap(), &target).unwrap();
        } else {
            fs::hard_link(&source, &target).unwrap();
        }
    }
}
