//! Out of the store: to a registry, a layout or an archive.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rcrun_overlay::durable;

use super::Means;
use super::location::{Location, STREAM};
use crate::closure::{Part, Platforms};
use crate::document::Descriptor;
use crate::layout::Label;
use crate::layout::directory::{Addition, Layout};
use crate::recompress::{Layers, Recompress};
use crate::reference::Reference;
use crate::stored::{Leaving, Stored, Subject};
use crate::{Context, Error, ErrorKind, Result, docker_archive, push};

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
        // Both names, unless the place has its own.
        Subject::Called(_, name) if takes_several(to) => return Label::of(name),
        Subject::Called(_, name) => Label::of(name),
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
