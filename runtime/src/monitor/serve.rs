//! The beginning and the end of a monitor: becomes a session of its own, makes the container, says so,
//! serves ([`super::turn`]) until all is delivered, and goes.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::json;

use super::exit::Place;
use super::input::Input;
use super::launch::{Launch, Restore, Size, When};
use super::log_file::LogFile;
use super::protocol::WireError;
use super::streams::{Pipes, null};
use super::turn::Monitor;
use crate::checkpoint::{CriuOptions, RestoreOptions, restore_attended};
use crate::container::CreateOptions;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::terminal;
use crate::operations::create::{Attendant, Start, create_attended};
use crate::operations::{foreground, stop};
use crate::state::Record;
use crate::sys::process::{SingleThreaded, dup_onto, take_inherited, trim_memory, trim_stack};

/// The control socket's name in the monitor's directory.
pub(super) const SOCKET: &str = "control.sock";
/// What `ps` shows of a monitor.
const NAME: &std::ffi::CStr = c"rcrun monitor";
/// Seldom the first to be killed when memory is short: it is small, and others depend on it.
const OOM_SCORE: &[u8] = b"-999";

/// Serves the container whose launch document lies in `directory`, to its end. `root` gives its root file
/// system, if that is not the bundle's; `ready_fd` hears whether the container could be made, and
/// `lock_fd` stays open until then. Returns false when the container could not be made.
pub fn serve(
    directory: &Path,
    root: impl FnOnce(&Launch) -> Result<Option<OwnedFd>>,
    ready_fd: Option<i32>,
    lock_fd: Option<i32>,
) -> Result<bool> {
    let lock = lock_fd
        .map(take_inherited)
        .transpose()
        .context(|| "cannot use --lock-fd")?;
    let ready = ready_fd
        .map(take_inherited)
        .transpose()
        .context(|| "cannot use --ready-fd")?;
    let begun = Launch::read(directory).and_then(|launch| {
        let on_exit = launch.on_exit.clone();
        let root = root(&launch)?;
        let (monitor, socket) = begin(directory, launch, root)?;
        Ok((monitor, socket, on_exit))
    });
    drop(lock);
    match begun {
        Ok((mut monitor, socket, on_exit)) => {
            say(ready, &json!({ "pid": monitor.pid }));
            silence();
            // What it took to make the container is needed no more.
            trim_memory();
            if let Some(proof) = SingleThreaded::prove() {
                trim_stack(proof);
            }
            monitor.serve()?;
            drop((monitor, socket));
            match on_exit {
                None => Ok(true),
                Some(program) => Err(become_program(&program)),
            }
        }
        Err(error) if ready.is_some() => {
            say(ready, &json!({ "error": WireError::from(&error) }));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Answers who waits; that nobody does any more changes nothing.
fn say(ready: Option<OwnedFd>, answer: &serde_json::Value) {
    if let Some(ready) = ready {
        let _ = rustix::io::write(ready, format!("{answer}\n").as_bytes());
    }
}

/// The standard streams are those of a caller who goes on without us.
fn silence() {
    if let Ok(null) = null() {
        for number in 0..=2 {
            let _ = dup_onto(null.as_fd(), number);
        }
    }
}

/// As the very last act: it shares no fate with us, and nobody waits for either.
fn become_program(program: &[String]) -> Error {
    use std::os::unix::process::CommandExt as _;
    let (name, arguments) = program.split_first().map_or(("", program), |(n, a)| (n, a));
    let error = std::process::Command::new(name).args(arguments).exec();
    Error::from(error).context(format!("cannot execute {name}"))
}

/// Everything up to the container; an error leaves nothing.
fn begin(
    directory: &Path,
    launch: Launch,
    root: Option<OwnedFd>,
) -> Result<(Monitor, ControlSocket)> {
    settle_down();
    let signals = foreground::block_signals()?;
    foreground::adopt_orphans()?;
    let socket = ControlSocket::bind(directory)?;
    let log = launch.log.as_ref().map(LogFile::open).transpose()?;
    let place = Place::reserve(&launch.exit)?;
    let made = make(&launch, root).inspect_err(|_| place.abandon())?;
    let runtime = launch.runtime();
    let oom = runtime.oom_watch(&launch.id).ok();
    let listener = socket.listener.try_clone().context(|| "cannot listen")?;
    let monitor = Monitor::new(launch, made, signals, listener, log, place, oom);
    Ok((monitor, socket))
}

/// Leaves the caller: session, directory, name.
fn settle_down() {
    // Refused if it leads a session already.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir(c"/");
    let _ = rustix::thread::set_name(NAME);
    // Takes CAP_SYS_RESOURCE; without, it is as likely to be killed as others of its size.
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty()) {
        let _ = rustix::io::write(&file, OOM_SCORE);
    }
}

/// A container, and our ends of its streams.
pub(super) struct Made {
    pub record: Record,
    pub init: OwnedFd,
    pub streams: Streams,
}

/// Our ends of a container's streams.
pub(super) struct Streams {
    pub sources: [Option<OwnedFd>; 2],
    pub input: Input,
    /// Of its terminal.
    pub master: Option<OwnedFd>,
}

fn make(launch: &Launch, root: Option<OwnedFd>) -> Result<Made> {
    let options = CreateOptions {
        bundle: launch.bundle.clone(),
        root: root.map(Arc::new),
        ..CreateOptions::default()
    };
    let start = match launch.start {
        When::Now => Start::Now,
        When::Later => Start::Later,
    };
    let pipes = match launch.terminal {
        true => None,
        false => Some(Pipes::new(launch.stdin)?),
    };
    if let Some(restore) = &launch.restore {
        return remake(launch, restore, options, pipes);
    }
    let attendant = Attendant {
        streams: pipes.as_ref().map(Pipes::borrow),
    };
    let runtime = launch.runtime();
    let created = create_attended(&runtime, &launch.id, &options, start, Some(attendant))?;
    let master = created.console.as_ref().map(|socket| {
        terminal::receive(socket.as_fd()).context(|| "cannot set up the container's terminal")
    });
    let streams = master.transpose().and_then(|master| {
        let streams = attend(launch, master, pipes)?;
        if start == Start::Now {
            foreground::begin(&created)?;
        }
        Ok(streams)
    });
    match streams {
        Ok(streams) => Ok(Made {
            record: created.record,
            init: created.pidfd,
            streams,
        }),
        Err(error) => {
            let _ = stop::end(&created.directory, &created.record);
            Err(error)
        }
    }
}

/// Makes it from a checkpoint.
fn remake(
    launch: &Launch,
    restore: &Restore,
    container: CreateOptions,
    pipes: Option<Pipes>,
) -> Result<Made> {
    let options = RestoreOptions {
        common: CriuOptions {
            criu: Some(restore.criu.clone()),
            image_path: restore.images.clone(),
            work_path: Some(restore.work.clone()),
            tcp_close: true,
            external_unix_sockets: true,
            file_locks: true,
            empty_network: true,
            ..CriuOptions::default()
        },
        container,
        lsm_profile: restore.profile.clone(),
        lsm_mount_context: restore.mount_context.clone(),
        foreign: true,
    };
    let theirs = pipes.as_ref().map(Pipes::borrow);
    let made = restore_attended(&launch.runtime(), &launch.id, &options, theirs)?;
    match attend(launch, made.master, pipes) {
        Ok(streams) => {
            // That they are gone says that it was done. What is left is whoever's who made the directory.
            let _ = std::fs::remove_dir_all(&restore.images);
            Ok(Made {
                record: made.record,
                init: made.init,
                streams,
            })
        }
        Err(error) => {
            let _ = stop::end(&made.directory, &made.record);
            Err(error)
        }
    }
}

/// Takes the container's streams, or its terminal.
fn attend(launch: &Launch, master: Option<OwnedFd>, pipes: Option<Pipes>) -> Result<Streams> {
    match (pipes, master) {
        (Some(pipes), None) => Ok(Streams {
            sources: pipes.output.map(Some),
            input: Input::pipe(launch.stdin, pipes.input),
            master: None,
        }),
        (None, Some(master)) => {
            let [source, input, master] = open_terminal(master, launch)?;
            Ok(Streams {
                sources: [Some(source), None],
                input: Input::terminal(launch.stdin, input),
                master: Some(master),
            })
        }
        _ => Err(Error::invalid(
            "process.terminal of the configuration is not what the launch document says",
        )),
    }
}

/// The master, three times: to read, to write, to resize.
fn open_terminal(master: OwnedFd, launch: &Launch) -> Result<[OwnedFd; 3]> {
    let open = || -> Result<[OwnedFd; 3]> {
        rustix::io::ioctl_fionbio(&master, true)?;
        if let Some(size) = launch.console_size {
            resize(&master, size)?;
        }
        Ok([master.try_clone()?, master.try_clone()?, master])
    };
    open().context(|| "cannot set up the container's terminal")
}

/// Sets a terminal's size; its foreground processes get SIGWINCH.
pub(super) fn resize(master: &OwnedFd, size: Size) -> Result<(), Errno> {
    let size = rustix::termios::Winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size)
}

/// The control socket; its name is gone when it is. The lock on the directory says that the monitor
/// lives: of two for one container, the second gives up.
#[derive(Debug)]
pub(super) struct ControlSocket {
    directory: OwnedFd,
    listener: OwnedFd,
    path: PathBuf,
}

impl ControlSocket {
    fn bind(path: &Path) -> Result<Self> {
        let failed = || format!("cannot listen in {}", path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).context(failed)?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let error = Error::new(ErrorKind::Exists, "another monitor serves it");
                return Err(error).context(failed);
            }
            other => other.context(failed)?,
        }
        let listen = || -> Result<OwnedFd, Errno> {
            // Of a monitor that was killed.
            match rustix::fs::unlinkat(&directory, SOCKET, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let kind = SocketType::SEQPACKET;
            let listener = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            let before = rustix::process::umask(Mode::from_raw_mode(0o177));
            let bound =
                address(&directory).and_then(|address| rustix::net::bind(&listener, &address));
            rustix::process::umask(before);
            bound?;
            rustix::net::listen(&listener, 16)?;
            Ok(listener)
        };
        let listener = listen().context(failed)?;
        Ok(Self {
            directory,
            listener,
            path: path.to_owned(),
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(errno) = rustix::fs::unlinkat(&self.directory, SOCKET, AtFlags::empty())
            && errno != Errno::NOENT
        {
            tracing::warn!("cannot remove {}/{SOCKET}: {errno}", self.path.display());
        }
    }
}

/// The socket's address by way of its directory's descriptor: the length of the path does not matter.
pub(super) fn address(directory: &OwnedFd) -> Result<SocketAddrUnix, Errno> {
    let directory = crate::rootfs::fd_path(directory.as_fd());
    let directory = directory.as_c_str().to_string_lossy();
    SocketAddrUnix::new(format!("{directory}/{SOCKET}"))
}
