//! A plugin of the tests' own: frames, calls and registration written anew, so that they are a second opinion on
//! what the crate does; and a runtime that remembers what it was asked.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test program uses some of it"
)]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use rcrun_nri::proto::ttrpc;
use rcrun_nri::proto::v1alpha1::*;
use rcrun_nri::{Answer, Nri, Runtime, Settings, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longer than anything takes here.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;
pub const UNKNOWN: i32 = 2;
pub const UNIMPLEMENTED: i32 = 12;

/// What a plugin does with a request.
pub enum Reply {
    Answer(Vec<u8>),
    Refuse(i32, &'static str),
    /// Bytes instead of an answer; they get the number of the stream.
    Raw(Box<dyn FnOnce(u32) -> Vec<u8> + Send>),
    Silence,
    Die,
}

pub fn answer(message: &impl Message) -> Reply {
    Reply::Answer(message.encode_to_vec())
}

pub fn nothing() -> Reply {
    Reply::Answer(Vec::new())
}

pub fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = connection.to_be_bytes().to_vec();
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend(payload);
    out
}

pub fn message(connection: u32, stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    out.extend(stream.to_be_bytes());
    out.extend([kind, 0]);
    out.extend(body);
    // As a peer in Go cuts it.
    let (first, rest) = out.split_at(out.len().min(4096));
    let mut frames = frame(connection, first);
    if !rest.is_empty() {
        frames.extend(frame(connection, rest));
    }
    frames
}

pub fn response(stream: u32, payload: Vec<u8>) -> Vec<u8> {
    let body = ttrpc::Response {
        status: None,
        payload,
    };
    message(1, stream, RESPONSE, &body.encode_to_vec())
}

pub fn request(stream: u32, service: &str, method: &str, payload: Vec<u8>) -> Vec<u8> {
    let body = ttrpc::Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        timeout_nano: 0,
        metadata: Vec::new(),
    };
    message(2, stream, REQUEST, &body.encode_to_vec())
}

/// One connection, by messages.
pub struct Wire {
    pub stream: UnixStream,
    bytes: VecDeque<u8>,
    /// What arrived on each connection and is no message yet.
    halves: [Vec<u8>; 2],
    next: u32,
}

impl Wire {
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            bytes: VecDeque::new(),
            halves: [Vec::new(), Vec::new()],
            next: 1,
        }
    }

    pub async fn connect(path: &Path) -> Self {
        Self::new(UnixStream::connect(path).await.unwrap())
    }

    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next message: connection, stream, kind, body. `None`: the connection ended.
    pub async fn receive(&mut self) -> Option<(u32, u32, u8, Vec<u8>)> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            let mut buffer = vec![0; 64 << 10];
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.bytes.extend(&buffer[..read]),
            }
        }
    }

    fn take(&mut self) -> Option<(u32, u32, u8, Vec<u8>)> {
        loop {
            for (connection, half) in (1..).zip(&mut self.halves) {
                let Some(head) = half.get(..10) else { continue };
                let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
                let (length, stream, kind) = (number(0) as usize, number(4), head[8]);
                if half.len() >= 10 + length {
                    let rest = half.split_off(10 + length);
                    let body = std::mem::replace(half, rest).split_off(10);
                    return Some((connection, stream, kind, body));
                }
            }
            self.bytes.make_contiguous();
            let (bytes, _) = self.bytes.as_slices();
            let head = bytes.get(..8)?;
            let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            let (connection, length) = (number(0), number(4) as usize);
            assert!(
                connection == 1 || connection == 2,
                "connection {connection}"
            );
            let payload = bytes.get(8..8 + length)?.to_vec();
            self.bytes.drain(..8 + length);
            self.halves[connection as usize - 1].extend(payload);
        }
    }

    /// Calls us; whatever comes in between is lost.
    pub async fn call(
        &mut self,
        method: &str,
        payload: &impl Message,
    ) -> Result<Vec<u8>, ttrpc::Status> {
        let stream = self.next;
        self.next += 2;
        let service = "nri.pkg.api.v1alpha1.Runtime";
        self.send(&request(stream, service, method, payload.encode_to_vec()))
            .await;
        loop {
            let (connection, number, kind, body) = self.receive().await.expect("an answer");
            if connection == 2 {
                assert_eq!((number, kind), (stream, RESPONSE));
                return unpack(&body);
            }
        }
    }
}

pub fn unpack(body: &[u8]) -> Result<Vec<u8>, ttrpc::Status> {
    let response = ttrpc::Response::decode(body).unwrap();
    match response.status {
        Some(status) if status.code != 0 => Err(status),
        _ => Ok(response.payload),
    }
}

/// A plugin that has registered and serves.
pub struct Plugin {
    /// Requests as they come: method and payload.
    pub heard: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    /// Calls of the plugin's own.
    calls: mpsc::UnboundedSender<Call>,
    pub task: tokio::task::JoinHandle<()>,
}

impl Plugin {
    /// Registers and serves, by the handler what is no `Configure`; returns once it was synchronized.
    pub async fn join(
        path: &Path,
        index: &str,
        name: &str,
        events: &[Event],
        handler: impl FnMut(&str, &[u8]) -> Reply + Send + 'static,
    ) -> Self {
        let mut plugin = Self::begin(path, index, name, events, handler).await;
        plugin.hear("Synchronize").await;
        plugin
    }

    /// The same without waiting.
    pub async fn begin(
        path: &Path,
        index: &str,
        name: &str,
        events: &[Event],
        handler: impl FnMut(&str, &[u8]) -> Reply + Send + 'static,
    ) -> Self {
        let mut wire = Wire::connect(path).await;
        register(&mut wire, index, name).await;
        Self::serve(wire, events, handler)
    }

    /// Serves a connection on which it has registered.
    pub fn serve(
        wire: Wire,
        events: &[Event],
        handler: impl FnMut(&str, &[u8]) -> Reply + Send + 'static,
    ) -> Self {
        let events = events.iter().map(|event| 1 << (*event as i32 - 1)).sum();
        let (tell, heard) = mpsc::unbounded_channel();
        let (calls, called) = mpsc::unbounded_channel();
        let task = tokio::spawn(serve(wire, events, Box::new(handler), tell, called));
        Self { heard, calls, task }
    }

    /// Waits for a request; those before it are dropped.
    pub async fn hear(&mut self, wanted: &str) -> Vec<u8> {
        loop {
            let next = timeout(PATIENCE, self.heard.recv()).await;
            let (method, payload) = next.expect(wanted).expect(wanted);
            if method == wanted {
                return payload;
            }
        }
    }

    /// All that was heard until now.
    pub fn all(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok((method, _)) = self.heard.try_recv() {
            all.push(method);
        }
        all
    }

    /// Calls us.
    pub async fn call(
        &self,
        method: &str,
        payload: &impl Message,
    ) -> Result<Vec<u8>, ttrpc::Status> {
        let (tell, mut told) = mpsc::unbounded_channel();
        let _ = self
            .calls
            .send((method.to_owned(), payload.encode_to_vec(), tell));
        let answer = timeout(PATIENCE, told.recv()).await;
        answer.expect("an answer in time").expect("an answer")
    }

    /// Waits until it has noticed the end of its connection.
    pub async fn end(self) {
        timeout(PATIENCE, self.task)
            .await
            .expect("the end")
            .unwrap();
    }
}

pub async fn register(wire: &mut Wire, index: &str, name: &str) {
    let request = RegisterPluginRequest {
        plugin_name: name.to_owned(),
        plugin_idx: index.to_owned(),
        nri_version: "v0.12.0".to_owned(),
    };
    // The answer may come after our request to configure, which `serve` must see: it is left to that.
    let service = "nri.pkg.api.v1alpha1.Runtime";
    let bytes = request.encode_to_vec();
    wire.send(&self::request(1, service, "RegisterPlugin", bytes))
        .await;
    wire.next = 3;
}

/// What answers a method and its payload.
type Handler = Box<dyn FnMut(&str, &[u8]) -> Reply + Send>;
/// A call of the plugin's own, and where its answer goes.
type Call = (String, Vec<u8>, mpsc::UnboundedSender<Outcome>);
type Outcome = Result<Vec<u8>, ttrpc::Status>;

async fn serve(
    mut wire: Wire,
    events: i32,
    mut handler: Handler,
    tell: mpsc::UnboundedSender<(String, Vec<u8>)>,
    mut calls: mpsc::UnboundedReceiver<Call>,
) {
    let mut waiting = std::collections::BTreeMap::new();
    loop {
        let (connection, stream, kind, body) = tokio::select! {
            message = wire.receive() => match message {
                Some(message) => message,
                None => return,
            },
            Some((method, payload, tell)) = calls.recv() => {
                let stream = wire.next;
                wire.next += 2;
                waiting.insert(stream, tell);
                let service = "nri.pkg.api.v1alpha1.Runtime";
                wire.send(&request(stream, service, &method, payload)).await;
                continue;
            }
        };
        if connection == 2 {
            assert_eq!(kind, RESPONSE);
            if let Some(tell) = waiting.remove(&stream) {
                let _ = tell.send(unpack(&body));
            }
            continue;
        }
        assert_eq!(kind, REQUEST);
        let request = ttrpc::Request::decode(&body[..]).unwrap();
        assert_eq!(request.service, "nri.pkg.api.v1alpha1.Plugin");
        assert!(request.timeout_nano > 0);
        let reply = match request.method.as_str() {
            "Configure" => answer(&ConfigureResponse { events }),
            method => handler(method, &request.payload),
        };
        let _ = tell.send((request.method, request.payload));
        let bytes = match reply {
            Reply::Answer(payload) => response(stream, payload),
            Reply::Refuse(code, words) => {
                let body = ttrpc::Response {
                    status: Some(ttrpc::Status {
                        code,
                        message: words.to_owned(),
                    }),
                    payload: Vec::new(),
                };
                message(1, stream, RESPONSE, &body.encode_to_vec())
            }
            Reply::Raw(bytes) => bytes(stream),
            Reply::Silence => continue,
            Reply::Die => return,
        };
        wire.send(&bytes).await;
    }
}

/// A runtime that remembers.
#[derive(Default)]
pub struct Memory {
    pub state: Mutex<State>,
    pub updates: Mutex<Vec<ContainerUpdate>>,
    /// Containers whose updates fail.
    pub failing: Mutex<Vec<String>>,
    /// How long an update takes.
    pub delay: Mutex<Duration>,
}

impl Runtime for Memory {
    fn synchronize(&self) -> Answer<'_, rcrun_error::Result<State>> {
        Box::pin(async { Ok(self.state.lock().unwrap().clone()) })
    }

    fn update(&self, updates: Vec<ContainerUpdate>) -> Answer<'_, Vec<ContainerUpdate>> {
        Box::pin(async {
            let delay = *self.delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            let failing = self.failing.lock().unwrap().clone();
            let fails = |update: &ContainerUpdate| failing.contains(&update.container_id);
            let (failed, done) = updates.into_iter().partition(fails);
            let mut updates = self.updates.lock().unwrap();
            updates.extend::<Vec<_>>(done);
            failed
        })
    }
}

/// The interface at a socket of its own.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub socket: PathBuf,
    pub memory: Arc<Memory>,
    pub nri: Nri,
}

impl Lab {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("nri.sock");
        let mut settings = Settings {
            plugins: dir.path().join("plugins"),
            configurations: dir.path().join("conf.d"),
            // A machine that is busy is no plugin that is slow.
            registration_time: PATIENCE,
            request_time: PATIENCE,
            ..Settings::default()
        };
        change(&mut settings);
        let memory = Arc::new(Memory::default());
        let runtime: Arc<dyn Runtime> = Arc::<Memory>::clone(&memory);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let nri = Nri::start(settings, runtime, Some(listener)).await.unwrap();
        Self {
            dir,
            socket,
            memory,
            nri,
        }
    }

    /// Waits until these plugins are there.
    pub async fn plugins(&self, expected: &[&str]) {
        let there = async {
            while self.nri.plugins() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, there).await.is_err() {
            panic!("{:?} instead of {expected:?}", self.nri.plugins());
        }
    }
}

pub fn pod(id: &str) -> PodSandbox {
    PodSandbox {
        id: id.to_owned(),
        name: format!("name-of-{id}"),
        uid: "u-1".to_owned(),
        namespace: "default".to_owned(),
        ..PodSandbox::default()
    }
}

pub fn container(id: &str) -> Container {
    Container {
        id: id.to_owned(),
        pod_sandbox_id: "pod".to_owned(),
        name: format!("name-of-{id}"),
        ..Container::default()
    }
}

/// Limits of memory.
pub fn memory(limit: i64) -> LinuxResources {
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: Some(OptionalInt64 { value: limit }),
            ..LinuxMemory::default()
        }),
        ..LinuxResources::default()
    }
}

/// Shares of processors.
pub fn shares(shares: u64) -> LinuxResources {
    LinuxResources {
        cpu: Some(LinuxCpu {
            shares: Some(OptionalUInt64 { value: shares }),
            ..LinuxCpu::default()
        }),
        ..LinuxResources::default()
    }
}

pub fn update(id: &str, resources: LinuxResources) -> ContainerUpdate {
    ContainerUpdate {
        container_id: id.to_owned(),
        linux: Some(LinuxContainerUpdate {
            resources: Some(resources),
        }),
        ignore_failure: false,
    }
}
