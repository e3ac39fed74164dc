//! Clients that do what no library lets one do: bytes on a socket.

pub(crate) mod secure;

use super::echo::{Echo, Seen, request};
use flate2::{Compress, Compression, FlushCompress};
use rcrun_streaming::{Server, Settings, Urls};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use secure::Connection;

/// Protocols that most tests speak.
pub(crate) const V4: &str = "v4.channel.k8s.io";
pub(crate) const FORWARD: &str = "portforward.k8s.io";

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs, and what its back end has seen. It is one with TLS if the test program is of TLS (`SECURE`).
pub(crate) struct World {
    pub(crate) urls: Urls<Echo>,
    pub(crate) seen: Arc<Seen>,
    _files: Option<secure::Files>,
}

impl World {
    pub(crate) async fn new(mut settings: Settings) -> Self {
        let files = (crate::SECURE && settings.tls.is_none())
            .then(|| secure::Files::of(settings.host.as_deref().unwrap_or("127.0.0.1")));
        if let Some(files) = &files {
            settings.tls = Some(files.tls());
        }
        let echo = Echo::default();
        let seen = Arc::clone(&echo.0);
        let server = Server::bind(settings, echo).await.unwrap();
        let urls = server.urls();
        tokio::spawn(server.serve());
        Self {
            urls,
            seen,
            _files: files,
        }
    }

    /// Host and path of a new URL.
    pub(crate) fn url(&self, line: &str) -> (String, String) {
        let url = self.urls.issue(request(line).unwrap()).unwrap();
        let rest = url
            .strip_prefix(if crate::SECURE { "https://" } else { "http://" })
            .unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        (host.to_owned(), format!("/{path}"))
    }

    /// Waits until nothing runs.
    pub(crate) async fn quiet(&self) {
        let quiet = async {
            while self.seen.running.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, quiet).await.expect("everything ends");
    }
}

/// A socket.
pub(crate) struct Client {
    pub(crate) socket: Connection,
    /// Made when it is needed: it is larger than all else.
    zlib: Option<Compress>,
}

/// A frame of SPDY as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Data(u32, bool, Vec<u8>),
    Control(u16, Vec<u8>),
    End,
}

fn dictionary() -> Vec<u8> {
    rcrun_streaming::spdy::headers::preset().to_vec()
}

pub(crate) fn block(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut block = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        block.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        block.extend_from_slice(text.as_bytes());
    }
    block
}

impl Client {
    pub(crate) async fn connect(host: &str) -> Self {
        let socket = Connection::to(host).await;
        Self { socket, zlib: None }
    }

    /// Sends a request and reads the head of the answer.
    pub(crate) async fn ask(&mut self, first: &str, fields: &[&str]) -> String {
        let text = format!(
            "{first} HTTP/1.1\r\nHost: elsewhere\r\n{}\r\n\r\n",
            fields.join("\r\n")
        );
        self.send(text.as_bytes()).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let read = timeout(PATIENCE, self.socket.read_u8())
                .await
                .expect("an answer");
            let Ok(byte) = read else { break };
            answer.push(byte);
        }
        String::from_utf8(answer).unwrap()
    }

    /// Begins a session of SPDY.
    pub(crate) async fn spdy(world: &World, line: &str, protocol: &str) -> Self {
        let (host, path) = world.url(line);
        let mut client = Self::connect(&host).await;
        let version = format!("X-Stream-Protocol-Version: {protocol}");
        let fields = ["Connection: Upgrade", "Upgrade: SPDY/3.1", version.as_str()];
        let answer = client.ask(&format!("POST {path}"), &fields).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains(&version), "{answer}");
        client
    }

    /// Begins a WebSocket.
    pub(crate) async fn web_socket(world: &World, line: &str, protocol: &str) -> Self {
        let (host, path) = world.url(line);
        let mut client = Self::connect(&host).await;
        let protocol = format!("Sec-WebSocket-Protocol: {protocol}");
        let fields = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            protocol.as_str(),
        ];
        let answer = client.ask(&format!("GET {path}"), &fields).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        client
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The server may have closed already: what matters is what it says.
        let sent = async {
            self.socket.write_all(bytes).await?;
            self.socket.flush().await
        };
        let _ = timeout(PATIENCE, sent).await.expect("it is read");
    }

    pub(crate) fn compressed(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + 1000);
        let zlib = self.zlib.get_or_insert_with(|| {
            let mut zlib = Compress::new(Compression::best(), true);
            zlib.set_dictionary(&dictionary()).unwrap();
            zlib
        });
        zlib.compress_vec(plain, &mut out, FlushCompress::Sync)
            .unwrap();
        out
    }

    /// Opens a stream.
    pub(crate) async fn open(&mut self, id: u32, pairs: &[(&str, &str)]) {
        let headers = self.compressed(&block(pairs));
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 6]);
        payload.extend_from_slice(&headers);
        self.control(1, &payload).await;
    }

    /// Opens streams 1, 3, ... of these types.
    pub(crate) async fn open_all(&mut self, kinds: &[&str]) {
        for (id, kind) in (1..).step_by(2).zip(kinds) {
            self.open(id, &[("streamtype", kind)]).await;
        }
    }

    pub(crate) async fn control(&mut self, kind: u8, payload: &[u8]) {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![0x80, 3, 0, kind, 0, a, b, c];
        frame.extend_from_slice(payload);
        self.send(&frame).await;
    }

    pub(crate) async fn data(&mut self, id: u32, fin: bool, bytes: &[u8]) {
        let mut frame = rcrun_streaming::spdy::frame::data_head(id, fin, bytes.len()).to_vec();
        frame.extend_from_slice(bytes);
        self.send(&frame).await;
    }

    async fn exact(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = timeout(PATIENCE, self.socket.read_exact(&mut bytes)).await;
        read.expect("something comes").ok().map(|_| bytes)
    }

    /// The next frame of SPDY.
    pub(crate) async fn frame(&mut self) -> Frame {
        let Some(head) = self.exact(8).await else {
            return Frame::End;
        };
        let length = head[5..]
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let payload = self.exact(length).await.expect("a whole frame");
        if head[0] & 0x80 == 0 {
            let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            return Frame::Data(id, head[4] & 1 == 1, payload);
        }
        Frame::Control(u16::from_be_bytes([head[2], head[3]]), payload)
    }

    /// Reads until a control frame of a type comes: its payload.
    pub(crate) async fn until(&mut self, kind: u16) -> Vec<u8> {
        loop {
            match self.frame().await {
                Frame::Control(found, payload) if found == kind => return payload,
                Frame::End => panic!("the session ended before a frame of type {kind}"),
                _ => {}
            }
        }
    }

    /// Reads to the end: the bytes of each stream, and which of them were finished.
    pub(crate) async fn rest(&mut self) -> std::collections::BTreeMap<u32, (Vec<u8>, bool)> {
        let mut all = std::collections::BTreeMap::<u32, (Vec<u8>, bool)>::new();
        loop {
            match self.frame().await {
                Frame::Data(id, fin, bytes) => {
                    let stream = all.entry(id).or_default();
                    assert!(!stream.1, "nothing comes behind the end of a stream");
                    stream.0.extend_from_slice(&bytes);
                    stream.1 = fin;
                }
                Frame::Control(..) => {}
                Frame::End => return all,
            }
        }
    }

    /// Sends a masked frame of WebSocket with this first byte.
    pub(crate) async fn web_frame(&mut self, first: u8, payload: &[u8]) {
        let mask = [7, 99, 200, 1];
        let mut frame = vec![first];
        match u16::try_from(payload.len()) {
            Ok(length @ 0..126) => frame.push(0x80 | u8::try_from(length).unwrap()),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        self.send(&frame).await;
    }

    /// The next frame of WebSocket: first byte and payload.
    pub(crate) async fn web_read(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.exact(2).await?;
        let length = match head[1] {
            126 => self
                .exact(2)
                .await?
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            127 => self
                .exact(8)
                .await?
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            length => usize::from(length),
        };
        Some((head[0], self.exact(length).await?))
    }

    /// Reads to the close frame: the bytes of each channel, and the status.
    pub(crate) async fn web_rest(&mut self) -> (std::collections::BTreeMap<u8, Vec<u8>>, u16) {
        let mut all = std::collections::BTreeMap::<u8, Vec<u8>>::new();
        while let Some((first, payload)) = self.web_read().await {
            match first & 15 {
                8 => return (all, u16::from_be_bytes([payload[0], payload[1]])),
                1 | 2 => all
                    .entry(payload[0])
                    .or_default()
                    .extend_from_slice(&payload[1..]),
                _ => {}
            }
        }
        panic!("the connection ended without a close frame");
    }
}
