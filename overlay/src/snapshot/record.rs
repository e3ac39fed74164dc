//! `snapshot.json`: what a snapshot is made of. Written once, never changed.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use crate::layer::Overlay as Marks;
use crate::lease::LayerId;
use crate::{Error, Result, durable, record};

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
    /// What is on the disk.
    #[serde(default, skip_serializing_if = "Form::is_overlay")]
    pub form: Form,
    /// How ids are to be mapped when it is mounted. On the disk they are not, unless it is a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idmap: Option<Idmap>,
    /// Whatever its maker wants to know later.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it was made: seconds since 1970.
    pub created: u64,
}

/// What a snapshot has on the disk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// What is different from the layers, for overlayfs.
    #[default]
    Overlay,
    /// All files, with the container's ids: where overlayfs cannot be mounted, or not with such ids.
    Copy,
}

impl Form {
    fn is_overlay(&self) -> bool {
        *self == Self::Overlay
    }
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

impl Idmap {
    /// Whom a file belongs to outside.
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |extents: &[Extent], id: u32| {
            extents.iter().find_map(|extent| {
                let offset = id.checked_sub(extent.inside)?;
                (offset < extent.count).then(|| extent.outside.checked_add(offset))?
            })
        };
        Some((find(&self.uids, uid)?, find(&self.gids, gid)?))
    }
}

impl Record {
    /// Whom files of the layers belong to in a copy.
    pub(super) fn shift(&self) -> impl Fn(u32, u32) -> Option<(u32, u32)> {
        |uid, gid| match &self.idmap {
            Some(idmap) => idmap.outside(uid, gid),
            None => Some((uid, gid)),
        }
    }

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
        durable::read(directory, RECORD, RECORD_LIMIT as u64)?
            .map(|bytes| record::decode(&bytes, RECORD, VERSION))
            .transpose()
    }
}
