//! `linux.namespaces`, id mappings and time offsets -> what clone, setns and unshare do. Pure.

use std::ffi::CString;
use std::fmt::Write as _;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType as Type};

use crate::error::{Error, Result};

use super::c_path;

/// An existing namespace to enter.
#[derive(Debug)]
pub struct Join {
    /// `CLONE_NEW*`.
    pub flag: u64,
    /// What the specification calls it.
    pub name: &'static str,
    /// File that refers to it.
    pub path: CString,
}

/// Contents of /proc/PID/uid_map and gid_map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// Lines `container host size`.
    pub uids: String,
    /// Lines `container host size`.
    pub gids: String,
    /// The mappings as configured (for newuidmap, and to map a host id).
    pub uid_list: Vec<LinuxIdMapping>,
    /// The mappings as configured.
    pub gid_list: Vec<LinuxIdMapping>,
}

/// All namespaces of a container.
#[derive(Debug)]
pub struct Namespaces {
    /// New ones made by the clone itself.
    pub clone_flags: u64,
    /// New cgroup namespace, made after the cgroup was joined.
    pub new_cgroup: bool,
    /// New time namespace: the text for /proc/self/timens_offsets.
    pub new_time: Option<CString>,
    /// Existing ones, in the order in which they are entered (user last: what the caller may enter,
    /// the container's root may not).
    pub joins: Vec<Join>,
    /// Maps of a new user namespace.
    pub maps: Option<IdMaps>,
    /// Every kind of namespace that is new or entered: what `exec` has to enter.
    pub all: u64,
}

/// `CLONE_NEW*` and name of a kind.
pub fn flag_of(kind: Type) -> (u64, &'static str) {
    let (flag, name) = match kind {
        Type::Mount => (libc::CLONE_NEWNS, "mount"),
        Type::Cgroup => (libc::CLONE_NEWCGROUP, "cgroup"),
        Type::Uts => (libc::CLONE_NEWUTS, "uts"),
        Type::Ipc => (libc::CLONE_NEWIPC, "ipc"),
        Type::User => (libc::CLONE_NEWUSER, "user"),
        Type::Pid => (libc::CLONE_NEWPID, "pid"),
        Type::Network => (libc::CLONE_NEWNET, "network"),
        Type::Time => (libc::CLONE_NEWTIME, "time"),
    };
    (flag as u64, name)
}

const NEW_USER: u64 = libc::CLONE_NEWUSER as u64;
const NEW_PID: u64 = libc::CLONE_NEWPID as u64;

impl Namespaces {
    /// Decides for the `linux` section.
    pub fn plan(linux: &Linux) -> Result<Self> {
        let mut result = Self {
            clone_flags: 0,
            new_cgroup: false,
            new_time: None,
            joins: Vec::new(),
            maps: None,
            all: 0,
        };
        for namespace in linux.namespaces().as_deref().unwrap_or_default() {
            let (flag, name) = flag_of(namespace.typ());
            if result.all & flag != 0 {
                return Err(Error::invalid(format!(
                    "malformed spec file: duplicated ns {name}"
                )));
            }
            result.all |= flag;
            match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => {
                    result.joins.push(Join {
                        flag,
                        name,
                        path: c_path(path)?,
                    });
                }
                _ => match namespace.typ() {
                    Type::Cgroup => result.new_cgroup = true,
                    Type::Time => result.new_time = Some(time_offsets(linux)?),
                    _ => result.clone_flags |= flag,
                },
            }
        }
        result.joins.sort_by_key(|join| join.flag == NEW_USER);
        let (uids, gids) = (linux.uid_mappings(), linux.gid_mappings());
        if result.clone_flags & NEW_USER != 0 {
            let uid_list = uids.clone().unwrap_or_default();
            let gid_list = gids.clone().unwrap_or_default();
            result.maps = Some(IdMaps {
                uids: map_text(&uid_list),
                gids: map_text(&gid_list),
                uid_list,
                gid_list,
            });
        }
        Ok(result)
    }

    /// Whether the container has a user namespace that is not the caller's.
    pub fn has_user(&self) -> bool {
        self.all & NEW_USER != 0
    }

    /// What a user of the container is to the caller; nothing when the configuration does not say.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        self.host_id(uid, |maps| &maps.uid_list)
    }

    /// What a group of the container is to the caller, likewise.
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        self.host_id(gid, |maps| &maps.gid_list)
    }

    fn host_id(&self, id: u32, list: fn(&IdMaps) -> &Vec<LinuxIdMapping>) -> Option<u32> {
        if !self.has_user() {
            return Some(id);
        }
        let within = |m: &LinuxIdMapping| {
            let offset = id.checked_sub(m.container_id())?;
            (offset < m.size()).then(|| m.host_id().checked_add(offset))?
        };
        list(self.maps.as_ref()?).iter().find_map(within)
    }

    /// Whether a kind is among them.
    pub fn has(&self, kind: Type) -> bool {
        self.all & flag_of(kind).0 != 0
    }

    /// Whether the kind is made new.
    pub fn is_new(&self, kind: Type) -> bool {
        match kind {
            Type::Cgroup => self.new_cgroup,
            Type::Time => self.new_time.is_some(),
            _ => self.clone_flags & flag_of(kind).0 != 0,
        }
    }

    /// An extra process has to enter the existing namespaces and then clone the container's init:
    /// a pid namespace only holds children, and new namespaces must belong to an entered user
    /// namespace; while a new user namespace takes away the right to enter the others.
    pub fn needs_intermediate(&self) -> bool {
        self.joins
            .iter()
            .any(|j| j.flag == NEW_PID || j.flag == NEW_USER)
            || (self.clone_flags & NEW_USER != 0 && !self.joins.is_empty())
    }
}

/// Lines for /proc/PID/uid_map.
pub fn map_text(mappings: &[LinuxIdMapping]) -> String {
    let mut text = String::new();
    for m in mappings {
        let _ = writeln!(text, "{} {} {}", m.container_id(), m.host_id(), m.size());
    }
    text
}

fn time_offsets(linux: &Linux) -> Result<CString> {
    let mut text = String::new();
    let mut clocks: Vec<_> = linux.time_offsets().iter().flatten().collect();
    clocks.sort_by_key(|(name, _)| name.as_str());
    for (clock, offset) in clocks {
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::invalid(format!(
                "linux.timeOffsets: unknown clock {clock:?}: use monotonic or boottime"
            )));
        }
        let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        let _ = writeln!(text, "{clock} {secs} {nanos}");
    }
    super::c_string(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: serde_json::Value) -> Result<Namespaces> {
        Namespaces::plan(&serde_json::from_value::<Linux>(json).unwrap())
    }

    #[test]
    fn new_and_entered_namespaces_are_told_apart() {
        let ns = plan(serde_json::json!({"namespaces": [
            {"type": "pid"}, {"type": "user", "path": "/u"}, {"type": "network", "path": "/n"},
            {"type": "cgroup"}, {"type": "time"}
        ], "timeOffsets": {"monotonic": {"secs": -5}}}))
        .unwrap();
        assert_eq!(ns.clone_flags, NEW_PID);
        assert!(ns.new_cgroup && ns.needs_intermediate() && ns.has_user() && ns.maps.is_none());
        assert_eq!(ns.new_time.as_deref(), Some(c"monotonic -5 0\n"));
        assert_eq!(
            ns.joins.iter().map(|j| j.name).collect::<Vec<_>>(),
            ["network", "user"]
        );
    }

    #[test]
    fn plain_containers_need_no_extra_process() {
        let ns = plan(serde_json::json!({"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/n"}]}))
        .unwrap();
        assert!(!ns.needs_intermediate());
    }

    #[test]
    fn users_are_mapped_to_the_host() {
        let user = serde_json::json!({"namespaces": [{"type": "user"}], "uidMappings": [
            {"containerID": 0, "hostID": 100_000, "size": 10},
            {"containerID": 10, "hostID": 5, "size": 1},
            {"containerID": 20, "hostID": u32::MAX, "size": 9}]});
        let ns = plan(user).unwrap();
        let got = [0, 9, 10, 11, 20, 21].map(|uid| ns.host_uid(uid));
        let want = [
            Some(100_000),
            Some(100_009),
            Some(5),
            None,
            Some(u32::MAX),
            None,
        ];
        assert_eq!(got, want);
        let none = plan(serde_json::json!({"namespaces": [{"type": "pid"}]})).unwrap();
        assert_eq!(none.host_uid(7), Some(7));
        let joined = serde_json::json!({"namespaces": [{"type": "user", "path": "/u"}]});
        assert_eq!(plan(joined).unwrap().host_uid(0), None);
    }

    #[test]
    fn duplicates_and_unknown_clocks_are_refused() {
        assert!(
            plan(serde_json::json!({"namespaces": [{"type": "pid"}, {"type": "pid"}]})).is_err()
        );
        assert!(
            plan(serde_json::json!({"namespaces": [{"type": "time"}],
                "timeOffsets": {"realtime": {"secs": 1}}}))
            .is_err()
        );
    }

    #[test]
    fn four_hundred_mappings_are_written_in_full() {
        let maps: Vec<_> = (0..400)
            .map(|i| serde_json::json!({"containerID": i, "hostID": 100_000 + i, "size": 1}))
            .collect();
        let ns = plan(serde_json::json!({"namespaces": [{"type": "user"}],
            "uidMappings": maps, "gidMappings": maps}))
        .unwrap();
        let text = ns.maps.unwrap().uids;
        assert_eq!(text.lines().count(), 400);
        assert!(text.ends_with("399 100399 1\n"));
    }
}
