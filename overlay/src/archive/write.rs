//! Writes entries as every reader understands them, the same bytes for the same entries.
//!
//! POSIX ustar headers, and a PAX header only for what does not fit: long paths, large numbers,
//! times with a fraction or before 1970, extended attributes. No names of users and groups, no
//! access times, no sparse files (holes are zeros, as other engines write layers).

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use super::name::{show, split};
use super::pax;
use super::read::{Entry, Kind};
use crate::{Context, Error, Result};

/// The largest value of an octal field of `digits` digits.
const fn largest(digits: u32) -> u64 {
    (1 << (3 * digits)) - 1
}

/// Writes a tar stream.
pub struct Writer<W: Write> {
    builder: Builder<W>,
}

impl<W: Write> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl<W: Write> Writer<W> {
    /// Writes to a sink that should be buffered.
    pub fn new(sink: W) -> Self {
        let mut builder = Builder::new(sink);
        builder.sparse(false);
        Self { builder }
    }

    /// Appends an entry; `data` is read for regular files and must have exactly `entry.size` bytes.
    pub fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        let context = || format!("cannot write {} to an archive", show(&entry.path));
        let mut records = Vec::new();
        let header = header(entry, &mut records)?;
        if !records.is_empty() {
            let mut extended = Header::new_ustar();
            set_path(&mut extended, &extended_name(&entry.path));
            extended.set_mode(0o644);
            extended.set_uid(0);
            extended.set_gid(0);
            extended.set_size(records.len() as u64);
            extended.set_entry_type(EntryType::XHeader);
            extended.set_cksum();
            self.builder.append(&extended, &*records).context(context)?;
        }
        let size = if entry.kind == Kind::Regular {
            entry.size
        } else {
            0
        };
        let mut exact = Exact { data, left: size };
        self.builder.append(&header, &mut exact).context(context)?;
        if exact.left > 0 {
            let path = show(&entry.path);
            let message = format!("cannot archive {path}: it became shorter while it was read");
            return Err(Error::new(crate::ErrorKind::Busy, message));
        }
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<W> {
        self.builder
            .into_inner()
            .context(|| "cannot write the end of an archive")
    }
}

/// At most so many bytes: what is appended to a file meanwhile is not part of it.
struct Exact<'a> {
    data: &'a mut dyn Read,
    left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.data.read(&mut buffer[..length])?;
        self.left -= read as u64;
        Ok(read)
    }
}

fn header(entry: &Entry, records: &mut Vec<u8>) -> Result<Header> {
    let mut header = Header::new_ustar();
    let mut path = if entry.path.is_empty() {
        b".".to_vec()
    } else {
        entry.path.clone()
    };
    if entry.kind == Kind::Directory {
        path.push(b'/');
    }
    if !set_path(&mut header, &path) {
        pax::append(records, b"path", &path);
    }
    let (kind, target, device) = match &entry.kind {
        Kind::Regular => (EntryType::Regular, None, None),
        Kind::Hardlink(target) => (EntryType::Link, Some(target), None),
        Kind::Symlink(target) => (EntryType::Symlink, Some(target), None),
        Kind::Character(major, minor) => (EntryType::Char, None, Some((*major, *minor))),
        Kind::Block(major, minor) => (EntryType::Block, None, Some((*major, *minor))),
        Kind::Directory => (EntryType::Directory, None, None),
        Kind::Fifo => (EntryType::Fifo, None, None),
    };
    header.set_entry_type(kind);
    if let Some(target) = target {
        let fits = target.len().min(100);
        if fits < target.len() {
            pax::append(records, b"linkpath", target);
        }
        header.as_mut_bytes()[157..157 + fits].copy_from_slice(&target[..fits]);
    }
    let (major, minor) = device.unwrap_or((0, 0));
    // Seven octal digits hold every number of Linux.
    header
        .set_device_major(major)
        .context(|| "cannot store a device number")?;
    header
        .set_device_minor(minor)
        .context(|| "cannot store a device number")?;
    header.set_mode(entry.mode);
    let mut number = |key: &str, value: u64, digits| {
        if value > largest(digits) {
            pax::append(records, key.as_bytes(), value.to_string().as_bytes());
            return 0;
        }
        value
    };
    header.set_uid(number("uid", u64::from(entry.uid), 7));
    header.set_gid(number("gid", u64::from(entry.gid), 7));
    let size = if entry.kind == Kind::Regular {
        entry.size
    } else {
        0
    };
    header.set_size(number("size", size, 11));
    let time = entry.mtime;
    match u64::try_from(time.seconds) {
        Ok(seconds) if time.nanoseconds == 0 && seconds <= largest(11) => header.set_mtime(seconds),
        _ => {
            let seconds = u64::try_from(time.seconds)
                .unwrap_or_default()
                .min(largest(11));
            header.set_mtime(seconds);
            pax::append(records, b"mtime", time_text(time).as_bytes());
        }
    }
    let mut attributes: Vec<_> = entry.attributes.iter().collect();
    attributes.sort();
    for (name, value) in attributes {
        pax::append(records, &pax::attribute_key(name), value);
    }
    header.set_cksum();
    Ok(header)
}

fn time_text(time: super::Time) -> String {
    let (seconds, nanoseconds) = (time.seconds, time.nanoseconds);
    let text = match (seconds, nanoseconds) {
        (_, 0) => return seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        (-1, _) => format!("-0.{:09}", 1_000_000_000 - nanoseconds),
        _ => format!("{}.{:09}", seconds + 1, 1_000_000_000 - nanoseconds),
    };
    text.trim_end_matches('0').into()
}

/// Splits a path over the two fields of ustar; false if that is impossible. The fields then hold
/// the beginning of the path.
fn set_path(header: &mut Header, path: &[u8]) -> bool {
    const NAME: usize = 100;
    const PREFIX: usize = 155;
    let (prefix, name): (&[u8], &[u8]) = if path.len() <= NAME {
        (b"", path)
    } else {
        // As much as possible in the prefix; the name must not be empty.
        let end = (path.len() - 1).min(PREFIX + 1);
        match path[..end].iter().rposition(|byte| *byte == b'/') {
            Some(at) if at > 0 && path.len() - at - 1 <= NAME => (&path[..at], &path[at + 1..]),
            _ => {
                header.as_mut_bytes()[..NAME].copy_from_slice(&path[..NAME]);
                return false;
            }
        }
    };
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name);
    bytes[345..345 + prefix.len()].copy_from_slice(prefix);
    true
}

/// What the extended header itself is called: seen only by programs that do not know PAX.
fn extended_name(path: &[u8]) -> Vec<u8> {
    let (_, last) = split(path);
    let mut name = b"PaxHeaders.0/".to_vec();
    name.extend_from_slice(&last[..last.len().min(80)]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Reader, Time};

    fn entry(path: &[u8], kind: Kind) -> Entry {
        Entry {
            path: path.to_vec(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: 0,
            map: None,
            attributes: Vec::new(),
        }
    }

    #[test]
    fn everything_is_read_back() {
        let long = |part: usize, times: usize| vec![vec![b'd'; part]; times].join(&b'/');
        let mut entries = vec![
            entry(b"", Kind::Directory),
            entry(b"plain", Kind::Regular),
            entry(&long(100, 1), Kind::Regular),
            entry(&long(101, 1), Kind::Regular),
            entry(&long(77, 3), Kind::Directory),
            entry(&long(120, 2), Kind::Fifo),
            entry(&long(255, 15), Kind::Symlink(long(255, 16).into())),
            entry(b"hard", Kind::Hardlink(b"plain".as_slice().into())),
            entry(b"null", Kind::Character(1, 3)),
            entry(b"loop", Kind::Block(4095, (1 << 20) - 1)),
            entry(b"\xff\n=", Kind::Regular),
        ];
        entries[1].uid = u32::MAX - 1;
        entries[1].gid = 2_097_152;
        entries[1].mode = 0o6755;
        entries[1].attributes = vec![
            (b"user.b=%25".as_slice().into(), b"\n\0=".as_slice().into()),
            (b"user.a".as_slice().into(), b"".as_slice().into()),
        ];
        for (at, seconds, nanoseconds) in [
            (2, -1, 500_000_000),
            (3, -7, 1),
            (4, 1 << 40, 0),
            (5, 12, 340_000_000),
            (7, -2, 0),
        ] {
            entries[at].mtime = Time {
                seconds,
                nanoseconds,
            };
        }
        for at in [1, 10] {
            entries[at].size = 3;
        }
        let mut writer = Writer::new(Vec::new());
        for entry in &entries {
            writer.append(entry, &mut &b"abc"[..]).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&*bytes);
        for expected in &mut entries {
            let read = reader.next_entry().unwrap().unwrap();
            expected.attributes.sort();
            assert_eq!(format!("{read:?}"), format!("{expected:?}"));
        }
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut short = entry(b"a", Kind::Regular);
        short.size = 4;
        let error = Writer::new(Vec::new())
            .append(&short, &mut &b"abc"[..])
            .unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Busy);
    }
}
