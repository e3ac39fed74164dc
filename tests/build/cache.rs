//! What is done again, and what is not: each thing that a step may depend on, changed alone.

use crate::harness::builds::Builds;
use crate::harness::{Env, Test, test};
use rustix::fs::XattrFlags;
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(files_of_the_context),
        test!(arguments_variables_and_secrets),
        test!(base_images),
        test!(contents_count_not_how_they_came_to_be),
        test!(anew_on_demand),
        test!(records_that_are_damaged_are_misses),
        test!(a_limit_is_obeyed_and_prune_empties),
    ]
}

/// Changes one thing about the file `f`, a link `l` and a directory `d`.
type Change = fn(&Path);

fn files_of_the_context(env: &Env) {
    let builds = Builds::new(env);
    let dockerfile = "FROM base\nCOPY f l* d /to/\nRUN touch /done\n";
    let context = builds.context(&[
        ("Dockerfile", dockerfile),
        ("f", "1"),
        ("d/l -> 1", ""),
        ("d/g", ""),
        ("other", "1"),
    ]);
    let flags = ["--explain"];
    let first = builds.build(&flags, &context).ok();
    assert_eq!(first.done().len(), 2);
    assert_eq!(first.step("COPY").why, "it was never done before");
    // Whether it is a hit; a second look always is.
    let table: &[(&str, bool, Change)] = &[
        ("nothing", true, |_| {}),
        ("a file that is not copied", true, |context| {
            fs::write(context.join("other"), "2").unwrap();
        }),
        ("a modification time", true, |context| {
            let file = fs::File::options().write(true).open(context.join("f"));
            let when = UNIX_EPOCH + Duration::from_secs(1_000_000);
            file.unwrap().set_modified(when).unwrap();
        }),
        ("another inode with the same content", true, |context| {
            fs::write(context.join("new"), "1").unwrap();
            fs::rename(context.join("new"), context.join("f")).unwrap();
        }),
        (
            "an owner, which is root in the image anyway",
            true,
            |context| {
                chown(context.join("f"), Some(1234), Some(5)).unwrap();
            },
        ),
        ("content", false, |context| {
            fs::write(context.join("f"), "2").unwrap();
        }),
        (
            "content of the same length at the same time",
            false,
            |context| {
                let path = context.join("f");
                let before = fs::metadata(&path).unwrap().modified().unwrap();
                fs::write(&path, "3").unwrap();
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_modified(before).unwrap();
            },
        ),
        ("a mode", false, |context| {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(context.join("f"), mode).unwrap();
        }),
        ("a mode of a directory below", false, |context| {
            fs::create_dir(context.join("d/s")).unwrap();
        }),
        ("an attribute", false, |context| {
            let path = context.join("f");
            rustix::fs::setxattr(path, "user.mine", b"1", XattrFlags::empty()).unwrap();
        }),
        ("a link's target", false, |context| {
            fs::remove_file(context.join("d/l")).unwrap();
            symlink("2", context.join("d/l")).unwrap();
        }),
        ("a link instead of a file", false, |context| {
            fs::remove_file(context.join("d/g")).unwrap();
            symlink("g2", context.join("d/g")).unwrap();
        }),
        ("a new name", false, |context| {
            fs::rename(context.join("d/g"), context.join("d/h")).unwrap();
        }),
        ("a file more", false, |context| {
            fs::write(context.join("d/more"), "").unwrap();
        }),
        ("a file less", false, |context| {
            fs::remove_file(context.join("d/more")).unwrap();
        }),
    ];
    for (name, hit, change) in table {
        change(&context);
        let built = builds.build(&flags, &context).ok();
        let copy = built.step("COPY");
        // A file that is gone again was seen before.
        let hit = *hit || *name == "a file less";
        assert_eq!(copy.cached, hit, "{name}\n{}", built.output);
        assert_eq!(built.step("RUN").cached, hit, "{name}");
        if !hit {
            assert_eq!(copy.why, "what is copied changed", "{name}");
            assert_eq!(built.step("RUN").why, "the previous step changed", "{name}");
        }
        assert_eq!(
            builds.build(&[], &context).ok().done(),
            Vec::<&str>::new(),
            "{name}"
        );
    }
}

fn arguments_variables_and_secrets(env: &Env) {
    let builds = Builds::new(env);
    fs::write(env.path("s1"), "one").unwrap();
    fs::write(env.path("s2"), "two").unwrap();
    let s1 = format!("--secret=id=s,src={}", env.path("s1").display());
    let s2 = format!("--secret=id=s,src={}", env.path("s2").display());
    let plain = "FROM base\nARG A=1\nARG UNUSED\nENV E=1\nRUN --mount=type=secret,id=s echo $A\n";
    let (other_id, other_env) = (plain.replace("id=s ", "id=t "), plain.replace("E=1", "E=2"));
    let (comment, space) = (
        plain.replace("RUN", "# a comment\nRUN"),
        plain.replace("FROM base", "FROM   base  AS named"),
    );
    let user = plain.replace("RUN", "USER user\nRUN");
    let directory = plain.replace("RUN", "WORKDIR /tmp\nRUN");
    let label = plain.replace("RUN", "LABEL x=y\nRUN");
    let network = plain.replace("RUN ", "RUN --network=none ");
    let table: &[(&str, &[&str], &str, &str)] = &[
        ("the first time", &[&s1], plain, "it was never done before"),
        ("nothing", &[&s1], plain, ""),
        ("a secret's content", &[&s2], plain, ""),
        ("a secret that is not there", &[], plain, ""),
        ("a comment", &[], &comment, ""),
        ("a label", &[], &label, ""),
        (
            "an argument",
            &["--build-arg=A=2"],
            plain,
            "variable A changed",
        ),
        (
            "another argument that is declared",
            &["--build-arg=UNUSED=2"],
            plain,
            "variable A changed, variable UNUSED is new",
        ),
        (
            "an argument that is not declared",
            &["--build-arg=NOBODY=2"],
            plain,
            "",
        ),
        ("a variable", &[], &other_env, "variable E changed"),
        ("a proxy", &["--build-arg=HTTPS_PROXY=http://x"], plain, ""),
        ("memory", &["--memory=1g"], plain, ""),
        ("a user", &[], &user, "the user changed"),
        ("the network", &[], &network, "the network changed"),
        (
            "the network of all",
            &["--network=none"],
            plain,
            "the network changed",
        ),
        (
            "a capability",
            &["--cap-drop=chown"],
            plain,
            "the rights changed",
        ),
        (
            "a host",
            &["--add-host=a:1.2.3.4"],
            plain,
            "the rights changed",
        ),
        ("the name of the stage", &[], &space, ""),
        ("a secret's id", &[], &other_id, "the mounts changed"),
        (
            "a directory, and with it a step more",
            &[],
            &directory,
            "it was never done before",
        ),
    ];
    for (name, flags, dockerfile, why) in table {
        let context = builds.dockerfile(dockerfile);
        let flags = [&["--explain"], *flags].concat();
        let built = builds.build(&flags, &context).ok();
        let step = built.step("RUN");
        assert_eq!(step.cached, why.is_empty(), "{name}\n{}", built.output);
        // What is compared is the last time that it was done, so other things may have changed too.
        assert!(step.why.contains(why), "{name}: {:?}", step.why);
        for secret in ["one", "two"] {
            assert!(
                !built.output.stderr.contains(&format!("\"{secret}\"")),
                "{name}"
            );
        }
    }
}

fn base_images(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM base\nRUN touch /done\n");
    builds.build(&[], &context).ok();
    // Another configuration of the same files, then other files.
    let layer = crate::harness::people::layer(env, &[]);
    let config = json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": {"new": "label"}});
    builds.publish("base", &[layer], config.clone());
    let same = builds.build(&["--explain"], &context).ok();
    assert!(same.step("RUN").cached, "{}", same.output);
    assert_eq!(same.config()["Labels"], json!({"new": "label"}));
    let layer = crate::harness::people::layer(env, &[("etc/new", 0o644, b"new")]);
    builds.publish("base", &[layer], config);
    let other = builds.build(&["--explain"], &context).ok();
    assert_eq!(other.step("RUN").why, "the previous step changed");
    assert_eq!(other.files().line("etc/new"), "f 644 0:0 new");
}

/// BuildKit's: what a stage gives to another is compared by content.
fn contents_count_not_how_they_came_to_be(env: &Env) {
    let builds = Builds::new(env);
    let dockerfile = "FROM base AS one\nCOPY bust /\nRUN mkdir out && echo foo > out/foo\nFROM base AS two\nRUN --mount=from=one,src=out,target=/out,rw touch /out/bar && head -c 99 /dev/urandom > /unique\nFROM base AS three\nCOPY --from=one /out /out\nRUN head -c 99 /dev/urandom > /unique\nFROM scratch\nCOPY --from=two /unique /2\nCOPY --from=three /unique /3\n";
    let files = |bust: &'static str| [("bust", bust)];
    let first = builds.of(&[], dockerfile, &files("0"));
    let second = builds.of(&[], dockerfile, &files("1"));
    assert!(!second.step("RUN mkdir").cached);
    for path in ["2", "3"] {
        let (first, second) = (first.files(), second.files());
        assert_eq!(first.get(path), second.get(path), "{path}");
    }
    for changed in ["COPY --from=one", "RUN --mount"] {
        assert!(second.step(changed).cached, "{}", second.output);
    }
    // Renamed files are others, even if a pattern still matches.
    let wild = "FROM base\nCOPY f* /to/\nRUN ls /to > /list\n";
    assert_eq!(
        builds.of(&[], wild, &[("f1", "x")]).files().text("list"),
        "f1\n"
    );
    assert_eq!(
        builds.of(&[], wild, &[("f2", "x")]).files().text("list"),
        "f2\n"
    );
}

fn anew_on_demand(env: &Env) {
    let builds = Builds::new(env);
    let dockerfile = "FROM base AS One\nRUN head -c 99 /dev/urandom > /1\nFROM base AS two\nRUN head -c 99 /dev/urandom > /2\nFROM scratch\nCOPY --from=one /1 /\nCOPY --from=two /2 /\n";
    let build = |flags: &[&str]| {
        let files = builds.of(flags, dockerfile, &[]).files();
        (
            files.get("1").content.clone(),
            files.get("2").content.clone(),
        )
    };
    let first = build(&[]);
    assert_eq!(first, build(&[]));
    let all = build(&["--no-cache"]);
    assert!(all.0 != first.0 && all.1 != first.1);
    assert_eq!(all, build(&[]));
    let one = build(&["--no-cache-filter=ONE"]);
    assert!(one.0 != all.0 && one.1 == all.1);
    // Cache directories are kept.
    let cache = "FROM base\nRUN --mount=type=cache,target=/c echo x >> /c/f; cat /c/f > /f\n";
    builds.of(&[], cache, &[]);
    let again = builds.of(&["--no-cache"], cache, &[]);
    assert_eq!(again.files().text("f"), "x\nx\n");
}

fn records_that_are_damaged_are_misses(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM base\nRUN echo 1 > /a\nRUN echo 2 > /b\n");
    let first = builds.build(&[], &context).ok();
    let records = builds.shelf.path().join("build/cache");
    for (name, damage) in [
        ("empty", b"".as_slice()),
        ("no record", b"{}"),
        ("half", b"{\"version\":1,\"layer\":\"x"),
    ] {
        for entry in fs::read_dir(&records).unwrap() {
            fs::write(entry.unwrap().path(), damage).unwrap();
        }
        let again = builds.build(&[], &context).ok();
        assert_eq!(again.done().len(), 2, "{name}");
        assert_eq!(again.digest(), first.digest(), "{name}");
    }
}

fn a_limit_is_obeyed_and_prune_empties(env: &Env) {
    let builds = Builds::new(env);
    let layers = || builds.shelf.counts().1;
    let before = layers();
    for number in 0..4 {
        let dockerfile = format!("FROM base\nRUN head -c 2000000 /dev/urandom > /f{number}\n");
        let context = builds.dockerfile(&dockerfile);
        builds
            .build(
                &["--cache-limit=5m", "--output=type=local,dest=out"],
                &context,
            )
            .ok();
    }
    assert!(layers() - before <= 2, "{} layers", layers() - before);
    // The one that was used last is still there.
    let last = builds.dockerfile("FROM base\nRUN head -c 2000000 /dev/urandom > /f3\n");
    assert_eq!(builds.build(&[], &last).ok().done(), Vec::<&str>::new());
    builds.shelf.ok(&["prune", "--build-cache", "--force"]);
    assert_eq!(layers(), before);
}
