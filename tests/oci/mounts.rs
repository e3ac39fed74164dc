//! Every mount type and option, on whatever target the root file system has or lacks.

use crate::harness::{Bundle, Env, Test, test};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
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
        test!(recursive_read_only),
        test!(recursive_attributes),
        test!(every_flag),
        test!(flags_can_be_cleared),
        test!(access_times),
        test!(relative_source_is_in_the_bundle),
        test!(missing_source_is_refused),
        test!(relative_destination),
        test!(propagation_of_a_mount),
        test!(tmpfs_options),
        test!(tmpfs_inherits_the_mode_of_its_target),
        test!(tmpcopyup),
        test!(idmapped_bind),
        test!(idmapped_bind_recursively),
        test!(idmap_option_uses_the_containers_map),
        test!(idmap_without_maps_is_refused),
        test!(cgroup_mount_v1),
        test!(cgroup_mount_without_namespace),
        test!(mqueue),
        test!(devpts),
        test!(overlay),
        test!(proc_with_options),
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
fn on<'f>(facts: &'f Value, target: &str) -> &'f Value {
    let mounts = facts["mounts"].as_array().unwrap();
    let found = mounts.iter().rfind(|m| m["target"] == target);
    found.unwrap_or_else(|| panic!("nothing is mounted on {target}: {mounts:#?}"))
}

#[track_caller]
fn options(facts: &Value, target: &str) -> Vec<String> {
    on(facts, target)["options"]
        .as_str()
        .unwrap()
        .split(',')
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn has(facts: &Value, target: &str, wanted: &[&str], unwanted: &[&str]) {
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

fn system(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

/// A host directory with a file, and a tmpfs with a file on its `sub`. Unmounted on drop.
struct Tree {
    path: std::path::PathBuf,
}

impl Tree {
    fn new(env: &Env, name: &str) -> Self {
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
    bundle.bind(&source, "/a/b/c", &[]).run().ok();
    assert!(bundle.rootfs("a/b/c").is_dir());
    assert_eq!(
        bundle.rootfs("a/b").metadata().unwrap().mode() & 0o777,
        0o755
    );
}

const EROFS: i32 = 30;

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

fn recursive_read_only(env: &Env) {
    let tree = Tree::new(env, "tree");
    let mut bundle = env.bundle();
    bundle.mount(json!({"destination": "/m", "source": tree.path, "options": ["rbind", "rro"]}));
    let answers = bundle.attempts(&["create:/m/new", "create:/m/sub/new"]);
    assert_eq!((answers[0].0, answers[1].0), (EROFS, EROFS));
    assert!(
        fs::write(tree.path.join("sub/host"), "").is_ok(),
        "the host's own mount stays writable"
    );
}

fn recursive_attributes(env: &Env) {
    let tree = Tree::new(env, "tree");
    for (option, wanted) in [
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
    ] {
        let mut bundle = env.bundle();
        bundle
            .mount(json!({"destination": "/m", "source": tree.path, "options": ["rbind", option]}));
        let facts = bundle.facts();
        has(&facts, "/m", &[wanted], &[]);
        has(&facts, "/m/sub", &[wanted], &[]);
    }
    let path = tree.path.join("sub");
    system(
        "mount",
        &["-o", "remount,bind,noexec,nosuid", path.to_str().unwrap()],
    );
    let mut bundle = env.bundle();
    bundle.mount(
        json!({"destination": "/m", "source": tree.path, "options": ["rbind", "rexec", "rsuid"]}),
    );
    has(&bundle.facts(), "/m/sub", &[], &["noexec", "nosuid"]);
}

fn every_flag(env: &Env) {
    let source = env.directory("source");
    for option in [
        "ro",
        "nosuid",
        "nodev",
        "noexec",
        "noatime",
        "nodiratime",
        "nosymfollow",
    ] {
        let mut bundle = env.bundle();
        has(
            &bundle.bind(&source, "/m", &[option]).facts(),
            "/m",
            &[option],
            &[],
        );
    }
    let mut bundle = env.bundle();
    bundle.mount(json!({"destination": "/m", "type": "tmpfs", "source": "t",
        "options": ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "sync", "dirsync"]}));
    let facts = bundle.facts();
    has(
        &facts,
        "/m",
        &["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"],
        &[],
    );
    let data = on(&facts, "/m")["super"].as_str().unwrap();
    assert!(data.contains("sync") && data.contains("dirsync"), "{data}");
}

fn flags_can_be_cleared(env: &Env) {
    let mut bundle = env.bundle();
    bundle.mount(json!({"destination": "/m", "type": "tmpfs", "source": "t",
        "options": ["nosuid", "nodev", "noexec", "ro", "suid", "dev", "exec", "rw"]}));
    has(
        &bundle.facts(),
        "/m",
        &["rw"],
        &["nosuid", "nodev", "noexec"],
    );
    let source = env.directory("source");
    system(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "nosuid,noexec",
            "t",
            source.to_str().unwrap(),
        ],
    );
    let mut bundle = env.bundle();
    let facts = bundle.bind(&source, "/m", &["suid"]).facts();
    system("umount", &[source.to_str().unwrap()]);
    has(&facts, "/m", &[], &["nosuid"]);
}

fn access_times(env: &Env) {
    let source = env.directory("source");
    for (option, wanted, unwanted) in [
        ("relatime", "relatime", "noatime"),
        ("noatime", "noatime", "relatime"),
        ("strictatime", "rw", "relatime"),
    ] {
        let mut bundle = env.bundle();
        has(
            &bundle.bind(&source, "/m", &[option]).facts(),
            "/m",
            &[wanted],
            &[unwanted],
        );
    }
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

fn propagation_of_a_mount(env: &Env) {
    let source = env.directory("source");
    for (option, expected) in [
        ("rprivate", ""),
        ("rshared", "shared:"),
        ("runbindable", "unbindable"),
    ] {
        let mut bundle = env.bundle();
        bundle.mount(json!({"destination": "/m", "source": source, "options": ["rbind", option]}));
        let facts = bundle.facts();
        let fields = on(&facts, "/m")["optional"].as_str().unwrap();
        assert!(
            fields.starts_with(expected) && fields.is_empty() == expected.is_empty(),
            "{option}: {fields:?}"
        );
    }
    let path = source.to_str().unwrap();
    system("mount", &["--bind", path, path]);
    system("mount", &["--make-shared", path]);
    let mut bundle = env.bundle();
    bundle.mount(json!({"destination": "/m", "source": source, "options": ["rbind", "rslave"]}));
    bundle.set("/linux/rootfsPropagation", json!("rslave"));
    let facts = bundle.facts();
    system("umount", &[path]);
    let fields = on(&facts, "/m")["optional"].as_str().unwrap();
    assert!(fields.starts_with("master:"), "{fields:?}");
}

fn tmpfs_options(env: &Env) {
    let mut bundle = env.bundle();
    bundle.mount(
        json!({"destination": "/t", "type": "tmpfs", "source": "named",
        "options": ["mode=1700", "size=64k", "uid=1000", "gid=2000", "nr_inodes=10"]}),
    );
    let facts = bundle
        .args(&["/bin/probe", "try", "stat:/t"])
        .run()
        .ok()
        .json();
    assert_eq!(facts[0]["text"], "d 1700 1000 2000 0 0");
    let mut twin = env.bundle();
    twin.spec["mounts"] = bundle.spec["mounts"].clone();
    let facts = twin.facts();
    let mount = on(&facts, "/t");
    assert_eq!(mount["source"], "named");
    let data = mount["super"].as_str().unwrap();
    assert!(
        data.contains("size=64k") && data.contains("nr_inodes=10"),
        "{data}"
    );
}

fn tmpfs_inherits_the_mode_of_its_target(env: &Env) {
    let mut bundle = env.bundle();
    let target = bundle.directory("target");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o1735)).unwrap();
    bundle.mount(json!({"destination": "/target", "type": "tmpfs", "source": "t"}));
    let answers = bundle.attempts(&["stat:/target"]);
    assert!(answers[0].1.starts_with("d 1735 "), "{answers:?}");
}

fn tmpcopyup(env: &Env) {
    let mut bundle = env.bundle();
    bundle.file("data/a/file", "copied");
    bundle.link("data/link", "a/file");
    let owned = bundle.file("data/owned", "");
    chown(&owned, Some(1000), Some(1001)).unwrap();
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o640)).unwrap();
    bundle.mount(
        json!({"destination": "/data", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}),
    );
    let answers = bundle.attempts(&[
        "read:/data/a/file",
        "readlink:/data/link",
        "stat:/data/owned",
        "create:/data/new",
    ]);
    assert_eq!(answers[0].1, "copied");
    assert_eq!(answers[1].1, "a/file");
    assert_eq!(answers[2].1, "- 640 1000 1001 0 0");
    assert_eq!(answers[3].0, 0);
    assert!(
        !bundle.rootfs("data/new").exists(),
        "the original stays as it was"
    );
}

/// A host directory with one file of uid 1000 and gid 2000.
fn owned_source(env: &Env) -> std::path::PathBuf {
    let source = env.directory("source");
    fs::write(source.join("file"), "").unwrap();
    chown(source.join("file"), Some(1000), Some(2000)).unwrap();
    source
}

const MAP: &str = r#"[{"containerID": 1000, "hostID": 5000, "size": 1000}]"#;
const GROUP_MAP: &str = r#"[{"containerID": 2000, "hostID": 6000, "size": 1000}]"#;

fn mapped(source: &std::path::Path, options: &[&str]) -> Value {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    json!({"destination": "/m", "type": "bind", "source": source, "options": options,
        "uidMappings": parse(MAP), "gidMappings": parse(GROUP_MAP)})
}

fn idmapped_bind(env: &Env) {
    let source = owned_source(env);
    let mut bundle = env.bundle();
    bundle.mount(mapped(&source, &["bind"]));
    assert_eq!(
        bundle.attempts(&["stat:/m/file"])[0].1,
        "- 644 5000 6000 0 0"
    );
    assert_eq!(source.join("file").metadata().unwrap().uid(), 1000);
}

fn idmapped_bind_recursively(env: &Env) {
    let source = owned_source(env);
    let sub = source.join("sub");
    fs::create_dir(&sub).unwrap();
    system("mount", &["-t", "tmpfs", "t", sub.to_str().unwrap()]);
    fs::write(sub.join("file"), "").unwrap();
    chown(sub.join("file"), Some(1000), Some(2000)).unwrap();
    let stat = |options: &[&str]| {
        let mut bundle = env.bundle();
        bundle.mount(mapped(&source, options));
        bundle.attempts(&["stat:/m/file", "stat:/m/sub/file"])
    };
    let (flat, deep) = (stat(&["rbind", "idmap"]), stat(&["rbind", "ridmap"]));
    system("umount", &[sub.to_str().unwrap()]);
    assert_eq!(
        [&flat[0].1, &flat[1].1],
        ["- 644 5000 6000 0 0", "- 644 1000 2000 0 0"]
    );
    assert_eq!([&deep[0].1, &deep[1].1], ["- 644 5000 6000 0 0"; 2]);
}

fn idmap_option_uses_the_containers_map(env: &Env) {
    let source = owned_source(env);
    let mut bundle = env.bundle();
    for dir in ["m", "plain"] {
        bundle.directory(dir);
    }
    bundle.userns().bind(&source, "/m", &["idmap"]);
    bundle.bind(&source, "/plain", &[]);
    let answers = bundle.attempts(&["stat:/m/file", "stat:/plain/file"]);
    assert_eq!(answers[0].1, "- 644 1000 2000 0 0", "as on the host");
    assert_eq!(answers[1].1, "- 644 65534 65534 0 0");
}

fn idmap_without_maps_is_refused(env: &Env) {
    let source = owned_source(env);
    let mut bundle = env.bundle();
    bundle.bind(&source, "/m", &["idmap"]).refused();
}

fn cgroup_mount(bundle: &mut Bundle<'_>) {
    bundle.mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
}

fn cgroup_mount_v1(env: &Env) {
    if crate::harness::cgroup::v1("memory").is_none() {
        env.skip("no cgroup v1 here");
    }
    let mut bundle = env.bundle();
    cgroup_mount(&mut bundle);
    let facts = bundle.facts();
    assert_eq!(on(&facts, "/sys/fs/cgroup/memory")["type"], "cgroup");
    assert_eq!(
        on(&facts, "/sys/fs/cgroup/memory")["root"],
        "/",
        "with a cgroup namespace, its own root"
    );
    has(
        &facts,
        "/sys/fs/cgroup/memory",
        &["ro", "nosuid", "nodev", "noexec"],
        &[],
    );
    let mut bundle = env.bundle();
    cgroup_mount(&mut bundle);
    let answers = bundle.attempts(&[
        "read:/sys/fs/cgroup/pids/cgroup.procs",
        "mkdir:/sys/fs/cgroup/pids/x",
    ]);
    assert!(answers[0].1.lines().any(|pid| pid == "1"), "{answers:?}");
    assert_eq!(answers[1].0, EROFS);
}

fn cgroup_mount_without_namespace(env: &Env) {
    if crate::harness::cgroup::v1("memory").is_none() {
        env.skip("no cgroup v1 here");
    }
    let mut bundle = env.bundle();
    cgroup_mount(bundle.without_namespace("cgroup"));
    let answers = bundle.attempts(&[
        "read:/sys/fs/cgroup/pids/cgroup.procs",
        "read:/proc/self/cgroup",
    ]);
    assert_eq!(
        answers[0].1, "1\n",
        "only the container's own cgroup is shown"
    );
    assert!(answers[1].1.contains(&bundle.id));
}

fn mqueue(env: &Env) {
    let answers = env
        .bundle()
        .attempts(&["create:/dev/mqueue/queue", "list:/dev/mqueue"]);
    assert_eq!(answers[1], (0, "queue".into()));
}

fn devpts(env: &Env) {
    let answers = env.bundle().attempts(&[
        "readlink:/dev/ptmx",
        "stat:/dev/pts/ptmx",
        "list:/dev/pts",
        "open-rw:/dev/ptmx",
    ]);
    assert_eq!(answers[0].1, "pts/ptmx");
    assert_eq!(answers[1].1, "c 666 0 0 5 2");
    assert_eq!((answers[2].1.as_str(), answers[3].0), ("ptmx", 0));
}

fn overlay(env: &Env) {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| env.directory(name));
    fs::write(lower.join("below"), "lower").unwrap();
    let mut bundle = env.bundle();
    let data = |name: &str, path: &std::path::Path| format!("{name}={}", path.display());
    bundle.mount(
        json!({"destination": "/o", "type": "overlay", "source": "overlay",
        "options": [data("lowerdir", &lower), data("upperdir", &upper), data("workdir", &work)]}),
    );
    let answers = bundle.attempts(&["read:/o/below", "create:/o/above"]);
    assert_eq!(answers, [(0, "lower".into()), (0, String::new())]);
    assert!(upper.join("above").exists() && !lower.join("above").exists());
}

fn proc_with_options(env: &Env) {
    let mut bundle = env.bundle();
    bundle.without_mount("/proc");
    bundle.spec["mounts"].as_array_mut().unwrap().insert(
        0,
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev", "hidepid=2"]}),
    );
    let facts = bundle.facts();
    has(&facts, "/proc", &["nosuid", "nodev", "noexec"], &[]);
    let data = on(&facts, "/proc")["super"].as_str().unwrap();
    assert!(
        data.contains("hidepid=invisible") || data.contains("hidepid=2"),
        "{data}"
    );
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
    bundle.run().ok();
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
    container.exec(&["true"]).ok();
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
