//! `rpmdb.sqlite`: the blobs of the table `Packages` (<https://www.sqlite.org/fileformat2.html>).
//!
//! Its B-tree is walked page by page, each page at most once. A write-ahead log is not read; whoever asks says so.

use std::collections::BTreeSet;

use super::{HEADER, Read, Take, word};

/// How a database begins.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Bytes in front of the first page's own header.
const FILE_HEADER: usize = 100;
/// The table with rpm's headers.
const TABLE: &[u8] = b"Packages";
/// Kinds of pages of tables.
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;
/// The longest row of the list of tables.
const SCHEMA: usize = 1 << 20;

pub(super) fn headers(read: Read<'_>, take: Take<'_>) -> bool {
    all(read, take).is_some()
}

fn all(read: Read<'_>, take: Take<'_>) -> Option<()> {
    let head = read(0, FILE_HEADER)?;
    if !head.starts_with(MAGIC) {
        return None;
    }
    let size = match u16::from_be_bytes([head[16], head[17]]) {
        1 => 65536,
        size => usize::from(size),
    };
    let usable = size.checked_sub(usize::from(head[20]))?;
    if !size.is_power_of_two() || size < 512 || usable < 480 {
        return None;
    }
    let mut file = File {
        read,
        size,
        usable,
        seen: BTreeSet::new(),
    };
    let mut root = None;
    file.rows(1, SCHEMA, &mut |row| {
        let values = record(row)?;
        if values.first()?.bytes == b"table" && values.get(1)?.bytes == TABLE {
            root = values.get(3).and_then(Value::number);
        }
        Some(root.is_none())
    })?;
    file.seen.clear();
    file.rows(u32::try_from(root?).ok()?, HEADER, &mut |row| {
        let values = record(row)?;
        Some(take(values.get(1)?.bytes))
    })
}

struct File<'a> {
    read: Read<'a>,
    size: usize,
    /// Bytes of a page that are used.
    usable: usize,
    /// Pages that were read.
    seen: BTreeSet<u32>,
}

/// What becomes of a row: nothing if it makes no sense, false if it was the last.
type Each<'a> = &'a mut dyn FnMut(&[u8]) -> Option<bool>;

impl File<'_> {
    /// A page that was not read before.
    fn page(&mut self, number: u32) -> Option<Vec<u8>> {
        let index = number.checked_sub(1)?;
        if !self.seen.insert(number) {
            return None;
        }
        let offset = u64::from(index).checked_mul(self.size as u64)?;
        (self.read)(offset, self.size)
    }

    /// The rows of a table.
    fn rows(&mut self, root: u32, limit: usize, each: Each<'_>) -> Option<()> {
        let mut open = vec![root];
        while let Some(number) = open.pop() {
            let page = self.page(number)?;
            let at = match number {
                1 => FILE_HEADER,
                _ => 0,
            };
            let count = usize::from(half(&page, at + 3)?);
            let first = at
                + match *page.get(at)? {
                    INTERIOR => 12,
                    LEAF => 8,
                    _ => return None,
                };
            let cells: Option<Vec<usize>> = (0..count)
                .map(|index| half(&page, first + index * 2).map(usize::from))
                .collect();
            if page[at] == INTERIOR {
                open.push(word(&page, at + 8)?);
                for cell in cells?.into_iter().rev() {
                    open.push(word(&page, cell)?);
                }
                continue;
            }
            for cell in cells? {
                let row = self.row(page.get(cell..self.usable)?, limit)?;
                if !each(&row)? {
                    return Some(());
                }
            }
        }
        Some(())
    }

    /// The contents of a leaf's cell, with what is on other pages.
    fn row(&mut self, cell: &[u8], limit: usize) -> Option<Vec<u8>> {
        let (length, cell) = varint(cell)?;
        let (_, cell) = varint(cell)?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= limit)?;
        let most = self.usable - 35;
        if length <= most {
            return cell.get(..length).map(<[u8]>::to_vec);
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let here = least + (length - least) % (self.usable - 4);
        let here = if here <= most { here } else { least };
        let mut row = cell.get(..here)?.to_vec();
        let mut next = word(cell, here)?;
        while row.len() < length {
            let page = self.page(next)?;
            next = word(&page, 0)?;
            let more = (length - row.len()).min(self.usable - 4);
            row.extend_from_slice(page.get(4..4 + more)?);
        }
        Some(row)
    }
}

/// A column of a row.
struct Value<'a> {
    kind: u64,
    bytes: &'a [u8],
}

impl Value<'_> {
    /// An integer that is not negative.
    fn number(&self) -> Option<u64> {
        match self.kind {
            8 => Some(0),
            9 => Some(1),
            1..=6 if self.bytes.first()? & 0x80 == 0 => {
                let shift = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
                Some(self.bytes.iter().fold(0, shift))
            }
            _ => None,
        }
    }
}

/// The columns of a row.
fn record(row: &[u8]) -> Option<Vec<Value<'_>>> {
    let (size, rest) = varint(row)?;
    let size = usize::try_from(size).ok()?;
    let mut kinds = rest.get(..size.checked_sub(row.len() - rest.len())?)?;
    let mut body = row.get(size..)?;
    let mut values = Vec::new();
    while !kinds.is_empty() {
        let (kind, rest) = varint(kinds)?;
        kinds = rest;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            kind => usize::try_from((kind - 12) / 2).ok()?,
        };
        let (bytes, rest) = body.split_at_checked(length)?;
        body = rest;
        values.push(Value { kind, bytes });
    }
    Some(values)
}

/// A number of one to nine bytes, and what is behind it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for at in 0..9 {
        let byte = *bytes.get(at)?;
        if at == 8 {
            return Some((value << 8 | u64::from(byte), &bytes[9..]));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    two.try_into().ok().map(u16::from_be_bytes)
}
