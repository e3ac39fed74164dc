//! Messages of rtnetlink(7): bridges, veth pairs, addresses, default routes. Pure.

use std::net::IpAddr;
use std::os::fd::RawFd;

use super::message::{Batch, CREATE, EXCL, NESTED, attributes, u32_at};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const IFF_UP: u32 = 1;
const IFA_F_NODAD: u8 = 0x02;
const ADDR_GEN_MODE_NONE: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

/// A device, as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    /// The bridge that it is a port of.
    pub(crate) master: Option<u32>,
    /// What its maker says of it.
    pub(crate) alias: String,
}

impl Link {
    /// Reads the body of an answer.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let mut link = Self {
            index: u32_at(body, 4)?,
            up: u32_at(body, 8)? & IFF_UP != 0,
            ..Self::default()
        };
        for (kind, value) in attributes(body, 16) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_MTU => link.mtu = u32_at(value, 0)?,
                IFLA_MASTER => link.master = u32_at(value, 0),
                IFLA_IFALIAS => link.alias = text(value),
                IFLA_LINKINFO => {
                    let name = attributes(value, 0).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                    link.kind = name.map(|(_, name)| text(name)).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

/// `struct ifinfomsg`.
fn info(index: u32, flags: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&flags.to_ne_bytes());
    body
}

/// Which device has this name?
pub(crate) fn get_link(batch: &mut Batch, name: &str) {
    batch
        .begin(GETLINK, 0, &info(0, 0))
        .put_text(IFLA_IFNAME, name);
}

/// Which device has this number?
pub(crate) fn get_link_at(batch: &mut Batch, index: u32) {
    batch.begin(GETLINK, 0, &info(index, 0));
}

/// All devices that are ports of a bridge.
pub(crate) fn get_ports(batch: &mut Batch, bridge: u32) {
    batch
        .begin(GETLINK, super::message::DUMP, &info(0, 0))
        .put_u32(IFLA_MASTER, bridge);
}

/// A new bridge. With a hardware address of its own it keeps it whatever ports come.
pub(crate) fn create_bridge(batch: &mut Batch, name: &str, mac: [u8; 6], mtu: u32) {
    batch
        .begin(NEWLINK, CREATE | EXCL, &info(0, 0))
        .put_text(IFLA_IFNAME, name)
        .put(IFLA_ADDRESS, &mac)
        .put_u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO | NESTED, |b| {
            b.put(IFLA_INFO_KIND, b"bridge");
        });
}

/// A pair of devices.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    /// The host's end, and whose port it becomes.
    pub(crate) host: &'a str,
    pub(crate) bridge: u32,
    /// The other end, which is made where it belongs.
    pub(crate) inner: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) namespace: RawFd,
    pub(crate) mtu: u32,
}

/// Makes both ends in one step.
pub(crate) fn create_pair(batch: &mut Batch, pair: &Pair<'_>) {
    batch
        .begin(NEWLINK, CREATE | EXCL, &info(0, 0))
        .put_text(IFLA_IFNAME, pair.host)
        .put_u32(IFLA_MTU, pair.mtu)
        .put_u32(IFLA_MASTER, pair.bridge)
        .nest(IFLA_LINKINFO | NESTED, |b| {
            b.put(IFLA_INFO_KIND, b"veth");
            b.nest(IFLA_INFO_DATA | NESTED, |b| {
                b.nest(VETH_INFO_PEER | NESTED, |b| {
                    b.raw(&info(0, 0))
                        .put_text(IFLA_IFNAME, pair.inner)
                        .put(IFLA_ADDRESS, &pair.mac)
                        .put_u32(IFLA_MTU, pair.mtu)
                        .put(IFLA_NET_NS_FD, &pair.namespace.to_ne_bytes());
                });
            });
        });
}

/// Readies the host's end: up, without addresses of its own, giving back to its pod what is for it
/// (where br_netfilter translates bridged packets, a pod that calls itself by the host's port needs that).
pub(crate) fn ready_port(batch: &mut Batch, name: &str, alias: &str) {
    batch
        .begin(NEWLINK, 0, &info(0, IFF_UP))
        .put_text(IFLA_IFNAME, name)
        .put(IFLA_IFALIAS, alias.as_bytes())
        .nest(IFLA_AF_SPEC | NESTED, |b| {
            b.nest(u16::from(AF_INET6) | NESTED, |b| {
                b.put(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
            });
        })
        .nest(IFLA_LINKINFO | NESTED, |b| {
            b.put(IFLA_INFO_SLAVE_KIND, b"bridge");
            b.nest(IFLA_INFO_SLAVE_DATA | NESTED, |b| {
                b.put(IFLA_BRPORT_MODE, &[1]);
            });
        });
}

/// Removes a device; a pair goes with either of its ends.
pub(crate) fn delete_link(batch: &mut Batch, name: &str) {
    batch
        .begin(DELLINK, 0, &info(0, 0))
        .put_text(IFLA_IFNAME, name);
}

/// The same by its number.
pub(crate) fn delete_link_at(batch: &mut Batch, index: u32) {
    batch.begin(DELLINK, 0, &info(index, 0));
}

/// Sets a device up.
pub(crate) fn set_up(batch: &mut Batch, index: u32) {
    batch.begin(NEWLINK, 0, &info(index, IFF_UP));
}

/// Says of a device whose it is, which cannot be said while it is made.
pub(crate) fn set_alias(batch: &mut Batch, index: u32, alias: &str) {
    batch
        .begin(NEWLINK, 0, &info(index, 0))
        .put(IFLA_IFALIAS, alias.as_bytes());
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// Gives a device an address. One of IPv6 counts at once: our records know that nobody else has it.
pub(crate) fn add_address(batch: &mut Batch, index: u32, address: IpAddr, prefix: u8) {
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut body = [family(address), prefix, flags, 0, 0, 0, 0, 0];
    body[4..].copy_from_slice(&index.to_ne_bytes());
    let value = bytes(address);
    batch
        .begin(NEWADDR, CREATE, &body)
        .put(IFA_LOCAL, &value)
        .put(IFA_ADDRESS, &value);
    if let (IpAddr::V4(v4), ..=30) = (address, prefix) {
        let broadcast = u32::from(v4) | u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        batch.put(IFA_BROADCAST, &broadcast.to_be_bytes());
    }
}

/// All addresses of the namespace.
pub(crate) fn get_addresses(batch: &mut Batch) {
    batch.begin(GETADDR, super::message::DUMP, &[0; 8]);
}

/// The device and the address of one of them.
pub(crate) fn parse_address(body: &[u8]) -> Option<(u32, IpAddr)> {
    let index = u32_at(body, 4)?;
    let (mut local, mut peer) = (None, None);
    for (kind, value) in attributes(body, 8) {
        match kind {
            IFA_LOCAL => local = Some(value),
            IFA_ADDRESS => peer = Some(value),
            _ => {}
        }
    }
    let value = local.or(peer)?;
    match body.first()? {
        2 => Some((index, <[u8; 4]>::try_from(value).ok()?.into())),
        10 => Some((index, <[u8; 16]>::try_from(value).ok()?.into())),
        _ => None,
    }
}

/// `struct rtmsg`.
fn route(family: u8, destination: u8) -> [u8; 12] {
    let mut body = [0; 12];
    (body[0], body[1]) = (family, destination);
    (body[4], body[5], body[7]) = (RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST);
    body
}

/// The way out.
pub(crate) fn add_default_route(batch: &mut Batch, index: u32, gateway: IpAddr) {
    batch
        .begin(NEWROUTE, CREATE | EXCL, &route(family(gateway), 0))
        .put(RTA_GATEWAY, &bytes(gateway))
        .put_u32(RTA_OIF, index);
}

/// Which way leads to an address?
pub(crate) fn get_route(batch: &mut Batch, destination: IpAddr) {
    let value = bytes(destination);
    let mut body = [0; 12];
    (body[0], body[1]) = (family(destination), (value.len() * 8) as u8);
    batch.begin(GETROUTE, 0, &body).put(RTA_DST, &value);
}

/// A way: by which device, to which next hop (none: the destination itself is there).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) device: u32,
    hop: Option<Vec<u8>>,
}

/// Reads that way.
pub(crate) fn parse_route(body: &[u8]) -> Option<Way> {
    let find = |wanted: u16| attributes(body, 12).find(|(kind, _)| *kind == wanted);
    let (_, device) = find(RTA_OIF)?;
    Some(Way {
        device: u32_at(device, 0)?,
        hop: find(RTA_GATEWAY).map(|(_, hop)| hop.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(build: impl FnOnce(&mut Batch)) -> String {
        let mut batch = Batch::new(1);
        build(&mut batch);
        batch.finish().bytes[16..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn requests_are_what_the_kernel_reads() {
        let gateway: IpAddr = [10, 88, 0, 1].into();
        for (got, want) in [
            (
                one(|b| get_link(b, "lo")),
                "00000000000000000000000000000000 07000300 6c6f0000",
            ),
            (
                one(|b| add_address(b, 2, [10, 88, 0, 5].into(), 16)),
                "02100000 02000000 08000200 0a580005 08000100 0a580005 08000400 0a58ffff",
            ),
            (
                one(|b| add_default_route(b, 2, gateway)),
                "02000000 fe040001 00000000 08000500 0a580001 08000400 02000000",
            ),
            (
                one(|b| get_route(b, gateway)),
                "02200000 00000000 00000000 08000100 0a580001",
            ),
            (
                one(|b| create_bridge(b, "b", [2, 0, 0, 0, 0, 1], 1500)),
                "00000000000000000000000000000000 06000300 62000000 0a000100 02000000 00010000 \
                 08000400 dc050000 10001280 0a000100 62726964 67650000",
            ),
        ] {
            let want: String = want.split_whitespace().collect();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn descriptions_are_read_back() {
        let mut batch = Batch::new(1);
        create_bridge(&mut batch, "rcrun0", [2; 6], 1400);
        let link = Link::parse(&batch.finish().bytes[16..]).unwrap();
        assert_eq!(
            (&*link.name, &*link.kind, link.mtu),
            ("rcrun0", "bridge", 1400)
        );
        for address in ["10.88.0.5", "fd00::5"] {
            let address: IpAddr = address.parse().unwrap();
            let mut batch = Batch::new(1);
            add_address(&mut batch, 7, address, 24);
            let read = parse_address(&batch.finish().bytes[16..]);
            assert_eq!(read, Some((7, address)));
        }
        assert_eq!(Link::parse(&[0; 7]), None);
        assert_eq!(parse_address(&[2, 0, 0]), None);
    }
}
