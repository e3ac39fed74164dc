//! From an OCI bundle to a running process: namespaces, mounts, cgroups, seccomp, life cycle.
//!
//! A bundle's `config.json` is checked (`spec`), turned into a finished [`plan::Plan`] without
//! touching the system, and carried out by two processes (`launch`): the parent makes the cgroup,
//! clones, writes id maps and runs hooks; the child executes the plan's steps and becomes the
//! container's program. Nothing of ours stays resident afterwards. [`container::Runtime`] is the
//! facade; records of live containers are kept by `state`.
//!
//! All calls that enter namespaces or clone need a process with one thread
//! ([`sys::process::SingleThreaded`]).

pub mod cgroup;
pub mod checkpoint;
pub mod container;
pub use rcrun_error as error;
pub mod idmap;
mod launch;
pub mod monitor;
mod mountinfo;
pub mod netdev;
mod operations;
pub mod pin;
pub mod plan;
pub mod rdt;
mod rootfs;
pub mod seccomp;
pub mod selfexe;
pub mod spec;
mod state;
pub mod sys;
pub mod template;

pub use error::{Error, ErrorKind, Result};
pub use state::time::{days, seconds as rfc3339_seconds};
