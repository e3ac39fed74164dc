//! `RUN --mount`: cache directories, secrets, agents.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;

use rcrun_overlay::durable::{self, open_directory};
use rcrun_overlay::lease::LayerId;
use rcrun_overlay::lock;
use rcrun_overlay::snapshot::{Mounting, Stack};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::Solver;
use super::copy::threads;
use crate::context::copy::{Options, Request, Times, select};
use crate::context::tree::{Owners, Tree};
use crate::dockerfile::Sharing;
use crate::graph::RunMount;
use crate::runner::StepMount;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// How many private copies of a cache directory there may be.
const COPIES: usize = 1000;
/// The files of a cache directory.
pub(crate) const DATA: &str = "data";

impl Solver<'_> {
    /// What the step's process is told; none for what is not there and need not be.
    pub(super) fn step_mount(
        &self,
        mount: &RunMount,
        layers: Option<&Vec<LayerId>>,
        secret: Option<&[u8]>,
        held: &mut Vec<OwnedFd>,
        agents: &mut Vec<String>,
    ) -> Result<Option<StepMount>> {
        Ok(Some(match mount {
            RunMount::Bind {
                source,
                target,
                read_only,
                ..
            } => StepMount::Layers {
                layers: layers.cloned().unwrap_or_default(),
                source: source.clone(),
                target: target.clone(),
                read_only: *read_only,
            },
            RunMount::Cache {
                source,
                target,
                id,
                sharing,
                read_only,
                made,
                ..
            } => {
                let (path, lock) = self.cache_directory(id, *sharing, *made, layers)?;
                held.push(lock);
                StepMount::Directory {
                    path,
                    source: source.clone(),
                    target: target.clone(),
                    read_only: *read_only,
                }
            }
            RunMount::Tmpfs {
                target,
                size,
                read_only,
            } => StepMount::Tmpfs {
                target: target.clone(),
                size: *size,
                read_only: *read_only,
            },
            RunMount::Secret {
                target: Some(target),
                file,
                ..
            } => match secret {
                Some(contents) => StepMount::File {
                    target: target.clone(),
                    contents: contents.to_vec(),
                    attributes: *file,
                },
                None => return Ok(None),
            },
            RunMount::Secret { target: None, .. } => return Ok(None),
            RunMount::Ssh {
                id,
                target,
                required,
                file,
            } => match self.settings.agents.get(id) {
                Some(path) => {
                    agents.push(target.clone());
                    StepMount::Socket {
                        target: target.clone(),
                        path: path.clone(),
                        attributes: *file,
                    }
                }
                None if *required => {
                    let text = format!("no SSH key or agent {id:?} was given to the build");
                    return Err(Error::new(ErrorKind::NotFound, text)
                        .with_hint(format!("`--ssh {id}` forwards the agent of SSH_AUTH_SOCK")));
                }
                None => return Ok(None),
            },
        }))
    }

    /// A cache directory, made if there is none, relative to the store; held as long as the descriptor.
    fn cache_directory(
        &self,
        id: &str,
        sharing: Sharing,
        made: (u32, u32, u32),
        from: Option<&Vec<LayerId>>,
    ) -> Result<(String, OwnedFd)> {
        // As BuildKit: directories that begin differently are different ones.
        let mut identity = format!("{id}\n{made:?}");
        for layer in from.into_iter().flatten() {
            identity.push_str(&format!("\n{layer}"));
        }
        let name = Digest::of(identity.as_bytes());
        if from.is_none() {
            // Layers have other names elsewhere.
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.mounts.insert(name.clone());
        }
        let name = name.hex().to_owned();
        let all = self.cache.directory("mounts")?;
        let context = || format!("cannot use the cache directory {id}");
        for number in 0..COPIES {
            let name = match number {
                0 => name.clone(),
                number => format!("{name}-{number}"),
            };
            self.make_cache(&all, &name, id, made, from)
                .context(context)?;
            let directory = open_directory(&all, &name).context(context)?;
            let held = match sharing {
                Sharing::Private => match lock::try_hold(directory)? {
                    Some(held) => held,
                    None => continue,
                },
                sharing => {
                    let alone = sharing == Sharing::Locked;
                    lock::hold(directory, alone, &mut |_| self.cancel.check()).context(context)?
                }
            };
            return Ok((format!("build/mounts/{name}/{DATA}"), held));
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("{COPIES} builds use the cache directory {id}"),
        ))
    }

    fn make_cache(
        &self,
        all: &OwnedFd,
        name: &str,
        id: &str,
        (mode, uid, gid): (u32, u32, u32),
        from: Option<&Vec<LayerId>>,
    ) -> Result<()> {
        if rustix::fs::statat(all, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(());
        }
        let temporary = durable::temporary_name();
        rustix::fs::mkdirat(all, &temporary, Mode::from(0o700))?;
        let directory = open_directory(all, &temporary)?;
        rustix::fs::mkdirat(&directory, DATA, Mode::from(0o700))?;
        let data = open_directory(&directory, DATA)?;
        match from {
            Some(layers) => self.fill(&data, layers)?,
            None => {
                if let Ok(digest) = format!("sha256:{name}").parse() {
                    self.imported_mount(&digest, &data)?;
                }
            }
        }
        rustix::fs::fchown(&data, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .context(|| "cannot set its owner")?;
        rustix::fs::fchmod(&data, Mode::from(mode)).context(|| "cannot set its mode")?;
        durable::replace_unsynced(&directory, "id", id.as_bytes(), Mode::from(0o600))?;
        match rustix::fs::renameat(all, &temporary, all, name) {
            Ok(()) => Ok(()),
            // Somebody else was first.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let _ = rustix::fs::unlinkat(&directory, "id", AtFlags::empty());
                let _ = rustix::fs::unlinkat(&directory, DATA, AtFlags::REMOVEDIR);
                let _ = rustix::fs::unlinkat(all, &temporary, AtFlags::REMOVEDIR);
                Ok(())
            }
            Err(errno) => Err(errno).context(|| format!("cannot rename {temporary} to {name}")),
        }
    }

    /// What a cache directory has at first.
    fn fill(&self, data: &OwnedFd, layers: &[LayerId]) -> Result<()> {
        let stack = Stack::open(self.store, layers, self.marks)?;
        let mounted = stack.detached(&Mounting::default())?;
        let root = rustix::fs::openat(
            &mounted,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .context(|| "cannot open what a cache directory has at first")?;
        let tree = Tree::new(root, Owners::Kept, "what a cache directory has at first");
        let request = Request::whole(tree);
        let options = Options {
            times: Times::Keep,
            threads: threads(),
        };
        select(&request)?.execute(data.as_fd(), options).map(drop)
    }
}
