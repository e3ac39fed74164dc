//! What a solver tells of its steps in the end: for caches of other machines, and for provenance.

use std::collections::BTreeSet;

use rcrun_overlay::lease::LayerId;

use crate::Digest;

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

/// Something that an image was made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    /// What it is, without passwords.
    pub uri: String,
    /// How it is hashed.
    pub algorithm: String,
    /// Its hash, hexadecimal.
    pub digest: String,
}

impl Material {
    /// With a digest.
    pub fn new(uri: &str, digest: &Digest) -> Self {
        Self {
            uri: crate::attest::public_url_of(uri),
            algorithm: digest.algorithm().name().to_owned(),
            digest: digest.hex().to_owned(),
        }
    }

    /// A commit of a git repository, and what it was asked for by.
    pub fn commit(url: &str, reference: Option<&str>, commit: &str) -> Self {
        Self {
            uri: crate::attest::repository_url(url, reference, None),
            algorithm: crate::attest::algorithm_of(commit).to_owned(),
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
