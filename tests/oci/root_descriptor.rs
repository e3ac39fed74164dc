//! The root file system as a mount that is attached nowhere (`--root-fd`, `CreateOptions::root`): what
//! snapshots of images are handed over as.

use crate::harness::bundle::Bundle;
use crate::harness::{Env, Output, Test, test};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use serde_json::json;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

pub(crate) fn tests() -> Vec<Test> {
    let why = "root file systems by descriptor are rcrun's";
    vec![
        test!(is_the_root_and_the_host_sees_nothing).only_rcrun(why),
        test!(outlives_create_and_goes_with_the_container).only_rcrun(why),
        test!(without_pivot_root).only_rcrun(why),
        test!(read_only_at_the_end).only_rcrun(why),
        test!(every_propagation).only_rcrun(why),
        test!(in_a_user_namespace_below_directories_of_root).only_rcrun(why),
        test!(behind_an_intermediate_process).only_rcrun(why),
        test!(hooks_see_it_where_the_configuration_says).only_rcrun(why),
        test!(what_cannot_be_the_root).only_rcrun(why),
        test!(without_a_mount_namespace_is_refused).only_rcrun(why),
    ]
}

/// A bundle whose root file system is elsewhere, and in its place an empty directory.
struct Apart<'e> {
    bundle: Bundle<'e>,
    files: PathBuf,
}

fn apart(env: &Env) -> Apart<'_> {
    let bundle = env.bundle();
    let files = env.path(&format!("{}-files", bundle.id));
    fs::rename(bundle.rootfs(""), &files).unwrap();
    fs::create_dir(bundle.rootfs("")).unwrap();
    fs::write(files.join("only-here"), "yes").unwrap();
    Apart { bundle, files }
}

impl Apart<'_> {
    /// A mount of its files that a program gets that this one starts.
    fn mount(&self) -> OwnedFd {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
        open_tree(CWD, &self.files, flags).unwrap()
    }

    #[track_caller]
    fn run(&self, extra: &[&str]) -> Output {
        let mounted = self.mount();
        let number = mounted.as_raw_fd().to_string();
        self.bundle
            .run_with(&[&["--root-fd", number.as_str()], extra].concat())
    }
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn is_the_root_and_the_host_sees_nothing(env: &Env) {
    let mut apart = apart(env);
    let before = mounts();
    apart
        .bundle
        .sh("cat /only-here; echo written >/new; ls -d /..; ls /proc/self/fd; cut -d' ' -f5 /proc/self/mountinfo | head -1");
    let said = apart.run(&[]).ok();
    assert_eq!(said.text(), "yes/..\n0\n1\n2\n3\n/");
    assert_eq!(mounts(), before);
    assert!(apart.files.join("new").exists());
    let place = fs::read_dir(apart.bundle.rootfs("")).unwrap();
    assert_eq!(place.count(), 0, "nothing was written below the mount");
}

fn outlives_create_and_goes_with_the_container(env: &Env) {
    let mut apart = apart(env);
    apart.bundle.sh("cat /only-here; sleep 100");
    let container = {
        let mounted = apart.mount();
        let number = mounted.as_raw_fd().to_string();
        apart.bundle.create_with(&["--root-fd", &number])
    };
    container.start();
    container.wait_output("yes");
    container.exec(&["cat", "/only-here"]).ok().prints("yes");
    container.stop();
    container.delete();
    assert!(apart.files.join("only-here").exists());
}

fn without_pivot_root(env: &Env) {
    let mut apart = apart(env);
    apart.bundle.sh("cat /only-here; ls -d /..; touch /new");
    assert_eq!(apart.run(&["--no-pivot"]).ok().text(), "yes/..");
    assert!(apart.files.join("new").exists());
}

fn read_only_at_the_end(env: &Env) {
    let mut apart = apart(env);
    apart
        .bundle
        .set("/root/readonly", json!(true))
        .sh("cat /only-here; touch /new || mkdir /dev/shm/there && echo ' read-only'");
    assert_eq!(apart.run(&[]).ok().text(), "yes read-only");
    assert!(!apart.files.join("new").exists());
}

fn every_propagation(env: &Env) {
    for name in [
        "private",
        "rprivate",
        "slave",
        "rslave",
        "shared",
        "rshared",
        "unbindable",
    ] {
        let mut apart = apart(env);
        let before = mounts();
        apart
            .bundle
            .set("/linux/rootfsPropagation", json!(name))
            .sh("cat /only-here; grep ' / / ' /proc/self/mountinfo || cat /proc/self/mountinfo");
        let said = apart.run(&[]).ok();
        let text = said.text();
        assert!(text.starts_with("yes"), "{name}: {text}");
        assert_eq!(
            text.contains("shared:"),
            name.contains("shared"),
            "{name}: {text}"
        );
        assert_eq!(mounts(), before, "{name}");
    }
}

/// As the directory of a store is: nobody else may enter it, also not the container's root.
fn in_a_user_namespace_below_directories_of_root(env: &Env) {
    let mut apart = apart(env);
    let bundle = &mut apart.bundle;
    bundle.userns().sh("cat /only-here; id -u");
    fs::set_permissions(&bundle.path, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(apart.run(&[]).ok().text(), "yes0");
    apart.bundle.set("/root/path", json!("absent"));
    apart.run(&[]).fails().says("absent");
}

fn behind_an_intermediate_process(env: &Env) {
    let outer = env.bundle().sleeper();
    let mut apart = apart(env);
    apart
        .bundle
        .join("pid", format!("/proc/{}/ns/pid", outer.pid()))
        .sh("cat /only-here");
    assert_eq!(apart.run(&[]).ok().text(), "yes");
}

/// Hooks find the files at the path of the configuration, inside of the container's mount namespace.
fn hooks_see_it_where_the_configuration_says(env: &Env) {
    let mut apart = apart(env);
    let place = apart.bundle.rootfs("only-here");
    let script = format!("test -f {} && test ! -e {0}.no", place.display());
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
    apart.bundle.hook("createContainer", hook);
    apart.bundle.sh("cat /only-here");
    assert_eq!(apart.run(&[]).ok().text(), "yes");
}

fn what_cannot_be_the_root(env: &Env) {
    let mut apart = apart(env);
    apart.bundle.sh("true");
    let try_it = |number: &str, extra: &[&str], says: &str| {
        let flags = [&["--root-fd", number], extra].concat();
        apart.bundle.run_with(&flags).fails().says(says);
        assert!(!env.rt.root.join(&apart.bundle.id).exists());
    };
    try_it("999", &[], "--root-fd 999");
    try_it("2", &[], "--root-fd 2");
    let open = |path: &str, flags| rustix::fs::open(path, flags, Mode::empty()).unwrap();
    let directory = open("/", OFlags::PATH | OFlags::DIRECTORY);
    try_it(
        &directory.as_raw_fd().to_string(),
        &[],
        "cannot prepare root file system",
    );
    let file = open("/etc/passwd", OFlags::RDONLY);
    try_it(&file.as_raw_fd().to_string(), &[], "not a directory");
    let count = (directory.as_raw_fd() - 2).to_string();
    try_it(
        &directory.as_raw_fd().to_string(),
        &["--preserve-fds", &count],
        "--root-fd",
    );
    // Attached by the first, so it is not there for another.
    let mounted = apart.mount();
    let number = mounted.as_raw_fd().to_string();
    apart.bundle.run_with(&["--root-fd", &number]).ok();
    fs::remove_dir(apart.bundle.rootfs("")).unwrap();
    try_it(&number, &[], "root");
}

fn without_a_mount_namespace_is_refused(env: &Env) {
    let mut apart = apart(env);
    let before = mounts();
    apart
        .bundle
        .without_namespace("mount")
        .set("/mounts", json!([]))
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .sh("true");
    apart.run(&[]).fails().says("mount namespace");
    let join = format!("/proc/{}/ns/mnt", std::process::id());
    apart.bundle.join("mount", join);
    apart.run(&[]).fails().says("mount namespace");
    assert_eq!(mounts(), before);
}
