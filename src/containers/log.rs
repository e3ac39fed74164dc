//! A container's log, read: lines in the format of the CRI (`TIME STREAM TAG TEXT`) over `log` and the
//! older `log.1`, `log.2` and so on.
//!
//! The monitor rotates while it is read. A file keeps its inode when it is renamed, and only ever gets
//! a larger number: so files are looked for from the newest to the oldest, which may find one twice but
//! misses none, and the next one to read is the one that was found just before the one that was read.
//! With a single file rotation is truncation. What a full disk made the monitor take back was never a
//! whole line.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rcrun_runtime::error::{Context, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Below the container's directory.
const FILE: &str = "log";
/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// Where the tag stands in a line of the monitor's.
const TAG: u64 = 38;

/// One line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// RFC 3339, UTC, nanoseconds.
    pub(crate) time: &'a str,
    /// It was written to standard error.
    pub(crate) is_error: bool,
    /// What the container wrote continues in the next line of this stream.
    pub(crate) is_part: bool,
    /// What the container wrote.
    pub(crate) text: &'a [u8],
}

/// Reads a log from somewhere to its present end, again and again.
#[derive(Debug)]
pub(crate) struct Log<'a> {
    directory: BorrowedFd<'a>,
    at: Option<File>,
    /// Where the next line begins. The beginning of a line without its end is read again later: until
    /// then it may be taken back.
    offset: u64,
}

#[derive(Debug)]
struct File {
    fd: OwnedFd,
    inode: u64,
}

impl<'a> Log<'a> {
    /// Of the container with this directory: all of it, or its last lines.
    pub(crate) fn open(directory: BorrowedFd<'a>, tail: Option<u64>) -> Result<Self> {
        let mut files = files(directory)?;
        let (index, offset) = match tail {
            Some(count) => last_lines(&files, count)?,
            None => (files.len().saturating_sub(1), 0),
        };
        let at = (index < files.len()).then(|| files.swap_remove(index));
        Ok(Self {
            directory,
            at,
            offset,
        })
    }

    /// Hands out all whole lines that are there; the sink says whether it wants more.
    pub(crate) fn read(&mut self, sink: &mut dyn FnMut(Line<'_>) -> Result<bool>) -> Result<bool> {
        loop {
            if self.at.is_none() {
                self.at = files(self.directory)?.pop();
                self.offset = 0;
            }
            if !self.read_file(sink)? {
                return Ok(false);
            }
            // What was added before it got another name is read first.
            if self.at.is_none() || self.is_newest()? {
                return Ok(true);
            }
            if !self.read_file(sink)? {
                return Ok(false);
            }
            let Some(next) = self.next()? else {
                return Ok(true);
            };
            self.at = Some(next);
            self.offset = 0;
        }
    }

    fn read_file(&mut self, sink: &mut dyn FnMut(Line<'_>) -> Result<bool>) -> Result<bool> {
        let Some(file) = &self.at else {
            return Ok(true);
        };
        let failed = || "cannot read the container's log";
        let size = size(&file.fd).context(failed)?;
        if size < self.offset {
            // A single file was begun anew.
            self.offset = 0;
        }
        let (mut chunk, mut rest) = (vec![0; CHUNK], Vec::new());
        loop {
            let from = self.offset + rest.len() as u64;
            let count = rustix::io::retry_on_intr(|| rustix::io::pread(&file.fd, &mut chunk, from));
            let count = count.context(failed)?;
            if count == 0 {
                return Ok(true);
            }
            rest.extend_from_slice(&chunk[..count]);
            let mut start = 0;
            while let Some(length) = rest[start..].iter().position(|byte| *byte == b'\n') {
                let line = &rest[start..start + length];
                start += length + 1;
                self.offset += length as u64 + 1;
                if let Some(line) = parse(line)
                    && !sink(line)?
                {
                    return Ok(false);
                }
            }
            rest.drain(..start);
        }
    }

    /// Whether the file that is read still is the one that is written.
    fn is_newest(&self) -> Result<bool> {
        match rustix::fs::statat(self.directory, FILE, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(self
                .at
                .as_ref()
                .is_some_and(|file| file.inode == stat.st_ino)),
            // In the middle of a rotation, or of a removal.
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(errno).context(|| "cannot stat the container's log"),
        }
    }

    /// The file after the one that is read; the oldest, where that one is gone.
    fn next(&self) -> Result<Option<File>> {
        let mut all = files(self.directory)?;
        let inode = self.at.as_ref().map(|file| file.inode);
        let place = all.iter().position(|file| Some(file.inode) == inode);
        Ok(match place {
            Some(0) => None,
            Some(place) => Some(all.swap_remove(place - 1)),
            None => all.pop(),
        })
    }
}

/// All files of a log, the newest first.
fn files(directory: BorrowedFd<'_>) -> Result<Vec<File>> {
    let mut all: Vec<File> = Vec::new();
    let mut missing = 0;
    for number in 0_u32.. {
        let name = match number {
            0 => FILE.to_owned(),
            number => format!("{FILE}.{number}"),
        };
        // A rotation leaves one gap at a time.
        match open(directory, &name)? {
            None if missing > 0 => break,
            None => missing += 1,
            Some(file) => {
                missing = 0;
                if all.iter().all(|other| other.inode != file.inode) {
                    all.push(file);
                }
            }
        }
    }
    Ok(all)
}

fn open(directory: BorrowedFd<'_>, name: &str) -> Result<Option<File>> {
    let failed = || format!("cannot open the container's {name}");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).context(failed),
    };
    let stat = rustix::fs::fstat(&fd).context(failed)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Some(File {
            fd,
            inode: stat.st_ino,
        })),
        _ => Err(Errno::INVAL).context(failed),
    }
}

fn size(file: impl AsFd) -> rustix::io::Result<u64> {
    rustix::fs::fstat(file).map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
}

/// Where the last lines begin: in which file, and where in it. Read from the end: a log may be long.
fn last_lines(files: &[File], count: u64) -> Result<(usize, u64)> {
    let mut left = count;
    for (index, file) in files.iter().enumerate() {
        let size = size(&file.fd).context(|| "cannot stat the container's log")?;
        if let Some(offset) = backwards(&file.fd, size, &mut left)? {
            return Ok((index, offset));
        }
    }
    Ok((files.len().saturating_sub(1), 0))
}

/// Counts lines down from the end; where the one after that begins which is too many.
fn backwards(file: &OwnedFd, size: u64, left: &mut u64) -> Result<Option<u64>> {
    let failed = || "cannot read the container's log";
    let mut chunk = vec![0; CHUNK];
    // The end of the line that is being looked for the beginning of; none behind the last line feed.
    let mut end: Option<u64> = None;
    let mut before = size;
    loop {
        let length = before.min(CHUNK as u64);
        let start = before - length;
        let part = &mut chunk[..usize::try_from(length).unwrap_or(CHUNK)];
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *part, start));
        let count = count.context(failed)?;
        for at in (0..count).rev().filter(|at| part[*at] == b'\n') {
            let begin = start + at as u64 + 1;
            if let Some(end) = end
                && counts(file, begin, left).context(failed)?
            {
                return Ok(Some(end));
            }
            end = Some(begin);
        }
        if start == 0 {
            return match end {
                Some(end) if counts(file, 0, left).context(failed)? => Ok(Some(end)),
                _ => Ok(None),
            };
        }
        before = start;
    }
}

/// Counts the line that begins here, unless it is only a part of one; whether it is too many.
fn counts(file: &OwnedFd, begin: u64, left: &mut u64) -> rustix::io::Result<bool> {
    let mut tag = [0; 1];
    rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut tag, begin + TAG))?;
    if tag == *b"P" {
        return Ok(false);
    }
    if *left == 0 {
        return Ok(true);
    }
    *left -= 1;
    Ok(false)
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let is_error = match fields.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let is_part = fields.next()?.split(|byte| *byte == b':').next()? == b"P";
    Some(Line {
        time,
        is_error,
        is_part,
        text: fields.next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::Path;

    const TIME: &str = "2026-01-01T00:00:00.000000000Z";

    fn append(path: &Path, lines: &[&str]) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        for line in lines {
            let tag = if line.ends_with('+') { "P" } else { "F" };
            writeln!(file, "{TIME} stdout {tag} {line}").unwrap();
        }
    }

    fn rest(log: &mut Log<'_>) -> String {
        let mut out = Vec::new();
        log.read(&mut |line| {
            out.push(String::from_utf8(line.text.to_vec()).unwrap());
            Ok(true)
        })
        .unwrap();
        out.join(" ")
    }

    fn directory(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn all_files_in_order_and_the_last_lines() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        append(&at("log.2"), &["a", "b"]);
        append(&at("log.1"), &["c+", "d"]);
        append(&at("log"), &["e", "f"]);
        let fd = directory(scratch.path());
        for (tail, expected) in [
            (None, "a b c+ d e f"),
            (Some(0), ""),
            (Some(1), "f"),
            (Some(2), "e f"),
            (Some(3), "c+ d e f"),
            (Some(4), "b c+ d e f"),
            (Some(5), "a b c+ d e f"),
            (Some(99), "a b c+ d e f"),
        ] {
            let mut log = Log::open(fd.as_fd(), tail).unwrap();
            assert_eq!(rest(&mut log), expected, "{tail:?}");
            append(&at("log"), &["g"]);
            assert_eq!(rest(&mut log), "g", "{tail:?}");
            assert_eq!(rest(&mut log), "");
            fs::write(at("log"), "").unwrap();
            append(&at("log"), &["e", "f"]);
        }
    }

    #[test]
    fn last_lines_of_a_long_file() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let lines: Vec<String> = (0..20_000).map(|n| format!("line{n}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        append(&path, &lines);
        let fd = directory(scratch.path());
        for count in [1, 999, 1500, 19_999] {
            let mut log = Log::open(fd.as_fd(), Some(count)).unwrap();
            let expected = lines[lines.len() - usize::try_from(count).unwrap()..].join(" ");
            assert_eq!(rest(&mut log), expected);
        }
    }

    #[test]
    fn a_line_that_is_not_finished_waits() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        append(&path, &["one"]);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        write!(file, "{TIME} stderr F tw").unwrap();
        let fd = directory(scratch.path());
        let mut log = Log::open(fd.as_fd(), None).unwrap();
        assert_eq!(rest(&mut log), "one");
        writeln!(file, "o").unwrap();
        assert_eq!(rest(&mut log), "two");
        // Taken back, for lack of space, and written anew.
        let whole = file.metadata().unwrap().len();
        write!(file, "{TIME} stderr F lost").unwrap();
        assert_eq!(rest(&mut log), "");
        file.set_len(whole).unwrap();
        append(&path, &["three"]);
        assert_eq!(rest(&mut log), "three");
    }

    #[test]
    fn what_follows_a_rotation_is_neither_lost_nor_repeated() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let rotate = || {
            for number in (1..20).rev() {
                let _ = fs::rename(
                    at(&format!("log.{number}")),
                    at(&format!("log.{}", number + 1)),
                );
            }
            fs::rename(at("log"), at("log.1")).unwrap();
        };
        let fd = directory(scratch.path());
        let mut log = Log::open(fd.as_fd(), None).unwrap();
        assert_eq!(rest(&mut log), "");
        append(&at("log"), &["a"]);
        assert_eq!(rest(&mut log), "a");
        append(&at("log"), &["b"]);
        rotate();
        append(&at("log"), &["c"]);
        rotate();
        // There is no newest one at the moment.
        assert_eq!(rest(&mut log), "b");
        append(&at("log"), &["d"]);
        assert_eq!(rest(&mut log), "c d");
        // Everything that was read is gone: the oldest that is left.
        for text in ["e", "f", "g"] {
            rotate();
            append(&at("log"), &[text]);
        }
        for number in 3..6 {
            let _ = fs::remove_file(at(&format!("log.{number}")));
        }
        assert_eq!(rest(&mut log), "e f g");
        // Rotation of a single file.
        fs::write(at("log"), "").unwrap();
        append(&at("log"), &[""]);
        assert_eq!(rest(&mut log), "");
    }

    #[test]
    fn a_writer_that_rotates_all_the_time() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().to_owned();
        let writer = std::thread::spawn(move || {
            let at = |name: &str| path.join(name);
            for number in 0..3000 {
                if number % 7 == 0 && number > 0 {
                    for old in (1..600).rev() {
                        let from = at(&format!("log.{old}"));
                        if from.exists() {
                            fs::rename(from, at(&format!("log.{}", old + 1))).unwrap();
                        }
                    }
                    fs::write(at("log.new"), "").unwrap();
                    fs::rename(at("log"), at("log.1")).unwrap();
                    fs::rename(at("log.new"), at("log")).unwrap();
                }
                append(&at("log"), &[&number.to_string()]);
            }
        });
        let fd = directory(scratch.path());
        let mut log = Log::open(fd.as_fd(), None).unwrap();
        let mut got = Vec::new();
        loop {
            let over = writer.is_finished();
            got.extend(rest(&mut log).split_whitespace().map(str::to_owned));
            if over {
                break;
            }
        }
        writer.join().unwrap();
        let expected: Vec<String> = (0..3000).map(|n| n.to_string()).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn lines_of_strangers_are_left_out() {
        for line in ["", "x", "t stdout F", "t other F x", "t stdout"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        let line = parse(b"t stderr P:x  a b ").unwrap();
        assert!(line.is_error && line.is_part);
        assert_eq!(line.text, b" a b ");
    }
}
