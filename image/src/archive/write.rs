//! Writes a layout as a tar archive: the same bytes for the same images.
//!
//! Members come in an order in which a reader of one pass knows what it reads: what says what is in
//! the archive, documents, then the other blobs, each kind by digest. All belong to root and are
//! from 1970. With docker's `manifest.json` it is what docker 25 and later write, and docker, podman
//! and skopeo of any age read.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write};

use rcrun_overlay::archive::{Entry, Kind, Time, Writer};

use super::arriving::MANIFEST;
use crate::closure::Part;
use crate::layout::directory::{Addition, At, damaged};
use crate::layout::{BLOBS, INDEX, MARK, blob_path, mark, with_entry};
use crate::progress::{Event, Watch};
use crate::registry::retry::Cancel;
use crate::stored::Leaving;
use crate::{Digest, Error, ErrorKind, Result};

/// Bytes that are read and written at once.
const BUFFER: usize = 256 << 10;

/// Writes images as an archive; `manifest` is docker's table of contents, if there is to be one.
pub(crate) fn write(
    images: &[Addition<'_>],
    manifest: Option<&[u8]>,
    output: &mut dyn Write,
) -> Result<()> {
    let mut index: Option<Vec<u8>> = None;
    for image in images {
        index = Some(with_entry(index.as_deref(), image.target, image.label)?);
    }
    let mut writer = Writer::new(BufWriter::with_capacity(BUFFER, output));
    append(&mut writer, MARK, &mark())?;
    append(&mut writer, INDEX, &index.unwrap_or_default())?;
    if let Some(manifest) = manifest {
        append(&mut writer, MANIFEST, manifest)?;
    }
    let mut documents: BTreeMap<&Digest, &Part> = BTreeMap::new();
    let mut blobs: BTreeMap<(u64, &Digest), (&Leaving, &Addition<'_>)> = BTreeMap::new();
    for image in images {
        let parts = image.documents.iter();
        documents.extend(parts.map(|part| (&part.descriptor.digest, part)));
        for blob in image.blobs {
            let descriptor = &blob.descriptor;
            blobs.insert((descriptor.size, &descriptor.digest), (blob, image));
        }
    }
    directory(&mut writer, BLOBS)?;
    let digests = documents.keys().copied();
    let digests = digests.chain(blobs.keys().map(|(_, digest)| *digest));
    let mut algorithms: Vec<&str> = digests.map(|one| one.algorithm().name()).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    for algorithm in algorithms {
        directory(&mut writer, &format!("{BLOBS}/{algorithm}"))?;
    }
    for (digest, part) in &documents {
        append(&mut writer, &blob_path(digest), &part.bytes)?;
    }
    // Small ones first: configurations, which readers want to see early.
    for ((_, digest), (blob, image)) in &blobs {
        if !documents.contains_key(digest) {
            copy(&mut writer, blob, image)?;
        }
    }
    writer.finish()?.flush()?;
    Ok(())
}

fn entry(path: &str, kind: Kind, size: u64) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        mode: if kind == Kind::Directory {
            0o755
        } else {
            0o644
        },
        kind,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size,
        map: None,
        attributes: Vec::new(),
    }
}

fn directory<W: Write>(writer: &mut Writer<W>, path: &str) -> Result<()> {
    writer.append(&entry(path, Kind::Directory, 0), &mut std::io::empty())
}

fn append<W: Write>(writer: &mut Writer<W>, path: &str, bytes: &[u8]) -> Result<()> {
    let size = bytes.len() as u64;
    writer.append(&entry(path, Kind::Regular, size), &mut &*bytes)
}

fn copy<W: Write>(writer: &mut Writer<W>, blob: &Leaving, image: &Addition<'_>) -> Result<()> {
    let (digest, size) = (&blob.descriptor.digest, blob.descriptor.size);
    let file = blob.open(image.content)?;
    let mut source = Hashing {
        source: At(&file, 0),
        buffer: vec![0; BUFFER],
        start: 0,
        end: 0,
        total: 0,
        hasher: digest.algorithm().hasher(),
        digest,
        watch: image.watch,
        cancel: image.cancel,
    };
    writer.append(&entry(&blob_path(digest), Kind::Regular, size), &mut source)?;
    let (total, found) = (source.total, source.hasher.finish());
    if found != *digest || total != size {
        return match total == size {
            true => Err(damaged(digest, &found)),
            false => Err(Error::new(
                ErrorKind::Corrupt,
                format!("blob {digest} of the store has {total} bytes, not {size}"),
            )),
        };
    }
    (image.watch)(Event::Delivered(digest.clone()));
    Ok(())
}

/// Reads in large pieces what is asked for in small ones, and hashes it.
struct Hashing<'a> {
    source: At<'a>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    total: u64,
    hasher: rcrun_overlay::digest::Hasher,
    digest: &'a Digest,
    watch: Watch<'a>,
    cancel: &'a Cancel,
}

impl Read for Hashing<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.start == self.end {
            self.cancel.check().map_err(std::io::Error::other)?;
            (self.start, self.end) = (0, self.source.read(&mut self.buffer)?);
            self.hasher.update(&self.buffer[..self.end]);
            self.total += self.end as u64;
            (self.watch)(Event::Sent(self.digest.clone(), self.total));
        }
        let length = out.len().min(self.end - self.start);
        out[..length].copy_from_slice(&self.buffer[self.start..self.start + length]);
        self.start += length;
        Ok(length)
    }
}
