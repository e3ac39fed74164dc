//! `--publish [ADDRESS:][HOST]:CONTAINER[/PROTOCOL]`, with ranges, and which ports of the host come of it.
//! Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rcrun_network::{Port, Protocol};
use rcrun_runtime::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Ports that one container may publish.
const PORTS_MAX: usize = 4096;

/// One port of the container, and where on the host it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publish {
    /// The container's port.
    pub(crate) container: u16,
    /// Its protocol.
    pub(crate) protocol: Protocol,
    /// Only at this address of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<IpAddr>,
    /// The host's port is one of these, both included; absent: any that is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<(u16, u16)>,
}

impl Publish {
    /// Whether nothing has to be chosen.
    pub(crate) fn is_fixed(&self) -> bool {
        self.host.is_some_and(|(first, last)| first == last)
    }

    fn at(&self, host: u16) -> Port {
        Port {
            host,
            container: self.container,
            protocol: self.protocol,
            address: self.address,
        }
    }
}

/// What one flag means: a range is several ports.
pub(super) fn publish(text: &str) -> Result<Vec<Publish>> {
    let wrong = |why: &str| {
        Error::invalid(format!(
            "{text:?} is not [ADDRESS:][HOST]:CONTAINER[/tcp,udp,sctp]: {why}"
        ))
    };
    let (places, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol_of(protocol).ok_or_else(|| wrong("no such protocol"))?;
    let (before, container) = match places.rsplit_once(':') {
        Some((before, container)) => (Some(before), container),
        None => (None, places),
    };
    let (address, host) = match before.map(|before| before.rsplit_once(':')) {
        None | Some(None) => (None, before.unwrap_or_default()),
        Some(Some((address, host))) => (Some(address), host),
    };
    let address = match address {
        None => None,
        Some(text) => {
            let bare = text
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            let parsed: IpAddr = (bare.unwrap_or(text))
                .parse()
                .map_err(|_| wrong("what stands in front is no address of the host"))?;
            if parsed.is_ipv6() != bare.is_some() {
                return Err(wrong("an address of IPv6 stands in brackets"));
            }
            Some(parsed)
        }
    };
    let range = |text: &str| range(text).ok_or_else(|| wrong("ports are 1 to 65535"));
    let (first, last) = range(container)?;
    let host = match host {
        "" => None,
        host => Some(range(host)?),
    };
    let one = |container, host| Publish {
        container,
        protocol,
        address,
        host,
    };
    Ok(match host {
        None => (first..=last).map(|port| one(port, None)).collect(),
        Some(host) if first == last => vec![one(first, Some(host))],
        Some((low, high)) if high - low == last - first => (first..=last)
            .zip(low..=high)
            .map(|(port, host)| one(port, Some((host, host))))
            .collect(),
        Some(_) => return Err(wrong("both ranges have to be of one length")),
    })
}

/// `PORT[-PORT][/PROTOCOL]` of an image.
pub(crate) fn exposed(text: &str) -> Result<Vec<(u16, Protocol)>> {
    let wrong = || Error::invalid(format!("{text:?} is no port"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol_of(protocol).ok_or_else(wrong)?;
    let (first, last) = range(ports).ok_or_else(wrong)?;
    Ok((first..=last).map(|port| (port, protocol)).collect())
}

fn protocol_of(text: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| text.eq_ignore_ascii_case(protocol.name()))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port > 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

/// All that is published: the flags', and with `--publish-all` what the image exposes and no flag names.
pub(super) fn all(flags: Vec<Publish>, exposed: &[(u16, Protocol)]) -> Result<Vec<Publish>> {
    let named: BTreeSet<(u16, Protocol)> = flags
        .iter()
        .map(|one| (one.container, one.protocol))
        .collect();
    let mut all = flags;
    let more = exposed.iter().filter(|port| !named.contains(port));
    all.extend(more.map(|(container, protocol)| Publish {
        container: *container,
        protocol: *protocol,
        address: None,
        host: None,
    }));
    if all.len() > PORTS_MAX {
        let text = format!("{} ports are more than {PORTS_MAX}", all.len());
        return Err(Error::invalid(text));
    }
    let fixed: Vec<Port> = (all.iter().filter(|one| one.is_fixed()))
        .filter_map(|one| one.host.map(|(host, _)| one.at(host)))
        .collect();
    for (index, port) in fixed.iter().enumerate() {
        if let Some(other) = fixed[..index].iter().find(|other| other.conflicts(port)) {
            let text = format!("port {port} of the host is asked for twice (with {other})");
            return Err(Error::invalid(text));
        }
    }
    Ok(all)
}

/// Ports of the host for what is published. `is_free` knows the host and other containers; `any` proposes a
/// port for what may have any.
pub(crate) fn choose(
    published: &[Publish],
    is_free: &mut dyn FnMut(&Port) -> Result<bool>,
    any: &mut dyn FnMut(&Publish) -> Result<u16>,
) -> Result<Vec<Port>> {
    const ATTEMPTS: usize = 64;
    let mut chosen: Vec<Option<Port>> = vec![None; published.len()];
    let mut taken: Vec<Port> = Vec::new();
    // What has to be somewhere comes before what may be there.
    for (place, one) in chosen.iter_mut().zip(published) {
        if let Some((host, _)) = one.host.filter(|_| one.is_fixed()) {
            taken.push(one.at(host));
            *place = Some(one.at(host));
        }
    }
    for (place, one) in chosen.iter_mut().zip(published) {
        if place.is_some() {
            continue;
        }
        let free = |port: &Port, taken: &[Port]| !taken.iter().any(|other| other.conflicts(port));
        let mut found = None;
        match one.host {
            Some((first, last)) => {
                for port in (first..=last).map(|host| one.at(host)) {
                    if free(&port, &taken) && is_free(&port)? {
                        found = Some(port);
                        break;
                    }
                }
            }
            None => {
                for _ in 0..ATTEMPTS {
                    let port = one.at(any(one)?);
                    if free(&port, &taken) && is_free(&port)? {
                        found = Some(port);
                        break;
                    }
                }
            }
        }
        let Some(port) = found else {
            let wanted = one.host.map_or("65535 ports".to_owned(), |(first, last)| {
                format!("{first}-{last}/{}", one.protocol.name())
            });
            let text = format!(
                "no port of {wanted} is free for the container's {}",
                one.container
            );
            return Err(Error::new(ErrorKind::Exists, text));
        };
        taken.push(port);
        *place = Some(port);
    }
    Ok(chosen.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String> {
        let one = |one: &Publish| {
            let address = one
                .address
                .map(|address| format!("{address} "))
                .unwrap_or_default();
            let host = match one.host {
                None => "any".to_owned(),
                Some((first, last)) if first == last => first.to_string(),
                Some((first, last)) => format!("{first}-{last}"),
            };
            format!("{address}{host}>{}/{}", one.container, one.protocol.name())
        };
        let all = publish(text)?;
        Ok(all.iter().map(one).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_people_write() {
        for (text, want) in [
            ("80", "any>80/tcp"),
            ("8080:80", "8080>80/tcp"),
            ("8080:80/udp", "8080>80/udp"),
            ("8080:80/SCTP", "8080>80/sctp"),
            (":80", "any>80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080>80/tcp"),
            ("127.0.0.1::80", "127.0.0.1 any>80/tcp"),
            ("0.0.0.0:53:53/udp", "0.0.0.0 53>53/udp"),
            ("[::1]:8080:80", "::1 8080>80/tcp"),
            ("8000-8002:80-82", "8000>80/tcp 8001>81/tcp 8002>82/tcp"),
            ("8000-8002:80", "8000-8002>80/tcp"),
            ("80-81", "any>80/tcp any>81/tcp"),
            (
                "127.0.0.1::80-81/udp",
                "127.0.0.1 any>80/udp 127.0.0.1 any>81/udp",
            ),
        ] {
            assert_eq!(shown(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn attack_ports_that_are_none() {
        for text in [
            "",
            ":",
            "x",
            "0",
            "65536",
            "0:80",
            "80:",
            "8080:80:",
            "8080:80/icmp",
            "8080:80/",
            "-80",
            "80-",
            "82-80",
            "+80",
            "8000-8001:80-82",
            "8000:80-82",
            "localhost:8080:80",
            "::1:8080:80",
            "[127.0.0.1]:8080:80",
            "1.2.3.4:5.6.7.8:80:80",
            "80 :80",
        ] {
            assert!(publish(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn all_that_is_published() {
        let flags = publish("8080:80").unwrap();
        let ports = [exposed("80/tcp"), exposed("53/udp"), exposed("9000-9001")];
        let ports: Vec<_> = ports.into_iter().flat_map(Result::unwrap).collect();
        let named: Vec<u16> = all(flags.clone(), &ports)
            .unwrap()
            .iter()
            .map(|p| p.container)
            .collect();
        assert_eq!(named, [80, 53, 9000, 9001]);
        let twice = [flags, publish("127.0.0.1:8080:81").unwrap()].concat();
        let error = all(twice, &[]).unwrap_err().to_string();
        assert!(error.contains("asked for twice"), "{error}");
        assert!(all(publish("1-65535").unwrap(), &[]).is_err());
        assert!(exposed("80/icmp").is_err() && exposed("x").is_err());
    }

    #[test]
    fn ports_are_chosen_where_they_are_free() {
        let published = [
            publish("8000-8003:80"),
            publish("8001:81"),
            publish("82"),
            publish("83"),
        ];
        let published: Vec<_> = published.into_iter().flat_map(Result::unwrap).collect();
        let mut proposals = [8001, 9000, 8001, 9000, 9001].into_iter();
        let mut any = |_: &Publish| Ok(proposals.next().unwrap());
        let mut asked = Vec::new();
        let mut is_free = |port: &Port| {
            asked.push(port.host);
            Ok(port.host != 8000)
        };
        let chosen = choose(&published, &mut is_free, &mut any).unwrap();
        let shown: Vec<_> = chosen
            .iter()
            .map(|port| (port.host, port.container))
            .collect();
        assert_eq!(shown, [(8002, 80), (8001, 81), (9000, 82), (9001, 83)]);
        // Whether one that has to be is free is found out by taking it.
        assert_eq!(asked, [8000, 8002, 9000, 9001]);
        let error = choose(&published[..1], &mut |_| Ok(false), &mut any).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no port of 8000-8003/tcp is free"),
            "{error}"
        );
        let error = choose(&published[2..3], &mut |_| Ok(false), &mut |_| Ok(7)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
    }
}
