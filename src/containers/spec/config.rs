//! The document: what was asked for, the image, and facts, put together. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rcrun_image::accounts::{Accounts, Identity};
use rcrun_image::document::Config;
use rcrun_runtime::error::{Context, Error, Result};
use rcrun_runtime::plan::annotations::STAY;
use rcrun_runtime::template::capabilities::capabilities;
use rcrun_runtime::template::devices::Node;
use rcrun_runtime::template::seccomp::{self, Machine};
use rcrun_runtime::template::{MASKED, PATH, READ_ONLY, clean, files};
use serde_json::{Map, Value, json};

use super::asked::{Asked, Join, Place};
use super::mounts;
use super::security::Seccomp;
use super::userns::{Extent, Userns};
use crate::containers::short;
use crate::verbs::signal_number;

/// SIGTERM, and how long it has.
const STOP: (i32, u64) = (15, 10);

/// What is true of the machine and of this container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The container's ID.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// The host's name.
    pub(crate) hostname: String,
    /// Capabilities that can be handed on.
    pub(crate) capabilities: BTreeSet<&'static str>,
    /// Release of the kernel.
    pub(crate) kernel: (u32, u32),
    /// All controllers are in cgroup2.
    pub(crate) cgroup2: bool,
    /// The scope is systemd's.
    pub(crate) systemd: bool,
    /// Mounts can be made read-only with what is below them.
    pub(crate) deep_read_only: bool,
    /// Accounts of the image.
    pub(crate) accounts: Accounts,
    /// User ids.
    pub(crate) map: Vec<Extent>,
    /// Pids of containers whose namespaces are shared.
    pub(crate) joins: Join,
    /// Where `hosts`, `hostname` and `resolv.conf` are.
    pub(crate) directory: PathBuf,
    /// Where volumes are.
    pub(crate) volumes: mounts::VolumePlace,
    /// The AppArmor profile of containers that ask for none.
    pub(crate) apparmor: Option<&'static str>,
    /// What root of a user namespace may do.
    pub(crate) rootless: Option<Rootless>,
}

/// What is true of root of a user namespace: an ordinary user, or root of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rootless {
    /// Users that there are: the first one, and how many.
    pub(crate) uids: Vec<(u32, u32)>,
    /// Groups that there are.
    pub(crate) gids: Vec<(u32, u32)>,
    /// Supplementary groups can be set.
    pub(crate) groups: bool,
    /// How willingly the kernel kills this process; no child of it can have less.
    pub(crate) oom_score: i32,
}

/// Contents of the files that are bound over the image's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) hostname: String,
    pub(crate) hosts: String,
    pub(crate) resolv_conf: String,
}

/// The files; the host's own ones are given.
pub(crate) fn file_texts(asked: &Asked, facts: &Facts, hosts: &str, resolv_conf: &str) -> Files {
    let host_network = asked.network == Place::Host;
    let name = hostname(asked, facts);
    Files {
        hosts: match asked.network {
            // The line with its name is added when it has an address.
            Place::Bridge => files::hosts(Some(files::LOCAL), &name, &asked.hosts),
            _ => files::hosts(host_network.then_some(hosts), &name, &asked.hosts),
        },
        resolv_conf: files::resolv_conf(resolv_conf, host_network, &asked.resolver),
        hostname: format!("{name}\n"),
    }
}

/// Labels: the image's, and those that were given.
pub(crate) fn labels(asked: &Asked, image: &Config) -> BTreeMap<String, String> {
    let mut labels = image.labels.clone();
    labels.extend(asked.labels.clone());
    labels
}

/// Signal and seconds that end the container.
pub(crate) fn stop(asked: &Asked, image: &Config) -> Result<(i32, Option<u64>)> {
    let of_image = image
        .stop_signal
        .as_deref()
        .filter(|signal| !signal.is_empty());
    let signal = match (asked.stop_signal, of_image) {
        (Some(signal), _) => signal,
        (None, Some(text)) => signal_number(text).context(|| "the image's StopSignal")?,
        (None, None) => STOP.0,
    };
    let seconds = asked
        .stop_timeout
        .unwrap_or(Some(image.stop_timeout.unwrap_or(STOP.1)));
    Ok((signal, seconds))
}

/// What the container calls itself.
pub(crate) fn hostname(asked: &Asked, facts: &Facts) -> String {
    match (&asked.hostname, &asked.uts) {
        (Some(name), _) => name.clone(),
        (None, Place::Host) => facts.hostname.clone(),
        // As docker: the host's network comes with its name.
        (None, _) if asked.network == Place::Host => facts.hostname.clone(),
        (None, _) => short(&facts.id).to_owned(),
    }
}

/// The configuration.
pub(crate) fn config(asked: &Asked, facts: &Facts, image: &Config) -> Result<Value> {
    let kept = match asked.userns {
        // As podman: whose id is kept is who the program is.
        Userns::Keep => kept(&facts.map),
        _ => None,
    };
    let user = asked.user.clone().or(kept);
    let user = user.as_deref().unwrap_or(&image.user);
    let mut identity = facts
        .accounts
        .identity(user, &asked.groups)
        .context(|| "cannot tell the user")?;
    identity.additional.extend(&asked.cdi.gids);
    if let Some(rootless) = &facts.rootless {
        rootless.restrict(&mut identity, &facts.map)?;
    }
    let bounding = capabilities(
        &asked.cap_add,
        &asked.cap_drop,
        asked.privileged,
        &facts.capabilities,
    );
    let mut annotations = asked.annotations.clone();
    if asked.init {
        annotations.insert(STAY.to_owned(), "1".to_owned());
    }
    let mut document = json!({
        "ociVersion": rcrun_runtime::spec::VERSION,
        "process": process(asked, facts, image, &identity, &bounding)?,
        "root": {"path": "rootfs", "readonly": asked.read_only},
        "mounts": all_mounts(asked, facts),
        "annotations": annotations,
        "linux": linux(asked, facts, &bounding)?,
    });
    if asked.uts != Place::Host {
        document["hostname"] = json!(hostname(asked, facts));
        if let Some(name) = &asked.domainname {
            document["domainname"] = json!(name);
        }
    }
    if !asked.cdi.hooks.is_empty() {
        document["hooks"] = json!(asked.cdi.hooks);
    }
    Ok(document)
}

fn process(
    asked: &Asked,
    facts: &Facts,
    image: &Config,
    identity: &Identity,
    bounding: &BTreeSet<&'static str>,
) -> Result<Value> {
    let mut process = json!({
        "terminal": asked.terminal,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.additional},
        "args": command(asked, image)?,
        "env": environment(asked, facts, image),
        "cwd": directory(asked, image),
        "capabilities": {"bounding": bounding, "effective": bounding, "permitted": bounding},
        "rlimits": asked.rlimits,
        "noNewPrivileges": asked.security.no_new_privileges,
        // Not the monitor's, which is spared.
        "oomScoreAdj": oom_score(asked, facts),
    });
    let profile = match (&asked.security.apparmor, asked.privileged) {
        (Some(profile), _) => Some(profile.as_str()),
        (None, true) => None,
        (None, false) => facts.apparmor,
    };
    if let Some(profile) = profile {
        process["apparmorProfile"] = json!(profile);
    }
    if let Some(label) = asked.security.selinux() {
        process["selinuxLabel"] = json!(label);
    }
    Ok(process)
}

/// Less than its own takes a right that only root of the machine has.
fn oom_score(asked: &Asked, facts: &Facts) -> i32 {
    let least = facts.rootless.as_ref().map(|rootless| rootless.oom_score);
    let score = asked.oom_score_adj.unwrap_or(0);
    least.map_or(score, |least| score.max(least))
}

impl Rootless {
    /// What the namespace does not have can be nobody's. Groups that an image's file gives to a user are
    /// left out; a user that was asked for is not.
    fn restrict(&self, identity: &mut Identity, map: &[Extent]) -> Result<()> {
        let has = |ranges: &[(u32, u32)], id: u32| match map.is_empty() {
            true => ranges
                .iter()
                .any(|(first, count)| id >= *first && id - first < *count),
            false => map
                .iter()
                .any(|extent| id >= extent.inner && id - extent.inner < extent.size),
        };
        for (what, id, ranges) in [
            ("user", identity.uid, &self.uids),
            ("group", identity.gid, &self.gids),
        ] {
            if !has(ranges, id) {
                let text = format!("cannot be {what} {id}: the user namespace has no such id");
                let hint = "an ordinary user has the ids that /etc/subuid and /etc/subgid give, and else \
                            root only: `-u 0`, or `usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST`";
                return Err(Error::unsupported(text).with_hint(hint));
            }
        }
        identity
            .additional
            .retain(|gid| self.groups && has(&self.gids, *gid));
        Ok(())
    }
}

/// The number that the caller has inside, where it has one of its own.
fn kept(map: &[Extent]) -> Option<String> {
    let own = map.iter().find(|extent| extent.outer == 0)?;
    Some(format!("{0}:{0}", own.inner))
}

/// Program and arguments.
fn command(asked: &Asked, image: &Config) -> Result<Vec<String>> {
    let (mut command, default) = match asked.entrypoint.as_deref() {
        // A new entrypoint has nothing to do with the image's arguments.
        Some("") => (Vec::new(), &[][..]),
        Some(program) => (vec![program.to_owned()], &[][..]),
        None => (image.entrypoint.clone(), image.cmd.as_slice()),
    };
    match asked.args.is_empty() {
        true => command.extend_from_slice(default),
        false => command.extend_from_slice(&asked.args),
    }
    match command.first().map(String::as_str) {
        None => Err(Error::invalid(
            "no command: the image has none, so give one behind its name",
        )),
        Some("") => Err(Error::invalid("the command's name is empty")),
        Some(_) => Ok(command),
    }
}

fn directory(asked: &Asked, image: &Config) -> String {
    let of_image = || {
        let path = std::path::Path::new("/").join(&image.working_dir);
        clean(&path).to_string_lossy().into_owned()
    };
    asked.workdir.clone().unwrap_or_else(of_image)
}

/// Later ones take the place of earlier ones; a name alone removes what there is.
fn environment(asked: &Asked, facts: &Facts, image: &Config) -> Vec<String> {
    let mut all: Vec<String> = vec![
        PATH.to_owned(),
        format!("HOSTNAME={}", hostname(asked, facts)),
    ];
    if asked.terminal {
        all.push("TERM=xterm".to_owned());
    }
    // What has no name or value of a stranger's is left out, as it means nothing.
    let valid = |text: &&String| {
        text.split_once('=')
            .is_some_and(|(name, _)| !name.is_empty())
    };
    let of_image = image.env.iter().filter(valid);
    for text in of_image.chain(&asked.cdi.env).chain(&asked.env) {
        let name = text.split_once('=').map_or(text.as_str(), |(name, _)| name);
        let same = |other: &String| {
            other
                .split_once('=')
                .is_some_and(|(other, _)| other == name)
        };
        match (all.iter().position(same), text.contains('=')) {
            (Some(at), true) => all[at] = text.clone(),
            (Some(at), false) => drop(all.remove(at)),
            (None, true) => all.push(text.clone()),
            (None, false) => {}
        }
    }
    all
}

fn all_mounts(asked: &Asked, facts: &Facts) -> Vec<Value> {
    let mapped = |id: u32| match (facts.map.is_empty(), &facts.rootless) {
        (true, None) => true,
        (true, Some(rootless)) => rootless
            .gids
            .iter()
            .any(|(first, count)| id >= *first && id - first < *count),
        (false, _) => facts
            .map
            .iter()
            .any(|extent| id >= extent.inner && id - extent.inner < extent.size),
    };
    let namespaced = !facts.map.is_empty() || facts.rootless.is_some();
    let own_network = !matches!(asked.network, Place::Host | Place::Container(_));
    let base = mounts::Base {
        privileged: asked.privileged,
        shm: (asked.ipc != Place::Nothing).then_some(asked.shm),
        host_ipc: asked.ipc == Place::Host,
        bind_sys: namespaced && !own_network,
        bind_proc: namespaced && asked.pid == Place::Host,
        mapped: namespaced,
        terminal_group: mapped(5),
    };
    let names = [
        ("/etc/resolv.conf", "resolv.conf"),
        ("/etc/hostname", "hostname"),
        ("/etc/hosts", "hosts"),
    ];
    let files = names.map(|(inner, name)| (inner, facts.directory.join(name)));
    let mut all = mounts::all(
        &base,
        &files,
        &asked.mounts,
        facts.deep_read_only,
        &facts.volumes,
    );
    all.extend(asked.cdi.mounts.iter().cloned());
    all
}

fn linux(asked: &Asked, facts: &Facts, bounding: &BTreeSet<&'static str>) -> Result<Value> {
    let mut linux = json!({
        "namespaces": namespaces(asked, facts),
        "resources": resources(asked),
        "devices": asked.nodes.iter().chain(&asked.cdi.nodes).map(Node::node).collect::<Vec<_>>(),
        "sysctl": sysctls(asked, facts),
    });
    // A path that was asked for has to be; without one, who has no rights goes without a cgroup.
    if facts.rootless.is_none() || facts.systemd || asked.cgroup_parent.is_some() {
        linux["cgroupsPath"] = json!(cgroup(asked, facts));
    }
    if !facts.map.is_empty() {
        let extent = |extent: &Extent| json!({"containerID": extent.inner, "hostID": extent.outer, "size": extent.size});
        let map: Vec<Value> = facts.map.iter().map(extent).collect();
        linux["uidMappings"] = json!(map);
        linux["gidMappings"] = json!(map);
    }
    if !asked.privileged && !asked.security.unmasked {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    let shared = |mount: &mounts::Mount| {
        mount
            .options
            .iter()
            .any(|word| word == "shared" || word == "rshared")
    };
    if asked.mounts.iter().any(shared) {
        linux["rootfsPropagation"] = json!("shared");
    }
    let machine = Machine {
        processor: std::env::consts::ARCH,
        kernel: facts.kernel,
        capabilities: bounding,
    };
    match &asked.security.seccomp {
        Seccomp::Default if !asked.privileged => linux["seccomp"] = seccomp::default(machine),
        Seccomp::Default | Seccomp::Unconfined => {}
        Seccomp::File(path) => {
            let text = asked.seccomp.as_deref().unwrap_or_default();
            let failed = || format!("cannot use {}", path.display());
            linux["seccomp"] = seccomp::file(text, machine).context(failed)?;
        }
    }
    Ok(linux)
}

/// As docker: a network of its own has no ports that take a right, and groups of its own may ping.
fn sysctls(asked: &Asked, facts: &Facts) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if asked.network == Place::Bridge {
        let mut set = |name: &str, value: &str| all.insert(name.to_owned(), value.to_owned());
        set("net.ipv4.ip_unprivileged_port_start", "0");
        if facts.map.is_empty() {
            set("net.ipv4.ping_group_range", "0 2147483647");
        }
    }
    all.extend(asked.sysctls.clone());
    all
}

fn namespaces(asked: &Asked, facts: &Facts) -> Vec<Value> {
    let mut all = vec![json!({"type": "mount"})];
    let mut add = |kind: &'static str, file: &str, place: &Place| match place {
        Place::Host => {}
        Place::Private | Place::Nothing | Place::Bridge => all.push(json!({"type": kind})),
        Place::Container(_) => {
            if let Some(pid) = facts.joins.get(kind) {
                all.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
            }
        }
    };
    add("pid", "pid", &asked.pid);
    add("network", "net", &asked.network);
    add("ipc", "ipc", &asked.ipc);
    add("uts", "uts", &asked.uts);
    let default = match facts.cgroup2 && !asked.privileged {
        true => Place::Private,
        false => Place::Host,
    };
    add(
        "cgroup",
        "cgroup",
        asked.cgroupns.as_ref().unwrap_or(&default),
    );
    if !facts.map.is_empty() {
        all.push(json!({"type": "user"}));
    }
    all
}

fn resources(asked: &Asked) -> Value {
    let mut resources: Map<String, Value> = asked.resources.clone();
    let mut rules = vec![json!({"allow": asked.privileged, "access": "rwm"})];
    if !asked.privileged {
        rules.extend(asked.nodes.iter().chain(&asked.cdi.nodes).map(Node::rule));
        rules.extend(asked.device_rules.iter().cloned());
    }
    resources.insert("devices".into(), Value::Array(rules));
    Value::Object(resources)
}

fn cgroup(asked: &Asked, facts: &Facts) -> String {
    match (&asked.cgroup_parent, facts.systemd) {
        (Some(slice), true) => format!("{slice}:rcrun:{}", facts.id),
        (None, true) if facts.rootless.is_some() => format!("user.slice:rcrun:{}", facts.id),
        (None, true) => format!("system.slice:rcrun:{}", facts.id),
        (Some(parent), false) => format!("/{}/{}", parent.trim_matches('/'), facts.id),
        (None, false) => format!("/rcrun/{}", facts.id),
    }
}
