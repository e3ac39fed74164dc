//! What is typed or piped into the container. Never more than one piece is kept: who writes to a
//! container that does not read has to wait.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::launch::Stdin;

/// How much is taken from a client at once.
pub(super) const PIECE: usize = 4 << 10;
/// Ends the input of a terminal in its usual mode (VEOF, termios(3)).
const END_OF_FILE: u8 = 4;

/// The container's standard input.
#[derive(Debug)]
pub(super) struct Input {
    mode: Stdin,
    to: Option<To>,
    pending: Vec<u8>,
    ending: bool,
}

#[derive(Debug)]
enum To {
    Pipe(OwnedFd),
    Terminal(OwnedFd),
}

impl Input {
    /// By a pipe.
    pub(super) fn pipe(mode: Stdin, pipe: Option<OwnedFd>) -> Self {
        Self::new(mode, pipe.map(To::Pipe))
    }

    /// By a terminal, whose master is given.
    pub(super) fn terminal(mode: Stdin, master: OwnedFd) -> Self {
        let to = (mode != Stdin::None).then_some(To::Terminal(master));
        Self::new(mode, to)
    }

    fn new(mode: Stdin, to: Option<To>) -> Self {
        Self {
            mode,
            to,
            pending: Vec::new(),
            ending: false,
        }
    }

    /// Whether anything can still be written.
    pub(super) fn is_open(&self) -> bool {
        self.to.is_some() && !self.ending
    }

    /// Whether more is wanted.
    pub(super) fn is_hungry(&self) -> bool {
        self.is_open() && self.pending.is_empty()
    }

    /// What to wait for, until what is pending can be written.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        (!self.pending.is_empty()).then(|| self.target()).flatten()
    }

    fn target(&self) -> Option<BorrowedFd<'_>> {
        match self.to.as_ref()? {
            To::Pipe(fd) | To::Terminal(fd) => Some(fd.as_fd()),
        }
    }

    /// Takes bytes; only when [`Self::is_hungry`].
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        self.write();
    }

    /// Writes what the container has room for.
    pub(super) fn write(&mut self) {
        while !self.pending.is_empty() {
            let Some(target) = self.target() else {
                self.pending.clear();
                break;
            };
            match rustix::io::write(target, &self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody will read any more.
                Err(_) => self.close(),
            }
        }
        if self.ending && self.pending.is_empty() {
            self.close();
        }
    }

    /// The input of a client has ended, or the client has gone without a word.
    pub(super) fn client_ended(&mut self) {
        if self.mode == Stdin::Once {
            self.end();
        }
    }

    /// Ends the container's input, after what is pending.
    pub(super) fn end(&mut self) {
        if !self.is_open() {
            return;
        }
        self.ending = true;
        if let Some(To::Terminal(_)) = self.to {
            self.pending.push(END_OF_FILE);
        }
        self.write();
    }

    /// Nothing is written any more.
    pub(super) fn close(&mut self) {
        self.to = None;
        self.pending = Vec::new();
    }
}
