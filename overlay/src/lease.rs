//! Promises of the sweep not to remove what somebody is about to refer to.
//!
//! Whoever adds a reference (pull, build, load, tag, run) takes a lease, and says what it is going to
//! use **before** it looks whether that is there; it keeps the lease until the reference is on the
//! disk. A lease is a file in `leases/` that its process holds locked, with one line for each thing
//! in use. It neither expires nor has to be renewed: a lease whose lock is free is dead, since its
//! process is, and that is the only way to die. `gc.rs` argues why no reference can be lost.
//!
//! Who begins with a name (run, tag) reads it, holds what it says, and reads it again: in between it
//! may have been removed, and what it named swept. Only a name that still says the same vouches for
//! what is held.
//!
//! Leases are never synced: the processes that hold them do not survive a power cut either.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::lock::{self, Kind};
use crate::store::Store;
use crate::{Context, Digest, Error, ErrorKind, Result, durable, tree};

/// The longest lease that is read: ten thousand things in use.
const LEASE_LIMIT: u64 = 4 << 20;

/// The longest snapshot id.
const ID_LIMIT: usize = 128;

/// How many digits the names have that stand for nothing but a directory.
pub(crate) const OWN_DIGITS: usize = 32;

/// Something that must stay.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// A manifest or an index, with all that it refers to.
    Image(Digest),
    /// One blob.
    Blob(Digest),
    /// An unpacked layer.
    Layer(LayerId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(digest) => write!(f, "image {digest}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Layer(id) => write!(f, "layer {id}"),
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
        }
    }
}

impl FromStr for Root {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        match line.split_once(' ') {
            Some(("image", text)) => Ok(Self::Image(text.parse()?)),
            Some(("blob", text)) => Ok(Self::Blob(text.parse()?)),
            Some(("layer", text)) => Ok(Self::Layer(text.parse()?)),
            Some(("snapshot", text)) => Ok(Self::Snapshot(text.parse()?)),
            _ => Err(Error::invalid(format!("invalid line {line:?}"))),
        }
    }
}

macro_rules! id {
    ($name:ident, $words:literal, $what:literal, $valid:expr) => {
        #[doc = $words]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl $name {
            /// As a file name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let valid: fn(&str) -> bool = $valid;
                match valid(text) {
                    true => Ok(Self(text.into())),
                    false => Err(Error::invalid(format!(
                        concat!("invalid ", $what, " {:?}"),
                        text
                    ))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    LayerId,
    "The name of a layer: 64 lower-case hexadecimal digits, perhaps a `-` and a variant; or 32 with a variant.",
    "layer id",
    |text| {
        let (hex, variant) = text.split_once('-').unwrap_or((text, "x"));
        (hex.len() == 64 || (hex.len() == OWN_DIGITS && hex != text))
            && hex
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && (1..=16).contains(&variant.len())
            && variant
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'))
    }
);

id!(
    SnapshotId,
    "The name of a snapshot's directory: up to 128 of `A-Z a-z 0-9 _ . -`, a letter or digit first.",
    "snapshot id",
    |text| {
        text.len() <= ID_LIMIT
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    }
);

/// What somebody uses at the moment. Clones are the same lease; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    name: String,
    /// None in a store that is mounted read-only: nobody sweeps that.
    file: Option<File>,
    held: Mutex<HashSet<Root>>,
}

impl Lease {
    pub(crate) fn take(store: &Store) -> Result<Self> {
        // The sweep stays out until the file is locked, or it would take it for a dead one.
        let _entered = lock::enter(store.root())?;
        let name = durable::temporary_name();
        let name = name.trim_start_matches(durable::TEMPORARY).to_owned();
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(store.leases_fd(), &name, flags, Mode::from(0o600)) {
            Ok(file) => Some(File::from(file)),
            Err(Errno::ROFS) => None,
            Err(errno) => Err(errno)
                .context(|| format!("cannot create leases/{name} in {}", store.path().display()))?,
        };
        let (store, held) = (store.clone(), Mutex::default());
        let lease = Self(Arc::new(Inner {
            store,
            name,
            file,
            held,
        }));
        if let Some(file) = &lease.0.file {
            lock::lock(file, Kind::Exclusive, &mut |_| Ok(()))?;
        }
        Ok(lease)
    }

    /// From here on these are not removed, if they are there. Look only afterwards whether they are.
    pub fn hold(&self, roots: &[Root]) -> Result<()> {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let new: HashSet<_> = roots.iter().filter(|root| !held.contains(root)).collect();
        let Some(mut file) = self.0.file.as_ref().filter(|_| !new.is_empty()) else {
            return Ok(());
        };
        let lines: String = new.iter().map(|root| format!("{root}\n")).collect();
        let _entered = lock::enter(self.0.store.root())?;
        file.write_all(lines.as_bytes())
            .context(|| format!("cannot write leases/{}", self.0.name))?;
        held.extend(new.into_iter().cloned());
        Ok(())
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.0.store
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What remains is swept: its lock is free.
            let _ = tree::unlink(self.store.leases_fd(), &*self.name);
        }
    }
}

/// Layers that others use at the moment: held by living leases, but this one.
pub fn layers_in_use(store: &Store, except: Option<&Lease>) -> Result<HashSet<LayerId>> {
    // Whoever appends is kept out, so lines are whole.
    let _excluded = lock::exclude(store.root())?;
    let own = except.map(|lease| lease.0.name.as_str());
    let mut used = HashSet::new();
    for name in tree::names(store.leases_fd())? {
        let name = name.to_string_lossy().into_owned();
        if own == Some(name.as_str()) {
            continue;
        }
        let held = read(store, &name).context(|| format!("cannot read leases/{name}"))?;
        used.extend(held.into_iter().flatten().filter_map(|root| match root {
            Root::Layer(id) => Some(id),
            _ => None,
        }));
    }
    Ok(used)
}

/// What living leases hold, and the names of dead ones. Only for who excluded everybody.
pub(crate) fn survey(
    store: &Store,
    _excluded: &lock::Held,
) -> Result<(HashSet<Root>, Vec<String>)> {
    let (mut held, mut dead) = (HashSet::new(), Vec::new());
    for name in tree::names(store.leases_fd())? {
        // Others are not ours, and nobody can hold anything with them.
        if !tree::stat(store.leases_fd(), &name)?.is_some_and(|stat| tree::is_regular(&stat)) {
            continue;
        }
        let name = name.to_string_lossy().into_owned();
        let living = read(store, &name).context(|| format!("cannot read leases/{name}"))?;
        match living {
            Some(roots) => held.extend(roots),
            None => dead.push(name),
        }
    }
    Ok((held, dead))
}

/// What a lease holds; none if it is dead or gone.
fn read(store: &Store, name: &str) -> Result<Option<Vec<Root>>> {
    let Some(file) = durable::open_file(store.leases_fd(), name)? else {
        return Ok(None);
    };
    if lock::try_lock(&file, Kind::Shared)? {
        return Ok(None);
    }
    let Some(bytes) = durable::read(store.leases_fd(), name, LEASE_LIMIT)? else {
        return Ok(None);
    };
    // Lines are appended while the sweep is kept out, so a living lease is whole. One that is not
    // understood may be a promise of a later version: then nothing is removed.
    let corrupt = |e: Error| e.context("cannot understand a lease in use, so nothing is removed");
    let text = String::from_utf8(bytes)
        .map_err(|_| corrupt(Error::new(ErrorKind::Corrupt, "it is not text")))?;
    let roots: Result<_> = text
        .lines()
        .map(|line| line.parse().map_err(corrupt))
        .collect();
    roots.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_written() {
        let digest = Digest::of(b"x");
        let hex = digest.hex();
        for root in [
            Root::Image(digest.clone()),
            Root::Blob(digest.clone()),
            Root::Layer(hex.parse().unwrap()),
            Root::Layer(format!("{hex}-vfs").parse().unwrap()),
            Root::Snapshot("web-1.2_x".parse().unwrap()),
        ] {
            assert_eq!(root.to_string().parse::<Root>().unwrap(), root);
        }
        let long = "x".repeat(129);
        for line in [
            "",
            "image",
            "blob x",
            "layer ../x",
            "layer incoming",
            "snapshot ..",
            "x y",
        ] {
            line.parse::<Root>().unwrap_err();
        }
        for id in ["", ".", "..", ".new-1", "-x", "a/b", "a\n", "ä", &long] {
            id.parse::<SnapshotId>().unwrap_err();
        }
        for id in [
            "",
            "empty",
            "incoming",
            &hex[1..],
            &format!("{hex}-"),
            &format!("{hex}-a/b"),
        ] {
            id.parse::<LayerId>().unwrap_err();
        }
    }

    #[test]
    fn a_lease_lives_as_long_as_its_last_clone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let files = || tree::names(store.leases_fd()).unwrap().len();
        let root = Root::Blob(Digest::of(b"x"));
        let lease = store.lease().unwrap();
        let again = lease.clone();
        again.hold(&[root.clone(), root.clone()]).unwrap();
        lease.hold(std::slice::from_ref(&root)).unwrap();
        drop(lease);
        let layer: LayerId = Digest::of(b"y").hex().parse().unwrap();
        again.hold(&[Root::Layer(layer.clone())]).unwrap();
        let used = |except| layers_in_use(&store, except).unwrap();
        assert_eq!(used(None), HashSet::from([layer.clone()]));
        assert_eq!(used(Some(&again)), HashSet::new());
        let held = lock::exclude(store.root()).unwrap();
        let (mut living, dead) = survey(&store, &held).unwrap();
        assert!(living.remove(&Root::Layer(layer)));
        assert_eq!(living.into_iter().collect::<Vec<_>>(), [root]);
        assert!(dead.is_empty());
        drop(again);
        assert_eq!(files(), 0);
        // A dead one may hold anything, a power cut leaves zeros.
        std::fs::write(directory.path().join("leases/1-0"), [0; 100]).unwrap();
        let (living, dead) = survey(&store, &held).unwrap();
        assert!(living.is_empty());
        assert_eq!(dead, ["1-0"]);
    }

    #[test]
    fn a_living_lease_of_a_later_version_stops_the_sweep() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let path = directory.path().join("leases/9-9");
        std::fs::write(&path, "volume 1\n").unwrap();
        let file = File::open(&path).unwrap();
        assert!(lock::try_lock(&file, Kind::Exclusive).unwrap());
        let held = lock::exclude(store.root()).unwrap();
        let error = survey(&store, &held).unwrap_err();
        assert!(
            error.chain().to_string().contains("leases/9-9"),
            "{error:?}"
        );
    }
}
