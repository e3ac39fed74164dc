//! The client of the distribution protocol (OCI distribution specification 1.1; Docker Registry v2).
//!
//! Owns all traffic with registries: where they are ([`endpoints`], [`settings`]), who we are
//! ([`credentials`], `authenticate`), names of hosts ([`resolver`]), one request (`transport`),
//! second tries ([`retry`]), and on top of these a [`Client`] that downloads ([`download`]) and
//! uploads ([`upload`]). It stores nothing: bytes go to a [`Sink`] and come from a reader.
//!
//! # Why a client of our own
//!
//! `oci-client` was the first choice, and cannot do what is asked for here: it does not resume or
//! verify-and-continue uploads, and has no way to honour `OCI-Chunk-Min-Length`; it hides the
//! answers' headers, so that `Retry-After`, `Docker-Content-Digest` and `Link` are lost; hosts
//! without TLS are a list that is fixed when the client is made; and it has neither mirrors nor
//! headers, certificates and time limits per host. What would have remained of it is the JSON, which
//! [`crate::document`] must read more strictly anyway.
//!
//! So this is a blocking client on `ureq` 3: HTTP/1.1, TLS by rustls with ring, a connection pool, an
//! idle limit per read, and a shutdown that interrupts blocked reads. It needs no async runtime and
//! some twenty crates. HTTP/1.1 is enough:
//! every registry speaks it, blobs are few and large, and several connections fetch a large one
//! faster than one HTTP/2 connection with its shared window.
//!
//! # Promises
//!
//! - A credential goes to the registry that it is for and to the realm it names, and nowhere else.
//! - A broken transfer goes on where it stopped; a reset costs what was on the wire.
//! - No byte for the stall limit replaces the connection; a slow transfer is left alone.
//! - Every wait ends with [`Cancel::cancel`], and every buffer has a fixed size.
//! - Errors name host, repository and digest or tag, and repeat the registry's own words.

mod authenticate;
pub mod client;
pub mod credentials;
mod dns;
pub mod download;
pub mod endpoints;
mod helper;
mod listing;
mod parts;
pub mod resolver;
pub mod retry;
pub mod settings;
mod transport;
pub mod upload;
pub mod url;
pub mod web;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
pub(crate) mod tests;

pub use client::{Client, Options};
pub use credentials::{Credential, Credentials, Secret};
pub use download::{Fetched, Sink};
pub use endpoints::Proxies;
pub use retry::{Cancel, Notice, Policy};
pub use settings::Settings;
pub use upload::Pushed;
