//! Names in archives: from bytes of strangers to a relative path without surprises.
//!
//! A leading `/` and `.` components mean nothing and go; everything else that could lead out of the
//! layer, or that two programs read differently, is refused. Bytes need not be UTF-8.

use super::limits::PATH_BYTES;
use crate::{Error, Result};

/// The path relative to the root of the layer, components joined by single slashes; empty for the
/// root itself.
pub fn normalise(raw: &[u8]) -> Result<Vec<u8>> {
    let refuse = |why: &str| {
        let shown = show(raw);
        Err(Error::invalid(format!(
            "refuse name {shown} in an archive: {why}"
        )))
    };
    if raw.is_empty() {
        return refuse("it is empty");
    }
    if raw.len() > PATH_BYTES {
        return refuse("it is longer than 4095 bytes");
    }
    if raw.contains(&0) {
        return refuse("it contains a NUL");
    }
    let mut path = Vec::with_capacity(raw.len());
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("it contains `..`"),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(path)
}

/// Parent and last component of a normalised path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// The path of a name in a directory.
pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A name for messages, quoted and never longer than a line.
pub fn show(raw: &[u8]) -> String {
    const SHOWN: usize = 200;
    if raw.len() > SHOWN {
        return format!("{:?}...", String::from_utf8_lossy(&raw[..SHOWN]));
    }
    format!("{:?}", String::from_utf8_lossy(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_nothing_is_dropped() {
        for (raw, path) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/abs", "abs"),
            (".", ""),
            ("./", ""),
            ("/", ""),
            ("...", "..."),
            ("a\\b", "a\\b"),
        ] {
            assert_eq!(normalise(raw.as_bytes()).unwrap(), path.as_bytes(), "{raw}");
        }
        assert_eq!(normalise(b"\xff\xfe").unwrap(), b"\xff\xfe");
    }

    #[test]
    fn d1_escapes_and_odd_names_are_refused() {
        let long = vec![b'a'; 4096];
        for raw in [
            &b""[..],
            b"..",
            b"../x",
            b"a/../../x",
            b"a/..",
            b"/../x",
            b"a\0b",
            &long,
        ] {
            normalise(raw).unwrap_err();
        }
    }

    #[test]
    fn parents() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
        assert_eq!(join(b"", b"x"), b"x");
        assert_eq!(join(b"a/b", b"x"), b"a/b/x");
    }
}
