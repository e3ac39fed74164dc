//! The images of a store: which are there, and which one is meant by what a person types.
//!
//! An image is a manifest whose configuration is there, known by the digest of its configuration, as
//! with docker. Names lead to it directly or by an index, of which the entries that are here count.
//! Owns no record: names are [`crate::names`]', and what uses an image is told by the caller.

use std::collections::HashSet;

use rcrun_overlay::content::Content;
use rcrun_overlay::layer::chain::chain_ids;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::lease::LayerId;
use rcrun_overlay::store::Store;

use crate::document::{Descriptor, Document, ImageConfig, MAX_DOCUMENT, MAX_INDEX_DEPTH, Manifest};
use crate::names::{Names, Record};
use crate::platform::Platform;
use crate::pull::{Way, layer_id};
use crate::reference::Reference;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// How many candidates an error names.
const SHOWN: usize = 4;

/// An image that is here.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its identifier: the digest of its configuration.
    pub id: Digest,
    /// Its manifest.
    pub manifest: Descriptor,
    /// The manifest, read.
    pub document: Manifest,
    /// The configuration, read.
    pub config: ImageConfig,
    /// The configuration as it is.
    pub raw: Vec<u8>,
}

/// What an image takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of its layers' archives, not compressed; of a layer that is not unpacked, of its blob.
    pub unpacked: u64,
    /// Bytes of its blobs, as a registry has them.
    pub compressed: u64,
}

impl Image {
    /// Reads an image; none if its manifest or its configuration is not here.
    pub fn read(content: &Content, manifest: &Digest) -> Result<Option<Self>> {
        match read_document(content, manifest)? {
            Some((Document::Manifest(document), bytes)) => {
                Self::complete(content, manifest, *document, bytes)
            }
            _ => Ok(None),
        }
    }

    fn complete(
        content: &Content,
        digest: &Digest,
        document: Manifest,
        size: u64,
    ) -> Result<Option<Self>> {
        let id = document.config.digest.clone();
        let Some(raw) = content.read(&id, MAX_DOCUMENT as u64)? else {
            return Ok(None);
        };
        let config = ImageConfig::read(&raw)
            .and_then(|config| config.check_layers(document.layers.len()).map(|()| config))
            .context(|| format!("cannot use configuration {id}"))?;
        let manifest = Descriptor {
            media_type: document.media_type.clone(),
            digest: digest.clone(),
            size,
            urls: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            platform: None,
            artifact_type: None,
        };
        Ok(Some(Self {
            id,
            manifest,
            document,
            config,
            raw,
        }))
    }

    /// Its layers when unpacked, lowest first.
    pub fn layers(&self, way: Way) -> Result<Vec<LayerId>> {
        chain_ids(&self.config.rootfs.diff_ids)
            .iter()
            .map(|chain| layer_id(chain, way))
            .collect()
    }

    /// What it takes.
    pub fn size(&self, layers: &Layers) -> Result<Size> {
        let mut size = Size {
            unpacked: 0,
            compressed: self.document.config.size,
        };
        let ways: Vec<_> = Way::ALL
            .iter()
            .map(|way| self.layers(*way))
            .collect::<Result<_>>()?;
        for (index, blob) in self.document.layers.iter().enumerate() {
            let mut archive = None;
            for way in &ways {
                if archive.is_none() {
                    archive = layers.get(&way[index])?.map(|layer| layer.record.size);
                }
            }
            size.unpacked = size.unpacked.saturating_add(archive.unwrap_or(blob.size));
            size.compressed = size.compressed.saturating_add(blob.size);
        }
        Ok(size)
    }
}

fn read_document(content: &Content, digest: &Digest) -> Result<Option<(Document, u64)>> {
    let Some(bytes) = content.read(digest, MAX_DOCUMENT as u64)? else {
        return Ok(None);
    };
    let document = Document::read(&bytes, None).context(|| format!("cannot read {digest}"))?;
    Ok(Some((document, bytes.len() as u64)))
}

/// The images that an index or manifest leads to and that are here, in its order, each once.
pub fn images_of(content: &Content, target: &Digest) -> Result<Vec<Image>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    collect(content, target, 0, &mut seen, &mut found)?;
    Ok(found)
}

fn collect(
    content: &Content,
    digest: &Digest,
    depth: usize,
    seen: &mut HashSet<Digest>,
    found: &mut Vec<Image>,
) -> Result<()> {
    if depth > MAX_INDEX_DEPTH || !seen.insert(digest.clone()) {
        return Ok(());
    }
    match read_document(content, digest)? {
        Some((Document::Index(index), _)) => index
            .manifests
            .iter()
            .try_for_each(|entry| collect(content, &entry.digest, depth + 1, seen, found)),
        Some((Document::Manifest(document), size)) if document.check_image().is_ok() => {
            found.extend(Image::complete(content, digest, *document, size)?);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The image for a platform, else the first.
pub fn choose<'a>(images: &'a [Image], platform: &Platform) -> Option<&'a Image> {
    let platforms: Vec<Platform> = images.iter().map(|image| image.config.platform()).collect();
    platform
        .best(images.iter().zip(&platforms))
        .or_else(|| images.first())
}

/// What a name stands for, and the image of it for a platform; none if there is no such name. An
/// image that is not here is an error.
pub fn named(
    store: &Store,
    name: &Reference,
    platform: &Platform,
) -> Result<Option<(Record, Image)>> {
    let Some(record) = Names::new(store)?.get(name)? else {
        return Ok(None);
    };
    let images = images_of(&store.content(), &record.target.digest)
        .context(|| format!("cannot use image {name}"))?;
    let platforms: Vec<Platform> = images.iter().map(|image| image.config.platform()).collect();
    let Some(image) = platform.best(images.iter().zip(&platforms)) else {
        let have: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        return Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "image {name} is not here for platform {platform}: there is {}",
                match have.is_empty() {
                    true => "none".to_owned(),
                    false => have.join(", "),
                }
            ),
        )
        .with_hint(format!(
            "`rcrun pull --platform {platform} {}` fetches it",
            name.familiar()
        )));
    };
    Ok(Some((record, image.clone())))
}

/// An image with the names that lead to it.
#[derive(Debug)]
pub struct Listed {
    /// The image.
    pub image: Image,
    /// Their records, by name.
    pub names: Vec<Record>,
    /// Whether it is what one of its names means on this machine, or has no name at all.
    pub meant: bool,
}

/// All images of a store, at a moment.
#[derive(Debug)]
pub struct Catalog {
    /// The images, in the order of their first names; those without a name come last.
    pub images: Vec<Listed>,
    /// Names whose images cannot be read, and why.
    pub broken: Vec<(Record, Error)>,
}

/// What a person's words mean.
#[derive(Debug, Clone, Copy)]
pub enum Meant<'a> {
    /// A name, and the image it means on this machine, if that can be read.
    Name(&'a Record, Option<&'a Listed>),
    /// An image, by its identifier or a digest.
    Image(&'a Listed),
}

impl Catalog {
    /// Reads all names and what they lead to, and these manifests, which somebody uses. `platform` is
    /// this machine's.
    pub fn read(store: &Store, used: &[Digest], platform: &Platform) -> Result<Self> {
        let content = store.content();
        let mut catalog = Self {
            images: Vec::new(),
            broken: Vec::new(),
        };
        for record in Names::new(store)?.list()? {
            let found = images_of(&content, &record.target.digest);
            match found {
                Ok(images) if !images.is_empty() => catalog.add(&record, images, platform),
                Ok(_) => {
                    let why = "its manifest or configuration is missing";
                    let error = Error::new(ErrorKind::Corrupt, why);
                    catalog.broken.push((record, error));
                }
                Err(error) => catalog.broken.push((record, error)),
            }
        }
        for manifest in used {
            let known = |listed: &Listed| listed.image.manifest.digest == *manifest;
            if catalog.images.iter().any(known) {
                continue;
            }
            // What a container still needs is in its snapshot: without a manifest it is no image.
            if let Ok(Some(image)) = Image::read(&content, manifest) {
                catalog.images.push(Listed {
                    image,
                    names: Vec::new(),
                    meant: true,
                });
            }
        }
        Ok(catalog)
    }

    fn add(&mut self, record: &Record, images: Vec<Image>, platform: &Platform) {
        let chosen = choose(&images, platform).map(|image| image.id.clone());
        for image in images {
            let meant = chosen.as_ref() == Some(&image.id);
            match self.images.iter_mut().find(|one| one.image.id == image.id) {
                Some(listed) => {
                    listed.meant |= meant;
                    listed.names.push(record.clone());
                }
                None => self.images.push(Listed {
                    image,
                    names: vec![record.clone()],
                    meant,
                }),
            }
        }
    }

    /// The image that a name means on this machine.
    pub fn of(&self, record: &Record) -> Option<&Listed> {
        let leads = |listed: &&Listed| listed.names.contains(record);
        let mut all = self.images.iter().filter(leads);
        let first = all.clone().next();
        all.find(|listed| listed.meant).or(first)
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        let named = self.images.iter().flat_map(|listed| &listed.names);
        named.chain(self.broken.iter().map(|(record, _)| record))
    }

    /// What is meant: a name, an identifier, a digest of a manifest or index with or without a name,
    /// or the unique beginning of an identifier.
    pub fn find(&self, text: &str) -> Result<Meant<'_>> {
        if let Some(digest) = identifier(text) {
            return self.by_digest(&digest).ok_or_else(|| no_such_image(text));
        }
        let name = text.parse::<Reference>();
        if let Ok(name) = &name {
            let whole = name.to_string();
            if let Some(record) = self.records().find(|record| record.name == whole) {
                return Ok(Meant::Name(record, self.of(record)));
            }
            if let Some(meant) = name
                .digest()
                .and_then(|digest| self.in_repository(name, digest))
            {
                return Ok(meant);
            }
        }
        if let Some(meant) = self.by_beginning(text)? {
            return Ok(meant);
        }
        name.and_then(|_| Err(no_such_image(text)))
    }

    fn by_digest(&self, digest: &Digest) -> Option<Meant<'_>> {
        let is = |listed: &&Listed| {
            listed.image.id == *digest || listed.image.manifest.digest == *digest
        };
        if let Some(listed) = self.images.iter().find(is) {
            return Some(Meant::Image(listed));
        }
        let record = self
            .records()
            .find(|record| record.target.digest == *digest)?;
        self.of(record).map(Meant::Image)
    }

    /// `NAME@DIGEST` of something that came by another name of the same repository.
    fn in_repository(&self, name: &Reference, digest: &Digest) -> Option<Meant<'_>> {
        let repository = name.name();
        let same = |record: &&Record| {
            record
                .reference()
                .is_ok_and(|other| other.name() == repository)
        };
        let leads = |listed: &&Listed| {
            listed.image.manifest.digest == *digest && listed.names.iter().any(|one| same(&one))
        };
        if let Some(listed) = self.images.iter().find(leads) {
            return Some(Meant::Image(listed));
        }
        let record = self
            .records()
            .filter(same)
            .find(|record| record.target.digest == *digest)?;
        self.of(record).map(Meant::Image)
    }

    fn by_beginning(&self, text: &str) -> Result<Option<Meant<'_>>> {
        let beginning = text.strip_prefix("sha256:").unwrap_or(text);
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if beginning.is_empty() || !beginning.bytes().all(hex) {
            return Ok(None);
        }
        let begins = |listed: &&Listed| listed.image.id.hex().starts_with(beginning);
        let found: Vec<&Listed> = self.images.iter().filter(begins).collect();
        match found.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(Meant::Image(only))),
            several => {
                let shown = several.iter().take(SHOWN);
                let shown: Vec<&str> = shown.map(|one| &one.image.id.hex()[..12]).collect();
                Err(Error::invalid(format!(
                    "{text:?} is the beginning of {} images' identifiers: {}",
                    several.len(),
                    shown.join(", ")
                )))
            }
        }
    }
}

/// 64 digits, with or without the algorithm.
fn identifier(text: &str) -> Option<Digest> {
    match text.contains(':') {
        true => text.parse().ok(),
        false => format!("sha256:{text}").parse().ok(),
    }
}

/// There is no image of that name or identifier.
pub fn no_such_image(text: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such image: {text}"))
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
