//! What a solver is given, beside the graph.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rcrun_image::registry::Cancel;
use rcrun_overlay::layer::Overlay;
use rcrun_overlay::lease::Lease;
use rcrun_overlay::store::Store;

use super::import::Imports;
use crate::cache::Cache;
use crate::events::Watch;
use crate::runner::{Limits, Runner};

/// What stages are built with, beyond the graph.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// SSH agents by id: their sockets.
    pub agents: BTreeMap<String, PathBuf>,
    /// Steps may use the host's network (`--allow network.host`).
    pub allow_network: bool,
    /// Steps may be unconfined (`--allow security.insecure`).
    pub allow_insecure: bool,
    /// Steps may have these devices, or any (`--allow device`).
    pub allow_devices: Vec<String>,
    /// Steps have no network unless they say so (`--network none`).
    pub no_network: bool,
    /// What holds for all steps.
    pub limits: Limits,
    /// Modification times that are later become this (`SOURCE_DATE_EPOCH`), seconds since 1970; none: when
    /// the base image was made.
    pub epoch: Option<i64>,
    /// Where what is fetched is kept meanwhile.
    pub scratch: PathBuf,
    /// Say why steps are done.
    pub explain: bool,
    /// Open a shell in a step that fails.
    pub debug: bool,
    /// How git asks for repositories.
    pub git: crate::context::git::Settings,
}

/// A secret. Never shown.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a solver works with.
pub struct Tools<'a> {
    /// Where layers are.
    pub store: &'a Store,
    /// Holds what is used until something refers to it.
    pub lease: &'a Lease,
    /// What was done before.
    pub cache: &'a Cache,
    /// Runs containers.
    pub runner: &'a dyn Runner,
    /// Hears what happens.
    pub watch: &'a Watch<'a>,
    /// Calls it off.
    pub cancel: &'a Cancel,
    /// Which marks layers have.
    pub marks: Overlay,
    /// What other machines did.
    pub imports: Option<&'a Imports<'a>>,
}

impl std::fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").finish_non_exhaustive()
    }
}
