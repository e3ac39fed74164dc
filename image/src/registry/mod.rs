//! The client of the distribution protocol (OCI distribution specification 1.1; Docker Registry v2).
pub mod endpoints;
pub mod resolver;
mod dns;
pub mod retry;
pub mod settings;
pub mod url;
pub mod credentials;
