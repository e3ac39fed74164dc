//! Messages of the domain name system (RFC 1035, section 4): one question, and the addresses in its
//! answer. Pure; the answer is hostile.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Address records.
pub(super) const A: u16 = 1;
/// IPv6 address records.
pub(super) const AAAA: u16 = 28;
const CNAME: u16 = 5;
const INTERNET: u16 = 1;
const HEADER: usize = 12;
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// Aliases of aliases that are followed within one answer.
const MAX_ALIASES: usize = 16;
/// Compression pointers within one name.
const MAX_JUMPS: usize = 16;

/// Addresses and how long they hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Records {
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ttl: Duration::MAX,
        }
    }
}

impl Records {
    pub(super) fn add(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        self.ttl = self.ttl.min(other.ttl);
    }
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Records(Records),
    NoSuchName,
    /// Ask again over TCP.
    Truncated,
    /// Another response code.
    Failed(&'static str),
}

/// A question and its random number.
pub(super) fn query(name: &str, kind: u16) -> io::Result<(u16, Vec<u8>)> {
    let mut random = [0_u8; 2];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let id = u16::from_ne_bytes(random);
    let mut message = Vec::with_capacity(HEADER + name.len() + 6);
    message.extend(id.to_be_bytes());
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    Ok((id, message))
}

/// Reads an answer. `None` if it is not one to this question.
pub(super) fn answer(message: &[u8], id: u16, name: &str, kind: u16) -> Option<Answer> {
    let word = |at: usize| -> Option<u16> {
        Some(u16::from_be_bytes(
            message.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let flags = word(2)?;
    if word(0)? != id || flags & 0x8000 == 0 || word(4)? != 1 {
        return None;
    }
    let (asked, at) = read_name(message, HEADER)?;
    if !asked.eq_ignore_ascii_case(name) || word(at)? != kind || word(at + 2)? != INTERNET {
        return None;
    }
    match flags & 15 {
        0 => {}
        3 => return Some(Answer::NoSuchName),
        1 => return Some(Answer::Failed("format error")),
        2 => return Some(Answer::Failed("server failure")),
        5 => return Some(Answer::Failed("refused")),
        _ => return Some(Answer::Failed("an unknown error")),
    }
    if flags & 0x0200 != 0 {
        return Some(Answer::Truncated);
    }
    read_records(message, at + 4, word(6)?, name, kind).map(Answer::Records)
}

struct Record {
    owner: String,
    kind: u16,
    ttl: u32,
    data: (usize, usize),
}

fn read_record(message: &[u8], at: usize) -> Option<(Record, usize)> {
    let (owner, at) = read_name(message, at)?;
    let fixed: [u8; 10] = message.get(at..at + 10)?.try_into().ok()?;
    let [k0, k1, c0, c1, t0, t1, t2, t3, l0, l1] = fixed;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let start = at + 10;
    message.get(start..start + length)?;
    let kind = match u16::from_be_bytes([c0, c1]) {
        INTERNET => u16::from_be_bytes([k0, k1]),
        _ => 0,
    };
    let record = Record {
        owner,
        kind,
        ttl: u32::from_be_bytes([t0, t1, t2, t3]),
        data: (start, start + length),
    };
    Some((record, start + length))
}

fn read_records(
    message: &[u8],
    mut at: usize,
    count: u16,
    name: &str,
    kind: u16,
) -> Option<Records> {
    let mut records = Vec::new();
    for _ in 0..count {
        let (record, next) = read_record(message, at)?;
        records.push(record);
        at = next;
    }
    let mut owner = name.to_ascii_lowercase();
    let mut ttl = u32::MAX;
    for _ in 0..MAX_ALIASES {
        let own = || records.iter().filter(|record| record.owner == owner);
        let addresses: Vec<IpAddr> = own()
            .filter(|record| record.kind == kind)
            .filter_map(|record| address(&message[record.data.0..record.data.1]))
            .collect();
        for record in own().filter(|record| record.kind == kind || record.kind == CNAME) {
            ttl = ttl.min(record.ttl);
        }
        let alias = own().find(|record| record.kind == CNAME);
        match alias {
            Some(record) if addresses.is_empty() => {
                owner = read_name(message, record.data.0)?.0;
            }
            _ => {
                let ttl = Duration::from_secs(u64::from(ttl));
                return Some(Records { addresses, ttl });
            }
        }
    }
    None
}

fn address(data: &[u8]) -> Option<IpAddr> {
    match data.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
        _ => None,
    }
}

/// Reads a possibly compressed name, in lower case, and where it ends.
fn read_name(message: &[u8], start: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let (mut at, mut end, mut jumps) = (start, None, 0);
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=MAX_LABEL => {
                let label = message.get(at + 1..at + 1 + length)?;
                if !name.is_empty() {
                    name.push('.');
                }
                // Bytes that no host name has become characters that no host name has.
                name.extend(
                    label
                        .iter()
                        .map(|byte| char::from(byte.to_ascii_lowercase())),
                );
                if name.len() > 2 * MAX_NAME {
                    return None;
                }
                at += 1 + length;
            }
            0xc0..=0xff => {
                let low = usize::from(*message.get(at + 1)?);
                end = end.or(Some(at + 2));
                at = (length & 0x3f) << 8 | low;
                jumps += 1;
                if jumps > MAX_JUMPS {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_answers_end() {
        let (id, query) = query("a.example", A).unwrap();
        let mut message = query.clone();
        message[2] = 0x81;
        assert_eq!(answer(&query, id, "a.example", A), None);
        let empty = answer(&message, id, "A.example", A);
        assert!(matches!(empty, Some(Answer::Records(records)) if records.addresses.is_empty()));
        assert_eq!(answer(&message, id.wrapping_add(1), "a.example", A), None);
        assert_eq!(answer(&message, id, "b.example", A), None);
        assert_eq!(answer(&message, id, "a.example", AAAA), None);
        // A record whose name points to itself, and one that is cut off anywhere.
        message[7] = 1;
        let at = message.len() as u8;
        message.extend([0xc0, at, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
        assert_eq!(answer(&message, id, "a.example", A), None);
        message[usize::from(at) + 1] = 12;
        let good = answer(&message, id, "a.example", A).unwrap();
        let Answer::Records(records) = good else {
            panic!("{good:?}")
        };
        assert_eq!(records.addresses, [IpAddr::from([1, 2, 3, 4])]);
        assert_eq!(records.ttl, Duration::from_secs(9));
        for length in 0..message.len() {
            assert_eq!(
                answer(&message[..length], id, "a.example", A),
                None,
                "{length}"
            );
        }
    }

    #[test]
    fn names_that_cannot_be_asked_for() {
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", long.as_str(), &"a.".repeat(200)] {
            query(name, A).unwrap_err();
        }
    }
}
