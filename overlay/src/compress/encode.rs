//! Compresses a layer in whichever way was chosen.

use std::io::{self, Write};

use super::sniff::Compression;
use super::{gzip_blocks, zstd};

/// Compresses what is written to it; the bytes do not depend on the number of threads.
#[derive(Debug)]
pub enum Encoder<W: Write> {
    /// Not at all.
    None(W),
    /// With gzip.
    Gzip(gzip_blocks::Encoder<W>),
    /// With zstd.
    Zstd(zstd::Encoder<W>),
}

impl<W: Write> Encoder<W> {
    /// Writes to `sink` with so many threads beside the calling one.
    pub fn new(compression: Compression, sink: W, threads: usize) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(sink),
            Compression::Gzip => Self::Gzip(gzip_blocks::Encoder::new(sink, threads)?),
            Compression::Zstd => Self::Zstd(zstd::Encoder::new(sink, threads)?),
        })
    }

    /// Writes what remains.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::None(sink) => Ok(sink),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(sink) => sink.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(sink) => sink.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}
