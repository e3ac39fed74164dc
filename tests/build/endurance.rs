//! Many builds at once, killed at any moment; steps that never end, print without end, or leave processes behind;
//! one digest wherever and whenever something is built; a disk that is full.

use crate::harness::builds::{Build, Builds, fill, steps};
use crate::harness::leaks::Snapshot;
use crate::harness::runtime::Running;
use crate::harness::{Env, Need, Shelf, Test, full, process, test};
use rcrun_image::registry::testing::{Answer, Fault};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(eight_builds_that_are_killed_give_what_one_gives).timeout(150),
        test!(the_next_build_goes_on_at_the_last_finished_step),
        test!(prune_leaves_what_a_running_build_is_made_of),
        test!(what_is_tried_again_is_told),
        test!(ctrl_c_ends_a_step_at_once),
        test!(output_without_end_takes_no_memory).timeout(120),
        test!(processes_that_stay_behind_are_ended),
        test!(one_digest_everywhere),
        test!(times_are_those_that_were_asked_for),
        test!(a_full_disk_is_named_and_the_store_goes_on).needs(Need::Program("mount")),
    ]
}

/// Of the eight: shared bases and files, a cache directory of each kind, stages that wait for each other.
const DOCKERFILE: &str = "\
FROM base AS shared
COPY tree /tree
RUN cat /tree/* > /sum && sleep 0.0$(( $$ % 5 ))
FROM shared AS one
ARG N
RUN --mount=type=cache,target=/c,sharing=shared echo $N > /c/$N && cp /c/$N /n
RUN --mount=type=cache,target=/l,sharing=locked n=$(cat /l/n 2> /dev/null || echo 0); echo $((n+1)) > /l/n
FROM shared AS two
RUN --mount=type=cache,target=/p,sharing=private mkdir -p /p/d && test ! -e /p/lock && touch /p/lock && rm /p/lock; echo two > /two
FROM scratch
COPY --from=one /n /sum /
COPY --from=two /two /
";

/// A number that looks random, from one that counts.
fn mixed(seed: u64) -> u64 {
    let x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 17
}

fn eight_builds_that_are_killed_give_what_one_gives(env: &Env) {
    const BUILDS: u64 = 8;
    let builds = Builds::new(env);
    let context = builds.context(&[
        ("Dockerfile", DOCKERFILE),
        ("tree/a", "one\n"),
        ("tree/b", "two\n"),
    ]);
    let argument = |number: u64| format!("--build-arg=N={number}");
    let rounds = if full() { 100 } else { 4 };
    // What each gives, one after the other, is what it gives in every round.
    let began = Instant::now();
    let serial: Vec<String> = (0..BUILDS)
        .map(|number| builds.build(&[&argument(number)], &context).ok().digest())
        .collect();
    // The first build does all of it; eight at once on few processors take longer.
    let span = u64::try_from(began.elapsed().as_millis()).unwrap() / 4;
    let (mut killed, mut finished) = (0, 0);
    for round in 0..rounds {
        builds
            .shelf
            .ok(&["prune", "--force", "--all", "--build-cache"]);
        builds
            .shelf
            .ok(&["pull", "--quiet", &builds.shelf.name("base")]);
        builds
            .shelf
            .ok(&["tag", &builds.shelf.name("base"), "base"]);
        let before = Snapshot::take(env);
        let mut running: Vec<_> = (0..BUILDS)
            .map(|number| env.rt.spawn(builds.command(&[&argument(number)], &context)))
            .collect();
        for (number, one) in running.iter_mut().enumerate() {
            let seed = round * 1000 + number as u64;
            if number % 2 == 0 {
                std::thread::sleep(Duration::from_millis(mixed(seed) % (span / BUILDS * 2)));
                let _ = one.child.kill();
            }
        }
        let mut ended = Vec::new();
        for one in running {
            let output = env.rt.finish_within(one, Duration::from_secs(60));
            assert!(output.code == 0 || output.code == 137, "{output}");
            killed += usize::from(output.code == 137);
            ended.push(output);
        }
        for (output, (number, expected)) in ended.iter().zip((0..BUILDS).zip(&serial)) {
            let built = builds.build(&[&argument(number)], &context).ok();
            assert_eq!(built.digest(), *expected, "build {number} of round {round}");
            // Whatever it had said was finished is not done again, however it ended.
            let said = steps(&output.stderr);
            let done = built.done();
            let again = said.iter().filter(|step| done.contains(&&*step.title));
            let again: Vec<&str> = again.map(|step| &*step.title).collect();
            assert!(again.is_empty(), "{again:?}\n{output}\n{}", built.output);
            if output.code == 137 {
                finished += said.len();
            }
        }
        builds.assert_settled();
        // What killed processes held is let go by the next sweep; processes, mounts and cgroups are gone already.
        builds.shelf.ok(&["prune", "--force"]);
        let left = before.leaked(env);
        assert!(left.is_empty(), "round {round}: {left:#?}");
    }
    println!(
        "{rounds} rounds, {killed} builds killed; {finished} steps that they had finished were not done again"
    );
    let checked = builds.shelf.ok(&["fsck"]);
    assert!(!checked.contains("damaged"), "{checked}");
}

pub(super) fn the_next_build_goes_on_at_the_last_finished_step(env: &Env) {
    let builds = Builds::new(env);
    let ready = env.directory("ready");
    let context = builds.dockerfile(
        "FROM base\nRUN echo 1 > /a\nRUN echo 2 > /b\nRUN --mount=type=cache,target=/c test -e /c/second || { touch /c/second; echo waiting; sleep 1000; }\n",
    );
    drop(ready);
    let mut running = env.rt.spawn(builds.command(&[], &context));
    wait_for(|| said(&mut running));
    running.child.kill().unwrap();
    env.rt.finish(running).exits(137);
    // Its step is ended by the kernel's news that the builder is gone.
    wait_for(|| {
        !process::all()
            .iter()
            .any(|(_, _, what)| what.contains("sleep"))
    });
    let built = builds.build(&[], &context).ok();
    assert_eq!(built.cached().len(), 2, "{}", built.output);
    assert_eq!(built.done().len(), 1);
    builds.shelf.ok(&["prune", "--force"]);
    builds.assert_settled();
}

fn prune_leaves_what_a_running_build_is_made_of(env: &Env) {
    let builds = Builds::new(env);
    let other = "FROM base\nRUN echo 3 > /c\n";
    builds.of(&[], other, &[]);
    let context = builds
        .dockerfile("FROM base\nRUN echo 1 > /a\nRUN echo 2 > /b\nRUN echo waiting; sleep 1000\n");
    let mut running = env.rt.spawn(builds.command(&[], &context));
    wait_for(|| said(&mut running));
    builds.shelf.ok(&["prune", "--force", "--build-cache"]);
    running.child.kill().unwrap();
    env.rt.finish(running).exits(137);
    let stopped =
        builds.dockerfile("FROM base\nRUN echo 1 > /a\nRUN echo 2 > /b\nRUN echo 4 > /d\n");
    let built = builds.build(&[], &stopped).ok();
    assert_eq!(built.cached().len(), 2, "{}", built.output);
    // What nobody was using is gone.
    let built = builds.of(&[], other, &[]);
    assert_eq!(built.cached().len(), 0, "{}", built.output);
    builds.shelf.ok(&["prune", "--force"]);
    builds.assert_settled();
}

fn what_is_tried_again_is_told(env: &Env) {
    let builds = Builds::new(env);
    let registry = &builds.shelf.registry;
    let busy = || Fault::Answer(Answer::new(503, "").with("Retry-After", 1));
    let file = registry.add_blob("files", b"content");
    let (base, cache) = (builds.shelf.name("base"), builds.shelf.name("cache"));
    let result = builds.shelf.name("result");
    let host = registry.host();
    let text = format!("FROM {base}\nADD http://{host}/v2/files/blobs/{file} /f\n");
    let context = builds.dockerfile(&text);
    // A base image, a file, a cache that is read, one that is written, an image that is pushed.
    let from = format!("--cache-from={cache}");
    let to = format!("--cache-to=type=registry,ref={cache}");
    let cases: [(&[&str], &str, &str); 5] = [
        (&["--pull"], "GET", "/v2/base/manifests"),
        (&["--no-cache"], "GET", "/v2/files/blobs"),
        (&[&to], "PUT", "/v2/cache/manifests"),
        (&[&from], "GET", "/v2/cache/manifests"),
        (&["--push", "-t", &result], "PUT", "/v2/result/manifests"),
    ];
    for (flags, method, part) in cases {
        registry.fault(method, part, 1, busy());
        let built = builds.build(flags, &context).ok();
        let said = &built.output.stderr;
        let told = said.lines().filter(|line| line.contains("retrying in 1 s"));
        assert_eq!(told.count(), 1, "{part}: {said}");
        assert!(said.contains("503"), "{part}: {said}");
    }
}

/// Whether its step has said that it waits; the command in the title says so before.
fn said(running: &mut Running) -> bool {
    running.read().1.contains("\"data\":\"waiting")
}

#[track_caller]
fn wait_for(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "it did not come to pass");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ctrl_c_ends_a_step_at_once(env: &Env) {
    let builds = Builds::new(env);
    // It ignores what it can ignore.
    let context = builds.dockerfile(
        "FROM base\nRUN echo 1 > /a\nRUN trap '' TERM INT HUP; echo waiting; while true; do sleep 1000; done\n",
    );
    for signal in ["INT", "TERM"] {
        let mut running = env.rt.spawn(builds.command(&[], &context));
        wait_for(|| said(&mut running));
        let began = Instant::now();
        let pid = running.pid().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{signal}"), &pid])
                .status()
                .unwrap()
                .success()
        );
        let output = env.rt.finish(running);
        assert!(output.code == 130 || output.code == 143, "{output}");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        builds.assert_settled();
    }
}

/// The most memory that a process had, in KiB.
fn peak(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn output_without_end_takes_no_memory(env: &Env) {
    let builds = Builds::new(env);
    // Lines take a debug build its time.
    let of = |short: u32| if full() { 1024 } else { short };
    for (style, megabytes) in [("plain", of(4)), ("rawjson", of(24)), ("quiet", of(100))] {
        let program = match style {
            "plain" => format!("yes | head -c {megabytes}000000"),
            "rawjson" => format!("head -c {megabytes}000000 /dev/zero | tr '\\0' x"),
            _ => format!("head -c {megabytes}000000 /dev/urandom >&2"),
        };
        let context = builds.dockerfile(&format!("FROM base\nRUN {program}\n"));
        let progress = format!("--progress={style}");
        let parent = format!("--cgroup-parent={}", env.tag);
        let mut words = vec!["build", &progress];
        // An ordinary user has no cgroup here.
        words.extend(env.user.is_none().then_some(parent.as_str()));
        words.push(context.to_str().unwrap());
        let mut command = builds.shelf.command(&words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        let mut child = command.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mut most = 0;
        let status = loop {
            most = most.max(peak(pid).unwrap_or(0));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{style}");
        println!(
            "{style}: {megabytes} MB in {:?}, {most} KiB",
            began.elapsed()
        );
        // A debug build that does nothing has some 20 MiB.
        assert!(most < 40 << 10, "{style}: {most} KiB");
    }
}

fn processes_that_stay_behind_are_ended(env: &Env) {
    let builds = Builds::new(env);
    let began = Instant::now();
    let built = builds.of(
        &[],
        "FROM base\nRUN sleep 1000 & setsid sleep 1001 > /dev/null 2>&1 & (trap '' TERM HUP; setsid sh -c 'sleep 1002' &) ; echo 1 > /a\nRUN cat > /b; read x; echo $? > /c\nRUN ps | grep -c sleep > /d; true\n",
        &[],
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    let files = built.files();
    assert_eq!(files.text("a"), "1\n");
    assert_eq!(files.text("b"), "");
    assert_eq!(files.text("c"), "1\n");
    let left = process::all()
        .into_iter()
        .filter(|(_, _, what)| what.contains("sleep"));
    assert_eq!(left.count(), 0);
}

/// What is built in all places.
const EVERYWHERE: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM base AS one\nRUN mkdir -p /out/d && date > /dev/null && echo 1 > /out/d/f && ln /out/d/f /out/g && ln -s g /out/l && chown 5:6 /out/g\nFROM base\nWORKDIR /work/dir\nCOPY . /all\nCOPY --from=one /out /out\nRUN for n in z y x a b c; do echo $n > /work/$n; done; rm -r /all/gone\nADD a.tar /tar\n",
    ),
    ("b/f", "1"),
    ("a/f", "2"),
    ("gone/f", "3"),
    ("l -> b/f", ""),
    (".dockerignore", "ignored\n"),
    ("ignored", "4"),
];

/// A file system in a file, mounted; none if it cannot be made here.
fn mounted(env: &Env, kind: &str) -> Option<PathBuf> {
    let at = env.directory(&format!("fs-{kind}"));
    let run = |program: &str, words: &[&str]| {
        let done = Command::new(program)
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|status| status.success())
    };
    let place = at.to_str().unwrap();
    let made = match kind {
        "tmpfs" => run("mount", &["-t", "tmpfs", "-o", "size=200m", "none", place]),
        kind => {
            let image = env.path(&format!("{kind}.image"));
            fs::File::create(&image)
                .unwrap()
                .set_len(400 << 20)
                .unwrap();
            run(&format!("mkfs.{kind}"), &["-q", image.to_str().unwrap()])
                && run("mount", &["-o", "loop", image.to_str().unwrap(), place])
        }
    };
    made.then_some(at)
}

fn unmount(at: &Path) {
    assert!(Command::new("umount").arg(at).status().unwrap().success());
}

fn one_digest_everywhere(env: &Env) {
    let builds = Builds::new(env);
    let mut digests: Vec<(String, String)> = Vec::new();
    let mut places: Vec<(String, PathBuf)> = vec![("here".to_owned(), env.directory("here"))];
    let mut mounts = Vec::new();
    for kind in ["tmpfs", "ext4", "xfs"] {
        match mounted(env, kind) {
            Some(at) => {
                places.push((kind.to_owned(), at.clone()));
                mounts.push(at);
            }
            None => println!("not on {kind}: it cannot be made here"),
        }
    }
    let tar = super::copy_sources::archive(&[("t", tar::EntryType::Regular, "1")]);
    for (number, (name, place)) in places.iter().enumerate() {
        let context = place.join("context");
        // In another order, so that directories list them differently.
        let mut files = EVERYWHERE.to_vec();
        files.rotate_left(number % EVERYWHERE.len());
        fill(&context, &files);
        fs::write(context.join("a.tar"), &tar).unwrap();
        let anew = builds.build(&["--no-cache"], &context).ok();
        digests.push((name.clone(), anew.digest()));
        // Of another user, at another time, with another umask.
        for (path, _) in EVERYWHERE {
            let path = context.join(path.split(" -> ").next().unwrap());
            if path.is_symlink() {
                continue;
            }
            let file = fs::File::options().read(true).open(&path).unwrap();
            let when = UNIX_EPOCH + Duration::from_secs(1_000_000 + number as u64);
            file.set_modified(when).unwrap();
            chown(&path, Some(1000 + u32::try_from(number).unwrap()), Some(7)).unwrap();
        }
        let again = builds.build(&[], &context).ok();
        digests.push((format!("{name}, touched"), again.digest()));
        assert_eq!(again.done(), Vec::<&str>::new(), "{name}");
    }
    // In a store elsewhere, also on another file system.
    for (name, place) in &places {
        if name == "here" || name == "xfs" && !full() {
            continue;
        }
        let store = place.join("store");
        let mut command = Command::new(env.rt.path());
        command
            .arg("--root")
            .arg(&env.rt.root)
            .arg("--store")
            .arg(&store);
        let with = |words: &[&str]| {
            let mut one = Command::new(command.get_program());
            one.args(command.get_args())
                .args(words)
                .stdin(Stdio::null())
                .env("HOME", &env.dir);
            one.env("TZ", "Asia/Kathmandu");
            env.rt.finish(env.rt.spawn(one)).ok();
        };
        let full_name = builds.shelf.name("base");
        with(&["pull", "-q", &full_name]);
        with(&["tag", &full_name, "base"]);
        let metadata = env.path("elsewhere");
        let flag = format!("--metadata-file={}", metadata.display());
        let parent = format!("--cgroup-parent={}", env.tag);
        with(&[
            "build",
            &flag,
            &parent,
            place.join("context").to_str().unwrap(),
        ]);
        let value: serde_json::Value =
            serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();
        let digest = value["containerimage.digest"].as_str().unwrap().to_owned();
        digests.push((format!("a store on {name}"), digest));
    }
    for at in mounts {
        unmount(&at);
    }
    let first = &digests[0].1;
    let others: Vec<_> = digests
        .iter()
        .filter(|(_, digest)| digest != first)
        .collect();
    assert!(others.is_empty(), "{first}: {others:?}");
}

fn times_are_those_that_were_asked_for(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.context(&[
        (
            "Dockerfile",
            "FROM base\nCOPY f /f\nRUN echo 1 > /new && touch -d @1000000 /old\nWORKDIR /w\n",
        ),
        ("f", "1"),
    ]);
    let of = |build: &Build, expected: i64| {
        assert_eq!(build.files().get("f").modified, (expected, 0));
        // Nothing in layers of ours is later than that, and what is earlier stays.
        let manifest = build.manifest();
        let mut old = 0;
        for layer in &manifest["layers"].as_array().unwrap()[1..] {
            let packed = build.blob(layer["digest"].as_str().unwrap());
            let path = env.path("layer.gz");
            fs::write(&path, packed).unwrap();
            let unpacked = Command::new("gzip")
                .arg("-dc")
                .arg(&path)
                .output()
                .unwrap()
                .stdout;
            let mut archive = tar::Archive::new(&unpacked[..]);
            for entry in archive.entries().unwrap() {
                let entry = entry.unwrap();
                let modified = entry.header().mtime().unwrap();
                assert!(modified <= expected.unsigned_abs(), "{:?}", entry.path());
                old += usize::from(modified == 1_000_000);
            }
        }
        assert_eq!(old, 1);
        build.document()["created"].as_str().unwrap().to_owned()
    };
    let default = builds.build(&[], &context).ok();
    assert_eq!(
        of(&default, crate::harness::builds::BASE_TIME),
        "2026-01-02T03:04:06Z"
    );
    let flag = builds.build(&["--timestamp=1000000000"], &context).ok();
    assert_eq!(of(&flag, 1_000_000_000), "2001-09-09T01:46:40Z");
    let argument = builds
        .build(&["--build-arg=SOURCE_DATE_EPOCH=1000000000"], &context)
        .ok();
    assert_eq!(of(&argument, 1_000_000_000), "2001-09-09T01:46:40Z");
    builds.shelf.set("SOURCE_DATE_EPOCH", "1000000000");
    let variable = builds.build(&[], &context).ok();
    assert_eq!(variable.digest(), argument.digest());
    builds
        .build(&["--build-arg=SOURCE_DATE_EPOCH=yesterday"], &context)
        .fails("SOURCE_DATE_EPOCH");
}

fn a_full_disk_is_named_and_the_store_goes_on(env: &Env) {
    let at = env.directory("store");
    let mount = Command::new("mount")
        .args([
            "-t",
            "tmpfs",
            "-o",
            "size=24m",
            "none",
            at.to_str().unwrap(),
        ])
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        env.skip("no tmpfs can be mounted here");
    }
    let builds = Builds::upon(env, Shelf::new(env));
    let small = builds.dockerfile("FROM base\nRUN echo 1 > /a\n");
    let before = builds.build(&["-t", "small"], &small).ok();
    for dockerfile in [
        "FROM base\nRUN head -c 60000000 /dev/urandom > /big\n",
        "FROM base\nCOPY big /\n",
        "FROM base\nRUN --mount=type=cache,target=/c head -c 60000000 /dev/urandom > /c/big\n",
    ] {
        let context = builds.dockerfile(dockerfile);
        fs::write(context.join("big"), vec![7; 30_000_000]).unwrap();
        let built = builds.build(&[], &context);
        assert_ne!(built.output.code, 0);
        built.fails("space");
        builds.assert_settled();
        // Cache directories are kept also of steps that failed: they are what fills the disk then.
        builds.shelf.ok(&["prune", "--force", "--build-cache"]);
    }
    let after = builds.build(&[], &small).ok();
    assert_eq!(after.digest(), before.digest());
    assert_eq!(after.files().line("a"), "f 644 0:0 1");
    unmount(&at);
}
