//! Mount options: flags, recursive attributes, propagation, id maps, and those of single file systems.

use super::mounts::{EROFS, Tree, has, on, system};
use crate::harness::{Bundle, Env, Test, test};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(recursive_read_only),
        test!(recursive_attributes),
        test!(every_flag),
        test!(flags_can_be_cleared),
        test!(access_times),
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
    ]
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
