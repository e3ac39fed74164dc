//! From a plan to a running process: what the parent does ([`parent`]) and what the container's init
//! does ([`child`]), the same way for `create`, `run` and `exec`.

pub mod child;
pub mod exec;
pub mod explain;
pub mod hooks;
pub mod identity;
pub mod init;
pub mod intermediate;
pub mod parent;
pub mod program;
pub mod steps;
pub mod terminal;
pub mod wire;
