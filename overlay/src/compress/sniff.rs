//! Which compression some bytes begin with.

use crate::{Error, Result};

/// A compression of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// zstd (RFC 8878); zstd:chunked is that with skippable frames.
    Zstd,
}

/// How many bytes [`sniff`] wants to see, unless there are fewer.
pub const SNIFFED: usize = 6;

/// Recognises a compression. What is none of those that layers can have is taken for plain tar,
/// unless it is clearly another program's.
pub fn sniff(first: &[u8]) -> Result<Compression> {
    match first {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        // The second is a skippable frame.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => foreign("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => foreign("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => foreign("lz4"),
        _ => Ok(Compression::None),
    }
}

fn foreign(name: &str) -> Result<Compression> {
    let message = format!("cannot read a layer compressed with {name}: only gzip and zstd are");
    Err(Error::unsupported(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_magic() {
        assert_eq!(sniff(b"\x1f\x8b\x08").unwrap(), Compression::Gzip);
        assert_eq!(sniff(b"\x28\xb5\x2f\xfd\0").unwrap(), Compression::Zstd);
        assert_eq!(sniff(b"\x50\x2a\x4d\x18\0").unwrap(), Compression::Zstd);
        assert_eq!(sniff(b"./").unwrap(), Compression::None);
        assert_eq!(sniff(b"").unwrap(), Compression::None);
        assert_eq!(sniff(b"BZh9.tar").unwrap(), Compression::None);
        for foreign in [&b"\xfd7zXZ\0"[..], b"BZh91AY", b"\x04\x22\x4d\x18"] {
            sniff(foreign).unwrap_err();
        }
    }
}
