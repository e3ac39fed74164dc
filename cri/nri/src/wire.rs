//! Bytes of a connection <-> messages of ttrpc on two logical connections. Pure.
//!
//! The multiplexer has a header of 8 bytes (number of the logical connection, length of the payload); ttrpc has
//! one of 10 (length, stream, kind, flags); all numbers are big-endian. A message may be spread over frames in any
//! way and is put together here. Only unary calls exist, so a message is a request or an answer.
//!
//! What follows a length that makes no sense cannot be trusted, so it is an error and the connection ends. A
//! message that is only too long is passed over, and its stream told.
//!
//! References: `pkg/net/multiplex` of <https://github.com/containerd/nri>, `PROTOCOL.md` of
//! <https://github.com/containerd/ttrpc>.

use rcrun_error::{Error, Result};

use crate::limits;

/// Bytes of the multiplexer's header.
const FRAME_HEADER: usize = 8;
/// Bytes of ttrpc's header.
const MESSAGE_HEADER: usize = 10;
/// Payload of the first frame of a message. A peer written in Go reads headers through a buffer of this size and
/// fails on a frame that does not fit into it; the rest of a message it reads in one piece.
const FIRST_FRAME: usize = 4096;

/// Which logical connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The plugin serves: requests are ours.
    Plugin = 1,
    /// We serve: requests are the plugin's.
    Runtime = 2,
}

impl Side {
    fn of(number: u32) -> Result<Self> {
        match number {
            1 => Ok(Self::Plugin),
            2 => Ok(Self::Runtime),
            other => Err(Error::invalid(format!(
                "cannot read from a plugin: it uses logical connection {other}, and there are 1 and 2"
            ))),
        }
    }

    /// The kind of the messages that arrive on it, and of those that leave.
    fn kinds(self) -> (u8, u8) {
        const REQUEST: u8 = 1;
        const RESPONSE: u8 = 2;
        match self {
            Self::Plugin => (RESPONSE, REQUEST),
            Self::Runtime => (REQUEST, RESPONSE),
        }
    }
}

/// A message that arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// On which logical connection.
    pub side: Side,
    /// Which call it belongs to.
    pub stream: u32,
    /// What it says.
    pub body: Body,
}

/// What a message carries.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// It was passed over; its length.
    TooLong(usize),
}

/// Puts the messages of one connection together.
#[derive(Debug)]
pub struct Reader {
    header: Header<FRAME_HEADER>,
    /// The frame that is being read, and how much of it is to come.
    frame: Option<(Side, usize)>,
    plugin: Assembler,
    runtime: Assembler,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self {
            header: Header::default(),
            frame: None,
            plugin: Assembler::new(Side::Plugin),
            runtime: Assembler::new(Side::Runtime),
        }
    }

    /// Takes the next bytes, whatever they begin or end in the middle of.
    ///
    /// # Errors
    ///
    /// If they are none of the protocol: nothing behind them can be understood.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<Message>) -> Result<()> {
        while !bytes.is_empty() {
            let Some((side, left)) = self.frame else {
                if let Some(header) = self.header.take(&mut bytes) {
                    self.frame = Some(frame(header)?);
                }
                continue;
            };
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            bytes = later;
            let left = left - now.len();
            self.frame = (left > 0).then_some((side, left));
            match side {
                Side::Plugin => self.plugin.feed(now, out)?,
                Side::Runtime => self.runtime.feed(now, out)?,
            }
        }
        Ok(())
    }
}

fn frame(header: [u8; FRAME_HEADER]) -> Result<(Side, usize)> {
    let [a, b, c, d, e, f, g, h] = header;
    let side = Side::of(u32::from_be_bytes([a, b, c, d]))?;
    let length = length([e, f, g, h]);
    if length > limits::FRAME {
        return Err(Error::invalid(format!(
            "cannot read from a plugin: a frame of {length} bytes, and {} are the most",
            limits::FRAME
        )));
    }
    // An empty frame is nothing: the next header follows.
    Ok((side, length))
}

fn length(bytes: [u8; 4]) -> usize {
    usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX)
}

/// A header that arrives in pieces.
#[derive(Debug)]
struct Header<const N: usize> {
    bytes: [u8; N],
    have: usize,
}

impl<const N: usize> Default for Header<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            have: 0,
        }
    }
}

impl<const N: usize> Header<N> {
    /// The header, once it is whole; then the next one begins.
    fn take(&mut self, from: &mut &[u8]) -> Option<[u8; N]> {
        let (now, later) = from.split_at(from.len().min(N - self.have));
        self.bytes[self.have..self.have + now.len()].copy_from_slice(now);
        self.have += now.len();
        *from = later;
        if self.have < N {
            return None;
        }
        self.have = 0;
        Some(self.bytes)
    }
}

/// Puts the messages of one logical connection together.
#[derive(Debug)]
struct Assembler {
    side: Side,
    header: Header<MESSAGE_HEADER>,
    state: State,
}

#[derive(Debug)]
enum State {
    Header,
    Body {
        stream: u32,
        want: usize,
        have: Vec<u8>,
    },
    Skip(usize),
}

impl Assembler {
    fn new(side: Side) -> Self {
        Self {
            side,
            header: Header::default(),
            state: State::Header,
        }
    }

    fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<Message>) -> Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header => {
                    if let Some(header) = self.header.take(&mut bytes) {
                        self.begin(header, out)?;
                    }
                }
                State::Body { want, have, .. } => {
                    let (now, later) = bytes.split_at(bytes.len().min(*want - have.len()));
                    have.extend_from_slice(now);
                    bytes = later;
                }
                State::Skip(left) => {
                    let now = bytes.len().min(*left);
                    *left -= now;
                    bytes = &bytes[now..];
                }
            }
            self.finish(out);
        }
        Ok(())
    }

    fn begin(&mut self, header: [u8; MESSAGE_HEADER], out: &mut Vec<Message>) -> Result<()> {
        let [a, b, c, d, e, f, g, h, kind, flags] = header;
        let (want, stream) = (length([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        if kind != self.side.kinds().0 || flags != 0 {
            return Err(Error::invalid(format!(
                "cannot read from a plugin: a message of kind {kind} with flags {flags} on logical connection {}, \
                 where only unary calls are served",
                self.side as u32
            )));
        }
        if want > limits::LENGTH {
            return Err(Error::invalid(format!(
                "cannot read from a plugin: a length of {want} bytes, which no message has"
            )));
        }
        self.state = if want > limits::MESSAGE {
            out.push(Message {
                side: self.side,
                stream,
                body: Body::TooLong(want),
            });
            State::Skip(want)
        } else {
            // The length is only a promise: memory grows with what arrives.
            let have = Vec::with_capacity(want.min(limits::READ));
            State::Body { stream, want, have }
        };
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Message>) {
        match &mut self.state {
            State::Body { stream, want, have } if have.len() == *want => {
                out.push(Message {
                    side: self.side,
                    stream: *stream,
                    body: Body::Whole(std::mem::take(have)),
                });
                self.state = State::Header;
            }
            State::Skip(0) => self.state = State::Header,
            _ => {}
        }
    }
}

/// The bytes of one message that leaves; `None` if it is too long.
pub fn message(side: Side, stream: u32, body: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(body.len()).ok()?;
    if body.len() > limits::MESSAGE {
        return None;
    }
    let (first, rest) = body.split_at(body.len().min(FIRST_FRAME - MESSAGE_HEADER));
    let mut out = Vec::with_capacity(body.len() + MESSAGE_HEADER + 2 * FRAME_HEADER);
    frame_header(&mut out, side, MESSAGE_HEADER + first.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[side.kinds().1, 0]);
    out.extend_from_slice(first);
    if !rest.is_empty() {
        frame_header(&mut out, side, rest.len());
        out.extend_from_slice(rest);
    }
    Some(out)
}

fn frame_header(out: &mut Vec<u8>, side: Side, length: usize) {
    out.extend_from_slice(&(side as u32).to_be_bytes());
    // At most FRAME, which fits.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

/// How many fields with a length a message has at all depths: texts, bytes, messages, which are what becomes larger in
/// memory than it was. What is inside is counted as if it were a message; where it is none, what stands before that
/// counts, for a decoder makes that much of it. In a text of letters such a field takes 34 bytes at least, so no text
/// is mistaken for many. After [`limits::FIELDS`] counting ends.
pub fn fields(bytes: &[u8]) -> usize {
    let mut found = 0;
    count(bytes, limits::DEPTH, &mut found);
    found
}

/// Ends early, with `None`, where this is no message.
fn count(mut bytes: &[u8], depth: usize, found: &mut usize) -> Option<()> {
    while !bytes.is_empty() && *found <= limits::FIELDS {
        let tag = varint(&mut bytes)?;
        if tag >> 3 == 0 {
            return None;
        }
        match tag & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => bytes = bytes.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let inner = bytes.get(..length)?;
                bytes = &bytes[length..];
                *found += 1;
                if depth > 0 {
                    let _ = count(inner, depth - 1, found);
                }
            }
            5 => bytes = bytes.get(4..)?,
            _ => return None,
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
