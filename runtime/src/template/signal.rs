//! Names of signals.

use crate::error::Error;

/// Numbers of signal(7) by name, for the architectures we build for.
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// First real-time signal that the C library leaves to programs.
const FIRST_REAL_TIME: i32 = 34;
const LAST: i32 = 64;

/// The number of a signal given as number, `TERM`, `SIGTERM`, `RTMIN+3` or `RTMAX-1`, in any case.
pub fn parse(text: &str) -> Result<i32, Error> {
    let number = match text.parse::<i32>() {
        Ok(number) => Some(number).filter(|number| (0..=LAST).contains(number)),
        Err(_) => by_name(&text.to_ascii_uppercase()),
    };
    number.ok_or_else(|| Error::invalid(format!("unknown signal {text:?}")))
}

fn by_name(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let offset = |text: &str, sign: char| match text.strip_prefix(sign) {
        Some(number) => number.parse::<u8>().ok().map(i32::from),
        None => text.is_empty().then_some(0),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let number = FIRST_REAL_TIME + offset(rest, '+')?;
        return (number <= LAST).then_some(number);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let number = LAST - offset(rest, '-')?;
        return (number >= FIRST_REAL_TIME).then_some(number);
    }
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("0", 0),
            ("64", 64),
            ("KILL", 9),
            ("sigkill", 9),
            ("SIGCLD", 17),
            ("rtmin", 34),
            ("SIGRTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("RTMAX", 64),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in [
            "", "FOO", "SIG", "65", "-1", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31",
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert_eq!(message, format!("unknown signal {text:?}"));
        }
    }
}
