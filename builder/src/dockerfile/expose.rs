//! What `EXPOSE` says: `PORT[-PORT][/PROTOCOL]`. Addresses and ports of the host are read, since they have always been, and
//! mean nothing.

use std::net::IpAddr;

use super::quote::quoted;

/// What one word exposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The protocol was not written in lower case.
    pub odd_case: bool,
    /// There was an address or a port of the host.
    pub mapped: bool,
}

impl Ports {
    /// As the image's configuration has them: `80/tcp`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        (self.first..=self.last).map(|port| format!("{port}/{}", self.protocol))
    }
}

/// What can be told of a word before it is known whether its numbers are right: whether the protocol is in odd case, and
/// whether it has an address or a port of the host.
pub(super) fn form(word: &str) -> Option<(bool, bool)> {
    let (address, host, container) = parts(word);
    let (_, protocol) = protocol(word, container).ok()?;
    Some((
        protocol != protocol.to_lowercase(),
        !address.is_empty() || !host.is_empty(),
    ))
}

/// Reads a word whose variables are replaced.
///
/// # Errors
///
/// What is no port, and mappings that are none.
pub fn ports(word: &str) -> Result<Ports, String> {
    let (address, host, container) = parts(word);
    let (container, protocol) = protocol(word, container)?;
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {bare}"));
    }
    let (first, last) =
        range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    if !host.is_empty() {
        let (from, to) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last - first != to - from && first != last {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
    }
    let lower = protocol.to_lowercase();
    let mapped = !address.is_empty() || !host.is_empty();
    Ok(Ports {
        first,
        last,
        odd_case: lower != protocol,
        protocol: lower,
        mapped,
    })
}

/// Address, port of the host, port and protocol of the container.
fn parts(word: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = word.rsplit_once(':') else {
        return ("", "", word);
    };
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    (address, host, container)
}

fn protocol<'w>(word: &str, container: &'w str) -> Result<(&'w str, &'w str), String> {
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(format!("invalid port: {}: no port specified", quoted(word)));
    }
    match protocol.to_lowercase().as_str() {
        "" => Ok((port, "tcp")),
        "tcp" | "udp" | "sctp" => Ok((port, protocol)),
        _ => Err(format!(
            "invalid port: {}: invalid proto: {protocol}",
            quoted(word)
        )),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (word, names, odd_case, mapped) in [
            ("80", "80/tcp", false, false),
            ("80/", "80/tcp", false, false),
            ("80/UDP", "80/udp", true, false),
            (
                "8000-8002/sctp",
                "8000/sctp 8001/sctp 8002/sctp",
                false,
                false,
            ),
            ("7-7", "7/tcp", false, false),
            ("8080:80", "80/tcp", false, true),
            ("127.0.0.1:8080:80/Tcp", "80/tcp", true, true),
            ("127.0.0.1::80", "80/tcp", false, true),
            ("[::1]:8080:80", "80/tcp", false, true),
            ("::1:8080:80", "80/tcp", false, true),
            ("8000-8010:80", "80/tcp", false, true),
            ("65535", "65535/tcp", false, false),
        ] {
            let ports = ports(word).unwrap_or_else(|error| panic!("{word}: {error}"));
            assert_eq!(ports.names().collect::<Vec<_>>().join(" "), names, "{word}");
            assert_eq!((ports.odd_case, ports.mapped), (odd_case, mapped), "{word}");
            assert_eq!(form(word), Some((odd_case, mapped)), "{word}");
        }
        for (word, error) in [
            ("", "invalid port: \"\": no port specified"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("80/icmp", "invalid port: \"80/icmp\": invalid proto: icmp"),
            ("x", "invalid containerPort: x"),
            ("65536", "invalid containerPort: 65536"),
            ("9-8", "invalid containerPort: 9-8"),
            ("9-", "invalid containerPort: 9-"),
            ("a:80", "invalid hostPort: a"),
            (
                "1-2:80-82",
                "invalid ranges specified for container and host Ports: 80-82 and 1-2",
            ),
            ("x.y:1:2", "invalid IP address: x.y"),
            ("[1.2.3:1:2", "invalid IP address: [1.2.3"),
        ] {
            assert_eq!(ports(word).unwrap_err(), error, "{word}");
        }
    }
}
