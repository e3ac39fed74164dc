//! The one error type of all libraries: what failed, why, and of which kind.
//!
//! Messages are lower case, without a full stop, verb first, and name the path or the
//! configuration property concerned: `cannot mount proc at /proc`. A cause is chained as source;
//! [`Error::chain`] prints all of them, joined by `: `. Exit codes, hints and gRPC codes are
//! derived from [`ErrorKind`] by the callers, never here.

use std::error::Error as StdError;
use std::fmt;

/// Result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The container, file or program does not exist.
    NotFound,
    /// The identifier or file is taken.
    Exists,
    /// The configuration or an argument is wrong; trying again cannot help.
    InvalidInput,
    /// The object is in the wrong state for this operation.
    FailedPrecondition,
    /// This kernel, machine or build lacks what was asked for.
    Unsupported,
    /// The caller lacks a privilege.
    PermissionDenied,
    /// Somebody else uses the object; trying again may help.
    Busy,
    /// A time limit ran out.
    Deadline,
    /// Disk, memory, descriptors or another resource ran out.
    Exhausted,
    /// A record on disk cannot be understood.
    Corrupt,
    /// A peer (bus, hook, console) did not answer.
    Unavailable,
    /// Anything else: an unexpected answer of the kernel or a defect of ours.
    Internal,
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Inner {
    kind: ErrorKind,
    message: String,
    told: bool,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// An error with a kind, a message and a chain of causes.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            told: false,
            hint: None,
            source: None,
        }))
    }

    /// A configuration or argument that is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Something this kernel, machine or build lacks.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The same kind of error, with `self` as its cause.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        let mut cause = self;
        Self(Box::new(Inner {
            kind: cause.kind(),
            message: message.into(),
            told: cause.0.told,
            hint: cause.0.hint.take(),
            source: Some(Box::new(cause)),
        }))
    }

    /// Marks that the container's own standard error already says what went wrong.
    #[must_use]
    pub fn told(mut self) -> Self {
        self.0.told = true;
        self
    }

    /// Whether the caller's standard error already says so: then it is repeated, in more words, to a
    /// person or a log file only.
    pub fn was_told(&self) -> bool {
        self.0.told
    }

    /// Adds what a person can do about it, unless a cause already says so: words of its own, without
    /// a full stop, which are not part of the message.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// What a person can do about it, where whoever made the error knew more than its kind.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The message and all causes, joined by `: `.
    pub fn chain(&self) -> Chain<'_> {
        Chain(self)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind(), self.chain())
    }
}

/// Prints an [`Error`] with all of its causes.
#[derive(Debug)]
pub struct Chain<'a>(&'a Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.0.source.as_deref().map(|e| e as &dyn StdError);
        while let Some(e) = next {
            // An `Error` prints its own message only and hands out its cause itself.
            write!(f, ": {e}")?;
            next = e.source();
        }
        Ok(())
    }
}

/// The kind that an errno value stands for when nothing better is known.
pub fn kind_of(errno: rustix::io::Errno) -> ErrorKind {
    use rustix::io::Errno as E;
    match errno {
        E::NOENT | E::SRCH | E::NOTDIR => ErrorKind::NotFound,
        E::EXIST => ErrorKind::Exists,
        E::INVAL | E::NAMETOOLONG | E::LOOP => ErrorKind::InvalidInput,
        E::PERM | E::ACCESS | E::ROFS => ErrorKind::PermissionDenied,
        E::NOSYS | E::OPNOTSUPP | E::NODEV => ErrorKind::Unsupported,
        E::BUSY | E::AGAIN => ErrorKind::Busy,
        E::NOSPC | E::NOMEM | E::MFILE | E::NFILE | E::DQUOT => ErrorKind::Exhausted,
        E::TIMEDOUT => ErrorKind::Deadline,
        _ => ErrorKind::Internal,
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::new(kind_of(errno), words(errno))
    }
}

/// The kernel's words for an errno value, as other runtimes print them and engines look for.
pub fn words(errno: rustix::io::Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_lowercase()
}

impl From<nix::errno::Errno> for Error {
    fn from(errno: nix::errno::Errno) -> Self {
        rustix::io::Errno::from_raw_os_error(errno as i32).into()
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => rustix::io::Errno::from_raw_os_error(code).into(),
            None => Self::new(ErrorKind::Internal, error.to_string()),
        }
    }
}

/// Adds what was being done to an error on its way up.
pub trait Context<T> {
    /// Wraps the error with a message that is only built when there is one.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| e.into().context(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_every_cause_once() {
        let e: Result<()> = Err(rustix::io::Errno::PERM)
            .context(|| "mount(\"proc\")")
            .context(|| "cannot mount");
        let e = e.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        assert_eq!(
            e.chain().to_string(),
            "cannot mount: mount(\"proc\"): operation not permitted"
        );
    }

    #[test]
    fn the_first_hint_stays() {
        let e = Error::invalid("wrong").with_hint("do this");
        let e = e.context("cannot go on").with_hint("or that");
        assert_eq!(e.hint(), Some("do this"));
        assert_eq!(e.chain().to_string(), "cannot go on: wrong");
        assert_eq!(Error::invalid("wrong").hint(), None);
    }
}
