//! Which bytes of a blob have arrived: pure bookkeeping, and its form on the disk (`.map`).
//!
//! A blob is divided into segments of a fixed size, and each is filled from its beginning. So one
//! number per segment says everything, and writing that number is how progress is recorded. A map is
//! a hint: it may be stale, torn or forged, and whatever it says is cut down to what the file can
//! hold; the digest decides in the end.

use std::ops::Range;

use crate::{Error, Result};

/// The size of a segment: what one connection fetches of a large blob before it asks for more.
pub const SEGMENT: u64 = 16 << 20;

/// The largest blob, 1 TiB. Without a limit a forged size would make the bookkeeping itself large.
pub const MAX_SIZE: u64 = 1 << 40;

/// A map begins with this and with the blob's size; one number of 8 bytes for each segment follows.
/// All numbers are little-endian.
pub(crate) const MAGIC: [u8; 8] = *b"rcmap\x001\n";

/// The length of what comes before the numbers.
pub(crate) const HEADER: u64 = 16;

/// The longest map.
pub(crate) const MAX_MAP: u64 = HEADER + 8 * (MAX_SIZE / SEGMENT);

/// What has arrived, and who fetches what.
#[derive(Debug)]
pub(crate) struct Segments {
    size: Option<u64>,
    segments: Vec<Segment>,
    /// The first segment that is not complete: everything before it is.
    first: usize,
    arrived: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Segment {
    done: u64,
    claimed: bool,
}

impl Segments {
    /// Nothing has arrived.
    pub(crate) fn new(size: Option<u64>) -> Result<Self> {
        let count = match size {
            Some(size) if size > MAX_SIZE => {
                return Err(Error::invalid(format!(
                    "refuse a blob of {size} bytes: the limit is {MAX_SIZE}"
                )));
            }
            Some(size) => size.div_ceil(SEGMENT),
            None => 0,
        };
        let count = usize::try_from(count).map_err(|e| Error::invalid(e.to_string()))?;
        Ok(Self {
            size,
            segments: vec![Segment::default(); count],
            first: 0,
            arrived: 0,
        })
    }

    /// Takes over what a map says, as far as a file of this length can have it.
    pub(crate) fn resume(&mut self, map: &[u8], length: u64) {
        let Some(size) = self.size else { return };
        if map.len() < 16 || map[..8] != MAGIC || map[8..16] != size.to_le_bytes() {
            return;
        }
        let (numbers, _) = map[16..].as_chunks::<8>();
        for (index, number) in numbers.iter().enumerate().take(self.segments.len()) {
            let span = self.span(index);
            let possible = length.clamp(span.start, span.end) - span.start;
            let done = u64::from_le_bytes(*number);
            // More than a segment's size is no number of ours.
            let done = if done > span.end - span.start {
                0
            } else {
                done.min(possible)
            };
            self.segments[index].done = done;
            self.arrived += done;
        }
        self.settle();
    }

    /// As a map.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut map = MAGIC.to_vec();
        map.extend(self.size.unwrap_or(u64::MAX).to_le_bytes());
        let used = self.segments.iter().rposition(|segment| segment.done > 0);
        let used = &self.segments[..used.map_or(0, |last| last + 1)];
        map.extend(used.iter().flat_map(|segment| segment.done.to_le_bytes()));
        map
    }

    /// The size, if it is known.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// How many bytes have arrived, anywhere.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Up to where everything has arrived.
    pub(crate) fn contiguous(&self) -> u64 {
        let partial = self.segments.get(self.first).map_or(0, |s| s.done);
        let end = self.first as u64 * SEGMENT + partial;
        self.size.map_or(end, |size| end.min(size))
    }

    /// Whether everything has arrived. Without a size that is for the writer to say.
    pub(crate) fn is_complete(&self) -> bool {
        self.size.is_none_or(|size| self.contiguous() == size)
    }

    /// Hands out the first missing bytes that nobody has claimed: at least to the end of their
    /// segment, and on through segments of which nothing is there, until there are `at_least`.
    pub(crate) fn claim(&mut self, at_least: u64) -> Option<Range<u64>> {
        let Some(size) = self.size else {
            return self.claim_rest();
        };
        let free = |s: &Self, index: usize| {
            let segment = s.segments[index];
            !segment.claimed && segment.done < s.length(index)
        };
        let first = (self.first..self.segments.len()).find(|index| free(self, *index))?;
        let start = first as u64 * SEGMENT + self.segments[first].done;
        let mut end = self.span(first).end;
        let mut next = first + 1;
        self.segments[first].claimed = true;
        while end < size && end - start < at_least {
            if !free(self, next) || self.segments[next].done > 0 {
                break;
            }
            self.segments[next].claimed = true;
            end = self.span(next).end;
            next += 1;
        }
        Some(start..end)
    }

    /// Of a blob of unknown size there is one range only: everything to come.
    fn claim_rest(&mut self) -> Option<Range<u64>> {
        let start = self.contiguous();
        self.grow(start / SEGMENT);
        let segment = self.segments.last_mut().filter(|s| !s.claimed)?;
        segment.claimed = true;
        Some(start..MAX_SIZE)
    }

    fn grow(&mut self, index: u64) {
        while self.segments.len() as u64 <= index {
            let claimed = self.segments.last().is_some_and(|last| last.claimed);
            self.segments.push(Segment { done: 0, claimed });
        }
    }

    /// Gives a claimed range back, of which everything before `start` has arrived.
    pub(crate) fn release(&mut self, range: Range<u64>) {
        let last = range.end.div_ceil(SEGMENT).min(self.segments.len() as u64);
        for index in range.start / SEGMENT..last {
            if let Ok(index) = usize::try_from(index) {
                self.segments[index].claimed = false;
            }
        }
    }

    /// Notes that bytes arrived at the end of what a segment has; they are within that segment.
    /// Returns where in the map which number now belongs.
    pub(crate) fn advance(&mut self, offset: u64, count: u64) -> (u64, u64) {
        if self.size.is_none() {
            self.grow(offset / SEGMENT);
        }
        let number = offset / SEGMENT;
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let segment = &mut self.segments[index];
        debug_assert_eq!(number * SEGMENT + segment.done, offset);
        segment.done += count;
        let done = segment.done;
        self.arrived += count;
        self.settle();
        (HEADER + 8 * number, done)
    }

    fn settle(&mut self) {
        while self.first < self.segments.len()
            && self.segments[self.first].done == self.length(self.first)
        {
            self.first += 1;
        }
    }

    fn span(&self, index: usize) -> Range<u64> {
        let start = index as u64 * SEGMENT;
        start..self.size.unwrap_or(u64::MAX).min(start + SEGMENT)
    }

    fn length(&self, index: usize) -> u64 {
        let span = self.span(index);
        span.end - span.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 3 * SEGMENT + 5;

    fn map(size: u64, numbers: &[u64]) -> Vec<u8> {
        let mut map = MAGIC.to_vec();
        map.extend(size.to_le_bytes());
        map.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        map
    }

    #[test]
    fn one_connection_gets_all_and_several_get_segments() {
        let mut one = Segments::new(Some(SIZE)).unwrap();
        assert_eq!(one.claim(u64::MAX), Some(0..SIZE));
        assert_eq!(one.claim(1), None);
        let mut many = Segments::new(Some(SIZE)).unwrap();
        assert_eq!(many.claim(1), Some(0..SEGMENT));
        assert_eq!(many.claim(SEGMENT + 1), Some(SEGMENT..3 * SEGMENT));
        assert_eq!(many.claim(1), Some(3 * SEGMENT..SIZE));
        assert_eq!(many.claim(1), None);
        many.release(SEGMENT..3 * SEGMENT);
        assert_eq!(many.claim(1), Some(SEGMENT..2 * SEGMENT));
    }

    #[test]
    fn what_arrives_out_of_order_counts_when_the_gap_closes() {
        let mut segments = Segments::new(Some(SIZE)).unwrap();
        assert_eq!(segments.advance(SEGMENT, SEGMENT), (24, SEGMENT));
        assert_eq!(segments.contiguous(), 0);
        assert_eq!(segments.advance(0, 7), (16, 7));
        assert_eq!(segments.contiguous(), 7);
        segments.advance(7, SEGMENT - 7);
        assert_eq!(segments.contiguous(), 2 * SEGMENT);
        assert!(!segments.is_complete());
        assert_eq!(segments.claim(u64::MAX), Some(2 * SEGMENT..SIZE));
        segments.advance(2 * SEGMENT, SEGMENT);
        segments.advance(3 * SEGMENT, 5);
        assert!(segments.is_complete());
        assert_eq!(segments.arrived(), SIZE);
    }

    #[test]
    fn resumed_holes_are_handed_out() {
        let mut segments = Segments::new(Some(SIZE)).unwrap();
        segments.resume(&map(SIZE, &[SEGMENT, 9, 8]), SIZE);
        assert_eq!(segments.contiguous(), SEGMENT + 9);
        assert_eq!(segments.claim(u64::MAX), Some(SEGMENT + 9..2 * SEGMENT));
        assert_eq!(segments.claim(u64::MAX), Some(2 * SEGMENT + 8..SIZE));
        assert_eq!(segments.claim(u64::MAX), None);
        // Given back by who had written 10 of them.
        segments.advance(SEGMENT + 9, 10);
        segments.release(SEGMENT + 19..2 * SEGMENT);
        assert_eq!(segments.claim(1), Some(SEGMENT + 19..2 * SEGMENT));
    }

    #[test]
    fn maps_are_believed_no_further_than_possible() {
        let full = [SEGMENT, SEGMENT, SEGMENT, 5];
        let mut other = map(SIZE, &full);
        other[0] ^= 1;
        let mut torn = map(SIZE, &full);
        torn.truncate(16 + 8 + 3);
        let cases: [(Vec<u8>, u64, u64); 11] = [
            (map(SIZE, &full), SIZE, SIZE),
            (map(SIZE, &full), SEGMENT + 3, SEGMENT + 3),
            (map(SIZE, &full), 0, 0),
            (map(SIZE + 1, &full), SIZE, 0),
            (map(SIZE, &[u64::MAX; 4]), SIZE, 0),
            (map(SIZE, &[SEGMENT + 1, 6, 0, 6]), SIZE, 6),
            (map(SIZE, &[1; 1000]), SIZE, 4),
            (other, SIZE, 0),
            (torn, SIZE, SEGMENT),
            (Vec::new(), SIZE, 0),
            (vec![0; 4096], SIZE, 0),
        ];
        for (number, (bytes, length, arrived)) in cases.into_iter().enumerate() {
            let mut segments = Segments::new(Some(SIZE)).unwrap();
            segments.resume(&bytes, length);
            assert_eq!(segments.arrived(), arrived, "case {number}");
            assert_eq!(segments.is_complete(), arrived == SIZE, "case {number}");
        }
    }

    #[test]
    fn unknown_sizes_have_one_range() {
        let mut segments = Segments::new(None).unwrap();
        assert_eq!(segments.claim(1), Some(0..MAX_SIZE));
        assert_eq!(segments.claim(1), None);
        segments.advance(0, SEGMENT);
        segments.advance(SEGMENT, 3);
        assert_eq!(segments.contiguous(), SEGMENT + 3);
        assert_eq!(segments.claim(1), None);
        segments.release(SEGMENT + 3..MAX_SIZE);
        assert_eq!(segments.claim(1), Some(SEGMENT + 3..MAX_SIZE));
    }

    #[test]
    fn sizes_have_a_limit() {
        assert!(Segments::new(Some(MAX_SIZE)).is_ok());
        for size in [MAX_SIZE + 1, u64::MAX] {
            Segments::new(Some(size)).unwrap_err();
        }
        let mut empty = Segments::new(Some(0)).unwrap();
        assert!(empty.is_complete());
        assert_eq!(empty.claim(1), None);
    }
}
