//! Exec, attach and port-forward over a session of SPDY.
//!
//! Streams are told apart by the header `streamtype`, and of forwarded connections by `port` and `requestid`: an `error`
//! stream and a `data` stream for each.

use super::headers::Headers;
use super::session::{Session, Stream};
use crate::backend::{Backend, Duplex};
use crate::remote::{self, Wire};
use crate::request::{PortForwardRequest, Request, Wanted};
use crate::settings::Settings;
use crate::status::{self, Style};
use crate::transport::{Input, Output};
use bytes::BytesMut;
use rcrun_error::Result;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// The protocol of port-forward.
const PORT_FORWARD: &str = "portforward.k8s.io";

/// A version of the protocol of exec and attach.
#[derive(Debug, Clone, Copy)]
struct Version {
    name: &'static str,
    style: Style,
    resizes: bool,
}

/// All of them. Without a name a client speaks the first.
const VERSIONS: &[Version] = &[
    version("channel.k8s.io", Style::Plain, false),
    version("v2.channel.k8s.io", Style::Plain, false),
    version("v3.channel.k8s.io", Style::Plain, true),
    version("v4.channel.k8s.io", Style::Json, true),
];

const fn version(name: &'static str, style: Style, resizes: bool) -> Version {
    Version {
        name,
        style,
        resizes,
    }
}

/// What a request can be served with.
pub(crate) fn names(request: &Request) -> Vec<&'static str> {
    match request {
        Request::PortForward(_) => vec![PORT_FORWARD],
        _ => VERSIONS.iter().map(|version| version.name).collect(),
    }
}

/// The first of the client's protocols that is known. A client of the first version names none.
pub(crate) fn negotiate(asked: &[String], known: &[&'static str]) -> Option<&'static str> {
    if asked.is_empty() {
        return known.first().copied();
    }
    asked
        .iter()
        .find_map(|asked| known.iter().find(|known| *known == asked).copied())
}

/// Serves a request with the protocol of this name.
pub(crate) async fn serve<B: Backend>(
    backend: &Arc<B>,
    request: Request,
    name: &str,
    ends: (Input, Output),
    already: BytesMut,
    settings: &Settings,
) {
    let wanted = match &request {
        Request::Exec(exec) => exec.streams,
        Request::Attach(attach) => attach.streams,
        Request::PortForward(forward) => {
            return port_forward(backend, forward.clone(), ends, already, settings).await;
        }
    };
    if let Some(version) = VERSIONS.iter().find(|version| version.name == name) {
        remote(
            &**backend,
            (request, wanted),
            *version,
            ends,
            already,
            settings,
        )
        .await;
    }
}

fn kind(headers: &Headers) -> &str {
    headers.get("streamtype").unwrap_or_default()
}

/// Serves exec or attach.
async fn remote<B: Backend>(
    backend: &B,
    (request, wanted): (Request, Wanted),
    version: Version,
    ends: (Input, Output),
    already: BytesMut,
    settings: &Settings,
) {
    let known = |headers: &Headers| {
        ["error", "stdin", "stdout", "stderr", "resize"].contains(&kind(headers))
    };
    let mut session = Session::begin(ends, already, settings.idle_timeout, known);
    let expected = remote::expected(wanted, version.resizes);
    let limit = settings.creation_timeout;
    let mut found = Vec::new();
    let complete = timeout(limit, collect(&mut session, &expected, &mut found)).await;
    session.no_more();
    // The other halves stay open until the session ends: a client takes the end of our half of standard input for the
    // end of the program.
    let (mut wire, mut kept) = (Wire::default(), Vec::new());
    for stream in found {
        let Stream {
            headers,
            input,
            output,
            ..
        } = stream;
        match kind(&headers) {
            "stdin" => (wire.stdin, kept) = (Some(input), keep(kept, output)),
            "resize" => (wire.resize, kept) = (Some(input), keep(kept, output)),
            "stdout" => wire.stdout = Some(output),
            "stderr" => wire.stderr = Some(output),
            _ => wire.error = Some(output),
        }
    }
    match complete {
        Ok(true) => {
            let gone = session.gone();
            remote::run(backend, request, wire, version.style, gone).await;
        }
        // The client is gone before it began.
        Ok(false) => return,
        Err(_) => remote::refuse(wire.error.take(), version.style, remote::too_few(limit)).await,
    }
    session.close().await;
    drop(kept);
}

fn keep<T>(mut kept: Vec<T>, another: T) -> Vec<T> {
    kept.push(another);
    kept
}

/// Accepts streams until all are there; false if the client is gone. One that is not expected, or comes twice, is refused.
async fn collect(session: &mut Session, expected: &[&str], found: &mut Vec<Stream>) -> bool {
    while found.len() < expected.len() {
        let Some(stream) = session.accept().await else {
            return false;
        };
        let kind = kind(&stream.headers);
        let twice = found.iter().any(|known| self::kind(&known.headers) == kind);
        if twice || !expected.contains(&kind) {
            session.reset(stream.id).await;
        } else {
            found.push(stream);
        }
    }
    true
}

/// One half of a forwarded connection that waits for the other.
struct Half {
    stream: Stream,
    since: Instant,
}

/// Serves port-forward: any number of connections, until the client closes.
pub(crate) async fn port_forward<B: Backend>(
    backend: &Arc<B>,
    request: PortForwardRequest,
    ends: (Input, Output),
    already: BytesMut,
    settings: &Settings,
) {
    let mut session = Session::begin(ends, already, settings.idle_timeout, forwardable);
    let (mut halves, mut running) = (HashMap::new(), JoinSet::new());
    let limit = settings.creation_timeout;
    loop {
        let oldest = halves.values().map(|half: &Half| half.since + limit).min();
        let late = oldest.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            stream = session.accept() => match stream {
                Some(stream) => {
                    let pair = pair(&mut halves, stream, &session).await;
                    if let Some((data, error)) = pair {
                        running.spawn(connection(Arc::clone(backend), request.clone(), data, error, session.gone()));
                    }
                }
                None => break,
            },
            Some(_) = running.join_next(), if !running.is_empty() => {}
            () = sleep_until(late) => {
                let now = Instant::now();
                let (late, early) = halves.into_iter().partition(|(_, half)| half.since + limit <= now);
                halves = early;
                let late: HashMap<String, Half> = late;
                for half in late.into_values() {
                    session.reset(half.stream.id).await;
                }
            }
        }
    }
    // Each has its time to end, as it has heard that the client is gone.
    while running.join_next().await.is_some() {}
}

fn port(headers: &Headers) -> Option<u16> {
    headers.get("port")?.parse().ok().filter(|port| *port != 0)
}

fn forwardable(headers: &Headers) -> bool {
    ["data", "error"].contains(&kind(headers)) && port(headers).is_some()
}

/// Joins a stream with its other half, if that is there: data and error.
async fn pair(
    halves: &mut HashMap<String, Half>,
    stream: Stream,
    session: &Session,
) -> Option<(Stream, Stream)> {
    // Old clients number no requests; their data stream is the next one behind its error stream.
    let name = match (stream.headers.get("requestid"), kind(&stream.headers)) {
        (Some(request), _) => request.to_owned(),
        (None, "error") => format!("stream {}", stream.id),
        (None, _) => format!("stream {}", stream.id.saturating_sub(2)),
    };
    match halves.remove(&name) {
        Some(Half { stream: other, .. })
            if kind(&other.headers) != kind(&stream.headers)
                && port(&other.headers) == port(&stream.headers) =>
        {
            let data = kind(&stream.headers) == "data";
            Some(if data {
                (stream, other)
            } else {
                (other, stream)
            })
        }
        Some(half) => {
            // Twice the same: the first one stays.
            halves.insert(name, half);
            session.reset(stream.id).await;
            None
        }
        None => {
            let since = Instant::now();
            halves.insert(name, Half { stream, since });
            None
        }
    }
}

/// One forwarded connection.
async fn connection<B: Backend>(
    backend: Arc<B>,
    request: PortForwardRequest,
    data: Stream,
    mut error: Stream,
    gone: crate::Gone,
) {
    let Some(port) = port(&data.headers) else {
        return;
    };
    let duplex = Duplex {
        from: data.input,
        to: data.output,
        gone: gone.clone(),
    };
    let done: Result<()> =
        remote::until_gone(backend.port_forward(request, port, duplex), &gone).await;
    if let Err(why) = done {
        let _ = error
            .output
            .write_all(status::message(&why).as_bytes())
            .await;
    }
    error.output.finish();
}
