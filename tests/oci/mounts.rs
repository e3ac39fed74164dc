//! Every mount type and option, on whatever target the root file system has or lacks.

use crate::harness::{Env, Test, test};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(standard_mounts),
        test!(mounts_are_in_order),
        test!(bind_of_a_directory),
        test!(bind_of_a_file),
        test!(bind_makes_missing_targets),
        test!(bind_read_only),
        test!(bind_is_not_recursive),
        test!(rbind_is_recursive),
        test!(relative_source_is_in_the_bundle),
        test!(missing_source_is_refused),
        test!(relative_destination),
        test!(target_through_a_symlink),
        test!(target_through_an_absolute_symlink_stays_inside),
        test!(target_through_dotdot_stays_inside),
        test!(directory_on_a_file_is_refused),
        test!(unknown_type_is_refused),
        test!(bad_data_is_refused),
        test!(nothing_reaches_the_host),
        test!(two_mounts_on_one_target),
        test!(mount_below_a_read_only_mount),
        test!(bind_of_a_socket_and_a_fifo),
        test!(sources_in_a_user_namespace),
        test!(source_only_root_can_reach),
    ]
}

/// The last mount on a target, as the container's mountinfo has it.
#[track_caller]
pub(super) fn on<'f>(facts: &'f Value, target: &str) -> &'f Value {
    let mounts = facts["mounts"].as_array().unwrap();
    let found = mounts.iter().rfind(|m| m["target"] == target);
    found.unwrap_or_else(|| panic!("nothing is mounted on {target}: {mounts:#?}"))
}

#[track_caller]
pub(super) fn options(facts: &Value, target: &str) -> Vec<String> {
    on(facts, target)["options"]
        .as_str()
        .unwrap()
        .split(',')
        .map(str::to_owned)
        .collect()
}

#[track_caller]
pub(super) fn has(facts: &Value, target: &str, wanted: &[&str], unwanted: &[&str]) {
    let all = options(facts, target);
    assert!(
        wanted.iter().all(|o| all.iter().any(|a| a == o)),
        "{target} lacks one of {wanted:?}: {all:?}"
    );
    assert!(
        !unwanted.iter().any(|o| all.iter().any(|a| a == o)),
        "{target} has one of {unwanted:?}: {all:?}"
    );
}

pub(super) fn system(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

/// A host directory with a file, and a tmpfs with a file on its `sub`. Unmounted on drop.
pub(super) struct Tree {
    pub(super) path: std::path::PathBuf,
}

impl Tree {
    pub(super) fn new(env: &Env, name: &str) -> Self {
        let path = env.directory(name);
        fs::write(path.join("file"), "outer\n").unwrap();
        fs::create_dir(path.join("sub")).unwrap();
        system(
            "mount",
            &["-t", "tmpfs", "below", path.join("sub").to_str().unwrap()],
        );
        fs::write(path.join("sub/file"), "inner\n").unwrap();
        Self { path }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path.join("sub")).status();
    }
}

fn standard_mounts(env: &Env) {
    let facts = env.bundle().facts();
    for (target, kind) in [
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/sys", "sysfs"),
    ] {
        assert_eq!(on(&facts, target)["type"], kind);
    }
    has(&facts, "/sys", &["ro", "nosuid", "nodev", "noexec"], &[]);
    has(&facts, "/dev", &["rw", "nosuid"], &["nodev", "noexec"]);
    has(&facts, "/dev/shm", &["nosuid", "nodev", "noexec"], &[]);
    assert!(
        on(&facts, "/dev")["super"]
            .as_str()
            .unwrap()
            .contains("size=65536k")
    );
}

fn mounts_are_in_order(env: &Env) {
    let first = env.directory("first");
    fs::create_dir(first.join("inside")).unwrap();
    let second = env.directory("second");
    fs::write(second.join("marker"), "second").unwrap();
    let mut bundle = env.bundle();
    bundle
        .bind(&first, "/m", &[])
        .bind(&second, "/m/inside", &[]);
    assert_eq!(
        bundle.attempts(&["read:/m/inside/marker"])[0],
        (0, "second".into())
    );
    let mut reversed = env.bundle();
    reversed
        .bind(&second, "/m/inside", &[])
        .bind(&first, "/m", &[]);
    assert_eq!(
        reversed.attempts(&["list:/m/inside"])[0],
        (0, String::new()),
        "covered by the later mount"
    );
}

fn bind_of_a_directory(env: &Env) {
    let source = env.directory("source");
    fs::write(source.join("file"), "content").unwrap();
    let mut bundle = env.bundle();
    let answers = bundle
        .bind(&source, "/mnt/here", &[])
        .attempts(&["read:/mnt/here/file", "create:/mnt/here/new"]);
    assert_eq!(answers, [(0, "content".into()), (0, String::new())]);
    assert!(source.join("new").exists());
}

fn bind_of_a_file(env: &Env) {
    let source = env.path("file");
    fs::write(&source, "content").unwrap();
    let mut bundle = env.bundle();
    bundle.file("etc/existing", "covered");
    bundle
        .bind(&source, "/etc/existing", &[])
        .bind(&source, "/made/up/file", &[]);
    let answers = bundle.attempts(&["read:/etc/existing", "read:/made/up/file"]);
    assert_eq!(answers, [(0, "content".into()), (0, "content".into())]);
    assert_eq!(
        fs::read_to_string(bundle.rootfs("etc/existing")).unwrap(),
        "covered"
    );
}

fn bind_makes_missing_targets(env: &Env) {
    let source = env.directory("source");
    let mut bundle = env.bundle();
    bundle.bind(&source, "/a/b/c", &[]).runs();
    assert!(bundle.rootfs("a/b/c").is_dir());
    assert_eq!(
        bundle.rootfs("a/b").metadata().unwrap().mode() & 0o777,
        0o755
    );
}

pub(super) const EROFS: i32 = 30;

fn bind_read_only(env: &Env) {
    let source = env.directory("source");
    let mut bundle = env.bundle();
    let answers = bundle
        .bind(&source, "/m", &["ro"])
        .attempts(&["create:/m/new", "list:/m"]);
    assert_eq!((answers[0].0, answers[1].0), (EROFS, 0));
    assert!(!source.join("new").exists());
}

fn bind_is_not_recursive(env: &Env) {
    let tree = Tree::new(env, "tree");
    let mut bundle = env.bundle();
    let answers = bundle
        .bind(&tree.path, "/m", &[])
        .attempts(&["read:/m/file", "list:/m/sub"]);
    assert_eq!(answers, [(0, "outer\n".into()), (0, String::new())]);
}

fn rbind_is_recursive(env: &Env) {
    let tree = Tree::new(env, "tree");
    let mut bundle = env.bundle();
    bundle.mount(json!({"destination": "/m", "source": tree.path, "options": ["rbind", "ro"]}));
    let answers = bundle.attempts(&["read:/m/sub/file", "create:/m/new", "create:/m/sub/new"]);
    assert_eq!(answers[0].1, "inner\n");
    assert_eq!(
        (answers[1].0, answers[2].0),
        (EROFS, 0),
        "ro is not recursive"
    );
}

fn relative_source_is_in_the_bundle(env: &Env) {
    let mut bundle = env.bundle();
    fs::create_dir(bundle.path.join("data")).unwrap();
    fs::write(bundle.path.join("data/file"), "relative").unwrap();
    bundle
        .mount(json!({"destination": "/m", "type": "bind", "source": "data", "options": ["bind"]}));
    assert_eq!(
        bundle.attempts(&["read:/m/file"])[0],
        (0, "relative".into())
    );
}

fn missing_source_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .bind(std::path::Path::new("/no/such/source"), "/m", &[])
        .refused()
        .says("/no/such/source");
}

/// Old engines leave out the slash; the spec says that it is meant.
fn relative_destination(env: &Env) {
    let mut bundle = env.bundle();
    bundle.mount(json!({"destination": "m/n", "type": "tmpfs", "source": "t"}));
    assert_eq!(on(&bundle.facts(), "/m/n")["type"], "tmpfs");
}

fn target_through_a_symlink(env: &Env) {
    let source = env.directory("source");
    fs::write(source.join("file"), "x").unwrap();
    let mut bundle = env.bundle();
    bundle.directory("real");
    bundle.link("alias", "real");
    let answers = bundle
        .bind(&source, "/alias/new", &[])
        .attempts(&["read:/real/new/file"]);
    assert_eq!(answers[0], (0, "x".into()));
}

fn target_through_an_absolute_symlink_stays_inside(env: &Env) {
    let outside = env.directory("outside");
    let source = env.directory("source");
    fs::write(source.join("file"), "x").unwrap();
    let mut bundle = env.bundle();
    bundle.link("alias", &outside);
    bundle.bind(&source, "/alias/new", &[]);
    let inside = format!("read:{}/new/file", outside.display());
    let answers = bundle.attempts(&[&inside]);
    assert_eq!(
        answers[0],
        (0, "x".into()),
        "resolved below the container's root"
    );
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "the host's directory is untouched"
    );
}

fn target_through_dotdot_stays_inside(env: &Env) {
    let source = env.directory("source");
    let mut bundle = env.bundle();
    bundle.link("alias", "../../../../../..");
    bundle.bind(&source, "/alias/tmp/new", &[]);
    bundle.runs();
    assert!(bundle.rootfs("tmp/new").is_dir());
}

fn directory_on_a_file_is_refused(env: &Env) {
    let source = env.directory("source");
    let mut bundle = env.bundle();
    bundle.file("plain", "");
    bundle.bind(&source, "/plain", &[]).refused().says("/plain");
}

fn unknown_type_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.mount(json!({"destination": "/m", "type": "dreamfs", "source": "none"}));
    bundle.refused().says("/m");
}

fn bad_data_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.mount(
        json!({"destination": "/m", "type": "tmpfs", "source": "t", "options": ["colour=blue"]}),
    );
    bundle.refused().says("/m");
}

fn nothing_reaches_the_host(env: &Env) {
    let source = env.directory("source");
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut bundle = env.bundle();
    bundle
        .bind(&source, "/m", &[])
        .mount(json!({"destination": "/t", "type": "tmpfs", "source": "t"}));
    let container = bundle.sleeper();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    container.exec(&["echo", "inside"]).ok().prints("inside");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

fn two_mounts_on_one_target(env: &Env) {
    let mut bundle = env.bundle();
    for name in ["one", "two"] {
        bundle.mount(json!({"destination": "/m", "type": "tmpfs", "source": name}));
    }
    let facts = bundle.facts();
    assert_eq!(
        facts["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|m| m["target"] == "/m")
            .count(),
        2
    );
    assert_eq!(on(&facts, "/m")["source"], "two");
}

fn mount_below_a_read_only_mount(env: &Env) {
    let outer = env.directory("outer");
    fs::create_dir(outer.join("inner")).unwrap();
    let mut bundle = env.bundle();
    bundle.bind(&outer, "/m", &["ro"]);
    bundle.mount(json!({"destination": "/m/inner", "type": "tmpfs", "source": "t"}));
    let answers = bundle.attempts(&["create:/m/inner/file", "create:/m/file"]);
    assert_eq!((answers[0].0, answers[1].0), (0, EROFS));
}

fn bind_of_a_socket_and_a_fifo(env: &Env) {
    let _listener = std::os::unix::net::UnixListener::bind(env.path("socket")).unwrap();
    system("mkfifo", &[env.path("fifo").to_str().unwrap()]);
    let mut bundle = env.bundle();
    bundle
        .bind(&env.path("socket"), "/run/socket", &[])
        .bind(&env.path("fifo"), "/run/fifo", &[]);
    let answers = bundle.attempts(&["stat:/run/socket", "stat:/run/fifo"]);
    assert!(
        answers[0].1.starts_with("s ") && answers[1].1.starts_with("p "),
        "{answers:?}"
    );
}

fn sources_in_a_user_namespace(env: &Env) {
    let source = env.directory("source");
    fs::write(source.join("file"), "x").unwrap();
    let mut bundle = env.bundle();
    bundle.userns().bind(&source, "/m", &["ro"]);
    bundle.mount(
        json!({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["mode=700"]}),
    );
    fs::set_permissions(bundle.rootfs(""), fs::Permissions::from_mode(0o777)).unwrap();
    for dir in ["m", "t"] {
        bundle.directory(dir);
    }
    let answers = bundle.attempts(&["read:/m/file", "create:/m/new", "create:/t/new"]);
    assert_eq!(answers[0], (0, "x".into()));
    assert_eq!((answers[1].0, answers[2].0), (EROFS, 0));
}

fn source_only_root_can_reach(env: &Env) {
    let closed = env.directory("closed");
    fs::create_dir(closed.join("open")).unwrap();
    fs::write(closed.join("open/file"), "x").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let mut bundle = env.bundle();
    bundle.directory("m");
    bundle.userns().bind(&closed.join("open"), "/m", &[]);
    assert_eq!(bundle.attempts(&["read:/m/file"])[0], (0, "x".into()));
}
