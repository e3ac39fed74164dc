//! Single files from web servers, for builds: the same transport as for registries, without any
//! credential.

use std::io::Read;

use ureq::http::{HeaderName, Method};

use super::client::Options;
use super::retry::{Attempts, Policy};
use super::transport::{Body, Request, Transport};
use super::url::Url;
use crate::{Error, Result};

/// Redirects that are followed, as many as Go's client follows.
const REDIRECTS: usize = 10;

/// Fetches files.
pub struct Web {
    transport: Transport,
    policy: Policy,
    cancel: super::retry::Cancel,
    notice: super::retry::Notice,
}

/// What a server answered: a success, or that nothing has changed. The body is still to come.
pub struct Answer {
    /// 200 to 299, or 304.
    pub status: u16,
    /// Where it came from in the end.
    pub url: Url,
    response: super::transport::Response,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Answer");
        shown.field("status", &self.status).field("url", &self.url);
        shown.finish_non_exhaustive()
    }
}

impl Web {
    /// As registries are reached.
    pub fn new(options: Options) -> Self {
        let (policy, cancel) = (options.policy, options.cancel.clone());
        let notice = options.notice;
        let transport = Transport::new(
            options.settings,
            options.proxies,
            options.resolver,
            options.cancel,
        );
        Self {
            transport,
            policy,
            cancel,
            notice,
        }
    }

    /// Asks for a file. Redirects are followed, but never from https to http; another server is not told
    /// who asks.
    pub fn get(&self, url: &Url, headers: &[(HeaderName, String)]) -> Result<Answer> {
        let mut attempts = Attempts::new(self.policy, &self.cancel, &self.notice);
        let mut url = url.clone();
        let mut redirects = 0;
        let mut headers = headers.to_vec();
        loop {
            let request = Request {
                method: Method::GET,
                url: &url,
                headers: headers.clone(),
                body: Body::None,
                patience: None,
            };
            let response = match self.transport.send(request) {
                Ok(response) => response,
                Err(failure) => {
                    attempts.wait(failure)?;
                    continue;
                }
            };
            match response.status {
                200..=299 | 304 => {
                    return Ok(Answer {
                        status: response.status,
                        url,
                        response,
                    });
                }
                301 | 302 | 303 | 307 | 308 => {
                    redirects += 1;
                    if redirects > REDIRECTS {
                        let message = format!("refuse more than {REDIRECTS} redirects from {url}");
                        return Err(Error::invalid(message));
                    }
                    let place = response.header("location").unwrap_or_default();
                    let next = url.join(place)?;
                    if url.scheme() == super::url::Scheme::Https && next.scheme() != url.scheme() {
                        let message =
                            format!("refuse a redirect from {url} to {next}: not encrypted");
                        return Err(Error::invalid(message));
                    }
                    if !next.same_origin(&url) {
                        headers.retain(|(name, _)| name != "authorization");
                    }
                    url = next;
                }
                _ => attempts.wait(response.failure(&format!("fetch {}", url.bare())))?,
            }
        }
    }
}

impl Answer {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.header(name)
    }

    /// The body.
    pub fn into_reader(self) -> impl Read {
        self.response.body.into_reader()
    }
}

pub use ureq::http::HeaderName as Header;
