//! What can be judged of an instruction only once its variables are replaced, and without doing it.

use super::instruction::{Kind, Sources};
use super::word::WordError;

/// Judges an instruction.
pub(super) fn judge(kind: &Kind) -> Result<(), WordError> {
    match kind {
        Kind::Volume(volume) if volume.paths.iter().any(String::is_empty) => Err(WordError::new(
            "VOLUME specified can not be an empty string",
        )),
        Kind::Stopsignal { signal } if !is_signal(signal) => {
            Err(WordError::new(format!("invalid signal: {signal}")))
        }
        Kind::Add(add) => {
            mode(add.chmod.as_deref())?;
            checksum(add.checksum.as_deref(), &add.sources)
        }
        Kind::Copy(copy) => {
            mode(copy.chmod.as_deref())?;
            local(&copy.sources)
        }
        _ => Ok(()),
    }
}

/// What looks like a number is octal, of four digits. Symbolic modes are for those who know the files.
fn mode(text: Option<&str>) -> Result<(), WordError> {
    let Some(text) = text.filter(|text| text.starts_with(|c: char| c.is_ascii_digit())) else {
        return Ok(());
    };
    let fits = text.bytes().all(|byte| byte.is_ascii_digit())
        && u32::from_str_radix(text, 8).is_ok_and(|mode| mode <= 0o7777);
    if fits {
        return Ok(());
    }
    let message = format!(
        "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
    );
    Err(WordError::new(message))
}

/// A checksum is one of a thing that is fetched.
fn checksum(checksum: Option<&str>, sources: &Sources) -> Result<(), WordError> {
    if checksum.is_none_or(str::is_empty) {
        return Ok(());
    }
    match &sources.paths[..] {
        [one] if is_http(one) || is_git(one) => Ok(()),
        [_] => Err(WordError::new("checksum requires HTTP(S) or Git sources")),
        _ => Err(WordError::new(
            "checksum can't be specified for multiple sources",
        )),
    }
}

/// `COPY` fetches nothing.
fn local(sources: &Sources) -> Result<(), WordError> {
    for source in &sources.paths {
        if is_git(source) {
            return Err(WordError::new("source can't be a git ref for COPY")
                .with_hint(Some("ADD fetches it")));
        }
        if is_http(source) {
            return Err(
                WordError::new("source can't be a URL for COPY").with_hint(Some("ADD fetches it"))
            );
        }
    }
    Ok(())
}

/// Whether `ADD` fetches it.
pub(super) fn is_remote(source: &str) -> bool {
    is_http(source) || is_git(source)
}

fn is_http(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// A repository, without looking at what a server says: by its scheme, by its name, or `user@host:path`.
fn is_git(source: &str) -> bool {
    if source.starts_with("git://") || source.starts_with("ssh://") {
        return true;
    }
    if is_http(source) {
        let path = source.split(['?', '#']).next().unwrap_or_default();
        return path.ends_with(".git");
    }
    let Some((user, rest)) = source.split_once('@') else {
        return false;
    };
    let named = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    named(user) && rest.split_once(':').is_some_and(|(host, _)| named(host))
}

/// Names of signals, without `SIG`; those from `RTMIN` to `RTMAX` are computed.
const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// Whether `STOPSIGNAL` may have it: a name, or any number but zero.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let beyond = |rest: &str, sign: char, most: u32| {
        let number = rest
            .strip_prefix(sign)
            .filter(|digits| !digits.starts_with('0'));
        rest.is_empty()
            || number
                .and_then(|digits| digits.parse().ok())
                .is_some_and(|number: u32| number <= most)
    };
    SIGNALS.contains(&name)
        || name
            .strip_prefix("RTMIN")
            .is_some_and(|rest| beyond(rest, '+', 15))
        || name
            .strip_prefix("RTMAX")
            .is_some_and(|rest| beyond(rest, '-', 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for source in [
            "git://a/b",
            "ssh://git@a/b",
            "git@a.b:c",
            "https://a/b.git",
            "https://a/b.git#v1:sub",
        ] {
            assert!(is_git(source), "{source}");
        }
        for source in ["a/b", "a@b", "https://a/b", "/a@b:c", "a/b.git", "@a:b"] {
            assert!(!is_git(source), "{source}");
        }
        assert!(is_remote("http://a/b") && !is_remote("http:/a"));
    }

    #[test]
    fn modes() {
        for text in ["0", "755", "07777", "u=rwX,go-w", "+x", ""] {
            assert!(mode(Some(text)).is_ok(), "{text}");
        }
        for text in ["10000", "8", "0o7", "7x", "99999999999"] {
            assert!(mode(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn signals() {
        for name in [
            "9",
            "-1",
            "99",
            "SIGTERM",
            "term",
            "SigUsr1",
            "RTMIN",
            "SIGRTMIN+3",
            "RTMAX-14",
            "RTMIN+15",
        ] {
            assert!(is_signal(name), "{name}");
        }
        for name in [
            "",
            "0",
            "SIG",
            "SIGSIGTERM",
            "TERMX",
            "RTMIN+0",
            "RTMIN+16",
            "RTMAX-15",
            "RTMAX+1",
            "RTMIN-1",
            "9x",
        ] {
            assert!(!is_signal(name), "{name}");
        }
    }
}
