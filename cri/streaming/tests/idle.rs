//! What sessions over TLS cost that do nothing, and what clients that vanish leave: alone in its program, as it counts
//! memory and descriptors.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a test reports by panicking and printing"
)]
#![allow(dead_code, reason = "helpers are shared by several test programs")]

mod client;
mod echo;

/// Whether clients and server speak TLS.
const SECURE: bool = true;

use client::{Client, World};
use rcrun_streaming::Settings;
use std::time::Duration;

const V5: &str = "v5.channel.k8s.io";
/// Sessions at a time.
const SESSIONS: usize = 200;
/// KiB that one may cost, its client in this program included.
const MOST: usize = 64;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

async fn sessions(world: &World) -> Vec<Client> {
    let mut all = Vec::new();
    for _ in 0..SESSIONS {
        all.push(Client::web_socket(world, "exec io stuck", V5).await);
    }
    while world.seen.running.load(std::sync::atomic::Ordering::SeqCst) < SESSIONS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    all
}

#[tokio::test]
async fn idle_sessions_over_tls_are_small_and_vanish_without_a_trace() {
    let world = World::new(Settings::default()).await;
    // What the first one makes for all.
    drop(Client::web_socket(&world, "exec io stuck", V5).await);
    world.quiet().await;
    let (before, open) = (resident(), descriptors());
    let all = sessions(&world).await;
    let grown = resident().saturating_sub(before);
    println!("{grown} KiB for {} sessions and their clients", all.len());
    assert!(grown < all.len() * MOST, "{grown} KiB");
    for client in &all {
        client.socket.set_zero_linger().unwrap();
    }
    drop(all);
    world.quiet().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(descriptors() <= open + 5, "{open} then {}", descriptors());
}
