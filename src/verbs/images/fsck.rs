//! `rcrun fsck`: whether everything in the store is what its name says, and what to do if not.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

use rcrun_builder::cache::Cache;
use rcrun_image::Digest;
use rcrun_image::document::{Document, ImageConfig, MAX_DOCUMENT};
use rcrun_image::names::{Names, Record};
use rcrun_image::platform::Platform;
use rcrun_image::pull::{self, DOWNLOADS, Request, Way};
use rcrun_image::reference::Reference;
use rcrun_image::registry::Cancel;
use rcrun_overlay::fsck::{self, Options, Problem, Repaired, Wrong};
use rcrun_overlay::layer::chain::chain_ids;
use rcrun_overlay::store::Store;
use rcrun_runtime::error::Result;

use crate::containers::volumes::Volumes;
use crate::containers::{Containers, is_id};
use crate::progress::to_stderr;
use crate::settings::Settings;
use crate::{images, interrupt, output, report, units};

pub(super) const USAGE: &str = "

Reads every blob from the disk and compares its digest with its name, reads every
record, and sees that each image has all of its blobs. Prints a line for each thing that is wrong.
With --repair, what is damaged is moved away and fetched again from where the
image's name says, by digest; records of layers are made anew from blobs. For what
cannot be made anew, it says what removes it. Files of unpacked layers and of
volumes are not looked at.

The exit code is that of fsck(8): 0 nothing wrong, 1 everything that was wrong is
repaired, 4 something is wrong still, 8 the check itself failed.";

/// check the store, and repair it
#[derive(Debug, clap::Parser)]
#[command(name = "fsck", disable_help_flag = true)]
pub(crate) struct Fsck {
    /// take credentials from this file
    #[arg(long, value_name = "FILE")]
    authfile: Option<String>,
    /// print nothing but what is wrong
    #[arg(long, short)]
    quiet: bool,
    /// repair what is wrong
    #[arg(long)]
    repair: bool,
}

/// Where names of images are.
const NAMES: &str = "images/names/";
/// Everything that was wrong is right.
const REPAIRED: u8 = 1;
/// Something is wrong still.
const WRONG: u8 = 4;

impl crate::verbs::Run for Fsck {
    fn run(self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        let cancel = Cancel::new();
        let read = AtomicU64::new(0);
        let told = !self.quiet && std::io::stderr().is_terminal();
        let tick = || match read.load(Ordering::Relaxed) {
            0 => {}
            bytes => to_stderr(&format!("\r\x1b[K{} checked\r", units::size(bytes))),
        };
        let tick: Option<&(dyn Fn() + Sync)> = told.then_some(&tick);
        let ended = interrupt::watched(&|| cancel.cancel(), tick, || {
            self.check(settings, &store, &cancel, &read)
        })?;
        match ended.exit_code().filter(|_| ended.result.is_err()) {
            Some(code) => {
                to_stderr("interrupted\n");
                Ok(code)
            }
            None => ended.result,
        }
    }
}

/// A blob that an image lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lack {
    name: String,
    digest: Digest,
    what: &'static str,
}

impl Fsck {
    fn check(
        &self,
        settings: &Settings,
        store: &Store,
        cancel: &Cancel,
        read: &AtomicU64,
    ) -> Result<u8> {
        let progress = |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
            cancel.check()
        };
        let mut report = fsck::check(store, &Options::default(), &progress)?;
        // Nothing more is drawn.
        read.store(0, Ordering::Relaxed);
        let names = records(store, &mut report.problems)?;
        for problem in &report.problems {
            output::print(&format!("{problem}\n"))?;
        }
        let lacks = lacks(store, &names)?;
        let known = |lack: &Lack| {
            let same = |problem: &Problem| problem.digest.as_ref() == Some(&lack.digest);
            report.problems.iter().any(same)
        };
        for lack in lacks.iter().filter(|lack| !known(lack)) {
            let Lack { name, digest, what } = lack;
            output::print(&format!("{name}: {what} {digest} is missing\n"))?;
        }
        let wrong = report.problems.len() + lacks.iter().filter(|lack| !known(lack)).count();
        if !self.quiet {
            let (count, bytes) = (report.checked, units::size(report.bytes));
            let names = names.len();
            to_stderr(&format!(
                "{count} blobs ({bytes}) and {names} names checked, {wrong} things wrong\n"
            ));
        }
        match (wrong, self.repair) {
            (0, _) => Ok(0),
            (_, false) => Ok(WRONG),
            (_, true) => self.repair(settings, store, cancel, &report.problems, &names),
        }
    }

    fn repair(
        &self,
        settings: &Settings,
        store: &Store,
        cancel: &Cancel,
        problems: &[Problem],
        names: &[Record],
    ) -> Result<u8> {
        let mut left = 0;
        // What is moved away does not tell any more that it was here.
        let mut wanted = Vec::new();
        for record in names {
            wanted.push((record, platforms(store, record)?));
        }
        for problem in problems {
            if problem.path.starts_with("layers/") {
                continue;
            }
            if let Some(what) = remedy(&problem.path) {
                left += 1;
                output::print(&format!("{}: left alone: {what}\n", problem.path))?;
                continue;
            }
            if let Some(name) = problem.path.strip_prefix(NAMES) {
                fsck::set_aside(store, &problem.path)?;
                left += 1;
                let name = name.trim_end_matches(".json").replace("%2F", "/");
                let path = &problem.path;
                let hint = "to have it again, pull it or tag it";
                output::print(&format!(
                    "{path}: moved away: there is no {name} now; {hint}\n"
                ))?;
                continue;
            }
            // What is fetched anew is fetched image by image, below.
            match fsck::repair(store, problem, &mut |_| Ok(false))? {
                Repaired::Fixed => output::print(&format!("{}: repaired\n", problem.path))?,
                Repaired::Missing => output::print(&format!("{}: moved away\n", problem.path))?,
                Repaired::Left => {
                    left += 1;
                    output::print(&format!("{}: left alone\n", problem.path))?;
                }
            }
        }
        for (record, platforms) in wanted {
            for platform in platforms {
                cancel.check()?;
                if lacks_of(store, record)?.is_empty() && all_there(store, record, &platform) {
                    continue;
                }
                if let Err(error) = self.complete(settings, store, cancel, record, &platform) {
                    cancel.check()?;
                    report::warn(&error.chain().to_string());
                }
            }
        }
        let layers = problems
            .iter()
            .filter(|problem| problem.path.starts_with("layers/"));
        for problem in layers {
            cancel.check()?;
            if renew(store, names, &problem.path, cancel)? {
                output::print(&format!("{}: repaired\n", problem.path))?;
                continue;
            }
            left += 1;
            let why = match is_built(store, &problem.path)? {
                true => "a step of a build made it: `rcrun prune --force --build-cache` removes it",
                false => "no image here has this layer: `rcrun prune --force` removes it",
            };
            output::print(&format!("{}: left alone: {why}\n", problem.path))?;
        }
        let lacks = lacks(store, names)?;
        for Lack { name, digest, what } in &lacks {
            output::print(&format!("{name}: {what} {digest} is missing still\n"))?;
        }
        Ok(match (lacks.len(), left) {
            (0, 0) => REPAIRED,
            _ => WRONG,
        })
    }

    fn complete(
        &self,
        settings: &Settings,
        store: &Store,
        cancel: &Cancel,
        record: &Record,
        platform: &Platform,
    ) -> Result<()> {
        let cancel = cancel.child();
        let client = images::client(settings, self.authfile.as_deref(), &cancel, None)?;
        let name: Reference = record.reference()?;
        let reference = name.with_digest(record.target.digest.clone());
        if !self.quiet {
            to_stderr(&format!("fetching what {} lacks\n", name.familiar()));
        }
        let request = Request {
            reference: &reference,
            platform,
            unpack: None,
            downloads: DOWNLOADS,
            watch: &|_| (),
            cancel: &cancel,
        };
        pull::complete(store, &client, &request).map(drop)
    }
}

/// What helps where nothing can be made anew: the record said what nobody else knows.
fn remedy(path: &str) -> Option<String> {
    let mut parts = path.split('/');
    match (parts.next()?, parts.next()?) {
        ("containers", id) => Some(format!("`rcrun rm --force {id}` removes the container")),
        ("snapshots", id) if is_id(id) => {
            Some(format!("`rcrun rm --force {id}` removes the container"))
        }
        ("volumes", name) => Some(format!(
            "its files are in volumes/{name}/data of the store, and `rcrun volume rm {name}` removes them"
        )),
        _ => None,
    }
}

/// Whether a layer is of the build cache.
fn is_built(store: &Store, path: &str) -> Result<bool> {
    let wanted = path.split('/').nth(1).unwrap_or_default();
    let Some(cache) = Cache::existing(store)? else {
        return Ok(false);
    };
    Ok(cache.layers()?.iter().any(|layer| layer.as_str() == wanted))
}

/// The names, and what is wrong with any record of the store.
fn records(store: &Store, problems: &mut Vec<Problem>) -> Result<Vec<Record>> {
    problems.extend(fsck::records(store)?);
    let damaged = |path: String, error: &rcrun_runtime::error::Error| Problem {
        path,
        digest: None,
        wrong: Wrong::Damaged(error.chain().to_string()),
    };
    if let Some(containers) = Containers::existing(store.path())? {
        // Of a container that is none any more: swept whatever it is like.
        let whole = |id: &str| {
            let found = containers.open_id(id);
            found.is_ok_and(|container| container.has_record())
        };
        problems.retain(|problem| match problem.path.strip_prefix("snapshots/") {
            Some(rest) => {
                let id = rest.split('/').next().unwrap_or_default();
                !is_id(id) || whole(id)
            }
            None => true,
        });
        containers.list(&mut |id, error| {
            problems.push(damaged(format!("containers/{id}/container.json"), &error));
        })?;
    }
    if let Some(volumes) = Volumes::existing(store)? {
        volumes.list(&mut |name, error| {
            problems.push(damaged(format!("volumes/{name}/volume.json"), &error));
        })?;
    }
    Names::new(store)?.survey(&mut |file, error| {
        problems.push(damaged(format!("{NAMES}{file}"), &error));
    })
}

/// Writes the record of a layer anew, with the help of an image that has it, by name or for a container;
/// false if none has.
fn renew(store: &Store, names: &[Record], path: &str, cancel: &Cancel) -> Result<bool> {
    let wanted = path.split('/').nth(1).unwrap_or_default();
    let mut waiting: Vec<Digest> = names
        .iter()
        .map(|record| record.target.digest.clone())
        .collect();
    // Who has a damaged record too is told of elsewhere.
    if let Some(containers) = Containers::existing(store.path())? {
        let all = containers.list(&mut |_, _| {})?.into_iter();
        waiting.extend(all.filter_map(|(_, record)| record.image.manifest.parse().ok()));
    }
    while let Some(digest) = waiting.pop() {
        let manifest = match document(store, &digest) {
            Some(Document::Manifest(manifest)) => manifest,
            Some(Document::Index(index)) => {
                waiting.extend(index.manifests.iter().map(|entry| entry.digest.clone()));
                continue;
            }
            None => continue,
        };
        let config = store
            .content()
            .read(&manifest.config.digest, MAX_DOCUMENT as u64);
        let Ok(Some(config)) = config else { continue };
        let Ok(config) = ImageConfig::read(&config) else {
            continue;
        };
        let diff_ids = &config.rootfs.diff_ids;
        let layers = manifest.layers.iter().zip(diff_ids);
        for ((blob, diff_id), chain) in layers.zip(chain_ids(diff_ids)) {
            for way in Way::ALL {
                let id = pull::layer_id(&chain, way)?;
                if id.as_str() == wanted {
                    pull::renew_layer(store, &id, &blob.digest, diff_id, way, cancel)?;
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

fn lacks(store: &Store, names: &[Record]) -> Result<Vec<Lack>> {
    let mut all = Vec::new();
    for record in names {
        all.extend(lacks_of(store, record)?);
    }
    Ok(all)
}

/// A document that is there and right.
fn document(store: &Store, digest: &Digest) -> Option<Document> {
    let bytes = store.content().read(digest, MAX_DOCUMENT as u64).ok()??;
    Document::read(&bytes, None).ok()
}

/// Which blobs of a name's images are not there. Of an index, one image at least has to be.
fn lacks_of(store: &Store, record: &Record) -> Result<Vec<Lack>> {
    let mut lacks = Vec::new();
    let lack = |digest: &Digest, what| Lack {
        name: record.name.clone(),
        digest: digest.clone(),
        what,
    };
    let mut waiting = vec![(record.target.digest.clone(), true)];
    while let Some((digest, required)) = waiting.pop() {
        match document(store, &digest) {
            Some(Document::Index(index)) => {
                let here = |digest: &Digest| document(store, digest).is_some();
                let none = !index.manifests.iter().any(|entry| here(&entry.digest));
                if none {
                    lacks.push(lack(&digest, "every manifest of"));
                }
                let entries = index.manifests.iter();
                waiting.extend(entries.map(|entry| (entry.digest.clone(), false)));
            }
            Some(Document::Manifest(manifest)) => {
                let config = &manifest.config.digest;
                let content = store.content();
                let read = content.read(config, MAX_DOCUMENT as u64);
                let right = matches!(&read, Ok(Some(bytes)) if ImageConfig::read(bytes).is_ok());
                if !right {
                    lacks.push(lack(config, "configuration"));
                }
                for layer in &manifest.layers {
                    if !content.contains(&layer.digest)? {
                        lacks.push(lack(&layer.digest, "layer"));
                    }
                }
            }
            None if required => lacks.push(lack(&digest, "manifest")),
            None => {}
        }
    }
    Ok(lacks)
}

/// Whether the manifest for a platform is here, if there is one: an image that is not here at all lacks
/// nothing otherwise.
fn all_there(store: &Store, record: &Record, platform: &Platform) -> bool {
    match document(store, &record.target.digest) {
        Some(Document::Index(index)) => index
            .select(platform)
            .is_ok_and(|entry| document(store, &entry.digest).is_some()),
        Some(Document::Manifest(_)) => true,
        None => false,
    }
}

/// For which platforms a name has images, as far as can be told; this machine's if it cannot.
fn platforms(store: &Store, record: &Record) -> Result<Vec<Platform>> {
    let mut platforms = Vec::new();
    if let Some(Document::Index(index)) = document(store, &record.target.digest) {
        for entry in &index.manifests {
            let damaged = || store.content().contains(&entry.digest).unwrap_or(false);
            if let Some(platform) = &entry.platform
                && (document(store, &entry.digest).is_some() || damaged())
            {
                platforms.push(platform.normalized());
            }
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    Ok(platforms)
}
