//! Ctrl-C in a verb that takes long: the work is called off and ends by itself, so that nothing is
//! left half; a second one ends the process where it stands, which the store survives as well.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rcrun_runtime::error::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// How often `tick` is called.
const TICK: Duration = Duration::from_millis(100);
/// Signals within this time are one: timeout(1) signals the process and then its group.
const ONE: Duration = Duration::from_millis(500);

/// What became of work that can be interrupted.
#[derive(Debug)]
pub(crate) struct Ended<T> {
    /// What it returned.
    pub(crate) result: T,
    /// The signal that called it off.
    pub(crate) signal: Option<i32>,
}

impl<T> Ended<T> {
    /// The exit code of a process that was ended by this signal, as a shell shows it.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        self.signal
            .and_then(|signal| u8::try_from(128 + signal).ok())
    }
}

/// Does some work; SIGINT, SIGTERM and SIGHUP meanwhile call `cancel`. `tick` is called ten times a
/// second, if there is one.
pub(crate) fn watched<T>(
    cancel: &(dyn Fn() + Sync),
    tick: Option<&(dyn Fn() + Sync)>,
    work: impl FnOnce() -> T,
) -> Result<Ended<T>> {
    let failed = || "cannot watch for signals";
    let ends: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    let before = ends
        .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)
        .context(failed)?;
    let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context(failed)?;
    let over = eventfd(0, EventfdFlags::CLOEXEC).context(failed)?;
    let seen = AtomicI32::new(0);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| watch(&signals, &over, &seen, cancel, tick));
        let result = work();
        // It cannot fail: nothing else was written.
        let _ = rustix::io::write(&over, &1_u64.to_ne_bytes());
        result
    });
    // A signal that came at the very end is as good as none.
    drop(signals);
    before.thread_set_mask().context(failed)?;
    let signal = Some(seen.into_inner()).filter(|signal| *signal != 0);
    Ok(Ended { result, signal })
}

fn watch(
    signals: &SignalFd,
    over: &OwnedFd,
    seen: &AtomicI32,
    cancel: &(dyn Fn() + Sync),
    tick: Option<&(dyn Fn() + Sync)>,
) {
    let mut since = None;
    let time = tick.and_then(|_| Timespec::try_from(TICK).ok());
    loop {
        let mut descriptors = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(over, PollFlags::IN),
        ];
        match poll(&mut descriptors, time.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !descriptors[1].revents().is_empty() {
            return;
        }
        if let Ok(Some(signal)) = signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(Signal::SIGINT as i32);
            let first = *since.get_or_insert_with(Instant::now);
            if seen.swap(number, Ordering::SeqCst) != 0 && first.elapsed() > ONE {
                end_now(number);
            }
            cancel();
        }
        if let Some(tick) = tick {
            tick();
        }
    }
}

/// As if the signal had never been caught.
fn end_now(number: i32) {
    let Ok(signal) = Signal::try_from(number) else {
        return;
    };
    let mut only = SigSet::empty();
    only.add(signal);
    if only.thread_unblock().is_ok() {
        let _ = raise(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn work_ends_by_itself_and_is_watched_meanwhile() {
        let ticks = AtomicU32::new(0);
        let tick = || {
            ticks.fetch_add(1, Ordering::SeqCst);
        };
        let ended = watched(&|| (), Some(&tick), || {
            while ticks.load(Ordering::SeqCst) < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            7
        })
        .unwrap();
        assert_eq!((ended.result, ended.signal), (7, None));
        assert_eq!(ended.exit_code(), None);
    }
}
