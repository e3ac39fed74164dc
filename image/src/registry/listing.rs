//! What else a repository is asked: its tags, what refers to a manifest, and to delete one
//! (distribution specification, "Content Discovery" and "Content Management").

use serde::Deserialize;
use ureq::http::{Method, header};

use super::authenticate::Scopes;
use super::client::{Call, Client, Target};
use super::endpoints::Purpose;
use super::retry::tried;
use super::transport::{Body, Response};
use super::url::Url;
use crate::document::{Descriptor, Document, MAX_DOCUMENT, media};
use crate::reference::Reference;
use crate::{Context, Digest, Error, Result};

/// Most pages of a list.
const MAX_PAGES: usize = 1000;

impl Client {
    /// Deletes a manifest by its digest.
    pub fn delete_manifest(&self, reference: &Reference, digest: &Digest) -> Result<()> {
        let endpoint = self.own_endpoint(reference)?;
        let what = format!("delete {}@{digest}", reference.name());
        let path = format!("{}/manifests/{digest}", endpoint.repository);
        let call = Call::new(
            Method::DELETE,
            path,
            Scopes::delete(&endpoint.repository),
            &what,
        );
        tried(self.attempts(self.policy), || {
            let response = self.call(&endpoint, &call, || Ok(Body::None))?;
            match response.status {
                200 | 202 | 204 => Ok(()),
                _ => Err(response.failure(&what)),
            }
        })
    }

    /// The tags of a repository.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let what = format!("list the tags of {}", reference.name());
        self.first_of(reference, Purpose::Resolve, &what, |endpoint, policy| {
            let mut tags = Vec::new();
            let path = format!("{}/tags/list", endpoint.repository);
            let mut target = Some(Target::Path(path));
            for _ in 0..MAX_PAGES {
                let Some(now) = target.take() else {
                    return Ok(tags);
                };
                let mut call = Call::new(
                    Method::GET,
                    String::new(),
                    Scopes::pull(&endpoint.repository),
                    &what,
                );
                call.target = now;
                let (bytes, next) = tried(self.attempts(policy), || {
                    let response = self.call(endpoint, &call, || Ok(Body::None))?;
                    if response.status != 200 {
                        return Err(response.failure(&what));
                    }
                    let next = next_page(&response)?;
                    Ok((response.bytes(MAX_DOCUMENT as u64)?, next))
                })?;
                let page: Page = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::invalid(format!("not a list of tags: {e}")))?;
                tags.extend(page.tags.unwrap_or_default());
                target = next.map(Target::Url);
            }
            Err(Error::invalid(format!("more than {MAX_PAGES} pages")))
        })
    }

    /// What refers to a manifest: an index of signatures, attestations and the like. Registries
    /// without the referrers API keep it under a tag that is made of the digest.
    pub fn referrers(&self, reference: &Reference, digest: &Digest) -> Result<Vec<Descriptor>> {
        let what = format!("list what refers to {}@{digest}", reference.name());
        let endpoint = self.own_endpoint(reference)?;
        let scopes = || Scopes::pull(&endpoint.repository);
        let fetch = |path: String| {
            let mut call = Call::new(Method::GET, path, scopes(), &what);
            call.headers
                .push((header::ACCEPT, media::OCI_INDEX.to_owned()));
            tried(self.attempts(self.policy), || {
                let response = self.call(&endpoint, &call, || Ok(Body::None))?;
                match response.status {
                    200 => Ok(Some(response.bytes(MAX_DOCUMENT as u64)?)),
                    404 => Ok(None),
                    _ => Err(response.failure(&what)),
                }
            })
        };
        let repository = &endpoint.repository;
        let mut bytes = fetch(format!("{repository}/referrers/{digest}"))?;
        if bytes.is_none() {
            let tag = digest.to_string().replace(':', "-");
            bytes = fetch(format!("{repository}/manifests/{tag}"))?;
        }
        let Some(bytes) = bytes else {
            return Ok(Vec::new());
        };
        match Document::read(&bytes, None).context(|| format!("cannot {what}"))? {
            Document::Index(index) => Ok(index.manifests),
            Document::Manifest(_) => Err(Error::invalid(format!("cannot {what}: not an index"))),
        }
    }
}

/// The address of a list's next page (RFC 8288): `<...>; rel="next"`.
fn next_page(response: &Response) -> Result<Option<Url>> {
    let Some((target, parameters)) = response
        .header("link")
        .and_then(|link| link.trim().strip_prefix('<')?.split_once('>'))
    else {
        return Ok(None);
    };
    if !parameters.contains("next") {
        return Ok(None);
    }
    let next = response.url.join(target)?;
    if !next.same_origin(&response.url) {
        return Err(Error::invalid(format!(
            "the next page is at another host, {next}"
        )));
    }
    Ok(Some(next))
}
