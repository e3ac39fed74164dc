//! What people see while blobs move: bars on a terminal, plain lines elsewhere, on standard error.
//!
//! Owns the drawing only; what happened is told by the verbs. Bars are redrawn in place with two
//! control sequences, need no mode of the terminal, and leave nothing to restore.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rcrun_image::Digest;

use crate::units;

/// A bar's cells.
const BAR: usize = 24;
/// The terminal's size where it is not known.
const SIZE: (usize, usize) = (80, 24);
/// How long a rate is measured before it is shown anew.
const RATE_TIME: Duration = Duration::from_millis(700);

/// Where something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing happened yet.
    Waiting,
    /// Somebody else is at it.
    Elsewhere,
    /// Its bytes move.
    Moving,
    /// All bytes have moved.
    Moved,
    /// It was there already.
    Exists,
    /// Everything that is to be done with it is done.
    Done,
}

/// What the phases of an operation are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    /// [`Phase::Moved`]: a plain line, and what goes on then.
    pub(crate) moved: (&'static str, &'static str),
    /// [`Phase::Done`].
    pub(crate) done: &'static str,
}

/// Draws, or prints, or is silent.
#[derive(Debug)]
pub(crate) struct Progress {
    mode: Mode,
    words: Words,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Lines,
    Bars,
}

#[derive(Debug, Default)]
struct State {
    items: Vec<Item>,
    drawn: usize,
}

#[derive(Debug)]
struct Item {
    digest: Digest,
    size: u64,
    bytes: u64,
    phase: Phase,
    /// Done before it was told that all bytes have moved.
    early: bool,
    rate: Rate,
}

#[derive(Debug, Default)]
struct Rate {
    since: Option<(Instant, u64)>,
    shown: Option<u64>,
}

impl Rate {
    fn update(&mut self, bytes: u64, now: Instant) {
        let (then, before) = *self.since.get_or_insert((now, bytes));
        let time = now.saturating_duration_since(then);
        if time >= RATE_TIME {
            let moved = u128::from(bytes.saturating_sub(before)) * 1000;
            self.shown = u64::try_from(moved / time.as_millis().max(1)).ok();
            self.since = Some((now, bytes));
        }
    }
}

impl Progress {
    /// As suits standard error.
    pub(crate) fn new(quiet: bool, words: Words) -> Self {
        let mode = match quiet {
            true => Mode::Quiet,
            false if std::io::stderr().is_terminal() => Mode::Bars,
            false => Mode::Lines,
        };
        Self {
            mode,
            words,
            state: Mutex::default(),
        }
    }

    /// Whether something has to be drawn from time to time.
    pub(crate) fn ticks(&self) -> bool {
        self.mode == Mode::Bars
    }

    /// A line of text, above the bars.
    pub(crate) fn line(&self, text: &str) {
        if self.mode == Mode::Quiet {
            return;
        }
        let mut state = self.state();
        state.clear();
        to_stderr(&format!("{text}\n"));
        if self.mode == Mode::Bars {
            state.draw(self.words);
        }
    }

    /// What is to be moved now.
    pub(crate) fn begin(&self, items: impl Iterator<Item = (Digest, u64)>) {
        let mut state = self.state();
        state.drawn = 0;
        state.items.clear();
        for (digest, size) in items {
            // The same blob may be needed twice.
            if state.items.iter().all(|item| item.digest != digest) {
                state.items.push(Item {
                    digest,
                    size,
                    bytes: 0,
                    phase: Phase::Waiting,
                    early: false,
                    rate: Rate::default(),
                });
            }
        }
    }

    /// So many bytes have moved.
    pub(crate) fn moved(&self, digest: &Digest, bytes: u64) {
        if self.mode != Mode::Bars {
            return;
        }
        let mut state = self.state();
        if let Some(item) = state.item(digest) {
            item.bytes = item.bytes.max(bytes);
            item.phase = Phase::Moving;
        }
    }

    /// Something stands here now. Threads tell of the end of one blob in any order.
    pub(crate) fn reached(&self, digest: &Digest, phase: Phase) {
        let mut state = self.state();
        let Some(item) = state.item(digest) else {
            return;
        };
        if item.phase == phase || item.phase == Phase::Done {
            return;
        }
        let has_moved = matches!(item.phase, Phase::Moved | Phase::Exists);
        if phase == Phase::Done && !has_moved {
            item.early = true;
            return;
        }
        item.phase = phase;
        self.tell(item);
        if std::mem::take(&mut item.early) && phase == Phase::Moved {
            item.phase = Phase::Done;
            self.tell(item);
        }
    }

    fn tell(&self, item: &mut Item) {
        if matches!(item.phase, Phase::Moved | Phase::Exists | Phase::Done) {
            item.bytes = item.size;
        }
        if self.mode == Mode::Lines {
            let name = &item.digest.hex()[..12];
            let size = units::size(item.size);
            let text = match item.phase {
                Phase::Waiting | Phase::Moving => return,
                Phase::Elsewhere => "waits for another process".to_owned(),
                Phase::Moved => format!("{} {size}", self.words.moved.0),
                Phase::Exists => "exists already".to_owned(),
                Phase::Done => self.words.done.to_owned(),
            };
            to_stderr(&format!("{name}: {text}\n"));
        }
    }

    /// Draws what has changed.
    pub(crate) fn tick(&self) {
        if self.mode == Mode::Bars {
            let mut state = self.state();
            let now = Instant::now();
            for item in &mut state.items {
                item.rate.update(item.bytes, now);
            }
            state.draw(self.words);
        }
    }

    /// The end, good or bad: what is drawn stays, and the next text stands below it.
    pub(crate) fn end(&self, good: bool) {
        if self.mode == Mode::Bars {
            let mut state = self.state();
            for item in state.items.iter_mut().filter(|_| good) {
                item.phase = match item.phase {
                    Phase::Exists => Phase::Exists,
                    _ => Phase::Done,
                };
            }
            state.draw(self.words);
            *state = State::default();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn item(&mut self, digest: &Digest) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.digest == *digest)
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            // Up to the first line, and erase from there.
            to_stderr(&format!("\x1b[{}A\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }

    fn draw(&mut self, words: Words) {
        let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
        let known = |number: u16, other| match number {
            0 => other,
            number => usize::from(number),
        };
        let (columns, rows) = size.map_or(SIZE, |size| {
            (known(size.ws_col, SIZE.0), known(size.ws_row, SIZE.1))
        });
        let lines = lines(&self.items, words, columns, rows);
        let mut text = match self.drawn {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A"),
        };
        for line in &lines {
            let _ = writeln!(text, "\x1b[2K{line}");
        }
        if lines.len() < self.drawn {
            text += "\x1b[J";
        }
        to_stderr(&text);
        self.drawn = lines.len();
    }
}

/// What is drawn: a line per item, as far as there is room, and one for all of them.
fn lines(items: &[Item], words: Words, columns: usize, rows: usize) -> Vec<String> {
    let room = rows.saturating_sub(2).max(1);
    let settled = |item: &Item| matches!(item.phase, Phase::Done | Phase::Exists);
    let mut shown: Vec<&Item> = items.iter().collect();
    if shown.len() > room {
        // What goes on matters, then what is to come.
        shown.sort_by_key(|item| (settled(item), item.phase == Phase::Waiting));
        shown.truncate(room);
    }
    let mut lines: Vec<String> = shown.iter().map(|item| item.line(words)).collect();
    if items.len() > 1 {
        let done = items.iter().filter(|item| settled(item)).count();
        let sum = |of: fn(&Item) -> u64| units::size(items.iter().map(of).sum());
        let (have, all) = (sum(|item| item.bytes), sum(|item| item.size));
        lines.push(format!("{done} of {} done, {have}/{all}", items.len()));
    }
    for line in &mut lines {
        // Every line has to stay one, or the next drawing begins in the wrong place.
        line.truncate(columns.saturating_sub(1));
    }
    lines
}

impl Item {
    fn line(&self, words: Words) -> String {
        let name = &self.digest.hex()[..12];
        let cells = match (self.phase, self.size) {
            (Phase::Moved | Phase::Exists | Phase::Done, _) | (_, 0) => BAR,
            (_, size) => {
                let share = u128::from(self.bytes.min(size)) * BAR as u128 / u128::from(size);
                usize::try_from(share).unwrap_or(BAR)
            }
        };
        let bar = match cells {
            0 => " ".repeat(BAR),
            BAR => "=".repeat(BAR),
            some => format!("{}>{}", "=".repeat(some - 1), " ".repeat(BAR - some)),
        };
        let (bytes, size) = (units::size(self.bytes), units::size(self.size));
        let words = match self.phase {
            Phase::Waiting => "waiting".to_owned(),
            Phase::Elsewhere => "waits for another process".to_owned(),
            Phase::Moving => {
                let rate = self
                    .rate
                    .shown
                    .map(|rate| format!("  {}/s", units::size(rate)));
                format!("{bytes}/{size}{}", rate.unwrap_or_default())
            }
            Phase::Moved => format!("{size}  {}", words.moved.1),
            Phase::Exists => "exists already".to_owned(),
            Phase::Done => format!("{size}  {}", words.done),
        };
        format!("{name} [{bar}] {words}")
    }
}

/// Writes to standard error; nobody is left to tell when it is closed.
pub(crate) fn to_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: Words = Words {
        moved: ("fetched", "unpacking"),
        done: "unpacked",
    };

    fn item(number: u8, phase: Phase, bytes: u64) -> Item {
        Item {
            digest: Digest::of(&[number]),
            size: 1_000_000,
            bytes,
            phase,
            early: false,
            rate: Rate {
                since: None,
                shown: Some(2_500_000),
            },
        }
    }

    #[test]
    fn bars() {
        for (phase, bytes, expected) in [
            (Phase::Waiting, 0, "[                        ] waiting"),
            (
                Phase::Moving,
                500_000,
                "[===========>            ] 500kB/1MB  2.5MB/s",
            ),
            (
                Phase::Moving,
                1_000_000,
                "[========================] 1MB/1MB  2.5MB/s",
            ),
            (
                Phase::Moved,
                1_000_000,
                "[========================] 1MB  unpacking",
            ),
            (
                Phase::Exists,
                0,
                "[========================] exists already",
            ),
        ] {
            let line = item(1, phase, bytes).line(WORDS);
            assert_eq!(&line[13..], expected);
        }
    }

    #[test]
    fn the_end_of_a_blob_is_told_in_any_order() {
        for order in [[Phase::Moved, Phase::Done], [Phase::Done, Phase::Moved]] {
            let progress = Progress {
                mode: Mode::Quiet,
                words: WORDS,
                state: Mutex::default(),
            };
            let digest = Digest::of(b"x");
            progress.begin([(digest.clone(), 5)].into_iter());
            let phase = || progress.state().items[0].phase;
            progress.reached(&digest, order[0]);
            assert_ne!(phase(), Phase::Done);
            progress.reached(&digest, order[1]);
            assert_eq!(phase(), Phase::Done);
        }
    }

    #[test]
    fn no_line_is_wider_and_no_picture_higher_than_the_terminal() {
        let items: Vec<Item> = (0..100)
            .map(|n| match n {
                0..50 => item(n, Phase::Done, 1_000_000),
                50..52 => item(n, Phase::Moving, 10),
                _ => item(n, Phase::Waiting, 0),
            })
            .collect();
        let lines = lines(&items, WORDS, 40, 10);
        assert_eq!(lines.len(), 9);
        assert!(lines.iter().all(|line| line.len() < 40));
        assert!(lines[0].starts_with(&Digest::of(&[50]).hex()[..12]));
        assert_eq!(lines[8], "50 of 100 done, 50MB/100MB");
    }

    #[test]
    fn rates_are_of_the_last_moment() {
        let mut rate = Rate::default();
        let start = Instant::now();
        rate.update(1000, start);
        assert_eq!(rate.shown, None);
        rate.update(3000, start + Duration::from_secs(1));
        assert_eq!(rate.shown, Some(2000));
        rate.update(3000, start + Duration::from_secs(2));
        assert_eq!(rate.shown, Some(0));
    }
}
