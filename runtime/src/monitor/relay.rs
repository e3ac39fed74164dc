//! Shows a container to the person who called: standard streams or a terminal, signals, detach keys.
//!
//! Streams of ours that are pipes go to the monitor itself, which then writes to (or reads from) them
//! without this process in between. Everything else is copied here. The terminal gets its modes back
//! however this ends, but for SIGKILL.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{OptionalActions, Termios};

use super::client::{AttachOptions, Client, Event};
use super::exit::Exit;
use super::launch::Size;
use super::streams::reopen;
use crate::error::{Context, Result};
use crate::launch::keys::Keys;
use crate::operations::foreground;
use crate::sys::process::borrow_inherited;

/// ctrl-p ctrl-q.
pub const DETACH_KEYS: [u8; 2] = [16, 17];
const CHUNK: usize = 32 << 10;

/// What is shown, and how.
#[derive(Debug)]
pub struct RelayOptions {
    /// Our standard input becomes the container's.
    pub stdin: bool,
    /// The container's output comes to our standard output and error.
    pub output: bool,
    /// The container waits when we do not keep up.
    pub lossless: bool,
    /// Keys that end the relay but not the container, when both have a terminal; empty: none.
    pub detach_keys: Vec<u8>,
}

/// How a relay ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With the container.
    Exit(Exit),
    /// The detach keys were typed.
    Detached,
    /// We did not read, and the container did not wait.
    Dropped,
    /// This signal asked us to end (SIGPIPE: nobody reads our output); the container goes on.
    Interrupted(i32),
    /// The monitor was killed: nobody knows the container's output or end any more.
    Gone,
}

/// A container that is attached to this process's streams.
#[derive(Debug)]
pub struct Relay {
    client: Client,
    signals: SignalFd,
    /// Pipes from the monitor to our standard output and error.
    outputs: [Option<OwnedFd>; 2],
    /// A pipe from our standard input to the monitor.
    input: Option<OwnedFd>,
    pending: Vec<u8>,
    keys: Keys,
    terminal: Option<RawTerminal>,
    container_terminal: bool,
    saved_mask: SigSet,
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Monitor,
    Signals,
    Stdin,
    Room,
    Output(usize),
}

impl Relay {
    /// Attaches. Blocks all signals of this process, before anything could be lost.
    pub fn attach(mut client: Client, options: RelayOptions) -> Result<Self> {
        let saved_mask = SigSet::thread_get_mask().context(|| "cannot read the signal mask")?;
        let signals = foreground::block_signals()?;
        let failed = || "cannot make pipes to the monitor";
        let (mut outputs, mut theirs) = ([None, None], [None, None]);
        for index in 0..2 {
            if options.output {
                let number = if index == 0 { 1 } else { 2 };
                (outputs[index], theirs[index]) = output_ends(number).context(failed)?;
            }
        }
        let [stdout, stderr] = theirs;
        let (input, stdin) = match options.stdin {
            true => input_ends().context(failed)?,
            false => (None, None),
        };
        let container_terminal = client.attach(AttachOptions {
            stdin,
            stdout,
            stderr,
            lossless: options.lossless,
        })?;
        let mut relay = Self {
            client,
            signals,
            outputs,
            input,
            pending: Vec::new(),
            keys: Keys::new(Vec::new()),
            terminal: None,
            container_terminal,
            saved_mask,
        };
        if container_terminal {
            relay.resize();
            if options.stdin {
                relay.terminal = RawTerminal::enter().context(|| "cannot set up the terminal")?;
            }
            if relay.terminal.is_some() {
                relay.keys = Keys::new(options.detach_keys);
            }
        }
        Ok(relay)
    }

    /// Starts the container that was made to be started later.
    pub fn start(&mut self) -> Result<()> {
        self.client.start()
    }

    /// Shows the container until its end, or ours. `forward` passes a signal on to it; without, and on
    /// a terminal, signals that would end us do.
    pub fn run(mut self, mut forward: Option<&mut dyn FnMut(i32) -> Result<()>>) -> Result<Ended> {
        if self.terminal.is_some() {
            forward = None;
        }
        loop {
            if self.client.has_event()
                && let Some(ended) = self.hear()?
            {
                return Ok(ended);
            }
            for of in self.poll()? {
                let ended = match of {
                    Of::Monitor => self.hear()?,
                    Of::Signals => self.read_signals(&mut forward)?,
                    Of::Stdin => self.read_stdin()?,
                    Of::Room => {
                        self.write_input();
                        None
                    }
                    Of::Output(index) => self.copy_output(index),
                };
                if let Some(ended) = ended {
                    return Ok(ended);
                }
            }
        }
    }

    fn poll(&self) -> Result<Vec<Of>> {
        let stdin = std::io::stdin();
        let mut all: Vec<(Of, PollFd<'_>)> = vec![
            (
                Of::Monitor,
                PollFd::from_borrowed_fd(self.client.as_fd(), PollFlags::IN),
            ),
            (
                Of::Signals,
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ),
        ];
        for (index, output) in self.outputs.iter().enumerate() {
            if let Some(output) = output {
                all.push((Of::Output(index), PollFd::new(output, PollFlags::IN)));
            }
        }
        match &self.input {
            Some(_) if self.pending.is_empty() => {
                let fd = PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN);
                all.push((Of::Stdin, fd));
            }
            Some(input) => all.push((Of::Room, PollFd::new(input, PollFlags::OUT))),
            None => {}
        }
        let (of, mut fds): (Vec<Of>, Vec<PollFd<'_>>) = all.into_iter().unzip();
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "cannot wait for the container"),
        }
        let ready = of.into_iter().zip(&fds);
        Ok(ready
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(of, _)| of)
            .collect())
    }

    /// The monitor says something by itself.
    fn hear(&mut self) -> Result<Option<Ended>> {
        let ended = match self.client.next_event()? {
            Event::Exit(exit) => Ended::Exit(exit),
            Event::Dropped => Ended::Dropped,
            Event::Gone => Ended::Gone,
            // As the kernel would have it, if the container's program wrote to our output itself.
            Event::Closed(stream) if stream == "stdout" => Ended::Interrupted(libc::SIGPIPE),
            Event::Closed(_) => return Ok(None),
        };
        if ended != Ended::Interrupted(libc::SIGPIPE) {
            // By now all output lies in the pipes, and nobody writes to them any more.
            for index in 0..2 {
                while self.outputs[index].is_some() {
                    self.copy_output(index);
                }
            }
        }
        Ok(Some(ended))
    }

    /// Ends the relay when nobody reads our standard output.
    fn copy_output(&mut self, index: usize) -> Option<Ended> {
        let output = self.outputs[index].as_ref()?;
        let mut chunk = [0_u8; CHUNK];
        match rustix::io::read(output, &mut chunk) {
            Ok(length @ 1..) => {
                let number = if index == 0 { 1 } else { 2 };
                if write_all(number, &chunk[..length]).is_err() {
                    self.outputs[index] = None;
                    return (index == 0).then_some(Ended::Interrupted(libc::SIGPIPE));
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => self.outputs[index] = None,
        }
        None
    }

    fn read_stdin(&mut self) -> Result<Option<Ended>> {
        let mut chunk = [0_u8; 4 << 10];
        match rustix::io::read(std::io::stdin(), &mut chunk) {
            Ok(length @ 1..) => {
                let (typed, detach) = self.keys.filter(&chunk[..length]);
                self.pending.extend_from_slice(&typed);
                self.write_input();
                if detach {
                    // What was typed before is for the container.
                    self.client.detach()?;
                    return Ok(Some(Ended::Detached));
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => self.input = None,
        }
        Ok(None)
    }

    fn write_input(&mut self) {
        let Some(input) = &self.input else {
            return;
        };
        match rustix::io::write(input, &self.pending) {
            Ok(written) => {
                self.pending.drain(..written);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The container takes no more.
            Err(_) => {
                self.input = None;
                self.pending.clear();
            }
        }
    }

    fn read_signals(
        &mut self,
        forward: &mut Option<&mut dyn FnMut(i32) -> Result<()>>,
    ) -> Result<Option<Ended>> {
        while let Some(info) = (self.signals.read_signal()).context(|| "cannot read signals")? {
            let number = info.ssi_signo.cast_signed();
            match Signal::try_from(number) {
                // The Go runtime's preemption signal, sent by engines to themselves; not for us.
                Ok(Signal::SIGCHLD | Signal::SIGPIPE | Signal::SIGURG) => {}
                Ok(Signal::SIGWINCH) => self.resize(),
                Ok(Signal::SIGCONT) if self.terminal.is_some() => self.reenter(),
                _ => match forward {
                    Some(forward) => forward(number)?,
                    None if ends_us(number) => return Ok(Some(Ended::Interrupted(number))),
                    None => {}
                },
            }
        }
        Ok(None)
    }

    /// Gives the container's terminal the size of ours. That it is gone already is no reason to end.
    fn resize(&mut self) {
        if let Some((height, width)) = crate::launch::terminal::callers_size()
            && self.container_terminal
        {
            let _ = self.client.resize(Size { height, width });
        }
    }

    /// A shell may have set other modes meanwhile.
    fn reenter(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.set_raw();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The terminal first: a signal that waits may end us.
        self.terminal = None;
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.saved_mask), None);
    }
}

/// Whether a signal's default is to end the process.
fn ends_us(signal: i32) -> bool {
    !matches!(
        Signal::try_from(signal),
        Ok(Signal::SIGCONT | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)
    )
}

/// Our end of a pipe from the monitor, and the monitor's; or a copy of our own stream for it, if that is
/// a pipe.
fn output_ends(number: i32) -> Result<(Option<OwnedFd>, Option<OwnedFd>), Errno> {
    let Ok(own) = borrow_inherited(number) else {
        return Ok((None, None));
    };
    if is_open_pipe(own, OFlags::WRONLY) {
        return Ok((
            None,
            Some(own.try_clone_to_owned().map_err(|_| Errno::MFILE)?),
        ));
    }
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Some(ours), Some(theirs)))
}

/// The same for our standard input.
fn input_ends() -> Result<(Option<OwnedFd>, Option<OwnedFd>), Errno> {
    let Ok(own) = borrow_inherited(0) else {
        return Ok((None, None));
    };
    if is_open_pipe(own, OFlags::RDONLY) {
        return Ok((
            None,
            Some(own.try_clone_to_owned().map_err(|_| Errno::MFILE)?),
        ));
    }
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((Some(ours), Some(theirs)))
}

/// Whether it is a pipe that the monitor can open anew, as it does: not one that another user made.
fn is_open_pipe(fd: BorrowedFd<'_>, access: OFlags) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
        && reopen(fd, access | OFlags::NONBLOCK).is_ok()
}

/// Writes to a standard stream, which may be set not to block by somebody it is shared with.
fn write_all(number: i32, mut bytes: &[u8]) -> Result<(), Errno> {
    let stream = borrow_inherited(number)?;
    while !bytes.is_empty() {
        match rustix::io::write(stream, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(stream, PollFlags::OUT)];
                let _ = rustix::event::poll(&mut fds, None);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Our terminal in raw mode, until this is dropped.
#[derive(Debug)]
struct RawTerminal {
    before: Termios,
    raw: Termios,
}

impl RawTerminal {
    /// `None`: standard input is no terminal.
    fn enter() -> Result<Option<Self>, Errno> {
        let before = match rustix::termios::tcgetattr(std::io::stdin()) {
            Err(Errno::NOTTY | Errno::INVAL) => return Ok(None),
            other => other?,
        };
        let mut raw = before.clone();
        raw.make_raw();
        let terminal = Self { before, raw };
        rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &terminal.raw)?;
        Ok(Some(terminal))
    }

    fn set_raw(&self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.raw);
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}
