//! What validation must know about the machine and the caller.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Namespaces;

/// What the path of the root file system leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rootfs {
    /// A directory.
    Usable,
    /// A symbolic link is on the way; it could be changed between looking and using.
    Symlink,
    /// Nothing, or no directory.
    Unusable(Errno),
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The root file system.
    pub rootfs: Rootfs,
    /// The caller has user identifier 0 in its user namespace.
    pub privileged: bool,
    /// Limits that cannot be set are left out (`--rootless`).
    pub rootless_cgroups: bool,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// The machine has no cgroup v1 hierarchies.
    pub cgroup2: bool,
    /// SELinux is on.
    pub selinux: bool,
    /// resctrl is mounted.
    pub rdt: bool,
    /// It controls L3 cache allocation.
    pub rdt_cache: bool,
    /// It controls memory bandwidth.
    pub rdt_bandwidth: bool,
    /// The network namespace's path names the caller's own.
    pub joins_own_network: bool,
}

/// The arguments of [`Facts::gather`] that do not come from the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// See [`Facts::rootless_cgroups`].
    pub rootless_cgroups: bool,
    /// The machine has no cgroup v1 hierarchies.
    pub cgroup2: bool,
}

impl Facts {
    /// Looks at the machine, as far as the configuration makes it relevant.
    pub fn gather(spec: &Spec, bundle: &Path, caller: Caller) -> Self {
        let root = spec.root().as_ref().map(|root| bundle.join(root.path()));
        let linux = spec.linux().as_ref();
        let label = spec
            .process()
            .as_ref()
            .and_then(|p| p.selinux_label().as_ref());
        let asks_for_rdt = linux.is_some_and(|linux| linux.intel_rdt().is_some());
        let rdt = asks_for_rdt && is_file_system("/sys/fs/resctrl", RDTGROUP_SUPER_MAGIC);
        let controls = |what: &str| rdt && Path::new("/sys/fs/resctrl/info").join(what).exists();
        let joined = Namespaces::of(spec).path(LinuxNamespaceType::Network);
        let has_net_sysctl = linux
            .and_then(|linux| linux.sysctl().as_ref())
            .is_some_and(|sysctl| sysctl.keys().any(|key| key.starts_with("net")));
        Self {
            rootfs: root.as_deref().map_or(Rootfs::Usable, rootfs),
            privileged: rustix::process::geteuid().is_root(),
            rootless_cgroups: caller.rootless_cgroups,
            no_pivot: caller.no_pivot,
            cgroup2: caller.cgroup2,
            selinux: label.is_some() && selinux_enabled(),
            rdt,
            rdt_cache: controls("L3"),
            rdt_bandwidth: controls("MB"),
            joins_own_network: has_net_sysctl && joined.is_some_and(is_own_network),
        }
    }
}

/// Whether SELinux is on: its file system is mounted.
pub fn selinux_enabled() -> bool {
    is_file_system("/sys/fs/selinux", SELINUX_MAGIC)
}

const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
const RDTGROUP_SUPER_MAGIC: i64 = 0x0765_5821;

fn is_file_system(path: &str, magic: i64) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == magic)
}

fn rootfs(path: &Path) -> Rootfs {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(_) => Rootfs::Usable,
        Err(Errno::LOOP) => Rootfs::Symlink,
        Err(Errno::NOSYS) => rootfs_by_name(path),
        Err(errno) => Rootfs::Unusable(errno),
    }
}

/// For kernels before 5.6, which have no openat2(2).
fn rootfs_by_name(path: &Path) -> Rootfs {
    let errno = |e: &std::io::Error| Errno::from_io_error(e).unwrap_or(Errno::IO);
    match path.canonicalize() {
        Err(e) => Rootfs::Unusable(errno(&e)),
        Ok(found) if !found.is_dir() => Rootfs::Unusable(Errno::NOTDIR),
        Ok(found) if found.components().eq(path.components()) => Rootfs::Usable,
        Ok(_) => Rootfs::Symlink,
    }
}

fn is_own_network(path: &Path) -> bool {
    match (
        std::fs::metadata("/proc/self/ns/net"),
        std::fs::metadata(path),
    ) {
        (Ok(own), Ok(other)) => (own.dev(), own.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_file_systems_are_told_apart() {
        let base = std::env::temp_dir().join(format!("rcrun-facts-{}", std::process::id()));
        std::fs::create_dir_all(base.join("dir")).unwrap();
        std::fs::write(base.join("file"), "").unwrap();
        std::os::unix::fs::symlink("dir", base.join("link")).unwrap();
        let base_path = base.canonicalize().unwrap();
        for (name, expected) in [
            ("dir", Rootfs::Usable),
            ("link", Rootfs::Symlink),
            ("file", Rootfs::Unusable(Errno::NOTDIR)),
            ("none", Rootfs::Unusable(Errno::NOENT)),
        ] {
            assert_eq!(rootfs(&base_path.join(name)), expected, "{name}");
            assert_eq!(rootfs_by_name(&base_path.join(name)), expected, "{name}");
        }
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn the_own_network_is_known() {
        assert!(is_own_network(Path::new("/proc/self/ns/net")));
        assert!(!is_own_network(Path::new("/proc/self/ns/uts")));
        assert!(!is_own_network(Path::new("/nonexistent")));
    }
}
