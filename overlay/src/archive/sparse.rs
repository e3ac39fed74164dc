//! Sparse files: the four ways in which GNU tar has stored them.
//!
//! Old GNU (type `S`, map in the header), PAX 0.0 and 0.1 (map in records), PAX 1.0 (map before the
//! data). See "Storing Sparse Files" in the manual of GNU tar. A map that overlaps, goes backwards,
//! leaves the file or does not account for every stored byte is refused.

use super::fields::number;
use super::limits::{SPARSE_PIECES, SPARSE_SIZE};
use super::pax::decimal;
use crate::{Error, Result};

/// A piece of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// The `GNU.sparse.*` records of an entry.
#[derive(Debug, Default, Clone)]
pub struct Keywords {
    version: (Option<u64>, Option<u64>),
    /// The file's name; the entry's own is made up.
    pub name: Option<Box<[u8]>>,
    size: Option<u64>,
    count: Option<u64>,
    map: Option<Vec<Piece>>,
    list: Vec<Piece>,
    open: Option<u64>,
    any: bool,
}

/// How an entry's map is stored.
#[derive(Debug)]
pub enum Layout {
    /// It is not sparse.
    None,
    /// Size and map.
    Map(u64, Vec<Piece>),
    /// Size; the map stands before the data.
    InData(u64),
}

fn wrong<T>(why: &str) -> Result<T> {
    Err(Error::invalid(format!(
        "malformed sparse file in an archive: {why}"
    )))
}

impl Keywords {
    /// Takes the record `GNU.sparse.KEYWORD`.
    pub fn take(&mut self, keyword: &[u8], value: &[u8], pieces: usize) -> Result<()> {
        self.any = true;
        let number = || decimal(value).map_or_else(|| wrong("a record is no number"), Ok);
        match keyword {
            b"major" => self.version.0 = Some(number()?),
            b"minor" => self.version.1 = Some(number()?),
            b"name" if value.is_empty() || value.contains(&0) => return wrong("bad name"),
            b"name" => self.name = Some(value.into()),
            b"size" | b"realsize" => {
                let size = number()?;
                if self.size.is_some_and(|other| other != size) {
                    return wrong("two sizes");
                }
                self.size = Some(size);
            }
            b"numblocks" => self.count = Some(number()?),
            // GNU tar writes it first, and reads nothing else.
            b"offset" | b"map" if self.count.is_none() => return wrong("no number of pieces"),
            b"offset" if self.open.is_some() => return wrong("an offset without a length"),
            b"offset" => self.open = Some(number()?),
            b"numbytes" => {
                let Some(offset) = self.open.take() else {
                    return wrong("a length without an offset");
                };
                let length = number()?;
                push(&mut self.list, Piece { offset, length }, pieces)?;
            }
            b"map" => {
                let mut map = Vec::new();
                let mut numbers = value.split(|byte| *byte == b',').map(decimal);
                while let Some(offset) = numbers.next() {
                    let (Some(offset), Some(Some(length))) = (offset, numbers.next()) else {
                        return wrong("bad map");
                    };
                    push(&mut map, Piece { offset, length }, pieces)?;
                }
                self.map = Some(map);
            }
            _ => return wrong("unknown record"),
        }
        Ok(())
    }

    /// What they say together.
    pub fn layout(&mut self) -> Result<Layout> {
        if !self.any {
            return Ok(Layout::None);
        }
        let Some(size) = self.size else {
            return wrong("no size");
        };
        if size > SPARSE_SIZE {
            return wrong("larger than 16 TiB");
        }
        let listed = !self.list.is_empty() || self.open.is_some();
        match (self.version, self.map.take()) {
            ((Some(1), Some(0)), None) if !listed => Ok(Layout::InData(size)),
            ((None, None) | (Some(0), Some(1)), Some(map)) if !listed => self.counted(size, map),
            ((None, None) | (Some(0), Some(0)), None) if self.open.is_none() => {
                let list = std::mem::take(&mut self.list);
                self.counted(size, list)
            }
            _ => wrong("unknown version or contradictory records"),
        }
    }

    fn counted(&self, size: u64, map: Vec<Piece>) -> Result<Layout> {
        if self.count.is_some_and(|count| count != map.len() as u64) {
            return wrong("wrong number of pieces");
        }
        Ok(Layout::Map(size, map))
    }
}

fn push(map: &mut Vec<Piece>, piece: Piece, pieces: usize) -> Result<()> {
    if map.len() >= pieces {
        return wrong("more than 131072 pieces");
    }
    map.push(piece);
    Ok(())
}

/// Checks a map against the file's size and the number of stored bytes; drops empty pieces.
pub fn check(map: &mut Vec<Piece>, size: u64, stored: u64) -> Result<()> {
    if size > SPARSE_SIZE {
        return wrong("larger than 16 TiB");
    }
    let (mut end, mut sum) = (0_u64, 0_u64);
    for piece in map.iter() {
        let Some(piece_end) = piece.offset.checked_add(piece.length) else {
            return wrong("the map overflows");
        };
        if piece.offset < end || piece_end > size {
            return wrong("the map overlaps or leaves the file");
        }
        end = piece_end;
        sum += piece.length;
    }
    if sum != stored {
        return wrong("the map does not account for the stored bytes");
    }
    map.retain(|piece| piece.length > 0);
    Ok(())
}

/// Takes pieces from a header of old GNU format: 24 bytes each. True when the list has ended.
pub fn old_pieces(fields: &[u8], map: &mut Vec<Piece>) -> Result<bool> {
    let mut ended = false;
    for field in fields.chunks_exact(24) {
        if field[0] == 0 || field[12] == 0 {
            if field.iter().any(|byte| *byte != 0) {
                return wrong("half a piece");
            }
            ended = true;
            continue;
        }
        if ended {
            return wrong("a piece after the end");
        }
        let part = |bytes| number(bytes).and_then(|value| u64::try_from(value).ok());
        let (Some(offset), Some(length)) = (part(&field[..12]), part(&field[12..])) else {
            return wrong("a piece is no number");
        };
        push(map, Piece { offset, length }, SPARSE_PIECES)?;
    }
    Ok(ended)
}

/// Reads the map before the data (PAX 1.0), block by block: a count, then offset and length of each
/// piece, every number followed by a newline, padded to a block.
#[derive(Debug, Default)]
pub struct MapReader {
    digits: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    map: Vec<Piece>,
}

impl MapReader {
    /// Takes a block; the map when it is complete.
    pub fn block(&mut self, block: &[u8]) -> Result<Option<Vec<Piece>>> {
        for byte in block {
            if *byte != b'\n' {
                self.digits.push(*byte);
                if self.digits.len() > 20 {
                    return wrong("a number in the map is too long");
                }
                continue;
            }
            let Some(value) = decimal(&self.digits) else {
                return wrong("the map contains no number");
            };
            self.digits.clear();
            match (self.count, self.offset.take()) {
                (None, _) if value > SPARSE_PIECES as u64 => {
                    return wrong("more than 131072 pieces");
                }
                (None, _) => self.count = Some(value),
                (Some(_), None) => self.offset = Some(value),
                (Some(_), Some(offset)) => self.map.push(Piece {
                    offset,
                    length: value,
                }),
            }
            if self.count == Some(self.map.len() as u64) && self.offset.is_none() {
                return Ok(Some(std::mem::take(&mut self.map)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, length: u64) -> Piece {
        Piece { offset, length }
    }

    #[test]
    fn maps_are_checked() {
        check(&mut vec![piece(0, 5), piece(10, 5), piece(20, 0)], 20, 10).unwrap();
        for (map, size, stored) in [
            (vec![piece(0, 5), piece(4, 5)], 20, 10),
            (vec![piece(10, 5), piece(0, 5)], 20, 10),
            (vec![piece(18, 5)], 20, 5),
            (vec![piece(0, 5)], 20, 4),
            (vec![piece(u64::MAX, 2)], 20, 2),
            (vec![], 1 << 60, 0),
        ] {
            check(&mut map.clone(), size, stored).unwrap_err();
        }
    }

    #[test]
    fn d5_a_billion_pieces_are_refused_at_the_count() {
        MapReader::default().block(b"1000000000\n0\n").unwrap_err();
        MapReader::default().block(&[b'1'; 512]).unwrap_err();
    }

    #[test]
    fn map_before_the_data() {
        let mut reader = MapReader::default();
        assert_eq!(reader.block(b"2\n0\n1").unwrap(), None);
        let map = reader.block(b"0\n100\n7\n\0\0").unwrap().unwrap();
        assert_eq!(map, [piece(0, 10), piece(100, 7)]);
    }
}
