//! Data of regular files: from the reader's buffer into the file, without a copy between.

use std::io::BufRead;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::archive::sparse::Piece;
use crate::archive::{Entry, Reader};
use crate::{Context, Result};

/// Writes the data of the current entry, which is this one, into an empty file; holes stay holes.
pub fn write<R: BufRead>(file: &OwnedFd, entry: &Entry, reader: &mut Reader<R>) -> Result<()> {
    match &entry.map {
        None => write_all(file, reader),
        Some(map) => write_pieces(file, map, entry.size, reader),
    }
}

/// Writes the data of the current entry.
pub(super) fn write_all<R: BufRead>(file: &OwnedFd, reader: &mut Reader<R>) -> Result<()> {
    loop {
        let data = reader.data()?;
        if data.is_empty() {
            return Ok(());
        }
        let written = match rustix::io::write(file, data) {
            Err(Errno::INTR) => 0,
            other => other.context(|| "write")?,
        };
        reader.consume(written);
    }
}

/// Writes the pieces of a sparse file where they belong; between them are holes.
pub(super) fn write_pieces<R: BufRead>(
    file: &OwnedFd,
    map: &[Piece],
    size: u64,
    reader: &mut Reader<R>,
) -> Result<()> {
    for piece in map {
        let mut done = 0;
        while done < piece.length {
            let data = reader.data()?;
            let left = usize::try_from(piece.length - done).unwrap_or(data.len());
            let data = &data[..data.len().min(left)];
            let written = match rustix::io::pwrite(file, data, piece.offset + done) {
                Err(Errno::INTR) => 0,
                other => other.context(|| "pwrite")?,
            };
            reader.consume(written);
            done += written as u64;
        }
    }
    rustix::fs::ftruncate(file, size).context(|| format!("ftruncate({size})"))
}
