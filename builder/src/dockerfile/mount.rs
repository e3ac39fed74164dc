//! `RUN --mount=`: what is written, and what it means once variables are replaced.
//!
//! Every value may have variables, even that of `type`, so what a mount is becomes known when its `RUN` is reached.

use serde::Serialize;

use super::word::WordError;

/// A mount as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountSpec {
    /// `key=value` or `key`, in order; the last of several of one key counts.
    pub fields: Vec<Field>,
}

/// One field of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// In lower case. *literal*
    pub key: String,
    /// The field as it was written.
    pub text: String,
    /// *word*, but that of `from` may have no variables.
    pub value: Option<String>,
}

/// What a mount is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Mount {
    /// Files of a stage, an image, or the context.
    Bind {
        /// Stage, image or named context; none: the build's context.
        from: Option<String>,
        /// Within `from`. Empty: its root.
        source: String,
        /// Where it appears; relative to the working directory.
        target: String,
        /// Writes are thrown away in any case.
        read_only: bool,
    },
    /// A directory that later builds find again.
    Cache {
        /// What the directory has at first; none: nothing.
        from: Option<String>,
        /// Within `from`.
        source: String,
        /// Where it appears.
        target: String,
        /// Which directory; none: the cleaned target names it.
        id: Option<String>,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// Writes are refused.
        read_only: bool,
        /// Of the directory, when it is made.
        mode: Option<u32>,
        /// Of the directory, when it is made.
        uid: Option<u32>,
        /// Of the directory, when it is made.
        gid: Option<u32>,
    },
    /// Memory.
    Tmpfs {
        /// Where it appears.
        target: String,
        /// Bytes; zero: as the kernel has it.
        size: u64,
        /// `ro`, which is of no use but allowed.
        read_only: bool,
    },
    /// A file, an environment variable or both, from who builds.
    Secret {
        /// `id`, or what it is taken from.
        id: String,
        /// Where the file appears; none: no file, only `env`.
        target: Option<String>,
        /// The variable that has it.
        env: Option<String>,
        /// Its absence is an error.
        required: bool,
        /// Of the file; 0400 unless said.
        mode: u32,
        /// Of the file.
        uid: u32,
        /// Of the file.
        gid: u32,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Which agent; `default` unless said.
        id: String,
        /// Where the socket appears; none: the place that ssh mounts are numbered at.
        target: Option<String>,
        /// Its absence is an error.
        required: bool,
        /// Of the socket; 0600 unless said.
        mode: u32,
        /// Of the socket.
        uid: u32,
        /// Of the socket.
        gid: u32,
    },
}

/// `sharing=` of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Any number at once.
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

impl MountSpec {
    /// The stage, image or context that it names; known before variables are.
    pub fn from(&self) -> Option<&str> {
        let field = self
            .fields
            .iter()
            .rev()
            .find(|field| field.key == "from" && field.value.is_some())?;
        field.value.as_deref().filter(|value| !value.is_empty())
    }

    /// What it is, with `expand` replacing the variables of one word.
    ///
    /// # Errors
    ///
    /// Unknown keys and types, values that do not fit, keys that do not belong to the type.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, WordError>,
    ) -> Result<Mount, WordError> {
        let _ = expand;
        Err(WordError::new("mounts are not read yet"))
    }
}
