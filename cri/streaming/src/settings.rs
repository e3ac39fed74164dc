//! What whoever runs the server decides.

use crate::tls::Tls;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Where and how long. The default is a kubelet's expectation.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Listen here; port 0 takes any that is free.
    pub address: SocketAddr,
    /// The host of the URLs, if it is not the address: a kubelet must reach it.
    pub host: Option<String>,
    /// Certificate and key, where URLs are to begin with `https`.
    pub tls: Option<Tls>,
    /// A session without a byte in either direction ends after this.
    pub idle_timeout: Duration,
    /// A client has this long to open the streams that it asked for.
    pub creation_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            host: None,
            tls: None,
            idle_timeout: Duration::from_secs(4 * 60 * 60),
            creation_timeout: Duration::from_secs(30),
        }
    }
}
