//! The operations of the life cycle (runtime-spec runtime.md), each in its own file.

pub mod control;
pub mod create;
pub mod exec;
pub mod foreground;
pub mod hooks;
pub mod query;
pub mod start;
pub mod stop;
