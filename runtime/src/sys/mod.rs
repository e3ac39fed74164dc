//! The only home of `unsafe`: thin wrappers, one function per system call.

pub mod netlink;
pub mod seccomp;
