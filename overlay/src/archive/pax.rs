//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header").
//!
//! A record is `LENGTH KEY=VALUE\n`; the length counts all of it, so values may contain anything.
//! Malformed records are errors. Keys whose meaning we do not know are vendors' remarks and ignored.

use super::limits::{ATTRIBUTE_NAME, ATTRIBUTE_VALUE, SPARSE_PIECES};
use super::name::show;
use super::read::Time;
use super::{Attribute, sparse};
use crate::{Error, Result};

/// Iterates over the records of an extended header.
#[derive(Debug)]
pub struct Records<'a>(&'a [u8]);

/// The records in these bytes.
pub fn records(bytes: &[u8]) -> Records<'_> {
    Records(bytes)
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = record(self.0);
        match record {
            Some((key, value, length)) => {
                self.0 = &self.0[length..];
                Some(Ok((key, value)))
            }
            None => {
                let shown = show(&self.0[..self.0.len().min(40)]);
                self.0 = &[];
                Some(Err(Error::invalid(format!(
                    "malformed pax record at {shown}"
                ))))
            }
        }
    }
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    // Longer numbers cannot be lengths of a header that we read.
    let space = bytes.iter().take(10).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&body[..equals], &body[equals + 1..], length))
}

/// A decimal number without sign, blanks or excess.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction, possibly negative; digits beyond nanoseconds are cut off.
pub fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let nanoseconds = match parts.next() {
        None | Some(b"") => 0,
        Some(fraction) => {
            if !fraction.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let digits = fraction.iter().copied().chain(std::iter::repeat(b'0'));
            digits
                .take(9)
                .fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'))
        }
    };
    Some(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds: 0,
        },
        // -1.25 is 750,000,000 ns after -2.
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

/// Appends a record.
pub fn append(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// What extended headers say about an entry.
#[derive(Debug, Default, Clone)]
pub struct Extended {
    /// Instead of the header's name.
    pub path: Option<Box<[u8]>>,
    /// Instead of the header's link name.
    pub link: Option<Box<[u8]>>,
    /// Instead of the header's size.
    pub size: Option<u64>,
    /// Owner.
    pub uid: Option<u64>,
    /// Group.
    pub gid: Option<u64>,
    /// Modification time.
    pub mtime: Option<Time>,
    /// Extended attributes, as they were stored.
    pub attributes: Vec<Attribute>,
    /// Sparse files of GNU tar.
    pub sparse: sparse::Keywords,
    /// Attributes in libarchive's spelling, used where the usual spelling is missing.
    coded: Vec<Attribute>,
}

impl Extended {
    /// Reads the header of one entry.
    pub fn of_entry(bytes: &[u8], defaults: &Self) -> Result<Self> {
        let mut extended = defaults.clone();
        for record in records(bytes) {
            let (key, value) = record?;
            extended.take(key, value)?;
        }
        for (name, value) in std::mem::take(&mut extended.coded) {
            if !extended.attributes.iter().any(|(taken, _)| *taken == name) {
                extended.attributes.push((name, value));
            }
        }
        Ok(extended)
    }

    /// Reads a global header. Names, sizes and contents cannot be the same for all entries, and
    /// readers disagree about them: they are refused.
    pub fn global(&mut self, bytes: &[u8]) -> Result<()> {
        for record in records(bytes) {
            let (key, value) = record?;
            match key {
                b"uid" | b"gid" | b"mtime" => self.take(key, value)?,
                b"path" | b"linkpath" | b"size" => return refuse(key, "it is global"),
                _ if key.starts_with(b"GNU.sparse.")
                    || key.starts_with(b"SCHILY.xattr.")
                    || key.starts_with(b"LIBARCHIVE.xattr.") =>
                {
                    return refuse(key, "it is global");
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let number = || decimal(value).map_or_else(|| refuse(key, "it is no number"), Ok);
        match key {
            b"path" | b"linkpath" => {
                if value.is_empty() || value.contains(&0) {
                    return refuse(key, "it is empty or contains a NUL");
                }
                let slot = if key == b"path" {
                    &mut self.path
                } else {
                    &mut self.link
                };
                *slot = Some(value.into());
            }
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => match time(value) {
                Some(time) => self.mtime = Some(time),
                None => return refuse(key, "it is no time"),
            },
            // Star's name for what GNU.sparse.realsize says; nobody else reads it.
            b"SCHILY.realsize" => return refuse(key, "sparse files of star are not understood"),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    return keep(&mut self.attributes, percent(name, &[b"3D", b"25"]), value);
                }
                if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let Some(value) = base64(value) else {
                        return refuse(key, "it is not base64");
                    };
                    return keep(&mut self.coded, percent(name, &[]), &value);
                }
                if let Some(keyword) = key.strip_prefix(b"GNU.sparse.") {
                    return self.sparse.take(keyword, value, SPARSE_PIECES);
                }
            }
        }
        Ok(())
    }
}

fn refuse<T>(key: &[u8], why: &str) -> Result<T> {
    let key = show(key);
    Err(Error::invalid(format!("refuse pax record {key}: {why}")))
}

/// The last record of a name counts.
fn keep(attributes: &mut Vec<Attribute>, name: Vec<u8>, value: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > ATTRIBUTE_NAME || name.contains(&0) {
        return refuse(&name, "no name of an extended attribute");
    }
    if value.len() > ATTRIBUTE_VALUE {
        return refuse(&name, "longer than an extended attribute can be");
    }
    attributes.retain(|(taken, _)| **taken != *name);
    attributes.push((name.into(), value.into()));
    Ok(())
}

/// Undoes `%XX`: GNU tar codes `=` and `%` only, libarchive whatever is no graphic character.
fn percent(name: &[u8], only: &[&[u8; 2]]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        let code = tail.first_chunk::<2>().filter(|_| *first == b'%');
        let code = code.filter(|code| only.is_empty() || only.contains(code));
        let value = code
            .and_then(|code| std::str::from_utf8(code).ok())
            .filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        match value {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[2..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// The key under which GNU tar and everybody else keeps an extended attribute.
pub fn attribute_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            _ => key.push(*byte),
        }
    }
    key
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = match text {
        [head @ .., b'=', b'='] | [head @ .., b'='] => head,
        _ => text,
    };
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        let whole = bits.to_be_bytes();
        bytes.extend_from_slice(match group.len() {
            4 => &whole[1..4],
            3 => &whole[1..3],
            2 => &whole[1..2],
            _ => return None,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let owned = |(key, value): (&[u8], &[u8])| (key.to_vec(), value.to_vec());
        records(bytes).map(|record| record.map(owned)).collect()
    }

    #[test]
    fn records_round_trip_at_every_length() {
        for length in (0..130).chain(980..1010).chain(9_970..10_010) {
            let value = vec![b'\n'; length];
            let mut bytes = Vec::new();
            append(&mut bytes, b"key", &value);
            append(&mut bytes, b"path", b"a=b");
            let records = all(&bytes).unwrap();
            assert_eq!(records.len(), 2);
            assert_eq!(records[0], (b"key".to_vec(), value));
            assert_eq!(records[1], (b"path".to_vec(), b"a=b".to_vec()));
        }
    }

    #[test]
    fn d4_malformed_records_are_errors() {
        for bytes in [
            &b"x"[..],
            b" 5 a=b\n",
            b"6 a=b",
            b"7 a=b\n",
            b"5 a=b\n",
            b"6 a=bX",
            b"6 abc\n",
            b"5 =b\n",
            b"+6 a=b\n",
            b"06 a=b\n",
            b"0 \n",
            b"6 a=b\n\0\0",
            b"99999999999999999999 a=b\n",
            b"3 \n",
        ] {
            // One of them is well formed by POSIX's grammar as long as the sum is right.
            let expected = bytes == b"06 a=b\n";
            assert!(all(bytes).is_err() || expected, "{}", show(bytes));
        }
    }

    #[test]
    fn times() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.", 1, 0),
            ("1.1234567899", 1, 123_456_789),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
        ] {
            assert_eq!(
                time(text.as_bytes()),
                Some(Time {
                    seconds,
                    nanoseconds
                }),
                "{text}"
            );
        }
        for text in [
            "",
            "x",
            "1e5",
            "--1",
            "1.2.3",
            "+1",
            " 1",
            "9223372036854775808",
            "1.-5",
        ] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn attributes_in_both_spellings() {
        let mut bytes = Vec::new();
        append(&mut bytes, b"LIBARCHIVE.xattr.user.a%20b", b"AAEC/w");
        append(&mut bytes, b"LIBARCHIVE.xattr.user.c", b"eA==");
        append(&mut bytes, b"SCHILY.xattr.user.c", b"y");
        append(&mut bytes, &attribute_key(b"user.d=%"), b"\n=\0");
        let extended = Extended::of_entry(&bytes, &Extended::default()).unwrap();
        let find = |name: &[u8]| {
            let found = extended
                .attributes
                .iter()
                .find(|(taken, _)| **taken == *name);
            found.map(|(_, value)| value.to_vec())
        };
        assert_eq!(find(b"user.a b").unwrap(), [0, 1, 2, 255]);
        assert_eq!(find(b"user.c").unwrap(), b"y");
        assert_eq!(find(b"user.d=%").unwrap(), b"\n=\0");
        assert_eq!(extended.attributes.len(), 3);
    }

    #[test]
    fn d4_what_cannot_be_global() {
        for key in [
            "path",
            "linkpath",
            "size",
            "GNU.sparse.map",
            "SCHILY.xattr.user.a",
        ] {
            let mut bytes = Vec::new();
            append(&mut bytes, key.as_bytes(), b"1");
            Extended::default().global(&bytes).unwrap_err();
        }
    }
}
