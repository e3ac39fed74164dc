//! `COPY` and `ADD`.

use super::instruction::Walk;
use super::{Op, Problem, Source, path};
use crate::context::copy::Unpack;
use crate::context::git;
use crate::dockerfile::{Add, Copy, Sources};
use rcrun_image::registry::url::concealed;

/// What is copied, and where to.
#[derive(Debug, Clone)]
pub struct CopyOp {
    /// Where paths are looked up.
    pub from: Source,
    /// One after the other.
    pub sources: Vec<CopySource>,
    /// Absolute; with a slash at the end, a directory.
    pub dest: String,
    /// `--chown`
    pub chown: Option<String>,
    /// `--chmod`
    pub chmod: Option<String>,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Vec<String>,
    /// Whether archives are unpacked.
    pub unpack: Unpack,
    /// What is below does not matter.
    pub link: bool,
    /// `--checksum`
    pub checksum: Option<String>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path or pattern.
    Path(String),
    /// A heredoc.
    Inline {
        /// The file's name.
        name: String,
        /// Its contents.
        contents: String,
    },
    /// Something of the web.
    Http(String),
    /// A repository.
    Git(String),
}

impl Walk<'_> {
    pub(super) fn copy(&mut self, copy: &Copy, from: Source) -> Result<(), Problem> {
        for path in &copy.sources.paths {
            // What only looks like an address is a path here.
            let what = match remote(path).unwrap_or_default() {
                Some(CopySource::Git(_)) => "a git ref",
                Some(_) => "a URL",
                None => continue,
            };
            return Err(self.error(format!("source can't be {what} for COPY")));
        }
        let op = CopyOp {
            from,
            sources: copy
                .sources
                .paths
                .iter()
                .cloned()
                .map(CopySource::Path)
                .collect(),
            dest: self.destination(&copy.sources),
            chown: said(copy.chown.as_ref()),
            chmod: said(copy.chmod.as_ref()),
            parents: copy.parents,
            exclude: copy.exclude.clone(),
            unpack: Unpack::No,
            link: copy.link,
            checksum: None,
            keep_git_dir: None,
        };
        self.finish_copy("COPY", op, &copy.sources)
    }

    pub(super) fn add(&mut self, add: &Add) -> Result<(), Problem> {
        let checksum = said(add.checksum.as_ref());
        let mut sources = Vec::with_capacity(add.sources.paths.len());
        for path in &add.sources.paths {
            let found = remote(path).map_err(|error| self.problem(error))?;
            sources.push(found.unwrap_or_else(|| CopySource::Path(path.clone())));
        }
        if checksum.is_some() {
            match sources.as_slice() {
                [CopySource::Http(_) | CopySource::Git(_)] => {}
                [_] => return Err(self.error("checksum requires HTTP(S) or Git sources")),
                _ => return Err(self.error("checksum can't be specified for multiple sources")),
            }
        }
        let op = CopyOp {
            from: Source::Context,
            sources,
            dest: self.destination(&add.sources),
            chown: said(add.chown.as_ref()),
            chmod: said(add.chmod.as_ref()),
            parents: false,
            exclude: add.exclude.clone(),
            unpack: match add.unpack {
                None => Unpack::Auto,
                Some(true) => Unpack::Yes,
                Some(false) => Unpack::No,
            },
            link: add.link,
            checksum,
            keep_git_dir: add.keep_git_dir,
        };
        self.finish_copy("ADD", op, &add.sources)
    }

    fn destination(&self, sources: &Sources) -> String {
        path::destination(&self.image.config.working_dir, &sources.dest)
    }

    fn finish_copy(
        &mut self,
        verb: &str,
        mut op: CopyOp,
        sources: &Sources,
    ) -> Result<(), Problem> {
        if let Some(chmod) = &op.chmod {
            crate::context::copy::Chmod::parse(chmod).map_err(|error| self.problem(error))?;
        }
        for document in &sources.documents {
            let contents = document.content().into_owned();
            let name = document.name.clone();
            op.sources.push(CopySource::Inline { name, contents });
        }
        let mut text = verb.to_owned();
        let mut add = |word: &str| {
            text.push(' ');
            text.push_str(word);
        };
        if op.parents {
            add("--parents");
        }
        if let Some(chown) = &op.chown {
            add(&format!("--chown={chown}"));
        }
        if let Some(chmod) = &op.chmod {
            add(&format!("--chmod={chmod}"));
        }
        // Addresses may have passwords, which are nobody's business who has the image.
        sources.paths.iter().for_each(|path| add(&concealed(path)));
        for document in &sources.documents {
            add(&format!("<<{}", document.name));
        }
        add(&sources.dest);
        if verb == "ADD" {
            let words: Vec<String> = self.text.split(' ').map(concealed).collect();
            self.text = words.join(" ");
        }
        self.step(Op::Copy(Box::new(op)));
        self.image.record(&text, true, true);
        Ok(())
    }
}

/// A flag that says something.
fn said(flag: Option<&String>) -> Option<String> {
    flag.filter(|text| !text.is_empty()).cloned()
}

/// What is fetched rather than looked up. What could as well be a path is one; an address of a repository
/// that contradicts itself is an error.
pub(super) fn remote(source: &str) -> crate::Result<Option<CopySource>> {
    if git::parse(source)?.is_some_and(|address| !address.ambiguous) {
        return Ok(Some(CopySource::Git(source.to_owned())));
    }
    let http = source.starts_with("http://") || source.starts_with("https://");
    Ok(http.then(|| CopySource::Http(source.to_owned())))
}
