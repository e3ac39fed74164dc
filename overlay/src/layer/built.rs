//! Layers that are made here, one step of a build at a time, rather than unpacked.
//!
//! Such a layer is made in place: an overlay with `layers/incoming/ID/diff` for its changes is mounted
//! over the layers below, something is done in it, and it gets its name. It has no archive and no
//! DiffID until somebody wants one; then the layer's chain gets an alias, a link whose target is the
//! other name, so that a container of the image needs nothing unpacked.
//!
//! What can be made again is not worth waiting for the disk: [`Layers::publish_built`] syncs nothing
//! (see [`unsettled`](super::unsettled)).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::Overlay as Marks;
use super::lifetime::Lifetime;
use super::store::{DIFF, Layer, Layers, RECORD, Record, Unfinished, open_if_there};
use super::unsettled::UNSETTLED;
use crate::durable::{self, open_directory};
use crate::lease::{LayerId, Lease, OWN_DIGITS, Root};
use crate::lock::up_to;
use crate::snapshot::{Mounting, Stack, was_volatile};
use crate::{Context, Digest, Error, ErrorKind, Result, lock, record, tree};

/// The kernel's own directory beside the changes.
const WORK: &str = "work";

/// How the names of built layers end, without and with marks of a user.
const BUILT: &str = "build";
const BUILT_USER: &str = "builduser";

/// How the own names of layers end that were unpacked, and are known by their chains.
const UNPACKED: &str = "pull";

/// A new name for a layer that is built: of a digest that nobody has thought of before.
pub fn layer_id(unique: &Digest, marks: Marks) -> Result<LayerId> {
    let variant = match marks {
        Marks::Trusted => BUILT,
        Marks::User => BUILT_USER,
    };
    directory_id(unique, variant)
}

/// A new name for the directory of an unpacked layer.
pub(super) fn own_name(chain: &LayerId) -> Result<LayerId> {
    let unique = format!("{chain} {}", durable::temporary_name());
    directory_id(&Digest::of(unique.as_bytes()), UNPACKED)
}

/// Half of a digest is as unique, and the target of a link that needs no block of its own.
fn directory_id(unique: &Digest, variant: &str) -> Result<LayerId> {
    format!("{}-{variant}", &unique.hex()[..OWN_DIGITS]).parse()
}

/// Whether a name is that of a layer that was built.
fn is_built(id: &LayerId) -> bool {
    matches!(variant(id), Some(BUILT | BUILT_USER))
}

/// Whether a name is that of a directory alone, which may be there before it is on the disk.
pub(super) fn is_own_name(id: &LayerId) -> bool {
    matches!(variant(id), Some(BUILT | BUILT_USER | UNPACKED))
}

fn variant(id: &LayerId) -> Option<&str> {
    id.as_str().split_once('-').map(|(_, variant)| variant)
}

impl Layers {
    /// Begins a layer above others, in a directory that nobody else knows.
    pub fn begin_built(
        &self,
        lease: &Lease,
        id: &LayerId,
        below: &[LayerId],
        marks: Marks,
    ) -> Result<Unfinished> {
        let begin = || -> Result<Unfinished> {
            lease.hold(&[Root::Layer(id.clone())])?;
            let stack = Stack::open(&self.store, below, marks)?;
            let layer = self.begin(id, self.occupy(id, &mut up_to(lock::STORE_PATIENCE))?)?;
            rustix::fs::mkdirat(&layer.directory, WORK, Mode::from(0o700))
                .context(|| format!("cannot make {WORK}"))?;
            crate::snapshot::like_the_root(&layer.diff, &stack)?;
            Ok(layer)
        };
        begin().context(|| format!("cannot begin layer {id}"))
    }

    /// Mounts a layer that was begun, above others, attached nowhere and to be written to. Also for
    /// another process than its maker's.
    pub fn mount_built(
        &self,
        id: &LayerId,
        below: &[LayerId],
        marks: Marks,
        how: &Mounting<'_>,
    ) -> Result<OwnedFd> {
        let mount = || {
            let missing = || Error::new(ErrorKind::NotFound, "it was never begun");
            let directory = open_if_there(&self.incoming, id)?.ok_or_else(missing)?;
            // Mounted before without a sync, the kernel refuses it: but nothing was lost since.
            if was_volatile(open_directory(&directory, WORK)?) {
                tree::remove(&directory, c"work")?;
                rustix::fs::mkdirat(&directory, WORK, Mode::from(0o700))
                    .context(|| format!("cannot make {WORK}"))?;
            }
            Stack::open(&self.store, below, marks)?.detached_above(&directory, DIFF, how)
        };
        mount().context(|| format!("cannot mount layer {id}"))
    }

    /// Removes layers that were begun by processes that are gone.
    pub fn remove_abandoned(&self) -> Result<()> {
        for name in tree::names(&self.incoming)? {
            let text = name.to_string_lossy();
            let is_ours = text.parse().is_ok_and(|id: LayerId| is_built(&id));
            if !is_ours {
                continue;
            }
            let Ok(directory) = open_directory(&self.incoming, &text) else {
                continue;
            };
            // Held until it is gone, so that nobody begins in it meanwhile.
            if let Some(held) = lock::try_hold(directory)?
                && lock::is_named(&self.incoming, &text, &held)?
            {
                tree::remove(&self.incoming, &name)
                    .context(|| format!("cannot remove layers/incoming/{text}"))?;
            }
        }
        Ok(())
    }

    /// Gives a layer that is finished, and mounted nowhere any more, its name.
    pub fn publish_built(&self, mut layer: Unfinished) -> Result<Layer> {
        let id = layer.id.clone();
        let mut publish = || -> Result<Layer> {
            tree::remove(&layer.directory, c"work")?;
            let mut meter = tree::Meter::default();
            meter.add_tree(&layer.directory, c"diff")?;
            let record = Record {
                version: super::store::VERSION,
                diff_id: None,
                size: meter.contents,
                allocated: Some(meter.bytes),
                entries: meter.entries,
                opaque: false,
                stand_ins: false,
                lifetime: Lifetime::of(&self.store)?,
            };
            let file = match record.lifetime {
                Some(_) => UNSETTLED,
                None => RECORD,
            };
            let text = record::encode(&record)?;
            durable::create(&layer.directory, file, &text, Mode::from(0o600))?;
            if record.lifetime.is_none() {
                rustix::fs::syncfs(self.store.root()).context(|| "cannot sync the store")?;
            }
            let name = id.as_str();
            rustix::fs::renameat(&self.incoming, name, &self.whole, name)
                .context(|| format!("cannot rename layers/incoming/{name} to layers/{name}"))?;
            if record.lifetime.is_none() {
                durable::sync_directory(&self.whole)?;
            }
            layer.named(record)
        };
        publish().context(|| format!("cannot finish layer {id}"))
    }

    /// Lets a layer be known by a second name, that of its chain. Whatever has that name already stays.
    pub fn alias(&self, lease: &Lease, id: &LayerId, target: &LayerId) -> Result<()> {
        lease.hold(&[Root::Layer(id.clone()), Root::Layer(target.clone())])?;
        if self.get(id)?.is_some() {
            return Ok(());
        }
        let context = || format!("cannot name layer {target} {id}");
        self.drop_alias(id).context(context)?;
        match rustix::fs::symlinkat(target.as_str(), &self.whole, id.as_str()) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno).context(context),
        }
    }

    /// Opens a layer's directory, also by an alias, and says the directory's own name.
    pub(super) fn enter(&self, id: &LayerId) -> Result<Option<(OwnedFd, LayerId)>> {
        let error = match open_directory(&self.whole, id.as_str()) {
            Ok(directory) => return Ok(Some((directory, id.clone()))),
            Err(error) => error,
        };
        match alias_of(&self.whole, id)? {
            Some(target) => Ok(open_if_there(&self.whole, &target)?.map(|open| (open, target))),
            None if error.kind() == ErrorKind::NotFound => Ok(None),
            None => Err(error),
        }
    }

    /// Takes an alias away whose layer is not there any more.
    pub(super) fn drop_alias(&self, id: &LayerId) -> Result<()> {
        match alias_of(&self.whole, id)? {
            None => Ok(()),
            Some(_) => tree::unlink(&self.whole, id.as_str())
                .map(drop)
                .context(|| format!("cannot remove the alias {id}")),
        }
    }
}

/// What a name is an alias of.
pub(crate) fn alias_of(layers: impl AsFd, id: &LayerId) -> Result<Option<LayerId>> {
    match rustix::fs::readlinkat(layers, id.as_str(), Vec::new()) {
        Ok(target) => target
            .to_str()
            .map_err(|_| Error::invalid("not UTF-8"))
            .and_then(str::parse)
            .map(Some)
            .context(|| format!("cannot use the alias {id}")),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("cannot read the alias {id}")),
    }
}

/// The targets of those aliases that are among `ids`.
pub(crate) fn targets(
    layers: impl AsFd,
    is_wanted: &dyn Fn(&LayerId) -> bool,
) -> Result<Vec<LayerId>> {
    let layers = layers.as_fd();
    let mut found = Vec::new();
    let list = rustix::fs::Dir::read_from(layers).context(|| "cannot list the layers")?;
    for entry in list {
        let entry = entry.context(|| "cannot list the layers")?;
        if !matches!(entry.file_type(), FileType::Symlink | FileType::Unknown) {
            continue;
        }
        let Some(id) = entry.file_name().to_str().ok().and_then(|n| n.parse().ok()) else {
            continue;
        };
        if is_wanted(&id) {
            found.extend(alias_of(layers, &id)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gc::{Policy, Reachable, collect};
    use crate::store::Store;
    use std::os::fd::AsRawFd;

    fn id(text: &str) -> LayerId {
        layer_id(&Digest::of(text.as_bytes()), Marks::Trusted).unwrap()
    }

    fn write(tree: &OwnedFd, name: &str, text: &str) {
        std::fs::write(format!("/proc/self/fd/{}/{name}", tree.as_raw_fd()), text).unwrap();
    }

    fn build(layers: &Layers, lease: &Lease, id: &LayerId, below: &[LayerId], name: &str) {
        let marks = Marks::Trusted;
        let begun = layers.begin_built(lease, id, below, marks).unwrap();
        let how = Mounting {
            volatile: true,
            ..Mounting::default()
        };
        let mounted = layers.mount_built(id, below, marks, &how).unwrap();
        write(&mounted, name, name);
        drop(mounted);
        layers.publish_built(begun).unwrap();
    }

    /// Mounting needs rights that a developer's own account lacks.
    fn may_mount() -> bool {
        let may = rustix::process::geteuid().is_root();
        if !may {
            eprintln!("skipped: only root mounts");
        }
        may
    }

    #[test]
    fn one_upon_another_and_known_by_its_chain() {
        if !may_mount() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let layers = Layers::new(&store).unwrap();
        let lease = store.lease().unwrap();
        let (one, two) = (id("one"), id("two"));
        build(&layers, &lease, &one, &[], "a");
        build(&layers, &lease, &two, std::slice::from_ref(&one), "b");
        let there = |id: &LayerId| layers.get(id).unwrap().map(|layer| layer.record);
        assert!(there(&one).unwrap().diff_id.is_none());
        let left = directory
            .path()
            .join("layers/incoming")
            .join(id("left").as_str());
        std::fs::create_dir_all(left.join("diff/half")).unwrap();
        let begun = layers
            .begin_built(&lease, &id("three"), &[], Marks::Trusted)
            .unwrap();
        layers.remove_abandoned().unwrap();
        assert!(!left.exists());
        layers.publish_built(begun).unwrap();
        let chain: LayerId = "c".repeat(64).parse().unwrap();
        layers.alias(&lease, &chain, &two).unwrap();
        layers.alias(&lease, &chain, &two).unwrap();
        assert_eq!(there(&chain), there(&two));
        let stack = Stack::open(&store, &[one.clone(), chain.clone()], Marks::Trusted).unwrap();
        assert_eq!(stack.lowers().len(), 2);
        // What an alias stands for stays as long as the alias.
        drop((stack, lease));
        let mut reach = |_: &_| {
            Ok(Reachable {
                layers: [chain.clone()].into(),
                ..Reachable::default()
            })
        };
        collect(&store, &Policy::default(), &mut reach).unwrap();
        assert!(there(&two).is_some() && there(&one).is_none());
        collect(
            &store,
            &Policy::default(),
            &mut |_| Ok(Reachable::default()),
        )
        .unwrap();
        assert!(there(&two).is_none() && there(&chain).is_none());
        assert_eq!(
            tree::names(&layers.whole).unwrap().len(),
            2,
            "only incoming and empty"
        );
    }

    #[test]
    fn what_was_never_synced_counts_for_its_lifetime() {
        if !may_mount() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        if Lifetime::of(&store).unwrap().is_none() {
            eprintln!("skipped: this kernel numbers mounts anew");
            return;
        }
        let layers = Layers::new(&store).unwrap();
        let lease = store.lease().unwrap();
        let (one, two, three) = (id("one"), id("two"), id("three"));
        for (id, name) in [(&one, "a"), (&two, "b"), (&three, "c")] {
            build(&layers, &lease, id, &[], name);
        }
        let chain: LayerId = "c".repeat(64).parse().unwrap();
        layers.alias(&lease, &chain, &two).unwrap();
        let at = |id: &LayerId| open_directory(&layers.whole, id.as_str()).unwrap();
        let mut record = layers.get(&two).unwrap().unwrap().record;
        record.lifetime.as_mut().unwrap().boot.push('x');
        let text = record::encode(&record).unwrap();
        durable::replace(at(&two), UNSETTLED, &text, Mode::from(0o600)).unwrap();
        // A power cut leaves files empty.
        let cut = directory.path().join("layers").join(three.as_str());
        std::fs::write(cut.join(UNSETTLED), "").unwrap();
        for gone in [&two, &three, &chain] {
            assert!(layers.get(gone).unwrap().is_none(), "{gone}");
        }
        let all = [one.clone(), two.clone(), three.clone()];
        assert_eq!(layers.settle(&all).unwrap(), 1);
        assert!(layers.get(&one).unwrap().unwrap().record.lifetime.is_none());
        // What was settled is only damaged by what should not be.
        assert!(
            tree::names(at(&one))
                .unwrap()
                .contains(&c"layer.json".to_owned())
        );
        // Somebody who knows vouches for the rest.
        let other = Store::open(directory.path()).unwrap();
        other.trust_unsynced();
        assert!(Layers::new(&other).unwrap().get(&two).unwrap().is_some());
        assert_eq!(layers.settle(&all).unwrap(), 0);
        // Whoever needs the chain makes it anew.
        let claim = layers
            .claim(&lease, &chain, &mut up_to(lock::STORE_PATIENCE))
            .unwrap();
        assert!(matches!(claim, super::super::store::Claim::Mine(_)));
    }
}
