//! The process that saves a container: it stops it for as long as that takes, has criu dump it, keeps what it
//! changed of its image, and lets it go on. A process of its own, with one thread as criu's caller has
//! to have; it ends its work also when the server is killed meanwhile.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rcrun_overlay::archive::whiteout::{Meaning, meaning};
use rcrun_overlay::archive::{Reader, Writer};
use rcrun_overlay::compress::Compression;
use rcrun_overlay::layer::{ChangeKind, Overlay, diff};
use rcrun_overlay::snapshot::{Snapshot, Snapshots};
use rcrun_overlay::store::Store;
use rcrun_runtime::checkpoint::{CheckpointOptions, CriuOptions};
use rcrun_runtime::container::{CgroupDriver, Runtime, Status};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{DELETED, IMAGES, ROOTFS};
use crate::core::precondition;
use crate::{Context, Error, ErrorKind, Result};

/// What is to be saved, in the directory that it is saved to.
pub(super) const ORDER: &str = "order.json";
/// Bytes of a buffer between the two threads of an archive.
const BUFFER: usize = 128 << 10;
/// The largest file that is open and has no name any more, and is saved for that.
pub(super) const GHOST: u32 = 64 << 20;

/// What such a process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) root: PathBuf,
    pub(super) store: PathBuf,
    pub(super) snapshot: String,
    pub(super) criu: PathBuf,
    pub(super) log: Option<PathBuf>,
}

/// What such a process answers when all is well.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Captured {
    /// Bytes of the log while the container stood still.
    log: u64,
}

impl Captured {
    /// Bytes of the log that belong to what was saved.
    pub(super) fn log(&self) -> u64 {
        self.log
    }
}

/// Saves the container that the order in this directory names, into the directory.
pub fn capture(directory: &Path) -> Result<Captured> {
    // Until this process ends: the next server waits for that.
    let held = File::open(directory).context(|| format!("cannot open {}", directory.display()))?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)
        .context(|| format!("cannot lock {}", directory.display()))?;
    let path = directory.join(ORDER);
    let failed = || format!("cannot read {}", path.display());
    let text = std::fs::read(&path).context(failed)?;
    let order: Order = serde_json::from_slice(&text)
        .map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))
        .context(failed)?;
    let runtime = Runtime {
        root: order.root.clone(),
        // That of an existing container is in its record.
        cgroup_driver: CgroupDriver::Files,
        rootless: Some(false),
    };
    let status = runtime.state(&order.id)?.status;
    if status != Status::Running {
        let text = format!("it is {}", status.as_str());
        return Err(precondition(text).context("cannot save the container"));
    }
    runtime.pause(&order.id)?;
    let saved = save(&runtime, &order, directory);
    // Its monitor has had the time to write all of it.
    let log = order.log.and_then(|log| std::fs::metadata(log).ok());
    let resumed = runtime.resume(&order.id);
    saved?;
    resumed.context(|| "cannot let the container go on")?;
    Ok(Captured {
        log: log.map_or(0, |log| log.len()),
    })
}

fn save(runtime: &Runtime, order: &Order, directory: &Path) -> Result<()> {
    let options = CheckpointOptions {
        common: CriuOptions {
            criu: Some(order.criu.clone()),
            image_path: directory.join(IMAGES),
            work_path: Some(directory.to_owned()),
            // Whoever goes on elsewhere has another address.
            tcp_close: true,
            external_unix_sockets: true,
            file_locks: true,
            empty_network: true,
            ghost_limit: Some(GHOST),
            ..CriuOptions::default()
        },
        leave_running: true,
        link_remap: true,
        ..CheckpointOptions::default()
    };
    runtime.checkpoint(&order.id, &options)?;
    let failed = || "cannot save what the container changed of its image";
    let store = Store::open(&order.store)?;
    let id = order.snapshot.parse()?;
    let missing = || Error::new(ErrorKind::NotFound, format!("there is no snapshot {id}"));
    let snapshot = Snapshots::new(&store)?.open(&id)?.ok_or_else(missing)?;
    let deleted = deleted(&snapshot).context(failed)?;
    std::fs::write(directory.join(DELETED), deleted).context(failed)?;
    let file = File::create_new(directory.join(ROOTFS)).context(failed)?;
    changes(&snapshot, file).context(failed)
}

/// What is gone of the image, as other engines list it.
fn deleted(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for change in snapshot.changes()? {
        if change.kind == ChangeKind::Deleted {
            let path = String::from_utf8(change.path).map_err(|error| {
                let path = error.utf8_error();
                Error::unsupported(format!(
                    "the name of a file that is gone is no text: {path}"
                ))
            })?;
            all.push(format!("/{path}"));
        }
    }
    Ok(serde_json::json!(all).to_string().into_bytes())
}

/// Everything else that is not as in the image. Packing and writing are done side by side.
fn changes(snapshot: &Snapshot, file: File) -> Result<()> {
    let (reader, writer) = std::io::pipe().context(|| "cannot create a pipe")?;
    std::thread::scope(|scope| {
        let options = diff::Options::new(Overlay::Trusted);
        let packing = scope.spawn(move || {
            snapshot
                .diff(options, Compression::None, 0, writer)
                .map(drop)
        });
        let source = BufReader::with_capacity(BUFFER, reader);
        let written = without_marks(source, BufWriter::with_capacity(BUFFER, file));
        let defect = |_| Err(Error::new(ErrorKind::Internal, "a thread panicked"));
        // What the other one says about the end of the pipe is of no interest.
        match (written, packing.join().unwrap_or_else(defect)) {
            (Ok(()), packed) => packed,
            (Err(error), _) => Err(error),
        }
    })
}

/// Copies an archive but for the marks of what is gone, which are listed ([`deleted`]): not everybody who
/// reads it knows them.
fn without_marks(source: impl std::io::BufRead, sink: impl Write) -> Result<()> {
    let (mut reader, mut writer) = (Reader::new(source), Writer::new(sink));
    while let Some(entry) = reader.next_entry()? {
        if matches!(meaning(&entry.path)?, Meaning::Plain) {
            writer.append(&entry, &mut Data(&mut reader))?;
        }
    }
    writer.finish()?.flush()?;
    Ok(())
}

/// Data of the entry that a reader is at.
pub(super) struct Data<'a, R>(pub(super) &'a mut Reader<R>);

impl<R: std::io::BufRead> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let data = self.0.data().map_err(std::io::Error::other)?;
        let length = data.len().min(buffer.len());
        buffer[..length].copy_from_slice(&data[..length]);
        self.0.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcrun_overlay::archive::{Entry, Kind, Time};

    pub(super) fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (path, text) in entries {
            let entry = Entry {
                path: path.as_bytes().to_vec(),
                kind: Kind::Regular,
                mode: 0o600,
                uid: 0,
                gid: 0,
                mtime: Time::default(),
                size: text.len() as u64,
                map: None,
                attributes: Vec::new(),
            };
            writer.append(&entry, &mut text.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn marks_are_left_out_and_files_are_not() {
        let long = "x".repeat(3 * BUFFER);
        let source = archive(&[
            ("a", "one"),
            (".wh.gone", ""),
            ("d/.wh..wh..opq", ""),
            ("d/long", &long),
            ("end", "two"),
        ]);
        let mut sink = Vec::new();
        without_marks(&*source, &mut sink).unwrap();
        assert_eq!(
            sink,
            archive(&[("a", "one"), ("d/long", &long), ("end", "two")])
        );
        // In pieces of the source's buffer.
        let mut again = Vec::new();
        without_marks(BufReader::with_capacity(700, &*source), &mut again).unwrap();
        assert_eq!(again, sink);
        let cut = &source[..source.len() / 2];
        assert!(without_marks(cut, Vec::new()).is_err());
    }
}
