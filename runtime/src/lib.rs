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

        /// What a watch found when it became readable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Notice {
            /// An OOM kill happened.
            Oom,
            /// Something else changed.
            Nothing,
            /// The cgroup is gone.
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
            /// Takes one notice.
            pub fn take(&mut self) -> crate::error::Result<Notice> {
                Ok(Notice::Nothing)
            }
        }
    }
}
