//! `.dockerignore`.

use crate::{Error, Result};

/// The patterns of an ignore file.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    _patterns: (),
}

impl Ignore {
    /// Parses an ignore file; its errors name the line.
    pub fn parse(_text: &[u8]) -> Result<Self> {
        Err(Error::unsupported("cannot read ignore files yet"))
    }

    /// Whether a path, relative to the root of the context, is left out.
    pub fn matches(&self, _path: &str) -> bool {
        false
    }

    /// Whether nothing is ever left out.
    pub fn is_empty(&self) -> bool {
        true
    }
}
