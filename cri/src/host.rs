//! What the program around the server lends it: the store, the settings, and the sweep, which has to know
//! of containers and builds.

use std::path::PathBuf;

use rcrun_image::pull::Way;
use rcrun_image::registry;
use rcrun_overlay::store::Store;

use crate::{Result, Settings};

/// What the settings file says at the moment.
#[derive(Debug, Clone)]
pub struct Current {
    /// Its section `cri`.
    pub cri: Settings,
    /// How registries are reached, with the environment's proxies and without credentials.
    pub registries: registry::Options,
}

type Read = dyn Fn() -> Result<Current> + Send + Sync;
type Sweep = dyn Fn(&Store) -> Result<()> + Send + Sync;

/// The program around the server.
pub struct Host {
    /// Where images are.
    pub store: Store,
    /// Below which the runtime keeps what is of this boot; the server has a directory of its own there.
    pub root: PathBuf,
    /// How layers are unpacked.
    pub way: Way,
    /// The program's version, which the kubelet shows.
    pub version: &'static str,
    /// Reads the settings file anew.
    pub current: Box<Read>,
    /// Removes from the store what nothing refers to.
    pub sweep: Box<Sweep>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("store", &self.store.path())
            .finish_non_exhaustive()
    }
}
