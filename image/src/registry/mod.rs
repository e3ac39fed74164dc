//! The client of the distribution protocol (OCI distribution specification 1.1; Docker Registry v2).
mod authenticate;
pub mod client;
pub mod credentials;
mod dns;
pub mod download;
pub mod endpoints;
mod helper;
pub mod resolver;
pub mod retry;
pub mod settings;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod transport;
pub mod upload;
pub mod url;
