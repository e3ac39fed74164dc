//! Who we are to a registry: challenges, tokens, and where a credential may be sent.
//!
//! Docker's token authentication and its OAuth 2 form (distribution project, "Token Authentication
//! Specification"; RFC 6750, 7617, 9110 section 11). A credential is sent to the registry itself
//! (basic), or to the realm that it names (token), and there only
//! - over https, to any host: docker.io's realm is at another host than its registry; or
//! - over http, to the very host that the settings say is to be spoken to without TLS.
//!
//! A registry that is spoken to with TLS cannot name a realm without. Tokens live in memory, for
//! the place (scheme, host, port) and scope they were issued for. Their age is counted on our own
//! monotonic clock from the moment they came: no clock's skew matters.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use ureq::http::{Method, header};

use super::credentials::{Credential, Credentials, Secret};
use super::endpoints::{Endpoint, host_of};
use super::retry::Failure;
use super::transport::{Body, Request, Response, Transport};
use super::url::{Scheme, Url, escape};
use crate::{Context, Error, ErrorKind, Result};

/// What a token without `expires_in` lives, says the specification.
const DEFAULT_LIFE: u64 = 60;
const MAX_LIFE: u64 = 24 * 3600;
/// A token is renewed so much before its end.
const MARGIN: u64 = 10;
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
const MAX_TOKEN: usize = 64 << 10;
const CLIENT_ID: &str = "rcrun";

/// What is to be done with repositories, such as `repository:library/debian:pull`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scopes(Vec<String>);

impl Scopes {
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    pub(super) fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    pub(super) fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    pub(super) fn delete(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:delete,pull")])
    }

    /// With leave to read another repository, to mount from it.
    pub(super) fn and_pull(mut self, other: &str) -> Self {
        self.0.push(format!("repository:{other}:pull"));
        self.0.sort();
        self
    }
}

/// What a registry wants (RFC 9110, 11.6.1).
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.parameters.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }
}

struct Kept {
    header: Secret,
    until: Option<Instant>,
}

/// Knows what to send to whom.
pub(super) struct Authenticator {
    credentials: Credentials,
    kept: Mutex<HashMap<(String, Scopes), Kept>>,
    /// Held while a token is fetched: many threads need one token.
    fetching: Mutex<()>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<Secret>,
    #[serde(default)]
    access_token: Option<Secret>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Authenticator {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            kept: Mutex::default(),
            fetching: Mutex::default(),
        }
    }

    /// The value of Authorization for a request, if one is known to be needed.
    pub(super) fn header(&self, url: &Url, scopes: &Scopes) -> Option<Secret> {
        let kept = self.kept();
        let found = kept.get(&(place(url), scopes.clone()))?;
        let fresh = found.until.is_none_or(|until| until > Instant::now());
        fresh.then(|| found.header.clone())
    }

    /// Does what an answer 401 asks for. `sent` is what was sent and not good enough.
    pub(super) fn answer(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        response: Response,
        scopes: &Scopes,
        sent: Option<&Secret>,
    ) -> Result<(), Failure> {
        let url = response.url.clone();
        let _fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.header(&url, scopes);
        if now.is_some() && now.as_ref() != sent {
            // Another thread was first.
            return Ok(());
        }
        self.kept().remove(&(place(&url), scopes.clone()));
        let values = response.headers.get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<Challenge> = values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenges)
            .collect();
        let credential = self
            .credentials
            .find(&endpoint.name, &endpoint.repository)?;
        let of = |scheme: &str| challenges.iter().find(|one| one.scheme == scheme);
        let (header, life) = if let Some(Credential::Registry { token }) = &credential {
            if sent.is_some() {
                return Err(response.failure("log in"));
            }
            (Secret::new(format!("Bearer {}", token.expose())), None)
        } else if let Some(challenge) = of("bearer") {
            let (token, life) = token(transport, &url, challenge, credential.as_ref(), scopes)?;
            (
                Secret::new(format!("Bearer {}", token.expose())),
                Some(life),
            )
        } else if of("basic").is_some() {
            match &credential {
                // The same once more would be refused once more.
                Some(Credential::Basic { user, password }) if sent.is_none() => {
                    (basic(user, password), None)
                }
                Some(_) => return Err(response.failure("log in")),
                None => {
                    let what = format!("log in without a credential for {}", endpoint.name);
                    return Err(response.failure(&what));
                }
            }
        } else {
            return Err(response.failure("log in: no known way is offered"));
        };
        let until = life.map(|life| Instant::now() + life);
        self.kept()
            .insert((place(&url), scopes.clone()), Kept { header, until });
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(String, Scopes), Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(url: &Url) -> String {
    let scheme = match url.scheme() {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    format!("{scheme}://{}:{}", host_of(url.authority()), url.port())
}

fn basic(user: &str, password: &Secret) -> Secret {
    let text = format!("{user}:{}", password.expose());
    Secret::new(format!("Basic {}", BASE64_STANDARD.encode(text)))
}

/// Gets a token from the realm that a challenge names.
fn token(
    transport: &Transport,
    registry: &Url,
    challenge: &Challenge,
    credential: Option<&Credential>,
    scopes: &Scopes,
) -> Result<(Secret, Duration), Failure> {
    let host = registry.authority();
    let realm = challenge.get("realm").unwrap_or_default();
    let realm = Url::parse(realm).context(|| format!("{host} names an unusable realm"))?;
    check_realm(registry, &realm, credential.is_some())?;
    let service = challenge.get("service").unwrap_or_default();
    let mut wanted = scopes.0.clone();
    if wanted.is_empty() {
        wanted.extend(challenge.get("scope").map(str::to_owned));
    }
    let response = match credential {
        Some(Credential::Identity { token, .. }) => {
            let form = [
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", CLIENT_ID),
                ("scope", &wanted.join(" ")),
                ("refresh_token", token.expose()),
            ]
            .map(|(name, value)| format!("{name}={}", escape(value)))
            .join("&");
            let kind = "application/x-www-form-urlencoded".to_owned();
            transport.send(Request {
                method: Method::POST,
                url: &realm,
                headers: vec![(header::CONTENT_TYPE, kind)],
                body: Body::Bytes(form.as_bytes()),
                patience: None,
            })?
        }
        other => {
            let mut url = realm.clone();
            if !service.is_empty() {
                url = url.with_query("service", service);
            }
            for scope in &wanted {
                url = url.with_query("scope", scope);
            }
            let mut headers = Vec::new();
            if let Some(Credential::Basic { user, password }) = other {
                url = url.with_query("account", user);
                let value = basic(user, password).expose().to_owned();
                headers.push((header::AUTHORIZATION, value));
            }
            transport.send(Request {
                method: Method::GET,
                url: &url,
                headers,
                body: Body::None,
                patience: None,
            })?
        }
    };
    if response.status != 200 {
        return Err(response.failure(&format!("get a token for {host}")));
    }
    read_token(&response.bytes(MAX_TOKEN_ANSWER)?)
        .context(|| format!("cannot use the token of {realm}"))
        .map_err(Failure::last)
}

fn check_realm(registry: &Url, realm: &Url, secret: bool) -> Result<()> {
    let refuse = |why: &str| {
        let message = format!(
            "refuse to send the credential for {} to the realm {realm}: {why}",
            registry.authority()
        );
        Err(Error::new(ErrorKind::PermissionDenied, message))
    };
    let same_host = host_of(registry.authority()) == host_of(realm.authority());
    match (realm.scheme(), registry.scheme()) {
        (Scheme::Https, _) => Ok(()),
        (Scheme::Http, Scheme::Https) => refuse("it is not reached by https, and the registry is"),
        (Scheme::Http, Scheme::Http) if secret && !same_host => {
            refuse("it is another host and not reached by https")
        }
        (Scheme::Http, Scheme::Http) => Ok(()),
    }
}

fn read_token(bytes: &[u8]) -> Result<(Secret, Duration)> {
    // serde's words would quote the answer.
    let answer: TokenAnswer =
        serde_json::from_slice(bytes).map_err(|_| Error::invalid("not a token's JSON"))?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.expose().is_empty())
        .ok_or_else(|| Error::invalid("no token in it"))?;
    let visible = |byte: u8| (b'!'..127).contains(&byte);
    if token.expose().len() > MAX_TOKEN || !token.expose().bytes().all(visible) {
        return Err(Error::invalid("the token is not one"));
    }
    let life = match answer.expires_in {
        None | Some(0) => DEFAULT_LIFE,
        Some(life) => life.min(MAX_LIFE),
    };
    let life = if life > 2 * MARGIN {
        life - MARGIN
    } else {
        life
    };
    Ok((token, Duration::from_secs(life)))
}

/// Reads a WWW-Authenticate header: challenges separated by commas, whose parameters are too.
fn challenges(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let value = after.trim_start().strip_prefix('=');
        match (value, challenges.last_mut()) {
            (Some(value), Some(challenge)) => {
                let (value, after) = parameter(value.trim_start());
                challenge
                    .parameters
                    .push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            // A value that belongs to no challenge.
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    challenges
}

/// A token or a quoted string, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_of_all_shapes() {
        let show = |text: &str| -> String {
            let one = |challenge: &Challenge| {
                let parameters = challenge
                    .parameters
                    .iter()
                    .map(|(n, v)| format!(" {n}={v}"));
                format!("{}{}", challenge.scheme, parameters.collect::<String>())
            };
            challenges(text)
                .iter()
                .map(one)
                .collect::<Vec<_>>()
                .join(";")
        };
        let cases = [
            (
                r#"Bearer realm="https://a/t",service="s",scope="repository:a:pull,push""#,
                "bearer realm=https://a/t service=s scope=repository:a:pull,push",
            ),
            ("Basic", "basic"),
            (
                r#"Basic realm="x, y=\"z\"" , Bearer realm=https://a/t"#,
                r#"basic realm=x, y="z";bearer realm=https://a/t"#,
            ),
            (r#"BEARER Realm = "a""#, "bearer realm=a"),
            (",, Basic , , Digest", "basic;digest"),
            (r#"Bearer realm="open"#, "bearer realm=open"),
            ("=x", ""),
            ("", ""),
        ];
        for (text, shown) in cases {
            assert_eq!(show(text), shown, "{text}");
        }
    }

    #[test]
    fn tokens() {
        let life = |text: &str| {
            read_token(text.as_bytes())
                .map(|(token, life)| (token.expose().to_owned(), life.as_secs()))
        };
        let fine = |text: &str, token: &str, seconds| {
            assert_eq!(life(text).unwrap(), (token.to_owned(), seconds));
        };
        fine(r#"{"token":"a"}"#, "a", 50);
        fine(
            r#"{"token":"","access_token":"b","expires_in":300}"#,
            "b",
            290,
        );
        fine(
            r#"{"token":"a","expires_in":5,"issued_at":"1970-01-01T00:00:00Z"}"#,
            "a",
            5,
        );
        fine(r#"{"token":"a","expires_in":99999999999}"#, "a", 86390);
        for text in [
            "",
            "{}",
            r#"{"token":"a b"}"#,
            r#"{"token":"a\r\nX: y"}"#,
            r#"{"token":1}"#,
        ] {
            let error = life(text).unwrap_err().to_string();
            assert!(!error.contains("a b"), "{error}");
        }
    }

    #[test]
    fn d11_realms() {
        let check = |registry: &str, realm: &str, secret| {
            check_realm(
                &Url::parse(registry).unwrap(),
                &Url::parse(realm).unwrap(),
                secret,
            )
            .is_ok()
        };
        assert!(check("https://reg.lan/", "https://auth.lan/", true));
        assert!(check("http://reg.lan:5000/", "http://reg.lan:5001/", true));
        assert!(check("http://reg.lan/", "https://auth.lan/", true));
        assert!(check("http://reg.lan/", "http://auth.lan/", false));
        assert!(!check("http://reg.lan/", "http://auth.lan/", true));
        assert!(!check("https://reg.lan/", "http://reg.lan/", true));
        assert!(!check("https://reg.lan/", "http://reg.lan/", false));
    }
}
