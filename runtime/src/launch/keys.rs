//! Detach keys: what people type to leave a container, or a process in it, alone.

use crate::error::{Error, Result};

/// Detach keys as people write them: `ctrl-p,ctrl-q`, `a`, `ctrl-@`; empty for none.
pub fn parse_keys(text: &str) -> Result<Vec<u8>> {
    let wrong = |key: &str| Error::invalid(format!("invalid detach keys {text:?}: {key:?}"));
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parse = |key: &str| -> Result<u8> {
        let control = key.strip_prefix("ctrl-");
        match (control.unwrap_or(key).as_bytes(), control.is_some()) {
            ([byte], false) if byte.is_ascii_graphic() => Ok(*byte),
            ([byte], true) if matches!(byte.to_ascii_uppercase(), b'@'..=b'_') => {
                Ok(byte.to_ascii_uppercase() & 0x1f)
            }
            _ => Err(wrong(key)),
        }
    };
    text.split(',').map(parse).collect()
}

/// Looks for the detach keys in what is typed. A beginning of them is held back until it is clear.
#[derive(Debug)]
pub(crate) struct Keys {
    keys: Vec<u8>,
    seen: usize,
}

impl Keys {
    /// Empty: there are none.
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, seen: 0 }
    }

    /// What is for the container; and whether the keys are complete.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            // What was held back was no beginning, but its rest, with this byte, may be one.
            let mut held = self.keys[..self.seen].to_vec();
            held.push(*byte);
            self.seen = 0;
            let keep = (0..held.len()).find(|at| self.keys.starts_with(&held[*at..]));
            let keep = keep.unwrap_or(held.len());
            self.seen = held.len() - keep;
            passed.extend_from_slice(&held[..keep]);
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_people_write_them() {
        for (text, keys) in [
            ("ctrl-p,ctrl-q", &[16, 17][..]),
            ("", &[]),
            ("a,ctrl-@,ctrl-_", b"a\0\x1f"),
            ("ctrl-[", &[27]),
        ] {
            assert_eq!(parse_keys(text).unwrap(), keys, "{text}");
        }
        for text in ["ctrl-", "ab", "ctrl-pp", ",", "ctrl-1", "\u{e4}"] {
            parse_keys(text).unwrap_err();
        }
    }

    #[test]
    fn detach_keys_are_found_wherever_reads_end() {
        for (keys, typed, passed, detached) in [
            (&b"\x10\x11"[..], &b"abc"[..], &b"abc"[..], false),
            (b"\x10\x11", b"a\x10\x11b", b"a", true),
            (b"\x10\x11", b"\x10a", b"\x10a", false),
            (b"\x10\x11", b"\x10\x10\x11", b"\x10", true),
            (b"aab", b"aaab", b"a", true),
            (b"", b"\x10\x11", b"\x10\x11", false),
            (b"x", b"abx", b"ab", true),
        ] {
            for at in 0..=typed.len() {
                let mut filter = Keys::new(keys.to_vec());
                let (mut got, mut end) = filter.filter(&typed[..at]);
                if !end {
                    let (more, ended) = filter.filter(&typed[at..]);
                    got.extend(more);
                    end = ended;
                }
                assert_eq!((&*got, end), (passed, detached), "{typed:?} at {at}");
            }
        }
    }
}
