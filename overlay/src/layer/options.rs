//! How layers are unpacked: as root, or with what a user may do.

use serde::{Deserialize, Serialize};

use crate::archive::limits::ENTRIES;
use crate::compress::Limits;

/// Whose files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Those that the archive says, in the user namespace of this process.
    Archive,
    /// All ours: without privilege there is no choice.
    Keep,
}

/// Which extended attributes tell overlayfs something.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlay {
    /// `trusted.overlay.*`: mounted by root.
    #[default]
    Trusted,
    /// `user.overlay.*`: mounted with `userxattr`, in a user namespace.
    User,
}

impl Overlay {
    /// The full name of such an attribute.
    pub fn attribute(self, name: &str) -> String {
        match self {
            Self::Trusted => format!("trusted.overlay.{name}"),
            Self::User => format!("user.overlay.{name}"),
        }
    }
}

/// What becomes of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They are made.
    Create,
    /// An empty file takes the name, mode and owner.
    Placeholder,
    /// The layer is refused.
    Refuse,
}

/// How to unpack.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose files become.
    pub owners: Owners,
    /// Which mounts will read the layer.
    pub overlay: Overlay,
    /// What becomes of device nodes.
    pub devices: Devices,
    /// How many entries an archive may have.
    pub entries: u64,
    /// How far a compressed stream may grow.
    pub inflate: Limits,
}

impl Options {
    /// As root, everything as it is.
    pub fn privileged() -> Self {
        Self {
            owners: Owners::Archive,
            overlay: Overlay::Trusted,
            devices: Devices::Create,
            entries: ENTRIES,
            inflate: Limits::default(),
        }
    }

    /// In a user namespace of which we are root: owners are mapped, devices impossible.
    pub fn rootless() -> Self {
        let (overlay, devices) = (Overlay::User, Devices::Placeholder);
        Self {
            overlay,
            devices,
            ..Self::privileged()
        }
    }

    /// The same where nobody else has an id.
    pub fn single() -> Self {
        Self {
            owners: Owners::Keep,
            ..Self::rootless()
        }
    }
}
