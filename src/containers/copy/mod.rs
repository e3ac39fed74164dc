//! Files into containers and out of them, as docker cp has it.
//!
//! Everything travels as an archive between two threads: [`pack`] walks a tree by descriptors, [`unpack`]
//! makes one. What is on the container's side is opened in the container's root only, so that links
//! lead nowhere else; what comes out of a container is made on the host without following any link.
//! No program is run, neither the host's nor one of the image.

mod pack;
mod unpack;

use std::io::{BufReader, Read, Write};

use rcrun_overlay::archive::Reader;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::pipe::{PipeFlags, pipe_with};

pub(crate) use pack::{Packing, pack};
pub(crate) use unpack::{Base, Unpacking, unpack};

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file, or a link that is not followed.
    File,
    /// A directory under its own name.
    Directory,
    /// What is in a directory: the path ends with `/.`.
    Contents,
}

/// What is where it is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nothing.
    Missing,
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into the directory, under its own name.
    Within,
    /// Into the directory, without a name.
    Merged,
    /// Beside it: into the parent directory, under the destination's name.
    Named,
}

/// Docker's rules; `slash` says that the destination ends with one.
pub(crate) fn place(source: Source, destination: Destination, slash: bool) -> Result<Place> {
    let refuse = |kind, text: &str| Err(Error::new(kind, text));
    match (source, destination) {
        (Source::File, Destination::Missing) if slash => refuse(
            ErrorKind::NotFound,
            "the destination directory does not exist",
        ),
        (Source::File, Destination::File) if slash => refuse(
            ErrorKind::InvalidInput,
            "the destination is not a directory",
        ),
        (Source::Directory | Source::Contents, Destination::File) => refuse(
            ErrorKind::InvalidInput,
            "a directory cannot be copied to a file",
        ),
        (Source::Contents, Destination::Directory) => Ok(Place::Merged),
        (_, Destination::Directory) => Ok(Place::Within),
        (_, Destination::Missing | Destination::File) => Ok(Place::Named),
    }
}

/// A path, taken apart: its directory, its last name (none for a root), and whether it ends with a
/// slash, or means what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Split<'a> {
    pub(crate) parent: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) slash: bool,
    pub(crate) contents: bool,
}

/// Takes a path apart.
pub(crate) fn split(path: &str) -> Split<'_> {
    let contents = path == "." || path.ends_with("/.");
    let bare = match contents {
        true => &path[..path.len() - 1],
        false => path,
    };
    let slash = contents || bare.ends_with('/') || bare.is_empty();
    let bare = bare.trim_end_matches('/');
    let (parent, name) = match bare.rsplit_once('/') {
        Some((parent, name)) => (parent, name),
        None => ("", bare),
    };
    let named = !matches!(name, "" | "." | "..");
    Split {
        parent: if named { parent } else { bare },
        name: named.then_some(name),
        slash: slash || name == "..",
        contents: contents || !named,
    }
}

/// Packs and unpacks at the same time. When both fail, what was unpacked says why. What
/// was left out.
pub(crate) fn through(
    pack: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    unpack: impl FnOnce(&mut Reader<BufReader<Box<dyn Read>>>) -> Result<Vec<String>>,
) -> Result<Vec<String>> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context(|| "cannot make a pipe")?;
    let (packed, unpacked) = std::thread::scope(|scope| {
        let packer = scope.spawn(move || {
            let mut sink = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::from(writer));
            pack(&mut sink)?;
            sink.flush().context(|| "cannot pass an archive on")
        });
        let source: Box<dyn Read> = Box::new(std::fs::File::from(reader));
        let mut reader = Reader::new(BufReader::with_capacity(1 << 20, source));
        let unpacked = unpack(&mut reader);
        // The packer notices.
        drop(reader);
        let packed = packer.join().unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Internal,
                "the thread that packs panicked",
            ))
        });
        (packed, unpacked)
    });
    match (packed, unpacked) {
        // The archive ended because it could not be made.
        (Err(error), Err(other)) if other.kind() == ErrorKind::InvalidInput => Err(error),
        (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
        (Ok(()), Ok(left_out)) => Ok(left_out),
    }
}

#[cfg(test)]
mod tests;
