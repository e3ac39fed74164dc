//! Checkpoint and restore, by criu(8): what a caller can ask for.
//!
//! `criu swrk` does the work; `rcrun` tells it over criu's RPC ([`rpc`], [`swrk`]) which parts of the
//! container come from outside, and answers when criu says how far it is. [`dump`] and [`restore`] are
//! the two operations, [`images`] what lies beside criu's files, [`root`] the root directory that a
//! restored container gets, [`verify`] the judgement of what images from elsewhere became. Flags and meanings are those of runc-checkpoint(8) and runc-restore(8);
//! images made by runc can be restored, and the other way round.

mod dump;
mod external;
mod here;
mod images;
mod restore;
mod root;
mod rpc;
mod swrk;
mod verify;

use std::path::{Path, PathBuf};

use crate::container::{CreateOptions, Runtime};
use crate::error::Result;

/// Whether this build can checkpoint; `features` says so too. Whether a criu is installed is seen
/// when it is needed.
pub const SUPPORTED: bool = true;

/// How criu treats the cgroups of what it dumps (criu(8), `--manage-cgroups`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupMode {
    /// Restores properties of cgroups that criu itself made.
    #[default]
    Soft,
    /// Always restores all cgroups and their properties.
    Full,
    /// Fails when a cgroup exists already.
    Strict,
    /// Leaves cgroups alone.
    Ignore,
}

/// Where the pages go instead of into files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageServer {
    /// Host name or address.
    pub address: String,
    /// TCP port.
    pub port: u16,
}

/// What `checkpoint` and `restore` have in common.
#[derive(Debug, Clone, Default)]
pub struct CriuOptions {
    /// The program; `None` looks for `criu` in `$PATH`.
    pub criu: Option<PathBuf>,
    /// Directory of the image files; absolute.
    pub image_path: PathBuf,
    /// Directory of logs and work files; `None`: criu's default.
    pub work_path: Option<PathBuf>,
    /// Allow established TCP connections.
    pub tcp_established: bool,
    /// Those are closed when the container goes on, and are no matter till then.
    pub tcp_close: bool,
    /// Allow external Unix sockets.
    pub external_unix_sockets: bool,
    /// Allow a controlling terminal from outside.
    pub shell_job: bool,
    /// Handle file locks.
    pub file_locks: bool,
    /// Treatment of cgroups.
    pub cgroup_mode: CgroupMode,
    /// Leave the network namespace empty (it always is: engines make the network anew).
    pub empty_network: bool,
    /// Deduplicate memory images.
    pub auto_dedup: bool,
    /// Restore memory pages on demand.
    pub lazy_pages: bool,
    /// The largest file without a name that is saved, in bytes; `None`: criu's default.
    pub ghost_limit: Option<u32>,
}

/// Options of [`Runtime::checkpoint`].
#[derive(Debug, Clone, Default)]
pub struct CheckpointOptions {
    /// Common part.
    pub common: CriuOptions,
    /// An earlier pre-dump, relative to `image_path`.
    pub parent_path: Option<PathBuf>,
    /// Let the container run on.
    pub leave_running: bool,
    /// Leave out connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Link unlinked files back.
    pub link_remap: bool,
    /// Descriptor that receives a zero byte once lazy pages are ready.
    pub status_fd: Option<i32>,
    /// Send pages there.
    pub page_server: Option<PageServer>,
    /// Dump memory only and let the container run on.
    pub pre_dump: bool,
}

/// Options of [`Runtime::restore`].
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Common part.
    pub common: CriuOptions,
    /// Bundle, console socket, pid file, detach, pivot and subreaper, as for `run`.
    pub container: CreateOptions,
    /// LSM profile as `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// SELinux context of restored mounts.
    pub lsm_mount_context: Option<String>,
    /// The images are somebody else's: what they become has to be what the configuration says
    /// ([`verify`]), and no cgroup is theirs to make.
    pub foreign: bool,
}

impl Runtime {
    /// Saves a running container's state into image files, and removes the container unless it is to
    /// run on. Needs a process with one thread.
    pub fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<()> {
        dump::checkpoint(self, id, options)
    }

    /// Makes a container from image files; without `detach` waits and returns the exit code. Needs a
    /// process with one thread.
    pub fn restore(&self, id: &str, options: &RestoreOptions) -> Result<i32> {
        restore::restore(self, id, options)
    }
}

pub(crate) use restore::restore_attended;

/// The criu that is meant: this path, or a program of the name in `$PATH`. The error has the remedy.
pub fn find(program: Option<&Path>) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let found = swrk::find(program)?;
    Ok(std::ffi::OsString::from_vec(found.into_bytes()).into())
}

/// Names of this process's standard streams, which a container without a terminal gets: what
/// `checkpoint` calls them later.
pub(crate) fn own_streams() -> Vec<String> {
    external::streams_of("self")
}

/// The name of a stream that a container is given, as [`own_streams`] has it.
pub(crate) fn stream_name(stream: std::os::fd::BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd as _;
    external::name_of("self", stream.as_raw_fd())
}
