//! The last lines that a step wrote, and its output as whole lines. Bounded, however much it writes.

use std::collections::VecDeque;

/// Lines that are kept.
const LINES: usize = 200;
/// Bytes of a line that are kept; the rest goes on as another line.
const LENGTH: usize = 16 << 10;

/// Output of a step.
#[derive(Debug, Default)]
pub(super) struct Recent {
    lines: VecDeque<String>,
    /// What has no end yet, of standard output and standard error.
    open: [Vec<u8>; 2],
    kept: bool,
}

impl Recent {
    /// Adds output; the lines that are whole now.
    pub(super) fn add(&mut self, stderr: bool, bytes: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        let open = &mut self.open[usize::from(stderr)];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut piece = piece;
            while open.len() + piece.len() > LENGTH {
                let (first, rest) = piece.split_at(LENGTH - open.len());
                open.extend_from_slice(first);
                whole.push(text(open));
                open.clear();
                piece = rest;
            }
            open.extend_from_slice(piece);
            if open.last() == Some(&b'\n') {
                whole.push(text(open));
                open.clear();
            }
        }
        self.remember(&whole);
        whole
    }

    /// What has no end, at the end.
    pub(super) fn rest(&mut self) -> Vec<String> {
        let open = self.open.iter_mut().filter(|open| !open.is_empty());
        let rest: Vec<String> = open.map(|open| text(&std::mem::take(open))).collect();
        self.remember(&rest);
        rest
    }

    fn remember(&mut self, lines: &[String]) {
        for line in lines {
            if self.lines.len() == LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line.clone());
        }
    }

    /// It failed: its lines are of interest.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    /// The last line.
    pub(super) fn last(&self) -> Option<&str> {
        self.lines.back().map(String::as_str)
    }
}

/// A line without what moves a cursor: of what was written over itself with carriage returns, the last.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\n', '\r']);
    let text = text.rsplit('\r').next().unwrap_or(text);
    text.chars()
        .filter(|c| !c.is_control() || *c == '\t' || *c == '\u{1b}')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_are_bounded() {
        let mut recent = Recent::default();
        assert!(recent.add(false, b"on").is_empty());
        assert_eq!(recent.add(true, b"other\r\n"), ["other"]);
        assert_eq!(recent.add(false, b"e\ntwo\nthr"), ["one", "two"]);
        assert_eq!(recent.add(false, b"10%\r20%\r30%\n"), ["30%"]);
        assert_eq!(recent.add(false, b"x\xff\n"), ["x\u{fffd}"]);
        recent.add(false, b"end");
        assert_eq!(recent.rest(), ["end"]);
        assert!(recent.rest().is_empty());
        let long = vec![b'a'; 5 * LENGTH];
        assert_eq!(recent.add(false, &long).len(), 4);
        for _ in 0..1000 {
            recent.add(false, b"x\n");
        }
        assert_eq!(recent.lines().len(), LINES);
        assert_eq!(recent.last(), Some("x"));
    }
}
