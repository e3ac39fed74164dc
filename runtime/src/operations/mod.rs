//! The operations of the life cycle (runtime-spec runtime.md), each in its own file.

pub(crate) mod caller;
pub(crate) mod control;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod foreground;
pub(crate) mod handover;
pub(crate) mod hooks;
pub(crate) mod query;
pub(crate) mod start;
pub(crate) mod stop;
