//! The volumes of a container that is being made: found or made, filled, and held until the container's
//! record says that it uses them.

use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Error, ErrorKind, Result};

use super::fill::Filling;
use super::{Volume, Volumes};
use crate::containers::spec::{Extent, VolumeMount};
use crate::containers::{Container, Containers, Record, RootDirectory, VolumeUse};

/// A container's volumes. While this lives nobody removes them.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    held: Vec<Volume>,
    /// What the container's record says of them.
    pub(crate) uses: Vec<VolumeUse>,
}

/// What it takes to attach volumes.
#[derive(Debug)]
pub(crate) struct Attaching<'a> {
    pub(crate) store: &'a Store,
    pub(crate) containers: &'a Containers,
    /// The container's snapshot.
    pub(crate) root: &'a RootDirectory<'a>,
    /// Ids of the container, where the mount of a volume does not map them.
    pub(crate) map: &'a [Extent],
    /// The container is to be there after a power cut.
    pub(crate) lasting: bool,
}

impl Attaching<'_> {
    /// Attaches all of them; of an error nothing remains that was made without a name.
    pub(crate) fn all(&self, wanted: &[VolumeMount<'_>]) -> Result<Attached> {
        let mut attached = Attached::default();
        if wanted.is_empty() {
            return Ok(attached);
        }
        let volumes = Volumes::open(self.store)?;
        // Two who want the same ones do not wait for each other.
        let mut order: Vec<&VolumeMount<'_>> = wanted.iter().collect();
        order.sort_by_key(|one| (one.name, one.destination));
        for one in order {
            if let Err(error) = self.one(&volumes, one, &mut attached) {
                attached.forsake(&volumes);
                return Err(error);
            }
        }
        Ok(attached)
    }

    fn one(&self, volumes: &Volumes, one: &VolumeMount<'_>, attached: &mut Attached) -> Result<()> {
        if !attached.held.iter().any(|held| held.name() == one.name) {
            let volume = loop {
                if let Some(volume) = volumes.take(one.name)? {
                    break volume;
                }
                if let Some(volume) = volumes.make(one.name, one.labels, one.anonymous)? {
                    break volume;
                }
            };
            attached.held.push(volume);
        }
        attached.uses.push(VolumeUse {
            name: one.name.to_owned(),
            destination: one.destination.to_owned(),
            anonymous: one.anonymous,
        });
        if one.copy {
            self.fill(one, attached)?;
        }
        Ok(())
    }

    fn fill(&self, one: &VolumeMount<'_>, attached: &Attached) -> Result<()> {
        let volume = attached.held.iter().find(|held| held.name() == one.name);
        let Some(volume) = volume else {
            return Ok(());
        };
        let id = |id: u32| match self.map.is_empty() {
            true => Some(id),
            false => self.map.iter().find_map(|extent| {
                let offset = id.checked_sub(extent.inner)?;
                (offset < extent.size).then_some(extent.outer + offset)
            }),
        };
        let filling = Filling {
            root: self.root,
            id: &id,
            lasting: self.lasting || !one.anonymous,
            mounted: &|| is_mounted(self.containers, one.name),
        };
        volume.fill(one.destination, &filling)
    }
}

/// Whether a container that has processes uses a volume.
fn is_mounted(containers: &Containers, name: &str) -> Result<bool> {
    for user in containers.users_of(name)? {
        let alive = containers.open_id(&user.id).and_then(|container| {
            let record = container.record()?;
            let status = record.map(|record| container.status(&record)).transpose()?;
            Ok(status.is_some_and(|status| status.is_alive()))
        });
        match alive {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

impl Attached {
    /// Removes what was made without a name, for a container that does not come to be.
    fn forsake(&self, volumes: &Volumes) {
        for one in self.uses.iter().filter(|one| one.anonymous) {
            if let Some(volume) = self.held.iter().find(|held| held.name() == one.name) {
                // The error that led here matters more; `volume prune` removes what remains.
                let _ = volumes.remove(volume);
            }
        }
    }

    /// The same, when the container could not be made for another reason.
    pub(crate) fn give_up(&self, store: &Store) {
        if let Ok(Some(volumes)) = Volumes::existing(store) {
            self.forsake(&volumes);
        }
    }
}

impl Containers {
    /// Removes the volumes that a container has without a name, unless others use them too. Its processes
    /// are gone, and its lock is held.
    pub(crate) fn remove_anonymous(&self, container: &Container, record: &Record) -> Result<()> {
        let anonymous: Vec<&VolumeUse> = record.volumes.iter().filter(|v| v.anonymous).collect();
        if anonymous.is_empty() {
            return Ok(());
        }
        let store = Store::open(self.store())?;
        let Some(volumes) = Volumes::existing(&store)? else {
            return Ok(());
        };
        for one in anonymous {
            let Some(volume) = volumes.take(&one.name)? else {
                continue;
            };
            let users = self.users_of(&one.name)?;
            if users.iter().all(|user| user.id == container.id()) {
                volumes.remove(&volume)?;
            }
        }
        Ok(())
    }

    /// Removes a volume by name; whether there was one. One that a container uses stays.
    pub(crate) fn remove_volume(&self, volumes: &Volumes, name: &str) -> Result<bool> {
        let Some(volume) = volumes.take(name)? else {
            return Ok(false);
        };
        let users = self.users_of(name)?;
        if let Some(user) = users.first() {
            let text = format!("volume {name} is in use by container {}", user.name);
            return Err(Error::new(ErrorKind::FailedPrecondition, text)
                .with_hint("remove the container first"));
        }
        volumes.remove(&volume).map(|()| true)
    }
}
