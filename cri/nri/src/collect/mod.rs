//! What several plugins want, joined into one answer. Pure.
//!
//! Plugins are asked in the order of their indexes, and each sees the container as those before it want it. What two
//! of them both set is an error that names both. Removals are kept: what is removed may be in the container's
//! configuration and not in any adjustment; applied in order, a later adjustment of the same key follows its removal.

mod adjustment;
mod owners;
mod resources;

use std::collections::BTreeMap;

use rcrun_error::{Error, ErrorKind, Result};

use crate::proto::v1alpha1::{
    ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerRequest,
    CreateContainerResponse, LinuxContainerUpdate, LinuxResources, OwningPlugins,
};
use owners::Owners;

pub(crate) use owners::removal;

/// What is wanted of a container that is made, and of others.
#[derive(Debug)]
pub(crate) struct Creation {
    /// As the next plugin is asked.
    pub(crate) request: CreateContainerRequest,
    adjust: ContainerAdjustment,
    updates: Updates,
}

impl Creation {
    pub(crate) fn new(request: CreateContainerRequest) -> Self {
        let created = request.container.as_ref();
        let created = created.map(|container| container.id.clone());
        Self {
            request,
            adjust: ContainerAdjustment::default(),
            updates: Updates::new(created, None),
        }
    }

    /// Takes the answer of the next plugin over.
    pub(crate) fn add(&mut self, plugin: &str, answer: CreateContainerResponse) -> Result<()> {
        if let Some(adjust) = answer.adjust {
            let container = self.request.container.get_or_insert_default();
            let id = container.id.clone();
            let owners = self.updates.owners.of(&id);
            adjustment::Join {
                container,
                collected: &mut self.adjust,
                owners,
                plugin,
            }
            .all(adjust)?;
        }
        self.updates.add(plugin, answer.update)?;
        self.updates.evict.extend(answer.evict);
        Ok(())
    }

    /// All of it, and who wanted what.
    pub(crate) fn finish(self) -> (CreateContainerResponse, OwningPlugins) {
        let response = CreateContainerResponse {
            adjust: Some(self.adjust),
            update: self.updates.list,
            evict: self.updates.evict,
        };
        (response, self.updates.owners.0)
    }
}

/// What is wanted of containers that exist.
#[derive(Debug)]
pub(crate) struct Updates {
    /// Must not be updated: it does not exist yet.
    created: Option<String>,
    /// The container that the event is about, and its resources as the next plugin is asked.
    subject: Option<(String, LinuxResources)>,
    list: Vec<ContainerUpdate>,
    /// Where in the list a container is.
    places: BTreeMap<String, usize>,
    evict: Vec<ContainerEviction>,
    owners: Owners,
}

impl Updates {
    pub(crate) fn new(created: Option<String>, subject: Option<(String, LinuxResources)>) -> Self {
        Self {
            created,
            subject,
            list: Vec::new(),
            places: BTreeMap::new(),
            evict: Vec::new(),
            owners: Owners::default(),
        }
    }

    /// The resources of the container that the event is about, as wanted so far.
    pub(crate) fn subject(&self) -> Option<&LinuxResources> {
        self.subject.as_ref().map(|(_, resources)| resources)
    }

    /// Takes what the next plugin wants over.
    pub(crate) fn add(&mut self, plugin: &str, updates: Vec<ContainerUpdate>) -> Result<()> {
        for update in updates {
            let id = &update.container_id;
            if self.created.as_ref() == Some(id) {
                let words = format!(
                    "cannot create container {id}: NRI plugin {plugin} updates it before it exists"
                );
                return Err(Error::new(ErrorKind::FailedPrecondition, words));
            }
            if !update.ignore_failure {
                self.join(plugin, &update)?;
                continue;
            }
            // What cannot be joined leaves nothing behind.
            let before = self.owners.0.owners.get(id).cloned();
            if let Err(error) = self.join(plugin, &update) {
                tracing::debug!("ignored, as the plugin asks: {}", error.chain());
                match before {
                    Some(records) => self.owners.0.owners.insert(id.clone(), records),
                    None => self.owners.0.owners.remove(id),
                };
            }
        }
        Ok(())
    }

    /// Takes over who is to be stopped.
    pub(crate) fn evict(&mut self, evict: Vec<ContainerEviction>) {
        self.evict.extend(evict);
    }

    fn join(&mut self, plugin: &str, update: &ContainerUpdate) -> Result<()> {
        let id = &update.container_id;
        let wanted = update.linux.as_ref().and_then(|l| l.resources.as_ref());
        let Some(wanted) = wanted else { return Ok(()) };
        let mut owners = self.owners.of(id);
        if let Some((subject, resources)) = &mut self.subject
            && subject == id
        {
            return resources::join(wanted, &mut [resources], &mut owners, plugin);
        }
        let known = self.places.get(id).copied();
        let mut empty = LinuxResources::default();
        let resources = match known {
            Some(index) => {
                let linux = self.list[index].linux.get_or_insert_default();
                linux.resources.get_or_insert_default()
            }
            None => &mut empty,
        };
        resources::join(wanted, &mut [resources], &mut owners, plugin)?;
        match known {
            // Whoever needs it decides.
            Some(index) => self.list[index].ignore_failure &= update.ignore_failure,
            None => {
                self.places.insert(id.clone(), self.list.len());
                self.list.push(ContainerUpdate {
                    container_id: id.clone(),
                    linux: Some(LinuxContainerUpdate {
                        resources: Some(empty),
                    }),
                    ignore_failure: update.ignore_failure,
                });
            }
        }
        Ok(())
    }

    /// Updates of other containers, and who is to be stopped.
    pub(crate) fn finish(self) -> (Vec<ContainerUpdate>, Vec<ContainerEviction>) {
        (self.list, self.evict)
    }
}

#[cfg(test)]
mod tests;
