//! `GET /metrics` over HTTP/1.1 (RFC 9112), for who scrapes: a request, an answer, and the connection ends.
//!
//! That is all there is, so there is no HTTP library: of a request the first line counts. Heads have a
//! longest size and a time limit, connections a greatest number; who is beyond them is not answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::text::MEDIA_TYPE;
use super::told::page;
use crate::core::Core;
use crate::{Context, Result};

/// The longest head of a request.
const MOST_HEAD: usize = 8 << 10;
/// Connections at a time.
const MOST_CONNECTIONS: usize = 8;
/// How long a request may take to come, and its answer to go.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an error of accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens and answers, where that is wanted, until it is called off.
pub(crate) async fn start(
    core: &Arc<Core>,
    address: Option<SocketAddr>,
) -> Result<Option<JoinHandle<()>>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let failed = || format!("cannot listen on {address}, the setting cri.metrics_address");
    let listener = TcpListener::bind(address).await.context(failed)?;
    Ok(Some(tokio::spawn(serve(listener, Arc::clone(core)))))
}

async fn serve(listener: TcpListener, core: Arc<Core>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!("cannot accept a connection for metrics: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let core = Arc::clone(&core);
        tokio::spawn(async move {
            let answered = tokio::time::timeout(PATIENCE, answer(stream, &core)).await;
            drop(place);
            if let Ok(Err(error)) = answered {
                tracing::debug!("a connection for metrics ended: {error}");
            }
        });
    }
}

async fn answer(stream: TcpStream, core: &Arc<Core>) -> std::io::Result<()> {
    let Some(head) = head(&stream).await? else {
        return Ok(());
    };
    let answer = match asked(&head) {
        Asked::Page { with_body } => {
            let page = page(core).await;
            response(
                "200 OK",
                &format!("Content-Type: {MEDIA_TYPE}\r\n"),
                &page,
                with_body,
            )
        }
        Asked::Elsewhere => response("404 Not Found", "", "the metrics are at /metrics\n", true),
        Asked::Otherwise => response("405 Method Not Allowed", "Allow: GET, HEAD\r\n", "", true),
        Asked::Nothing => response("400 Bad Request", "", "this is HTTP/1.1\n", true),
    };
    write(&stream, answer.as_bytes()).await?;
    // Then nothing that the client still sends can cost it the answer.
    rustix::net::shutdown(&stream, rustix::net::Shutdown::Write)?;
    let mut rest = [0; 512];
    for _ in 0..MOST_HEAD / rest.len() {
        if read(&stream, &mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

async fn read(stream: &TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(count) => bytes = &bytes[count..],
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The head of a request; none if there comes none, or none of a bearable size.
async fn head(stream: &TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let count = read(stream, &mut piece).await?;
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&piece[..count]);
        if head[from..].windows(4).any(|four| four == b"\r\n\r\n") {
            return Ok(Some(head));
        }
        if count == 0 || head.len() > MOST_HEAD {
            return Ok(None);
        }
    }
}

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Page {
        with_body: bool,
    },
    /// Another path.
    Elsewhere,
    /// Another method.
    Otherwise,
    /// Not HTTP/1.
    Nothing,
}

fn asked(head: &[u8]) -> Asked {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return Asked::Nothing;
    };
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.0" | "HTTP/1.1"] = words[..] else {
        return Asked::Nothing;
    };
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        ("GET" | "HEAD", "/metrics") => Asked::Page {
            with_body: method == "GET",
        },
        ("GET" | "HEAD", _) => Asked::Elsewhere,
        _ => Asked::Otherwise,
    }
}

fn response(status: &str, headers: &str, body: &str, with_body: bool) -> String {
    let length = body.len();
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let page = |with_body| Asked::Page { with_body };
        for (line, expected) in [
            ("GET /metrics HTTP/1.1", page(true)),
            ("GET /metrics?x=1 HTTP/1.0", page(true)),
            ("HEAD /metrics HTTP/1.1", page(false)),
            ("GET / HTTP/1.1", Asked::Elsewhere),
            ("GET /metrics/ HTTP/1.1", Asked::Elsewhere),
            ("POST /metrics HTTP/1.1", Asked::Otherwise),
            ("PRI * HTTP/2.0", Asked::Nothing),
            ("GET /metrics", Asked::Nothing),
            ("GET  /metrics HTTP/1.1", Asked::Nothing),
            ("", Asked::Nothing),
        ] {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            assert_eq!(asked(head.as_bytes()), expected, "{line}");
        }
        assert_eq!(asked(b"\xff\r\n\r\n"), Asked::Nothing);
    }

    #[test]
    fn heads_that_are_too_long_or_end_early() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let read = |sent: Vec<u8>| {
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap())
                    .await
                    .unwrap();
                let (stream, _) = listener.accept().await.unwrap();
                let sending = async {
                    let _ = write(&client, &sent).await;
                    let _ = rustix::net::shutdown(&client, rustix::net::Shutdown::Write);
                };
                tokio::join!(head(&stream), sending).0.unwrap()
            })
        };
        assert!(read(b"GET / HTTP/1.1\r\n\r\n".to_vec()).is_some());
        assert!(read(b"GET / HTTP/1.1\r\n".to_vec()).is_none());
        assert!(read(vec![b'a'; MOST_HEAD + 2048]).is_none());
        assert!(read(Vec::new()).is_none());
        // An end that comes in two pieces.
        let mut split = vec![b'a'; 1022];
        split.extend_from_slice(b"\r\n\r\n");
        assert!(read(split).is_some());
    }
}
