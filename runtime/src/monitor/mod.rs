//! The monitor: one small process beside each container that people keep, and what speaks to it.
//!
//! It makes the container, owns its standard streams or its terminal, writes its log and its exit record,
//! and lets clients attach. It does not own the container: the state below the runtime's root is as for
//! any other, and stays (`stopped`) until somebody deletes it. Signals go by way of the runtime, not
//! through here. Protocol and guarantees: docs/monitor.md (normative).
//!
//! `launch`: what a monitor is told, and how one is started. `serve`: the process itself, a single
//! thread around one poll (`turn`); `streams`, `input`, `peer`, `log_file`, `exit` are its parts. `protocol`:
//! what it says. `client`, `relay`: the other side; `relay` is for verbs that show a container to a
//! person.

mod client;
mod exit;
mod input;
mod launch;
mod log_file;
mod peer;
mod protocol;
mod relay;
mod serve;
mod streams;
mod turn;

pub use crate::launch::keys::parse_keys;
pub use client::{AttachOptions, Client, Event};
pub use exit::Exit;
pub use launch::{
    Launch, Log, Restore, RuntimeFlags, Size, Snapshot, Started, Stdin, VERSION, When, lives,
    remove,
};
pub use log_file::LINE_MAX;
pub use protocol::{DESCRIPTORS_MAX, MESSAGE_MAX, Status, WireError};
pub use relay::{DETACH_KEYS, Ended, Relay, RelayOptions};
pub use serve::serve;
