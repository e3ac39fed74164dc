//! Uploads: blobs that a registry does not have yet, and manifests (distribution specification,
//! "Push").
//!
//! A blob is sent as one PATCH and a PUT that names its digest, or in chunks where the settings or
//! the registry's OCI-Chunk-Min-Length ask for them. When the connection breaks, the registry is
//! asked how far it came and gets the rest. Small ones go in a single PUT. All of it may be tried
//! again: a blob that is there already is never sent, and a manifest put twice is one manifest.

use std::io::Read;
use std::time::Duration;

use ureq::http::{Method, header};

use super::authenticate::Scopes;
use super::client::{Call, Client, Target};
use super::endpoints::{Endpoint, host_of};
use super::retry::{Failure, tried};
use super::transport::{Body, Response};
use super::url::{Scheme, Url};
use crate::document::{Descriptor, check_size};
use crate::reference::Reference;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Blobs up to this size are sent in a single PUT.
const SMALL: u64 = 1 << 20;
/// Longest silence while a registry looks at what it was sent: it hashes and moves it.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the connection must have brought to be progress.
const PROGRESS: u64 = 64 << 10;

/// What became of a blob that was to be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Present,
    /// The registry took it from another repository of its own.
    Mounted,
    /// It was sent.
    Sent,
}

/// Opens a blob's bytes from an offset on.
pub type Source<'a> = &'a (dyn Fn(u64) -> Result<Box<dyn Read + 'a>> + Sync);

impl Client {
    /// Whether the registry has a blob.
    pub fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool> {
        let endpoint = self.own_endpoint(reference)?;
        let scopes = Scopes::pull(&endpoint.repository);
        self.has(&endpoint, digest, scopes)
            .context(|| format!("cannot look for {}@{digest}", reference.name()))
    }

    fn has(&self, endpoint: &Endpoint, digest: &Digest, scopes: Scopes) -> Result<bool> {
        let what = format!("look for {digest}");
        let path = format!("{}/blobs/{digest}", endpoint.repository);
        let call = Call::new(Method::HEAD, path, scopes, &what);
        tried(self.attempts(self.policy), || {
            let response = self.call(endpoint, &call, || Ok(Body::None))?;
            match response.status {
                200 => Ok(true),
                404 => Ok(false),
                _ => Err(response.failure(&what)),
            }
        })
    }

    /// Makes the registry have a blob. `other` is a repository of the same registry that has it.
    pub fn push_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        other: Option<&str>,
        source: Source<'_>,
    ) -> Result<Pushed> {
        let endpoint = self.own_endpoint(reference)?;
        let what = format!("push {}@{}", reference.name(), blob.digest);
        let push = || -> Result<Pushed> {
            let _permit = self.enter(&endpoint)?;
            let scopes = Scopes::push(&endpoint.repository);
            if self.has(&endpoint, &blob.digest, scopes.clone())? {
                return Ok(Pushed::Present);
            }
            let mut upload = Upload {
                client: self,
                endpoint: &endpoint,
                blob,
                source,
                scopes,
                location: None,
                sent: 0,
                chunk: endpoint.host.upload_chunk,
                what: &what,
            };
            if let Some(other) = other.filter(|other| *other != endpoint.repository)
                && upload.begin(Some(other))?
            {
                return Ok(Pushed::Mounted);
            }
            upload.run()?;
            Ok(Pushed::Sent)
        };
        push().context(|| format!("cannot {what}"))
    }

    /// Puts a manifest or an index, under the reference's digest or tag.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest> {
        let what = format!("push {reference}");
        check_size(bytes.len()).context(|| format!("cannot {what}"))?;
        let digest = match reference.digest() {
            Some(wanted) => {
                let own = wanted.algorithm().digest(bytes);
                if own != *wanted {
                    return Err(Error::invalid(format!(
                        "cannot {what}: its digest is {own}"
                    )));
                }
                own
            }
            None => Digest::of(bytes),
        };
        let endpoint = self.own_endpoint(reference)?;
        let scopes = Scopes::push(&endpoint.repository);
        let path = format!(
            "{}/manifests/{}",
            endpoint.repository,
            reference.manifest_name()
        );
        let mut call = Call::new(Method::PUT, path, scopes, &what);
        call.headers
            .push((header::CONTENT_TYPE, media_type.to_owned()));
        call.patience = Some(PATIENCE);
        tried(self.attempts(self.policy), || {
            let response = self.call(&endpoint, &call, || Ok(Body::Bytes(bytes)))?;
            if !matches!(response.status, 200..=202) {
                return Err(response.failure(&what));
            }
            match response
                .header("docker-content-digest")
                .map(str::parse::<Digest>)
            {
                Some(Ok(said)) if said.algorithm() == digest.algorithm() && said != digest => {
                    let host = &endpoint.authority;
                    let message =
                        format!("cannot {what}: {host} stored {said} instead of {digest}");
                    Err(Error::new(ErrorKind::Corrupt, message).into())
                }
                _ => Ok(()),
            }
        })?;
        Ok(digest)
    }
}

/// A blob on its way.
struct Upload<'a, 's> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    blob: &'a Descriptor,
    source: Source<'s>,
    scopes: Scopes,
    /// Where the next request of this upload goes.
    location: Option<Url>,
    /// How much the registry has.
    sent: u64,
    chunk: Option<u64>,
    what: &'a str,
}

impl<'s> Upload<'_, 's> {
    fn call(&self, method: Method, target: Target) -> Call<'_> {
        let mut call = Call::new(method, String::new(), self.scopes.clone(), self.what);
        call.target = target;
        call.patience = Some(PATIENCE);
        call
    }

    /// Begins an upload, and says whether the blob was mounted instead.
    fn begin(&mut self, mount: Option<&str>) -> Result<bool> {
        let mut attempts = self.client.attempts(self.client.policy);
        loop {
            match self.try_begin(mount) {
                Ok(mounted) => return Ok(mounted),
                Err(failure) => attempts.wait(failure)?,
            }
        }
    }

    fn try_begin(&mut self, mount: Option<&str>) -> Result<bool, Failure> {
        let mut path = format!("{}/blobs/uploads/", self.endpoint.repository);
        let mut call = self.call(Method::POST, Target::Path(path.clone()));
        if let Some(other) = mount {
            let digest = super::url::escape(&self.blob.digest.to_string());
            path.push_str(&format!(
                "?mount={digest}&from={}",
                super::url::escape(other)
            ));
            call.target = Target::Path(path);
            call.scopes = self.scopes.clone().and_pull(other);
        }
        let response = self
            .client
            .call(self.endpoint, &call, || Ok(Body::Bytes(&[])))?;
        match response.status {
            201 if mount.is_some() => Ok(true),
            202 => {
                self.sent = 0;
                if let Some(least) = response.number("oci-chunk-min-length") {
                    let wished = self.chunk.unwrap_or(least.max(SMALL));
                    self.chunk = Some(wished.max(least));
                }
                self.follow(&response)?;
                Ok(false)
            }
            _ => Err(response.failure("begin the upload")),
        }
    }

    /// Where the registry wants the next request.
    fn follow(&mut self, response: &Response) -> Result<()> {
        let Some(location) = response.header("location") else {
            let host = response.url.authority();
            return Err(Error::invalid(format!(
                "{host} does not say where to upload to"
            )));
        };
        let next = response.url.join(location).context(|| "wrong Location")?;
        let downgrade = (response.url.scheme(), next.scheme()) == (Scheme::Https, Scheme::Http);
        if downgrade && host_of(response.url.authority()) == host_of(next.authority()) {
            // A registry behind a proxy that ends TLS does not know that it is reached by https.
            self.location = Some(next.at(&response.url));
            return Ok(());
        }
        if downgrade {
            let message = format!("refuse to upload to {next}: it leads from https to http");
            return Err(Error::new(ErrorKind::PermissionDenied, message));
        }
        self.location = Some(next);
        Ok(())
    }

    /// Sends what the registry does not have, again and again, until it has all.
    fn run(&mut self) -> Result<()> {
        let mut attempts = self.client.attempts(self.client.policy);
        let mut best = 0;
        loop {
            match self.step() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(failure) => {
                    attempts.wait(failure)?;
                    if self.recover()? {
                        return Ok(());
                    }
                }
            }
            // An upload that only ever begins anew comes to an end.
            if self.sent >= best + PROGRESS {
                best = self.sent;
                attempts.progressed();
            }
        }
    }

    /// One request of the upload. `true`: it was the last.
    fn step(&mut self) -> Result<bool, Failure> {
        let Some(location) = self.location.clone() else {
            return self.try_begin(None).map(|_| false);
        };
        let left = self.blob.size - self.sent;
        let single =
            self.sent == 0 && left <= SMALL && self.chunk.is_none_or(|chunk| left <= chunk);
        if left == 0 || single {
            return self.finish(&location, left);
        }
        let length = self.chunk.map_or(left, |chunk| chunk.min(left));
        let end = self.sent + length;
        let mut call = self.call(Method::PATCH, Target::Url(location));
        let kind = "application/octet-stream".to_owned();
        call.headers.push((header::CONTENT_TYPE, kind));
        call.headers
            .push((header::CONTENT_RANGE, format!("{}-{}", self.sent, end - 1)));
        let response = self
            .client
            .call(self.endpoint, &call, || self.body(length))?;
        if !matches!(response.status, 202 | 201 | 204) {
            return Err(self.refused(response));
        }
        self.follow(&response)?;
        // A registry may have taken less than it was given.
        self.sent = received(&response).unwrap_or(end).min(end);
        if self.sent == 1 && end > 1 {
            self.location = None;
        }
        Ok(false)
    }

    fn finish(&mut self, location: &Url, length: u64) -> Result<bool, Failure> {
        let target = location.with_query("digest", &self.blob.digest.to_string());
        let mut call = self.call(Method::PUT, Target::Url(target));
        let kind = "application/octet-stream".to_owned();
        call.headers.push((header::CONTENT_TYPE, kind));
        let response = self
            .client
            .call(self.endpoint, &call, || self.body(length))?;
        match response.status {
            200..=204 => Ok(true),
            _ => Err(self.refused(response)),
        }
    }

    /// An upload that the registry lost or disagrees about begins anew.
    fn refused(&mut self, response: Response) -> Failure {
        let status = response.status;
        let failure = response.failure("upload");
        match status {
            404 | 416 => Failure::passing(failure.error),
            _ => failure,
        }
    }

    fn body(&self, length: u64) -> Result<Body<'s>> {
        match length {
            0 => Ok(Body::Bytes(&[])),
            length => {
                let reader = (self.source)(self.sent).context(|| "cannot read the blob")?;
                Ok(Body::Stream(reader, length))
            }
        }
    }

    /// Asks how far the registry came. `true`: it has the blob.
    fn recover(&mut self) -> Result<bool> {
        // The answer to the last request may be all that was lost.
        if self
            .client
            .has(self.endpoint, &self.blob.digest, self.scopes.clone())?
        {
            return Ok(true);
        }
        let Some(location) = self.location.clone() else {
            return Ok(false);
        };
        let call = self.call(Method::GET, Target::Url(location));
        let answer = tried(self.client.attempts(self.client.policy), || {
            let response = self.client.call(self.endpoint, &call, || Ok(Body::None))?;
            match response.status {
                200..=299 => Ok(Some(response)),
                // Any other clear answer means that this upload is no more.
                400..=499 if !matches!(response.status, 401 | 403 | 408 | 429) => Ok(None),
                _ => Err(response.failure("ask how far the upload came")),
            }
        })?;
        match answer {
            Some(response) => match received(&response) {
                Some(sent) if sent > 1 => {
                    self.sent = sent.min(self.blob.size);
                    if response.header("location").is_some() {
                        self.follow(&response)?;
                    }
                }
                _ => self.location = None,
            },
            None => self.location = None,
        }
        Ok(false)
    }
}

/// How many bytes the registry has, by `Range: 0-LAST`. There is no way to say "none" but `0-0`,
/// which is also one byte: the callers treat 1 as not known and begin anew.
fn received(response: &Response) -> Option<u64> {
    let range = response.header("range")?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    (first.trim() == "0").then(|| last.saturating_add(1))
}
