//! A registry that resets connections, and an rcrun that is killed in between: hardly a byte comes twice.

use crate::harness::process::until;
use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Shelf, Test, full, test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcrun_image::registry::testing::Fault;
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(resets_with_kills_in_between).timeout(120),
        test!(kills_while_it_arrives).timeout(120),
    ]
}

/// What each reset may cost.
const PER_RESET: u64 = 64 << 10;

/// Bytes of the large layer.
fn size() -> usize {
    if full() { 64 << 20 } else { 6 << 20 }
}

fn resets_with_kills_in_between(env: &Env) {
    let shelf = Shelf::new(env);
    let blob = archive(&[("big", &noise(size(), 3))]);
    let total = blob.len() as u64;
    for (round, at) in [0, 1, total / 2, total - 1].into_iter().enumerate() {
        let name = format!("app{round}");
        // Of its own: with another file behind it.
        let mut content = noise(size(), 3);
        content[0] ^= round as u8 + 1;
        let image = shelf.publish(&name, &Image::new(&[archive(&[("big", &content)])]));
        let layer = image.layers[0].to_string();
        let asked = || shelf.registry.seen_of("GET", &layer).len();
        let mut resets = 0;
        for _ in 0..3 {
            let before = asked();
            shelf.registry.fault("GET", &layer, 1, Fault::Reset(at));
            // And then nothing for a while: that is when it is killed.
            shelf.registry.fault("GET", &layer, 1, Fault::Reset(0));
            let mut pull = shelf.spawn(&["pull", "-q", &shelf.name(&name)]);
            until("the reset, and another try", 20, || {
                let ended = pull.child.try_wait().unwrap().is_some();
                (ended || asked() > before + 1).then_some(())
            });
            resets += 2;
            let _ = kill(Pid::from_raw(pull.pid()), Signal::SIGKILL);
            env.rt.finish(pull);
        }
        shelf.ok(&["pull", "-q", &shelf.name(&name)]);
        shelf.ok(&["fsck", "-q"]);
        let sent = shelf.sent(&image.layers[0]);
        println!("reset at {at}: {resets} resets, 3 kills, {sent} bytes of {total}");
        assert!(sent <= total + resets * PER_RESET, "{sent} of {total}");
        shelf.ok(&["rmi", &shelf.name(&name)]);
    }
    shelf.ok(&["prune", "-f"]);
}

/// Bytes that the registry has given to the kernel count, so it waits until all have reached the client. What has
/// is not fetched again.
fn kills_while_it_arrives(env: &Env) {
    let shelf = Shelf::new(env);
    let image = Image::new(&[archive(&[("big", &noise(size(), 5))])]);
    let total = image.layers[0].len() as u64;
    let image = shelf.publish("app", &image);
    let layer = image.layers[0].to_string();
    let hex = layer.strip_prefix("sha256:").unwrap();
    let map = shelf
        .path()
        .join(format!("content/incoming/sha256-{hex}.map"));
    let kills = 6;
    for part in 1..=kills {
        let sent = shelf.sent(&image.layers[0]);
        // Ends in the middle of whatever is written at once.
        let more = total / 8 + part * 1111;
        shelf.registry.fault("GET", &layer, 1, Fault::Stall(more));
        let pull = shelf.spawn(&["pull", "-q", &shelf.name("app")]);
        until("some of it", 60, || {
            (shelf.sent(&image.layers[0]) >= sent + more).then_some(())
        });
        let mut last = Vec::new();
        until("all of that has been written down", 60, || {
            std::thread::sleep(Duration::from_millis(50));
            let now = std::fs::read(&map).unwrap();
            let same = now == last;
            last = now;
            same.then_some(())
        });
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
