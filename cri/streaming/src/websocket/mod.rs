//! WebSocket, the server's side: the channel protocols of Kubernetes, and SPDY within WebSocket for port-forward.
//!
//! By hand, not by tokio-tungstenite: that library hands on whole messages, each in memory; here the bytes of a message
//! go on as they come, so that a client cannot make us hold more than a pipe, and the tunnel is a stream. What remains of
//! RFC 6455 for a server without extensions is one page: `frame` (pure), and `session`. `serve` says which channel is
//! which.

pub mod frame;
pub(crate) mod serve;
pub(crate) mod session;
