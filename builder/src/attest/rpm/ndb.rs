//! `Packages.db`: rpm's own database (`lib/backend/ndb/rpmpkg.c` of rpm). Pages of slots come first, each of
//! which says where a header lies.

use super::{HEADER, Read, Take, little};

/// `RpmP`, `Slot`, `BlbS`.
const FILE: u32 = u32::from_le_bytes(*b"RpmP");
const SLOT: u32 = u32::from_le_bytes(*b"Slot");
const BLOB: u32 = u32::from_le_bytes(*b"BlbS");
/// A page of slots, and a slot. The file's own header takes the place of two.
const PAGE: usize = 4096;
const ENTRY: usize = 16;
const FILE_HEADER: usize = 32;
/// In what offsets are counted.
const BLOCK: u64 = 16;
/// Pages of slots. go-rpmdb's limit, too: half a million packages.
const PAGES: u32 = 2048;

pub(super) fn headers(read: Read<'_>, take: Take<'_>) -> bool {
    all(read, take).is_some()
}

fn all(read: Read<'_>, take: Take<'_>) -> Option<()> {
    let head = read(0, FILE_HEADER)?;
    let pages = little(&head, 12)?;
    if little(&head, 0)? != FILE || little(&head, 4)? != 0 || !(1..=PAGES).contains(&pages) {
        return None;
    }
    for page in 0..u64::from(pages) {
        let slots = read(page * PAGE as u64, PAGE)?;
        let skipped = if page == 0 { FILE_HEADER } else { 0 };
        for slot in slots[skipped..].chunks_exact(ENTRY) {
            if little(slot, 0)? != SLOT {
                return None;
            }
            let (number, offset) = (little(slot, 4)?, little(slot, 8)?);
            if number == 0 || offset == 0 {
                continue;
            }
            if !take(&blob(read, number, u64::from(offset) * BLOCK)?) {
                return Some(());
            }
        }
    }
    Some(())
}

/// A header, which says itself which one it is.
fn blob(read: Read<'_>, number: u32, offset: u64) -> Option<Vec<u8>> {
    let head = read(offset, ENTRY)?;
    if little(&head, 0)? != BLOB || little(&head, 4)? != number {
        return None;
    }
    let length = usize::try_from(little(&head, 12)?).ok()?;
    (length <= HEADER).then(|| read(offset + ENTRY as u64, length))?
}
