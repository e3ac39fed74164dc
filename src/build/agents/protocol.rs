//! What is said between programs and SSH agents (draft-ietf-sshm-ssh-agent): messages with their length
//! in front.
//!
//! A step may ask an agent which keys there are, and have something signed. Whatever else a message asks
//! for (adding and removing keys, locking, extensions) is refused here and never reaches the agent: it is
//! the user's, and goes on when the build is over.

use std::io::{self, Read, Write};

use super::keys::Key;

/// The longest message: OpenSSH's limit.
const MESSAGE: usize = 256 << 10;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Reads a message; none at the end of the stream.
pub(super) fn receive(stream: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > MESSAGE {
        return Err(io::Error::other(
            "a message without end, or without content",
        ));
    }
    let mut message = Vec::new();
    stream.take(length as u64).read_to_end(&mut message)?;
    match message.len() == length {
        true => Ok(Some(message)),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Writes a message.
pub(super) fn send(stream: &mut dyn Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes)
}

/// Whether a step may say this.
pub(super) fn is_allowed(message: &[u8]) -> bool {
    matches!(message.first(), Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)))
}

/// What is answered to all else.
pub(super) fn refusal() -> Vec<u8> {
    vec![FAILURE]
}

/// The answer of an agent that has these keys.
pub(super) fn answer(message: &[u8], keys: &[Key]) -> Vec<u8> {
    match message.split_first() {
        Some((&REQUEST_IDENTITIES, _)) => {
            let count = u32::try_from(keys.len()).unwrap_or_default();
            let mut answer = vec![IDENTITIES_ANSWER];
            answer.extend(count.to_be_bytes());
            for key in keys {
                put(&mut answer, key.public());
                put(&mut answer, key.comment().as_bytes());
            }
            answer
        }
        Some((&SIGN_REQUEST, rest)) => signed(rest, keys).unwrap_or_else(refusal),
        _ => refusal(),
    }
}

fn signed(mut rest: &[u8], keys: &[Key]) -> Option<Vec<u8>> {
    let public = take(&mut rest)?;
    let data = take(&mut rest)?;
    let flags = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    let key = keys.iter().find(|key| key.public() == public)?;
    let mut answer = vec![SIGN_RESPONSE];
    put(&mut answer, &key.sign(data, flags)?);
    Some(answer)
}

/// A string of SSH's: its length, then its bytes.
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A number of SSH's: no zeros in front but the one that keeps it positive.
pub(super) fn put_number(out: &mut Vec<u8>, bytes: &[u8]) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[zeros..];
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => put(out, &[&[0], bytes].concat()),
        _ => put(out, bytes),
    }
}

/// Takes such a string off the front.
pub(super) fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let length = u32::from_be_bytes(*length) as usize;
    let (bytes, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_asking_and_signing_are_allowed() {
        for kind in 0..=u8::MAX {
            assert_eq!(
                is_allowed(&[kind, 1, 2]),
                kind == 11 || kind == 13,
                "{kind}"
            );
        }
        assert!(!is_allowed(&[]));
    }

    #[test]
    fn messages() {
        let mut bytes = Vec::new();
        send(&mut bytes, &[11]).unwrap();
        assert_eq!(bytes, [0, 0, 0, 1, 11]);
        let mut stream = &bytes[..];
        assert_eq!(receive(&mut stream).unwrap(), Some(vec![11]));
        assert_eq!(receive(&mut stream).unwrap(), None);
        for wrong in [
            &[0, 0, 0, 0][..],
            &[0xff, 0xff, 0xff, 0xff, 1],
            &[0, 4, 0, 1],
            &[0, 0, 0, 3, 11, 0],
        ] {
            receive(&mut &wrong[..]).unwrap_err();
        }
    }

    #[test]
    fn numbers() {
        for (bytes, expected) in [
            (&[0, 0][..], &[0, 0, 0, 0][..]),
            (&[0, 0x7f], &[0, 0, 0, 1, 0x7f]),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
        ] {
            let mut out = Vec::new();
            put_number(&mut out, bytes);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn an_agent_without_keys() {
        assert_eq!(answer(&[11], &[]), [12, 0, 0, 0, 0]);
        for message in [&[][..], &[13], &[13, 0, 0, 0, 9, 1], &[17, 1], &[255]] {
            assert_eq!(answer(message, &[]), [FAILURE]);
        }
    }
}
