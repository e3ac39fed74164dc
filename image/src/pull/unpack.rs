//! Layers of a pull: unpacked side by side while they arrive, settled lowest first.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use rcrun_overlay::layer::store::{Claim, Layer, Record, Unfinished, VERSION};
use rcrun_overlay::layer::{Options, Overlay, Unpacked, unpack_layer};

use super::blob::Source;
use super::{Event, Stop, lock};
use crate::document::Descriptor;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Who unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Root: owners, devices and attributes as they are.
    Privileged,
    /// Root of a user namespace: no devices, and marks that need no privilege.
    Rootless,
    /// Root of a user namespace that has no other id: all files are root's.
    Single,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Privileged, Self::Rootless, Self::Single];

    /// How layers are unpacked.
    pub fn options(self) -> Options {
        match self {
            Self::Privileged => Options::privileged(),
            Self::Rootless => Options::rootless(),
            Self::Single => Options::single(),
        }
    }

    /// The marks of whiteouts and opaque directories.
    pub fn overlay(self) -> Overlay {
        match self {
            Self::Privileged => Overlay::Trusted,
            Self::Rootless | Self::Single => Overlay::User,
        }
    }
}

/// An unpacked layer, which is not visible yet.
pub(super) type Done = (Unfinished, Record);

pub(super) struct Unpacking<'a> {
    pub(super) claims: Vec<Claim>,
    pub(super) sources: &'a [Source],
    pub(super) diff_ids: &'a [Digest],
    pub(super) blobs: &'a [Descriptor],
    pub(super) way: Way,
    pub(super) watch: &'a (dyn Fn(Event) + Sync),
    pub(super) stop: &'a Stop<'a>,
}

impl Unpacking<'_> {
    /// Unpacks what is ours to unpack.
    pub(super) fn run(mut self) -> Result<Vec<Done>> {
        let results: Vec<Mutex<Option<Unpacked>>> =
            self.claims.iter().map(|_| Mutex::default()).collect();
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let claims: Vec<Mutex<&mut Claim>> = self.claims.iter_mut().map(Mutex::new).collect();
        let work = Work {
            sources: self.sources,
            diff_ids: self.diff_ids,
            blobs: self.blobs,
            way: self.way,
        };
        let (stop, watch) = (self.stop, self.watch);
        std::thread::scope(|scope| {
            for _ in 0..threads.min(claims.len()) {
                let (next, claims, results, work) = (&next, &claims, &results, &work);
                scope.spawn(move || {
                    while let Some(index) = stop.go_on(next, claims.len()) {
                        let Claim::Mine(layer) = &mut **lock(&claims[index]) else {
                            continue;
                        };
                        match work.one(index, layer) {
                            Ok(unpacked) => {
                                *lock(&results[index]) = Some(unpacked);
                                watch(Event::Unpacked(work.blobs[index].digest.clone()));
                            }
                            Err(error) => stop.because(error),
                        }
                    }
                });
            }
        });
        drop(claims);
        // The error is the caller's to tell; nothing of this is of use.
        stop.cancel.check()?;
        let results = results.into_iter().map(|one| {
            one.into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        });
        self.settle(results.collect())
    }

    /// Each layer in turn gets what it takes from those below.
    fn settle(self, results: Vec<Option<Unpacked>>) -> Result<Vec<Done>> {
        let mut below: Vec<Below> = Vec::new();
        for ((claim, result), blob) in self.claims.into_iter().zip(results).zip(self.blobs) {
            let layer = match (claim, result) {
                (Claim::Present(layer), _) => Below::There(layer),
                (Claim::Mine(_), None) => {
                    let message = format!("layer {} was not unpacked", blob.digest);
                    return Err(Error::new(ErrorKind::Internal, message));
                }
                (Claim::Mine(unfinished), Some(unpacked)) => {
                    let lowers = visible(&below);
                    let record = record(&unpacked);
                    unpacked
                        .pending
                        .settle(unfinished.diff(), &lowers, self.way.overlay())
                        .context(|| format!("cannot unpack layer {}", blob.digest))?;
                    Below::Ours(unfinished, record)
                }
            };
            below.push(layer);
        }
        let ours = |below| match below {
            Below::There(_) => None,
            Below::Ours(unfinished, record) => Some((unfinished, record)),
        };
        Ok(below.into_iter().filter_map(ours).collect())
    }
}

/// What is to be known of a layer.
pub(super) fn record(unpacked: &Unpacked) -> Record {
    Record {
        version: VERSION,
        diff_id: Some(unpacked.diff_id.clone()),
        size: unpacked.size,
        allocated: None,
        entries: unpacked.entries,
        opaque: unpacked.opaque_root,
        lifetime: None,
        stand_ins: unpacked.stand_ins,
    }
}

/// A layer below the one that is settled.
enum Below {
    There(Layer),
    Ours(Unfinished, Record),
}

/// The directories below, top first, as far as anything of them can be seen.
fn visible(below: &[Below]) -> Vec<BorrowedFd<'_>> {
    let mut visible = Vec::new();
    for layer in below.iter().rev() {
        let (diff, opaque) = match layer {
            Below::There(layer) => (layer.diff(), layer.record.opaque),
            Below::Ours(unfinished, record) => (unfinished.diff(), record.opaque),
        };
        visible.push(diff);
        if opaque {
            break;
        }
    }
    visible
}

/// What a thread needs to know.
struct Work<'a> {
    sources: &'a [Source],
    diff_ids: &'a [Digest],
    blobs: &'a [Descriptor],
    way: Way,
}

impl Work<'_> {
    /// Unpacks one layer, and again if what was unpacked turns out not to be the blob.
    fn one(&self, index: usize, layer: &mut Unfinished) -> Result<Unpacked> {
        let (source, blob) = (&self.sources[index], &self.blobs[index].digest);
        let mut number = 0;
        loop {
            let Some(attempt) = source.after(number) else {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("layer {blob} did not arrive"),
                ));
            };
            number = attempt.number;
            let unpacked = unpack_layer(attempt.bytes, layer.diff(), &self.way.options());
            let wanted = &self.diff_ids[index];
            let error = match unpacked {
                Ok(unpacked) if unpacked.diff_id == *wanted => return Ok(unpacked),
                Ok(unpacked) => Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "its archive has digest {}, and the configuration says {wanted}",
                        unpacked.diff_id
                    ),
                ),
                Err(error) => error,
            };
            if !source.was_in_vain(number) {
                return Err(error.context(format!("cannot unpack layer {blob}")));
            }
            layer.clear()?;
        }
    }
}
