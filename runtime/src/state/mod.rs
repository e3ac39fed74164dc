//! Records of live containers: one directory each below the runtime's root.
//!
//! `ROOT/ID/state.json` says where the container's parts are, `config.json` is the configuration it
//! was made from, `start.sock` exists while the init waits for `start`. The directory's existence
//! makes the ID taken; its flock(2) serialises operations. Nothing here needs to survive a reboot,
//! so nothing is synced; `state.json` is always complete, since it is renamed into place.
//! Normative: docs/on-disk.md.

mod directory;
mod process;
mod record;
pub(crate) mod time;

pub(crate) use directory::{Directory, MONITORS, check_id, list_ids};
pub(crate) use process::{facts, signal_name, signal_words};
pub(crate) use record::{Record, VERSION};
pub(crate) use time::now;
