//! Texts of a pod's /etc/hosts and /etc/resolv.conf (hosts(5), resolv.conf(5)). No word of a request can bring
//! a line of its own.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use rcrun_runtime::template::files::{LOCAL, resolver_word};

use crate::proto::v1;
use crate::{Context, Error, Result};

/// Most words of a kind. Resolvers take fewer, but it is not for us to say which.
const MOST: usize = 256;

/// /etc/hosts of a pod with a network of its own: it finds itself by its name. The kubelet mounts one of its
/// own over it.
pub(super) fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = LOCAL.to_owned();
    for address in addresses {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    if addresses.is_empty() {
        let _ = writeln!(text, "127.0.0.1\t{hostname}");
    }
    text
}

/// /etc/resolv.conf; none if nothing is asked for, which means the host's.
pub(super) fn resolv_conf(asked: &v1::DnsConfig) -> Result<Option<String>> {
    for (what, list) in [
        ("servers", &asked.servers),
        ("searches", &asked.searches),
        ("options", &asked.options),
    ] {
        if list.len() > MOST {
            return Err(Error::invalid(format!("more than {MOST} {what}")));
        }
        for word in list {
            resolver_word(word).context(|| what.to_owned())?;
        }
    }
    let mut text = String::new();
    if !asked.searches.is_empty() {
        let _ = writeln!(text, "search {}", asked.searches.join(" "));
    }
    for server in &asked.servers {
        if !is_server(server) {
            return Err(Error::invalid(format!("servers: {server:?} is no address")));
        }
        let _ = writeln!(text, "nameserver {server}");
    }
    if !asked.options.is_empty() {
        let _ = writeln!(text, "options {}", asked.options.join(" "));
    }
    Ok((!text.is_empty()).then_some(text))
}

/// An address; of a link, with the link's name.
fn is_server(text: &str) -> bool {
    match text.split_once('%') {
        None => text.parse::<IpAddr>().is_ok(),
        Some((address, link)) => address.parse::<Ipv6Addr>().is_ok() && !link.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> v1::DnsConfig {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        v1::DnsConfig {
            servers: own(servers),
            searches: own(searches),
            options: own(options),
        }
    }

    #[test]
    fn resolvers() {
        for (asked, expected) in [
            (dns(&[], &[], &[]), None),
            (
                dns(&["10.77.0.2"], &["klab.local"], &[]),
                Some("search klab.local\nnameserver 10.77.0.2\n"),
            ),
            (
                dns(
                    &["fd00::1", "fe80::1%eth0"],
                    &["a", "b."],
                    &["ndots:5", "rotate"],
                ),
                Some(
                    "search a b.\nnameserver fd00::1\nnameserver fe80::1%eth0\noptions ndots:5 rotate\n",
                ),
            ),
        ] {
            assert_eq!(resolv_conf(&asked).unwrap().as_deref(), expected);
        }
    }

    #[test]
    fn lines_hidden_in_words() {
        let many: Vec<&str> = vec!["a"; MOST + 1];
        for asked in [
            dns(&["1.1.1.1\nnameserver 6.6.6.6"], &[], &[]),
            dns(&["localhost"], &[], &[]),
            dns(&["10.0.0.1%eth0"], &[], &[]),
            dns(&[""], &[], &[]),
            dns(&[], &["a\noptions debug"], &[]),
            dns(&[], &["a b"], &[]),
            dns(&[], &[], &["ndots:5\r\n"]),
            dns(&[], &[""], &[]),
            dns(&[], &many, &[]),
        ] {
            resolv_conf(&asked).unwrap_err();
        }
    }

    #[test]
    fn pods_find_themselves() {
        let addresses = ["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()];
        let text = hosts("web", &addresses);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.ends_with("10.1.2.3\tweb\nfd00::3\tweb\n"), "{text}");
        assert!(hosts("web", &[]).ends_with("127.0.0.1\tweb\n"));
    }
}
