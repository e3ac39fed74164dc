//! Messages of rtnetlink(7): building requests and reading answers, without a socket.
//!
//! Only what moving a device needs: `RTM_GETLINK`, `RTM_NEWLINK`, `RTM_GETADDR`, `RTM_NEWADDR`. All
//! numbers are in the machine's byte order, attributes are padded to four bytes (linux/netlink.h).

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
const DUMP_INTR: u16 = 0x10;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;

const IFF_UP: u32 = 1;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const AF_INET: u8 = 2;

const HEADER: usize = 16;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// AF_INET or AF_INET6.
    pub(super) family: u8,
    pub(super) prefix: u8,
    /// 4 or 16 bytes.
    pub(super) bytes: Vec<u8>,
    /// Configured by the user, not by a router or DHCP with a lifetime.
    pub(super) permanent: bool,
    /// Valid everywhere, not on the link or the host alone.
    pub(super) global: bool,
    pub(super) interface: u32,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Ok(v4) = <[u8; 4]>::try_from(&self.bytes[..]) {
            write!(f, "{}/{}", std::net::Ipv4Addr::from(v4), self.prefix)
        } else if let Ok(v6) = <[u8; 16]>::try_from(&self.bytes[..]) {
            write!(f, "{}/{}", std::net::Ipv6Addr::from(v6), self.prefix)
        } else {
            write!(f, "{:?}/{}", self.bytes, self.prefix)
        }
    }
}

/// A request, ready to be sent.
#[derive(Debug)]
pub(super) struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn name(self, name: &str) -> Self {
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        self.attribute(IFLA_IFNAME, &value)
    }

    /// The bytes to send.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }

    /// Which interface has this name?
    pub(super) fn get_link(sequence: u32, name: &str) -> Self {
        Self::new(GETLINK, 0, sequence, &link(0, 0, 0)).name(name)
    }

    /// Set the interface up or down.
    pub(super) fn set_up(sequence: u32, index: u32, up: bool) -> Self {
        Self::new(
            NEWLINK,
            ACK,
            sequence,
            &link(index, if up { IFF_UP } else { 0 }, IFF_UP),
        )
    }

    /// Rename the interface and move it to the namespace behind a descriptor, in one step.
    pub(super) fn move_link(sequence: u32, index: u32, name: &str, netns: i32) -> Self {
        Self::new(NEWLINK, ACK, sequence, &link(index, 0, 0))
            .name(name)
            .attribute(IFLA_NET_NS_FD, &netns.to_ne_bytes())
    }

    /// List all addresses of the namespace.
    pub(super) fn get_addresses(sequence: u32) -> Self {
        Self::new(GETADDR, DUMP, sequence, &[0; 8])
    }

    /// Give an address to the interface.
    pub(super) fn add_address(sequence: u32, index: u32, address: &Address) -> Self {
        let mut body = [
            address.family,
            address.prefix,
            0,
            RT_SCOPE_UNIVERSE,
            0,
            0,
            0,
            0,
        ];
        body[4..].copy_from_slice(&index.to_ne_bytes());
        let request = Self::new(NEWADDR, ACK | CREATE | EXCL, sequence, &body)
            .attribute(IFA_LOCAL, &address.bytes)
            .attribute(IFA_ADDRESS, &address.bytes);
        match broadcast(address) {
            Some(bytes) => request.attribute(IFA_BROADCAST, &bytes),
            None => request,
        }
    }
}

/// Networks of IPv4 with room for one have a broadcast address.
fn broadcast(address: &Address) -> Option<[u8; 4]> {
    let bytes = <[u8; 4]>::try_from(&address.bytes[..]).ok()?;
    if address.family != AF_INET || address.prefix > 30 {
        return None;
    }
    Some((u32::from_be_bytes(bytes) | (u32::MAX >> address.prefix)).to_be_bytes())
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&change.to_ne_bytes());
    body
}

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The request is carried out (0) or refused (errno).
    Result(i32),
    /// The end of a list.
    Done,
    /// The list changed while it was read: start again.
    Interrupted,
    /// An interface.
    Link(u32),
    /// An address.
    Address(Address),
    /// Nothing that was asked for.
    Other,
}

/// Splits a datagram into the answers to the request `sequence`. `None`: it cannot be understood.
pub(super) fn parse(mut datagram: &[u8], sequence: u32) -> Option<Vec<Answer>> {
    let mut answers = Vec::new();
    while datagram.len() >= HEADER {
        let len = u32_at(datagram, 0)? as usize;
        let message = datagram.get(..len).filter(|m| m.len() >= HEADER)?;
        let (kind, flags) = (u16_at(message, 4)?, u16_at(message, 6)?);
        if u32_at(message, 8)? == sequence {
            if flags & DUMP_INTR != 0 {
                answers.push(Answer::Interrupted);
            }
            answers.push(answer(kind, &message[HEADER..])?);
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    datagram.is_empty().then_some(answers)
}

fn answer(kind: u16, body: &[u8]) -> Option<Answer> {
    Some(match kind {
        ERROR => Answer::Result((u32_at(body, 0)? as i32).wrapping_neg()),
        DONE => match body.get(..4) {
            Some(_) if u32_at(body, 0)? != 0 => {
                Answer::Result((u32_at(body, 0)? as i32).wrapping_neg())
            }
            _ => Answer::Done,
        },
        NEWLINK => Answer::Link(u32_at(body, 4)?),
        NEWADDR => Answer::Address(address(body)?),
        _ => Answer::Other,
    })
}

fn address(body: &[u8]) -> Option<Address> {
    let header = body.get(..8)?;
    let mut flags = u32::from(header[2]);
    let (mut local, mut peer) = (None, None);
    let mut rest = &body[8..];
    while rest.len() >= 4 {
        let len = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..len)?;
        match u16_at(rest, 2)? & 0x3fff {
            IFA_LOCAL => local = Some(value),
            IFA_ADDRESS => peer = Some(value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(Address {
        family: header[0],
        prefix: header[1],
        bytes: local.or(peer)?.to_vec(),
        permanent: flags & IFA_F_PERMANENT != 0,
        global: header[3] == RT_SCOPE_UNIVERSE,
        interface: u32_at(header, 4)?,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn v4(prefix: u8) -> Address {
        let bytes = vec![192, 0, 2, 65];
        Address {
            family: 2,
            prefix,
            bytes,
            permanent: true,
            global: true,
            interface: 3,
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn requests_are_what_the_kernel_reads() {
        for (request, want) in [
            (
                Request::get_link(1, "eth0"),
                "2c0000001200010001000000000000000000000000000000000000000000000009000300657468300000\
                 0000",
            ),
            (
                Request::set_up(2, 3, true),
                "200000001000050002000000000000000000000003000000010000000100000",
            ),
            (
                Request::move_link(3, 3, "a", 5),
                "3000000010000500030000000000000000000000030000000000000000000000060003006100000008001c\
                 0005000000",
            ),
            (
                Request::get_addresses(4),
                "180000001600010304000000000000000000000000000000",
            ),
            (
                Request::add_address(5, 3, &v4(26)),
                "3000000014000506050000000000000002 1a000003000000 08000200c0000241 08000100c0000241 \
                 08000400c000027f",
            ),
        ] {
            let want: String = want.split_whitespace().collect();
            let got = hex(&request.finish());
            assert!(got.starts_with(&want), "{got}\n{want}");
        }
    }

    #[test]
    fn broadcast_addresses() {
        for (prefix, want) in [
            (0, Some([255, 255, 255, 255])),
            (24, Some([192, 0, 2, 255])),
            (30, Some([192, 0, 2, 67])),
            (31, None),
            (32, None),
        ] {
            assert_eq!(broadcast(&v4(prefix)), want, "{prefix}");
        }
    }

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        Request::new(kind, flags, sequence, body).finish()
    }

    #[test]
    fn answers_are_read() {
        let mut body = vec![2, 26, 0x80, 0, 3, 0, 0, 0];
        body[4..8].copy_from_slice(&3u32.to_ne_bytes());
        let with = |attributes: &[(u16, &[u8])]| {
            let mut request = Request::new(NEWADDR, 0, 9, &body);
            for (kind, value) in attributes {
                request = request.attribute(*kind, value);
            }
            request.finish()
        };
        let plain = with(&[
            (IFA_ADDRESS, &[192, 0, 2, 1]),
            (IFA_LOCAL, &[192, 0, 2, 65]),
            (3, b"eth0:1\0"),
        ]);
        assert_eq!(parse(&plain, 9), Some(vec![Answer::Address(v4(26))]));
        let flags = with(&[
            (IFA_ADDRESS, &[192, 0, 2, 65]),
            (IFA_FLAGS, &0x200u32.to_ne_bytes()),
        ]);
        let dynamic = Address {
            permanent: false,
            ..v4(26)
        };
        assert_eq!(parse(&flags, 9), Some(vec![Answer::Address(dynamic)]));
        assert_eq!(parse(&plain, 8), Some(vec![]));
        let mut both = message(ERROR, 0, 9, &(-19i32).to_ne_bytes());
        both.extend(message(DONE, DUMP_INTR, 9, &0u32.to_ne_bytes()));
        assert_eq!(
            parse(&both, 9),
            Some(vec![Answer::Result(19), Answer::Interrupted, Answer::Done])
        );
    }

    #[test]
    fn broken_answers_are_refused() {
        let whole = message(
            NEWADDR,
            0,
            9,
            &[2, 26, 0, 0, 3, 0, 0, 0, 8, 0, 2, 0, 192, 0, 2, 65],
        );
        assert!(parse(&whole, 9).is_some());
        for cut in 1..whole.len() {
            let mut short = whole[..cut].to_vec();
            assert_eq!(parse(&short, 9), None, "{cut}");
            // The same with a length that claims no more than there is.
            if cut >= HEADER {
                short[..4].copy_from_slice(&(cut as u32).to_ne_bytes());
                let _ = parse(&short, 9);
            }
        }
        for len in [0u32, 1, 15] {
            let mut bad = whole.clone();
            bad[..4].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(parse(&bad, 9), None, "{len}");
        }
    }
}
