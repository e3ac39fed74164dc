//! WebSockets over sockets, and attacks on them.
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

use client::{Client, V4, World, text};
use rcrun_streaming::Settings;
use std::sync::atomic::Ordering;
use std::time::Duration;

const V5: &str = "v5.channel.k8s.io";

#[tokio::test]
async fn half_close_in_the_fifth_version() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::web_socket(&world, "exec ioe half", V5).await;
    client.web_frame(0x82, b"\x00hello").await;
    client.web_frame(0x82, &[255, 0]).await;
    let (all, status) = client.web_rest().await;
    assert_eq!((status, text(&all[&1])), (1000, "said\n"));
    assert!(
        text(&all[&3]).contains(r#"{"message":"5","reason":"ExitCode"}"#),
        "{all:?}"
    );
}

#[tokio::test]
async fn channel_255_means_nothing_before_the_fifth_version() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::web_socket(&world, "exec io cat", V4).await;
    client.web_frame(0x82, &[255, 0]).await;
    client.web_frame(0x82, b"\x00still open").await;
    assert_eq!(client.web_read().await.unwrap(), (0x82, vec![1]));
    assert_eq!(
        client.web_read().await.unwrap(),
        (0x82, b"\x01still open".to_vec())
    );
    drop(client);
    world.quiet().await;
    assert_eq!(world.seen.gone.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn every_version_says_how_it_ended() {
    let world = World::new(Settings::default()).await;
    let sentence = "command terminated with non-zero exit code: 3";
    for (version, plain) in [("channel.k8s.io", true), (V4, false), (V5, false)] {
        let mut client = Client::web_socket(&world, "exec oe exit 3", version).await;
        let (all, status) = client.web_rest().await;
        assert_eq!(
            (status, text(&all[&1]), text(&all[&2])),
            (1000, "out\n", "err\n")
        );
        let said = text(&all[&3]);
        assert_eq!(said == sentence, plain, "{version}: {said}");
        assert_eq!(
            said.contains("NonZeroExitCode"),
            !plain,
            "{version}: {said}"
        );
    }
}

#[tokio::test]
async fn base64_in_pieces() {
    let world = World::new(Settings::default()).await;
    for version in ["base64.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let mut client = Client::web_socket(&world, "exec io cat", version).await;
        assert_eq!(client.web_read().await.unwrap(), (0x81, b"1".to_vec()));
        client.web_frame(0x01, b"0aGVs").await;
        client.web_frame(0x80, b"bG8=").await;
        let mut said = Vec::new();
        while said.len() < 5 {
            let (first, payload) = client.web_read().await.unwrap();
            assert_eq!((first, payload[0]), (0x81, b'1'));
            use base64::Engine;
            said.extend(
                base64::engine::general_purpose::STANDARD
                    .decode(&payload[1..])
                    .unwrap(),
            );
        }
        assert_eq!(said, b"hello");
        client.web_frame(0x81, b"0aGV").await;
        assert_eq!(client.web_rest().await.1, 1007);
    }
}

#[tokio::test]
async fn messages_in_pieces_with_a_ping_between() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::web_socket(&world, "exec io cat", V5).await;
    assert_eq!(client.web_read().await.unwrap(), (0x82, vec![1]));
    client.web_frame(0x02, b"\x00a").await;
    client.web_frame(0x89, b"ping").await;
    client.web_frame(0x00, b"b").await;
    client.web_frame(0x80, b"c").await;
    let (mut said, mut pong) = (Vec::new(), false);
    while said.len() < 3 || !pong {
        match client.web_read().await.unwrap() {
            (0x8a, payload) => pong = payload == b"ping",
            (_, payload) => said.extend_from_slice(&payload[1..]),
        }
    }
    assert_eq!(said, b"abc");
    client.web_frame(0x88, &[3, 0xe8]).await;
    assert_eq!(client.web_rest().await.1, 1000);
}

#[tokio::test]
async fn large_messages_are_not_held_whole() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::web_socket(&world, "exec io count", V5).await;
    let mut message = vec![7; 30 << 20];
    message[0] = 0;
    client.web_frame(0x82, &message).await;
    client.web_frame(0x82, &[255, 0]).await;
    let said = client.web_rest().await.0;
    assert!(
        text(&said[&1]).starts_with("31457279 "),
        "{}",
        text(&said[&1])
    );
}

#[tokio::test]
async fn sizes_of_a_terminal() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::web_socket(&world, "exec iot sizes 132x43", V5).await;
    client
        .web_frame(0x82, b"\x04{\"Width\":132,\"Height\":43}")
        .await;
    assert_eq!(text(&client.web_rest().await.0[&1]), "132x43\n");
}

#[tokio::test]
async fn ports_by_channels() {
    let world = World::new(Settings::default()).await;
    for version in [V4, V5] {
        let mut client = Client::web_socket(&world, "forward 80,99", version).await;
        let mut said = std::collections::BTreeMap::<u8, Vec<u8>>::new();
        client.web_frame(0x82, b"\x00hello").await;
        while said.get(&0).is_none_or(|said| said.len() < 7)
            || said.get(&3).is_none_or(|said| said.len() < 40)
        {
            let (_, payload) = client.web_read().await.unwrap();
            said.entry(payload[0])
                .or_default()
                .extend_from_slice(&payload[1..]);
        }
        assert_eq!(said[&0], b"\x50\x00hello");
        assert_eq!(said[&1], b"\x50\x00");
        assert_eq!(said[&2], b"\x63\x00");
        assert!(text(&said[&3][2..]).starts_with("cannot connect to port 99"));
    }
    world.quiet().await;
}

#[tokio::test]
async fn attack_frames_that_break_rules() {
    let world = World::new(Settings::default()).await;
    let unmasked: &[u8] = &[0x82, 2, 0, b'x'];
    let reserved: &[u8] = &[0xf2, 0x82, 1, 2, 3, 4, 0, 0];
    let continued: &[u8] = &[0x80, 0x82, 1, 2, 3, 4, 0, 0];
    let long_ping: &[u8] = &[0x89, 0xfe, 1, 0, 1, 2, 3, 4];
    let huge: &[u8] = &[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    for bytes in [unmasked, reserved, continued, long_ping, huge] {
        let mut client = Client::web_socket(&world, "exec io stuck", V5).await;
        client.send(bytes).await;
        assert_eq!(client.web_rest().await.1, 1002, "{bytes:?}");
    }
    world.quiet().await;
}

#[tokio::test]
async fn attack_pings_without_reading() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::web_socket(&world, "exec io stuck", V5).await;
    let pings = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[b'x'; 125]]
        .concat()
        .repeat(1000);
    let flood = async {
        use tokio::io::AsyncWriteExt;
        while client.socket.write_all(&pings).await.is_ok() {}
    };
    let flooded = tokio::time::timeout(Duration::from_secs(3), flood).await;
    assert!(flooded.is_err(), "the server neither closed nor failed");
    drop(client);
    world.quiet().await;
}

#[tokio::test]
async fn attack_never_read_client() {
    let world = World::new(Settings::default()).await;
    let client = Client::web_socket(&world, "exec o write 1000000000", V5).await;
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let written = world.seen.written.load(Ordering::SeqCst);
        if written == before {
            break;
        }
        before = written;
    }
    assert!((1..32 << 20).contains(&before), "{before}");
    drop(client);
    world.quiet().await;
}
