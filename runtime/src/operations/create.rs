//! `create`, and the first half of `run`: from a bundle to an init that waits.
//!
//! Every step registers what undoes it; after an error, or the death of the init, nothing is left. A
//! SIGKILL of rcrun itself leaves a record from which `delete --force` finds everything: the record
//! names the cgroup before that is made, and the pid before the init gets anywhere.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::hooks::{self, Files};
use crate::cgroup::{self, Cgroup, Prepared, Request, Select};
use crate::container::{CreateOptions, Runtime, Status};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::child::Setup;
use crate::launch::explain::{Subject, explain};
use crate::launch::init::{self, InitSetup};
use crate::launch::wire::{Message, Tag, Wire};
use crate::launch::{entry, intermediate, nodes, parent, terminal};
use crate::plan::{Facts, Plan, annotations};
use crate::rootfs::cgroup as cgroup_mounts;
use crate::seccomp::{self, Filter};
use crate::spec::validate;
use crate::state::{self, Directory, Record};
use crate::sys::process::{CloneArgs, Cloned, SingleThreaded, clone};

/// Who lets the program start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// `start`, some day.
    Later,
    /// This process, at once.
    Now,
}

/// A container whose init is ready.
#[derive(Debug)]
pub(crate) struct Created {
    /// Its record, as written.
    pub record: Record,
    /// Its directory.
    pub directory: Directory,
    /// The init.
    pub pidfd: OwnedFd,
    /// Conversation with the init ([`Start::Now`]).
    pub wire: Wire,
    /// Receives the terminal's master, when it stays here.
    pub console: Option<OwnedFd>,
    /// For the hooks still to come.
    pub hooks: Option<Files>,
    /// The configuration.
    pub spec: Spec,
    /// What was decided.
    pub plan: Plan,
}

/// Everything that is decided or opened before the clone.
struct Launch<'a> {
    proof: SingleThreaded,
    options: &'a CreateOptions,
    start: Start,
    spec: Spec,
    plan: Plan,
    filter: Option<Filter>,
    record: Record,
    directory: Directory,
    hooks: Option<Files>,
    proc: OwnedFd,
    /// Set once they exist, for the undoing.
    cgroup_made: bool,
    /// The init was not born in its cgroup.
    outside: bool,
    child: Option<OwnedFd>,
}

/// Makes a container.
pub(crate) fn create(
    runtime: &Runtime,
    id: &str,
    options: &CreateOptions,
    start: Start,
) -> Result<Created> {
    let mut launch = Launch::decide(runtime, id, options, start)?;
    match launch.carry_out() {
        Ok((wire, console)) => launch.finish(wire, console),
        Err(error) => {
            launch.undo();
            Err(error)
        }
    }
}

/// The proof that every operation that clones needs.
pub(crate) fn prove_single_threaded() -> Result<SingleThreaded> {
    SingleThreaded::prove().ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "cannot clone: this process has threads (or /proc is not mounted)",
        )
    })
}

/// Reads and judges the configuration; what is odd but harmless goes to the log.
pub(crate) fn load(
    runtime: &Runtime,
    options: &CreateOptions,
    start: Start,
) -> Result<(Spec, Vec<u8>)> {
    let mut loaded = crate::spec::load::load(&options.bundle, options.config.as_deref())?;
    if start == Start::Later && loaded.spec.process().is_none() {
        // Only `start` requires a process (runtime-spec config.md, "Process"): it refuses then.
        let nothing = r#"{"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/"]}"#;
        let nothing = serde_json::from_str(nothing)
            .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
        loaded.spec.set_process(Some(nothing));
    }
    let caller = validate::Caller {
        no_pivot: options.no_pivot,
        rootless_cgroups: runtime.is_rootless(),
        cgroup2: cgroup::is_unified(),
    };
    let facts = validate::Facts::gather(&loaded.spec, &options.bundle, caller);
    let warnings = validate::validate(&loaded.spec, &facts)?;
    loaded
        .warnings
        .iter()
        .chain(&warnings)
        .for_each(|warning| tracing::warn!("{warning}"));
    Ok((loaded.spec, loaded.raw))
}

fn plan(spec: &Spec, options: &CreateOptions, start: Start) -> Result<Plan> {
    let facts = Facts {
        bundle: &options.bundle,
        no_pivot: options.no_pivot,
        listen_fds: listen_fds(),
        selinux: validate::selinux_enabled(),
    };
    let mut plan = Plan::from_spec(spec, &facts)?;
    check_terminal(&plan, options, start)?;
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
    fn decide(
        runtime: &Runtime,
        id: &str,
        options: &'a CreateOptions,
        start: Start,
    ) -> Result<Self> {
        state::check_id(id)?;
        check_preserved(options.preserve_fds)?;
        let proof = prove_single_threaded()?;
        let (spec, raw) = load(runtime, options, start)?;
        let plan = plan(&spec, options, start)?;
        let filter = compile_filter(&spec)?;
        let record = new_record(runtime, id, options, &spec, &plan)?;
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

    /// Makes the cgroup and the process, and sees it through to readiness.
    fn carry_out(&mut self) -> Result<(Wire, Option<OwnedFd>)> {
        let systemd = self.record.cgroup.unit.is_some();
        let prepared = if systemd {
            Prepared::default()
        } else {
            self.make_cgroup()?
        };
        let (console, console_here) = self.open_console()?;
        let listener = match self.start {
            Start::Later => Some(self.listen()?),
            Start::Now => None,
        };
        let (wire, theirs) = Wire::pair().context(|| "cannot create a socket pair")?;
        let score = parent::lend_oom_score(&self.proc, &self.plan.process)?;
        let pid = self.clone_init(
            &prepared,
            &wire,
            theirs,
            console.as_ref(),
            listener.as_ref(),
        )?;
        drop((console, listener));
        parent::restore_oom_score(&self.proc, score)?;
        if systemd {
            self.start_unit(pid)?;
        }
        if self.outside {
            self.record.cgroup.attach(pid)?;
        }
        self.record.pid = pid;
        self.record.start_time = state::facts(pid).map_or(0, |facts| facts.start_time);
        if let Some(owner) = self.cgroup_owner() {
            self.record.cgroup.delegate(owner)?;
        }
        self.directory.write_record(&self.record)?;
        tracing::debug!("nsexec container setup: init has pid {pid}");
        tracing::debug!("child process in init()");
        if self.must_wait() {
            if let Some(maps) = &self.plan.namespaces.maps {
                parent::write_maps(&self.proc, pid, maps)?;
            }
            wire.send(&Message::new(Tag::Go))
                .context(|| "cannot release the container's init")?;
        }
        parent::set_oom_score(&self.proc, pid, &self.plan.process)?;
        self.equip(pid)?;
        self.converse(&wire, pid)?;
        Ok((wire, console_here))
    }

    /// Whether the child waits for the parent before it does anything.
    fn must_wait(&self) -> bool {
        // Behind an intermediate process the init shares its end of the wire: it keeps silent until
        // its pid is known.
        self.outside
            || self.plan.namespaces.maps.is_some()
            || self.plan.namespaces.needs_intermediate()
            || self.record.cgroup.unit.is_some()
    }

    fn make_cgroup(&mut self) -> Result<Prepared> {
        // A cgroup that was there before, and the processes in it, are not ours to undo.
        let prepared = self.record.cgroup.create()?;
        self.cgroup_made = true;
        let pid_namespace = self.plan.namespaces.is_new(LinuxNamespaceType::Pid);
        if !pid_namespace && !prepared.skipped.is_empty() && !self.record.cgroup.exists() {
            tracing::warn!(
                "the container has neither a cgroup nor a pid namespace of its own: nothing tells \
                 which processes to kill with it. Such configuration is strongly discouraged"
            );
        }
        self.apply(Select::EARLY)?;
        Ok(prepared)
    }

    /// systemd moves the waiting init into the unit's cgroup; hierarchies that are not systemd's are
    /// left to us.
    fn start_unit(&mut self, pid: i32) -> Result<()> {
        let resources = self.resources();
        let left = self.record.cgroup.start_unit(pid, resources.as_ref())?;
        self.cgroup_made = true;
        if !left.tasks.is_empty() {
            self.record.cgroup.attach(pid)?;
        }
        self.apply(Select::EARLY)
    }

    /// Network devices and Intel RDT: what needs the pid of an init that waits or works.
    fn equip(&mut self, pid: i32) -> Result<()> {
        let Some(linux) = self.spec.linux().clone() else {
            return Ok(());
        };
        if let Some(rdt) = linux.intel_rdt() {
            let resctrl = crate::rdt::Resctrl::find()?;
            resctrl.check(rdt)?;
            self.record.rdt = Some(resctrl.join(rdt, &self.record.id, pid.unsigned_abs())?);
            self.directory.write_record(&self.record)?;
        }
        let mut devices: Vec<(String, String)> = linux
            .net_devices()
            .iter()
            .flatten()
            .map(|(host, device)| (host.clone(), device.name().clone().unwrap_or_default()))
            .collect();
        if devices.is_empty() {
            return Ok(());
        }
        devices.sort();
        let joined = self
            .plan
            .namespaces
            .joins
            .iter()
            .find(|join| join.name == "network");
        let path = match joined {
            Some(join) => join.path.to_string_lossy().into_owned(),
            None => format!("/proc/{pid}/ns/net"),
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open(&path, flags, Mode::empty())
            .context(|| format!("cannot open {path}"))?;
        crate::netdev::move_devices(&devices, namespace.as_fd())
    }

    /// The container's own user, where the container may manage its cgroup: config-linux.md, "Cgroup
    /// ownership".
    fn cgroup_owner(&self) -> Option<u32> {
        let namespaces = &self.plan.namespaces;
        let managed = namespaces.is_new(LinuxNamespaceType::Cgroup)
            && self.plan.mounts.iter().any(|m| {
                matches!(m.kind, crate::plan::MountKind::Cgroup)
                    && m.target.as_c_str() == c"/sys/fs/cgroup"
                    && m.attr.set & crate::sys::mount::attr::RDONLY == 0
            });
        let uid = self.spec.process().as_ref()?.user().uid();
        managed.then(|| namespaces.host_uid(uid)).flatten()
    }

    fn resources(&self) -> Option<oci_spec::runtime::LinuxResources> {
        self.spec
            .linux()
            .as_ref()
            .and_then(|l| l.resources().clone())
    }

    fn apply(&self, select: Select) -> Result<()> {
        // Without any resources the rules for devices still are those of a container.
        let resources = self.resources().unwrap_or_default();
        self.record.cgroup.apply(&resources, select)
    }

    /// Where the master goes, and where it arrives when that is here.
    fn open_console(&self) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        if !self.plan.process.terminal {
            return Ok((None, None));
        }
        let (there, here) = terminal::console_ends(self.options.console_socket.as_deref())?;
        Ok((Some(there), here))
    }

    /// The socket to which `start` connects. It lies in a directory that only root may enter, and its
    /// last descriptor is gone when the program runs: that nobody listens means `running`.
    fn listen(&self) -> Result<OwnedFd> {
        let listen = || -> Result<OwnedFd, Errno> {
            let flags = SocketFlags::CLOEXEC;
            let kind = SocketType::SEQPACKET;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            let path = format!(
                "{}/start.sock",
                crate::rootfs::fd_path(self.directory.as_fd())
                    .as_c_str()
                    .to_string_lossy()
            );
            let before = rustix::process::umask(Mode::from_raw_mode(0o177));
            let bound = SocketAddrUnix::new(path.as_str())
                .and_then(|address| rustix::net::bind(&socket, &address));
            rustix::process::umask(before);
            bound?;
            rustix::net::listen(&socket, 16)?;
            Ok(socket)
        };
        listen().context(|| format!("cannot listen in {}", self.directory.path().display()))
    }

    fn open_joins(&self) -> Result<Vec<(u64, OwnedFd)>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = |join: &crate::plan::namespaces::Join| {
            let fd =
                rustix::fs::open(join.path.as_c_str(), flags, Mode::empty()).context(|| {
                    format!(
                        "cannot open {} namespace {}",
                        join.name,
                        join.path.to_string_lossy()
                    )
                })?;
            Ok((join.flag, fd))
        };
        self.plan.namespaces.joins.iter().map(open).collect()
    }

    fn clone_init(
        &mut self,
        prepared: &Prepared,
        wire: &Wire,
        theirs: Wire,
        console: Option<&OwnedFd>,
        listener: Option<&OwnedFd>,
    ) -> Result<i32> {
        let joins = self.open_joins()?;
        let namespaces = &self.plan.namespaces;
        let shared = self.plan.rootfs.propagation & libc::MS_SHARED != 0;
        let private_parent = (shared && namespaces.is_new(LinuxNamespaceType::Mount))
            .then(|| parent::mount_holding(&self.record.rootfs))
            .transpose()?;
        let kernel_views = match self.options.no_pivot {
            true => parent::kernel_views(&self.record.rootfs)?,
            false => Vec::new(),
        };
        let view = self.cgroup_view()?;
        let keyring = (!self.options.no_new_keyring)
            .then(|| crate::plan::c_string(&format!("_ses.{}", self.record.id)))
            .transpose()?;
        let intermediate = namespaces.needs_intermediate();
        let args = CloneArgs {
            flags: namespaces.clone_flags,
            cgroup: prepared.unified.as_ref().map(|fd| fd.as_fd()),
        };
        let untraceable = !entry::may_trace();
        // An ordinary user has no right to the maps of an undumpable process.
        let hide_at_once = namespaces.maps.is_none() || rustix::process::geteuid().is_root();
        let bind_devices = namespaces.has_user();
        let wait_for_maps = self.must_wait();
        let proof = self.proof;
        let first = if intermediate {
            // Not in the cgroup: a limit of one process is for the init.
            CloneArgs::default()
        } else {
            args
        };
        let (cloned, args, outside) =
            clone_somewhere(proof, first, args).map_err(|errno| clone_error(errno, namespaces))?;
        let wait_for_maps = wait_for_maps || outside;
        self.outside = outside;
        if let Cloned::Parent(pid, pidfd) = cloned {
            drop(theirs);
            if !intermediate {
                self.child = Some(pidfd);
                return Ok(pid);
            }
            let (pid, pidfd, outside) = parent::adopt(wire, &pidfd, |said| self.explain(said))?;
            self.outside = outside;
            self.child = Some(pidfd);
            return Ok(pid);
        }
        // The parent's end must not live on here: its closing is how the child learns of the
        // parent's death.
        wire.close_in_child();
        if intermediate {
            intermediate::run(proof, &joins, &args, hide_at_once, &theirs);
        }
        let setup = InitSetup {
            common: Setup {
                proof,
                proc: self.proc.as_fd(),
                tasks: &prepared.tasks,
                console: console.map(|fd| fd.as_fd()),
                raw_console: self.options.console_socket.is_none(),
                preserve_fds: self.options.preserve_fds + listen_fds().unwrap_or(0),
                keyring: keyring.as_deref(),
                seccomp: self.filter.as_ref(),
            },
            joins: if intermediate { &[] } else { &joins },
            wait_for_maps,
            hide_at_once,
            private_parent: private_parent.as_deref(),
            kernel_views: &kernel_views,
            cgroup: &view,
            sync_mounted: self.hooks.is_some(),
            hooks: self.hooks.as_ref().map(Files::streams),
            listener,
            untraceable,
            bind_devices,
        };
        init::run(&mut self.plan, setup, theirs)
    }

    fn cgroup_view(&self) -> Result<cgroup_mounts::View> {
        let wanted = self
            .plan
            .mounts
            .iter()
            .any(|m| matches!(m.kind, crate::plan::MountKind::Cgroup));
        if !wanted {
            return Ok(cgroup_mounts::View::default());
        }
        let namespaced = self.plan.namespaces.has(LinuxNamespaceType::Cgroup);
        self.record.cgroup.mount_view(namespaced)
    }

    /// Answers the init until it is ready.
    fn converse(&self, wire: &Wire, pid: i32) -> Result<()> {
        loop {
            let received = wire
                .receive()
                .context(|| "cannot hear from the container's init")?;
            let Some((message, _)) = received else {
                let limited = self.resources().is_some_and(|r| r.memory().is_some());
                return Err(parent::vanished(self.pidfd()?, limited));
            };
            match message.tag {
                Tag::Failed => return Err(self.explain(&message)),
                Tag::Source => self.answer_source(wire, pid, message.index as usize)?,
                Tag::Node => self.answer_node(wire, message.index as usize)?,
                Tag::TimeOffsets => {
                    let offsets = self.plan.namespaces.new_time.as_deref().unwrap_or_default();
                    parent::write_of(&self.proc, pid, "timens_offsets", offsets.to_bytes())
                        .context(|| "cannot set the offsets of the time namespace")?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the init")?;
                }
                Tag::Limit => {
                    parent::raise_limit(pid, &self.plan.process, message.index as usize)?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the init")?;
                }
                Tag::Mounted => {
                    self.run_early_hooks()?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the init")?;
                }
                Tag::Listener => {
                    send_listener(
                        self.pidfd()?,
                        &message,
                        self.filter.as_ref(),
                        &self.record,
                        oci_spec::runtime::ContainerState::Creating,
                    )?;
                    wire.send(&Message::new(Tag::Go))
                        .context(|| "cannot release the init")?;
                }
                Tag::Ready => return self.settle(pid),
                Tag::Init | Tag::Go | Tag::Enter | Tag::Namespace => {
                    return Err(Error::new(ErrorKind::Internal, "unexpected message"));
                }
            }
        }
    }

    fn answer_source(&self, wire: &Wire, pid: i32, index: usize) -> Result<()> {
        match parent::fetch_source(self.proof, &self.plan, pid, index) {
            Ok(tree) => wire
                .send_with(&Message::new(Tag::Go), tree.as_fd())
                .context(|| "cannot send a mount to the init"),
            Err(error) => {
                let target = self
                    .plan
                    .mounts
                    .iter()
                    .find(|m| m.index == index)
                    .map(|m| &m.target);
                let target = target
                    .map(|t| t.to_string_lossy().into_owned())
                    .unwrap_or_default();
                Err(error.context(format!(
                    "error mounting mounts[{index}] to rootfs at {target:?}"
                )))
            }
        }
    }

    /// A device that neither the container nor the host has. Why there is none to be had either is
    /// said to who looks for it; the init reports that the host has none.
    fn answer_node(&self, wire: &Wire, index: usize) -> Result<()> {
        let sent = match self.make_node(index) {
            Ok(tree) => wire.send_with(&Message::new(Tag::Go), tree.as_fd()),
            Err(error) => {
                tracing::debug!("device {index}: {}", error.chain());
                let mut nothing = Message::new(Tag::Go);
                nothing.errno = Errno::NOENT.raw_os_error();
                wire.send(&nothing)
            }
        };
        sent.context(|| "cannot send a device to the init")
    }

    fn make_node(&self, index: usize) -> Result<OwnedFd> {
        let unknown = || Error::new(ErrorKind::Internal, "there is no such device or owner");
        let device = self.plan.devices.get(index).ok_or_else(unknown)?;
        let namespaces = &self.plan.namespaces;
        let owner = (namespaces.host_uid(device.uid)).zip(namespaces.host_gid(device.gid));
        let label = self
            .plan
            .mount_label
            .as_ref()
            .map(|label| label.to_string_lossy());
        let label = label.map_or_else(String::new, |label| format!(",context=\"{label}\""));
        let options = crate::plan::c_string(&format!("mode=0755,nr_inodes=8,size=64k{label}"))?;
        nodes::make(self.proof, device, owner.ok_or_else(unknown)?, &options)
    }

    fn run_early_hooks(&self) -> Result<()> {
        let (Some(files), Some(hooks)) = (&self.hooks, self.spec.hooks()) else {
            return Ok(());
        };
        // Deprecated hooks are part of `start`: for them the container has been created.
        files.set_state(&self.record, Status::Created)?;
        let prestart = hooks::prestart(hooks);
        files.run(self.proof, &self.record.bundle, "prestart", Some(&prestart))?;
        files.set_state(&self.record, Status::Creating)?;
        files.run(
            self.proof,
            &self.record.bundle,
            "createRuntime",
            hooks.create_runtime().as_ref(),
        )?;
        files.set_state(&self.record, Status::Creating)
    }

    /// The last of what only the parent may do.
    fn settle(&self, pid: i32) -> Result<()> {
        tracing::debug!("init: closing the pipe to signal completion");
        self.apply(Select::MEMORY)?;
        if let Some(files) = &self.hooks {
            files.set_state(&self.record, Status::Created)?;
        }
        if let Some(path) = &self.options.pidfd_socket {
            let socket = terminal::connect(path, SocketType::STREAM)?;
            terminal::send(socket.as_fd(), c"pidfd", self.pidfd()?)
                .context(|| format!("cannot send a pidfd to {}", path.display()))?;
        }
        match &self.options.pid_file {
            Some(path) => write_pid_file(path, pid),
            None => Ok(()),
        }
    }

    fn pidfd(&self) -> Result<BorrowedFd<'_>> {
        let missing = || Error::new(ErrorKind::Internal, "there is no init");
        self.child.as_ref().map(|fd| fd.as_fd()).ok_or_else(missing)
    }

    fn explain(&self, message: &Message) -> Error {
        let printed = self.hooks.as_ref().map(Files::printed);
        explain(
            message,
            &Subject {
                plan: Some(&self.plan),
                process: &self.plan.process,
                hook_output: printed
                    .as_ref()
                    .map(|(out, err)| (out.as_str(), err.as_str())),
            },
        )
    }

    fn finish(self, wire: Wire, console: Option<OwnedFd>) -> Result<Created> {
        let pidfd = self
            .child
            .ok_or_else(|| Error::new(ErrorKind::Internal, "there is no init"))?;
        Ok(Created {
            record: self.record,
            directory: self.directory,
            pidfd,
            wire,
            console,
            hooks: self.hooks,
            spec: self.spec,
            plan: self.plan,
        })
    }

    /// Leaves nothing behind. Errors in here change nothing any more: the first one is reported.
    fn undo(&self) {
        let cloned = self.child.is_some();
        if let Some(child) = &self.child {
            let _ = crate::sys::process::pidfd_signal(child.as_fd(), libc::SIGKILL);
            let _ = parent::reap(child.as_fd());
        }
        if let Some(group) = &self.record.rdt {
            let _ = group.destroy();
        }
        if self.cgroup_made {
            let _ = self.record.cgroup.kill(rustix::process::Signal::KILL);
            let _ = self.record.cgroup.remove();
        }
        if let Some(path) = self.options.pid_file.as_ref().filter(|_| cloned) {
            let _ = std::fs::remove_file(path);
        }
        if cloned && let (Some(files), Some(hooks)) = (&self.hooks, self.spec.hooks()) {
            let _ = files.set_state(&self.record, Status::Stopped);
            files.run_poststop(self.proof, &self.record.bundle, hooks);
        }
        let _ = self.directory.remove();
    }
}

/// Refuses a terminal that nobody shows, and a console socket that nothing is sent to.
pub(crate) fn check_terminal(plan: &Plan, options: &CreateOptions, start: Start) -> Result<()> {
    let detached = start == Start::Later || options.detach;
    match (&options.console_socket, plan.process.terminal) {
        (Some(_), true) if !detached => Err(Error::invalid(
            "cannot use console socket if runc will not detach or allocate tty",
        )),
        (Some(_), false) => Err(Error::invalid(
            "cannot use console socket if runc will not detach or allocate tty",
        )),
        (None, true) if detached => Err(Error::invalid(
            "cannot allocate tty if runc will detach without setting console socket",
        )),
        _ => Ok(()),
    }
}

/// Kernels without AppArmor have no profiles: engines name one all the same.
pub(crate) fn drop_missing_profile(process: &mut crate::plan::Process) {
    let enabled = || {
        std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|y| y.starts_with(b"Y"))
    };
    if let Some(profile) = process.apparmor.take_if(|_| !enabled()) {
        let profile = profile.to_string_lossy();
        tracing::warn!("AppArmor is not enabled in this kernel: profile {profile} is not applied");
    }
}

/// A number that is not open would be taken by a descriptor of ours.
pub(crate) fn check_preserved(count: u32) -> Result<()> {
    for fd in 3..3 + count {
        let number = i32::try_from(fd).unwrap_or(-1);
        if crate::sys::process::borrow_inherited(number).is_err() {
            return Err(Error::invalid(format!(
                "--preserve-fds {count}: descriptor {fd} is not open"
            )));
        }
    }
    Ok(())
}

/// How many descriptors the caller hands down by the protocol of sd_listen_fds(3).
pub(crate) fn listen_fds() -> Option<u32> {
    std::env::var("LISTEN_FDS")
        .ok()?
        .parse()
        .ok()
        .filter(|count| *count > 0)
}

/// Writes a pid so that a reader never sees half of it.
pub(crate) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = std::fs::write(&temporary, pid.to_string())
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        Error::from(error).context(format!("cannot write pid file {}", path.display()))
    })
}

/// Fetches a seccomp listener from the process that loaded the filter, and hands it to its agent.
pub(crate) fn send_listener(
    pidfd: BorrowedFd<'_>,
    message: &Message,
    filter: Option<&Filter>,
    record: &Record,
    status: oci_spec::runtime::ContainerState,
) -> Result<()> {
    use oci_spec::runtime::{ContainerProcessStateBuilder, StateBuilder};
    let Some(notify) = filter.and_then(|f| f.notify.as_ref()) else {
        return Err(Error::new(
            ErrorKind::Internal,
            "no rule of the seccomp filter notifies",
        ));
    };
    let number = i32::try_from(message.value).unwrap_or(-1);
    let flags = rustix::process::PidfdGetfdFlags::empty();
    let listener = rustix::process::pidfd_getfd(pidfd, number, flags)
        .context(|| "cannot take over the seccomp listener")?;
    let state = StateBuilder::default()
        .version(record.oci_version.clone())
        .id(record.id.clone())
        .status(status)
        .pid(record.pid)
        .bundle(record.bundle.clone())
        .annotations(
            record
                .annotations
                .clone()
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        )
        .build()
        .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    let mut process = ContainerProcessStateBuilder::default()
        .version(record.oci_version.clone())
        .fds(vec!["seccompFd".to_owned()])
        .pid(record.pid)
        .state(state)
        .build()
        .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    process.set_metadata(notify.metadata.clone());
    seccomp::notify::send_listener(&notify.listener_path, listener.as_fd(), &process)
}

/// Clones into the cgroup; or, before 5.7, behind a filter that hides clone3, or when the cgroup takes
/// no process, outside of it (the third part of the answer): the child is moved afterwards, or that
/// says why not. `next` is what an intermediate process has to clone.
fn clone_somewhere<'a>(
    proof: SingleThreaded,
    first: CloneArgs<'a>,
    next: CloneArgs<'a>,
) -> Result<(Cloned, CloneArgs<'a>, bool), Errno> {
    let outside = |args| CloneArgs {
        cgroup: None,
        ..args
    };
    match clone(proof, &first) {
        Err(_) if first.cgroup.is_some() => {
            Ok((clone(proof, &outside(first))?, outside(next), true))
        }
        other => Ok((other?, next, false)),
    }
}

fn clone_error(errno: Errno, namespaces: &crate::plan::Namespaces) -> Error {
    let error = Error::from(errno).context("cannot create the container's init");
    match errno {
        Errno::INVAL if namespaces.has_user() => {
            error.context("does this kernel have user namespaces?")
        }
        Errno::NOSPC => error.context("too many namespaces: see /proc/sys/user/max_*_namespaces"),
        _ => error,
    }
}
