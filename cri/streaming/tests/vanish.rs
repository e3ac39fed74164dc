//! Clients that vanish leave nothing (CVE-2022-23471, CVE-2025-64329): alone in its program, as it counts descriptors.
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

use client::{Client, World};
use rcrun_streaming::Settings;
use std::time::Duration;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

async fn vanish(world: &World, count: usize) {
    for at in 0..count {
        let line = if at % 2 == 0 {
            "exec iot sizes 1x1"
        } else {
            "attach iot"
        };
        let mut client = if at % 4 < 2 {
            let mut client = Client::spdy(world, line, "v4.channel.k8s.io").await;
            client
                .open_all(&["error", "stdin", "stdout", "resize"])
                .await;
            client.data(7, false, br#"{"Width":80,"Height":24}"#).await;
            client
        } else {
            let mut client = Client::web_socket(world, line, "v5.channel.k8s.io").await;
            client
                .web_frame(0x82, b"\x04{\"Width\":80,\"Height\":24}")
                .await;
            client
        };
        client.send(b"").await;
        client.socket.set_zero_linger().unwrap();
    }
}

#[tokio::test]
async fn thousands_of_clients_that_reset_leave_nothing() {
    let world = World::new(Settings::default()).await;
    vanish(&world, 400).await;
    world.quiet().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (descriptors_before, resident_before) = (descriptors(), resident());
    vanish(&world, 4000).await;
    world.quiet().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        descriptors() <= descriptors_before + 5,
        "{descriptors_before} then {}",
        descriptors()
    );
    assert!(
        resident() <= resident_before + 4096,
        "{resident_before} kB then {} kB",
        resident()
    );
}
