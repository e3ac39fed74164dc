//! What plugins want of a container that is being made, written into its configuration before anybody reads it. Blocks.

use std::collections::HashSet;
use std::path::Path;

use rcrun_nri::adjust;
use rcrun_nri::proto::v1alpha1::ContainerAdjustment;
use rcrun_runtime::template::cdi::{self, Applied, Registry};
use rcrun_runtime::template::devices::Node;
use serde_json::{Value, json};

use crate::containers::propagation;
use crate::spec::container::Propagation;
use crate::{Context, Error, Result};

/// Applies it, with CDI devices; mounts that are to propagate must be able to.
pub(crate) fn apply(spec: &mut Value, wanted: &ContainerAdjustment) -> Result<()> {
    let applied = adjust::apply(spec, wanted)?;
    let failed = || "cannot adjust the container as NRI plugins want";
    can_propagate(&applied, &propagation).context(failed)?;
    let mut seen = HashSet::new();
    let names = applied.cdi_devices.into_iter();
    let names: Vec<String> = names.filter(|name| seen.insert(name.clone())).collect();
    if names.is_empty() {
        return Ok(());
    }
    if let Some(wrong) = names.iter().find(|name| !cdi::is_name(name)) {
        let text = format!("CDI device {wrong:?} is not like vendor.com/class=name");
        return Err(Error::invalid(text)).context(failed);
    }
    let devices = Registry::read(&cdi::DIRECTORIES.map(Path::new))
        .and_then(|registry| registry.apply(&names))
        .context(failed)?;
    insert(spec, devices);
    Ok(())
}

/// The host's mounts must propagate as the container's are to.
fn can_propagate(
    applied: &adjust::Applied,
    propagation: &dyn Fn(&Path) -> Result<Propagation>,
) -> Result<()> {
    let all = applied.shared.iter().map(|source| (source, true));
    let all = all.chain(applied.receiving.iter().map(|source| (source, false)));
    for (source, shared) in all {
        let found = propagation(Path::new(source))?;
        let fits = match found {
            Propagation::Shared => true,
            Propagation::Slave => !shared,
            Propagation::Private => false,
        };
        if !fits {
            let (wanted, needed) = match shared {
                true => ("rshared", "shared"),
                false => ("rslave", "shared or receiving"),
            };
            return Err(Error::invalid(format!(
                "a mount of {source} as {wanted} would not propagate: the mount of the host that it is on is not {needed}"
            )));
        }
    }
    Ok(())
}

/// What CDI devices need, over what the configuration has.
fn insert(spec: &mut Value, devices: Applied) {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    edit(&mut spec["process"]["env"], |env| {
        for variable in devices.env {
            env.retain(|old| old.as_str().map(name) != Some(name(&variable)));
            env.push(json!(variable));
        }
    });
    edit(&mut spec["process"]["user"]["additionalGids"], |groups| {
        for gid in devices.gids {
            if !groups.contains(&json!(gid)) {
                groups.push(json!(gid));
            }
        }
    });
    edit(&mut spec["linux"]["devices"], |nodes| {
        for node in &devices.nodes {
            nodes.retain(|old| old["path"] != node.path.as_str());
            nodes.push(node.node());
        }
    });
    edit(&mut spec["linux"]["resources"]["devices"], |rules| {
        rules.extend(devices.nodes.iter().map(Node::rule));
    });
    let depth = |mount: &Value| {
        let path = mount["destination"].as_str().unwrap_or_default();
        path.split('/').filter(|part| !part.is_empty()).count()
    };
    edit(&mut spec["mounts"], |mounts| {
        for mount in devices.mounts {
            mounts.retain(|old| old["destination"] != mount["destination"]);
            mounts.push(mount);
        }
        // None covers one above it.
        mounts.sort_by_key(depth);
    });
    for (kind, hooks) in devices.hooks {
        edit(&mut spec["hooks"][kind], |all| all.extend(hooks));
    }
}

/// Changes the list that is there, or a new one.
fn edit(place: &mut Value, change: impl FnOnce(&mut Vec<Value>)) {
    let mut list = match place.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    change(&mut list);
    *place = Value::Array(list);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcrun_nri::proto::v1alpha1::CdiDevice;

    #[test]
    fn devices_are_written_over_what_is_there() {
        let mut spec = json!({
            "process": {"env": ["A=1", "B=2"], "user": {"uid": 0, "gid": 0}},
            "mounts": [{"destination": "/"}, {"destination": "/a/b", "source": "old"}, {"destination": "/a/b/c"}],
            "linux": {"resources": {}},
        });
        let mount = |destination: &str| json!({"destination": destination, "source": "new"});
        let devices = Applied {
            env: vec!["A=3".into()],
            mounts: vec![mount("/a/b"), mount("/a")],
            hooks: [("createContainer".to_owned(), vec![json!({"path": "/hook"})])].into(),
            gids: vec![5, 5],
            nodes: Vec::new(),
        };
        insert(&mut spec, devices);
        assert_eq!(spec["process"]["env"], json!(["B=2", "A=3"]));
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([5]));
        let places: Vec<_> = spec["mounts"].as_array().unwrap().iter().collect();
        let places = places
            .iter()
            .map(|mount| mount["destination"].as_str().unwrap());
        assert_eq!(places.collect::<Vec<_>>(), ["/", "/a", "/a/b", "/a/b/c"]);
        assert_eq!(spec["mounts"][2]["source"], "new");
        assert_eq!(spec["hooks"]["createContainer"], json!([{"path": "/hook"}]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let device = |name: &str| ContainerAdjustment {
            cdi_devices: vec![CdiDevice { name: name.into() }],
            ..Default::default()
        };
        for (wanted, words) in [
            (device("../../etc/passwd"), "is not like"),
            (device("nobody.example/none=0"), "no device"),
        ] {
            let error = apply(&mut json!({"mounts": []}), &wanted).unwrap_err();
            let text = error.chain().to_string();
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn mounts_propagate_where_the_host_s_do() {
        use Propagation::{Private, Shared, Slave};
        for (found, shared, receiving) in [
            (Shared, true, true),
            (Slave, false, true),
            (Private, false, false),
        ] {
            let lookup = |_: &Path| Ok(found);
            let wants_shared = adjust::Applied {
                shared: vec!["/a".into()],
                ..Default::default()
            };
            let receives = adjust::Applied {
                receiving: vec!["/a".into()],
                ..Default::default()
            };
            assert_eq!(
                can_propagate(&wants_shared, &lookup).is_ok(),
                shared,
                "{found:?}"
            );
            assert_eq!(
                can_propagate(&receives, &lookup).is_ok(),
                receiving,
                "{found:?}"
            );
        }
    }
}
