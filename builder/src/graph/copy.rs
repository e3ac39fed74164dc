//! `COPY` and `ADD`.

use super::instruction::Walk;
use super::{Op, Problem, Source, path};
use crate::context::copy::Unpack;
use crate::context::git;
use crate::dockerfile::{Add, Copy, Heredoc, Sources, Words};
use crate::{Error, Result};

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
        let (paths, dest) = self.words(&copy.sources)?;
        for path in &paths {
            let what = match remote(path) {
                Some(CopySource::Git(_)) => "a git ref",
                Some(_) => "a URL",
                None => continue,
            };
            return Err(self.error(format!("source can't be {what} for COPY")));
        }
        let op = CopyOp {
            from,
            sources: paths.iter().cloned().map(CopySource::Path).collect(),
            dest,
            chown: self.word_of(copy.chown.as_ref())?,
            chmod: self.word_of(copy.chmod.as_ref())?,
            parents: copy.parents,
            exclude: copy.exclude.clone(),
            unpack: Unpack::No,
            link: copy.link,
            checksum: None,
            keep_git_dir: None,
        };
        self.finish_copy("COPY", op, &paths, &copy.sources)
    }

    pub(super) fn add(&mut self, add: &Add) -> Result<(), Problem> {
        let (paths, dest) = self.words(&add.sources)?;
        let checksum = self.word_of(add.checksum.as_ref())?;
        let source = |path: &String| remote(path).unwrap_or_else(|| CopySource::Path(path.clone()));
        let sources: Vec<CopySource> = paths.iter().map(source).collect();
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
            dest,
            chown: self.word_of(add.chown.as_ref())?,
            chmod: self.word_of(add.chmod.as_ref())?,
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
        self.finish_copy("ADD", op, &paths, &add.sources)
    }

    /// Paths and destination, expanded.
    fn words(&mut self, sources: &Sources) -> Result<(Vec<String>, String), Problem> {
        let expanded = |path: &String| self.word(path);
        let paths: Vec<String> = sources.paths.iter().map(expanded).collect::<Result<_, _>>()?;
        let dest = self.word(&sources.dest)?;
        let dest = path::destination(&self.image.config.working_dir, &dest);
        Ok((paths, dest))
    }

    fn finish_copy(
        &mut self,
        verb: &str,
        mut op: CopyOp,
        paths: &[String],
        sources: &Sources,
    ) -> Result<(), Problem> {
        if let Some(chmod) = &op.chmod {
            crate::context::copy::Chmod::parse(chmod).map_err(|error| self.problem(error))?;
        }
        for document in &sources.documents {
            let contents = self.document(document)?;
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
        paths.iter().for_each(|path| add(path));
        for document in &sources.documents {
            add(&format!("<<{}", document.name));
        }
        add(&self.word(&sources.dest)?);
        self.step(Op::Copy(Box::new(op)));
        self.image.record(&text, true, true);
        Ok(())
    }

    fn document(&self, document: &Heredoc) -> Result<String, Problem> {
        let content = document.content();
        if !document.expand {
            return Ok(content.into_owned());
        }
        let expanded = Words::document(&content, &self.environment);
        let expanded = expanded.map_err(|error| self.error(error.to_string()))?;
        Ok(expanded.value)
    }
}

/// What is fetched rather than looked up.
fn remote(source: &str) -> Option<CopySource> {
    if git::is_git_url(source) {
        return Some(CopySource::Git(source.to_owned()));
    }
    let http = source.starts_with("http://") || source.starts_with("https://");
    http.then(|| CopySource::Http(source.to_owned()))
}
