//! Archives of layers: tar in all dialects, extended headers, compressed streams.

use std::io::{BufReader, Read, Write as _};

use rcrun_overlay::archive::pax::{self, Extended};
use rcrun_overlay::archive::{Kind, Reader};
use rcrun_overlay::compress::{Compression, Decoder, Encoder, Limits};
use tar::{Builder, EntryType, Header};

use crate::halves;

/// Bytes of a block.
const BLOCK: usize = 512;
/// Where a header has its checksum.
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// What streams may inflate to here.
const INFLATED: u64 = 8 << 20;

/// An archive, whose headers get the checksums that belong to them, or nearly all would end at the first.
pub fn tar(input: &[u8]) {
    let mut bytes = input.to_vec();
    let mut at = 0;
    while let Some(block) = bytes.get_mut(at..at + BLOCK) {
        at += BLOCK + seal(block).div_ceil(BLOCK) * BLOCK;
    }
    // A small buffer, so that what is split is split everywhere.
    let mut reader = Reader::new(BufReader::with_capacity(97, bytes.as_slice()));
    reader.limit_entries(1000);
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(
            is_within(&entry.path),
            "{:?}",
            String::from_utf8_lossy(&entry.path)
        );
        assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000);
        if let Kind::Hardlink(target) | Kind::Symlink(target) = &entry.kind {
            assert!(!target.contains(&0), "names have no NUL");
        }
        let stored = entry.map.as_ref().map_or(entry.size, |map| {
            let mut end = 0;
            for piece in map {
                assert!(piece.offset >= end && piece.offset + piece.length <= entry.size);
                end = piece.offset + piece.length;
            }
            map.iter().map(|piece| piece.length).sum()
        });
        let mut read = 0;
        let whole = loop {
            match reader.data() {
                Ok([]) => break true,
                Ok(data) => {
                    let length = data.len();
                    read += length as u64;
                    reader.consume(length);
                }
                Err(_) => break false,
            }
        };
        assert!(read <= bytes.len() as u64, "nothing is made up");
        if whole && entry.kind == Kind::Regular {
            assert_eq!(read, stored, "as much as it says");
        }
    }
    assert!(reader.entries() <= 1001);
}

/// Relative, and nowhere above.
fn is_within(path: &[u8]) -> bool {
    let mut parts = path.split(|byte| *byte == b'/');
    path.is_empty() || parts.all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0))
}

/// Gives a header its checksum; how much data follows.
fn seal(block: &mut [u8]) -> usize {
    if block.iter().all(|byte| *byte == 0) {
        return 0;
    }
    block[CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let digits = &block[124..136];
    let digits = digits.iter().filter(|byte| (b'0'..=b'7').contains(byte));
    let size = digits.fold(0_usize, |size, digit| {
        size.saturating_mul(8) + usize::from(digit - b'0')
    });
    size.min(1 << 20)
}

fn member(builder: &mut Builder<Vec<u8>>, header: &mut Header, path: &str, data: &[u8]) {
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    // Seeds are right, or they are no seeds.
    let _ = builder.append_data(header, path, data);
}

/// Archives of all dialects.
pub fn tar_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let long = "d/".repeat(90) + "file";
    for new in [Header::new_gnu, Header::new_ustar, Header::new_old] {
        let mut builder = Builder::new(Vec::new());
        let kind = |kind: EntryType| {
            let mut header = new();
            header.set_entry_type(kind);
            header
        };
        member(&mut builder, &mut kind(EntryType::Directory), "d/", b"");
        member(
            &mut builder,
            &mut kind(EntryType::Regular),
            "d/f",
            &[b'x'; 700],
        );
        for (entry, target) in [(EntryType::Link, "d/f"), (EntryType::Symlink, "../../etc")] {
            let mut header = kind(entry);
            let _ = header.set_link_name(target);
            member(&mut builder, &mut header, "link", b"");
        }
        let mut device = kind(EntryType::Char);
        let _ = (device.set_device_major(1), device.set_device_minor(3));
        member(&mut builder, &mut device, "null", b"");
        member(&mut builder, &mut kind(EntryType::Fifo), "pipe", b"");
        member(
            &mut builder,
            &mut kind(EntryType::Regular),
            "d/.wh.gone",
            b"",
        );
        member(
            &mut builder,
            &mut kind(EntryType::Regular),
            "d/.wh..wh..opq",
            b"",
        );
        member(&mut builder, &mut kind(EntryType::Regular), &long, b"1");
        seeds.extend(builder.into_inner());
    }
    let mut builder = Builder::new(Vec::new());
    let mut sparse = b"1\n9000\n1000\n".to_vec();
    sparse.resize(BLOCK + 1000, b'x');
    sparse[12..BLOCK].fill(0);
    for (kind, extended, data) in [
        (EntryType::XGlobalHeader, GLOBAL, &b"one"[..]),
        (EntryType::XHeader, OWN, b"two"),
        (EntryType::XHeader, SPARSE, &sparse),
    ] {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        member(&mut builder, &mut header, "PaxHeader", &records(extended));
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        member(&mut builder, &mut header, "file", data);
    }
    seeds.extend(builder.into_inner());
    seeds
}

/// Records of an extended header, upon global ones.
pub fn pax(input: &[u8]) {
    let (global, own) = halves(input);
    let mut globals = Extended::default();
    if globals.global(global).is_ok() {
        let _ = Extended::of_entry(own, &globals);
    }
    let _ = Extended::of_entry(input, &Extended::default());
    let _ = pax::time(own);
}

/// Records as programs write them: for all entries, for one, and of a sparse file.
const GLOBAL: &[(&str, &str)] = &[("uid", "123"), ("mtime", "1234.5678"), ("comment", "x")];
const OWN: &[(&str, &str)] = &[
    ("path", "a/b"),
    ("gid", "1000"),
    ("mtime", "-1.000000001"),
    ("SCHILY.xattr.user.a", "b=c"),
    ("LIBARCHIVE.xattr.user.x", "eQ"),
    ("uname", "me"),
    ("hdrcharset", "BINARY"),
];
const SPARSE: &[(&str, &str)] = &[
    ("GNU.sparse.major", "1"),
    ("GNU.sparse.minor", "0"),
    ("GNU.sparse.name", "sparse"),
    ("GNU.sparse.realsize", "10000"),
];
const OLD_SPARSE: &[(&str, &str)] = &[
    ("GNU.sparse.size", "7"),
    ("GNU.sparse.numblocks", "2"),
    ("GNU.sparse.map", "0,1,5,2"),
    ("size", "3"),
    ("linkpath", "c"),
    ("atime", "99"),
];

fn records(list: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in list {
        pax::append(&mut out, key.as_bytes(), value.as_bytes());
    }
    out
}

/// Global records, a NUL, and those of an entry.
pub fn pax_seeds() -> Vec<Vec<u8>> {
    let both = |own| [records(GLOBAL), vec![0], records(own)].concat();
    [OWN, SPARSE, OLD_SPARSE].map(both).to_vec()
}

/// A compressed stream.
pub fn compressed(input: &[u8]) {
    let limits = Limits {
        bytes: INFLATED,
        ..Limits::default()
    };
    let Ok(mut decoder) = Decoder::new(input, limits) else {
        return;
    };
    let mut buffer = vec![0; 64 << 10];
    let mut made = 0;
    while let Ok(count) = decoder.read(&mut buffer) {
        if count == 0 {
            assert_eq!(decoder.taken(), input.len() as u64, "all of it was read");
            break;
        }
        made += count as u64;
        assert!(made <= INFLATED, "no more than it may");
    }
    assert!(decoder.taken() <= input.len() as u64);
}

/// Streams of all kinds, one and several members.
pub fn compressed_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![b"plain".to_vec(), Vec::new()];
    for compression in [Compression::Gzip, Compression::Zstd] {
        for data in [&b"some text, some text, some text"[..], &[0; 100_000], b""] {
            let mut packed = Vec::new();
            if let Ok(mut encoder) = Encoder::new(compression, &mut packed, 1) {
                let done = encoder.write_all(data);
                let _ = done.and_then(|()| encoder.finish());
            }
            seeds.push([&packed[..], &packed[..]].concat());
            seeds.push(packed);
        }
    }
    // With all optional fields, as gzip(1) writes some of them.
    let mut fields = vec![0x1f, 0x8b, 8, 0x1c, 0, 0, 0, 0, 0, 3, 2, 0, b'a', b'b'];
    fields.extend(b"name\0comment\0\x03\0\0\0\0\0\0\0\0\0");
    seeds.push(fields);
    seeds
}
