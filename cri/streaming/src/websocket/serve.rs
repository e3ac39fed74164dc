//! Exec, attach and port-forward over WebSocket: which protocol, and which channel is which.
//!
//! Of exec and attach: 0 standard input, 1 standard output, 2 standard error, 3 the end, 4 sizes of the terminal, and in
//! the fifth version 255, whose message names a channel that the client closes. Of port-forward: two channels for each
//! port of the request, data and error, and the first message on each is the port, in two bytes, the low one first.
//! `SPDY/3.1+portforward.k8s.io` is a session of SPDY whose bytes are those of the messages.

use super::session::{Framing, Session};
use crate::backend::{Backend, Duplex};
use crate::http::{self, Refused};
use crate::pipe;
use crate::remote::{self, Wire};
use crate::request::{PortForwardRequest, Request, Wanted};
use crate::settings::Settings;
use crate::spdy;
use crate::status::{self, Style};
use crate::transport::{Input, Output};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

/// A protocol that a client may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Protocol {
    /// Empty for a client that names none.
    pub(crate) name: &'static str,
    framing: Framing,
    style: Style,
    tunnel: bool,
}

const fn protocol(name: &'static str, base64: bool, half_close: bool, style: Style) -> Protocol {
    let framing = Framing {
        channels: true,
        base64,
        half_close,
    };
    Protocol {
        name,
        framing,
        style,
        tunnel: false,
    }
}

/// Of exec and attach.
const REMOTE: &[Protocol] = &[
    protocol("", false, false, Style::Plain),
    protocol("channel.k8s.io", false, false, Style::Plain),
    protocol("base64.channel.k8s.io", true, false, Style::Plain),
    protocol("v4.channel.k8s.io", false, false, Style::Json),
    protocol("v4.base64.channel.k8s.io", true, false, Style::Json),
    protocol("v5.channel.k8s.io", false, true, Style::Json),
];

/// Of port-forward.
const FORWARD: &[Protocol] = &[
    protocol("", false, false, Style::Plain),
    protocol("v4.channel.k8s.io", false, false, Style::Plain),
    protocol("v4.base64.channel.k8s.io", true, false, Style::Plain),
    protocol("v5.channel.k8s.io", false, true, Style::Plain),
    Protocol {
        name: "SPDY/3.1+portforward.k8s.io",
        framing: Framing {
            channels: false,
            base64: false,
            half_close: false,
        },
        style: Style::Plain,
        tunnel: true,
    },
];

/// The first of the client's protocols that is known.
pub(crate) fn negotiate(asked: &[String], request: &Request) -> Result<Protocol, Refused> {
    let known = match request {
        Request::PortForward(_) => FORWARD,
        _ => REMOTE,
    };
    let find = |name: &str| known.iter().find(|known| known.name == name).copied();
    let found = match asked {
        [] => find(""),
        asked => asked.iter().find_map(|name| find(name)),
    };
    let why = "none of the client's protocols is served here";
    let found = found.ok_or(Refused { status: 403, why })?;
    match request {
        Request::PortForward(forward) if forward.ports.is_empty() && !found.tunnel => {
            Err(Refused {
                status: 400,
                why: "a port-forward by channels needs its ports in the request",
            })
        }
        _ => Ok(found),
    }
}

/// The answer that begins the connection (RFC 6455, 4.2.2).
pub(crate) fn switch(key: &str, protocol: Protocol) -> String {
    const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let both = format!("{key}{MAGIC}");
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, both.as_bytes());
    let mut fields = format!("Sec-WebSocket-Accept: {}\r\n", STANDARD.encode(hash));
    if !protocol.name.is_empty() {
        fields += &format!("Sec-WebSocket-Protocol: {}\r\n", protocol.name);
    }
    http::switch("websocket", &fields)
}

/// Serves a request.
pub(crate) async fn serve<B: Backend>(
    backend: &Arc<B>,
    request: Request,
    protocol: Protocol,
    ends: (Input, Output),
    already: BytesMut,
    settings: &Settings,
) {
    let wanted = match request {
        Request::Exec(ref exec) => exec.streams,
        Request::Attach(ref attach) => attach.streams,
        Request::PortForward(forward) if protocol.tunnel => {
            return tunnel(backend, forward, protocol, ends, already, settings).await;
        }
        Request::PortForward(forward) => {
            return port_forward(backend, &forward, protocol, ends, already, settings).await;
        }
    };
    remote(
        &**backend,
        (request, wanted),
        protocol,
        ends,
        already,
        settings,
    )
    .await;
}

/// Exec and attach.
async fn remote<B: Backend>(
    backend: &B,
    (request, wanted): (Request, Wanted),
    protocol: Protocol,
    ends: (Input, Output),
    already: BytesMut,
    settings: &Settings,
) {
    let (mut wire, mut inputs, mut outputs) = (Wire::default(), HashMap::new(), Vec::new());
    let mut from_client = |channel, wanted: bool| {
        wanted.then(|| {
            let (writer, reader) = pipe::inward(None);
            inputs.insert(channel, writer);
            reader
        })
    };
    wire.stdin = from_client(0, wanted.stdin);
    wire.resize = from_client(4, wanted.tty);
    let mut to_client = |channel, wanted: bool| {
        wanted.then(|| {
            let (writer, reader) = pipe::outward();
            outputs.push((channel, reader));
            writer
        })
    };
    wire.stdout = to_client(1, wanted.stdout);
    wire.stderr = to_client(2, wanted.stderr && !wanted.tty);
    wire.error = to_client(3, true);
    let first = outputs.first().map_or(3, |(channel, _)| *channel);
    let channels = (inputs, outputs);
    let session = Session::begin(
        ends,
        already,
        settings.idle_timeout,
        protocol.framing,
        channels,
    );
    session.greet(first).await;
    let gone = session.gone();
    remote::run(backend, request, wire, protocol.style, gone).await;
    session.close().await;
}

/// Port-forward by channels: one connection for each port of the request.
async fn port_forward<B: Backend>(
    backend: &Arc<B>,
    request: &PortForwardRequest,
    protocol: Protocol,
    ends: (Input, Output),
    already: BytesMut,
    settings: &Settings,
) {
    let (mut inputs, mut outputs, mut pairs) = (HashMap::new(), Vec::new(), Vec::new());
    for (channel, port) in (0_u8..).step_by(2).zip(&request.ports) {
        let (writer, from) = pipe::inward(None);
        let (mut to, data) = pipe::outward();
        let (mut error, errors) = pipe::outward();
        inputs.insert(channel, writer);
        outputs.extend([(channel, data), (channel + 1, errors)]);
        for stream in [&mut to, &mut error] {
            // It is empty, so there is room.
            let _ = stream.write_all(&port.to_le_bytes()).await;
        }
        pairs.push((*port, from, to, error));
    }
    let channels = (inputs, outputs);
    let session = Session::begin(
        ends,
        already,
        settings.idle_timeout,
        protocol.framing,
        channels,
    );
    let mut running = JoinSet::new();
    for (port, from, to, mut error) in pairs {
        let (backend, request, gone) = (Arc::clone(backend), request.clone(), session.gone());
        running.spawn(async move {
            let duplex = Duplex {
                from,
                to,
                gone: gone.clone(),
            };
            let work = backend.port_forward(request, port, duplex);
            if let Err(why) = remote::until_gone(work, &gone).await {
                let _ = error.write_all(status::message(&why).as_bytes()).await;
            }
        });
    }
    while running.join_next().await.is_some() {}
    session.close().await;
}

/// Port-forward by SPDY within WebSocket.
async fn tunnel<B: Backend>(
    backend: &Arc<B>,
    request: PortForwardRequest,
    protocol: Protocol,
    ends: (Input, Output),
    already: BytesMut,
    settings: &Settings,
) {
    let (writer, from) = pipe::inward(None);
    let (to, reader) = pipe::outward();
    let channels = (HashMap::from([(0, writer)]), vec![(0, reader)]);
    let session = Session::begin(
        ends,
        already,
        settings.idle_timeout,
        protocol.framing,
        channels,
    );
    let inside = (Input::Tunnel(from), Output::Tunnel(to));
    spdy::serve::port_forward(backend, request, inside, BytesMut::new(), settings).await;
    session.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str], request: &Request) -> Result<&'static str, u16> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let found = negotiate(&names, request);
        found
            .map(|found| found.name)
            .map_err(|refused| refused.status)
    }

    fn forward(ports: &[u16]) -> Request {
        let (sandbox, ports) = ("pod".to_owned(), ports.to_vec());
        Request::PortForward(PortForwardRequest { sandbox, ports })
    }

    #[test]
    fn the_first_known_protocol_of_the_client_is_taken() {
        let attach = Request::Attach(crate::AttachRequest {
            container: String::new(),
            streams: Wanted {
                stdout: true,
                ..Wanted::default()
            },
        });
        let all = [
            "v6.channel.k8s.io",
            "v5.channel.k8s.io",
            "v4.channel.k8s.io",
        ];
        assert_eq!(named(&all, &attach), Ok("v5.channel.k8s.io"));
        assert_eq!(named(&[], &attach), Ok(""));
        assert_eq!(named(&["soap"], &attach), Err(403));
        assert_eq!(named(&["SPDY/3.1+portforward.k8s.io"], &attach), Err(403));
        let tunnel = "SPDY/3.1+portforward.k8s.io";
        assert_eq!(named(&[tunnel], &forward(&[])), Ok(tunnel));
        assert_eq!(
            named(&["v4.channel.k8s.io"], &forward(&[80])),
            Ok("v4.channel.k8s.io")
        );
        assert_eq!(named(&["v4.channel.k8s.io"], &forward(&[])), Err(400));
    }

    #[test]
    fn the_key_is_answered_as_the_standard_says() {
        // The example of RFC 6455, 1.3.
        let answer = switch("dGhlIHNhbXBsZSBub25jZQ==", REMOTE[5]);
        assert!(
            answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"),
            "{answer}"
        );
    }
}
