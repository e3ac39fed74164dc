//! What the user's arguments mean: the context, the Dockerfile, the ignore file.
//!
//! As docker build has it. Ignore files count for directories of the host only; what comes as an
//! archive or from git is taken whole, as BuildKit takes it. A Dockerfile of such a context is looked
//! for inside of it, links included.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcrun_image::registry::Notice;
use rcrun_overlay::compress::Limits;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::copy::{Times, detect_archive, open_archive, rewind, unpack_into};
use super::credentials::Credentials;
use super::dated::Dated;
use super::git;
use super::http;
use super::ignore::{FILE_BYTES, Ignore};
pub use super::origin::Origin;
use super::tree::{Owners, Tree};
use super::view::{Found, View};
use crate::attest::address::redacted;
use crate::{Context as _, Error, ErrorKind, Result};

/// Largest Dockerfile.
const DOCKERFILE_BYTES: u64 = 16 << 20;
/// Largest archive on standard input.
const INPUT_BYTES: u64 = 64 << 30;
const DEFAULT: &str = "Dockerfile";

/// Where a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of the host.
    Directory(PathBuf),
    /// `-`: a Dockerfile or a tar, known by its content.
    Input,
    /// A git repository.
    Git(git::Address),
    /// A Dockerfile or a tar, known by its content.
    Http(String),
}

/// Decides what an argument means. A directory that exists is one, whatever its name looks like.
pub fn locate(argument: &str) -> Result<Location> {
    if argument == "-" {
        return Ok(Location::Input);
    }
    let stat = rustix::fs::stat(argument);
    if stat.as_ref().is_ok_and(super::view::is_directory) {
        return Ok(Location::Directory(argument.into()));
    }
    if let Some(address) = git::parse(argument)? {
        return Ok(Location::Git(address));
    }
    if http::is_url(argument) {
        return Ok(Location::Http(argument.to_owned()));
    }
    let error = match stat {
        Ok(_) => Error::invalid("it is no directory"),
        Err(errno) => errno.into(),
    };
    Err(error.context(format!("cannot use {argument:?} as the build context")))
}

/// A context, ready to be copied from.
#[derive(Debug, Clone)]
pub struct Context {
    /// Its files; the ignore file is already taken into account.
    pub tree: Tree,
    /// The Dockerfile.
    pub dockerfile: Dockerfile,
    /// Where it is from.
    pub origin: Origin,
    /// What tells its time.
    pub dated: Dated,
}

/// A named context, ready to be copied from.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its files.
    pub tree: Tree,
    /// What tells its time.
    pub dated: Dated,
    /// Where it is from.
    pub origin: Origin,
}

/// A Dockerfile's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What errors call it.
    pub name: String,
    /// Its bytes.
    pub text: Vec<u8>,
    /// It is a file of the context, so whoever has that has it.
    pub of_context: bool,
}

/// What is needed to open a context.
#[derive(Debug)]
pub struct Arguments<'a> {
    /// The context.
    pub location: &'a Location,
    /// `-f`: a path, `-`, or a URL; `Dockerfile` in the context otherwise.
    pub file: Option<&'a str>,
    /// `--build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR`, tokens.
    pub git: &'a git::Settings,
    /// An empty directory of the caller.
    pub scratch: &'a Path,
}

/// Opens the main context with its Dockerfile and ignore file.
pub fn open(arguments: &Arguments<'_>, input: &mut dyn Read) -> Result<Context> {
    let scratch = Scratch::new(arguments.scratch, arguments.git)?;
    let file = arguments.file.filter(|file| !file.is_empty());
    match arguments.location {
        Location::Directory(path) => directory(path, file, &scratch, input),
        Location::Input => {
            if file == Some("-") {
                let message = "cannot read both context and Dockerfile from standard input";
                return Err(Error::invalid(message));
            }
            let name = "input";
            let spooled = scratch.spool(name, input)?;
            scratch.stream(&spooled, file, "standard input", &scratch.empty()?)
        }
        Location::Git(address) => {
            let resolved = git::resolve(address, arguments.git)?;
            let path = scratch.make("git")?;
            let tree = git::checkout(address, &resolved, arguments.git, &path)?;
            let dockerfile = scratch.dockerfile(&tree, file, input)?;
            Ok(Context {
                tree,
                dockerfile,
                origin: Origin::commit(address, &resolved.commit),
                dated: commit(address, resolved.commit, path),
            })
        }
        Location::Http(url) => {
            let came = scratch.download(url, "context")?;
            let context = scratch.stream(&came.file, file, &redacted(url), &came.tree)?;
            Ok(Context {
                origin: Origin::file(url, &came.digest),
                dated: came.dated(),
                ..context
            })
        }
    }
}

fn commit(address: &git::Address, commit: String, scratch: PathBuf) -> Dated {
    Dated::Commit {
        scratch,
        address: Box::new(address.clone()),
        commit,
    }
}

/// Opens a named context: a directory with the `.dockerignore` at its root, a git repository, or a
/// file, which is then called `context`.
pub fn open_named(
    name: &str,
    location: &Location,
    git: &git::Settings,
    scratch: &Path,
) -> Result<Opened> {
    let scratch = Scratch::new(scratch, git)?;
    match location {
        Location::Directory(path) => {
            let tree = Tree::open(path, &format!("context {name:?}"))?;
            Ok(Opened {
                tree: with_ignore(tree, &[path.join(".dockerignore")])?,
                dated: Dated::No,
                origin: Origin::Local,
            })
        }
        Location::Git(address) => {
            let resolved = git::resolve(address, git)?;
            let path = scratch.make("git")?;
            let tree = git::checkout(address, &resolved, git, &path)?;
            Ok(Opened {
                tree,
                origin: Origin::commit(address, &resolved.commit),
                dated: commit(address, resolved.commit, path),
            })
        }
        Location::Http(url) => {
            let came = scratch.download(url, "context")?;
            Ok(Opened {
                tree: came.tree.clone(),
                origin: Origin::file(url, &came.digest),
                dated: came.dated(),
            })
        }
        Location::Input => Err(Error::invalid(format!(
            "cannot read context {name:?} from standard input"
        ))),
    }
}

/// A directory of the host.
fn directory(
    path: &Path,
    file: Option<&str>,
    scratch: &Scratch<'_>,
    input: &mut dyn Read,
) -> Result<Context> {
    let tree = Tree::open(path, "the build context")?;
    let mut ignores = vec![path.join(".dockerignore")];
    let dockerfile = match file {
        Some("-") => from_input(input)?,
        Some(url) if http::is_url(url) => scratch.dockerfile_at(url)?,
        _ => {
            let file = match file {
                Some(file) => PathBuf::from(file),
                None => path.join(DEFAULT),
            };
            let (found, text) = on_host(&file)?;
            let mut own = found.clone().into_os_string();
            own.push(".dockerignore");
            ignores.insert(0, own.into());
            Dockerfile {
                name: found.display().to_string(),
                text,
                of_context: false,
            }
        }
    };
    Ok(Context {
        tree: with_ignore(tree, &ignores)?,
        dockerfile,
        origin: Origin::Local,
        dated: Dated::No,
    })
}

/// A Dockerfile of the host, or the one in lower case.
fn on_host(path: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let context = || format!("cannot read the Dockerfile at {}", path.display());
    if let Some(text) = read_host(path, DOCKERFILE_BYTES).context(context)? {
        return Ok((path.to_owned(), text));
    }
    if path.file_name().is_some_and(|name| name == DEFAULT) {
        let lower = path.with_file_name(DEFAULT.to_lowercase());
        if let Some(text) = read_host(&lower, DOCKERFILE_BYTES).context(context)? {
            return Ok((lower, text));
        }
    }
    let error = Error::new(ErrorKind::NotFound, "no such file or directory");
    Err(error
        .context(context())
        .with_hint("name it with -f if it is elsewhere"))
}

/// A file of the host; none if there is none.
fn read_host(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => limited(&mut std::fs::File::from(file), limit).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn limited(source: &mut dyn Read, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("refuse a file of more than {limit} bytes");
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    Ok(bytes)
}

fn from_input(input: &mut dyn Read) -> Result<Dockerfile> {
    let text = limited(input, DOCKERFILE_BYTES);
    Ok(Dockerfile {
        name: "Dockerfile".to_owned(),
        text: text.context(|| "cannot read the Dockerfile from standard input")?,
        of_context: false,
    })
}

/// Without what the first ignore file that exists says.
fn with_ignore(tree: Tree, paths: &[PathBuf]) -> Result<Tree> {
    for path in paths {
        let context = || format!("cannot read {}", path.display());
        let Some(text) = read_host(path, FILE_BYTES).context(context)? else {
            continue;
        };
        let ignore = Ignore::parse(&text).context(context)?;
        return Ok(match ignore.is_empty() {
            true => tree,
            false => tree.ignoring(ignore),
        });
    }
    Ok(tree)
}

/// A file that came by HTTP.
struct Came {
    /// The file, called as it was asked for.
    tree: Tree,
    file: Arc<OwnedFd>,
    digest: crate::Digest,
    /// When the server says that it was changed.
    modified: Option<u64>,
}

impl Came {
    fn dated(&self) -> Dated {
        Dated::File {
            modified: self.modified,
            file: Arc::clone(&self.file),
        }
    }
}

/// The caller's directory.
struct Scratch<'a> {
    path: &'a Path,
    fd: OwnedFd,
    credentials: &'a Credentials,
    /// Is told what is tried again.
    notice: &'a Notice,
}

impl<'a> Scratch<'a> {
    fn new(path: &'a Path, git: &'a git::Settings) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .context(|| format!("cannot open {}", path.display()))?;
        Ok(Self {
            path,
            fd,
            credentials: &git.credentials,
            notice: &git.notice,
        })
    }

    fn make(&self, name: &str) -> Result<PathBuf> {
        self.make_fd(name)?;
        Ok(self.path.join(name))
    }

    fn make_fd(&self, name: &str) -> Result<OwnedFd> {
        let context = || format!("cannot make {name} in {}", self.path.display());
        rustix::fs::mkdirat(&self.fd, name, Mode::from(0o755)).context(context)?;
        super::open::directory(&self.fd, name.as_bytes()).context(context)
    }

    /// A context without files.
    fn empty(&self) -> Result<Tree> {
        Ok(Tree::new(
            self.make_fd("empty")?,
            Owners::Root,
            "the build context",
        ))
    }

    /// Keeps what comes once.
    fn spool(&self, name: &str, input: &mut dyn Read) -> Result<OwnedFd> {
        let context = || "cannot read the context from standard input";
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::from(0o600)).context(context)?;
        let mut file = std::fs::File::from(file);
        let size = std::io::copy(&mut input.take(INPUT_BYTES + 1), &mut file).context(context)?;
        if size > INPUT_BYTES {
            let message = format!("refuse a context of more than {INPUT_BYTES} bytes");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        Ok(file.into())
    }

    /// A file by HTTP, alone in a directory.
    fn download(&self, url: &str, name: &str) -> Result<Came> {
        let directory = self.make_fd("http")?;
        let request = http::Request {
            url,
            name: Some(name),
            checksum: None,
            etag: None,
            credentials: self.credentials,
            typed: true,
        };
        match http::fetch(&http::client(self.notice), &request, directory.as_fd())? {
            http::Fetched::New(download) => {
                let file = super::view::read(directory.as_fd(), name.as_bytes())?;
                Ok(Came {
                    tree: download.tree,
                    file: Arc::new(file),
                    digest: download.digest,
                    modified: download.modified,
                })
            }
            http::Fetched::Unchanged => {
                Err(Error::invalid(format!("cannot fetch {}", redacted(url))))
            }
        }
    }

    fn dockerfile_at(&self, url: &str) -> Result<Dockerfile> {
        let shown = redacted(url);
        let context = || format!("cannot read the Dockerfile at {shown}");
        let came = self.download(url, DEFAULT)?;
        let mut file = std::fs::File::from(rustix::io::dup(&*came.file).context(context)?);
        Ok(Dockerfile {
            name: shown.clone(),
            text: limited(&mut file, DOCKERFILE_BYTES).context(context)?,
            of_context: false,
        })
    }

    /// What came as one file: an archive with the context, or a Dockerfile, whose context is
    /// `otherwise`.
    fn stream(
        &self,
        file: &OwnedFd,
        name: Option<&str>,
        origin: &str,
        otherwise: &Tree,
    ) -> Result<Context> {
        let context = || format!("cannot read the context from {origin}");
        rewind(file)?;
        let format = detect_archive(file).context(context)?;
        rewind(file)?;
        let Some(format) = format else {
            if name.is_some() {
                let message =
                    format!("{origin} is no archive, so it is the Dockerfile: -f names another");
                return Err(Error::invalid(message));
            }
            let mut source = std::fs::File::from(rustix::io::dup(file)?);
            let text = limited(&mut source, DOCKERFILE_BYTES).context(context)?;
            return Ok(Context {
                tree: otherwise.clone(),
                dockerfile: Dockerfile {
                    name: DEFAULT.to_owned(),
                    text,
                    of_context: true,
                },
                origin: Origin::Local,
                dated: Dated::No,
            });
        };
        let root = self.make_fd("context")?;
        let mut stream = open_archive(file, format, Limits::default()).context(context)?;
        let mut report = super::copy::Report::default();
        unpack_into(&mut *stream, root.as_fd(), None, Times::Keep, &mut report).context(context)?;
        drop(stream);
        let tree = Tree::new(root, Owners::Kept, "the build context");
        let dockerfile = self.dockerfile(&tree, name, &mut std::io::empty())?;
        Ok(Context {
            tree,
            dockerfile,
            origin: Origin::Local,
            dated: Dated::No,
        })
    }

    /// The Dockerfile of a context that is not a directory of the host.
    fn dockerfile(
        &self,
        tree: &Tree,
        file: Option<&str>,
        input: &mut dyn Read,
    ) -> Result<Dockerfile> {
        let name = match file {
            Some("-") => return from_input(input),
            Some(url) if http::is_url(url) => return self.dockerfile_at(url),
            Some(name) => name,
            None => DEFAULT,
        };
        let view = View { tree };
        let lower = match name.strip_suffix(DEFAULT) {
            Some(above) if above.is_empty() || above.ends_with('/') => {
                Some(format!("{above}{}", DEFAULT.to_lowercase()))
            }
            _ => None,
        };
        let mut missing = None;
        for name in [Some(name.to_owned()), lower].into_iter().flatten() {
            match view.find(&super::open::absolute(name.as_bytes()))? {
                Found::Other(path, _) => {
                    let file = view.read(&path)?;
                    let text = limited(&mut std::fs::File::from(file), DOCKERFILE_BYTES);
                    let text = text.context(|| format!("cannot read the Dockerfile {name:?}"))?;
                    return Ok(Dockerfile {
                        name,
                        text,
                        of_context: true,
                    });
                }
                Found::Directory(..) => {
                    let message = format!("cannot read the Dockerfile {name:?}: it is a directory");
                    return Err(Error::invalid(message));
                }
                Found::Missing(found) => missing = missing.or(Some((name, found))),
            }
        }
        Err(match missing {
            Some((name, missing)) => view
                .not_found(&name, &missing)
                .context("cannot read the Dockerfile"),
            None => Error::invalid("cannot read the Dockerfile"),
        })
    }
}

#[cfg(test)]
mod tests;
