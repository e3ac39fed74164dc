//! Base images: from the store, or pulled into it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rcrun_builder::graph::{BaseImage, Bases};
use rcrun_image::catalog;
use rcrun_image::closure::Platforms;
use rcrun_image::names::Names;
use rcrun_image::platform::Platform;
use rcrun_image::progress::Event;
use rcrun_image::pull::{self, DOWNLOADS, Request, Way};
use rcrun_image::reference::Reference;
use rcrun_image::registry::{Cancel, Notice};
use rcrun_image::transport::{self, In, Means, Naming};
use rcrun_overlay::durable;
use rcrun_overlay::lease::{Lease, Root};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use crate::images;
use crate::settings::Settings;

/// How names of images begin that are in a layout: `oci-layout://DIRECTORY[:TAG]`.
pub(super) const LAYOUT: &str = "oci-layout://";
/// How often an image is fetched that others remove before it can be used.
const FETCHES: usize = 10;

/// Looks images up once in a build.
pub(crate) struct Images<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) way: Way,
    /// Ask the registry even if the image is here.
    pub(crate) always: bool,
    pub(crate) cancel: &'a Cancel,
    /// Is told what is tried again.
    pub(crate) notice: &'a Notice,
    /// Hears about pulls, with the image's name.
    pub(crate) watch: &'a (dyn Fn(&str, Event) + Sync),
    pub(crate) known: Mutex<HashMap<(String, String), Arc<BaseImage>>>,
}

impl Bases for Images<'_> {
    fn image(&self, name: &str, platform: &Platform) -> Result<Arc<BaseImage>> {
        let key = (name.to_owned(), platform.to_string());
        if let Some(known) = self.known().get(&key) {
            return Ok(Arc::clone(known));
        }
        let found = match name.strip_prefix(LAYOUT) {
            Some(layout) => self.layout(layout, platform),
            None => self.find(name, platform),
        };
        let found = found.context(|| format!("cannot use base image {name}"))?;
        let found = Arc::new(found);
        self.known().insert(key, Arc::clone(&found));
        Ok(found)
    }
}

impl Images<'_> {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Arc<BaseImage>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str, platform: &Platform) -> Result<BaseImage> {
        let reference: Reference = name.parse()?;
        if !self.always
            && let Some(image) = self.here(&reference, platform)?
        {
            return Ok(image);
        }
        // In the moment since it was pulled it may have been removed again.
        for _ in 0..FETCHES {
            self.pull(&reference, platform)?;
            if let Some(image) = self.here(&reference, platform)? {
                return Ok(image);
            }
        }
        Err(Error::new(
            ErrorKind::Busy,
            "somebody removes it as often as it is pulled",
        ))
    }

    /// An image of a layout. It has a name for as long as it takes until the lease holds it.
    fn layout(&self, layout: &str, platform: &Platform) -> Result<BaseImage> {
        let location = format!("oci:{layout}").parse()?;
        let means = Means {
            store: self.store,
            client: None,
            watch: &|event| (self.watch)(layout, event),
            cancel: self.cancel,
        };
        // Builds that run at the same time may mean different layouts.
        let unique = durable::temporary_name();
        let unique = unique.trim_start_matches(durable::TEMPORARY);
        let name: Reference = format!("localhost/build-context:{unique}").parse()?;
        let how = In {
            platforms: &Platforms::One(platform.clone()),
            unpack: Some(self.way),
            downloads: 1,
            naming: &Naming::As(name.clone()),
        };
        transport::copy_in(&means, &location, &how, None)?;
        let found = self.here(&name, platform);
        Names::new(self.store)?.remove(&name)?;
        let missing = || {
            let text = format!("{layout} has no image for {platform}");
            Error::new(ErrorKind::NotFound, text)
        };
        let found = found?.ok_or_else(missing)?;
        Ok(BaseImage {
            reference: format!("{LAYOUT}{layout}"),
            ..found
        })
    }

    fn pull(&self, reference: &Reference, platform: &Platform) -> Result<()> {
        let cancel = self.cancel.child();
        let notice = self.notice.clone();
        let client = images::telling_client(self.settings, None, &cancel, notice)?;
        let name = reference.familiar();
        let request = Request {
            reference,
            platform,
            unpack: Some(self.way),
            downloads: DOWNLOADS,
            watch: &|event| (self.watch)(&name, event),
            cancel: &cancel,
        };
        pull::pull(self.store, &client, &request).map(drop)
    }

    /// The image if it is in the store; its layers are unpacked if need be.
    fn here(&self, reference: &Reference, platform: &Platform) -> Result<Option<BaseImage>> {
        let named = || match catalog::named(self.store, reference, platform) {
            Ok(named) => Ok(named),
            // Here for another platform: as good as missing.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let Some((record, image)) = named()? else {
            return Ok(None);
        };
        self.lease
            .hold(&[Root::Image(image.manifest.digest.clone())])?;
        // Only a name that still says the same vouches for what is held.
        match named()? {
            Some((_, again)) if again.manifest.digest == image.manifest.digest => {}
            _ => return Ok(None),
        }
        if !images::unpacked(self.store, self.lease, &image, self.way, self.cancel)? {
            return Ok(None);
        }
        let reference = reference.to_string();
        Ok(Some(BaseImage {
            reference,
            target: record.target.digest,
            image,
        }))
    }
}
