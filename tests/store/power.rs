//! Power cuts: whatever was going on, what counts as there is whole, and what was promised is there.
//!
//! The store is on an ext4 of its own, which commits its journal only when somebody asks for it, and
//! which is shut down without writing anything out (EXT4_IOC_SHUTDOWN, NOLOGFLUSH).

use crate::harness::process::until;
use crate::harness::store::Image;
use crate::harness::whole::{Found, Known, kill_everything, mixed};
use crate::harness::{Env, Shelf, Test, cgroup, people, test};
use nix::mount::{MntFlags, umount2};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(power_cuts_at_random_instants).timeout(180),
        test!(power_cuts_with_data_written_back_at_any_time).timeout(180),
    ]
}

/// ext4 in a file, mounted where the store is.
struct Disk<'a> {
    env: &'a Env,
    at: PathBuf,
}

impl<'a> Disk<'a> {
    fn new(env: &'a Env, at: PathBuf, data: &str) -> Self {
        fs::create_dir(&at).unwrap();
        let disk = Self { env, at };
        let image = fs::File::create(env.path("disk.img")).unwrap();
        image.set_len(96 << 20).unwrap();
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-m", "0", "-N", "4000"])
            .arg(env.path("disk.img"));
        if !mkfs.status().is_ok_and(|status| status.success()) {
            env.skip("mkfs.ext4 is not installed");
        }
        disk.mount(&format!("loop,commit=1000,data={data}"));
        disk
    }

    fn mount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", options]);
        let done = mount
            .args([&self.env.path("disk.img"), &self.at])
            .output()
            .unwrap();
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr).into_owned();
            self.env.skip(format!("no loop device: {}", why.trim()));
        }
    }

    /// Begins something, and cuts the power a while after that.
    fn cut<T>(&self, after: Duration, begin: impl FnOnce() -> T) -> T {
        let script = "import fcntl,os,struct,sys,time; fd=os.open(sys.argv[1], os.O_RDONLY); print(flush=True); \
            input(); time.sleep(float(sys.argv[2])); fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(&self.at);
        python.arg(after.as_secs_f64().to_string());
        let python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut python) = python else {
            self.env.skip("python3 is not installed")
        };
        let _ = python.stdout.as_mut().unwrap().read_exact(&mut [0]);
        let begun = begin();
        let _ = python.stdin.take().unwrap().write_all(b"\n");
        if !python.wait().is_ok_and(|status| status.success()) {
            self.env.skip("cannot shut a file system down");
        }
        begun
    }

    /// Everything that ran is gone; mounts what is on the disk. From a copy: the dead file system may
    /// live on in mount namespaces that are not gone yet.
    fn restart(&self, options: &str) {
        kill_everything();
        until("the disk is unused", 20, || {
            umount2(&self.at, MntFlags::empty()).ok()
        });
        let (image, copy) = (self.env.path("disk.img"), self.env.path("copy.img"));
        let mut cp = Command::new("cp");
        cp.arg("--sparse=always").args([&image, &copy]);
        assert!(cp.status().unwrap().success());
        fs::rename(copy, image).unwrap();
        self.mount(options);
        // What is in /run does not survive.
        let _ = fs::remove_dir_all(&self.env.rt.root);
        cgroup::remove(&self.env.tag);
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// What is done while the power goes, one line each: what it is called, and the command.
const STORY: &[(&str, &str)] = &[
    ("pull-a", "pull -q A"),
    // Of what has been there for a while.
    ("settle", "prune -f"),
    (
        "run",
        "run --pull=never PARENT --name one A sh -c \
         'for i in 1 2 3 4; do yes $i | head -c 90000 >/written$i; done; sync /written2; mkdir -p /d; rm -f /etc/group'",
    ),
    ("tag", "tag A kept:1"),
    ("pull-b", "pull -q B"),
    ("rmi-b", "rmi B"),
    ("rm", "rm one"),
    ("rmi-a", "rmi A"),
    ("prune", "prune -f"),
];

fn story(shelf: &Shelf<'_>, log: &std::path::Path) -> Command {
    let rcrun = format!(
        "{} --root {} --store {}",
        shelf.env.rt.path().display(),
        shelf.env.rt.root.display(),
        shelf.path().display()
    );
    let parent = format!("--cgroup-parent={}", shelf.env.tag);
    let mut script = format!("log() {{ echo $1 >>{}; }}\n", log.display());
    for (name, words) in STORY {
        let words = words.replace("PARENT", &parent);
        let words = words.replace(" A", &format!(" {}", shelf.name("a")));
        let words = words.replace(" B", &format!(" {}", shelf.name("b")));
        if *name == "settle" {
            let layers = shelf.path().join("layers/*-pull/unsettled.json");
            script += &format!("touch -c -d '3 minutes ago' {}\n", layers.display());
        }
        script += &format!("log +{name}; {rcrun} {words} && log ={name}\n");
    }
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::null());
    command.env("HOME", shelf.env.path("home"));
    command
}

/// Names of images and of a container that were promised: what made them has ended well, and what removes them has not begun.
fn promised(log: &str) -> Vec<&'static str> {
    let has = |line: &str| log.lines().any(|found| found == line);
    let mut names = Vec::new();
    for (name, made, removed) in [
        ("a", "=pull-a", "+rmi-a"),
        ("kept:1", "=tag", "never"),
        ("b", "=pull-b", "+rmi-b"),
        ("one", "=run", "+rm"),
    ] {
        if has(made) && !has(removed) {
            names.push(name);
        }
    }
    names
}

fn power_cuts_at_random_instants(env: &Env) {
    power_cuts(env, "ordered");
}

/// Here ext4 gives blocks of removed files to others before the removal is on the disk.
fn power_cuts_with_data_written_back_at_any_time(env: &Env) {
    power_cuts(env, "writeback");
}

fn power_cuts(env: &Env, data: &str) {
    let shelf = Shelf::new(env);
    let disk = Disk::new(env, shelf.path(), data);
    let mut known = Known::default();
    let base = people::layer(env, &[("etc/motd", 0o644, b"welcome")]);
    let shared = mixed("shared", 60, 1);
    let a = Image::new(&[base.clone(), shared.clone(), mixed("own", 40, 2)]);
    let b = Image::new(&[base, shared, mixed("other", 50, 3)]);
    known.publish(&shelf, "a", &a);
    known.publish(&shelf, "b", &b);
    known.also("library/kept");
    let log = env.path("log");
    let began = Instant::now();
    env.rt.finish(env.rt.spawn(story(&shelf, &log))).ok();
    let mut length = began.elapsed();
    let done = fs::read_to_string(&log).unwrap();
    for (name, _) in STORY {
        assert!(done.contains(&format!("={name}\n")), "{name} failed");
    }
    let rounds = if crate::harness::full() { 200 } else { 4 };
    let mut seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |time| u64::from(time.subsec_nanos()));
    let (mut all, mut endings) = (Found::default(), std::collections::BTreeMap::new());
    for round in 0..rounds {
        fs::write(&log, "").unwrap();
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let after = length.mul_f64((seed >> 40) as f64 / f64::from(1 << 24));
        let running = disk.cut(after, || env.rt.spawn(story(&shelf, &log)));
        let said = fs::read_to_string(&log).unwrap();
        let delay = ["delalloc", "nodelalloc"][round % 2];
        disk.restart(&format!("loop,commit=1000,data={data},{delay}"));
        env.rt.finish(running);
        let at = said.lines().last().unwrap_or("before").to_owned();
        // Most cuts are to come before the end, however fast the machine is at the moment.
        length = length.mul_f64(if at == "=prune" { 0.8 } else { 1.05 });
        *endings.entry(at.clone()).or_insert(0) += 1;
        env.rt
            .note(&format!("-- round {round}, cut after {after:?} in {at}\n"));
        all += after_the_cut(&shelf, &known, &promised(&said));
        if round % 2 == 0 {
            shelf.ok(&["prune", "--all", "--force"]);
            assert_eq!(shelf.counts(), (0, 0, 0));
        }
    }
    println!("{rounds} power cuts, data={data}: {endings:?}; whole: {all:?}");
    assert!(rounds < 100 || all.layers > 0, "no layer was ever settled");
    drop(disk);
}

fn after_the_cut(shelf: &Shelf<'_>, known: &Known, promised: &[&str]) -> Found {
    // Before anything else writes: as it came back.
    let found = known.check(&shelf.path());
    shelf.call(&["fsck"]).exits(0);
    let names = shelf.lines(&["images", "--format", "{Repository}:{Tag}"]);
    assert_eq!(names.len(), found.names, "{names:?}");
    for name in &names {
        let lower = shelf.ok(&["inspect", "--format", "{GraphDriver.Data.LowerDir}", name]);
        // None of a layer that has to be unpacked again.
        for directory in lower.trim().split(':').filter(|path| !path.is_empty()) {
            assert!(std::path::Path::new(directory).is_dir(), "{name}: {lower}");
        }
    }
    for name in promised.iter().filter(|name| **name != "one") {
        let name = match *name {
            "kept:1" => "kept:1".to_owned(),
            other => shelf.name(other),
        };
        shelf.ok(&["inspect", &name]);
    }
    if promised.contains(&"one") {
        // Its layers may have to be unpacked again.
        let changed = shelf.lines(&["diff", "one"]);
        assert!(changed.contains(&"D /etc/group".to_owned()), "{changed:?}");
        shelf.ok(&["start", "--attach", "one"]);
    }
    shelf.no_containers();
    let parent = format!("--cgroup-parent={}", shelf.env.tag);
    shelf.ok(&["pull", "-q", &shelf.name("b")]);
    shelf.ok(&["run", "--rm", &parent, &shelf.name("b"), "cat", "/etc/motd"]);
    shelf.ok(&["rmi", &shelf.name("b")]);
    known.check(&shelf.path());
    found
}
