//! Inflates a layer as a stream, within limits.

use std::io::{self, Read};

use super::gunzip::Gunzip;
use super::input::Input;
use super::sniff::{Compression, SNIFFED, sniff};
use crate::archive::{from_io, is_ours};
use crate::{Error, ErrorKind, Result};

/// The largest window that zstd may ask for: 2^27, what `zstd -d` allows without `--long`.
const WINDOW_LOG: u32 = 27;

/// How far a stream may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the inflated stream.
    pub bytes: u64,
    /// Inflated bytes per compressed byte,
    pub ratio: u64,
    /// counted only when the stream is longer than this: a file of zeros is no attack.
    pub ratio_floor: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 1 << 40,
            ratio: 200,
            ratio_floor: 1 << 30,
        }
    }
}

impl Limits {
    fn check(&self, taken: u64, made: u64) -> io::Result<()> {
        let message = if made > self.bytes {
            format!("refuse a layer of more than {} bytes", self.bytes)
        } else if made > self.ratio_floor && made / self.ratio > taken {
            let ratio = self.ratio;
            format!("refuse a layer that inflates {taken} bytes to more than {ratio} times as many")
        } else {
            return Ok(());
        };
        Err(io::Error::other(Error::new(ErrorKind::Exhausted, message)))
    }
}

/// Inflates gzip, zstd or nothing, as the first bytes say.
pub struct Decoder<R: Read> {
    kind: Kind<R>,
    limits: Limits,
    made: u64,
}

enum Kind<R: Read> {
    Plain(Input<R>),
    Gzip(Box<Gunzip<R>>),
    Zstd(zstd::stream::read::Decoder<'static, Input<R>>),
}

impl<R: Read> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (compression, made) = (self.compression(), self.made);
        f.debug_struct("Decoder")
            .field("compression", &compression)
            .field("made", &made)
            .finish()
    }
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `source`.
    pub fn new(source: R, limits: Limits) -> Result<Self> {
        let mut input = Input::new(source);
        let first = input
            .peek(SNIFFED)
            .map_err(|error| error_of(error, "cannot read a layer"))?;
        let kind = match sniff(first)? {
            Compression::None => Kind::Plain(input),
            Compression::Gzip => Kind::Gzip(Box::new(Gunzip::new(input))),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(input);
                let decoder = decoder.and_then(|mut decoder| {
                    decoder.window_log_max(WINDOW_LOG)?;
                    Ok(decoder)
                });
                Kind::Zstd(decoder.map_err(|error| error_of(error, "cannot prepare zstd"))?)
            }
        };
        Ok(Self {
            kind,
            limits,
            made: 0,
        })
    }

    /// How the stream is compressed.
    pub fn compression(&self) -> Compression {
        match self.kind {
            Kind::Plain(_) => Compression::None,
            Kind::Gzip(_) => Compression::Gzip,
            Kind::Zstd(_) => Compression::Zstd,
        }
    }

    /// Compressed bytes used so far.
    pub fn taken(&self) -> u64 {
        match &self.kind {
            Kind::Plain(input) => input.taken(),
            Kind::Gzip(gunzip) => gunzip.input().taken(),
            Kind::Zstd(decoder) => decoder.get_ref().taken(),
        }
    }
}

fn error_of(error: io::Error, doing: &str) -> Error {
    if is_ours(&error) {
        return from_io(error);
    }
    Error::from(error).context(doing)
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let made = match &mut self.kind {
            Kind::Plain(input) => input.read(out)?,
            Kind::Gzip(gunzip) => gunzip.read(out)?,
            Kind::Zstd(decoder) => decoder.read(out).map_err(zstd_error)?,
        };
        self.made += made as u64;
        self.limits.check(self.taken(), self.made)?;
        Ok(made)
    }
}

/// The library's own words; errors of the source pass unchanged.
fn zstd_error(error: io::Error) -> io::Error {
    if is_ours(&error) || error.raw_os_error().is_some() {
        return error;
    }
    let message = format!(
        "malformed zstd stream: {}",
        error.to_string().to_lowercase()
    );
    io::Error::other(Error::invalid(message))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::ErrorKind;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn decode_with(bytes: &[u8], limits: Limits) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        // One byte at a time from the source must make no difference.
        let mut decoder = Decoder::new(Slow(bytes), limits)?;
        match decoder.read_to_end(&mut out) {
            Ok(_) => Ok(out),
            Err(error) => Err(crate::archive::from_io(error)),
        }
    }

    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let length = out.len().min(7);
            self.0.read(&mut out[..length])
        }
    }

    fn decode(bytes: &[u8]) -> Result<Vec<u8>> {
        decode_with(bytes, Limits::default())
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 3).unwrap()
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        assert_eq!(decode(b"plain").unwrap(), b"plain");
        assert_eq!(decode(b"").unwrap(), b"");
        let text = b"some text, some text".repeat(1000);
        let halves = [gzip(&text[..7]), gzip(b""), gzip(&text[7..]), vec![0; 700]].concat();
        assert_eq!(decode(&halves).unwrap(), text);
        let skippable = b"\x5f\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let frames = [
            skippable.clone(),
            frame(&text[..7]),
            skippable.clone(),
            frame(&text[7..]),
        ];
        assert_eq!(
            decode(&[frames.concat(), skippable].concat()).unwrap(),
            text
        );
    }

    #[test]
    fn all_header_fields_are_skipped() {
        let whole = flate2::GzBuilder::new()
            .extra(vec![9; 300])
            .filename("name")
            .comment("comment")
            .write(Vec::new(), flate2::Compression::new(1));
        assert_eq!(decode(&whole.finish().unwrap()).unwrap(), b"");
    }

    #[test]
    fn d9_every_truncation_and_many_flips_are_errors() {
        let text: Vec<u8> = (0..4_000_u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for whole in [gzip(&text), frame_with_sum(&text)] {
            for end in (2..whole.len()).step_by(97).chain([whole.len() - 1]) {
                if let Ok(decoded) = decode(&whole[..end]) {
                    // Too short to be recognised.
                    assert_eq!(decoded, &whole[..end]);
                    assert!(end < 4);
                }
            }
            for at in (11..whole.len()).step_by(61) {
                let mut flipped = whole.clone();
                flipped[at] ^= 0x10;
                if let Ok(decoded) = decode(&flipped) {
                    assert_eq!(decoded, text, "byte {at}");
                }
            }
        }
    }

    fn frame_with_sum(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn d6_garbage_after_the_end() {
        for whole in [gzip(b"text"), frame(b"text")] {
            decode(&[&whole[..], b"garbage"].concat()).unwrap_err();
        }
        decode(&[&gzip(b"text")[..], b"\0\0\0x"].concat()).unwrap_err();
    }

    #[test]
    fn d6_bombs_end_at_the_limits() {
        let limits = Limits {
            bytes: 1 << 30,
            ratio: 200,
            ratio_floor: 1 << 20,
        };
        let zeros = vec![0; 16 << 20];
        for bomb in [gzip(&zeros), frame(&zeros)] {
            let error = decode_with(&bomb, limits).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
            let few = Limits {
                bytes: 1 << 20,
                ratio: u64::MAX,
                ..limits
            };
            let error = decode_with(&bomb, few).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
        }
        // Below the floor a ratio means nothing.
        decode_with(&gzip(&vec![0; 1 << 20]), limits).unwrap();
    }

    #[test]
    fn d6_a_million_empty_members() {
        let members = gzip(b"").repeat(100_000);
        let mut decoder = Decoder::new(&*members, Limits::default()).unwrap();
        assert_eq!(io::copy(&mut decoder, &mut io::sink()).unwrap(), 0);
    }

    #[test]
    fn d6_a_window_of_two_gigabytes() {
        // A frame header that asks for windowLog 31, and one raw empty last block.
        let frame = [
            0x28,
            0xb5,
            0x2f,
            0xfd,
            0x00,
            (31 - 10) << 3,
            0x01,
            0x00,
            0x00,
        ];
        let error = decode(&frame).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        let small = [
            0x28,
            0xb5,
            0x2f,
            0xfd,
            0x00,
            (27 - 10) << 3,
            0x01,
            0x00,
            0x00,
        ];
        assert_eq!(decode(&small).unwrap(), b"");
    }
}
