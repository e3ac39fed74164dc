//! Operations that a container may or may not be allowed, each answered with its errno.

use super::raw;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// Each argument is `operation:argument:..`; the answers stand in the same order.
pub(crate) fn all(operations: &[String]) -> Value {
    operations
        .iter()
        .map(|operation| {
            let (errno, text) = match one(operation) {
                Ok(text) => (0, text),
                Err(e) => (e.raw_os_error().unwrap_or(-1), e.to_string()),
            };
            json!({"operation": operation, "errno": errno, "text": text})
        })
        .collect()
}

fn one(operation: &str) -> io::Result<String> {
    let parts: Vec<&str> = operation.split(':').collect();
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    match part(0) {
        "read" => read(part(1)),
        "write" => write(part(1), part(2), false),
        "append" => write(part(1), part(2), true),
        "open-rw" => open_rw(part(1)),
        "create" => File::create(part(1)).map(|_| String::new()),
        "mkdir" => fs::create_dir(part(1)).map(|()| String::new()),
        "rmdir" => fs::remove_dir(part(1)).map(|()| String::new()),
        "unlink" => fs::remove_file(part(1)).map(|()| String::new()),
        "list" => list(part(1)),
        "readlink" => fs::read_link(part(1)).map(|p| p.to_string_lossy().into_owned()),
        "stat" => stat(part(1)),
        "run" => run(&parts[1..]),
        "mknod" => mknod(part(1), part(2), number(part(3)), number(part(4))),
        "open-node" => open_node(part(1), part(2), number(part(3)), number(part(4))),
        "mount" => mount(part(1), part(2), part(3), number(part(4)), part(5)),
        "umount" => syscall(
            libc::SYS_umount2,
            [raw::c_string(part(1)).as_ptr() as i64, 0, 0, 0, 0, 0],
        ),
        "syscall" => {
            let mut arguments = [0; 6];
            for (index, cell) in arguments.iter_mut().enumerate() {
                *cell = number(part(2 + index));
            }
            syscall(number(part(1)), arguments)
        }
        "i386" => {
            let result = raw::call_i386(number(part(1)) as i32, number(part(2)) as i32);
            if result < 0 {
                Err(io::Error::from_raw_os_error(-result as i32))
            } else {
                Ok(result.to_string())
            }
        }
        "hostname" => {
            let name = part(1);
            let text = raw::c_string(name);
            syscall(
                libc::SYS_sethostname,
                [text.as_ptr() as i64, name.len() as i64, 0, 0, 0, 0],
            )
        }
        "sleep" => {
            std::thread::sleep(std::time::Duration::from_millis(
                number(part(1)).unsigned_abs(),
            ));
            Ok(String::new())
        }
        other => Err(io::Error::other(format!("no operation {other}"))),
    }
}

/// Decimal or 0x hexadecimal; anything else is 0.
fn number(text: &str) -> i64 {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).unwrap_or(0),
        None => text.parse().unwrap_or(0),
    }
}

fn syscall(number: i64, arguments: [i64; 6]) -> io::Result<String> {
    let result = raw::call(number, arguments);
    if result < 0 {
        return Err(io::Error::from_raw_os_error(
            i32::try_from(-result).unwrap_or(0),
        ));
    }
    Ok(result.to_string())
}

fn read(path: &str) -> io::Result<String> {
    let mut bytes = vec![0; 65_536];
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let length = file.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

fn write(path: &str, text: &str, append: bool) -> io::Result<String> {
    let mut file = OpenOptions::new()
        .write(true)
        .append(append)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(String::new())
}

fn open_rw(path: &str) -> io::Result<String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map(|_| String::new())
}

fn list(path: &str) -> io::Result<String> {
    let mut names: Vec<String> = fs::read_dir(path)?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names.join(" "))
}

/// `type mode uid gid major minor` of a path, without following a final link.
fn stat(path: &str) -> io::Result<String> {
    let data = fs::symlink_metadata(path)?;
    let kind = match data.mode() & libc::S_IFMT {
        libc::S_IFCHR => "c",
        libc::S_IFBLK => "b",
        libc::S_IFDIR => "d",
        libc::S_IFIFO => "p",
        libc::S_IFLNK => "l",
        libc::S_IFSOCK => "s",
        _ => "-",
    };
    let (major, minor) = (libc::major(data.rdev()), libc::minor(data.rdev()));
    Ok(format!(
        "{kind} {:o} {} {} {major} {minor}",
        data.mode() & 0o7777,
        data.uid(),
        data.gid()
    ))
}

fn run(words: &[&str]) -> io::Result<String> {
    let output = std::process::Command::new(words[0])
        .args(&words[1..])
        .output()?;
    Ok(format!(
        "{} {}{}",
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn mknod(path: &str, kind: &str, major: i64, minor: i64) -> io::Result<String> {
    let mode = 0o666
        | i64::from(if kind == "b" {
            libc::S_IFBLK
        } else {
            libc::S_IFCHR
        });
    let device = libc::makedev(
        u32::try_from(major).unwrap_or(0),
        u32::try_from(minor).unwrap_or(0),
    );
    let path = raw::c_string(path);
    syscall(
        libc::SYS_mknodat,
        [
            i64::from(libc::AT_FDCWD),
            path.as_ptr() as i64,
            mode,
            device as i64,
            0,
            0,
        ],
    )
}

/// Makes a node and opens it for reading: what the device cgroup decides.
fn open_node(path: &str, kind: &str, major: i64, minor: i64) -> io::Result<String> {
    mknod(path, kind, major, minor)?;
    let result = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map(|_| String::new());
    let _ = fs::remove_file(path);
    result
}

fn mount(source: &str, target: &str, kind: &str, flags: i64, data: &str) -> io::Result<String> {
    let [source, target, kind, data] = [source, target, kind, data].map(raw::c_string);
    let at = |text: &std::ffi::CString| {
        if text.is_empty() {
            0
        } else {
            text.as_ptr() as i64
        }
    };
    syscall(
        libc::SYS_mount,
        [at(&source), at(&target), at(&kind), flags, at(&data), 0],
    )
}
