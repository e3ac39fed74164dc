//! Copies between a store and everywhere else: what `pull`, `push`, `load` and `save` call.
//!
//! Owns the choice of who does it, by [`Location`], and files; what each place is like is the other
//! modules'. Progress is told in one way for all ([`crate::progress`]).

mod location;
#[cfg(test)]
mod peers;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use rcrun_overlay::durable;
use rcrun_overlay::store::Store;

use crate::archive::arriving::{MANIFEST, receive};
use crate::closure::{Part, Platforms};

use crate::document::Descriptor;
use crate::import::{Import, Origin};
use crate::layout::directory::{Addition, Layout};
use crate::layout::{INDEX, Label, MARK, check_mark, choose, entries, names};
use crate::progress::Watch;
use crate::pull::{self, Way};
use crate::push;
use crate::recompress::{Layers, Recompress};
use crate::reference::Reference;
use crate::registry::client::Client;
use crate::registry::retry::Cancel;
use crate::stored::{Leaving, Stored, Subject};
use crate::{Context, Error, ErrorKind, Result, docker_archive};

pub use crate::import::Imported;
pub use location::{Location, STREAM};

/// What every copy needs.
pub struct Means<'a> {
    /// The store.
    pub store: &'a Store,
    /// For locations at registries.
    pub client: Option<&'a Client>,
    /// Is told what happens.
    pub watch: Watch<'a>,
    /// Calls it off; the client's own. A copy that fails may call it off too.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Means<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means")
            .field("store", &self.store.path())
            .finish_non_exhaustive()
    }
}

impl Means<'_> {
    fn client(&self) -> Result<&Client> {
        self.client
            .ok_or_else(|| Error::new(ErrorKind::Internal, "no client for registries"))
    }
}

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

/// What leaves, and how.
#[derive(Debug)]
pub struct Out<'a> {
    /// Which images of an index.
    pub platforms: &'a Platforms,
    /// How layers are compressed.
    pub layers: Layers,
    /// In layouts and archives, Docker's manifests become OCI's, with another digest: programs on
    /// containers/image (skopeo, podman) read no others there.
    pub oci: bool,
    /// Blobs that are sent to a registry at the same time.
    pub uploads: usize,
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

/// Copies out of the store; `output` is what `-` stands for. Several images go into one archive or
/// layout; a registry's name stands for one. Returns what the images are there.
pub fn copy_out(
    means: &Means<'_>,
    subjects: &[Subject],
    to: &Location,
    how: &Out<'_>,
    output: Option<&mut dyn Write>,
) -> Result<Vec<Descriptor>> {
    if subjects.is_empty() || (subjects.len() > 1 && !takes_several(to)) {
        let count = subjects.len();
        return Err(Error::invalid(format!(
            "cannot save {count} images as {to}"
        )));
    }
    if let (Location::Registry(destination), [subject]) = (to, subjects) {
        let request = push::Request {
            subject,
            destination,
            platforms: how.platforms,
            layers: how.layers,
            uploads: how.uploads,
            watch: means.watch,
            cancel: means.cancel,
        };
        let pushed = push::push(means.store, means.client()?, &request)?;
        return Ok(vec![pushed.target]);
    }
    let save = || -> Result<Vec<Descriptor>> {
        let mut leaving = Vec::with_capacity(subjects.len());
        for subject in subjects {
            leaving.push(prepare(means, subject, to, how)?);
        }
        deliver(means, &leaving, to, output)?;
        let targets = leaving.iter().filter_map(|one| one.documents.last());
        Ok(targets.map(|part| part.descriptor.clone()).collect())
    };
    save().context(|| format!("cannot save to {to}"))
}

fn takes_several(to: &Location) -> bool {
    match to {
        Location::Registry(_) => false,
        Location::Layout { name, .. } | Location::LayoutArchive { name, .. } => name.is_none(),
        Location::DockerArchive { reference, .. } => reference.is_none(),
    }
}

/// An image that is ready to leave.
struct Ready {
    image: Stored,
    blobs: Vec<Leaving>,
    documents: Vec<Part>,
    target: Descriptor,
    label: Label,
}

fn prepare(means: &Means<'_>, subject: &Subject, to: &Location, how: &Out<'_>) -> Result<Ready> {
    let machine;
    let platforms = match to {
        // It has one platform of an image.
        Location::DockerArchive { .. } => {
            machine = Platforms::One(how.platforms.machine());
            &machine
        }
        _ => how.platforms,
    };
    let image = Stored::open(means.store, subject, platforms)?;
    let (watch, cancel) = (means.watch, means.cancel);
    let recompress = Recompress::new(means.store, &image, how.layers, watch, cancel)?.oci(how.oci);
    let blobs = image.closure.blobs.iter().map(|blob| recompress.blob(blob));
    let blobs = blobs.collect::<Result<Vec<Leaving>>>()?;
    let documents = recompress.documents(&image.closure)?;
    drop(recompress);
    let target = match documents.last() {
        Some(last) => last.descriptor.clone(),
        None => return Err(Error::new(ErrorKind::Internal, "no document to save")),
    };
    Ok(Ready {
        blobs,
        documents,
        target,
        label: label(subject, to),
        image,
    })
}

/// What an image is called where it goes.
fn label(subject: &Subject, to: &Location) -> Label {
    let own = match subject {
        Subject::Name(name) => Label::of(name),
        Subject::Digest(_) => Label::default(),
    };
    match to {
        Location::Layout { name: None, .. } => Label { name: None, ..own },
        Location::LayoutArchive { name: None, .. } => own,
        Location::Layout { name, .. } | Location::LayoutArchive { name, .. } => Label {
            name: name.clone(),
            image: None,
        },
        Location::DockerArchive { reference, .. } => {
            let reference = reference.as_ref().map(Label::of);
            reference.unwrap_or(own)
        }
        Location::Registry(_) => own,
    }
}

fn deliver(
    means: &Means<'_>,
    images: &[Ready],
    to: &Location,
    output: Option<&mut dyn Write>,
) -> Result<()> {
    let additions: Vec<Addition<'_>> = images
        .iter()
        .map(|one| Addition {
            content: &one.image.content,
            blobs: &one.blobs,
            documents: &one.documents,
            target: &one.target,
            label: &one.label,
            watch: means.watch,
            cancel: means.cancel,
        })
        .collect();
    let (file, table) = match to {
        Location::Registry(_) => return Err(Error::new(ErrorKind::Internal, "not a file")),
        Location::Layout { directory, .. } => {
            let layout = Layout::open_or_make(directory)?;
            return additions.iter().try_for_each(|one| layout.add(one));
        }
        Location::LayoutArchive { file, .. } => (file, None),
        Location::DockerArchive { file, .. } => (file, Some(table(images)?)),
    };
    let table = table.as_deref();
    match output {
        Some(output) if file.as_os_str() == STREAM => {
            crate::archive::write::write(&additions, table, output)
        }
        None if file.as_os_str() == STREAM => Err(Error::invalid("there is no output")),
        _ => durable_file(file, &|output| {
            crate::archive::write::write(&additions, table, output)
        }),
    }
}

/// docker's table of contents: each manifest once, with all of its names.
fn table(images: &[Ready]) -> Result<Vec<u8>> {
    let mut items: Vec<(&Ready, Vec<Reference>)> = Vec::new();
    for one in images {
        let name = one.label.image.clone().filter(|name| name.tag().is_some());
        match items
            .iter_mut()
            .find(|(other, _)| other.target.digest == one.target.digest)
        {
            Some((_, names)) => names.extend(name),
            None => items.push((one, name.into_iter().collect())),
        }
    }
    let mut list = Vec::with_capacity(items.len());
    for (one, names) in &items {
        list.push((docker_archive::manifest(&one.documents)?, &names[..]));
    }
    docker_archive::table(&list)
}

/// Writes a file that is whole or not there; a pipe or device is written to as it is.
fn durable_file(path: &Path, write: &dyn Fn(&mut dyn Write) -> Result<()>) -> Result<()> {
    let words = || format!("cannot write {}", path.display());
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let mut file = File::options().write(true).open(path).context(words)?;
        return write(&mut file);
    }
    let temporary = path.with_file_name(durable::temporary_name());
    let written = || -> Result<()> {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        write(&mut file)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)?;
        Ok(())
    };
    written().context(words).inspect_err(|_| {
        // The error matters more.
        let _ = std::fs::remove_file(&temporary);
    })
}
