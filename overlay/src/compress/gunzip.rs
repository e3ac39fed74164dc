//! Inflates gzip as gzip(1) reads it: members follow each other, zeros after the last are padding.
//!
//! Anything else after a member is an error. gzip(1) ignores it with a warning, Go refuses it, and
//! what a strange registry appended to a layer is better not ignored.

use std::io::{self, BufRead, Read};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::input::Input;

/// Header fields that we have no use for are skipped up to this length.
const HEADER_BYTES: usize = 80 << 10;

#[derive(Debug)]
enum State {
    Header,
    Data,
    End,
}

#[derive(Debug)]
pub(super) struct Gunzip<R> {
    input: Input<R>,
    inflate: Decompress,
    crc: Crc,
    state: State,
    members: u64,
}

fn wrong(why: &str) -> io::Error {
    let message = format!("malformed gzip stream: {why}");
    io::Error::other(crate::Error::invalid(message))
}

impl<R: Read> Gunzip<R> {
    pub(super) fn new(input: Input<R>) -> Self {
        let inflate = Decompress::new(false);
        Self {
            input,
            inflate,
            crc: Crc::new(),
            state: State::Header,
            members: 0,
        }
    }

    pub(super) fn input(&self) -> &Input<R> {
        &self.input
    }

    fn byte(&mut self) -> io::Result<u8> {
        let byte = *self
            .input
            .peek(1)?
            .first()
            .ok_or_else(|| wrong("it ends within a header"))?;
        self.input.consume(1);
        Ok(byte)
    }

    /// Begins a member, or ends the stream.
    fn header(&mut self) -> io::Result<()> {
        let first = self.input.peek(2)?;
        if self.members > 0 && !first.starts_with(&[0x1f, 0x8b]) {
            return self.padding();
        }
        let mut fixed = [0; 10];
        for byte in &mut fixed {
            *byte = self.byte()?;
        }
        let [0x1f, 0x8b, 8, flags, ..] = fixed else {
            return Err(wrong("unknown method"));
        };
        if flags & 0xe0 != 0 {
            return Err(wrong("reserved flags"));
        }
        let mut skipped = 0;
        if flags & 4 != 0 {
            let length = u16::from_le_bytes([self.byte()?, self.byte()?]);
            for _ in 0..length {
                self.byte()?;
            }
        }
        for flag in [8, 16] {
            while flags & flag != 0 && self.byte()? != 0 {
                skipped += 1;
                if skipped > HEADER_BYTES {
                    return Err(wrong("header too long"));
                }
            }
        }
        if flags & 2 != 0 {
            self.byte()?;
            self.byte()?;
        }
        self.members += 1;
        self.inflate.reset(false);
        self.crc.reset();
        self.state = State::Data;
        Ok(())
    }

    fn padding(&mut self) -> io::Result<()> {
        loop {
            let rest = self.input.fill_buf()?;
            if rest.iter().any(|byte| *byte != 0) {
                return Err(wrong("garbage after its end"));
            }
            let length = rest.len();
            if length == 0 {
                self.state = State::End;
                return Ok(());
            }
            self.input.consume(length);
        }
    }

    fn trailer(&mut self) -> io::Result<()> {
        let mut trailer = [0; 8];
        for byte in &mut trailer {
            *byte = self.byte()?;
        }
        let [a, b, c, d, rest @ ..] = trailer;
        if u32::from_le_bytes([a, b, c, d]) != self.crc.sum() {
            return Err(wrong("wrong checksum"));
        }
        if u32::from_le_bytes(rest) != self.crc.amount() {
            return Err(wrong("wrong length"));
        }
        self.state = State::Header;
        Ok(())
    }
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state {
                State::End => return Ok(0),
                State::Header => {
                    self.header()?;
                    continue;
                }
                State::Data if out.is_empty() => return Ok(0),
                State::Data => {}
            }
            let input = self.input.fill_buf()?;
            let ended = input.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, out, FlushDecompress::None)
                .map_err(|_| wrong("invalid deflate data"))?;
            let used = usize::try_from(self.inflate.total_in() - before_in).unwrap_or_default();
            let made = usize::try_from(self.inflate.total_out() - before_out).unwrap_or_default();
            self.input.consume(used);
            self.crc.update(&out[..made]);
            if status == Status::StreamEnd {
                self.trailer()?;
            } else if ended && made == 0 {
                return Err(wrong("it ends within its data"));
            }
            if made > 0 {
                return Ok(made);
            }
        }
    }
}
