//! Sessions of SPDY over sockets.
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

use client::{Client, FORWARD, Frame, V4, World, text};
use rcrun_streaming::{Settings, limits};
use std::sync::atomic::Ordering;
use std::time::Duration;

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
async fn every_address_needs_a_host() {
    let address = "0.0.0.0:0".parse().unwrap();
    let settings = Settings {
        address,
        ..Settings::default()
    };
    let refused = rcrun_streaming::Server::bind(settings, echo::Echo::default()).await;
    assert!(refused.unwrap_err().to_string().contains("name the host"));
}

#[tokio::test]
async fn a_back_end_that_ignores_its_client_is_dropped() {
    if std::env::var("RCRUN_TEST_FULL").is_err() {
        println!("skipped: takes {:?}; set RCRUN_TEST_FULL=1", limits::GRACE);
        return;
    }
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "forward 98", FORWARD).await;
    for (id, kind) in [(1, "error"), (3, "data")] {
        client
            .open(
                id,
                &[("streamtype", kind), ("port", "98"), ("requestid", "0")],
            )
            .await;
    }
    while world.seen.running.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(client);
    tokio::time::sleep(limits::GRACE / 2).await;
    assert_eq!(world.seen.running.load(Ordering::SeqCst), 1);
    world.quiet().await;
}

#[tokio::test]
async fn a_session_that_is_stalled_is_idle() {
    if std::env::var("RCRUN_TEST_FULL").is_err() {
        println!(
            "skipped: takes {:?} and more; set RCRUN_TEST_FULL=1",
            limits::PROBE
        );
        return;
    }
    let idle_timeout = limits::PROBE + Duration::from_millis(500);
    let world = World::new(Settings {
        idle_timeout,
        ..Settings::default()
    })
    .await;
    let mut client = Client::spdy(&world, "exec io stuck", V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    client.data(3, false, &vec![0; 2 * limits::PIPE]).await;
    let ended = tokio::time::timeout(2 * idle_timeout, world.quiet()).await;
    assert!(
        ended.is_ok(),
        "what tells of a client that is gone is not activity"
    );
}
