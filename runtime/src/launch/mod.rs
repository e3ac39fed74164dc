//! From a plan to a running process: what the parent does ([`parent`]) and what the container's init
//! does ([`child`]), the same way for `create`, `run` and `exec`.

pub(crate) mod birth;
pub(crate) mod child;
pub(crate) mod conditions;
pub(crate) mod entry;
pub(crate) mod errand;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod hooks;
pub(crate) mod identity;
pub(crate) mod init;
pub(crate) mod intermediate;
pub(crate) mod keys;
pub(crate) mod nodes;
pub(crate) mod parent;
pub(crate) mod program;
mod reaper;
pub(crate) mod steps;
pub(crate) mod terminal;
pub(crate) mod wire;
