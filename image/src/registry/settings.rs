//! The `registries` section of the settings file: how each host is reached.
//!
//! One section serves run, build and CRI. It is plain data and is passed to each operation, so a
//! changed file counts from the next operation on, without a restart. Keys are hosts as they stand
//! in references; `*` is for hosts that have no entry of their own. A mirror is a host like any
//! other: how it is reached stands under its own name, which keeps each host in one place.
//!
//! ```json
//! {"docker.io": {"mirrors": [{"host": "cache.lan:5000/hub"}]},
//!  "cache.lan:5000": {"ca": ["/etc/pki/lan.pem"]}}
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::credentials::Secret;
use crate::reference;
use crate::{Context, Error, Result};

/// How long connecting, with TLS, may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// After how long without a byte a connection is replaced.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How many blobs, or parts of a blob, move at the same time from or to a host.
pub const CONNECTIONS: usize = 4;
/// More than this is hostile to a registry.
pub const MAX_CONNECTIONS: usize = 64;
/// The entry for hosts without one.
pub const ANY_HOST: &str = "*";

/// How hosts are reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, Host>")]
pub struct Settings {
    hosts: BTreeMap<String, Host>,
}

/// How one host is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Hosts to ask first, in this order. The host itself is asked last.
    pub mirrors: Vec<Mirror>,
    /// `true`: without TLS. `false`: always with TLS. Unset: with TLS, but a loopback address that
    /// does not speak TLS is spoken to without.
    pub plain_http: Option<bool>,
    /// Files of certificates to trust in addition to the system's.
    pub ca: Vec<PathBuf>,
    /// File of a certificate to show the host, with its chain.
    pub client_certificate: Option<PathBuf>,
    /// File of its key.
    pub client_key: Option<PathBuf>,
    /// Do not check whose certificate the host shows.
    pub skip_verify: bool,
    /// Headers sent to this host, and only to it. They may be secrets.
    pub headers: BTreeMap<String, Secret>,
    /// Seconds that connecting may take.
    #[serde(deserialize_with = "seconds")]
    pub connect_timeout: Duration,
    /// Seconds without a byte after which a connection is replaced.
    #[serde(deserialize_with = "seconds")]
    pub stall_timeout: Duration,
    /// How many blobs, or parts of one, move at the same time.
    pub connections: usize,
    /// Push in pieces of so many bytes, for a proxy that refuses long bodies.
    pub upload_chunk: Option<u64>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            plain_http: None,
            ca: Vec::new(),
            client_certificate: None,
            client_key: None,
            skip_verify: false,
            headers: BTreeMap::new(),
            connect_timeout: CONNECT_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
            connections: CONNECTIONS,
            upload_chunk: None,
        }
    }
}

/// A host that has (some of) another one's images.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// `HOST[:PORT][/PREFIX]`; the prefix comes before the repository.
    pub host: String,
    /// What it is asked for. Without `resolve` it never decides what a tag means, and may be
    /// trusted less: what is fetched by digest is verified.
    #[serde(default = "all_capabilities")]
    pub capabilities: Vec<Capability>,
}

/// What a mirror is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// What a tag means.
    Resolve,
    /// Bytes by digest.
    Pull,
}

fn all_capabilities() -> Vec<Capability> {
    vec![Capability::Resolve, Capability::Pull]
}

fn seconds<'de, D: Deserializer<'de>>(reader: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(reader)?;
    if !(0.001..=86_400.0).contains(&seconds) {
        return Err(D::Error::custom("not between 0.001 and 86400 seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

impl Settings {
    /// From entries by host.
    pub fn new(hosts: BTreeMap<String, Host>) -> Result<Self> {
        for (name, host) in &hosts {
            let words = || format!("invalid settings of registry {name:?}");
            if name != ANY_HOST {
                reference::check_host(name).context(words)?;
            }
            host.check().context(words)?;
        }
        Ok(Self { hosts })
    }

    /// How a host is reached.
    pub fn host(&self, name: &str) -> Host {
        self.own(name).cloned().unwrap_or_default()
    }

    fn own(&self, name: &str) -> Option<&Host> {
        self.hosts.get(name).or_else(|| self.hosts.get(ANY_HOST))
    }
}

impl TryFrom<BTreeMap<String, Host>> for Settings {
    type Error = String;

    fn try_from(hosts: BTreeMap<String, Host>) -> Result<Self, String> {
        Self::new(hosts).map_err(|e| e.chain().to_string())
    }
}

/// Headers that the protocol needs for itself.
const OWN_HEADERS: [&str; 9] = [
    "authorization",
    "host",
    "content-length",
    "content-type",
    "range",
    "accept",
    "accept-encoding",
    "connection",
    "transfer-encoding",
];

impl Host {
    fn check(&self) -> Result<()> {
        for mirror in &self.mirrors {
            let (host, prefix) = mirror.parts();
            reference::check_host(host).context(|| "wrong mirror")?;
            if !prefix.is_empty() {
                reference::check_path(prefix).context(|| "wrong mirror")?;
            }
            if mirror.capabilities.is_empty() {
                return Err(Error::invalid(format!("mirror {host} is for nothing")));
            }
        }
        let tls = !self.ca.is_empty() || self.skip_verify || self.client_certificate.is_some();
        if tls && self.plain_http == Some(true) {
            return Err(Error::invalid(
                "plain_http and TLS settings exclude each other",
            ));
        }
        if self.client_certificate.is_some() != self.client_key.is_some() {
            return Err(Error::invalid(
                "client_certificate and client_key need each other",
            ));
        }
        if !(1..=MAX_CONNECTIONS).contains(&self.connections) {
            return Err(Error::invalid(format!(
                "connections is not in 1..={MAX_CONNECTIONS}"
            )));
        }
        if self.upload_chunk == Some(0) {
            return Err(Error::invalid("upload_chunk is 0"));
        }
        for (name, value) in &self.headers {
            let token =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(Error::invalid(format!("{name:?} is no header's name")));
            }
            if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(Error::invalid(format!("the header {name} cannot be set")));
            }
            if !value
                .expose()
                .bytes()
                .all(|byte| (b' '..127).contains(&byte))
            {
                return Err(Error::invalid(format!(
                    "the header {name} has an invalid value"
                )));
            }
        }
        Ok(())
    }
}

impl Mirror {
    /// Its host and the prefix of its repositories.
    pub fn parts(&self) -> (&str, &str) {
        self.host.split_once('/').unwrap_or((&self.host, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_all_of_it() {
        let settings = read(
            r#"{"docker.io":{"mirrors":[{"host":"m:5/hub","capabilities":["pull"]},{"host":"n"}]},
            "m:5":{"plain_http":true,"headers":{"X-Key":"hidden-value"},"stall_timeout":1.5},
            "*":{"connections":2,"skip_verify":true}}"#,
        )
        .unwrap();
        let hub = settings.host("docker.io");
        assert_eq!(hub.mirrors[0].parts(), ("m:5", "hub"));
        assert_eq!(hub.mirrors[1].capabilities, all_capabilities());
        assert_eq!(
            settings.host("m:5").stall_timeout,
            Duration::from_millis(1500)
        );
        assert_eq!(settings.host("elsewhere").connections, 2);
        assert!(!format!("{settings:?}").contains("hidden-value"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for (text, words) in [
            (r#"{"a b":{}}"#, "not a host name"),
            (r#"{"a":{"mirror":[]}}"#, "unknown field"),
            (r#"{"a":{"mirrors":[{"host":"m","x":1}]}}"#, "unknown field"),
            (r#"{"a":{"mirrors":[{"host":"m/../x"}]}}"#, "wrong mirror"),
            (
                r#"{"a":{"mirrors":[{"host":"m","capabilities":["push"]}]}}"#,
                "unknown variant",
            ),
            (
                r#"{"a":{"mirrors":[{"host":"m","capabilities":[]}]}}"#,
                "for nothing",
            ),
            (
                r#"{"a":{"plain_http":true,"ca":["/x"]}}"#,
                "exclude each other",
            ),
            (r#"{"a":{"client_key":"/x"}}"#, "need each other"),
            (r#"{"a":{"connections":0}}"#, "connections"),
            (r#"{"a":{"connect_timeout":-1}}"#, "seconds"),
            (
                r#"{"a":{"headers":{"Authorization":"x"}}}"#,
                "cannot be set",
            ),
            (r#"{"a":{"headers":{"X":"a\r\nb: c"}}}"#, "invalid value"),
            (r#"{"a":{"headers":{"X y":"a"}}}"#, "no header's name"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
