//! What the bridge is called and which addresses it has. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::outcome::Prefixed;
use crate::{Error, Result};

/// Bytes of the bridge's name: ports are named after it, with `v` and up to five digits.
const NAME_MAX: usize = 9;
/// The network that no other engine takes by itself.
const DEFAULT_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 137, 0, 0), 16);
/// Slots are counted up to this, however large the networks are.
const SLOTS_MAX: u32 = 65_534;

/// The network of the bridge. A slot is a number: the same one of both families.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The bridge's name.
    pub name: String,
    /// The table of nf_tables that is ours alone.
    pub table: String,
    /// Addresses of IPv4; 10.137.0.0/16 by default.
    pub v4: Subnet,
    /// Addresses of IPv6, if there are to be any: of `fd00::/8`, which everybody may use.
    pub v6: Option<Subnet>,
    /// The longest packet; none: that of the device that leads out.
    pub mtu: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "rcrun0".into(),
            table: "rcrun".into(),
            v4: Subnet(Prefixed {
                address: DEFAULT_V4.0.into(),
                prefix: DEFAULT_V4.1,
            }),
            v6: None,
            mtu: None,
        }
    }
}

impl Settings {
    /// A bridge with a table of the same name, and 10.N.0.0/16.
    pub fn named(name: &str, number: u8) -> Self {
        let address = Ipv4Addr::new(10, number, 0, 0).into();
        let v4 = Subnet(Prefixed {
            address,
            prefix: 16,
        });
        Self {
            name: name.to_owned(),
            table: name.to_owned(),
            v4,
            ..Self::default()
        }
    }

    /// Refuses what cannot be.
    pub fn check(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::invalid(format!("cannot use the network: {why}")));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !(1..=NAME_MAX).contains(&self.name.len()) || !self.name.chars().all(plain) {
            return refuse(format!(
                "bridge {:?}: a name is at most {NAME_MAX} letters, digits, '-' and '_'",
                self.name
            ));
        }
        if !(1..=31).contains(&self.table.len()) || !self.table.chars().all(plain) {
            return refuse(format!("{:?} is no name of a table", self.table));
        }
        if !self.v4.0.address.is_ipv4() {
            return refuse(format!("{} is no network of IPv4", self.v4.0));
        }
        if let Some(v6) = self.v6
            && !v6.0.address.is_ipv6()
        {
            return refuse(format!("{} is no network of IPv6", v6.0));
        }
        let least = if self.v6.is_some() { 1280 } else { 68 };
        match self.mtu {
            Some(mtu) if !(least..=65_535).contains(&mtu) => {
                refuse(format!("an MTU of {mtu} is not between {least} and 65535"))
            }
            _ => Ok(()),
        }
    }

    /// The last slot; the first is the bridge's own.
    pub(super) fn last_slot(&self) -> u32 {
        self.subnets().map(Subnet::last_slot).min().unwrap_or(0)
    }

    /// The networks.
    pub fn subnets(&self) -> impl Iterator<Item = Subnet> {
        [Some(self.v4), self.v6].into_iter().flatten()
    }

    /// The slot that has these addresses; none if there are none. What is wrong with them is told.
    pub(super) fn slot_of(&self, addresses: &[IpAddr]) -> Result<Option<u32>, String> {
        let mut slot = None;
        for address in addresses {
            let within = |subnet: &Subnet| subnet.slot_of(*address);
            let Some(found) = self.subnets().find_map(|subnet| within(&subnet)) else {
                let networks: Vec<_> = self.subnets().map(|s| s.0.to_string()).collect();
                return Err(format!("{address} is not in {}", networks.join(" or ")));
            };
            if !(2..=self.last_slot()).contains(&found) {
                return Err(format!("{address} is no address for a container"));
            }
            if slot.is_some_and(|other| other != found) {
                return Err(format!(
                    "{address} is the address of another slot than the one before: both end alike"
                ));
            }
            slot = Some(found);
        }
        Ok(slot)
    }

    /// The addresses of a slot.
    pub(super) fn addresses(&self, slot: u32) -> Vec<Prefixed> {
        self.subnets().map(|subnet| subnet.address(slot)).collect()
    }
}

/// A network from which slots get addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Prefixed", into = "Prefixed")]
pub struct Subnet(Prefixed);

impl std::str::FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let network: Prefixed = text.parse().map_err(Error::invalid)?;
        Self::try_from(network).map_err(Error::invalid)
    }
}

impl TryFrom<Prefixed> for Subnet {
    type Error = String;

    fn try_from(network: Prefixed) -> Result<Self, String> {
        let (low, high) = if network.address.is_ipv4() {
            (8, 29)
        } else {
            (32, 120)
        };
        let subnet = Self(network);
        if !(low..=high).contains(&network.prefix) {
            return Err(format!("a network has /{low} to /{high}, not {network}"));
        }
        if subnet.number(0) != network.address {
            let (base, prefix) = (subnet.number(0), network.prefix);
            return Err(format!(
                "{network} is an address, not a network: {base}/{prefix}"
            ));
        }
        if network.address.is_loopback() || network.address.is_multicast() {
            return Err(format!("{network} is no network for containers"));
        }
        Ok(subnet)
    }
}

impl From<Subnet> for Prefixed {
    fn from(subnet: Subnet) -> Self {
        subnet.0
    }
}

impl Subnet {
    /// The address with this number in the network.
    fn number(self, number: u32) -> IpAddr {
        let mask = self.mask();
        match self.0.address {
            IpAddr::V4(v4) => {
                let mask = u32::from_be_bytes([mask[0], mask[1], mask[2], mask[3]]);
                Ipv4Addr::from((u32::from(v4) & mask) | (number & !mask)).into()
            }
            IpAddr::V6(v6) => {
                let bits = 128 - u32::from(self.0.prefix);
                let mask = u128::MAX.checked_shl(bits).unwrap_or(0);
                Ipv6Addr::from((u128::from(v6) & mask) | u128::from(number)).into()
            }
        }
    }

    /// The address of a slot.
    pub(super) fn address(self, slot: u32) -> Prefixed {
        let (address, prefix) = (self.number(slot), self.0.prefix);
        Prefixed { address, prefix }
    }

    /// The slot of an address; none if it is in another network, or none of ours.
    fn slot_of(self, address: IpAddr) -> Option<u32> {
        let number = match (self.0.address, address) {
            (IpAddr::V4(base), IpAddr::V4(v4)) => u32::from(v4).checked_sub(u32::from(base)),
            (IpAddr::V6(base), IpAddr::V6(v6)) => {
                let number = u128::from(v6).checked_sub(u128::from(base));
                number.and_then(|number| u32::try_from(number).ok())
            }
            _ => None,
        }?;
        (self.number(number) == address).then_some(number)
    }

    /// The bridge's own address.
    pub fn gateway(self) -> IpAddr {
        self.number(1)
    }

    /// The bytes of the network's address.
    pub(super) fn network(self) -> Vec<u8> {
        match self.number(0) {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    }

    /// The bytes of its mask.
    pub(super) fn mask(self) -> Vec<u8> {
        let length = if self.0.address.is_ipv4() { 4 } else { 16 };
        (0..length)
            .map(|byte| {
                let ones = (u32::from(self.0.prefix)).saturating_sub(byte * 8).min(8);
                (0xff00u32 >> ones) as u8
            })
            .collect()
    }

    /// Neither the network itself nor the broadcast address.
    fn last_slot(self) -> u32 {
        let length = if self.0.address.is_ipv4() { 32 } else { 128 };
        let bits = length - u32::from(self.0.prefix);
        let size = 1u32.checked_shl(bits).unwrap_or(u32::MAX);
        (size - 2).min(SLOTS_MAX)
    }
}

/// The hardware address that goes with an address: whoever gets the address later has it too, so that
/// nobody's neighbour table is wrong.
pub(super) fn hardware(address: IpAddr) -> [u8; 6] {
    let low = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    [0x0a, 0x58, low[0], low[1], low[2], low[3]]
}

/// A hardware address of one device, as people write it: six bytes in hexadecimal.
pub(super) fn parse_hardware(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let one = bytes[0] & 1 == 0 && bytes != [0; 6];
    (parts.next().is_none() && one && !text.contains('+')).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (text, want) in [
            (
                "10.137.0.0/16",
                Some(("10.137.0.1", "10.137.1.2", 65_534, "ffff0000")),
            ),
            (
                "10.0.0.0/8",
                Some(("10.0.0.1", "10.0.1.2", 65_534, "ff000000")),
            ),
            (
                "192.168.4.0/29",
                Some(("192.168.4.1", "192.168.4.2", 6, "fffffff8")),
            ),
            (
                "fd12::/64",
                Some((
                    "fd12::1",
                    "fd12::102",
                    65_534,
                    "ffffffffffffffff0000000000000000",
                )),
            ),
            ("192.168.4.0/30", None),
            ("192.168.4.1/24", None),
            ("127.0.0.0/8", None),
            ("224.0.0.0/8", None),
            ("fd12::/124", None),
            ("fd12::", None),
            ("", None),
        ] {
            let subnet = text.parse::<Subnet>();
            let Some((gateway, at258, last, mask)) = want else {
                assert!(subnet.is_err(), "{text}");
                continue;
            };
            let subnet = subnet.unwrap();
            assert_eq!(subnet.gateway().to_string(), gateway);
            assert_eq!(subnet.last_slot(), last);
            assert_eq!(subnet.address(258).address.to_string(), at258);
            let hex: String = subnet.mask().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, mask);
        }
    }

    #[test]
    fn addresses_that_are_asked_for() {
        let settings = Settings {
            v4: "10.9.0.0/24".parse().unwrap(),
            v6: Some("fd00:9::/64".parse().unwrap()),
            ..Settings::default()
        };
        for (asked, want) in [
            (&[][..], Ok(None)),
            (&["10.9.0.7"], Ok(Some(7))),
            (&["10.9.0.7", "fd00:9::7"], Ok(Some(7))),
            (&["fd00:9::fe"], Ok(Some(254))),
            (&["10.9.0.7", "fd00:9::8"], Err("another slot")),
            (&["10.9.1.7"], Err("is not in 10.9.0.0/24 or fd00:9::/64")),
            (&["10.8.255.255"], Err("is not in")),
            (&["10.9.0.1"], Err("no address for a container")),
            (&["10.9.0.0"], Err("no address for a container")),
            (&["10.9.0.255"], Err("no address for a container")),
            (&["fd00:9::1:0:0"], Err("is not in")),
        ] {
            let addresses: Vec<IpAddr> = asked.iter().map(|text| text.parse().unwrap()).collect();
            match (settings.slot_of(&addresses), want) {
                (Ok(slot), Ok(want)) => assert_eq!(slot, want, "{asked:?}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (got, want) => panic!("{asked:?}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(
            parse_hardware("02:42:ac:11:00:02"),
            Some([2, 0x42, 0xac, 0x11, 0, 2])
        );
        assert!(parse_hardware("02-42-AC-11-00-02").is_some());
        for wrong in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "03:42:ac:11:00:02",
            "00:00:00:00:00:00",
            "2:42:ac:11:00:02",
            "+2:42:ac:11:00:02",
            "02:42:ac:11:00:0g",
        ] {
            assert_eq!(parse_hardware(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn settings_that_cannot_be() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check()
        };
        with(|_| ()).unwrap();
        with(|s| s.v6 = Some("fd00:1::/64".parse().unwrap())).unwrap();
        for wrong in [
            (|s| s.name = String::new()) as fn(&mut Settings),
            |s| s.name = "a/b".into(),
            |s| s.name = "0123456789".into(),
            |s| s.table = "a b".into(),
            |s| s.v4 = "fd00:1::/64".parse().unwrap(),
            |s| s.v6 = Some("10.0.0.0/8".parse().unwrap()),
            |s| s.mtu = Some(67),
            |s| {
                s.v6 = Some("fd00:1::/64".parse().unwrap());
                s.mtu = Some(1000);
            },
        ] {
            assert!(with(wrong).is_err());
        }
        let text = serde_json::to_string(&Settings::default()).unwrap();
        let read: Settings = serde_json::from_str(&text).unwrap();
        assert_eq!(read, Settings::default());
    }
}
