//! The container's log: lines in the format of the CRI, `TIME STREAM TAG TEXT`, in files of limited size.
//!
//! A line that is longer than [`LINE_MAX`], or has no line feed at the end of the stream, comes in parts,
//! all but the last of a line tagged `P` (kubernetes: "CRI: log management"). Output that cannot be written
//! is counted and dropped: the container never waits for the disk to have room again. As soon as it has, a
//! line of the log says how much is missing.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::launch::Log;
use crate::error::{Context, Error, ErrorKind, Result, words};

/// Longest text of a line.
pub const LINE_MAX: usize = 16 << 10;
/// How much is gathered for one write.
const BATCH: usize = 64 << 10;
/// Before the text: `2026-11-22T05:44:29.123456789Z stdout F `.
const HEADER: usize = 40;

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Output = 0,
    Error = 1,
}

impl Stream {
    pub(super) const ALL: [Self; 2] = [Self::Output, Self::Error];

    fn name(self) -> &'static [u8; 6] {
        match self {
            Self::Output => b"stdout",
            Self::Error => b"stderr",
        }
    }
}

/// The log.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    file: OwnedFd,
    size: u64,
    /// Whole lines that are to be written.
    batch: Vec<u8>,
    batch_max: usize,
    /// Beginnings of lines.
    partial: [Vec<u8>; 2],
    /// Bytes that were dropped since the last time that something could be written, and why.
    missing: Option<(u64, Errno)>,
    lost: u64,
}

impl LogFile {
    /// Opens the log; goes on with one that is there.
    pub(super) fn open(log: &Log) -> Result<Self> {
        let (file, size) = open(&log.path)?;
        let max_size = log.max_size.unwrap_or(u64::MAX);
        Ok(Self {
            path: log.path.clone(),
            max_size,
            max_files: log.max_files.max(1),
            file,
            size,
            batch: Vec::new(),
            batch_max: usize::try_from(max_size).map_or(BATCH, |max| max.min(BATCH)),
            partial: [Vec::new(), Vec::new()],
            missing: None,
            lost: 0,
        })
    }

    /// How many bytes of output are missing in all.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether output was dropped of which the log does not know yet.
    pub(super) fn is_behind(&self) -> bool {
        self.missing.is_some()
    }

    /// Takes output as it was read.
    pub(super) fn take(&mut self, stream: Stream, mut bytes: &[u8]) {
        let time = time();
        while !bytes.is_empty() {
            let room = LINE_MAX - self.partial[stream as usize].len();
            // One more: a line feed behind a text that fits.
            let window = &bytes[..bytes.len().min(room + 1)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.add(&time, stream, b'F', &bytes[..end]);
                bytes = &bytes[end + 1..];
            } else if window.len() > room {
                self.add(&time, stream, b'P', &bytes[..room]);
                bytes = &bytes[room..];
            } else {
                self.partial[stream as usize].extend_from_slice(bytes);
                break;
            }
        }
        self.write();
    }

    /// The stream has ended: what stands behind its last line feed is written.
    pub(super) fn end(&mut self, stream: Stream) {
        if !self.partial[stream as usize].is_empty() {
            self.add(&time(), stream, b'P', b"");
        }
        self.write();
    }

    /// Tries to say what is missing.
    pub(super) fn retry(&mut self) {
        if self.missing.is_some() {
            self.admit();
        }
    }

    /// Goes on in a new file of the same name, after somebody else renamed the old one.
    pub(super) fn reopen(&mut self) -> Result<()> {
        (self.file, self.size) = open(&self.path)?;
        Ok(())
    }

    fn add(&mut self, time: &[u8; 30], stream: Stream, tag: u8, rest: &[u8]) {
        let length = HEADER + self.partial[stream as usize].len() + rest.len() + 1;
        if self.batch.len() + length > self.batch_max {
            self.write();
        }
        if self.batch.capacity() == 0 {
            self.batch.reserve(BATCH);
        }
        self.batch.extend_from_slice(time);
        self.batch.push(b' ');
        self.batch.extend_from_slice(stream.name());
        self.batch.extend_from_slice(&[b' ', tag, b' ']);
        self.batch.extend_from_slice(&self.partial[stream as usize]);
        self.batch.extend_from_slice(rest);
        self.batch.push(b'\n');
        self.partial[stream as usize].clear();
    }

    /// Writes the batch, or drops what of it cannot be written.
    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        if self.missing.is_none() || self.admit() {
            self.rotate_for(batch.len());
            if let Err((written, errno)) = self.append(&batch) {
                self.drop_lines(&batch[written..], errno);
            }
        } else if let Some((_, errno)) = self.missing {
            self.drop_lines(&batch, errno);
        }
        batch.clear();
        self.batch = batch;
    }

    fn drop_lines(&mut self, lines: &[u8], errno: Errno) {
        let count = payload(lines);
        self.lost += count;
        let before = self.missing.map_or(0, |(count, _)| count);
        self.missing = Some((before + count, errno));
    }

    /// Says in the log what is missing; false when that cannot be written either.
    fn admit(&mut self) -> bool {
        let Some((count, errno)) = self.missing else {
            return true;
        };
        let mut line = time().to_vec();
        let text = format!(
            " stderr F rcrun: {count} bytes of output are missing here: cannot write the log: {}\n",
            words(errno)
        );
        line.extend_from_slice(text.as_bytes());
        self.rotate_for(line.len());
        let said = self.append(&line).is_ok();
        if said {
            self.missing = None;
        }
        said
    }

    /// Appends whole lines. Of those that do not fit, the error says where the first begins: no line is
    /// left torn.
    fn append(&mut self, lines: &[u8]) -> Result<(), (usize, Errno)> {
        let mut written = 0;
        while written < lines.len() {
            match rustix::io::write(&self.file, &lines[written..]) {
                Ok(0) => return Err(self.cut_back(lines, written, Errno::IO)),
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.cut_back(lines, written, errno)),
            }
        }
        self.size += lines.len() as u64;
        Ok(())
    }

    fn cut_back(&mut self, lines: &[u8], written: usize, errno: Errno) -> (usize, Errno) {
        let last = lines[..written].iter().rposition(|byte| *byte == b'\n');
        let whole = last.map_or(0, |at| at + 1);
        self.size += whole as u64;
        if whole < written {
            let _ = rustix::fs::ftruncate(&self.file, self.size);
        }
        (whole, errno)
    }

    /// Begins a new file when the current one would grow too large. When that is not possible, the
    /// current one does grow.
    fn rotate_for(&mut self, more: usize) {
        if self.size > 0 && self.size.saturating_add(more as u64) > self.max_size {
            let _ = self.rotate();
        }
    }

    fn rotate(&mut self) -> Result<()> {
        if self.max_files == 1 {
            rustix::fs::ftruncate(&self.file, 0)?;
            self.size = 0;
            return Ok(());
        }
        // First what can fail for want of space: nothing was moved by then.
        let new = numbered(&self.path, "new");
        match rustix::fs::unlink(&new) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let (file, size) = open(&new)?;
        for number in (1..self.max_files).rev() {
            let from = match number {
                1 => self.path.clone(),
                _ => numbered(&self.path, &(number - 1).to_string()),
            };
            match rustix::fs::rename(&from, numbered(&self.path, &number.to_string())) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        rustix::fs::rename(&new, &self.path)?;
        (self.file, self.size) = (file, size);
        Ok(())
    }
}

fn numbered(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    name.into()
}

fn open(path: &Path) -> Result<(OwnedFd, u64)> {
    // Without NONBLOCK a fifo in the place of the log would block the monitor.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let failed = || format!("cannot open log {}", path.display());
    let strange = || Error::new(ErrorKind::InvalidInput, "it is not a regular file");
    let file = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o640)) {
        // A link, a fifo or a socket, a directory.
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Err(strange()).context(failed),
        opened => opened.context(failed)?,
    };
    let stat = rustix::fs::fstat(&file).context(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(strange()).context(failed);
    }
    Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
}

fn time() -> [u8; 30] {
    let mut time = *b"0000-00-00T00:00:00.000000000Z";
    let now = crate::state::now();
    if now.len() == time.len() {
        time.copy_from_slice(now.as_bytes());
    }
    time
}

/// How many bytes of output whole lines of the log stand for.
fn payload(lines: &[u8]) -> u64 {
    let mut count = 0;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let full = line.get(HEADER - 2) == Some(&b'F');
        count += line.len().saturating_sub(HEADER + 1) as u64 + u64::from(full);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines without their times.
    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| line[31..].to_owned()).collect()
    }

    fn log(directory: &Path, max_size: Option<u64>, max_files: u32) -> LogFile {
        LogFile::open(&Log {
            path: directory.join("log"),
            max_size,
            max_files,
        })
        .unwrap()
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("rcrun-log-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn lines_are_put_together_and_taken_apart() {
        let dir = directory("lines");
        let mut log = log(&dir, None, 1);
        log.take(Stream::Output, b"one\ntw");
        log.take(Stream::Error, b"other\n\n");
        log.take(Stream::Output, b"o\n");
        let long = "x".repeat(LINE_MAX);
        log.take(Stream::Output, format!("{long}\n{long}yz\nend").as_bytes());
        log.end(Stream::Output);
        log.end(Stream::Error);
        let expected = [
            "stdout F one",
            "stderr F other",
            "stderr F ",
            "stdout F two",
            &format!("stdout F {long}"),
            &format!("stdout P {long}"),
            "stdout F yz",
            "stdout P end",
        ];
        assert_eq!(lines(&dir.join("log")), expected);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn every_split_of_the_same_bytes_gives_the_same_lines() {
        let dir = directory("splits");
        let text = b"a\n\nbc\ndefg\n";
        for at in 0..text.len() {
            let path = dir.join("log");
            let _ = std::fs::remove_file(&path);
            let mut log = log(&dir, None, 1);
            log.take(Stream::Output, &text[..at]);
            log.take(Stream::Output, &text[at..]);
            let expected = ["stdout F a", "stdout F ", "stdout F bc", "stdout F defg"];
            assert_eq!(lines(&path), expected, "{at}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn files_are_rotated_at_line_ends() {
        let dir = directory("rotate");
        let mut log = log(&dir, Some(200), 100);
        for number in 0..100 {
            log.take(Stream::Output, format!("number {number}\n").as_bytes());
        }
        let mut all = Vec::new();
        for number in (1..100).rev() {
            let path = dir.join(format!("log.{number}"));
            if path.exists() {
                assert!(std::fs::metadata(&path).unwrap().len() <= 200);
                all.extend(lines(&path));
            }
        }
        all.extend(lines(&dir.join("log")));
        let expected: Vec<_> = (0..100).map(|n| format!("stdout F number {n}")).collect();
        assert_eq!(all, expected);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn only_so_many_files_are_kept() {
        let dir = directory("keep");
        for (files, expected) in [(1, "log"), (3, "log log.1 log.2")] {
            let mut log = log(&dir, Some(100), files);
            for _ in 0..20 {
                log.take(Stream::Output, b"some text of a line\n");
            }
            let mut names: Vec<_> = std::fs::read_dir(&dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names.join(" "), expected);
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn dropped_bytes_are_counted_as_they_were_output() {
        let dir = directory("payload");
        let mut log = log(&dir, None, 1);
        let texts = ["a\n", "\n", &"x".repeat(LINE_MAX + 5), "\nrest"];
        for text in texts {
            log.take(Stream::Error, text.as_bytes());
        }
        log.end(Stream::Error);
        let all = std::fs::read(dir.join("log")).unwrap();
        let length: usize = texts.iter().map(|text| text.len()).sum();
        assert_eq!(payload(&all), length as u64);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_log_that_is_no_file_is_refused() {
        let dir = directory("strange");
        std::os::unix::fs::symlink("/dev/null", dir.join("log")).unwrap();
        for path in [dir.join("log"), PathBuf::from("/dev/null"), dir.clone()] {
            let refused = LogFile::open(&Log {
                path,
                max_size: None,
                max_files: 1,
            });
            refused.unwrap_err();
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
