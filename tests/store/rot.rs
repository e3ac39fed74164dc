//! Bit rot: one wrong bit anywhere is found and named, and only what it is in is fetched again.

use crate::harness::store::{Image, noise};
use crate::harness::whole::{Known, mixed};
use crate::harness::{Env, Shelf, Test, full, people, test};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(one_bit_of_any_blob).timeout(120),
        test!(one_bit_of_any_record).timeout(120),
        test!(one_bit_of_a_containers_records).timeout(120),
    ]
}

/// Flips a bit in place, leaving everything else of the file alone.
fn flip(path: &Path, random: u64) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let at = (random >> 8) as usize % bytes.len();
    bytes[at] ^= 1 << (random % 8);
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

fn random(count: usize, seed: u64) -> Vec<u64> {
    let bytes = noise(count * 8, seed);
    let number = |eight: &[u8]| u64::from_le_bytes(eight.try_into().unwrap());
    bytes.chunks(8).map(number).collect()
}

/// Ten images of two layers each.
fn shelf<'a>(env: &'a Env, known: &mut Known) -> Shelf<'a> {
    let shelf = Shelf::new(env);
    for n in 0..10_u64 {
        let layers = [mixed("a", 3, 50 + n), mixed("b", 2, 80 + n)];
        let name = format!("app{n}");
        known.publish(&shelf, &name, &Image::new(&layers));
        shelf.ok(&["pull", "-q", &shelf.name(&name)]);
    }
    shelf
}

fn files(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.push(path),
        }
    }
}

fn one_bit_of_any_blob(env: &Env) {
    let mut known = Known::default();
    let shelf = shelf(env, &mut known);
    let mut blobs = Vec::new();
    files(&shelf.path().join("content/sha256"), &mut blobs);
    assert_eq!(blobs.len(), 40);
    let rounds = if full() { 100 } else { 12 };
    for number in random(rounds, 7) {
        let path = &blobs[(number >> 32) as usize % blobs.len()];
        let hex = path.file_name().unwrap().to_str().unwrap();
        flip(path, number);
        let output = shelf.call(&["fsck"]).exits(4);
        assert!(output.stdout.contains(hex), "{hex} is not named: {output}");
        let before = shelf.registry.seen().len();
        shelf.call(&["fsck", "--repair"]).exits(1);
        let seen = shelf.registry.seen().split_off(before);
        let fetched: Vec<&str> = seen
            .iter()
            .filter(|seen| seen.sent > 2 && seen.head.method == "GET")
            .map(|seen| seen.head.target.as_str())
            .collect();
        assert!(
            fetched.len() == 1 && fetched[0].contains(hex),
            "{hex}: fetched {fetched:?}"
        );
        known.check(&shelf.path());
        shelf.call(&["fsck", "-q"]).exits(0);
    }
    println!("{rounds} blobs with a wrong bit: all found, named, and nothing else fetched");
}

/// Nobody can make them anew: they are named, nothing is swept meanwhile, and the container can be removed.
fn one_bit_of_a_containers_records(env: &Env) {
    let shelf = Shelf::new(env);
    let base = people::layer(env, &[]);
    shelf.publish("app", &Image::new(&[base]));
    let app = shelf.name("app");
    shelf.ok(&["pull", "-q", &app]);
    let parent = format!("--cgroup-parent={}", env.tag);
    let rounds = if full() { 40 } else { 6 };
    let mut found = 0;
    for (round, number) in random(rounds, 11).into_iter().enumerate() {
        let words = [
            "run",
            &parent,
            "--name",
            "one",
            &app,
            "sh",
            "-c",
            "echo x >/y",
        ];
        shelf.ok(&words);
        let id = shelf.ok(&["ps", "-a", "-q", "--no-trunc"]);
        let id = id.trim();
        let place = match round % 2 {
            0 => format!("containers/{id}/container.json"),
            _ => format!("snapshots/{id}/snapshot.json"),
        };
        flip(&shelf.path().join(&place), number);
        let output = shelf.call(&["fsck"]);
        if output.code != 0 {
            found += 1;
            output.clone().exits(4);
            assert!(output.stdout.contains(&place), "{place}: {output}");
            shelf.call(&["fsck", "--repair"]).exits(4);
            let before = shelf.counts();
            shelf.call(&["prune", "-f"]).exits(1).says(id);
            assert_eq!(shelf.counts(), before);
        }
        shelf.ok(&["rm", "--force", "one"]);
        shelf.no_containers();
        shelf.call(&["fsck", "-q"]).exits(0);
    }
    println!(
        "{rounds} records of containers and snapshots with a wrong bit: {found} found and named"
    );
    assert!(found * 2 > rounds, "{found}");
}

/// A record whose seal does not fit is named, and nothing is swept meanwhile. A bit that only makes another field of the
/// seal itself harms nothing.
fn one_bit_of_any_record(env: &Env) {
    let mut known = Known::default();
    let shelf = shelf(env, &mut known);
    let mut records = Vec::new();
    shelf.settle();
    files(&shelf.path().join("images/names"), &mut records);
    files(&shelf.path().join("layers"), &mut records);
    records.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
    // By the names that images use.
    records.retain(|path| !path.to_string_lossy().contains("-pull/"));
    assert_eq!(records.len(), 30);
    let rounds = if full() { 100 } else { 16 };
    let (mut found, mut harmless) = (0, 0);
    for number in random(rounds, 9) {
        let path = &records[(number >> 32) as usize % records.len()];
        let good = fs::read(path).unwrap();
        flip(path, number);
        let bad = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let place = path.strip_prefix(shelf.path()).unwrap().to_str().unwrap();
        let output = shelf.call(&["fsck"]);
        if output.code == 0 {
            // Then everything still works, and is right.
            shelf.ok(&["images"]);
            known.check(&shelf.path());
            harmless += 1;
            let before = String::from_utf8_lossy(&good).into_owned();
            let seal = before.find(",\"seal\":").unwrap();
            assert_eq!(bad[..seal], before[..seal], "{place}: not found");
            fs::write(path, &good).unwrap();
            continue;
        }
        found += 1;
        output.clone().exits(4);
        assert!(
            output.stdout.contains(place),
            "{place} is not named: {bad}\n{output}"
        );
        // Nothing goes that it could stand for.
        let before = shelf.counts();
        shelf.call(&["prune", "-f"]);
        assert_eq!(shelf.counts(), before);
        let name = place.starts_with("images/");
        let fetched = shelf.registry.seen().len();
        let output = shelf.call(&["fsck", "--repair"]);
        output.exits(if name { 4 } else { 1 });
        assert_eq!(
            shelf.registry.seen().len(),
            fetched,
            "nothing has to be fetched"
        );
        shelf.call(&["fsck", "-q"]).exits(0);
        for n in 0..10 {
            shelf.ok(&["pull", "-q", &shelf.name(&format!("app{n}"))]);
        }
        known.check(&shelf.path());
        assert_eq!(shelf.counts(), before);
    }
    println!("{rounds} records with a wrong bit: {found} found and named, {harmless} harm nothing");
}
