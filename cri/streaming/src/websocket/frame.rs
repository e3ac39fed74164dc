//! Frames of WebSocket, from bytes and to bytes: pure. RFC 6455, section 5.

use crate::limits;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// More of the message before.
    More,
    /// Text.
    Text,
    /// Bytes.
    Binary,
    /// The end.
    Close,
    /// To be answered.
    Ping,
    /// An answer.
    Pong,
}

/// Before the payload of a frame of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The last frame of its message.
    pub fin: bool,
    /// What it is.
    pub kind: Kind,
    /// What the payload is masked with.
    pub mask: [u8; 4],
    /// Bytes of payload.
    pub length: u64,
}

/// Why a connection cannot go on: the status of the close frame and a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong(pub u16, pub &'static str);

const PROTOCOL: u16 = 1002;
/// Text that is not what it should be.
pub const INVALID: u16 = 1007;

/// Reads a head: `None` if it is not complete, else it and its length.
///
/// # Errors
///
/// If a bit or an opcode is set that was not agreed upon, if it is not masked, or if it is a control frame that is too
/// long or not whole.
pub fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Wrong> {
    let Some(([first, second], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(Wrong(PROTOCOL, "an extension was not agreed upon"));
    }
    let fin = first & 0x80 != 0;
    let kind = match first & 0x0f {
        0 => Kind::More,
        1 => Kind::Text,
        2 => Kind::Binary,
        8 => Kind::Close,
        9 => Kind::Ping,
        10 => Kind::Pong,
        _ => return Err(Wrong(PROTOCOL, "an opcode is not known")),
    };
    if second & 0x80 == 0 {
        return Err(Wrong(PROTOCOL, "a client's frame is not masked"));
    }
    let (size, most) = match second & 0x7f {
        126 => (2, u64::from(u16::MAX)),
        127 => (8, u64::MAX >> 1),
        _ => (0, 125),
    };
    let control = matches!(kind, Kind::Close | Kind::Ping | Kind::Pong);
    if control && (!fin || size > 0) {
        return Err(Wrong(PROTOCOL, "a control frame is in pieces or too long"));
    }
    let Some((length, mask)) = rest
        .split_at_checked(size)
        .filter(|(_, rest)| rest.len() >= 4)
    else {
        return Ok(None);
    };
    let length = match size {
        0 => u64::from(second & 0x7f),
        _ => length
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    if length > most {
        return Err(Wrong(PROTOCOL, "a frame is too long"));
    }
    let mask = [mask[0], mask[1], mask[2], mask[3]];
    Ok(Some((
        Head {
            fin,
            kind,
            mask,
            length,
        },
        2 + size + 4,
    )))
}

/// Removes the mask from a part of a payload that begins so many bytes behind its beginning.
pub fn unmask(bytes: &mut [u8], mut mask: [u8; 4], behind: u64) {
    mask.rotate_left((behind % 4) as usize);
    let word = u32::from_ne_bytes(mask);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for four in words {
        *four = (u32::from_ne_bytes(*four) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// The head of a whole message of ours.
pub fn message_head(text: bool, length: usize) -> Vec<u8> {
    let mut head = vec![if text { 0x81 } else { 0x82 }];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ 0..126), _) => head.push(length),
        (_, Ok(length)) => {
            head.push(126);
            head.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head
}

fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(limits::WEBSOCKET_CONTROL)];
    let mut frame = vec![0x80 | opcode, payload.len() as u8];
    frame.extend_from_slice(payload);
    frame
}

/// A close frame.
pub fn close(status: u16, reason: &str) -> Vec<u8> {
    control(8, &[&status.to_be_bytes(), reason.as_bytes()].concat())
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    control(10, payload)
}

/// Reads base64 as it comes.
#[derive(Debug, Default)]
pub struct Base64(Vec<u8>);

impl Base64 {
    /// The bytes of a piece of text, and of what was left of the one before.
    ///
    /// # Errors
    ///
    /// If it is not base64, or if it is the last and letters are left.
    pub fn decode(&mut self, text: &[u8], last: bool) -> Result<Vec<u8>, Wrong> {
        const WRONG: Wrong = Wrong(INVALID, "a message is not base64");
        self.0.extend_from_slice(text);
        let whole = self.0.len() - self.0.len() % 4;
        let bytes = STANDARD.decode(&self.0[..whole]).map_err(|_| WRONG)?;
        self.0.drain(..whole);
        if last && !self.0.is_empty() {
            return Err(WRONG);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let ok = |fin, kind, length, size| {
            let mask = [1, 2, 3, 4];
            Ok(Some((
                Head {
                    fin,
                    kind,
                    mask,
                    length,
                },
                size,
            )))
        };
        let wrong = |why| Err(Wrong(1002, why));
        type Read = Result<Option<(Head, usize)>, Wrong>;
        let table: &[(&[u8], Read)] = &[
            (&[], Ok(None)),
            (&[0x82], Ok(None)),
            (&[0x82, 0x85, 1, 2, 3], Ok(None)),
            (
                &[0x82, 0x85, 1, 2, 3, 4, 9, 9],
                ok(true, Kind::Binary, 5, 6),
            ),
            (
                &[0x01, 0xfe, 1, 0, 1, 2, 3, 4],
                ok(false, Kind::Text, 256, 8),
            ),
            (
                &[0x00, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4],
                ok(false, Kind::More, 1 << 24, 14),
            ),
            (&[0x89, 0x80, 1, 2, 3, 4], ok(true, Kind::Ping, 0, 6)),
            (&[0x82, 0x05], wrong("a client's frame is not masked")),
            (&[0xc2, 0x85], wrong("an extension was not agreed upon")),
            (&[0x83, 0x85], wrong("an opcode is not known")),
            (
                &[0x09, 0x85],
                wrong("a control frame is in pieces or too long"),
            ),
            (
                &[0x88, 0xfe],
                wrong("a control frame is in pieces or too long"),
            ),
            (
                &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
                wrong("a frame is too long"),
            ),
        ];
        for (bytes, expected) in table {
            assert_eq!(head(bytes), *expected, "{bytes:?}");
        }
    }

    #[test]
    fn masks_go_on_where_they_were() {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let plain: Vec<u8> = (0..=255).collect();
        let masked: Vec<u8> = plain
            .iter()
            .zip(mask.iter().cycle())
            .map(|(a, b)| a ^ b)
            .collect();
        for cut in 0..20 {
            let mut bytes = masked.clone();
            let (first, second) = bytes.split_at_mut(cut);
            unmask(first, mask, 0);
            unmask(second, mask, cut as u64);
            assert_eq!(bytes, plain, "{cut}");
        }
    }

    #[test]
    fn messages_of_ours() {
        assert_eq!(message_head(false, 125), [0x82, 125]);
        assert_eq!(message_head(true, 126), [0x81, 126, 0, 126]);
        assert_eq!(
            message_head(false, 65_536),
            [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
        assert_eq!(close(1000, "x"), [0x88, 3, 3, 0xe8, b'x']);
        assert_eq!(pong(&[7; 200]).len(), 127);
    }

    #[test]
    fn base64_in_pieces() {
        let mut decoder = Base64::default();
        assert_eq!(decoder.decode(b"aGVsb", false).unwrap(), b"hel");
        assert_eq!(decoder.decode(b"G8=", true).unwrap(), b"lo");
        assert!(decoder.decode(b"aGV", true).is_err());
        assert!(Base64::default().decode(b"a!b.", false).is_err());
    }
}
