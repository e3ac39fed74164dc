//! `restore`: images -> a running container, in a new state directory and cgroup.
//!
//! criu makes the processes as this process's children. Of the hooks, prestart and createRuntime run
//! as soon as the namespaces are there, as in runc; the others belong to programs that were executed
//! long ago.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{LinuxNamespaceType as Type, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::net::SocketType;
use rustix::process::{Pid, PidfdFlags};

use super::external::{self, bytes};
use super::here::{absolute, cgroup_roots, real, time_namespace};
use super::images::{self, Directories};
use super::root::Root;
use super::rpc::{Kind, Options, Version};
use super::swrk::{Criu, Start, Streams};
use super::verify;
use super::{CgroupMode, RestoreOptions};
use crate::cgroup::Select;
use crate::container::{Runtime, Status};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::parent::reap;
use crate::launch::terminal::{self, Terminal};
use crate::operations::caller::prove_single_threaded;
use crate::operations::create::Start as When;
use crate::operations::create::decide::{load, new_record};
use crate::operations::foreground::{attend, stay};
use crate::operations::handover::{check_terminal, write_pid_file};
use crate::operations::hooks::{self, Files};
use crate::operations::stop;
use crate::plan::{Facts, Plan};
use crate::state::{self, Directory, Record};
use crate::sys::process::{SingleThreaded, pidfd_signal};

const LOG: &str = "restore.log";
/// The oldest criu that can exchange the LSM profile.
const OTHER_LSM: Version = Version(31_600);

/// The oldest criu for images of others: it says when everything is there and does not run yet.
const FOREIGN: Version = Version(31_600);
/// How long criu may work on such images without a word.
const PATIENCE: Duration = Duration::from_secs(600);

/// Everything that is decided before criu starts.
struct Restore<'a> {
    proof: SingleThreaded,
    options: &'a RestoreOptions,
    places: Directories,
    spec: Spec,
    plan: Plan,
    record: Record,
    directory: Directory,
    hooks: Option<Files>,
    /// Not the caller's own.
    streams: Option<[BorrowedFd<'a>; 3]>,
    /// Set once they exist, for the undoing.
    cgroup_made: bool,
    init: Option<OwnedFd>,
}

/// A container that goes on, for a process that will look after it.
#[derive(Debug)]
pub(crate) struct Restored {
    /// Its record, as written.
    pub record: Record,
    /// Its directory.
    pub directory: Directory,
    /// Its init, a child of the calling process.
    pub init: OwnedFd,
    /// The terminal's master.
    pub master: Option<OwnedFd>,
}

/// Makes a container from images, with these streams unless it has a terminal.
pub(crate) fn restore_attended(
    runtime: &Runtime,
    id: &str,
    options: &RestoreOptions,
    streams: Option<[BorrowedFd<'_>; 3]>,
) -> Result<Restored> {
    Restore::decide(runtime, id, options, streams)?.finish()
}

/// Makes a container from images; without `detach` waits for its end.
pub(super) fn restore(runtime: &Runtime, id: &str, options: &RestoreOptions) -> Result<i32> {
    if runtime.is_rootless() {
        tracing::warn!("rcrun restore is untested with rootless containers");
    }
    let signals = stay(options.container.detach, options.container.no_subreaper)?;
    let restored = Restore::decide(runtime, id, options, None)?.finish()?;
    let Some(signals) = signals else {
        return Ok(0);
    };
    let Restored {
        record,
        directory,
        init,
        master: console,
    } = restored;
    let terminal = console.map(Terminal::new).transpose();
    let result = terminal
        .context(|| "cannot set up the container's terminal")
        .and_then(|mut terminal| attend(record.pid, &init, &signals, terminal.as_mut(), None));
    let cleaned = stop::end(&directory, &record);
    let code = result?;
    cleaned?;
    Ok(code)
}

impl<'a> Restore<'a> {
    /// Decides everything; leaves nothing but the state directory, with its record.
    fn decide(
        runtime: &Runtime,
        id: &str,
        options: &'a RestoreOptions,
        streams: Option<[BorrowedFd<'a>; 3]>,
    ) -> Result<Self> {
        state::check_id(id)?;
        let proof = prove_single_threaded()?;
        let bundle = &options.container.bundle;
        let (spec, raw) = load(runtime, &options.container, When::Now)?;
        let facts = Facts {
            bundle,
            no_pivot: options.container.no_pivot,
            listen_fds: None,
            selinux: crate::spec::validate::selinux_enabled(),
        };
        let plan = Plan::from_spec(&spec, &facts)?;
        let socket = options.container.console_socket.as_deref();
        check_terminal(plan.process.terminal, socket, options.container.detach)?;
        let mut record = new_record(runtime, id, &options.container, &spec, &plan)?;
        if let Some(streams) = streams {
            record.descriptors = streams.map(super::stream_name).to_vec();
        }
        let places = Directories::open(&options.common, LOG)?;
        let hook_list = spec.hooks().as_ref();
        let files = hook_list
            .filter(|h| hooks::any(h))
            .map(|_| Files::new(&record.annotations));
        let restore = Self {
            proof,
            options,
            places,
            plan,
            record,
            hooks: files.transpose()?,
            directory: Directory::create(&runtime.root, id)?,
            spec,
            streams,
            cgroup_made: false,
            init: None,
        };
        let kept = restore
            .directory
            .write_record(&restore.record)
            .and_then(|()| restore.directory.write_config(&raw));
        match kept {
            Ok(()) => Ok(restore),
            Err(error) => {
                let _ = restore.directory.remove();
                Err(error)
            }
        }
    }

    /// All of it, or nothing is left.
    fn finish(mut self) -> Result<Restored> {
        let done = self.carry_out();
        match (done, self.init.take()) {
            (Ok(master), Some(init)) => {
                // The places lie in criu's mount namespace, which shall not live on: they go.
                let Self {
                    record, directory, ..
                } = self;
                Ok(Restored {
                    record,
                    directory,
                    init,
                    master,
                })
            }
            (result, init) => {
                self.init = init;
                self.undo();
                let nothing = || Error::new(ErrorKind::Internal, "criu restored no process");
                Err(result.err().unwrap_or_else(nothing))
            }
        }
    }

    /// Starts criu and lets it work; returns the terminal's master when it stays here.
    fn carry_out(&mut self) -> Result<Option<OwnedFd>> {
        let console = match &self.options.container.console_socket {
            Some(path) => Some(terminal::connect(path, SocketType::STREAM)?),
            None => None,
        };
        let filtered = match self.options.foreign {
            true => {
                let view = external::cgroup_view(&self.plan, &self.record.cgroup)?;
                let places = verify::places(&self.plan, &view, &|place| self.resolve(place));
                verify::images(&self.spec, &places, self.places.images())?
            }
            false => false,
        };
        let namespaces = self.open_namespaces()?;
        let (names, fds): (Vec<_>, Vec<_>) = namespaces.into_iter().unzip();
        // criu pivots into the root only when it makes a mount namespace.
        let covered = absolute(&self.directory.path())?;
        let root = match self.plan.namespaces.is_new(Type::Mount) {
            true => {
                let tree = self.options.container.root.as_ref();
                let paths = self.places.paths();
                Some(Root::plan(&self.plan, tree, &covered, &paths)?)
            }
            false => None,
        };
        let start = Start {
            program: self.options.common.criu.as_deref(),
            streams: self.streams.map_or(Streams::Callers, Streams::Given),
            inherited: &fds,
            root: root.as_ref(),
            // Which criu makes only along with cgroups, that are not to be made as images say.
            cgroup_namespace: self.options.foreign && self.plan.namespaces.new_cgroup,
            patience: self.options.foreign.then_some(PATIENCE),
        };
        let mut criu = Criu::start(self.proof, &start, &mut |pid| self.make_cgroup(pid))?;
        self.places.exchange(std::mem::take(&mut criu.directories));
        self.check_versions(&criu, &names)?;
        if self.options.foreign {
            criu.require(FOREIGN, "a checkpoint of others")?;
        }
        let mut request = self.request(criu.pid)?;
        request.root = Some(match root {
            Some(_) => bytes(&covered),
            None => bytes(&self.record.rootfs),
        });
        for (name, fd) in names.iter().zip(&fds) {
            if let Some(key) = external::namespace_key(&criu, name)? {
                request.inherited.push((key.to_owned(), fd.as_raw_fd()));
            }
        }
        let mut master = None;
        let pid_of_criu = criu.pid;
        let mut verified = !self.options.foreign;
        let done = criu.carry_out(Kind::Restore, &request, &mut |script, pid, fd| match (
            script, pid, fd,
        ) {
            ("setup-namespaces", Some(pid), _) => self.run_hooks(pid),
            ("post-restore", Some(pid), _) => self.settle(pid),
            ("pre-resume", _, _) if self.options.foreign => {
                verified = true;
                self.verify(filtered, pid_of_criu)
            }
            ("orphan-pts-master", _, Some(fd)) => match &console {
                Some(socket) => terminal::send(socket.as_fd(), c"orphan-pts-master", fd.as_fd())
                    .context(|| "cannot send the terminal to the console socket"),
                None => {
                    master = Some(fd);
                    Ok(())
                }
            },
            _ => Ok(()),
        });
        done.map_err(|failure| self.places.explain(failure))?;
        if !verified {
            let text = "criu did not say when the container was there: nobody knows what it is";
            return Err(Error::new(ErrorKind::Internal, text));
        }
        if let Some(path) = &self.options.container.pid_file {
            write_pid_file(path, self.record.pid)?;
        }
        Ok(master)
    }

    /// Network and pid namespaces from outside are handed down; the kind comes along.
    fn open_namespaces(&self) -> Result<Vec<(&'static str, OwnedFd)>> {
        let mut all = Vec::new();
        for join in &self.plan.namespaces.joins {
            if matches!(join.name, "network" | "pid") {
                let path = join.path.to_string_lossy();
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let fd =
                    rustix::fs::open(join.path.as_c_str(), flags, Mode::empty()).context(|| {
                        format!("Requested {} namespace {path} does not exist", join.name)
                    })?;
                all.push((join.name, fd));
            }
        }
        Ok(all)
    }

    fn check_versions(&self, criu: &Criu, names: &[&str]) -> Result<()> {
        for name in names {
            external::namespace_key(criu, name)?;
        }
        if self.options.lsm_profile.is_some() {
            criu.require(OTHER_LSM, "--lsm-profile")?;
        }
        if self.options.lsm_mount_context.is_some() {
            criu.require(OTHER_LSM, "--lsm-mount-context")?;
        }
        Ok(())
    }

    /// criu works in the container's cgroup, and what it makes is born there.
    fn make_cgroup(&mut self, criu: i32) -> Result<()> {
        let linux = self.spec.linux().as_ref();
        let resources = linux.and_then(|l| l.resources().as_ref());
        if self.record.cgroup.unit.is_some() {
            let left = self.record.cgroup.start_unit(criu, resources)?;
            self.cgroup_made = true;
            if !left.tasks.is_empty() {
                self.record.cgroup.attach(criu)?;
            }
        } else {
            self.record.cgroup.create()?;
            self.cgroup_made = true;
            self.record.cgroup.attach(criu)?;
        }
        match resources {
            Some(resources) => self.record.cgroup.apply(resources, Select::ALL),
            None => Ok(()),
        }
    }

    fn request(&self, criu: i32) -> Result<Options> {
        let mut common = self.options.common.clone();
        if self.options.foreign {
            common.cgroup_mode = CgroupMode::Ignore;
        }
        let names = self.places.read_descriptors()?;
        let pipe = |(fd, name): (usize, String)| {
            name.contains("pipe:")
                .then(|| (name, i32::try_from(fd).unwrap_or(-1)))
        };
        Ok(Options {
            evasive_devices: true,
            restore_as_sibling: true,
            config_file: images::config_file(&self.record.annotations),
            external_mounts: self.external_mounts()?,
            cgroup_roots: cgroup_roots(criu)?,
            inherited: names.into_iter().enumerate().filter_map(pipe).collect(),
            join_namespaces: self.joined()?,
            lsm_profile: self.options.lsm_profile.clone(),
            lsm_mount_context: self.options.lsm_mount_context.clone(),
            ..self.places.options(&common, LOG)
        })
    }

    fn external_mounts(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let view = external::cgroup_view(&self.plan, &self.record.cgroup)?;
        let resolve = |place: &Path| self.resolve(place);
        let mut pairs: Vec<_> = external::external_mounts(&self.plan, &view, &resolve)
            .iter()
            .map(|external| (bytes(&external.place), bytes(&real(&external.source))))
            .collect();
        if !self.plan.masked.is_empty() {
            pairs.push((b"/dev/null".to_vec(), b"/dev/null".to_vec()));
        }
        Ok(pairs)
    }

    /// A place in the container, without links.
    fn resolve(&self, place: &Path) -> PathBuf {
        match &self.options.container.root {
            Some(tree) => {
                let root = format!("/proc/self/fd/{}", tree.as_raw_fd());
                external::resolve(Path::new(&root), place)
            }
            None => external::resolve(&self.record.rootfs, place),
        }
    }

    /// The other namespaces from outside, which criu enters by itself.
    fn joined(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut all = Vec::new();
        for join in &self.plan.namespaces.joins {
            match join.name {
                "network" | "pid" => {}
                "cgroup" => {
                    return Err(Error::unsupported(
                        "cannot restore into an existing cgroup namespace: criu cannot",
                    ));
                }
                name => {
                    let name = external::namespace_name(name);
                    all.push((name, join.path.to_bytes().to_vec()));
                }
            }
        }
        Ok(all)
    }

    /// The namespaces are there. From now on the record knows the pid: should this process be killed,
    /// `delete --force` finds what is left.
    fn run_hooks(&mut self, pid: i32) -> Result<()> {
        self.record.pid = pid;
        self.record.start_time = state::facts(pid).map_or(0, |facts| facts.start_time);
        self.directory.write_record(&self.record)?;
        let (Some(files), Some(list)) = (&self.hooks, self.spec.hooks()) else {
            return Ok(());
        };
        files.set_state(&self.record, Status::Creating)?;
        let prestart = hooks::prestart(list);
        let bundle = &self.record.bundle;
        files.run(self.proof, bundle, "prestart", Some(&prestart))?;
        files.run(
            self.proof,
            bundle,
            "createRuntime",
            list.create_runtime().as_ref(),
        )
    }

    /// The processes are there and do not run yet.
    fn settle(&mut self, pid: i32) -> Result<()> {
        let raw = Pid::from_raw(pid)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "criu restored no process"))?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty())
            .context(|| format!("cannot open the restored process {pid}"))?;
        self.init = Some(pidfd);
        self.record.pid = pid;
        self.record.start_time = state::facts(pid).map_or(0, |facts| facts.start_time);
        self.record.created = state::now();
        // criu puts what it restores into a time namespace, so that clocks go on where they stood.
        if time_namespace(&pid.to_string()) != time_namespace("self") {
            self.record.namespaces |= libc::CLONE_NEWTIME as u64;
        }
        self.directory.write_record(&self.record)
    }

    /// All is restored, and stands still.
    fn verify(&self, filtered: bool, criu: i32) -> Result<()> {
        let tree = self.options.container.root.as_ref();
        let judge = verify::Judge {
            plan: &self.plan,
            record: &self.record,
            tree: tree.map(|tree| tree.as_fd()),
            filtered,
            criu,
        };
        let judged = judge.container();
        if judged.is_err() {
            // criu lets them go on whatever it is told here.
            self.record.cgroup.kill(rustix::process::Signal::KILL)?;
        }
        judged.context(|| "cannot let the restored container run")
    }

    /// Leaves nothing behind; criu is gone already. The first error is the one to report.
    fn undo(&self) {
        if let Some(init) = &self.init {
            let _ = pidfd_signal(init.as_fd(), libc::SIGKILL);
            let _ = self.record.cgroup.thaw();
            let _ = reap(init.as_fd());
        }
        if self.cgroup_made {
            let _ = self.record.cgroup.kill(rustix::process::Signal::KILL);
            let _ = self.record.cgroup.remove();
        }
        if let Some(path) = self
            .options
            .container
            .pid_file
            .as_ref()
            .filter(|_| self.init.is_some())
        {
            let _ = std::fs::remove_file(path);
        }
        if self.record.pid > 0 {
            stop::poststop(&self.directory, &self.record);
        }
        let _ = self.directory.remove();
    }
}
