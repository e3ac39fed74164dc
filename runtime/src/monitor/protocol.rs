//! What a monitor and its clients say to each other (docs/monitor.md): JSON, one document per datagram,
//! with descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::exit::Exit;
use crate::error::{Error, ErrorKind, Result};

/// Version of the protocol.
pub(super) const VERSION: u32 = 1;
/// Longest datagram that is read.
pub const MESSAGE_MAX: usize = 16 << 10;
/// How many descriptors a datagram brings at most.
pub const DESCRIPTORS_MAX: usize = 3;

/// What a client wants. Unknown fields are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    pub version: u32,
    pub op: String,
    #[serde(default)]
    pub streams: Vec<String>,
    #[serde(default)]
    pub lossless: bool,
    #[serde(default)]
    pub logs: bool,
    #[serde(default)]
    pub height: Option<u16>,
    #[serde(default)]
    pub width: Option<u16>,
}

/// What a monitor answers, or says by itself.
#[derive(Debug, Deserialize)]
pub(super) struct Reply {
    pub version: u32,
    #[serde(default)]
    pub re: Option<String>,
    #[serde(default)]
    pub event: Option<String>,
    #[serde(default)]
    pub error: Option<WireError>,
    #[serde(default)]
    pub exit: Option<Exit>,
    #[serde(default)]
    pub status: Option<Status>,
    #[serde(default)]
    pub terminal: Option<bool>,
    #[serde(default)]
    pub stream: Option<String>,
}

/// How a container and its monitor are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The init.
    pub pid: i32,
    /// The monitor.
    pub monitor: u32,
    /// The container has a terminal.
    pub terminal: bool,
    /// Its standard input can still be written to.
    pub stdin: bool,
    /// Processes of it were killed for want of memory.
    pub oom: bool,
    /// How many clients are attached.
    pub attached: usize,
    /// How many bytes of output the log lacks.
    pub log_lost: u64,
    /// Its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

/// An error on its way through a socket or pipe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireError {
    /// Its kind, as docs/monitor.md lists them.
    pub kind: String,
    /// Everything that is said of it.
    pub message: String,
}

const KINDS: [(ErrorKind, &str); 12] = [
    (ErrorKind::NotFound, "not_found"),
    (ErrorKind::Exists, "exists"),
    (ErrorKind::InvalidInput, "invalid_input"),
    (ErrorKind::FailedPrecondition, "failed_precondition"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::PermissionDenied, "permission_denied"),
    (ErrorKind::Busy, "busy"),
    (ErrorKind::Deadline, "deadline"),
    (ErrorKind::Exhausted, "exhausted"),
    (ErrorKind::Corrupt, "corrupt"),
    (ErrorKind::Unavailable, "unavailable"),
    (ErrorKind::Internal, "internal"),
];

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        let kind = KINDS.iter().find(|(kind, _)| *kind == error.kind());
        Self {
            kind: kind.map_or("internal", |(_, name)| name).to_owned(),
            message: error.chain().to_string(),
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        // A kind of a newer version is none that this one could act upon.
        let kind = KINDS.iter().find(|(_, name)| *name == error.kind);
        Error::new(
            kind.map_or(ErrorKind::Internal, |(kind, _)| *kind),
            error.message,
        )
    }
}

impl Request {
    /// Reads a request; what is wrong with it is for the client to know.
    pub(super) fn parse(datagram: &Datagram) -> Result<Self> {
        if datagram.cut {
            return Err(Error::invalid(format!(
                "a message has at most {MESSAGE_MAX} bytes and {DESCRIPTORS_MAX} descriptors"
            )));
        }
        let request: Self = serde_json::from_slice(&datagram.bytes)
            .map_err(|e| Error::invalid(format!("cannot read the message: {e}")))?;
        if request.version != VERSION {
            return Err(Error::unsupported(format!(
                "version {} of the protocol is not known to this monitor (it knows {VERSION})",
                request.version
            )));
        }
        Ok(request)
    }
}

/// The answer to a request.
pub(super) fn answer(op: &str, result: Result<Value>) -> Value {
    let mut answer = match result {
        Ok(value) => value,
        Err(error) => json!({ "error": WireError::from(&error) }),
    };
    answer["version"] = VERSION.into();
    answer["re"] = op.into();
    answer
}

/// Something that a monitor says by itself.
pub(super) fn event(name: &str, content: Value) -> Value {
    let mut event = content;
    event["version"] = VERSION.into();
    event["event"] = name.into();
    event
}

/// One datagram.
#[derive(Debug)]
pub(super) struct Datagram {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
    /// It was longer, or had more descriptors.
    pub cut: bool,
}

/// Receives a datagram; `None` at the end of the connection.
pub(super) fn receive(socket: impl AsFd, flags: RecvFlags) -> Result<Option<Datagram>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0_u8; MESSAGE_MAX];
    let message = rustix::net::recvmsg(
        socket.as_fd(),
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags | RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            descriptors.extend(fds);
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(message.bytes);
    bytes.shrink_to_fit();
    Ok(Some(Datagram {
        bytes,
        descriptors,
        cut: message
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC),
    }))
}

/// Sends a document.
pub(super) fn send(
    socket: impl AsFd,
    document: &Value,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Errno> {
    let text = document.to_string();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    rustix::net::sendmsg(
        socket.as_fd(),
        &[IoSlice::new(text.as_bytes())],
        &mut control,
        flags | SendFlags::NOSIGNAL,
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_wire() {
        for (kind, _) in KINDS {
            let sent = WireError::from(&Error::new(kind, "why").context("what"));
            let text = serde_json::to_string(&sent).unwrap();
            let got = Error::from(serde_json::from_str::<WireError>(&text).unwrap());
            assert_eq!(got.kind(), kind);
            assert_eq!(got.chain().to_string(), "what: why");
        }
    }

    #[test]
    fn requests_of_other_versions_are_refused_and_unknown_fields_ignored() {
        let parse = |text: &str| {
            Request::parse(&Datagram {
                bytes: text.as_bytes().to_vec(),
                descriptors: Vec::new(),
                cut: false,
            })
        };
        let request = parse(r#"{"version":1,"op":"wait","later":{"x":[1]}}"#).unwrap();
        assert_eq!((request.op.as_str(), request.lossless), ("wait", false));
        for (text, kind) in [
            (r#"{"version":2,"op":"wait"}"#, ErrorKind::Unsupported),
            (r#"{"op":"wait"}"#, ErrorKind::InvalidInput),
            ("[]", ErrorKind::InvalidInput),
            ("\0\u{1}", ErrorKind::InvalidInput),
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), kind, "{text}");
        }
        let deep = "[".repeat(MESSAGE_MAX);
        assert_eq!(parse(&deep).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
