//! Results that are files: `--output type=local` and `type=tar`, with what is attested of them.
//!
//! As BuildKit has it (`exporter/local`): statements stand beside the files as `provenance.json` and
//! `sbom.spdx.json`, each with `attestation-prefix` in front, and with the platform in the name if files of
//! several platforms come into one directory; there no file may replace that of another platform.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rcrun_builder::context::copy::{Options, Request, Times, select};
use rcrun_builder::context::listing::{self, Listed};
use rcrun_builder::context::tree::{Owners, Tree};
use rcrun_overlay::archive::{Entry, Kind, Time, Writer};
use rcrun_overlay::layer::diff;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use super::attest::{self, Facts};
use super::destination::How;
use super::job::{Built, Job, open_directory};
use super::outputs::files;

/// Who may read statements beside files.
const MODE: u32 = 0o600;
/// What ends an archive.
const END: usize = 1024;

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
        let name = named(name, &how.prefix, platform);
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
        _ => format!("{prefix}{name}"),
    }
}

fn platform_of(built: &Built) -> String {
    let stage = &built.graph.stages[built.graph.target];
    stage.platform.to_string().replace('/', "_")
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
    let several = built.len() > 1;
    let split = split.unwrap_or(several);
    let together = several && !split;
    let mut taken: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for one in built {
        let platform = platform_of(one);
        let mut dest = dest.to_owned();
        if split {
            dest.push(&platform);
        }
        let tree = Tree::new(files(job, one)?, Owners::Kept, "the result");
        let listed = match together || job.asked.attest.any() {
            true => listing::list(&tree)?,
            false => Vec::new(),
        };
        let suffix = together.then_some(platform.as_str());
        let statements = statements(job, one, &listed, how, facts, suffix)?;
        if together {
            for file in listed {
                let shown = String::from_utf8_lossy(&file.path).into_owned();
                if let Some(other) = taken.insert(file.path, platform.clone()) {
                    let text = format!(
                        "cannot overwrite {shown} from {other} with {platform}, as platform-split is false"
                    );
                    return Err(Error::new(ErrorKind::Exists, text));
                }
            }
        }
        std::fs::create_dir_all(&dest).context(|| format!("cannot make {}", dest.display()))?;
        let root = open_directory(&dest)?;
        let request = Request::whole(tree);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let options = Options {
            times: Times::Keep,
            threads,
        };
        select(&request)?
            .execute(root.as_fd(), options)
            .context(|| format!("cannot write to {}", dest.display()))?;
        for (name, bytes) in &statements {
            write(&root, name, bytes, one.solved.epoch)
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
    how: &How,
    facts: &Facts,
) -> Result<()> {
    let [built] = built else {
        return Err(Error::unsupported(
            "an archive of files is of one platform only",
        ));
    };
    let mut statements = Vec::new();
    if job.asked.attest.any() {
        let tree = Tree::new(files(job, built)?, Owners::Kept, "the result");
        let listed = listing::list(&tree)?;
        statements = self::statements(job, built, &listed, how, facts, None)?;
    }
    let sink: Box<dyn Write> = match dest {
        Some(path) => {
            Box::new(File::create(path).context(|| format!("cannot create {}", path.display()))?)
        }
        None => Box::new(io::stdout()),
    };
    let root = files(job, built)?;
    let mut options = diff::Options::new(job.marks());
    options.latest = Some(built.solved.epoch);
    let sink = io::BufWriter::with_capacity(128 << 10, sink);
    let mut sink = match statements.as_slice() {
        [] => diff::write(root.as_fd(), options, sink)?,
        statements => {
            let held = Held {
                sink,
                last: Vec::new(),
            };
            let held = diff::write(root.as_fd(), options, held)?;
            let mut writer = Writer::new(held.without_end()?);
            for (name, bytes) in statements {
                let entry = entry(name, bytes, built.solved.epoch);
                writer.append(&entry, &mut bytes.as_slice() as &mut dyn Read)?;
            }
            writer.finish()?
        }
    };
    sink.flush()
        .context(|| "cannot write an archive of the files")
}

fn entry(name: &str, bytes: &[u8], seconds: i64) -> Entry {
    Entry {
        path: name.as_bytes().to_vec(),
        kind: Kind::Regular,
        size: bytes.len() as u64,
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

/// Keeps the end of an archive back, so that more can be appended.
struct Held<W> {
    sink: W,
    last: Vec<u8>,
}

impl<W: Write> Held<W> {
    /// The archive so far.
    fn without_end(self) -> Result<W> {
        match self.last.len() == END && self.last.iter().all(|byte| *byte == 0) {
            true => Ok(self.sink),
            false => Err(Error::new(
                ErrorKind::Internal,
                "an archive ends in another way than all do",
            )),
        }
    }
}

impl<W: Write> Write for Held<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.last.extend_from_slice(bytes);
        let ready = self.last.len().saturating_sub(END);
        self.sink.write_all(&self.last[..ready])?;
        self.last.drain(..ready);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(named("provenance.json", "", None), "provenance.json");
        assert_eq!(
            named("sbom.spdx.json", "x-", Some("linux_arm64")),
            "x-sbom.spdx.linux_arm64.json"
        );
    }

    #[test]
    fn more_is_appended_to_an_archive() {
        let mut held = Held {
            sink: Vec::new(),
            last: Vec::new(),
        };
        for size in [1, 511, 3, 1500, 0, 2000] {
            held.write_all(&vec![7; size]).unwrap();
        }
        held.write_all(&[0; END]).unwrap();
        assert_eq!(held.without_end().unwrap(), vec![7; 4015]);
        let mut short = Held {
            sink: Vec::new(),
            last: Vec::new(),
        };
        short.write_all(&[0; END - 1]).unwrap();
        assert!(short.without_end().is_err());
    }
}
