//! What /proc/PID/stat says about a process.

use rustix::fs::{Mode, OFlags};

/// Facts about one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessFacts {
    /// Clock ticks since boot.
    pub start_time: u64,
    /// Dead, not yet waited for.
    pub zombie: bool,
}

/// Reads them; `None` when there is no such process.
pub(crate) fn facts(pid: i32) -> Option<ProcessFacts> {
    let path = format!("/proc/{pid}/stat");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let mut text = [0u8; 1024];
    let length = rustix::io::read(&file, &mut text).ok()?;
    parse(&text[..length])
}

/// The program's name may hold anything, so fields are counted from its closing parenthesis.
fn parse(text: &[u8]) -> Option<ProcessFacts> {
    let end = text.iter().rposition(|b| *b == b')')?;
    let mut fields = text.get(end + 2..)?.split(|b| *b == b' ');
    let state = *fields.next()?.first()?;
    let start_time = std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
    Some(ProcessFacts {
        start_time,
        zombie: matches!(state, b'Z' | b'X' | b'x'),
    })
}

/// What a shell says of a process that a signal ended; engines show it.
pub(crate) fn signal_words(signal: i32) -> String {
    use nix::sys::signal::Signal as S;
    let words = match S::try_from(signal) {
        Ok(S::SIGHUP) => "hangup",
        Ok(S::SIGINT) => "interrupt",
        Ok(S::SIGQUIT) => "quit",
        Ok(S::SIGILL) => "illegal instruction",
        Ok(S::SIGTRAP) => "trace/breakpoint trap",
        Ok(S::SIGABRT) => "aborted",
        Ok(S::SIGBUS) => "bus error",
        Ok(S::SIGFPE) => "floating point exception",
        Ok(S::SIGKILL) => "killed",
        Ok(S::SIGSEGV) => "segmentation fault",
        Ok(S::SIGPIPE) => "broken pipe",
        Ok(S::SIGALRM) => "alarm clock",
        Ok(S::SIGTERM) => "terminated",
        Ok(S::SIGSYS) => "bad system call",
        _ => return signal_name(signal),
    };
    words.to_owned()
}

/// `SIGKILL` and its like, for messages.
pub(crate) fn signal_name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => known.as_str().to_owned(),
        Err(_) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive() {
        let own = facts(std::process::id() as i32).unwrap();
        assert!(own.start_time > 0 && !own.zombie);
        assert_eq!(facts(i32::MAX), None);
    }

    #[test]
    fn names_may_hold_parentheses_and_spaces() {
        let text = b"7 (a) R (b) Z 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0\n";
        assert_eq!(
            parse(text),
            Some(ProcessFacts {
                start_time: 4242,
                zombie: true
            })
        );
    }
}
