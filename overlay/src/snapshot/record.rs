//! `snapshot.json`: what a snapshot is made of. Written once, never changed.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use crate::layer::Overlay as Marks;
use crate::lease::LayerId;
use crate::{Context, Error, ErrorKind, Result, durable, record};

/// The version of `snapshot.json` that is read and written.
pub const VERSION: u32 = 1;

/// The longest record that is written or read.
pub const RECORD_LIMIT: usize = 1 << 20;

/// The file with the record.
pub(super) const RECORD: &str = "snapshot.json";

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The layers below it, the lowest first.
    pub layers: Vec<LayerId>,
    /// Which attributes tell overlayfs something, here and in the layers.
    pub marks: Marks,
    /// How ids are to be mapped when it is mounted. On the disk they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idmap: Option<Idmap>,
    /// Whatever its maker wants to know later.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it was made: seconds since 1970.
    pub created: u64,
}

/// The maps of a user namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idmap {
    /// Of users.
    pub uids: Vec<Extent>,
    /// Of groups.
    pub gids: Vec<Extent>,
}

/// A line of `uid_map` (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The first id in the container, and on the disk.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl Record {
    /// As it is written.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let bytes = record::encode(self)?;
        match bytes.len() <= RECORD_LIMIT {
            true => Ok(bytes),
            false => Err(Error::invalid(format!(
                "its layers and labels take more than {RECORD_LIMIT} bytes"
            ))),
        }
    }

    /// Of a snapshot's directory; none if it has none.
    pub(super) fn read(directory: impl AsFd) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let Some(bytes) = durable::read(directory, RECORD, RECORD_LIMIT as u64)? else {
            return Ok(None);
        };
        let corrupt =
            |error| Error::new(ErrorKind::Corrupt, format!("cannot read {RECORD}: {error}"));
        let Head { version } = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if version != VERSION {
            return Err(Error::unsupported(format!(
                "{RECORD} has version {version}, not {VERSION}"
            )));
        }
        record::check(&bytes).context(|| format!("cannot read {RECORD}"))?;
        serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
    }
}
