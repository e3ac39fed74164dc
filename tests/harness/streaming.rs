//! A client of exec, attach and port-forward: WebSocket (RFC 6455) with the fifth version of Kubernetes'
//! channels, and as much of SPDY/3.1 as port-forward takes. Bytes on a socket: it can also stop anywhere.

use super::Env;
use super::pods::Pods;
use super::process::{self, until};
use rcrun_cri::proto::v1 as cri;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Channels of exec and attach.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// What the header blocks of SPDY begin with: a zlib stream whose dictionary has this checksum.
const DICTIONARY: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];

/// How clients speak TLS.
pub(crate) type Trust = Option<Arc<rustls::ClientConfig>>;

/// A connection, with or without TLS.
#[derive(Debug)]
enum Line {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Line {
    /// Connects; with TLS if the URL says so, and only then.
    fn to(host: &str, scheme: &str, trust: &Trust) -> Self {
        let socket = TcpStream::connect(host).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let Some(trust) = trust else {
            assert_eq!(scheme, "http");
            return Self::Plain(socket);
        };
        assert_eq!(scheme, "https");
        let (name, _) = host.rsplit_once(':').unwrap();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let client = rustls::ClientConnection::new(Arc::clone(trust), name).unwrap();
        Self::Tls(Box::new(rustls::StreamOwned::new(client, socket)))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl std::io::Read for Line {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
        }
    }
}

impl std::io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    socket: Line,
    headers: bool,
    /// What came on each channel so far.
    pub(crate) heard: BTreeMap<u8, Vec<u8>>,
}

/// How a program ended, as the client is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Error(String),
}

fn upgrade(url: &str, trust: &Trust, method: &str, fields: &[&str]) -> Line {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut socket = Line::to(host, scheme, trust);
    let fields = fields.join("\r\n");
    write!(
        socket,
        "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{fields}\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    socket
}

impl Session {
    /// By WebSocket.
    pub(crate) fn open(url: &str, trust: &Trust) -> Self {
        let fields = [
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol: v5.channel.k8s.io",
        ];
        Self::of(upgrade(url, trust, "GET", &fields))
    }

    /// By SPDY, for ports.
    pub(crate) fn forward(url: &str, trust: &Trust) -> Self {
        let fields = [
            "Upgrade: SPDY/3.1",
            "X-Stream-Protocol-Version: portforward.k8s.io",
        ];
        Self::of(upgrade(url, trust, "POST", &fields))
    }

    fn of(socket: Line) -> Self {
        Self {
            socket,
            headers: false,
            heard: BTreeMap::new(),
        }
    }

    /// Sends bytes on a channel; whether the server still takes them.
    pub(crate) fn say(&mut self, channel: u8, bytes: &[u8]) -> bool {
        let mut payload = vec![channel];
        payload.extend_from_slice(bytes);
        let mask = [7, 99, 200, 1];
        let mut frame = vec![0x82];
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
        self.socket.write_all(&frame).is_ok()
    }

    /// No more on this channel.
    pub(crate) fn close(&mut self, channel: u8) {
        self.say(CLOSE, &[channel]);
    }

    pub(crate) fn resize(&mut self, width: u16, height: u16) {
        let size = serde_json::json!({"Width": width, "Height": height});
        self.say(RESIZE, size.to_string().as_bytes());
    }

    /// A second hand on a socket without TLS, to write while another thread reads.
    pub(crate) fn writer(&self) -> Self {
        Self::of(Line::Plain(self.socket.socket().try_clone().unwrap()))
    }

    fn exact(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        match self.socket.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing came in {PATIENCE:?}: {:?}", self.heard)
            }
            Err(_) => None,
        }
    }

    /// Reads one message; the channel, or none at the end.
    #[track_caller]
    fn read(&mut self) -> Option<u8> {
        let head = self.exact(2)?;
        let number = |bytes: Vec<u8>| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let length = match head[1] {
            126 => number(self.exact(2)?),
            127 => number(self.exact(8)?),
            length => usize::from(length),
        };
        let payload = self.exact(length)?;
        match head[0] & 15 {
            8 => None,
            1 | 2 => {
                let heard = self.heard.entry(payload[0]).or_default();
                heard.extend_from_slice(&payload[1..]);
                Some(payload[0])
            }
            _ => Some(CLOSE),
        }
    }

    pub(crate) fn text(&self, channel: u8) -> String {
        let bytes = self.heard.get(&channel).cloned().unwrap_or_default();
        String::from_utf8(bytes).unwrap()
    }

    /// Reads until this text has come on a channel.
    #[track_caller]
    pub(crate) fn until(&mut self, channel: u8, text: &str) {
        while !self.text(channel).contains(text) {
            assert!(self.read().is_some(), "{:?}", self.heard);
        }
    }

    /// Reads to the end.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Ended {
        while self.read().is_some() {}
        let said: serde_json::Value = serde_json::from_str(&self.text(STATUS)).unwrap();
        if said["status"] == "Success" {
            return Ended::Code(0);
        }
        match said["details"]["causes"][0]["reason"].as_str() {
            Some("ExitCode") => {
                let code = said["details"]["causes"][0]["message"].as_str().unwrap();
                Ended::Code(code.parse().unwrap())
            }
            _ => Ended::Error(said["message"].as_str().unwrap().to_owned()),
        }
    }

    /// Reads until the server has closed the connection.
    #[track_caller]
    pub(crate) fn closed(&mut self) {
        while self.read().is_some() {}
    }

    /// Goes without a word (a reset).
    pub(crate) fn vanish(self) {
        rustix::net::sockopt::set_socket_linger(self.socket.socket(), Some(Duration::ZERO))
            .unwrap();
    }

    /// Opens the pair of streams of one connection to a port; `first` is the number of its error stream,
    /// the next odd one that of its data.
    pub(crate) fn connect(&mut self, first: u32, port: u16) {
        for (id, kind) in [(first, "error"), (first + 2, "data")] {
            let (port, request) = (port.to_string(), first.to_string());
            let pairs = [
                ("streamtype", kind),
                ("port", port.as_str()),
                ("requestid", request.as_str()),
            ];
            let mut block = 3_u32.to_be_bytes().to_vec();
            for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
                block.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                block.extend_from_slice(text.as_bytes());
            }
            let mut payload = id.to_be_bytes().to_vec();
            payload.extend_from_slice(&[0; 6]);
            if !self.headers {
                payload.extend_from_slice(&DICTIONARY);
                self.headers = true;
            }
            // One block of deflate that is not compressed.
            let length = u16::try_from(block.len()).unwrap();
            payload.push(0);
            payload.extend_from_slice(&length.to_le_bytes());
            payload.extend_from_slice(&(!length).to_le_bytes());
            payload.extend_from_slice(&block);
            let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
            let mut frame = vec![0x80, 3, 0, 1, 0, a, b, c];
            frame.extend_from_slice(&payload);
            self.socket.write_all(&frame).unwrap();
        }
    }

    /// Sends bytes on a stream, and its end.
    pub(crate) fn data(&mut self, id: u32, bytes: &[u8], end: bool) {
        let [_, a, b, c] = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let mut frame = id.to_be_bytes().to_vec();
        frame.extend_from_slice(&[u8::from(end), a, b, c]);
        frame.extend_from_slice(bytes);
        self.socket.write_all(&frame).unwrap();
    }

    /// Reads until these streams are finished; what came on each.
    #[track_caller]
    pub(crate) fn finished(&mut self, ids: &[u32]) -> BTreeMap<u32, String> {
        let mut all = BTreeMap::<u32, Vec<u8>>::new();
        let mut open = ids.to_vec();
        while !open.is_empty() {
            let head = self.exact(8).expect("the session goes on");
            let length = head[5..]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let payload = self.exact(length).expect("a whole frame");
            let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            if head[0] & 0x80 == 0 {
                all.entry(id).or_default().extend_from_slice(&payload);
                if head[4] & 1 == 1 {
                    open.retain(|other| *other != id);
                }
            }
        }
        all.into_iter()
            .map(|(id, bytes)| (id, String::from_utf8(bytes).unwrap()))
            .collect()
    }
}

/// A pod with a container that runs.
pub(crate) struct World<'a> {
    pub(crate) pods: Pods<'a>,
    pub(crate) of_pod: cri::PodSandboxConfig,
    pub(crate) pod: String,
    pub(crate) id: String,
    /// Whom clients believe; none: they speak no TLS.
    pub(crate) trust: Trust,
}

impl<'a> World<'a> {
    pub(crate) fn new(env: &'a Env) -> Self {
        Self::with(env, "exec sleep 10000", |_| {}, |_| {})
    }

    pub(crate) fn with(
        env: &'a Env,
        script: &str,
        pod: impl FnOnce(&mut cri::PodSandboxConfig),
        container: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Self {
        Self::made(Pods::new(env), script, pod, container)
    }

    /// With settings of its own.
    #[track_caller]
    pub(crate) fn of(pods: Pods<'a>) -> Self {
        Self::made(pods, "exec sleep 10000", |_| {}, |_| {})
    }

    #[track_caller]
    fn made(
        pods: Pods<'a>,
        script: &str,
        pod: impl FnOnce(&mut cri::PodSandboxConfig),
        container: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Self {
        let mut of_pod = pods.pod("one");
        pod(&mut of_pod);
        let sandbox = pods.run(&of_pod);
        let mut config = pods.container("c", script);
        container(&mut config);
        let id = pods.create(&sandbox, &config, &of_pod);
        pods.start(&id);
        Self {
            pods,
            of_pod,
            pod: sandbox,
            id,
            trust: None,
        }
    }

    pub(crate) fn request(&self, cmd: &[&str], timeout: i64) -> cri::ExecSyncRequest {
        cri::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            timeout,
        }
    }

    #[track_caller]
    pub(crate) fn sync(&self, script: &str) -> (String, String, i32) {
        let request = self.request(&["sh", "-c", script], 0);
        let mut runtime = self.pods.node.runtime().max_decoding_message_size(16 << 20);
        let answer = self.pods.node.ok(runtime.exec_sync(request));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(answer.stdout), text(answer.stderr), answer.exit_code)
    }

    #[track_caller]
    pub(crate) fn late(&self, script: &str, timeout: i64) -> String {
        let request = self.request(&["sh", "-c", script], timeout);
        let node = &self.pods.node;
        node.refused(node.runtime().exec_sync(request), Code::DeadlineExceeded)
    }

    /// A session of exec; `streams` out of `i`, `o`, `e` and `t`.
    #[track_caller]
    pub(crate) fn exec(&self, streams: &str, cmd: &[&str]) -> Session {
        let request = cri::ExecRequest {
            container_id: self.id.clone(),
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            stdin: streams.contains('i'),
            stdout: streams.contains('o'),
            stderr: streams.contains('e'),
            tty: streams.contains('t'),
        };
        let url = self
            .pods
            .node
            .ok(self.pods.node.runtime().exec(request))
            .url;
        Session::open(&url, &self.trust)
    }

    #[track_caller]
    pub(crate) fn attach(&self, streams: &str) -> Session {
        let request = cri::AttachRequest {
            container_id: self.id.clone(),
            stdin: streams.contains('i'),
            stdout: streams.contains('o'),
            stderr: streams.contains('e'),
            tty: streams.contains('t'),
        };
        let url = self
            .pods
            .node
            .ok(self.pods.node.runtime().attach(request))
            .url;
        Session::open(&url, &self.trust)
    }

    #[track_caller]
    pub(crate) fn forward(&self) -> Session {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: self.pod.clone(),
            port: Vec::new(),
        };
        let url = self
            .pods
            .node
            .ok(self.pods.node.runtime().port_forward(request))
            .url;
        Session::forward(&url, &self.trust)
    }

    /// Commands that run in any container, but for those of the container itself.
    pub(crate) fn running(&self, word: &str) -> usize {
        let all = process::all();
        all.iter()
            .filter(|(_, state, what)| *state != 'Z' && what.contains(word))
            .count()
    }

    #[track_caller]
    pub(crate) fn none_runs(&self, word: &str) {
        until(&format!("no {word} runs"), 10, || {
            (self.running(word) == 0).then_some(())
        });
    }

    #[track_caller]
    pub(crate) fn leaves_nothing(self) {
        self.no_groups();
        self.pods.remove(&self.pod);
        self.pods.assert_nothing_left();
        self.none_runs("exec --");
    }

    /// Sub-cgroups of programs are gone.
    #[track_caller]
    pub(crate) fn no_groups(&self) {
        let find = || {
            let found = std::process::Command::new("find")
                .args(["/sys/fs/cgroup", "-name", "rcrun-sync-*"])
                .output()
                .unwrap();
            let found = String::from_utf8(found.stdout).unwrap();
            let ours: Vec<_> = found
                .lines()
                .filter(|line| line.contains(&self.pods.env.tag))
                .collect();
            ours.is_empty().then_some(())
        };
        until("no sub-cgroup is left", 10, find);
    }
}

/// Processes whose parent this is, dead ones too.
pub(crate) fn children(parent: i32) -> usize {
    let parent = parent.to_string();
    let all = process::all().into_iter();
    all.filter(|(pid, ..)| process::status(*pid, "PPid") == parent)
        .count()
}

pub(crate) fn entries(pid: i32, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{what}"))
        .unwrap()
        .count()
}

/// KiB in memory.
pub(crate) fn resident(pid: i32) -> usize {
    let text = process::status(pid, "RssAnon");
    text.split_whitespace().next().unwrap().parse().unwrap()
}
