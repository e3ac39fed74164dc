//! Images that containers are made from: found by what a request says, held against removal, whole.

use rcrun_image::catalog::Image;
use rcrun_image::pull::unpack_stored;
use rcrun_image::reference::Reference;
use rcrun_image::registry::Cancel;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::lease::{Lease, Root};
use tonic::Status;

use super::Images;
use crate::proto::v1 as cri;
use crate::records::ImageFacts;
use crate::status::status;
use crate::{Context, Result};

/// An image that stays as long as this does.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) image: Image,
    pub(crate) lease: Lease,
    /// What the kubelet is told of it: a name with a digest, or its id.
    pub(crate) reference: String,
    /// What people call it.
    pub(crate) name: String,
    /// All its names with tags.
    pub(crate) names: Vec<String>,
    /// The container goes on from this, and the image is the one that is below.
    pub(crate) checkpoint: Option<crate::checkpoints::Source>,
}

impl Held {
    /// What a container's record says of it. A kubelet asks by the image's identifier and compares the name
    /// that it is told later with the one of the pod's specification.
    pub(crate) fn facts(&self, asked: Option<&cri::ImageSpec>) -> ImageFacts {
        let asked = asked.map(|image| [&image.user_specified_image, &image.image]);
        let asked = asked.into_iter().flatten();
        let mut asked = asked.filter_map(|name| Some(name.parse::<Reference>().ok()?.to_string()));
        let name = asked.find(|name| self.names.contains(name));
        ImageFacts {
            id: self.image.id.to_string(),
            manifest: self.image.manifest.digest.to_string(),
            reference: self.reference.clone(),
            name: name.or_else(|| self.names.first().cloned()),
        }
    }
}

impl Images {
    /// The image that is meant by an identifier or name, for a container. `NOT_FOUND`: it is not here.
    pub(crate) async fn hold(&self, text: &str) -> Result<Held, Status> {
        let missing = || Status::not_found(format!("image {text} is not here: pull it first"));
        let view = self.view().await?;
        let entry = view
            .find(text)
            .map_err(|error| status(&error))?
            .ok_or_else(missing)?;
        let (message, manifest) = (&entry.message, entry.manifest().clone());
        let first = |all: &[String]| all.first().cloned();
        let reference = first(&message.repo_digests).unwrap_or_else(|| message.id.clone());
        let name = first(&message.repo_tags).unwrap_or_else(|| reference.clone());
        let (host, told) = (std::sync::Arc::clone(&self.0.host), text.to_owned());
        let held = self.0.quick.run(move || {
            let store = &host.store;
            let lease = store.lease()?;
            lease.hold(&[Root::Image(manifest.clone())])?;
            // Only what is there now stays.
            let failed = || format!("cannot use image {told}");
            let Some(image) = Image::read(&store.content(), &manifest).context(failed)? else {
                return Ok(None);
            };
            let layers = Layers::new(store)?;
            let mut whole = true;
            for id in image.layers(host.way).context(failed)? {
                lease.hold(&[Root::Layer(id.clone())])?;
                whole &= layers.get(&id)?.is_some();
            }
            if !whole {
                let (blobs, ids) = (&image.document.layers, &image.config.rootfs.diff_ids);
                unpack_stored(store, &lease, blobs, ids, host.way, &|_| {}, &Cancel::new())
                    .context(failed)?;
            }
            Ok(Some((image, lease)))
        });
        let names = message.repo_tags.clone();
        let (image, lease) = held.await?.ok_or_else(missing)?;
        Ok(Held {
            image,
            lease,
            reference,
            name,
            names,
            checkpoint: None,
        })
    }
}
