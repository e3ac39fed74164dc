//! Steps that other machines did: found by their keys above the same layers, and fetched only when a step
//! that is to be done, or the result, needs their files.
//!
//! What is found has the name of its chain, as layers of images have, so it is the same layer as any
//! other with those files below and in it. Once it is here it is kept like a step that was done here.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rcrun_image::document::Descriptor;
use rcrun_image::pull::layer_id;
use rcrun_overlay::layer::store::{Claim, Record, Unfinished, VERSION};
use rcrun_overlay::layer::{Devices, Options, Unpacked, unpack_layer};
use rcrun_overlay::lease::{LayerId, Root};

use super::key::Key;
use super::{Solved, Solver, below, way};
use crate::cache::{Cache, Entry};
use crate::export;
use crate::graph::{CopyOp, CopySource, Source};
use crate::remote::{Known, Remote, chain_with};
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Layers that are fetched at the same time.
const DOWNLOADS: usize = 3;

/// Caches that the user named.
pub struct Imports<'a> {
    /// What they have.
    pub known: &'a Known,
    /// Brings a blob of one of them into the store; the lease of the build holds it.
    pub bring: &'a (dyn Fn(usize, &Descriptor) -> Result<()> + Sync),
}

impl std::fmt::Debug for Imports<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Imports").finish_non_exhaustive()
    }
}

/// Layers that were found elsewhere and are not here yet.
pub(super) type Pending = Mutex<HashMap<LayerId, Awaited>>;

/// What a cache said it has, and could not give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Which cache.
    pub place: usize,
    /// Its blob.
    pub blob: Digest,
    /// Why.
    pub why: String,
}

#[derive(Debug, Clone)]
pub(super) struct Awaited {
    /// Under which it was looked for.
    key: Digest,
    remote: Remote,
    /// The names of those below, lowest first.
    lowers: Vec<LayerId>,
}

/// What a stack of layers is on any machine; none where nobody knows. An empty stack is known: `Some(None)`.
pub(crate) fn chain(cache: &Cache, layers: &[LayerId], epoch: i64) -> Option<Option<Digest>> {
    let mut chain = None;
    for id in layers {
        let of_chain = match id.as_str().split_once('-') {
            None => Some(id.as_str()),
            Some((hex, "user")) => Some(hex),
            Some(_) => None,
        };
        chain = Some(match of_chain {
            Some(hex) => format!("sha256:{hex}").parse().ok()?,
            None => chain_with(chain.as_ref(), &export::diff_id(cache, id, epoch)?),
        });
    }
    Some(chain)
}

/// What of a copy from another stage does not depend on that stage's files.
pub(super) fn outline(state: &Solved, op: &CopyOp) -> Option<Digest> {
    let mut sources = Vec::with_capacity(op.sources.len());
    for source in &op.sources {
        match source {
            CopySource::Path(path) => sources.push(path.as_str()),
            _ => return None,
        }
    }
    let key = Key::new("copy of a stage")
        .digest("below", &state.key)
        .list("sources", &sources)
        .text("dest", &op.dest)
        .option("chown", op.chown.as_deref())
        .option("chmod", op.chmod.as_deref())
        .list("exclude", &op.exclude)
        .number("parents", op.parents.into())
        .number("link", op.link.into())
        .text("unpack", &format!("{:?}", op.unpack))
        .number("epoch", state.epoch.cast_unsigned());
    Some(key.finish())
}

/// The key of such a copy: with the stage's layers.
pub(crate) fn outlined(outline: &Digest, from: Option<&Digest>) -> Digest {
    let from = from.map(ToString::to_string);
    Key::new("copy of layers")
        .digest("outline", outline)
        .option("from", from.as_deref())
        .finish()
}

impl Solver<'_> {
    /// A layer that another machine made under a key, above the same layers; and the key it stands for.
    pub(super) fn imported(
        &self,
        key: &Digest,
        state: &Solved,
    ) -> Result<Option<(LayerId, Digest)>> {
        let Some(imports) = self.imports else {
            return Ok(None);
        };
        let Some(chain) = chain(self.cache, &state.layers, state.epoch) else {
            return Ok(None);
        };
        let Some(remote) = imports.known.step(key, chain.as_ref()) else {
            return Ok(None);
        };
        let id = layer_id(
            &chain_with(chain.as_ref(), &remote.diff_id),
            way(self.marks),
        )?;
        let blob = remote.blob.digest.clone();
        self.lease
            .hold(&[Root::Layer(id.clone()), Root::Blob(blob)])?;
        export::cache::note_blob(self.cache, &id, remote)?;
        if self.layers.get(&id)?.is_some() {
            self.adopt(key, &id, remote, &state.layers)?;
        } else {
            let awaited = Awaited {
                key: key.clone(),
                remote: remote.clone(),
                lowers: state.layers.clone(),
            };
            self.pending().insert(id.clone(), awaited);
        }
        Ok(Some((id, remote.means.clone())))
    }

    /// A copy from a stage whose files are not here: found by what the stage's layers are.
    pub(super) fn shortcut(
        &self,
        state: &Solved,
        op: &CopyOp,
    ) -> Result<Option<(LayerId, Digest)>> {
        let (Some(_), Source::Stage(index)) = (self.imports, op.from) else {
            return Ok(None);
        };
        let Some(outline) = outline(state, op) else {
            return Ok(None);
        };
        let from = self.wait(index)?;
        if !from.layers.iter().any(|id| self.pending().contains_key(id)) {
            return Ok(None);
        }
        match chain(self.cache, &from.layers, from.epoch) {
            Some(chain) => self.imported(&outlined(&outline, chain.as_ref()), state),
            None => Ok(None),
        }
    }

    /// Fetches those of a stage's layers that are only known by now. What cannot be had is an error, and one of
    /// those that [`Solver::lost`] tells of: without their records the steps are done here.
    pub fn complete(&self, layers: &[LayerId]) -> Result<()> {
        let Some(imports) = self.imports else {
            return Ok(());
        };
        let wanted: Vec<(LayerId, Awaited)> = {
            let pending = self.pending();
            let find = |id: &LayerId| Some((id.clone(), pending.get(id)?.clone()));
            layers.iter().filter_map(find).collect()
        };
        for some in wanted.chunks(DOWNLOADS) {
            std::thread::scope(|scope| {
                let bring = |one: &Awaited| {
                    let brought = (imports.bring)(one.remote.place, &one.remote.blob);
                    brought.inspect_err(|error| self.lose(&one.remote, error))
                };
                let threads: Vec<_> = some
                    .iter()
                    .map(|(_, one)| scope.spawn(move || bring(one)))
                    .collect();
                let all: Vec<Result<()>> = threads
                    .into_iter()
                    .map(|thread| {
                        let panicked =
                            |_| Err(Error::new(ErrorKind::Internal, "a thread panicked"));
                        thread.join().unwrap_or_else(panicked)
                    })
                    .collect();
                all.into_iter().collect::<Result<()>>()
            })
            .context(|| "cannot fetch a layer of an imported cache")
            .map_err(|error| error.with_hint("leave out --cache-from, or write that cache anew"))?;
            for (id, one) in some {
                self.unpack(id, one).context(|| {
                    format!(
                        "cannot use layer {} of an imported cache",
                        one.remote.blob.digest
                    )
                })?;
                self.adopt(&one.key, id, &one.remote, &one.lowers)?;
                self.pending().remove(id);
            }
        }
        Ok(())
    }

    /// What caches could not give, for which [`Solver::solve`] and [`Solver::complete`] have failed.
    pub fn lost(&self) -> Vec<Lost> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.clone()
    }

    /// What a place does not have, or does not give, can be made here. What is damaged may be more than an
    /// accident, and where there is no room for it there is none for the step either.
    fn lose(&self, remote: &Remote, error: &Error) {
        use ErrorKind::{Corrupt, Exhausted, Internal};
        if self.cancel.is_cancelled() || matches!(error.kind(), Corrupt | Exhausted | Internal) {
            return;
        }
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.push(Lost {
            place: remote.place,
            blob: remote.blob.digest.clone(),
            why: error.chain().to_string(),
        });
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<LayerId, Awaited>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is a step like those that were done here: under the key that this build has worked out
    /// itself, never under one that the cache says, which may be that of any other step.
    fn adopt(&self, key: &Digest, id: &LayerId, remote: &Remote, lowers: &[LayerId]) -> Result<()> {
        let took = std::time::Duration::from_millis(remote.took);
        let entry = Entry::new(id.clone(), below(lowers), &remote.text, took);
        self.cache.put(key, &entry)
    }

    fn unpack(&self, id: &LayerId, awaited: &Awaited) -> Result<()> {
        let mut waiting = |_| self.cancel.check();
        let Claim::Mine(unfinished) = self.layers.claim(self.lease, id, &mut waiting)? else {
            return Ok(());
        };
        let options = way(self.marks).options();
        let unpacked = self.unpacked(&awaited.remote, unfinished.diff(), &options)?;
        let record = Record {
            version: VERSION,
            diff_id: Some(unpacked.diff_id.clone()),
            allocated: None,
            size: unpacked.size,
            entries: unpacked.entries,
            opaque: unpacked.opaque_root,
            lifetime: None,
            stand_ins: unpacked.stand_ins,
        };
        self.settled(&unfinished, &unpacked, &awaited.lowers)?;
        self.layers
            .publish(self.lease, vec![(unfinished, record)])
            .map(drop)
    }

    fn unpacked(
        &self,
        remote: &Remote,
        into: std::os::fd::BorrowedFd<'_>,
        options: &Options,
    ) -> Result<Unpacked> {
        let blob = &remote.blob.digest;
        let missing = || Error::new(ErrorKind::NotFound, format!("no blob {blob}"));
        let file = self.store.content().open(blob)?.ok_or_else(missing)?;
        let unpacked = unpack_layer(file.into_file(), into, options)?;
        match unpacked.diff_id == remote.diff_id {
            true => Ok(unpacked),
            false => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "its archive has digest {}, and the cache says {}",
                    unpacked.diff_id, remote.diff_id
                ),
            )),
        }
    }

    /// What it takes from those below.
    fn settled(&self, layer: &Unfinished, unpacked: &Unpacked, lowers: &[LayerId]) -> Result<()> {
        let mut open = Vec::with_capacity(lowers.len());
        for id in lowers.iter().rev() {
            let gone = || Error::new(ErrorKind::NotFound, format!("no layer {id} below it"));
            let lower = self.layers.get(id)?.ok_or_else(gone)?;
            let opaque = lower.record.opaque;
            open.push(lower);
            if opaque {
                break;
            }
        }
        let lowers: Vec<_> = open.iter().map(|lower| lower.diff()).collect();
        unpacked.pending.settle(layer.diff(), &lowers, self.marks)
    }

    /// What a cache mount of that name had on another machine; false if nobody knows.
    pub(super) fn imported_mount(&self, name: &Digest, data: &impl AsFd) -> Result<bool> {
        let found = self
            .imports
            .and_then(|all| Some((all, all.known.mount(name)?)));
        let Some((imports, remote)) = found else {
            return Ok(false);
        };
        self.lease.hold(&[Root::Blob(remote.blob.digest.clone())])?;
        if let Err(error) = (imports.bring)(remote.place, &remote.blob) {
            self.cancel.check()?;
            let why = error.chain();
            let text = format!("not restoring a cache mount of an imported cache: {why}");
            (self.watch)(&crate::events::Event::Warning { text: &text });
            return Ok(false);
        }
        let options = Options {
            devices: Devices::Refuse,
            ..way(self.marks).options()
        };
        let unpacked = self.unpacked(remote, data.as_fd(), &options)?;
        unpacked.pending.settle(data.as_fd(), &[], self.marks)?;
        Ok(true)
    }
}
