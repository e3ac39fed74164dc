//! The judgement of a container that was made from somebody else's images: criu makes what those say, so
//! who runs it, with which rights, in which namespaces and with which mounts has to be compared with the
//! configuration. [`images`] looks at the images before criu does, [`Judge`] at the processes when all of
//! them are there and none runs yet (criu's notification `pre-resume`).
//!
//! Not judged: memory, open files and what programs do; the rights that are left limit those. What
//! is read of processes is in proc_pid_status(5), namespaces(7), proc_pid_mountinfo(5), statx(2).

mod images;
mod rights;

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::plan::{MountKind, Plan};
use crate::rootfs::Root;
use crate::rootfs::cgroup::View;
use crate::rootfs::resolve::Links;
use crate::state::Record;

pub(super) use images::images;
use rights::{Rights, rights_of};

/// Most threads that are looked at.
const THREADS: usize = 1 << 16;
/// Kinds of namespaces by their names in /proc and in a plan, with their flags.
const NAMESPACES: [(&str, &str, i32); 7] = [
    ("cgroup", "cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", "ipc", libc::CLONE_NEWIPC),
    ("mnt", "mount", libc::CLONE_NEWNS),
    ("net", "network", libc::CLONE_NEWNET),
    ("pid", "pid", libc::CLONE_NEWPID),
    ("user", "user", libc::CLONE_NEWUSER),
    ("uts", "uts", libc::CLONE_NEWUTS),
];

/// What the configuration allows.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) plan: &'a Plan,
    pub(super) record: &'a Record,
    /// The root, where that came as a mount.
    pub(super) tree: Option<BorrowedFd<'a>>,
    /// System calls are filtered.
    pub(super) filtered: bool,
    /// criu is in the container's cgroup too.
    pub(super) criu: i32,
}

fn refused(what: impl std::fmt::Display) -> Error {
    let text = format!("{what}: the checkpoint is not of a container like this one");
    Error::new(ErrorKind::PermissionDenied, text)
}

/// Where a container of this plan has mounts. `resolve` follows the links of a place inside its root.
pub(super) fn places(
    plan: &Plan,
    cgroups: &View,
    resolve: &dyn Fn(&Path) -> PathBuf,
) -> HashSet<PathBuf> {
    let path = |text: &CStr| PathBuf::from(OsStr::from_bytes(text.to_bytes()));
    let mut all = HashSet::from([PathBuf::from("/"), PathBuf::from("/dev/console")]);
    for step in &plan.mounts {
        let target = resolve(&path(&step.target));
        if matches!(step.kind, MountKind::Cgroup) {
            let below = cgroups.hierarchies.iter();
            all.extend(below.map(|hierarchy| target.join(path(&hierarchy.name))));
        }
        all.insert(target);
    }
    let covered = plan.masked.iter().chain(&plan.readonly);
    all.extend(covered.map(|place| resolve(&path(place))));
    all.extend(
        plan.devices
            .iter()
            .map(|device| resolve(&path(&device.path))),
    );
    all
}

impl Judge<'_> {
    /// The error says what is not as the configuration has it.
    pub(super) fn container(&self) -> Result<()> {
        let processes = self.processes()?;
        if !processes.contains(&self.record.pid) {
            return Err(refused("the first process is not in its cgroup".to_owned()));
        }
        for pid in &processes {
            self.namespaces(*pid)?;
            for thread in threads(*pid)? {
                let text = read(&format!("/proc/{pid}/task/{thread}/status"))?;
                let rights = Rights::parse(&text)
                    .ok_or_else(|| refused(format!("nobody knows who process {pid} is")))?;
                rights_of(self.plan, &rights, self.filtered)
                    .map_err(|what| refused(format!("process {pid} {what}")))?;
            }
            self.settle_oom_score(*pid)?;
        }
        self.mounts()
    }

    /// All of the container, and nothing of criu.
    fn processes(&self) -> Result<Vec<i32>> {
        let mut all = self.record.cgroup.processes()?;
        let parents: HashMap<i32, i32> = all
            .iter()
            .filter_map(|pid| Some((*pid, parent(*pid)?)))
            .collect();
        let of_criu = |pid: i32| {
            let mut at = pid;
            for _ in 0..parents.len() {
                if at == self.criu {
                    return true;
                }
                match parents.get(&at) {
                    Some(parent) => at = *parent,
                    None => break,
                }
            }
            at == self.criu
        };
        all.retain(|pid| !of_criu(*pid));
        Ok(all)
    }

    fn namespaces(&self, pid: i32) -> Result<()> {
        for (name, planned, flag) in NAMESPACES {
            let found = namespace(&format!("/proc/{pid}/ns/{name}"))?;
            let joined = self
                .plan
                .namespaces
                .joins
                .iter()
                .find(|join| join.name == planned);
            let wrong = match joined {
                Some(join) => namespace(&join.path.to_string_lossy())? != found,
                None if self.plan.namespaces.all & flag as u64 != 0 => {
                    namespace(&format!("/proc/self/ns/{name}"))? == found
                }
                // The host's, or one that it made for itself.
                None => false,
            };
            if wrong {
                return Err(refused(format!(
                    "process {pid} has another {name} namespace"
                )));
            }
        }
        Ok(())
    }

    /// This is not judged but made so: images have what the node they are of found right.
    fn settle_oom_score(&self, pid: i32) -> Result<()> {
        let Some(score) = self.plan.process.oom_score_adj else {
            return Ok(());
        };
        let path = format!("/proc/{pid}/oom_score_adj");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty())
            .and_then(|file| rustix::io::write(&file, score.to_string().as_bytes()))
            .map(drop)
            .context(|| format!("cannot write {path}"))
    }

    /// Every mount of the configuration is there, as it has to be, and there is no other.
    fn mounts(&self) -> Result<()> {
        let path = format!("/proc/{}/root", self.record.pid);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty())
            .context(|| format!("cannot open {path}"))?;
        let mut known = HashSet::from([mount_of(root.as_fd(), "/")?.ok_or_else(|| {
            refused("its root directory is not where a file system begins".to_owned())
        })?]);
        self.root(&root)?;
        let inside = Root::new(root);
        for step in &self.plan.mounts {
            if !matches!(step.kind, MountKind::Remount(_)) {
                known.extend(self.mounted(&inside, step)?);
            }
        }
        for masked in &self.plan.masked {
            known.extend(covered(&inside, masked, true)?);
        }
        for path in &self.plan.readonly {
            known.extend(covered(&inside, path, false)?);
        }
        known.extend(optional(&inside, c"/dev/console")?);
        for device in &self.plan.devices {
            known.extend(optional(&inside, &device.path)?);
        }
        known.extend(self.cgroups(&inside)?);
        let path = format!("/proc/{}/mountinfo", self.record.pid);
        for (id, point) in table(&read(&path)?) {
            if !known.contains(&id) {
                return Err(refused(format!("it has a mount at {point}")));
            }
        }
        Ok(())
    }

    fn root(&self, root: &OwnedFd) -> Result<()> {
        let failed = || "cannot examine the root directory";
        let found = rustix::fs::fstat(root).context(failed)?;
        let wanted = match self.tree {
            Some(tree) => rustix::fs::fstat(tree).context(failed)?,
            None => rustix::fs::stat(&self.record.rootfs).context(failed)?,
        };
        if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino) {
            return Err(refused("it has another root directory".to_owned()));
        }
        if self.plan.rootfs.readonly && !read_only(root.as_fd())? {
            return Err(refused("its root file system can be written to".to_owned()));
        }
        Ok(())
    }

    fn mounted(&self, inside: &Root, step: &crate::plan::MountStep) -> Result<Option<u64>> {
        let place = step.target.to_string_lossy();
        let missing = || refused(format!("it has no mount at {place}"));
        let found = open(inside, &step.target)?.ok_or_else(missing)?;
        let id = mount_of(found.as_fd(), &place)?;
        if id.is_none() && !matches!(step.kind, MountKind::Cgroup) {
            return Err(missing());
        }
        let asked = (step.attr.set | step.recursive.set) & crate::sys::mount::attr::RDONLY != 0;
        if asked && !read_only(found.as_fd())? {
            return Err(refused(format!("it can write to the mount at {place}")));
        }
        let failed = || format!("cannot examine {place}");
        let other = match &step.kind {
            MountKind::Bind(bind) => {
                let wanted = rustix::fs::stat(bind.source.as_c_str())
                    .context(|| format!("cannot examine {}", bind.source.to_string_lossy()))?;
                let found = rustix::fs::fstat(&found).context(failed)?;
                (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino)
            }
            MountKind::Filesystem(fs) => {
                let kind = self.kind(id)?;
                kind.as_deref() != Some(&*fs.fstype.to_string_lossy())
            }
            MountKind::Cgroup | MountKind::Remount(_) => false,
        };
        match other {
            true => Err(refused(format!("something else is mounted at {place}"))),
            false => Ok(id),
        }
    }

    /// The type of a mount.
    fn kind(&self, id: Option<u64>) -> Result<Option<String>> {
        let path = format!("/proc/{}/mountinfo", self.record.pid);
        let text = read(&path)?;
        let line = text.lines().find(|line| {
            let first = line.split(' ').next().and_then(|id| id.parse().ok());
            first.is_some() && first == id
        });
        let kind = line.and_then(|line| line.split_once(" - ")?.1.split(' ').next());
        Ok(kind.map(str::to_owned))
    }

    /// Hierarchies of cgroup v1 are mounts below the one of the configuration.
    fn cgroups(&self, inside: &Root) -> Result<Vec<u64>> {
        let mut all = Vec::new();
        let view = super::external::cgroup_view(self.plan, &self.record.cgroup)?;
        let steps = self.plan.mounts.iter();
        for step in steps.filter(|step| matches!(step.kind, MountKind::Cgroup)) {
            for hierarchy in &view.hierarchies {
                let mut place = step.target.to_bytes().to_vec();
                place.push(b'/');
                place.extend(hierarchy.name.to_bytes());
                let place = CString::new(place).map_err(|_| Error::invalid("a null character"))?;
                all.extend(optional(inside, &place)?);
            }
        }
        Ok(all)
    }
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).context(|| format!("cannot read {path}"))
}

/// Parent of a process; none: it is gone.
fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

fn threads(pid: i32) -> Result<Vec<i32>> {
    let path = format!("/proc/{pid}/task");
    let failed = || format!("cannot list {path}");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&path).context(failed)? {
        let name = entry.context(failed)?.file_name();
        all.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
        if all.len() > THREADS {
            return Err(refused(format!(
                "process {pid} has more than {THREADS} threads"
            )));
        }
    }
    Ok(all)
}

fn namespace(path: &str) -> Result<(u64, u64)> {
    let stat = rustix::fs::stat(path).context(|| format!("cannot examine {path}"))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A place in the container; none: there is nothing.
fn open(inside: &Root, path: &CStr) -> Result<Option<OwnedFd>> {
    match inside.open(path, OFlags::PATH | OFlags::CLOEXEC, Links::Follow) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("cannot open {}", path.to_string_lossy())),
    }
}

/// The mount that begins here, if one does.
fn mount_of(fd: BorrowedFd<'_>, place: &str) -> Result<Option<u64>> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(fd, c"", flags, StatxFlags::MNT_ID)
        .context(|| format!("cannot examine {place}"))?;
    let begins = found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(begins.then_some(found.stx_mnt_id))
}

fn optional(inside: &Root, path: &CStr) -> Result<Option<u64>> {
    match open(inside, path)? {
        Some(found) => mount_of(found.as_fd(), &path.to_string_lossy()),
        None => Ok(None),
    }
}

fn read_only(fd: BorrowedFd<'_>) -> Result<bool> {
    let found = rustix::fs::fstatvfs(fd).context(|| "cannot examine a mount")?;
    Ok(found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// A path that is hidden, or cannot be written to, if it is there.
fn covered(inside: &Root, path: &CStr, hidden: bool) -> Result<Option<u64>> {
    let place = path.to_string_lossy();
    let Some(found) = open(inside, path)? else {
        return Ok(None);
    };
    let id = mount_of(found.as_fd(), &place)?;
    let stat = rustix::fs::fstat(&found).context(|| format!("cannot examine {place}"))?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        ) == (1, 3);
    match hidden {
        true if id.is_some() && (device || read_only(found.as_fd())?) => Ok(id),
        true => Err(refused(format!("{place} is not hidden from it"))),
        false if read_only(found.as_fd())? => Ok(id),
        false => Err(refused(format!("it can write to {place}"))),
    }
}

/// Number and place of each mount.
fn table(mountinfo: &str) -> Vec<(u64, String)> {
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        Some((id, fields.nth(3)?.to_owned()))
    };
    mountinfo.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::external::tests::plan;

    #[test]
    fn places_of_mounts() {
        let plan = plan(&serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/var/run/x", "source": "data", "options": ["rbind"]},
        ]));
        let resolve = |place: &Path| match place.to_str() {
            Some("/var/run/x") => PathBuf::from("/run/x"),
            _ => place.to_owned(),
        };
        let places = places(&plan, &View::default(), &resolve);
        let there = |place: &str| places.contains(Path::new(place));
        assert!(there("/") && there("/proc") && there("/run/x") && there("/dev/null"));
        assert!(!there("/var/run/x") && !there("/host"));
    }
}
