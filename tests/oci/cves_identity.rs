//! Known confusions of identity, capabilities and environment, as attacks: group b of the project's catalogue.

use crate::harness::{Bundle, Env, Output, Test, test};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Instant;

pub(crate) fn tests() -> Vec<Test> {
    vec![
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
    ]
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
    env.bundle().runs();
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
    env.bundle().runs();
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
        ("/process/selinuxLabel", json!("no:such:label:s0")),
        ("/linux/rootfsPropagation", json!("whatever")),
    ] {
        let mut bundle = env.bundle();
        bundle.set(pointer, value).refused();
    }
    // Where the kernel has no AppArmor there is no profile to fail; that is said.
    let mut bundle = env.bundle();
    bundle.set("/process/apparmorProfile", json!("no-such-profile"));
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled");
    if enabled.is_ok_and(|text| text.starts_with(b"Y")) {
        bundle.refused();
    } else if env.rt.is_rcrun() {
        bundle.run().ok().says("AppArmor is not enabled");
    } else {
        bundle.run();
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
