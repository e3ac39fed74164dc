//! What is remembered of attachments: with which configuration and arguments they were made, and with
//! which result. Removing needs that, perhaps after a restart, and when the configuration is another.
//!
//! Two files for each: `ID,INTERFACE`, durable and there before the first plugin is run; and
//! `ID,INTERFACE,result`, which a power cut may cost (plugins accept that there is none). Both are
//! sealed. The directory's lock is shared by those who add and remove, and held alone for GC.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Dir, Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use rcrun_overlay::{durable, lock, record};

use super::arguments;
use super::config::Configuration;
use crate::request::{Key, Request};
use crate::{Context, ErrorKind, Result};

/// Bytes of a record.
const RECORD_MAX: u64 = 4 << 20;
/// How long others are waited for: as long as a chain of plugins may take.
const PATIENCE: Duration = Duration::from_secs(300);
const VERSION: u32 = 1;

/// An attachment, as it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    version: u32,
    pub(super) key: Key,
    pub(super) namespace: PathBuf,
    pub(super) arguments: Vec<(String, String)>,
    pub(super) capabilities: Map<String, Value>,
    pub(super) configuration: Configuration,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    version: u32,
    result: Value,
}

impl Attachment {
    pub(super) fn new(request: &Request<'_>, configuration: Configuration) -> Self {
        Self {
            version: VERSION,
            key: request.key.clone(),
            namespace: request.namespace.path().to_owned(),
            arguments: arguments::arguments(request),
            capabilities: arguments::capabilities(request),
            configuration,
        }
    }

    /// One of which nothing is known but its name.
    pub(super) fn unknown(key: &Key, configuration: Configuration) -> Self {
        Self {
            version: VERSION,
            key: key.clone(),
            namespace: PathBuf::new(),
            arguments: vec![("IgnoreUnknown".into(), "1".into())],
            capabilities: Map::new(),
            configuration,
        }
    }

    /// The namespace's path, or an empty one: plugins then remove what is on the host.
    pub(super) fn namespace_if_there(&self) -> PathBuf {
        match rustix::fs::stat(&self.namespace) {
            Ok(_) => self.namespace.clone(),
            Err(_) => PathBuf::new(),
        }
    }
}

/// The directory.
#[derive(Debug)]
pub(super) struct Cache(PathBuf);

impl Cache {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn open(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(&self.0, flags, Mode::empty())
            .context(|| format!("cannot open {}", self.0.display()))
    }

    /// Waits for who is alone, or until one is alone.
    pub(super) fn enter(&self, alone: bool) -> Result<OwnedFd> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.0);
        made.context(|| format!("cannot make {}", self.0.display()))?;
        lock::hold(self.open()?, alone, &mut lock::up_to(PATIENCE))
            .context(|| format!("cannot lock {}", self.0.display()))
    }

    pub(super) fn remember(&self, attachment: &Attachment) -> Result<()> {
        let text = record::encode(attachment)?;
        let directory = self.open()?;
        // A former result is about another attachment.
        durable::remove(&directory, &result_name(&attachment.key))?;
        durable::replace(directory, &name(&attachment.key), &text, Mode::from(0o600))
            .context(|| format!("cannot write to {}", self.0.display()))
    }

    pub(super) fn remember_result(&self, key: &Key, result: &Value) -> Result<()> {
        let (version, result) = (VERSION, result.clone());
        let text = record::encode(&Remembered { version, result })?;
        durable::replace_unsynced(self.open()?, &result_name(key), &text, Mode::from(0o600))
            .context(|| format!("cannot write to {}", self.0.display()))
    }

    pub(super) fn recall(&self, key: &Key) -> Result<Option<Attachment>> {
        let read = || -> Result<Option<Attachment>> {
            let Some(text) = durable::read(self.open()?, &name(key), RECORD_MAX)? else {
                return Ok(None);
            };
            record::decode(&text, &name(key), VERSION).map(Some)
        };
        match read() {
            // Removing goes on with the configuration of today, as if nothing were known.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            other => other.context(|| format!("cannot read {}/{}", self.0.display(), name(key))),
        }
    }

    /// The last plugin's result; none if that is not known.
    pub(super) fn result(&self, key: &Key) -> Option<Value> {
        let text = durable::read(self.open().ok()?, &result_name(key), RECORD_MAX);
        let text = text.ok().flatten()?;
        let read: Remembered = record::decode(&text, &result_name(key), VERSION).ok()?;
        Some(read.result)
    }

    pub(super) fn forget(&self, key: &Key) -> Result<()> {
        let directory = self.open()?;
        durable::remove(&directory, &result_name(key))?;
        durable::remove(&directory, &name(key)).map(|_| ())
    }

    pub(super) fn keys(&self) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        for entry in Dir::read_from(self.open()?)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some((id, interface)) = name.split_once(',') {
                keys.extend(Key::new(id, interface).ok());
            }
        }
        Ok(keys)
    }
}

fn name(key: &Key) -> String {
    format!("{},{}", key.id(), key.interface())
}

fn result_name(key: &Key) -> String {
    format!("{},result", name(key))
}
