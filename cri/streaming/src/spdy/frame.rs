//! Frames of SPDY/3.1, from bytes and to bytes: pure.
//!
//! <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>, section 2. What is written is always what
//! the draft says; what is read is refused if the draft gives it no meaning, and passed over where the draft says so.

use super::headers::{Headers, Inflater};
use crate::limits;

/// Bytes before every payload.
pub const HEAD: usize = 8;
/// `RST_STREAM`: the peer broke a rule.
pub const PROTOCOL_ERROR: u32 = 1;
/// `RST_STREAM`: nothing was done for this stream.
pub const REFUSED_STREAM: u32 = 3;
/// `RST_STREAM`: it is not wanted any more.
pub const CANCEL: u32 = 5;
/// `RST_STREAM`: more bytes than the window allows.
pub const FLOW_CONTROL_ERROR: u32 = 7;

const FIN: u8 = 1;
const VERSION: u16 = 3;
/// Windows never grow beyond (2.6.8).
pub const LARGEST_WINDOW: u32 = 0x7fff_ffff;

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Bytes of a stream follow.
    Data {
        /// Of this stream.
        id: u32,
        /// They are the last ones.
        fin: bool,
        /// So many.
        length: usize,
    },
    /// Something else.
    Control {
        /// Its type.
        kind: u16,
        /// Its flags.
        flags: u8,
        /// Bytes of its payload.
        length: usize,
    },
}

/// What a control frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// The peer opens a stream.
    SynStream {
        /// Its number.
        id: u32,
        /// The peer will send nothing on it.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// The peer gives a stream up.
    Reset {
        /// Its number.
        id: u32,
    },
    /// The window that streams begin with, if it was among the settings.
    Settings {
        /// It.
        window: Option<u32>,
    },
    /// To be answered with the same.
    Ping {
        /// Odd, if it is the client's.
        id: u32,
    },
    /// The peer opens no more streams.
    GoAway,
    /// More may be sent.
    Window {
        /// On this stream; 0 for all together.
        id: u32,
        /// So many bytes.
        delta: u32,
    },
    /// Of no concern to a server: replies, more headers, types that are not known.
    Other,
}

/// Why a session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong(pub &'static str);

fn number(bytes: &[u8], at: usize) -> Result<u32, Wrong> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(u32::from_be_bytes)
        .ok_or(Wrong("a control frame is too short"))
}

/// Reads the head of a frame.
///
/// # Errors
///
/// If it is of another version, for stream 0, or a control frame longer than [`limits::CONTROL_FRAME`].
pub fn head(bytes: [u8; HEAD]) -> Result<Head, Wrong> {
    let [a, b, c, d, flags, rest @ ..] = bytes;
    let length = rest
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    if a & 0x80 == 0 {
        let id = u32::from_be_bytes([a, b, c, d]);
        if id == 0 {
            return Err(Wrong("a data frame is for stream 0"));
        }
        let fin = flags & FIN != 0;
        return Ok(Head::Data { id, fin, length });
    }
    if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
        return Err(Wrong("a control frame is not of SPDY/3"));
    }
    if length > limits::CONTROL_FRAME {
        return Err(Wrong("a control frame is too long"));
    }
    let kind = u16::from_be_bytes([c, d]);
    Ok(Head::Control {
        kind,
        flags,
        length,
    })
}

/// Reads the payload of a control frame. Every header block must pass through `inflater`, in
/// order; without one, no headers are read from now on.
///
/// # Errors
///
/// If it has not the form of its type, or its headers are larger than allowed.
pub fn control(
    kind: u16,
    flags: u8,
    payload: &[u8],
    inflater: Option<&mut Inflater>,
) -> Result<Control, Wrong> {
    const STREAM: u32 = 0x7fff_ffff;
    let headers = |block| inflater.map_or(Ok(Headers::default()), |zlib| zlib.block(block));
    Ok(match kind {
        1 => {
            let id = number(payload, 0)? & STREAM;
            let block = payload
                .get(10..)
                .ok_or(Wrong("a SYN_STREAM is too short"))?;
            let headers = headers(block)?;
            let fin = flags & FIN != 0;
            Control::SynStream { id, fin, headers }
        }
        // SYN_REPLY and HEADERS: their blocks belong to the one stream of zlib.
        2 | 8 => {
            number(payload, 0)?;
            headers(&payload[4..])?;
            Control::Other
        }
        3 => Control::Reset {
            id: number(payload, 0)? & STREAM,
        },
        4 => Control::Settings {
            window: settings(payload)?,
        },
        6 => Control::Ping {
            id: number(payload, 0)?,
        },
        7 => Control::GoAway,
        9 => {
            let delta = number(payload, 4)? & LARGEST_WINDOW;
            let id = number(payload, 0)? & STREAM;
            Control::Window { id, delta }
        }
        _ => Control::Other,
    })
}

/// The initial window among settings (2.6.4).
fn settings(payload: &[u8]) -> Result<Option<u32>, Wrong> {
    const INITIAL_WINDOW: u32 = 7;
    let count = usize::try_from(number(payload, 0)?).unwrap_or(usize::MAX);
    let (entries, rest) = payload[4..].as_chunks::<8>();
    if entries.len() != count || !rest.is_empty() {
        return Err(Wrong("a SETTINGS frame has not the length that it names"));
    }
    let mut window = None;
    for entry in entries {
        if number(entry, 0)? & 0x00ff_ffff == INITIAL_WINDOW {
            window = Some(number(entry, 4)?);
        }
    }
    if window.is_some_and(|window| window > LARGEST_WINDOW) {
        return Err(Wrong("SETTINGS name a window that is too large"));
    }
    Ok(window)
}

/// The head of a data frame.
pub fn data_head(id: u32, fin: bool, length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = id.to_be_bytes();
    let [_, e, f, g] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, u8::from(fin), e, f, g]
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [_, e, f, g] = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut frame = vec![0x80, 3, 0, kind, 0, e, f, g];
    frame.extend_from_slice(payload);
    frame
}

fn two(kind: u8, first: u32, second: u32) -> Vec<u8> {
    let mut payload = first.to_be_bytes().to_vec();
    payload.extend_from_slice(&second.to_be_bytes());
    frame(kind, &payload)
}

/// `SYN_REPLY` with this header block.
pub fn reply(id: u32, block: &[u8]) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.extend_from_slice(block);
    frame(2, &payload)
}

/// `RST_STREAM`.
pub fn reset(id: u32, status: u32) -> Vec<u8> {
    two(3, id, status)
}

/// `PING`.
pub fn ping(id: u32) -> Vec<u8> {
    frame(6, &id.to_be_bytes())
}

/// `GOAWAY`: status 0 is an orderly end, 1 a broken rule.
pub fn go_away(last: u32, status: u32) -> Vec<u8> {
    two(7, last, status)
}

/// `SETTINGS` without any, which nobody answers.
pub fn nothing() -> Vec<u8> {
    frame(4, &[0; 4])
}

/// `WINDOW_UPDATE`.
pub fn window(id: u32, delta: u32) -> Vec<u8> {
    two(9, id, delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let table: &[([u8; 8], Result<Head, Wrong>)] = &[
            (
                [0, 0, 0, 5, 1, 0, 1, 2],
                Ok(Head::Data {
                    id: 5,
                    fin: true,
                    length: 258,
                }),
            ),
            (
                [0x80, 3, 0, 6, 0, 0, 0, 4],
                Ok(Head::Control {
                    kind: 6,
                    flags: 0,
                    length: 4,
                }),
            ),
            (
                [0, 0, 0, 0, 0, 0, 0, 1],
                Err(Wrong("a data frame is for stream 0")),
            ),
            (
                [0x80, 2, 0, 6, 0, 0, 0, 4],
                Err(Wrong("a control frame is not of SPDY/3")),
            ),
            (
                [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
                Err(Wrong("a control frame is too long")),
            ),
        ];
        for (bytes, expected) in table {
            assert_eq!(head(*bytes), *expected, "{bytes:?}");
        }
        assert_eq!(
            head(data_head(7, false, 1 << 20)),
            Ok(Head::Data {
                id: 7,
                fin: false,
                length: 1 << 20
            })
        );
    }

    #[test]
    fn controls() {
        let settings = [0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0];
        let table: &[(u16, &[u8], Result<Control, Wrong>)] = &[
            (3, &[0, 0, 0, 9, 0, 0, 0, 5], Ok(Control::Reset { id: 9 })),
            (
                4,
                &settings,
                Ok(Control::Settings {
                    window: Some(65536),
                }),
            ),
            (
                4,
                &settings[..11],
                Err(Wrong("a SETTINGS frame has not the length that it names")),
            ),
            (
                4,
                &[0xff; 4],
                Err(Wrong("a SETTINGS frame has not the length that it names")),
            ),
            (6, &[0, 0, 0, 3], Ok(Control::Ping { id: 3 })),
            (6, &[0, 0], Err(Wrong("a control frame is too short"))),
            (7, &[0; 8], Ok(Control::GoAway)),
            (
                9,
                &[0, 0, 0, 1, 0x80, 0, 0, 2],
                Ok(Control::Window { id: 1, delta: 2 }),
            ),
            (1, &[0; 9], Err(Wrong("a SYN_STREAM is too short"))),
            (10, b"credentials", Ok(Control::Other)),
            (999, b"", Ok(Control::Other)),
        ];
        for (kind, payload, expected) in table {
            let read = control(*kind, 0, payload, Some(&mut Inflater::default()));
            assert_eq!(read, *expected, "{kind} {payload:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (bytes, expected) in [
            (reset(3, CANCEL), Control::Reset { id: 3 }),
            (ping(8), Control::Ping { id: 8 }),
            (go_away(5, 0), Control::GoAway),
            (window(0, 77), Control::Window { id: 0, delta: 77 }),
        ] {
            let first: [u8; 8] = bytes[..8].try_into().unwrap();
            let Ok(Head::Control {
                kind,
                flags,
                length,
            }) = head(first)
            else {
                panic!("{bytes:?}")
            };
            assert_eq!(length, bytes.len() - 8);
            assert_eq!(
                control(kind, flags, &bytes[8..], Some(&mut Inflater::default())),
                Ok(expected)
            );
        }
    }
}
