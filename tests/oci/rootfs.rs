//! The root file system: read-only, propagation, masked and read-only paths, the ways of changing into it.

use crate::harness::{Env, Test, process, test};
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(is_the_root),
        test!(writable_by_default),
        test!(read_only),
        test!(read_only_leaves_mounts_writable),
        test!(absolute_path),
        test!(missing_root_is_refused),
        test!(root_that_is_a_file_is_refused),
        test!(old_root_is_gone),
        test!(without_pivot_root),
        test!(in_the_callers_mount_namespace_is_refused_or_chroot)
            .only_rcrun("runc changes the host's mount table and fails after that"),
        test!(propagation_private),
        test!(propagation_slave_receives),
        test!(propagation_shared_sends),
        test!(bad_propagation_is_refused),
        test!(masked_files_and_directories),
        test!(masked_paths_that_do_not_exist),
        test!(read_only_paths),
        test!(read_only_paths_that_do_not_exist),
        test!(relative_masked_path_is_refused)
            .only_rcrun("runc masks relative to a directory nobody knows"),
        test!(masked_path_below_a_mount),
        test!(default_matrix_of_proc_and_sys),
        test!(root_on_overlay),
        test!(root_on_a_tmpfs),
        test!(root_that_only_root_outside_can_reach)
            .only_rcrun("runc opens the root with the container's rights"),
    ]
}

const EROFS: i32 = 30;

fn system(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

fn is_the_root(env: &Env) {
    let mut bundle = env.bundle();
    bundle.file("only-here", "yes");
    let answers = bundle.attempts(&["read:/only-here", "list:/", "stat:/.."]);
    assert_eq!(answers[0].1, "yes");
    assert_eq!(
        answers[1].1,
        "bin dev etc only-here proc root sys tmp usr var"
    );
    assert_eq!(answers[2].0, 0);
}

fn writable_by_default(env: &Env) {
    let mut bundle = env.bundle();
    assert_eq!(bundle.attempts(&["create:/new"])[0].0, 0);
    assert!(bundle.rootfs("new").exists());
}

fn read_only(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/root/readonly", json!(true));
    let answers = bundle.attempts(&[
        "create:/new",
        "mkdir:/dir",
        "write:/etc/passwd:x",
        "create:/tmp/new",
    ]);
    assert!(
        answers.iter().all(|(errno, _)| *errno == EROFS),
        "{answers:?}"
    );
    fs::write(bundle.rootfs("host"), "").expect("the host may still write");
}

fn read_only_leaves_mounts_writable(env: &Env) {
    let source = env.directory("source");
    let mut bundle = env.bundle();
    bundle.directory("m");
    bundle
        .set("/root/readonly", json!(true))
        .bind(&source, "/m", &[]);
    bundle.mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "t"}));
    let answers = bundle.attempts(&["create:/m/new", "create:/tmp/new", "create:/dev/shm/new"]);
    assert!(answers.iter().all(|(errno, _)| *errno == 0), "{answers:?}");
}

fn absolute_path(env: &Env) {
    let mut bundle = env.bundle();
    let elsewhere = env.path("elsewhere");
    fs::rename(bundle.rootfs(""), &elsewhere).unwrap();
    bundle.set("/root/path", json!(elsewhere)).runs();
}

fn missing_root_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/root/path", json!("absent"))
        .refused()
        .says("absent");
}

fn root_that_is_a_file_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    fs::write(bundle.path.join("plain"), "").unwrap();
    bundle.set("/root/path", json!("plain")).refused();
}

fn old_root_is_gone(env: &Env) {
    let facts = env.bundle().facts();
    let mounts = facts["mounts"].as_array().unwrap();
    let root = &mounts[0];
    assert_eq!(root["target"], "/");
    let ids: Vec<&str> = mounts.iter().map(|m| m["id"].as_str().unwrap()).collect();
    for mount in &mounts[1..] {
        assert!(
            ids.contains(&mount["parent"].as_str().unwrap()),
            "a tree of its own: {mount}"
        );
    }
    assert!(mounts.len() < 25, "{} mounts", mounts.len());
}

fn without_pivot_root(env: &Env) {
    let mut bundle = env.bundle();
    bundle.file("only-here", "yes");
    let output = bundle
        .sh("cat /only-here; ls -d /..; touch /written")
        .run_with(&["--no-pivot"])
        .ok();
    assert_eq!(output.text(), "yes/..");
    assert!(bundle.rootfs("written").exists());
}

/// Without a mount namespace there is nothing to pivot in; whatever is done, the host's table stays.
fn in_the_callers_mount_namespace_is_refused_or_chroot(env: &Env) {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut bundle = env.bundle();
    bundle.without_namespace("mount").set("/mounts", json!([]));
    bundle
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]));
    let output = bundle.run();
    assert_eq!(
        fs::read_to_string("/proc/self/mountinfo").unwrap(),
        before,
        "{output}"
    );
}

fn propagation_private(env: &Env) {
    let facts = env.bundle().facts();
    for mount in facts["mounts"].as_array().unwrap() {
        assert_eq!(mount["optional"], "", "{mount}");
    }
}

/// A shared directory of the host that is bound into a container with this propagation.
struct Shared(std::path::PathBuf);

impl Shared {
    fn new(env: &Env) -> Self {
        let path = env.directory("shared");
        let text = path.to_str().unwrap();
        system("mount", &["--bind", text, text]);
        system("mount", &["--make-shared", text]);
        fs::create_dir(path.join("sub")).unwrap();
        Self(path)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-R").arg(&self.0).status();
    }
}

fn propagation_slave_receives(env: &Env) {
    let shared = Shared::new(env);
    let mut bundle = env.bundle();
    bundle.set("/linux/rootfsPropagation", json!("rslave"));
    bundle.mount(json!({"destination": "/s", "source": shared.0, "options": ["rbind", "rslave"]}));
    let container = bundle.caps(&["CAP_SYS_ADMIN"]).sleeper();
    system(
        "mount",
        &["-t", "tmpfs", "t", shared.0.join("sub").to_str().unwrap()],
    );
    fs::write(shared.0.join("sub/late"), "arrived").unwrap();
    container
        .exec(&["cat", "/s/sub/late"])
        .ok()
        .prints("arrived");
    let table = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = table();
    container
        .exec_with(
            &["--cap", "CAP_SYS_ADMIN"],
            &["mount", "-t", "tmpfs", "t", "/s"],
        )
        .ok();
    assert_eq!(table(), before, "nothing comes back");
}

fn propagation_shared_sends(env: &Env) {
    let shared = Shared::new(env);
    let mut bundle = env.bundle();
    bundle.set("/linux/rootfsPropagation", json!("shared"));
    bundle.mount(json!({"destination": "/s", "source": shared.0, "options": ["rbind", "rshared"]}));
    let container = bundle.caps(&["CAP_SYS_ADMIN"]).sleeper();
    container
        .exec_with(
            &["--cap", "CAP_SYS_ADMIN"],
            &["mount", "-t", "tmpfs", "sent", "/s/sub"],
        )
        .ok();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        table
            .lines()
            .any(|l| l.contains("shared/sub") && l.contains(" sent ")),
        "{table}"
    );
}

fn bad_propagation_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/linux/rootfsPropagation", json!("sideways"))
        .refused();
}

fn masked_files_and_directories(env: &Env) {
    let mut bundle = env.bundle();
    bundle.file("secret/file", "hidden");
    bundle.file("plain", "hidden");
    bundle.set(
        "/linux/maskedPaths",
        json!(["/secret", "/plain", "/proc/kcore"]),
    );
    let answers = bundle.attempts(&[
        "list:/secret",
        "read:/plain",
        "create:/secret/new",
        "read:/proc/kcore",
        "stat:/plain",
        "umount:/plain",
    ]);
    assert_eq!(answers[0], (0, String::new()));
    assert_eq!(answers[1], (0, String::new()));
    assert_eq!(answers[2].0, EROFS);
    assert!(answers[3].1.is_empty() || answers[3].0 != 0, "{answers:?}");
    assert!(
        answers[4].1.ends_with(" 1 3"),
        "a mask is /dev/null: {answers:?}"
    );
    assert_eq!(answers[5].0, 1);
}

fn masked_paths_that_do_not_exist(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set(
            "/linux/maskedPaths",
            json!(["/no/such", "/proc/acpi", "/proc/no-such"]),
        )
        .runs();
    assert!(!bundle.rootfs("no").exists());
}

fn read_only_paths(env: &Env) {
    let mut bundle = env.bundle();
    bundle.file("conf/file", "x");
    bundle.file("alone", "x");
    bundle.set(
        "/linux/readonlyPaths",
        json!(["/conf", "/alone", "/proc/sys"]),
    );
    let answers = bundle.attempts(&[
        "write:/conf/file:y",
        "create:/conf/new",
        "write:/alone:y",
        "write:/proc/sys/net/ipv4/ip_forward:1",
        "read:/conf/file",
    ]);
    let errors: Vec<i32> = answers.iter().map(|(errno, _)| *errno).collect();
    assert_eq!(errors, [EROFS, EROFS, EROFS, EROFS, 0]);
}

fn read_only_paths_that_do_not_exist(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/linux/readonlyPaths", json!(["/no/such", "/proc/no-such"]))
        .runs();
}

fn relative_masked_path_is_refused(env: &Env) {
    for list in ["maskedPaths", "readonlyPaths"] {
        let mut bundle = env.bundle();
        bundle.set(&format!("/linux/{list}"), json!(["proc/kcore"]));
        bundle.refused().says("proc/kcore");
    }
}

fn masked_path_below_a_mount(env: &Env) {
    let source = env.directory("source");
    fs::write(source.join("token"), "secret").unwrap();
    let mut bundle = env.bundle();
    bundle
        .bind(&source, "/m", &["ro"])
        .set("/linux/maskedPaths", json!(["/m/token"]));
    assert_eq!(bundle.attempts(&["read:/m/token"])[0], (0, String::new()));
    assert_eq!(fs::read_to_string(source.join("token")).unwrap(), "secret");
}

fn default_matrix_of_proc_and_sys(env: &Env) {
    let mut bundle = env.bundle();
    let answers = bundle.attempts(&[
        "write:/proc/sysrq-trigger:h",
        "write:/proc/sys/kernel/core_pattern:x",
        "write:/proc/irq/default_smp_affinity:1",
        "read:/proc/kcore",
        "read:/proc/keys",
        "read:/proc/timer_list",
        "list:/sys/firmware",
        "mkdir:/sys/fs/cgroup/x",
        "write:/sys/kernel/mm/transparent_hugepage/enabled:never",
    ]);
    for written in [
        &answers[0],
        &answers[1],
        &answers[2],
        &answers[7],
        &answers[8],
    ] {
        assert!([EROFS, 13, 2].contains(&written.0), "{answers:?}");
    }
    for empty in &answers[3..7] {
        assert!(empty.0 != 0 || empty.1.is_empty(), "{answers:?}");
    }
}

fn root_on_overlay(env: &Env) {
    let bundle = env.bundle();
    let [upper, work] = ["upper", "work"].map(|name| env.directory(name));
    let merged = bundle.path.join("merged");
    fs::create_dir(&merged).unwrap();
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        bundle.rootfs("").display(),
        upper.display(),
        work.display()
    );
    system(
        "mount",
        &[
            "-t",
            "overlay",
            "-o",
            &data,
            "overlay",
            merged.to_str().unwrap(),
        ],
    );
    let mut bundle = bundle;
    bundle
        .set("/root/path", json!("merged"))
        .sh("touch /new")
        .run()
        .ok();
    system("umount", &[merged.to_str().unwrap()]);
    assert!(upper.join("new").exists());
}

fn root_on_a_tmpfs(env: &Env) {
    let mut bundle = env.bundle();
    let point = bundle.path.join("memory");
    fs::create_dir(&point).unwrap();
    system("mount", &["-t", "tmpfs", "t", point.to_str().unwrap()]);
    system(
        "cp",
        &[
            "-a",
            &format!("{}/.", bundle.rootfs("").display()),
            point.to_str().unwrap(),
        ],
    );
    bundle.set("/root/path", json!("memory"));
    let container = bundle.args(&["sleep", "1000"]).start();
    container.stop();
    container.delete();
    process::until("the mount is free again", 5, || {
        Command::new("umount")
            .arg(&point)
            .status()
            .unwrap()
            .success()
            .then_some(())
    });
}

/// The container's own root may not pass the directories above.
fn root_that_only_root_outside_can_reach(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns();
    bundle.file("only-here", "yes");
    fs::set_permissions(&bundle.path, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(bundle.attempts(&["read:/only-here"])[0].1, "yes");
    bundle.set("/linux/rootfsPropagation", json!("rshared"));
    assert_eq!(bundle.attempts(&["read:/only-here"])[0].1, "yes");
}
