//! The image of a container that is to be made: found in the store, or pulled.

use rcrun_image::catalog::{self, Catalog, Image, Meant};
use rcrun_image::platform::Platform;
use rcrun_image::pull::Way;
use rcrun_image::reference::Reference;
use rcrun_image::registry::Cancel;
use rcrun_image::transport::Location;
use rcrun_overlay::lease::Root;
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Error, ErrorKind, Result};

use super::{Found, Wanted};
use crate::images;
use crate::settings::Settings;
use crate::verbs::fetch;

/// How often an image is fetched that others remove before it can be used.
const FETCHES: usize = 10;

/// The image, which a lease holds from here on.
pub(super) fn find(
    settings: &Settings,
    store: &Store,
    wanted: &Wanted<'_>,
    way: Way,
) -> Result<Result<Found, u8>> {
    let host = Platform::host();
    let platform = wanted.platform.unwrap_or(&host);
    let here = || here(store, wanted, platform, way);
    if wanted.pull != "always"
        && let Some(found) = here()?
    {
        return Ok(Ok(found));
    }
    let missing = || catalog::no_such_image(wanted.image);
    let reference = match wanted.image.parse()? {
        Location::Registry(reference) => reference,
        other => {
            let text = format!("cannot run {other} as it is");
            return Err(Error::unsupported(text).with_hint("`rcrun load` or `rcrun pull` it first"));
        }
    };
    if wanted.pull == "never" {
        return Err(missing().with_hint(format!("`rcrun pull {}` fetches it", wanted.image)));
    }
    // In the moment since it was pulled it may have been removed again.
    for _ in 0..FETCHES {
        if let Some(code) = fetch(settings, store, &reference, platform, wanted.quiet)? {
            return Ok(Err(code));
        }
        if let Some(found) = here()? {
            return Ok(Ok(found));
        }
    }
    Err(missing())
}

/// What is in the store by that name or identifier, complete.
fn here(
    store: &Store,
    wanted: &Wanted<'_>,
    platform: &Platform,
    way: Way,
) -> Result<Option<Found>> {
    let Some((image, reference)) = looked_up(store, wanted, platform)? else {
        return Ok(None);
    };
    let lease = store.lease()?;
    lease.hold(&[Root::Image(image.manifest.digest.clone())])?;
    // Only a name that still says the same vouches for what is held.
    match looked_up(store, wanted, platform)? {
        Some((again, _)) if again.manifest.digest == image.manifest.digest => {}
        _ => return Ok(None),
    }
    if !images::unpacked(store, &lease, &image, way, &Cancel::new())? {
        return Ok(None);
    }
    Ok(Some(Found {
        image,
        reference,
        lease,
    }))
}

fn looked_up(
    store: &Store,
    wanted: &Wanted<'_>,
    platform: &Platform,
) -> Result<Option<(Image, String)>> {
    let name: Option<Reference> = match wanted.image.parse() {
        Ok(Location::Registry(reference)) => Some(reference),
        _ => None,
    };
    if let Some(name) = &name {
        match catalog::named(store, name, platform) {
            Ok(Some((record, image))) => return Ok(Some((image, record.name))),
            Ok(None) => {}
            // Here for another platform: as good as missing.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let users = images::users(store)?;
    let all: Catalog = images::catalog(store, &users)?;
    match all.find(wanted.image) {
        Ok(Meant::Image(listed)) => {
            let reference = listed.names.first().map(|record| record.name.clone());
            let id = listed.image.id.to_string();
            Ok(Some((listed.image.clone(), reference.unwrap_or(id))))
        }
        Ok(Meant::Name(..)) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
