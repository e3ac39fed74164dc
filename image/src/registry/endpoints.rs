//! Which addresses are asked for an image, in which order, and through which proxy. Pure.

use super::settings::{Capability, Host, Settings};
use super::url::{Scheme, Url};
use crate::reference::{DEFAULT_HOST, Reference};

/// Where docker.io is.
const DEFAULT_REGISTRY: &str = "registry-1.docker.io";

/// What an image is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To learn what a tag means.
    Resolve,
    /// To fetch what a digest names.
    Pull,
    /// To change the repository; only ever asked of the host itself.
    Push,
}

/// One address to ask.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The host as settings and credentials know it.
    pub name: String,
    /// Host and port of the connection.
    pub authority: String,
    /// The repository there.
    pub repository: String,
    /// How it is spoken to.
    pub speech: Speech,
    /// How it is reached.
    pub host: Host,
    /// Whether it stands in for another host.
    pub mirror: bool,
}

/// With or without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// With TLS.
    Tls,
    /// Without, because the settings say so.
    Plain,
    /// With TLS, or without when a loopback address does not speak it. A request to loopback cannot
    /// be listened to, and docker's users are used to `localhost:5000`.
    TlsOrPlain,
}

impl Endpoint {
    /// The address of something below `/v2/`.
    pub fn url(&self, scheme: Scheme, path: &str) -> Url {
        Url::new(scheme, &self.authority, &format!("/v2/{path}"))
    }
}

/// Which addresses to ask, best first. The last is always the host itself.
pub fn endpoints(reference: &Reference, settings: &Settings, purpose: Purpose) -> Vec<Endpoint> {
    let own = settings.host(reference.host());
    let wanted = match purpose {
        Purpose::Resolve => Some(Capability::Resolve),
        Purpose::Pull => Some(Capability::Pull),
        Purpose::Push => None,
    };
    let mut endpoints: Vec<Endpoint> = own
        .mirrors
        .iter()
        .filter(|mirror| wanted.is_some_and(|wanted| mirror.capabilities.contains(&wanted)))
        .map(|mirror| {
            let (name, prefix) = mirror.parts();
            let repository = match prefix {
                "" => reference.repository().to_owned(),
                prefix => format!("{prefix}/{}", reference.repository()),
            };
            endpoint(name, repository, settings.host(name), true)
        })
        .collect();
    let repository = reference.repository().to_owned();
    endpoints.push(endpoint(reference.host(), repository, own, false));
    endpoints
}

fn endpoint(name: &str, repository: String, host: Host, mirror: bool) -> Endpoint {
    let authority = match name {
        DEFAULT_HOST => DEFAULT_REGISTRY,
        other => other,
    };
    let speech = match host.plain_http {
        Some(true) => Speech::Plain,
        None if is_loopback(host_of(authority)) => Speech::TlsOrPlain,
        Some(false) | None => Speech::Tls,
    };
    Endpoint {
        name: name.to_owned(),
        authority: authority.to_owned(),
        repository,
        speech,
        host,
        mirror,
    }
}

/// The host of `HOST[:PORT]`, without brackets.
pub(super) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.split(':').next().unwrap_or_default()
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The proxies of an environment, as curl and Go read them: lower-case names win, `NO_PROXY` lists
/// hosts, domains, addresses and networks, and loopback is always reached directly.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    none: String,
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The addresses may hold passwords.
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("none", &self.none)
            .finish()
    }
}

impl Proxies {
    /// From an environment.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            variable(&name.to_lowercase())
                .or_else(|| variable(name))
                .filter(|value| !value.is_empty())
        };
        let all = either("ALL_PROXY");
        Self {
            http: either("HTTP_PROXY").or_else(|| all.clone()),
            https: either("HTTPS_PROXY").or(all),
            none: either("NO_PROXY").unwrap_or_default(),
        }
    }

    /// The proxy for an address, if there is one.
    pub fn of(&self, url: &Url) -> Option<&str> {
        let proxy = match url.scheme() {
            Scheme::Http => self.http.as_deref(),
            Scheme::Https => self.https.as_deref(),
        }?;
        let host = host_of(url.authority()).to_ascii_lowercase();
        let direct = is_loopback(&host)
            || self
                .none
                .split(',')
                .map(|item| item.trim().to_ascii_lowercase())
                .any(|item| is_excepted(&item, &host, url.port()));
        (!direct).then_some(proxy)
    }
}

fn is_excepted(item: &str, host: &str, port: u16) -> bool {
    if item.is_empty() {
        return false;
    }
    if item == "*" {
        return true;
    }
    let address = host.parse::<std::net::IpAddr>().ok();
    if let Some((network, bits)) = item.split_once('/') {
        let (Some(address), Ok(network), Ok(bits)) = (address, network.parse(), bits.parse())
        else {
            return false;
        };
        return is_within(address, network, bits);
    }
    if let (Some(address), Ok(other)) = (
        address,
        item.trim_matches(['[', ']']).parse::<std::net::IpAddr>(),
    ) {
        return address == other;
    }
    let (name, only_port) = match item.rsplit_once(':') {
        Some((name, text)) if text.parse::<u16>().is_ok() => (name, text.parse::<u16>().ok()),
        _ => (item, None),
    };
    if only_port.is_some_and(|only| only != port) {
        return false;
    }
    let name = name.trim_start_matches('*').trim_matches(['[', ']']);
    let inside = |domain: &str| {
        host.strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
    };
    match name.strip_prefix('.') {
        Some(domain) => inside(domain),
        None => host == name || inside(name),
    }
}

fn is_within(address: std::net::IpAddr, network: std::net::IpAddr, bits: u32) -> bool {
    use std::net::IpAddr;
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn mirrors_first_and_by_capability() {
        let settings = settings(
            r#"{"docker.io":{"mirrors":[{"host":"m:5000/hub","capabilities":["pull"]},{"host":"n"}]},
            "m:5000":{"plain_http":true}}"#,
        );
        let reference: Reference = "debian".parse().unwrap();
        let urls = |purpose| -> Vec<String> {
            endpoints(&reference, &settings, purpose)
                .iter()
                .map(|one| format!("{}/{} {:?}", one.authority, one.repository, one.speech))
                .collect()
        };
        let own = "registry-1.docker.io/library/debian Tls";
        let prefixed = "m:5000/hub/library/debian Plain";
        assert_eq!(urls(Purpose::Pull), [prefixed, "n/library/debian Tls", own]);
        assert_eq!(urls(Purpose::Resolve), ["n/library/debian Tls", own]);
        assert_eq!(urls(Purpose::Push), [own]);
    }

    #[test]
    fn plain_only_where_said_or_loopback() {
        let settings = settings(
            r#"{"p.lan":{"plain_http":true},"127.0.0.1":{"plain_http":false},"s.lan":{"skip_verify":true}}"#,
        );
        for (text, speech) in [
            ("p.lan/a", Speech::Plain),
            ("s.lan/a", Speech::Tls),
            ("q.lan:80/a", Speech::Tls),
            ("10.0.0.1:5000/a", Speech::Tls),
            ("127.0.0.1/a", Speech::Tls),
            ("127.0.0.1:5000/a", Speech::TlsOrPlain),
            ("localhost:5000/a", Speech::TlsOrPlain),
            ("[::1]:5000/a", Speech::TlsOrPlain),
            ("localhost.evil.lan/a", Speech::Tls),
        ] {
            let reference: Reference = text.parse().unwrap();
            let endpoints = endpoints(&reference, &settings, Purpose::Push);
            assert_eq!(endpoints[0].speech, speech, "{text}");
        }
    }

    #[test]
    fn proxies() {
        let proxies = Proxies::new(|name| match name {
            "https_proxy" => Some("http://u:hidden@p:3128".into()),
            "HTTPS_PROXY" => Some("http://loses".into()),
            "HTTP_PROXY" => Some("http://q:3128".into()),
            "NO_PROXY" => Some("lan, .only.sub,10.0.0.0/8,fd00::/8,x.com:8443,1.2.3.4,*.w".into()),
            _ => None,
        });
        let direct = |text: &str| proxies.of(&Url::parse(text).unwrap()).is_none();
        for text in [
            "https://lan/",
            "https://a.lan/",
            "https://b.only.sub/",
            "https://10.1.2.3:5000/",
            "https://[fd00::1]/",
            "https://x.com:8443/",
            "https://1.2.3.4/",
            "https://a.w/",
            "http://localhost:5000/",
            "https://127.0.0.2/",
            "https://[::1]/",
        ] {
            assert!(direct(text), "{text}");
        }
        for text in [
            "https://notlan/",
            "https://only.sub/",
            "https://11.0.0.1/",
            "https://x.com/",
            "https://lan.com/",
            "http://a.b/",
            "https://[fe80::1]/",
        ] {
            assert!(!direct(text), "{text}");
        }
        let url = Url::parse("https://a.b/").unwrap();
        assert_eq!(proxies.of(&url), Some("http://u:hidden@p:3128"));
        assert!(!format!("{proxies:?}").contains("hidden"));
    }
}
