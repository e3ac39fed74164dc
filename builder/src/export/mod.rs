//! From a stage that is built to an image: layers are archived, compressed and hashed, and configuration
//! and manifest written, all into the store.
//!
//! Only layers that were made here are archived, and each once: what became of it is noted beside the
//! cache (`build/exports/`), so the next export finds the blob. Those of the base stay what they are, bit
//! for bit. The image's chains become aliases of the layers, so nothing has to be unpacked to run it.

pub mod cache;
pub mod time;

use std::io::{self, Write};

use rcrun_image::document::{Descriptor, media};
use rcrun_image::pull::layer_id;
use rcrun_overlay::compress::{self, Compression};
use rcrun_overlay::content::{Ingest, Piece, Verified, commit_all};
use rcrun_overlay::digest::Algorithm;
use rcrun_overlay::layer::chain::chain_ids;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::layer::{Overlay, Packed, diff};
use rcrun_overlay::lease::{LayerId, Lease, Root};
use rcrun_overlay::store::Store;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cache::Cache;
use crate::events::{Event, Watch};
use crate::graph::{Base, Graph};
use crate::image::Draft;
use crate::solve::Solved;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// How hard gzip compresses unless somebody says so. The usual level costs more than twice the time and
/// saves about a tenth of the size; who pushes more often than they build may want that.
const GZIP: i32 = 1;

/// How an image is written.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// Of layers that are made here.
    pub compression: Compression,
    /// None: the usual one.
    pub level: Option<i32>,
    /// Docker's media types instead of OCI's.
    pub docker: bool,
    /// Of the manifest.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// When it was made, seconds since 1970; none: the time of its files.
    pub created: Option<i64>,
    /// What the configuration tells builds on other machines.
    pub inline: Option<&'a crate::solve::Done>,
    /// All layers that are made here were made one.
    pub squash: bool,
}

impl Options<'_> {
    /// The level, also where nobody said one.
    fn level(&self) -> Option<i32> {
        self.level.or(match self.compression {
            Compression::Gzip => Some(GZIP),
            _ => None,
        })
    }
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            compression: Compression::Gzip,
            level: None,
            docker: false,
            annotations: std::collections::BTreeMap::new(),
            created: None,
            inline: None,
            squash: false,
        }
    }
}

/// Where it is written.
pub struct Target<'a> {
    /// The store.
    pub store: &'a Store,
    /// Holds what is written until something refers to it.
    pub lease: &'a Lease,
    /// Knows what was archived before.
    pub cache: &'a Cache,
    /// Which marks layers have.
    pub marks: Overlay,
    /// Hears what happens.
    pub watch: &'a Watch<'a>,
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").finish_non_exhaustive()
    }
}

/// An image that was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its manifest, with its platform.
    pub manifest: Descriptor,
    /// The digest of its configuration.
    pub config: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What became of a layer as an archive, compressed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Archived {
    diff_id: Digest,
    digest: Digest,
    compressed: u64,
}

/// Writes the image of a graph's target.
pub fn image(
    target: &Target<'_>,
    graph: &Graph,
    solved: &Solved,
    options: &Options<'_>,
) -> Result<Written> {
    let stage = &graph.stages[graph.target];
    let mut draft: Draft = stage.image.clone();
    let mut layers = base_layers(graph, options)?;
    if layers.len() != solved.inherited {
        return Err(Error::new(
            ErrorKind::Internal,
            "the base image has other layers than its stage",
        ));
    }
    let (blobs, archived) = archive(
        target,
        &solved.layers[solved.inherited..],
        solved.epoch,
        options,
    )?;
    for one in &archived {
        draft.rootfs.diff_ids.push(one.diff_id.clone());
        layers.push(descriptor(one, options));
    }
    if let Some(done) = options.inline {
        draft.cache = Some(cache::inline(
            target,
            done,
            &solved.layers,
            solved.inherited,
            options.level(),
        ));
    }
    if options.squash {
        draft.squash();
    }
    let created = time::rfc3339(options.created.unwrap_or(solved.epoch));
    for one in draft.history.iter_mut().filter(|one| one.own) {
        one.created = Some(created.clone());
    }
    draft.created = Some(created);
    let written = documents(target, &draft, &layers, options, blobs)?;
    for (chain, layer) in chain_ids(&draft.rootfs.diff_ids)
        .iter()
        .zip(&solved.layers)
        .skip(solved.inherited)
    {
        let id = layer_id(chain, crate::solve::way(target.marks))?;
        Layers::new(target.store)?.alias(target.lease, &id, layer)?;
    }
    Ok(written)
}

/// Configuration and manifest, and everything made durable at once.
fn documents(
    target: &Target<'_>,
    draft: &Draft,
    layers: &[Descriptor],
    options: &Options<'_>,
    mut blobs: Vec<Verified>,
) -> Result<Written> {
    let content = target.store.content();
    let types = match options.docker {
        true => (media::DOCKER_MANIFEST, media::DOCKER_CONFIG),
        false => (media::OCI_MANIFEST, media::OCI_CONFIG),
    };
    let config = draft.encode()?;
    let id = Digest::of(&config);
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": types.0,
        "config": {"mediaType": types.1, "digest": id, "size": config.len()},
        "layers": layers,
    });
    if !options.annotations.is_empty() {
        manifest["annotations"] = json!(options.annotations);
    }
    let manifest = serde_json::to_vec(&manifest)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
    let digest = Digest::of(&manifest);
    target
        .lease
        .hold(&[Root::Image(digest.clone()), Root::Blob(id.clone())])?;
    for (digest, document) in [(&id, &config), (&digest, &manifest)] {
        // As it was the last time: nothing has to wait for the disk.
        if content.contains(digest)? {
            continue;
        }
        blobs.push(content.prepare(target.lease, Algorithm::Sha256, document)?);
    }
    if !blobs.is_empty() {
        commit_all(blobs)?;
    }
    Ok(Written {
        manifest: Descriptor {
            media_type: types.0.to_owned(),
            digest,
            size: manifest.len() as u64,
            urls: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            platform: Some(draft.platform()),
            artifact_type: None,
        },
        config: id,
        layers: layers.to_vec(),
    })
}

/// The layers of the image that the target is built upon, however many stages are in between.
fn base_layers(graph: &Graph, options: &Options<'_>) -> Result<Vec<Descriptor>> {
    let mut stage = &graph.stages[graph.target];
    loop {
        match &stage.base {
            Base::Stage(index) => stage = &graph.stages[*index],
            Base::Image(base) => {
                let layers = base.image.document.layers.iter();
                return Ok(layers.map(|layer| retyped(layer, options.docker)).collect());
            }
            Base::Scratch => return Ok(Vec::new()),
            Base::Tree(..) => return Ok(Vec::new()),
            Base::Unknown(name) => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("nobody knows {name}"),
                ));
            }
        }
    }
}

/// A layer as manifests of the other kind call it; its bytes stay.
fn retyped(layer: &Descriptor, docker: bool) -> Descriptor {
    let name = match (docker, layer.media_type.as_str()) {
        (false, media::DOCKER_LAYER_GZIP) => media::OCI_LAYER_GZIP,
        (false, "application/vnd.docker.image.rootfs.diff.tar") => media::OCI_LAYER,
        (false, "application/vnd.docker.image.rootfs.diff.tar.zstd") => media::OCI_LAYER_ZSTD,
        (true, media::OCI_LAYER_GZIP) => media::DOCKER_LAYER_GZIP,
        (true, media::OCI_LAYER) => "application/vnd.docker.image.rootfs.diff.tar",
        (true, media::OCI_LAYER_ZSTD) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        (_, other) => other,
    };
    Descriptor {
        media_type: name.to_owned(),
        ..layer.clone()
    }
}

fn descriptor(archived: &Archived, options: &Options<'_>) -> Descriptor {
    Descriptor {
        media_type: media_type(options).to_owned(),
        digest: archived.digest.clone(),
        size: archived.compressed,
        urls: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
        platform: None,
        artifact_type: None,
    }
}

fn media_type(options: &Options<'_>) -> &'static str {
    match (options.docker, options.compression) {
        (false, Compression::None) => media::OCI_LAYER,
        (false, Compression::Gzip) => media::OCI_LAYER_GZIP,
        (false, Compression::Zstd) => media::OCI_LAYER_ZSTD,
        (true, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
        (true, Compression::Gzip) => media::DOCKER_LAYER_GZIP,
        (true, Compression::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
}

/// Archives layers, those that nobody archived before; the blobs that are new count once committed. One
/// after the other: each has all processors, and the memory is that of one.
fn archive(
    target: &Target<'_>,
    layers: &[LayerId],
    epoch: i64,
    options: &Options<'_>,
) -> Result<(Vec<Verified>, Vec<Archived>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut blobs: Vec<Verified> = Vec::new();
    let mut archived = Vec::with_capacity(layers.len());
    for layer in layers {
        let (blob, done) = one(target, layer, epoch, options, threads)?;
        // Two layers may be the same archive, such as one without changes.
        if !blobs.iter().any(|other| other.digest() == &done.digest) {
            blobs.extend(blob);
        }
        archived.push(done);
    }
    Ok((blobs, archived))
}

fn one(
    target: &Target<'_>,
    layer: &LayerId,
    epoch: i64,
    options: &Options<'_>,
    threads: usize,
) -> Result<(Option<Verified>, Archived)> {
    let note = note_name(layer, epoch, options);
    let content = target.store.content();
    if let Some(known) = target.cache.noted::<Archived>("exports", &note) {
        target.lease.hold(&[Root::Blob(known.digest.clone())])?;
        if content.contains(&known.digest)? {
            return Ok((None, known));
        }
    }
    let name: String = layer.as_str().chars().take(12).collect();
    (target.watch)(&Event::Exporting {
        what: &format!("layer {name}"),
    });
    let gone = || {
        Error::new(
            ErrorKind::NotFound,
            format!("layer {layer} is not in the store any more"),
        )
    };
    let open = Layers::new(target.store)?.get(layer)?.ok_or_else(gone)?;
    let ingest = content.receive(target.lease)?;
    let mut packing = diff::Options::new(target.marks);
    (packing.latest, packing.level) = (Some(epoch), options.level());
    let sink = Sink(whole(&ingest)?);
    let (packed, sink): (Packed, Sink) =
        diff::pack(open.diff(), packing, options.compression, threads, sink)
            .context(|| format!("cannot archive layer {layer}"))?;
    drop(sink);
    let verified = ingest.verify()?.whole()?;
    if *verified.digest() != packed.digest {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the archive changed while it was written",
        ));
    }
    let archived = Archived {
        diff_id: packed.diff_id,
        digest: packed.digest,
        compressed: packed.compressed,
    };
    target.cache.note("exports", &note, &archived)?;
    note_diff_id(target.cache, layer, epoch, &archived.diff_id)?;
    Ok((Some(verified), archived))
}

/// The name of a note: of everything that the bytes depend on.
fn note_name(layer: &LayerId, epoch: i64, options: &Options<'_>) -> String {
    let compression: compress::Compression = options.compression;
    let text = format!("{layer} {epoch} {compression:?} {:?}", options.level());
    Digest::of(text.as_bytes()).hex().to_owned()
}

/// What is known of a layer, however it is compressed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    diff_id: Digest,
}

/// The name of a note of what a layer is, however it is compressed.
fn diff_name(layer: &LayerId, epoch: i64) -> String {
    Digest::of(format!("{layer} {epoch}").as_bytes())
        .hex()
        .to_owned()
}

fn note_diff_id(cache: &Cache, layer: &LayerId, epoch: i64, diff_id: &Digest) -> Result<()> {
    let known = Known {
        diff_id: diff_id.clone(),
    };
    cache.note("exports", &diff_name(layer, epoch), &known)
}

/// The DiffID of a layer that was archived before.
pub(crate) fn diff_id(cache: &Cache, layer: &LayerId, epoch: i64) -> Option<Digest> {
    let known: Option<Known> = cache.noted("exports", &diff_name(layer, epoch));
    known.map(|known| known.diff_id)
}

fn whole(ingest: &Ingest) -> Result<Piece> {
    let taken = || Error::new(ErrorKind::Internal, "a new blob is taken already");
    ingest.claim(u64::MAX).ok_or_else(taken)
}

struct Sink(Piece);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .write(bytes)
            .map_err(|error| io::Error::other(error.chain().to_string()))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
