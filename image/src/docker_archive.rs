//! What `docker save` writes: an archive whose `manifest.json` says which members are configuration
//! and layers of which image (Docker image specification 1.2, "Combined Image JSON + Filesystem
//! Changeset Format"; since docker 25 also an OCI layout).
//!
//! Owns `manifest.json`. Before docker 25 there are no manifests in it: then one is made of the
//! configuration and the layers as they are, the same each time. Where there is one it must say the
//! same as `manifest.json`: programs that read the one and the other must get the same image.
//! `repositories` and the files of docker before 1.10 are not looked at.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::archive::arriving::{Arrived, MANIFEST, Member};
use crate::closure::Part;
use crate::document::{
    Descriptor, Document, ImageConfig, MAX_INDEX_DEPTH, Manifest, check_document, media,
};
use crate::layout::{INDEX, blob_path, entries};
use crate::reference::Reference;
use crate::stored::plain;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Images of one archive.
pub const IMAGES: usize = 1024;
/// Manifests of one archive that are looked at.
const MANIFESTS: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    /// Go writes null for none.
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// An image of an archive.
#[derive(Debug)]
pub(crate) struct Image {
    /// Its manifest.
    pub(crate) target: Descriptor,
    /// The manifest's bytes if it is not in the archive.
    pub(crate) made: Option<Vec<u8>>,
    /// What it is called.
    pub(crate) names: Vec<Reference>,
}

/// `manifest.json` for these images.
pub(crate) fn table(images: &[(&Manifest, &[Reference])]) -> Result<Vec<u8>> {
    let items: Vec<Item> = images
        .iter()
        .map(|(manifest, names)| Item {
            config: blob_path(&manifest.config.digest),
            repo_tags: match names {
                [] => None,
                names => Some(names.iter().map(Reference::familiar).collect()),
            },
            layers: Some(
                manifest
                    .layers
                    .iter()
                    .map(|one| blob_path(&one.digest))
                    .collect(),
            ),
        })
        .collect();
    serde_json::to_vec(&items).map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
}

/// What is in an archive.
pub(crate) fn images(arrived: &Arrived) -> Result<Vec<Image>> {
    let bytes = arrived.table(MANIFEST).ok_or_else(|| {
        Error::invalid(format!("no archive of docker save: it has no {MANIFEST}"))
    })?;
    let items = read(bytes).context(|| format!("cannot read {MANIFEST} of the archive"))?;
    let known = manifests(arrived)?;
    let mut images = Vec::with_capacity(items.len());
    for (number, item) in items.iter().enumerate() {
        let image = image(arrived, item, &known)
            .context(|| format!("cannot use image {} of the archive", number + 1))?;
        images.push(image);
    }
    Ok(images)
}

fn read(bytes: &[u8]) -> Result<Vec<Item>> {
    let known = ["Config", "RepoTags", "Layers", "LayerSources", "Parent"];
    check_document(bytes, &known)?;
    let items: Vec<Item> =
        serde_json::from_slice(bytes).map_err(|error| Error::invalid(error.to_string()))?;
    match items.len() {
        0 => Err(Error::invalid("no image in it")),
        1..=IMAGES => Ok(items),
        more => Err(Error::invalid(format!(
            "{more} images are more than {IMAGES}"
        ))),
    }
}

fn image(arrived: &Arrived, item: &Item, known: &[(Descriptor, Manifest)]) -> Result<Image> {
    let config = arrived.member(&item.config)?;
    check_name(&item.config, &config.digest)?;
    let layers: Vec<&Member> = item
        .layers
        .iter()
        .flatten()
        .map(|path| arrived.member(path))
        .collect::<Result<_>>()?;
    let mut names = Vec::new();
    for name in item.repo_tags.iter().flatten() {
        let name: Reference = name
            .parse()
            .context(|| "cannot use a name of the archive")?;
        names.push(name);
    }
    let same = |manifest: &Manifest| {
        manifest.layers.len() == layers.len()
            && manifest
                .layers
                .iter()
                .zip(&layers)
                .all(|(one, other)| one.digest == other.digest)
    };
    let of_config = |one: &&(Descriptor, Manifest)| one.1.config.digest == config.digest;
    if let Some((target, _)) = known.iter().find(|one| of_config(one) && same(&one.1)) {
        let target = plain(&target.media_type, &target.digest, target.size);
        return Ok(Image {
            target,
            made: None,
            names,
        });
    }
    if let Some((other, _)) = known.iter().find(of_config) {
        return Err(Error::invalid(format!(
            "{MANIFEST} says other layers than manifest {} of the same configuration {}",
            other.digest, config.digest
        )));
    }
    let made = make(arrived, config, &layers)?;
    let target = plain(media::OCI_MANIFEST, &Digest::of(&made), made.len() as u64);
    Ok(Image {
        target,
        made: Some(made),
        names,
    })
}

/// A configuration that is called by a digest has it.
fn check_name(path: &str, digest: &Digest) -> Result<()> {
    let stem = path.strip_suffix(".json").unwrap_or(path);
    let said = stem.len() == 64 && format!("sha256:{stem}").parse::<Digest>().is_ok();
    if said && stem != digest.hex() {
        let message = format!("configuration {path} has digest {digest}");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(())
}

/// A manifest for what has none.
fn make(arrived: &Arrived, config: &Member, layers: &[&Member]) -> Result<Vec<u8>> {
    let bytes = arrived
        .document(&config.digest)?
        .ok_or_else(|| Error::invalid(format!("configuration {} is no document", config.digest)))?;
    let words = || format!("cannot use configuration {}", config.digest);
    let parsed = ImageConfig::read(&bytes).context(words)?;
    parsed.check_layers(layers.len()).context(words)?;
    let mut list = Vec::with_capacity(layers.len());
    for (layer, diff_id) in layers.iter().zip(&parsed.rootfs.diff_ids) {
        use rcrun_overlay::compress::Compression;
        let kind = match layer.compression {
            Some(Compression::None) => media::OCI_LAYER,
            Some(Compression::Gzip) => media::OCI_LAYER_GZIP,
            Some(Compression::Zstd) => media::OCI_LAYER_ZSTD,
            None => {
                return Err(Error::unsupported(format!(
                    "layer {} is compressed with neither gzip nor zstd",
                    layer.digest
                )));
            }
        };
        if kind == media::OCI_LAYER && *diff_id != layer.digest {
            return Err(wrong_layer(&layer.digest, &layer.digest, diff_id));
        }
        list.push(plain(kind, &layer.digest, layer.size));
    }
    let config = plain(media::OCI_CONFIG, &config.digest, config.size);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config, "layers": list,
    });
    Ok(manifest.to_string().into_bytes())
}

/// A layer whose archive is not what the configuration says.
pub(crate) fn wrong_layer(layer: &Digest, found: &Digest, wanted: &Digest) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the archive of layer {layer} has digest {found}, and the configuration says {wanted}"
        ),
    )
}

/// The manifests that `index.json` leads to, as far as they came with the archive.
fn manifests(arrived: &Arrived) -> Result<Vec<(Descriptor, Manifest)>> {
    let mut found = Vec::new();
    let Some(bytes) = arrived.table(INDEX) else {
        return Ok(found);
    };
    let mut open: Vec<(Descriptor, usize)> =
        entries(bytes)?.into_iter().map(|one| (one, 0)).collect();
    let mut looked = 0;
    while let Some((descriptor, depth)) = open.pop() {
        looked += 1;
        if looked > MANIFESTS || depth > MAX_INDEX_DEPTH {
            return Err(Error::invalid(format!(
                "{INDEX} of the archive names more than {MANIFESTS} manifests, or too deep"
            )));
        }
        let Some(bytes) = arrived.document(&descriptor.digest)? else {
            continue;
        };
        let document = Document::read(&bytes, Some(&descriptor.media_type))
            .context(|| format!("cannot use {}", descriptor.digest))?;
        match document {
            Document::Index(index) => {
                open.extend(index.manifests.into_iter().map(|one| (one, depth + 1)));
            }
            Document::Manifest(manifest) => found.push((descriptor, *manifest)),
        }
    }
    Ok(found)
}

/// What an image that leaves has to be: one manifest of an image.
pub(crate) fn manifest(documents: &[Part]) -> Result<&Manifest> {
    let manifest = documents.last().and_then(Part::manifest);
    let manifest = manifest.ok_or_else(|| {
        Error::invalid("an archive of docker save holds one platform of an image")
    })?;
    manifest.check_image()?;
    Ok(manifest)
}
