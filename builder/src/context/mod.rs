//! Files of a build: where they come from, which of them count, what they are, and how they are
//! copied.
//!
//! Every source ends as a [`tree::Tree`]: a directory on the host, an unpacked tar, a clone, a
//! stage's root. [`copy`] takes files out of trees as COPY and ADD do. Nothing here knows stages,
//! a cache or a store; scratch directories are given by the caller, who removes them.

pub mod copy;
pub mod credentials;
pub mod dated;
pub mod git;
pub mod http;
pub mod ignore;
pub mod listing;
mod open;
mod origin;
pub mod pattern;
pub mod source;
#[cfg(test)]
mod testing;
pub mod tree;
mod view;
mod wildcard;
pub mod work_tree;
