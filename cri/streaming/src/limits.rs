//! Every number that a client may choose, with what it may be at most, and how long anything is waited for.

use std::time::Duration;

/// The head of an HTTP request, as containers' servers allow at least.
pub const HEAD: usize = 32 << 10;
/// Header fields of an HTTP request.
pub const HEAD_FIELDS: usize = 100;
/// A client has this long to send its request, the handshake of TLS before it included.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// A file of certificates, or of a key.
pub const CERTIFICATE: usize = 1 << 20;
/// Certificates in a chain.
pub const CERTIFICATES: usize = 16;
/// How often the files of a certificate are looked at, at most: when somebody connects.
pub const CERTIFICATE_LOOK: Duration = Duration::from_secs(1);
/// What TLS holds of bytes that a client does not take.
pub const TLS_UNSENT: usize = 64 << 10;
/// Connections that have not yet shown a token; if more come, the oldest of them is dropped.
pub const STRANGERS: usize = 256;
/// Sessions at once.
pub const SESSIONS: usize = 2048;

/// Tokens that wait for their client, as Kubernetes' own server has.
pub const TOKENS: usize = 1000;
/// What all waiting requests weigh together (commands and identifiers).
pub const TOKEN_BYTES: usize = 16 << 20;
/// What one request weighs at most.
pub const REQUEST_BYTES: usize = 1 << 20;
/// A token is valid for this long.
pub const TOKEN_TIME: Duration = Duration::from_secs(60);

/// Bytes of one stream that wait, in each direction.
pub const PIPE: usize = 256 << 10;
/// The longest piece of a stream that is handed on at once.
pub const PIECE: usize = 32 << 10;
/// A piece shorter than this is joined with others, so that it costs what it weighs.
pub const SMALL: usize = 4 << 10;
/// Frames that wait for the socket.
pub const FRAMES: usize = 4;
/// The longest read from a socket at once, and the shortest.
pub const READ: usize = 64 << 10;
/// See [`READ`].
pub const READ_LEAST: usize = 2 << 10;

/// Payload of a control frame of SPDY.
pub const CONTROL_FRAME: usize = 32 << 10;
/// A header block of SPDY when it is inflated.
pub const HEADER_BLOCK: usize = 64 << 10;
/// Names in a header block.
pub const HEADER_NAMES: usize = 100;
/// Streams of one session at once: 512 forwarded connections.
pub const STREAMS: usize = 1024;
/// What a peer may send on a stream before it hears more (SPDY/3.1, 2.6.8).
pub const WINDOW: u32 = 64 << 10;
/// Payload of a control frame of WebSocket (RFC 6455, 5.5).
pub const WEBSOCKET_CONTROL: usize = 125;
/// One message with a size of the terminal.
pub const RESIZE: usize = 1 << 10;
/// Ports of one port-forward by WebSocket channels, which are numbered by a byte.
pub const PORTS: usize = 100;

/// What is said on an error stream at most.
pub const STATUS: usize = 16 << 10;
/// A client that is gone: how long what it started may take to end by itself before it is dropped.
pub const GRACE: Duration = Duration::from_secs(10);
/// How long a client may take to read the rest and close, once all is said.
pub const LINGER: Duration = Duration::from_secs(60);
/// How often a stalled session looks whether its client is still there.
pub const LOOK: Duration = Duration::from_secs(1);
/// How often a stalled session sends something, as only that tells of a client that is gone with its bytes unread.
pub const PROBE: Duration = Duration::from_secs(3);
