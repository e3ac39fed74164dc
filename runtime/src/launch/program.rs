//! Finding the program, its user's home directory, and executing it; and, when that fails, finding
//! out what is missing.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::plan::Process;
use crate::plan::process::{HOME_MAX, Program};
use crate::rootfs::resolve::Links;
use crate::rootfs::{Detail, Fail, Root};
use crate::sys::exec;

/// Most bytes of the container's passwd file that are looked at: it may be hostile.
const PASSWD_MAX: usize = 16 << 20;

/// Number of the first candidate that can be executed.
pub(crate) fn find(program: &Program) -> Result<usize, Fail> {
    let mut worst = Fail {
        errno: Errno::NOENT,
        detail: Detail::NotInPath,
    };
    for (number, path) in program.candidates.iter().enumerate() {
        let problem = match executable(path) {
            Ok(()) => return Ok(number),
            Err(problem) => problem,
        };
        if program.name.to_bytes().contains(&b'/') {
            return Err(problem);
        }
        if problem.errno != Errno::NOENT && problem.errno != Errno::NOTDIR {
            worst = problem;
        }
    }
    Err(worst)
}

fn executable(path: &CStr) -> Result<(), Fail> {
    let stat = rustix::fs::statat(CWD, path, AtFlags::empty())?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Fail {
            errno: Errno::ACCESS,
            detail: Detail::IsDirectory,
        });
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(Fail::from)?;
    // access(2) lets root pass what nobody may execute.
    if stat.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS.into());
    }
    Ok(())
}

/// Sets HOME from the container's own passwd file where the configuration does not; `/` if the user
/// is not in it.
pub(crate) fn set_home(process: &mut Process, root: &Root) -> Result<(), Fail> {
    if !process.env.has_slot() {
        return Ok(());
    }
    let mut home = [0u8; HOME_MAX];
    let length = lookup_home(root, process.uid, &mut home).unwrap_or(0);
    let home: &[u8] = if length == 0 { b"/" } else { &home[..length] };
    if process.env.fill_slot(&[b"HOME=", home]) {
        Ok(())
    } else {
        Err(Errno::NAMETOOLONG.into())
    }
}

fn lookup_home(root: &Root, uid: u32, home: &mut [u8; HOME_MAX]) -> Option<usize> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = root.open(c"/etc/passwd", flags, Links::Follow).ok()?;
    // Not a FIFO that never ends, not a device.
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut buffer = [0u8; 8192];
    let (mut filled, mut total) = (0, 0);
    loop {
        let read = rustix::io::read(&file, &mut buffer[filled..]).ok()?;
        total += read;
        filled += read;
        let mut start = 0;
        while let Some(length) = buffer[start..filled].iter().position(|b| *b == b'\n') {
            if let Some(found) = home_in(&buffer[start..start + length], uid, home) {
                return Some(found);
            }
            start += length + 1;
        }
        if read == 0 {
            return home_in(&buffer[start..filled], uid, home);
        }
        if total > PASSWD_MAX || (start == 0 && filled == buffer.len()) {
            return None;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}

/// `name:password:uid:gid:comment:home:shell`.
fn home_in(line: &[u8], uid: u32, home: &mut [u8; HOME_MAX]) -> Option<usize> {
    let mut fields = line.split(|b| *b == b':');
    let found = std::str::from_utf8(fields.nth(2)?)
        .ok()?
        .parse::<u32>()
        .ok()?;
    let directory = fields.nth(2)?;
    if found != uid || directory.is_empty() || directory.len() > home.len() {
        return None;
    }
    home[..directory.len()].copy_from_slice(directory);
    Some(directory.len())
}

/// Executes the program; on failure says what is missing, and its name in `missing`; and says so as
/// the program, too.
pub(crate) fn execute(number: usize, process: &Process, missing: &mut [u8; 256]) -> Fail {
    let program = process.program.as_ref();
    let Some((program, path)) = program.and_then(|p| Some((p, p.candidates.get(number)?))) else {
        return Errno::NOENT.into();
    };
    let errno = exec::execve(path, &program.args, &process.env);
    let fail = diagnose(path, errno, missing).unwrap_or(Fail {
        errno,
        detail: Detail::Call,
    });
    complain(program, fail);
    fail
}

/// Says on the program's own standard error that it could not be executed: of a detached container
/// that is all its log will ever hold.
fn complain(program: &Program, fail: Fail) {
    let words: &[u8] = match fail.errno {
        Errno::NOENT => b"no such file or directory",
        Errno::ACCESS => b"permission denied",
        Errno::NOEXEC => b"exec format error",
        _ => b"cannot be executed",
    };
    let mut line = crate::rootfs::Text::<512>::new();
    let name = program.name.to_bytes();
    let written = line
        .push(b"exec ")
        .and_then(|l| l.push(&name[..name.len().min(400)]));
    if written
        .and_then(|l| l.push(b": ")?.push(words)?.push(b"\n"))
        .is_ok()
        && let Ok(stderr) = crate::sys::process::borrow_inherited(2)
    {
        let _ = rustix::io::write(stderr, line.as_bytes());
    }
}

fn diagnose(path: &CStr, errno: Errno, missing: &mut [u8; 256]) -> Option<Fail> {
    if !matches!(
        errno,
        Errno::NOENT | Errno::ACCESS | Errno::NOEXEC | Errno::INVAL
    ) {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let mut head = [0u8; 1024];
    let length = rustix::io::read(&file, &mut head).ok()?;
    let head = &head[..length];
    if let Some(line) = head.strip_prefix(b"#!") {
        let name = interpreter(line)?;
        keep(missing, name);
        return Some(Fail {
            errno,
            detail: Detail::Interpreter,
        });
    }
    if head.starts_with(b"\x7fELF") {
        if !native(head)? {
            return Some(Fail {
                errno: Errno::NOEXEC,
                detail: Detail::Architecture,
            });
        }
        if errno == Errno::NOENT {
            let mut name = [0u8; 256];
            let length = loader(&file, head, &mut name)?;
            keep(missing, &name[..length]);
            return Some(Fail {
                errno,
                detail: Detail::Loader,
            });
        }
    }
    None
}

fn keep(missing: &mut [u8; 256], name: &[u8]) {
    let length = name.len().min(missing.len());
    missing[..length].copy_from_slice(&name[..length]);
}

/// The interpreter of a `#!` line, with a carriage return made visible by staying in.
fn interpreter(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|b| *b == b'\n').unwrap_or(line.len());
    let line = line[..end].trim_ascii_start();
    line.split(|b| *b == b' ' || *b == b'\t')
        .next()
        .filter(|name| !name.is_empty())
}

/// Whether an ELF header's machine is this one's, or one that it also runs.
fn native(head: &[u8]) -> Option<bool> {
    let machine = u16::from_le_bytes([*head.get(18)?, *head.get(19)?]);
    let known: &[u16] = if cfg!(target_arch = "x86_64") {
        &[62, 3]
    } else if cfg!(target_arch = "aarch64") {
        &[183, 40]
    } else {
        return Some(true);
    };
    Some(known.contains(&machine))
}

/// The name in the PT_INTERP segment of a 64-bit little-endian ELF file.
fn loader(file: &OwnedFd, head: &[u8], name: &mut [u8; 256]) -> Option<usize> {
    const PT_INTERP: u32 = 3;
    let word = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| {
        Some(usize::from(u16::from_le_bytes([
            *head.get(at)?,
            *head.get(at + 1)?,
        ])))
    };
    if *head.get(4)? != 2 {
        return None;
    }
    let (table, size, count) = (usize::try_from(word(32)?).ok()?, half(54)?, half(56)?);
    for entry in (0..count).map(|n| table + n * size) {
        let kind = u32::from_le_bytes(head.get(entry..entry + 4)?.try_into().ok()?);
        if kind == PT_INTERP {
            let (offset, length) = (word(entry + 8)?, usize::try_from(word(entry + 32)?).ok()?);
            let room = name.len().min(length);
            let read = rustix::io::pread(file, &mut name[..room], offset).ok()?;
            return Some(name[..read].iter().position(|b| *b == 0).unwrap_or(read));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_directories_are_found_by_number() {
        let mut home = [0u8; HOME_MAX];
        assert_eq!(
            home_in(b"root:x:0:0:root:/root:/bin/sh", 0, &mut home),
            Some(5)
        );
        assert_eq!(&home[..5], b"/root");
        for line in [
            &b"0:x:1:0::/a:"[..],
            b"x:x:4294967296:0::/a:",
            b"short:x:0",
            b"",
            b"n:x:0:0:::",
        ] {
            assert_eq!(home_in(line, 0, &mut home), None, "{line:?}");
        }
    }

    #[test]
    fn interpreters_are_read_as_the_kernel_does() {
        assert_eq!(interpreter(b"/bin/sh -e\nrest"), Some(&b"/bin/sh"[..]));
        assert_eq!(
            interpreter(b"  /usr/bin/env\tpython\n"),
            Some(&b"/usr/bin/env"[..])
        );
        assert_eq!(interpreter(b"/bin/sh\r\n"), Some(&b"/bin/sh\r"[..]));
        assert_eq!(interpreter(b"\n"), None);
    }
}
