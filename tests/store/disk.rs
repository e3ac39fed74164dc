//! Disks that are full, small or read-only.

use crate::harness::store::{Image, noise};
use crate::harness::{Env, Shelf, Test, test};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(an_image_that_does_not_fit),
        test!(removal_without_a_free_byte).timeout(120),
        test!(removal_without_a_free_inode).timeout(120),
        test!(containers_go_without_a_free_byte).timeout(120),
        test!(containers_go_without_a_free_inode).timeout(120),
        test!(a_read_only_store),
        test!(a_store_that_is_none),
    ]
}

/// A file system of its own for the store, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn tmpfs(path: &Path, options: &str) -> Self {
        std::fs::create_dir(path).unwrap();
        let none: Option<&str> = None;
        mount(none, path, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self(path.to_owned())
    }

    /// ext4 in a file; none of it is reserved for root.
    fn ext4(env: &Env, path: &Path, megabytes: u64, options: &[&str]) -> Self {
        std::fs::create_dir(path).unwrap();
        let image = env.path("disk.img");
        File::create(&image)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-O", "^has_journal"])
            .args(options)
            .arg(&image)
            .status();
        if !made.is_ok_and(|status| status.success()) {
            env.skip("mkfs.ext4 is not installed");
        }
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, path])
            .output()
            .unwrap();
        if !mounted.status.success() {
            let why = String::from_utf8_lossy(&mounted.stderr).into_owned();
            env.skip(format!("no loop device: {}", why.trim()));
        }
        Self(path.to_owned())
    }

    /// Writes until nothing fits any more.
    fn fill(&self) {
        let mut file = File::create(self.0.join("lost+found/filler")).or_else(|_| {
            std::fs::create_dir(self.0.join("build"))?;
            File::create(self.0.join("build/filler"))
        });
        for size in [1 << 20, 4096, 512, 1] {
            let block = vec![1; size];
            while file.as_mut().unwrap().write_all(&block).is_ok() {}
        }
        let _ = file.unwrap().sync_all();
    }

    /// Makes files until there is no inode left.
    fn use_all_inodes(&self) {
        let directory = self.0.join("build");
        let _ = std::fs::create_dir(&directory);
        let mut number = std::fs::read_dir(&directory).unwrap().count();
        while File::create(directory.join(number.to_string())).is_ok() {
            number += 1;
            assert!(number < 1_000_000);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn an_image_that_does_not_fit(env: &Env) {
    let shelf = Shelf::new(env);
    let disk = Disk::tmpfs(&shelf.path(), "size=8m");
    shelf.publish("big", &Image::with_file("a", &noise(9 << 20, 1)));
    shelf.publish("half", &Image::with_file("a", &noise(5 << 20, 2)));
    shelf.publish("small", &Image::with_file("a", &noise(1 << 20, 3)));
    let small = shelf.name("small");
    shelf.ok(&["pull", "-q", &small]);
    let before = shelf.counts();
    // The blob does not fit; the blob does, and its files do not.
    for name in ["big", "half"] {
        shelf
            .call(&["pull", "-q", &shelf.name(name)])
            .exits(1)
            .says("no space left on device")
            .says("hint: `rcrun prune`");
        let (_, layers, names) = shelf.counts();
        assert_eq!((layers, names), (before.1, before.2), "{name}");
        shelf.ok(&["prune", "-f"]);
        assert_eq!(shelf.counts(), before);
        shelf.ok(&["fsck", "-q"]);
    }
    drop(disk);
}

/// Two images with a shared layer; the first goes, then all.
fn removal(shelf: &Shelf<'_>, fill: impl Fn()) {
    let shared = crate::harness::store::archive(&[("f", &noise(200_000, 1))]);
    for name in ["one", "two"] {
        let own = crate::harness::store::archive(&[("own", name.as_bytes())]);
        shelf.publish(name, &Image::new(&[shared.clone(), own]));
        shelf.ok(&["pull", "-q", &shelf.name(name)]);
    }
    fill();
    let refused = shelf.path().join("images/names/probe");
    assert!(
        File::create(&refused)
            .and_then(|mut file| file.write_all(&[1; 4096]))
            .is_err(),
        "there is room still"
    );
    let _ = std::fs::remove_file(refused);
    assert_eq!(shelf.ok(&["images", "-q"]).lines().count(), 2);
    shelf.ok(&["df"]);
    shelf.ok(&["fsck"]);
    shelf.ok(&["rmi", &shelf.name("one")]);
    assert_eq!(shelf.counts(), (4, 2, 1));
    fill();
    shelf.ok(&["prune", "-a", "-f"]);
    assert_eq!(shelf.counts(), (0, 0, 0));
}

/// Three containers that wrote something: one goes by its name, one that runs by force, and the last with the images.
fn containers_go(shelf: &Shelf<'_>, fill: impl Fn()) {
    let base = crate::harness::people::layer(shelf.env, &[]);
    shelf.publish("app", &Image::new(&[base]));
    let app = shelf.name("app");
    shelf.ok(&["pull", "-q", &app]);
    let parent = format!("--cgroup-parent={}", shelf.env.tag);
    for (name, flag, then) in [
        ("ended", "--label=a=b", "true"),
        ("runs", "--detach", "exec sleep 1000"),
        ("last", "--label=a=b", "false"),
    ] {
        let script = format!("yes | head -c 300000 >/written; rm -r /etc; mkdir /etc; {then}");
        let words = [
            "run", "-q", &parent, flag, "--name", name, &app, "sh", "-c", &script,
        ];
        shelf.call(&words).exits(i32::from(name == "last"));
    }
    let count = |place: &str| {
        let all = std::fs::read_dir(shelf.path().join(place)).unwrap();
        all.filter(|one| one.as_ref().unwrap().file_name().len() == 64)
            .count()
    };
    fill();
    let refused = shelf.path().join("images/names/probe");
    let written = File::create(&refused).and_then(|mut file| file.write_all(&[1; 4096]));
    assert!(written.is_err(), "there is room still");
    let _ = std::fs::remove_file(refused);
    assert_eq!(shelf.ok(&["ps", "-a", "-q"]).lines().count(), 3);
    shelf.ok(&["rm", "ended"]);
    fill();
    shelf.ok(&["rm", "--force", "runs"]);
    fill();
    assert_eq!((count("containers"), count("snapshots")), (1, 1));
    shelf.ok(&["container", "prune", "--force"]);
    assert_eq!((count("containers"), count("snapshots")), (0, 0));
    fill();
    shelf.ok(&["prune", "--containers", "--all", "--force"]);
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn containers_go_without_a_free_byte(env: &Env) {
    let shelf = Shelf::new(env);
    let disk = Disk::ext4(env, &shelf.path(), 32, &[]);
    containers_go(&shelf, || disk.fill());
    drop(disk);
}

fn containers_go_without_a_free_inode(env: &Env) {
    let shelf = Shelf::new(env);
    let disk = Disk::ext4(env, &shelf.path(), 32, &["-N", "512"]);
    containers_go(&shelf, || disk.use_all_inodes());
    drop(disk);
}

fn removal_without_a_free_byte(env: &Env) {
    let shelf = Shelf::new(env);
    let disk = Disk::ext4(env, &shelf.path(), 32, &[]);
    removal(&shelf, || disk.fill());
    drop(disk);
}

fn removal_without_a_free_inode(env: &Env) {
    let shelf = Shelf::new(env);
    let disk = Disk::ext4(env, &shelf.path(), 32, &["-N", "256"]);
    removal(&shelf, || disk.use_all_inodes());
    drop(disk);
}

fn a_read_only_store(env: &Env) {
    let shelf = Shelf::new(env);
    let disk = Disk::tmpfs(&shelf.path(), "size=8m");
    shelf.publish("one", &Image::with_file("a", b"1"));
    shelf.publish("two", &Image::with_file("a", b"2"));
    shelf.ok(&["pull", "-q", &shelf.name("one")]);
    let none: Option<&str> = None;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, &shelf.path(), none, flags, none).unwrap();
    assert_eq!(shelf.ok(&["images", "-q"]).lines().count(), 1);
    shelf.ok(&["inspect", &shelf.name("one")]);
    shelf.ok(&["fsck"]);
    shelf
        .call(&["pull", "-q", &shelf.name("two")])
        .exits(1)
        .says("cannot pull")
        .says("read-only file system");
    shelf
        .call(&["rmi", &shelf.name("one")])
        .exits(1)
        .says("read-only file system");
    shelf
        .call(&["tag", &shelf.name("one"), "x"])
        .exits(1)
        .says("read-only file system");
    drop(disk);
}

fn a_store_that_is_none(env: &Env) {
    let shelf = Shelf::new(env);
    std::fs::create_dir(shelf.path()).unwrap();
    std::fs::write(shelf.path().join("letter.txt"), "dear").unwrap();
    shelf
        .call(&["images"])
        .exits(1)
        .says("cannot open the store")
        .says("it is no store, and holds other things: \"letter.txt\"");
    std::fs::remove_dir_all(shelf.path()).unwrap();
    std::fs::write(shelf.path(), "a file").unwrap();
    shelf
        .call(&["images"])
        .exits(1)
        .says("cannot open the store");
}
