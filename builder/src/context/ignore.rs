//! `.dockerignore`: lines to patterns.
//!
//! Read as docker and BuildKit read it: a byte order mark and lines that begin with `#` do not count,
//! nor does white space around a pattern; a leading `/` means nothing; `!` takes back.

use super::pattern::{Matched, Patterns, is_space};
use crate::path::clean;
use crate::{Context, Error, Result};

/// Largest ignore file.
pub(super) const FILE_BYTES: u64 = 4 << 20;
/// Longest line, as Go's scanner has it.
const LINE_BYTES: usize = 64 << 10;

/// The patterns of an ignore file.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Patterns,
    /// The line of each pattern.
    lines: Vec<usize>,
}

impl Ignore {
    /// Parses an ignore file; its errors name the line.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut ignore = Self::default();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let number = number + 1;
            let context = || format!("cannot read line {number} of the ignore file");
            if line.len() >= LINE_BYTES {
                return Err(Error::invalid("it is longer than 64 KiB")).context(context);
            }
            let line = String::from_utf8_lossy(line);
            let Some(pattern) = pattern_of(&line) else {
                continue;
            };
            let before = ignore.patterns.len();
            ignore.patterns.add(&pattern).context(context)?;
            if ignore.patterns.len() > before {
                ignore.lines.push(number);
            }
        }
        Ok(ignore)
    }

    /// Whether a path, relative to the root of the context, is left out: judged by itself and all
    /// directories above it, as BuildKit's check `CopyIgnoredFile` does. A walk hands down what it
    /// saw on its way instead, which is not always the same.
    pub fn matches(&self, path: &str) -> bool {
        self.patterns.matches(path).unwrap_or(false)
    }

    /// Whether nothing is ever left out.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether some line takes back what others leave out.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.has_exceptions()
    }

    /// Which line leaves a path out, and its pattern.
    pub fn reason(&self, path: &str) -> Option<(usize, &str)> {
        let number = self.patterns.deciding(path)?;
        Some((self.lines[number], self.patterns.text(number)))
    }

    pub(super) fn step(&self, path: &str, parent: Option<&Matched>) -> Result<(bool, Matched)> {
        self.patterns.step(path, parent)
    }

    pub(super) fn may_except_below(&self, path: &str, matched: &Matched) -> bool {
        self.patterns.may_except_below(path, matched)
    }
}

fn pattern_of(line: &str) -> Option<String> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.starts_with('#') {
        return None;
    }
    let line = line.trim_matches(is_space);
    let (sign, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim_matches(is_space)),
        None => ("", line),
    };
    if rest.is_empty() {
        return (!sign.is_empty()).then(|| sign.to_owned());
    }
    let cleaned = clean(rest);
    let bare = match cleaned.strip_prefix('/') {
        Some(bare) if !bare.is_empty() => bare,
        _ => &cleaned,
    };
    Some(format!("{sign}{bare}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_to_patterns() {
        for (line, pattern) in [
            ("# comment", None),
            (" # no comment", Some("# no comment")),
            ("", None),
            ("  \t", None),
            ("a/b/", Some("a/b")),
            ("/a", Some("a")),
            ("//a", Some("a")),
            ("/", Some("/")),
            ("./a/../b", Some("b")),
            ("! /a ", Some("!a")),
            ("!", Some("!")),
            ("a\r", Some("a")),
            ("..", Some("..")),
            ("\u{a0}a", Some("a")),
        ] {
            assert_eq!(pattern_of(line).as_deref(), pattern, "{line:?}");
        }
    }

    #[test]
    fn a_file() {
        let text = b"\xef\xbb\xbf# all\n*\n!/keep\n\nkeep/not\n";
        let ignore = Ignore::parse(text).unwrap();
        for (path, ignored) in [
            ("x", true),
            ("keep", false),
            ("keep/a", false),
            ("keep/not", true),
            ("keep/not/b", true),
        ] {
            assert_eq!(ignore.matches(path), ignored, "{path}");
        }
        assert_eq!(ignore.reason("keep/not/b"), Some((5, "keep/not")));
        assert_eq!(ignore.reason("x"), Some((2, "*")));
        assert_eq!(ignore.reason("keep"), None);
        assert!(ignore.has_exceptions());
        assert!(Ignore::parse(b"#\n").unwrap().is_empty());
    }

    #[test]
    fn a_malformed_line_is_named() {
        for (text, line) in [("a\n!\n", "line 2"), ("[\n", "line 1")] {
            let error = Ignore::parse(text.as_bytes()).unwrap_err();
            assert!(error.chain().to_string().contains(line), "{error:?}");
        }
        let long = vec![b'a'; 70_000];
        assert!(Ignore::parse(&long).is_err());
    }
}
