//! Whom TLS trusts, and what it shows: certificates and keys from files.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};

use super::super::settings::Host;
use super::Transport;
use crate::{Context, Error, Result};

const MAX_CERTIFICATES: u64 = 16 << 20;

/// Where distributions keep the certificates to trust.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Transport {
    pub(super) fn tls(&self, host: &Host) -> Result<TlsConfig> {
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

pub(super) fn system_roots() -> Result<Vec<Certificate<'static>>> {
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
