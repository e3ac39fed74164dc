//! Words: quotes, escapes, `$name` and `${name...}` with its modifiers.
//!
//! Owns the rules of "Environment replacement" in `BuildKit`'s reference, and where that is silent, what its lexer does.
//! Where that lexer is plainly wrong this one is right: text before `${a:-b}` is not lost when a word is split, and a `$` in
//! the replacement of `${name//pattern/replacement}` is a `$`.
//!
//! Modifiers: `:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`. Patterns: `pattern`.

mod pattern;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::limits;
use super::quote::quoted;
use reader::Reader;

/// Where the values of variables come from.
pub trait Lookup {
    /// The value of a variable that is set, be it empty.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Lookup for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Lookup for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// No variable is set.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Lookup for Nothing {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// A word whose variables are replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The value.
    pub value: String,
    /// Variables that were asked for and are set.
    pub matched: BTreeSet<String>,
    /// Variables that were asked for and are not set.
    pub unmatched: BTreeSet<String>,
}

/// Why a word has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordError {
    message: String,
    /// Variables that had been asked for by then and are not set.
    pub(super) unmatched: BTreeSet<String>,
    /// What to do.
    pub(super) hint: Option<String>,
}

impl WordError {
    /// With this reason.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            unmatched: BTreeSet::new(),
            hint: None,
        }
    }

    /// The same, with what may have been meant.
    #[must_use]
    pub fn did_you_mean(mut self, meant: Option<&str>) -> Self {
        self.hint = meant
            .map(|meant| format!("did you mean {meant}?"))
            .or(self.hint);
        self
    }

    /// The same, with what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: Option<&str>) -> Self {
        self.hint = hint.map(str::to_owned).or(self.hint);
        self
    }

    /// What to do, for people.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for WordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WordError {}

/// Reads words.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// What takes the meaning from the next character: `\` or a backquote.
    pub escape: char,
    /// Quotes mean what they mean, but stay in the value.
    pub raw_quotes: bool,
    /// Escape characters mean what they mean, but stay in the value.
    pub raw_escapes: bool,
    /// Quotes mean nothing.
    pub no_quotes: bool,
    /// `$name` of what is not set stays as it is, instead of becoming nothing.
    pub keep_unset: bool,
}

impl Words {
    /// With this escape character, and as instructions read words.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            no_quotes: false,
            keep_unset: false,
        }
    }

    /// One value: *word*.
    ///
    /// # Errors
    ///
    /// Quotes and braces that do not end, unknown modifiers, `${name?message}` of what is not set.
    pub fn expand(&self, word: &str, env: &dyn Lookup) -> Result<Expanded, WordError> {
        // Most words have nothing in them that means anything.
        if !word.contains(['$', '\'', '"', self.escape]) {
            return Ok(Expanded {
                value: word.to_owned(),
                ..Expanded::default()
            });
        }
        self.read(word, env, limits::WORD_BYTES, false)
            .map(|read| read.0)
    }

    /// Several values: *words*. Split at white space, that of values included, unless quoted. Empty ones are left out.
    ///
    /// # Errors
    ///
    /// As [`Self::expand`].
    pub fn split(&self, word: &str, env: &dyn Lookup) -> Result<Vec<String>, WordError> {
        self.read(word, env, limits::WORD_BYTES, true)
            .map(|read| read.1)
    }

    /// The text of a heredoc: *document*. Quotes stay, the escape character is a backslash.
    ///
    /// # Errors
    ///
    /// As [`Self::expand`].
    pub fn document(text: &str, env: &dyn Lookup) -> Result<Expanded, WordError> {
        let words = Self {
            no_quotes: true,
            ..Self::new('\\')
        };
        words
            .read(text, env, limits::DOCUMENT_BYTES, false)
            .map(|read| read.0)
    }

    fn read(
        &self,
        word: &str,
        env: &dyn Lookup,
        limit: usize,
        splits: bool,
    ) -> Result<(Expanded, Vec<String>), WordError> {
        let mut reader = Reader::new(self, word, env, limit);
        reader.whole(splits).map_err(|reason| {
            let shown = if word.len() > limits::QUOTED_BYTES {
                "a long word".to_owned()
            } else {
                quoted(word)
            };
            let message = format!("failed to process {shown}: {reason}");
            WordError {
                message,
                unmatched: std::mem::take(&mut reader.unmatched),
                hint: None,
            }
        })
    }
}
