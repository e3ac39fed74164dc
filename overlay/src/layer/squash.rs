//! Several layers as one: what they change together of those below them, for `build --squash`.
//!
//! Files are linked, not copied: layers never change. Deletions stay only where something below is to be
//! deleted, so the result is what one step would have made that did all of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, Stat, XattrFlags};
use rustix::io::Errno;

use super::attributes::{Fresh, complete_directory, of_stat, read_extended};
use super::merged::is_opaque;
use super::options::Overlay;
use super::store::{Layer, Layers};
use super::tree::{is_whiteout, names, readable};
use crate::archive::name::show;
use crate::lease::{LayerId, Lease};
use crate::{Context, Error, ErrorKind, Result};

/// How deep directories may be inside one another.
const DEPTH: usize = 1024;

/// The directories that merge at one path, top first; those of layers that stay below come last.
struct Level {
    upper: Vec<OwnedFd>,
    lower: Vec<OwnedFd>,
}

/// What a name is.
enum Found {
    /// Deleted, or never there.
    Nothing,
    /// A directory, and whether it hides what is below.
    Directory(Level, bool),
    /// A file in the directory of this number.
    File(usize),
    /// A deletion of something that is there, in the directory of this number.
    Deletion(usize),
}

impl Layers {
    /// Makes one layer of some (`upper`) above others (`lower`), all lowest first. It is published.
    pub fn squash(
        &self,
        lease: &Lease,
        id: &LayerId,
        lower: &[LayerId],
        upper: &[LayerId],
        marks: Overlay,
    ) -> Result<Layer> {
        let squash = || -> Result<Layer> {
            let begun = self.begin_built(lease, id, lower, marks)?;
            let mut level = Level {
                upper: Vec::new(),
                lower: Vec::new(),
            };
            for (ids, into) in [(upper, &mut level.upper), (lower, &mut level.lower)] {
                for id in ids.iter().rev() {
                    let gone = || Error::new(ErrorKind::NotFound, format!("no layer {id}"));
                    let layer = self.get(id)?.ok_or_else(gone)?;
                    let odd = layer.record.opaque || layer.record.stand_ins;
                    if odd && std::ptr::eq(ids, upper) {
                        let text = format!("layer {id} hides or deletes in a way of its own");
                        return Err(Error::unsupported(text));
                    }
                    let root = readable(layer.diff()).context(|| "cannot open a layer")?;
                    into.push(root);
                    if layer.record.opaque {
                        break;
                    }
                }
            }
            let to = readable(begun.diff()).context(|| "cannot open the layer")?;
            Squash { marks }.directory(&to, &level, 0)?;
            if let Some(top) = level.upper.first() {
                like(top.as_fd(), to.as_fd())?;
            }
            self.publish_built(begun)
        };
        squash().context(|| format!("cannot squash {} layers", upper.len()))
    }
}

struct Squash {
    marks: Overlay,
}

impl Squash {
    fn directory(&self, to: &OwnedFd, level: &Level, depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(Error::invalid(format!(
                "more than {DEPTH} directories inside one another"
            )));
        }
        let mut all = std::collections::BTreeSet::new();
        for directory in &level.upper {
            all.extend(names(directory)?);
        }
        for name in all {
            let context = || format!("cannot take over {}", show(&name));
            match self.find(level, &name).context(context)? {
                Found::Nothing => {}
                Found::File(index) | Found::Deletion(index) => {
                    let from = &level.upper[index];
                    rustix::fs::linkat(from, &*name, to, &*name, AtFlags::empty())
                        .context(context)?;
                }
                Found::Directory(inner, hides) => {
                    rustix::fs::mkdirat(to, &*name, Mode::from(0o700)).context(context)?;
                    let made = super::tree::refer(to.as_fd(), &name)?;
                    let made = readable(&made).context(context)?;
                    self.directory(&made, &inner, depth + 1)?;
                    like(inner.upper[0].as_fd(), made.as_fd()).context(context)?;
                    if hides {
                        let mark = self.marks.attribute("opaque");
                        rustix::fs::fsetxattr(&made, mark, b"y", XattrFlags::empty())
                            .context(context)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn find(&self, level: &Level, name: &[u8]) -> Result<Found> {
        let below = |level: &Level| -> Result<bool> {
            for directory in &level.lower {
                if let Some(stat) = stat(directory, name)? {
                    return Ok(!is_whiteout(&stat));
                }
            }
            Ok(false)
        };
        let mut inner = Level {
            upper: Vec::new(),
            lower: Vec::new(),
        };
        for (index, directory) in level.upper.iter().enumerate() {
            let Some(stat) = stat(directory, name)? else {
                continue;
            };
            let first = inner.upper.is_empty();
            if !is_directory(&stat) {
                return Ok(match (first, is_whiteout(&stat)) {
                    (true, true) if below(level)? => Found::Deletion(index),
                    (true, true) => Found::Nothing,
                    (true, false) => Found::File(index),
                    (false, _) => Found::Directory(inner, below(level)?),
                });
            }
            inner.upper.push(enter(directory, name)?);
            if is_opaque(inner.upper[inner.upper.len() - 1].as_fd(), self.marks)? {
                return Ok(Found::Directory(inner, below(level)?));
            }
        }
        for directory in &level.lower {
            match stat(directory, name)? {
                None => {}
                Some(stat) if is_directory(&stat) => {
                    let opened = enter(directory, name)?;
                    let last = is_opaque(opened.as_fd(), self.marks)?;
                    inner.lower.push(opened);
                    if last {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        Ok(Found::Directory(inner, false))
    }
}

fn stat(directory: &OwnedFd, name: &[u8]) -> Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        other => other.context(|| "stat").map(Some),
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn enter(directory: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    let found = super::tree::refer(directory.as_fd(), name)?;
    readable(&found).context(|| "cannot open a directory")
}

/// Gives a directory what another one has.
fn like(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let stat = rustix::fs::fstat(from).context(|| "cannot examine a directory")?;
    let attributes = of_stat(&stat, read_extended(from)?);
    let fresh = Fresh {
        umask: 0,
        owner: None,
        chown: true,
    };
    complete_directory(to, &attributes, fresh, &mut 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::built::layer_id;
    use crate::layer::diff;
    use crate::snapshot::{Mounting, Stack};
    use crate::store::Store;
    use crate::{Digest, compress::Compression};
    use std::os::fd::AsRawFd;
    use std::process::Command;

    fn id(text: &str) -> LayerId {
        layer_id(&Digest::of(text.as_bytes()), Overlay::Trusted).unwrap()
    }

    /// Makes a layer by a shell's commands.
    fn make(layers: &Layers, lease: &Lease, below: &[LayerId], script: &str) -> LayerId {
        let id = id(&format!("{script}{}", below.len()));
        let begun = layers
            .begin_built(lease, &id, below, Overlay::Trusted)
            .unwrap();
        let how = Mounting {
            volatile: true,
            ..Mounting::default()
        };
        let mounted = layers
            .mount_built(&id, below, Overlay::Trusted, &how)
            .unwrap();
        let fd = rustix::io::dup(&mounted).unwrap();
        let path = format!("/proc/{}/fd/{}/.", std::process::id(), fd.as_raw_fd());
        let script = format!("cd {path} && {script}");
        let done = Command::new("sh").args(["-ec", &script]).status().unwrap();
        assert!(done.success(), "{script}");
        drop((mounted, fd));
        layers.publish_built(begun).unwrap();
        id
    }

    fn listing(store: &Store, layers: &[LayerId]) -> String {
        let stack = Stack::open(store, layers, Overlay::Trusted).unwrap();
        let root = stack.detached(&Mounting::default()).unwrap();
        let path = format!("/proc/{}/fd/{}/.", std::process::id(), root.as_raw_fd());
        let show = format!(
            "cd {path} && find . -mindepth 1 -printf '%P %y %m %U:%G %l %T@\\n' | sort && find . -type f | sort | xargs cat"
        );
        let output = Command::new("sh").args(["-ec", &show]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn several_layers_are_one_with_the_same_files() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root mounts");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let layers = Layers::new(&store).unwrap();
        let lease = store.lease().unwrap();
        let base = make(
            &layers,
            &lease,
            &[],
            "mkdir -p d/e f/g h; for x in a b d/1 d/e/2 f/3 f/g/4 h/5; do echo $x >$x; done; ln -s a l",
        );
        let mut all = vec![base.clone()];
        for script in [
            // Files, and directories upon directories.
            "echo A >a; mkdir n; echo n >n/1; echo 6 >d/6; chmod 700 d; chown 3:4 n/1; echo t >temporary",
            // Deletions, of below and of ours; a directory that begins anew.
            "rm b temporary; rm -r f; mkdir f; echo new >f/new; ln n/1 n/2; rm -r h",
            // A file in place of a directory, a directory in place of a file, a deletion undone.
            "rm -r d/e; echo file >d/e; rm l; mkdir l; echo in >l/in; echo back >b; rm n/1; echo other >n/1",
            "rm f/new; mkdir h; echo again >h/7; touch -d @5 n; rm -r n; mkdir -p n/deep; echo x >n/deep/x",
        ] {
            all.push(make(&layers, &lease, &all, script));
        }
        let one = id("squashed");
        layers
            .squash(&lease, &one, &all[..1], &all[1..], Overlay::Trusted)
            .unwrap();
        let both = [base.clone(), one.clone()];
        assert_eq!(listing(&store, &both), listing(&store, &all));
        // Its archive has no deletion of what was never below.
        let open = layers.get(&one).unwrap().unwrap();
        let options = diff::Options::new(Overlay::Trusted);
        let (_, tar) = diff::pack(open.diff(), options, Compression::None, 1, Vec::new()).unwrap();
        let text = String::from_utf8_lossy(&tar).into_owned();
        assert!(!text.contains("temporary") && !text.contains("n/.wh."));
        assert!(text.contains(".wh..wh..opq") && !text.contains(".wh.b"));
        // All of them, upon nothing.
        let alone = id("alone");
        layers
            .squash(&lease, &alone, &[], &all, Overlay::Trusted)
            .unwrap();
        assert_eq!(
            listing(&store, std::slice::from_ref(&alone)),
            listing(&store, &all)
        );
    }
}
