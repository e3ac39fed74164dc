//! `COPY` and `ADD`, and files of a context as layers.

use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcrun_overlay::layer::merged::{Found, Merged};
use rcrun_overlay::lease::LayerId;
use rcrun_overlay::snapshot::Stack;
use rustix::fs::{Mode, OFlags};

use super::access::{accounts_of, owner};
use super::key::Key;
use super::{Material, Prepared, Solved, Solver, below};
use crate::attest::address::redacted;
use crate::cache::Entry;
use crate::context::copy::{
    Chmod, Options, Owner, Request, Selection, Source, Times, Unpack, select,
};
use crate::context::tree::Tree;
use crate::context::{git, http};
use crate::graph::{self, CopyOp, CopySource};
use crate::{Context, Digest, Error, Result};

/// What is copied.
pub(crate) struct Work {
    selection: Selection,
    /// Later modification times become this, or all do.
    times: Times,
    /// What was fetched, until it is copied.
    _scratch: Vec<Scratch>,
}

/// What a quick key leads to.
#[derive(serde::Serialize, serde::Deserialize)]
struct Known {
    key: Digest,
}

/// A directory that goes with it.
pub(super) struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed goes with the build's directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Solver<'_> {
    /// `anew`: it is going to be done in any case.
    pub(super) fn prepare_copy(
        &self,
        state: &Solved,
        op: &CopyOp,
        anew: bool,
    ) -> Result<Prepared<'_>> {
        let quick = self.quick_key(state, op)?;
        if let Some(quick) = quick.as_ref().filter(|_| !anew)
            && let Some(known) = self.cache.noted::<Known>("quick", quick.hex())
            && self.hit(&known.key, &below(&state.layers))?.is_some()
        {
            return Ok(Prepared {
                key: known.key,
                work: super::Work::Known,
                inputs: Vec::new(),
            });
        }
        let prepared = self.prepare_files(state, op)?;
        if let Some(quick) = quick {
            let key = prepared.key.clone();
            self.cache.note("quick", quick.hex(), &Known { key })?;
        }
        Ok(prepared)
    }

    /// A key of what files are copied from instead of the files: a stage that is the same has the same.
    fn quick_key(&self, state: &Solved, op: &CopyOp) -> Result<Option<Digest>> {
        let graph::Source::Stage(index) = op.from else {
            return Ok(None);
        };
        let from = self.wait(index)?;
        let names: Vec<&str> = from.layers.iter().map(LayerId::as_str).collect();
        // Debug texts are stable as long as the program is, and that is long enough.
        let op = format!("{op:?}");
        let key = Key::new("quick copy")
            .digest("below", &state.key)
            .list("from", &names);
        let key = key
            .number("epoch", state.epoch.cast_unsigned())
            .text("op", &op);
        Ok(Some(key.finish()))
    }

    /// A digest of a part of a stage, for mounts: whoever mounts it depends on nothing else of the stage.
    pub(super) fn part_of(&self, index: usize, source: &str) -> Result<Digest> {
        let solved = self.wait(index)?;
        let inner = source.trim_matches('/');
        if inner.is_empty() || self.graph.stages[index].steps.is_empty() {
            return Ok(solved.key.clone());
        }
        let names: Vec<&str> = solved.layers.iter().map(LayerId::as_str).collect();
        let quick = Key::new("quick part")
            .list("from", &names)
            .text("path", inner)
            .finish();
        if let Some(known) = self.cache.noted::<Known>("quick", quick.hex()) {
            return Ok(known.key);
        }
        let request = Request::of(self.tree(index)?.0, inner);
        let key = select(&request)?.checksum(threads(), Some(&self.stats))?;
        let known = Known { key: key.clone() };
        self.cache.note("quick", quick.hex(), &known)?;
        Ok(key)
    }

    fn prepare_files(&self, state: &Solved, op: &CopyOp) -> Result<Prepared<'_>> {
        let (tree, of_host) = match op.from {
            graph::Source::Context => (self.context.clone(), true),
            graph::Source::Stage(index) => (self.tree(index)?.0, false),
        };
        let mut scratch = Vec::new();
        let mut remote = Vec::new();
        let mut sources = Vec::with_capacity(op.sources.len());
        for source in &op.sources {
            sources.push(match source {
                CopySource::Path(path) => Source::Path {
                    tree: tree.clone(),
                    path: path.clone(),
                },
                CopySource::Inline { name, contents } => Source::Inline {
                    name: name.clone(),
                    contents: contents.clone().into_bytes(),
                },
                CopySource::Http(url) => {
                    let directory = self.scratch()?;
                    let source = self.fetch(url, op.checksum.as_deref(), &directory.0)?;
                    if let Source::Download(download) = &source {
                        self.used(Material::file(url, &download.digest));
                    }
                    scratch.push(directory);
                    source
                }
                CopySource::Git(url) => {
                    let directory = self.scratch()?;
                    let (source, commit) = self.clone_of(url, op, &directory.0)?;
                    remote.push(commit);
                    scratch.push(directory);
                    source
                }
            });
        }
        let request = Request {
            sources,
            dest: op.dest.clone(),
            owner: op
                .chown
                .as_ref()
                .map(|text| self.owner_of(state, text))
                .transpose()?,
            chmod: op.chmod.as_deref().map(Chmod::parse).transpose()?,
            parents: op.parents,
            exclude: op.exclude.clone(),
            unpack: op.unpack,
        };
        let selection = select(&request)?;
        let checksum = selection.checksum(threads(), Some(&self.stats))?;
        let epoch = time(state.epoch);
        // Times of the host's files, and of a clone's, say when they were checked out, and nothing about
        // them; that of a download is the server's.
        let download = |source: &CopySource| matches!(source, CopySource::Http(_));
        let times = match of_host && !op.sources.iter().any(download) {
            true => Times::Set(epoch),
            false => Times::Clamp(epoch),
        };
        let key = Key::new("copy")
            .digest("below", &state.key)
            .digest("files", &checksum)
            .number("epoch", state.epoch.cast_unsigned())
            .number("link", op.link.into())
            .number("host", of_host.into());
        let inputs = vec![
            ("the previous step".to_owned(), state.key.to_string()),
            ("what is copied".to_owned(), checksum.to_string()),
            ("the time of files".to_owned(), state.epoch.to_string()),
        ];
        Ok(Prepared {
            key: key.finish(),
            work: super::Work::Copy(Work {
                selection,
                times,
                _scratch: scratch,
            }),
            inputs,
        })
    }

    pub(super) fn perform_copy(
        &self,
        state: &Solved,
        op: &CopyOp,
        work: &Work,
        key: &Digest,
    ) -> Result<LayerId> {
        let options = Options {
            times: work.times,
            threads: threads(),
        };
        // With a mode BuildKit does without a link, too.
        if op.link && op.chmod.is_none() {
            return self.link(state, work, options, key);
        }
        self.layer(key, &state.layers, |_, root| {
            work.selection.execute(root.as_fd(), options).map(drop)
        })
    }

    /// `--link`: copied into an empty directory, whatever is below. Directories that only lead to what is
    /// copied look as they do below, or they would change there.
    fn link(&self, state: &Solved, work: &Work, options: Options, key: &Digest) -> Result<LayerId> {
        self.layer_apart(key, &state.layers, |changes| {
            let report = work.selection.execute(changes, options)?;
            let stack = Stack::open(self.store, &state.layers, self.marks)?;
            let lowers = stack.lowers();
            let mut merged = Merged::new(&lowers, self.marks)?;
            for path in &report.implied {
                let found = merged.find(path)?;
                if let Some(found) = found.filter(Found::is_directory) {
                    found.give_attributes(changes, path)?;
                }
            }
            Ok(())
        })
    }

    /// Files of a tree as a layer of its own, at the same paths: for mounts and for stages that begin with
    /// files.
    pub(super) fn materialize(
        &self,
        tree: &Tree,
        source: &str,
        epoch: i64,
    ) -> Result<(LayerId, Digest)> {
        let inner = source.trim_matches('/');
        let request = Request {
            sources: vec![Source::Path {
                tree: tree.clone(),
                path: if inner.is_empty() {
                    ".".to_owned()
                } else {
                    inner.to_owned()
                },
            }],
            // Links that are named are followed, so what they lead to is there by the name that is mounted.
            dest: format!("/{inner}"),
            owner: None,
            chmod: None,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::No,
        };
        let selection = select(&request)?;
        let checksum = selection.checksum(threads(), Some(&self.stats))?;
        let key = Key::new("files")
            .text("path", inner)
            .digest("files", &checksum)
            .number("epoch", epoch.cast_unsigned());
        let key = key.finish();
        let nothing = below(&[]);
        if let Some(layer) = self.hit(&key, &nothing)? {
            return Ok((layer, key));
        }
        let _turn = self.turn(&key)?;
        if let Some(layer) = self.hit(&key, &nothing)? {
            return Ok((layer, key));
        }
        let options = Options {
            times: Times::Set(time(epoch)),
            threads: threads(),
        };
        let layer = self.layer(&key, &[], |_, root| {
            selection.execute(root.as_fd(), options).map(drop)
        })?;
        let entry = Entry::new(layer.clone(), nothing, "files of a context", Duration::ZERO);
        self.cache.put(&key, &entry)?;
        Ok((layer, key))
    }

    fn owner_of(&self, state: &Solved, text: &str) -> Result<Owner> {
        self.complete(&state.layers)?;
        let accounts = accounts_of(self.store, &state.layers, self.marks)?;
        owner(&accounts, text)
    }

    fn used(&self, material: Material) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.materials.insert(material);
    }

    pub(super) fn scratch(&self) -> Result<Scratch> {
        let path = self
            .settings
            .scratch
            .join(rcrun_overlay::durable::temporary_name());
        std::fs::create_dir(&path).context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }

    fn fetch(
        &self,
        url: &str,
        checksum: Option<&str>,
        directory: &std::path::Path,
    ) -> Result<Source> {
        let checksum: Option<Digest> = checksum.map(str::parse).transpose()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = rustix::fs::open(directory, flags, Mode::empty())
            .context(|| format!("cannot open {}", directory.display()))?;
        let web = http::client(&self.settings.git.notice);
        let request = http::Request {
            url,
            name: None,
            checksum: checksum.as_ref(),
            etag: None,
            credentials: &self.settings.git.credentials,
            typed: false,
        };
        match http::fetch(&web, &request, at.as_fd())? {
            http::Fetched::New(download) => Ok(Source::Download(download)),
            http::Fetched::Unchanged => Err(Error::invalid(format!(
                "{}: the server sent nothing",
                redacted(url)
            ))),
        }
    }

    fn clone_of(
        &self,
        url: &str,
        op: &CopyOp,
        scratch: &std::path::Path,
    ) -> Result<(Source, String)> {
        let invalid = || Error::invalid(format!("{} is no git repository", redacted(url)));
        let mut address = git::parse(url)?.ok_or_else(invalid)?;
        if let (Some(said), Some(asked)) = (address.keep_git_dir, op.keep_git_dir)
            && said != asked
        {
            return Err(Error::invalid("inconsistent keep-git-dir configuration"));
        }
        if let Some(checksum) = &op.checksum {
            if address
                .checksum
                .as_ref()
                .is_some_and(|said| said != checksum)
            {
                let said = address.checksum.unwrap_or_default();
                return Err(Error::invalid(format!(
                    "checksum mismatch {checksum:?} != {said:?}"
                )));
            }
            address.checksum = Some(checksum.clone());
        }
        let settings = git::Settings {
            keep_git_dir: op.keep_git_dir.unwrap_or(false),
            ..self.settings.git.clone()
        };
        let resolved = git::resolve(&address, &settings)?;
        let reference = address.reference.as_deref();
        self.used(Material::commit(
            &address.shown(),
            reference,
            &resolved.commit,
        ));
        let tree = git::checkout(&address, &resolved, &settings, scratch)?;
        Ok((Source::Checkout(tree), resolved.commit))
    }
}

pub(super) fn time(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
    }
}

pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
