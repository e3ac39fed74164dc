//! Snapshots: layers, and a directory for the changes of one container above them.

pub mod mount;
