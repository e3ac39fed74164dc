//! A created container and the verbs that take its ID. Dropping it deletes it by force.

use super::bundle::attempts;
use super::env::read;
use super::{Env, Output, process};
use serde_json::Value;
use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::Command;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Container<'e> {
    pub(crate) env: &'e Env,
    pub(crate) id: String,
    stdout: RefCell<File>,
}

impl<'e> Container<'e> {
    pub(crate) fn new(env: &'e Env, id: &str, stdout: File) -> Self {
        Self {
            env,
            id: id.to_owned(),
            stdout: RefCell::new(stdout),
        }
    }

    /// A verb without further arguments.
    #[track_caller]
    pub(crate) fn verb(&self, verb: &str) -> Output {
        self.env.rt.call(&[verb, &self.id])
    }

    #[track_caller]
    pub(crate) fn start(&self) {
        self.verb("start").ok();
    }

    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        self.verb("state").ok().json()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    /// The host's number of the container's init.
    #[track_caller]
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().unwrap()).unwrap()
    }

    #[track_caller]
    pub(crate) fn kill(&self, signal: &str) {
        self.env.rt.call(&["kill", &self.id, signal]).ok();
    }

    /// Kills with SIGKILL and waits for `stopped`.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.kill("KILL");
        self.wait_stopped();
    }

    #[track_caller]
    pub(crate) fn delete(self) {
        self.verb("delete").ok();
    }

    #[track_caller]
    pub(crate) fn wait_status(&self, wanted: &str) {
        process::until(&format!("{} is {wanted}", self.id), 15, || {
            (self.status() == wanted).then_some(())
        });
    }

    #[track_caller]
    pub(crate) fn wait_stopped(&self) {
        let pid = self.pid();
        if pid > 0 {
            let dead = process::wait_pid(pid, Duration::from_secs(15)).unwrap();
            assert!(dead, "{} lives on:\n{}", self.id, process::table());
        }
        self.wait_status("stopped");
    }

    /// What its process has printed so far.
    pub(crate) fn stdout(&self) -> String {
        let mut text = String::new();
        let mut file = self.stdout.borrow_mut();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    /// Waits until the container printed this text.
    #[track_caller]
    pub(crate) fn wait_output(&self, text: &str) -> String {
        process::until(&format!("{} prints {text:?}", self.id), 15, || {
            let out = self.stdout();
            out.contains(text).then_some(out)
        })
    }

    /// `exec ID ARGS`.
    #[track_caller]
    pub(crate) fn exec(&self, args: &[&str]) -> Output {
        self.exec_with(&[], args)
    }

    #[track_caller]
    pub(crate) fn exec_with(&self, flags: &[&str], args: &[&str]) -> Output {
        self.env
            .rt
            .finish(self.env.rt.spawn(self.exec_command(flags, args)))
    }

    /// The pid of a process that `exec` leaves in the background.
    #[track_caller]
    pub(crate) fn exec_detached(&self, args: &[&str]) -> i32 {
        let path = self.env.path("exec.pid");
        let flags = ["--detach", "--pid-file", path.to_str().unwrap()];
        self.exec_with(&flags, args).ok();
        read(&path).parse().expect("a number without a line feed")
    }

    pub(crate) fn exec_command(&self, flags: &[&str], args: &[&str]) -> Command {
        let mut all = vec!["exec"];
        all.extend(flags);
        all.push(&self.id);
        all.extend(args);
        self.env.rt.command(&all)
    }

    /// What a process sees that is started by `exec`.
    #[track_caller]
    pub(crate) fn exec_facts(&self, flags: &[&str]) -> Value {
        self.exec_with(flags, &["/bin/probe", "facts"]).ok().json()
    }

    #[track_caller]
    pub(crate) fn exec_attempts(&self, flags: &[&str], operations: &[&str]) -> Vec<(i32, String)> {
        let mut all = vec!["/bin/probe", "try"];
        all.extend(operations);
        attempts(&self.exec_with(flags, &all).ok().json())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if !self.env.rt.root.join(&self.id).exists() {
            return;
        }
        if std::thread::panicking() {
            // The first failure is the one to report.
            let mut command = self.env.rt.command(&["delete", "--force", &self.id]);
            let _ = command.output();
        } else {
            self.env.rt.call(&["delete", "--force", &self.id]).ok();
        }
    }
}
