//! What a pod asks of its network: ports of the host, and limits of its traffic.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use rcrun_network::request::Bandwidth;
use rcrun_network::{Port, Protocol};

use crate::proto::v1;
use crate::{Context, Error, Result};

/// Most ports of a pod.
const MOST: usize = 65_536;
/// Most addresses at which one port of the host may be mapped.
const MOST_ADDRESSES: usize = 256;
/// Annotations that Kubernetes documents; values are quantities of bits in a second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What Kubernetes allows there: 1k to 1P.
const RATES: std::ops::RangeInclusive<u64> = 1000..=1_000_000_000_000_000;
/// Bits that may come at once: as much as the plugin takes, for only the rate is limited.
const BURST: u64 = u32::MAX as u64;

/// Ports of the host. What names none of them is left out; a mapping that is told twice counts once.
pub(super) fn ports(mappings: &[v1::PortMapping]) -> Result<Vec<Port>> {
    if mappings.len() > MOST {
        return Err(Error::invalid(format!("more than {MOST} port mappings")));
    }
    let mut all: Vec<Port> = Vec::new();
    let mut same: HashMap<(u16, Protocol), Vec<usize>> = HashMap::new();
    for (index, mapping) in mappings.iter().enumerate() {
        let Some(port) = port(mapping).context(|| format!("port_mappings[{index}]"))? else {
            continue;
        };
        let others = same.entry((port.host, port.protocol)).or_default();
        if others.iter().any(|other| all[*other] == port) {
            continue;
        }
        if let Some(other) = others.iter().find(|other| all[**other].conflicts(&port)) {
            let other = &all[*other];
            return Err(Error::invalid(format!(
                "port_mappings[{index}]: {port} is mapped already, as {other} to {}",
                other.container
            )));
        }
        if others.len() == MOST_ADDRESSES {
            return Err(Error::invalid(format!(
                "port_mappings[{index}]: {port} is at more than {MOST_ADDRESSES} addresses"
            )));
        }
        others.push(all.len());
        all.push(port);
    }
    Ok(all)
}

fn port(mapping: &v1::PortMapping) -> Result<Option<Port>> {
    let protocol = match v1::Protocol::try_from(mapping.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => {
            let number = mapping.protocol;
            return Err(Error::invalid(format!("protocol {number} is not known")));
        }
    };
    let number = |what: &str, number: i32| {
        let wrong = |_| Error::invalid(format!("{what} {number} is no port"));
        u16::try_from(number).map_err(wrong)
    };
    let host = number("host_port", mapping.host_port)?;
    let container = number("container_port", mapping.container_port)?;
    let address = match mapping.host_ip.as_str() {
        "" => None,
        text => {
            let wrong = |_| Error::invalid(format!("host_ip {text:?} is no address"));
            Some(text.parse::<IpAddr>().map_err(wrong)?)
        }
    };
    match (host, container) {
        (0, _) => Ok(None),
        (_, 0) => Err(Error::invalid(format!(
            "host_port {host} is for no container_port"
        ))),
        _ => Ok(Some(Port {
            host,
            container,
            protocol,
            address,
        })),
    }
}

/// Limits, from annotations.
pub(super) fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Bandwidth> {
    let one = |name: &str| {
        let Some(text) = annotations.get(name) else {
            return Ok(None);
        };
        let rate = quantity(text).filter(|rate| RATES.contains(rate));
        let wrong = || {
            Error::invalid(format!(
                "annotation {name}: {text:?} is no rate: use 1k to 1P, in bits per second"
            ))
        };
        rate.map(|rate| Some((rate, BURST))).ok_or_else(wrong)
    };
    Ok(Bandwidth {
        ingress: one(INGRESS)?,
        egress: one(EGRESS)?,
    })
}

/// A quantity of Kubernetes (API conventions, "Quantity"), rounded up: `10M`, `1.5Gi`, `1e6`.
fn quantity(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // 19 digits and 10^18 are within 128 bits.
    if number.len() > 20 || whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return None;
    }
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (factor, divisor): (u128, u128) = match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            match digits.parse::<i32>().ok()? {
                power @ 0..=18 => (10_u128.pow(power.unsigned_abs()), 1),
                power @ -18..=-1 => (1, 10_u128.pow(power.unsigned_abs())),
                _ => return None,
            }
        }
    };
    let divisor = divisor.checked_mul(10_u128.pow(u32::try_from(fraction.len()).ok()?))?;
    u64::try_from(mantissa.checked_mul(factor)?.div_ceil(divisor)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: i32, container: i32, host: i32, address: &str) -> v1::PortMapping {
        v1::PortMapping {
            protocol,
            container_port: container,
            host_port: host,
            host_ip: address.into(),
        }
    }

    fn shown(mappings: &[v1::PortMapping]) -> Result<String> {
        let show = |port: &Port| format!("{port}>{}", port.container);
        Ok(ports(mappings)?
            .iter()
            .map(show)
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn ports_of_the_host() {
        let all = [
            mapping(0, 8080, 0, ""),
            mapping(0, 0, 0, ""),
            mapping(0, 80, 8080, ""),
            mapping(1, 80, 8080, ""),
            mapping(2, 80, 65_535, "::1"),
            mapping(0, 80, 8081, "10.0.0.1"),
            mapping(0, 81, 8081, "10.0.0.2"),
            mapping(0, 80, 8081, "10.0.0.1"),
        ];
        assert_eq!(
            shown(&all).unwrap(),
            "8080/tcp>80 8080/udp>80 [::1]:65535/sctp>80 10.0.0.1:8081/tcp>80 10.0.0.2:8081/tcp>81"
        );
    }

    #[test]
    fn ports_that_are_none() {
        for (mappings, problem) in [
            (vec![mapping(3, 80, 80, "")], "protocol 3"),
            (vec![mapping(-1, 80, 80, "")], "protocol -1"),
            (vec![mapping(0, 80, 65_536, "")], "host_port 65536"),
            (vec![mapping(0, 80, -1, "")], "host_port -1"),
            (vec![mapping(0, -80, 80, "")], "container_port -80"),
            (vec![mapping(0, 65_536, 0, "")], "container_port 65536"),
            (vec![mapping(0, 0, 80, "")], "no container_port"),
            (vec![mapping(0, 80, 80, "localhost")], "no address"),
            (vec![mapping(0, 80, 80, "10.0.0.1 -j DROP")], "no address"),
            (
                vec![mapping(0, 80, 80, ""), mapping(0, 81, 80, "")],
                "mapped already",
            ),
            (
                vec![
                    mapping(0, 80, 80, "0.0.0.0"),
                    mapping(0, 81, 80, "10.0.0.1"),
                ],
                "mapped already",
            ),
        ] {
            let message = shown(&mappings).unwrap_err().chain().to_string();
            assert!(message.contains(problem), "{mappings:?}: {message}");
        }
        ports(&vec![mapping(0, 80, 0, ""); MOST + 1]).unwrap_err();
        let at = |n: usize| mapping(0, 80, 80, &format!("10.0.{}.{}", n / 256, n % 256));
        let many: Vec<_> = (0..=MOST_ADDRESSES).map(at).collect();
        ports(&many[1..]).unwrap();
        ports(&many).unwrap_err();
    }

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1k", Some(1000)),
            ("10M", Some(10_000_000)),
            ("1.5G", Some(1_500_000_000)),
            ("1Ki", Some(1024)),
            (".5Mi", Some(524_288)),
            ("1e6", Some(1_000_000)),
            ("1E3", Some(1000)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("15e-1", Some(2)),
            ("1500m", Some(2)),
            ("+2", Some(2)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99E", None),
            ("1e19", None),
            ("-1", None),
            ("1.2.3", None),
            ("", None),
            (".", None),
            ("k", None),
            ("1 k", None),
            ("1K", None),
            ("1e", None),
            ("123456789012345678901", None),
        ] {
            assert_eq!(quantity(text), expected, "{text}");
        }
    }

    /// CVE-2023-6476: only these names mean something, to the letter.
    #[test]
    fn cve_2023_6476_annotations_by_exact_name() {
        let limits = |name: &str, value: &str| {
            bandwidth(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
        };
        assert_eq!(
            limits(INGRESS, "10M").unwrap().ingress,
            Some((10_000_000, BURST))
        );
        assert_eq!(
            limits(EGRESS, "1Gi").unwrap().egress,
            Some((1 << 30, BURST))
        );
        for name in [
            "kubernetes.io/ingress-bandwidth-x",
            "x.kubernetes.io/ingress-bandwidth",
            "Kubernetes.io/ingress-bandwidth",
        ] {
            assert_eq!(limits(name, "junk").unwrap(), Bandwidth::default());
        }
        for value in ["", "1", "999", "2P", "fast", "10M; tc qdisc"] {
            limits(INGRESS, value).unwrap_err();
        }
    }
}
