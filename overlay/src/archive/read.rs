//! Reads entries of a tar stream, one after the other, with bounded memory.
//!
//! An archive means what GNU tar, bsdtar and Python's tarfile agree on; where they differ, or where
//! a size could be taken for another (hidden entries), it is refused. Data is handed out from the
//! source's own buffer, without a copy.

use std::io::BufRead;

use tar::Header;

use super::fields::{
    header_path, kind, mode, number, owner, signed, size_field, sum_is_right, until_nul,
};
use super::limits::{ENTRIES, HEADER_BYTES, SPARSE_SIZE};
use super::name::{self, show};
use super::pax::Extended;
use super::sparse::{self, Layout, MapReader, Piece};
use super::{Attribute, from_io, is_ours};
use crate::{Error, Result};

/// Bytes of a block, the unit of everything in tar.
pub const BLOCK: usize = 512;

/// A time of a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after that second.
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file with data.
    Regular,
    /// Another name, in raw form, of an earlier file.
    Hardlink(Box<[u8]>),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// An entry, without its data.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative path, see [`name::normalise`].
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The lower twelve mode bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Size of a regular file, holes included.
    pub size: u64,
    /// Where the data of a sparse file belongs, in order.
    pub map: Option<Vec<Piece>>,
    /// Extended attributes as stored, no name twice.
    pub attributes: Vec<Attribute>,
}

/// Reads a tar stream.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    globals: Extended,
    entries: u64,
    limit: u64,
    /// Bytes of the current entry that are still to be read, and the padding after them.
    data: u64,
    padding: u64,
    ended: bool,
    nameless: bool,
}

/// Extended headers before an entry.
#[derive(Debug, Default)]
struct Before {
    bytes: u64,
    pax: Option<Extended>,
    path: Option<Box<[u8]>>,
    link: Option<Box<[u8]>>,
}

pub(super) fn wrong<T>(why: impl std::fmt::Display) -> Result<T> {
    Err(Error::invalid(format!("malformed archive: {why}")))
}

impl<R: BufRead> Reader<R> {
    /// Reads from a source whose buffer should be large: data is written from it directly.
    pub fn new(source: R) -> Self {
        Self {
            source,
            globals: Extended::default(),
            entries: 0,
            limit: ENTRIES,
            data: 0,
            padding: 0,
            ended: false,
            nameless: false,
        }
    }

    /// Takes an entry with an empty name for the root, as tar(1) writes none but other programs do.
    #[must_use]
    pub fn nameless(mut self) -> Self {
        self.nameless = true;
        self
    }

    /// Refuses archives of more entries than this.
    pub fn limit_entries(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// How many entries there were so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The source, after the blocks that were read.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next entry; data of the one before that was not read is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip()?;
        let mut before = Before::default();
        loop {
            let Some(header) = self.header()? else {
                if before.bytes > 0 {
                    return wrong("it ends after an extended header");
                }
                return Ok(None);
            };
            match header.as_bytes()[156] {
                b'x' => self.pax_header(&header, &mut before)?,
                b'g' => self.global_header(&header, &mut before)?,
                b'L' => {
                    let text = self.long_name(&header, &mut before)?;
                    set_once(&mut before.path, text)?;
                }
                b'K' => {
                    let text = self.long_name(&header, &mut before)?;
                    set_once(&mut before.link, text)?;
                }
                _ => {
                    self.entries += 1;
                    if self.entries > self.limit {
                        let limit = self.limit;
                        return wrong(format_args!("it has more than {limit} entries"));
                    }
                    return self.entry(&header, before).map(Some);
                }
            }
        }
    }

    /// Data of the current entry, as much as the source's buffer holds; empty at its end.
    pub fn data(&mut self) -> Result<&[u8]> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let available = fill(&mut self.source)?;
        if available.is_empty() {
            return wrong("it ends within a file");
        }
        let length = usize::try_from(self.data).map_or(available.len(), |n| n.min(available.len()));
        Ok(&available[..length])
    }

    /// Marks data as used.
    pub fn consume(&mut self, length: usize) {
        self.source.consume(length);
        self.data -= length as u64;
    }

    fn skip(&mut self) -> Result<()> {
        loop {
            let length = self.data()?.len();
            if length == 0 {
                break;
            }
            self.consume(length);
        }
        while self.padding > 0 {
            let length = fill(&mut self.source)?.len();
            if length == 0 {
                return wrong("it ends within the padding of a file");
            }
            let length = length.min(usize::try_from(self.padding).unwrap_or(length));
            self.source.consume(length);
            self.padding -= length as u64;
        }
        Ok(())
    }

    /// A whole block, or nothing at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            let available = fill(&mut self.source)?;
            if available.is_empty() {
                return if have == 0 {
                    Ok(None)
                } else {
                    wrong("it ends within a block")
                };
            }
            let length = available.len().min(BLOCK - have);
            block[have..have + length].copy_from_slice(&available[..length]);
            self.source.consume(length);
            have += length;
        }
        Ok(Some(block))
    }

    /// The next header. The archive ends with two blocks of zeros; what follows is not part of it.
    /// An archive cut off between two entries ends there, as everybody reads it.
    fn header(&mut self) -> Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else {
            if self.entries == 0 {
                return wrong("it is empty");
            }
            self.ended = true;
            return Ok(None);
        };
        if block == [0; BLOCK] {
            self.ended = true;
            return match self.block()? {
                Some(second) if second != [0; BLOCK] => {
                    wrong("an entry follows a lone block of zeros")
                }
                _ => Ok(None),
            };
        }
        let header = Header::from_byte_slice(&block).clone();
        if !sum_is_right(&header) {
            return wrong("wrong checksum of a header, or no tar archive");
        }
        Ok(Some(header))
    }

    /// Reads the body of an extended header.
    fn body(&mut self, header: &Header, before: &mut Before) -> Result<Vec<u8>> {
        let size = size_field(header)?;
        before.bytes += size.saturating_add(BLOCK as u64);
        if before.bytes > HEADER_BYTES {
            return wrong("extended headers of an entry exceed 1 MiB");
        }
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let mut body = Vec::with_capacity(length.next_multiple_of(BLOCK));
        while body.len() < length {
            let Some(block) = self.block()? else {
                return wrong("it ends within an extended header");
            };
            body.extend_from_slice(&block);
        }
        body.truncate(length);
        Ok(body)
    }

    fn pax_header(&mut self, header: &Header, before: &mut Before) -> Result<()> {
        let body = self.body(header, before)?;
        if before.pax.is_some() || before.path.is_some() || before.link.is_some() {
            return wrong("several extended headers for one entry");
        }
        before.pax = Some(Extended::of_entry(&body, &self.globals)?);
        Ok(())
    }

    fn global_header(&mut self, header: &Header, before: &mut Before) -> Result<()> {
        if before.pax.is_some() || before.path.is_some() || before.link.is_some() {
            return wrong("a global header between an extended header and its entry");
        }
        let body = self.body(header, before)?;
        self.globals.global(&body)
    }

    fn long_name(&mut self, header: &Header, before: &mut Before) -> Result<Box<[u8]>> {
        if before.pax.is_some() {
            return wrong("a pax header and a long name of GNU tar for one entry");
        }
        let body = self.body(header, before)?;
        let text = until_nul(&body);
        if text.is_empty() || body[text.len()..].iter().any(|byte| *byte != 0) {
            return wrong("a long name is empty or contains a NUL");
        }
        Ok(text.into())
    }

    fn entry(&mut self, header: &Header, before: Before) -> Result<Entry> {
        let mut pax = before.pax.unwrap_or_else(|| self.globals.clone());
        let raw = match before.path.or(pax.path.take()) {
            Some(path) => path,
            None => header_path(header)?,
        };
        let link = before.link.or(pax.link.take());
        let layout = pax.sparse.layout()?;
        let raw = pax.sparse.name.take().unwrap_or(raw);
        let path = match raw.is_empty() && self.nameless {
            true => Vec::new(),
            false => name::normalise(&raw)?,
        };
        let shown = || format!("malformed entry {}", show(&raw));
        let stored = match pax.size {
            Some(size) => size,
            None => size_field(header).map_err(|error| error.context(shown()))?,
        };
        let kind = kind(header, &raw, link.as_deref()).map_err(|error| error.context(shown()))?;
        let is_sparse = header.as_bytes()[156] == b'S' || !matches!(layout, Layout::None);
        if kind != Kind::Regular && (stored != 0 || is_sparse) {
            return wrong(format_args!(
                "{} has data but is no regular file",
                show(&raw)
            ));
        }
        let id = |pax: Option<u64>, field: &[u8]| match pax {
            Some(id) => owner(Some(i128::from(id))),
            None => owner(number(field)),
        };
        let fields = header.as_old();
        let mtime = match pax.mtime {
            Some(time) => time,
            None => Time {
                seconds: signed(&fields.mtime)?,
                nanoseconds: 0,
            },
        };
        let mut entry = Entry {
            path,
            kind,
            mode: mode(&fields.mode)?,
            uid: id(pax.uid, &fields.uid)?,
            gid: id(pax.gid, &fields.gid)?,
            mtime,
            size: stored,
            map: None,
            attributes: pax.attributes,
        };
        self.data = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
        self.sparse(header, layout, &mut entry)
            .map_err(|error| error.context(shown()))?;
        Ok(entry)
    }

    /// Reads the map of a sparse file, wherever it is.
    fn sparse(&mut self, header: &Header, layout: Layout, entry: &mut Entry) -> Result<()> {
        let (size, mut map) = match (header.as_bytes()[156], layout) {
            (b'S', Layout::None) => self.old_sparse(header)?,
            (b'S', _) => return wrong("two kinds of sparse file at once"),
            (_, Layout::None) => return Ok(()),
            (_, Layout::Map(size, map)) => (size, map),
            (_, Layout::InData(size)) => {
                let mut reader = MapReader::default();
                let map = loop {
                    let rest = self.data.checked_sub(BLOCK as u64);
                    let (Some(rest), Some(block)) = (rest, self.block()?) else {
                        return wrong("it ends within a sparse map");
                    };
                    self.data = rest;
                    if let Some(map) = reader.block(&block)? {
                        break map;
                    }
                };
                (size, map)
            }
        };
        sparse::check(&mut map, size, self.data)?;
        entry.size = size;
        entry.map = Some(map);
        Ok(())
    }

    fn old_sparse(&mut self, header: &Header) -> Result<(u64, Vec<Piece>)> {
        let bytes = header.as_bytes();
        if &bytes[257..265] != b"ustar  \0" {
            return wrong("a sparse file of GNU tar without its magic");
        }
        let mut map = Vec::new();
        let mut ended = sparse::old_pieces(&bytes[386..482], &mut map)?;
        let mut more = bytes[482] != 0;
        while more {
            if ended {
                return wrong("a sparse map goes on after its end");
            }
            let Some(block) = self.block()? else {
                return wrong("it ends within a sparse map");
            };
            ended = sparse::old_pieces(&block[..504], &mut map)?;
            more = block[504] != 0;
        }
        match number(&bytes[483..495]).map(u64::try_from) {
            Some(Ok(size)) if size <= SPARSE_SIZE => Ok((size, map)),
            _ => wrong("bad size of a sparse file"),
        }
    }
}

fn fill<R: BufRead>(source: &mut R) -> Result<&[u8]> {
    // Ends of loans and loops do not go together yet: ask twice.
    loop {
        match source.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(error)),
        }
    }
    source.fill_buf().map_err(read_error)
}

fn read_error(error: std::io::Error) -> Error {
    if is_ours(&error) {
        return from_io(error);
    }
    Error::from(error).context("cannot read an archive")
}

fn set_once(slot: &mut Option<Box<[u8]>>, value: Box<[u8]>) -> Result<()> {
    if slot.replace(value).is_some() {
        return wrong("two long names for one entry");
    }
    Ok(())
}
