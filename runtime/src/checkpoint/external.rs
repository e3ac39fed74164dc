//! The names under which mounts, namespaces and streams from outside the container are known to criu.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType as Type;

use super::rpc::Version;
use super::swrk::Criu;
use crate::error::Result;
use crate::plan::{MountKind, Plan};
use crate::rootfs::cgroup::View;

/// The oldest criu that takes a pid namespace from outside.
const EXTERNAL_PID: Version = Version(31_500);
/// The same for a network namespace.
const EXTERNAL_NETWORK: Version = Version(31_100);

/// Names of a process's standard streams, as /proc has them; empty for one that is closed.
pub(super) fn streams_of(process: &str) -> Vec<String> {
    (0..3).map(|number| name_of(process, number)).collect()
}

/// The name of one descriptor.
pub(super) fn name_of(process: &str, number: i32) -> String {
    std::fs::read_link(format!("/proc/{process}/fd/{number}"))
        .map(|target| target.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Something that is mounted from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct External {
    /// In the container.
    pub place: PathBuf,
    /// Outside.
    pub source: PathBuf,
}

/// Mounts whose source is outside the container, and devices, which are bound where they may not be
/// made. `resolve` follows the links of a place inside the container's root.
pub(super) fn external_mounts(
    plan: &Plan,
    cgroups: &View,
    resolve: &dyn Fn(&Path) -> PathBuf,
) -> Vec<External> {
    let path = |text: &std::ffi::CStr| PathBuf::from(OsString::from_vec(text.to_bytes().to_vec()));
    let mut all = Vec::new();
    for step in &plan.mounts {
        let target = path(&step.target);
        match &step.kind {
            MountKind::Bind(bind) => all.push(External {
                place: resolve(&target),
                source: path(&bind.source),
            }),
            // With a cgroup namespace these are file systems that criu can mount anew.
            MountKind::Cgroup if !cgroups.namespaced => {
                let target = resolve(&target);
                all.extend(cgroups.hierarchies.iter().map(|hierarchy| External {
                    place: target.join(path(&hierarchy.name)),
                    source: path(&hierarchy.directory),
                }));
                all.extend(cgroups.unified.iter().map(|directory| External {
                    place: target.clone(),
                    source: path(directory),
                }));
            }
            _ => {}
        }
    }
    all.extend(plan.devices.iter().map(|device| External {
        place: resolve(&path(&device.path)),
        source: path(&device.path),
    }));
    all
}

/// Follows links of `place` as far as it exists below `root`, never leaving that. Only for names:
/// what the result is used for must not depend on its truth.
pub(super) fn resolve(root: &Path, place: &Path) -> PathBuf {
    const LINKS_MAX: usize = 255;
    let mut done = PathBuf::from("/");
    let mut rest: Vec<OsString> = names(place);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        done.push(&name);
        let below = done.strip_prefix("/").unwrap_or(&done);
        let Ok(target) = std::fs::read_link(root.join(below)) else {
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return place.to_owned();
        }
        done.pop();
        if target.is_absolute() {
            done = PathBuf::from("/");
        }
        rest.extend(names(&target));
    }
    done
}

/// The components of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    let mut names: Vec<OsString> = path.components().filter_map(name).collect();
    names.reverse();
    names
}

/// Key and value as criu takes them.
pub(super) fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// What criu calls a kind of namespace.
pub(super) fn namespace_name(name: &'static str) -> &'static str {
    match name {
        "network" => "net",
        "mount" => "mnt",
        other => other,
    }
}

/// The key of a namespace that the container got from outside; `None` for kinds that criu cannot
/// leave outside.
pub(super) fn namespace_key(criu: &Criu, name: &str) -> Result<Option<&'static str>> {
    match name {
        "network" => {
            criu.require(EXTERNAL_NETWORK, "a network namespace from outside")?;
            Ok(Some("extRootNetNS"))
        }
        "pid" => {
            criu.require(EXTERNAL_PID, "a pid namespace from outside")?;
            Ok(Some("extRootPidNS"))
        }
        _ => Ok(None),
    }
}

/// Whether the container sees its cgroup as the root of the hierarchy.
pub(super) fn cgroup_view(plan: &Plan, cgroup: &crate::cgroup::Cgroup) -> Result<View> {
    let mounted = plan
        .mounts
        .iter()
        .any(|m| matches!(m.kind, MountKind::Cgroup));
    if !mounted {
        return Ok(View::default());
    }
    cgroup.mount_view(plan.namespaces.has(Type::Cgroup))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::plan::Facts;

    /// Of a container with these mounts.
    pub(in super::super) fn plan(mounts: &serde_json::Value) -> Plan {
        let spec: oci_spec::runtime::Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["x"], "user": {"uid": 0, "gid": 0}},
            "mounts": mounts,
        }))
        .unwrap();
        let facts = Facts {
            bundle: Path::new("/b"),
            no_pivot: false,
            listen_fds: None,
            selinux: false,
        };
        Plan::from_spec(&spec, &facts).unwrap()
    }

    #[test]
    fn binds_cgroups_and_devices_come_from_outside() {
        let plan = plan(&serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/vol", "source": "data", "options": ["rbind"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
        ]));
        let mut view = View {
            hierarchies: vec![crate::rootfs::cgroup::Hierarchy {
                name: c"cpu,cpuacct".to_owned(),
                links: Vec::new(),
                options: c"cpu,cpuacct".to_owned(),
                directory: c"/sys/fs/cgroup/cpu,cpuacct/c1".to_owned(),
            }],
            ..View::default()
        };
        let resolve = |place: &Path| match place.to_str() {
            Some("/vol") => PathBuf::from("/real/vol"),
            _ => place.to_owned(),
        };
        let pair = |place: &str, source: &str| External {
            place: place.into(),
            source: source.into(),
        };
        let all = external_mounts(&plan, &view, &resolve);
        assert_eq!(all[0], pair("/real/vol", "/b/data"));
        assert_eq!(
            all[1],
            pair(
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/cpu,cpuacct/c1"
            )
        );
        assert!(all.contains(&pair("/dev/null", "/dev/null")));
        view.namespaced = true;
        let all = external_mounts(&plan, &view, &resolve);
        assert!(all.iter().all(|e| !e.place.starts_with("/sys")), "{all:?}");
    }

    #[test]
    fn links_lead_nowhere_but_into_the_root() {
        let dir = std::env::temp_dir().join(format!("rcrun-resolve-{}", std::process::id()));
        let root = dir.join("root");
        std::fs::create_dir_all(root.join("real/conf")).unwrap();
        for (link, target) in [
            ("conf", "/real/conf"),
            ("up", "../../../../etc"),
            ("loop", "loop"),
            ("relative", "real/../conf"),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let found: Vec<_> = [
            "/conf",
            "/conf/x/y",
            "/up/passwd",
            "/a/../b",
            "/relative",
            "/loop",
        ]
        .iter()
        .map(|place| resolve(&root, Path::new(place)))
        .collect();
        std::fs::remove_dir_all(&dir).unwrap();
        let expected = [
            "/real/conf",
            "/real/conf/x/y",
            "/etc/passwd",
            "/b",
            "/real/conf",
            "/loop",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn own_streams_have_names() {
        let names = streams_of("self");
        assert_eq!(names.len(), 3);
        assert_eq!(streams_of("0"), ["", "", ""]);
    }
}
