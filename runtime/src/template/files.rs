//! /etc/hosts, /etc/resolv.conf and /etc/hostname of a container.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::error::{Error, Result};

/// Names of this machine and of its links.
pub const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                     ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// `NAME:ADDRESS` or `NAME=ADDRESS`.
pub fn host(text: &str) -> Result<(String, IpAddr)> {
    let wrong = || Error::invalid(format!("{text:?} is not NAME:ADDRESS"));
    let at = text.find([':', '=']).ok_or_else(wrong)?;
    let (name, address) = (&text[..at], &text[at + 1..]);
    if address == "host-gateway" {
        return Err(Error::unsupported(
            "host-gateway: there is no network to reach the host by",
        ));
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse().map_err(|_| wrong())?;
    match is_host(name) {
        true => Ok((name.to_owned(), address)),
        false => Err(wrong()),
    }
}

/// Whether it can stand in /etc/hosts and be a host's name: sethostname(2) takes 64 bytes.
pub fn is_host(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// /etc/hosts; with the host's network the host's own file comes first.
pub fn hosts(of_host: Option<&str>, hostname: &str, added: &[(String, IpAddr)]) -> String {
    let mut text = match of_host {
        Some(text) => format!("{}\n", text.trim_end_matches('\n')),
        None => LOCAL.to_owned(),
    };
    for (name, address) in added {
        let _ = writeln!(text, "{address}\t{name}");
    }
    if of_host.is_none() {
        let _ = writeln!(text, "127.0.0.1\t{hostname}");
    }
    text
}

/// What was asked of the resolver.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    /// Addresses of name servers.
    pub servers: Vec<IpAddr>,
    /// Domains to search in; a single `.` is none.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// A word of resolv.conf(5): no second line may hide in it.
pub fn resolver_word(text: &str) -> Result<String> {
    match !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err(Error::invalid(format!(
            "{text:?} cannot stand in /etc/resolv.conf"
        ))),
    }
}

/// /etc/resolv.conf: the host's, with what was asked for in its place. Without the host's network a
/// server on the host's loopback is none.
pub fn resolv_conf(of_host: &str, host_network: bool, asked: &Resolver) -> String {
    let mut text = String::new();
    let lines = of_host.lines().filter(|line| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => {
                let local = address
                    .parse::<IpAddr>()
                    .is_ok_and(|address| address.is_loopback());
                asked.servers.is_empty() && (host_network || !local)
            }
            (Some("search" | "domain"), _) => asked.search.is_empty(),
            (Some("options"), _) => asked.options.is_empty(),
            (Some(_), _) => !line.trim_start().starts_with(['#', ';']),
            (None, _) => false,
        }
    });
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    if !asked.search.is_empty() && asked.search != ["."] {
        let _ = writeln!(text, "search {}", asked.search.join(" "));
    }
    for server in &asked.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !asked.options.is_empty() {
        let _ = writeln!(text, "options {}", asked.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_hosts() {
        for (text, expected) in [
            ("db:10.0.0.1", Some("db 10.0.0.1")),
            ("db=10.0.0.1", Some("db 10.0.0.1")),
            ("db:::1", Some("db ::1")),
            ("db:[fe80::1]", Some("db fe80::1")),
            ("db", None),
            (":1.2.3.4", None),
            ("db:host-gateway", None),
            ("db:1.2.3", None),
            ("a b:1.2.3.4", None),
            ("a\nb:1.2.3.4", None),
        ] {
            let found = host(text)
                .ok()
                .map(|(name, address)| format!("{name} {address}"));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        let added = [host("db:10.0.0.1").unwrap()];
        let text = hosts(None, "web", &added);
        assert!(text.ends_with("10.0.0.1\tdb\n127.0.0.1\tweb\n"), "{text}");
        assert_eq!(
            hosts(Some("1.1.1.1 x\n\n"), "web", &added),
            "1.1.1.1 x\n10.0.0.1\tdb\n"
        );
    }

    #[test]
    fn resolvers() {
        let host =
            "# by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch a.b\noptions edns0\n";
        let none = Resolver::default();
        assert_eq!(
            resolv_conf(host, false, &none),
            "nameserver 9.9.9.9\nsearch a.b\noptions edns0\n"
        );
        assert!(resolv_conf(host, true, &none).contains("127.0.0.53"));
        let asked = Resolver {
            servers: vec!["1.1.1.1".parse().unwrap()],
            search: vec![".".into()],
            options: vec!["ndots:1".into()],
        };
        assert_eq!(
            resolv_conf(host, true, &asked),
            "nameserver 1.1.1.1\noptions ndots:1\n"
        );
        resolver_word("a\nnameserver 6.6.6.6").unwrap_err();
    }
}
