//! A client: requests with redirects, credentials and second tries, and the order of mirrors.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{HeaderName, Method, header};

use super::authenticate::{Authenticator, Scopes};
use super::credentials::{Credential, Credentials};
use super::endpoints::{Endpoint, Proxies, Purpose, Speech, endpoints};
use super::resolver::Resolver;
use super::retry::{Again, Attempts, Cancel, Failure, Notice, Policy, tried};
use super::settings::Settings;
use super::transport::{Body, Request, Response, Transport};
use super::url::{Scheme, Url};
use crate::reference::Reference;
use crate::{Context, Error, ErrorKind, Result};

/// How many redirects are followed.
pub const MAX_REDIRECTS: usize = 5;
/// How often one request is sent again with a new credential.
const MAX_LOGINS: usize = 2;
/// How long a waiting thread sleeps before it looks whether it was called off.
const GLANCE: Duration = Duration::from_millis(100);

/// Talks to registries for one operation, or for several under the same settings.
pub struct Client {
    pub(super) settings: Settings,
    pub(super) policy: Policy,
    pub(super) cancel: Cancel,
    notice: Notice,
    transport: Transport,
    authenticator: Authenticator,
    schemes: Mutex<HashMap<String, Scheme>>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What a client is made from.
#[derive(Debug, Clone)]
pub struct Options {
    /// How hosts are reached.
    pub settings: Settings,
    /// Who we are.
    pub credentials: Credentials,
    /// Through what.
    pub proxies: Proxies,
    /// Names of hosts.
    pub resolver: Resolver,
    /// When to try again.
    pub policy: Policy,
    /// Calls everything off.
    pub cancel: Cancel,
    /// Is told of waits before something is tried again.
    pub notice: Notice,
}

impl Options {
    /// As an environment says, with these settings.
    pub fn new(settings: Settings, variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            settings,
            credentials: Credentials::new(&variable),
            proxies: Proxies::new(&variable),
            resolver: Resolver::default(),
            policy: Policy::default(),
            cancel: Cancel::new(),
            notice: Notice::default(),
        }
    }
}

/// Where a request goes.
pub(super) enum Target {
    /// Below `/v2/` of the endpoint.
    Path(String),
    /// Where the registry said. Credentials go there only if it is the endpoint.
    Url(Url),
}

/// A request to an endpoint.
pub(super) struct Call<'a> {
    pub method: Method,
    pub target: Target,
    pub headers: Vec<(HeaderName, String)>,
    pub scopes: Scopes,
    /// For errors: "cannot {what}".
    pub what: &'a str,
    pub patience: Option<Duration>,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, path: String, scopes: Scopes, what: &'a str) -> Self {
        Self {
            method,
            target: Target::Path(path),
            headers: Vec::new(),
            scopes,
            what,
            patience: None,
        }
    }
}

impl Client {
    /// A client.
    pub fn new(options: Options) -> Self {
        let Options {
            settings,
            credentials,
            proxies,
            resolver,
            policy,
            cancel,
            notice,
        } = options;
        Self {
            transport: Transport::new(settings.clone(), proxies, resolver, cancel.clone()),
            authenticator: Authenticator::new(credentials),
            settings,
            policy,
            cancel,
            notice,
            schemes: Mutex::default(),
            gates: Mutex::default(),
        }
    }

    /// Checks a credential against a host, as `login` does before it keeps it.
    pub fn login(options: Options, host: &str, credential: &Credential) -> Result<()> {
        crate::reference::check_host(host)?;
        let credentials = Credentials::only(host, credential);
        let client = Self::new(Options {
            credentials,
            ..options
        });
        // Any repository will do: nothing below it is asked for.
        let reference: Reference = format!("{host}/login").parse()?;
        let all = endpoints(&reference, &client.settings, Purpose::Push);
        let endpoint = all.last().ok_or_else(|| Error::invalid("no endpoint"))?;
        let what = format!("log in to {host}");
        tried(client.attempts(client.policy), || {
            let call = Call::new(Method::GET, String::new(), Scopes::none(), &what);
            let response = client.call(endpoint, &call, || Ok(Body::None))?;
            match response.status {
                200 => Ok(()),
                _ => Err(response.failure(&what)),
            }
        })
    }

    /// Counts tries under a policy.
    pub(super) fn attempts(&self, policy: Policy) -> Attempts<'_> {
        Attempts::new(policy, &self.cancel, &self.notice)
    }

    /// Sends a request once: follows redirects, and logs in as often as it takes. An answer that is
    /// neither a redirect nor a question for credentials is the caller's, whatever its status.
    pub(super) fn call<'b>(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        mut body: impl FnMut() -> Result<Body<'b>>,
    ) -> Result<Response, Failure> {
        let base = endpoint.url(self.scheme(endpoint)?, "");
        let first = match &call.target {
            Target::Path(path) => endpoint.url(base.scheme(), path),
            Target::Url(url) => url.clone(),
        };
        let mut logins = 0;
        'again: loop {
            let mut url = first.clone();
            let mut away = !url.same_origin(&base);
            for _ in 0..=MAX_REDIRECTS {
                let mut headers = call.headers.clone();
                let sent = match away {
                    true => None,
                    false => self.authenticator.header(&url, &call.scopes),
                };
                headers.extend(
                    sent.iter()
                        .map(|s| (header::AUTHORIZATION, s.expose().to_owned())),
                );
                let response = self.transport.send(Request {
                    method: call.method.clone(),
                    url: &url,
                    headers,
                    body: body()?,
                    patience: call.patience,
                })?;
                match response.status {
                    301 | 302 | 303 | 307 | 308 if is_safe(&call.method) => {
                        url = next(&response)?;
                        // Who was once led away does not come back with credentials.
                        away |= !url.same_origin(&base);
                    }
                    401 if !away && logins < MAX_LOGINS => {
                        logins += 1;
                        let scopes = &call.scopes;
                        self.authenticator
                            .answer(&self.transport, endpoint, response, scopes, sent.as_ref())
                            .map_err(|failure| within(failure, call.what))?;
                        continue 'again;
                    }
                    // The signature of where we were led to may have expired: ask for a new one.
                    400 | 401 | 403 if away && matches!(call.target, Target::Path(_)) => {
                        let failure = response.failure(call.what);
                        return Err(Failure {
                            again: Again::Yes,
                            ..failure
                        });
                    }
                    _ => return Ok(response),
                }
            }
            let host = base.authority();
            let words = format!(
                "cannot {}: {host} redirects more than {MAX_REDIRECTS} times",
                call.what
            );
            return Err(Error::new(ErrorKind::Unavailable, words).into());
        }
    }

    /// With or without TLS. A loopback address that nothing is said about is asked which.
    fn scheme(&self, endpoint: &Endpoint) -> Result<Scheme, Failure> {
        match endpoint.speech {
            Speech::Tls => return Ok(Scheme::Https),
            Speech::Plain => return Ok(Scheme::Http),
            Speech::TlsOrPlain => {}
        }
        let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = schemes.get(&endpoint.authority) {
            return Ok(*known);
        }
        let ask = |scheme| {
            self.transport
                .send(Request {
                    method: Method::GET,
                    url: &endpoint.url(scheme, ""),
                    headers: Vec::new(),
                    body: Body::None,
                    patience: None,
                })
                .map(drop)
        };
        let scheme = match ask(Scheme::Https) {
            Ok(()) => Scheme::Https,
            // It does not speak TLS, or not to us.
            Err(failure)
                if matches!(
                    failure.error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Deadline
                ) =>
            {
                ask(Scheme::Http)?;
                Scheme::Http
            }
            // It does, and we do not trust it: then certainly not without.
            Err(failure) => return Err(failure),
        };
        schemes.insert(endpoint.authority.clone(), scheme);
        Ok(scheme)
    }

    /// Asks one endpoint after the other until one has it. All reasons are in the error.
    pub(super) fn first_of<T>(
        &self,
        reference: &Reference,
        purpose: Purpose,
        what: &str,
        mut ask: impl FnMut(&Endpoint, Policy) -> Result<T>,
    ) -> Result<T> {
        let all = endpoints(reference, &self.settings, purpose);
        let mut reasons = Vec::new();
        for endpoint in &all {
            let policy = if endpoint.mirror {
                self.policy.brief()
            } else {
                self.policy
            };
            match ask(endpoint, policy) {
                Ok(value) => return Ok(value),
                Err(e) => {
                    self.cancel.check().context(|| format!("cannot {what}"))?;
                    if !endpoint.mirror {
                        let mirrors: String = reasons.concat();
                        return Err(e.context(format!("cannot {what}{mirrors}")));
                    }
                    let reason = format!(" (mirror {}: {})", endpoint.authority, e.chain());
                    tracing::debug!(%reason, "next endpoint");
                    reasons.push(reason);
                }
            }
        }
        Err(Error::new(
            ErrorKind::Internal,
            format!("cannot {what}: nobody to ask"),
        ))
    }

    /// The host itself.
    pub(super) fn own_endpoint(&self, reference: &Reference) -> Result<Endpoint> {
        endpoints(reference, &self.settings, Purpose::Push)
            .pop()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "no endpoint"))
    }

    /// Waits for leave to move a blob from or to an endpoint.
    pub(super) fn enter(&self, endpoint: &Endpoint) -> Result<Permit> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(endpoint.authority.clone()).or_default().clone();
        drop(gates);
        let mut inside = gate.inside.lock().unwrap_or_else(PoisonError::into_inner);
        while *inside >= endpoint.host.connections {
            self.cancel.check()?;
            let waited = gate.bell.wait_timeout(inside, GLANCE);
            inside = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *inside += 1;
        drop(inside);
        Ok(Permit(gate))
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Where a redirect leads, if it may.
fn next(response: &Response) -> Result<Url> {
    let from = &response.url;
    let words = || format!("cannot follow the redirect of {}", from.authority());
    let location = response.header("location");
    let location = location
        .ok_or_else(|| Error::invalid("it leads nowhere"))
        .context(words)?;
    let next = from.join(location).context(words)?;
    if from.scheme() == Scheme::Https && next.scheme() == Scheme::Http {
        let message = format!("{}: it leads from https to {next}", words());
        return Err(Error::new(ErrorKind::PermissionDenied, message));
    }
    Ok(next)
}

fn within(failure: Failure, what: &str) -> Failure {
    Failure {
        error: failure.error.context(format!("cannot {what}")),
        again: failure.again,
    }
}

#[derive(Default)]
struct Gate {
    inside: Mutex<usize>,
    bell: Condvar,
}

/// Leave to move a blob, until it is dropped.
pub(super) struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.0.inside.lock().unwrap_or_else(PoisonError::into_inner);
        *inside = inside.saturating_sub(1);
        self.0.bell.notify_one();
    }
}
