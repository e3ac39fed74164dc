//! Header blocks: names and values, compressed by one stream of zlib for the whole session (SPDY/3, 2.6.10).
//!
//! What is received is inflated up to [`limits::HEADER_BLOCK`]. What is sent is "stored" in the stream of zlib, never
//! compressed: our blocks are empty, and so no state is kept for them (a compressor has 256 KiB of it), and nothing can
//! be learnt from their length.

use super::dictionary;
use super::frame::Wrong;
use crate::limits;
use flate2::{Decompress, FlushDecompress, Status};

/// Names and values of one block, names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter();
        all.find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The dictionary that both ends preset, for whoever plays a client.
pub fn preset() -> &'static [u8] {
    dictionary::bytes()
}

/// Reads the blocks of one session.
#[derive(Debug)]
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    /// Reads one block.
    ///
    /// # Errors
    ///
    /// If it is not compressed in the way of SPDY, ends within a name or a value, is too large, or names twice the same.
    pub fn block(&mut self, compressed: &[u8]) -> Result<Headers, Wrong> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, Wrong> {
        let mut whole = Vec::new();
        let mut part = [0; 4 << 10];
        loop {
            let (read, wrote) = (self.0.total_in(), self.0.total_out());
            let flush = FlushDecompress::Sync;
            let done = match self.0.decompress(compressed, &mut part, flush) {
                Ok(done) => done,
                Err(error) if error.needs_dictionary() == Some(dictionary::CHECKSUM) => {
                    let dictionary = dictionary::bytes();
                    let set = self.0.set_dictionary(dictionary);
                    set.map_err(|_| Wrong("a header block does not use the dictionary of SPDY/3"))?;
                    Status::Ok
                }
                Err(_) => return Err(Wrong("a header block cannot be inflated")),
            };
            let amount = |after: u64, before| usize::try_from(after - before).unwrap_or(0);
            let read = amount(self.0.total_in(), read);
            let wrote = amount(self.0.total_out(), wrote);
            compressed = &compressed[read..];
            whole.extend_from_slice(&part[..wrote]);
            if whole.len() > limits::HEADER_BLOCK {
                return Err(Wrong("a header block is too large when it is inflated"));
            }
            if done == Status::StreamEnd {
                return Err(Wrong("the stream of header blocks ended"));
            }
            // Nothing moved, and no room was lacking: all was taken.
            if read == 0 && wrote == 0 && compressed.is_empty() {
                return Ok(whole);
            }
            if read == 0 && wrote == 0 && done == Status::BufError {
                return Err(Wrong("a header block cannot be inflated"));
            }
        }
    }
}

/// Reads names and values (2.6.10).
fn parse(block: &[u8]) -> Result<Headers, Wrong> {
    let mut rest = block;
    let count = length(&mut rest)?;
    if count > limits::HEADER_NAMES {
        return Err(Wrong("a header block has too many names"));
    }
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = text(&mut rest)?.to_ascii_lowercase();
        let value = text(&mut rest)?;
        if headers.iter().any(|(known, _)| *known == name) {
            return Err(Wrong("a header block names the same twice"));
        }
        headers.push((name, value));
    }
    if !rest.is_empty() {
        return Err(Wrong("a header block is longer than its names"));
    }
    Ok(Headers(headers))
}

fn length(rest: &mut &[u8]) -> Result<usize, Wrong> {
    let (four, behind) = rest
        .split_first_chunk()
        .ok_or(Wrong("a header block ends early"))?;
    *rest = behind;
    Ok(usize::try_from(u32::from_be_bytes(*four)).unwrap_or(usize::MAX))
}

fn text(rest: &mut &[u8]) -> Result<String, Wrong> {
    let length = length(rest)?;
    let (text, behind) = rest
        .split_at_checked(length)
        .ok_or(Wrong("a header block ends early"))?;
    *rest = behind;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Writes the blocks of one session: all of ours are empty.
#[derive(Debug, Default)]
pub struct Stored {
    begun: bool,
}

impl Stored {
    /// A block without names.
    pub fn empty(&mut self) -> Vec<u8> {
        let mut block = Vec::new();
        if !self.begun {
            // RFC 1950, 2.2: deflate with a window of 32 KiB, and the dictionary of this checksum.
            block.extend_from_slice(&[0x78, 0x20]);
            block.extend_from_slice(&dictionary::CHECKSUM.to_be_bytes());
            self.begun = true;
        }
        // RFC 1951, 3.2.4: four bytes stored (a count of 0), and an empty block, at which readers hand on what they have.
        block.extend_from_slice(&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn plain(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut block = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        block
    }

    fn compressor() -> Compress {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(dictionary::bytes()).unwrap();
        zlib
    }

    fn compressed(zlib: &mut Compress, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + 1000);
        zlib.compress_vec(plain, &mut out, FlushCompress::Sync)
            .unwrap();
        out
    }

    #[test]
    fn blocks_of_one_session_are_read_in_order() {
        let (mut zlib, mut inflater) = (compressor(), Inflater::default());
        for kind in ["error", "stdin", "stdout", "resize"] {
            let block = compressed(&mut zlib, &plain(&[("streamtype", kind), ("port", "80")]));
            let headers = inflater.block(&block).unwrap();
            assert_eq!(headers.get("streamtype"), Some(kind));
            assert_eq!(headers.get("port"), Some("80"));
            assert_eq!(headers.get("host"), None);
        }
    }

    #[test]
    fn our_own_blocks_are_read_by_zlib() {
        let (mut stored, mut inflater) = (Stored::default(), Inflater::default());
        for _ in 0..3 {
            assert_eq!(inflater.block(&stored.empty()), Ok(Headers::default()));
        }
    }

    #[test]
    fn wrong_blocks() {
        let many = vec![("a", "b"); limits::HEADER_NAMES + 1];
        let mut long = plain(&[("name", "value")]);
        let short = long[..long.len() - 1].to_vec();
        long.push(0);
        for (block, why) in [
            (plain(&many), "a header block has too many names"),
            (
                plain(&[("a", "1"), ("A", "2")]),
                "a header block names the same twice",
            ),
            (long, "a header block is longer than its names"),
            (short, "a header block ends early"),
            (vec![0xff; 8], "a header block has too many names"),
            (Vec::new(), "a header block ends early"),
        ] {
            let block = compressed(&mut compressor(), &block);
            assert_eq!(Inflater::default().block(&block), Err(Wrong(why)));
        }
        assert!(Inflater::default().block(b"not zlib").is_err());
        let mut other = Compress::new(Compression::best(), true);
        other.set_dictionary(b"another dictionary").unwrap();
        let block = compressed(&mut other, &plain(&[]));
        assert!(Inflater::default().block(&block).is_err());
    }

    #[test]
    fn a_header_bomb_is_refused_before_it_is_large() {
        let bomb = plain(&[("name", &"x".repeat(16 << 20))]);
        let block = compressed(&mut compressor(), &bomb);
        assert!(block.len() < limits::CONTROL_FRAME, "{}", block.len());
        let why = "a header block is too large when it is inflated";
        assert_eq!(Inflater::default().block(&block), Err(Wrong(why)));
    }
}
