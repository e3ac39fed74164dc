//! A registry that resets connections, and an rcrun that is killed in between: hardly a byte comes twice.

use crate::harness::process::until;
use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Shelf, Test, full, test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcrun_image::Digest;
use rcrun_image::registry::testing::Fault;
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(resets_with_kills_in_between).timeout(120),
        test!(kills_while_it_arrives).timeout(120),
        test!(kills_in_mid_transfer).timeout(120),
    ]
}

/// What each reset may cost.
const PER_RESET: u64 = 64 << 10;
/// So many fetch parts of a large layer at the same time.
const CONNECTIONS: usize = 4;

/// Bytes of a layer that comes by one connection, and of one that comes in several parts at a time.
fn sizes() -> [usize; 2] {
    match full() {
        true => [24 << 20, 700 << 20],
        // More segments than connections: then some are begun and others are not.
        false => [6 << 20, 100 << 20],
    }
}

/// Waits until nothing moves any more: what has reached the client has been written down by then.
fn quiet(shelf: &Shelf<'_>, layer: &Digest) {
    let name = format!("content/incoming/sha256-{}.map", layer.hex());
    let map = shelf.path().join(name);
    let state = || (shelf.sent(layer), std::fs::read(&map).ok());
    let mut last = state();
    until("nothing moves", 60, || {
        std::thread::sleep(Duration::from_millis(80));
        let now = state();
        let same = now == last;
        last = now;
        same.then_some(())
    });
}

fn resets_with_kills_in_between(env: &Env) {
    let shelf = Shelf::new(env);
    for size in sizes() {
        let mut content = noise(1 << 20, 3).repeat(size >> 20);
        for (number, part) in [0, 1, 2, 3].into_iter().enumerate() {
            content[0] ^= number as u8 + 1;
            let image = Image::new(&[archive(&[("big", &content)])]);
            reset_at(&shelf, &image, part);
        }
    }
    shelf.ok(&["prune", "-f"]);
}

/// Every connection is reset at the same byte, and the ones after it at once; then rcrun is killed; and so on.
fn reset_at(shelf: &Shelf<'_>, image: &Image, which: usize) {
    let total = image.layers[0].len() as u64;
    let at = [0, 1, total / 2, total - 1][which];
    let digest = Digest::of(&image.layers[0]);
    for round in 0..3 {
        // Faults are for a repository: what is left of them is not for the next one.
        let name = format!("r{round}-{which}-{total}");
        shelf.publish(&name, image);
        let blobs = format!("{name}/blobs/{digest}");
        let registry = &shelf.registry;
        registry.fault("GET", &blobs, CONNECTIONS, Fault::Reset(at));
        registry.fault("GET", &blobs, usize::MAX, Fault::Reset(0));
        let mut pull = shelf.spawn(&["pull", "-q", &shelf.name(&name)]);
        until("a reset", 20, || {
            // Two halves are all of it.
            let ended = pull.child.try_wait().unwrap().is_some();
            (ended || !registry.seen_of("GET", &blobs).is_empty()).then_some(())
        });
        quiet(shelf, &digest);
        let _ = kill(Pid::from_raw(pull.pid()), Signal::SIGKILL);
        shelf.env.rt.finish(pull);
    }
    let asked = |shelf: &Shelf<'_>| shelf.registry.seen_of("GET", &digest.to_string()).len() as u64;
    let resets = asked(shelf);
    let name = format!("last-{which}-{total}");
    shelf.publish(&name, image);
    shelf.ok(&["pull", "-q", &shelf.name(&name)]);
    shelf.ok(&["fsck", "-q"]);
    let sent = shelf.sent(&digest);
    println!(
        "reset at {at}: {resets} resets, 3 kills, {sent} bytes of {total}: {} more",
        sent - total
    );
    assert!(sent <= total + resets * PER_RESET, "{sent} of {total}");
    shelf.ok(&["rmi", &shelf.name(&name)]);
}

/// Bytes that the registry has given to the kernel count, so it waits until all have reached the client. What has
/// is not fetched again.
fn kills_while_it_arrives(env: &Env) {
    let shelf = Shelf::new(env);
    let image = Image::new(&[archive(&[("big", &noise(sizes()[0], 5))])]);
    let total = image.layers[0].len() as u64;
    let image = shelf.publish("app", &image);
    let layer = image.layers[0].to_string();
    let kills = 6;
    for part in 1..=kills {
        let sent = shelf.sent(&image.layers[0]);
        // Ends in the middle of whatever is written at once.
        let more = total / 20 + part * 1111;
        shelf.registry.fault("GET", &layer, 1, Fault::Stall(more));
        let pull = shelf.spawn(&["pull", "-q", &shelf.name("app")]);
        until("some of it", 60, || {
            (shelf.sent(&image.layers[0]) >= sent + more).then_some(())
        });
        quiet(&shelf, &image.layers[0]);
        kill(Pid::from_raw(pull.pid()), Signal::SIGKILL).unwrap();
        assert_eq!(env.rt.finish(pull).code, 137);
    }
    shelf.ok(&["pull", "-q", &shelf.name("app")]);
    let sent = shelf.sent(&image.layers[0]);
    println!(
        "{kills} kills, {sent} bytes of {total}: {} more",
        sent - total
    );
    assert!(sent <= total + kills * PER_RESET, "{sent} of {total}");
    shelf.ok(&["fsck", "-q"]);
    // With what the killed ones held.
    shelf.ok(&["prune", "-f"]);
}

/// Bytes that the registry has given to its kernel and the client's kernel has not acknowledged, by all connections
/// (proc_net(5), `tx_queue`).
fn unacknowledged(shelf: &Shelf<'_>) -> u64 {
    let port = format!(":{:04X}", shelf.registry.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ours = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.nth(1).filter(|local| local.ends_with(&port))?;
        let (sent, _) = words.nth(2)?.split_once(':')?;
        u64::from_str_radix(sent, 16).ok()
    });
    ours.sum()
}

/// Stopped before it is killed, so that everything is in its kernel's queue that can be: the worst that a kill can
/// cost. What that kernel never acknowledged has not been fetched, though the registry's has taken it.
fn kills_in_mid_transfer(env: &Env) {
    let shelf = Shelf::new(env);
    let size = if full() { 700 << 20 } else { 100 << 20 };
    let content = noise(1 << 20, 7).repeat(size >> 20);
    let image = Image::new(&[archive(&[("big", &content)])]);
    drop(content);
    let total = image.layers[0].len() as u64;
    let digest = Digest::of(&image.layers[0]);
    shelf.publish("app", &image);
    let kills = if full() { 40 } else { 8 };
    let (mut never_received, mut costs) = (0, Vec::new());
    let mut before = 0;
    for kill_number in 1..=kills {
        let goal = total * kill_number / (kills + 1);
        let mut pull = shelf.spawn(&["pull", "-q", &shelf.name("app")]);
        until("some of it", 60, || {
            let ended = pull.child.try_wait().unwrap().is_some();
            (ended || shelf.sent(&digest) >= goal).then_some(())
        });
        let pid = Pid::from_raw(pull.pid());
        let _ = kill(pid, Signal::SIGSTOP);
        let mut last = (0, 0);
        until("nothing moves", 60, || {
            std::thread::sleep(Duration::from_millis(60));
            let now = (shelf.sent(&digest), unacknowledged(&shelf));
            std::mem::replace(&mut last, now).eq(&now).then_some(())
        });
        never_received += last.1;
        let _ = kill(pid, Signal::SIGKILL);
        env.rt.finish(pull);
        let there = recorded(&shelf, &digest);
        // What all kills have cost so far, less what those before did.
        let so_far = (last.0 - never_received).cast_signed() - there.cast_signed();
        costs.push(so_far - before);
        before = so_far;
    }
    shelf.ok(&["pull", "-q", &shelf.name("app")]);
    shelf.ok(&["fsck", "-q"]);
    let received = shelf.sent(&digest) - never_received;
    println!(
        "{kills} kills, {received} bytes of {total}: {} more; most at once {:?}",
        received - total,
        costs.iter().max()
    );
    assert!(
        received <= total + kills * PER_RESET,
        "{received} of {total}: {costs:?}"
    );
    shelf.ok(&["prune", "-f"]);
}

/// How much of a blob is there, by its map.
fn recorded(shelf: &Shelf<'_>, layer: &Digest) -> u64 {
    let name = format!("content/incoming/sha256-{}.map", layer.hex());
    let map = std::fs::read(shelf.path().join(name)).unwrap();
    let (numbers, _) = map[16..].as_chunks::<8>();
    numbers
        .iter()
        .map(|number| u64::from_le_bytes(*number))
        .sum()
}
