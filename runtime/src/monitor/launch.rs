//! `launch.json`, what a monitor is told; and the start of a monitor.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::protocol::WireError;
use crate::container::{CgroupDriver, Runtime};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::state::{MONITORS, check_id};

/// Version of the document that this program writes and reads.
pub const VERSION: u32 = 1;
const NAME: &str = "launch.json";
/// How often a directory is made that others take away at the same time.
const ATTEMPTS: usize = 100;
const LENGTH_MAX: u64 = 1 << 20;
const ANSWER_MAX: u64 = 64 << 10;

/// What a monitor is told. Unknown fields are ignored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// [`VERSION`].
    pub version: u32,
    /// The container's ID.
    pub id: String,
    /// Its bundle; absolute.
    pub bundle: PathBuf,
    /// The runtime that makes it.
    pub runtime: RuntimeFlags,
    /// Where its root comes from, if not from the bundle: for the caller of [`super::serve`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// The container has a terminal, as its configuration says too.
    #[serde(default)]
    pub terminal: bool,
    /// The terminal's first size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_size: Option<Size>,
    /// What the container's standard input is.
    #[serde(default)]
    pub stdin: Stdin,
    /// Where its output is kept, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// The exit record; absolute.
    pub exit: PathBuf,
    /// Nobody wants that after a power cut: it is not synced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passing: bool,
    /// When its program starts.
    #[serde(default)]
    pub start: When,
    /// The container is not made but goes on where a checkpoint left it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// What the monitor becomes when all is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_exit: Option<Vec<String>>,
}

/// The global flags of the runtime.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RuntimeFlags {
    /// `--root`.
    pub root: PathBuf,
    /// `--systemd-cgroup`.
    #[serde(default)]
    pub systemd_cgroup: bool,
    /// `--rootless`.
    #[serde(default)]
    pub rootless: Option<bool>,
}

/// A snapshot of the image store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// The store.
    pub store: PathBuf,
    /// The snapshot's name.
    pub id: String,
}

/// A checkpoint, which is not trusted: what it becomes has to be what the configuration says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restore {
    /// The directory of criu's images, which is removed when the container goes on; absolute.
    pub images: PathBuf,
    /// Where criu logs; absolute.
    pub work: PathBuf,
    /// The program; absolute.
    pub criu: PathBuf,
    /// SELinux context of mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_context: Option<String>,
    /// LSM profile of the program, as `TYPE:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// What a container's standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdin {
    /// Nothing to read.
    #[default]
    None,
    /// Stays open whoever attaches and leaves.
    Open,
    /// Ends with the input of the first one to attach.
    Once,
}

/// When the program starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// As soon as the container is made.
    #[default]
    Now,
    /// When somebody says so.
    Later,
}

/// Where output is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Log {
    /// The file; absolute.
    pub path: PathBuf,
    /// Size at which a new file is begun.
    #[serde(default)]
    pub max_size: Option<u64>,
    /// How many files are kept, the current one included.
    #[serde(default = "one")]
    pub max_files: u32,
}

fn one() -> u32 {
    1
}

impl Launch {
    /// Reads the document of a monitor's directory.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(NAME);
        let wrong =
            |why: String| Error::new(ErrorKind::Corrupt, format!("{}: {why}", path.display()));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::empty())
            .context(|| format!("cannot open {}", path.display()))?;
        let mut text = Vec::new();
        std::fs::File::from(file)
            .take(LENGTH_MAX)
            .read_to_end(&mut text)
            .context(|| format!("cannot read {}", path.display()))?;
        let launch: Self = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        launch.check().map_err(wrong)?;
        Ok(launch)
    }

    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!(
                "version {} is not known to this rcrun (it knows {VERSION})",
                self.version
            ));
        }
        let log = self.log.as_ref().map(|log| log.path.as_path());
        let restore = self.restore.iter();
        let restore = restore.flat_map(|all| [&*all.images, &*all.work, &*all.criu]);
        let paths = [Some(self.bundle.as_path()), Some(&*self.exit), log];
        for path in paths.into_iter().chain(restore.map(Some)) {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                return Err(format!("path {} is not absolute", path.display()));
            }
        }
        if self.restore.is_some() && self.start == When::Later {
            return Err("a container that is restored starts at once".to_owned());
        }
        if self.on_exit.as_ref().is_some_and(Vec::is_empty) {
            return Err("on_exit names no program".to_owned());
        }
        Ok(())
    }

    /// The runtime that makes the container.
    pub fn runtime(&self) -> Runtime {
        Runtime {
            root: self.runtime.root.clone(),
            cgroup_driver: match self.runtime.systemd_cgroup {
                true => CgroupDriver::Systemd,
                false => CgroupDriver::Files,
            },
            rootless: self.runtime.rootless,
        }
    }

    /// Starts a monitor with this document; returns when its container is made (and started, with
    /// [`When::Now`]). `flags` are global flags for it: where it logs. `lock` is kept open, and so held,
    /// until then, also if this process is killed.
    pub fn start(&self, flags: &[OsString], lock: Option<BorrowedFd<'_>>) -> Result<Started> {
        self.check().map_err(Error::invalid)?;
        let directory = directory_of(&self.runtime.root, &self.id)?;
        self.write(&directory)?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .context(|| "cannot create a pipe")?;
        // Without close-on-exec, unlike all of ours.
        let lock = lock
            .map(rustix::io::dup)
            .transpose()
            .context(|| "cannot duplicate a lock")?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0().args(flags);
        command.args(["monitor", "--ready-fd", "1"]);
        if let Some(lock) = &lock {
            command.args(["--lock-fd", &lock.as_raw_fd().to_string()]);
        }
        // What a service manager hands to the caller is not for containers.
        for name in [
            "LISTEN_FDS",
            "LISTEN_PID",
            "LISTEN_FDNAMES",
            "NOTIFY_SOCKET",
        ] {
            command.env_remove(name);
        }
        let monitor = command
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::from(writer))
            .spawn()
            .context(|| "cannot start a monitor")?;
        // With them goes our end of the pipe: its other end hears when the monitor's is closed.
        drop((command, lock));
        let mut started = Started { pid: 0, monitor };
        match answer(reader) {
            Ok(pid) => {
                started.pid = pid;
                Ok(started)
            }
            Err(error) => {
                // It said no, or is gone: either way it ends.
                let _ = started.monitor.wait();
                Err(error)
            }
        }
    }

    fn write(&self, directory: &Path) -> Result<()> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let failed = || format!("cannot write {}", directory.join(NAME).display());
        // Whoever removes the last directory takes the one above along: then it is made again.
        let mut attempts = 0;
        loop {
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory);
            match made {
                Err(error)
                    if error.kind() == std::io::ErrorKind::NotFound && attempts < ATTEMPTS =>
                {
                    attempts += 1;
                }
                made => break made.context(failed)?,
            }
        }
        let text =
            serde_json::to_vec(self).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
        let new = directory.join(".new");
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| std::fs::rename(&new, directory.join(NAME)))
            .context(failed)
    }
}

/// `ps` shows `rcrun`, not the path of a link.
trait Arg0 {
    fn arg0(&mut self) -> &mut Self;
}

impl Arg0 for Command {
    fn arg0(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::arg0(self, "rcrun")
    }
}

/// A container, and the monitor that looks after it.
#[derive(Debug)]
pub struct Started {
    /// The container's init.
    pub pid: i32,
    /// The monitor. Who stays should wait for it in the end; who ends leaves it to pid 1.
    pub monitor: Child,
}

#[derive(Deserialize)]
struct Answer {
    pid: Option<i32>,
    error: Option<WireError>,
}

fn answer(reader: OwnedFd) -> Result<i32> {
    let mut text = Vec::new();
    std::fs::File::from(reader)
        .take(ANSWER_MAX)
        .read_to_end(&mut text)
        .context(|| "cannot hear from the monitor")?;
    let gone = || Error::new(ErrorKind::Unavailable, "the monitor ended without a word");
    let answer: Answer = serde_json::from_slice(&text).map_err(|_| gone())?;
    match (answer.pid, answer.error) {
        (_, Some(error)) => Err(error.into()),
        (Some(pid), None) => Ok(pid),
        (None, None) => Err(gone()),
    }
}

/// The directory of a container's monitor.
pub(super) fn directory_of(root: &Path, id: &str) -> Result<PathBuf> {
    check_id(id)?;
    Ok(root.join(MONITORS).join(id))
}

/// Whether a container has a monitor that lives, also one that does not listen yet or any more.
pub fn lives(root: &Path, id: &str) -> Result<bool> {
    let directory = directory_of(root, id)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = match rustix::fs::open(&directory, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        other => other.context(|| format!("cannot open {}", directory.display()))?,
    };
    match rustix::fs::flock(&place, rustix::fs::FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno).context(|| format!("cannot lock {}", directory.display())),
    }
}

/// Removes what a monitor that is gone has left below the runtime's root.
pub fn remove(root: &Path, id: &str) -> Result<()> {
    let directory = directory_of(root, id)?;
    for name in [NAME, super::serve::SOCKET, ".new"] {
        match rustix::fs::unlink(directory.join(name)) {
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(errno) => {
                return Err(errno).context(|| format!("cannot empty {}", directory.display()));
            }
        }
    }
    match rustix::fs::rmdir(&directory) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => {
            return Err(errno).context(|| format!("cannot remove {}", directory.display()));
        }
    }
    // The last one gone: others may be about to be made, which makes it again.
    let _ = rustix::fs::rmdir(root.join(MONITORS));
    Ok(())
}
