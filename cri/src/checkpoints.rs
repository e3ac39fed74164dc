//! Containers that are saved to an archive, and go on from one (KEP-2008).
//!
//! The archive is the one that containerd and CRI-O write and checkpointctl reads (the names below; its
//! `lib/metadata.go`): criu's images, what the container changed of its image, and what it was.
//!
//! - [`save`]: CheckpointContainer. [`capture`](mod@capture) is the process that does the work, [`place`] the
//!   file that is there whole or not at all, [`write`] what stands in it, [`documents`] what is said there.
//! - [`restore`]: CreateContainer of an archive, or of an image that has one, and its start. [`arrive`] reads
//!   archives. Those are anybody's: of them come criu's images, files, the text of the log and the name of
//!   the image below, and nothing of the configuration. What criu makes of its images is judged by
//!   the runtime before it runs (`rcrun_runtime::checkpoint`).

mod arrive;
mod capture;
mod documents;
mod place;
mod restore;
mod save;
mod write;

pub use capture::capture;
pub(crate) use restore::{Source, clear, is_restoring, keep, start};

/// criu's images.
const IMAGES: &str = "checkpoint";
/// What the container was made of.
const CONFIG: &str = "config.dump";
/// Its configuration.
const SPEC: &str = "spec.dump";
/// Its status, as the kubelet is told.
const STATUS: &str = "status.dump";
/// The same in the words of containerd.
const STATE: &str = "status";
/// Directories and files that were mounted into it.
const BINDS: &str = "bind.mounts";
/// What it changed of its image.
const ROOTFS: &str = "rootfs-diff.tar";
/// What it deleted of that.
const DELETED: &str = "deleted.files";
/// Its log.
const LOG: &str = "container.log";
/// criu's log.
const DUMP_LOG: &str = "dump.log";
/// criu's figures.
const STATISTICS: &str = "stats-dump";

/// Where a container is saved, below its directory, before that becomes an archive.
const SAVING: &str = "saving";
/// Where an archive lies that a container is to go on from.
const RESTORING: &str = "restoring";

/// The criu that is used, as the settings say.
pub(crate) fn criu(settings: &crate::Settings) -> crate::Result<std::path::PathBuf> {
    rcrun_runtime::checkpoint::find(settings.criu.as_deref())
}
