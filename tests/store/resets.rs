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
}

/// Whatever the registry has given to the kernel counts, so it is slower than the client: what is on the wire is
/// nobody's.
fn kills_while_it_arrives(env: &Env) {
    let shelf = Shelf::new(env);
    let image = Image::new(&[archive(&[("big", &noise(size(), 5))])]);
    let total = image.layers[0].len() as u64;
    let image = shelf.publish("app", &image);
    let layer = image.layers[0].to_string();
    let mut kills = 0;
    for part in 1..=6 {
        let pause = Duration::from_micros(200);
        shelf
            .registry
            .fault("GET", &layer, 1, Fault::Slow(4 << 10, pause));
        let mut pull = shelf.spawn(&["pull", "-q", &shelf.name("app")]);
        until("some of it", 60, || {
            let ended = pull.child.try_wait().unwrap().is_some();
            (ended || shelf.sent(&image.layers[0]) > total * part / 8).then_some(())
        });
        if kill(Pid::from_raw(pull.pid()), Signal::SIGKILL).is_ok() {
            kills += 1;
        }
        env.rt.finish(pull);
    }
    shelf.ok(&["pull", "-q", &shelf.name("app")]);
    let sent = shelf.sent(&image.layers[0]);
    println!(
        "{kills} kills, {sent} bytes of {total}: {} more for each",
        (sent - total) / kills
    );
    assert!(sent <= total + kills * PER_RESET, "{sent} of {total}");
    shelf.ok(&["fsck", "-q"]);
}
