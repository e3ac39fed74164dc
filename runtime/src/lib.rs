//! From an OCI bundle to a running process: namespaces, mounts, cgroups, seccomp, life cycle.

pub mod error;
pub mod netdev;
pub mod rdt;
pub mod seccomp;
pub mod sys;
