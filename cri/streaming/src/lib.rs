//! Streaming of the CRI: exec, attach and port-forward on one-time URLs, as a kubelet and its clients speak them.
//!
//! It owns the HTTP server, the tokens and the protocols. It does not own what runs in containers: that is a
//! [`Backend`], which is given [`Streams`] or a [`Duplex`] and knows no protocol. Nor does it know the messages of the
//! CRI: who serves them makes a [`Request`] and hands its URL on.
//!
//! ```text
//! Urls::issue -> http://127.0.0.1:PORT/exec/TOKEN       server, http, token; https: tls, socket
//!   SPDY/3.1 or WebSocket                               spdy, websocket
//!     pipes, a status                                   pipe, remote, status
//!       Backend::exec(request, Streams)                 backend
//! ```
//!
//! References: the CRI's `Exec`, `Attach`, `PortForward`; SPDY/3.1 (<https://www.chromium.org/spdy/spdy-protocol/>);
//! RFC 6455; for the channels, what the kubelet's and kubectl's sources do.

#![forbid(unsafe_code)]

mod backend;
pub mod http;
pub mod limits;
mod pipe;
mod remote;
mod request;
mod server;
mod settings;
mod socket;
pub mod spdy;
mod status;
mod tls;
mod token;
mod transport;
pub mod websocket;

pub use backend::{Backend, Duplex, Gone, Resizes, Size, Streams};
pub use pipe::{Reader, Writer};
pub use request::{AttachRequest, ExecRequest, PortForwardRequest, Request, Wanted};
pub use server::{Server, Urls};
pub use settings::Settings;
pub use tls::Tls;
