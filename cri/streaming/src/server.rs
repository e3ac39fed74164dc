//! The server: a listener, the table of one-time URLs, and a task for each connection.
//!
//! Anybody on the machine can connect. Connections without a token are few, have a deadline for their request, and give
//! way to newer ones: those who say nothing cannot keep out a kubelet, which shows its token at once. A connection serves
//! one request: its token is used up by it, whether or not the upgrade succeeds. With TLS the handshake is part of the
//! request's time.

use crate::backend::Backend;
use crate::http::{self, Refused, Upgrade};
use crate::limits;
use crate::request::Request;
use crate::settings::Settings;
use crate::socket::{self, Socket};
use crate::spdy::serve as spdy;
use crate::tls::{self, Keeper, Tls};
use crate::token::Tokens;
use crate::websocket::serve as websocket;
use bytes::BytesMut;
use rcrun_error::{Error, ErrorKind, Result};
use rustix::net::sockopt;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout, timeout_at};

/// Serves exec, attach and port-forward on one-time URLs.
#[derive(Debug)]
pub struct Server<B> {
    listener: TcpListener,
    shared: Arc<Shared<B>>,
}

/// Makes URLs.
#[derive(Debug)]
pub struct Urls<B>(Arc<Shared<B>>);

#[derive(Debug)]
struct Shared<B> {
    backend: Arc<B>,
    settings: Settings,
    address: SocketAddr,
    keeper: Option<Arc<Keeper>>,
    tokens: Mutex<Tokens>,
    strangers: Mutex<BTreeMap<u64, AbortHandle>>,
    sessions: Semaphore,
}

impl<B> Clone for Urls<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Shared<B> {
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strangers(&self) -> MutexGuard<'_, BTreeMap<u64, AbortHandle>> {
        self.strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Urls<B> {
    /// A URL at which this request can be made, once and within a minute.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the request has no meaning, `Exhausted` if too many URLs wait.
    pub fn issue(&self, request: Request) -> Result<String> {
        request.validate()?;
        let verb = request.verb();
        let token = self.0.tokens().issue(request, Instant::now())?;
        let port = self.0.address.port();
        let scheme = match self.0.keeper {
            Some(_) => "https",
            None => "http",
        };
        Ok(match &self.0.settings.host {
            Some(host) => format!("{scheme}://{host}:{port}/{verb}/{token}"),
            None => format!("{scheme}://{}/{verb}/{token}", self.0.address),
        })
    }
}

impl<B: Backend> Server<B> {
    /// Listens.
    ///
    /// # Errors
    ///
    /// If the address is taken or not this machine's, or if it is every address and nothing says which one a kubelet
    /// reaches; if certificate and key cannot be used.
    pub async fn bind(settings: Settings, backend: B) -> Result<Self> {
        let address = settings.address;
        if address.ip().is_unspecified() && settings.host.is_none() {
            return Err(Error::invalid(format!(
                "cannot make URLs for every address ({address}): name the host that a kubelet reaches"
            )));
        }
        let keep = |tls: &Tls| {
            let host = tls::host(settings.host.as_deref(), address)?;
            Keeper::new(tls.clone(), host).map(Arc::new)
        };
        let keeper = settings.tls.as_ref().map(keep).transpose()?;
        let failed = |error: std::io::Error| {
            Error::new(
                ErrorKind::Unavailable,
                format!("cannot listen at {address}: {error}"),
            )
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Shared {
            backend: Arc::new(backend),
            settings,
            address,
            keeper,
            tokens: Mutex::default(),
            strangers: Mutex::default(),
            sessions: Semaphore::new(limits::SESSIONS),
        };
        let shared = Arc::new(shared);
        Ok(Self { listener, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Makes URLs of this server.
    pub fn urls(&self) -> Urls<B> {
        Urls(Arc::clone(&self.shared))
    }

    /// Serves until it is dropped; sessions go on without it.
    pub async fn serve(self) {
        for number in 0.. {
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    let mut strangers = self.shared.strangers();
                    if strangers.len() >= limits::STRANGERS
                        && let Some((_, oldest)) = strangers.pop_first()
                    {
                        oldest.abort();
                    }
                    let shared = Arc::clone(&self.shared);
                    let task =
                        tokio::spawn(async move { connection(&shared, number, socket).await });
                    strangers.insert(number, task.abort_handle());
                }
                Err(error) => {
                    // Descriptors ran out, or a client left before it was accepted.
                    tracing::warn!(%error, "cannot accept a streaming client");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Serves one connection.
async fn connection<B: Backend>(shared: &Arc<Shared<B>>, number: u64, socket: TcpStream) {
    prepare(&socket);
    let mut bytes = BytesMut::new();
    let Some((socket, head)) = request(socket, shared.keeper.as_ref(), &mut bytes).await else {
        shared.strangers().remove(&number);
        return;
    };
    let found = head.and_then(|head| {
        let request = shared
            .tokens()
            .take(&head.verb, &head.token, Instant::now());
        let unknown = Refused {
            status: 404,
            why: "there is no such page",
        };
        request.map(|request| (head, request)).ok_or(unknown)
    });
    let permit = shared.sessions.try_acquire();
    match (found, permit) {
        (Ok((head, request)), Ok(_permit)) => {
            shared.strangers().remove(&number);
            upgrade(shared, socket, bytes, head, request).await;
        }
        (Ok(_), Err(_)) => {
            let refused = Refused {
                status: 503,
                why: "too many sessions run",
            };
            answer(socket, &http::error(&refused, "")).await;
        }
        (Err(refused), _) => answer(socket, &http::error(&refused, "")).await,
    }
    // It may still be among them, if it was refused.
    shared.strangers().remove(&number);
}

/// Shakes hands and reads the head of the request, within its time; `None` if there is nobody to be answered.
async fn request(
    socket: TcpStream,
    keeper: Option<&Arc<Keeper>>,
    bytes: &mut BytesMut,
) -> Option<(Socket, std::result::Result<http::Head, Refused>)> {
    let end = Instant::now() + limits::HEAD_TIME;
    let mut socket = match timeout_at(end.into(), socket::secure(socket, keeper)).await {
        Ok(Some(Ok(socket))) => socket,
        Ok(Some(Err((socket, refused)))) => return Some((socket, Err(refused))),
        // Who has not finished the handshake cannot be told anything.
        Ok(None) | Err(_) => return None,
    };
    let head = match timeout_at(end.into(), read_head(&mut socket, bytes)).await {
        Ok(Ok(None)) => return None,
        Ok(Ok(Some(head))) => Ok(head),
        Ok(Err(refused)) => Err(refused),
        Err(_) => Err(Refused {
            status: 408,
            why: "the request took too long",
        }),
    };
    Some((socket, head))
}

/// Keystrokes do not wait for each other, and clients that lost their power are noticed.
fn prepare(socket: &TcpStream) {
    const IDLE: Duration = Duration::from_secs(60);
    const EACH: Duration = Duration::from_secs(15);
    // A socket that does not want this is served nevertheless.
    let _ = socket.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, IDLE);
    let _ = sockopt::set_tcp_keepintvl(socket, EACH);
    let _ = sockopt::set_tcp_keepcnt(socket, 4);
}

/// Reads the head of a request; `None` if the client leaves. What comes behind it stays in `bytes`.
async fn read_head(
    socket: &mut Socket,
    bytes: &mut BytesMut,
) -> std::result::Result<Option<http::Head>, Refused> {
    loop {
        bytes.reserve(1 << 10);
        match socket.read_buf(bytes).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
        if let Some((head, length)) = http::parse(bytes)? {
            let _ = bytes.split_to(length);
            return Ok(Some(head));
        }
    }
}

/// Says the last words of a connection.
async fn answer(mut socket: Socket, text: &str) {
    let said = async {
        socket.write_all(text.as_bytes()).await?;
        socket.shutdown().await?;
        // The client reads it only if its own bytes are not left unread.
        let mut rest = [0; 1 << 10];
        while socket.read(&mut rest).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whether or not the client cares.
    let _ = timeout(Duration::from_secs(2), said).await;
}

async fn upgrade<B: Backend>(
    shared: &Arc<Shared<B>>,
    socket: Socket,
    already: BytesMut,
    head: http::Head,
    request: Request,
) {
    let Shared {
        backend, settings, ..
    } = &**shared;
    if head.upgrade == Upgrade::WebSocket {
        match websocket::negotiate(&head.protocols, &request) {
            Ok(protocol) => {
                let switch = websocket::switch(&head.key, protocol);
                if let Some(ends) = socket.switch(&switch).await {
                    websocket::serve(backend, request, protocol, ends, already, settings).await;
                }
            }
            Err(refused) => answer(socket, &http::error(&refused, "")).await,
        }
        return;
    }
    let known = spdy::names(&request);
    let Some(name) = spdy::negotiate(&head.protocols, &known) else {
        let why = "none of the client's protocols is served here";
        let mut fields = String::new();
        for name in known {
            fields += &format!("X-Accepted-Stream-Protocol-Versions: {name}\r\n");
        }
        return answer(socket, &http::error(&Refused { status: 403, why }, &fields)).await;
    };
    let switch = http::switch(
        "SPDY/3.1",
        &format!("X-Stream-Protocol-Version: {name}\r\n"),
    );
    if let Some(ends) = socket.switch(&switch).await {
        spdy::serve(backend, request, name, ends, already, settings).await;
    }
}
