//! Compressed layers: recognised by their first bytes, inflated with limits, deflated to the same
//! bytes by any number of threads.
//!
//! RFC 1952 (gzip), RFC 8878 (zstd). Media types are not consulted: registries are known to lie.

pub mod ahead;
pub mod decode;
pub mod encode;
mod gunzip;
pub mod gzip_blocks;
mod input;
pub mod sniff;
pub mod zstd;

pub use ahead::{Ahead, Decoded, decode_ahead};
pub use decode::{Decoder, Limits};
pub use encode::{Encoder, check_level};
pub use sniff::{Compression, sniff};
