//! zstd by several threads, the same bytes for any number of them.
//!
//! libzstd cuts the stream into jobs; with a fixed size of the jobs, and at least one worker, the
//! result does not depend on the number of workers (zstd.h, `ZSTD_c_nbWorkers`); a test pins it.

use std::io::{self, Write};

use zstd::stream::raw::CParameter;

/// Bytes of a job, and what a worker needs memory for: part of the format of our layers.
const JOB: u32 = 1 << 20;
/// libzstd's usual level: part of the format too.
pub const LEVEL: i32 = 3;
/// More workers would need more memory than they are worth.
const WORKERS: u32 = 4;
/// Above this level a worker needs so much memory that there is one only.
const HUNGRY: i32 = 9;

/// Compresses what is written to it.
pub struct Encoder<W: Write>(zstd::stream::write::Encoder<'static, W>);

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Encoder").finish_non_exhaustive()
    }
}

impl<W: Write> Encoder<W> {
    /// Writes to `sink` with so many threads beside the calling one, at least one.
    pub fn new(sink: W, threads: usize) -> io::Result<Self> {
        Self::with_level(sink, LEVEL, threads)
    }

    /// The same at another level. The bytes depend on the level, never on the threads.
    pub fn with_level(sink: W, level: i32, threads: usize) -> io::Result<Self> {
        let mut encoder = zstd::stream::write::Encoder::new(sink, level)?;
        let most = if level > HUNGRY { 1 } else { WORKERS };
        let workers = u32::try_from(threads).unwrap_or(most).clamp(1, most);
        encoder.set_parameter(CParameter::NbWorkers(workers))?;
        encoder.set_parameter(CParameter::JobSize(JOB))?;
        encoder.include_checksum(true)?;
        Ok(Self(encoder))
    }

    /// Writes what remains and ends the frame.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    /// Flushing would end a job early: nothing happens before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_for_any_number_of_threads_and_any_writes() {
        let text: Vec<u8> = (0..6_000_000_u32)
            .flat_map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes())
            .collect();
        for length in [0, 1, 600_000, 4 << 20, 24_000_000] {
            let bytes = &text[..length];
            let mut all = Vec::new();
            for (threads, step) in [(0, 4096), (1, 10_000_000), (2, 100_001), (4, 1 << 20)] {
                let mut encoder = Encoder::new(Vec::new(), threads).unwrap();
                for part in bytes.chunks(step) {
                    encoder.write_all(part).unwrap();
                    encoder.flush().unwrap();
                }
                all.push(encoder.finish().unwrap());
            }
            assert!(all.iter().all(|one| *one == all[0]), "{length}");
            assert!(zstd::stream::decode_all(&*all[0]).unwrap() == bytes);
        }
    }
}
