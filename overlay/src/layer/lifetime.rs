//! How long the page cache vouches for files that were never synced.
//!
//! A process that is killed loses nothing of what it wrote, and neither does an unmount; what does is a
//! power cut, and a device that goes away under a mounted file system. Either ends what the kernel holds
//! of the file system: the same *instance* of it still has all that was written.
//!
//! sysfs has a directory for each instance of some file systems (`/sys/fs/ext4/DEVICE`), made when
//! it is mounted and removed when it no longer is; inodes of sysfs are never used again within a
//! boot (fs/kernfs/dir.c: `kernfs_ino` with a generation). That number is the same for everybody,
//! whatever mount namespace. For other file systems there is the unique number of a mount (Linux
//! 6.8), which only tells something to those who see the very same mount: an ordinary user's processes look for
//! it in the mount namespace that they come from ([`Store::seen_from`]).

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use crate::order::{self, EXT, XFS};
use crate::store::Store;
use crate::{Context, Result};

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8), which rustix does not name yet.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What statfs(2) says of file systems that have a directory for each instance, and where that is.
const KINDS: [(u64, &str); 3] = [
    (EXT, "/sys/fs/ext4"),
    (XFS, "/sys/fs/xfs"),
    (0xf2f5_2010, "/sys/fs/f2fs"),
];

/// A span of time that is over when the machine is started anew or the file system is mounted anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// The kernel's `boot_id`.
    pub boot: String,
    /// The inode of the file system's directory in sysfs, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
    /// The unique number of the mount, where that is all one can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<u64>,
}

impl Lifetime {
    /// The present one of a store; none where nothing tells instances or mounts apart.
    pub fn of(store: &Store) -> Result<Option<Self>> {
        let now = store.now()?;
        let told = now.instance.is_some() || now.mount.is_some();
        Ok(told.then(|| now.clone()))
    }

    /// Asks the kernel: it says the same as long as the store is open.
    pub(crate) fn asked(store: &Store) -> Result<Self> {
        let instance = instance(store.root());
        let mount = match instance {
            Some(_) => None,
            None => unique_mount(store)?,
        };
        Ok(Self {
            boot: boot()?,
            instance,
            mount,
        })
    }

    /// Whether all processes of the machine agree on it, whatever they see mounted.
    pub(crate) fn is_shared(&self) -> bool {
        self.instance.is_some()
    }

    /// Whether files of that time are what was written.
    pub(super) fn lasts(&self, store: &Store) -> bool {
        store.trusts_unsynced()
            || match (self.instance, self.mount) {
                (Some(_), _) => self.is_over(store).is_ok_and(|over| !over),
                (None, mount) => Self::of(store).is_ok_and(|now| {
                    now.is_some_and(|now| now.boot == self.boot && now.mount == mount)
                }),
            }
    }

    /// Whether it has ended for everybody. Who does not see sysfs cannot know of a file system that was
    /// mounted anew, and must not take away what others may be using.
    pub(super) fn is_over(&self, store: &Store) -> Result<bool> {
        let now = store.now()?;
        Ok(now.boot != self.boot
            || match (self.instance, now.instance) {
                (Some(then), Some(now)) => then != now,
                _ => false,
            })
    }
}

/// The kernel's `boot_id`: another one whenever the machine is started.
pub fn boot() -> Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context(|| "cannot read /proc/sys/kernel/random/boot_id")?;
    Ok(boot.trim().to_owned())
}

/// The inode of the directory that sysfs has for the file system of a directory, if it has one.
fn instance(directory: impl AsFd) -> Option<u64> {
    let kind = order::kind(&directory)?;
    let (_, parent) = KINDS.iter().find(|(known, _)| *known == kind)?;
    let name = order::device(&directory)?;
    Some(rustix::fs::stat(format!("{parent}/{name}")).ok()?.st_ino)
}

fn unique_mount(store: &Store) -> Result<Option<u64>> {
    let stat = statx(
        store.on_its_mount(),
        c"",
        AtFlags::EMPTY_PATH,
        MNT_ID_UNIQUE,
    )
    .context(|| "cannot examine the store")?;
    let known = stat.stx_mask & MNT_ID_UNIQUE.bits() != 0;
    Ok(known.then_some(stat.stx_mnt_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lifetime that is like this one but for one change.
    fn but(life: &Lifetime, change: impl FnOnce(&mut Lifetime)) -> Lifetime {
        let mut other = life.clone();
        change(&mut other);
        other
    }

    #[test]
    fn boot_and_instance_or_mount_decide() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let Some(now) = Lifetime::of(&store).unwrap() else {
            eprintln!("skipped: neither sysfs nor statx tells of this file system");
            return;
        };
        assert!(now.lasts(&store) && !now.is_over(&store).unwrap());
        let rebooted = but(&now, |one| one.boot.push('x'));
        assert!(!rebooted.lasts(&store) && rebooted.is_over(&store).unwrap());
        // Of other mounts one only knows that they are others.
        let elsewhere = but(&now, |one| {
            one.instance = None;
            one.mount = Some(unique_mount(&store).unwrap().map_or(1, |own| own + 1));
        });
        assert!(!elsewhere.lasts(&store) && !elsewhere.is_over(&store).unwrap());
        if now.instance.is_none() {
            eprintln!("skipped: sysfs does not know this file system");
            return;
        }
        assert!(now.is_shared() && now.mount.is_none());
        let anew = but(&now, |one| {
            one.instance = one.instance.map(|inode| inode + 1);
        });
        assert!(!anew.lasts(&store) && anew.is_over(&store).unwrap());
        assert!(
            but(&anew, |one| one.boot.push('x'))
                .is_over(&store)
                .unwrap()
        );
    }
}
