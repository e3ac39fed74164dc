//! Known vulnerabilities in the preparation of a root file system, each as an attack that must fail. Numbers are
//! those of the project's catalogue, a3 to a11; its other parts are in `cves_escape` and `cves_identity`.

use crate::harness::attack::{Canary, Swapper, core_pattern};
use crate::harness::bundle::attempts;
use crate::harness::sockets::FdSocket;
use crate::harness::{Bundle, Env, Output, Test, full, test};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

pub(crate) fn tests() -> Vec<Test> {
    vec![
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
    ]
}

/// How many rounds of a race: enough to catch a window in the short run, or as many as the catalogue asks.
pub(super) fn rounds(short: usize, long: usize) -> usize {
    if full() { long } else { short }
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
    env.bundle().runs();
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
    env.bundle().runs();
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
    env.bundle().runs();
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
    env.bundle().runs();
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
    env.bundle().runs();
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
