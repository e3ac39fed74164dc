//! What it means when no answer comes: in words, with a remedy, and whether to try again.

use std::io;
use std::time::Duration;

use super::super::retry::{Again, Failure};
use super::super::url::Url;
use crate::{Error, ErrorKind};

/// What a broken connection means.
pub(in super::super) fn broken(error: io::Error, url: &Url) -> Failure {
    failure_of(ureq::Error::from(error), url, Duration::ZERO)
}

pub(super) fn failure_of(error: ureq::Error, url: &Url, stall: Duration) -> Failure {
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
pub(super) fn hint_of_plain(host: &str) -> String {
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

pub(super) fn is_refused(error: &ureq::Error) -> bool {
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

/// The name by which people and settings know an authority.
pub(super) fn known_as(authority: &str) -> &str {
    match authority {
        "registry-1.docker.io" => crate::reference::DEFAULT_HOST,
        other => other,
    }
}
