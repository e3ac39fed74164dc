//! Every number that a plugin may choose, with what it may be at most, and how long anything is waited for.

use std::time::Duration;

/// From the connection to the registration. The interface's own number; [`Settings`](crate::Settings) may change it.
pub const REGISTRATION_TIME: Duration = Duration::from_secs(5);
/// For the answer to one request. The interface's own number; [`Settings`](crate::Settings) may change it.
pub const REQUEST_TIME: Duration = Duration::from_secs(2);
/// Bytes of one message, in each direction, as ttrpc has it.
pub const MESSAGE: usize = 4 << 20;
/// A length that takes the first byte of a ttrpc header is no length: that byte is reserved and zero.
pub const LENGTH: usize = (16 << 20) - 1;
/// Bytes of one frame of the multiplexer: a whole message with its header.
pub const FRAME: usize = MESSAGE + 10;
/// Texts and messages within one message, at all depths, so that a few bytes do not become many in memory.
pub const FIELDS: usize = 64 << 10;
/// Messages within messages that are counted; the interface has 7.
pub const DEPTH: usize = 12;
/// Messages that wait for a plugin to read them.
pub const QUEUE: usize = 16;
/// Requests of one plugin that are worked on at once.
pub const REQUESTS: usize = 8;
/// Plugins at once.
pub const PLUGINS: usize = 128;
/// Connections that have not registered yet; others wait in the kernel.
pub const STRANGERS: usize = 32;
/// How long operations that begin wait for one that a plugin waits for: at first.
pub const JOIN: Duration = Duration::from_secs(1);
/// The same, at most: longer than an operation takes on a machine that is busy.
pub const JOIN_MAX: Duration = Duration::from_secs(10);
/// Bytes of a plugin's name.
pub const NAME: usize = 128;
/// Bytes of what a plugin says about an error that are repeated.
pub const WORDS: usize = 1024;
/// Bytes of the configuration of a plugin that we start.
pub const CONFIGURATION: u64 = 1 << 20;
/// How long a plugin that we started may take to end after its connection did.
pub const GRACE: Duration = Duration::from_secs(1);
/// The longest read from a socket at once.
pub const READ: usize = 32 << 10;
