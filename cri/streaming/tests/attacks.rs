//! Attacks on the server and on sessions of SPDY; those on WebSockets are in `websocket`.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test reports by panicking"
)]
#![allow(dead_code, reason = "helpers are shared by several test programs")]

mod client;
mod echo;

/// Whether clients and server speak TLS.
const SECURE: bool = false;

use client::{Client, FORWARD, Frame, V4, World, block, text};
use rcrun_streaming::{Settings, limits};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn attack_window_overflow() {
    let world = World::new(Settings::default()).await;
    // A window that grows beyond the largest ends its stream.
    let mut client = Client::spdy(&world, "exec io stuck", V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    client
        .control(9, &[0, 0, 0, 5, 0x7f, 0xff, 0xff, 0xff])
        .await;
    assert_eq!(client.until(3).await, [0, 0, 0, 5, 0, 0, 0, 7]);
    // Of the whole session, that.
    client
        .control(9, &[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff])
        .await;
    assert_eq!(client.until(7).await[4..], [0, 0, 0, 1]);
    client.rest().await;
    // More than the window allows ends the stream, if the client has said that it knows windows.
    let mut client = Client::spdy(&world, "exec io stuck", V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    client.control(9, &[0, 0, 0, 0, 0, 0, 0, 1]).await;
    client.data(3, false, &[0; 100_000]).await;
    assert_eq!(client.until(3).await, [0, 0, 0, 3, 0, 0, 0, 7]);
    drop(client);
    world.quiet().await;
}

#[tokio::test]
async fn attack_header_bomb() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "exec io cat", V4).await;
    client
        .open(1, &[("streamtype", "error"), ("x", &"x".repeat(8 << 20))])
        .await;
    assert_eq!(client.until(7).await[4..], [0, 0, 0, 1]);
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn attack_many_headers() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "exec io cat", V4).await;
    let names: Vec<String> = (0..2000).map(|name| name.to_string()).collect();
    let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    assert!(block(&pairs).len() < limits::HEADER_BLOCK);
    client.open(1, &pairs).await;
    assert_eq!(client.until(7).await[4..], [0, 0, 0, 1]);
}

#[tokio::test]
async fn attack_endless_streams() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "forward 98", FORWARD).await;
    let (mut answered, mut refused) = (0, 0);
    for count in 0..u32::try_from(limits::STREAMS).unwrap() + 200 {
        let request = (count / 2).to_string();
        let kind = if count % 2 == 0 { "error" } else { "data" };
        let pairs = [
            ("streamtype", kind),
            ("port", "98"),
            ("requestid", request.as_str()),
        ];
        client.open(2 * count + 1, &pairs).await;
        match client.frame().await {
            Frame::Control(2, _) => answered += 1,
            Frame::Control(3, payload) if payload[7] == 3 => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((answered, refused), (limits::STREAMS, 200));
    assert!(world.seen.running.load(Ordering::SeqCst) <= limits::STREAMS / 2);
}

#[tokio::test]
async fn attack_rapid_reset() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "forward 80", FORWARD).await;
    for request in 0..2000_u32 {
        let name = request.to_string();
        for (offset, kind) in [(0, "error"), (2, "data")] {
            let id = request * 4 + 1 + offset;
            client
                .open(
                    id,
                    &[("streamtype", kind), ("port", "80"), ("requestid", &name)],
                )
                .await;
            assert!(matches!(client.frame().await, Frame::Control(2, _)));
        }
        for offset in [0, 2] {
            client
                .control(
                    3,
                    &[(request * 4 + 1 + offset).to_be_bytes(), [0, 0, 0, 5]].concat(),
                )
                .await;
        }
    }
    drop(client);
    world.quiet().await;
}

#[tokio::test]
async fn attack_stream_numbers_that_repeat() {
    let world = World::new(Settings::default()).await;
    for ids in [[1, 1], [3, 1], [1, 2]] {
        let mut client = Client::spdy(&world, "forward 80", FORWARD).await;
        for (id, kind) in ids.into_iter().zip(["data", "error"]) {
            client
                .open(
                    id,
                    &[("streamtype", kind), ("port", "80"), ("requestid", "0")],
                )
                .await;
        }
        assert_eq!(client.until(7).await[4..], [0, 0, 0, 1], "{ids:?}");
    }
}

#[tokio::test]
async fn attack_frames_that_are_none() {
    let world = World::new(Settings::default()).await;
    for bytes in [
        [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        [0x80, 2, 0, 1, 0, 0, 0, 0],
        [0x80, 3, 0, 1, 0, 0, 0, 2],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut client = Client::spdy(&world, "forward 80", FORWARD).await;
        client.send(&bytes).await;
        client.send(&[0; 64]).await;
        assert_eq!(client.until(7).await[4..], [0, 0, 0, 1], "{bytes:?}");
        client.rest().await;
    }
}

#[tokio::test]
async fn attack_never_read_client() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "exec o write 1000000000", V4).await;
    client.open_all(&["error", "stdout"]).await;
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let written = world.seen.written.load(Ordering::SeqCst);
        if written == before {
            break;
        }
        before = written;
    }
    // What the kernel takes for both ends, and a little of ours.
    assert!((1..32 << 20).contains(&before), "{before}");
    drop(client);
    world.quiet().await;
    assert_eq!(world.seen.gone.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn attack_pings_without_reading() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "forward 80", FORWARD).await;
    let pings = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1].repeat(10_000);
    let flood = async {
        use tokio::io::AsyncWriteExt;
        while client.socket.write_all(&pings).await.is_ok() {}
    };
    // The server stops reading, and so the flood stops.
    let flooded = tokio::time::timeout(Duration::from_secs(3), flood).await;
    assert!(flooded.is_err(), "the server neither closed nor failed");
}

#[tokio::test]
async fn attack_token_guessing_and_reuse() {
    let world = World::new(Settings::default()).await;
    let (host, path) = world.url("exec o exit 0");
    let upgrade = ["Connection: Upgrade", "Upgrade: SPDY/3.1"];
    let other = path.replace("/exec/", "/attach/");
    let shorter = &path[..path.len() - 1];
    let longer = format!("{path}x");
    let below = format!("{path}/x");
    let guess = format!("/exec/{}", "A".repeat(32));
    for wrong in [
        "/exec/", shorter, &longer, &below, &guess, &other, "/exec/..", "/",
    ] {
        let answer = Client::connect(&host)
            .await
            .ask(&format!("GET {wrong}"), &upgrade)
            .await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{wrong}: {answer}");
    }
    for expected in ["HTTP/1.1 101 ", "HTTP/1.1 404 "] {
        let mut client = Client::connect(&host).await;
        let answer = client.ask(&format!("GET {path}"), &upgrade).await;
        assert!(answer.starts_with(expected), "{answer}");
    }
}

#[tokio::test]
async fn attack_request_smuggling() {
    let world = World::new(Settings::default()).await;
    for fields in [
        &[
            "Connection: Upgrade",
            "Upgrade: SPDY/3.1",
            "Upgrade: websocket",
        ][..],
        &["Connection: Upgrade", "Upgrade: SPDY/3.1, websocket"],
        &[
            "Connection: Upgrade",
            "Upgrade: SPDY/3.1",
            "Transfer-Encoding: chunked",
        ],
        &[
            "Connection: Upgrade",
            "Upgrade: SPDY/3.1",
            "Content-Length: 10",
        ],
        &["Connection: Upgrade", "Upgrade: SPDY/3.1", "Host: two"],
    ] {
        let (host, path) = world.url("exec o exit 0");
        let mut client = Client::connect(&host).await;
        // A second request behind the first is never looked at.
        let second = format!("\r\n\r\nGET {path} HTTP/1.1");
        let all: Vec<&str> = fields
            .iter()
            .copied()
            .chain([second.as_str()])
            .chain(fields[..2].iter().copied())
            .collect();
        let answer = client.ask(&format!("POST {path}"), &all).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{fields:?}: {answer}");
        assert!(!answer.contains("101"), "{answer}");
        let mut rest = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut client.socket, &mut rest)
            .await
            .unwrap_or(0);
        assert!(!text(&rest).contains("HTTP/1.1 4"), "one answer only");
    }
    assert_eq!(world.seen.all.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn attack_connections_that_say_nothing() {
    let world = World::new(Settings::default()).await;
    let (host, _) = world.url("exec o exit 0");
    let mut silent = Vec::new();
    for at in 0..2 * limits::STRANGERS {
        let mut client = Client::connect(&host).await;
        if at % 2 == 0 {
            client.send(b"GET /exec/").await;
        }
        silent.push(client);
    }
    let mut client = Client::spdy(&world, "exec oe exit 3", V4).await;
    client.open_all(&["error", "stdout", "stderr"]).await;
    assert_eq!(text(&client.rest().await[&3].0), "out\n");
    // The oldest had to go, the newest have their time.
    let mut byte = [0];
    let oldest = tokio::io::AsyncReadExt::read(&mut silent[0].socket, &mut byte).await;
    assert!(matches!(oldest, Ok(0) | Err(_)), "{oldest:?}");
    let newest = silent.last_mut().unwrap();
    newest.send(b"x").await;
    let waits = tokio::io::AsyncReadExt::read(&mut newest.socket, &mut byte);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), waits)
            .await
            .is_err()
    );
}
