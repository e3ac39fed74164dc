//! The streams of one session and what may be sent on them: windows both ways (SPDY/3.1, 2.6.8).
//!
//! The clients of Kubernetes are built on a library that has no flow control at all: it ignores `WINDOW_UPDATE` and
//! never sends one. Towards such a peer, windows would stop every stream after 64 KiB; what bounds it is TCP, and we stop
//! reading when one stream is full. Towards a peer that once sends a `WINDOW_UPDATE` or settings with a window, the
//! rules hold, beginning with the first byte of the session: we wait for its windows and enforce ours. Ours are opened
//! again for every peer, for a stream as its bytes are used, for the whole session as they are received (each stream
//! bounds what is held).

use super::frame::{LARGEST_WINDOW, Wrong};
use crate::limits;
use crate::pipe::Handle;
use std::collections::HashMap;

/// One stream that is not closed in both directions.
pub(crate) struct Live {
    /// From the client.
    pub(crate) input: Handle,
    /// To the client.
    pub(crate) output: Handle,
    /// The client will send nothing more.
    pub(crate) remote_done: bool,
    /// We will send nothing more.
    pub(crate) local_done: bool,
    /// What we may send.
    window: i64,
    /// What the client may send.
    allowed: i64,
    /// What was used and not yet told.
    credit: u32,
}

/// All of them.
pub(crate) struct Table {
    pub(crate) streams: HashMap<u32, Live>,
    /// Whether the peer knows windows.
    pub(crate) enforced: bool,
    initial: i64,
    window: i64,
    credit: u32,
}

/// What became of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// They are for a stream that lives.
    Wanted,
    /// Nobody wants them.
    Unknown,
    /// They are more than was allowed.
    Overflow,
}

/// Tell the peer of room when half a window is free.
const TELL: u32 = limits::WINDOW / 2;

impl Default for Table {
    fn default() -> Self {
        Self {
            streams: HashMap::new(),
            enforced: false,
            initial: i64::from(limits::WINDOW),
            window: i64::from(limits::WINDOW),
            credit: 0,
        }
    }
}

fn count(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Table {
    pub(crate) fn open(&mut self, id: u32, input: Handle, output: Handle, remote_done: bool) {
        let live = Live {
            input,
            output,
            remote_done,
            local_done: false,
            window: self.initial,
            allowed: i64::from(limits::WINDOW),
            credit: 0,
        };
        self.streams.insert(id, live);
    }

    /// Marks one direction as ended; a stream that ended in both is forgotten.
    pub(crate) fn done(&mut self, id: u32, mark: impl FnOnce(&mut Live)) {
        if let Some(live) = self.streams.get_mut(&id) {
            mark(live);
            if live.remote_done && live.local_done {
                self.streams.remove(&id);
            }
        }
    }

    /// How much of `want` may be sent now on a stream; `None` if it is closed. It counts as sent.
    pub(crate) fn reserve(&mut self, id: u32, want: usize) -> Option<usize> {
        let live = self.streams.get_mut(&id)?;
        let mut room = count(want);
        if self.enforced {
            room = room.min(live.window).min(self.window).max(0);
        }
        live.window -= room;
        self.window -= room;
        usize::try_from(room).ok()
    }

    /// The peer opens a window. True for the stream's own failure, that it grew beyond the largest.
    pub(crate) fn widen(&mut self, id: u32, delta: u32) -> Result<bool, Wrong> {
        self.enforced = true;
        let window = match self.streams.get_mut(&id) {
            _ if id == 0 => &mut self.window,
            Some(live) => &mut live.window,
            None => return Ok(false),
        };
        *window += i64::from(delta);
        let broken = *window > i64::from(LARGEST_WINDOW);
        if broken && id == 0 {
            return Err(Wrong("the window of the session grew beyond the largest"));
        }
        Ok(broken)
    }

    /// The peer says with which window streams begin, also those that have begun.
    pub(crate) fn begin_with(&mut self, window: u32) {
        self.enforced = true;
        let change = i64::from(window) - self.initial;
        self.initial = i64::from(window);
        for live in self.streams.values_mut() {
            live.window += change;
        }
    }

    /// Bytes came in.
    pub(crate) fn receive(&mut self, id: u32, bytes: usize) -> Received {
        self.credit = self
            .credit
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        let Some(live) = self.streams.get_mut(&id).filter(|live| !live.remote_done) else {
            return Received::Unknown;
        };
        live.allowed -= count(bytes);
        if self.enforced && live.allowed < 0 {
            return Received::Overflow;
        }
        Received::Wanted
    }

    /// Bytes were used.
    pub(crate) fn used(&mut self, id: u32, bytes: usize) {
        if let Some(live) = self.streams.get_mut(&id) {
            live.credit = live
                .credit
                .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Whether there is something to tell.
    pub(crate) fn owes(&self, id: u32) -> bool {
        let of_stream = self.streams.get(&id).map_or(0, |live| live.credit);
        self.credit >= TELL || of_stream >= TELL
    }

    /// What there is to tell: streams and by how much their windows open.
    pub(crate) fn tell(&mut self) -> Vec<(u32, u32)> {
        let mut told = Vec::new();
        if self.credit >= TELL {
            told.push((0, std::mem::take(&mut self.credit)));
        }
        for (id, live) in &mut self.streams {
            if live.credit >= TELL && !live.remote_done {
                live.allowed += i64::from(live.credit);
                told.push((*id, std::mem::take(&mut live.credit)));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipe;

    fn table() -> Table {
        let mut table = Table::default();
        let ((input, _), (_, output)) = (pipe::inward(None), pipe::outward());
        for id in [1, 3] {
            table.open(id, input.handle(), output.handle(), false);
        }
        table
    }

    #[test]
    fn a_peer_without_flow_control_is_sent_everything() {
        let mut table = table();
        assert_eq!(table.reserve(1, 1 << 20), Some(1 << 20));
        assert_eq!(table.reserve(5, 1), None);
        assert_eq!(table.receive(1, 1 << 20), Received::Wanted);
    }

    #[test]
    fn windows_hold_once_the_peer_names_one_from_the_first_byte_on() {
        let mut table = table();
        assert_eq!(table.reserve(1, 60_000), Some(60_000));
        assert_eq!(table.widen(1, 1000), Ok(false));
        assert_eq!(table.reserve(1, 60_000), Some(65_536 - 60_000));
        assert_eq!(
            table.reserve(3, 1),
            Some(0),
            "the session's window is used up"
        );
        assert_eq!(table.widen(0, 100_000), Ok(false));
        assert_eq!(table.reserve(1, 60_000), Some(1000));
        assert_eq!(table.reserve(3, 100_000), Some(65_536));
    }

    #[test]
    fn settings_change_streams_that_have_begun() {
        let mut table = table();
        table.begin_with(10);
        assert_eq!(table.reserve(1, 100), Some(10));
        table.begin_with(5);
        assert_eq!(table.widen(1, 5), Ok(false));
        assert_eq!(table.reserve(1, 100), Some(0));
        assert_eq!(table.widen(1, 1), Ok(false));
        assert_eq!(table.reserve(1, 100), Some(1));
    }

    #[test]
    fn window_overflow() {
        let mut table = table();
        assert_eq!(table.widen(1, LARGEST_WINDOW), Ok(true));
        assert!(table.widen(0, LARGEST_WINDOW).is_err());
        assert_eq!(table.widen(99, LARGEST_WINDOW), Ok(false));
        assert_eq!(table.receive(3, 65_536), Received::Wanted);
        assert_eq!(table.receive(3, 1), Received::Overflow);
    }

    #[test]
    fn room_is_told_when_half_a_window_is_free() {
        let mut table = table();
        table.receive(1, 40_000);
        assert!(table.owes(1));
        assert_eq!(table.tell(), [(0, 40_000)]);
        table.used(1, 32_767);
        assert!(!table.owes(1) && table.tell().is_empty());
        table.used(1, 1);
        assert!(table.owes(1));
        assert_eq!(table.tell(), [(1, 32_768)]);
    }

    #[test]
    fn a_stream_ends_when_both_directions_have() {
        let mut table = table();
        table.done(1, |live| live.local_done = true);
        assert!(table.streams.contains_key(&1));
        table.done(1, |live| live.remote_done = true);
        assert!(!table.streams.contains_key(&1));
        assert_eq!(table.receive(1, 5), Received::Unknown);
    }
}
