//! Connections with and without TLS, and an authority that lives as long as the test program.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rcrun_streaming::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let issuer = Issuer::new(parameters, key);
        Self { issuer, roots }
    }

    /// The one that clients of this program believe.
    pub(crate) fn one() -> &'static Self {
        &AUTHORITY
    }

    /// Certificate and key for a host, PEM.
    pub(crate) fn pair(&self, host: &str) -> (String, String) {
        let parameters = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// How clients speak: one version, or any.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = match versions {
            [] => rustls::DEFAULT_VERSIONS,
            some => some,
        };
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth()
    }
}

/// Certificate and key in a directory.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn of(host: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let (certificate, key) = Authority::one().pair(host);
        files.put("tls.crt", &certificate, 0o644);
        files.put("tls.key", &key, 0o600);
        files
    }

    /// Puts a file there as a whole, as a kubelet does.
    pub(crate) fn put(&self, name: &str, text: &str, mode: u32) {
        let new = self.0.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(mode)).unwrap();
        std::fs::rename(new, self.0.path().join(name)).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn tls(&self) -> Tls {
        Tls {
            certificate: self.path().join("tls.crt"),
            key: self.path().join("tls.key"),
        }
    }
}

/// A connection of a client.
pub(crate) enum Connection {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Connects, with TLS if the test program is of TLS.
    pub(crate) async fn to(host: &str) -> Self {
        let socket = TcpStream::connect(host).await.unwrap();
        socket.set_nodelay(true).unwrap();
        if !crate::SECURE {
            return Self::Plain(socket);
        }
        static CLIENT: LazyLock<Arc<ClientConfig>> =
            LazyLock::new(|| Arc::new(Authority::one().client(&[])));
        let (name, _) = host.rsplit_once(':').unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::clone(&CLIENT));
        let stream = connector.connect(name, socket).await.unwrap();
        Self::Secure(Box::new(stream))
    }

    /// Goes with a reset when it is dropped.
    pub(crate) fn set_zero_linger(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.set_zero_linger(),
            Self::Secure(stream) => stream.get_ref().0.set_zero_linger(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
