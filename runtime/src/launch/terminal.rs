//! The caller's side of a container's terminal: sockets that take the master, raw mode, and copying
//! between the two until the container is gone.

use std::io::IsTerminal as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::termios::{OptionalActions, Termios};

use super::keys::Keys;
use crate::error::{Context, Result};
use crate::sys::process::dup_onto;

/// Connects to a stream socket; works for paths longer than sun_path.
pub(crate) fn connect(path: &Path, kind: SocketType) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let open = || -> Result<OwnedFd, Errno> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        match SocketAddrUnix::new(path) {
            Ok(address) => rustix::net::connect(&socket, &address)?,
            Err(_) => {
                let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                let short = crate::rootfs::fd_path(place.as_fd());
                rustix::net::connect(&socket, &SocketAddrUnix::new(short.as_c_str())?)?;
            }
        }
        Ok(socket)
    };
    open().context(|| format!("cannot connect to {}", path.display()))
}

/// Both ends of a socket that takes a master.
pub(crate) fn socket_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Where the master of a new terminal goes, if one is `wanted`: to the socket at `path`, or to this
/// process, which then gets the second descriptor to receive it from.
pub(crate) fn console_ends(
    wanted: bool,
    path: Option<&Path>,
) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    match path {
        _ if !wanted => Ok((None, None)),
        Some(path) => Ok((Some(connect(path, SocketType::STREAM)?), None)),
        None => {
            let (here, there) = socket_pair().context(|| "cannot create a socket pair")?;
            Ok((Some(there), Some(here)))
        }
    }
}

/// Receives a descriptor.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 4096];
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.ok_or(Errno::BADMSG)
}

/// Sends a descriptor with a few bytes of text.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    text: &std::ffi::CStr,
    fd: BorrowedFd<'_>,
) -> Result<(), Errno> {
    crate::rootfs::console::send(socket, text, fd)
}

/// Rows and columns of the caller's terminal.
pub(crate) fn callers_size() -> Option<(u16, u16)> {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    [stdin.as_fd(), stdout.as_fd()].iter().find_map(|stream| {
        let size = rustix::termios::tcgetwinsize(stream).ok()?;
        (size.ws_row != 0).then_some((size.ws_row, size.ws_col))
    })
}

/// A master and the caller's terminal, which gets its modes back in the end.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: OwnedFd,
    saved: Option<Termios>,
    /// Bytes read from the caller and not yet taken by the container.
    pending: Vec<u8>,
    input_open: bool,
    output_open: bool,
    keys: Keys,
    left: bool,
}

impl Terminal {
    /// Takes a master; puts the caller's terminal, if there is one, into raw mode.
    pub(crate) fn new(master: OwnedFd) -> Result<Self, Errno> {
        let mut saved = None;
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let before = rustix::termios::tcgetattr(&stdin)?;
            let mut raw = before.clone();
            raw.make_raw();
            // The container's output has bare line feeds: the carriage returns are added here.
            raw.output_modes.insert(rustix::termios::OutputModes::OPOST);
            rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
            saved = Some(before);
        }
        let terminal = Self {
            master,
            saved,
            pending: Vec::new(),
            input_open: true,
            output_open: true,
            keys: Keys::new(Vec::new()),
            left: false,
        };
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the container's terminal the size of the caller's.
    pub(crate) fn resize(&self) {
        for stream in [std::io::stdin().as_fd(), std::io::stdout().as_fd()] {
            if let Ok(size) = rustix::termios::tcgetwinsize(stream)
                && size.ws_row != 0
            {
                let _ = rustix::termios::tcsetwinsize(&self.master, size);
                return;
            }
        }
    }

    /// What the poll loop waits for: the caller's input, the container's output, room for pending
    /// input.
    pub(crate) fn interests(&self) -> (bool, bool, bool) {
        (
            self.input_open && self.pending.is_empty(),
            self.output_open,
            !self.pending.is_empty(),
        )
    }

    /// The container's end.
    pub(crate) fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Takes input from the caller; at its end the container gets an end-of-file character.
    pub(crate) fn read_input(&mut self) {
        let mut bytes = [0u8; 4096];
        match rustix::io::read(std::io::stdin(), &mut bytes) {
            Ok(0) | Err(Errno::IO | Errno::BADF) => {
                self.input_open = false;
                self.pending.push(4); // VEOF
            }
            Ok(length) => {
                let (typed, left) = self.keys.filter(&bytes[..length]);
                self.pending.extend(typed);
                self.left = left;
            }
            Err(_) => {}
        }
        self.write_input();
    }

    /// From now on these keys mean that the caller leaves.
    pub(crate) fn leave_with(&mut self, keys: &[u8]) {
        self.keys = Keys::new(keys.to_vec());
    }

    /// Whether they were typed.
    pub(crate) fn is_left(&self) -> bool {
        self.left
    }

    /// Takes the caller's streams away, and reads what nobody sees until the process behind `pidfd` is
    /// gone, or has closed its terminal: which stays one for so long.
    pub(crate) fn hold(&mut self, pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
        use rustix::event::{PollFd, PollFlags};
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        for number in 0..3 {
            dup_onto(null.as_fd(), number)?;
        }
        self.write_input();
        while self.output_open {
            let mut fds = [
                PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
                PollFd::new(&self.master, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            let [ended, output] = fds.map(|fd| !fd.revents().is_empty());
            if ended {
                break;
            }
            if output {
                self.copy_output();
            }
        }
        Ok(())
    }

    /// Passes on what the container has room for.
    pub(crate) fn write_input(&mut self) {
        if let Ok(written) = rustix::io::write(&self.master, &self.pending) {
            self.pending.drain(..written);
        }
    }

    /// Passes on the container's output; EIO means that nobody holds the slave any more.
    pub(crate) fn copy_output(&mut self) {
        let mut bytes = [0u8; 32 << 10];
        match rustix::io::read(&self.master, &mut bytes) {
            Ok(0) | Err(Errno::IO) => self.output_open = false,
            Ok(length) => {
                use std::io::Write as _;
                let mut stdout = std::io::stdout().lock();
                let _ = stdout
                    .write_all(&bytes[..length])
                    .and_then(|()| stdout.flush());
            }
            Err(_) => {}
        }
    }

    /// Passes on what is left after the container's end.
    pub(crate) fn drain(&mut self) {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        while self.output_open {
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&now)) {
                Ok(1..) => self.copy_output(),
                _ => break,
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(modes) = &self.saved {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, modes);
        }
    }
}
