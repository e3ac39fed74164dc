//! What a person asked for, understood and looked up on the host.

mod log;
mod network;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use rcrun_runtime::error::{Context, Error, Result};
use rcrun_runtime::template::capabilities::{Capability, capability};
use rcrun_runtime::template::cdi::{Applied, Registry};
use rcrun_runtime::template::devices::{Node, everything, nodes};
use rcrun_runtime::template::files::Resolver;
use serde_json::{Map, Value};

use super::devices::{self, Wanted};
use super::limits;
use super::mounts::{self, Mount, Source};
use super::ports::Publish;
use super::security::{Seccomp, Security};
use super::userns::{self, Userns};
use super::words::{self, Problems};
use crate::containers::flags::ContainerFlags;
use crate::containers::{Log, is_name};
use crate::verbs::signal_number;
pub(crate) use network::Networks;

/// The longest file of variables, labels, or system calls.
const FILE: u64 = 4 << 20;
/// Bytes of /dev/shm.
const SHM: i64 = 64 << 20;

/// Where a namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// A new one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// None at all, for what can be left out.
    Nothing,
    /// A new one with a way out, for networks.
    Bridge,
    /// Of another container, by name or ID.
    Container(String),
}

/// A container whose namespace of a kind is shared.
pub(crate) type Join = BTreeMap<&'static str, i32>;

/// The flags, understood.
#[derive(Debug, Default, Clone)]
pub(crate) struct Asked {
    /// Program and arguments behind the image.
    pub(super) args: Vec<String>,
    pub(super) entrypoint: Option<String>,
    pub(super) user: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) workdir: Option<String>,
    /// `NAME=VALUE`, or a name that is to be removed.
    pub(super) env: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) terminal: bool,
    pub(super) init: bool,
    pub(super) stop_signal: Option<i32>,
    pub(super) stop_timeout: Option<Option<u64>>,

    pub(super) mounts: Vec<Mount>,
    /// Names of volumes that nobody gave one.
    pub(super) anonymous: BTreeSet<String>,
    pub(super) shm: i64,
    pub(super) read_only: bool,

    pub(super) network: Place,
    pub(super) hostname: Option<String>,
    pub(super) domainname: Option<String>,
    pub(super) hosts: Vec<(String, IpAddr)>,
    pub(super) resolver: Resolver,
    published: Vec<Publish>,
    publish_all: bool,
    addresses: Vec<IpAddr>,
    mac: Option<String>,

    pub(super) resources: Map<String, Value>,
    pub(super) rlimits: Vec<Value>,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) cgroup_parent: Option<String>,

    pub(super) cap_add: Vec<Capability>,
    pub(super) cap_drop: Vec<Capability>,
    pub(super) privileged: bool,
    pub(super) security: Security,
    /// The profile that `security` names.
    pub(super) seccomp: Option<Vec<u8>>,
    pub(super) nodes: Vec<Node>,
    pub(super) device_rules: Vec<Value>,
    pub(super) cdi: Applied,
    pub(super) sysctls: BTreeMap<String, String>,

    pub(super) userns: Userns,
    pub(super) ipc: Place,
    pub(super) pid: Place,
    pub(super) uts: Place,
    pub(super) cgroupns: Option<Place>,

    pub(super) log: Option<Log>,
    /// Labels and variables that its lines are shown with.
    pub(super) log_attributes: [Vec<String>; 2],
}

/// What of the host the flags may mean.
pub(crate) struct Around<'a> {
    /// The current directory.
    pub(crate) cwd: &'a Path,
    /// Variables of this process.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The kernel limits swap.
    pub(crate) swap: bool,
    /// Where files of the Container Device Interface are.
    pub(crate) cdi: &'a [&'a Path],
    /// Its networks.
    pub(crate) networks: &'a Networks,
}

impl Asked {
    /// Understands all flags, or tells all that is wrong with them.
    pub(crate) fn read(
        flags: &ContainerFlags,
        args: &[String],
        around: &Around<'_>,
    ) -> Result<Self> {
        let mut problems = Problems::default();
        let mut asked = Self {
            args: args.to_vec(),
            entrypoint: flags.entrypoint.clone(),
            user: flags.user.clone(),
            groups: flags.group_add.clone(),
            terminal: flags.tty,
            init: flags.init,
            read_only: flags.read_only,
            oom_score_adj: flags.oom_score_adj,
            privileged: flags.privileged,
            shm: SHM,
            ..Self::default()
        };
        refused(flags, &mut problems);
        asked.program(flags, around, &mut problems);
        asked.file_systems(flags, around, &mut problems);
        asked.network(flags, around.networks, &mut problems);
        asked.limits(flags, around, &mut problems);
        asked.confinement(flags, &mut problems);
        asked.devices(flags, around, &mut problems);
        asked.namespaces(flags, &mut problems);
        let (log, chosen) = log::read(flags, &mut problems);
        (asked.log, asked.log_attributes) = (log, chosen);
        problems.finish()?;
        Ok(asked)
    }

    /// The user namespace.
    pub(crate) fn userns(&self) -> &Userns {
        &self.userns
    }

    /// Containers whose namespaces are to be shared: kind, name.
    pub(crate) fn joins(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("network", &self.network),
            ("ipc", &self.ipc),
            ("pid", &self.pid),
        ];
        let mut found = Vec::new();
        for (kind, place) in all {
            if let Place::Container(name) = place {
                found.push((kind, name.as_str()));
            }
        }
        found
    }

    /// Whether a tiny init was asked for.
    pub(crate) fn init(&self) -> bool {
        self.init
    }

    fn program(&mut self, flags: &ContainerFlags, around: &Around<'_>, problems: &mut Problems) {
        self.workdir = problems.one("--workdir", flags.workdir.as_deref(), words::inside);
        let mut given = Vec::new();
        for path in &flags.env_file {
            let text = problems.take("--env-file", text_file(path));
            for line in words::lines(text.as_deref().unwrap_or_default()) {
                let read = file_variable(line).context(|| path.clone());
                given.extend(problems.take("--env-file", read));
            }
        }
        given.extend(problems.all("--env", &flags.env, variable));
        // A name without a value is one of ours, or none.
        let own = |text: &String| match text.contains('=') {
            true => text.clone(),
            false => (around.variable)(text)
                .map_or_else(|| text.clone(), |value| format!("{text}={value}")),
        };
        self.env = given.iter().map(own).collect();
        for path in &flags.label_file {
            let text = problems.take("--label-file", text_file(path));
            for line in words::lines(text.as_deref().unwrap_or_default()) {
                self.labels
                    .extend(problems.take("--label-file", words::label(line)));
            }
        }
        self.labels
            .extend(problems.all("--label", &flags.label, words::label));
        self.annotations = problems
            .all("--annotation", &flags.annotation, words::pair)
            .into_iter()
            .collect();
        self.stop_signal =
            problems.one("--stop-signal", flags.stop_signal.as_deref(), signal_number);
        self.stop_timeout = problems.one("--stop-timeout", flags.stop_timeout.as_deref(), timeout);
    }

    fn file_systems(
        &mut self,
        flags: &ContainerFlags,
        around: &Around<'_>,
        problems: &mut Problems,
    ) {
        let cwd = around.cwd;
        self.mounts = problems.all("--volume", &flags.volume, |text| {
            present(mounts::volume(text, cwd)?)
        });
        self.mounts
            .extend(problems.all("--mount", &flags.mount, |text| {
                present(mounts::mount(text, cwd)?)
            }));
        self.mounts
            .extend(problems.all("--tmpfs", &flags.tmpfs, mounts::tmpfs));
        let mut places: Vec<&str> = self
            .mounts
            .iter()
            .map(|mount| mount.destination.as_str())
            .collect();
        places.sort_unstable();
        if let Some(twice) = places.windows(2).find(|pair| pair[0] == pair[1]) {
            problems.tell(format!("two mounts are at {}", twice[0]));
        }
        let size = problems.one("--shm-size", flags.shm_size.as_deref(), words::size);
        self.shm = size.filter(|size| *size > 0).unwrap_or(SHM);
    }

    fn limits(&mut self, flags: &ContainerFlags, around: &Around<'_>, problems: &mut Problems) {
        self.resources = limits::resources(flags, around.swap, problems);
        self.rlimits = problems.all("--ulimit", &flags.ulimit, limits::ulimit);
        let mut seen = Vec::new();
        // The last of several wins.
        self.rlimits.reverse();
        self.rlimits.retain(|limit| {
            let new = !seen.contains(&limit["type"]);
            seen.push(limit["type"].clone());
            new
        });
        if flags
            .oom_score_adj
            .is_some_and(|score| !(-1000..=1000).contains(&score))
        {
            problems.tell("--oom-score-adj: use -1000 to 1000");
        }
        self.cgroup_parent = problems.one(
            "--cgroup-parent",
            flags.cgroup_parent.as_deref(),
            |text| match text.is_empty() || text.split('/').any(|part| part == "..") {
                true => Err(Error::invalid(format!("{text:?} is no path of a cgroup"))),
                false => Ok(text.to_owned()),
            },
        );
    }

    fn confinement(&mut self, flags: &ContainerFlags, problems: &mut Problems) {
        self.cap_add = problems.all("--cap-add", &flags.cap_add, capability);
        self.cap_drop = problems.all("--cap-drop", &flags.cap_drop, capability);
        for text in &flags.security_opt {
            problems.take("--security-opt", self.security.take(text));
        }
        if let Seccomp::File(path) = &self.security.seccomp {
            let read = bytes(path).context(|| format!("cannot read {}", path.display()));
            self.seccomp = problems.take("--security-opt", read);
        }
        self.sysctls = problems
            .all("--sysctl", &flags.sysctl, words::pair)
            .into_iter()
            .collect();
    }

    fn devices(&mut self, flags: &ContainerFlags, around: &Around<'_>, problems: &mut Problems) {
        let mut names: Vec<String> = Vec::new();
        for wanted in problems.all("--device", &flags.device, devices::device) {
            match wanted {
                Wanted::Cdi(name) => names.push(name),
                Wanted::Path(device) => {
                    let found = problems.take("--device", nodes(&device));
                    self.nodes.extend(found.unwrap_or_default());
                }
            }
        }
        names.extend(problems.all("--gpus", &flags.gpus, devices::gpus).concat());
        if !names.is_empty() {
            let applied = Registry::read(around.cdi).and_then(|registry| registry.apply(&names));
            self.cdi = problems.take("--device", applied).unwrap_or_default();
        }
        self.device_rules = problems.all(
            "--device-cgroup-rule",
            &flags.device_cgroup_rule,
            devices::rule,
        );
        if self.privileged {
            let all = problems
                .take("--privileged", everything())
                .unwrap_or_default();
            let named: Vec<String> = self.nodes.iter().map(|node| node.path.clone()).collect();
            self.nodes
                .extend(all.into_iter().filter(|node| !named.contains(&node.path)));
        }
    }

    fn namespaces(&mut self, flags: &ContainerFlags, problems: &mut Problems) {
        self.userns = problems
            .one("--userns", flags.userns.as_deref(), userns::userns)
            .unwrap_or_default();
        let mut read = |flag, value: &Option<String>, nothing, others| {
            problems.one(flag, value.as_deref(), |text| place(text, nothing, others))
        };
        self.ipc = read("--ipc", &flags.ipc, true, true).unwrap_or_default();
        self.pid = read("--pid", &flags.pid, false, true).unwrap_or_default();
        self.uts = read("--uts", &flags.uts, false, false).unwrap_or_default();
        self.cgroupns = read("--cgroupns", &flags.cgroupns, false, false);
        if self.uts == Place::Host && (self.hostname.is_some() || self.domainname.is_some()) {
            problems.tell("--hostname: with --uts host the name is the host's");
        }
        if self.privileged && self.userns != Userns::Host {
            problems.tell("--privileged: means root of the machine, which --userns takes away");
        }
    }
}

/// What docker has and we do not.
fn refused(flags: &ContainerFlags, problems: &mut Problems) {
    if flags
        .restart
        .as_deref()
        .is_some_and(|policy| !["", "no"].contains(&policy))
    {
        problems.tell(
            "--restart: no daemon would do it; let systemd: a unit with ExecStart=rcrun run ... and \
             Restart=on-failure",
        );
    }
    if let Some(name) = flags.name.as_deref().filter(|name| !is_name(name)) {
        problems.tell(format!(
            "--name: {name:?} is no name: use letters, digits and _.-, a letter or digit first, two or more"
        ));
    }
    if flags.rm
        && flags
            .restart
            .as_deref()
            .is_some_and(|policy| policy != "no")
    {
        problems.tell("--rm: excludes --restart");
    }
}

fn place(text: &str, nothing: bool, others: bool) -> Result<Place> {
    match text.split_once(':') {
        None if text == "private" || text.is_empty() => Ok(Place::Private),
        // Docker's word for one that others may join, which they may always.
        None if text == "shareable" && nothing => Ok(Place::Private),
        None if text == "host" => Ok(Place::Host),
        None if text == "none" && nothing => Ok(Place::Nothing),
        Some(("container", name)) if others && !name.is_empty() => {
            Ok(Place::Container(name.to_owned()))
        }
        _ => Err(Error::invalid(format!("{text:?} is not known here"))),
    }
}

fn timeout(text: &str) -> Result<Option<u64>> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(seconds) if seconds >= 0 => Ok(Some(seconds.unsigned_abs())),
        _ => Err(Error::invalid(format!("{text:?} is no number of seconds"))),
    }
}

/// `NAME[=VALUE]` of a command line.
fn variable(text: &str) -> Result<String> {
    match text.split_once('=') {
        Some(("", _)) => Err(Error::invalid(format!("{text:?} has no name"))),
        None if text.is_empty() => Err(Error::invalid("a variable needs a name")),
        _ => Ok(text.to_owned()),
    }
}

/// The same of a file, in which a blank in the name is a mistake.
fn file_variable(line: &str) -> Result<String> {
    let name = line.split_once('=').map_or(line, |(name, _)| name);
    match name.contains(char::is_whitespace) {
        true => Err(Error::invalid(format!("{name:?} is no name of a variable"))),
        false => variable(line),
    }
}

fn present(mount: Mount) -> Result<Mount> {
    let Source::Host(source) = &mount.source else {
        return Ok(mount);
    };
    match std::fs::metadata(source) {
        Ok(_) => Ok(mount),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
            rcrun_runtime::error::ErrorKind::NotFound,
            format!(
                "{0} does not exist: make it first (mkdir -p {0})",
                source.display()
            ),
        )),
        Err(error) => Err(error).context(|| format!("cannot look at {}", source.display())),
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)?
        .take(FILE + 1)
        .read_to_end(&mut bytes)?;
    match read as u64 > FILE {
        true => Err(Error::invalid(format!("it is longer than {FILE} bytes"))),
        false => Ok(bytes),
    }
}

fn text_file(path: &str) -> Result<String> {
    let failed = || format!("cannot read {path}");
    let bytes = bytes(path.as_ref()).context(failed)?;
    String::from_utf8(bytes)
        .map_err(|_| Error::invalid("it is not UTF-8"))
        .context(failed)
}
