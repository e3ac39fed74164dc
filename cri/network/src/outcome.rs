//! What came of it: interfaces, addresses, routes, resolvers. Written as CNI's result of version 1.1.0,
//! read from any since 0.3.0.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::request::Dns;

/// What a connected namespace has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// Devices that were made, also on the host.
    #[serde(deserialize_with = "or_default")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(deserialize_with = "or_default")]
    pub ips: Vec<Address>,
    /// Routes in the namespace.
    #[serde(deserialize_with = "or_default")]
    pub routes: Vec<Route>,
    /// What resolvers are told, if the network says.
    #[serde(deserialize_with = "or_default")]
    pub dns: Dns,
}

impl Outcome {
    /// The container's addresses: those on interfaces in its namespace, or on none that is named.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ips.iter().filter_map(|ip| match ip.interface {
            Some(index) if self.interfaces.get(index)?.sandbox.is_empty() => None,
            _ => Some(ip.address.address),
        })
    }
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The longest packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Where it is; empty: on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// The socket that belongs to it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// The device of the PCI bus that it is.
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefixed {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
}

impl std::str::FromStr for Prefixed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no = || format!("{text:?} is no address with a prefix");
        let (address, prefix) = text.split_once('/').ok_or_else(no)?;
        let address: IpAddr = address.parse().map_err(|_| no())?;
        let prefix: u8 = prefix.parse().map_err(|_| no())?;
        match prefix <= if address.is_ipv4() { 32 } else { 128 } {
            true => Ok(Self { address, prefix }),
            false => Err(no()),
        }
    }
}

impl std::fmt::Display for Prefixed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Prefixed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefixed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An address of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: Prefixed,
    /// The way out of its network.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "or_none"
    )]
    pub gateway: Option<IpAddr>,
    /// Which of the interfaces has it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "index"
    )]
    pub interface: Option<usize>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: Prefixed,
    /// By which way.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "or_none"
    )]
    pub gw: Option<IpAddr>,
    /// The longest packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Lower is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// In which table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
}

/// Programs in Go write `null` for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An address, unless it is empty.
fn or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// A negative number means none.
fn index<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let number = Option::<i64>::deserialize(deserializer)?;
    Ok(number.and_then(|number| usize::try_from(number).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_versions_are_read() {
        let old = r#"{"cniVersion":"0.3.1","interfaces":[{"name":"br","mac":"00:01"},{"name":"eth0",
            "sandbox":"/n"}],"ips":[{"version":"4","interface":1,"address":"10.1.0.5/16","gateway":
            "10.1.0.1"},{"version":"6","address":"fd00::5/64","interface":0}],"routes":[{"dst":"0.0.0.0/0"}],
            "dns":{}}"#;
        let read: Outcome = serde_json::from_str(old).unwrap();
        let addresses: Vec<_> = read.addresses().map(|a| a.to_string()).collect();
        assert_eq!(addresses, ["10.1.0.5"]);
        assert_eq!(read.routes[0].dst.to_string(), "0.0.0.0/0");
        for (text, addresses) in [
            (
                r#"{"interfaces":null,"ips":null,"routes":null,"dns":null}"#,
                0,
            ),
            ("{}", 0),
            (
                r#"{"ips":[{"address":"::1/128","gateway":"","interface":-1}]}"#,
                1,
            ),
            (r#"{"ips":[{"address":"::1/128","interface":7}]}"#, 0),
        ] {
            let read: Outcome = serde_json::from_str(text).unwrap();
            assert_eq!(read.addresses().count(), addresses, "{text}");
            let again = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<Outcome>(&again).unwrap(), read);
        }
    }

    #[test]
    fn attack_results_that_are_none() {
        for text in [
            "",
            r#"{"ips":[{}]}"#,
            r#"{"ips":[{"address":"10.0.0.1"}]}"#,
            r#"{"ips":[{"address":"10.0.0.1/33"}]}"#,
            r#"{"ips":[{"address":"::1/129"}]}"#,
            r#"{"ips":[{"address":"::1/1","gateway":"x"}]}"#,
            r#"{"routes":[{"dst":"default"}]}"#,
        ] {
            assert!(serde_json::from_str::<Outcome>(text).is_err(), "{text}");
        }
    }
}
