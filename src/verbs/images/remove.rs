//! `rcrun rmi`.

use std::collections::BTreeSet;

use rcrun_image::Digest;
use rcrun_image::catalog::{Catalog, Image, Listed, Meant};
use rcrun_image::names::{Names, Record, UNNAMED};
use rcrun_image::pull::Way;
use rcrun_overlay::gc::{Collected, Policy};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Error, ErrorKind, Result};

use crate::images::{self, User};
use crate::settings::Settings;
use crate::{output, report};

/// remove images, by name, identifier or digest
///
/// An image goes with its last name, and with it everything on the disk that
/// nothing else needs.
#[derive(Debug, clap::Parser)]
#[command(name = "rmi", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Remove {
    /// remove also what has several names, or is used by containers
    #[arg(long, short)]
    force: bool,
    #[arg(required = true)]
    images: Vec<String>,
}

impl crate::verbs::Run for Remove {
    fn run(self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        let (mut gone, mut any) = (Vec::new(), false);
        let removed = report::each(&self.images, |image| {
            gone.extend(untag(&store, image, self.force)?);
            any = true;
            Ok(())
        });
        // What could be removed is removed, whatever else went wrong.
        let swept = match any {
            false => Ok(()),
            true => images::sweep(&store, &Policy::default())
                .and_then(|collected| tell(&store, &gone, &collected)),
        };
        removed.and(swept).map(|()| 0)
    }
}

/// What is to be done.
#[derive(Debug)]
struct Plan<'a> {
    /// Names to remove.
    names: Vec<&'a Record>,
    /// Images that have no name then.
    gone: Vec<&'a Image>,
}

/// Removes the names; returns the images that have none any more.
fn untag(store: &Store, image: &str, force: bool) -> Result<Vec<Image>> {
    let users = images::users(store)?;
    let catalog = images::catalog(store, &users)?;
    let plan = match plan(&catalog, catalog.find(image)?, &users, force) {
        Ok(plan) => plan,
        Err(error) => return Err(error.context(format!("cannot remove {image}"))),
    };
    let names = Names::new(store)?;
    let mut repositories = BTreeSet::new();
    for record in plan.names {
        let name = record.reference()?;
        if !names.remove(&name)? {
            continue;
        }
        if name.name() == UNNAMED {
            continue;
        }
        output::print(&format!("Untagged: {}\n", name.familiar()))?;
        if name.tag().is_some() && !plan.gone.is_empty() {
            let digest = name.with_digest(record.target.digest.clone());
            repositories.insert(digest.familiar());
        } else {
            repositories.remove(&name.familiar());
        }
    }
    for name in repositories {
        output::print(&format!("Untagged: {name}\n"))?;
    }
    Ok(plan.gone.into_iter().cloned().collect())
}

/// Decides what has to go, as docker does.
fn plan<'a>(
    catalog: &'a Catalog,
    meant: Meant<'a>,
    users: &[User],
    force: bool,
) -> Result<Plan<'a>> {
    let names: Vec<&Record> = match meant {
        Meant::Name(record, None) => vec![record],
        Meant::Name(record, Some(listed)) => {
            let repository = record.reference()?.name();
            let others = listed.names.iter().filter(|other| *other != record);
            let others: Vec<&Record> = others.collect();
            // Names by digest in the same repository are not what keeps an image.
            let by_digest = |other: &&Record| {
                other
                    .reference()
                    .is_ok_and(|name| name.tag().is_none() && name.name() == repository)
            };
            let mut names = vec![record];
            if others.iter().all(by_digest) {
                names.extend(others);
            }
            names
        }
        Meant::Image(listed) => {
            several(listed, force)?;
            listed.names.iter().collect()
        }
    };
    let left = |listed: &&Listed| listed.names.iter().all(|name| names.contains(&name));
    let led: Vec<&Listed> = match meant {
        Meant::Image(listed) if listed.names.is_empty() => vec![listed],
        _ => {
            let leads = |listed: &&Listed| listed.names.iter().any(|name| names.contains(&name));
            catalog.images.iter().filter(leads).filter(left).collect()
        }
    };
    if !force {
        led.iter().try_for_each(|listed| unused(listed, users))?;
    }
    let gone = led.into_iter().map(|listed| &listed.image).collect();
    Ok(Plan { names, gone })
}

/// By its identifier, an image with names in several repositories goes by force only.
fn several(listed: &Listed, force: bool) -> Result<()> {
    let mut repositories = BTreeSet::new();
    let mut tags = 0;
    for record in &listed.names {
        let name = record.reference()?;
        tags += usize::from(name.tag().is_some());
        repositories.insert(name.familiar_name());
    }
    if force || (repositories.len() <= 1 && tags <= 1) {
        return Ok(());
    }
    let names: Vec<&str> = listed.names.iter().map(|one| one.name.as_str()).collect();
    let message = format!("the image has several names: {}", names.join(", "));
    Err(Error::new(ErrorKind::FailedPrecondition, message)
        .with_hint("remove it by its names, or with --force"))
}

fn unused(listed: &Listed, users: &[User]) -> Result<()> {
    let manifest = &listed.image.manifest.digest;
    let uses = |user: &&User| user.manifest.as_ref() == Some(manifest);
    let Some(user) = users.iter().find(uses) else {
        return Ok(());
    };
    if user.is_mount {
        let message = "the image is mounted";
        return Err(Error::new(ErrorKind::FailedPrecondition, message)
            .with_hint(format!("`rcrun unmount {}` comes first", user.name)));
    }
    let (id, name) = (&user.id[..12], &user.name);
    let message = format!("container {id} ({name}) uses the image");
    Err(Error::new(ErrorKind::FailedPrecondition, message)
        .with_hint(format!("`rcrun rm {name}` removes the container")))
}

/// What became of the images: identifiers, then their layers that are gone, topmost first.
fn tell(store: &Store, gone: &[Image], collected: &Collected) -> Result<()> {
    let mut told = BTreeSet::new();
    for image in gone {
        if store.content().contains(&image.id)? || !told.insert(image.id.to_string()) {
            continue;
        }
        output::print(&format!("Deleted: {}\n", image.id))?;
        let mut layers = Vec::new();
        for way in Way::ALL {
            layers.extend(image.layers(way)?);
        }
        for layer in layers
            .iter()
            .rev()
            .filter(|one| collected.layers.contains(one))
        {
            let hex = layer.as_str().split('-').next().unwrap_or_default();
            let id: Digest = format!("sha256:{hex}").parse()?;
            if told.insert(id.to_string()) {
                output::print(&format!("Deleted: {id}\n"))?;
            }
        }
    }
    Ok(())
}
