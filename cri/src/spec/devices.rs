//! Devices: which are asked for, and what of them stands in the configuration.

use std::collections::{BTreeMap, HashSet};

use rcrun_runtime::template::cdi;
use rcrun_runtime::template::clean;
use rcrun_runtime::template::devices::{Device, Node as DeviceNode, is_access};
use serde_json::{Value, json};

use crate::proto::v1;
use crate::{Error, Result};

/// Annotations that name CDI devices, separated by commas: the prefix is the CDI specification's.
const CDI_PREFIX: &str = "cdi.k8s.io/";
/// Most devices of each kind that a request may name.
const MOST: usize = 1024;

/// Devices by path.
pub(super) fn devices(asked: &[v1::Device]) -> Result<Vec<Device>> {
    if asked.len() > MOST {
        return Err(Error::invalid(format!("more than {MOST} devices")));
    }
    let one = |device: &v1::Device| {
        let (host, inner) = (device.host_path.as_str(), device.container_path.as_str());
        let inner = if inner.is_empty() { host } else { inner };
        for path in [host, inner] {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(Error::invalid(format!(
                    "devices: {path:?} is no absolute path"
                )));
            }
        }
        let access = match device.permissions.as_str() {
            "" => "rwm",
            access if is_access(access) => access,
            access => {
                return Err(Error::invalid(format!(
                    "devices: permissions {access:?} of {host} are none of r, w and m"
                )));
            }
        };
        Ok(Device {
            host: clean(host.as_ref()),
            inner: clean(inner.as_ref()).to_string_lossy().into_owned(),
            access: access.to_owned(),
        })
    };
    asked.iter().map(one).collect()
}

/// Names of CDI devices: of the field first, then of annotations, each once.
pub(super) fn cdi_names(
    asked: &[v1::CdiDevice],
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<String>> {
    let of_annotations = annotations
        .iter()
        .filter(|(name, _)| name.starts_with(CDI_PREFIX))
        .flat_map(|(_, list)| list.split(','));
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for name in asked
        .iter()
        .map(|device| device.name.as_str())
        .chain(of_annotations)
    {
        if !cdi::is_name(name) {
            return Err(Error::invalid(format!(
                "CDI device {name:?} is not like vendor.com/class=name"
            )));
        }
        if seen.insert(name) {
            names.push(name.to_owned());
        }
    }
    match names.len() > MOST {
        true => Err(Error::invalid(format!("more than {MOST} CDI devices"))),
        false => Ok(names),
    }
}

/// `linux.devices`, and `linux.resources.devices`. The runtime adds the devices that every container has, and
/// the rules for those. Of two nodes at one path the first counts, those of CDI before others.
pub(super) fn entries(
    nodes: &[DeviceNode],
    of_cdi: &[DeviceNode],
    privileged: bool,
) -> (Vec<Value>, Vec<Value>) {
    let mut seen = HashSet::new();
    let all = of_cdi.iter().chain(nodes);
    let all: Vec<&DeviceNode> = all.filter(|node| seen.insert(&node.path)).collect();
    let mut rules = vec![json!({"allow": privileged, "access": "rwm"})];
    if !privileged {
        rules.extend(all.iter().map(|node| node.rule()));
    }
    (all.iter().map(|node| node.node()).collect(), rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_path() {
        for (host, inner, access, expected) in [
            (
                "/dev/fuse",
                "/dev/fuse",
                "rw",
                Some("/dev/fuse /dev/fuse rw"),
            ),
            ("/dev/a", "", "", Some("/dev/a /dev/a rwm")),
            (
                "/dev/../dev/a",
                "/dev/x/../b",
                "mr",
                Some("/dev/a /dev/b mr"),
            ),
            ("dev/a", "/dev/a", "r", None),
            ("/dev/a", "a", "r", None),
            ("", "", "r", None),
            ("/dev/a", "/dev/a", "rx", None),
            ("/dev/a", "/dev/a", "rr", None),
            ("/dev/a\0", "/dev/a", "r", None),
        ] {
            let device = v1::Device {
                host_path: host.into(),
                container_path: inner.into(),
                permissions: access.into(),
            };
            let found = devices(&[device]).ok().map(|all| {
                format!(
                    "{} {} {}",
                    all[0].host.display(),
                    all[0].inner,
                    all[0].access
                )
            });
            assert_eq!(found.as_deref(), expected, "{host} {inner} {access}");
        }
        devices(&vec![v1::Device::default(); MOST + 1]).unwrap_err();
    }

    #[test]
    fn devices_by_name() {
        let field = |name: &str| v1::CdiDevice { name: name.into() };
        let annotations = BTreeMap::from([
            (
                "cdi.k8s.io/plugin_x".to_owned(),
                "v.com/gpu=1,v.com/gpu=0".to_owned(),
            ),
            ("cdi.k8s.io.example/x".to_owned(), "not ours".to_owned()),
        ]);
        let names = cdi_names(&[field("v.com/gpu=0"), field("v.com/net=a")], &annotations);
        assert_eq!(
            names.unwrap(),
            ["v.com/gpu=0", "v.com/net=a", "v.com/gpu=1"]
        );
        for name in ["/dev/null", "gpu", "../../etc=x", ""] {
            cdi_names(&[field(name)], &BTreeMap::new()).unwrap_err();
            let annotations = BTreeMap::from([("cdi.k8s.io/x".to_owned(), name.to_owned())]);
            cdi_names(&[], &annotations).unwrap_err();
        }
    }

    #[test]
    fn nodes_and_rules() {
        let node = |path: &str, major| DeviceNode {
            path: path.into(),
            kind: 'c',
            major,
            minor: 1,
            mode: 0o600,
            uid: 0,
            gid: 0,
            access: "r".into(),
        };
        let (nodes, rules) = entries(
            &[node("/dev/a", 1), node("/dev/b", 2), node("/dev/a", 3)],
            &[node("/dev/b", 4)],
            false,
        );
        let numbers = |list: &[Value]| {
            let one = |value: &Value| value["major"].as_u64();
            list.iter().map(one).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&nodes), [Some(4), Some(1)]);
        assert_eq!(numbers(&rules), [None, Some(4), Some(1)]);
        assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
        let (nodes, rules) = entries(&[node("/dev/a", 1)], &[], true);
        assert_eq!(nodes.len(), 1);
        assert_eq!(rules, [json!({"allow": true, "access": "rwm"})]);
    }
}
