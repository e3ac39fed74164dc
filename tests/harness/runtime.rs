//! The runtime under test: calling it with a deadline, and what it answered.

use super::process;
use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a single call may take; only a hang takes longer.
const LIMIT: Duration = Duration::from_secs(25);

/// The runtime's path, its state root, and the record of every call made in this test.
#[derive(Debug)]
pub(crate) struct Runtime {
    path: RefCell<PathBuf>,
    user: Cell<Option<u32>>,
    pub(crate) root: PathBuf,
    scratch: PathBuf,
    transcript: RefCell<String>,
}

/// What a call answered. Output goes through files, because a container inherits them and may outlive the call.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) command: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A call that is still running.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    command: String,
    stdout: File,
    stderr: File,
}

impl Runtime {
    pub(crate) fn new(path: PathBuf, dir: &Path) -> Self {
        let scratch = dir.join("scratch");
        std::fs::create_dir_all(&scratch).unwrap();
        Self {
            path: RefCell::new(path),
            user: Cell::new(None),
            root: dir.join("state"),
            scratch,
            transcript: RefCell::default(),
        }
    }

    /// The binary that is called.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.borrow().clone()
    }

    /// Whether our own runtime is under test, by its name.
    pub(crate) fn is_rcrun(&self) -> bool {
        self.path().file_name().is_some_and(|name| name == "rcrun")
    }

    /// From now on calls a copy, which an attack may destroy.
    pub(crate) fn use_copy(&self) -> PathBuf {
        let copy = self.scratch.join(self.path().file_name().unwrap());
        std::fs::copy(self.path(), &copy).unwrap();
        self.path.replace(copy.clone());
        copy
    }

    /// From now on is called by an ordinary user, who owns the state root.
    pub(crate) fn as_user(&self, user: u32) {
        // The build directory may be closed to others.
        self.use_copy();
        std::fs::create_dir(&self.root).unwrap();
        std::os::unix::fs::chown(&self.root, Some(user), Some(user)).unwrap();
        self.user.set(Some(user));
    }

    /// A command with the state root set and nothing else.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = match self.user.get() {
            None => Command::new(self.path()),
            Some(user) => {
                let user = user.to_string();
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
                command.arg(self.path());
                command
            }
        };
        command.arg("--root").arg(&self.root).args(args);
        command.env_remove("RCRUN_TEST_STAGE");
        command.stdin(Stdio::null());
        command
    }

    /// Calls the runtime and waits for it.
    #[track_caller]
    pub(crate) fn call<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.finish(self.spawn(self.command(args)))
    }

    #[track_caller]
    pub(crate) fn finish(&self, running: Running) -> Output {
        self.finish_within(running, LIMIT)
    }

    #[track_caller]
    pub(crate) fn finish_within(&self, mut running: Running, limit: Duration) -> Output {
        let status = process::wait_for(&mut running.child, limit).unwrap();
        let Some(status) = status else {
            let table = process::table();
            let _ = running.child.kill();
            let _ = running.child.wait();
            let said = running.read().1;
            panic!("`{}` hangs\n{said}\n{table}", running.command);
        };
        let (stdout, stderr) = running.read();
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let output = Output {
            command: running.command,
            code,
            stdout,
            stderr,
        };
        let mut text = output.to_string();
        text.truncate(
            (0..=2000)
                .rev()
                .find(|i| text.is_char_boundary(*i))
                .unwrap_or(0),
        );
        self.note(&format!("{text}\n"));
        output
    }

    /// Starts a command with its output going to files of its own.
    #[track_caller]
    pub(crate) fn spawn(&self, mut command: Command) -> Running {
        let mut files = (0..2).map(|_| self.scratch_file());
        let (stdout, stderr) = (files.next().unwrap(), files.next().unwrap());
        command
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap());
        let text = command
            .get_args()
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>()
            .join(" ");
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.path().display()));
        Running {
            child,
            command: text,
            stdout,
            stderr,
        }
    }

    /// An unlinked file: it vanishes with its last user.
    fn scratch_file(&self) -> File {
        let path = self.scratch.join("output");
        let mut options = File::options();
        let file = options
            .read(true)
            .append(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        file
    }

    pub(crate) fn note(&self, text: &str) {
        self.transcript.borrow_mut().push_str(text);
    }

    /// The last part of what happened, for a failed test.
    pub(crate) fn transcript(&self) -> String {
        let all = self.transcript.borrow();
        let start = all.len().saturating_sub(12_000);
        let start = (start..all.len())
            .find(|i| all.is_char_boundary(*i))
            .unwrap_or(all.len());
        all[start..].to_owned()
    }
}

impl Running {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// A second handle on the output, for what a container writes after the call.
    pub(crate) fn take_stdout(&self) -> File {
        self.stdout.try_clone().unwrap()
    }

    /// What was written so far.
    pub(crate) fn read(&mut self) -> (String, String) {
        let mut text = [String::new(), String::new()];
        for (file, into) in [&mut self.stdout, &mut self.stderr]
            .into_iter()
            .zip(&mut text)
        {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            *into = String::from_utf8_lossy(&bytes).into_owned();
        }
        let [stdout, stderr] = text;
        (stdout, stderr)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "$ {}\n-> {}\n{}{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

impl Output {
    /// The call succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of\n{self}");
        self
    }

    /// The call refused: it failed by itself, not by a signal, and said why.
    #[track_caller]
    pub(crate) fn fails(self) -> Self {
        assert!(
            self.code != 0 && self.code < 128 || self.code == 255,
            "should have been refused:\n{self}"
        );
        assert!(
            !self.stderr.trim().is_empty(),
            "failed without a word:\n{self}"
        );
        self
    }

    /// The error text names this, in whatever case.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        let said = self.stderr.to_lowercase();
        assert!(
            said.contains(&text.to_lowercase()),
            "the error does not say {text:?}:\n{self}"
        );
        self
    }

    /// Standard output without the last line feed.
    pub(crate) fn text(&self) -> &str {
        self.stdout.trim_end()
    }

    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert_eq!(self.text(), text, "output of\n{self}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}):\n{self}"))
    }
}
