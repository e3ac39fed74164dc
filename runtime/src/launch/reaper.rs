//! The init that stays (`--init`): the container's first process forwards signals to the program, its
//! only child by birth, reaps what is orphaned, and ends with the program's exit code.
//!
//! It is what is left of our fork after the start: a few pages that are shared with the monitor, no
//! file of the image, and undumpable like every init of ours. It splits off before filter and
//! capabilities, so that a filter which the program is to have cannot end it, and allocates nothing
//! either. The program leads a process group of its own, the foreground one of a terminal, as job
//! control wants it.

use rustix::io::Errno;
use rustix::process::WaitOptions;

use crate::sys::process::{self, CloneArgs, Cloned, SingleThreaded};

/// Returns in the child, which becomes the program.
pub(super) fn split(proof: SingleThreaded) -> Result<(), Errno> {
    // What comes before the program is there waits; it gets its own mask back when it is executed.
    process::block_signals()?;
    // Without a pid namespace orphans would go elsewhere.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    match process::clone(proof, &CloneArgs::default())? {
        Cloned::Child => {
            rustix::process::setpgid(None, None)?;
            // Refused without a terminal, and then there is nothing to do.
            if let Ok(stdin) = process::borrow_inherited(0) {
                let _ = rustix::termios::tcsetpgrp(stdin, rustix::process::getpid());
            }
            Ok(())
        }
        Cloned::Parent(child, pidfd) => {
            // Nobody else needs the descriptor, and all others are the program's.
            std::mem::forget(pidfd);
            let _ = process::close_range(0, u32::MAX);
            let _ = rustix::thread::set_name(c"rcrun init");
            watch(child)
        }
    }
}

fn watch(child: i32) -> ! {
    loop {
        match process::next_signal() {
            Ok(libc::SIGCHLD) => reap(child),
            // Those of a terminal are for its foreground group.
            Ok(libc::SIGTTIN | libc::SIGTTOU) | Err(Errno::INTR) => {}
            Ok(signal) => {
                // It may be gone already: then its end is the next thing to be heard of.
                let _ = process::kill(child, signal);
            }
            Err(_) => process::exit_now(1),
        }
    }
}

fn reap(child: i32) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() != child {
            continue;
        }
        if let Some(code) = status.exit_status() {
            process::exit_now(code);
        }
        if let Some(signal) = status.terminating_signal() {
            process::exit_now(128 + signal);
        }
    }
}
