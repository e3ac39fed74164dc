//! Sockets that a runtime connects to: it passes a console, a pidfd or a seccomp listener through them.

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A listening socket; each message with descriptors is handed to the test.
#[derive(Debug)]
pub(crate) struct FdSocket {
    pub(crate) path: PathBuf,
    received: Receiver<(Vec<u8>, Vec<OwnedFd>)>,
}

impl FdSocket {
    pub(crate) fn listen(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (sender, received) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                while let Some(message) = receive(&stream) {
                    if sender.send(message).is_err() {
                        return;
                    }
                }
            }
        });
        Self {
            path: path.to_owned(),
            received,
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The next message and the descriptors that came with it.
    #[track_caller]
    pub(crate) fn next(&self) -> (String, Vec<OwnedFd>) {
        let message = self.received.recv_timeout(Duration::from_secs(10));
        let (data, fds) =
            message.unwrap_or_else(|e| panic!("nothing came through {}: {e}", self.path.display()));
        (String::from_utf8_lossy(&data).into_owned(), fds)
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.received.try_recv().is_err()
    }
}

/// One message with its descriptors; `None` at the end of the stream.
fn receive(stream: &UnixStream) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut data = vec![0; 65_536];
    let mut space = nix::cmsg_space!([i32; 16]);
    let mut slices = [IoSliceMut::new(&mut data)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .ok()?;
    let length = message.bytes;
    let mut fds = Vec::new();
    for control in message.cmsgs().ok()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            fds.extend(numbers.into_iter().map(own));
        }
    }
    if length == 0 && fds.is_empty() {
        return None;
    }
    data.truncate(length);
    Some((data, fds))
}

#[allow(unsafe_code, reason = "nix returns received descriptors as numbers")]
fn own(number: i32) -> OwnedFd {
    // SAFETY: the kernel has just put this descriptor into our table with SCM_RIGHTS; nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// The master side of a console: what the container prints, and what it is typed.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) master: File,
}

impl Console {
    #[track_caller]
    pub(crate) fn from_socket(socket: &FdSocket) -> Self {
        let (_, mut fds) = socket.next();
        assert_eq!(fds.len(), 1, "one console");
        Self {
            master: File::from(fds.remove(0)),
        }
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Everything until the slave side is closed (EIO) or the text was seen.
    pub(crate) fn read_until(&mut self, wanted: &str) -> String {
        let mut all = String::new();
        let mut buffer = [0; 4096];
        while !all.contains(wanted) {
            match self.master.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(n) => all.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
        }
        assert!(
            all.contains(wanted),
            "the console never showed {wanted:?}: {all:?}"
        );
        all
    }

    pub(crate) fn read_to_end(&mut self) -> String {
        self.read_until("")
            + &{
                let mut all = String::new();
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = self.master.read(&mut buffer) {
                    all.push_str(&String::from_utf8_lossy(&buffer[..n]));
                }
                all
            }
    }
}

/// A command of ours with a terminal of its own, as a person has it, of this size if any; the last is its
/// other side.
pub(crate) fn at_a_terminal(
    inner: &Command,
    size: Option<(u16, u16)>,
) -> (Child, Console, OwnedFd) {
    let pty = nix::pty::openpty(None, None).unwrap();
    if let Some((rows, columns)) = size {
        resize(&pty.master, rows, columns);
    }
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    // setsid forks if it leads a process group; as a child of ours it does not, and becomes the command.
    let mut command = Command::new("setsid");
    command
        .arg("--ctty")
        .arg(inner.get_program())
        .args(inner.get_args());
    let variables = inner.get_envs();
    command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    command.stdin(slave()).stdout(slave()).stderr(slave());
    let child = command.spawn().unwrap();
    drop(command);
    let console = Console {
        master: File::from(pty.master),
    };
    (child, console, pty.slave)
}

/// Gives a terminal rows and columns.
pub(crate) fn resize(master: impl AsFd, ws_row: u16, ws_col: u16) {
    let size = rustix::termios::Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).unwrap();
}
