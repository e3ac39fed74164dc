//! One poll after the other: output to log and clients, input to the container, requests, deaths.

mod requests;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};
use serde_json::json;

use super::exit::{Exit, Place};
use super::input::{Input, PIECE};
use super::launch::Launch;
use super::log_file::{LogFile, Stream};
use super::peer::{Peer, Sink};
use super::protocol::{self, Request};
use super::serve::Made;
use crate::cgroup::Cgroup;
use crate::cgroup::oom::{Event, Watch};
use crate::error::{Context, Result};
use crate::launch::parent::reap;
use crate::operations::foreground::reap_orphans;

/// How many clients are served at the same time.
const CLIENTS_MAX: usize = 64;
/// How much output is read at once.
const CHUNK: usize = 64 << 10;
/// How often something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a terminal may be without anybody who has it open before it is looked at again; and how
/// long its last output may take to arrive.
const TERMINAL_PAUSE: Duration = Duration::from_millis(100);
/// How long clients that the container does not wait for may take to read the last of its output.
const LINGER: Duration = Duration::from_secs(10);

/// A monitor at work.
pub(super) struct Monitor {
    launch: Launch,
    pub pid: i32,
    init: OwnedFd,
    cgroup: Cgroup,
    signals: SignalFd,
    listener: OwnedFd,
    sources: [Option<OwnedFd>; 2],
    /// The terminal was found closed: it is not read before.
    pause: Option<Instant>,
    input: Input,
    master: Option<OwnedFd>,
    log: Option<LogFile>,
    peers: Vec<Peer>,
    place: Place,
    oom: Option<Watch>,
    oom_seen: bool,
    exit: Option<Ended>,
    chunk: Vec<u8>,
}

struct Ended {
    exit: Exit,
    at: Instant,
    recorded: bool,
    /// All clients were told.
    told: bool,
}

/// What a descriptor in the poll stands for.
#[derive(Debug, Clone, Copy)]
enum Of {
    Init,
    Signals,
    Listener,
    Oom,
    Source(usize),
    Input,
    Peer(usize),
    PeerInput(usize),
    Sink(usize, usize),
}

impl Monitor {
    pub(super) fn new(
        launch: Launch,
        made: Made,
        signals: SignalFd,
        listener: OwnedFd,
        log: Option<LogFile>,
        place: Place,
        oom: Option<Watch>,
    ) -> Self {
        Self {
            launch,
            pid: made.record.pid,
            init: made.init,
            cgroup: made.record.cgroup,
            signals,
            listener,
            sources: made.streams.sources,
            pause: None,
            input: made.streams.input,
            master: made.streams.master,
            log,
            peers: Vec::new(),
            place,
            oom,
            oom_seen: false,
            exit: None,
            chunk: Vec::new(),
        }
    }

    /// Serves until the container is gone and all is delivered.
    pub(super) fn serve(&mut self) -> Result<()> {
        while !self.is_done() {
            let ready = self.poll()?;
            for (of, flags) in &ready {
                self.attend(*of, *flags);
            }
            self.peers.retain(|peer| !peer.dead);
            self.after();
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let recorded = |ended: &Ended| {
            // Who removes the container next needs no record; nor does who has removed it already.
            let removes = self.launch.passing && self.launch.on_exit.is_some();
            ended.recorded || removes || self.place.is_pointless()
        };
        (self.exit.as_ref()).is_some_and(|ended| ended.told && recorded(ended))
    }

    fn poll(&self) -> Result<Vec<(Of, PollFlags)>> {
        let mut of = Vec::with_capacity(8);
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(8);
        for (what, fd, flags) in self.interests() {
            of.push(what);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let timeout = self.timeout().map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "cannot wait for the container"),
        }
        let ready = of.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn interests(&self) -> Vec<(Of, BorrowedFd<'_>, PollFlags)> {
        let mut all = Vec::with_capacity(8);
        if self.exit.is_none() {
            all.push((Of::Init, self.init.as_fd(), PollFlags::IN));
        }
        all.push((Of::Signals, self.signals.as_fd(), PollFlags::IN));
        if self.peers.len() < CLIENTS_MAX {
            all.push((Of::Listener, self.listener.as_fd(), PollFlags::IN));
        }
        if let Some(watch) = &self.oom {
            all.push((Of::Oom, watch.as_fd(), PollFlags::IN));
        }
        for (index, source) in self.sources.iter().enumerate() {
            if let Some(source) = source.as_ref().filter(|_| self.may_read(index)) {
                all.push((Of::Source(index), source.as_fd(), PollFlags::IN));
            }
        }
        if let Some(target) = self.input.waits_for() {
            all.push((Of::Input, target, PollFlags::OUT));
        }
        for (index, peer) in self.peers.iter().enumerate() {
            all.push((Of::Peer(index), peer.socket.as_fd(), PollFlags::IN));
            if let Some(stdin) = peer.stdin.as_ref().filter(|_| self.input.is_hungry()) {
                all.push((Of::PeerInput(index), stdin.as_fd(), PollFlags::IN));
            }
            for (stream, sink) in peer.sinks.iter().enumerate() {
                if let Some(sink) = sink.as_ref().filter(|sink| sink.is_behind()) {
                    all.push((Of::Sink(index, stream), sink.fd(), PollFlags::OUT));
                }
            }
        }
        all
    }

    /// When there is something to do even if nothing happens.
    fn timeout(&self) -> Option<Duration> {
        let mut times = Vec::new();
        if self.log.as_ref().is_some_and(LogFile::is_behind) {
            times.push(RETRY);
        }
        if let Some(until) = self.pause {
            times.push(until.saturating_duration_since(Instant::now()));
        }
        if let Some(ended) = &self.exit {
            if !ended.recorded {
                times.push(RETRY);
            }
            if self.has_sources() && self.master.is_some() {
                times.push(TERMINAL_PAUSE);
            }
            let lingers = |peer: &Peer| peer.is_behind() && !peer.lossless;
            if self.peers.iter().any(lingers) {
                times.push((ended.at + LINGER).saturating_duration_since(Instant::now()));
            }
        }
        times.into_iter().min()
    }

    fn has_sources(&self) -> bool {
        self.sources.iter().any(Option::is_some)
    }

    /// Whether nobody has to catch up first, and the terminal is not known to be closed.
    fn may_read(&self, stream: usize) -> bool {
        let late = |peer: &Peer| {
            let behind = peer.sinks[stream].as_ref().is_some_and(Sink::is_behind);
            peer.lossless && behind
        };
        self.pause.is_none() && !self.peers.iter().any(late)
    }

    fn attend(&mut self, of: Of, flags: PollFlags) {
        match of {
            Of::Init => self.bury(),
            Of::Signals => self.read_signals(),
            Of::Listener => self.welcome(),
            Of::Oom => self.watch_memory(),
            Of::Source(stream) => {
                self.read_output(stream);
            }
            Of::Input => {
                self.input.write();
                self.drop_useless_input();
            }
            Of::Peer(index) => self.hear(index, flags),
            Of::PeerInput(index) => self.read_input(index),
            Of::Sink(index, stream) => self.peers[index].pass_pending(stream),
        }
    }

    /// What follows from a turn, or from the time.
    fn after(&mut self) {
        if self.pause.is_some_and(|until| until <= Instant::now()) {
            self.pause = None;
        }
        if let Some(log) = &mut self.log {
            log.retry();
        }
        let Some(ended) = &mut self.exit else {
            return;
        };
        if !ended.recorded {
            ended.recorded = self.place.record(&ended.exit, !self.launch.passing).is_ok();
        }
        if self.has_sources() {
            self.drain();
        }
        if !self.has_sources() {
            self.tell();
        }
    }

    /// The init is dead.
    fn bury(&mut self) {
        let Ok(status) = reap(self.init.as_fd()) else {
            return;
        };
        reap_orphans(0);
        self.watch_memory();
        // The cgroup knows best, but systemd removes a scope's with its last process.
        let oom = (self.cgroup.oom_kills()).map_or(self.oom_seen, |count| count > 0);
        let exit = Exit::new(&status, oom);
        let recorded = match self.place.record(&exit, !self.launch.passing) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("{}", error.chain());
                false
            }
        };
        self.input.close();
        self.pause = None;
        self.exit = Some(Ended {
            exit,
            at: Instant::now(),
            recorded,
            told: false,
        });
    }

    /// Reads what the container has left. What other processes write that have its streams is nobody's.
    fn drain(&mut self) {
        for stream in 0..2 {
            while self.sources[stream].is_some() && self.may_read(stream) {
                if self.read_output(stream) {
                    continue;
                }
                let late = self.exit.as_ref().map(|ended| ended.at + TERMINAL_PAUSE);
                // A terminal's last words may still be on their way.
                if self.master.is_some() && late.is_some_and(|late| Instant::now() < late) {
                    break;
                }
                self.close_source(stream);
            }
        }
    }

    /// Tells everybody who has got all of the output.
    fn tell(&mut self) {
        let Some(ended) = &mut self.exit else {
            return;
        };
        let late = ended.at.elapsed() >= LINGER;
        let exit = json!({ "exit": ended.exit });
        let mut told = true;
        for peer in &mut self.peers {
            if peer.is_behind() && (peer.lossless || !late) {
                told = false;
                continue;
            }
            if peer.attached {
                peer.detach();
                peer.say(&protocol::event("exit", exit.clone()));
            }
            if std::mem::take(&mut peer.waiting) {
                peer.say(&protocol::answer("wait", Ok(exit.clone())));
            }
        }
        ended.told = told;
    }

    fn read_signals(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        // Nothing but the end of the container ends a monitor.
        let attended = self.exit.as_ref().map_or(self.pid, |_| 0);
        reap_orphans(attended);
    }

    fn watch_memory(&mut self) {
        while let Some(watch) = &mut self.oom {
            match watch.next() {
                Ok(Some(Event::Oom)) => self.oom_seen = true,
                Ok(None) => return,
                Ok(Some(Event::Gone)) | Err(_) => self.oom = None,
            }
            if self.oom_seen {
                // Nothing more to learn.
                self.oom = None;
            }
        }
    }

    /// Reads a piece of output; false when there is none now.
    fn read_output(&mut self, stream: usize) -> bool {
        let Some(source) = &self.sources[stream] else {
            return false;
        };
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(CHUNK, 0);
        let read = rustix::io::read(source, &mut chunk);
        match read {
            Ok(length @ 1..) => self.distribute(stream, &chunk[..length]),
            Err(Errno::INTR) | Err(Errno::AGAIN) => {}
            // All slaves are closed; but as long as the container lives it may open another.
            Err(Errno::IO) if self.master.is_some() && self.exit.is_none() => {
                self.pause = Some(Instant::now() + TERMINAL_PAUSE);
            }
            Ok(0) | Err(_) => self.close_source(stream),
        }
        self.chunk = chunk;
        matches!(read, Ok(1..) | Err(Errno::INTR))
    }

    fn distribute(&mut self, stream: usize, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            log.take(Stream::ALL[stream], bytes);
        }
        for peer in &mut self.peers {
            if !peer.pass(stream, bytes) {
                peer.detach();
                let why = "the client does not read what it attached";
                peer.say(&protocol::event("dropped", json!({ "message": why })));
            }
        }
    }

    fn close_source(&mut self, stream: usize) {
        self.sources[stream] = None;
        if let Some(log) = &mut self.log {
            log.end(Stream::ALL[stream]);
        }
    }

    fn read_input(&mut self, index: usize) {
        if !self.input.is_hungry() {
            return;
        }
        let Some(stdin) = &self.peers[index].stdin else {
            return;
        };
        let mut piece = [0_u8; PIECE];
        match rustix::io::read(stdin, &mut piece) {
            Ok(length @ 1..) => self.input.take(&piece[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => {
                self.peers[index].stdin = None;
                self.input.client_ended();
            }
        }
        self.drop_useless_input();
    }

    /// Who writes to a container that reads no more is to notice.
    fn drop_useless_input(&mut self) {
        if !self.input.is_open() {
            self.peers.iter_mut().for_each(|peer| peer.stdin = None);
        }
    }

    fn welcome(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else {
            return;
        };
        // The socket's mode says the same; but the descriptor of a directory may have wandered.
        let own = rustix::process::geteuid();
        let allowed = rustix::net::sockopt::socket_peercred(&socket)
            .is_ok_and(|peer| peer.uid == own || peer.uid.is_root());
        if allowed {
            self.peers.push(Peer::new(socket));
        }
    }

    fn hear(&mut self, index: usize, flags: PollFlags) {
        match protocol::receive(&self.peers[index].socket, RecvFlags::empty()) {
            Ok(Some(datagram)) => {
                let request = Request::parse(&datagram);
                let answer = match request {
                    Ok(request) => {
                        let result = self.obey(index, &request, datagram.descriptors);
                        result.map(|result| protocol::answer(&request.op, result))
                    }
                    Err(error) => Some(protocol::answer("", Err(error))),
                };
                if let Some(answer) = answer {
                    self.peers[index].say(&answer);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) if !flags.contains(PollFlags::HUP) => {}
            Ok(None) | Err(_) => self.lose(index),
        }
    }

    /// A client is gone.
    fn lose(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        peer.dead = true;
        if peer.stdin.take().is_some() {
            self.input.client_ended();
        }
    }
}
