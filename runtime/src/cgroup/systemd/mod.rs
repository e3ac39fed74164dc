//! The systemd driver: the container's cgroup is a transient scope, made and removed over D-Bus.
//!
//! systemd wants a scope's first process when it makes it, so the container's first process exists
//! before ([`Cgroup::start_unit`]). Limits are told to systemd as properties and written to the
//! cgroup besides ([`properties`]). systemd's documents: CGROUP_DELEGATION, CONTROL_GROUP_INTERFACE,
//! org.freedesktop.systemd1(5).

mod bus;
mod message;
mod properties;
mod variant;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use self::bus::Bus;
use self::message::Value;
use self::properties::Property;
use super::hierarchy::View;
use super::{Cgroup, Hierarchy, Prepared, Select, Unit, create, path};
use crate::error::{Context, Error, ErrorKind, Result};

/// First part of a unit's name when the configuration gives none.
const DEFAULT_PREFIX: &str = "rcrun";

impl Cgroup {
    /// `cgroupsPath` is `slice:prefix:name`.
    pub(super) fn resolve_systemd(
        &mut self,
        view: &View,
        id: &str,
        given: Option<&Path>,
        annotations: &HashMap<String, String>,
    ) -> Result<()> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(Error::unsupported(
                "systemd not running on this host, cannot use systemd cgroups manager",
            ));
        }
        let unified = view.hierarchy == Hierarchy::Unified;
        if self.rootless && !unified {
            return Err(Error::unsupported(
                "cannot use rootless systemd cgroups manager on cgroup v1",
            ));
        }
        let unit = unit(id, given, self.rootless, annotations)?;
        let slice = path::expand_slice(&unit.slice)?;
        let below: PathBuf = slice.join(&unit.name);
        let below = below.strip_prefix("/").unwrap_or(&below);
        for mounted in &view.mounted {
            let mut dir = mounted.point.clone();
            if unit.user {
                // The user's manager has its own tree, somewhere below the system's.
                let own = Bus::open(true)?.manager_property("ControlGroup")?;
                dir.push(path::clean(Path::new(own.trim_start_matches('/')))?);
            }
            for controller in &mounted.controllers {
                self.paths.insert(controller.clone(), dir.join(below));
            }
        }
        self.unit = Some(unit);
        Ok(())
    }

    /// Makes the unit with `pid` as its first process, and what systemd leaves to us.
    ///
    /// The answer holds only what the process still has to join itself: v1 hierarchies that are not
    /// systemd's. All properties but the memory limits go along; those come with
    /// [`Cgroup::apply`] and [`Select::MEMORY`].
    pub fn start_unit(&self, pid: i32, resources: Option<&LinuxResources>) -> Result<Prepared> {
        let unit = self.unit()?;
        if let Some(dir) = self.primary().filter(|dir| dir.exists()) {
            create::refuse_used(dir)?;
        }
        let mut bus = Bus::open(unit.user)?;
        let version = version(&mut bus)?;
        let body = vec![
            Value::string(&unit.name),
            Value::string("replace"),
            list(self.start_properties(unit, pid, resources, version)?),
            Value::Array("(sa(sv))".into(), vec![]),
        ];
        let failed = || format!("unable to start unit {:?}", unit.name);
        let mut result = bus
            .job("StartTransientUnit", body.clone())
            .context(failed)?;
        if matches!(&result, Err(refused) if refused.is("UnitExists")) {
            // Probably what is left of one that failed; systemd forgets it when told to.
            let _ = bus.manager("ResetFailedUnit", vec![Value::string(&unit.name)])?;
            result = bus.job("StartTransientUnit", body).context(failed)?;
        }
        let result = result.map_err(Error::from).context(failed)?;
        if result != "done" {
            let _ = bus.manager("ResetFailedUnit", vec![Value::string(&unit.name)])?;
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "error creating systemd unit `{}`: got `{result}`",
                    unit.name
                ),
            ));
        }
        let prepared = self.prepare_rest();
        if prepared.is_err() {
            // The first error is the one to tell.
            let _ = self.stop_unit();
        }
        prepared
    }

    /// What systemd leaves to us: v1 hierarchies it does not know, controllers on v2.
    fn prepare_rest(&self) -> Result<Prepared> {
        let mut rest = self.clone();
        // systemd keeps its own hierarchy itself; the process is in it.
        rest.paths
            .retain(|name, _| !matches!(name.as_str(), "" | "name=systemd"));
        let mut prepared = rest.prepare(false)?;
        if self.hierarchy == Hierarchy::Unified
            && let Some(dir) = self.unified()
        {
            create::hand_down_controllers(dir, self.start.domain)?;
            prepared.unified_path = Some(dir.to_owned());
        }
        Ok(prepared)
    }

    fn start_properties(
        &self,
        unit: &Unit,
        pid: i32,
        resources: Option<&LinuxResources>,
        version: u32,
    ) -> Result<Vec<Property>> {
        let unified = self.hierarchy == Hierarchy::Unified;
        let yes = |name: &str| (name.to_owned(), Value::Bool(true));
        let name = unit
            .name
            .rsplit_once('.')
            .map_or(unit.name.as_str(), |(stem, _)| stem);
        let mut out = vec![
            (
                "Description".to_owned(),
                Value::string(format!("rcrun container {name}")),
            ),
            (
                "PIDs".to_owned(),
                Value::Array("u".into(), vec![Value::U32(pid.cast_unsigned())]),
            ),
        ];
        if unit.name.ends_with(".slice") {
            out.push(("Wants".to_owned(), Value::strings([unit.slice.as_str()])));
        } else {
            out.push(("Slice".to_owned(), Value::string(&unit.slice)));
            out.push(yes("Delegate"));
        }
        out.push(yes("MemoryAccounting"));
        out.push(yes("CPUAccounting"));
        out.push(yes(if unified {
            "IOAccounting"
        } else {
            "BlockIOAccounting"
        }));
        out.push(yes("TasksAccounting"));
        out.push(("DefaultDependencies".to_owned(), Value::Bool(false)));
        if let Some(r) = resources {
            let quiet = Select {
                others: false,
                ..Select::EARLY
            };
            let r = &self.for_unit(r, quiet);
            out.extend(properties::from_resources(
                r,
                Select::EARLY,
                unified,
                version,
            )?);
            let group = r.unified().as_ref().and_then(|u| u.get("memory.oom.group"));
            // The only moment at which systemd takes this one.
            if let Some(group) = group.filter(|_| version >= properties::OOM_POLICY) {
                let policy = if group.trim() == "1" {
                    "kill"
                } else {
                    "continue"
                };
                out.push(("OOMPolicy".to_owned(), Value::string(policy)));
            }
        }
        for (name, text) in &unit.properties {
            out.push(variant::property(name, text)?);
        }
        Ok(out)
    }

    /// Tells systemd about limits, if there are any. Those of [`Select::EARLY`] it got with the unit.
    pub(super) fn set_properties(&self, r: &LinuxResources, select: Select) -> Result<bool> {
        let Some(unit) = &self.unit else {
            return Ok(false);
        };
        if select == Select::EARLY {
            return Ok(false);
        }
        let unified = self.hierarchy == Hierarchy::Unified;
        // Without a version dependent property (the usual MEMORY) nothing has to be asked.
        if properties::from_resources(r, select, unified, u32::MAX)?.is_empty() {
            return Ok(false);
        }
        let mut bus = Bus::open(unit.user)?;
        let version = version(&mut bus)?;
        let properties = properties::from_resources(r, select, unified, version)?;
        // On v1 systemd rewrites device rules by denying all first: nobody may run meanwhile.
        let freeze = !unified && !self.is_frozen()?;
        if freeze {
            self.freeze()?;
        }
        let body = vec![
            Value::string(&unit.name),
            Value::Bool(true),
            list(properties),
        ];
        let done = bus.manager("SetUnitProperties", body);
        if freeze {
            self.thaw()?;
        }
        done?
            .map_err(Error::from)
            .context(|| "unable to set unit properties")
            .map(|_| true)
    }

    /// The resources as they are to be in the cgroup, as far as systemd understands them: quotas in
    /// percents, and no weight for what is idle.
    pub(super) fn for_unit(&self, r: &LinuxResources, select: Select) -> LinuxResources {
        let mut r = r.clone();
        if self.unit.is_none() {
            return r;
        }
        if let Some(mut cpu) = r.cpu().clone()
            && let Some(quota) = properties::rounded_quota(&cpu)
        {
            cpu.set_quota(Some(quota));
            r.set_cpu(Some(cpu));
        }
        if self.hierarchy == Hierarchy::Unified && properties::drop_weight(&mut r) && select.others
        {
            tracing::warn!(
                "unable to apply both a weight (shares) and cpu.idle with systemd: the weight is left out"
            );
        }
        r
    }

    /// Has systemd move a process into the unit, or into a sub-cgroup of it: for callers that may
    /// not write to the cgroup they come from.
    pub(super) fn attach_to_unit(&self, pid: i32, sub: &Path) -> Result<()> {
        let unit = self.unit()?;
        let body = vec![
            Value::string(&unit.name),
            Value::string(Path::new("/").join(sub).to_string_lossy()),
            Value::Array("u".into(), vec![Value::U32(pid.cast_unsigned())]),
        ];
        let answer = Bus::open(unit.user)?.manager("AttachProcessesToUnit", body)?;
        answer
            .map_err(Error::from)
            .context(|| "cannot attach to the systemd unit")
            .map(drop)
    }

    /// Stops the unit, which also kills what is left in it; one that is gone is no error.
    pub(super) fn stop_unit(&self) -> Result<()> {
        let Some(unit) = &self.unit else {
            return Ok(());
        };
        let mut bus = Bus::open(unit.user)?;
        let name = || Value::string(&unit.name);
        match bus.job("StopUnit", vec![name(), Value::string("replace")])? {
            // What the job says does not matter: the directory's removal shows whether it is gone.
            Ok(_) => {}
            Err(refused) if refused.is("NoSuchUnit") => return Ok(()),
            Err(refused) => {
                let what = format!("cannot stop systemd unit {}", unit.name);
                return Err(Error::from(refused).context(what));
            }
        }
        // A failed unit is kept until somebody has looked at it; "not loaded" is the usual answer.
        bus.manager("ResetFailedUnit", vec![name()]).map(drop)
    }

    fn unit(&self) -> Result<&Unit> {
        self.unit.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "the container's cgroup is not managed by systemd",
            )
        })
    }
}

fn unit(
    id: &str,
    given: Option<&Path>,
    rootless: bool,
    annotations: &HashMap<String, String>,
) -> Result<Unit> {
    let default = if rootless {
        "user.slice"
    } else {
        "system.slice"
    };
    let Some(given) = given else {
        return finish(default, DEFAULT_PREFIX, id, rootless, annotations);
    };
    let text = given.to_string_lossy();
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts.as_slice() else {
        return Err(Error::invalid(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \
             {text:?} instead"
        )));
    };
    let slice = if slice.is_empty() { default } else { *slice };
    finish(slice, prefix, name, rootless, annotations)
}

fn finish(
    slice: &str,
    prefix: &str,
    name: &str,
    rootless: bool,
    annotations: &HashMap<String, String>,
) -> Result<Unit> {
    let unit = if name.ends_with(".slice") {
        name.to_owned()
    } else {
        format!("{prefix}-{name}.scope")
    };
    path::check_unit_name(&unit)?;
    path::expand_slice(slice)?;
    let mut properties = std::collections::BTreeMap::new();
    for (key, text) in annotations {
        if let Some(name) = variant::property_name(key) {
            // Checked now, while nothing has been made.
            variant::property(name, text)?;
            properties.insert(name.to_owned(), text.clone());
        }
    }
    Ok(Unit {
        name: unit,
        slice: slice.to_owned(),
        user: rootless,
        properties,
    })
}

fn list(properties: Vec<Property>) -> Value {
    let pairs = properties.into_iter().map(|(name, value)| {
        Value::Struct(vec![Value::String(name), Value::Variant(Box::new(value))])
    });
    Value::Array("(sv)".into(), pairs.collect())
}

/// `252.39-1~deb12u1` or `v245.4-1.fc32`
fn parse_version(text: &str) -> Option<u32> {
    let text = text.trim_start_matches('v');
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}

fn version(bus: &mut Bus) -> Result<u32> {
    // An unknown version is taken for an old one: less is told to systemd, the limits hold.
    Ok(parse_version(&bus.manager_property("Version")?).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: Option<&str>, rootless: bool) -> Result<Unit> {
        unit("c1", path.map(Path::new), rootless, &HashMap::new())
    }

    #[test]
    fn names() {
        for (path, rootless, slice, name) in [
            (None, false, "system.slice", "rcrun-c1.scope"),
            (None, true, "user.slice", "rcrun-c1.scope"),
            (Some("a-b.slice:p:n"), false, "a-b.slice", "p-n.scope"),
            (Some(":p:n"), true, "user.slice", "p-n.scope"),
            (Some("a.slice:p:n.slice"), false, "a.slice", "n.slice"),
        ] {
            let unit = named(path, rootless).unwrap();
            assert_eq!((unit.slice.as_str(), unit.name.as_str()), (slice, name));
        }
        for bad in [
            "/a/b",
            "a.slice:p",
            "a.slice:p:n:m",
            "a.slice:p:../x",
            "a/b.slice:p:n",
            "a:p:n",
        ] {
            assert!(named(Some(bad), false).is_err(), "{bad}");
        }
    }

    #[test]
    fn annotations_are_checked() {
        let with = |key: &str, value: &str| {
            unit(
                "c",
                None,
                false,
                &HashMap::from([(key.to_owned(), value.to_owned())]),
            )
        };
        let unit = with("org.systemd.property.KillMode", "'mixed'").unwrap();
        assert_eq!(unit.properties["KillMode"], "'mixed'");
        assert!(with("org.systemd.property.ExecStart", "'/x'").is_err());
        assert!(
            with("org.systemd.propertyX.ExecStart", "'/x'")
                .unwrap()
                .properties
                .is_empty()
        );
    }

    #[test]
    fn versions() {
        for (text, want) in [
            ("252.39-1~deb12u1", Some(252)),
            ("v245.4-1.fc32", Some(245)),
            ("x", None),
        ] {
            assert_eq!(parse_version(text), want);
        }
    }
}
