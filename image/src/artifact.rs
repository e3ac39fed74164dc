//! One manifest with its blobs, at a registry or in a layout, whatever it is about: images, and what is
//! kept beside them, such as a build's cache.
//!
//! Documents are read at once and blobs are fetched when somebody asks for them. All of it is verified
//! against its digest; what it means is the caller's to judge.

use rcrun_overlay::lease::Root;
use rcrun_overlay::store::Store;

use crate::closure::Platforms;
use crate::document::{Descriptor, Document, MAX_INDEX_DEPTH, Manifest};
use crate::import::Import;
use crate::layout::choose;
use crate::layout::directory::Layout;
use crate::platform::Platform;
use crate::progress::Watch;
use crate::pull;
use crate::reference::Reference;
use crate::registry::client::Client;
use crate::registry::retry::Cancel;
use crate::transport::Location;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Where it is.
#[derive(Debug)]
enum Place {
    Registry(Box<Client>, Reference),
    Layout(Layout),
}

/// A manifest that was read.
#[derive(Debug)]
pub struct Artifact {
    place: Place,
    /// The manifest; of an index, the one for a platform.
    pub manifest: Manifest,
    /// Its digest.
    pub digest: Digest,
    /// The bytes of its configuration, verified.
    pub config: Vec<u8>,
}

impl Artifact {
    /// Reads manifest and configuration of what is at a registry, or in a layout.
    pub fn open(location: &Location, client: Client, platform: &Platform) -> Result<Self> {
        let open = || match location {
            Location::Registry(reference) => Self::fetch(client, reference, platform),
            Location::Layout { directory, name } => {
                Self::read(Layout::open(directory)?, name.as_deref(), platform)
            }
            _ => Err(Error::unsupported("it is no registry and no layout")),
        };
        open().context(|| format!("cannot read {location}"))
    }

    fn fetch(client: Client, reference: &Reference, platform: &Platform) -> Result<Self> {
        let mut last = client.resolve(reference)?;
        for _ in 0..MAX_INDEX_DEPTH {
            let Document::Index(index) = &last.document else {
                break;
            };
            last = client.document(reference, index.select(platform)?)?;
        }
        let Document::Manifest(manifest) = last.document else {
            return Err(too_deep());
        };
        let digest = last.digest;
        let config = client.small_blob(reference, &manifest.config)?;
        Ok(Self {
            place: Place::Registry(Box::new(client), reference.clone()),
            manifest: *manifest,
            digest,
            config,
        })
    }

    fn read(layout: Layout, name: Option<&str>, platform: &Platform) -> Result<Self> {
        let missing = |wanted: &Descriptor| {
            let digest = &wanted.digest;
            Error::new(ErrorKind::NotFound, format!("blob {digest} is not there"))
        };
        let entries = layout.entries()?;
        let mut chosen = choose(&entries, name, platform)?.clone();
        for _ in 0..=MAX_INDEX_DEPTH {
            let bytes = layout.document(&chosen)?.ok_or_else(|| missing(&chosen))?;
            match Document::read(&bytes, Some(&chosen.media_type))? {
                Document::Index(index) => chosen = index.select(platform)?.clone(),
                Document::Manifest(manifest) => {
                    let config = layout.document(&manifest.config)?;
                    return Ok(Self {
                        config: config.ok_or_else(|| missing(&manifest.config))?,
                        place: Place::Layout(layout),
                        manifest: *manifest,
                        digest: chosen.digest,
                    });
                }
            }
        }
        Err(too_deep())
    }

    /// Brings a blob into the store, verified and durable. The caller's lease holds it.
    pub fn bring(
        &self,
        store: &Store,
        blob: &Descriptor,
        watch: Watch<'_>,
        cancel: &Cancel,
    ) -> Result<()> {
        let platform = Platform::host();
        match &self.place {
            Place::Registry(client, reference) => {
                let request = pull::Request {
                    reference,
                    platform: &platform,
                    unpack: None,
                    downloads: 1,
                    watch,
                    cancel,
                };
                pull::bring(store, client, &request, &self.manifest, blob).map(drop)
            }
            Place::Layout(layout) => {
                let import = Import {
                    store,
                    content: store.content(),
                    lease: store.lease()?,
                    platforms: &Platforms::One(platform),
                    unpack: None,
                    keep: false,
                    watch,
                    cancel,
                };
                import.lease.hold(&[Root::Blob(blob.digest.clone())])?;
                import.fetch(layout, blob)
            }
        }
    }
}

fn too_deep() -> Error {
    Error::invalid(format!(
        "more than {MAX_INDEX_DEPTH} indexes inside one another"
    ))
}
