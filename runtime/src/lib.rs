//! From an OCI bundle to a running process: namespaces, mounts, cgroups, life cycle.

pub mod cgroup;
pub mod container;
pub mod error;
pub mod sys;
