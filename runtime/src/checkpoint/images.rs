//! What lies beside the images: their directories, `descriptors.json`, criu's log.
//!
//! Images may come from somebody else: files in them are opened without following links, and read up
//! to a limit.

use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::rpc::Options;
use super::swrk::{self, Failure};
use super::{CgroupMode, CriuOptions};
use crate::error::{Context, Error, ErrorKind, Result};

/// Names of the standard streams of what was dumped.
const DESCRIPTORS: &str = "descriptors.json";
/// Largest file of that name, and the end of the log that is looked at.
const READ_MAX: u64 = 256 << 10;
/// Lines of the log that get into an error.
const LINES_MAX: usize = 4;
/// Where options come from when the configuration names no file of its own: the one that
/// administrators wrote for runc.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";

/// The directories that criu works in.
#[derive(Debug)]
pub(super) struct Directories {
    paths: Vec<PathBuf>,
    /// The image directory and, if there is one, the work directory.
    images: OwnedFd,
    work: Option<OwnedFd>,
    log: PathBuf,
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .context(|| format!("cannot open {}", path.display()))
}

/// Makes a directory unless it is there.
fn make_directory(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("cannot create {}", path.display())),
    }
}

impl Directories {
    /// Opens them; the work directory is made if it is missing.
    pub(super) fn open(options: &CriuOptions, log: &str) -> Result<Self> {
        let images = open_directory(&options.image_path)?;
        let work = match &options.work_path {
            None => None,
            Some(path) => {
                make_directory(path)?;
                Some(open_directory(path)?)
            }
        };
        let place = options.work_path.as_ref().unwrap_or(&options.image_path);
        let paths = [Some(&options.image_path), options.work_path.as_ref()];
        Ok(Self {
            paths: paths.into_iter().flatten().cloned().collect(),
            images,
            work,
            log: place.join(log),
        })
    }

    /// Their paths.
    pub(super) fn paths(&self) -> Vec<&Path> {
        self.paths.iter().map(PathBuf::as_path).collect()
    }

    /// Uses other descriptors for the same paths, opened in criu's mount namespace.
    pub(super) fn exchange(&mut self, opened: Vec<OwnedFd>) {
        let mut opened = opened.into_iter();
        if let Some(images) = opened.next() {
            self.images = images;
        }
        if let Some(work) = opened.next() {
            self.work = Some(work);
        }
    }

    /// The directory of the images.
    pub(super) fn images(&self) -> BorrowedFd<'_> {
        self.images.as_fd()
    }

    /// What dump and restore have in common.
    pub(super) fn options(&self, options: &CriuOptions, log: &'static str) -> Options {
        Options {
            images_dir_fd: self.images.as_raw_fd(),
            work_dir_fd: self.work.as_ref().map(AsRawFd::as_raw_fd),
            log_level: Some(4),
            log_file: Some(log),
            cgroup_mode: Some(cgroup_mode(options.cgroup_mode)),
            notify_scripts: true,
            shell_job: options.shell_job,
            tcp_established: options.tcp_established,
            tcp_close: options.tcp_close,
            ext_unix_sk: options.external_unix_sockets,
            file_locks: options.file_locks,
            empty_namespaces: if options.empty_network {
                libc::CLONE_NEWNET as u64
            } else {
                0
            },
            orphan_pts_master: true,
            auto_dedup: options.auto_dedup,
            lazy_pages: options.lazy_pages,
            ghost_limit: options.ghost_limit,
            ..Options::default()
        }
    }

    /// The error for a failed request: what criu's log says about it, and where that is.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        let (what, reason, kind) = match failure {
            Failure::Ours(error) => return error,
            Failure::Refused(response) => {
                let kind = ErrorKind::Internal;
                (swrk::refusal(&response), response.message, kind)
            }
            Failure::Broken(error) => (error.chain().to_string(), None, error.kind()),
        };
        let log = self.log.display();
        let text = self.read_log();
        let lines = text.as_deref().map(error_lines).unwrap_or_default();
        let reason = match (lines.as_slice(), &reason) {
            ([], None) => String::new(),
            ([], Some(reason)) => format!(": {}", reason.trim()),
            (lines, _) => format!(": {}", lines.join("; ")),
        };
        Error::new(kind, format!("{what} (log file: {log}){reason}"))
    }

    fn read_log(&self) -> Result<String, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.log, flags, Mode::empty())?;
        let size = rustix::fs::fstat(&file)?.st_size as u64;
        rustix::fs::seek(
            &file,
            rustix::fs::SeekFrom::Start(size.saturating_sub(READ_MAX)),
        )?;
        read_all(file)
    }

    /// Keeps the names of the streams.
    pub(super) fn write_descriptors(&self, names: &[String]) -> Result<()> {
        let write = || -> Result<(), Errno> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(0o600);
            let file =
                rustix::fs::openat(&self.images, DESCRIPTORS, flags | OFlags::CLOEXEC, mode)?;
            let text = serde_json::json!(names).to_string();
            match rustix::io::retry_on_intr(|| rustix::io::write(&file, text.as_bytes()))? {
                length if length == text.len() => Ok(()),
                _ => Err(Errno::NOSPC),
            }
        };
        write().context(|| format!("cannot write {DESCRIPTORS}"))
    }

    /// The names of the streams, three at most: what follows would name descriptors that are not the
    /// container's.
    pub(super) fn read_descriptors(&self) -> Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let text = rustix::fs::openat(&self.images, DESCRIPTORS, flags, Mode::empty())
            .and_then(read_all)
            .context(|| format!("cannot read {DESCRIPTORS} of the image directory"))?;
        let mut names: Vec<String> = serde_json::from_str(&text).map_err(|error| {
            Error::new(
                ErrorKind::Corrupt,
                format!("{DESCRIPTORS} of the image directory: {error}"),
            )
        })?;
        names.truncate(3);
        Ok(names)
    }
}

/// A plain file, up to the limit.
fn read_all(file: OwnedFd) -> Result<String, Errno> {
    use std::io::Read as _;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(READ_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last errors of a log, without their times.
fn error_lines(log: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = log
        .lines()
        .rev()
        .filter(|line| line.contains("Error"))
        .take(LINES_MAX)
        .collect();
    lines.reverse();
    for line in &mut lines {
        if let Some(rest) = line.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            *line = rest.1;
        }
        *line = line.trim();
    }
    lines
}

fn cgroup_mode(mode: CgroupMode) -> u64 {
    match mode {
        CgroupMode::Ignore => 0,
        CgroupMode::Soft => 3,
        CgroupMode::Full => 4,
        CgroupMode::Strict => 5,
    }
}

/// The file with more options: an annotation names it, or, when empty, that there is none.
pub(super) fn config_file(
    annotations: &std::collections::BTreeMap<String, String>,
) -> Option<Vec<u8>> {
    let named = annotations.get("org.criu.config").map(String::as_str);
    let name = named.unwrap_or(CONFIG_FILE);
    (!name.is_empty()).then(|| name.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_picked_from_a_log() {
        let log = "(00.01) fine\n(00.02) Error (criu/a.c:1): one\nWarn x\n(00.03) Error (b): two\n";
        assert_eq!(
            error_lines(log),
            ["Error (criu/a.c:1): one", "Error (b): two"]
        );
        let many = "Error 1\nError 2\nError 3\nError 4\nError 5\n";
        assert_eq!(
            error_lines(many),
            ["Error 2", "Error 3", "Error 4", "Error 5"]
        );
        assert!(error_lines("all is well\n").is_empty());
    }

    #[test]
    fn annotation_names_the_file_of_options() {
        let with = |value: &str| [("org.criu.config".to_owned(), value.to_owned())].into();
        assert_eq!(
            config_file(&[].into()).as_deref(),
            Some(b"/etc/criu/runc.conf".as_slice())
        );
        assert_eq!(config_file(&with("/x")).as_deref(), Some(b"/x".as_slice()));
        assert_eq!(config_file(&with("")), None);
    }
}
