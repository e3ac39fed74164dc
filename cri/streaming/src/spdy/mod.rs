//! SPDY/3.1, the server's side: what every kubelet and every client of Kubernetes speaks for exec, attach and port-forward.
//!
//! `frame` and `headers` are pure; `session` joins them with a connection, `table` counts
//! windows, and `serve` says which stream is which.

pub(crate) mod dictionary;
pub mod frame;
pub mod headers;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod table;
