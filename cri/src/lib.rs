//! The server that a kubelet talks to: the container runtime interface (CRI) v1, over gRPC on a unix
//! socket.
//!
//! - [`serve`]: runs the server until it is told to stop.
//! - [`settings`]: the `cri` section of the settings file.
//! - [`check`](mod@check): what the node lacks.
//! - [`spec`]: what is asked for -> what is to be done, for pods and containers.
//! - [`proto`]: the interface, generated from `proto/api.proto`.
//!
//! This crate is the only asynchronous one. It keeps no truth of its own: images are those of the store,
//! which other processes change at the same time, and what is held in memory is a copy that is known to
//! be fresh when it is used. The server may be killed at any time.

#![forbid(unsafe_code)]

mod bounds;
pub mod check;
mod checkpoints;
#[cfg(feature = "client")]
pub mod client;
mod containers;
mod core;
mod events;
mod facts;
mod host;
mod images;
mod listen;
mod meter;
mod network_thread;
mod notify;
mod nri;
mod pods;
pub mod proto;
mod readable;
mod records;
mod recover;
mod report;
mod resources;
mod runtime;
mod server;
pub mod settings;
pub mod spec;
mod stats;
mod status;
mod streams;
mod time;
mod work;

pub use checkpoints::capture;
pub use host::{Current, Host};
pub use rcrun_error::{Context, Error, ErrorKind, Result};
pub use records::roots;
pub use server::serve;
pub use settings::Settings;
