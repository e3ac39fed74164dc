//! What a solver tells of its steps in the end: for caches of other machines, and for provenance.

use std::collections::BTreeSet;

use rcrun_overlay::lease::LayerId;

use crate::Digest;
use crate::attest::address;

/// What was done or found done, for other machines.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// Steps, in no particular order.
    pub steps: Vec<DoneStep>,
    /// Names of cache mounts that are the same on every machine.
    pub mounts: BTreeSet<Digest>,
    /// What was fetched for copies.
    pub materials: BTreeSet<Material>,
}

/// What kind of thing an image was made from; provenance lists them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An image.
    Image,
    /// A commit of a repository.
    Commit,
    /// A file of a server.
    File,
}

/// Something that an image was made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    /// Of which kind it is.
    pub kind: Kind,
    /// What it is, without passwords.
    pub uri: String,
    /// How it is hashed.
    pub algorithm: String,
    /// Its hash, hexadecimal.
    pub digest: String,
}

impl Material {
    /// An image, by its package URL.
    pub fn image(uri: String, digest: &Digest) -> Self {
        Self::new(Kind::Image, uri, digest)
    }

    /// A file of a server.
    pub fn file(url: &str, digest: &Digest) -> Self {
        Self::new(Kind::File, address::public(url), digest)
    }

    fn new(kind: Kind, uri: String, digest: &Digest) -> Self {
        Self {
            kind,
            uri,
            algorithm: digest.algorithm().name().to_owned(),
            digest: digest.hex().to_owned(),
        }
    }

    /// A commit of a git repository, and what it was asked for by.
    pub fn commit(url: &str, reference: Option<&str>, commit: &str) -> Self {
        Self {
            kind: Kind::Commit,
            uri: address::repository(url, reference, None),
            algorithm: address::algorithm_of(commit).to_owned(),
            digest: commit.to_owned(),
        }
    }
}

/// A step that was done or found done.
#[derive(Debug, Clone)]
pub struct DoneStep {
    /// Its key.
    pub key: Digest,
    /// The layers below it, lowest first.
    pub below: Vec<LayerId>,
    /// What it made.
    pub layer: LayerId,
    /// The instruction.
    pub text: String,
    /// The latest time of its files, seconds since 1970.
    pub epoch: i64,
    /// Of a copy from another stage: what does not depend on that stage's files, its layers and their latest
    /// time.
    pub from: Option<(Digest, Vec<LayerId>, i64)>,
}
