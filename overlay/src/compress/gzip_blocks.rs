//! gzip by several threads, the same bytes for any number of them.
//!
//! The stream is cut into blocks of a fixed size. Each is deflated by itself, with the 32 KiB before
//! it as dictionary, and ends on a byte boundary by an empty stored block (sync flush), so the
//! pieces simply follow each other: one gzip member (RFC 1952) without name and time.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Bytes of a block: part of the format of our layers, a change changes all digests.
const BLOCK: usize = 1 << 20;
/// What deflate can refer back to.
const DICTIONARY: usize = 32 << 10;
/// zlib's usual level: part of the format too.
pub const LEVEL: u32 = 6;

/// Deflated, deterministic, no file name, no time, no hint, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

struct Job {
    before: Arc<Vec<u8>>,
    block: Arc<Vec<u8>>,
    last: bool,
    done: SyncSender<io::Result<Vec<u8>>>,
}

/// Compresses what is written to it.
pub struct Encoder<W: Write> {
    sink: W,
    level: u32,
    block: Vec<u8>,
    before: Arc<Vec<u8>>,
    crc: Crc,
    jobs: Option<SyncSender<Job>>,
    waiting: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl<W: Write> Encoder<W> {
    /// Writes to `sink` with so many threads beside the calling one, or with that alone.
    pub fn new(sink: W, threads: usize) -> io::Result<Self> {
        Self::with_level(sink, LEVEL, threads)
    }

    /// The same at another level, 1 to 9. The bytes depend on the level, never on the threads.
    pub fn with_level(mut sink: W, level: u32, threads: usize) -> io::Result<Self> {
        sink.write_all(&HEADER)?;
        let mut encoder = Self {
            sink,
            level,
            block: Vec::with_capacity(BLOCK),
            before: Arc::default(),
            crc: Crc::new(),
            jobs: None,
            waiting: VecDeque::new(),
            threads: Vec::new(),
        };
        if threads > 0 {
            let (jobs, queue) = sync_channel(threads);
            let queue = Arc::new(Mutex::new(queue));
            for _ in 0..threads {
                let queue = Arc::clone(&queue);
                let thread = std::thread::Builder::new().name("gzip".into());
                encoder
                    .threads
                    .push(thread.spawn(move || work(&queue, level))?);
            }
            encoder.jobs = Some(jobs);
        }
        Ok(encoder)
    }

    /// Writes what remains and ends the member.
    pub fn finish(mut self) -> io::Result<W> {
        self.cut(true)?;
        while !self.waiting.is_empty() {
            self.collect()?;
        }
        self.stop();
        self.sink.write_all(&self.crc.sum().to_le_bytes())?;
        self.sink.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.sink)
    }

    fn cut(&mut self, last: bool) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.crc.update(&block);
        let block = Arc::new(block);
        let before = std::mem::replace(&mut self.before, Arc::clone(&block));
        let Some(jobs) = &self.jobs else {
            return self
                .sink
                .write_all(&deflate(&before, &block, last, self.level)?);
        };
        let (done, waiting) = sync_channel(1);
        self.waiting.push_back(waiting);
        jobs.send(Job {
            before,
            block,
            last,
            done,
        })
        .map_err(|_| gone())?;
        // Bounds what is in memory: blocks in work, and those done before the oldest.
        if self.waiting.len() > 2 * self.threads.len() {
            self.collect()?;
        }
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(oldest) = self.waiting.pop_front() else {
            return Ok(());
        };
        let piece = oldest.recv().map_err(|_| gone())??;
        self.sink.write_all(&piece)
    }

    fn stop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic shows as a piece that never comes.
            let _ = thread.join();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("a compressing thread has gone")
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full block is cut only when more follows: the last block is never empty without need.
        if self.block.len() == BLOCK {
            self.cut(false)?;
        }
        let length = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    /// Blocks have a fixed size: nothing can be flushed before.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work(queue: &Mutex<Receiver<Job>>, level: u32) {
    loop {
        let job = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(job) = job else { return };
        let piece = deflate(&job.before, &job.block, job.last, level);
        // Nobody waits any more after an error.
        let _ = job.done.send(piece);
    }
}

/// One block, a pure function of its arguments.
fn deflate(before: &[u8], block: &[u8], last: bool, level: u32) -> io::Result<Vec<u8>> {
    let mut state = Compress::new(Compression::new(level), false);
    let dictionary = &before[before.len().saturating_sub(DICTIONARY)..];
    if !dictionary.is_empty() {
        state.set_dictionary(dictionary).map_err(io::Error::other)?;
    }
    let flush = if last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    // Level 1 has one fixed code, in which a byte takes nine bits at worst; others add five bytes to each
    // 16 KiB: always enough for one call.
    let mut out = Vec::with_capacity(block.len() + block.len() / 8 + block.len() / 64 + 1024);
    let status = state
        .compress_vec(block, &mut out, flush)
        .map_err(io::Error::other)?;
    let complete = state.total_in() == block.len() as u64
        && (status == Status::StreamEnd || !last)
        && out.len() < out.capacity();
    if !complete {
        return Err(io::Error::other("deflate needs more room than it should"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::digest::Digest;

    fn encode(bytes: &[u8], threads: usize, step: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), threads).unwrap();
        for part in bytes.chunks(step) {
            encoder.write_all(part).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            // Text, incompressible bytes and repetitions across blocks.
            match next() % 3 {
                0 => bytes.extend_from_slice(&b"the quick brown fox ".repeat(usize::from(next()))),
                1 => bytes.extend((0..usize::from(next()) * 8).map(|_| next())),
                _ => bytes.extend_from_within(bytes.len().saturating_sub(5000)..),
            }
        }
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn the_same_bytes_for_any_number_of_threads_and_any_writes() {
        for length in [
            0,
            1,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            3 * BLOCK,
            5 * BLOCK + 777,
        ] {
            let bytes = sample(length);
            let one = encode(&bytes, 0, usize::MAX);
            for (threads, step) in [(1, 4096), (2, 100_000), (7, 3 * BLOCK)] {
                assert!(
                    encode(&bytes, threads, step) == one,
                    "{length} with {threads} threads"
                );
            }
            // One member, as the strictest reader sees it.
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&*one)
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == bytes);
        }
    }

    #[test]
    fn what_does_not_compress_has_room_on_every_level() {
        let mut state = 1_u64;
        let mut next = |least: u8| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0] | least
        };
        // Bytes from 144 on have the longest words of the fixed code.
        let noise: [Vec<u8>; 2] = [0, 0x90].map(|least| (0..BLOCK).map(|_| next(least)).collect());
        for level in 0..=9 {
            for bytes in &noise {
                for last in [false, true] {
                    let out = deflate(&[], bytes, last, level).unwrap();
                    assert!(out.len() >= bytes.len() / 2, "level {level}");
                }
            }
        }
    }

    #[test]
    fn the_bytes_themselves_never_change() {
        // A new version of zlib-rs that compresses otherwise changes the digests of all layers:
        // that may be wanted, but must not go unnoticed.
        let digest = Digest::of(&encode(&sample(3 * BLOCK + 12_345), 2, 65_536));
        assert_eq!(
            digest.hex(),
            "5aa7e467b66d95dfce63b9cb9ac2afcac3b05933682bfa2d1213666b5933c8ba"
        );
    }

    #[test]
    fn an_error_of_the_sink_arrives() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len();
                if self.0 > 5000 {
                    return Err(rustix::io::Errno::NOSPC.into());
                }
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let bytes = sample(8 * BLOCK);
        for threads in [0, 2] {
            let mut encoder = Encoder::new(Full(0), threads).unwrap();
            let result = encoder
                .write_all(&bytes)
                .and_then(|()| encoder.finish().map(drop));
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
    }
}
