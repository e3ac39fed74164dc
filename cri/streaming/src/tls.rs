//! TLS of the server: a certificate and its key from two files, read again when those change.
//!
//! It owns what of them is believed and when they are read; [`crate::socket`] has the connections. The kubelet verifies
//! the host of an `https` URL with the node's own authorities (`UpgradeAwareHandler` without a transport, its
//! `DialURL`), and its rotation replaces a file or a link as a whole. So a pair is refused at the start where that could
//! not work: a key that is not the certificate's, that others may read (as ssh refuses it), or a certificate for another
//! host. No certificate is made here, as containerd does: no kubelet would believe it.
//!
//! Later, a pair that cannot be used is said once and the one before it stays: half of a rotation is no reason to stop.

use crate::limits;
use rcrun_error::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The bits of a mode with which others than the owner could read or change a key.
const OTHERS: u32 = 0o077;

/// The files of a certificate. Both may be one and the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// The key of the certificate, PEM; nobody else may read it.
    pub key: PathBuf,
}

/// Which file a path led to, and in which state: its owner's data, in other words.
type Stamp = Option<[i64; 7]>;

/// What new connections are served with.
#[derive(Debug)]
pub(crate) struct Keeper {
    tls: Tls,
    host: ServerName<'static>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ServerConfig>,
    seen: [Stamp; 2],
    looked: Instant,
}

/// The host of the URLs, as certificates have it.
pub(crate) fn host(name: Option<&str>, address: SocketAddr) -> Result<ServerName<'static>> {
    match name {
        None => Ok(ServerName::from(address.ip())),
        Some(name) => DnsName::try_from(name.to_owned())
            .map(ServerName::DnsName)
            .map_err(|_| {
                Error::invalid(format!("cannot make URLs for {name:?}: not a host's name"))
            }),
    }
}

impl Keeper {
    /// Reads both files.
    pub(crate) fn new(tls: Tls, host: ServerName<'static>) -> Result<Self> {
        let seen = tls.stamps();
        let config = Arc::new(tls.load(&host)?);
        let looked = Instant::now();
        let state = State {
            config,
            seen,
            looked,
        };
        let state = Mutex::new(state);
        Ok(Self { tls, host, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a connection of this moment is served with. Who comes while another one looks is served as before.
    pub(crate) async fn current(self: &Arc<Self>) -> Arc<ServerConfig> {
        let due = {
            let mut state = self.state();
            let due = state.looked.elapsed() >= limits::CERTIFICATE_LOOK;
            if due {
                state.looked = Instant::now();
            }
            due
        };
        if due {
            let keeper = Arc::clone(self);
            // It only fails if the server ends.
            let _ = tokio::task::spawn_blocking(move || keeper.look()).await;
        }
        Arc::clone(&self.state().config)
    }

    /// Reads both files if one has changed. What was seen is noted before, so that a change meanwhile counts later.
    fn look(&self) {
        let seen = self.tls.stamps();
        if self.state().seen == seen {
            return;
        }
        let loaded = self.tls.load(&self.host);
        let mut state = self.state();
        state.seen = seen;
        match loaded {
            Ok(config) => {
                tracing::info!(certificate = %self.tls.certificate.display(), "the streaming server has a new certificate");
                state.config = Arc::new(config);
            }
            Err(error) => tracing::error!(
                error = %error.chain(),
                hint = error.hint(),
                "the streaming server keeps the certificate that it has"
            ),
        }
    }
}

impl Tls {
    /// Whether a server at this address, or by this name, could use the files as they are.
    ///
    /// # Errors
    ///
    /// If it could not: which file, why, and what to do.
    pub fn check(&self, name: Option<&str>, address: SocketAddr) -> Result<()> {
        self.load(&host(name, address)?).map(drop)
    }

    fn stamps(&self) -> [Stamp; 2] {
        [&self.certificate, &self.key].map(|path| {
            let found = std::fs::metadata(path).ok()?;
            Some([
                found.dev().cast_signed(),
                found.ino().cast_signed(),
                found.size().cast_signed(),
                found.mtime(),
                found.mtime_nsec(),
                found.ctime(),
                found.ctime_nsec(),
            ])
        })
    }

    fn load(&self, host: &ServerName<'_>) -> Result<ServerConfig> {
        let (certificate, _) = read(&self.certificate)?;
        let chain = chain(&certificate, &self.certificate)?;
        covers(&chain[0], host, &self.certificate)?;
        let (text, file) = read(&self.key)?;
        private(&file, &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
            refused(&self.key, "there is no key in it that can be read")
                .with_hint("write it as PEM, without a password")
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let failed = |error: rustls::Error| {
            let words = "it is not the key of the certificate, or of a kind that TLS does not have";
            refused(&self.key, &format!("{words} ({error})")).with_hint(format!(
                "give it together with {}",
                self.certificate.display()
            ))
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(failed)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A URL is good once: nobody comes back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn refused(path: &Path, why: &str) -> Error {
    Error::invalid(format!("cannot use {} for TLS: {why}", path.display()))
}

/// Reads a file: links are followed, as rotation has them, and nothing but a file is waited for.
fn read(path: &Path) -> Result<(Vec<u8>, File)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::InvalidInput,
        };
        let text = format!("cannot read {} for TLS: {error}", path.display());
        Error::new(kind, text)
    };
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let file = File::from(file);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(refused(path, "it is not a file"));
    }
    let mut bytes = Vec::new();
    let most = limits::CERTIFICATE as u64;
    (&file)
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(refused(path, "it is longer than a chain of certificates"));
    }
    Ok((bytes, file))
}

/// Refuses a key that others than us, and root, may read or change.
fn private(file: &File, path: &Path) -> Result<()> {
    let found = file
        .metadata()
        .map_err(|error| refused(path, &error.to_string()))?;
    let us = rustix::process::geteuid().as_raw();
    let remedy = format!("chown {us} {path}; chmod 600 {path}", path = path.display());
    if found.uid() != us && found.uid() != 0 {
        let why = format!("it belongs to user {}", found.uid());
        return Err(refused(path, &why).with_hint(remedy));
    }
    match found.mode() & OTHERS {
        0 => Ok(()),
        _ => {
            let why = format!(
                "others have rights to this key (mode {:04o})",
                found.mode() & 0o7777
            );
            Err(refused(path, &why).with_hint(remedy))
        }
    }
}

fn chain(text: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text)
        .take(limits::CERTIFICATES + 1)
        .collect::<Result<_, _>>()
        .map_err(|error| refused(path, &format!("it is not PEM ({error})")))?;
    match chain.len() {
        0 => Err(refused(path, "there is no certificate in it").with_hint("write it as PEM")),
        1..=limits::CERTIFICATES => Ok(chain),
        _ => Err(refused(path, "it has more certificates than a chain")),
    }
}

/// Whether clients that ask for this host believe that they found it.
fn covers(certificate: &CertificateDer<'_>, host: &ServerName<'_>, path: &Path) -> Result<()> {
    let parsed = ParsedCertificate::try_from(certificate)
        .map_err(|error| refused(path, &format!("its first certificate is none ({error})")))?;
    verify_server_name(&parsed, host).map_err(|_| {
        let host = host.to_str();
        refused(path, &format!("its first certificate is not for {host}")).with_hint(format!(
            "add {host} to its subjectAltName, or let URLs name a host that it is for"
        ))
    })
}
