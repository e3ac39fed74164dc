//! Another name for a container: reserved first, then written, then the old one given back. Killed in
//! between, it has both; the name that its record does not have goes when it is renamed again or removed.

use rcrun_runtime::error::{Error, ErrorKind, Result};

use super::{Container, Containers, Lock};

impl Containers {
    /// Gives it another name.
    pub(crate) fn rename(&self, container: &Container, _: &Lock<'_>, new: &str) -> Result<()> {
        let mut record = container.complete()?;
        if record.name == new {
            let text = format!("it already has the name {new}");
            return Err(Error::new(ErrorKind::Exists, text));
        }
        if self.named(new)?.as_deref() != Some(container.id()) {
            self.reserve(new, container, !record.auto_remove)?;
        }
        let old = std::mem::replace(&mut record.name, new.to_owned());
        if let Err(error) = container.write(&record) {
            // The original error matters more; the name is given back with the container at the latest.
            let _ = self.release(new, container.id());
            return Err(error);
        }
        self.release(&old, container.id())
    }
}
