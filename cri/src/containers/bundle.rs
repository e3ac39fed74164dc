//! A container's bundle: snapshot, volumes, configuration.

use rcrun_image::accounts;
use rcrun_overlay::lease::SnapshotId;
use rcrun_overlay::snapshot::{Extent, Idmap, Options, Snapshots, Stack};
use rcrun_runtime::container::CgroupDriver;
use rcrun_runtime::monitor::{self, Launch, When};
use serde_json::Value;

use super::{declared, host, relabel, volumes};
use crate::core::{Container, Core};
use crate::images::Held;
use crate::pods::pinned;
use crate::records::{Kind, Volume};
use crate::spec::IdMap;
use crate::spec::container::{self as spec, Place, PodFacts};
use crate::{Context, Error, ErrorKind, Result};

/// The monitor's record of the end, in the container's directory.
pub(super) const EXIT: &str = "exit";

/// What was decided, and what was mounted for it.
pub(super) struct Made {
    pub(super) container: spec::Container,
    pub(super) volumes: Vec<Volume>,
    /// It goes on from a checkpoint.
    pub(super) restored: bool,
}

/// Makes everything that the monitor needs, but for the configuration itself ([`write`]).
pub(super) fn make(
    core: &Core,
    container: &Container,
    held: &Held,
    images: &volumes::Volumes,
) -> Result<Made> {
    let (pod_config, config) = (container.pod.config(), container.config());
    let plan = container.pod.plan()?;
    let image = &held.image.config.config;
    let asks = spec::asks(&config, image)?;
    let (store, way) = (&core.host.store, core.host.way);
    let layers = held.image.layers(way)?;
    let stack = Stack::open(store, &layers, way.overlay())?;
    let accounts = accounts::accounts(&stack.lowers(), way.overlay())
        .context(|| format!("cannot read the accounts of image {}", held.name))?;
    let profile = host::profile(&asks)?;
    let mapped = plan.namespaces.user.is_some();
    let mut mounted = Vec::new();
    for (index, _, below) in &asks.images {
        let held = images
            .get(index)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "an image volume without its image"))?;
        mounted.push(volumes::mount(
            core,
            container,
            (*index, held),
            below,
            mapped,
        )?);
    }
    let facts = PodFacts {
        id: &container.pod.id,
        config: &pod_config,
        namespaces: pinned(core, &container.pod.id, plan),
        directory: core.places.of_boot(&container.pod.id),
    };
    let place = Place {
        id: &container.id,
        image_name: &held.name,
        accounts: &accounts,
        sources: host::sources(&asks)?,
        images: mounted
            .iter()
            .map(|volume| (volume.index, volume.path.clone()))
            .collect(),
        volumes: declared::make(core, container, &stack, &asks.volumes, plan.namespaces.user)?,
        devices: host::nodes(&asks)?,
        cdi: host::cdi(&asks)?,
        seccomp: profile.as_deref(),
        target_pid: host::target(core, &container.pod.id, &asks)?,
    };
    let made = spec::container(&facts, &config, image, &place, &core.node)?;
    for path in &made.make {
        std::fs::create_dir_all(path).context(|| format!("cannot make {}", path.display()))?;
    }
    for (path, context) in &made.relabel {
        relabel::relabel(path, context)?;
    }
    snapshot(core, container, held, plan.namespaces.user)?;
    let directory = core.places.path(Kind::Container, &container.id);
    let failed = || format!("cannot write {}", directory.display());
    std::fs::create_dir(directory.join("rootfs")).context(failed)?;
    if let Some(log) = &made.log {
        let path = log.full();
        let parent = path.parent().unwrap_or(&log.directory);
        std::fs::create_dir_all(parent).context(|| format!("cannot make {}", parent.display()))?;
    }
    if let Some(checkpoint) = &held.checkpoint {
        checkpoint.prepare(core, container, &made.spec)?;
    }
    Ok(Made {
        container: made,
        volumes: mounted,
        restored: held.checkpoint.is_some(),
    })
}

/// Writes the configuration, which from here on is as it is.
pub(super) fn write(core: &Core, id: &str, spec: &Value) -> Result<()> {
    let path = core.places.path(Kind::Container, id).join("config.json");
    std::fs::write(&path, spec.to_string()).context(|| format!("cannot write {}", path.display()))
}

/// The root file system.
fn snapshot(core: &Core, container: &Container, held: &Held, map: Option<IdMap>) -> Result<()> {
    let id: SnapshotId = container.state().record.snapshot.parse()?;
    let layers = held.image.layers(core.host.way)?;
    let extent = |map: IdMap| Extent {
        inside: 0,
        outside: map.host,
        count: map.size,
    };
    let options = Options {
        marks: core.host.way.overlay(),
        idmap: map.map(|map| Idmap {
            uids: vec![extent(map)],
            gids: vec![extent(map)],
        }),
        unsynced: true,
        ..Options::default()
    };
    let snapshots = Snapshots::new(&core.host.store)?;
    let (_, copied) = snapshots.create_usable(&held.lease, &id, &layers, &options)?;
    if let Some(why) = copied {
        tracing::warn!(
            container = container.id,
            "it has a copy of its image's files: {}",
            why.chain()
        );
    }
    Ok(())
}

/// What its monitor is told.
pub(super) fn launch(core: &Core, container: &Container, made: &spec::Container) -> Launch {
    let directory = core.places.path(Kind::Container, &container.id);
    Launch {
        version: monitor::VERSION,
        id: container.id.clone(),
        runtime: monitor::RuntimeFlags {
            root: core.runtime.root.clone(),
            systemd_cgroup: core.runtime.cgroup_driver == CgroupDriver::Systemd,
            rootless: core.runtime.rootless,
        },
        snapshot: Some(monitor::Snapshot {
            store: core.host.store.path().to_owned(),
            id: container.state().record.snapshot.clone(),
        }),
        terminal: made.terminal,
        console_size: None,
        stdin: match (made.stdin, made.stdin_once) {
            (false, _) => monitor::Stdin::None,
            (true, false) => monitor::Stdin::Open,
            (true, true) => monitor::Stdin::Once,
        },
        log: made.log.as_ref().map(|log| monitor::Log {
            path: log.full(),
            max_size: None,
            max_files: 1,
        }),
        exit: directory.join(EXIT),
        bundle: directory,
        passing: false,
        start: When::Later,
        restore: None,
        on_exit: None,
    }
}
