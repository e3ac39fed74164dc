//! One connection to a plugin: calls that are answered, and the plugin's own requests.
//!
//! Two tasks have the socket, one reads and one writes, so that a caller that is dropped leaves no half of a frame
//! behind. The connection ends when either fails, when the plugin breaks the protocol or does not read, and when
//! [`Link::close`] says so; all calls then end with [`Failure::Gone`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use rcrun_error::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::limits;
use crate::proto::{Code, ttrpc};
use crate::wire::{self, Body, Side};

/// The service that plugins have.
const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The service that we have.
const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection ended, and why.
    Gone(String),
    /// It took too long.
    Deadline(Duration),
    /// The plugin says no.
    Refused { code: i32, words: String },
    /// The request or the answer is more than a message may be, or the answer is no message.
    Message(String),
}

impl Failure {
    /// The error of a call.
    pub(crate) fn error(self, plugin: &str, method: &str) -> Error {
        let (kind, why) = match self {
            Self::Gone(why) => (ErrorKind::Unavailable, why),
            Self::Deadline(limit) => (
                ErrorKind::Deadline,
                format!("no answer after {} ms", limit.as_millis()),
            ),
            Self::Refused { words, .. } => (ErrorKind::FailedPrecondition, words),
            Self::Message(why) => (ErrorKind::FailedPrecondition, why),
        };
        Error::new(kind, why).context(format!("cannot {method}: NRI plugin {plugin} failed"))
    }
}

/// A request of the plugin.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) payload: Vec<u8>,
    stream: u32,
    shared: Arc<Shared>,
}

impl Incoming {
    /// Answers it.
    pub(crate) fn answer<M: prost::Message>(self, outcome: Result<&M, (Code, String)>) {
        self.shared.answer(self.stream, outcome);
    }
}

/// The end of a connection that calls.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    calls: Mutex<Calls>,
    out: mpsc::Sender<Vec<u8>>,
    /// Why it ended.
    end: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Calls {
    next: u32,
    waiting: BTreeMap<u32, oneshot::Sender<Body>>,
}

impl Link {
    /// Begins to read and write. `patience` is how long the plugin may take to read a message.
    pub(crate) fn new(stream: UnixStream, patience: Duration) -> (Self, mpsc::Receiver<Incoming>) {
        let (out, queue) = mpsc::channel(limits::QUEUE);
        let (requests, incoming) = mpsc::channel(limits::REQUESTS);
        let shared = Arc::new(Shared {
            calls: Mutex::new(Calls {
                next: 1,
                waiting: BTreeMap::new(),
            }),
            out,
            end: watch::Sender::new(None),
        });
        let (from, to) = stream.into_split();
        tokio::spawn(read(Arc::clone(&shared), from, requests));
        tokio::spawn(write(Arc::clone(&shared), to, queue, patience));
        (Self { shared }, incoming)
    }

    /// Calls a method of the plugin.
    pub(crate) async fn call<Q, A>(
        &self,
        method: &str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, Failure>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        match timeout(limit, self.exchange(method, request, limit)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Deadline(limit)),
        }
    }

    async fn exchange<Q, A>(&self, method: &str, request: &Q, limit: Duration) -> Result<A, Failure>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        let envelope = ttrpc::Request {
            service: PLUGIN.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(0),
            metadata: Vec::new(),
        };
        let call = self.begin()?;
        let body = envelope.encode_to_vec();
        let bytes = wire::message(Side::Plugin, call.stream, &body).ok_or_else(|| {
            let (length, most) = (body.len(), limits::MESSAGE);
            Failure::Message(format!(
                "a request of {length} bytes, and {most} are the most"
            ))
        })?;
        if self.shared.out.send(bytes).await.is_err() {
            return Err(self.gone());
        }
        match call.answer().await {
            Some(body) => answer(&body),
            None => Err(self.gone()),
        }
    }

    /// A stream of its own, given back when the call is dropped.
    fn begin(&self) -> Result<Call<'_>, Failure> {
        let (send, receive) = oneshot::channel();
        let mut calls = self.shared.calls();
        let stream = calls.next;
        match stream.checked_add(2) {
            Some(next) if self.ended().is_none() => calls.next = next,
            Some(_) => return Err(self.gone()),
            None => {
                drop(calls);
                self.close("all streams of the connection are used");
                return Err(self.gone());
            }
        }
        calls.waiting.insert(stream, send);
        Ok(Call {
            shared: &self.shared,
            stream,
            receive,
        })
    }

    fn gone(&self) -> Failure {
        let why = self.ended();
        Failure::Gone(why.unwrap_or_else(|| "the connection ended".to_owned()))
    }

    /// Ends the connection. Only the first reason counts.
    pub(crate) fn close(&self, why: &str) {
        self.shared.close(why);
    }

    /// Why it ended, if it did.
    pub(crate) fn ended(&self) -> Option<String> {
        self.shared.end.borrow().clone()
    }

    /// Returns when it has ended.
    pub(crate) async fn end(&self) {
        self.shared.ended().await;
    }
}

/// A call that waits.
#[derive(Debug)]
struct Call<'a> {
    shared: &'a Shared,
    stream: u32,
    receive: oneshot::Receiver<Body>,
}

impl Call<'_> {
    async fn answer(mut self) -> Option<Body> {
        (&mut self.receive).await.ok()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.shared.calls().waiting.remove(&self.stream);
    }
}

fn answer<A: prost::Message + Default>(body: &Body) -> Result<A, Failure> {
    let bytes = match body {
        Body::Whole(bytes) => bytes,
        Body::TooLong(length) => {
            let most = limits::MESSAGE;
            return Err(Failure::Message(format!(
                "an answer of {length} bytes, and {most} are the most"
            )));
        }
    };
    let envelope: ttrpc::Response = decode(bytes).map_err(Failure::Message)?;
    match envelope.status {
        Some(status) if status.code != Code::Ok as i32 => Err(Failure::Refused {
            code: status.code,
            words: words(&status.message),
        }),
        _ => decode(&envelope.payload).map_err(Failure::Message),
    }
}

/// A message of the plugin, within limits.
pub(crate) fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, String> {
    if wire::fields(bytes) > limits::FIELDS {
        return Err(format!("a message of more than {} parts", limits::FIELDS));
    }
    M::decode(bytes).map_err(|error| format!("a message that cannot be read: {error}"))
}

/// What a plugin says, as it may stand in our messages and log.
pub(crate) fn words(said: &str) -> String {
    let end = said.floor_char_boundary(limits::WORDS);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    match said[..end].trim() {
        "" => "no reason given".to_owned(),
        kept => kept.chars().map(plain).collect(),
    }
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, why: &str) {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert_with(|| why.to_owned());
            first
        });
        // Who waits for an answer hears that there will be none.
        self.calls().waiting.clear();
    }

    async fn ended(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.end.subscribe().wait_for(Option::is_some).await;
    }

    fn answer<M: prost::Message>(&self, stream: u32, outcome: Result<&M, (Code, String)>) {
        let envelope = match outcome {
            Ok(message) => ttrpc::Response {
                status: None,
                payload: message.encode_to_vec(),
            },
            Err((code, message)) => ttrpc::Response {
                status: Some(ttrpc::Status {
                    code: code as i32,
                    message,
                }),
                payload: Vec::new(),
            },
        };
        let bytes = wire::message(Side::Runtime, stream, &envelope.encode_to_vec());
        match bytes.map(|bytes| self.out.try_send(bytes)) {
            Some(Ok(())) => {}
            // A plugin that asks and does not read what it is told.
            Some(Err(_)) => self.close("it does not read answers"),
            None => self.close("an answer to it would be too long"),
        }
    }

    /// Gives a message to whom it is for.
    fn deliver(
        self: &Arc<Self>,
        message: wire::Message,
        requests: &mpsc::Sender<Incoming>,
    ) -> Result<(), String> {
        match message.side {
            Side::Plugin => {
                let mut calls = self.calls();
                if message.stream.is_multiple_of(2) || message.stream >= calls.next {
                    return Err(format!(
                        "an answer to stream {}, which does not exist",
                        message.stream
                    ));
                }
                // An answer to a call that was dropped is nobody's.
                if let Some(call) = calls.waiting.remove(&message.stream) {
                    let _ = call.send(message.body);
                }
                Ok(())
            }
            Side::Runtime => self.request(message.stream, message.body, requests),
        }
    }

    fn request(
        self: &Arc<Self>,
        stream: u32,
        body: Body,
        requests: &mpsc::Sender<Incoming>,
    ) -> Result<(), String> {
        let no = |code, why: String| self.answer::<ttrpc::Status>(stream, Err((code, why)));
        let bytes = match body {
            Body::Whole(bytes) => bytes,
            Body::TooLong(length) => {
                no(
                    Code::ResourceExhausted,
                    format!("a request of {length} bytes is too long"),
                );
                return Ok(());
            }
        };
        if stream.is_multiple_of(2) {
            return Err(format!(
                "a request on stream {stream}, and those of clients are odd"
            ));
        }
        let request: ttrpc::Request = decode(&bytes)?;
        if request.service != RUNTIME {
            no(
                Code::Unimplemented,
                format!("no service {:?}", words(&request.service)),
            );
            return Ok(());
        }
        let incoming = Incoming {
            method: request.method,
            payload: request.payload,
            stream,
            shared: Arc::clone(self),
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = requests.try_send(incoming) {
            no(
                Code::ResourceExhausted,
                "too many requests at once".to_owned(),
            );
        }
        Ok(())
    }
}

async fn read(shared: Arc<Shared>, mut from: OwnedReadHalf, requests: mpsc::Sender<Incoming>) {
    let mut reader = wire::Reader::new();
    let mut buffer = vec![0; limits::READ];
    let mut messages = Vec::new();
    let why = loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = shared.ended() => return,
        };
        let read = match read {
            Ok(0) => break "the plugin closed the connection".to_owned(),
            Ok(read) => read,
            Err(error) => break format!("cannot read from it: {error}"),
        };
        if let Err(error) = reader.feed(&buffer[..read], &mut messages) {
            break error.to_string();
        }
        let delivered = messages
            .drain(..)
            .try_for_each(|message| shared.deliver(message, &requests));
        if let Err(why) = delivered {
            break format!("cannot read from a plugin: {why}");
        }
    };
    shared.close(&why);
}

async fn write(
    shared: Arc<Shared>,
    mut to: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<u8>>,
    patience: Duration,
) {
    loop {
        let bytes = tokio::select! {
            bytes = queue.recv() => bytes,
            () = shared.ended() => return,
        };
        // The sender is in `shared`, so there is always a next one.
        let Some(bytes) = bytes else { return };
        let why = tokio::select! {
            written = timeout(patience, to.write_all(&bytes)) => match written {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => format!("cannot write to it: {error}"),
                Err(_) => "it does not read".to_owned(),
            },
            () = shared.ended() => return,
        };
        return shared.close(&why);
    }
}
