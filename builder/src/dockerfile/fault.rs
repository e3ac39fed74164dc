//! What is wrong within one instruction, before it is known where in the file that stands.

use std::ops::Range;

use super::word::WordError;

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    /// Where in the instruction's one line; none: all of it.
    pub(super) range: Option<Range<usize>>,
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            range: None,
            hint: None,
        }
    }

    /// The same, here, unless it has a place of its own.
    pub(super) fn at(mut self, range: &Range<usize>) -> Self {
        self.range.get_or_insert_with(|| range.clone());
        self
    }

    /// The same, with what to do.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with what may have been meant.
    pub(super) fn did_you_mean(mut self, meant: Option<impl AsRef<str>>) -> Self {
        self.hint = meant
            .map(|meant| format!("did you mean {}?", meant.as_ref()))
            .or(self.hint);
        self
    }
}

impl From<WordError> for Fault {
    fn from(error: WordError) -> Self {
        Self {
            message: error.to_string(),
            range: None,
            hint: error.hint,
        }
    }
}
