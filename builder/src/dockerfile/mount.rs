//! `RUN --mount=`: what is written, and what it means once variables are replaced.
//!
//! Every value may have variables, even that of `type`, so what a mount is becomes known when its `RUN` is reached.

use serde::Serialize;

use super::fault::Fault;
use super::quote::quoted;
use super::suggest::closest;
use super::value::{fields, size, truth};
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

    /// Takes `--mount=` apart.
    pub(super) fn read(text: &str) -> Result<Self, Fault> {
        let texts = fields(text)
            .map_err(|reason| Fault::new(format!("failed to parse csv mounts: {reason}")))?;
        let field = |text: String| {
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value.to_owned())),
                None => (text.to_lowercase(), None),
            };
            // A `$` at the end is no variable.
            let dollar = value
                .as_deref()
                .and_then(|value| value.find('$').map(|at| at + 1 != value.len()));
            if key == "from" && dollar == Some(true) {
                let fault = Fault::new(
                    "'from' doesn't support variable expansion, define alias stage instead",
                );
                return Err(fault.hint("FROM image:$VERSION AS NAME, and from=NAME"));
            }
            Ok(Field { key, text, value })
        };
        Ok(Self {
            fields: texts.into_iter().map(field).collect::<Result<_, _>>()?,
        })
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
        let mut options = Options::default();
        for field in &self.fields {
            match &field.value {
                None => options.flag(field)?,
                Some(value) => options.set(field, expand(value)?)?,
            }
        }
        options.finish()
    }
}

/// The types, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Type {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const TYPES: &[(&str, Type)] = &[
    ("bind", Type::Bind),
    ("cache", Type::Cache),
    ("secret", Type::Secret),
    ("ssh", Type::Ssh),
    ("tmpfs", Type::Tmpfs),
];

const SHARING: &[(&str, Sharing)] = &[
    ("locked", Sharing::Locked),
    ("private", Sharing::Private),
    ("shared", Sharing::Shared),
];

const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

impl Type {
    fn name(self) -> &'static str {
        TYPES
            .iter()
            .find(|known| known.1 == self)
            .map_or("", |known| known.0)
    }
}

/// The fields read so far.
#[derive(Debug, Default)]
struct Options {
    kind: Type,
    from: String,
    source: String,
    target: String,
    id: String,
    read_only: Option<bool>,
    required: bool,
    size: u64,
    sharing: Option<Sharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

fn invalid(key: &str, value: &str) -> WordError {
    WordError::new(format!("invalid value for {key}: {value}"))
}

impl Options {
    fn misplaced(&self, key: &str) -> WordError {
        let hint = "the type comes first: type=secret,required";
        let error = format!(
            "unexpected key '{key}' for mount type '{}'",
            self.kind.name()
        );
        WordError::new(error).with_hint((key == "required").then_some(hint))
    }

    fn takes_required(&self) -> bool {
        matches!(self.kind, Type::Secret | Type::Ssh)
    }

    /// A field without a value.
    fn flag(&mut self, field: &Field) -> Result<(), WordError> {
        match field.key.as_str() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" if self.takes_required() => self.required = true,
            "required" => return Err(self.misplaced("required")),
            _ => {
                return Err(WordError::new(format!(
                    "invalid field '{}' must be a key=value pair",
                    field.text
                )));
            }
        }
        Ok(())
    }

    /// A field with its value.
    fn set(&mut self, field: &Field, value: String) -> Result<(), WordError> {
        let key = field.key.as_str();
        let number = |radix: u32| {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let number = u32::from_str_radix(&value, radix).ok().filter(|_| digits);
            number.ok_or_else(|| WordError::new(format!("invalid value {value} for {key}")))
        };
        match key {
            "type" => self.kind = named(TYPES, &value, "mount type")?,
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => {
                self.read_only = Some(truth(&value).ok_or_else(|| invalid(key, &value))?);
            }
            "readwrite" | "rw" => {
                self.read_only = Some(!truth(&value).ok_or_else(|| invalid(key, &value))?);
            }
            "required" if self.takes_required() => {
                self.required = truth(&value).ok_or_else(|| invalid(key, &value))?;
            }
            "size" if self.kind == Type::Tmpfs => {
                self.size = size(&value).ok_or_else(|| invalid(key, &value))?;
            }
            "required" | "size" => return Err(self.misplaced(key)),
            "id" => self.id = value,
            "sharing" => self.sharing = Some(named(SHARING, &value, "sharing value")?),
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => self.env = Some(value),
            _ => {
                let error = WordError::new(format!("unexpected key '{key}' in '{}'", field.text));
                return Err(error.did_you_mean(closest(key, KEYS.iter().copied())));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Mount, WordError> {
        if matches!(self.kind, Type::Bind | Type::Tmpfs) {
            for (key, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return Err(WordError::new(format!(
                        "{key} not allowed for {:?} type mounts",
                        self.kind.name()
                    )));
                }
            }
        }
        match self.kind {
            Type::Secret => return self.secret(),
            kind if self.sharing.is_some() && kind != Type::Cache => {
                return Err(WordError::new(format!(
                    "invalid cache sharing set for {} mount",
                    kind.name()
                )));
            }
            Type::Ssh => return self.ssh(),
            _ => {}
        }
        if self.target == "/" {
            return Err(WordError::new("invalid mount target \"/\""));
        }
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        let (from, source, target) = (filled(self.from), self.source, self.target);
        Ok(match self.kind {
            Type::Cache => Mount::Cache {
                from,
                source,
                target,
                id: filled(self.id),
                sharing: self.sharing.unwrap_or_default(),
                read_only: self.read_only.unwrap_or(false),
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
            },
            Type::Tmpfs => Mount::Tmpfs {
                target,
                size: self.size,
                read_only: self.read_only.unwrap_or(false),
            },
            _ => Mount::Bind {
                from,
                source,
                target,
                read_only: self.read_only.unwrap_or(true),
            },
        })
    }

    fn secret(self) -> Result<Mount, WordError> {
        let wrong = |message: &str| Err(WordError::new(message));
        if !self.from.is_empty() {
            return wrong("secret mount should not have a from");
        }
        if self.sharing.is_some() {
            return wrong("secret mount should not define sharing");
        }
        if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
            return wrong("invalid secret mount. one of source, target required");
        }
        if !self.source.is_empty() && !self.id.is_empty() {
            return wrong("both source and id can't be set");
        }
        let named = if self.source.is_empty() {
            self.id
        } else {
            self.source
        };
        let id = if named.is_empty() {
            base_name(&self.target).to_owned()
        } else {
            named
        };
        let target = match (self.target, &self.env) {
            (target, _) if !target.is_empty() => Some(target),
            (_, Some(_)) => None,
            (_, None) => Some(format!("/run/secrets/{}", base_name(&id))),
        };
        Ok(Mount::Secret {
            id,
            target,
            env: self.env,
            required: self.required,
            mode: self.mode.unwrap_or(0o400),
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
        })
    }

    fn ssh(self) -> Result<Mount, WordError> {
        if !self.source.is_empty() {
            return Err(WordError::new("ssh does not support source"));
        }
        Ok(Mount::Ssh {
            id: if self.id.is_empty() {
                "default".to_owned()
            } else {
                self.id
            },
            target: Some(self.target).filter(|target| !target.is_empty()),
            required: self.required,
            mode: self.mode.unwrap_or(0o600),
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
        })
    }
}

/// The last part of a path.
fn base_name(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or("/")
}

fn named<T: Copy>(table: &[(&str, T)], value: &str, what: &str) -> Result<T, WordError> {
    let lower = value.to_lowercase();
    table
        .iter()
        .find(|known| known.0 == lower)
        .map(|known| known.1)
        .ok_or_else(|| {
            let error = WordError::new(format!("unsupported {what} {}", quoted(value)));
            error.did_you_mean(closest(value, table.iter().map(|known| known.0)))
        })
}

#[cfg(test)]
mod tests;
