//! The Node Resource Interface, the runtime's side: plugins see pods and containers, and adjust them.
//!
//! It owns who connects, the plugins that it starts, the protocol (ttrpc over a multiplexer), the order of plugins, what
//! they may not both set, and what an adjustment means for an OCI configuration. It does not own the socket, which its
//! caller makes and removes, nor pods and containers: those are a [`Runtime`]'s, which begins an [`Operation`] around
//! each of its own and tells its events there.
//!
//! ```text
//! connections, processes                              nri, launch
//!   frames, messages, calls                           wire, link
//!     registration, configuration, one event          plugin
//!       all plugins in order                          nri, operation
//!         what they want, joined                      collect
//!           in the container's configuration          adjust; describe is the way back
//! ```
//!
//! Reference: <https://github.com/containerd/nri> (version 0.12), whose order and failure semantics these are. Where
//! we differ, `README.md` says so.

#![forbid(unsafe_code)]

pub mod adjust;
mod collect;
pub mod describe;
mod launch;
pub mod limits;
mod link;
mod nri;
mod operation;
mod plugin;
pub mod proto;
mod runtime;
mod settings;
pub mod wire;

pub use nri::Nri;
pub use operation::{Created, Operation, Updated};
pub use runtime::{Answer, Runtime, State};
pub use settings::Settings;
