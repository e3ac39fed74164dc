//! Secrets by whose names BuildKit knows that they are for servers of sources (`ADD`, contexts):
//! `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER`, of one server with `.HOST`; `HTTP_AUTH_TOKEN_HOST` and
//! `HTTP_AUTH_HEADER_HOST`.
//!
//! One that names no host goes to whatever host a Dockerfile names, as with BuildKit, but only encrypted;
//! one that names its host goes there however the Dockerfile says.

use std::collections::BTreeMap;

use super::git::Secret;

const GIT_TOKEN: &str = "GIT_AUTH_TOKEN";
const GIT_HEADER: &str = "GIT_AUTH_HEADER";
const HTTP_TOKEN: &str = "HTTP_AUTH_TOKEN_";
const HTTP_HEADER: &str = "HTTP_AUTH_HEADER_";

/// Credentials by the names of their secrets.
#[derive(Debug, Clone, Default)]
pub struct Credentials(BTreeMap<String, Secret>);

impl Credentials {
    /// Those among all secrets. What cannot be a header is none.
    pub fn among<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let known = |name: &str| {
            let is = |prefix: &str| {
                let rest = name.strip_prefix(prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            is(GIT_TOKEN)
                || is(GIT_HEADER)
                || name.starts_with(HTTP_TOKEN)
                || name.starts_with(HTTP_HEADER)
        };
        let mut found = BTreeMap::new();
        for (name, bytes) in secrets {
            let text = std::str::from_utf8(bytes).ok().map(str::trim);
            let text = text.filter(|text| !text.is_empty() && !text.contains(char::is_control));
            if let Some(text) = text.filter(|_| known(name)) {
                found.insert(name.to_owned(), Secret::new(text));
            }
        }
        Self(found)
    }

    /// The value of the header `Authorization` for a repository by HTTP.
    pub(super) fn git(&self, remote: &str) -> Option<Secret> {
        let (scheme, rest) = remote.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = authority.rsplit('@').next()?;
        let get = |name: String| self.0.get(&name);
        let basic = |token: &Secret| {
            let pair = format!("x-access-token:{}", token.expose());
            Secret::new(format!("basic {}", crate::base64(pair.as_bytes())))
        };
        let own = get(format!("{GIT_HEADER}.{host}"))
            .cloned()
            .or_else(|| get(format!("{GIT_TOKEN}.{host}")).map(basic));
        let any = || {
            let header = get(GIT_HEADER.to_owned()).cloned();
            header.or_else(|| get(GIT_TOKEN.to_owned()).map(basic))
        };
        match scheme {
            "https" => own.or_else(any),
            "http" => own,
            _ => None,
        }
    }

    /// The same for a file by HTTP.
    pub(super) fn http(&self, url: &str) -> Option<Secret> {
        let (_, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = authority.rsplit('@').next()?;
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let header = self.0.get(&format!("{HTTP_HEADER}{name}")).cloned();
        let bearer = |token: &Secret| Secret::new(format!("Bearer {}", token.expose()));
        header.or_else(|| self.0.get(&format!("{HTTP_TOKEN}{name}")).map(bearer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        let all: [(&str, &[u8]); 9] = [
            ("GIT_AUTH_TOKEN", b"any\n"),
            ("GIT_AUTH_TOKEN.h:8080", b"own"),
            ("GIT_AUTH_HEADER.g", b"basic own-header"),
            ("GIT_AUTH_TOKEN.g", b"unused"),
            ("HTTP_AUTH_TOKEN_h", b"token"),
            ("HTTP_AUTH_HEADER_g", b"header"),
            ("HTTP_AUTH_TOKEN_::1", b"six"),
            ("OTHER", b"other"),
            ("HTTP_AUTH_HEADER_bad", b"a\nb: c"),
        ];
        Credentials::among(all)
    }

    #[test]
    fn each_server_gets_its_own() {
        let all = credentials();
        let any = format!("basic {}", crate::base64(b"x-access-token:any"));
        let own = format!("basic {}", crate::base64(b"x-access-token:own"));
        for (remote, expected) in [
            ("https://a/x.git", Some(any.as_str())),
            ("http://a/x.git", None),
            ("http://h:8080/x.git", Some(&own)),
            ("https://h:8080", Some(&own)),
            ("https://h/x.git", Some(&any)),
            ("https://g/x.git", Some("basic own-header")),
            ("https://u@g/x.git", Some("basic own-header")),
            ("https://g.evil/x.git", Some(&any)),
            ("http://g.evil/x.git", None),
            ("ssh://g/x.git", None),
            ("git@g:x.git", None),
        ] {
            let found = all.git(remote);
            assert_eq!(found.as_ref().map(Secret::expose), expected, "{remote}");
        }
        for (url, expected) in [
            ("http://h/f", Some("Bearer token")),
            ("https://h:99/f", Some("Bearer token")),
            ("https://g/f", Some("header")),
            ("https://g.evil/f", None),
            ("https://evil/?@g/", None),
            ("https://evil/h", None),
            ("http://[::1]:80/f", Some("Bearer six")),
            ("https://bad/f", None),
        ] {
            let found = all.http(url);
            assert_eq!(found.as_ref().map(Secret::expose), expected, "{url}");
        }
        assert!(!format!("{all:?}").contains("own-header"));
    }
}
