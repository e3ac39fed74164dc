//! `cp`: docker's rules, in containers that run and that do not; and attackers inside (group C, case C5:
//! CVE-2018-15664, CVE-2019-14271).

use crate::harness::attack::{Canary, Swapper};
use crate::harness::people::People;
use crate::harness::{Env, Test, full, test};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(into_and_out_of_a_running_container),
        test!(into_and_out_of_a_stopped_container),
        test!(owners_and_rights),
        test!(archives_on_standard_streams),
        test!(what_cannot_be_copied_is_said),
        test!(c5_links_lead_nowhere),
        test!(c5_programs_of_the_image_are_not_run),
        test!(c5_exchanged_links_while_copying_in).timeout(180),
        test!(c5_exchanged_links_while_copying_out).timeout(180),
        test!(c5_what_comes_out_follows_no_link),
    ]
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every rule, whatever state the container is in.
fn rules(people: &People<'_>, read: &dyn Fn(&str) -> String) {
    let env = people.env;
    let host = env.directory("host");
    fs::create_dir_all(host.join("dir/sub")).unwrap();
    fs::write(host.join("file"), "f\n").unwrap();
    fs::write(host.join("dir/a"), "a\n").unwrap();
    fs::write(host.join("dir/sub/b"), "b\n").unwrap();
    symlink("a", host.join("dir/link")).unwrap();
    let host_path = |name: &str| text(&host.join(name)).to_owned();
    let into = |from: &str, to: &str| {
        people
            .shelf
            .ok(&["cp", &host_path(from), &format!("web:{to}")]);
    };
    // A file: under a new name, over one, into a directory.
    into("file", "/new");
    into("file", "/new");
    into("file", "/tmp");
    into("file", "tmp/");
    assert_eq!(read("cat /new /tmp/file"), "f\nf\n");
    // A directory: as a new one, into one, its contents only.
    into("dir", "/fresh");
    assert_eq!(
        read("cat /fresh/a /fresh/sub/b; readlink /fresh/link"),
        "a\nb\na\n"
    );
    into("dir", "/tmp");
    assert_eq!(read("cat /tmp/dir/sub/b"), "b\n");
    into("dir/.", "/tmp");
    assert_eq!(read("cat /tmp/sub/b"), "b\n");
    // What is linked to, where it is asked for.
    people
        .shelf
        .ok(&["cp", "-L", &host_path("dir/link"), "web:/followed"]);
    assert_eq!(read("readlink /followed; cat /followed"), "a\n");
    links_at_the_destination(people, read, &into);
    // And back.
    let out = env.directory("out");
    let to = |name: &str| text(&out.join(name)).to_owned();
    people.shelf.ok(&["cp", "web:/new", &to("")]);
    people.shelf.ok(&["cp", "web:/new", &to("other")]);
    assert_eq!(fs::read_to_string(out.join("new")).unwrap(), "f\n");
    assert_eq!(fs::read_to_string(out.join("other")).unwrap(), "f\n");
    people.shelf.ok(&["cp", "web:/fresh", &to("made")]);
    people.shelf.ok(&["cp", "web:fresh", &to("")]);
    people.shelf.ok(&["cp", "web:/fresh/.", &to("")]);
    for path in ["made/sub/b", "fresh/sub/b", "sub/b"] {
        assert_eq!(fs::read_to_string(out.join(path)).unwrap(), "b\n", "{path}");
    }
    assert_eq!(
        fs::read_link(out.join("made/link")).unwrap(),
        Path::new("a")
    );
    let refused = |from: &str, to: &str, words: &str| {
        let output = people.shelf.call(&["cp", from, to]).exits(1);
        assert!(output.stderr.contains(words), "{output}");
    };
    refused(&host_path("file"), "web:/none/", "does not exist");
    refused(&host_path("file"), "web:/none/x", "does not exist");
    refused(
        &host_path("dir"),
        "web:/new",
        "a directory cannot be copied to a file",
    );
    refused(&host_path("none"), "web:/", "does not exist");
    refused(&host_path("file"), "web:/at/round", "too many levels");
    refused("web:/none", &to(""), "web: /none does not exist");
    refused("web:/new/", &to(""), "not a directory");
    refused(
        "web:/fresh",
        &to("new"),
        "a directory cannot be copied to a file",
    );
}

/// A destination that is a link stands for what it leads to: a file, nothing yet, a directory.
fn links_at_the_destination(
    people: &People<'_>,
    read: &dyn Fn(&str) -> String,
    into: &dyn Fn(&str, &str),
) {
    read(
        "mkdir -p /at/deep; echo old >/at/real; ln -s ../at/real /at/link; ln -s /at/fresh /at/none; \
          ln -s link /at/chain; ln -s deep /at/into; ln -s round /at/round; ln /at/real /at/second",
    );
    into("file", "/at/chain");
    into("file", "/at/none");
    into("file", "/at/into");
    into("dir", "/at/into");
    into("file", "/at/into/named");
    assert_eq!(
        read(
            "cat /at/real /at/fresh /at/deep/file /at/deep/dir/a /at/deep/named; for l in chain link none; do readlink /at/$l; done"
        ),
        "f\nf\nf\na\nf\nlink\n../at/real\n/at/fresh\n"
    );
    let out = people.env.directory("links");
    fs::write(out.join("real"), "old").unwrap();
    symlink("real", out.join("through")).unwrap();
    symlink("to-be", out.join("dangling")).unwrap();
    for (to, written) in [("through", "real"), ("dangling", "to-be")] {
        let to = text(&out.join(to)).to_owned();
        people.shelf.ok(&["cp", "web:/new", &to]);
        assert_eq!(fs::read_to_string(out.join(written)).unwrap(), "f\n");
        assert!(fs::symlink_metadata(&to).unwrap().is_symlink());
    }
}

fn into_and_out_of_a_running_container(env: &Env) {
    let people = People::new(env);
    people.run(&["-d", "--name=web"], &["sleep", "1000"]).ok();
    rules(&people, &|script| {
        people.shelf.ok(&["exec", "web", "sh", "-c", script])
    });
    // What is mounted is what the container sees.
    people
        .shelf
        .ok(&["exec", "web", "sh", "-c", "echo shm > /dev/shm/x"]);
    people
        .shelf
        .ok(&["cp", "web:/dev/shm/x", text(&env.path("x"))]);
    assert_eq!(fs::read_to_string(env.path("x")).unwrap(), "shm\n");
    people.remove("web");
}

fn into_and_out_of_a_stopped_container(env: &Env) {
    let people = People::new(env);
    let script = "test -e /script && sh /script";
    let _ = people.run(&["--name=web"], &["sh", "-c", script]);
    rules(&people, &|script| {
        let path = people.file("script", script);
        people.shelf.ok(&["cp", text(&path), "web:/script"]);
        people.shelf.call(&["start", "-a", "web"]).stdout
    });
    people
        .shelf
        .call(&["cp", "web:/dev/shm/x", text(&env.path("x"))])
        .exits(1)
        .says("mounted only while");
    people.remove("web");
    people.assert_empty();
}

fn owners_and_rights(env: &Env) {
    let people = People::new(env);
    people.run(&["-d", "--name=web"], &["sleep", "1000"]).ok();
    let file = people.file("file", "x");
    std::os::unix::fs::chown(&file, Some(1234), Some(77)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    let inside = |path: &str| {
        people
            .shelf
            .ok(&["exec", "web", "stat", "-c", "%u:%g %a", path])
    };
    people.shelf.ok(&["cp", text(&file), "web:/plain"]);
    assert_eq!(inside("/plain"), "0:0 4751\n");
    people.shelf.ok(&["cp", "-a", text(&file), "web:/kept"]);
    assert_eq!(inside("/kept"), "1234:77 4751\n");
    // Out of it comes nothing that has power.
    let (plain, kept) = (env.path("plain"), env.path("kept"));
    people.shelf.ok(&["cp", "web:/kept", text(&plain)]);
    people.shelf.ok(&["cp", "-a", "web:/kept", text(&kept)]);
    let facts = |path: &Path| {
        let data = fs::metadata(path).unwrap();
        (data.uid(), data.gid(), data.mode() & 0o7777)
    };
    assert_eq!(facts(&plain), (0, 0, 0o751));
    assert_eq!(facts(&kept), (1234, 77, 0o4751));
    people.remove("web");
}

fn archives_on_standard_streams(env: &Env) {
    let people = People::new(env);
    people.run(&["-d", "--name=web"], &["sleep", "1000"]).ok();
    people
        .shelf
        .ok(&["exec", "web", "sh", "-c", "mkdir -p /d/e; echo x > /d/e/f"]);
    let path = env.path("out.tar");
    let mut command = people.shelf.command(&["cp", "web:/d", "-"]);
    let status = command
        .stdout(fs::File::create(&path).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["d/", "d/e/", "d/e/f"]);
    let mut command = people.shelf.command(&["cp", "-", "web:/tmp"]);
    command.stdin(Stdio::from(fs::File::open(&path).unwrap()));
    env.rt.finish(env.rt.spawn(command)).ok();
    assert_eq!(
        people.shelf.ok(&["exec", "web", "cat", "/tmp/d/e/f"]),
        "x\n"
    );
    for (bytes, words) in [
        (&b"no archive"[..], "archive"),
        (&[0xff; 2048][..], "archive"),
    ] {
        fs::write(&path, bytes).unwrap();
        let mut command = people.shelf.command(&["cp", "-", "web:/tmp"]);
        command.stdin(Stdio::from(fs::File::open(&path).unwrap()));
        let output = env.rt.finish(env.rt.spawn(command)).exits(1);
        assert!(output.stderr.contains(words), "{output}");
    }
    let mut command = people.shelf.command(&["cp", "-", "web:/none"]);
    command.stdin(Stdio::from(fs::File::open(&path).unwrap()));
    env.rt
        .finish(env.rt.spawn(command))
        .exits(1)
        .says("not a directory");
    people.remove("web");
}

fn what_cannot_be_copied_is_said(env: &Env) {
    let people = People::new(env);
    people.run(&["-d", "--name=web"], &["sleep", "1000"]).ok();
    people
        .shelf
        .call(&["cp", "web:/etc", "web:/tmp"])
        .exits(1)
        .says("from one container to another");
    people
        .shelf
        .call(&["cp", "/etc", "/tmp/x"])
        .exits(1)
        .says("has to be in a container");
    // Devices and pipes: nothing is opened, devices stay inside.
    people.shelf.ok(&[
        "exec",
        "web",
        "sh",
        "-c",
        "mkdir /d; mkfifo /d/pipe; mknod /d/null c 1 3",
    ]);
    let output = people
        .shelf
        .call(&["cp", "web:/d", text(&env.path("d"))])
        .ok();
    assert!(
        output.stderr.contains("device") && output.stderr.contains("left out"),
        "{output}"
    );
    assert!(!env.path("d/null").exists() && env.path("d/pipe").exists());
    // The kernel's own file systems are not walked through.
    people.shelf.ok(&["cp", "web:/", text(&env.path("whole"))]);
    assert!(env.path("whole/bin/busybox").exists());
    assert_eq!(fs::read_dir(env.path("whole/proc")).unwrap().count(), 0);
    people.remove("web");
}

fn c5_links_lead_nowhere(env: &Env) {
    let people = People::new(env);
    let canary = Canary::plant(&env.path("canary"));
    let target = text(&canary.path).to_owned();
    people.run(&["-d", "--name=web"], &["sleep", "1000"]).ok();
    let script = format!(
        "ln -s {target} /abs; ln -s ../../../../../../..{target} /rel; ln -s /proc/self/root{target} /magic; \
         ln -s /proc/1/root{target} /init; ln -s /proc/1/cwd /cwd; ln -s {target}/passwd /to-abs; \
         ln -s ../../../..{target}/new /to-rel; ln -s /proc/1/root{target}/passwd /to-magic; \
         ln -s /proc/self/cwd/../..{target}/new /to-cwd"
    );
    people.shelf.ok(&["exec", "web", "sh", "-c", &script]);
    let file = people.file("file", "evil\n");
    let out = env.path("out");
    for link in ["abs", "rel", "magic", "init"] {
        for path in [format!("web:/{link}/x"), format!("web:/{link}/")] {
            people.shelf.call(&["cp", text(&file), &path]).exits(1);
        }
        for path in [format!("web:/{link}/HOST-MARKER"), format!("web:/{link}/.")] {
            people.shelf.call(&["cp", &path, text(&out)]).exits(1);
            people.shelf.call(&["cp", "-L", &path, text(&out)]).exits(1);
        }
        assert!(!out.exists());
    }
    // As a destination they are followed, in here.
    for link in ["to-abs", "to-rel", "to-magic", "to-cwd"] {
        let path = format!("web:/{link}");
        people.shelf.call(&["cp", text(&file), &path]).exits(1);
    }
    let made = format!("mkdir -p {target}");
    people.shelf.ok(&["exec", "web", "sh", "-c", &made]);
    for (link, name) in [("to-abs", "passwd"), ("to-rel", "new")] {
        people
            .shelf
            .ok(&["cp", text(&file), &format!("web:/{link}")]);
        let inside = format!("{target}/{name}");
        assert_eq!(people.shelf.ok(&["exec", "web", "cat", &inside]), "evil\n");
    }
    // The link itself is only a link.
    people.shelf.ok(&["cp", "web:/abs", text(&out)]);
    assert_eq!(fs::read_link(&out).unwrap(), canary.path);
    people.remove("web");
    canary.is_intact();
}

fn c5_programs_of_the_image_are_not_run(env: &Env) {
    let people = People::new(env);
    people.run(&["-d", "--name=web"], &["sleep", "1000"]).ok();
    let script = "mkdir -p /usr/bin /lib; for p in tar xz gzip unpigz; do \
                  printf '#!/bin/sh\\ntouch /pwned\\n' > /usr/bin/$p; chmod +x /usr/bin/$p; done; \
                  cp /usr/bin/tar /lib/libnss_files.so.2; mkdir /d; echo x > /d/x";
    people.shelf.ok(&["exec", "web", "sh", "-c", script]);
    people.shelf.ok(&["cp", "web:/d", text(&env.path("d"))]);
    people.shelf.ok(&["cp", text(&env.path("d")), "web:/e"]);
    people
        .shelf
        .call(&["exec", "web", "test", "-e", "/pwned"])
        .exits(1);
    assert!(!Path::new("/pwned").exists());
    people.remove("web");
}

/// A container with a shared volume in which somebody exchanges a directory and a link to the canary.
fn attacked<'a>(env: &'a Env, canary: &Canary) -> (People<'a>, Swapper) {
    let people = People::new(env);
    let volume = env.directory("volume");
    fs::create_dir(volume.join("x")).unwrap();
    fs::write(volume.join("x/file"), "inside\n").unwrap();
    fs::create_dir(volume.join("x/sub")).unwrap();
    fs::write(volume.join("x/sub/HOST-MARKER"), "inside\n").unwrap();
    fs::write(volume.join("x/HOST-MARKER"), "inside\n").unwrap();
    symlink(&canary.path, volume.join("y")).unwrap();
    let bind = format!("{}:/vol", volume.display());
    people
        .run(&["-d", "--name=web", "-v", &bind], &["sleep", "1000"])
        .ok();
    let swapper = Swapper::start(&volume.join("x"), &volume.join("y"));
    (people, swapper)
}

fn rounds() -> usize {
    if full() { 1000 } else { 60 }
}

fn c5_exchanged_links_while_copying_in(env: &Env) {
    let canary = Canary::plant(&env.path("canary"));
    let (people, swapper) = attacked(env, &canary);
    let file = people.file("evil", "evil\n");
    let tree = env.directory("tree");
    for name in ["passwd", "sub/file", "deep/er/file"] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), "evil\n").unwrap();
    }
    let contents = format!("{}/.", tree.display());
    let mut done = 0;
    for _ in 0..rounds() {
        for (from, to) in [
            (text(&file), "web:/vol/x/passwd"),
            (text(&file), "web:/vol/x"),
            (contents.as_str(), "web:/vol/x"),
            (contents.as_str(), "web:/vol/x/new"),
        ] {
            let output = people.shelf.call(&["cp", from, to]);
            assert!(output.code <= 1, "{output}");
            done += usize::from(output.code == 0);
        }
    }
    assert!(
        swapper.count() > 100 && done > 0,
        "{} {done}",
        swapper.count()
    );
    drop(swapper);
    people.remove("web");
    canary.is_intact();
}

fn c5_exchanged_links_while_copying_out(env: &Env) {
    let canary = Canary::plant(&env.path("canary"));
    let (people, swapper) = attacked(env, &canary);
    let out = env.path("out");
    let mut done = 0;
    for _ in 0..rounds() {
        for from in [
            "web:/vol/x/HOST-MARKER",
            "web:/vol/x",
            "web:/vol/x/.",
            "web:/vol",
        ] {
            let _ = fs::remove_dir_all(&out);
            let _ = fs::remove_file(&out);
            let output = people.shelf.call(&["cp", from, text(&out)]);
            assert!(output.code <= 1, "{output}");
            done += usize::from(output.code == 0);
            assert_inside(&out);
        }
    }
    assert!(
        swapper.count() > 100 && done > 0,
        "{} {done}",
        swapper.count()
    );
    drop(swapper);
    people.remove("web");
    canary.is_intact();
}

/// Nothing of the canary's is in what was copied; links are not followed.
fn assert_inside(path: &Path) {
    let Ok(data) = fs::symlink_metadata(path) else {
        return;
    };
    if data.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            assert_inside(&entry.unwrap().path());
        }
    } else if data.is_file() {
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            "inside\n",
            "{}",
            path.display()
        );
    }
}

/// A directory on the host that an earlier copy made a link of is no way out.
fn c5_what_comes_out_follows_no_link(env: &Env) {
    let people = People::new(env);
    let canary = Canary::plant(&env.path("canary"));
    people.run(&["-d", "--name=web"], &["sleep", "1000"]).ok();
    let script = format!(
        "mkdir -p /a /b/l; ln -s {} /a/l; echo evil > /b/l/passwd",
        canary.path.display()
    );
    people.shelf.ok(&["exec", "web", "sh", "-c", &script]);
    let out = env.directory("out");
    people.shelf.ok(&["cp", "web:/a/.", text(&out)]);
    people
        .shelf
        .call(&["cp", "web:/b/.", text(&out)])
        .exits(1)
        .says("not a directory");
    people.remove("web");
    canary.is_intact();
}
