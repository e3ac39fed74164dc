//! Archives that ADD unpacks: which files are some, and their bytes.
//!
//! As docker has it, the name says nothing. A file is an archive if, decompressed by what its first
//! bytes say (gzip, bzip2, xz, zstd or nothing), it begins with the header of a tar entry.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};

use rcrun_overlay::archive::{from_io, is_ours};
use rcrun_overlay::compress::{Decoder, Limits};

use crate::{Error, ErrorKind, Result};

/// Memory that a stream of xz may ask for: the largest preset needs 65 MiB.
const XZ_KIB: u32 = 128 << 10;
const BLOCK: usize = 512;
const BUFFER: usize = 128 << 10;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Not, or as the image store's layers are.
    Layer,
    Bzip2,
    Xz,
}

/// Whether an open file is an archive. Its position is lost.
pub(crate) fn detect(file: &OwnedFd) -> Result<Option<Format>> {
    let mut first = [0; 6];
    let length = filled(&mut Descriptor(file), &mut first)?;
    let format = match &first[..length] {
        [b'B', b'Z', b'h', ..] => Format::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Format::Xz,
        [] => return Ok(None),
        _ => Format::Layer,
    };
    rewind(file)?;
    let mut header = [0; BLOCK];
    // What cannot be decompressed is a file like any other.
    let length = match open(file, format, Limits::default()) {
        Ok(mut stream) => filled(&mut stream, &mut header).unwrap_or_default(),
        Err(_) => 0,
    };
    Ok((length == BLOCK && is_header(&header)).then_some(format))
}

/// The bytes of an archive. The file is read from where it is.
pub(crate) fn open<'a>(
    file: &'a OwnedFd,
    format: Format,
    limits: Limits,
) -> Result<Box<dyn BufRead + 'a>> {
    let source = Descriptor(file);
    let counted = |source| Counted { source, taken: 0 };
    Ok(match format {
        Format::Layer => Box::new(BufReader::with_capacity(
            BUFFER,
            Decoder::new(source, limits)?,
        )),
        Format::Bzip2 => {
            let source = BufReader::with_capacity(BUFFER, counted(source));
            let decoder = bzip2::bufread::MultiBzDecoder::new(source);
            let limited =
                Limited::new(decoder, limits, |decoder| decoder.get_ref().get_ref().taken);
            Box::new(BufReader::with_capacity(BUFFER, limited))
        }
        Format::Xz => {
            let source = BufReader::with_capacity(BUFFER, counted(source));
            let decoder = lzma_rust2::XzReader::new_mem_limit(source, true, XZ_KIB);
            let limited = Limited::new(decoder, limits, |decoder| decoder.inner().get_ref().taken);
            Box::new(BufReader::with_capacity(BUFFER, limited))
        }
    })
}

pub(crate) fn rewind(file: &OwnedFd) -> Result<()> {
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
    Ok(())
}

fn filled(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(from_io(error)),
        }
    }
    Ok(length)
}

/// Whether the sum of a block's bytes is the one it says, which is how tar knows its headers.
fn is_header(block: &[u8; BLOCK]) -> bool {
    let field = &block[148..156];
    let text: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ')
        .take_while(u8::is_ascii_digit)
        .collect();
    let said = std::str::from_utf8(&text).ok();
    let said = said.and_then(|text| i64::from_str_radix(text, 8).ok());
    let in_sum = |at: usize| {
        if (148..156).contains(&at) {
            b' '
        } else {
            block[at]
        }
    };
    let plain: i64 = (0..BLOCK).map(|at| i64::from(in_sum(at))).sum();
    let signed: i64 = (0..BLOCK)
        .map(|at| i64::from(in_sum(at).cast_signed()))
        .sum();
    said.is_some_and(|said| said == plain || said == signed)
}

/// Reads an open file.
struct Descriptor<'a>(&'a OwnedFd);

impl Read for Descriptor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0.as_fd(), out)?)
    }
}

/// Counts what was taken from a source.
struct Counted<R> {
    source: R,
    taken: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(out)?;
        self.taken += read as u64;
        Ok(read)
    }
}

/// Ends a stream that grows beyond its limits, and says of whom an error is.
struct Limited<R, F> {
    decoder: R,
    limits: Limits,
    taken: F,
    made: u64,
}

impl<R: Read, F: Fn(&R) -> u64> Limited<R, F> {
    fn new(decoder: R, limits: Limits, taken: F) -> Self {
        let made = 0;
        Self {
            decoder,
            limits,
            taken,
            made,
        }
    }
}

impl<R: Read, F: Fn(&R) -> u64> Read for Limited<R, F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(out).map_err(|error| {
            if is_ours(&error) || error.raw_os_error().is_some() {
                return error;
            }
            let message = format!("malformed stream: {}", error.to_string().to_lowercase());
            io::Error::other(Error::invalid(message))
        })?;
        self.made += read as u64;
        let (limits, taken) = (&self.limits, (self.taken)(&self.decoder));
        let bomb = self.made > limits.ratio_floor && self.made / limits.ratio > taken;
        if self.made > limits.bytes || bomb {
            let message = format!(
                "refuse an archive that inflates {taken} bytes to {}",
                self.made
            );
            return Err(io::Error::other(Error::new(ErrorKind::Exhausted, message)));
        }
        Ok(read)
    }
}
