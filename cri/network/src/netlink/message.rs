//! Frames of netlink(7): headers, attributes, batches, answers. Pure.
//!
//! Numbers of headers are in the machine's byte order; attributes are padded to four bytes
//! (linux/netlink.h).

use std::ops::Range;

pub(crate) const ACK: u16 = 0x4;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;
pub(crate) const DUMP: u16 = 0x300;
const REQUEST: u16 = 0x1;
const MULTI: u16 = 0x2;

/// Set in the type of an attribute that has attributes.
pub(crate) const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;

/// Messages that are sent in one datagram.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    first: u32,
    count: u32,
    start: usize,
    answered: Option<u32>,
}

/// What is sent, and the numbers of the first message, of the one that is answered, of the last.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) bytes: Vec<u8>,
    pub(crate) first: u32,
    pub(crate) answered: u32,
    pub(crate) last: u32,
}

impl Batch {
    /// `first`: the sequence number of the first message.
    pub(crate) fn new(first: u32) -> Self {
        Self {
            bytes: Vec::with_capacity(1024),
            first,
            count: 0,
            start: 0,
            answered: None,
        }
    }

    /// Begins a message; attributes follow.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, body: &[u8]) -> &mut Self {
        self.close();
        self.start = self.bytes.len();
        let sequence = self.first.wrapping_add(self.count);
        self.count += 1;
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(body);
        self.pad();
        self
    }

    /// Asks for an answer to the message that was begun last.
    pub(crate) fn acknowledged(&mut self) -> &mut Self {
        let at = self.start + 6;
        self.bytes[at] |= ACK as u8;
        self.answered = Some(self.last());
        self
    }

    /// Adds an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds a number in the machine's byte order.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Adds a number in the network's byte order.
    pub(crate) fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a text with its terminator.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value)
    }

    /// Adds an attribute of attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.put(kind, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Adds bytes that are no attribute (the header within `VETH_INFO_PEER`).
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Ends the last message. Questions are answered without being asked to.
    pub(crate) fn finish(mut self) -> Finished {
        self.close();
        let (first, last) = (self.first, self.last());
        let answered = self.answered.unwrap_or(last);
        Finished {
            bytes: self.bytes,
            first,
            answered,
            last,
        }
    }

    fn last(&self) -> u32 {
        self.first.wrapping_add(self.count).wrapping_sub(1)
    }

    fn close(&mut self) {
        if self.count > 0 {
            let length = (self.bytes.len() - self.start) as u32;
            self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// What one message of an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Carried out (0) or refused (errno).
    Result(i32),
    /// The end of a list.
    Done,
    /// What was asked for, with its type.
    Data(u16),
}

/// One message of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) sequence: u32,
    pub(crate) kind: Kind,
    /// More follow, until the end of the list.
    pub(crate) multi: bool,
    /// Where in the datagram its body is.
    pub(crate) body: Range<usize>,
}

/// Splits a datagram. `None`: it cannot be understood.
pub(crate) fn parse(datagram: &[u8]) -> Option<Vec<Reply>> {
    let (mut replies, mut at) = (Vec::new(), 0);
    while at + HEADER <= datagram.len() {
        let length = u32_at(datagram, at)? as usize;
        let end = at.checked_add(length)?;
        if length < HEADER || end > datagram.len() {
            return None;
        }
        let (kind, flags) = (u16_at(datagram, at + 4)?, u16_at(datagram, at + 6)?);
        let body = at + HEADER..end;
        let code = || Some((u32_at(&datagram[body.clone()], 0)? as i32).wrapping_neg());
        let kind = match kind {
            ERROR => Kind::Result(code()?),
            DONE => match code() {
                Some(code) if code != 0 => Kind::Result(code),
                _ => Kind::Done,
            },
            other => Kind::Data(other),
        };
        replies.push(Reply {
            sequence: u32_at(datagram, at + 8)?,
            kind,
            multi: flags & MULTI != 0,
            body,
        });
        at = end.next_multiple_of(4);
    }
    (at >= datagram.len()).then_some(replies)
}

/// The attributes behind a header of `skip` bytes; what is cut off ends the list.
pub(crate) fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(skip..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A number in the machine's byte order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_padded_numbered_and_measured() {
        let mut batch = Batch::new(7);
        batch.begin(16, CREATE, &[1]).put(3, b"a\0");
        batch
            .begin(17, 0, &[])
            .acknowledged()
            .nest(18 | NESTED, |b| {
                b.put_be32(1, 5).put_text(2, "xyz");
            });
        let done = batch.finish();
        assert_eq!((done.first, done.answered, done.last), (7, 8, 8));
        let bytes = done.bytes;
        let one: &[u8] = &[28, 0, 0, 0, 16, 0, 1, 4, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        assert!(bytes.starts_with(one), "{bytes:?}");
        assert_eq!(bytes[20..28], [6, 0, 3, 0, b'a', 0, 0, 0]);
        let two: &[u8] = &[36, 0, 0, 0, 17, 0, 5, 0, 8, 0, 0, 0];
        assert!(bytes[28..].starts_with(two), "{bytes:?}");
        let nested: &[u8] = &[20, 0, 18, 0x80, 8, 0, 1, 0, 0, 0, 0, 5, 8, 0, 2, 0, b'x'];
        assert!(bytes[44..].starts_with(nested), "{bytes:?}");
        let replies = parse(&bytes).unwrap();
        assert_eq!(replies.len(), 2);
        let inner: Vec<_> = attributes(&bytes[replies[1].body.clone()], 0).collect();
        assert_eq!(inner[0].0, 18);
    }

    #[test]
    fn answers_are_told_apart() {
        let message = |kind, body: &[u8]| {
            let mut batch = Batch::new(9);
            batch.begin(kind, 0, body);
            batch.finish().bytes
        };
        for (kind, body, want) in [
            (ERROR, &0i32.to_ne_bytes()[..], Kind::Result(0)),
            (ERROR, &(-17i32).to_ne_bytes(), Kind::Result(17)),
            (DONE, &[], Kind::Done),
            (DONE, &0i32.to_ne_bytes(), Kind::Done),
            (DONE, &(-4i32).to_ne_bytes(), Kind::Result(4)),
            (20, &[], Kind::Data(20)),
        ] {
            assert_eq!(parse(&message(kind, body)).unwrap()[0].kind, want);
        }
    }

    #[test]
    fn attack_lengths_of_answers_that_lie() {
        let mut batch = Batch::new(9);
        batch
            .begin(20, 0, &[2, 26, 0, 0, 3, 0, 0, 0])
            .put(2, &[192, 0, 2, 65]);
        let whole = batch.finish().bytes;
        assert!(parse(&whole).is_some());
        for cut in 1..whole.len() {
            let mut short = whole[..cut].to_vec();
            assert_eq!(parse(&short), None, "{cut}");
            if cut >= HEADER {
                short[..4].copy_from_slice(&(cut as u32).to_ne_bytes());
                for reply in parse(&short).unwrap_or_default() {
                    let _ = attributes(&short[reply.body], 8).count();
                }
            }
        }
        for length in [0u32, 1, 15, u32::MAX] {
            let mut bad = whole.clone();
            bad[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(parse(&bad), None, "{length}");
        }
        for length in [0u16, 3, u16::MAX] {
            let mut bad = whole[HEADER..].to_vec();
            bad[8..10].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attributes(&bad, 8).count(), 0, "{length}");
        }
    }
}
