//! `pause`, `resume`, `update`, `events`: what happens to a live container through its cgroup.

use oci_spec::runtime::LinuxResources;

use super::query::{init_of, load, require};
use crate::cgroup::{Branch, oom, stats};
use crate::container::{Runtime, Status};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::state::Directory;

const LIVE: [Status; 3] = [Status::Created, Status::Running, Status::Paused];

/// Freezes.
pub(crate) fn pause(runtime: &Runtime, id: &str) -> Result<()> {
    let directory = Directory::open(&runtime.root, id)?;
    let _lock = directory.lock()?;
    let record = require(&directory, &[Status::Created, Status::Running], "pause")?;
    if record.cgroup.rootless && !record.cgroup.exists() {
        return Err(record.cgroup.missing("pause the container"));
    }
    record.cgroup.freeze()
}

/// Thaws.
pub(crate) fn resume(runtime: &Runtime, id: &str) -> Result<()> {
    let directory = Directory::open(&runtime.root, id)?;
    let _lock = directory.lock()?;
    let record = require(&directory, &LIVE, "resume")?;
    if !record.cgroup.is_frozen()? {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            "container not paused",
        ));
    }
    record.cgroup.thaw()
}

/// Makes a sub-cgroup.
pub(crate) fn branch(runtime: &Runtime, id: &str, name: &str) -> Result<Branch> {
    let directory = Directory::open(&runtime.root, id)?;
    let record = load(&directory)?;
    if init_of(&record)?.is_none() {
        let text = "cannot exec in a stopped container";
        return Err(Error::new(ErrorKind::FailedPrecondition, text));
    }
    record.cgroup.branch(name, record.pid)
}

/// Lists sub-cgroups.
pub(crate) fn branches(runtime: &Runtime, id: &str, prefix: &str) -> Result<Vec<Branch>> {
    let directory = Directory::open(&runtime.root, id)?;
    let record = load(&directory)?;
    match init_of(&record)? {
        Some(_) => record.cgroup.branches(prefix, record.pid),
        None => Ok(Vec::new()),
    }
}

/// Changes limits, and the configuration that later updates start from.
pub(crate) fn update(
    runtime: &Runtime,
    id: &str,
    resources: &LinuxResources,
    l3_cache_schema: Option<&str>,
    mem_bw_schema: Option<&str>,
) -> Result<()> {
    let directory = Directory::open(&runtime.root, id)?;
    let _lock = directory.lock()?;
    let record = require(&directory, &LIVE, "update")?;
    if l3_cache_schema.is_some() || mem_bw_schema.is_some() {
        let mut rdt = oci_spec::runtime::LinuxIntelRdt::default();
        rdt.set_l3_cache_schema(l3_cache_schema.map(str::to_owned));
        rdt.set_mem_bw_schema(mem_bw_schema.map(str::to_owned));
        let group = record.rdt.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::FailedPrecondition,
                "the container has no Intel RDT group",
            )
        })?;
        crate::rdt::Resctrl::find()?.update(group, &rdt)?;
    }
    let mut spec = crate::spec::load::spec(&directory.read_config()?)?.spec;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let old = linux.resources().clone().unwrap_or_default();
    let merged = record.cgroup.update(&old, resources)?;
    linux.set_resources(Some(merged));
    spec.set_linux(Some(linux));
    let text = serde_json::to_vec(&spec)
        .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
        .context(|| "cannot encode config.json")?;
    directory.write_config(&text)
}

/// Statistics.
pub(crate) fn stats(runtime: &Runtime, id: &str) -> Result<stats::Stats> {
    let directory = Directory::open(&runtime.root, id)?;
    require(&directory, &LIVE, "read statistics of")?
        .cgroup
        .stats()
}

/// How many there were, also of a container that has ended.
pub(crate) fn oom_kills(runtime: &Runtime, id: &str) -> Result<Option<u64>> {
    let directory = Directory::open(&runtime.root, id)?;
    let record = directory.read_record()?;
    Ok(record.and_then(|record| record.cgroup.oom_kills()))
}

/// Out-of-memory kills.
pub(crate) fn oom_watch(runtime: &Runtime, id: &str) -> Result<oom::Watch> {
    let directory = Directory::open(&runtime.root, id)?;
    require(&directory, &LIVE, "watch")?.cgroup.oom_watch()
}
