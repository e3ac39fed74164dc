//! Which files a request means.

use rustix::fs::FileType;

use super::files::{Files, Meta, Rules, walk};
use super::{Match, Request, Selection, Source, Unpack, What, archive};
use crate::context::open::{absolute, parts};
use crate::context::pattern::Patterns;
use crate::context::tree::Tree;
use crate::context::view::{Found, Missing, View};
use crate::context::wildcard::has_wildcards;
use crate::{Context, Error, Result};

/// Finds the files that a request means. Reads directories, and the beginning of files that ADD may
/// have to unpack.
pub fn select(request: &Request) -> Result<Selection> {
    if !request.dest.starts_with('/') {
        let message = format!("the destination {:?} is not absolute", request.dest);
        return Err(Error::invalid(message));
    }
    let exclude = Patterns::new(request.exclude.iter().map(String::as_str));
    let mut selecting = Selecting {
        request,
        rules: Rules {
            include: None,
            exclude: exclude.context(|| "cannot read --exclude")?,
        },
        matches: Vec::new(),
        unmatched: Vec::new(),
    };
    for source in &request.sources {
        selecting.source(source)?;
    }
    Ok(Selection {
        dest: request.dest.clone(),
        owner: request.owner,
        chmod: request.chmod.clone(),
        matches: selecting.matches,
        unmatched: selecting.unmatched,
    })
}

struct Selecting<'a> {
    request: &'a Request,
    rules: Rules,
    matches: Vec<Match>,
    unmatched: Vec<String>,
}

impl Selecting<'_> {
    fn source(&mut self, source: &Source) -> Result<()> {
        match source {
            Source::Path { tree, path } if self.request.parents => self.parents(tree, path),
            Source::Path { tree, path } => {
                let from = absolute(path.as_bytes());
                self.rules.include = None;
                let unpack = self.request.unpack != Unpack::No;
                self.paths(tree, path, &from, unpack)?;
                Ok(())
            }
            Source::Inline { name, contents } => {
                let name = parts(name.as_bytes()).next_back().unwrap_or_default();
                if matches!(name, b"" | b"..") {
                    return Err(Error::invalid("a heredoc needs a file name"));
                }
                self.matches.push(Match {
                    name: name.to_vec(),
                    what: What::Inline(contents.clone()),
                });
                Ok(())
            }
            Source::Download(download) => {
                let name = download.name.as_bytes();
                self.rules.include = None;
                let unpack = self.request.unpack == Unpack::Yes;
                self.path(&download.tree, &download.name, name, unpack, true)
            }
            Source::Checkout(tree) => {
                self.rules.include = None;
                self.path(tree, "/", b"", false, false)
            }
        }
    }

    /// `--parents`: what follows a pivot (`/./`) is a pattern for paths below what precedes it.
    fn parents(&mut self, tree: &Tree, path: &str) -> Result<()> {
        let (above, pattern) = path.split_once("/./").unwrap_or(("/", path));
        let pattern = String::from_utf8_lossy(&absolute(pattern.as_bytes())).into_owned();
        let from = absolute(above.as_bytes());
        let literal = !has_wildcards(above.as_bytes()) && !has_wildcards(pattern.as_bytes());
        let include = Patterns::new([pattern.as_str()]);
        self.rules.include = Some(include.context(|| format!("cannot read source {path:?}"))?);
        let before = self.matches.len();
        let found = self.paths(tree, path, &from, self.request.unpack != Unpack::No)?;
        let new = &self.matches[before..];
        let something = new.iter().any(|found| match &found.what {
            What::Files { files, .. } => files.nodes().len() > 1,
            _ => true,
        });
        if something {
            return Ok(());
        }
        if literal {
            // What was meant, to say whether it is ignored.
            let meant = [&*from, pattern.as_bytes()].join(&b'/');
            let missing = match (View { tree }).find(&meant)? {
                Found::Missing(missing) => missing,
                Found::Directory(directory, _) => Missing {
                    path: directory.path,
                    ignored: directory.ignored,
                },
                Found::Other(path, _) => Missing {
                    path,
                    ignored: false,
                },
            };
            return Err((View { tree }).not_found(path, &missing));
        }
        if found {
            self.unmatched.push(path.to_owned());
        }
        Ok(())
    }

    /// A path that may have wildcards; whether it led to something.
    fn paths(&mut self, tree: &Tree, written: &str, from: &[u8], unpack: bool) -> Result<bool> {
        if !has_wildcards(from) {
            self.path(tree, written, from, unpack, true)?;
            return Ok(true);
        }
        let found = (View { tree }).expand(from)?;
        if found.is_empty() {
            self.unmatched.push(written.to_owned());
        }
        for path in &found {
            self.path(tree, written, path, unpack, true)?;
        }
        Ok(!found.is_empty())
    }

    fn path(
        &mut self,
        tree: &Tree,
        written: &str,
        from: &[u8],
        unpack: bool,
        contents: bool,
    ) -> Result<()> {
        let view = View { tree };
        let name = from.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let name = name.to_vec();
        let tree = tree.clone();
        let what = match view.find(from)? {
            Found::Missing(missing) => return Err(view.not_found(written, &missing)),
            Found::Directory(directory, stat) => {
                let meta = Meta::of(&stat);
                let Some(files) = walk(view, &directory, meta, &self.rules)? else {
                    let (path, ignored) = (directory.path, true);
                    return Err(view.not_found(written, &Missing { path, ignored }));
                };
                What::Files {
                    tree,
                    path: directory.path,
                    files,
                    contents,
                }
            }
            Found::Other(path, stat) => {
                let meta = Meta::of(&stat);
                let regular = meta.kind() == FileType::RegularFile;
                let format = match unpack && regular {
                    true => archive::detect(&view.read(&path)?)
                        .context(|| format!("cannot read {written:?}"))?,
                    false => None,
                };
                match format {
                    Some(format) => What::Archive {
                        tree,
                        path,
                        meta,
                        format,
                    },
                    None => What::Files {
                        tree,
                        path,
                        files: Files::of(meta),
                        contents,
                    },
                }
            }
        };
        self.matches.push(Match { name, what });
        Ok(())
    }
}
