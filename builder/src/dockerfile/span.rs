//! Places in a Dockerfile.

use serde::Serialize;

/// A part of the text: bytes `start..end`, and the lines on which it lies, both counted from one and inclusive.
///
/// A trigger that comes from a base image has the span of the `FROM` that brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
    /// The line of the first byte.
    pub first_line: u32,
    /// The line of the last byte.
    pub last_line: u32,
}

impl Span {
    /// Bytes `start..end` on lines `first_line..=last_line`.
    pub fn new(start: usize, end: usize, first_line: u32, last_line: u32) -> Self {
        Self {
            start,
            end,
            first_line,
            last_line,
        }
    }

    /// The bytes, as a range.
    pub fn bytes(&self) -> std::ops::Range<usize> {
        self.start..self.end
    }
}
