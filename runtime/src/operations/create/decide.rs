//! The half of `create` that decides: reads and judges the configuration, plans, compiles. It leaves
//! nothing behind but the state directory with a record of what is to be made.

use std::borrow::Cow;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::FileType;

use super::{Attendant, Launch, Start};
use crate::cgroup::{self, Cgroup, Request};
use crate::container::{CreateOptions, Runtime};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::launch::{parent, terminal};
use crate::operations::caller::{listen_fds, prove_single_threaded};
use crate::operations::handover::check_terminal;
use crate::operations::hooks::{self, Files};
use crate::plan::{Facts, Plan, annotations};
use crate::seccomp::{self, Filter};
use crate::spec::validate;
use crate::state::{self, Directory, Record};
use crate::template::apparmor;

/// Reads and judges the configuration; what is odd but harmless goes to the log.
pub(crate) fn load(
    runtime: &Runtime,
    options: &CreateOptions,
    start: Start,
) -> Result<(Spec, Vec<u8>)> {
    let loaded = crate::spec::load::load(&options.bundle, options.config.as_deref())?;
    let caller = validate::Caller {
        no_pivot: options.no_pivot,
        rootless_cgroups: runtime.is_rootless(),
        cgroup2: cgroup::is_unified(),
    };
    let facts = validate::Facts::gather(&loaded.spec, &options.bundle, caller);
    let judged = judged(&loaded.spec, start)?;
    let warnings = validate::validate(&judged, &facts)?;
    drop(judged);
    loaded
        .warnings
        .iter()
        .chain(&warnings)
        .for_each(|warning| tracing::warn!("{warning}"));
    Ok((loaded.spec, loaded.raw))
}

/// What the rules judge. They want a process, but only `start` requires one (runtime-spec config.md,
/// "Process"): what is made without, for a `start` that may come, is judged with a faultless one.
fn judged(spec: &Spec, start: Start) -> Result<Cow<'_, Spec>> {
    if start == Start::Now || spec.process().is_some() {
        return Ok(Cow::Borrowed(spec));
    }
    let faultless = serde_json::json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["x"]});
    let process = serde_json::from_value(faultless)
        .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    let mut spec = spec.clone();
    spec.set_process(Some(process));
    Ok(Cow::Owned(spec))
}

fn plan(spec: &Spec, options: &CreateOptions, detached: bool) -> Result<Plan> {
    let facts = Facts {
        bundle: &options.bundle,
        no_pivot: options.no_pivot,
        listen_fds: listen_fds(),
        selinux: validate::selinux_enabled(),
    };
    let mut plan = Plan::from_spec(spec, &facts)?;
    let socket = options.console_socket.as_deref();
    check_terminal(plan.process.terminal, socket, detached)?;
    drop_missing_profile(&mut plan.process);
    if options.console_socket.is_none() {
        plan.process.console_size = plan.process.console_size.or_else(terminal::callers_size);
    }
    Ok(plan)
}

fn compile_filter(spec: &Spec) -> Result<Option<Filter>> {
    let seccomp = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let filter = match seccomp {
        Some(seccomp) => seccomp::compile(seccomp)?,
        None => None,
    };
    for method in crate::selfexe::methods() {
        tracing::debug!("runc exeseal: using {method}");
    }
    if let Some(filter) = &filter {
        let notes = spec.annotations().as_ref();
        let strict = annotations::strict_seccomp(|name| notes?.get(name).map(String::as_str))?;
        if let Some(name) = filter.unknown.first().filter(|_| strict) {
            return Err(Error::invalid(format!(
                "linux.seccomp.syscalls: system call {name:?} is unknown, and {} forbids that",
                annotations::STRICT_SECCOMP
            )));
        }
        for name in &filter.unknown {
            tracing::warn!("unknown seccomp syscall {name:?} ignored");
        }
        tracing::debug!("seccomp filter flags: {}", filter.flags);
    }
    Ok(filter)
}

/// A root that came as a mount can only be attached where nobody else sees it, and is not the
/// container's to keep.
fn check_root(options: &CreateOptions, plan: &Plan) -> Result<()> {
    let Some(root) = &options.root else {
        return Ok(());
    };
    if !plan.namespaces.is_new(LinuxNamespaceType::Mount) {
        let message = "a root file system by descriptor needs a new mount namespace";
        return Err(Error::invalid(message));
    }
    let stat = rustix::fs::fstat(root).context(|| "cannot examine the root file system")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let message = "the root file system is not a directory";
        return Err(Error::invalid(message));
    }
    let kept = 3 + options.preserve_fds + listen_fds().unwrap_or(0);
    let number = u32::try_from(root.as_raw_fd()).unwrap_or(u32::MAX);
    match number < kept {
        true => Err(Error::invalid(format!(
            "descriptor {number} is the root file system and cannot be the container's"
        ))),
        false => Ok(()),
    }
}

/// What is known of a container before anything of it is made: also where its cgroup will be.
pub(crate) fn new_record(
    runtime: &Runtime,
    id: &str,
    options: &CreateOptions,
    spec: &Spec,
    plan: &Plan,
) -> Result<Record> {
    let linux = spec.linux().as_ref();
    let annotations = spec.annotations().clone().unwrap_or_default();
    let cgroup = Cgroup::resolve(&Request {
        id,
        cgroups_path: linux.and_then(|l| l.cgroups_path().as_deref()),
        driver: runtime.cgroup_driver,
        resources: linux.and_then(|l| l.resources().as_ref()),
        annotations: &annotations,
        rootless: runtime.is_rootless(),
    })?;
    let poststop = spec.hooks().as_ref().and_then(|h| h.poststop().as_ref());
    Ok(Record {
        version: state::VERSION,
        id: id.to_owned(),
        oci_version: spec.version().clone(),
        pid: 0,
        start_time: 0,
        bundle: options.bundle.clone(),
        rootfs: Path::new(&*plan.rootfs.path.to_string_lossy()).to_owned(),
        created: state::now(),
        annotations: annotations.into_iter().collect(),
        cgroup,
        rdt: None,
        namespaces: plan.namespaces.all,
        poststop: poststop.is_some_and(|list| !list.is_empty()),
        no_new_keyring: options.no_new_keyring,
        descriptors: crate::checkpoint::own_streams(),
        owner: rustix::process::geteuid().as_raw(),
        unknown: serde_json::Map::new(),
    })
}

impl<'a> Launch<'a> {
    /// Decides everything; leaves nothing but the state directory, with its record.
    pub(super) fn decide(
        runtime: &Runtime,
        id: &str,
        options: &'a CreateOptions,
        start: Start,
        attendant: Option<Attendant<'a>>,
    ) -> Result<Self> {
        state::check_id(id)?;
        let proof = prove_single_threaded()?;
        let (spec, raw) = load(runtime, options, start)?;
        let detached = attendant.is_none() && (start == Start::Later || options.detach);
        let plan = plan(&spec, options, detached)?;
        check_root(options, &plan)?;
        let filter = compile_filter(&spec)?;
        let mut record = new_record(runtime, id, options, &spec, &plan)?;
        if let Some(streams) = attendant.and_then(|attendant| attendant.streams) {
            record.descriptors = streams.map(crate::checkpoint::stream_name).to_vec();
        }
        let proc = parent::open_proc()?;
        let hooks = spec
            .hooks()
            .as_ref()
            .filter(|h| hooks::any(h))
            .map(|_| Files::new(&record.annotations))
            .transpose()?;
        let directory = Directory::create(&runtime.root, id)?;
        let launch = Self {
            proof,
            options,
            start,
            attendant,
            spec,
            plan,
            filter,
            record,
            directory,
            hooks,
            proc,
            cgroup_made: false,
            outside: false,
            child: None,
        };
        let recorded = launch.directory.begin(&launch.record, &raw);
        match recorded {
            Ok(()) => Ok(launch),
            Err(error) => {
                let _ = launch.directory.remove();
                Err(error)
            }
        }
    }
}

/// Kernels without AppArmor have no profiles: engines name one all the same.
pub(crate) fn drop_missing_profile(process: &mut crate::plan::Process) {
    if let Some(profile) = process.apparmor.take_if(|_| !apparmor::is_enabled()) {
        let profile = profile.to_string_lossy();
        tracing::warn!("AppArmor is not enabled in this kernel: profile {profile} is not applied");
    }
}
