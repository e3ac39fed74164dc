//! Databases of rpm: which packages are installed. Files are read by a function; a database that is changed
//! meanwhile is not expected, for images are not.
//!
//! Three kinds of file hold the same headers (rpm's docs/manual/format_header.md): SQLite since rpm 4.16
//! ([`sqlite`]), rpm's own ndb, which SUSE has ([`ndb`]), and hashes of Berkeley DB, as in CentOS 7 and RHEL 8
//! ([`berkeley`]). None is written, repaired or locked, and of none is an index used: every header is read.

mod berkeley;
mod ndb;
mod sqlite;

use super::sbom::Package;

/// The longest header.
const HEADER: usize = 64 << 20;
/// Fields of a header. rpm's own limit.
const FIELDS: usize = 0xffff;
/// Packages of an image.
const PACKAGES: usize = 100_000;

/// Fields that are read.
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const ARCHITECTURE: u32 = 1022;
const SOURCE: u32 = 1044;
/// Their types.
const INT32: u32 = 4;
const STRING: u32 = 6;
/// A key that packages are checked with, which is in the database as if it were a package.
const KEY: &str = "gpg-pubkey";

/// Reads some bytes of a file at an offset; nothing if there are fewer.
pub(super) type Read<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;
/// Takes a header; false: no more of them.
type Take<'a> = &'a mut dyn FnMut(&[u8]) -> bool;

/// How a kind of database is read; false if it cannot be, or not to its end.
type Kind = fn(Read<'_>, Take<'_>) -> bool;

/// The names of databases in their directory, and how each is read.
pub(super) const KINDS: [(&str, Kind); 3] = [
    ("rpmdb.sqlite", sqlite::headers),
    ("Packages.db", ndb::headers),
    ("Packages", berkeley::headers),
];

/// The packages of a database, and whether that is all of them.
pub(super) fn packages(read: Read<'_>, kind: Kind, file: &str) -> (Vec<Package>, bool) {
    let mut all = Vec::new();
    let mut whole = true;
    let read = kind(read, &mut |header| {
        match package(header, file) {
            Some(package) if package.name == KEY => {}
            Some(package) => all.push(package),
            None => whole = false,
        }
        all.len() < PACKAGES
    });
    (all, whole && read)
}

/// What a header says.
fn package(header: &[u8], file: &str) -> Option<Package> {
    let count = usize::try_from(word(header, 0)?).ok()?;
    let size = usize::try_from(word(header, 4)?).ok()?;
    if count > FIELDS || size > HEADER {
        return None;
    }
    let fields = header.get(8..)?.get(..count * 16)?;
    let data = header.get(8 + count * 16..)?.get(..size)?;
    let find = |tag: u32, kind: u32| -> Option<&[u8]> {
        let field = fields
            .chunks_exact(16)
            .find(|field| word(field, 0) == Some(tag) && word(field, 4) == Some(kind))?;
        data.get(usize::try_from(word(field, 8)?).ok()?..)
    };
    let text = |tag: u32| -> Option<String> {
        let rest = find(tag, STRING)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(&rest[..end]).into_owned();
        Some(text).filter(|text| !text.is_empty() && text != "(none)")
    };
    let epoch = find(EPOCH, INT32).and_then(|bytes| word(bytes, 0));
    let epoch = epoch.map_or_else(String::new, |epoch| format!("{epoch}:"));
    Some(Package {
        kind: "rpm",
        name: text(NAME)?,
        version: format!("{epoch}{}-{}", text(VERSION)?, text(RELEASE)?),
        architecture: text(ARCHITECTURE),
        source: text(SOURCE),
        file: file.to_owned(),
    })
}

/// A number with the largest byte first.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    four.try_into().ok().map(u32::from_be_bytes)
}

/// A number with the smallest byte first.
fn little(bytes: &[u8], at: usize) -> Option<u32> {
    word(bytes, at).map(u32::swap_bytes)
}

#[cfg(test)]
pub(super) mod tests;
