//! Reads /etc/passwd and /etc/group through the layers of an image, without a mount.

use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rcrun_overlay::layer::Overlay;
use rcrun_overlay::layer::merged::Merged;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::Accounts;
use crate::{Context, Error, ErrorKind, Result};

/// The longest file.
const LIMIT: u64 = 16 << 20;
/// Links that may follow one another.
const LINKS: usize = 40;

/// Both files, of layers given top first; what is missing or no regular file is empty.
pub fn accounts(layers: &[BorrowedFd<'_>], marks: Overlay) -> Result<Accounts> {
    let mut merged = Merged::new(layers, marks)?;
    Ok(Accounts {
        passwd: read(&mut merged, b"etc/passwd").context(|| "/etc/passwd")?,
        group: read(&mut merged, b"etc/group").context(|| "/etc/group")?,
    })
}

fn read(merged: &mut Merged, path: &[u8]) -> Result<Vec<u8>> {
    let mut path = path.to_vec();
    for _ in 0..LINKS {
        let Some(found) = merged.find(&path)? else {
            return Ok(Vec::new());
        };
        match FileType::from_raw_mode(found.stat.st_mode) {
            FileType::RegularFile => return contents(&found.file),
            FileType::Symlink => {}
            _ => return Ok(Vec::new()),
        }
        let target = rustix::fs::readlinkat(&found.file, "", Vec::new())
            .context(|| "cannot read a link")?
            .into_bytes();
        let parent = match found.path.iter().rposition(|byte| *byte == b'/') {
            Some(end) if !target.starts_with(b"/") => &found.path[..end],
            _ => &[][..],
        };
        path = [parent, target.as_slice()].join(&b'/');
    }
    Err(Error::invalid("too many links"))
}

/// The descriptor only names the file; what is opened is the same one, whatever became of its name.
fn contents(named: &OwnedFd) -> Result<Vec<u8>> {
    let path = format!("/proc/self/fd/{}", named.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).context(|| "cannot open it")?;
    let stat = rustix::fs::statat(named, "", AtFlags::EMPTY_PATH).context(|| "cannot stat it")?;
    let opened = rustix::fs::fstat(&file).context(|| "cannot stat it")?;
    if (stat.st_dev, stat.st_ino) != (opened.st_dev, opened.st_ino) {
        return Err(Error::new(ErrorKind::Internal, "another file was opened"));
    }
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(file).take(LIMIT + 1);
    file.read_to_end(&mut bytes).context(|| "cannot read it")?;
    match bytes.len() as u64 > LIMIT {
        true => Err(Error::invalid(format!("it is longer than {LIMIT} bytes"))),
        false => Ok(bytes),
    }
}
