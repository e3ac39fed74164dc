//! What lies beside the images: their directories, `descriptors.json`, criu's log; and the names under
//! which mounts, namespaces and streams from outside the container are known to criu.
//!
//! Images may come from somebody else: files in them are opened without following links, and read up
//! to a limit.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType as Type;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::rpc::{Options, Version};
use super::swrk::{self, Criu, Failure};
use super::{CgroupMode, CriuOptions};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::plan::{MountKind, Plan};
use crate::rootfs::cgroup::View;

/// Names of the standard streams of what was dumped.
const DESCRIPTORS: &str = "descriptors.json";
/// Largest file of that name, and the end of the log that is looked at.
const READ_MAX: u64 = 256 << 10;
/// Lines of the log that get into an error.
const LINES_MAX: usize = 4;
/// Where options come from when the configuration names no file of its own: the one that
/// administrators wrote for runc.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";
/// The oldest criu that takes a pid namespace from outside.
const EXTERNAL_PID: Version = Version(31_500);
/// The same for a network namespace.
const EXTERNAL_NETWORK: Version = Version(31_100);

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

/// Names of a process's standard streams, as /proc has them; empty for one that is closed.
pub(super) fn streams_of(process: &str) -> Vec<String> {
    let name = |number: u32| {
        std::fs::read_link(format!("/proc/{process}/fd/{number}"))
            .map(|target| target.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    (0..3).map(name).collect()
}

/// Something that is mounted from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct External {
    /// In the container.
    pub place: PathBuf,
    /// Outside.
    pub source: PathBuf,
}

/// Mounts whose source is outside the container, and devices, which are bound where they may not be
/// made. `resolve` follows the links of a place inside the container's root.
pub(super) fn external_mounts(
    plan: &Plan,
    cgroups: &View,
    resolve: &dyn Fn(&Path) -> PathBuf,
) -> Vec<External> {
    let path = |text: &std::ffi::CStr| PathBuf::from(OsString::from_vec(text.to_bytes().to_vec()));
    let mut all = Vec::new();
    for step in &plan.mounts {
        let target = path(&step.target);
        match &step.kind {
            MountKind::Bind(bind) => all.push(External {
                place: resolve(&target),
                source: path(&bind.source),
            }),
            // With a cgroup namespace these are file systems that criu can mount anew.
            MountKind::Cgroup if !cgroups.namespaced => {
                let target = resolve(&target);
                all.extend(cgroups.hierarchies.iter().map(|hierarchy| External {
                    place: target.join(path(&hierarchy.name)),
                    source: path(&hierarchy.directory),
                }));
                all.extend(cgroups.unified.iter().map(|directory| External {
                    place: target.clone(),
                    source: path(directory),
                }));
            }
            _ => {}
        }
    }
    all.extend(plan.devices.iter().map(|device| External {
        place: resolve(&path(&device.path)),
        source: path(&device.path),
    }));
    all
}

/// Follows links of `place` as far as it exists below `root`, never leaving that. Only for names:
/// what the result is used for must not depend on its truth.
pub(super) fn resolve(root: &Path, place: &Path) -> PathBuf {
    const LINKS_MAX: usize = 255;
    let mut done = PathBuf::from("/");
    let mut rest: Vec<OsString> = names(place);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        done.push(&name);
        let below = done.strip_prefix("/").unwrap_or(&done);
        let Ok(target) = std::fs::read_link(root.join(below)) else {
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return place.to_owned();
        }
        done.pop();
        if target.is_absolute() {
            done = PathBuf::from("/");
        }
        rest.extend(names(&target));
    }
    done
}

/// The components of a path, the first one last.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    let mut names: Vec<OsString> = path.components().filter_map(name).collect();
    names.reverse();
    names
}

/// Key and value as criu takes them.
pub(super) fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// What criu calls a kind of namespace.
pub(super) fn namespace_name(name: &'static str) -> &'static str {
    match name {
        "network" => "net",
        "mount" => "mnt",
        other => other,
    }
}

/// The key of a namespace that the container got from outside; `None` for kinds that criu cannot
/// leave outside.
pub(super) fn namespace_key(criu: &Criu, name: &str) -> Result<Option<&'static str>> {
    match name {
        "network" => {
            criu.require(EXTERNAL_NETWORK, "a network namespace from outside")?;
            Ok(Some("extRootNetNS"))
        }
        "pid" => {
            criu.require(EXTERNAL_PID, "a pid namespace from outside")?;
            Ok(Some("extRootPidNS"))
        }
        _ => Ok(None),
    }
}

/// Whether the container sees its cgroup as the root of the hierarchy.
pub(super) fn cgroup_view(plan: &Plan, cgroup: &crate::cgroup::Cgroup) -> Result<View> {
    let mounted = plan
        .mounts
        .iter()
        .any(|m| matches!(m.kind, MountKind::Cgroup));
    if !mounted {
        return Ok(View::default());
    }
    cgroup.mount_view(plan.namespaces.has(Type::Cgroup))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Facts;

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

    fn plan(mounts: &serde_json::Value) -> Plan {
        let spec: oci_spec::runtime::Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["x"], "user": {"uid": 0, "gid": 0}},
            "mounts": mounts,
        }))
        .unwrap();
        let facts = Facts {
            bundle: Path::new("/b"),
            no_pivot: false,
            listen_fds: None,
            selinux: false,
        };
        Plan::from_spec(&spec, &facts).unwrap()
    }

    #[test]
    fn binds_cgroups_and_devices_come_from_outside() {
        let plan = plan(&serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/vol", "source": "data", "options": ["rbind"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
        ]));
        let mut view = View {
            hierarchies: vec![crate::rootfs::cgroup::Hierarchy {
                name: c"cpu,cpuacct".to_owned(),
                links: Vec::new(),
                options: c"cpu,cpuacct".to_owned(),
                directory: c"/sys/fs/cgroup/cpu,cpuacct/c1".to_owned(),
            }],
            ..View::default()
        };
        let resolve = |place: &Path| match place.to_str() {
            Some("/vol") => PathBuf::from("/real/vol"),
            _ => place.to_owned(),
        };
        let pair = |place: &str, source: &str| External {
            place: place.into(),
            source: source.into(),
        };
        let all = external_mounts(&plan, &view, &resolve);
        assert_eq!(all[0], pair("/real/vol", "/b/data"));
        assert_eq!(
            all[1],
            pair(
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/cpu,cpuacct/c1"
            )
        );
        assert!(all.contains(&pair("/dev/null", "/dev/null")));
        view.namespaced = true;
        let all = external_mounts(&plan, &view, &resolve);
        assert!(all.iter().all(|e| !e.place.starts_with("/sys")), "{all:?}");
    }

    #[test]
    fn links_lead_nowhere_but_into_the_root() {
        let dir = std::env::temp_dir().join(format!("rcrun-resolve-{}", std::process::id()));
        let root = dir.join("root");
        std::fs::create_dir_all(root.join("real/conf")).unwrap();
        for (link, target) in [
            ("conf", "/real/conf"),
            ("up", "../../../../etc"),
            ("loop", "loop"),
            ("relative", "real/../conf"),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let found: Vec<_> = [
            "/conf",
            "/conf/x/y",
            "/up/passwd",
            "/a/../b",
            "/relative",
            "/loop",
        ]
        .iter()
        .map(|place| resolve(&root, Path::new(place)))
        .collect();
        std::fs::remove_dir_all(&dir).unwrap();
        let expected = [
            "/real/conf",
            "/real/conf/x/y",
            "/etc/passwd",
            "/b",
            "/real/conf",
            "/loop",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn own_streams_have_names() {
        let names = streams_of("self");
        assert_eq!(names.len(), 3);
        assert_eq!(streams_of("0"), ["", "", ""]);
    }
}
