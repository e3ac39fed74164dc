//! Sessions of SPDY over sockets, and attacks on them.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test reports by panicking"
)]
#![allow(dead_code, reason = "helpers are shared by several test programs")]

mod client;
mod echo;

use client::{Client, Frame, World, block};
use rcrun_streaming::{Settings, limits};
use std::sync::atomic::Ordering;
use std::time::Duration;

const V4: &str = "v4.channel.k8s.io";
const FORWARD: &str = "portforward.k8s.io";

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn exec_says_its_output_and_its_exit_code() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "exec oe exit 3", V4).await;
    client.open_all(&["error", "stdout", "stderr"]).await;
    let all = client.rest().await;
    assert_eq!(all[&3], (b"out\n".to_vec(), true));
    assert_eq!(all[&5], (b"err\n".to_vec(), true));
    let status: serde_json::Value = serde_json::from_slice(&all[&1].0).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3");
}

#[tokio::test]
async fn the_first_versions_say_a_sentence() {
    let world = World::new(Settings::default()).await;
    for version in ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io"] {
        for (code, expected) in [
            ("0", ""),
            ("3", "command terminated with non-zero exit code: 3"),
        ] {
            let mut client = Client::spdy(&world, &format!("exec o exit {code}"), version).await;
            client.open_all(&["error", "stdout"]).await;
            assert_eq!(text(&client.rest().await[&1].0), expected, "{version}");
        }
    }
}

#[tokio::test]
async fn streams_come_in_any_order_and_only_those_that_were_asked_for() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "exec io cat", V4).await;
    client.open(1, &[("streamtype", "stdin")]).await;
    client.open(3, &[("streamtype", "stderr")]).await;
    client.open(5, &[("streamtype", "stdin")]).await;
    client.open(7, &[("streamtype", "nonsense")]).await;
    let mut refused = Vec::new();
    while refused.len() < 3 {
        refused.push(client.until(3).await[3]);
    }
    refused.sort_unstable();
    assert_eq!(refused, [3, 5, 7]);
    client.open(9, &[("streamtype", "stdout")]).await;
    client.open(11, &[("streamtype", "error")]).await;
    client.data(1, false, b"hel").await;
    client.data(1, true, b"lo").await;
    assert_eq!(client.rest().await[&9], (b"hello".to_vec(), true));
}

#[tokio::test]
async fn a_client_that_opens_too_few_streams_is_told() {
    let creation_timeout = Duration::from_millis(200);
    let world = World::new(Settings {
        creation_timeout,
        ..Settings::default()
    })
    .await;
    let mut client = Client::spdy(&world, "exec io cat", V4).await;
    client.open_all(&["error", "stdin"]).await;
    let all = client.rest().await;
    assert!(
        text(&all[&1].0).contains("did not open all streams"),
        "{all:?}"
    );
    assert_eq!(world.seen.all.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_idle_session_ends() {
    let idle_timeout = Duration::from_millis(300);
    let world = World::new(Settings {
        idle_timeout,
        ..Settings::default()
    })
    .await;
    let mut client = Client::spdy(&world, "exec io cat", V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    client.rest().await;
    world.quiet().await;
    assert_eq!(world.seen.all.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn pings_of_the_client_are_answered() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "forward 80", FORWARD).await;
    client.control(6, &[0, 0, 0, 7]).await;
    assert_eq!(client.frame().await, Frame::Control(6, vec![0, 0, 0, 7]));
}

#[tokio::test]
async fn forwarded_connections_are_pairs() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "forward 80", FORWARD).await;
    // Two that are named, their halves mixed, and one of an old client.
    for (id, kind, request) in [
        (1, "error", "0"),
        (3, "error", "1"),
        (5, "data", "1"),
        (7, "data", "0"),
    ] {
        client
            .open(
                id,
                &[("streamtype", kind), ("port", "80"), ("requestid", request)],
            )
            .await;
    }
    client
        .open(9, &[("streamtype", "error"), ("port", "99")])
        .await;
    client
        .open(11, &[("streamtype", "data"), ("port", "99")])
        .await;
    for id in [5, 7] {
        client.data(id, true, format!("to {id}").as_bytes()).await;
    }
    let (mut said, mut ended) = (std::collections::BTreeMap::<u32, Vec<u8>>::new(), 0);
    while ended < 6 {
        if let Frame::Data(id, fin, bytes) = client.frame().await {
            said.entry(id).or_default().extend_from_slice(&bytes);
            ended += usize::from(fin);
        }
    }
    assert_eq!((text(&said[&5]), text(&said[&7])), ("to 5", "to 7"));
    assert_eq!(
        text(&said[&9]),
        "cannot connect to port 99: connection refused"
    );
    assert!(said[&1].is_empty() && said[&3].is_empty());
}

#[tokio::test]
async fn halves_that_stay_alone_or_have_no_port_are_refused() {
    let creation_timeout = Duration::from_millis(200);
    let world = World::new(Settings {
        creation_timeout,
        ..Settings::default()
    })
    .await;
    let mut client = Client::spdy(&world, "forward 80", FORWARD).await;
    for (id, port) in [(1, "0"), (3, "65536"), (5, "http"), (7, "")] {
        client
            .open(
                id,
                &[("streamtype", "data"), ("port", port), ("requestid", "0")],
            )
            .await;
        assert_eq!(client.until(3).await[..4], id.to_be_bytes());
    }
    client
        .open(
            9,
            &[("streamtype", "data"), ("port", "80"), ("requestid", "0")],
        )
        .await;
    assert_eq!(client.until(3).await[..4], 9_u32.to_be_bytes());
    assert_eq!(world.seen.all.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_stream_that_the_client_resets_ends_alone() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "forward 80", FORWARD).await;
    for (id, kind, request) in [
        (1, "error", "0"),
        (3, "data", "0"),
        (5, "error", "1"),
        (7, "data", "1"),
    ] {
        client
            .open(
                id,
                &[("streamtype", kind), ("port", "80"), ("requestid", request)],
            )
            .await;
    }
    while world.seen.running.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.control(3, &[0, 0, 0, 3, 0, 0, 0, 5]).await;
    while world.seen.running.load(Ordering::SeqCst) > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.data(7, true, b"alive").await;
    loop {
        match client.frame().await {
            Frame::Data(7, _, bytes) if bytes == b"alive" => break,
            Frame::End => panic!("the session ended"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_client_with_windows_is_sent_no_more_than_they_allow() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "exec o write 100000", V4).await;
    // SETTINGS: streams begin with a window of 1000 bytes.
    client
        .control(4, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 3, 0xe8])
        .await;
    client.open_all(&["error", "stdout"]).await;
    let mut got = 0;
    let mut windows = [1000, 5000, 70_000, 100_000].into_iter();
    let mut window = windows.next().unwrap();
    loop {
        match client.frame().await {
            Frame::Data(3, fin, bytes) => {
                got += bytes.len();
                assert!(got <= window, "{got} of {window}");
                if fin {
                    break;
                }
                if got == window && got < 100_000 {
                    let next = windows.next().unwrap();
                    let delta = u32::try_from(next - window).unwrap();
                    window = next;
                    for id in [0_u32, 3] {
                        client
                            .control(9, &[id.to_be_bytes(), delta.to_be_bytes()].concat())
                            .await;
                    }
                }
            }
            Frame::End => panic!("the session ended after {got}"),
            _ => {}
        }
    }
    assert_eq!(got, 100_000);
}

#[tokio::test]
async fn a_client_is_told_when_its_bytes_are_used() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "exec io count", V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    client.control(9, &[0, 0, 0, 0, 0, 0, 0, 1]).await;
    let mut told = [0_u32; 2];
    for _ in 0..4 {
        client.data(3, false, &[b'x'; 40_000]).await;
        while told.iter().any(|told| *told < 40_000) {
            let window = client.until(9).await;
            let number = |at| u32::from_be_bytes(<[u8; 4]>::try_from(&window[at..at + 4]).unwrap());
            told[usize::from(number(0) != 0)] += number(4);
        }
        told.iter_mut().for_each(|told| *told -= 40_000);
    }
    client.data(3, true, b"").await;
    assert!(text(&client.rest().await[&5].0).starts_with("160000 "));
}

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
    drop(client);
    // Back ends that do not end by themselves are dropped after a while; that is tested with patience only.
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
async fn a_client_that_vanishes_ends_what_it_began() {
    let world = World::new(Settings::default()).await;
    for program in [
        "cat",
        "count",
        "half",
        "stuck",
        "sleep 1000",
        "write 1000000000",
    ] {
        let mut client = Client::spdy(&world, &format!("exec io {program}"), V4).await;
        client.open_all(&["error", "stdin", "stdout"]).await;
        while world.seen.running.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(client);
        world.quiet().await;
    }
    assert_eq!(world.seen.gone.load(Ordering::SeqCst), 6);
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
async fn an_unknown_protocol_is_answered_with_those_that_are_known() {
    let world = World::new(Settings::default()).await;
    let (host, path) = world.url("exec o exit 0");
    let fields = [
        "Connection: Upgrade",
        "Upgrade: SPDY/3.1",
        "X-Stream-Protocol-Version: v9",
    ];
    let answer = Client::connect(&host)
        .await
        .ask(&format!("GET {path}"), &fields)
        .await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(
        answer.contains("X-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io"),
        "{answer}"
    );
}

#[tokio::test]
async fn urls_name_loopback_unless_told() {
    let world = World::new(Settings::default()).await;
    let (host, path) = world.url("exec o exit 0");
    assert!(
        host.starts_with("127.0.0.1:") && path.starts_with("/exec/"),
        "{host} {path}"
    );
    let settings = Settings {
        host: Some("node.example".to_owned()),
        ..Settings::default()
    };
    let (host, _) = World::new(settings).await.url("attach o");
    assert!(host.starts_with("node.example:"), "{host}");
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

#[tokio::test]
async fn every_address_needs_a_host() {
    let address = "0.0.0.0:0".parse().unwrap();
    let settings = Settings {
        address,
        ..Settings::default()
    };
    let refused = rcrun_streaming::Server::bind(settings, echo::Echo::default()).await;
    assert!(refused.unwrap_err().to_string().contains("name the host"));
}
