//! A registry on loopback that misbehaves as it is told, for tests only.
//!
//! Plain threads and sockets. It keeps blobs and manifests in memory, takes pushes, asks for
//! credentials, remembers every request with the bytes that it answered, and applies [`Fault`]s to
//! requests that match. Nothing of it is in a shipped binary.

mod http;
mod routes;
mod tls;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use http::{Answer, Head};
use http::{Stream, read_body, read_head};
pub use tls::Authority;

use crate::Digest;
use crate::reference::Reference;

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This instead of the answer.
    Answer(Answer),
    /// The connection is reset after so many bytes of the body.
    Reset(u64),
    /// The connection ends after so many bytes of the body.
    End(u64),
    /// After so many bytes of the body nothing comes any more, and the connection stays.
    Stall(u64),
    /// So many bytes of the body at a time, with a pause after each.
    Slow(usize, Duration),
    /// The body goes on for so many bytes; the head promises it (`true`) or is chunked.
    Long(usize, bool),
    /// One bit of the body is another.
    Flip,
    /// Range is ignored.
    NoRange,
    /// Content-Range (and the bytes) begin one byte later.
    WrongRange,
    /// One more header.
    Header(&'static str, String),
    /// Chunked, without a length, and this header.
    Chunked(&'static str, &'static str),
    /// Only so many bytes of the request's body are read (and kept), then the connection is reset.
    Cut(u64),
    /// The answer comes so late.
    Late(Duration),
    /// All is done, and the connection is reset before the answer.
    Silent,
}

/// Whom it lets in.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// This user.
    Basic(&'static str, &'static str),
    /// Who has a token of its own `/token`, given to this user or to everybody.
    Token {
        /// Who gets one.
        user: Option<(&'static str, &'static str)>,
        /// The identity token that is also good for one.
        identity: Option<&'static str>,
        /// What is said about its life, as JSON members.
        life: &'static str,
        /// Another realm than its own.
        realm: Option<String>,
    },
}

/// How it is set up.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// With TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whom it lets in.
    pub access: Access,
    /// On `::1` only.
    pub ipv6: bool,
    /// What it says as OCI-Chunk-Min-Length.
    pub chunk: Option<u64>,
}

/// A request that came, and what it got.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its head.
    pub head: Head,
    /// The answer's status.
    pub status: u16,
    /// Bytes of the answer's body that were written.
    pub sent: u64,
    /// Bytes of the request's body.
    pub received: u64,
    /// The number of its connection.
    pub connection: usize,
}

pub(super) type Key = (String, String);

#[derive(Default)]
struct State {
    blobs: HashMap<String, Arc<Vec<u8>>>,
    /// Which repository has which blob.
    owned: HashSet<Key>,
    manifests: BTreeMap<Key, (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    tokens: HashMap<String, String>,
    faults: Vec<(String, String, usize, Fault)>,
    seen: Vec<Seen>,
}

struct Shared {
    setup: Setup,
    address: SocketAddr,
    state: Mutex<State>,
    stop: AtomicBool,
    numbers: AtomicU64,
    open: AtomicUsize,
    most_open: AtomicUsize,
    /// For the end; a connection ends when its copy here is gone, too.
    sockets: Mutex<HashMap<usize, TcpStream>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<usize, TcpStream>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::SeqCst)
    }
}

/// The registry. It ends when it is dropped.
pub struct Registry {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.shared.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for socket in self.shared.sockets().values() {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        let _ = TcpStream::connect(self.shared.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Registry {
    /// An open one without TLS.
    pub fn open() -> Self {
        Self::start(Setup::default())
    }

    /// One as set up.
    #[allow(clippy::unwrap_used)]
    pub fn start(setup: Setup) -> Self {
        let listener = match setup.ipv6 {
            true => TcpListener::bind("[::1]:0").unwrap(),
            false => TcpListener::bind("127.0.0.1:0").unwrap(),
        };
        let shared = Arc::new(Shared {
            setup,
            address: listener.local_addr().unwrap(),
            state: Mutex::default(),
            stop: AtomicBool::new(false),
            numbers: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            sockets: Mutex::default(),
        });
        let all = shared.clone();
        let thread = std::thread::spawn(move || {
            for (number, socket) in listener.incoming().enumerate() {
                if all.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(socket) = socket else { continue };
                if let Ok(copy) = socket.try_clone() {
                    all.sockets().insert(number, copy);
                }
                let shared = all.clone();
                std::thread::spawn(move || {
                    let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
                    shared.most_open.fetch_max(open, Ordering::SeqCst);
                    serve(&shared, socket, number);
                    shared.sockets().remove(&number);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let thread = Some(thread);
        Self { shared, thread }
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// A reference to something in it.
    #[allow(clippy::unwrap_used)]
    pub fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host()).parse().unwrap()
    }

    /// Keeps a blob in a repository.
    pub fn add_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.shared.state();
        state
            .blobs
            .insert(digest.to_string(), Arc::new(bytes.to_vec()));
        state.owned.insert((repository.into(), digest.to_string()));
        digest
    }

    /// Keeps a manifest under a tag and its digest.
    pub fn add_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.shared.state();
        for name in [tag.to_owned(), digest.to_string()] {
            let kept = (kind.to_owned(), bytes.to_vec());
            state.manifests.insert((repository.into(), name), kept);
        }
        digest
    }

    /// A blob's bytes, if the repository has it.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Arc<Vec<u8>>> {
        let state = self.shared.state();
        let owned = state
            .owned
            .contains(&(repository.into(), digest.to_string()));
        owned
            .then(|| state.blobs.get(&digest.to_string()).cloned())
            .flatten()
    }

    /// A manifest's bytes.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let state = self.shared.state();
        let kept = state
            .manifests
            .get(&(repository.to_owned(), name.to_owned()));
        kept.map(|(_, bytes)| bytes.clone())
    }

    /// Lets the next so many requests of a method (or `*`) whose target contains `part` go wrong.
    pub fn fault(&self, method: &str, part: &str, times: usize, fault: Fault) {
        let mut state = self.shared.state();
        state
            .faults
            .push((method.into(), part.into(), times, fault));
    }

    /// All tokens are good for nothing from now on.
    pub fn forget_tokens(&self) {
        self.shared.state().tokens.clear();
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// The requests of a method (or `*`) whose target contains this.
    pub fn seen_of(&self, method: &str, part: &str) -> Vec<Seen> {
        let matching = |seen: &Seen| {
            (method == "*" || seen.head.method == method) && seen.head.target.contains(part)
        };
        self.seen().into_iter().filter(matching).collect()
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.shared.address.port()
    }

    /// The largest number of connections that were open at the same time.
    pub fn most_connections(&self) -> usize {
        self.shared.most_open.load(Ordering::SeqCst)
    }
}

/// How long a stalled connection is kept at most.
const STALL: Duration = Duration::from_secs(120);
/// So that a reset loses little of what was written before it.
const SMALL_BUFFER: usize = 8 << 10;

fn serve(shared: &Shared, socket: TcpStream, connection: usize) {
    let _ = socket.set_nodelay(true);
    let Ok(stream) = Stream::new(socket, shared.setup.tls.clone()) else {
        return;
    };
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader) {
        let fault = take_fault(shared, &head);
        let limit = match fault {
            Some(Fault::Cut(limit)) => limit,
            _ => u64::MAX,
        };
        let (body, whole) = read_body(&mut reader, &head, limit);
        let received = body.len() as u64;
        let mut answer = match &fault {
            Some(Fault::Answer(answer)) => answer.clone(),
            _ => routes::answer(shared, &head, body, whole, fault.as_ref()),
        };
        if let Some(Fault::Header(name, value)) = &fault {
            answer = answer.with(name, value);
        }
        if let Some(Fault::Late(time)) = fault {
            std::thread::sleep(time);
        }
        let status = answer.status;
        let index = {
            let mut state = shared.state();
            state.seen.push(Seen {
                head: head.clone(),
                status,
                sent: 0,
                received,
                connection,
            });
            state.seen.len() - 1
        };
        if matches!(fault, Some(Fault::Cut(_) | Fault::Silent)) {
            return reader.into_inner().reset();
        }
        let mut count = |sent: u64| shared.state().seen[index].sent += sent;
        match send(reader.get_mut(), &head, &answer, fault.as_ref(), &mut count) {
            Ok(Ending::Keep) => {}
            Ok(Ending::Reset) => return reader.into_inner().reset(),
            Ok(Ending::Close) | Err(_) => return,
        }
    }
}

fn take_fault(shared: &Shared, head: &Head) -> Option<Fault> {
    let mut state = shared.state();
    let found = state.faults.iter_mut().find(|(method, part, times, _)| {
        *times > 0
            && (method == "*" || *method == head.method)
            && head.target.contains(part.as_str())
    })?;
    found.2 -= 1;
    Some(found.3.clone())
}

enum Ending {
    Keep,
    Reset,
    Close,
}

fn send(
    stream: &mut Stream,
    head: &Head,
    answer: &Answer,
    fault: Option<&Fault>,
    count: &mut impl FnMut(u64),
) -> std::io::Result<Ending> {
    let mut body = answer.body[answer.range.clone()].to_vec();
    let length = body.len() as u64;
    if head.method == "HEAD" {
        stream.write_all(answer.head(Some(length)).as_bytes())?;
        stream.flush()?;
        return Ok(Ending::Keep);
    }
    let mut promised = Some(length);
    let (mut piece, mut pause, mut end, mut ending) =
        (64 << 10, Duration::ZERO, length, Ending::Keep);
    let mut answer = answer.clone();
    match fault {
        Some(Fault::Reset(at)) => {
            rustix::net::sockopt::set_socket_send_buffer_size(stream.socket(), SMALL_BUFFER)?;
            (end, ending) = ((*at).min(length), Ending::Reset);
        }
        Some(Fault::End(at)) => (end, ending) = ((*at).min(length), Ending::Close),
        Some(Fault::Stall(at)) => (end, ending) = ((*at).min(length), Ending::Close),
        Some(Fault::Slow(bytes, time)) => (piece, pause) = (*bytes, *time),
        Some(Fault::Long(more, say)) => {
            body.extend(std::iter::repeat_n(b'x', *more));
            end = body.len() as u64;
            promised = say.then_some(end);
        }
        Some(Fault::Flip) => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        Some(Fault::Chunked(name, value)) => {
            answer = answer.with(name, value);
            promised = None;
        }
        _ => {}
    }
    stream.write_all(answer.head(promised).as_bytes())?;
    for bytes in body[..end as usize].chunks(piece.max(1)) {
        if promised.is_none() {
            write!(stream, "{:x}\r\n", bytes.len())?;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            // As much as the kernel takes: that is what has been sent should the client vanish now.
            let taken = match stream.write(rest) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
                taken => taken?,
            };
            count(taken as u64);
            rest = &rest[taken..];
        }
        if promised.is_none() {
            stream.write_all(b"\r\n")?;
        }
        stream.flush()?;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    if promised.is_none() {
        stream.write_all(b"0\r\n\r\n")?;
    }
    stream.flush()?;
    match fault {
        Some(Fault::Reset(_)) => std::thread::sleep(Duration::from_millis(20)),
        Some(Fault::Stall(_)) => {
            // Until the client goes away.
            stream.socket().set_read_timeout(Some(STALL))?;
            let _ = std::io::Read::read(&mut stream.socket(), &mut [0]);
        }
        _ => {}
    }
    Ok(ending)
}
