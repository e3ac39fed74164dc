//! What nf_tables is told: masquerade, ports, and a guard of the host's loopback. Pure.
//!
//! One table. Pods without ports need nothing in it: what is about all of them goes by network. Ports are
//! elements of four maps (each family; any address of the host, or one), so that one more pod is one
//! small transaction, and finding a port takes the same time with one pod as with thousands.
//!
//! | chain | |
//! | --- | --- |
//! | `guard` | what pods send to 127.0.0.0/8 is dropped: replies to what comes from there need `route_localnet` on the bridge, which would open the host's loopback to pods |
//! | `incoming`, `local` | what is for an address of this host goes to `ports` |
//! | `ports` | four lookups, each with a new destination |
//! | `outgoing` | masquerade of what goes to pods from loopback, from pods to pods by a port of the host (replies must come back through the host), and from pods to elsewhere |

use std::net::IpAddr;

use super::settings::{Settings, Subnet};
use crate::netlink::nft::{
    Element, Expression as E, FIRST, INCOMING, LOCAL, OUTGOING, Transaction, Type, part,
};
use crate::outcome::Outcome;
use crate::request::Port;

/// The families: header offsets of source and destination, length, number.
struct Family {
    number: u8,
    source: u32,
    destination: u32,
    length: u32,
    ports: &'static str,
    ports_at: &'static str,
    address: Type,
}

const V4: Family = Family {
    number: 2,
    source: 12,
    destination: 16,
    length: 4,
    ports: "ports4",
    ports_at: "ports4_at",
    address: Type::Ipv4,
};
const V6: Family = Family {
    number: 10,
    source: 8,
    destination: 24,
    length: 16,
    ports: "ports6",
    ports_at: "ports6_at",
    address: Type::Ipv6,
};

/// Network (1) and transport (2) header.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

impl Family {
    fn load_source(&self) -> E<'static> {
        self.load(self.source, 0)
    }

    fn load_destination(&self) -> E<'static> {
        self.load(self.destination, 0)
    }

    fn load(&self, offset: u32, register: u32) -> E<'static> {
        E::Load {
            base: NETWORK,
            offset,
            length: self.length,
            register,
        }
    }

    /// Registers of four bytes that an address takes.
    fn words(&self) -> u32 {
        self.length / 4
    }
}

/// The port that a packet is for, in TCP, UDP and SCTP alike.
fn load_port(register: u32) -> E<'static> {
    E::Load {
        base: TRANSPORT,
        offset: 2,
        length: 2,
        register,
    }
}

/// An attachment as rules see it.
#[derive(Debug)]
pub(super) struct Mapped<'a> {
    pub(super) id: &'a str,
    pub(super) ports: &'a [Port],
    pub(super) outcome: &'a Outcome,
}

/// The whole table, made anew with all that is in it; nobody sees it half done.
pub(super) fn whole(to: &mut Transaction<'_>, settings: &Settings, all: &[Mapped<'_>]) {
    to.add_table();
    to.delete_table();
    to.add_table();
    for family in [&V4, &V6] {
        let value = [family.address, Type::Port];
        to.add_map(family.ports, &[Type::Protocol, Type::Port], &value);
        let key = [Type::Protocol, family.address, Type::Port];
        to.add_map(family.ports_at, &key, &value);
    }
    to.add_chain("guard", Some(&FIRST));
    to.add_chain("ports", None);
    to.add_chain("incoming", Some(&INCOMING));
    to.add_chain("local", Some(&LOCAL));
    to.add_chain("outgoing", Some(&OUTGOING));
    guard(to, &settings.name);
    for chain in ["incoming", "local"] {
        to.add_rule(
            chain,
            "ports of this host",
            &[E::ToThisHost, E::Jump("ports")],
        );
    }
    for family in [&V4, &V6] {
        ports(to, family);
    }
    outgoing(to, settings);
    for mapped in all {
        add(to, mapped);
    }
}

fn guard(to: &mut Transaction<'_>, bridge: &str) {
    let loopback = within(&LOOPBACK_V4, true);
    let rule = [
        E::ArrivedBy(bridge),
        E::Family(V4.number),
        V4.load_destination(),
        loopback,
        E::Drop,
    ];
    to.add_rule("guard", "loopback is the host's", &rule);
}

fn ports(to: &mut Transaction<'_>, family: &Family) {
    let destination = E::Destination {
        family: family.number.into(),
        port: family.words(),
    };
    let head = [E::Family(family.number), E::LoadProtocol(0)];
    let at = [
        family.load(family.destination, 1),
        load_port(1 + family.words()),
        E::Find(family.ports_at),
        destination,
    ];
    to.add_rule("ports", "at one address", &[&head[..], &at].concat());
    let any = [load_port(1), E::Find(family.ports), destination];
    to.add_rule("ports", "at any address", &[&head[..], &any].concat());
}

/// A network as bytes of its address and its mask.
struct Net<'a>(&'a [u8], &'a [u8]);

const LOOPBACK_V4: Net<'static> = Net(&[127, 0, 0, 0], &[255, 0, 0, 0]);
const LOOPBACK_V6: Net<'static> = Net(
    &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    &[255; 16],
);
const MULTICAST_V4: Net<'static> = Net(&[224, 0, 0, 0], &[240, 0, 0, 0]);
const MULTICAST_V6: Net<'static> = Net(
    &[255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    &[255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
);

fn within<'a>(net: &Net<'a>, inside: bool) -> E<'a> {
    E::Within {
        network: net.0,
        mask: net.1,
        inside,
    }
}

fn outgoing(to: &mut Transaction<'_>, settings: &Settings) {
    let of = |family: &'static Family, subnet: Subnet, loopback, multicast| {
        (family, subnet.network(), subnet.mask(), loopback, multicast)
    };
    let v4 = of(&V4, settings.v4, LOOPBACK_V4, MULTICAST_V4);
    let v6 = settings
        .v6
        .map(|subnet| of(&V6, subnet, LOOPBACK_V6, MULTICAST_V6));
    for (family, network, mask, loopback, multicast) in [Some(v4), v6].into_iter().flatten() {
        let pods = Net(&network, &mask);
        let (ours, source) = (E::Family(family.number), family.load_source());
        let destination = family.load_destination();
        let local = [
            E::LeavesBy(&settings.name),
            ours,
            source,
            within(&loopback, true),
            E::Masquerade,
        ];
        to.add_rule("outgoing", "from loopback", &local);
        let between = [
            E::Translated,
            ours,
            source,
            within(&pods, true),
            destination,
            within(&pods, true),
            E::Masquerade,
        ];
        to.add_rule("outgoing", "pods by ports of the host", &between);
        let out = [
            ours,
            source,
            within(&pods, true),
            destination,
            within(&pods, false),
            destination,
            within(&multicast, false),
            E::Masquerade,
        ];
        to.add_rule("outgoing", "pods to elsewhere", &out);
    }
}

/// Adds the ports of one attachment.
pub(super) fn add(to: &mut Transaction<'_>, mapped: &Mapped<'_>) {
    for (map, elements) in elements(mapped) {
        to.add_elements(map, &elements);
    }
}

/// Removes them.
pub(super) fn remove(to: &mut Transaction<'_>, mapped: &Mapped<'_>) {
    for (map, elements) in elements(mapped) {
        to.delete_elements(map, &elements);
    }
}

/// The elements of an attachment, by map.
fn elements(mapped: &Mapped<'_>) -> Vec<(&'static str, Vec<Element>)> {
    let mut found: Vec<(&'static str, Vec<Element>)> = Vec::new();
    for port in mapped.ports {
        for pod in mapped.outcome.addresses() {
            let family = if pod.is_ipv4() { &V4 } else { &V6 };
            let at = match port.address {
                Some(at) if at.is_ipv4() != pod.is_ipv4() => continue,
                Some(at) if !at.is_unspecified() => Some(at),
                _ => None,
            };
            let mut key = Vec::new();
            part(&mut key, &[port.protocol.number()]);
            if let Some(at) = at {
                put(&mut key, at);
            }
            part(&mut key, &port.host.to_be_bytes());
            let mut value = Vec::new();
            put(&mut value, pod);
            part(&mut value, &port.container.to_be_bytes());
            let comment = mapped.id.to_owned();
            let element = Element {
                key,
                value,
                comment,
            };
            let map = if at.is_some() {
                family.ports_at
            } else {
                family.ports
            };
            match found.iter_mut().find(|(name, _)| *name == map) {
                Some((_, list)) => list.push(element),
                None => found.push((map, vec![element])),
            }
        }
    }
    found
}

fn put(to: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => part(to, &v4.octets()),
        IpAddr::V6(v6) => part(to, &v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Address;
    use crate::request::Protocol;

    fn outcome(addresses: &[&str]) -> Outcome {
        let ips = addresses.iter().map(|text| Address {
            address: text.parse().unwrap(),
            gateway: None,
            interface: None,
        });
        Outcome {
            ips: ips.collect(),
            ..Outcome::default()
        }
    }

    #[test]
    fn ports_become_elements() {
        let both = outcome(&["10.0.0.5/24", "fd00::5/64"]);
        let port = |address: Option<&str>, protocol| Port {
            host: 8080,
            container: 80,
            protocol,
            address: address.map(|text| text.parse().unwrap()),
        };
        for (ports, want) in [
            (
                vec![port(None, Protocol::Tcp)],
                vec![("ports4", 8, 8), ("ports6", 8, 20)],
            ),
            (
                vec![port(Some("0.0.0.0"), Protocol::Udp)],
                vec![("ports4", 8, 8)],
            ),
            (
                vec![port(Some("::"), Protocol::Udp)],
                vec![("ports6", 8, 20)],
            ),
            (
                vec![port(Some("127.0.0.1"), Protocol::Sctp)],
                vec![("ports4_at", 12, 8)],
            ),
            (
                vec![port(Some("::1"), Protocol::Tcp)],
                vec![("ports6_at", 24, 20)],
            ),
        ] {
            let mapped = Mapped {
                id: "a",
                ports: &ports,
                outcome: &both,
            };
            let got: Vec<_> = elements(&mapped)
                .iter()
                .map(|(map, list)| (*map, list[0].key.len(), list[0].value.len()))
                .collect();
            assert_eq!(got, want);
        }
        let ports = [port(None, Protocol::Tcp)];
        let v4 = outcome(&["10.0.0.5/24"]);
        let mapped = Mapped {
            id: "a",
            ports: &ports,
            outcome: &v4,
        };
        let list = elements(&mapped);
        assert_eq!(list[0].1[0].key, [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(list[0].1[0].value, [10, 0, 0, 5, 0, 80, 0, 0]);
    }
}
