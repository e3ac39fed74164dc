//! One HTTP request and its answer: connections, TLS, proxies, stalls. No redirect, no credential and
//! no second try; those are the client's.
//!
//! Every host (scheme and authority) has an agent of its own, with its own settings, so that nothing
//! that is meant for one host (headers, client certificates, an unverified certificate) can reach
//! another one. Proxies are asked to CONNECT, for plain HTTP too.

use std::collections::HashMap;
mod answer;
mod dial;
mod failure;
mod socket;
mod trust;

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ureq::http;
use ureq::tls::Certificate;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, RustlsConnector};
use ureq::{Agent, AsSendBody, SendBody};

use super::endpoints::Proxies;
use super::resolver::Resolver;
use super::retry::{Again, Cancel, Failure};
use super::settings::{Host, Settings};
use super::url::{Scheme, Url};
use crate::{Error, ErrorKind, Result};
pub(super) use answer::Response;
pub(super) use failure::broken;
use failure::{failure_of, hint_of_plain, is_refused, known_as};
use socket::Sockets;

/// Bytes of each direction's buffer of a connection.
pub(super) const BUFFER: usize = 64 << 10;
/// Hosts whose connections are kept; redirects may lead to any number of them.
const MAX_AGENTS: usize = 32;
const MAX_HEADERS: usize = 64 << 10;
const MAX_IDLE: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("rcrun/", env!("CARGO_PKG_VERSION"));

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

/// A host that was asked before.
#[derive(Clone)]
struct Known {
    agent: Agent,
    stall: Duration,
    /// It has answered: when nobody listens there now, it is being restarted.
    answered: Arc<AtomicBool>,
    /// The last connection to it stayed within this machine.
    near: Arc<AtomicBool>,
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
            near: known.near.load(Ordering::Relaxed),
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
        let near = Arc::default();
        let agent = self.new_agent(url, &host, &near)?;
        let weak = agent.clone();
        self.cancel.on_cancel(move || weak.shutdown());
        let known = Known {
            agent,
            stall: host.stall_timeout,
            answered: Arc::default(),
            near,
        };
        agents.insert(key, known.clone());
        Ok(known)
    }

    fn new_agent(&self, url: &Url, host: &Host, near: &Arc<AtomicBool>) -> Result<Agent> {
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
        let sockets = Sockets {
            cancel: self.cancel.clone(),
            near: near.clone(),
        };
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(sockets)
                .chain(RustlsConnector::default());
        let resolver = self.resolver.clone();
        Ok(Agent::with_parts(config.build(), connector, resolver))
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
