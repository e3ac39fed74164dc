//! The facade: life cycle of one container, as the OCI runtime specification words it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{LinuxResources, Process};

use crate::error::{Error, Result};
use crate::operations::{control, create, exec, foreground, query, start, stop};

/// Which cgroup manager makes the container's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// Files below the cgroup mounts.
    #[default]
    Files,
    /// Transient scopes of systemd, over D-Bus.
    Systemd,
    /// Nobody: the container stays in its maker's cgroup.
    None,
}

/// What all operations share: the global flags.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Directory of the state records (`--root`).
    pub root: PathBuf,
    /// `--systemd-cgroup`, `--cgroup-manager`.
    pub cgroup_driver: CgroupDriver,
    /// `--rootless`: `None` = decide by the privileges found.
    pub rootless: Option<bool>,
}

/// Options of `create` and `run`.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Bundle directory; absolute.
    pub bundle: PathBuf,
    /// The configuration, when it is not the bundle's `config.json`; absolute.
    pub config: Option<PathBuf>,
    /// The root file system, as a mount that is attached nowhere (open_tree(2), fsmount(2)). The init
    /// attaches it onto `root.path`, an existing directory, in the container's own mount namespace:
    /// nobody else sees it. Without such a namespace it is refused.
    pub root: Option<Arc<OwnedFd>>,
    /// Where to write the init's pid; relative to the caller's directory.
    pub pid_file: Option<PathBuf>,
    /// AF_UNIX socket that receives the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// AF_UNIX socket that receives a pidfd of the init.
    pub pidfd_socket: Option<PathBuf>,
    /// How many descriptors above stderr the container inherits.
    pub preserve_fds: u32,
    /// MS_MOVE and chroot instead of pivot_root.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// `run`: do not become a child subreaper.
    pub no_subreaper: bool,
    /// `run`: return once the container is started.
    pub detach: bool,
    /// `run`: keep the state record after the container exited.
    pub keep: bool,
    /// `run`: when this hangs up, since whoever holds the other end of the pipe is gone or wants it so,
    /// the container is killed.
    pub lifeline: Option<Arc<OwnedFd>>,
}

/// Options of `exec`.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// A complete process description (`--process`); excludes the overrides below.
    pub process: Option<Process>,
    /// Arguments; the first is the program.
    pub args: Vec<String>,
    /// Additional environment, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// `UID[:GID]`.
    pub user: Option<(u32, Option<u32>)>,
    /// Additional supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Additional capabilities.
    pub caps: Vec<String>,
    /// Set no_new_privs (`None`: as the container's own process).
    pub no_new_privs: Option<bool>,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux label.
    pub process_label: Option<String>,
    /// Return once the process runs.
    pub detach: bool,
    /// Keys ([`crate::monitor::parse_keys`]) that leave the process running, at a terminal; none if empty.
    pub detach_keys: Vec<u8>,
    /// Where to write the process's pid.
    pub pid_file: Option<PathBuf>,
    /// AF_UNIX socket that receives the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// AF_UNIX socket that receives a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Descriptors above stderr that are handed down.
    pub preserve_fds: u32,
    /// Also run in a paused container.
    pub ignore_paused: bool,
    /// Sub-cgroups to join, `[CONTROLLER[,..]:]PATH`.
    pub cgroup: Vec<String>,
    /// Wait for the process also where its terminal is somebody else's (`console_socket`).
    pub attend: bool,
    /// Do not become a child subreaper.
    pub no_subreaper: bool,
}

/// Life-cycle status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `create` has not finished.
    Creating,
    /// The init waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// All processes are frozen.
    Paused,
    /// The init is gone.
    Stopped,
}

impl Status {
    /// The word of the specification (`paused` is runc's addition).
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// What `state` and `list` print.
#[derive(Debug, Clone)]
pub struct StateReport {
    /// `ociVersion` of the container's configuration.
    pub oci_version: String,
    /// Container ID.
    pub id: String,
    /// The init's pid as this process sees it; 0 when stopped.
    pub pid: i32,
    /// Life-cycle status.
    pub status: Status,
    /// Absolute bundle path.
    pub bundle: PathBuf,
    /// Absolute root file system path.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339 UTC with nanoseconds.
    pub created: String,
    /// Annotations of the configuration.
    pub annotations: BTreeMap<String, String>,
    /// Name of the user that owns the state directory.
    pub owner: String,
}

impl Runtime {
    /// Creates a container; its init waits for [`Runtime::start`]. Needs a process with one thread.
    pub fn create(&self, id: &str, options: &CreateOptions) -> Result<()> {
        create::create(self, id, options, create::Start::Later).map(drop)
    }
    /// Creates and starts; without `detach` waits for the end and returns the exit code. Needs a
    /// process with one thread.
    pub fn run(&self, id: &str, options: &CreateOptions) -> Result<i32> {
        foreground::run(self, id, options)
    }
    /// Lets a created container's init execute its program.
    pub fn start(&self, id: &str) -> Result<()> {
        start::start(self, id)
    }
    /// The state of one container.
    pub fn state(&self, id: &str) -> Result<StateReport> {
        query::state(self, id)
    }
    /// The init, if it lives: its pid as this process sees it, and a pidfd of it.
    pub fn init(&self, id: &str) -> Result<Option<(i32, std::os::fd::OwnedFd)>> {
        query::init(self, id)
    }
    /// Whether the container's program was executed, also if it has ended since; of one that is still being made, true
    /// or false.
    pub fn was_started(&self, id: &str) -> Result<bool> {
        query::was_started(self, id)
    }
    /// All containers below the root, sorted by ID; a broken record is passed to `broken`.
    pub fn list(&self, broken: &mut dyn FnMut(&str, Error)) -> Result<Vec<StateReport>> {
        query::list(self, broken)
    }
    /// Sends a signal to the init, or with `all` to every process of the container.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        stop::kill(self, id, signal, all)
    }
    /// Removes a stopped container; with `force` kills it first, and a missing one is no error.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        stop::delete(self, id, force)
    }
    /// Removes all containers whose ID matches a POSIX extended regular expression; what goes wrong
    /// with one does not save the others.
    pub fn delete_matching(&self, pattern: &str, force: bool) -> Result<()> {
        stop::delete_matching(self, pattern, force)
    }
    /// Runs an additional process; returns its exit code (0 with `detach`). Needs a process with one
    /// thread.
    pub fn exec(&self, id: &str, options: &ExecOptions) -> Result<i32> {
        exec::exec(self, id, options)
    }
    /// Pids of all processes of the container, as this process sees them.
    pub fn processes(&self, id: &str) -> Result<Vec<i32>> {
        query::processes(self, id)
    }
    /// Freezes all processes.
    pub fn pause(&self, id: &str) -> Result<()> {
        control::pause(self, id)
    }
    /// Thaws all processes.
    pub fn resume(&self, id: &str) -> Result<()> {
        control::resume(self, id)
    }
    /// Changes limits of a live container (and Intel RDT schemata).
    pub fn update(
        &self,
        id: &str,
        resources: &LinuxResources,
        l3_cache_schema: Option<&str>,
        mem_bw_schema: Option<&str>,
    ) -> Result<()> {
        control::update(self, id, resources, l3_cache_schema, mem_bw_schema)
    }
    /// One statistics record, in the JSON shape of runc's `events --stats`.
    pub fn stats(&self, id: &str) -> Result<crate::cgroup::stats::Stats> {
        control::stats(self, id)
    }
    /// A descriptor that becomes readable on each OOM kill and hangs up when the cgroup is gone.
    pub fn oom_watch(&self, id: &str) -> Result<crate::cgroup::oom::Watch> {
        control::oom_watch(self, id)
    }

    /// How many processes of the container the kernel killed for lack of memory; none where it does not
    /// count.
    pub fn oom_kills(&self, id: &str) -> Result<Option<u64>> {
        control::oom_kills(self, id)
    }

    /// Makes a sub-cgroup for an `exec`, with which all that it starts can be ended; `FailedPrecondition`
    /// if the container does not run.
    pub fn branch(&self, id: &str, name: &str) -> Result<crate::cgroup::Branch> {
        control::branch(self, id, name)
    }

    /// Sub-cgroups of a container whose names begin so; none if it does not run.
    pub fn branches(&self, id: &str, prefix: &str) -> Result<Vec<crate::cgroup::Branch>> {
        control::branches(self, id, prefix)
    }

    /// Whether rights over cgroups are not to be expected.
    pub fn is_rootless(&self) -> bool {
        static FOUND: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        let find = || !rustix::process::geteuid().is_root() || in_user_namespace();
        self.rootless.unwrap_or_else(|| *FOUND.get_or_init(find))
    }
}

/// Whether this process's user namespace is not the initial one: that one maps all ids.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut fields = map.split_whitespace();
    fields.next() != Some("0") || fields.next() != Some("0") || fields.next() != Some("4294967295")
}

/// Makes `path` absolute against the caller's working directory, without resolving links.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}
