//! Attacks by Dockerfiles, contexts, bases and steps: each must come to nothing. Numbers are those of group E
//! of the project's list of known vulnerabilities (builders).

use crate::harness::builds::{Build, Builds, Case};
use crate::harness::{Env, Test, full, test};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(e1_sources_of_mounts_stay_inside),
        test!(e2_cache_directories_are_swapped_while_mounted).timeout(120),
        test!(e3_removing_mount_points_spares_the_host),
        test!(e4_what_is_written_into_mounts_is_lost),
        test!(e5_nothing_more_without_an_entitlement),
        test!(e6_malformed_input_is_refused).timeout(120),
    ]
}

pub(super) const CASE: Case<'_> = Case::NONE;

/// What no image may have.
pub(super) const CANARY: &str = "canary-of-the-host-1f6d0c";

/// A file of the host that has it.
pub(super) fn canary(env: &Env) -> std::path::PathBuf {
    let path = env.directory("host").join("canary");
    fs::write(&path, CANARY).unwrap();
    path
}

/// No file of the image has it.
#[track_caller]
pub(super) fn assert_clean(build: &Build) {
    for (path, file) in &build.files().0 {
        let text = String::from_utf8_lossy(&file.content);
        let shown = file.kind == 'f' && text.contains(CANARY);
        assert!(!shown, "{path} shows the host's file\n{}", build.output);
    }
}

fn e1_sources_of_mounts_stay_inside(env: &Env) {
    let builds = Builds::new(env);
    let path = canary(env);
    let path = path.to_str().unwrap();
    let up = "../".repeat(20);
    let evil = format!(
        "FROM base AS evil\nRUN ln -s / /root-link && ln -s {up} /up && ln -s {path} /file && ln -s /proc/1/root /magic\nFROM base\n"
    );
    let reads = format!("cat {path} /m{path} /m 2>&1; true");
    let mut dockerfile = evil;
    for source in ["/root-link", "/up", "../..", "/../../../..", &up] {
        dockerfile += &format!(
            "RUN --mount=type=bind,from=evil,source={source},target=/m {reads} >> /seen\n"
        );
    }
    for id in ["../../../..", "/../../etc", "..", "a/../../../../../b"] {
        dockerfile += &format!(
            "RUN --mount=type=cache,id={id},target=/m {reads} >> /seen; touch /m/touched\n"
        );
        dockerfile +=
            &format!("RUN --mount=type=cache,id=x,source=../../../..,target=/m {reads} >> /seen\n");
    }
    let built = builds.of(&[], &dockerfile, &[]);
    assert_clean(&built);
    let touched = Command::new("find")
        .arg(&env.dir)
        .args(["-name", "touched"])
        .output();
    let touched = String::from_utf8(touched.unwrap().stdout).unwrap();
    let mounts = builds.shelf.path().join("build/mounts");
    for line in touched.lines() {
        assert!(Path::new(line).starts_with(&mounts), "{line}");
    }
    // These do not lead anywhere inside.
    for source in [path, "/file", "/magic"] {
        let text = format!(
            "FROM base AS evil\nRUN ln -s {path} /file && ln -s /proc/1/root /magic\nFROM base\nRUN --mount=from=evil,source={source},target=/m cat /m /m{path} > /seen\n"
        );
        let built = builds.build(&[], &builds.dockerfile(&text));
        assert_ne!(built.output.code, 0, "{source}\n{}", built.output);
    }
    // A cache directory in which a step left a link.
    let text = format!(
        "FROM base AS one\nRUN --mount=type=cache,id=l,target=/c mkdir -p /c/sel && rm -r /c/sel && ln -s {up}{path} /c/sel && ln -s {path} /c/abs\nFROM one\nRUN --mount=type=cache,id=l,source=sel,target=/m cat /m\n"
    );
    let built = builds.build(&[], &builds.dockerfile(&text));
    assert_ne!(built.output.code, 0, "{}", built.output);
    assert!(!built.output.stderr.contains(CANARY), "{}", built.output);
}

/// Two builds share a cache directory; one changes a part of it between directory and link, the other mounts it.
fn e2_cache_directories_are_swapped_while_mounted(env: &Env) {
    let builds = Builds::new(env);
    let host = canary(env);
    let host = host.parent().unwrap().to_str().unwrap().to_owned();
    let prepare =
        "FROM base\nRUN --mount=type=cache,id=s,target=/c mkdir /c/d && echo fine > /c/d/canary\n";
    builds.of(&[], prepare, &[]);
    let swaps = if full() { 200_000 } else { 20_000 };
    let swap = format!(
        "FROM base\nRUN --mount=type=cache,id=s,target=/c ln -s {host} /c/l; n=0; while [ $n -lt {swaps} ] && [ ! -e /c/stop ]; do mv -T /c/d /c/x; mv -T /c/l /c/d; mv -T /c/d /c/l; mv -T /c/x /c/d; n=$((n+1)); done; true\n"
    );
    let context = builds.dockerfile(&swap);
    let running = env.rt.spawn(builds.command(&[], &context));
    let rounds = if full() { 500 } else { 15 };
    let mount = builds.dockerfile(
        "FROM base\nARG N\nRUN --mount=type=cache,id=s,source=d,target=/m cat /m/canary\n",
    );
    let mut seen = 0;
    for round in 0..rounds {
        let number = format!("--build-arg=N={round}");
        let built = builds.build(&[&number], &mount);
        assert!(!built.output.stderr.contains(CANARY), "{}", built.output);
        seen += usize::from(built.output.code == 0);
    }
    let stop = "FROM base\nRUN --mount=type=cache,id=s,target=/c touch /c/stop\n";
    builds.of(&["--no-cache"], stop, &[]);
    env.rt.finish_within(running, Duration::from_secs(60)).ok();
    println!("{seen} of {rounds} saw the directory");
}

fn e3_removing_mount_points_spares_the_host(env: &Env) {
    let builds = Builds::new(env);
    let path = canary(env);
    let host = path.parent().unwrap().to_str().unwrap();
    // The step swaps the directory of its mount point for a link to the host.
    let swap = format!(
        "FROM base\nRUN --mount=type=tmpfs,target=/x/canary/y umount /x/canary/y 2> /dev/null; mv /x /old 2> /dev/null; ln -s {host} /x; true\nRUN --mount=type=tmpfs,target=/a/b true\nRUN --mount=type=tmpfs,target=/c/d mkdir /c/mine\nRUN --mount=type=cache,target=/e/f rmdir /e/f 2> /dev/null; true\n"
    );
    let built = builds.of(&[], &swap, &[]);
    assert_eq!(fs::read_to_string(&path).unwrap(), CANARY);
    let files = built.files();
    assert_eq!(files.line("a"), "-");
    assert_eq!(files.line("c/mine"), "d 755 0:0");
    assert_eq!(files.line("c/d"), "-");
    assert_eq!(files.line("e"), "-");
    // What was there stays, with what it has.
    let there = "FROM base\nRUN mkdir -p /there/empty /full && echo 1 > /full/f\nRUN --mount=type=tmpfs,target=/there/empty --mount=type=tmpfs,target=/full true\n";
    let files = builds.of(&[], there, &[]).files();
    assert_eq!(files.line("there/empty"), "d 755 0:0");
    assert_eq!(files.line("full/f"), "f 644 0:0 1");
}

fn e4_what_is_written_into_mounts_is_lost(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.context(&[
        ("Dockerfile", "FROM base AS one\nRUN mkdir /d && echo 1 > /d/f\nFROM base AS two\nRUN --mount=type=bind,target=/c,rw echo changed > /c/f; rm -r /c/d; chmod 777 /c; chown 5 /c/f; touch /c/new\nRUN --mount=from=one,source=/d,target=/m,rw echo changed > /m/f; touch /m/g\nRUN --mount=type=bind,target=/c cat /c/f > /seen && ls /c >> /seen\nRUN --mount=from=one,source=/d,target=/m cat /m/f >> /seen; ls /m >> /seen\n"),
        ("f", "1"),
        ("d/g", "2"),
    ]);
    let before = facts(&context);
    let built = builds.build(&[], &context).ok();
    assert_eq!(facts(&context), before);
    assert_eq!(built.files().text("seen"), "1Dockerfile\nd\nf\n1\nf\n");
    let of = |options: &str| format!("FROM base\nRUN --mount=type=bind,target=/m,{options} true\n");
    for options in [
        "propagation=shared",
        "bind-propagation=rshared",
        "rw=maybe",
        "shared",
        "z",
        "idmap",
        "nosuid",
        "size=1",
    ] {
        let built = builds.build(&[], &builds.dockerfile(&of(options)));
        built.fails("Dockerfile:2");
    }
}

/// Everything about the files of a directory.
fn facts(directory: &Path) -> Vec<(String, u32, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = match stat.is_dir() {
            true => {
                todo.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
                Vec::new()
            }
            false => fs::read(&path).unwrap(),
        };
        let name = path.to_string_lossy().into_owned();
        found.push((name, stat.mode(), stat.uid(), stat.mtime(), content));
    }
    found.sort();
    found
}

fn e5_nothing_more_without_an_entitlement(env: &Env) {
    let of = |dockerfile: &'static str, flags: &'static [&'static str], fails: &'static str| Case {
        name: dockerfile,
        dockerfile,
        flags,
        fails,
        ..CASE
    };
    Builds::new(env).table(&[
        of(
            "FROM base\nRUN --security=insecure true\n",
            &[],
            "security.insecure",
        ),
        of("FROM base\nRUN --network=host true\n", &[], "network.host"),
        of("FROM base\nRUN --device=/dev/mem true\n", &[], "device"),
        of(
            "FROM base\nRUN --device=/dev/mem true\n",
            &["--allow=device=/dev/null"],
            "device",
        ),
        of(
            "FROM base\nRUN --security=insecure true\n",
            &["--allow=network.host"],
            "security.insecure",
        ),
        of(
            "FROM base\nARG S=insecure\nRUN --security=$S true\n",
            &[],
            "security",
        ),
        of(
            "FROM base AS one\nONBUILD RUN --security=insecure true\nFROM one\n",
            &[],
            "security.insecure",
        ),
        of("FROM base\nRUN --security=INSECURE true\n", &[], "security"),
        of("FROM base\nRUN --security=2 true\n", &[], "security"),
        of("FROM base\nRUN --network=2 true\n", &[], "network"),
        of(
            "FROM base\nRUN --network=container:x true\n",
            &[],
            "network",
        ),
        of(
            "FROM base\nRUN true\n",
            &["--allow=security"],
            "entitlement",
        ),
        of(
            "FROM base\nRUN true\n",
            &["--allow=security.insecure=yes"],
            "entitlement",
        ),
    ]);
}

fn e6_malformed_input_is_refused(env: &Env) {
    let builds = Builds::new(env);
    let many_stages = {
        let mut text = "FROM scratch AS s0\n".to_owned();
        for number in 1..10_000 {
            text += &format!("FROM s{} AS s{number}\n", number - 1);
        }
        text
    };
    // Long chains of empty stages are only long.
    let built = builds.build_within(
        &[],
        &builds.dockerfile(&many_stages),
        Duration::from_secs(60),
    );
    assert!(
        built.output.code == 0 || built.output.code == 1,
        "{}",
        built.output
    );
    let nested = format!(
        "FROM scratch\nLABEL a=${{x:-{}y{}\n",
        "${x:-".repeat(5000),
        "}".repeat(5001)
    );
    let continued = format!("FROM scratch\nLABEL a={}b\n", "c\\\n".repeat(200_000));
    let wide = format!("FROM base\nCMD [{}\"x\"]\n", "\"a\",".repeat(100_000));
    let texts: &[(&str, &[u8])] = &[
        ("nothing", b""),
        ("zeros", &[0; 4096]),
        ("no text", &[0xff, 0xfe, 0x00, 0x80, b'\n']),
        (
            "a cycle",
            b"FROM scratch AS one\nCOPY --from=two / /\nFROM scratch AS two\nCOPY --from=one / /\n",
        ),
        ("itself", b"FROM scratch AS me\nCOPY --from=me / /\n"),
        ("a negative index", b"FROM scratch\nCOPY --from=-1 / /\n"),
        (
            "a huge index",
            b"FROM scratch\nCOPY --from=99999999999999999999 / /\n",
        ),
        ("no end of a heredoc", b"FROM scratch\nCOPY <<A <<B <<C /\n"),
        ("nested words", nested.as_bytes()),
        ("an unknown escape", b"# escape=x\nFROM scratch\n"),
        (
            "directives twice",
            b"# escape=\\\n# escape=`\nFROM scratch\n",
        ),
        ("an empty name", b"FROM scratch AS \n"),
        ("a name that is none", b"FROM scratch AS ../x\n"),
        ("a port", b"FROM scratch\nEXPOSE 99999999\n"),
        ("a range of ports", b"FROM scratch\nEXPOSE 9-1\n"),
        (
            "a duration",
            b"FROM scratch\nHEALTHCHECK --interval=-1s CMD x\n",
        ),
        ("a platform", b"FROM --platform=/////// scratch\n"),
        ("a reference", b"FROM a:b:c:d@e\n"),
        ("a bad mount", b"FROM base\nRUN --mount=,,,,== true\n"),
        (
            "a mount of everything",
            b"FROM base\nRUN --mount=type=tmpfs,size=99999999999999999999,target=/x true\n",
        ),
    ];
    for (name, text) in texts {
        let context = builds.dockerfile("");
        fs::write(context.join("Dockerfile"), text).unwrap();
        let built = builds.build(&[], &context);
        assert!(
            (1..=2).contains(&built.output.code),
            "{name}\n{}",
            built.output
        );
        assert!(
            !built.output.stderr.contains("panicked"),
            "{name}\n{}",
            built.output
        );
        assert!(!built.output.stderr.is_empty(), "{name}");
    }
    // Long, and fine.
    for (name, text) in [("continued", continued), ("wide", wide)] {
        let built = builds.build(&[], &builds.dockerfile(&text));
        let (code, said) = (built.output.code, &built.output.stderr);
        assert!(
            code == 0 || code == 1 && !said.contains("panicked"),
            "{name}: {code}"
        );
    }
    // A file that never ends, and one that is no file.
    for target in ["/dev/zero", "/"] {
        let context = builds.context(&[]);
        symlink(target, context.join("Dockerfile")).unwrap();
        let built = builds.build(&[], &context);
        assert_ne!(built.output.code, 0, "{target}");
    }
    builds.assert_settled();
}
