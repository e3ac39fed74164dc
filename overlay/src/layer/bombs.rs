//! Archives that want too much: groups D5 and D6 of published vulnerabilities.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::hostile::{Cage, raw, unprivileged};
use super::options::Options;
use super::roundtrip::{archive, unpack_with};
use super::unpack::unpack_layer;
use crate::ErrorKind;
use crate::archive::Kind::Regular;
use crate::compress::{Compression, Encoder, Limits};

/// Counts what is taken from an endless source.
struct Counted<R>(R, u64);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(out)?;
        self.1 += read as u64;
        Ok(read)
    }
}

/// An attack that needs memory needs input first: little of either, and little time.
fn refused_early(first: &[u8], then: impl Read + Send) {
    let cage = Cage::new();
    let start = Instant::now();
    let mut source = Counted(first.chain(then), 0);
    let layer = std::fs::File::open(cage.layer()).unwrap();
    let error = unpack_layer(&mut source, layer.as_fd(), &unprivileged()).unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{error:?}: {:?}",
        start.elapsed()
    );
    // The limits, and the buffers that are read ahead.
    assert!(source.1 < 8 << 20, "{error:?}: {} bytes", source.1);
    cage.intact();
}

#[test]
fn d5_endless_headers() {
    let gigabyte = 1 << 30;
    for kind in [b'x', b'g', b'L', b'K'] {
        refused_early(&raw(b"h", kind, gigabyte), io::repeat(b'1'));
        refused_early(&raw(b"h", kind, (8 << 30) - 1), io::repeat(b'1'));
    }
    // A million headers before an entry.
    let record = b"9 a=1234\n";
    let mut block = [0; 512];
    block[..9].copy_from_slice(record);
    for kind in [b'x', b'g', b'L'] {
        let header = [raw(b"h", kind, 9), block].concat();
        let million = io::Cursor::new(header.repeat(20_000));
        refused_early(&[], million);
    }
}

#[test]
fn d5_endless_sparse_maps() {
    let mut records = Vec::new();
    for (key, value) in [
        ("major", "1"),
        ("minor", "0"),
        ("name", "f"),
        ("realsize", "5"),
    ] {
        let key = format!("GNU.sparse.{key}");
        crate::archive::pax::append(&mut records, key.as_bytes(), value.as_bytes());
    }
    let mut first = raw(b"h", b'x', records.len() as u64).to_vec();
    records.resize(512, 0);
    first.extend_from_slice(&records);
    first.extend_from_slice(&raw(b"f", b'0', 1 << 32));
    let billion = [&first[..], b"1000000000\n"].concat();
    refused_early(&billion, io::repeat(b'1'));
    refused_early(&first, io::repeat(b'\n'));
    refused_early(&[&first[..], b"131072\n"].concat(), io::repeat(b'7'));
    // Old GNU format: blocks of the map without end.
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..1].copy_from_slice(b"f");
    header.set_size(0);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.as_mut_bytes()[482] = 1;
    header.as_mut_bytes()[386..410].copy_from_slice(b"00000000000\x0000000000000\0");
    for at in [410, 434, 458] {
        header.as_mut_bytes().copy_within(386..410, at);
    }
    header.set_cksum();
    let piece = b"00000000000\x0000000000000\0".repeat(21);
    let block = [&piece[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    refused_early(header.as_bytes(), io::Cursor::new(block.repeat(8_000)));
}

#[test]
fn d5_a_sparse_file_of_exabytes() {
    let mut records = Vec::new();
    for (key, value) in [
        ("GNU.sparse.map", "0,0"),
        ("GNU.sparse.size", "9000000000000000000"),
    ] {
        crate::archive::pax::append(&mut records, key.as_bytes(), value.as_bytes());
    }
    let mut bytes = raw(b"h", b'x', records.len() as u64).to_vec();
    records.resize(512, 0);
    bytes.extend_from_slice(&records);
    bytes.extend_from_slice(&raw(b"f", b'0', 0));
    refused_early(&bytes, io::empty());
}

/// A compressed archive with one file of zeros.
fn bomb(compression: Compression, size: u64) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = Encoder::new(compression, Vec::new(), 0).unwrap();
    encoder.write_all(&raw(b"zeros", b'0', size)).unwrap();
    io::copy(&mut io::repeat(0).take(size + 1024), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn d6_bombs_are_given_up() {
    let limits = Limits {
        bytes: 1 << 40,
        ratio: 200,
        ratio_floor: 16 << 20,
    };
    for compression in [Compression::Gzip, Compression::Zstd] {
        let bytes = bomb(compression, 64 << 20);
        let cage = Cage::new();
        let options = Options {
            inflate: limits,
            ..unprivileged()
        };
        let error = unpack_with(&bytes, &cage.layer(), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
        // Little more than the floor has reached the disk; the caller removes it.
        let written = cage
            .layer()
            .join("zeros")
            .metadata()
            .map_or(0, |stat| stat.len());
        assert!(written < 20 << 20, "{written} bytes");
        cage.intact();
    }
}

#[test]
fn d6_entries_are_counted() {
    let options = Options {
        entries: 1_000,
        ..unprivileged()
    };
    let cage = Cage::new();
    let many: Vec<_> = (0..1_001).map(|_| ("f", Regular)).collect();
    unpack_with(&archive(&many[1..]), &cage.layer(), &options).unwrap();
    let error = unpack_with(&archive(&many), &cage.layer(), &options).unwrap_err();
    assert!(
        error.chain().to_string().contains("1000 entries"),
        "{error:?}"
    );
}

#[test]
fn d6_garbage_after_a_compressed_layer() {
    let mut bytes = bomb(Compression::Gzip, 5);
    bytes.extend_from_slice(b"garbage");
    let cage = Cage::new();
    assert!(unpack_with(&bytes, &cage.layer(), &unprivileged()).is_err());
}
