//! Protobuf's wire format (protobuf.dev, "Encoding"): what of it criu's messages use.

use crate::error::{Error, ErrorKind, Result};

/// Writes fields, one after the other.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Encoder(pub Vec<u8>);

impl Encoder {
    pub(in crate::checkpoint) fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(in crate::checkpoint) fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    /// Negative numbers are extended to 64 bits.
    pub(in crate::checkpoint) fn signed(&mut self, field: u64, value: i32) {
        self.number(field, i64::from(value) as u64);
    }

    pub(in crate::checkpoint) fn flag(&mut self, field: u64, value: bool) {
        if value {
            self.number(field, 1);
        }
    }

    pub(in crate::checkpoint) fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(in crate::checkpoint) fn text<T: AsRef<[u8]>>(&mut self, field: u64, value: Option<T>) {
        if let Some(value) = value {
            self.bytes(field, value.as_ref());
        }
    }

    /// A message of two strings, the fields 1 and 2.
    pub(in crate::checkpoint) fn pair(&mut self, field: u64, first: &[u8], second: &[u8]) {
        let mut pair = Self::default();
        pair.bytes(1, first);
        pair.bytes(2, second);
        self.bytes(field, &pair.0);
    }
}

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of fixed size; criu's answers have none.
    Other,
}

impl<'a> Value<'a> {
    pub(in crate::checkpoint) fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            _ => 0,
        }
    }

    pub(in crate::checkpoint) fn int(self) -> i32 {
        self.number() as i32
    }

    pub(in crate::checkpoint) fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    pub(in crate::checkpoint) fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// The fields of a message, in order.
pub(in crate::checkpoint) fn fields(
    mut rest: &[u8],
) -> impl Iterator<Item = Result<(u64, Value<'_>)>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field.ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "criu's answer is not a protobuf message",
            )
        }))
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Number(varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Other)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Value::Other)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The last occurrence of a field in an embedded message.
pub(in crate::checkpoint) fn find(message: Value<'_>, wanted: u64) -> Result<Option<Value<'_>>> {
    let mut found = None;
    for field in fields(message.bytes()) {
        let (number, value) = field?;
        if number == wanted {
            found = Some(value);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_as_the_format_says() {
        for (value, bytes) in [
            (0u64, vec![0u8]),
            (1, vec![1]),
            (127, vec![0x7f]),
            (150, vec![0x96, 0x01]),
            (
                u64::MAX,
                vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            ),
        ] {
            let mut encoder = Encoder::default();
            encoder.varint(value);
            assert_eq!(encoder.0, bytes, "{value}");
            let mut rest = bytes.as_slice();
            assert_eq!(varint(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
        let mut encoder = Encoder::default();
        encoder.signed(1, -1);
        assert_eq!(encoder.0.len(), 11, "a negative int32 takes ten bytes");
    }
}
