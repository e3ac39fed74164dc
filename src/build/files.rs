//! Results that are files: `--output type=local` and `type=tar`, with what is attested of them.
//!
//! As BuildKit has it (`exporter/local`): statements stand beside the files as `provenance.json` and
//! `sbom.spdx.json`, each with `attestation-prefix` in front, and with the platform in the name if files of
//! several platforms come into one directory; there no file may replace that of another platform.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rcrun_builder::context::copy::{Options, Request, Times, select};
use rcrun_builder::context::listing::{self, Listed};
use rcrun_builder::context::tree::{Owners, Tree};
use rcrun_overlay::archive::{Entry, Kind, Reader, Time, Writer};
use rcrun_overlay::layer::diff;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use super::attest::{self, Facts};
use super::destination::How;
use super::job::{Built, Job, open_directory};
use super::outputs::files;

/// Who may read statements beside files.
const MODE: u32 = 0o600;
/// Bytes that are written at once.
const BUFFER: usize = 128 << 10;

/// Statements: their names, and what they say.
type Statements = Vec<(String, Vec<u8>)>;

fn statements(
    job: &Job<'_>,
    built: &Built,
    listed: &[Listed],
    how: &How,
    facts: &Facts,
    platform: Option<&str>,
) -> Result<Statements> {
    let mut all = Vec::new();
    for (name, bytes) in attest::beside(job, built, listed, facts)? {
        let name = named(&name, &how.prefix, platform);
        if listed.iter().any(|one| one.path == name.as_bytes()) {
            let text = format!("the result has a file {name:?} of its own");
            return Err(Error::new(ErrorKind::Exists, text)
                .with_hint("give the output attestation-prefix=PREFIX"));
        }
        all.push((name, bytes));
    }
    Ok(all)
}

/// `provenance.json`, `PREFIXprovenance.linux_amd64.json`.
fn named(name: &str, prefix: &str, platform: Option<&str>) -> String {
    match (platform, name.rsplit_once('.')) {
        (Some(platform), Some((stem, end))) => format!("{prefix}{stem}.{platform}.{end}"),
        (Some(platform), None) => format!("{prefix}{name}.{platform}"),
        (None, _) => format!("{prefix}{name}"),
    }
}

fn platform_of(built: &Built) -> String {
    let stage = &built.graph.stages[built.graph.target];
    stage.platform.to_string().replace('/', "_")
}

/// The files of one platform.
struct Part<'a> {
    built: &'a Built,
    tree: Tree,
    /// The directory that they are in.
    inside: Option<String>,
    statements: Statements,
}

/// What goes where, of all platforms.
fn parts<'a>(
    job: &Job<'_>,
    built: &'a [Built],
    split: Option<bool>,
    how: &How,
    facts: &Facts,
) -> Result<Vec<Part<'a>>> {
    let several = built.len() > 1;
    let split = split.unwrap_or(several);
    let together = several && !split;
    let mut taken: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    let mut parts = Vec::with_capacity(built.len());
    for one in built {
        let platform = platform_of(one);
        let tree = Tree::new(files(job, one)?, Owners::Kept, "the result");
        let listed = match together || job.asked.attest.any() {
            true => listing::list(&tree)?,
            false => Vec::new(),
        };
        let suffix = together.then_some(platform.as_str());
        let statements = statements(job, one, &listed, how, facts, suffix)?;
        for file in listed.into_iter().filter(|_| together) {
            let shown = String::from_utf8_lossy(&file.path).into_owned();
            if let Some(other) = taken.insert(file.path, platform.clone()) {
                let text = format!(
                    "cannot overwrite {shown} from {other} with {platform}, as platform-split is false"
                );
                return Err(Error::new(ErrorKind::Exists, text));
            }
        }
        parts.push(Part {
            built: one,
            tree,
            inside: split.then_some(platform),
            statements,
        });
    }
    Ok(parts)
}

/// `type=local`.
pub(super) fn local(
    job: &Job<'_>,
    built: &[Built],
    dest: &Path,
    split: Option<bool>,
    how: &How,
    facts: &Facts,
) -> Result<()> {
    for part in parts(job, built, split, how, facts)? {
        let mut dest = dest.to_owned();
        dest.extend(&part.inside);
        std::fs::create_dir_all(&dest).context(|| format!("cannot make {}", dest.display()))?;
        let root = open_directory(&dest)?;
        let request = Request::whole(part.tree);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let options = Options {
            times: Times::Keep,
            threads,
        };
        select(&request)?
            .execute(root.as_fd(), options)
            .context(|| format!("cannot write to {}", dest.display()))?;
        for (name, bytes) in &part.statements {
            write(&root, name, bytes, part.built.solved.epoch)
                .context(|| format!("cannot write {name} to {}", dest.display()))?;
        }
    }
    Ok(())
}

/// Writes a statement; one of an earlier build is replaced, whatever leads away from here is not followed.
fn write(root: &OwnedFd, name: &str, bytes: &[u8], seconds: i64) -> Result<()> {
    match rustix::fs::unlinkat(root, name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, name, flags, Mode::from_raw_mode(MODE))?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(&file, &times)?)
}

/// `type=tar`.
pub(super) fn archive(
    job: &Job<'_>,
    built: &[Built],
    dest: Option<&Path>,
    split: Option<bool>,
    how: &How,
    facts: &Facts,
) -> Result<()> {
    let parts = parts(job, built, split, how, facts)?;
    let sink: Box<dyn Write> = match dest {
        Some(path) => {
            Box::new(File::create(path).context(|| format!("cannot create {}", path.display()))?)
        }
        None => Box::new(io::stdout()),
    };
    let sink = io::BufWriter::with_capacity(BUFFER, sink);
    let mut sink = match parts.as_slice() {
        [part] if part.inside.is_none() && part.statements.is_empty() => {
            diff::write(part.tree.root(), options(job, part), sink)?
        }
        parts => {
            let mut writer = Writer::new(sink);
            for part in parts {
                append(job, part, &mut writer)?;
            }
            writer.finish()?
        }
    };
    sink.flush()
        .context(|| "cannot write an archive of the files")
}

fn options(job: &Job<'_>, part: &Part<'_>) -> diff::Options {
    let mut options = diff::Options::new(job.marks());
    options.latest = Some(part.built.solved.epoch);
    options
}

/// The archive of one platform as a part of a larger one.
fn append<W: Write>(job: &Job<'_>, part: &Part<'_>, writer: &mut Writer<W>) -> Result<()> {
    let seconds = part.built.solved.epoch;
    let inside = |path: &[u8]| match &part.inside {
        Some(directory) => [directory.as_bytes(), b"/", path].concat(),
        None => path.to_vec(),
    };
    if let Some(directory) = &part.inside {
        let entry = Entry {
            kind: Kind::Directory,
            mode: 0o755,
            ..entry(directory.as_bytes(), 0, seconds)
        };
        writer.append(&entry, &mut io::empty())?;
    }
    let (reader, pipe) = io::pipe().context(|| "cannot make a pipe")?;
    let options = options(job, part);
    std::thread::scope(|scope| -> Result<()> {
        let made = scope.spawn(move || -> Result<()> {
            let pipe = io::BufWriter::with_capacity(BUFFER, pipe);
            let mut pipe = diff::write(part.tree.root(), options, pipe)?;
            pipe.flush().context(|| "cannot write an archive")
        });
        let copied = (|| -> Result<()> {
            let mut reader = Reader::new(io::BufReader::with_capacity(BUFFER, reader));
            while let Some(mut entry) = reader.next_entry()? {
                entry.path = inside(&entry.path);
                if let Kind::Hardlink(target) = &mut entry.kind {
                    *target = inside(target).into();
                }
                writer.append(&entry, &mut Contents(&mut reader))?;
            }
            Ok(())
        })();
        let made = made
            .join()
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a thread panicked")));
        copied.and(made)
    })?;
    for (name, bytes) in &part.statements {
        let entry = entry(&inside(name.as_bytes()), bytes.len(), seconds);
        writer.append(&entry, &mut bytes.as_slice())?;
    }
    Ok(())
}

/// The contents of the entry that a reader is at.
struct Contents<'a, R: BufRead>(&'a mut Reader<R>);

impl<R: BufRead> Read for Contents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let data = self.0.data().map_err(io::Error::other)?;
        let length = data.len().min(buffer.len());
        buffer[..length].copy_from_slice(&data[..length]);
        self.0.consume(length);
        Ok(length)
    }
}

fn entry(path: &[u8], size: usize, seconds: i64) -> Entry {
    Entry {
        path: path.to_vec(),
        kind: Kind::Regular,
        size: size as u64,
        mode: MODE,
        uid: 0,
        gid: 0,
        mtime: Time {
            seconds,
            nanoseconds: 0,
        },
        attributes: Vec::new(),
        map: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(named("provenance.json", "", None), "provenance.json");
        assert_eq!(named("p", "", Some("linux_arm64")), "p.linux_arm64");
        assert_eq!(
            named("sbom.spdx.json", "x-", Some("linux_arm64")),
            "x-sbom.spdx.linux_arm64.json"
        );
    }
}
