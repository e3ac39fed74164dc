//! From an image's name to a container that only needs to be started: pull, lease, snapshot, files,
//! record, in this order. Killed anywhere, what is left has no record, and is swept; from the record
//! on it is a container like any other.

mod find;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcrun_image::accounts::{self, Accounts};
use rcrun_image::catalog::{self, Catalog, Image, Meant};
use rcrun_image::platform::Platform;
use rcrun_image::pull::Way;
use rcrun_image::reference::Reference;
use rcrun_image::registry::Cancel;
use rcrun_image::transport::Location;
use rcrun_overlay::layer::Overlay;
use rcrun_overlay::lease::{Lease, Root, SnapshotId};
use rcrun_overlay::snapshot::Stack;
use rcrun_overlay::snapshot::{self, Form, Idmap, Snapshots};
use rcrun_overlay::store::Store;
use rcrun_runtime::container::CgroupDriver;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rcrun_runtime::monitor::{self, Launch, When};
use rcrun_runtime::template::apparmor::{self, Support};
use rcrun_runtime::template::capabilities::of_mask;
use rcrun_runtime::template::cdi;
use rcrun_runtime::template::machine::{kernel, own_capabilities};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde_json::Value;

use super::flags::ContainerFlags;
use super::spec::{self, Around, Asked, Extent, Facts, Files, VolumePlace};
use super::volumes::{self, Attached, Attaching};
use super::{
    Container, Containers, ImageFacts, Record, RootDirectory, RuntimeFacts, Status, Stdin,
};
use super::{ids, network, now};
use crate::settings::Settings;
use crate::verbs::fetch;
use crate::{images, report, rootless};

/// The default of `--detach-keys`, as people write it.
const DETACH_KEYS: &str = "ctrl-p,ctrl-q";
/// The first kernel that makes a mount read-only with all below it.
pub(crate) const DEEP_READ_ONLY: (u32, u32) = (5, 12);

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) image: &'a str,
    pub(crate) command: &'a [String],
    pub(crate) flags: &'a ContainerFlags,
    /// `missing`, `always` or `never`.
    pub(crate) pull: &'a str,
    pub(crate) quiet: bool,
    pub(crate) platform: Option<&'a Platform>,
    pub(crate) stdin: Stdin,
    pub(crate) detach_keys: Option<&'a str>,
}

/// A container that was made; its maker still holds its lock.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) container: Container,
    pub(crate) record: Record,
    pub(crate) store: PathBuf,
    /// Nothing is swept that the container needs, until its record says so.
    _lease: Lease,
}

/// An image that is here, with its layers.
struct Found {
    image: Image,
    reference: String,
    lease: Lease,
}

/// Makes a container; the exit code if a signal called the pull off.
pub(crate) fn make(
    settings: &Settings,
    containers: &Containers,
    wanted: &Wanted<'_>,
) -> Result<Result<Made, u8>> {
    let way = images::way();
    let mut asked = ask(settings, wanted)?;
    let store = settings.store()?;
    let found = match find::find(settings, &store, wanted, way)? {
        Ok(found) => found,
        Err(code) => return Ok(Err(code)),
    };
    asked.complete_ports(&found.image.config.config.exposed_ports)?;
    asked.complete_volumes(&found.image.config.config.volumes, &mut super::random_id)?;
    let maker = Maker {
        settings,
        containers,
        wanted,
        asked,
        store,
        way,
        found,
    };
    let container = containers.create()?;
    match maker.fill(&container) {
        Ok(record) => Ok(Ok(Made {
            container,
            record,
            store: containers.store().to_owned(),
            _lease: maker.found.lease,
        })),
        Err(error) => {
            // The first error matters more; what remains is swept.
            let _ = containers.remove(&container, &container.made());
            Err(error)
        }
    }
}

fn ask(settings: &Settings, wanted: &Wanted<'_>) -> Result<Asked> {
    let cwd = std::env::current_dir().context(|| "cannot read the current directory")?;
    let cdi: Vec<&Path> = cdi::DIRECTORIES.iter().map(Path::new).collect();
    let around = Around {
        cwd: &cwd,
        variable: &|name| std::env::var(name).ok(),
        swap: limits_swap(),
        cdi: &cdi,
        networks: &network::networks(settings)?,
    };
    Asked::read(wanted.flags, wanted.command, &around)
}

/// Everything that it takes.
struct Maker<'a> {
    settings: &'a Settings,
    containers: &'a Containers,
    wanted: &'a Wanted<'a>,
    asked: Asked,
    store: Store,
    way: Way,
    found: Found,
}

impl Maker<'_> {
    fn fill(&self, container: &Container) -> Result<Record> {
        let name = match &self.wanted.flags.name {
            Some(name) => self
                .containers
                .reserve(name, container, self.lasting())
                .map(|()| name.clone())?,
            None => self.containers.reserve_any(container, self.lasting())?,
        };
        let mut facts = self.facts(container, &name)?;
        let image = &self.found.image.config.config;
        // Told of before anything is made; the snapshot says how volumes are mounted.
        spec::config(&self.asked, &facts, image)?;
        let (snapshot, form) = self.snapshot(container, &facts.map)?;
        facts.volumes.mapped = form == Form::Overlay && !facts.map.is_empty();
        let attached = self.volumes(&snapshot, &facts)?;
        let filled = self.complete(container, name, &facts, snapshot, &attached);
        if filled.is_err() {
            attached.give_up(&self.store);
        }
        filled
    }

    /// Whatever is used is there and held: files and record.
    fn complete(
        &self,
        container: &Container,
        name: String,
        facts: &Facts,
        snapshot: SnapshotId,
        attached: &Attached,
    ) -> Result<Record> {
        let image = &self.found.image.config.config;
        let config = spec::config(&self.asked, facts, image)?;
        self.files(container, facts, &config)?;
        let (stop_signal, stop_timeout) = spec::stop(&self.asked, image)?;
        let words = |value: &Value| -> Vec<String> {
            serde_json::from_value(value.clone()).unwrap_or_default()
        };
        let labels = spec::labels(&self.asked, image);
        let log = self.asked.log(&labels, &words(&config["process"]["env"]));
        let record = Record {
            version: Record::VERSION,
            id: container.id().to_owned(),
            name,
            image: ImageFacts {
                name: self.wanted.image.to_owned(),
                reference: self.found.reference.clone(),
                manifest: self.found.image.manifest.digest.to_string(),
                config: self.found.image.id.to_string(),
            },
            snapshot: snapshot.into(),
            created: now(),
            command: words(&config["process"]["args"]),
            labels,
            auto_remove: self.wanted.flags.rm,
            terminal: self.wanted.flags.tty,
            stdin: self.wanted.stdin,
            stop_signal,
            stop_timeout,
            log,
            detach_keys: self.wanted.detach_keys.unwrap_or(DETACH_KEYS).to_owned(),
            map: facts.map.clone(),
            volumes: attached.uses.clone(),
            network: network::wanted(&self.asked, facts),
            runtime: RuntimeFacts::of(&self.settings.runtime),
        };
        container.write(&record)?;
        Ok(record)
    }

    fn facts(&self, container: &Container, name: &str) -> Result<Facts> {
        let kernel = kernel();
        let rootless = rootless::facts()?;
        Ok(Facts {
            id: container.id().to_owned(),
            name: name.to_owned(),
            hostname: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            capabilities: of_mask(own_capabilities()?),
            kernel,
            cgroup2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            systemd: self.settings.runtime.cgroup_driver == CgroupDriver::Systemd,
            deep_read_only: kernel >= DEEP_READ_ONLY,
            accounts: self.accounts()?,
            map: self.map(rootless.as_ref())?,
            joins: self.joins()?,
            directory: container.path().to_owned(),
            volumes: VolumePlace {
                directory: volumes::place(self.store.path()),
                mapped: false,
            },
            apparmor: default_profile(rootless.is_some()),
            rootless,
        })
    }

    /// Volumes, with what the image has where they are mounted.
    fn volumes(&self, snapshot: &SnapshotId, facts: &Facts) -> Result<Attached> {
        let wanted = self.asked.volumes();
        if wanted.is_empty() {
            return Ok(Attached::default());
        }
        let root = RootDirectory::of_snapshot(&self.store, snapshot, &facts.map, false)?;
        let attaching = Attaching {
            store: &self.store,
            containers: self.containers,
            root: &root,
            map: match facts.volumes.mapped {
                true => &[],
                false => &facts.map,
            },
            lasting: self.lasting(),
        };
        attaching.all(&wanted)
    }

    /// Whether anybody wants it after a power cut.
    fn lasting(&self) -> bool {
        !self.wanted.flags.rm
    }

    fn marks(&self) -> Overlay {
        self.way.overlay()
    }

    fn accounts(&self) -> Result<Accounts> {
        let layers = self.found.image.layers(self.way)?;
        let stack = Stack::open(&self.store, &layers, self.marks())?;
        accounts::accounts(&stack.lowers(), self.marks())
            .context(|| format!("cannot read the accounts of image {}", self.wanted.image))
    }

    /// User ids of a container with a namespace of its own.
    fn map(&self, caller: Option<&spec::Rootless>) -> Result<Vec<Extent>> {
        ids::choose(self.asked.userns(), caller, || {
            let all = self.containers.list(&mut |_, _| {})?;
            Ok(all.into_iter().flat_map(|(_, record)| record.map).collect())
        })
    }

    /// Pids of containers whose namespaces are shared.
    fn joins(&self) -> Result<BTreeMap<&'static str, i32>> {
        let mut pids = BTreeMap::new();
        for (kind, name) in self.asked.joins() {
            let failed = || format!("--{kind} container:{name}");
            let other = self.containers.get(name).context(failed)?;
            let record = other.complete().context(failed)?;
            let Status::Running(pid) = other.status(&record).context(failed)? else {
                let text = format!("--{kind} container:{name}: it does not run");
                return Err(Error::new(ErrorKind::FailedPrecondition, text));
            };
            pids.insert(kind, pid);
        }
        Ok(pids)
    }

    fn snapshot(&self, container: &Container, map: &[Extent]) -> Result<(SnapshotId, Form)> {
        let id: SnapshotId = container.id().parse()?;
        let layers = self.found.image.layers(self.way)?;
        let extent = |extent: &Extent| snapshot::Extent {
            inside: extent.inner,
            outside: extent.outer,
            count: extent.size,
        };
        let extents: Vec<_> = map.iter().map(extent).collect();
        let idmap = (!map.is_empty()).then(|| Idmap {
            uids: extents.clone(),
            gids: extents,
        });
        let options = snapshot::Options {
            marks: self.marks(),
            idmap,
            unsynced: !self.lasting(),
            ..snapshot::Options::default()
        };
        let snapshots = Snapshots::new(&self.store)?;
        let (made, copied) = snapshots.create_usable(&self.found.lease, &id, &layers, &options)?;
        if let Some(why) = copied {
            let why = why.chain();
            report::warn(&format!(
                "the container has a copy of its image's files: {why}"
            ));
        }
        Ok((id, made.record().form))
    }

    fn files(&self, container: &Container, facts: &Facts, config: &Value) -> Result<()> {
        let of_host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let hosts = of_host("/etc/hosts");
        let resolver = network::resolver(of_host);
        let Files {
            hostname,
            hosts,
            resolv_conf,
        } = spec::file_texts(&self.asked, facts, &hosts, &resolver);
        let root = facts
            .map
            .iter()
            .find(|extent| extent.inner == 0)
            .map(|extent| extent.outer);
        for (name, text) in [
            ("hostname", hostname),
            ("hosts", hosts),
            ("resolv.conf", resolv_conf),
        ] {
            let path = container.path().join(name);
            let failed = || format!("cannot write {}", path.display());
            std::fs::write(&path, text).context(failed)?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o644)).context(failed)?;
            if let Some(root) = root {
                std::os::unix::fs::chown(&path, Some(root), Some(root)).context(failed)?;
            }
        }
        rustix::fs::mkdirat(container.fd(), "rootfs", Mode::from(0o755))
            .context(|| format!("cannot make {}/rootfs", container.path().display()))?;
        let text = serde_json::to_vec(config)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
        self.config_file(container, &text)
            .context(|| format!("cannot write {}/config.json", container.path().display()))
    }
}

impl Maker<'_> {
    /// The name becomes durable with the record's, which comes later.
    fn config_file(&self, container: &Container, text: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from(0o600);
        let file = rustix::fs::openat(container.fd(), "config.json", flags, mode)?;
        let mut file = std::fs::File::from(file);
        file.write_all(text)?;
        if self.lasting() {
            file.sync_data()?;
        }
        Ok(())
    }
}

impl Made {
    /// What the monitor is told.
    pub(crate) fn launch(&self, settings: &Settings, start: When) -> Result<Launch> {
        Ok(launch(
            settings,
            &self.container,
            &self.record,
            &self.store,
            start,
        ))
    }
}

/// What the monitor of a container is told.
pub(crate) fn launch(
    settings: &Settings,
    container: &Container,
    record: &Record,
    store: &Path,
    start: When,
) -> Launch {
    let log = record.log.as_ref().map(|log| monitor::Log {
        path: container.path().join("log"),
        max_size: log.max_size,
        max_files: log.max_files,
    });
    Launch {
        version: monitor::VERSION,
        id: record.id.clone(),
        bundle: container.path().to_owned(),
        runtime: monitor::RuntimeFlags {
            root: record.runtime.root.clone(),
            systemd_cgroup: record.runtime.systemd_cgroup,
            rootless: record.runtime.rootless,
        },
        snapshot: Some(monitor::Snapshot {
            store: store.to_owned(),
            id: record.snapshot.clone(),
        }),
        terminal: record.terminal,
        console_size: None,
        stdin: match record.stdin {
            Stdin::None => monitor::Stdin::None,
            Stdin::Open => monitor::Stdin::Open,
            Stdin::Once => monitor::Stdin::Once,
        },
        log,
        exit: container.path().join("exit"),
        passing: record.auto_remove,
        start,
        restore: None,
        on_exit: match (record.auto_remove, &record.network) {
            (true, _) => Some(last_command(
                settings,
                store,
                &["rm", "--exited"],
                &record.id,
            )),
            (false, Some(_)) => Some(last_command(settings, store, &["disconnect"], &record.id)),
            (false, None) => None,
        },
    }
}

/// What a monitor becomes in the end: the program that it is itself.
fn last_command(settings: &Settings, store: &Path, verb: &[&str], id: &str) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut command = vec!["/proc/self/exe".to_owned()];
    if settings.runtime.cgroup_driver == CgroupDriver::Systemd {
        command.push("--systemd-cgroup".to_owned());
    }
    command.extend(["--root".to_owned(), text(&settings.runtime.root)]);
    command.extend(["--store".to_owned(), text(store)]);
    command.extend(verb.iter().copied().chain([id]).map(str::to_owned));
    command
}

/// The AppArmor profile of containers, loaded. Where that cannot be done there is none, as with docker and
/// podman: an ordinary user may load none, and a machine without a compiler of policies has made its choice.
pub(crate) fn default_profile(rootless: bool) -> Option<&'static str> {
    if rootless || apparmor::support() != Support::On {
        return None;
    }
    match apparmor::load_once() {
        Ok(()) => Some(apparmor::NAME),
        Err(error) => {
            let why = error.chain();
            if apparmor::parser().is_some() {
                tracing::warn!("AppArmor does not confine containers: {why}");
            } else {
                tracing::debug!("AppArmor does not confine containers: {why}");
            }
            None
        }
    }
}

/// Whether limits of swap have a file to go to.
pub(crate) fn limits_swap() -> bool {
    let exists = |path: &str| rustix::fs::statat(rustix::fs::CWD, path, AtFlags::empty()).is_ok();
    let v1 = "/sys/fs/cgroup/memory";
    match exists(v1) {
        true => exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"),
        false => exists("/proc/swaps"),
    }
}
