//! Which plugin set what: the one thing that two plugins may not both do.
//!
//! A field of a container belongs to the plugin that set it. A plugin that removes what another set takes it over,
//! which is marked by `-` before its name, and only that plugin may set it again. Plugins that validate get these
//! records as they are.

use rcrun_error::{Error, ErrorKind, Result};

use crate::proto::v1alpha1::{Field, FieldOwners, OwningPlugins};

/// Marks a plugin that removed, and keys that are to be removed.
const REMOVED: char = '-';

/// The key without its mark, if it has one.
pub(crate) fn removal(key: &str) -> Option<&str> {
    key.strip_prefix(REMOVED)
}

/// The key with a mark.
pub(super) fn marked(key: &str) -> String {
    format!("{REMOVED}{key}")
}

/// The records of one event.
#[derive(Debug, Default, Clone)]
pub(super) struct Owners(pub(super) OwningPlugins);

impl Owners {
    /// What is owned of one container.
    pub(super) fn of(&mut self, container: &str) -> Claims<'_> {
        let records = self.0.owners.entry(container.to_owned()).or_default();
        Claims {
            container: container.to_owned(),
            records,
        }
    }
}

/// The records of one container.
#[derive(Debug)]
pub(super) struct Claims<'a> {
    container: String,
    records: &'a mut FieldOwners,
}

impl Claims<'_> {
    /// A field becomes the plugin's.
    pub(super) fn claim(&mut self, field: Field, plugin: &str) -> Result<()> {
        if let Some(owner) = self.records.simple.get(&(field as i32)) {
            self.allow(owner, field, "", plugin)?;
        }
        self.records.simple.insert(field as i32, plugin.to_owned());
        Ok(())
    }

    /// A field becomes the plugin's whosesoever it was.
    pub(super) fn clear(&mut self, field: Field, plugin: &str) {
        self.records.simple.insert(field as i32, marked(plugin));
    }

    /// A field that belongs to all plugins that add to it.
    pub(super) fn share(&mut self, field: Field, plugin: &str) {
        let owner = self.records.simple.entry(field as i32).or_default();
        if !owner.is_empty() {
            owner.push(',');
        }
        owner.push_str(plugin);
    }

    /// One entry of a field becomes the plugin's.
    pub(super) fn claim_key(&mut self, field: Field, key: &str, plugin: &str) -> Result<()> {
        let entries = self.records.compound.get(&(field as i32));
        if let Some(owner) = entries.and_then(|entries| entries.owners.get(key)) {
            self.allow(owner, field, key, plugin)?;
        }
        self.set(field, key, plugin.to_owned());
        Ok(())
    }

    /// One entry becomes the plugin's whosesoever it was. What nobody set stays nobody's: whoever sets it later does
    /// so after the removal, and contradicts no one.
    pub(super) fn clear_key(&mut self, field: Field, key: &str, plugin: &str) {
        let entries = self.records.compound.get(&(field as i32));
        if entries.is_some_and(|entries| entries.owners.contains_key(key)) {
            self.set(field, key, marked(plugin));
        }
    }

    fn set(&mut self, field: Field, key: &str, owner: String) {
        let entries = self.records.compound.entry(field as i32).or_default();
        entries.owners.insert(key.to_owned(), owner);
    }

    fn allow(&self, owner: &str, field: Field, key: &str, plugin: &str) -> Result<()> {
        let other = match removal(owner) {
            Some(remover) if remover == plugin => return Ok(()),
            Some(remover) => remover,
            None => owner,
        };
        let (container, field) = (&self.container, field.as_str_name());
        let key = match key {
            "" => String::new(),
            key => format!(" {key:.256?}"),
        };
        let who = match other == plugin {
            true => format!("NRI plugin {plugin} sets {field}{key} twice"),
            false => format!("NRI plugins {other} and {plugin} both set {field}{key}"),
        };
        Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("cannot adjust container {container}: {who}"),
        )
        .with_hint("one of the plugins has to leave that alone"))
    }
}
