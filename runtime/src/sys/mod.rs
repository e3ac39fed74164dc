//! The only place of this crate with `unsafe`: one function per system call.

pub mod bpf;
