//! From an OCI bundle to a running process: namespaces, mounts, cgroups, seccomp, life cycle.

pub mod checkpoint;
pub mod container;
pub mod error;
pub mod spec;

/// Stands in for the cgroup module until it lands on this branch: only what the facade names.
pub mod cgroup {
    /// Statistics.
    pub mod stats {
        /// See `events --stats`.
        #[derive(Debug, serde::Serialize)]
        pub struct Stats {}
    }
    /// OOM kills.
    pub mod oom {
        use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

        /// What a watch has seen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Event {
            /// An OOM kill happened.
            Oom,
            /// The container is gone.
            Gone,
        }

        /// Readable on each OOM kill.
        #[derive(Debug)]
        pub struct Watch(OwnedFd);

        impl AsFd for Watch {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }

        impl Watch {
            /// What has happened since the last call.
            #[allow(clippy::should_implement_trait)]
            pub fn next(&mut self) -> crate::error::Result<Option<Event>> {
                Ok(None)
            }
        }
    }
}
