//! Downloads: what a tag means, documents by digest, and blobs in as many parts as it takes.
//!
//! A blob goes to a [`Sink`]: whoever keeps blobs says which ranges are missing, takes bytes at an
//! offset and verifies the whole. A transfer that breaks goes on at the first missing byte, from the
//! same or the next endpoint, in this or another process. `If-Range` is not needed: what a digest
//! names never changes.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use ureq::http::{Method, header};

use super::authenticate::Scopes;
use super::client::{Call, Client};
use super::endpoints::{Endpoint, Purpose};
use super::parts::{Job, Stopped};
use super::retry::{Policy, tried};
use super::transport::{Body, Response};
use crate::document::{Descriptor, Document, MAX_DOCUMENT, MAX_INDEX_DEPTH, check_size, media};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// A document that was fetched and verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What they mean.
    pub document: Document,
    /// The endpoint that it came from.
    pub source: String,
}

impl Fetched {
    /// How a document or a name refers to it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.document.media_type().to_owned(),
            digest: self.digest.clone(),
            size: self.bytes.len() as u64,
            urls: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// Where a blob goes. All may be called from several threads.
pub struct Sink<'a> {
    /// The ranges that are not there yet, ascending.
    pub missing: &'a (dyn Fn() -> Result<Vec<Range<u64>>> + Sync),
    /// Takes bytes at an offset, always within a missing range.
    pub write: &'a (dyn Fn(u64, &[u8]) -> Result<()> + Sync),
    /// Verifies the whole. [`ErrorKind::Corrupt`] means that the bytes are not the blob.
    pub verify: &'a (dyn Fn() -> Result<()> + Sync),
    /// Forgets all bytes, to begin anew elsewhere.
    pub discard: &'a (dyn Fn() -> Result<()> + Sync),
}

impl std::fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Client {
    /// What a reference means now: its index or manifest, verified against the reference's digest
    /// or the one that the registry names.
    pub fn resolve(&self, reference: &Reference) -> Result<Fetched> {
        let purpose = match reference.digest() {
            Some(_) => Purpose::Pull,
            None => Purpose::Resolve,
        };
        let what = format!("resolve {reference}");
        self.first_of(reference, purpose, &what, |endpoint, policy| {
            self.manifest(
                endpoint,
                policy,
                &reference.manifest_name(),
                reference.digest(),
                None,
            )
        })
    }

    /// The digest that a reference stands for now, without fetching anything. `None`: the registry
    /// does not say, and [`Client::resolve`] does.
    pub fn digest(&self, reference: &Reference) -> Result<Option<Digest>> {
        if let Some(digest) = reference.digest() {
            return Ok(Some(digest.clone()));
        }
        let what = format!("resolve {reference}");
        self.first_of(reference, Purpose::Resolve, &what, |endpoint, policy| {
            let name = reference.manifest_name();
            tried(self.attempts(policy), || {
                let call = manifest_call(Method::HEAD, endpoint, &name, &what);
                let response = self.call(endpoint, &call, || Ok(Body::None))?;
                match response.status {
                    200 => Ok(said_digest(&response)?),
                    _ => Err(response.failure("find it")),
                }
            })
        })
    }

    /// A document that another one names.
    pub fn document(&self, reference: &Reference, wanted: &Descriptor) -> Result<Fetched> {
        let what = format!("fetch {}@{}", reference.name(), wanted.digest);
        check_size(usize::try_from(wanted.size).unwrap_or(usize::MAX))
            .context(|| format!("cannot {what}"))?;
        let name = wanted.digest.to_string();
        self.first_of(reference, Purpose::Pull, &what, |endpoint, policy| {
            let digest = Some(&wanted.digest);
            let fetched =
                self.manifest(endpoint, policy, &name, digest, Some(&wanted.media_type))?;
            check_length(fetched.bytes.len() as u64, wanted)?;
            Ok(fetched)
        })
    }

    /// The manifest for a platform: a reference's own, or the one its index (or an index in it)
    /// names. What was read on the way comes first.
    pub fn image(&self, reference: &Reference, platform: &Platform) -> Result<Vec<Fetched>> {
        let mut way = vec![self.resolve(reference)?];
        while let Some(Document::Index(index)) = way.last().map(|last| &last.document) {
            if way.len() > MAX_INDEX_DEPTH {
                return Err(Error::invalid(format!(
                    "cannot resolve {reference}: more than {MAX_INDEX_DEPTH} indexes inside one another"
                )));
            }
            let chosen = index
                .select(platform)
                .context(|| format!("cannot use {reference}"))?;
            let fetched = self.document(reference, chosen)?;
            way.push(fetched);
        }
        if let Some(Document::Manifest(manifest)) = way.last().map(|last| &last.document) {
            manifest
                .check_image()
                .context(|| format!("cannot use {reference}"))?;
        }
        Ok(way)
    }

    fn manifest(
        &self,
        endpoint: &Endpoint,
        policy: Policy,
        name: &str,
        wanted: Option<&Digest>,
        media_type: Option<&str>,
    ) -> Result<Fetched> {
        tried(self.attempts(policy), || {
            let what = format!("fetch the manifest {name} of {}", endpoint.repository);
            let call = manifest_call(Method::GET, endpoint, name, &what);
            let response = self.call(endpoint, &call, || Ok(Body::None))?;
            if response.status != 200 {
                return Err(response.failure(&what));
            }
            let said = said_digest(&response)?;
            let announced = response.header("content-type").map(str::to_owned);
            let bytes = response.bytes(MAX_DOCUMENT as u64)?;
            let wanted = wanted.or(said.as_ref());
            let digest = match wanted {
                Some(wanted) => verified(&bytes, wanted, &endpoint.authority)?,
                None => Digest::of(&bytes),
            };
            let document = Document::read(&bytes, media_type.or(announced.as_deref()))
                .and_then(|_| Document::read(&bytes, announced.as_deref()))
                .context(|| format!("{digest} from {}", endpoint.authority))?;
            let source = endpoint.authority.clone();
            Ok(Fetched {
                digest,
                bytes,
                document,
                source,
            })
        })
    }

    /// A small blob, such as a configuration, as a whole.
    pub fn small_blob(&self, reference: &Reference, wanted: &Descriptor) -> Result<Vec<u8>> {
        let what = format!("fetch {}@{}", reference.name(), wanted.digest);
        check_size(usize::try_from(wanted.size).unwrap_or(usize::MAX))
            .context(|| format!("cannot {what}"))?;
        self.first_of(reference, Purpose::Pull, &what, |endpoint, policy| {
            tried(self.attempts(policy), || {
                let call = blob_call(endpoint, &wanted.digest, &what);
                let response = self.call(endpoint, &call, || Ok(Body::None))?;
                if response.status != 200 {
                    return Err(response.failure(&what));
                }
                let bytes = response.bytes(wanted.size)?;
                check_length(bytes.len() as u64, wanted)?;
                verified(&bytes, &wanted.digest, &endpoint.authority)?;
                Ok(bytes)
            })
        })
    }

    /// Brings a blob's missing bytes to a sink, and lets it verify them. Bytes that turn out wrong
    /// are discarded, and the next endpoint is asked.
    pub fn blob(&self, reference: &Reference, wanted: &Descriptor, sink: &Sink<'_>) -> Result<()> {
        let what = format!("fetch {}@{}", reference.name(), wanted.digest);
        // What the sink says is about this machine: nobody else can help.
        let own = Mutex::new(None);
        let result = self.first_of(reference, Purpose::Pull, &what, |endpoint, policy| {
            if let Some(error) = take(&own) {
                return Err(error);
            }
            let job = Job::new(self, endpoint, wanted, sink, policy, &what);
            match job.run() {
                Ok(()) => {}
                Err(Stopped::Sink(e)) => {
                    *own.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    return Err(Error::new(ErrorKind::Internal, "the store failed"));
                }
                Err(Stopped::Endpoint(e)) => return Err(e),
            }
            (sink.verify)()
                .or_else(|e| {
                    if e.kind() == ErrorKind::Corrupt {
                        (sink.discard)()?;
                    }
                    Err(e)
                })
                .context(|| format!("from {}", endpoint.authority))
        });
        match take(&own) {
            Some(error) => Err(error.context(format!("cannot {what}"))),
            None => result,
        }
    }
}

fn take(own: &Mutex<Option<Error>>) -> Option<Error> {
    own.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn manifest_call<'a>(method: Method, endpoint: &Endpoint, name: &str, what: &'a str) -> Call<'a> {
    let path = format!("{}/manifests/{name}", endpoint.repository);
    let mut call = Call::new(method, path, Scopes::pull(&endpoint.repository), what);
    call.headers
        .push((header::ACCEPT, media::MANIFESTS.join(", ")));
    call
}

pub(super) fn blob_call<'a>(endpoint: &Endpoint, digest: &Digest, what: &'a str) -> Call<'a> {
    let path = format!("{}/blobs/{digest}", endpoint.repository);
    Call::new(Method::GET, path, Scopes::pull(&endpoint.repository), what)
}

fn said_digest(response: &Response) -> Result<Option<Digest>> {
    let said = response.header("docker-content-digest");
    let host = response.url.authority();
    said.map(str::parse)
        .transpose()
        .context(|| format!("{host} sends a wrong Docker-Content-Digest"))
}

fn verified(bytes: &[u8], wanted: &Digest, host: &str) -> Result<Digest> {
    let digest = wanted.algorithm().digest(bytes);
    if &digest != wanted {
        let message = format!("{host} sent {digest} instead of {wanted}");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(digest)
}

fn check_length(length: u64, wanted: &Descriptor) -> Result<()> {
    if length != wanted.size {
        let size = wanted.size;
        let message = format!("{} has {length} bytes, and not {size}", wanted.digest);
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(())
}
