//! A connection to a systemd manager: directly, or through the message bus. Blocking, one thread,
//! every wait with a deadline.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::message::{Kind, Message, Value, total_length};
use crate::error::{Context, Error, ErrorKind, Result};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(25);
/// How long a job (start, stop) may take.
const JOB: Duration = Duration::from_secs(30);

/// Where a manager listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Path(PathBuf),
    Abstract(String),
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// `JobRemoved` signals that came while something else was waited for.
    jobs: Vec<(String, String)>,
}

/// The answer to a call is an error of the peer: its D-Bus name and its words.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) name: String,
    pub(super) text: String,
}

impl Refused {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.strip_prefix("org.freedesktop.systemd1.") == Some(name)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let kind = match refused.name.rsplit('.').next() {
            Some("AccessDenied" | "InteractiveAuthorizationRequired") => {
                ErrorKind::PermissionDenied
            }
            Some("NoSuchUnit") => ErrorKind::NotFound,
            Some("UnitExists") => ErrorKind::Exists,
            Some("InvalidArgs" | "PropertyReadOnly" | "BadUnitSetting") => ErrorKind::InvalidInput,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("{} ({})", refused.text, refused.name))
    }
}

impl Bus {
    /// Connects to the system's manager, or to the caller's own.
    pub(super) fn open(user: bool) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let direct = if user {
            variable("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("systemd/private"))
        } else {
            Some(PathBuf::from("/run/systemd/private"))
        };
        // The manager's own socket needs no bus daemon, and tells every client of its jobs.
        if let Some(path) = direct
            && let Ok(bus) = Self::connect(&Address::Path(path))
        {
            return Ok(bus);
        }
        let addresses = if user {
            let own = variable("XDG_RUNTIME_DIR").map(|dir| format!("unix:path={dir}/bus"));
            variable("DBUS_SESSION_BUS_ADDRESS")
                .or(own)
                .unwrap_or_default()
        } else {
            variable("DBUS_SYSTEM_BUS_ADDRESS")
                .unwrap_or_else(|| "unix:path=/run/dbus/system_bus_socket".to_owned())
        };
        let mut last = Error::new(
            ErrorKind::Unavailable,
            "cannot find the message bus: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR \
             leads to one",
        );
        for address in parse_addresses(&addresses) {
            match Self::connect(&address).and_then(Self::introduce) {
                Ok(bus) => return Ok(bus),
                Err(error) => {
                    last = error.context(format!("cannot use the message bus {address:?}"));
                }
            }
        }
        Err(last)
    }

    fn connect(address: &Address) -> Result<Self> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        // Without a name the peer takes the socket's credentials: right also from inside a user
        // namespace, where this process does not know its outer number. Managers before version 246
        // want a name.
        let anonymous = "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".to_owned();
        let named = format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n");
        match Self::stream(address)?.authenticate(&anonymous) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Self::stream(address)?.authenticate(&named)
            }
            other => other,
        }
    }

    fn stream(address: &Address) -> Result<Self> {
        let stream = match address {
            Address::Path(path) => UnixStream::connect(path),
            Address::Abstract(name) => {
                SocketAddr::from_abstract_name(name).and_then(|a| UnixStream::connect_addr(&a))
            }
        }
        .context(|| "cannot connect")?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self {
            stream,
            serial: 0,
            jobs: Vec::new(),
        })
    }

    /// SASL EXTERNAL; D-Bus specification, "Authentication Protocol".
    ///
    /// All is sent at once, and the first message only after the answer: systemd does not look at a
    /// message that arrives together with `BEGIN` until something else comes.
    fn authenticate(mut self, request: &str) -> Result<Self> {
        self.stream.write_all(request.as_bytes())?;
        let mut answer = self.line()?;
        if answer.starts_with("DATA") {
            answer = self.line()?;
        }
        if !answer.starts_with("OK") {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("cannot authenticate: the peer answers {answer:?}"),
            ));
        }
        Ok(self)
    }

    fn line(&mut self) -> Result<String> {
        let deadline = Instant::now() + ANSWER;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > 1024 {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "cannot authenticate: endless line",
                ));
            }
            let mut byte = [0];
            self.read_exact(&mut byte, deadline)?;
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Says hello to the bus and asks for the manager's signals.
    fn introduce(mut self) -> Result<Self> {
        self.ask(Message::call(BUS, BUS_PATH, BUS, "Hello", vec![]))?;
        let rule = format!("type='signal',interface='{MANAGER}',member='JobRemoved'");
        self.ask(Message::call(
            BUS,
            BUS_PATH,
            BUS,
            "AddMatch",
            vec![Value::string(rule)],
        ))?;
        match self.manager("Subscribe", vec![])? {
            Err(refused) if !refused.is("AlreadySubscribed") => Err(refused.into()),
            _ => Ok(self),
        }
    }

    fn ask(&mut self, message: Message) -> Result<Vec<Value>> {
        self.call(message)?.map_err(Error::from)
    }

    /// Calls a method of the manager.
    pub(super) fn manager(
        &mut self,
        member: &str,
        body: Vec<Value>,
    ) -> Result<Result<Vec<Value>, Refused>> {
        self.call(Message::call(SYSTEMD, SYSTEMD_PATH, MANAGER, member, body))
    }

    /// A property of the manager that is text.
    pub(super) fn manager_property(&mut self, name: &str) -> Result<String> {
        let body = vec![Value::string(MANAGER), Value::string(name)];
        let interface = "org.freedesktop.DBus.Properties";
        let answer = self.ask(Message::call(SYSTEMD, SYSTEMD_PATH, interface, "Get", body))?;
        match answer.into_iter().next() {
            Some(Value::Variant(value)) if matches!(*value, Value::String(_)) => {
                let Value::String(text) = *value else {
                    return Ok(String::new());
                };
                Ok(text)
            }
            other => Err(Error::new(
                ErrorKind::Unavailable,
                format!("cannot read systemd's {name}: it answers {other:?}"),
            )),
        }
    }

    /// Calls a method that starts a job and waits for the job's result.
    pub(super) fn job(
        &mut self,
        member: &str,
        body: Vec<Value>,
    ) -> Result<Result<String, Refused>> {
        let job = match self.manager(member, body)? {
            Err(refused) => return Ok(Err(refused)),
            Ok(answer) => match answer.into_iter().next() {
                Some(Value::Path(path)) => path,
                other => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("cannot follow {member}: systemd answers {other:?}"),
                    ));
                }
            },
        };
        let deadline = Instant::now() + JOB;
        loop {
            if let Some(at) = self.jobs.iter().position(|(path, _)| *path == job) {
                return Ok(Ok(self.jobs.swap_remove(at).1));
            }
            let message = self
                .receive(deadline)
                .context(|| format!("cannot wait for systemd's job {job} ({member})"))?;
            self.note(&message);
        }
    }

    fn call(&mut self, mut message: Message) -> Result<Result<Vec<Value>, Refused>> {
        self.serial += 1;
        message.serial = self.serial;
        let what = || format!("cannot call {}", message.member.as_deref().unwrap_or("?"));
        self.stream.write_all(&message.encode()).map_err(|error| {
            Error::new(ErrorKind::Unavailable, error.to_string()).context(what())
        })?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let answer = self.receive(deadline).context(what)?;
            if answer.reply_to != Some(self.serial) {
                self.note(&answer);
                continue;
            }
            if answer.kind == Kind::Error {
                let text = match answer.body.into_iter().next() {
                    Some(Value::String(text)) => text,
                    _ => String::new(),
                };
                return Ok(Err(Refused {
                    name: answer.error.unwrap_or_default(),
                    text,
                }));
            }
            return Ok(Ok(answer.body));
        }
    }

    /// Keeps the result of a finished job.
    fn note(&mut self, message: &Message) {
        if message.kind == Kind::Signal
            && message.member.as_deref() == Some("JobRemoved")
            && let [_, Value::Path(job), _, Value::String(result)] = message.body.as_slice()
        {
            self.jobs.push((job.clone(), result.clone()));
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Message> {
        let mut start = [0; 16];
        self.read_exact(&mut start, deadline)?;
        let mut bytes = vec![0; total_length(&start)?];
        bytes[..16].copy_from_slice(&start);
        self.read_exact(&mut bytes[16..], deadline)?;
        Message::decode(&bytes)
    }

    fn read_exact(&mut self, mut buffer: &mut [u8], deadline: Instant) -> Result<()> {
        let late = || Error::new(ErrorKind::Deadline, "systemd does not answer in time");
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                Ok(0) => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "systemd closed the connection",
                    ));
                }
                Ok(n) => buffer = &mut buffer[n..],
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(e) if matches!(e.kind(), IoKind::WouldBlock | IoKind::TimedOut) => {
                    return Err(late());
                }
                Err(e) => return Err(Error::new(ErrorKind::Unavailable, e.to_string())),
            }
        }
        Ok(())
    }
}

/// `unix:path=/run/user/1000/bus,guid=...;unix:abstract=x`; D-Bus specification, "Server Addresses".
fn parse_addresses(text: &str) -> Vec<Address> {
    let mut out = Vec::new();
    for address in text.split(';') {
        let Some(keys) = address.strip_prefix("unix:") else {
            continue;
        };
        for (key, value) in keys.split(',').filter_map(|pair| pair.split_once('=')) {
            match key {
                "path" => out.push(Address::Path(PathBuf::from(unescape(value)))),
                "abstract" => out.push(Address::Abstract(unescape(value))),
                _ => {}
            }
        }
    }
    out
}

/// Undoes `%20`.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &more[2..];
            }
            _ => {
                out.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let got = parse_addresses("tcp:host=x;unix:path=/run/a%20b,guid=1;unix:abstract=c%2fd");
        let want = [
            Address::Path("/run/a b".into()),
            Address::Abstract("c/d".into()),
        ];
        assert_eq!(got, want);
        assert!(parse_addresses("").is_empty());
        assert_eq!(unescape("100%"), "100%");
    }

    /// A manager on the other end of a socket pair.
    fn with_peer(
        peer: impl FnOnce(UnixStream) + Send + 'static,
        client: impl FnOnce(&mut Bus) -> Result<()>,
    ) -> Result<()> {
        let (a, b) = UnixStream::pair()?;
        let thread = std::thread::spawn(move || peer(b));
        let mut bus = Bus {
            stream: a,
            serial: 0,
            jobs: Vec::new(),
        };
        let result = client(&mut bus);
        drop(bus);
        thread.join().unwrap();
        result
    }

    #[test]
    fn authentication() {
        const REQUEST: &str = "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
        for (answer, ok) in [
            ("DATA\r\nOK 0123\r\n", true),
            ("OK 0123\r\n", true),
            ("REJECTED EXTERNAL\r\n", false),
            ("ERROR\r\n", false),
        ] {
            let (stream, mut peer) = UnixStream::pair().unwrap();
            peer.write_all(answer.as_bytes()).unwrap();
            let bus = Bus {
                stream,
                serial: 0,
                jobs: Vec::new(),
            };
            assert_eq!(bus.authenticate(REQUEST).is_ok(), ok, "{answer}");
            let mut sent = String::new();
            peer.read_to_string(&mut sent).unwrap();
            assert_eq!(sent, REQUEST);
        }
    }

    #[test]
    fn a_job_may_end_before_its_call_is_answered() {
        let peer = |mut s: UnixStream| {
            let mut start = [0; 16];
            s.read_exact(&mut start).unwrap();
            let mut rest = vec![0; total_length(&start).unwrap() - 16];
            s.read_exact(&mut rest).unwrap();
            let blank = Message {
                destination: None,
                ..Message::call("", "/j", "i", "", vec![])
            };
            let signal = Message {
                kind: Kind::Signal,
                serial: 1,
                member: Some("JobRemoved".into()),
                body: vec![
                    Value::U32(1),
                    Value::Path("/job/1".into()),
                    Value::string("x.scope"),
                    Value::string("done"),
                ],
                ..blank.clone()
            };
            let answer = Message {
                kind: Kind::Return,
                serial: 2,
                reply_to: Some(1),
                body: vec![Value::Path("/job/1".into())],
                ..blank
            };
            s.write_all(&[signal.encode(), answer.encode()].concat())
                .unwrap();
        };
        with_peer(peer, |bus| {
            assert_eq!(bus.job("StopUnit", vec![]).unwrap().unwrap(), "done");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn refusals_and_hang_ups_are_errors() {
        let peer = |mut s: UnixStream| {
            let mut start = [0; 16];
            s.read_exact(&mut start).unwrap();
            let mut rest = vec![0; total_length(&start).unwrap() - 16];
            s.read_exact(&mut rest).unwrap();
            let answer = Message {
                kind: Kind::Error,
                serial: 2,
                reply_to: Some(1),
                error: Some("org.freedesktop.systemd1.NoSuchUnit".into()),
                ..Message::call("", "/", "i", "m", vec![Value::string("Unit x not loaded.")])
            };
            s.write_all(&answer.encode()).unwrap();
        };
        with_peer(peer, |bus| {
            let refused = bus.manager("StopUnit", vec![]).unwrap().unwrap_err();
            assert!(refused.is("NoSuchUnit"));
            assert_eq!(Error::from(refused).kind(), ErrorKind::NotFound);
            assert_eq!(
                bus.manager("StopUnit", vec![]).unwrap_err().kind(),
                ErrorKind::Unavailable
            );
            Ok(())
        })
        .unwrap();
    }
}
