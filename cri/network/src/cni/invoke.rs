//! Running one plugin (specification, section 2): found in the directories, told on standard input, with
//! a limit of time after which its whole process group is killed, and limits of what it may say.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;

use crate::{Context, Error, ErrorKind, Result};

/// Bytes of a result.
const RESULT_MAX: usize = 1 << 20;
/// Bytes of what a plugin says on standard error that are kept: the last.
const WORDS_MAX: usize = 4096;
/// What marks the error of a container that the plugin does not know.
const UNKNOWN_CONTAINER: &str = "container unknown to the plugin";

/// What a plugin is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Command {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// Whether it answers with more than its exit code.
    fn answers(self) -> bool {
        matches!(self, Self::Add | Self::Version)
    }
}

/// One call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) programs: &'a [PathBuf],
    pub(super) plugin: &'a str,
    pub(super) command: Command,
    pub(super) environment: &'a [(&'a str, String)],
    pub(super) patience: Duration,
}

/// What came out.
#[derive(Debug, Default)]
struct Said {
    out: Vec<u8>,
    words: Vec<u8>,
}

/// The program of a plugin.
pub(super) fn find(programs: &[PathBuf], plugin: &str) -> Result<PathBuf> {
    let is_program = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let found = programs.iter().map(|at| at.join(plugin)).find(is_program);
    found.ok_or_else(|| {
        let places: Vec<_> = programs.iter().map(|at| at.display().to_string()).collect();
        let why = format!("cannot find CNI plugin {plugin} in {}", places.join(", "));
        Error::new(ErrorKind::NotFound, why).with_hint("install the CNI plugins")
    })
}

impl Call<'_> {
    /// Runs it; its answer, or null where none is due.
    pub(super) fn run(&self, told: &[u8]) -> Result<Value> {
        let cannot = || {
            format!(
                "cannot run CNI plugin {} {}",
                self.plugin,
                self.command.name()
            )
        };
        let program = find(self.programs, self.plugin)?;
        let path: Vec<_> = self
            .programs
            .iter()
            .map(|at| at.to_string_lossy())
            .collect();
        let mut command = std::process::Command::new(&program);
        command
            .env("CNI_COMMAND", self.command.name())
            .env("CNI_PATH", path.join(":"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(input(told).context(cannot)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().context(cannot)?;
        let mut said = Said::default();
        let listened = self.listen(&mut child, &mut said);
        if listened.is_err() {
            // All that it started, too.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        }
        let status = child.wait().context(cannot)?;
        listened
            .map_err(|error| match words(&said.words) {
                words if words.is_empty() => error,
                words => Error::new(error.kind(), format!("{error} (it said: {words})")),
            })
            .context(cannot)?;
        if !status.success() {
            return Err(fault(&said, status)).context(cannot);
        }
        if !self.command.answers() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&said.out)
            .map_err(|error| Error::invalid(format!("its answer is no JSON: {error}")))
            .context(cannot)
    }

    /// Hears it until it ends, whatever it leaves behind.
    fn listen(&self, child: &mut Child, said: &mut Said) -> Result<()> {
        let end = Instant::now() + self.patience;
        let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        let mut out = child.stdout.take().map(OwnedFd::from).map(File::from);
        let mut words = child.stderr.take().map(OwnedFd::from).map(File::from);
        for pipe in [&out, &words].into_iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!("it did not end within {:?}", self.patience);
                return Err(Error::new(ErrorKind::Deadline, why));
            }
            let mut waiting = vec![PollFd::new(&process, PollFlags::IN)];
            for pipe in [&out, &words].into_iter().flatten() {
                waiting.push(PollFd::new(pipe, PollFlags::IN));
            }
            let limit = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(&mut waiting, Some(&limit)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let ended = waiting[0].revents().contains(PollFlags::IN);
            drop(waiting);
            take(&mut out, &mut said.out)?;
            if said.out.len() > RESULT_MAX {
                let why = format!("it answered with more than {RESULT_MAX} bytes");
                return Err(Error::invalid(why));
            }
            take(&mut words, &mut said.words)?;
            let surplus = said.words.len().saturating_sub(WORDS_MAX);
            said.words.drain(..surplus);
            if ended {
                return Ok(());
            }
        }
    }
}

/// Reads what is there, up to a bit more than a result; a pipe that is closed goes.
fn take(pipe: &mut Option<File>, to: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut rest = RESULT_MAX + 1;
    while let (Some(file), 1..) = (pipe.as_mut(), rest) {
        match file.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(length) => {
                to.extend_from_slice(&buffer[..length]);
                rest = rest.saturating_sub(length);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A file in memory: a plugin that reads nothing blocks nobody.
fn input(told: &[u8]) -> Result<Stdio> {
    let mut file = File::from(rustix::fs::memfd_create("cni", MemfdFlags::CLOEXEC)?);
    file.write_all(told)?;
    file.rewind()?;
    Ok(file.into())
}

/// What is printable of a plugin's words.
fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(plain).collect()
}

/// A plugin's error, by its code (section 5, "Error").
fn fault(said: &Said, status: std::process::ExitStatus) -> Error {
    let told: Option<Value> = serde_json::from_slice(&said.out).ok();
    let field = |name: &str| {
        let text = told
            .as_ref()
            .and_then(|told| told.get(name))
            .and_then(Value::as_str);
        words(text.unwrap_or_default().as_bytes())
    };
    let code = told
        .as_ref()
        .and_then(|told| told.get("code"))
        .and_then(Value::as_u64);
    let mut message = match (field("msg"), field("details")) {
        (msg, details) if details.is_empty() => msg,
        (msg, details) if msg.is_empty() => details,
        (msg, details) => format!("{msg}: {details}"),
    };
    if message.is_empty() {
        message = words(&said.words);
    }
    if message.is_empty() {
        message = words(&said.out[..said.out.len().min(WORDS_MAX)]);
    }
    let kind = match code {
        Some(1 | 2 | 4 | 6 | 7) => ErrorKind::InvalidInput,
        Some(3) => return Error::new(ErrorKind::NotFound, UNKNOWN_CONTAINER).context(message),
        Some(11) => ErrorKind::Busy,
        Some(50 | 51) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    match code {
        Some(code) => Error::new(kind, format!("{message} (code {code})")),
        None if message.is_empty() => Error::new(kind, format!("it failed with {status}")),
        None => Error::new(kind, format!("{message} ({status})")),
    }
}

/// Whether a plugin said that there is nothing to do for such a container.
pub(super) fn is_unknown_container(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound && error.chain().to_string().ends_with(UNKNOWN_CONTAINER)
}
