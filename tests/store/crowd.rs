//! Many at once, on the same images: each thing is fetched and unpacked once, and nobody lacks anything.

use crate::harness::runtime::Running;
use crate::harness::store::{Image, noise};
use crate::harness::whole::{Known, mixed};
use crate::harness::{Env, Shelf, Test, full, people, test};
use rcrun_image::Digest;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_crowd_pulls_one_image).timeout(120),
        test!(a_crowd_pulls_images_that_share_layers).timeout(120),
        test!(removals_beside_pulls_and_containers).timeout(180),
    ]
}

/// How long one of a crowd may take.
const PATIENCE: Duration = Duration::from_secs(110);

fn crowd() -> usize {
    if full() { 50 } else { 16 }
}

/// Lets a crowd pull these, and sees that every blob came once and every layer was unpacked by one.
fn pulled_once(shelf: &Shelf<'_>, names: &[&str], blobs: &[Vec<u8>]) {
    let env = shelf.env;
    let began = std::time::Instant::now();
    let running: Vec<Running> = (0..crowd())
        .map(|n| shelf.spawn(&["pull", &shelf.name(names[n % names.len()])]))
        .collect();
    let mut unpacked: BTreeMap<String, usize> = BTreeMap::new();
    for one in running {
        let output = env.rt.finish_within(one, PATIENCE).ok();
        for line in output.stderr.lines().chain(output.stdout.lines()) {
            if let Some((digest, "unpacked")) = line.split_once(": ") {
                *unpacked.entry(digest.to_owned()).or_default() += 1;
            }
        }
    }
    let time = began.elapsed();
    for blob in blobs {
        let digest = Digest::of(blob).to_string();
        let requests = shelf.registry.seen_of("GET", &digest);
        assert_eq!(requests.len(), 1, "{digest}: {requests:?}");
        assert_eq!(requests[0].sent, blob.len() as u64);
    }
    println!(
        "{} pulls of {names:?} in {time:?}: {} layers, each fetched once; unpacked {unpacked:?}",
        crowd(),
        blobs.len()
    );
    assert_eq!(unpacked.len(), blobs.len());
    assert!(unpacked.values().all(|times| *times == 1), "{unpacked:?}");
}

fn a_crowd_pulls_one_image(env: &Env) {
    let shelf = Shelf::new(env);
    let mut known = Known::default();
    let layers: Vec<Vec<u8>> = (0..5).map(|n| mixed(&format!("l{n}"), 40, n)).collect();
    known.publish(&shelf, "app", &Image::new(&layers));
    pulled_once(&shelf, &["app"], &layers);
    let found = known.check(&shelf.path());
    assert_eq!((found.blobs, found.layers, found.names), (7, 5, 1));
    shelf.ok(&["fsck", "-q"]);
}

fn a_crowd_pulls_images_that_share_layers(env: &Env) {
    let shelf = Shelf::new(env);
    let mut known = Known::default();
    let shared: Vec<Vec<u8>> = (0..8).map(|n| mixed(&format!("l{n}"), 24, n)).collect();
    let mut all = shared.clone();
    let names = ["one", "two", "three", "four", "five"];
    for (number, name) in names.iter().enumerate() {
        let own = mixed("own", 16, 100 + number as u64);
        let layers = [shared.as_slice(), std::slice::from_ref(&own)].concat();
        known.publish(&shelf, name, &Image::new(&layers));
        all.push(own);
    }
    pulled_once(&shelf, &names, &all);
    let found = known.check(&shelf.path());
    assert_eq!((found.blobs, found.layers, found.names), (23, 13, 5));
    shelf.ok(&["fsck", "-q"]);
}

/// A layer of files, and one that says what is in them.
fn self_checking(name: &str, seed: u64) -> Vec<u8> {
    let files: Vec<(String, Vec<u8>)> = (0..12)
        .map(|n| {
            (
                format!("{name}/f{n}"),
                noise(3000 + 500 * n, seed * 100 + n as u64),
            )
        })
        .collect();
    let sums: String = files
        .iter()
        .map(|(path, content)| format!("{}  /{path}\n", Digest::of(content).hex()))
        .collect();
    let path = format!("sums/{name}");
    let mut entries: Vec<(&str, &[u8])> = vec![(&path, sums.as_bytes())];
    entries.extend(
        files
            .iter()
            .map(|(path, content)| (path.as_str(), content.as_slice())),
    );
    crate::harness::store::archive(&entries)
}

/// Every run that succeeds saw all files of its image; every name that is there afterwards has all of its own.
fn removals_beside_pulls_and_containers(env: &Env) {
    let shelf = Shelf::new(env);
    let mut known = Known::default();
    let base = people::layer(env, &[]);
    let shared = self_checking("shared", 1);
    for (name, seed) in [("one", 2), ("two", 3)] {
        let layers = [base.clone(), shared.clone(), self_checking(name, seed)];
        known.publish(&shelf, name, &Image::new(&layers));
    }
    let parent = format!("--cgroup-parent={}", env.tag);
    let (one, two) = (shelf.name("one"), shelf.name("two"));
    let check = "ls /sums | wc -l; cat /sums/* | busybox sha256sum -c >/tmp/said 2>&1 || { cat /tmp/said; exit 9; }";
    let run = |image: &str, pull| {
        shelf.spawn(&["run", "--rm", pull, &parent, "-q", image, "sh", "-c", check])
    };
    let rounds = if full() { 1000 } else { 20 };
    let (mut ran, mut refused, mut removed) = (0, 0, 0);
    for round in 0..rounds {
        let pulls = [&one, &two, &one, &two].map(|name| shelf.spawn(&["pull", "-q", name]));
        let runs = [
            (run(&one, "--pull=missing"), false),
            (run(&two, "--pull=missing"), false),
            (run(&one, "--pull=never"), true),
            (run(&two, "--pull=never"), true),
        ];
        let removals = [
            shelf.spawn(&["rmi", "--force", &one]),
            shelf.spawn(&["rmi", "--force", &two]),
            shelf.spawn(&["prune", "--all", "--force"]),
        ];
        for pull in pulls {
            env.rt.finish(pull).ok();
        }
        for (running, may_be_missing) in runs {
            let output = env.rt.finish(running);
            match output.code {
                0 => {
                    assert_eq!(output.stdout.trim(), "2", "files are missing: {output}");
                    ran += 1;
                }
                125 if may_be_missing && output.stderr.contains("no such image") => refused += 1,
                _ => panic!("round {round}: {output}"),
            }
        }
        for removal in removals {
            let output = env.rt.finish(removal);
            let gone = output.stderr.to_lowercase().contains("no such image");
            assert!(output.code == 0 || gone, "round {round}: {output}");
            removed += usize::from(output.code == 0);
        }
        known.check(&shelf.path());
        if round % 10 == 9 {
            shelf.ok(&["fsck", "-q"]);
        }
    }
    println!(
        "{rounds} rounds: {ran} containers had all their files, {refused} had no image; {removed} removals"
    );
    shelf.no_containers();
    shelf.ok(&["prune", "-a", "-f"]);
    assert_eq!(shelf.counts(), (0, 0, 0));
}
