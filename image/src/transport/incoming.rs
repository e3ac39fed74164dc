//! Into the store: from a registry, a layout or an archive.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Means;
use super::location::{Location, STREAM};
use crate::archive::arriving::{MANIFEST, receive};
use crate::closure::Platforms;
use crate::document::Descriptor;
use crate::import::{Import, Imported, Origin};
use crate::layout::directory::Layout;
use crate::layout::{INDEX, MARK, check_mark, choose, entries, names};
use crate::pull::{self, Way};
use crate::reference::Reference;
use crate::{Context, Error, ErrorKind, Result, docker_archive};

/// What images that come are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// This, whatever the source says. There must be one image.
    As(Reference),
    /// As the source says, all images of it.
    AsSaid,
    /// Nothing: the caller holds them by a lease, or they are swept.
    Nothing,
}

/// What comes, and how.
#[derive(Debug)]
pub struct In<'a> {
    /// Which images of an index.
    pub platforms: &'a Platforms,
    /// How layers are unpacked; without one they are only kept.
    pub unpack: Option<Way>,
    /// Blobs that are fetched from a registry at the same time.
    pub downloads: usize,
    /// What they are called here. At registries a name is what was asked for.
    pub naming: &'a Naming,
}

/// Which images of an archive.
#[derive(Debug, Clone, Copy)]
enum Member<'a> {
    /// Of whatever kind it is.
    Any,
    /// An OCI layout's.
    Layout(Option<&'a str>),
    /// One of docker's.
    Docker(Option<&'a Reference>),
}

/// Copies into the store; `input` is what `-` stands for.
pub fn copy_in(
    means: &Means<'_>,
    from: &Location,
    how: &In<'_>,
    input: Option<&mut (dyn Read + Send)>,
) -> Result<Vec<Imported>> {
    let (file, member) = match from {
        Location::Registry(reference) => return fetch(means, reference, how),
        Location::Layout { directory, name } => {
            let layout = || -> Result<Vec<Imported>> {
                let layout = Layout::open(directory)?;
                let entries = layout.entries()?;
                take(
                    means,
                    how,
                    Origin::Directory(layout),
                    &entries,
                    name.as_deref(),
                )
            };
            return layout().context(|| format!("cannot load {from}"));
        }
        Location::LayoutArchive { file, name } => (file, Member::Layout(name.as_deref())),
        Location::DockerArchive { file, reference } => (file, Member::Docker(reference.as_ref())),
    };
    let read = || -> Result<Vec<Imported>> {
        match input {
            Some(input) if file.as_os_str() == STREAM => archive(means, how, input, member),
            None if file.as_os_str() == STREAM => Err(Error::invalid("there is no input")),
            _ => archive(means, how, &mut open(file)?, member),
        }
    };
    read().context(|| format!("cannot load {from}"))
}

/// Copies what is in an archive, of docker's kind or an OCI layout, into the store.
pub fn load(
    means: &Means<'_>,
    how: &In<'_>,
    input: &mut (dyn Read + Send),
) -> Result<Vec<Imported>> {
    archive(means, how, input, Member::Any).context(|| "cannot load images")
}

fn open(path: &Path) -> Result<File> {
    File::open(path).context(|| format!("cannot open {}", path.display()))
}

fn fetch(means: &Means<'_>, reference: &Reference, how: &In<'_>) -> Result<Vec<Imported>> {
    let (platform, all) = match how.platforms {
        Platforms::One(platform) => (platform.clone(), false),
        Platforms::All => (how.platforms.machine(), true),
        Platforms::AllOr(_) => {
            return Err(Error::unsupported(format!(
                "cannot pull {reference}: either one platform or all of them"
            )));
        }
    };
    if !matches!(how.naming, Naming::AsSaid) {
        return Err(Error::unsupported(format!(
            "cannot pull {reference} under another name: pull it, then tag it"
        )));
    }
    let request = pull::Request {
        reference,
        platform: &platform,
        unpack: how.unpack,
        downloads: how.downloads,
        watch: means.watch,
        cancel: means.cancel,
    };
    let client = means.client()?;
    let pulled = match all {
        true => pull::pull_all(means.store, client, &request)?,
        false => pull::pull(means.store, client, &request)?,
    };
    Ok(vec![Imported {
        target: pulled.record.target.clone(),
        manifest: Some(pulled.manifest),
        names: vec![pulled.record],
    }])
}

fn import<'a>(means: &Means<'a>, how: &In<'a>) -> Result<Import<'a>> {
    Ok(Import {
        store: means.store,
        content: means.store.content(),
        lease: means.store.lease()?,
        platforms: how.platforms,
        unpack: how.unpack,
        keep: *how.naming == Naming::AsSaid,
        watch: means.watch,
        cancel: means.cancel,
    })
}

fn archive(
    means: &Means<'_>,
    how: &In<'_>,
    input: &mut (dyn Read + Send),
    member: Member<'_>,
) -> Result<Vec<Imported>> {
    let import = import(means, how)?;
    let arrived = receive(
        input,
        &import.content,
        &import.lease,
        means.watch,
        means.cancel,
    )?;
    let docker = match member {
        Member::Any => arrived.table(MANIFEST).is_some(),
        Member::Layout(_) => false,
        Member::Docker(_) => true,
    };
    if docker {
        let reference = match member {
            Member::Docker(reference) => reference,
            _ => None,
        };
        let images = docker_archive::images(&arrived)?;
        let mut origin = Origin::Archive(Box::new(arrived));
        return select(images, reference, how.naming)?
            .into_iter()
            .map(|image| {
                let made = image.made.as_deref();
                import.image(&mut origin, &image.target, made, &image.names)
            })
            .collect();
    }
    let name = match member {
        Member::Layout(name) => name,
        _ => None,
    };
    let table = |name: &str| {
        arrived
            .table(name)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| Error::invalid(format!("no archive of images: it has no {name}")))
    };
    check_mark(&table(MARK)?)?;
    let entries = entries(&table(INDEX)?)?;
    taken(
        &import,
        how,
        Origin::Archive(Box::new(arrived)),
        &entries,
        name,
    )
}

fn take(
    means: &Means<'_>,
    how: &In<'_>,
    origin: Origin,
    entries: &[Descriptor],
    name: Option<&str>,
) -> Result<Vec<Imported>> {
    taken(&import(means, how)?, how, origin, entries, name)
}

/// Takes images of a layout: the one of a name, or all if they are to be named as it says.
fn taken(
    import: &Import<'_>,
    how: &In<'_>,
    mut origin: Origin,
    entries: &[Descriptor],
    name: Option<&str>,
) -> Result<Vec<Imported>> {
    let mut wanted: Vec<(&Descriptor, Vec<Reference>)> = Vec::new();
    if name.is_none() && *how.naming == Naming::AsSaid {
        for entry in entries {
            match wanted
                .iter_mut()
                .find(|(one, _)| one.digest == entry.digest)
            {
                Some((_, all)) => all.extend(names(entry)),
                None => wanted.push((entry, names(entry))),
            }
        }
        if wanted.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no image in it"));
        }
    } else {
        let entry = choose(entries, name, &how.platforms.machine())?;
        let called = match how.naming {
            Naming::As(name) => vec![name.clone()],
            Naming::AsSaid => names(entry),
            Naming::Nothing => Vec::new(),
        };
        wanted.push((entry, called));
    }
    wanted
        .into_iter()
        .map(|(entry, names)| import.image(&mut origin, entry, None, &names))
        .collect()
}

/// The images of an archive of docker's that are meant, with the names they get.
fn select(
    mut images: Vec<docker_archive::Image>,
    reference: Option<&Reference>,
    naming: &Naming,
) -> Result<Vec<docker_archive::Image>> {
    if let Some(reference) = reference {
        let all: Vec<String> = images
            .iter()
            .flat_map(|one| &one.names)
            .map(ToString::to_string)
            .collect();
        images.retain(|one| one.names.contains(reference));
        if images.is_empty() {
            let message = format!("no image {reference} in it: there are {}", all.join(", "));
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        for image in &mut images {
            image.names.retain(|name| name == reference);
        }
    }
    if images.len() > 1 && (reference.is_some() || *naming != Naming::AsSaid) {
        let message = format!("{} images in it: say which", images.len());
        return Err(Error::invalid(message));
    }
    for image in &mut images {
        match naming {
            Naming::As(name) => image.names = vec![name.clone()],
            Naming::AsSaid => {}
            Naming::Nothing => image.names.clear(),
        }
    }
    Ok(images)
}
