//! Compresses a layer in whichever way was chosen.

use std::io::{self, Write};

use super::sniff::Compression;
use super::{gzip_blocks, zstd};
use crate::{Error, Result};

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

/// Refuses a level that a compression does not have.
pub fn check_level(compression: Compression, level: Option<i32>) -> Result<()> {
    let (name, levels) = match compression {
        Compression::None => ("no compression", 0..=0),
        Compression::Gzip => ("gzip", 1..=9),
        Compression::Zstd => ("zstd", 1..=22),
    };
    match level {
        Some(level) if !levels.contains(&level) => Err(Error::invalid(format!(
            "invalid compression level {level}: {name} has {} to {}",
            levels.start(),
            levels.end()
        ))),
        _ => Ok(()),
    }
}

impl<W: Write> Encoder<W> {
    /// Writes to `sink` with so many threads beside the calling one.
    pub fn new(compression: Compression, sink: W, threads: usize) -> io::Result<Self> {
        Self::with_level(compression, None, sink, threads)
    }

    /// The same with a level that [`check_level`] has seen; none means the usual one.
    pub fn with_level(
        compression: Compression,
        level: Option<i32>,
        sink: W,
        threads: usize,
    ) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(sink),
            Compression::Gzip => {
                let level = level.and_then(|level| u32::try_from(level).ok());
                let level = level.unwrap_or(gzip_blocks::LEVEL);
                Self::Gzip(gzip_blocks::Encoder::with_level(sink, level, threads)?)
            }
            Compression::Zstd => {
                let level = level.unwrap_or(zstd::LEVEL);
                Self::Zstd(zstd::Encoder::with_level(sink, level, threads)?)
            }
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
