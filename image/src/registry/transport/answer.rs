//! An answer: its status, headers and body, and what it means when it is not a success.

use std::io::Read;
use std::time::SystemTime;

use ureq::http::{self, HeaderMap};

use super::super::retry::{Again, Failure, retry_after};
use super::super::url::Url;
use super::failure::{broken, known_as};
use crate::{Error, ErrorKind, Result};

const MAX_ERROR_BODY: u64 = 64 << 10;

/// An answer. Its body is still to come.
pub(in super::super) struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: ureq::Body,
    pub url: Url,
    /// Whether it comes from this machine.
    pub near: bool,
}

impl Response {
    /// A header's text.
    pub(in super::super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header's number.
    pub(in super::super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// The whole body, if it has at most `limit` bytes.
    pub(in super::super) fn bytes(self, limit: u64) -> Result<Vec<u8>, Failure> {
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
    pub(in super::super) fn failure(self, what: &str) -> Failure {
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
