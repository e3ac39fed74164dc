//! One connection: a task that reads messages into pipes, a task that writes them, and one for each channel that a back
//! end writes to. Bounded as sessions of SPDY are: a reader that finds no room stops reading.

use super::frame::{self, Base64, Head, Kind, Wrong};
use crate::backend::Gone;
use crate::limits;
use crate::pipe::{Handle, Reader, Writer};
use crate::transport::{Idle, Input, Output, Source};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// How messages are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    /// The first byte of a message is its channel; else all are one stream.
    pub(crate) channels: bool,
    /// Messages are text: a digit for the channel, then base64.
    pub(crate) base64: bool,
    /// Channel 255 closes another one.
    pub(crate) half_close: bool,
}

/// The channel that closes others.
const CLOSE: u8 = 255;

enum Out {
    Message { channel: u8, bytes: Bytes },
    Frame(Vec<u8>),
    End(Vec<u8>),
}

struct Shared {
    idle: Idle,
    gone: watch::Sender<bool>,
    handles: Vec<Handle>,
}

impl Shared {
    fn vanish(&self) {
        self.gone.send_replace(true);
        self.handles.iter().for_each(Handle::break_off);
    }
}

/// The server's side of a connection.
pub(crate) struct Session {
    out: mpsc::Sender<Out>,
    shared: Arc<Shared>,
    outputs: Vec<Handle>,
    pumps: JoinSet<()>,
    gone: Gone,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

impl Session {
    /// Begins one with these channels from the client and to it. Without channels the number is 0.
    pub(crate) fn begin(
        (input, output): (Input, Output),
        already: BytesMut,
        idle: Duration,
        framing: Framing,
        (inputs, outputs): (HashMap<u8, Writer>, Vec<(u8, Reader)>),
    ) -> Self {
        let (gone, is_gone) = watch::channel(false);
        let ends: Vec<Handle> = outputs.iter().map(|(_, reader)| reader.handle()).collect();
        let handles = inputs
            .values()
            .map(Writer::handle)
            .chain(ends.iter().cloned())
            .collect();
        let shared = Arc::new(Shared {
            idle: Idle::new(idle),
            gone,
            handles,
        });
        let (out, queue) = mpsc::channel(limits::FRAMES);
        let mut pumps = JoinSet::new();
        for (channel, reader) in outputs {
            pumps.spawn(pump(channel, reader, out.clone(), framing));
        }
        let receiving = Receiving {
            source: Source::new(input, already),
            inputs,
            framing,
            base64: Base64::default(),
            channel: None,
            in_message: false,
            out: out.clone(),
            shared: Arc::clone(&shared),
        };
        Self {
            out,
            outputs: ends,
            pumps,
            gone: Gone(is_gone),
            reading: tokio::spawn(receiving.run()),
            writing: tokio::spawn(write(output, queue, framing, Arc::clone(&shared))),
            shared,
        }
    }

    /// Whether the client is gone.
    pub(crate) fn gone(&self) -> Gone {
        self.gone.clone()
    }

    /// Says an empty message, which tells a client that the connection stands.
    pub(crate) async fn greet(&self, channel: u8) {
        let bytes = Bytes::new();
        // A client that is gone is noticed by others.
        let _ = self.out.send(Out::Message { channel, bytes }).await;
    }

    /// Ends the connection when everything that was written has been sent.
    pub(crate) async fn close(mut self) {
        self.outputs.iter().for_each(Handle::finish);
        let sent = async {
            while self.pumps.join_next().await.is_some() {}
            self.out.send(Out::End(frame::close(1000, ""))).await
        };
        tokio::select! {
            sent = sent => if sent.is_err() { return },
            () = self.gone.wait() => return,
        }
        let _ = (&mut self.writing).await;
        let _ = timeout(limits::LINGER, &mut self.reading).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.vanish();
        self.reading.abort();
        self.writing.abort();
    }
}

async fn write(
    mut output: Output,
    mut queue: mpsc::Receiver<Out>,
    framing: Framing,
    shared: Arc<Shared>,
) {
    while let Some(out) = queue.recv().await {
        let put = match out {
            Out::Message { channel, bytes } => {
                shared.idle.touch();
                message(&mut output, framing, channel, &bytes).await
            }
            Out::Frame(frame) => output.put(&frame, &[]).await,
            Out::End(frame) => {
                let _ = output.put(&frame, &[]).await;
                return output.shutdown().await;
            }
        };
        if put.is_err() {
            return shared.vanish();
        }
    }
}

async fn message(
    output: &mut Output,
    framing: Framing,
    channel: u8,
    bytes: &[u8],
) -> std::io::Result<()> {
    if framing.base64 {
        let text = STANDARD.encode(bytes);
        let mut head = frame::message_head(true, text.len() + 1);
        head.push(b'0' + channel);
        return output.put(&head, text.as_bytes()).await;
    }
    let mut head = frame::message_head(false, bytes.len() + usize::from(framing.channels));
    if framing.channels {
        head.push(channel);
    }
    output.put(&head, bytes).await
}

/// Sends what a back end writes to one channel.
async fn pump(channel: u8, mut reader: Reader, out: mpsc::Sender<Out>, framing: Framing) {
    while let Ok(Some(bytes)) = reader.piece(limits::PIECE).await {
        if out.send(Out::Message { channel, bytes }).await.is_err() {
            return;
        }
    }
    if !framing.channels && reader.ended() {
        // The one stream has ended, and so has the connection.
        let _ = out.send(Out::End(frame::close(1000, ""))).await;
    }
}

/// Sends something now and then, as sessions of SPDY do: a pong, which nobody answers (RFC 6455, 5.5.3).
async fn probe(out: &mpsc::Sender<Out>) {
    while !out.is_closed() {
        sleep(limits::PROBE).await;
        // A full queue is being sent, which is as good.
        let _ = out.try_send(Out::Frame(frame::pong(&[])));
    }
}

/// The reading task.
struct Receiving {
    source: Source,
    inputs: HashMap<u8, Writer>,
    framing: Framing,
    base64: Base64,
    channel: Option<u8>,
    in_message: bool,
    out: mpsc::Sender<Out>,
    shared: Arc<Shared>,
}

impl Receiving {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let gone = Gone(shared.gone.subscribe());
        let end = tokio::select! {
            end = self.frames() => end,
            () = shared.idle.expired() => Err(Wrong(1001, "nothing happened for too long")),
            () = gone.wait() => Ok(()),
        };
        let frame = match end {
            Ok(()) => frame::close(1000, ""),
            Err(Wrong(status, why)) => {
                tracing::debug!(status, why, "a streaming connection ends");
                frame::close(status, why)
            }
        };
        // If the queue is full, the client is not reading anyway.
        let _ = self.out.try_send(Out::End(frame));
        shared.vanish();
    }

    /// Reads until the client closes or breaks a rule.
    async fn frames(&mut self) -> Result<(), Wrong> {
        loop {
            let head = match frame::head(&self.source.buffer)? {
                Some((head, length)) => {
                    let _ = self.source.buffer.split_to(length);
                    head
                }
                None if matches!(self.source.fill().await, Ok(true)) => continue,
                None => return Ok(()),
            };
            let goes_on = match head.kind {
                Kind::Close | Kind::Ping | Kind::Pong => self.control(head).await,
                Kind::More | Kind::Text | Kind::Binary => self.data(head).await?,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    async fn control(&mut self, head: Head) -> bool {
        let length = usize::try_from(head.length).unwrap_or(limits::WEBSOCKET_CONTROL);
        while self.source.buffer.len() < length {
            if !matches!(self.source.fill().await, Ok(true)) {
                return false;
            }
        }
        let mut payload = self.source.buffer.split_to(length);
        frame::unmask(&mut payload, head.mask, 0);
        match head.kind {
            Kind::Close => false,
            Kind::Ping => self
                .out
                .send(Out::Frame(frame::pong(&payload)))
                .await
                .is_ok(),
            _ => true,
        }
    }

    /// Hands the bytes of a frame on as they come; false if the client is gone.
    async fn data(&mut self, head: Head) -> Result<bool, Wrong> {
        if self.in_message != (head.kind == Kind::More) {
            return Err(Wrong(1002, "a message is not in its turn"));
        }
        if !self.in_message {
            self.channel = (!self.framing.channels).then_some(0);
        }
        self.in_message = !head.fin;
        self.shared.idle.touch();
        let mut done = 0;
        while done < head.length {
            if self.source.buffer.is_empty() && !matches!(self.source.fill().await, Ok(true)) {
                return Ok(false);
            }
            let left = usize::try_from(head.length - done).unwrap_or(usize::MAX);
            let count = left.min(self.source.buffer.len()).min(limits::PIECE);
            let mut piece = self.source.buffer.split_to(count);
            frame::unmask(&mut piece, head.mask, done);
            done += count as u64;
            if !self.piece(piece.freeze()).await? {
                return Ok(false);
            }
        }
        if head.fin && self.framing.base64 {
            self.base64.decode(b"", true)?;
        }
        Ok(true)
    }

    async fn piece(&mut self, mut piece: Bytes) -> Result<bool, Wrong> {
        let channel = match self.channel {
            Some(channel) => channel,
            None => {
                let first = piece.split_to(1)[0];
                let channel = if self.framing.base64 {
                    first.wrapping_sub(b'0')
                } else {
                    first
                };
                self.channel = Some(channel);
                channel
            }
        };
        if self.framing.base64 {
            piece = Bytes::from(self.base64.decode(&piece, false)?);
        }
        if self.framing.half_close && channel == CLOSE {
            for closed in piece {
                if let Some(mut input) = self.inputs.remove(&closed) {
                    input.finish();
                }
            }
            return Ok(true);
        }
        let Some(input) = self.inputs.get_mut(&channel) else {
            return Ok(true);
        };
        tokio::select! {
            biased;
            // Whether or not anybody reads this channel.
            _ = input.send(piece) => Ok(true),
            () = self.source.input.vanished() => Ok(false),
            () = probe(&self.out) => Ok(false),
        }
    }
}
