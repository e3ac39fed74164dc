//! Addresses: just enough of RFC 3986 for registries, their redirects and their realms.
//!
//! Stricter than the RFC: http and https only, no user names, no control or space characters, no
//! percent signs in hosts. What is refused here is never asked.

use std::fmt;

use crate::{Error, Result};

/// Longest address; signed addresses of storage services have some thousand bytes.
const MAX_URL: usize = 16 << 10;

/// With or without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Without.
    Http,
    /// With.
    Https,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// An absolute address.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    scheme: Scheme,
    authority: String,
    rest: String,
}

impl Url {
    /// From parts that were checked before.
    pub fn new(scheme: Scheme, authority: &str, rest: &str) -> Self {
        Self {
            scheme,
            authority: authority.to_ascii_lowercase(),
            rest: rest.to_owned(),
        }
    }

    /// Reads an absolute address.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let shown: String = concealed(text).chars().take(200).collect();
            Error::invalid(format!("invalid address {shown:?}: {why}"))
        };
        if text.len() > MAX_URL {
            return Err(wrong("too long"));
        }
        if !text.bytes().all(|byte| (b'!'..127).contains(&byte)) {
            return Err(wrong("it has characters that must be escaped"));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| wrong("not absolute"))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(wrong("neither http nor https")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(wrong("it has a user name"));
        }
        if crate::reference::check_host(&authority.replace('_', "-")).is_err() {
            return Err(wrong("no valid host"));
        }
        let path = match path {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        };
        let url = Self::new(scheme, authority, &path);
        // The HTTP client must understand the very same.
        match url.full().parse::<ureq::http::Uri>() {
            Ok(uri)
                if uri
                    .authority()
                    .is_some_and(|other| other.as_str() == url.authority) =>
            {
                Ok(url)
            }
            _ => Err(wrong("it has characters that must be escaped")),
        }
    }

    /// What `Location: text` means in an answer to this address.
    pub fn join(&self, text: &str) -> Result<Self> {
        let base = self.scheme.name();
        if text.contains("://") && !text.starts_with(['/', '?']) {
            return Self::parse(text);
        }
        if let Some(rest) = text.strip_prefix("//") {
            return Self::parse(&format!("{base}://{rest}"));
        }
        let path = self.rest.split('?').next().unwrap_or_default();
        let rest = match text.as_bytes().first() {
            Some(b'/') => text.to_owned(),
            Some(b'?') => format!("{path}{text}"),
            _ => {
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                format!("{directory}/{text}")
            }
        };
        Self::parse(&format!("{base}://{}{rest}", self.authority))
    }

    /// With one more parameter.
    #[must_use]
    pub fn with_query(&self, name: &str, value: &str) -> Self {
        let separator = if self.rest.contains('?') { '&' } else { '?' };
        let rest = format!("{}{separator}{name}={}", self.rest, escape(value));
        Self {
            rest,
            ..self.clone()
        }
    }

    /// The same path and query at another place.
    #[must_use]
    pub fn at(&self, place: &Self) -> Self {
        Self::new(place.scheme, &place.authority, &self.rest)
    }

    /// With or without TLS.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host and port as written.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The port.
    pub fn port(&self) -> u16 {
        let after = match self.authority.rsplit_once(']') {
            Some((_, after)) => after,
            None => &self.authority,
        };
        let port = after
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// Whether both are the same place for a credential: scheme, host and port.
    pub fn same_origin(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.same_place(other)
    }

    /// Whether both are the same host and port.
    pub fn same_place(&self, other: &Self) -> bool {
        let host = |url: &Self| super::endpoints::host_of(&url.authority).to_owned();
        host(self) == host(other) && self.port() == other.port()
    }

    /// Without its query, which may hold a signature: for messages and logs.
    pub fn bare(&self) -> String {
        let path = self.rest.split('?').next().unwrap_or_default();
        format!("{}://{}{path}", self.scheme.name(), self.authority)
    }

    /// All of it, for the request itself.
    pub fn full(&self) -> String {
        format!("{}://{}{}", self.scheme.name(), self.authority, self.rest)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bare())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bare())
    }
}

/// Percent-encodes everything but unreserved characters.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A text whose address has no user and no password, to be shown.
pub fn concealed(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://xxxxx{}", &rest[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_has_no_password() {
        for (text, shown) in [
            ("https://u:p@h/a@b", "https://xxxxx@h/a@b"),
            ("https://h/a@b", "https://h/a@b"),
            ("https://h?a@b", "https://h?a@b"),
            ("git@h:a", "git@h:a"),
        ] {
            assert_eq!(concealed(text), shown);
        }
        let error = Url::parse("http://u:canary@h/").unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn joins() {
        let base = Url::parse("https://Reg.lan:5000/v2/a/blobs/x?y=z#f").unwrap();
        for (location, result) in [
            ("https://cdn.lan/b?sig=1", "https://cdn.lan/b?sig=1"),
            ("//cdn.lan/b", "https://cdn.lan/b"),
            ("/b?u=http://c", "https://reg.lan:5000/b?u=http://c"),
            ("?q", "https://reg.lan:5000/v2/a/blobs/x?q"),
            ("u", "https://reg.lan:5000/v2/a/blobs/u"),
        ] {
            assert_eq!(base.join(location).unwrap().full(), result);
        }
        assert_eq!(base.to_string(), "https://reg.lan:5000/v2/a/blobs/x");
        assert_eq!(
            base.with_query("d", "a:b").full(),
            "https://reg.lan:5000/v2/a/blobs/x?y=z&d=a%3Ab"
        );
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            "a",
            "ftp://a/",
            "file:///etc/passwd",
            "https://",
            "https://u:p@a/",
            "https://a b/",
            "https://a/\r\nX: y",
            "https://a%2f/",
            "https://a:99999/",
            "https:///x",
            "https://[::1",
        ] {
            Url::parse(text).unwrap_err();
        }
    }

    #[test]
    fn origins() {
        let same = |a: &str, b: &str| Url::parse(a).unwrap().same_origin(&Url::parse(b).unwrap());
        assert!(same("https://a/x", "https://A:443/y"));
        assert!(same("http://[::1]/x", "http://[::1]:80/y"));
        assert!(!same("https://a/", "http://a:443/"));
        assert!(!same("https://a/", "https://a:444/"));
        assert!(!same("https://a/", "https://b.a/"));
    }
}
