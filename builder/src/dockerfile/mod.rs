//! The Dockerfile language: text into instructions with places, words with variables replaced, checks. Pure: nothing here
//! opens a file, asks a registry or knows what time it is.
//!
//! Owns the grammar that `BuildKit`'s frontend 1.26 accepts (its reference is `docs/reference.md` of
//! `frontend/dockerfile` in <https://github.com/moby/buildkit>), the places of everything in the text, the environment that
//! each instruction sees, and the lint rules. Does not own what instructions do, where base images come from, nor how
//! progress is shown.
//!
//! - [`parse()`], [`parse_onbuild`]: text -> [`Dockerfile`], or all errors at once; [`dump`]: the tree as `BuildKit` prints it
//! - [`word`]: quotes and variables of one word
//! - [`stages`]: what is built on what, and takes files from what
//! - [`scope`]: the variables that each instruction sees, and the instruction with their values
//! - [`check()`]: the lint; [`rule`], [`selection`]
//! - [`outline()`], [`targets`]: what a Dockerfile offers
//! - [`Diagnostic`], [`render()`]: what is wrong, and how it is shown to people
//!
//! Where it differs from `BuildKit`: all errors are reported, not the first; text has to be UTF-8, but for comments; stage
//! names count in any case in `FROM` too; comments that are indented are comments; flags beyond ASCII are not garbled; words
//! with `${}` are split without loss; everything has limits ([`limits`]).

pub mod check;
pub mod diagnostic;
mod directive;
mod duration;
pub mod environment;
pub mod expose;
mod fault;
mod flag;
mod heredoc;
pub mod instruction;
mod json;
mod judge;
pub mod limits;
mod lines;
pub mod mount;
mod node;
pub mod outline;
mod parse;
pub mod quote;
mod read;
pub mod render;
pub mod rule;
pub mod scope;
pub mod selection;
pub mod span;
pub mod stages;
pub mod suggest;
mod value;
pub mod walk;
pub mod word;

#[cfg(test)]
mod tests;

pub use check::{CheckOptions, Ignored, Report, check, check_text};
pub use diagnostic::{Diagnostic, Severity, Warning};
pub use environment::Environment;
pub use instruction::{
    Add, Arg, ArgItem, Command, Copy, Device, Directives, Dockerfile, Expose, GlobalArg,
    Healthcheck, Heredoc, Instruction, Kind, Label, Network, Onbuild, Pair, Probe, Run, Security,
    Shell, Sources, Stage, Volume,
};
pub use mount::{Mount, MountSpec, Sharing};
pub use outline::{Outline, Targets, outline, targets};
pub use parse::{dump, parse, parse_onbuild};
pub use render::render;
pub use rule::Rule;
pub use scope::{Applied, Globals, Request, Scope};
pub use selection::Selection;
pub use span::Span;
pub use stages::{Base, Source, Stages};
pub use walk::BaseFacts;
pub use word::{Expanded, Lookup, WordError, Words};
