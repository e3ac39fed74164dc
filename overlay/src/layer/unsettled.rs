//! Layers that are there before they are on the disk.
//!
//! What can be made again is not worth waiting for the disk: a layer that was unpacked is made again from
//! its archive, which is durable before its image has a name, and one that was built by its step. So
//! nothing of it is synced. Its record is named [`UNSETTLED`] and says how long the page cache vouches for
//! the files ([`Lifetime`]): a process that is killed loses nothing, and after a power cut the layer is
//! not there. To settle it is to write everything out and then to rename the record, which needs no
//! space; from then on it counts for good.
//!
//! Such a layer has a directory with a name of its own, to which its chain's name is a link: what a
//! power cut left of an earlier one is never in the way, and goes with the sweep.

use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::built::{is_own_name, own_name};
use super::lifetime::Lifetime;
use super::store::{Layer, Layers, RECORD, Record, Unfinished, read_record};
use crate::durable;
use crate::lease::{LayerId, Lease, Root};
use crate::{Context, ErrorKind, Result, record, tree};

/// The record of a layer that is not on the disk yet.
pub(super) const UNSETTLED: &str = "unsettled.json";

impl Layers {
    /// Makes unpacked layers visible, the lowest first, for as long as `lifetime` lasts.
    pub(super) fn publish_unsettled(
        &self,
        lease: &Lease,
        layers: Vec<(Unfinished, Record)>,
        lifetime: &Lifetime,
    ) -> Result<Vec<Layer>> {
        let named: Result<Vec<(LayerId, Unfinished, Record)>> = layers
            .into_iter()
            .map(|(layer, record)| Ok((own_name(&layer.id)?, layer, record)))
            .collect();
        let named = named?;
        let roots: Vec<Root> = named
            .iter()
            .map(|(own, ..)| Root::Layer(own.clone()))
            .collect();
        lease.hold(&roots)?;
        let one = |(own, mut layer, record): (LayerId, Unfinished, Record)| {
            let id = layer.id.clone();
            let mut publish = || -> Result<Layer> {
                let record = Record {
                    lifetime: Some(lifetime.clone()),
                    ..record.clone()
                };
                let text = record::encode(&record)?;
                durable::create(&layer.directory, UNSETTLED, &text, Mode::from(0o600))?;
                // The link first: with the directory the layer is there, and nobody else begins it.
                self.drop_alias(&id)?;
                match rustix::fs::symlinkat(own.as_str(), &self.whole, id.as_str()) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno).context(|| format!("cannot make layers/{id}")),
                }
                rustix::fs::renameat(&self.incoming, id.as_str(), &self.whole, own.as_str())
                    .context(|| format!("cannot rename layers/incoming/{id} to layers/{own}"))?;
                layer.named(record)
            };
            publish().context(|| format!("cannot finish layer {id}"))
        };
        named.into_iter().map(one).collect()
    }

    /// Makes layers durable that a lifetime still vouches for; how many there were. After an error, or a
    /// power cut meanwhile, each is durable or not there.
    pub fn settle(&self, layers: &[LayerId]) -> Result<usize> {
        let mut due = Vec::new();
        for id in layers {
            if let Some(layer) = self.get(id)?
                && layer.record.lifetime.is_some()
                // Removed meanwhile, it needs none.
                && let Some((directory, _)) = self.enter(id)?
            {
                due.push((id, directory));
            }
        }
        if due.is_empty() {
            return Ok(0);
        }
        let sync = || rustix::fs::syncfs(self.store.root()).context(|| "cannot sync the store");
        // Files first: with its new name the record counts for good.
        sync()?;
        for (id, directory) in &due {
            match rustix::fs::renameat(directory, UNSETTLED, directory, RECORD) {
                // By somebody else, or it is being removed.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).context(|| format!("cannot settle layer {id}")),
            }
        }
        sync()?;
        Ok(due.len())
    }

    /// Settles all layers that have not been for so long: then the kernel has written out most of them by
    /// itself, and there is little to wait for. How many there were.
    pub fn settle_older(&self, than: Duration) -> Result<usize> {
        let mut due = Vec::new();
        for name in tree::names(&self.whole)? {
            let Some(id) = name.to_str().ok().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if is_own_name(&id) && self.has_waited(&id, than)? {
                due.push(id);
            }
        }
        self.settle(&due)
    }

    /// Whether nobody can have any use for a layer any more, since a power cut took what it was.
    pub(crate) fn is_over(&self, id: &LayerId) -> Result<bool> {
        let Some((directory, own)) = self.enter(id)? else {
            return Ok(false);
        };
        if !is_own_name(&own) || tree::stat(&directory, c"layer.json")?.is_some() {
            return Ok(false);
        }
        match read_record(&directory, UNSETTLED) {
            Ok(Some(record)) => record
                .lifetime
                .map_or(Ok(false), |lifetime| lifetime.is_over(&self.store)),
            // It counts for nobody, but may be about to be settled.
            Ok(None) => Ok(tree::stat(&directory, c"layer.json")?.is_none()),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn has_waited(&self, id: &LayerId, than: Duration) -> Result<bool> {
        let path = format!("{id}/{UNSETTLED}");
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(&self.whole, path, flags) {
            Ok(stat) => Ok(tree::age(&stat) >= than),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(errno).context(|| format!("cannot examine layer {id}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lifetime::Lifetime;
    use super::super::store::{Claim, VERSION};
    use super::*;
    use crate::durable::open_directory;
    use crate::gc::{Policy, Reachable, collect};
    use crate::lock::up_to;
    use crate::store::Store;
    use crate::{Digest, lock};

    fn record() -> Record {
        Record {
            version: VERSION,
            diff_id: Some(Digest::of(b"archive")),
            size: 7,
            allocated: None,
            entries: 1,
            opaque: false,
            lifetime: None,
            stand_ins: false,
        }
    }

    /// Unpacks a layer that is not there; what its own directory is called.
    fn unpack(layers: &Layers, lease: &Lease, id: &LayerId) -> LayerId {
        let claim = layers.claim(lease, id, &mut up_to(lock::STORE_PATIENCE));
        let Claim::Mine(unfinished) = claim.unwrap() else {
            panic!("{id} is there");
        };
        durable::replace(unfinished.diff(), "file", b"text", Mode::from(0o644)).unwrap();
        let lifetime = Lifetime::of(&layers.store).unwrap().unwrap();
        let done = layers
            .publish_unsettled(lease, vec![(unfinished, record())], &lifetime)
            .unwrap();
        assert_eq!(done[0].id, *id);
        layers.enter(id).unwrap().unwrap().1
    }

    /// What a power cut does to what a lifetime vouches for.
    fn reboot(layers: &Layers, own: &LayerId) {
        let directory = open_directory(&layers.whole, own.as_str()).unwrap();
        let mut record = read_record(&directory, UNSETTLED).unwrap().unwrap();
        record.lifetime.as_mut().unwrap().boot.push('x');
        let text = record::encode(&record).unwrap();
        durable::replace(&directory, UNSETTLED, &text, Mode::from(0o600)).unwrap();
    }

    fn sweep(store: &Store, stays: &LayerId) -> Vec<LayerId> {
        let policy = Policy::default();
        let mut reach = |_: &_| {
            Ok(Reachable {
                layers: [stays.clone()].into(),
                ..Reachable::default()
            })
        };
        collect(store, &policy, &mut reach).unwrap().layers
    }

    #[test]
    fn a_power_cut_costs_unpacking_again_until_it_is_settled() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        if Lifetime::of(&store).unwrap().is_none() {
            eprintln!("skipped: neither sysfs nor statx tells of this file system");
            return;
        }
        let layers = Layers::new(&store).unwrap();
        let id: LayerId = "a".repeat(64).parse().unwrap();
        let lease = store.lease().unwrap();
        let first = unpack(&layers, &lease, &id);
        assert!(layers.get(&id).unwrap().unwrap().record.lifetime.is_some());
        reboot(&layers, &first);
        assert!(layers.get(&id).unwrap().is_none());
        let second = unpack(&layers, &lease, &id);
        assert_ne!(first, second);
        drop(lease);
        assert_eq!(sweep(&store, &id), [first]);
        // Young layers are left to the kernel for now.
        assert_eq!(layers.settle_older(Duration::from_secs(3600)).unwrap(), 0);
        assert_eq!(layers.settle_older(Duration::ZERO).unwrap(), 1);
        assert_eq!(layers.settle_older(Duration::ZERO).unwrap(), 0);
        let there = layers.get(&id).unwrap().unwrap();
        assert_eq!((there.record, there.id), (record(), id.clone()));
        assert_eq!(tree::names(there.diff).unwrap(), [c"file".to_owned()]);
        assert!(sweep(&store, &id).is_empty());
    }

    #[test]
    fn what_a_power_cut_left_is_swept_though_its_image_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        if Lifetime::of(&store).unwrap().is_none() {
            eprintln!("skipped: neither sysfs nor statx tells of this file system");
            return;
        }
        let layers = Layers::new(&store).unwrap();
        let lease = store.lease().unwrap();
        for (digit, damage) in [("a", "old"), ("b", "empty"), ("c", "none")] {
            let id: LayerId = digit.repeat(64).parse().unwrap();
            let own = unpack(&layers, &lease, &id);
            let path = directory.path().join("layers").join(own.as_str());
            match damage {
                "old" => reboot(&layers, &own),
                "empty" => std::fs::write(path.join(UNSETTLED), "").unwrap(),
                _ => std::fs::remove_file(path.join(UNSETTLED)).unwrap(),
            }
            assert!(layers.get(&id).unwrap().is_none(), "{damage}");
            assert!(layers.is_over(&id).unwrap(), "{damage}");
        }
        drop(lease);
        let id: LayerId = "a".repeat(64).parse().unwrap();
        assert_eq!(
            sweep(&store, &id).len(),
            3 + 2,
            "directories, and names of the others"
        );
    }
}
