//! Copies between a store and everywhere else: what `pull`, `push`, `load` and `save` call.
//!
//! Owns the choice of who does it, by [`Location`], and files; what each place is like is the other
//! modules'. Progress is told in one way for all ([`crate::progress`]).

mod incoming;
mod location;
mod outgoing;
#[cfg(test)]
mod peers;
#[cfg(test)]
pub(crate) mod tests;

use rcrun_overlay::store::Store;

use crate::progress::Watch;
use crate::registry::client::Client;
use crate::registry::retry::Cancel;
use crate::{Error, ErrorKind, Result};

pub use crate::import::Imported;
pub use incoming::{In, Naming, copy_in, load};
pub use location::{Location, STREAM};
pub use outgoing::{Out, copy_out};

/// What every copy needs.
pub struct Means<'a> {
    /// The store.
    pub store: &'a Store,
    /// For locations at registries.
    pub client: Option<&'a Client>,
    /// Is told what happens.
    pub watch: Watch<'a>,
    /// Calls it off; the client's own. A copy that fails may call it off too.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Means<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means")
            .field("store", &self.store.path())
            .finish_non_exhaustive()
    }
}

impl Means<'_> {
    fn client(&self) -> Result<&Client> {
        self.client
            .ok_or_else(|| Error::new(ErrorKind::Internal, "no client for registries"))
    }
}
