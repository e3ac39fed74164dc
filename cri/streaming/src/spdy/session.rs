//! One session: a task that reads frames, a task that writes them, and one for each stream that fetches what its back end
//! writes.
//!
//! Nothing in it grows with what a client does: frames for the socket wait in a short queue, bytes of streams in their
//! pipes, and a reader that finds no room stops reading. A session ends when the client closes, breaks a rule or is idle
//! for too long: then all of its streams break. Or we end it ([`Session::close`]), and everything written reaches the
//! client first.

use super::frame::{self, Control, Head, Wrong};
use super::headers::{Headers, Inflater, Stored};
use super::table::{Received, Table};
use crate::backend::Gone;
use crate::limits;
use crate::pipe::{self, Reader, Writer};
use crate::transport::{Idle, Input, Output, Source};
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// What the writing task is told.
enum Out {
    Data { id: u32, fin: bool, bytes: Bytes },
    Frame(Vec<u8>),
    End,
}

/// A stream that the client has opened and that was answered.
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) input: Reader,
    pub(crate) output: Writer,
}

/// What the tasks of a session share.
struct Shared {
    table: Mutex<Table>,
    /// Room may have come for those who send.
    room: Notify,
    /// There is room to tell the peer of.
    owing: Notify,
    idle: Idle,
    gone: watch::Sender<bool>,
    pumps: watch::Sender<usize>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self, id: u32, bytes: usize) {
        let mut table = self.table();
        table.used(id, bytes);
        if table.owes(id) {
            self.owing.notify_one();
        }
    }

    /// Breaks one stream.
    fn break_off(&self, id: u32) {
        let live = self.table().streams.remove(&id);
        if let Some(live) = live {
            live.input.break_off();
            live.output.break_off();
            self.room.notify_waiters();
        }
    }

    /// The client is gone: everything breaks.
    fn vanish(&self) {
        self.gone.send_replace(true);
        let streams = std::mem::take(&mut self.table().streams);
        for live in streams.values() {
            live.input.break_off();
            live.output.break_off();
        }
        self.room.notify_waiters();
    }

    /// Waits until something may be sent on a stream; `None` if it is closed.
    async fn reserve(&self, id: u32, want: usize) -> Option<usize> {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.table().reserve(id, want) {
                Some(0) => {}
                reserved => return reserved,
            }
            room.await;
        }
    }
}

/// The server's side of a session.
pub(crate) struct Session {
    incoming: mpsc::Receiver<Stream>,
    out: mpsc::Sender<Out>,
    shared: Arc<Shared>,
    gone: Gone,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

impl Session {
    /// Begins one. `check` says which streams are refused at once.
    pub(crate) fn begin(
        (input, output): (Input, Output),
        already: BytesMut,
        idle: Duration,
        check: fn(&Headers) -> bool,
    ) -> Self {
        let (gone, is_gone) = watch::channel(false);
        let shared = Arc::new(Shared {
            table: Mutex::default(),
            room: Notify::new(),
            owing: Notify::new(),
            idle: Idle::new(idle),
            gone,
            pumps: watch::Sender::new(0),
        });
        let (out, queue) = mpsc::channel(limits::FRAMES);
        let (offer, incoming) = mpsc::channel(1);
        let receiving = Receiving {
            source: Source::new(input, already),
            inflater: Some(Inflater::default()),
            stored: Stored::default(),
            inputs: HashMap::new(),
            last: 0,
            check,
            offer,
            out: out.clone(),
            shared: Arc::clone(&shared),
        };
        Self {
            incoming,
            out,
            gone: Gone(is_gone),
            reading: tokio::spawn(receiving.run()),
            writing: tokio::spawn(write(output, queue, Arc::clone(&shared))),
            shared,
        }
    }

    /// The next stream that the client opens; `None` when it is gone.
    pub(crate) async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// From now on every stream that the client opens is refused.
    pub(crate) fn no_more(&mut self) {
        self.incoming.close();
    }

    /// Whether the client is gone.
    pub(crate) fn gone(&self) -> Gone {
        self.gone.clone()
    }

    /// Gives a stream up and tells the client so.
    pub(crate) async fn reset(&self, id: u32) {
        self.shared.break_off(id);
        // A client that is gone need not be told.
        let _ = self
            .out
            .send(Out::Frame(frame::reset(id, frame::CANCEL)))
            .await;
    }

    /// Ends the session when everything that was written has been sent.
    pub(crate) async fn close(mut self) {
        self.incoming.close();
        for live in self.shared.table().streams.values() {
            live.output.finish();
        }
        let mut pumps = self.shared.pumps.subscribe();
        tokio::select! {
            _ = pumps.wait_for(|pumps| *pumps == 0) => {}
            () = self.gone.wait() => return,
        }
        for out in [Out::Frame(frame::go_away(0, 0)), Out::End] {
            tokio::select! {
                sent = self.out.send(out) => if sent.is_err() { return },
                () = self.gone.wait() => return,
            }
        }
        // What the client still sends is read and dropped, so that the kernel does not reset what it has yet to read.
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

/// Writes what is queued, and room before anything else.
async fn write(mut output: Output, mut queue: mpsc::Receiver<Out>, shared: Arc<Shared>) {
    loop {
        let out = tokio::select! {
            biased;
            () = shared.owing.notified() => {
                let told = shared.table().tell();
                Out::Frame(told.into_iter().flat_map(|(id, delta)| frame::window(id, delta)).collect())
            }
            out = queue.recv() => match out {
                Some(out) => out,
                None => return,
            },
        };
        let put = match out {
            Out::Data { id, fin, bytes } => {
                shared.idle.touch();
                let head = frame::data_head(id, fin, bytes.len());
                output.put(&head, &bytes).await
            }
            Out::Frame(frame) => output.put(&frame, &[]).await,
            Out::End => return output.shutdown().await,
        };
        if put.is_err() {
            return shared.vanish();
        }
    }
}

/// Sends what a back end writes on one stream.
async fn pump(id: u32, mut reader: Reader, out: mpsc::Sender<Out>, shared: Arc<Shared>) {
    while let Ok(piece) = reader.piece(limits::PIECE).await {
        let Some(mut piece) = piece else {
            let bytes = Bytes::new();
            shared.table().done(id, |live| live.local_done = true);
            let _ = out
                .send(Out::Data {
                    id,
                    fin: true,
                    bytes,
                })
                .await;
            return;
        };
        while !piece.is_empty() {
            let Some(room) = shared.reserve(id, piece.len()).await else {
                return;
            };
            let bytes = piece.split_to(room);
            if out
                .send(Out::Data {
                    id,
                    fin: false,
                    bytes,
                })
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

/// Sends something now and then; ends when that is not possible any more. A client that is gone while its bytes wait for
/// room here is not noticed otherwise: its end is behind them.
async fn probe(out: &mpsc::Sender<Out>) {
    while !out.is_closed() {
        sleep(limits::PROBE).await;
        // A full queue is being sent, which is as good.
        let _ = out.try_send(Out::Frame(frame::nothing()));
    }
}

/// The reading task.
struct Receiving {
    source: Source,
    /// Until no more streams are wanted; it weighs more than all the rest of a session.
    inflater: Option<Inflater>,
    stored: Stored,
    inputs: HashMap<u32, Writer>,
    last: u32,
    check: fn(&Headers) -> bool,
    offer: mpsc::Sender<Stream>,
    out: mpsc::Sender<Out>,
    shared: Arc<Shared>,
}

impl Receiving {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let gone = Gone(shared.gone.subscribe());
        let wrong = tokio::select! {
            wrong = self.frames() => wrong.err(),
            () = shared.idle.expired() => Some(Wrong("nothing happened for too long")),
            () = gone.wait() => None,
        };
        if let Some(Wrong(why)) = wrong {
            tracing::debug!(why, "a streaming session ends");
            // If the queue is full, the client is not reading anyway.
            let _ = self.out.try_send(Out::Frame(frame::go_away(self.last, 1)));
            let _ = self.out.try_send(Out::End);
        }
        shared.vanish();
    }

    /// Reads until the client closes or breaks a rule.
    async fn frames(&mut self) -> Result<(), Wrong> {
        loop {
            let offer = self.offer.clone();
            let head = tokio::select! {
                biased;
                () = offer.closed(), if self.inflater.is_some() => {
                    self.inflater = None;
                    continue;
                }
                head = self.take(frame::HEAD) => head,
            };
            let Some(head) = head else {
                return Ok(());
            };
            let head = <[u8; frame::HEAD]>::try_from(&head[..]);
            match frame::head(head.map_err(|_| Wrong("a head is short"))?)? {
                Head::Data { id, fin, length } => {
                    if !self.data(id, fin, length).await {
                        return Ok(());
                    }
                }
                Head::Control {
                    kind,
                    flags,
                    length,
                } => {
                    let Some(payload) = self.take(length).await else {
                        return Ok(());
                    };
                    let control = frame::control(kind, flags, &payload, self.inflater.as_mut())?;
                    drop(payload);
                    if !self.control(control).await? {
                        return Ok(());
                    }
                }
            }
            self.shared.idle.touch();
        }
    }

    /// So many bytes; `None` if the client closed.
    async fn take(&mut self, length: usize) -> Option<BytesMut> {
        while self.source.buffer.len() < length {
            if !self.source.fill().await.ok()? {
                return None;
            }
        }
        Some(self.source.buffer.split_to(length))
    }

    /// Hands the bytes of a frame on as they come; false if the client is gone.
    async fn data(&mut self, id: u32, fin: bool, mut length: usize) -> bool {
        while length > 0 {
            if self.source.buffer.is_empty() && !matches!(self.source.fill().await, Ok(true)) {
                return false;
            }
            let count = length.min(self.source.buffer.len()).min(limits::PIECE);
            length -= count;
            let piece = self.source.buffer.split_to(count).freeze();
            if !self.piece(id, piece).await {
                return false;
            }
        }
        if fin {
            if let Some(mut input) = self.inputs.remove(&id) {
                input.finish();
            }
            self.shared.table().done(id, |live| live.remote_done = true);
        }
        true
    }

    async fn piece(&mut self, id: u32, piece: Bytes) -> bool {
        let count = piece.len();
        let received = {
            let mut table = self.shared.table();
            let received = table.receive(id, count);
            if table.owes(0) {
                self.shared.owing.notify_one();
            }
            received
        };
        match received {
            Received::Unknown => return true,
            Received::Overflow => {
                self.inputs.remove(&id);
                self.shared.break_off(id);
                return self.emit(frame::reset(id, frame::FLOW_CONTROL_ERROR)).await;
            }
            Received::Wanted => {}
        }
        let Some(input) = self.inputs.get_mut(&id) else {
            return true;
        };
        let sent = tokio::select! {
            biased;
            sent = input.send(piece) => sent,
            () = self.source.input.vanished() => return false,
            () = probe(&self.out) => return false,
        };
        if sent.is_err() {
            // Nobody reads this stream any more; the client may go on.
            self.shared.used(id, count);
        }
        true
    }

    async fn control(&mut self, control: Control) -> Result<bool, Wrong> {
        match control {
            Control::SynStream { id, fin, headers } => return self.opened(id, fin, headers).await,
            Control::Reset { id } => {
                self.inputs.remove(&id);
                self.shared.break_off(id);
            }
            Control::Settings {
                window: Some(window),
            } => {
                self.shared.table().begin_with(window);
                self.shared.room.notify_waiters();
            }
            Control::Ping { id } if id % 2 == 1 => return Ok(self.emit(frame::ping(id)).await),
            Control::Window { id, delta } => {
                let broken = self.shared.table().widen(id, delta)?;
                self.shared.room.notify_waiters();
                if broken {
                    self.inputs.remove(&id);
                    self.shared.break_off(id);
                    let reset = frame::reset(id, frame::FLOW_CONTROL_ERROR);
                    return Ok(self.emit(reset).await);
                }
            }
            Control::Settings { .. } | Control::Ping { .. } | Control::GoAway | Control::Other => {}
        }
        Ok(true)
    }

    async fn opened(&mut self, id: u32, fin: bool, headers: Headers) -> Result<bool, Wrong> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Wrong("a stream has a number that is not its turn"));
        }
        self.last = id;
        self.inputs
            .retain(|id, _| self.shared.table().streams.contains_key(id));
        let count = self.shared.table().streams.len();
        if count >= limits::STREAMS || self.offer.is_closed() || !(self.check)(&headers) {
            return Ok(self.emit(frame::reset(id, frame::REFUSED_STREAM)).await);
        }
        let shared = Arc::clone(&self.shared);
        let (mut writer, input) = pipe::inward(Some(Arc::new(move |count| shared.used(id, count))));
        let (output, reader) = pipe::outward();
        self.shared
            .table()
            .open(id, writer.handle(), output.handle(), fin);
        if fin {
            writer.finish();
        } else {
            self.inputs.insert(id, writer);
        }
        let reply = frame::reply(id, &self.stored.empty());
        if !self.emit(reply).await {
            return Ok(false);
        }
        self.start_pump(id, reader);
        let offered = self
            .offer
            .send(Stream {
                id,
                headers,
                input,
                output,
            })
            .await;
        if offered.is_err() {
            self.inputs.remove(&id);
            self.shared.break_off(id);
            return Ok(self.emit(frame::reset(id, frame::REFUSED_STREAM)).await);
        }
        Ok(true)
    }

    fn start_pump(&self, id: u32, reader: Reader) {
        let (out, shared) = (self.out.clone(), Arc::clone(&self.shared));
        shared.pumps.send_modify(|pumps| *pumps += 1);
        tokio::spawn(async move {
            pump(id, reader, out, Arc::clone(&shared)).await;
            shared.pumps.send_modify(|pumps| *pumps -= 1);
        });
    }

    /// Queues a frame; false if nobody writes any more.
    async fn emit(&self, frame: Vec<u8>) -> bool {
        self.out.send(Out::Frame(frame)).await.is_ok()
    }
}
