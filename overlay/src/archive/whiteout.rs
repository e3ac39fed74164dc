//! Names that delete: `.wh.NAME` and `.wh..wh..opq` (image-spec layer.md, "Whiteouts").

use super::name::show;
use crate::{Error, Result};

/// What whiteouts begin with.
pub const PREFIX: &[u8] = b".wh.";
/// The marker of an opaque directory.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// Book-keeping of AUFS, which Docker once packed into layers.
const AUFS: &[u8] = b".wh..wh.";

/// What the last component of a path stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// A file of its own.
    Plain,
    /// The deletion of a file of this name in the layers below.
    Deleted(&'a [u8]),
    /// The deletion of everything that layers below have in this directory.
    Opaque,
    /// Nothing.
    Ignored,
}

/// Reads a normalised path; parents must be plain names.
pub fn meaning(path: &[u8]) -> Result<Meaning<'_>> {
    let mut parts = path.split(|byte| *byte == b'/');
    let last = parts.next_back().unwrap_or_default();
    for part in parts {
        if part.starts_with(AUFS) {
            return Ok(Meaning::Ignored);
        }
        if part.starts_with(PREFIX) {
            return refuse(path, "a whiteout is no directory");
        }
    }
    if last == OPAQUE {
        return Ok(Meaning::Opaque);
    }
    if last.starts_with(AUFS) {
        return Ok(Meaning::Ignored);
    }
    match last.strip_prefix(PREFIX) {
        None => Ok(Meaning::Plain),
        Some(b"" | b"." | b"..") => refuse(path, "it deletes nothing that has a name"),
        Some(deleted) => Ok(Meaning::Deleted(deleted)),
    }
}

fn refuse(path: &[u8], why: &str) -> Result<Meaning<'static>> {
    let path = show(path);
    Err(Error::invalid(format!("refuse whiteout {path}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings() {
        for (path, expected) in [
            ("a/b", Meaning::Plain),
            ("a.wh.b", Meaning::Plain),
            ("a/.wh.b", Meaning::Deleted(b"b")),
            (".wh.b", Meaning::Deleted(b"b")),
            (".wh..b", Meaning::Deleted(b".b")),
            ("a/.wh..wh..opq", Meaning::Opaque),
            (".wh..wh.plnk", Meaning::Ignored),
            (".wh..wh.plnk/12.34", Meaning::Ignored),
            (".wh..wh.aufs", Meaning::Ignored),
        ] {
            assert_eq!(meaning(path.as_bytes()).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn d2_whiteouts_of_nothing_or_of_parents() {
        for path in [
            ".wh.",
            "a/.wh.",
            ".wh..",
            ".wh...",
            "a/.wh.b/c",
            "a/.wh.b/.wh.c",
        ] {
            meaning(path.as_bytes()).unwrap_err();
        }
    }
}
