//! What was done, for other machines ([`crate::remote`]): layers as blobs, and records of the steps that
//! made them, as a manifest or inside an image's configuration.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::AsFd;

use rcrun_image::document::{Descriptor, media};
use rcrun_overlay::content::{Verified, commit_all};
use rcrun_overlay::digest::Algorithm;
use rcrun_overlay::durable::open_directory;
use rcrun_overlay::layer::diff;
use rcrun_overlay::lease::{LayerId, Root};
use rcrun_overlay::lock;
use serde_json::json;

use super::{Archived, Options, Sink, Target, archive, descriptor, whole};
use crate::remote::{CONFIG, Mount, Record, Records, Remote, shortened};
use crate::solve::import::{chain, outlined};
use crate::solve::mounts::DATA;
use crate::solve::{Done, DoneStep};
use crate::{Context, Digest, Error, ErrorKind, Result};

/// What a cache has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// All steps; else those of the result.
    pub all: bool,
    /// What cache mounts have.
    pub mounts: bool,
}

/// Writes a cache into the store: a manifest, of which the lease holds all. None: nothing was done that
/// another machine could use.
pub fn cache(
    target: &Target<'_>,
    done: &Done,
    wanted: &[LayerId],
    options: &Options<'_>,
    content: Content,
) -> Result<Option<Descriptor>> {
    let wanted: HashSet<&LayerId> = wanted.iter().collect();
    let steps: Vec<&DoneStep> = done
        .steps
        .iter()
        .filter(|step| content.all || wanted.contains(&step.layer))
        .collect();
    let mut layers = Layers::default();
    layers.of_steps(target, &steps, options)?;
    let mut records = Vec::new();
    for step in steps {
        let Some((index, archived)) = layers.find(&step.layer, step.epoch) else {
            continue;
        };
        records.extend(told(target, step, index, Some(&archived.diff_id)));
    }
    let mut mounts = Vec::new();
    if content.mounts {
        for name in &done.mounts {
            mounts.extend(mount(target, name, options, &mut layers)?);
        }
    }
    if records.is_empty() && mounts.is_empty() {
        return Ok(None);
    }
    // The same steps are the same bytes, in whichever order they came to an end.
    records.sort_by(|a, b| (&a.key, &a.below).cmp(&(&b.key, &b.below)));
    records.dedup();
    let config = encode(&Records::new(options.level(), records, mounts))?;
    write(target, &config, layers).map(Some)
}

/// The records of an image's own steps; its layers are those of the manifest.
pub(super) fn inline(
    target: &Target<'_>,
    done: &Done,
    layers: &[LayerId],
    inherited: usize,
    level: Option<i32>,
) -> Records {
    let place = |step: &DoneStep| layers.iter().position(|layer| *layer == step.layer);
    let mut records = Vec::new();
    for step in &done.steps {
        if let Some(index) = place(step).filter(|index| *index >= inherited)
            && layers[..index] == step.below
        {
            records.extend(told(target, step, index, None));
        }
    }
    records.sort_by(|a, b| (a.layer, &a.key).cmp(&(b.layer, &b.key)));
    records.dedup();
    Records::new(level, records, Vec::new())
}

/// What is said of a step, by each key under which it can be found.
fn told(
    target: &Target<'_>,
    step: &DoneStep,
    layer: usize,
    diff_id: Option<&Digest>,
) -> Vec<Record> {
    let Some(below) = chain(target.cache, &step.below, step.epoch) else {
        return Vec::new();
    };
    let took = target.cache.get(&step.key).map_or(0, |entry| entry.took);
    let record = Record {
        key: step.key.clone(),
        means: None,
        below,
        layer,
        diff_id: diff_id.cloned(),
        text: shortened(&step.text),
        took,
        epoch: step.epoch,
    };
    let mut all = vec![record.clone()];
    if let Some((outline, from, epoch)) = &step.from
        && let Some(from) = chain(target.cache, from, *epoch)
    {
        all.push(Record {
            key: outlined(outline, from.as_ref()),
            means: Some(step.key.clone()),
            ..record
        });
    }
    all
}

/// Blobs of layers, each once.
#[derive(Default)]
struct Layers {
    list: Vec<Descriptor>,
    blobs: Vec<Verified>,
    steps: HashMap<(LayerId, i64), (usize, Archived)>,
}

impl Layers {
    fn of_steps(
        &mut self,
        target: &Target<'_>,
        steps: &[&DoneStep],
        options: &Options<'_>,
    ) -> Result<()> {
        // What a stage's files are clamped to may differ from stage to stage.
        let mut by_epoch: BTreeMap<i64, Vec<LayerId>> = BTreeMap::new();
        for step in steps {
            let all = by_epoch.entry(step.epoch).or_default();
            if !all.contains(&step.layer) {
                all.push(step.layer.clone());
            }
        }
        for (epoch, ids) in by_epoch {
            let (blobs, archived) = archive(target, &ids, epoch, options)?;
            for blob in blobs {
                self.keep(blob);
            }
            for (id, one) in ids.into_iter().zip(archived) {
                let index = self.index(descriptor(&one, options));
                self.steps.insert((id, epoch), (index, one));
            }
        }
        Ok(())
    }

    fn find(&self, layer: &LayerId, epoch: i64) -> Option<(usize, &Archived)> {
        let (index, archived) = self.steps.get(&(layer.clone(), epoch))?;
        Some((*index, archived))
    }

    fn keep(&mut self, blob: Verified) {
        if !self.blobs.iter().any(|one| one.digest() == blob.digest()) {
            self.blobs.push(blob);
        }
    }

    fn index(&mut self, layer: Descriptor) -> usize {
        match self.list.iter().position(|one| one.digest == layer.digest) {
            Some(index) => index,
            None => {
                self.list.push(layer);
                self.list.len() - 1
            }
        }
    }
}

/// A cache mount as a layer, unless it is gone already.
fn mount(
    target: &Target<'_>,
    name: &Digest,
    options: &Options<'_>,
    layers: &mut Layers,
) -> Result<Option<Mount>> {
    let all = target.cache.directory("mounts")?;
    let directory = match open_directory(&all, name.hex()) {
        Ok(directory) => directory,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let data = open_directory(&directory, DATA)?;
    // Nobody else changes it meanwhile.
    let _held = lock::hold(directory, true, &mut lock::up_to(lock::STORE_PATIENCE))
        .context(|| "cannot wait for the builds that use a cache directory")?;
    let ingest = target.store.content().receive(target.lease)?;
    let mut packing = diff::Options::new(target.marks);
    packing.level = options.level();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let sink = Sink(whole(&ingest)?);
    let (packed, sink) = diff::pack(data.as_fd(), packing, options.compression, threads, sink)
        .context(|| "cannot archive a cache directory")?;
    drop(sink);
    layers.keep(ingest.verify()?.whole()?);
    let archived = Archived {
        diff_id: packed.diff_id.clone(),
        digest: packed.digest,
        compressed: packed.compressed,
    };
    Ok(Some(Mount {
        name: name.clone(),
        layer: layers.index(descriptor(&archived, options)),
        diff_id: packed.diff_id,
    }))
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))
}

fn write(target: &Target<'_>, config: &[u8], layers: Layers) -> Result<Descriptor> {
    let manifest = encode(&json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": {"mediaType": CONFIG, "digest": Digest::of(config), "size": config.len()},
        "layers": layers.list,
    }))?;
    rcrun_image::document::check_size(config.len().max(manifest.len()))
        .context(|| "the cache has too many steps")?;
    let digest = Digest::of(&manifest);
    target
        .lease
        .hold(&[Root::Image(digest.clone()), Root::Blob(Digest::of(config))])?;
    let content = target.store.content();
    let mut blobs = layers.blobs;
    for document in [config, &manifest] {
        blobs.push(content.prepare(target.lease, Algorithm::Sha256, document)?);
    }
    commit_all(blobs)?;
    Ok(Descriptor {
        media_type: media::OCI_MANIFEST.to_owned(),
        digest,
        size: manifest.len() as u64,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
        artifact_type: None,
    })
}

/// Notes that a layer of another machine is this blob, so that nothing is archived anew where its bytes
/// are wanted as they are.
pub(crate) fn note_blob(
    cache: &crate::cache::Cache,
    layer: &LayerId,
    remote: &Remote,
) -> Result<()> {
    use rcrun_image::document::Compression as Said;
    use rcrun_overlay::compress::Compression;
    super::note_diff_id(cache, layer, remote.epoch, &remote.diff_id)?;
    let Some(level) = remote.level else {
        return Ok(());
    };
    let compression = match remote.blob.layer()? {
        Said::None => Compression::None,
        Said::Gzip => Compression::Gzip,
        Said::Zstd => Compression::Zstd,
    };
    let options = Options {
        compression,
        level,
        ..Options::default()
    };
    let archived = Archived {
        diff_id: remote.diff_id.clone(),
        digest: remote.blob.digest.clone(),
        compressed: remote.blob.size,
    };
    let name = super::note_name(layer, remote.epoch, &options);
    cache.note("exports", &name, &archived)
}
