//! ImageService: what the kubelet and crictl ask of images.
//!
//! Handlers here check requests, call, and word answers. [`index`] knows what is there, [`view`] what is
//! meant, [`describe`] what is told; [`pull`], [`sweep`] and [`usage`] do what takes time.

mod auth;
mod describe;
mod held;
mod index;
mod pull;
mod sweep;
mod usage;
mod view;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rcrun_image::document::MAX_DOCUMENT;
use rcrun_image::names::Names;
use rcrun_image::reference::Reference;
use tonic::codegen::tokio_stream::{self, Stream};
use tonic::{Request, Response, Status};

use crate::host::Host;
use crate::meter::Meter;
use crate::proto::v1 as cri;
use crate::proto::v1::image_service_server::ImageService;
use crate::runtime::HANDLERS;
use crate::settings::Settings;
use crate::status::status;
use crate::work::Gate;
use crate::{Context, Result};
pub(crate) use held::Held;
use index::Index;
use pull::{Pulls, Wanted};
use sweep::Sweeper;
use usage::Usage;
use view::View;

/// Short pieces of work that read or write a few files, at a time.
const QUICK: usize = 8;
/// When a server has nothing more urgent to do after its start.
const TIDY_AFTER: Duration = Duration::from_secs(20);
/// Images in one piece of a streamed list.
const PIECE: usize = 100;

/// The service; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Arc<Host>,
    settings: Mutex<Settings>,
    index: Arc<Index>,
    quick: Gate,
    pulls: Pulls,
    sweeper: Sweeper,
    usage: Usage,
}

impl Images {
    /// Reads the store, and starts what goes on beside requests.
    pub(crate) async fn start(host: &Arc<Host>, settings: &Settings) -> Result<Self> {
        let (store, pinned) = (host.store.clone(), settings.pinned()?);
        let opened = tokio::task::spawn_blocking(move || Index::open(&store, &pinned)).await;
        let index = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(Self(Arc::new(Inner {
            host: Arc::clone(host),
            settings: Mutex::new(settings.clone()),
            index: Arc::new(index),
            quick: Gate::new(QUICK),
            pulls: Pulls::new(host, settings.parallel_pulls, Arc::default()),
            sweeper: Sweeper::start(host),
            usage: Usage::new(&host.store),
        })))
    }

    /// The settings as they were last read.
    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        let settings = self.0.settings.lock();
        settings.unwrap_or_else(PoisonError::into_inner)
    }

    /// What pulls are counted by, and everything else of this server.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        self.0.pulls.meter()
    }

    /// Bytes that images take on the disk, and what containers wrote.
    pub(crate) async fn taken(&self) -> Result<[u64; 2], Status> {
        let info = self.0.usage.info().await?;
        let bytes = |all: &[cri::FilesystemUsage]| {
            let all = all.iter().filter_map(|one| one.used_bytes.as_ref());
            all.map(|bytes| bytes.value).sum()
        };
        Ok([
            bytes(&info.image_filesystems),
            bytes(&info.container_filesystems),
        ])
    }

    /// Reads the settings anew.
    pub(crate) fn reload(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            let images = this.clone();
            let reloaded = this.0.quick.run(move || {
                let current = (images.0.host.current)()?.cri;
                images.0.index.pin(&current.pinned()?);
                *images.settings() = current;
                Ok(())
            });
            match reloaded.await {
                Ok(()) => tracing::info!("the settings were read again"),
                Err(status) => tracing::error!("the settings stay: {}", status.message()),
            }
        });
    }

    /// Takes away, in a while, what servers left that were killed: leases, and what they were removing.
    pub(crate) fn tidy(&self) {
        let sweeper = self.0.sweeper.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TIDY_AFTER).await;
            sweeper.sweep().await
        });
    }

    /// Calls off what takes long.
    pub(crate) fn stop(&self) {
        self.0.pulls.stop();
    }

    /// All images, of this moment.
    async fn view(&self) -> Result<Arc<View>, Status> {
        let fresh = self.0.index.fresh().map_err(|error| status(&error))?;
        match fresh {
            Some(view) => Ok(view),
            None => {
                let index = Arc::clone(&self.0.index);
                self.0.quick.run(move || index.refresh()).await
            }
        }
    }

    async fn list(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Status> {
        let view = self.view().await?;
        let wanted = filter
            .and_then(|filter| filter.image)
            .map(|spec| spec.image);
        let found = match wanted.filter(|name| !name.is_empty()) {
            None => return Ok(view.images().map(|entry| entry.message.clone()).collect()),
            Some(name) => view.find(&name).map_err(|error| status(&error))?,
        };
        Ok(found
            .map(|entry| entry.message.clone())
            .into_iter()
            .collect())
    }

    /// Removes all names of the image that is meant; there need not be one.
    fn untag(&self, text: &str) -> Result<()> {
        let view = self.0.index.refresh()?;
        let names = Names::new(&self.0.host.store)?;
        let Some(entry) = view.find(text)? else {
            // A name whose image is damaged, or not whole.
            if let Ok(name) = text.parse::<Reference>() {
                names.remove(&name)?;
            }
            return Ok(());
        };
        for record in entry.records() {
            let name = record.reference()?;
            // It may have moved to another image meanwhile.
            let same = names
                .get(&name)?
                .is_some_and(|now| now.target == record.target);
            if same {
                names.remove(&name)?;
            }
        }
        tracing::info!(id = %entry.id, names = entry.records().len(), "removed");
        Ok(())
    }
}

/// The image that a request names.
fn named(spec: Option<cri::ImageSpec>) -> Result<cri::ImageSpec, Status> {
    let spec = spec.filter(|spec| !spec.image.is_empty());
    spec.ok_or_else(|| Status::invalid_argument("the request names no image"))
}

/// The name by which an image is pulled and kept: a digest decides, and a tag beside it says nothing.
fn wanted(text: &str) -> Result<Reference> {
    let name: Reference = text.parse()?;
    match name.digest().cloned() {
        Some(digest) => Ok(name.with_digest(digest)),
        None => Ok(name),
    }
}

fn check_handler(spec: &cri::ImageSpec) -> Result<(), Status> {
    match HANDLERS.contains(&spec.runtime_handler.as_str()) {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!(
            "there is no runtime handler {:?}",
            spec.runtime_handler
        ))),
    }
}

#[tonic::async_trait]
impl ImageService for Images {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let images = self.list(request.into_inner().filter).await?;
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    type StreamImagesStream =
        Pin<Box<dyn Stream<Item = Result<cri::StreamImagesResponse, Status>> + Send>>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let mut images = self.list(request.into_inner().filter).await?;
        let mut pieces = Vec::with_capacity(images.len().div_ceil(PIECE));
        while !images.is_empty() {
            let rest = images.split_off(images.len().min(PIECE));
            pieces.push(Ok(cri::StreamImagesResponse { images }));
            images = rest;
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let spec = named(request.image)?;
        check_handler(&spec)?;
        let view = self.view().await?;
        let found = view.find(&spec.image).map_err(|error| status(&error))?;
        // An image that is not here is no error.
        let Some(entry) = found else {
            return Ok(Response::new(cri::ImageStatusResponse::default()));
        };
        let mut info = BTreeMap::new();
        if request.verbose {
            let (content, id) = (self.0.host.store.content(), entry.id.clone());
            let read = move || {
                let raw = content.read(&id, MAX_DOCUMENT as u64)?;
                raw.map_or(Ok(BTreeMap::new()), |raw| describe::verbose(&raw))
            };
            info = self.0.quick.run(read).await?;
        }
        Ok(Response::new(cri::ImageStatusResponse {
            image: Some(entry.message.clone()),
            info,
        }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let request = request.into_inner();
        let spec = named(request.image)?;
        check_handler(&spec)?;
        let prepared = wanted(&spec.image).and_then(|image| {
            let auth = request.auth.unwrap_or_default();
            let credential = auth::credential(&auth, &image)
                .context(|| format!("cannot use the credentials for {image}"))?;
            Ok(Wanted { image, credential })
        });
        let wanted = prepared.map_err(|error| status(&error))?;
        let id = self.0.pulls.pull(wanted).await?;
        self.0.usage.changed();
        self.0.sweeper.settle_later();
        Ok(Response::new(cri::PullImageResponse {
            image_ref: id.to_string(),
        }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let spec = named(request.into_inner().image)?;
        let (this, name) = (self.clone(), spec.image.clone());
        let removed = self.0.quick.run(move || {
            this.untag(&name)
                .context(|| format!("cannot remove image {name}"))
        });
        removed.await?;
        if !self.0.sweeper.sweep().await {
            tracing::info!(image = %spec.image, "removed; its space is still being freed");
        }
        self.0.usage.changed();
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        self.0.usage.info().await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_decides_what_is_pulled() {
        let digest = rcrun_image::Digest::of(b"x");
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            (&format!("a.io/b:1@{digest}"), format!("a.io/b@{digest}")),
            (&format!("a.io/b@{digest}"), format!("a.io/b@{digest}")),
        ] {
            assert_eq!(wanted(text).unwrap().to_string(), expected);
        }
        assert!(wanted("A B").is_err());
    }

    #[test]
    fn unknown_handlers_are_refused() {
        let spec = |handler: &str| cri::ImageSpec {
            runtime_handler: handler.to_owned(),
            ..Default::default()
        };
        for (handler, known) in [("", true), ("rcrun", true), ("kata", false)] {
            assert_eq!(check_handler(&spec(handler)).is_ok(), known, "{handler}");
        }
        assert!(named(None).is_err() && named(Some(spec(""))).is_err());
    }
}
