//! From a Dockerfile to a graph of steps: which stages there are, what each is built upon, and what each
//! instruction does once all words are expanded. Decides everything, does nothing: what base images say
//! is asked of [`Bases`].
//!
//! Order and rules are BuildKit's (`frontend/dockerfile/dockerfile2llb`): stages by name without regard
//! to case or by number, triggers of base images in front of a stage's own instructions, a stage that
//! nobody needs is neither judged nor built.

mod copy;
mod epoch;
mod instruction;
mod named;
mod order;
use crate::path;
mod run;
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;

use rcrun_image::catalog::Image;
use rcrun_image::platform::Platform;

pub use copy::{CopyOp, CopySource};
pub use epoch::{Epoch, SOURCE_DATE_EPOCH, epoch, settle};
pub use order::reachable;
pub use run::{RunMount, RunOp, SCRIPTS, Source};

use crate::context::tree::Tree;
use crate::dockerfile::{Diagnostic, Span};
use crate::image::Draft;
use crate::{Digest, Error};

/// What is wrong, and where in the Dockerfile.
#[derive(Debug)]
pub struct Problem {
    /// Where; none if no instruction is to blame.
    pub span: Option<Span>,
    /// What.
    pub error: Error,
}

impl Problem {
    /// At a place.
    pub fn at(span: Span, error: Error) -> Self {
        let span = Some(span);
        Self { span, error }
    }
}

impl From<Diagnostic> for Problem {
    fn from(wrong: Diagnostic) -> Self {
        let error = Error::invalid(wrong.message);
        let error = match wrong.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        Self::at(wrong.span, error)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self { span: None, error }
    }
}

/// Adds the place to an error.
pub trait At<T> {
    /// It happened here.
    fn at(self, span: Span) -> Result<T, Problem>;
}

impl<T> At<T> for crate::Result<T> {
    fn at(self, span: Span) -> Result<T, Problem> {
        self.map_err(|error| Problem::at(span, error))
    }
}

/// An image that something is built upon.
#[derive(Debug)]
pub struct BaseImage {
    /// What it is called, in full.
    pub reference: String,
    /// What that name stands for: an index, or the image's manifest.
    pub target: Digest,
    /// What it is.
    pub image: Image,
}

/// Where base images come from.
pub trait Bases: Sync {
    /// The image of that name for a platform, with its layers in the store.
    fn image(&self, name: &str, platform: &Platform) -> crate::Result<Arc<BaseImage>>;
}

/// Files that are fetched once somebody needs them.
#[derive(Clone)]
pub struct Files(Arc<dyn Fn() -> crate::Result<(Tree, String)> + Send + Sync>);

impl Files {
    /// From this, which also says what they are called: `local://NAME`, or an address.
    pub fn new(open: impl Fn() -> crate::Result<(Tree, String)> + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }

    /// Fetches them.
    pub fn open(&self) -> crate::Result<(Tree, String)> {
        (self.0)()
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files(..)")
    }
}

/// `--build-context`: what a name means instead of what it would.
#[derive(Debug, Clone)]
pub enum Named {
    /// Files.
    Tree(Files),
    /// An image by another name.
    Image(String),
    /// A stage of the Dockerfile.
    Stage(String),
}

/// What is asked for, as far as it decides what is done.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The stage; none: the last.
    pub target: Option<String>,
    /// For which platform; none: this machine's, or what the base images have.
    pub platform: Option<Platform>,
    /// Several platforms are built at once, so stages say theirs.
    pub several: bool,
    /// `--build-arg`
    pub arguments: BTreeMap<String, String>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--build-context`, by name in lower case; `NAME::PLATFORM` is for one platform and comes first.
    pub contexts: BTreeMap<String, Named>,
    /// Every stage is built anew.
    pub no_cache: bool,
    /// These stages are built anew.
    pub no_cache_filter: Vec<String>,
    /// `BUILDKIT_CACHE_MOUNT_NS`.
    pub cache_namespace: String,
    /// What [`epoch`] led to, seconds since 1970.
    pub epoch: Option<i64>,
}

/// All stages.
#[derive(Debug)]
pub struct Graph {
    /// In an order in which each comes after those it needs, but for the images that only files are taken
    /// from.
    pub stages: Vec<Stage>,
    /// The one that is wanted.
    pub target: usize,
    /// What [`epoch`] led to, seconds since 1970.
    pub epoch: Option<i64>,
}

/// One stage, or an image that files are taken from.
#[derive(Debug)]
pub struct Stage {
    /// What people call it; empty if it is the only one.
    pub name: String,
    /// Where it begins.
    pub span: Span,
    /// What it begins with.
    pub base: Base,
    /// For what.
    pub platform: Platform,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What the image says in the end; without layers that are made here.
    pub image: Draft,
    /// It is needed for the target.
    pub needed: bool,
}

/// What a stage begins with.
#[derive(Debug, Clone)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image.
    Image(Arc<BaseImage>),
    /// Another stage.
    Stage(usize),
    /// Files of a named context, and what that is called: `local://NAME`, or an address.
    Tree(Tree, String),
    /// Nobody needs the stage, so nobody asked.
    Unknown(String),
}

/// Something that makes a layer.
#[derive(Debug)]
pub struct Step {
    /// Where it stands.
    pub span: Span,
    /// What people are shown.
    pub text: String,
    /// What is done.
    pub op: Op,
    /// It is done even if it was done before.
    pub anew: bool,
}

/// What a step does.
#[derive(Debug)]
pub enum Op {
    /// `COPY`, `ADD`
    Copy(Box<CopyOp>),
    /// `RUN`
    Run(Box<RunOp>),
    /// `WORKDIR`
    Directory {
        /// Absolute and clean.
        path: String,
        /// Who owns what is made, as `USER` has it.
        user: String,
    },
}

impl Op {
    /// Stages that it takes files from.
    pub fn needs(&self) -> Vec<usize> {
        let all: Vec<&Source> = match self {
            Self::Copy(copy) => vec![&copy.from],
            Self::Run(run) => run.mounts.iter().filter_map(RunMount::from).collect(),
            Self::Directory { .. } => Vec::new(),
        };
        let stage = |from: &&Source| match from {
            Source::Stage(index) => Some(*index),
            Source::Context => None,
        };
        all.iter().filter_map(stage).collect()
    }
}

pub use stage::{machine, plan};
