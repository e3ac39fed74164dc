//! Inflates and hashes in one thread while another unpacks.
//!
//! Inflating and the kernel's work for files take about as long as each other: two cores halve the
//! time. A few large buffers go round between the threads, so memory is bounded.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::decode::{Decoder, Limits};
use super::sniff::Compression;
use crate::archive::{from_io, is_ours};
use crate::digest::{Algorithm, Digest};
use crate::{Error, ErrorKind, Result};

/// Bytes of a buffer, and of a write of a large file.
const CHUNK: usize = 256 << 10;
/// Buffers between the threads.
const CHUNKS: usize = 4;

/// What an inflated stream was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Digest of the inflated bytes: the DiffID if they are a layer.
    pub diff_id: Digest,
    /// Number of the inflated bytes.
    pub size: u64,
    /// How they were compressed.
    pub compression: Compression,
}

/// The inflated stream, in the consuming thread.
#[derive(Debug)]
pub struct Ahead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

/// Inflates `source` in a thread of its own; `consume` reads what comes out. The stream is read to
/// its end, also when `consume` is satisfied with less: padding belongs to the DiffID. An error of
/// either side ends both.
pub fn decode_ahead<R: Read + Send, T>(
    source: R,
    limits: Limits,
    consume: impl FnOnce(&mut Ahead) -> Result<T>,
) -> Result<(T, Decoded)> {
    let (full_sender, full) = sync_channel(CHUNKS);
    let (empty, empty_receiver) = sync_channel(CHUNKS);
    std::thread::scope(|scope| {
        let inflating = scope.spawn(move || inflate(source, limits, &full_sender, &empty_receiver));
        for _ in 0..CHUNKS {
            // The thread may have ended already; its result says why.
            let _ = empty.send(Vec::with_capacity(CHUNK));
        }
        let mut ahead = Ahead {
            full,
            empty,
            chunk: Vec::new(),
            at: 0,
        };
        let consumed = consume(&mut ahead).and_then(|value| {
            io::copy(&mut ahead, &mut io::sink()).map_err(from_io)?;
            Ok(value)
        });
        // Ends the thread if it still has something to say.
        drop(ahead);
        let inflated = inflating.join().unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Internal,
                "panic while inflating a layer",
            ))
        });
        // An error of the source reaches the consumer too, without its kind: prefer the original.
        match (consumed, inflated) {
            (_, Err(error)) => Err(error),
            (Err(error), _) => Err(error),
            (Ok(_), Ok(None)) => Err(Error::new(ErrorKind::Internal, "inflating ended early")),
            (Ok(value), Ok(Some(decoded))) => Ok((value, decoded)),
        }
    })
}

/// Runs in the thread; nothing comes of it when the consumer has gone.
fn inflate<R: Read>(
    source: R,
    limits: Limits,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<Option<Decoded>> {
    let mut decoder = match Decoder::new(source, limits) {
        Ok(decoder) => decoder,
        Err(error) => {
            let _ = full.send(Err(io::ErrorKind::Other.into()));
            return Err(error);
        }
    };
    let mut hasher = Algorithm::Sha256.hasher();
    let mut size = 0_u64;
    while let Ok(mut chunk) = empty.recv() {
        chunk.resize(CHUNK, 0);
        let mut have = 0;
        while have < CHUNK {
            match super::input::retry(|| decoder.read(&mut chunk[have..])) {
                Ok(0) => break,
                Ok(read) => have += read,
                Err(error) => {
                    let _ = full.send(Err(io::ErrorKind::Other.into()));
                    return Err(source_error(error));
                }
            }
        }
        chunk.truncate(have);
        hasher.update(&chunk);
        size += have as u64;
        if have == 0 {
            let (diff_id, compression) = (hasher.finish(), decoder.compression());
            return Ok(Some(Decoded {
                diff_id,
                size,
                compression,
            }));
        }
        if full.send(Ok(chunk)).is_err() {
            break;
        }
    }
    Ok(None)
}

fn source_error(error: io::Error) -> Error {
    if is_ours(&error) {
        return from_io(error);
    }
    Error::from(error).context("cannot read a layer")
}

impl Read for Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(out.len());
        out[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() {
            // The sender hangs up at the end of the stream.
            let Ok(chunk) = self.full.recv() else {
                return Ok(&[]);
            };
            let used = std::mem::replace(&mut self.chunk, chunk?);
            self.at = 0;
            if used.capacity() > 0 {
                // There is room for all buffers; a thread that has ended needs none.
                let _ = self.empty.try_send(used);
            }
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_all_of_it_whatever_is_read() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        for take in [0, 1, CHUNK, CHUNK + 1, bytes.len()] {
            let (read, decoded) = decode_ahead(&*bytes, Limits::default(), |ahead| {
                let mut read = vec![0; take];
                ahead.read_exact(&mut read).unwrap();
                Ok(read)
            })
            .unwrap();
            assert_eq!(read, bytes[..take]);
            assert_eq!(decoded.diff_id, Digest::of(&bytes));
            assert_eq!(decoded.size, bytes.len() as u64);
        }
    }

    #[test]
    fn errors_of_both_sides_end_both() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 30 {
                    return Err(rustix::io::Errno::CONNRESET.into());
                }
                out.fill(7);
                Ok(out.len())
            }
        }
        let error = decode_ahead(Failing(0), Limits::default(), |ahead| {
            let mut all = Vec::new();
            ahead.read_to_end(&mut all).map_err(from_io)
        })
        .unwrap_err();
        assert!(
            error.chain().to_string().contains("connection reset"),
            "{error:?}"
        );
        let error = decode_ahead(io::repeat(1), Limits::default(), |_| {
            Err::<(), _>(Error::invalid("enough"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "enough");
    }
}
