//! Known vulnerabilities of container runtimes, each as an attack that must fail. The numbers are those of
//! the project's catalogue: a = root file system and mounts, b = identity and environment, c = exec.

use crate::harness::attack::{Canary, Swapper, core_pattern, digest};
use crate::harness::bundle::attempts;
use crate::harness::sockets::FdSocket;
use crate::harness::{Bundle, Env, Need, Output, Test, full, test};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Instant;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a1_entrypoint_is_the_runtime_itself),
        test!(a1_binary_survives_an_attacker_during_execs),
        test!(a2_working_directory_through_a_descriptor),
        test!(a2_exec_directory_through_a_descriptor),
        test!(a3_proc_and_sys_are_symlinks),
        test!(a3_volume_over_proc),
        test!(a4_mounts_inside_proc_are_refused),
        test!(a4_proc_swapped_while_a_sysctl_is_written),
        test!(a5_dev_null_is_a_link_to_a_kernel_setting),
        test!(a5_dev_null_swapped_while_masking),
        test!(a6_console_of_the_image_is_a_trap),
        test!(a7_dev_of_the_image_is_a_link),
        test!(a8_mount_target_swapped_for_a_link),
        test!(a9_mount_point_made_through_a_swapped_link),
        test!(a10_working_directory_made_through_a_link),
        test!(a11_files_of_the_engine_through_links),
        test!(a12_cgroup_escape_by_release_agent),
        test!(a12_cgroup_names_with_dotdot),
        test!(a12_cgroup_mount_in_a_user_namespace),
        test!(a13_raw_devices).needs(Need::V1("devices")),
        test!(a14_default_masks_of_spec),
        test!(a15_large_values_are_never_cut),
        test!(a16_hooks_do_not_see_the_images_environment),
        test!(a16_hooks_without_environment_get_none)
            .only_rcrun("runc gives its own environment to hooks that name none"),
        test!(a17_no_abstract_socket),
        test!(b1_numbers_out_of_range),
        test!(b1_numbers_out_of_range_for_exec)
            .only_rcrun("runc 1.5 wraps `exec --user 4294967296` around to root"),
        test!(b2_groups_are_only_those_of_the_spec),
        test!(b3_nothing_inheritable),
        test!(b5_environment_without_a_value),
        test!(b5_no_environment_leaks_between_containers),
        test!(b6_passwd_is_endless),
        test!(b6_passwd_is_a_fifo).only_rcrun("runc waits for a writer for ever"),
        test!(b6_passwd_is_endless_noise).only_rcrun("runc reads /dev/urandom for ever"),
        test!(b6_passwd_is_a_link_to_the_host),
        test!(b7_unknown_security_words_fail_closed),
        test!(b8_state_is_closed_to_others),
        test!(b9_setuid_under_no_new_privileges),
        test!(c4_container_looks_into_an_exec),
    ]
}

/// How many rounds of a race: enough to catch a window in the short run, or as many as the catalogue asks.
fn rounds(short: usize, long: usize) -> usize {
    if full() { long } else { short }
}

const RUNTIME_NAMES: [&str; 3] = ["rcrun", "runc", "crun"];

fn a1_entrypoint_is_the_runtime_itself(env: &Env) {
    let binary = env.rt.use_copy();
    let before = digest(&fs::read(&binary).unwrap());
    let mut script = env.bundle();
    script.own_programs();
    let file = script.file("evil", "#!/proc/self/exe\n");
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    script.args(&["/evil"]).run();
    let mut link = env.bundle();
    link.own_programs();
    link.link("bin/sh", "/proc/self/exe");
    link.args(&["sh", "-c", "true"]).run();
    link.args(&["/proc/self/exe", "--version"]).run();
    let container = env.bundle().sleeper();
    for _ in 0..3 {
        container.exec(&["/proc/self/exe"]);
        container.exec(&["/proc/self/fd/3"]);
    }
    assert_eq!(digest(&fs::read(&binary).unwrap()), before);
}

fn a1_binary_survives_an_attacker_during_execs(env: &Env) {
    let binary = env.rt.use_copy();
    let before = digest(&fs::read(&binary).unwrap());
    let mut bundle = env.bundle();
    bundle.own_programs();
    let container = bundle
        .caps(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"])
        .args(&["/bin/probe", "exe-attack"])
        .start();
    container.wait_output("ready");
    for _ in 0..rounds(30, 200) {
        container.exec(&["true"]);
    }
    container.stop();
    let out = container.stdout();
    assert!(
        !out.contains("WROTE"),
        "{}",
        out.lines()
            .filter(|l| l.contains("WROTE"))
            .take(3)
            .collect::<String>()
    );
    assert_eq!(digest(&fs::read(&binary).unwrap()), before);
}

/// A host directory whose content must never be seen inside, held open by the caller as descriptor 7.
fn called_with_open_directory(env: &Env, inner: &std::process::Command) -> Output {
    let canary = env.directory("canary");
    fs::write(canary.join("HOST-MARKER"), "").unwrap();
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" 7<\"$HOLD\""])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.env("HOLD", &canary);
    env.rt.finish(env.rt.spawn(command))
}

#[track_caller]
fn stays_inside(output: &Output) {
    assert!(
        !output.stdout.contains("HOST-MARKER"),
        "the host's directory was entered:\n{output}"
    );
    assert!(!output.stdout.contains("(unreachable)"), "{output}");
}

fn a2_working_directory_through_a_descriptor(env: &Env) {
    for number in (3..=20).step_by(if full() { 1 } else { 2 }) {
        let mut bundle = env.bundle();
        bundle
            .set("/process/cwd", json!(format!("/proc/self/fd/{number}")))
            .sh("pwd; ls; ls ..");
        let output = called_with_open_directory(env, &bundle.command("run", &[]));
        stays_inside(&output);
        output.fails();
    }
    let mut bundle = env.bundle();
    bundle.link("w", "/proc/self/fd/7");
    bundle.set("/process/cwd", json!("/w")).sh("pwd; ls; ls ..");
    stays_inside(&called_with_open_directory(
        env,
        &bundle.command("run", &[]),
    ));
}

fn a2_exec_directory_through_a_descriptor(env: &Env) {
    let bundle = env.bundle();
    bundle.link("w", "/proc/self/fd/7");
    let mut bundle = bundle;
    let container = bundle.sleeper();
    for cwd in [
        "/proc/self/fd/3",
        "/proc/self/fd/5",
        "/proc/self/fd/7",
        "/proc/self/fd/8",
        "/w",
    ] {
        let command = container.exec_command(&["--cwd", cwd], &["sh", "-c", "pwd; ls; ls .."]);
        let output = called_with_open_directory(env, &command);
        stays_inside(&output);
        output.exits(255);
    }
}

fn a3_proc_and_sys_are_symlinks(env: &Env) {
    for (name, target) in [
        ("proc", "/bad"),
        ("proc", "bad"),
        ("proc", "/no/such"),
        ("proc", "../../../../.."),
        ("sys", "/bad"),
        ("sys", "bad"),
        ("sys", "/no/such"),
    ] {
        let mut bundle = env.bundle();
        bundle.directory("bad");
        bundle.link(name, target);
        bundle.refused().says(&format!("/{name}"));
        assert_eq!(fs::read_dir(bundle.rootfs("bad")).unwrap().count(), 0);
        // The volume variant: the link comes with a mount.
        bundle.set("/root/readonly", json!(true)).refused();
    }
}

fn a3_volume_over_proc(env: &Env) {
    let volume = env.directory("volume");
    let mut bundle = env.bundle();
    bundle.bind(&volume, "/proc", &[]).refused().says("/proc");
    let mut tmpfs = env.bundle();
    tmpfs
        .without_mount("/proc")
        .mount(json!({"destination": "/proc", "type": "tmpfs", "source": "t"}));
    tmpfs.refused();
}

fn a4_mounts_inside_proc_are_refused(env: &Env) {
    let file = env.path("fake");
    fs::write(&file, "").unwrap();
    let dir = env.directory("fake-dir");
    for target in [
        "/proc/self/attr/exec",
        "/proc/sys/kernel/core_pattern",
        "/proc/self/oom_score_adj",
        "/proc/1/attr",
    ] {
        env.bundle()
            .bind(&file, target, &[])
            .refused()
            .says("/proc");
    }
    for target in [
        "/proc/sys/net",
        "/proc/self",
        "/proc/sys",
        "/proc/../proc/sys/net",
    ] {
        let mut bundle = env.bundle();
        bundle
            .bind(&dir, target, &[])
            .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
        bundle.refused();
    }
}

fn a4_proc_swapped_while_a_sysctl_is_written(env: &Env) {
    let before = core_pattern();
    let canary = Canary::plant(&env.path("canary"));
    let mut bundle = env.bundle();
    symlink(&canary.path, bundle.rootfs("proc.link")).unwrap();
    bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    bundle.args(&[
        "/bin/probe",
        "try",
        "read:/proc/sys/net/ipv4/ip_forward",
        "read:/proc/self/stat",
    ]);
    let swapper = Swapper::start(&bundle.rootfs("proc"), &bundle.rootfs("proc.link"));
    let mut through = 0;
    for _ in 0..rounds(20, 2000) {
        let output = bundle.run();
        if output.code == 0 {
            let answers = attempts(&output.json());
            // The swapping goes on under the running container, which may find no /proc at all; but never another's.
            assert!(
                answers[0].0 != 0 || answers[0].1 == "1\n",
                "written elsewhere: {answers:?}"
            );
            through += 1;
        }
    }
    assert!(
        swapper.count() > 100,
        "{} swaps, {through} starts",
        swapper.count()
    );
    drop(swapper);
    canary.is_intact();
    assert_eq!(core_pattern(), before);
}

/// A `/dev` that belongs to a volume, with the nodes that a container needs.
fn volume_with_dev(env: &Env) -> std::path::PathBuf {
    let dev = env.directory("dev");
    for dir in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(dir)).unwrap();
    }
    dev
}

const MASKED: [&str; 2] = ["/proc/keys", "/proc/timer_list"];

fn with_dev<'e>(env: &'e Env, dev: &Path) -> Bundle<'e> {
    let mut bundle = env.bundle();
    bundle
        .without_mount("/dev")
        .set("/linux/maskedPaths", json!(MASKED))
        .set("/linux/readonlyPaths", json!([]));
    let mount = json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]});
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .insert(1, mount);
    bundle
}

/// The masks of a container that started are the null device.
#[track_caller]
fn masked_by_null(output: &Output) {
    for (errno, text) in attempts(&output.json()) {
        assert!(
            errno == 0 && text.ends_with(" 1 3"),
            "a mask is not the null device: {text:?}"
        );
    }
}

fn a5_dev_null_is_a_link_to_a_kernel_setting(env: &Env) {
    let before = core_pattern();
    for target in [
        "/proc/sys/kernel/core_pattern",
        "../proc/sysrq-trigger",
        "/etc/passwd",
        "zero",
    ] {
        let dev = volume_with_dev(env);
        symlink(target, dev.join("null")).unwrap();
        let mut bundle = with_dev(env, &dev);
        bundle.args(&[
            "/bin/probe",
            "try",
            "stat:/proc/keys",
            "stat:/proc/timer_list",
        ]);
        let output = bundle.run();
        if output.code == 0 {
            masked_by_null(&output);
        }
        fs::remove_dir_all(dev).unwrap();
    }
    assert_eq!(core_pattern(), before);
}

fn a5_dev_null_swapped_while_masking(env: &Env) {
    let before = core_pattern();
    let dev = volume_with_dev(env);
    let node = std::process::Command::new("mknod")
        .arg(dev.join("null"))
        .args(["c", "1", "3"])
        .status()
        .unwrap();
    assert!(node.success());
    symlink("/proc/sys/kernel/core_pattern", dev.join("link")).unwrap();
    let mut bundle = with_dev(env, &dev);
    bundle.args(&[
        "/bin/probe",
        "try",
        "stat:/proc/keys",
        "stat:/proc/timer_list",
    ]);
    let swapper = Swapper::start(&dev.join("null"), &dev.join("link"));
    for _ in 0..rounds(20, 1000) {
        let output = bundle.run();
        if output.code == 0 {
            masked_by_null(&output);
        }
    }
    assert!(swapper.count() > 100);
    drop(swapper);
    assert_eq!(core_pattern(), before);
}

fn a6_console_of_the_image_is_a_trap(env: &Env) {
    let canary = Canary::plant(&env.path("canary"));
    let to_canary = canary.path.join("console");
    for (number, kind) in ["link", "relative link", "file", "directory"]
        .into_iter()
        .enumerate()
    {
        let mut bundle = env.bundle();
        for mount in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
            bundle.without_mount(mount);
        }
        bundle.mount(
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
        );
        match kind {
            "link" => drop(bundle.link("dev/console", &to_canary)),
            "relative link" => drop(bundle.link("dev/console", "../../../canary/console")),
            "file" => drop(bundle.file("dev/console", "image")),
            _ => drop(bundle.directory("dev/console")),
        }
        bundle.set("/process/terminal", json!(true)).args(&[
            "/bin/probe",
            "try",
            "stat:/dev/console",
        ]);
        let socket = FdSocket::listen(&env.path(&format!("socket-{number}")));
        let output = env.rt.finish(
            env.rt
                .spawn(bundle.command("create", &["--console-socket", socket.path()])),
        );
        if output.code == 0 {
            let mut console = crate::harness::sockets::Console::from_socket(&socket);
            env.rt.call(&["start", &bundle.id]).ok();
            let text = console.read_to_end();
            assert!(
                text.contains(" 136 "),
                "{kind}: /dev/console is a terminal: {text}"
            );
            env.rt.call(&["delete", "--force", &bundle.id]).ok();
        }
        canary.is_intact();
    }
}

fn a7_dev_of_the_image_is_a_link(env: &Env) {
    let canary = Canary::plant(&env.path("canary"));
    for target in [
        canary.path.clone(),
        "../../canary".into(),
        "/../../../../../../tmp".into(),
    ] {
        let mut bundle = env.bundle();
        for mount in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
            bundle.without_mount(mount);
        }
        bundle.link("dev", &target);
        bundle.push(
            "/linux/devices",
            json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 3}),
        );
        let output = bundle.run();
        assert!(output.code < 128 || output.code == 255, "{output}");
        canary.is_intact();
        assert!(!Path::new("/tmp/null").exists() && !Path::new("/tmp/ptmx").exists());
    }
}

/// Nothing of the host may be found from inside, whatever was swapped while it was set up.
const SEARCH: &str =
    "find / \\( -path /proc -o -path /sys \\) -prune -o -name HOST-MARKER -print; echo done";

fn swapped_target(env: &Env, name: &str) {
    let canary = Canary::plant(&env.path("canary"));
    let volume = env.directory("volume");
    fs::create_dir_all(volume.join("x").join(name)).unwrap();
    symlink(&canary.path, volume.join("x.link")).unwrap();
    let source = env.directory("source");
    let mut bundle = env.bundle();
    bundle.bind(&volume, "/vol", &[]);
    let target = if name.is_empty() {
        "/vol/x/fresh".to_owned()
    } else {
        format!("/vol/x/{name}")
    };
    bundle.bind(&source, &target, &[]);
    bundle.mount(json!({"destination": target, "type": "tmpfs", "source": "t"}));
    bundle.sh(SEARCH);
    let swapper = Swapper::start(&volume.join("x"), &volume.join("x.link"));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut started = 0;
    for _ in 0..rounds(25, 1000) {
        let output = bundle.run();
        if output.code == 0 {
            assert_eq!(output.text(), "done", "the host is visible");
            started += 1;
        } else {
            assert!(
                !output.stderr.trim().is_empty() && output.code < 128,
                "{output}"
            );
        }
    }
    assert!(
        swapper.count() > 100,
        "{} swaps, {started} starts",
        swapper.count()
    );
    drop(swapper);
    canary.is_intact();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), table);
}

fn a8_mount_target_swapped_for_a_link(env: &Env) {
    swapped_target(env, "sub");
}

fn a9_mount_point_made_through_a_swapped_link(env: &Env) {
    swapped_target(env, "");
}

fn a10_working_directory_made_through_a_link(env: &Env) {
    let canary = Canary::plant(&env.path("canary"));
    for target in [
        canary.path.clone(),
        "../../../canary".into(),
        "/../../../../tmp".into(),
    ] {
        let mut bundle = env.bundle();
        bundle.link("a", &target);
        bundle.set("/process/cwd", json!("/a/made/by-cwd")).run();
        canary.is_intact();
        assert!(!Path::new("/tmp/made").exists());
    }
}

fn a11_files_of_the_engine_through_links(env: &Env) {
    let canary = Canary::plant(&env.path("canary"));
    let source = env.path("resolv.conf");
    fs::write(&source, "nameserver\n").unwrap();
    let relative = Path::new("../../../canary/passwd").to_owned();
    for target in [canary.path.join("passwd"), relative] {
        for name in [
            "etc/resolv.conf",
            "etc/hosts",
            "etc/hostname",
            "run/.containerenv",
        ] {
            let mut bundle = env.bundle();
            bundle.link(name, &target);
            bundle
                .bind(&source, &format!("/{name}"), &[])
                .args(&["cat", &format!("/{name}")]);
            let output = bundle.run();
            assert!(!output.stdout.contains("the host's"), "{output}");
            canary.is_intact();
        }
    }
}

const NEWUSER_NEWNS_NEWCGROUP: i64 = 0x1000_0000 | 0x0002_0000 | 0x0200_0000;

fn a12_cgroup_escape_by_release_agent(env: &Env) {
    let unshare = format!("syscall:{}:{NEWUSER_NEWNS_NEWCGROUP}", libc::SYS_unshare);
    let mut bundle = env.bundle();
    let answers = bundle.attempts(&[
        "mount:x:/tmp:cgroup:0:pids",
        "mount:x:/tmp:cgroup2:0:",
        &unshare,
        "mount:x:/tmp:cgroup:0:pids",
        "write:/tmp/release_agent:/evil",
    ]);
    assert_ne!(
        answers[0].0, 0,
        "without CAP_SYS_ADMIN nothing can be mounted: {answers:?}"
    );
    assert_ne!(answers[1].0, 0, "{answers:?}");
    assert_ne!(
        answers[4].0, 0,
        "not even in namespaces of one's own: {answers:?}"
    );
    let agent = fs::read_to_string("/sys/fs/cgroup/pids/release_agent").unwrap_or_default();
    assert!(!agent.contains("evil"));
}

fn a12_cgroup_names_with_dotdot(env: &Env) {
    let before = fs::read_to_string("/proc/self/cgroup").unwrap();
    for path in [
        "/../../..",
        "../../../..",
        &format!("/{}/../..", env.tag),
        "/./..",
    ] {
        let mut bundle = env.bundle();
        bundle
            .without_namespace("cgroup")
            .set("/linux/cgroupsPath", json!(path));
        let output = bundle.args(&["cat", "/proc/self/cgroup"]).run();
        assert!(!output.stdout.contains(".."), "{path}: {output}");
    }
    let container = env.bundle().sleeper();
    container
        .exec_with(&["--cgroup", "../.."], &["true"])
        .exits(255);
    assert_eq!(fs::read_to_string("/proc/self/cgroup").unwrap(), before);
}

fn a12_cgroup_mount_in_a_user_namespace(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns().without_namespace("cgroup");
    bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}));
    bundle.directory("sys/fs/cgroup");
    bundle.args(&[
        "/bin/probe",
        "try",
        "mkdir:/sys/fs/cgroup/pids/x",
        "write:/sys/fs/cgroup/pids/cgroup.procs:1",
    ]);
    let output = bundle.run();
    if output.code == 0 {
        let answers = attempts(&output.json());
        assert!(answers.iter().all(|(errno, _)| *errno != 0), "{answers:?}");
    }
}

fn a13_raw_devices(env: &Env) {
    let mut bundle = env.bundle();
    bundle.caps(&[
        "CAP_MKNOD",
        "CAP_SYS_RAWIO",
        "CAP_DAC_OVERRIDE",
        "CAP_SYS_ADMIN",
    ]);
    let nodes = [
        ("c", 1, 1),
        ("c", 1, 2),
        ("c", 1, 4),
        ("b", 8, 0),
        ("b", 254, 0),
        ("b", 7, 0),
        ("c", 10, 232),
        ("c", 10, 229),
    ];
    let questions: Vec<String> = nodes
        .iter()
        .map(|(k, a, i)| format!("open-node:/tmp/n{k}{a}-{i}:{k}:{a}:{i}"))
        .collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    for ((kind, major, minor), (errno, _)) in nodes.iter().zip(bundle.attempts(&questions)) {
        assert_eq!(errno, 1, "{kind} {major}:{minor}");
    }
    let answers = env.bundle().attempts(&["mknod:/tmp/null:c:1:3"]);
    assert_eq!(
        answers[0].0, 1,
        "without CAP_MKNOD there are no new nodes at all"
    );
}

fn a14_default_masks_of_spec(env: &Env) {
    let dir = env.directory("spec");
    env.rt
        .call(&["spec", "--bundle", dir.to_str().unwrap()])
        .ok();
    let spec: Value =
        serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap();
    let has = |list: &str, path: &str| {
        let paths = spec["linux"][list].as_array().unwrap();
        assert!(
            paths.contains(&json!(path)),
            "{list} lacks {path}: {paths:?}"
        );
    };
    for path in [
        "/proc/acpi",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/sys/firmware",
        "/proc/scsi",
    ] {
        has("maskedPaths", path);
    }
    for path in [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ] {
        has("readonlyPaths", path);
    }
}

fn a15_large_values_are_never_cut(env: &Env) {
    let mut bundle = env.bundle();
    let big = |name: &str, size: usize| format!("{name}={}", "v".repeat(size));
    bundle
        .push("/process/env", json!(big("A", 65_535)))
        .push("/process/env", json!(big("B", 65_536)));
    bundle.push("/process/env", json!(big("C", 70_001)));
    let source = env.directory("source");
    for i in 0..150 {
        bundle.bind(&source, &format!("/m/{i}"), &["ro"]);
    }
    let long = "d/".repeat(1500);
    bundle.set("/process/cwd", json!(format!("/{long}end")));
    bundle.set("/linux/uidMappings", json!([])).set(
        "/process/user/additionalGids",
        json!((0..3000).collect::<Vec<u32>>()),
    );
    let facts = bundle.facts();
    let environment = facts["env"].as_array().unwrap();
    for (name, size) in [("A", 65_535), ("B", 65_536), ("C", 70_001)] {
        assert!(
            environment.contains(&json!(big(name, size))),
            "{name} was cut"
        );
    }
    assert_eq!(facts["cwd"], json!(format!("/{long}end")));
    let mounts = facts["mounts"].as_array().unwrap();
    assert_eq!(
        mounts
            .iter()
            .filter(|m| m["target"].as_str().unwrap().starts_with("/m/"))
            .count(),
        150
    );
    assert_eq!(
        facts["status"]["Groups"]
            .as_str()
            .unwrap()
            .split(' ')
            .count(),
        3000
    );
}

/// What hooks of all kinds on the host find in their environment.
fn environment_of_hooks(env: &Env, given: &Value) -> String {
    let path = env.path("environ");
    let mut bundle = env.bundle();
    for evil in [
        "LD_PRELOAD=/proc/self/cwd/x.so",
        "BASH_ENV=/evil",
        "GCONV_PATH=/evil",
    ] {
        bundle.push("/process/env", json!(evil));
    }
    bundle.set("/process/env/0", json!("PATH=/bin:/evil"));
    let code = format!("/bin/cat /proc/self/environ >> {}", path.display());
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", code]});
        if !given.is_null() {
            hook["env"] = given.clone();
        }
        bundle.push(&format!("/hooks/{kind}"), hook);
    }
    bundle.args(&["/bin/true"]).run().ok();
    fs::read_to_string(&path).unwrap()
}

fn a16_hooks_do_not_see_the_images_environment(env: &Env) {
    let seen = environment_of_hooks(env, &json!(["ONLY=this"]));
    assert!(
        !seen.contains("evil") && !seen.contains("x.so") && !seen.contains("canary"),
        "{seen:?}"
    );
    assert_eq!(seen.matches("ONLY=this").count(), 5);
}

fn a16_hooks_without_environment_get_none(env: &Env) {
    let seen = environment_of_hooks(env, &Value::Null);
    assert!(
        !seen.contains("evil") && !seen.contains("x.so") && !seen.contains("canary"),
        "{seen:?}"
    );
}

fn a17_no_abstract_socket(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.without_namespace("network").sleeper();
    let table = container.exec(&["cat", "/proc/net/unix"]).ok().stdout;
    for line in table.lines().filter(|l| l.contains('@')) {
        assert!(
            !RUNTIME_NAMES.iter().any(|name| line.contains(name)),
            "{line}"
        );
    }
}

fn b1_numbers_out_of_range(env: &Env) {
    for bad in [
        "4294967296",
        "99999999999",
        "-1",
        "1.5",
        "\"0\"",
        "18446744073709551616",
        "true",
        "[0]",
    ] {
        for key in ["uid", "gid"] {
            let mut bundle = env.bundle();
            bundle.set(
                &format!("/process/user/{key}"),
                serde_json::from_str(bad).unwrap(),
            );
            bundle.refused();
        }
        let mut bundle = env.bundle();
        bundle
            .set(
                "/process/user/additionalGids",
                json!([serde_json::from_str::<Value>(bad).unwrap()]),
            )
            .refused();
    }
}

fn b1_numbers_out_of_range_for_exec(env: &Env) {
    let bundle = env.bundle();
    bundle.file(
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\n1:x:0:0::/:/bin/sh\n99999999999:x:0:0::/:/bin/sh\n",
    );
    let mut bundle = bundle;
    let container = bundle.sleeper();
    for user in [
        "4294967296",
        "99999999999",
        "-1",
        "1000:4294967296",
        "x",
        "",
        "1:",
        ":1",
        "1:2:3",
    ] {
        let output = container.exec_with(&["--user", user], &["id", "-u"]);
        assert!(output.code == 255, "--user {user:?} was taken: {output}");
    }
    for user in ["2147483648", "1", "01"] {
        let output = container.exec_with(&["--user", user], &["id", "-u"]);
        assert!(
            output.code == 255 || output.text() == user.trim_start_matches('0'),
            "--user {user}: {output}"
        );
    }
}

fn b2_groups_are_only_those_of_the_spec(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 2000}));
    bundle.args(&["id", "-G"]).run().ok().prints("2000");
    let container = bundle.args(&["sleep", "1000"]).start();
    container.exec(&["id", "-G"]).ok().prints("2000");
    container
        .exec_with(&["--user", "1000:3000"], &["id", "-G"])
        .ok()
        .prints("3000");
}

fn b3_nothing_inheritable(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    for facts in [
        env.bundle().facts(),
        container.exec_facts(&[]),
        container.exec_facts(&["--cap", "CAP_SYS_ADMIN"]),
        container.exec_facts(&["--user", "1000:1000"]),
    ] {
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(facts["status"][set], "0000000000000000", "{set}");
        }
    }
}

fn b5_environment_without_a_value(env: &Env) {
    for entry in ["HOST_SECRET", "HOST*", "=x", ""] {
        let mut bundle = env.bundle();
        bundle
            .push("/process/env", json!(entry))
            .args(&["/bin/busybox", "env"]);
        let output = bundle.run();
        assert!(
            !output.stdout.contains("canary"),
            "{entry:?} takes the host's value: {output}"
        );
    }
    let container = env.bundle().sleeper();
    let output = container.exec_with(&["--env", "HOST_SECRET"], &["env"]);
    assert!(!output.stdout.contains("canary"), "{output}");
}

fn b5_no_environment_leaks_between_containers(env: &Env) {
    let mut running = Vec::new();
    for i in 0..8 {
        let mut bundle = env.bundle();
        bundle
            .push("/process/env", json!(format!("SECRET=secret-{i}")))
            .sh("env; cat /proc/*/environ");
        running.push((i, bundle.run_in_background(&[])));
    }
    for (i, one) in running {
        let output = env.rt.finish(one).ok();
        for j in 0..8 {
            assert_eq!(
                output.stdout.contains(&format!("secret-{j}")),
                i == j,
                "{i} sees {j}"
            );
        }
    }
}

#[track_caller]
fn quickly(bundle: &Bundle<'_>) -> Output {
    let start = Instant::now();
    let output = bundle.run();
    assert!(
        start.elapsed().as_secs() < 4,
        "{:?}: {output}",
        start.elapsed()
    );
    output
}

fn b6_passwd_is_endless(env: &Env) {
    let bundle = env.bundle();
    let file = bundle.file("etc/passwd", "");
    fs::File::options()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(8 << 30)
        .unwrap();
    quickly(&bundle);
    for target in ["/dev/zero", "/dev/full"] {
        let bundle = env.bundle();
        bundle.link("etc/passwd", target);
        quickly(&bundle);
    }
}

fn b6_passwd_is_endless_noise(env: &Env) {
    let bundle = env.bundle();
    bundle.link("etc/passwd", "/dev/urandom");
    quickly(&bundle);
}

fn b6_passwd_is_a_fifo(env: &Env) {
    let bundle = env.bundle();
    let file = bundle.rootfs("etc/passwd");
    fs::remove_file(&file).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );
    quickly(&bundle);
}

fn b6_passwd_is_a_link_to_the_host(env: &Env) {
    let mut bundle = env.bundle();
    let outside = env.path("passwd");
    fs::write(&outside, "user:x:1000:1000::/home-of-the-host:/bin/sh\n").unwrap();
    for target in [outside.clone(), "../../../passwd".into()] {
        bundle.link("etc/passwd", target);
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        let output = bundle.args(&["/bin/busybox", "env"]).run().ok();
        assert!(output.stdout.contains("HOME=/\n"), "{output}");
    }
}

fn b7_unknown_security_words_fail_closed(env: &Env) {
    for (pointer, value) in [
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_WHATEVER"}),
        ),
        ("/process/apparmorProfile", json!("no-such-profile")),
        ("/process/selinuxLabel", json!("no:such:label:s0")),
        ("/linux/rootfsPropagation", json!("whatever")),
    ] {
        let mut bundle = env.bundle();
        bundle.set(pointer, value).refused();
    }
}

fn b8_state_is_closed_to_others(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]);
    let inner = bundle.command("create", &[]);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "umask 0; exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(inner.get_args());
    env.rt.finish(env.rt.spawn(command)).ok();
    let mut open = vec![env.rt.root.clone()];
    while let Some(path) = open.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        let mode = data.permissions().mode();
        let fifo = data.mode() & libc::S_IFMT == libc::S_IFIFO;
        assert!(
            fifo || mode & 0o022 == 0,
            "{} can be written by others: {mode:o}",
            path.display()
        );
        if data.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    let state = env.rt.root.join(&bundle.id);
    let mut command = std::process::Command::new("setpriv");
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "ls",
        ])
        .arg(&state);
    assert!(
        !command.output().unwrap().status.success(),
        "nobody may look into {}",
        state.display()
    );
    env.rt.call(&["delete", "--force", &bundle.id]).ok();
}

fn b9_setuid_under_no_new_privileges(env: &Env) {
    for (nnp, effective) in [(true, "1000"), (false, "0")] {
        let mut bundle = env.bundle();
        fs::create_dir(bundle.rootfs("s")).unwrap();
        fs::copy(bundle.rootfs("bin/probe"), bundle.rootfs("s/probe")).unwrap();
        fs::set_permissions(bundle.rootfs("s/probe"), fs::Permissions::from_mode(0o4755)).unwrap();
        bundle.set("/process/noNewPrivileges", json!(nnp));
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
        let facts = bundle.args(&["/s/probe", "facts"]).run().ok().json();
        assert_eq!(
            facts["status"]["Uid"],
            json!(format!("1000 {effective} {effective} {effective}"))
        );
        assert_eq!(
            facts["status"]["CapEff"] == "0000000000000000",
            nnp,
            "{}",
            facts["status"]["CapEff"]
        );
    }
}

fn c4_container_looks_into_an_exec(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.args(&["/bin/probe", "fd-attack"]).start();
    container.wait_output("ready");
    for _ in 0..rounds(40, 500) {
        container.exec(&["true"]).ok();
    }
    container.stop();
    let out = container.stdout();
    let found: Vec<&str> = out
        .lines()
        .filter(|l| l.starts_with("OPENED") || l.starts_with("TRACED"))
        .collect();
    assert!(found.is_empty(), "{:?}", &found[..found.len().min(5)]);
}
