//! A program in a container, seen from here: a process `rcrun exec`, which enters, waits, and ends as the
//! program does.
//!
//! Nothing of it is on a disk. What `rcrun exec` has to say of itself goes to a file in memory, which it
//! opens by way of /proc: so the program's error output is its own, and its exit code is told from that of
//! `rcrun exec`, which says a word (`--debug`) before it runs the program. It is the container's own process description with other
//! arguments that is run (`rcrun exec` without `--process`): user, environment, rights and limits stay.
//!
//! Who does not wait for the end (the client has gone) leaves a task behind that does.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rcrun_runtime::container::{CgroupDriver, Runtime};
use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, PidfdFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tonic::Status;

use super::of_status;
use crate::core::Core;
use crate::readable::readable;
use crate::records::random_id;
use crate::{Context, Error, ErrorKind, Result};

/// What `rcrun exec` exits with when it fails itself.
const FAILED: i32 = 255;
/// How much of its words is read.
const WORDS: u64 = 64 << 10;
/// The terminal that programs find in their environment, as with containerd.
const TERM: &str = "TERM=xterm";
/// Directory of sockets that take terminals, below the server's own.
const CONSOLES: &str = "consoles";

/// What is to be run.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) container: String,
    pub(super) command: Vec<String>,
    pub(super) terminal: bool,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    /// The sub-cgroup that it is to be in.
    pub(super) branch: Option<String>,
}

/// The program, running.
#[derive(Debug)]
pub(super) struct Process {
    child: Option<Child>,
    pidfd: AsyncFd<OwnedFd>,
    words: File,
    pub(super) stdin: Option<pipe::Sender>,
    /// Of a terminal both outputs.
    pub(super) stdout: Option<pipe::Receiver>,
    pub(super) stderr: Option<pipe::Receiver>,
    /// The master, for sizes.
    pub(super) terminal: Option<OwnedFd>,
}

/// Our ends of what a child was given. A child that nobody takes over is ended.
#[derive(Debug)]
struct Spawned {
    child: Option<Child>,
    /// Under the number that the child knows.
    words: Option<File>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Makes the place for sockets, and empties it.
pub(super) fn prepare(core: &Core) -> Result<()> {
    let path = consoles(core);
    let failed = || format!("cannot make {}", path.display());
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&path).context(failed)?;
    for entry in std::fs::read_dir(&path).context(failed)? {
        let path = entry.context(failed)?.path();
        std::fs::remove_file(&path).context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn consoles(core: &Core) -> PathBuf {
    core.host.root.join(".cri").join(CONSOLES)
}

/// The arguments. The store is one without containers of people: their names are not meant.
fn arguments(runtime: &Runtime, asked: &Asked, log: &str, console: Option<&Path>) -> Vec<OsString> {
    let mut all: Vec<OsString> = vec!["--root".into(), runtime.root.clone().into()];
    all.extend(["--store".into(), runtime.root.clone().into()]);
    all.extend(["--debug", "--log", log, "--log-format", "json"].map(OsString::from));
    if runtime.cgroup_driver == CgroupDriver::Systemd {
        all.push("--systemd-cgroup".into());
    }
    all.push("exec".into());
    if let Some(console) = console {
        all.extend(["--tty", "--attend", "--env", TERM, "--console-socket"].map(OsString::from));
        all.push(console.into());
    }
    if let Some(branch) = &asked.branch {
        all.extend(["--cgroup".into(), branch.into()]);
    }
    all.extend(["--".into(), (&asked.container).into()]);
    all.extend(asked.command.iter().map(OsString::from));
    all
}

/// A standard stream: what the child gets, and our end.
fn stream(wanted: bool, input: bool) -> Result<(Stdio, Option<OwnedFd>)> {
    if !wanted {
        return Ok((Stdio::null(), None));
    }
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (reader, writer) = rustix::pipe::pipe_with(flags).context(|| "cannot create a pipe")?;
    Ok(match input {
        true => (reader.into(), Some(writer)),
        false => (writer.into(), Some(reader)),
    })
}

fn spawn(runtime: &Runtime, asked: &Asked, console: Option<&Path>) -> Result<Spawned> {
    let failed = || "cannot start a process";
    let words = rustix::fs::memfd_create(c"words", MemfdFlags::CLOEXEC).context(failed)?;
    let log = format!("/proc/{}/fd/{}", std::process::id(), words.as_raw_fd());
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("rcrun")
        .args(arguments(runtime, asked, &log, console))
        .env_clear()
        .current_dir("/");
    let piped = console.is_none();
    let stdin = stream(asked.stdin && piped, true)?;
    let stdout = stream(asked.stdout && piped, false)?;
    let stderr = stream(asked.stderr && piped, false)?;
    let child = command
        .stdin(stdin.0)
        .stdout(stdout.0)
        .stderr(stderr.0)
        .spawn();
    Ok(Spawned {
        child: Some(child.context(failed)?),
        words: Some(words.into()),
        stdin: stdin.1,
        stdout: stdout.1,
        stderr: stderr.1,
    })
}

impl Process {
    /// Starts it. The program itself may not run yet, and may never: [`Self::ended`] says why.
    pub(super) async fn start(core: &Arc<Core>, asked: Asked) -> Result<Self> {
        let console = match asked.terminal {
            true => Some(Console::new(core)?),
            false => None,
        };
        let path = console.as_ref().map(|console| console.path.clone());
        let runtime = core.runtime.clone();
        let spawning = core
            .light
            .run(move || spawn(&runtime, &asked, path.as_deref()));
        let mut process = Self::of(spawning.await.map_err(|status| cannot(&status))?)?;
        if let Some(console) = console {
            let master = console.master(&process.pidfd).await?;
            if let Some(master) = master {
                process.take_terminal(master)?;
            }
        }
        Ok(process)
    }

    fn of(mut spawned: Spawned) -> Result<Self> {
        let failed = || "cannot wait for a process";
        let lost = || Error::new(ErrorKind::Internal, "a process is used twice");
        let child = spawned.child.as_ref().ok_or_else(lost)?;
        let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty());
        let pidfd = readable(pidfd.context(failed)?)?;
        let input = |end: Option<OwnedFd>| end.map(pipe::Sender::from_owned_fd).transpose();
        let output = |end: Option<OwnedFd>| end.map(pipe::Receiver::from_owned_fd).transpose();
        Ok(Self {
            stdin: input(spawned.stdin.take()).context(failed)?,
            stdout: output(spawned.stdout.take()).context(failed)?,
            stderr: output(spawned.stderr.take()).context(failed)?,
            words: spawned.words.take().ok_or_else(lost)?,
            child: spawned.child.take(),
            pidfd,
            terminal: None,
        })
    }

    /// From now on its streams are those of a terminal.
    fn take_terminal(&mut self, master: OwnedFd) -> Result<()> {
        let failed = || "cannot use the terminal of a process";
        let copy = || -> Result<File> { Ok(master.try_clone().context(failed)?.into()) };
        rustix::io::ioctl_fionbio(&master, true).context(failed)?;
        self.stdin = Some(pipe::Sender::from_file_unchecked(copy()?).context(failed)?);
        self.stdout = Some(pipe::Receiver::from_file_unchecked(copy()?).context(failed)?);
        self.terminal = Some(master);
        Ok(())
    }

    /// Waits for the end: the program's exit code, or why it could not be run.
    pub(super) async fn ended(&mut self) -> Result<u8> {
        drop(
            self.pidfd
                .readable()
                .await
                .context(|| "cannot wait for a process")?,
        );
        let Some(mut child) = self.child.take() else {
            return Err(Error::new(ErrorKind::Internal, "a process ended twice"));
        };
        let status = child.wait().context(|| "cannot wait for a process")?;
        outcome(status, &words(&self.words))
    }

    /// Whether somebody still has to wait for it.
    pub(super) fn lives(&self) -> bool {
        self.child.is_some()
    }

    /// Ends `rcrun exec` itself, and so the waiting for it.
    pub(super) fn abandon(&mut self) {
        if let Some(child) = &mut self.child {
            // It ended meanwhile.
            let _ = child.kill();
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It ended meanwhile, or ends now.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pidfd = self.pidfd.get_ref().try_clone();
        let (Ok(handle), Ok(pidfd)) = (tokio::runtime::Handle::try_current(), pidfd) else {
            return;
        };
        handle.spawn(async move {
            if let Ok(pidfd) = readable(pidfd) {
                let _ = pidfd.readable().await.map(drop);
            }
            let _ = child.wait();
        });
    }
}

/// What the end of `rcrun exec` means. Without a word it failed before it could speak, and the code is not the
/// program's.
fn outcome(status: ExitStatus, words: &[u8]) -> Result<u8> {
    let failed = |why: String| Err(Error::new(ErrorKind::FailedPrecondition, why));
    match status.code() {
        None => failed(format!("rcrun exec was killed ({status})")),
        Some(_) if words.is_empty() => failed(format!("rcrun exec does not start ({status})")),
        Some(FAILED) => match last_error(words) {
            Some(why) => failed(why),
            None => Ok(255),
        },
        Some(code) => Ok(u8::try_from(code).unwrap_or(255)),
    }
}

/// The end of what it said.
fn words(file: &File) -> Vec<u8> {
    let length = file.metadata().map_or(0, |data| data.len());
    let from = length.saturating_sub(WORDS);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or_default()];
    // A file in memory can be read.
    let read = file.read_exact_at(&mut bytes, from);
    read.map(|()| bytes).unwrap_or_default()
}

fn last_error(bytes: &[u8]) -> Option<String> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let read = |line: &[u8]| -> Option<String> {
        let line: serde_json::Value = serde_json::from_slice(line).ok()?;
        let error = line["level"] == "error";
        error.then(|| line["msg"].as_str().unwrap_or_default().to_owned())
    };
    lines.rev().find_map(read)
}

fn cannot(status: &Status) -> Error {
    of_status(status.clone())
}

/// A socket that is told of a terminal; its name goes with it.
struct Console {
    listener: UnixListener,
    directory: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Console {
    fn new(core: &Core) -> Result<Self> {
        let directory = consoles(core);
        let failed = || format!("cannot make a socket in {}", directory.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&directory, flags, Mode::empty()).context(failed)?;
        let mut name = random_id()?;
        name.truncate(32);
        // However long the path is.
        let short = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
        Ok(Self {
            listener: UnixListener::bind(short).context(failed)?,
            path: directory.join(&name),
            directory: opened,
            name,
        })
    }

    /// The master, or none if the process ends before it has one.
    async fn master(self, pidfd: &AsyncFd<OwnedFd>) -> Result<Option<OwnedFd>> {
        let failed = || "cannot receive the terminal of a process";
        let receive = async {
            let (stream, _) = self.listener.accept().await?;
            stream
                .async_io(Interest::READABLE, || master_from(&stream))
                .await
        };
        tokio::select! {
            biased;
            master = receive => master.context(failed),
            ended = pidfd.readable() => ended.map(|_| None).context(failed),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Whoever emptied the directory is as good.
        let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
    }
}

/// The descriptor in a message, whose text is a name that says nothing; none if the other side has closed.
fn master_from(stream: &UnixStream) -> std::io::Result<Option<OwnedFd>> {
    let mut name = [0; 4096];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [std::io::IoSliceMut::new(&mut name)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(stream.as_fd(), &mut pieces, &mut control, flags)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(descriptors.flatten().next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    fn asked() -> Asked {
        Asked {
            container: "c1".to_owned(),
            command: vec!["--".to_owned(), "-x".to_owned(), String::new()],
            terminal: false,
            stdin: false,
            stdout: true,
            stderr: true,
            branch: None,
        }
    }

    fn written(driver: CgroupDriver, asked: &Asked, console: Option<&str>) -> String {
        let runtime = Runtime {
            root: "/r".into(),
            cgroup_driver: driver,
            rootless: Some(false),
        };
        let all = arguments(&runtime, asked, "/l", console.map(Path::new));
        let all: Vec<String> = all
            .into_iter()
            .map(|one| one.into_string().unwrap())
            .collect();
        all.join(" ")
    }

    #[test]
    fn commands_are_not_taken_for_flags() {
        let begin = "--root /r --store /r --debug --log /l --log-format json";
        assert_eq!(
            written(CgroupDriver::Files, &asked(), None),
            format!("{begin} exec -- c1 -- -x ")
        );
        let there = Asked {
            branch: Some("b".to_owned()),
            ..asked()
        };
        assert_eq!(
            written(CgroupDriver::Systemd, &there, Some("/c")),
            format!(
                "{begin} --systemd-cgroup exec --tty --attend --env TERM=xterm --console-socket /c \
                 --cgroup b -- c1 -- -x "
            )
        );
    }

    #[test]
    fn ends() {
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        let said = b"{\"level\":\"debug\",\"msg\":\"a\"}\n".as_slice();
        for status in [0, 1, 126, 127, 137, 254, 255] {
            assert_eq!(i32::from(outcome(code(status), said).unwrap()), status);
            // Before it could speak.
            assert!(outcome(code(status), b"").is_err());
        }
        let words = b"{\"level\":\"error\",\"msg\":\"no such program\"}\n";
        let error = outcome(code(255), words).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(error.chain().to_string(), "no such program");
        assert!(outcome(ExitStatus::from_raw(9), said).is_err());
    }

    #[test]
    fn the_last_error_counts() {
        let log = b"{\"level\":\"warning\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"b\"}\n\
                    {\"level\":\"error\",\"msg\":\"c\"}\n{\"level\":\"err";
        assert_eq!(last_error(log).as_deref(), Some("c"));
        assert_eq!(last_error(b"{\"level\":\"warning\",\"msg\":\"a\"}\n"), None);
        assert_eq!(last_error(b"not JSON\n"), None);
        assert_eq!(last_error(b""), None);
    }
}
