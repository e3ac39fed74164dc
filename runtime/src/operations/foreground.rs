//! `run`: starts what `create` made and, unless detached, stays until it ends: forwards signals,
//! shows its terminal, reaps, cleans up.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::caller::prove_single_threaded;
use super::create::{Created, Start, create};
use super::stop;
use crate::container::{CreateOptions, Runtime, Status};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::explain::{Subject, explain};
use crate::launch::parent::{exit_code, reap};
use crate::launch::terminal::{self, Terminal};
use crate::launch::wire::{Message, Tag};
use crate::sys::process::{CloneArgs, Cloned, clone, exit_now, pidfd_signal, restore_signals};

/// Creates, starts and, unless detached, waits.
pub(crate) fn run(runtime: &Runtime, id: &str, options: &CreateOptions) -> Result<i32> {
    let signals = stay(options.detach, options.no_subreaper)?;
    let created = create(runtime, id, options, Start::Now)?;
    let begun = begin(&created).inspect_err(|_| show_last_words(&created));
    let result = begun.and_then(|()| match &signals {
        None => Ok(0),
        Some(signals) => wait(&created, signals, options.lifeline.as_deref()),
    });
    match (result, options.detach) {
        (Ok(code), true) => Ok(code),
        (result, _) if options.keep && result.is_ok() => result,
        (result, _) => {
            let cleaned = stop::end(&created.directory, &created.record);
            let code = result?;
            cleaned?;
            Ok(code)
        }
    }
}

/// A program that could not be executed said so on its terminal, which nobody else reads.
fn show_last_words(created: &Created) {
    if let Some(socket) = &created.console
        && let Ok(mut terminal) = open_terminal(socket)
    {
        terminal.drain();
    }
}

/// Unless detached, prepares this process to attend another one to its end. To be called before the
/// first clone: a signal that arrives in between is not lost.
pub(crate) fn stay(detach: bool, no_subreaper: bool) -> Result<Option<SignalFd>> {
    if detach {
        return Ok(None);
    }
    let signals = block_signals()?;
    if !no_subreaper {
        adopt_orphans()?;
    }
    Ok(Some(signals))
}

/// Orphans of the container become this process's children and are reaped by it.
pub(crate) fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context(|| "cannot become a subreaper")
}

/// Blocks all signals that can be forwarded and makes them readable.
pub(crate) fn block_signals() -> Result<SignalFd> {
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), None).context(|| "cannot block signals")?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context(|| "cannot create a signal descriptor")
}

/// Lets the program start; poststart hooks follow.
pub(crate) fn begin(created: &Created) -> Result<()> {
    created
        .wire
        .send(&Message::new(Tag::Go))
        .context(|| "cannot release the container's init")?;
    let printed = || created.hooks.as_ref().map(super::hooks::Files::printed);
    // The init's end closes by itself when the program is executed.
    if let Some((message, _)) = created
        .wire
        .receive()
        .context(|| "cannot hear from the container's init")?
        && message.tag == Tag::Failed
    {
        let printed = printed();
        return Err(explain(
            &message,
            &Subject {
                plan: Some(&created.plan),
                process: &created.plan.process,
                hook_output: printed
                    .as_ref()
                    .map(|(out, err)| (out.as_str(), err.as_str())),
            },
        ));
    }
    match (&created.hooks, created.spec.hooks()) {
        (Some(files), Some(hooks)) if hooks.poststart().is_some() => {
            let proof = prove_single_threaded()?;
            files.set_state(&created.record, Status::Running)?;
            files.run(
                proof,
                &created.record.bundle,
                "poststart",
                hooks.poststart().as_ref(),
            )
        }
        _ => Ok(()),
    }
}

fn wait(created: &Created, signals: &SignalFd, lifeline: Option<&OwnedFd>) -> Result<i32> {
    let mut terminal = match &created.console {
        Some(socket) => Some(open_terminal(socket)?),
        None => None,
    };
    attend(
        created.record.pid,
        &created.pidfd,
        signals,
        terminal.as_mut(),
        lifeline,
    )
}

/// Takes the master that the container's side sent.
pub(crate) fn open_terminal(socket: &OwnedFd) -> Result<Terminal> {
    terminal::receive(socket.as_fd())
        .and_then(Terminal::new)
        .context(|| "cannot set up the container's terminal")
}

/// Forwards signals and terminal until the process behind `pidfd` is gone; returns its exit code. It is
/// killed when `lifeline` hangs up.
pub(crate) fn attend(
    pid: i32,
    pidfd: &OwnedFd,
    signals: &SignalFd,
    mut terminal: Option<&mut Terminal>,
    mut lifeline: Option<&OwnedFd>,
) -> Result<i32> {
    loop {
        let (input, output, room) = terminal
            .as_ref()
            .map_or((false, false, false), |t| t.interests());
        let stdin = std::io::stdin();
        let mut fds = vec![
            PollFd::new(pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        if let Some(terminal) = terminal.as_ref() {
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::IN, output);
            interest.set(PollFlags::OUT, room);
            if !interest.is_empty() {
                fds.push(PollFd::from_borrowed_fd(terminal.master(), interest));
            }
            if input {
                fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
            }
        }
        if let Some(lifeline) = lifeline {
            fds.push(PollFd::new(lifeline, PollFlags::empty()));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "cannot wait for the container"),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        if lifeline.is_some() && ready.last().is_some_and(|flags| !flags.is_empty()) {
            // Gone already is as good.
            let _ = pidfd_signal(pidfd.as_fd(), Signal::SIGKILL as i32);
            lifeline = None;
        }
        if let Some(terminal) = terminal.as_deref_mut() {
            serve_terminal(terminal, &ready, (input, output, room));
            if terminal.is_left() {
                return leave(pidfd, signals, terminal);
            }
        }
        if !ready[1].is_empty() {
            forward_signals(pid, pidfd.as_fd(), signals, terminal.as_deref())?;
        }
        if !ready[0].is_empty() {
            if let Some(terminal) = terminal.as_deref_mut() {
                terminal.drain();
            }
            return end(pidfd);
        }
    }
}

/// The caller goes, and the process stays, with a terminal: a child of ours holds that, as long as the
/// process lives.
fn leave(pidfd: &OwnedFd, signals: &SignalFd, terminal: &mut Terminal) -> Result<i32> {
    let proof = prove_single_threaded()?;
    match clone(proof, &CloneArgs::default()).context(|| "cannot fork")? {
        Cloned::Parent(..) => Ok(0),
        Cloned::Child => {
            // The caller's session may end, and everybody in it be told so, also before this.
            let apart = rustix::process::setsid();
            while let Ok(Some(_)) = signals.read_signal() {}
            restore_signals();
            let held = apart.and_then(|_| terminal.hold(pidfd.as_fd()));
            exit_now(i32::from(held.is_err()))
        }
    }
}

fn serve_terminal(
    terminal: &mut Terminal,
    ready: &[PollFlags],
    (input, output, room): (bool, bool, bool),
) {
    let master = output || room;
    if master && let Some(flags) = ready.get(2) {
        if flags.contains(PollFlags::OUT) {
            terminal.write_input();
        }
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            terminal.copy_output();
        }
    }
    let at = if master { 3 } else { 2 };
    if input && ready.get(at).is_some_and(|flags| !flags.is_empty()) {
        terminal.read_input();
    }
}

fn forward_signals(
    pid: i32,
    pidfd: BorrowedFd<'_>,
    signals: &SignalFd,
    terminal: Option<&Terminal>,
) -> Result<()> {
    while let Some(info) = signals.read_signal().context(|| "cannot read signals")? {
        let signal = info.ssi_signo as i32;
        match Signal::try_from(signal) {
            Ok(Signal::SIGCHLD) => reap_orphans(pid),
            Ok(Signal::SIGWINCH) if terminal.is_some() => {
                if let Some(terminal) = terminal {
                    terminal.resize();
                }
            }
            // The Go runtime's preemption signal, sent by engines to themselves; not for us.
            Ok(Signal::SIGURG | Signal::SIGPIPE) => {}
            _ => match pidfd_signal(pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    return Err(errno).context(|| format!("cannot forward signal {signal}"));
                }
            },
        }
    }
    Ok(())
}

/// Waits for all dead children but the one that is attended, whose status is still to be read.
pub(crate) fn reap_orphans(attended: i32) {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, peek) {
        match status {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)
                if pid.as_raw() != attended =>
            {
                let _ = waitpid(pid, None);
            }
            // None is dead, or the attended one is found first: the others wait for its end.
            _ => return,
        }
    }
}

fn end(pidfd: &OwnedFd) -> Result<i32> {
    match reap(pidfd.as_fd()) {
        Ok(status) => Ok(exit_code(&status)),
        Err(errno) => Err(Error::new(
            ErrorKind::Internal,
            format!("cannot wait for the container: {errno}"),
        )),
    }
}
