//! What one plugin wants of the container that is made, joined with what those before it want.

use std::collections::{BTreeMap, BTreeSet};

use rcrun_error::{Error, Result};

use super::owners::{Claims, marked, removal};
use super::resources;
use crate::proto::v1alpha1::{
    Container, ContainerAdjustment, Field, Hooks, KeyValue, LinuxContainerAdjustment, LinuxDevice,
    LinuxNamespace, LinuxRdt, Mount, PosixRlimit,
};

/// The places that a plugin's answer goes to.
#[derive(Debug)]
pub(super) struct Join<'a> {
    /// As the next plugin sees it.
    pub(super) container: &'a mut Container,
    /// What was wanted so far.
    pub(super) collected: &'a mut ContainerAdjustment,
    pub(super) owners: Claims<'a>,
    pub(super) plugin: &'a str,
}

impl Join<'_> {
    pub(super) fn all(&mut self, wanted: ContainerAdjustment) -> Result<()> {
        self.annotations(wanted.annotations)?;
        self.mounts(wanted.mounts)?;
        self.env(wanted.env)?;
        self.args(wanted.args)?;
        self.hooks(wanted.hooks);
        if let Some(linux) = wanted.linux {
            self.linux(linux)?;
        }
        self.rlimits(wanted.rlimits)?;
        for device in wanted.cdi_devices {
            self.owners
                .claim_key(Field::CdiDevices, &device.name, self.plugin)?;
            self.collected.cdi_devices.push(device);
        }
        Ok(())
    }

    fn annotations(&mut self, wanted: BTreeMap<String, String>) -> Result<()> {
        let (seen, collected) = (
            &mut self.container.annotations,
            &mut self.collected.annotations,
        );
        let field = Field::Annotations;
        map(
            wanted,
            seen,
            collected,
            field,
            &mut self.owners,
            self.plugin,
        )
    }

    fn mounts(&mut self, wanted: Vec<Mount>) -> Result<()> {
        let key = |mount: &Mount| mount.destination.clone();
        let collected = &mut self.collected.mounts;
        let field = Field::Mounts;
        let changed = list(wanted, key, collected, field, &mut self.owners, self.plugin)?;
        let seen = &mut self.container.mounts;
        seen.retain(|mount| !changed.keys.contains(&mount.destination));
        seen.extend(changed.added);
        Ok(())
    }

    fn env(&mut self, wanted: Vec<KeyValue>) -> Result<()> {
        let key = |variable: &KeyValue| variable.key.clone();
        let collected = &mut self.collected.env;
        let field = Field::Env;
        let changed = list(wanted, key, collected, field, &mut self.owners, self.plugin)?;
        let seen = &mut self.container.env;
        seen.retain(|variable| {
            let key = variable.split_once('=').map_or(&**variable, |(key, _)| key);
            !changed.keys.contains(key)
        });
        let added = changed.added.iter();
        seen.extend(added.map(|KeyValue { key, value }| format!("{key}={value}")));
        Ok(())
    }

    /// An empty first word says that those of a plugin before do not count.
    fn args(&mut self, mut wanted: Vec<String>) -> Result<()> {
        match wanted.first().map(String::is_empty) {
            None => return Ok(()),
            Some(true) => {
                self.owners.clear(Field::Args, self.plugin);
                wanted.remove(0);
            }
            Some(false) => {}
        }
        self.owners.claim(Field::Args, self.plugin)?;
        self.container.args.clone_from(&wanted);
        self.collected.args = wanted;
        Ok(())
    }

    fn hooks(&mut self, wanted: Option<Hooks>) {
        let Some(wanted) = wanted.filter(|hooks| *hooks != Hooks::default()) else {
            return;
        };
        let seen = self.container.hooks.get_or_insert_default();
        let collected = self.collected.hooks.get_or_insert_default();
        for into in [seen, collected] {
            into.prestart.extend_from_slice(&wanted.prestart);
            into.create_runtime
                .extend_from_slice(&wanted.create_runtime);
            into.create_container
                .extend_from_slice(&wanted.create_container);
            into.start_container
                .extend_from_slice(&wanted.start_container);
            into.poststart.extend_from_slice(&wanted.poststart);
            into.poststop.extend_from_slice(&wanted.poststop);
        }
        self.owners.share(Field::OciHooks, self.plugin);
    }

    fn rlimits(&mut self, wanted: Vec<PosixRlimit>) -> Result<()> {
        for limit in wanted {
            self.owners
                .claim_key(Field::Rlimits, &limit.r#type, self.plugin)?;
            let seen = &mut self.container.rlimits;
            seen.retain(|old| old.r#type != limit.r#type);
            seen.push(limit.clone());
            self.collected.rlimits.push(limit);
        }
        Ok(())
    }

    fn linux(&mut self, wanted: LinuxContainerAdjustment) -> Result<()> {
        let plugin = self.plugin;
        self.devices(wanted.devices)?;
        let seen = self.container.linux.get_or_insert_default();
        let collected = self.collected.linux.get_or_insert_default();
        if let Some(wanted) = &wanted.resources {
            let mut into = [
                seen.resources.get_or_insert_default(),
                collected.resources.get_or_insert_default(),
            ];
            resources::join(wanted, &mut into, &mut self.owners, plugin)?;
        }
        if !wanted.cgroups_path.is_empty() {
            self.owners.claim(Field::CgroupsPath, plugin)?;
            seen.cgroups_path.clone_from(&wanted.cgroups_path);
            collected.cgroups_path = wanted.cgroups_path;
        }
        macro_rules! whole {
            ($($field:ident: $owned:ident,)*) => {$(
                if let Some(wanted) = wanted.$field {
                    self.owners.claim(Field::$owned, plugin)?;
                    seen.$field = Some(wanted.clone());
                    collected.$field = Some(wanted);
                }
            )*};
        }
        whole! {
            oom_score_adj: OomScoreAdj,
            io_priority: IoPriority,
            seccomp_policy: SeccompPolicy,
            scheduler: LinuxSched,
        }
        if let Some(policy) = wanted.memory_policy {
            self.owners.claim(Field::MemoryPolicy, plugin)?;
            collected.memory_policy = Some(policy);
        }
        let (into, field) = (&mut collected.sysctl, Field::Sysctl);
        map(
            wanted.sysctl,
            &mut seen.sysctl,
            into,
            field,
            &mut self.owners,
            plugin,
        )?;
        let (into, field) = (&mut collected.net_devices, Field::LinuxNetDevices);
        let devices = &mut seen.net_devices;
        map(
            wanted.net_devices,
            devices,
            into,
            field,
            &mut self.owners,
            plugin,
        )?;
        self.namespaces(wanted.namespaces)?;
        match wanted.rdt {
            Some(rdt) => self.rdt(rdt),
            None => Ok(()),
        }
    }

    fn devices(&mut self, wanted: Vec<LinuxDevice>) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let key = |device: &LinuxDevice| device.path.clone();
        let collected = &mut self.collected.linux.get_or_insert_default().devices;
        let field = Field::Devices;
        let changed = list(wanted, key, collected, field, &mut self.owners, self.plugin)?;
        let seen = &mut self.container.linux.get_or_insert_default().devices;
        seen.retain(|device| !changed.keys.contains(&device.path));
        seen.extend(changed.added);
        Ok(())
    }

    /// One plugin decides about a type of namespace, also when it removes it.
    fn namespaces(&mut self, wanted: Vec<LinuxNamespace>) -> Result<()> {
        let seen = &mut self.container.linux.get_or_insert_default().namespaces;
        let collected = &mut self.collected.linux.get_or_insert_default().namespaces;
        for namespace in wanted {
            let removed = removal(&namespace.r#type);
            let key = removed.unwrap_or(&namespace.r#type).to_owned();
            self.owners.claim_key(Field::Namespace, &key, self.plugin)?;
            seen.retain(|old| old.r#type != key);
            if removed.is_none() {
                seen.push(namespace.clone());
            }
            collected.push(namespace);
        }
        Ok(())
    }

    fn rdt(&mut self, wanted: LinuxRdt) -> Result<()> {
        let collected = self.collected.linux.get_or_insert_default();
        let into = collected.rdt.get_or_insert_default();
        if wanted.remove {
            for field in [
                Field::RdtClosId,
                Field::RdtSchemata,
                Field::RdtEnableMonitoring,
            ] {
                self.owners.clear(field, self.plugin);
            }
            *into = LinuxRdt {
                remove: true,
                ..LinuxRdt::default()
            };
        }
        macro_rules! part {
            ($($field:ident: $owned:ident,)*) => {$(
                if wanted.$field.is_some() {
                    self.owners.claim(Field::$owned, self.plugin)?;
                    into.$field = wanted.$field;
                }
            )*};
        }
        part! {
            clos_id: RdtClosId,
            schemata: RdtSchemata,
            enable_monitoring: RdtEnableMonitoring,
        }
        self.container.linux.get_or_insert_default().rdt = Some(into.clone());
        Ok(())
    }
}

/// What one plugin changed of a list.
struct Changed<T> {
    /// Keys that were removed or set.
    keys: BTreeSet<String>,
    added: Vec<T>,
}

/// Joins entries of a list that have a key, in which removals are marked.
fn list<T: Clone>(
    wanted: Vec<T>,
    key: impl Fn(&T) -> String,
    collected: &mut Vec<T>,
    field: Field,
    owners: &mut Claims<'_>,
    plugin: &str,
) -> Result<Changed<T>> {
    let (mut removals, mut added) = (Vec::new(), Vec::new());
    let (mut removed, mut set) = (BTreeSet::new(), BTreeSet::new());
    for entry in wanted {
        let key = key(&entry);
        match removal(&key) {
            Some(bare) => {
                removed.insert(named(bare, field, plugin)?);
                removals.push((bare.to_owned(), entry));
            }
            None => {
                set.insert(named(&key, field, plugin)?);
                added.push(entry);
            }
        }
    }
    for key in &removed {
        owners.clear_key(field, key, plugin);
    }
    // What was wanted of these before, removals too, does not count any more.
    collected.retain(|entry| {
        let key = key(entry);
        !removed.contains(removal(&key).unwrap_or(&key))
    });
    for entry in &added {
        owners.claim_key(field, &key(entry), plugin)?;
    }
    // To set is to replace, so nothing need be removed for it.
    removals.retain(|(key, _)| !set.contains(key));
    collected.extend(removals.into_iter().map(|(_, entry)| entry));
    collected.extend_from_slice(&added);
    removed.append(&mut set);
    Ok(Changed {
        keys: removed,
        added,
    })
}

/// Joins a map in which keys of removals are marked.
fn map<V: Clone + Default>(
    wanted: BTreeMap<String, V>,
    seen: &mut BTreeMap<String, V>,
    collected: &mut BTreeMap<String, V>,
    field: Field,
    owners: &mut Claims<'_>,
    plugin: &str,
) -> Result<()> {
    for key in wanted.keys().filter_map(|key| removal(key)) {
        let key = named(key, field, plugin)?;
        owners.clear_key(field, &key, plugin);
        seen.remove(&key);
        collected.remove(&key);
        collected.insert(marked(&key), V::default());
    }
    for (key, value) in wanted {
        if removal(&key).is_some() {
            continue;
        }
        owners.claim_key(field, &named(&key, field, plugin)?, plugin)?;
        // To set is to replace.
        collected.remove(&marked(&key));
        seen.insert(key.clone(), value.clone());
        collected.insert(key, value);
    }
    Ok(())
}

/// Nothing has an empty name.
fn named(key: &str, field: Field, plugin: &str) -> Result<String> {
    match key {
        "" => Err(Error::invalid(format!(
            "cannot adjust a container: NRI plugin {plugin} sets {} without a name",
            field.as_str_name()
        ))),
        key => Ok(key.to_owned()),
    }
}
