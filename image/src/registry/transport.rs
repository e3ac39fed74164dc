//! One HTTP request and its answer: connections, TLS, proxies, stalls. No redirect, no credential and
//! no second try; those are the client's.
//!
//! Every host (scheme and authority) has an agent of its own, with its own settings, so that nothing
//! that is meant for one host (headers, client certificates, an unverified certificate) can reach
//! another one. Proxies are asked to CONNECT, for plain HTTP too.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use ureq::http::{self, HeaderMap};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, AsSendBody, SendBody};

use super::endpoints::Proxies;
use super::resolver::Resolver;
use super::retry::{Again, Cancel, Failure, retry_after};
use super::settings::{Host, Settings};
use super::url::{Scheme, Url};
use crate::{Context, Error, ErrorKind, Result};

/// Bytes of each direction's buffer of a connection.
pub(super) const BUFFER: usize = 64 << 10;
/// Hosts whose connections are kept; redirects may lead to any number of them.
const MAX_AGENTS: usize = 32;
const MAX_HEADERS: usize = 64 << 10;
const MAX_IDLE: Duration = Duration::from_secs(30);
const MAX_ERROR_BODY: u64 = 64 << 10;
const MAX_CERTIFICATES: u64 = 16 << 20;
const USER_AGENT: &str = concat!("rcrun/", env!("CARGO_PKG_VERSION"));

/// Where distributions keep the certificates to trust.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is sent with a request.
pub(super) enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    /// Exactly so many bytes of a stream.
    Stream(Box<dyn Read + 'a>, u64),
}

/// A request.
pub(super) struct Request<'a> {
    pub method: http::Method,
    pub url: &'a Url,
    pub headers: Vec<(http::HeaderName, String)>,
    pub body: Body<'a>,
    /// How long silence is borne, if not as long as the host's settings say.
    pub patience: Option<Duration>,
}

/// An answer. Its body is still to come.
pub(super) struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: ureq::Body,
    pub url: Url,
}

impl Response {
    /// A header's text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header's number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// The whole body, if it has at most `limit` bytes.
    pub(super) fn bytes(self, limit: u64) -> Result<Vec<u8>, Failure> {
        let url = self.url.clone();
        if self
            .number("content-length")
            .is_some_and(|length| length > limit)
        {
            return Err(too_long(&url, limit));
        }
        let mut bytes = Vec::new();
        let mut reader = self.body.into_reader().take(limit + 1);
        reader
            .read_to_end(&mut bytes)
            .map_err(|e| broken(e, &url))?;
        if bytes.len() as u64 > limit {
            return Err(too_long(&url, limit));
        }
        Ok(bytes)
    }

    /// What an answer that is not a success means; `what` was being done.
    pub(super) fn failure(self, what: &str) -> Failure {
        let status = self.status;
        let host = self.url.authority().to_owned();
        let again = match status {
            408 | 429 | 500 | 502..=504 | 506..=599 => {
                let asked = self.header("retry-after");
                let asked = asked.and_then(|text| retry_after(text, SystemTime::now()));
                asked.map_or(Again::Yes, Again::After)
            }
            _ => Again::No,
        };
        let kind = match status {
            401 | 403 => ErrorKind::PermissionDenied,
            404 | 410 => ErrorKind::NotFound,
            400 | 406 | 413..=416 | 422 => ErrorKind::InvalidInput,
            405 | 501 => ErrorKind::Unsupported,
            _ if again != Again::No => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
        let mut bytes = Vec::new();
        // What can be read of an explanation is better than none.
        let _ = self
            .body
            .into_reader()
            .take(MAX_ERROR_BODY)
            .read_to_end(&mut bytes);
        let reason = http::StatusCode::from_u16(status).ok();
        let reason = reason
            .and_then(|code| code.canonical_reason())
            .unwrap_or_default();
        let words = own_words(&bytes).map_or(String::new(), |words| format!(": {words}"));
        let message = format!("cannot {what}: {host} answers {status} {reason}{words}");
        let mut error = Error::new(kind, message);
        if let 401 | 403 = status {
            let host = match host.as_str() {
                "auth.docker.io" => crate::reference::DEFAULT_HOST,
                other => known_as(other),
            };
            error = error.with_hint(format!("`rcrun login {host}`, if it is not public there"));
        }
        Failure { error, again }
    }
}

/// The name by which people and settings know an authority.
fn known_as(authority: &str) -> &str {
    match authority {
        "registry-1.docker.io" => crate::reference::DEFAULT_HOST,
        other => other,
    }
}

fn too_long(url: &Url, limit: u64) -> Failure {
    Error::invalid(format!("the answer of {url} is longer than {limit} bytes")).into()
}

/// The registry's own error (distribution specification, "Error Codes"), made harmless to print.
fn own_words(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |value: &serde_json::Value, name: &str| {
        let text = value.get(name).and_then(serde_json::Value::as_str)?;
        let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        (!text.is_empty()).then_some(text)
    };
    // Token servers answer {"details": ...} or OAuth 2's {"error": ..., "error_description": ...}.
    let first = value
        .get("errors")
        .and_then(|list| list.get(0))
        .unwrap_or(&value);
    let code = text(first, "code").or_else(|| text(first, "error"));
    let message = text(first, "message")
        .or_else(|| text(first, "error_description"))
        .or_else(|| text(first, "details"));
    match (code, message) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (one, other) => one.or(other),
    }
}

/// What a broken connection means.
pub(super) fn broken(error: io::Error, url: &Url) -> Failure {
    failure_of(ureq::Error::from(error), url, Duration::ZERO)
}

fn failure_of(error: ureq::Error, url: &Url, stall: Duration) -> Failure {
    let host = url.authority();
    let fail = |kind, words: String, again| Failure {
        error: Error::new(kind, words),
        again,
    };
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => fail(
            ErrorKind::Deadline,
            format!("cannot connect to {host}: no answer in time"),
            Again::Yes,
        ),
        ureq::Error::Timeout(_) if stall.is_zero() => fail(
            ErrorKind::Deadline,
            format!("{host} stopped sending"),
            Again::Yes,
        ),
        ureq::Error::Timeout(_) => fail(
            ErrorKind::Deadline,
            format!("no byte from {host} for {stall:?}"),
            Again::Yes,
        ),
        ureq::Error::Io(e) => {
            let (kind, again) = match (e.kind(), e.get_ref()) {
                (_, Some(inner)) if inner.is::<rustls::Error>() => (tls_kind(inner), Again::No),
                // A name that does not exist and a port that nobody listens on are clear answers.
                (io::ErrorKind::NotFound, _) => (ErrorKind::NotFound, Again::No),
                (io::ErrorKind::ConnectionRefused, _) => (ErrorKind::Unavailable, Again::No),
                (io::ErrorKind::InvalidInput, _) => (ErrorKind::InvalidInput, Again::No),
                _ => (ErrorKind::Unavailable, Again::Yes),
            };
            let words = format!("cannot talk to {host}: {}", words_of(&e));
            let mut failure = fail(kind, words, again);
            if let Some(hint) = hint(&e, known_as(host)) {
                failure.error = failure.error.with_hint(hint);
            }
            failure
        }
        ureq::Error::ConnectProxyFailed(reason) => fail(
            ErrorKind::Unavailable,
            format!("cannot reach {host}: proxy: {reason}"),
            Again::Yes,
        ),
        other => fail(
            ErrorKind::Unavailable,
            format!("cannot talk to {host}: {other}"),
            Again::No,
        ),
    }
}

/// What a person can do about a connection that did not come about.
fn hint(error: &io::Error, host: &str) -> Option<String> {
    use rustls::{CertificateError, Error as Tls};
    if error.kind() == io::ErrorKind::NotFound {
        return Some("check how the registry's name is written, and the network".to_owned());
    }
    match error.get_ref()?.downcast_ref::<Tls>()? {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => Some(format!(
            "name the authority's file as registries.\"{host}\".ca in the settings"
        )),
        Tls::InvalidMessage(_) => Some(hint_of_plain(host)),
        _ => None,
    }
}

/// For a host that does not seem to speak TLS.
fn hint_of_plain(host: &str) -> String {
    format!(
        "if {host} is meant to be without TLS, set registries.\"{host}\".plain_http in the settings"
    )
}

/// Whose certificate is not accepted, by whichever side, is told from who does not speak TLS.
fn tls_kind(error: &(dyn std::error::Error + Send + Sync + 'static)) -> ErrorKind {
    match error.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => {
            ErrorKind::PermissionDenied
        }
        _ => ErrorKind::Unavailable,
    }
}

fn is_refused(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused)
}

fn words_of(error: &io::Error) -> String {
    if let Some(tls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        return format!("TLS: {tls}");
    }
    error
        .to_string()
        .split(" (os error")
        .next()
        .unwrap_or_default()
        .to_lowercase()
}

/// A host that was asked before.
#[derive(Clone)]
struct Known {
    agent: Agent,
    stall: Duration,
    /// It has answered: when nobody listens there now, it is being restarted.
    answered: Arc<AtomicBool>,
}

/// Sends requests.
pub(super) struct Transport {
    settings: Settings,
    proxies: Proxies,
    resolver: Resolver,
    agents: Mutex<HashMap<(Scheme, String), Known>>,
    roots: OnceLock<Result<Vec<Certificate<'static>>, String>>,
    cancel: Cancel,
}

impl Transport {
    pub(super) fn new(
        settings: Settings,
        proxies: Proxies,
        resolver: Resolver,
        cancel: Cancel,
    ) -> Self {
        Self {
            settings,
            proxies,
            resolver,
            agents: Mutex::default(),
            roots: OnceLock::new(),
            cancel,
        }
    }

    /// Sends a request and reads the head of its answer, whatever its status.
    pub(super) fn send(&self, request: Request<'_>) -> Result<Response, Failure> {
        self.cancel.check()?;
        let known = self.agent(request.url)?;
        let agent = known.agent;
        let stall = request.patience.unwrap_or(known.stall);
        let url = request.url.clone();
        tracing::debug!(method = %request.method, %url, "request");
        let mut builder = http::Request::builder()
            .method(request.method)
            .uri(request.url.full());
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        for (name, value) in &self.host(&url).headers {
            builder = builder.header(name, value.expose());
        }
        let result = match request.body {
            Body::None => run(&agent, builder, (), stall),
            Body::Bytes(bytes) => run(&agent, builder, bytes, stall),
            Body::Stream(reader, length) => {
                let builder = builder.header(http::header::CONTENT_LENGTH, length);
                let mut exactly = reader.take(length);
                run(&agent, builder, SendBody::from_reader(&mut exactly), stall)
            }
        };
        let response = result.map_err(|e| {
            // Whoever called it off shut the connection down.
            match self.cancel.check() {
                Err(called_off) => called_off.into(),
                Ok(()) => {
                    let answered = known.answered.load(Ordering::Relaxed);
                    let restarted = is_refused(&e) && answered;
                    let closed = matches!(&e, ureq::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof);
                    let mut failure = self.explained(failure_of(e, &url, stall));
                    if restarted {
                        failure.again = Again::Yes;
                    }
                    if closed && !answered && url.scheme() == Scheme::Https {
                        let hint = hint_of_plain(known_as(url.authority()));
                        failure.error = failure.error.with_hint(hint);
                    }
                    failure
                }
            }
        })?;
        known.answered.store(true, Ordering::Relaxed);
        let (parts, body) = response.into_parts();
        tracing::debug!(%url, status = parts.status.as_u16(), "answer");
        Ok(Response {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            url,
        })
    }

    /// A certificate may be refused because there is nothing to check it with.
    fn explained(&self, failure: Failure) -> Failure {
        match self.roots.get() {
            Some(Err(words)) if failure.error.kind() == ErrorKind::PermissionDenied => Failure {
                error: failure.error.context(words.clone()),
                ..failure
            },
            _ => failure,
        }
    }

    fn host(&self, url: &Url) -> Host {
        self.settings.host(known_as(url.authority()))
    }

    fn agent(&self, url: &Url) -> Result<Known> {
        let key = (url.scheme(), url.authority().to_owned());
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = agents.get(&key) {
            return Ok(known.clone());
        }
        if agents.len() >= MAX_AGENTS {
            // Requests that are under way keep theirs.
            agents.clear();
        }
        let host = self.host(url);
        let agent = self.new_agent(url, &host)?;
        let weak = agent.clone();
        self.cancel.on_cancel(move || weak.shutdown());
        let known = Known {
            agent,
            stall: host.stall_timeout,
            answered: Arc::default(),
        };
        agents.insert(key, known.clone());
        Ok(known)
    }

    fn new_agent(&self, url: &Url, host: &Host) -> Result<Agent> {
        let proxy = match self.proxies.of(url) {
            // The address may hold a password: it is not repeated.
            Some(text) => Some(ureq::Proxy::new(text).map_err(|_| {
                Error::invalid(format!(
                    "the proxy for {} has no valid address",
                    url.authority()
                ))
            })?),
            None => None,
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .save_redirect_history(false)
            .proxy(proxy)
            .user_agent(USER_AGENT)
            .accept_encoding("identity")
            .timeout_connect(Some(host.connect_timeout))
            .timeout_per_read(Some(host.stall_timeout))
            .timeout_per_write(Some(host.stall_timeout))
            .max_response_header_size(MAX_HEADERS)
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_idle_connections(host.connections + 1)
            .max_idle_connections_per_host(host.connections + 1)
            .max_idle_age(MAX_IDLE);
        if url.scheme() == Scheme::Https {
            config = config.https_only(true).tls_config(self.tls(host)?);
        }
        let resolver = self.resolver.clone();
        Ok(Agent::with_parts(
            config.build(),
            DefaultConnector::new(),
            resolver,
        ))
    }

    fn tls(&self, host: &Host) -> Result<TlsConfig> {
        let mut roots = Vec::new();
        if !host.skip_verify {
            let system = self
                .roots
                .get_or_init(|| system_roots().map_err(|e| e.chain().to_string()));
            // Without them every certificate is refused, and then it is told why.
            if let Ok(system) = system {
                roots.extend(system.iter().cloned());
            }
            for path in &host.ca {
                roots.extend(certificates(path)?);
            }
        }
        let client = match (&host.client_certificate, &host.client_key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let words = || format!("cannot read the key {}", key.display());
                let pem = read(key).context(words)?;
                let key = PrivateKey::from_pem(&pem)
                    .map_err(|_| Error::invalid(format!("{}: no key in it", words())))?;
                Some(ClientCert::new_with_certs(&chain, key))
            }
            _ => None,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .client_cert(client)
            .disable_verification(host.skip_verify)
            .unversioned_rustls_crypto_provider(provider)
            .build())
    }
}

fn run(
    agent: &Agent,
    builder: http::request::Builder,
    body: impl AsSendBody,
    stall: Duration,
) -> Result<http::Response<ureq::Body>, ureq::Error> {
    let request = agent
        .configure_request(builder.body(body)?)
        .timeout_per_read(Some(stall))
        .build();
    agent.run(request)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_CERTIFICATES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let words = || format!("cannot read certificates from {}", path.display());
    let pem = read(path).context(words)?;
    let found: Vec<Certificate<'static>> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(Error::invalid(format!("{}: none in it", words())));
    }
    Ok(found)
}

fn system_roots() -> Result<Vec<Certificate<'static>>> {
    let named = std::env::var_os("SSL_CERT_FILE");
    let named = named.iter().map(Path::new);
    let places = named.chain(SYSTEM_ROOTS.iter().map(Path::new));
    for path in places {
        if path.exists() {
            return certificates(path);
        }
    }
    let message = format!(
        "no certificates to trust: there is none of {}",
        SYSTEM_ROOTS.join(", ")
    );
    Err(Error::unsupported(message))
}
