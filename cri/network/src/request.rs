//! What is asked for: which namespace, by which names, with which ports. Checked here, before anything
//! is done.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Bytes of a container's ID; it is part of names of files.
const ID_MAX: usize = 128;
/// Bytes of an interface's name, without the terminator (`IFNAMSIZ - 1`).
const INTERFACE_MAX: usize = 15;
/// Port mappings of one pod.
const PORTS_MAX: usize = 4096;

/// What tells attachments apart: a container and the name of the interface in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    id: String,
    interface: String,
}

impl Key {
    /// Checks both names: IDs as CNI has them, interfaces as the kernel has them.
    pub fn new(id: &str, interface: &str) -> Result<Self> {
        let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !id.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !id.chars().all(rest)
            || id.len() > ID_MAX
        {
            return Err(Error::invalid(format!(
                "cannot connect container {id:?}: an ID is at most {ID_MAX} letters, digits, '_', '.' \
                 and '-', and begins with a letter or digit"
            )));
        }
        let odd = |c: char| matches!(c, '/' | ':' | '%' | ',') || !c.is_ascii_graphic();
        if !(1..=INTERFACE_MAX).contains(&interface.len())
            || matches!(interface, "." | ".." | "lo")
            || interface.contains(odd)
        {
            return Err(Error::invalid(format!(
                "cannot name an interface {interface:?}: a name is at most {INTERFACE_MAX} characters, \
                 none of them '/', ':', '%', ',' or a space"
            )));
        }
        let (id, interface) = (id.to_owned(), interface.to_owned());
        Ok(Self { id, interface })
    }

    /// The container.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The interface in it.
    pub fn interface(&self) -> &str {
        &self.interface
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.interface, self.id)
    }
}

/// A network namespace: open, and at a path where programs find it.
#[derive(Debug, Clone, Copy)]
pub struct Namespace<'a> {
    file: BorrowedFd<'a>,
    path: &'a Path,
}

impl<'a> Namespace<'a> {
    /// Both must be the same namespace. The path is for plugins only, and must stay until `remove`.
    pub fn new(file: &'a impl AsFd, path: &'a Path) -> Self {
        let file = file.as_fd();
        Self { file, path }
    }

    /// The open namespace.
    pub fn file(&self) -> BorrowedFd<'a> {
        self.file
    }

    /// Where programs find it.
    pub fn path(&self) -> &'a Path {
        self.path
    }
}

/// Protocols that have ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// As it is written in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// As it is written in headers.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A port of the host that leads into the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The host's.
    pub host: u16,
    /// The container's.
    pub container: u16,
    /// Which kind of port.
    pub protocol: Protocol,
    /// Only at this address of the host; none: at all. An unspecified one means all of its family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

impl Port {
    /// Whether both cannot be had at once.
    pub fn conflicts(&self, other: &Self) -> bool {
        let meet = match (self.address, other.address) {
            (None, _) | (_, None) => true,
            (Some(one), Some(two)) if one.is_ipv4() != two.is_ipv4() => false,
            (Some(one), Some(two)) => one == two || one.is_unspecified() || two.is_unspecified(),
        };
        meet && (self.host, self.protocol) == (other.host, other.protocol)
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:")?,
            Some(v4) => write!(f, "{v4}:")?,
            None => {}
        }
        write!(f, "{}/{}", self.host, self.protocol.name())
    }
}

/// Limits of traffic, in bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// To the container: bits in a second, and in a burst.
    pub ingress: Option<(u64, u64)>,
    /// From the container.
    pub egress: Option<(u64, u64)>,
}

/// Of which pod of Kubernetes the container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pod<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace of that name.
    pub namespace: &'a str,
    /// Its unique ID.
    pub uid: &'a str,
}

/// What resolvers are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains to search in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of resolvers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A namespace to connect, and how.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The container and the interface.
    pub key: Key,
    /// Its namespace.
    pub namespace: Namespace<'a>,
    /// The pod, for plugins that ask for its name.
    pub pod: Option<Pod<'a>>,
    /// Ports of the host.
    pub ports: Vec<Port>,
    /// Limits.
    pub bandwidth: Bandwidth,
    /// For plugins that make resolver files.
    pub dns: Option<Dns>,
    /// Addresses that are asked for.
    pub addresses: Vec<IpAddr>,
    /// The hardware address that is asked for.
    pub mac: Option<String>,
    /// The pod's cgroup, for plugins that filter by it.
    pub cgroup: Option<String>,
    /// The InfiniBand GUID that is asked for.
    pub infiniband: Option<String>,
    /// More arguments for plugins.
    pub arguments: Vec<(String, String)>,
}

impl<'a> Request<'a> {
    /// Nothing but a connection.
    pub fn new(key: Key, namespace: Namespace<'a>) -> Self {
        Self {
            key,
            namespace,
            pod: None,
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            dns: None,
            addresses: Vec::new(),
            mac: None,
            cgroup: None,
            infiniband: None,
            arguments: Vec::new(),
        }
    }

    /// Refuses ports that cannot be had, whoever maps them.
    pub(crate) fn check_ports(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::invalid(format!("cannot map ports: {why}")));
        if self.ports.len() > PORTS_MAX {
            return refuse(format!("there are more than {PORTS_MAX}"));
        }
        for (index, port) in self.ports.iter().enumerate() {
            if port.host == 0 || port.container == 0 {
                return refuse(format!("{port} to {}: 0 is no port", port.container));
            }
            if let Some(other) = self.ports[..index].iter().find(|p| p.conflicts(port)) {
                return refuse(format!("{port} is asked for twice (with {other})"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (id, interface, good) in [
            ("a", "eth0", true),
            ("4f_.-", "a.b-c", true),
            ("", "eth0", false),
            ("-a", "eth0", false),
            ("a/b", "eth0", false),
            ("a,b", "eth0", false),
            ("a\n", "eth0", false),
            ("a", "", false),
            ("a", "lo", false),
            ("a", "..", false),
            ("a", "et h0", false),
            ("a", "eth%d", false),
            ("a", "et,h0", false),
            ("a", "0123456789abcdef", false),
        ] {
            assert_eq!(
                Key::new(id, interface).is_ok(),
                good,
                "{id:?} {interface:?}"
            );
        }
        assert!(Key::new(&"a".repeat(ID_MAX), "eth0").is_ok());
        assert!(Key::new(&"a".repeat(ID_MAX + 1), "eth0").is_err());
    }

    #[test]
    fn ports_that_meet() {
        let port = |text: &str, host, protocol| Port {
            host,
            container: 80,
            protocol,
            address: (!text.is_empty()).then(|| text.parse().unwrap()),
        };
        use Protocol::{Tcp, Udp};
        for (one, two, want) in [
            (port("", 80, Tcp), port("", 80, Tcp), true),
            (port("", 80, Tcp), port("", 81, Tcp), false),
            (port("", 80, Tcp), port("", 80, Udp), false),
            (port("", 80, Tcp), port("127.0.0.1", 80, Tcp), true),
            (port("0.0.0.0", 80, Tcp), port("127.0.0.1", 80, Tcp), true),
            (port("0.0.0.0", 80, Tcp), port("::1", 80, Tcp), false),
            (port("::", 80, Tcp), port("::1", 80, Tcp), true),
            (port("10.0.0.1", 80, Tcp), port("10.0.0.2", 80, Tcp), false),
        ] {
            assert_eq!(one.conflicts(&two), want, "{one} {two}");
            assert_eq!(two.conflicts(&one), want, "{two} {one}");
        }
    }
}
