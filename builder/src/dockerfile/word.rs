//! Words: quotes, escapes and variables. (Interface; the reader follows.)

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

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
}

impl WordError {
    /// With this reason.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
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
}

impl Words {
    /// With this escape character.
    pub fn new(escape: char) -> Self {
        Self { escape }
    }

    /// One value: *word*.
    ///
    /// # Errors
    ///
    /// Quotes and braces that do not end, unknown modifiers, `${name?message}` of what is not set.
    pub fn expand(&self, word: &str, env: &dyn Lookup) -> Result<Expanded, WordError> {
        let _ = (word, env);
        Err(WordError::new("words are not read yet"))
    }

    /// Several values: *words*. Split at white space, that of values included, unless quoted.
    ///
    /// # Errors
    ///
    /// As [`Self::expand`].
    pub fn split(&self, word: &str, env: &dyn Lookup) -> Result<Vec<String>, WordError> {
        let _ = (word, env);
        Err(WordError::new("words are not read yet"))
    }

    /// The text of a heredoc: *document*. Quotes stay, the escape character is a backslash.
    ///
    /// # Errors
    ///
    /// As [`Self::expand`].
    pub fn document(text: &str, env: &dyn Lookup) -> Result<Expanded, WordError> {
        let _ = (text, env);
        Err(WordError::new("words are not read yet"))
    }
}
