//! Containers with a monitor: starting one, its log, its clients, its end. `RELAY` makes this binary the
//! process that shows a container to a person, as `run` and `attach` do.

use super::{Bundle, Env, process};
use rcrun_runtime::monitor::{AttachOptions, Client, Ended, Exit, Relay, RelayOptions, parse_keys};
use serde_json::{Value, json};
use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

const RELAY: &str = "RCRUN_TEST_RELAY";

/// A container and its monitor. Dropping it removes both.
#[derive(Debug)]
pub(crate) struct Monitored<'e> {
    env: &'e Env,
    pub(crate) id: String,
    pub(crate) launch: Value,
    pub(crate) pid: i32,
    pub(crate) monitor: Option<Child>,
}

impl<'e> Bundle<'e> {
    /// A container whose monitor is still to be started, with a log.
    pub(crate) fn monitored(&self) -> Monitored<'e> {
        self.write();
        let launch = json!({
            "version": 1, "id": self.id, "bundle": self.path, "later": {"unknown": [1]},
            "runtime": {"root": self.env.rt.root},
            "log": {"path": self.path.join("log"), "max_size": null, "max_files": 1},
            "exit": self.path.join("exit"),
        });
        Monitored {
            env: self.env,
            id: self.id.clone(),
            launch,
            pid: 0,
            monitor: None,
        }
    }
}

impl Monitored<'_> {
    pub(crate) fn set(mut self, key: &str, value: Value) -> Self {
        self.launch[key] = value;
        self
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.env.rt.root.join(".monitors").join(&self.id)
    }

    /// The monitor's command line; its answer goes to standard output.
    pub(crate) fn command(&self) -> Command {
        let directory = self.directory();
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("launch.json"), self.launch.to_string()).unwrap();
        let mut command =
            (self.env.rt).command(&["monitor", "--ready-fd", "1", directory.to_str().unwrap()]);
        command.stdout(Stdio::piped());
        command
    }

    /// Starts the monitor; what it answers.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Value {
        let mut child = self.command().spawn().unwrap();
        let mut text = String::new();
        let mut answer = child.stdout.take().unwrap();
        answer.read_to_string(&mut text).unwrap();
        self.monitor = Some(child);
        self.env
            .rt
            .note(&format!("monitor of {}: {text}\n", self.id));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"))
    }

    #[track_caller]
    pub(crate) fn start(mut self) -> Self {
        let answer = self.answer();
        let pid = answer["pid"].as_i64().unwrap_or_else(|| panic!("{answer}"));
        self.pid = i32::try_from(pid).unwrap();
        self
    }

    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.env.rt.root, &self.id).unwrap()
    }

    #[track_caller]
    pub(crate) fn try_client(&self) -> rcrun_runtime::Result<Client> {
        Client::connect(&self.env.rt.root, &self.id)
    }

    pub(crate) fn monitor_pid(&self) -> i32 {
        i32::try_from(self.monitor.as_ref().unwrap().id()).unwrap()
    }

    /// Waits for the end of the container and of the monitor.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> Exit {
        let child = self.monitor.as_mut().unwrap();
        let status = process::wait_for(child, Duration::from_secs(20)).unwrap();
        let status = status.unwrap_or_else(|| panic!("the monitor goes on\n{}", process::table()));
        assert!(status.success(), "the monitor: {status}");
        assert!(!self.directory().join("control.sock").exists());
        self.recorded().expect("an exit record")
    }

    #[track_caller]
    pub(crate) fn recorded(&self) -> Option<Exit> {
        Client::recorded_exit(&self.env.rt.root, &self.id).unwrap()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        PathBuf::from(self.launch["log"]["path"].as_str().unwrap())
    }

    /// Lines of the log: stream, tag, text.
    #[track_caller]
    pub(crate) fn log(&self) -> Vec<(String, char, String)> {
        log_lines(&self.log_path())
    }

    /// What one stream printed, as the log has it.
    pub(crate) fn logged(&self, stream: &str) -> String {
        joined(&self.log(), stream)
    }

    /// Waits until the log has this text in it.
    #[track_caller]
    pub(crate) fn wait_log(&self, text: &str) {
        process::until(&format!("the log has {text:?}"), 15, || {
            fs::read_to_string(self.log_path())
                .is_ok_and(|log| log.contains(text))
                .then_some(())
        });
    }

    #[track_caller]
    pub(crate) fn status_of_container(&self) -> String {
        let state = self.env.rt.call(&["state", &self.id]).ok().json();
        state["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn kill_container(&self, signal: &str) {
        self.env.rt.call(&["kill", &self.id, signal]).ok();
    }

    /// This binary, showing the container on whatever streams it is given. Options: `start`, `stdin`,
    /// `lossy`, `proxy`.
    pub(crate) fn relay(&self, options: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(RELAY, options);
        command.arg(&self.env.rt.root).arg(&self.id);
        command
    }
}

impl Drop for Monitored<'_> {
    fn drop(&mut self) {
        let _ = (self.env.rt.command(&["delete", "--force", &self.id])).output();
        if let Some(monitor) = &mut self.monitor {
            if !std::thread::panicking() {
                let ended = process::wait_for(monitor, Duration::from_secs(10)).unwrap();
                assert!(ended.is_some(), "the monitor outlives its container");
            }
            let _ = monitor.kill();
            let _ = monitor.wait();
        }
        let _ = rcrun_runtime::monitor::remove(&self.env.rt.root, &self.id);
    }
}

/// Lines of a log: stream, tag, text. Every line has to have the format, and the file whole lines.
#[track_caller]
pub(crate) fn log_lines(path: &Path) -> Vec<(String, char, String)> {
    let bytes = fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
    let parse = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let mut next = || parts.next().unwrap_or_else(|| panic!("{line:?}"));
        let time = next();
        let (time_length, zone) = (time.len(), &time[time.len() - 1..]);
        assert_eq!((time_length, zone), (30, "Z"), "{line:?}");
        let (stream, tag) = (next().to_owned(), next().to_owned());
        assert!(stream == "stdout" || stream == "stderr", "{line:?}");
        assert!(tag == "P" || tag == "F", "{line:?}");
        (stream, tag.chars().next().unwrap(), next().to_owned())
    };
    // Not `lines`, which takes carriage returns away.
    text.split_terminator('\n').map(parse).collect()
}

/// What lines of one stream stand for.
pub(crate) fn joined(lines: &[(String, char, String)], stream: &str) -> String {
    let of_stream = lines.iter().filter(|(name, ..)| name == stream);
    of_stream
        .map(|(_, tag, text)| format!("{text}{}", if *tag == 'F' { "\n" } else { "" }))
        .collect()
}

/// An attached client with pipes: its connection, the container's output and error.
#[track_caller]
pub(crate) fn attach(
    mut client: Client,
    stdin: Option<OwnedFd>,
    lossless: bool,
) -> (Client, fs::File, fs::File) {
    let (out, out_theirs) = rustix::pipe::pipe().unwrap();
    let (err, err_theirs) = rustix::pipe::pipe().unwrap();
    let options = AttachOptions {
        stdin,
        stdout: Some(out_theirs),
        stderr: Some(err_theirs),
        lossless,
    };
    client.attach(options).unwrap();
    (client, out.into(), err.into())
}

/// Plays the part of a verb that shows a container, if the environment says so.
pub(crate) fn main() -> Option<ExitCode> {
    let options = std::env::var(RELAY).ok()?;
    let has = |word: &str| options.split(' ').any(|option| option == word);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, id] = &arguments[..] else {
        panic!("{arguments:?}");
    };
    let client = Client::connect(Path::new(root), id).unwrap();
    let mut relay = Relay::attach(
        client,
        RelayOptions {
            stdin: has("stdin"),
            output: true,
            lossless: !has("lossy"),
            detach_keys: parse_keys("ctrl-p,ctrl-q").unwrap(),
        },
    )
    .unwrap();
    if has("start") {
        relay.start().unwrap();
    }
    let runtime = rcrun_runtime::container::Runtime {
        root: root.into(),
        cgroup_driver: rcrun_runtime::container::CgroupDriver::Files,
        rootless: None,
    };
    let mut forward = |signal: i32| runtime.kill(id, signal, false);
    let ended = match has("proxy") {
        true => relay.run(Some(&mut forward)),
        false => relay.run(None),
    };
    Some(match ended.unwrap() {
        Ended::Exit(exit) => ExitCode::from(u8::try_from(exit.code).unwrap()),
        Ended::Detached => ExitCode::from(201),
        Ended::Dropped => ExitCode::from(202),
        Ended::Gone => ExitCode::from(203),
        Ended::Interrupted(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap()),
    })
}
