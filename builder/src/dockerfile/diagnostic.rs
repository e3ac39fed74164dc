//! What is wrong with a Dockerfile, and where.

use serde::Serialize;

use super::rule::Rule;
use super::span::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing can be built.
    Error,
    /// It can, but maybe not what was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// The lint rule, of warnings.
    pub rule: Option<Rule>,
    /// What is wrong, lower case, without a period; `BuildKit`'s words where it has some.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do.
    pub hint: Option<String>,
    /// Where to read more.
    pub url: Option<&'static str>,
}

/// What a lint rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The rule; it has name, description and URL.
    pub rule: Rule,
    /// What it found here, in `BuildKit`'s words.
    pub message: String,
    /// Where. `BuildKit` reports the first line.
    pub span: Span,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            rule: None,
            message: message.into(),
            span,
            hint: None,
            url: None,
        }
    }

    /// The same with what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Warning> for Diagnostic {
    fn from(warning: Warning) -> Self {
        Self {
            severity: Severity::Warning,
            rule: Some(warning.rule),
            url: warning.rule.url(),
            message: warning.message,
            span: warning.span,
            hint: None,
        }
    }
}
