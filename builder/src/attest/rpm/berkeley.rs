//! `Packages`: a hash of Berkeley DB (`dbinc/db_page.h` of its sources), as rpm before 4.16 has it. Numbers are in
//! the order of the machine that wrote it; the first page tells which.
//!
//! Every page is looked at, and of each pair of key and value the value. rpm's are always on pages of their own.

use std::collections::BTreeSet;

use super::{HEADER, Read, Take, little, word};

/// Of a file that is a hash.
const MAGIC: u32 = 0x0006_1561;
/// As much of the first page as is needed.
const FILE_HEADER: usize = 72;
/// The header of a page.
const PAGE_HEADER: usize = 26;
/// Kinds of pages: hashes, sorted and not.
const UNSORTED: u8 = 2;
const HASH: u8 = 13;
/// The kind of a value that is elsewhere, and the page that it is on.
const ELSEWHERE: u8 = 3;
const OVERFLOW: u8 = 7;

pub(super) fn headers(read: Read<'_>, take: Take<'_>) -> bool {
    all(read, take).is_some()
}

fn all(read: Read<'_>, take: Take<'_>) -> Option<()> {
    let head = read(0, FILE_HEADER)?;
    let number: fn(&[u8], usize) -> Option<u32> = match little(&head, 12)? {
        MAGIC => little,
        magic if magic.swap_bytes() == MAGIC => word,
        _ => return None,
    };
    let size = usize::try_from(number(&head, 20)?).ok()?;
    let last = number(&head, 32)?;
    // Byte 24 says whether it is encrypted.
    if !size.is_power_of_two() || !(512..=65536).contains(&size) || head[24] != 0 {
        return None;
    }
    let mut file = File {
        read,
        number,
        size,
        seen: BTreeSet::new(),
    };
    for page in 1..=last {
        if !file.values(page, take)? {
            break;
        }
    }
    Some(())
}

struct File<'a> {
    read: Read<'a>,
    number: fn(&[u8], usize) -> Option<u32>,
    size: usize,
    /// Pages of values that were read: each belongs to one.
    seen: BTreeSet<u32>,
}

impl File<'_> {
    fn page(&self, number: u32) -> Option<Vec<u8>> {
        (self.read)(u64::from(number) * self.size as u64, self.size)
    }

    /// Two bytes.
    fn half(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let two = bytes.get(at..at + 2)?;
        let four = match (self.number)(&[1, 0, 0, 0], 0)? {
            1 => [two[0], two[1], 0, 0],
            _ => [0, 0, two[0], two[1]],
        };
        usize::try_from((self.number)(&four, 0)?).ok()
    }

    /// The values of a page of the hash; false: no more are wanted.
    fn values(&mut self, number: u32, take: Take<'_>) -> Option<bool> {
        let page = self.page(number)?;
        if !matches!(page[25], UNSORTED | HASH) {
            return Some(true);
        }
        let count = self.half(&page, 20)?;
        // Keys and values by turns.
        for index in (1..count).step_by(2) {
            let at = self.half(&page, PAGE_HEADER + index * 2)?;
            if *page.get(at)? != ELSEWHERE {
                continue;
            }
            let first = (self.number)(&page, at + 4)?;
            let length = usize::try_from((self.number)(&page, at + 8)?).ok()?;
            let value = self.value(first, length)?;
            if !take(&value) {
                return Some(false);
            }
        }
        Some(true)
    }

    fn value(&mut self, first: u32, length: usize) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        let mut next = first;
        while next != 0 {
            let page = self.page(next)?;
            if length > HEADER || page[25] != OVERFLOW || !self.seen.insert(next) {
                return None;
            }
            let part = self.half(&page, 22)?;
            value.extend_from_slice(page.get(PAGE_HEADER..PAGE_HEADER + part)?);
            next = (self.number)(&page, 16)?;
        }
        (value.len() == length).then_some(value)
    }
}
