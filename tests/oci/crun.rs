//! What users of crun find again: its flags and annotations, as far as rcrun has them.

use super::hooks;
use crate::harness::env::read;
use crate::harness::{Bundle, Env, Need, Output, Test, cgroup, process, test};
use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

const CRUNS: &str = "runc does not have it";

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(another_configuration).only_rcrun(CRUNS),
        test!(cgroup_manager).only_rcrun(CRUNS),
        test!(life_without_a_cgroup).only_rcrun(CRUNS),
        test!(end_without_a_cgroup).only_rcrun(CRUNS),
        test!(limits_need_a_cgroup).only_rcrun(CRUNS),
        test!(cgroup_mount_without_a_cgroup)
            .needs(Need::V1("pids"))
            .only_rcrun(CRUNS),
        test!(delete_by_expression).only_rcrun(CRUNS),
        test!(groups_are_kept).only_rcrun(CRUNS),
        test!(groups_are_kept_in_a_user_namespace).only_rcrun(CRUNS),
        test!(groups_are_kept_by_exec).only_rcrun(CRUNS),
        test!(unclear_word_keeps_no_groups).only_rcrun(CRUNS),
        test!(output_of_hooks_goes_to_files).only_rcrun(CRUNS),
        test!(output_of_hooks_goes_to_plain_files_only).only_rcrun(CRUNS),
        test!(unknown_system_calls_can_be_refused).only_rcrun(CRUNS),
        test!(host_sysfs_of_a_shared_network).only_rcrun("runc fails"),
        test!(mounting_once_more_changes_options).only_rcrun("runc fails"),
        test!(sub_cgroup_of_some_hierarchies)
            .needs(Need::V1("pids"))
            .only_rcrun("runc wants it in all of them"),
        test!(delete_from_a_frozen_cgroup_outside)
            .needs(Need::V1("freezer"))
            .only_rcrun("runc gives up"),
        test!(delete_of_a_container_that_froze_itself)
            .needs(Need::V1("freezer"))
            .only_rcrun("runc gives up"),
    ]
}

fn another_configuration(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["echo", "from elsewhere"]).write();
    let elsewhere = env.directory("elsewhere");
    fs::rename(bundle.path.join("config.json"), elsewhere.join("x.json")).unwrap();
    let path = bundle.path.to_str().unwrap();
    let run = |config: &str| {
        let args = ["run", "--bundle", path, "--config", config, &bundle.id];
        let mut command = env.rt.command(&args);
        command.current_dir(&elsewhere);
        env.rt.finish(env.rt.spawn(command))
    };
    run("x.json").ok().prints("from elsewhere");
    run(elsewhere.join("x.json").to_str().unwrap())
        .ok()
        .prints("from elsewhere");
    run("y.json").fails().says("y.json");
    // As for crun, this one is the bundle's wherever the caller is.
    fs::write(elsewhere.join("config.json"), "{}").unwrap();
    run("config.json").fails().says("config.json not found");
}

fn cgroup_manager(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["echo", "ran"]).write();
    let path = bundle.path.to_str().unwrap();
    let run = |manager: &str| {
        let args = ["--cgroup-manager", manager, "run", "-b", path, &bundle.id];
        env.rt.call(&args)
    };
    run("cgroupfs").ok().prints("ran");
    run("disabled").ok().prints("ran");
    run("other")
        .fails()
        .says("use cgroupfs, systemd or disabled");
    let both = ["--cgroup-manager", "disabled", "--systemd-cgroup", "list"];
    env.rt.call(&both).fails().says("exclude each other");
}

/// The verb with `--cgroup-manager disabled`.
fn without_cgroup<'e>(env: &'e Env, verb: &str, bundle: &Bundle<'e>) -> Output {
    bundle.write();
    let path = bundle.path.to_str().unwrap();
    env.rt
        .call(&["--cgroup-manager", "disabled", verb, "-b", path, &bundle.id])
}

fn life_without_a_cgroup(env: &Env) {
    let mut bundle = env.bundle();
    let id = bundle.id.clone();
    // A path is named by every engine, and has no effect.
    bundle.args(&["sleep", "1000"]);
    bundle.without_namespace("cgroup");
    without_cgroup(env, "create", &bundle).ok();
    let call = |args: &[&str]| env.rt.call(&[&args[..1], &[&id], &args[1..]].concat());
    call(&["start"]).ok();
    let state = call(&["state"]).ok().json();
    assert_eq!(state["status"], "running");
    let pid = state["pid"].to_string();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert_eq!(read(format!("/proc/{pid}/cgroup")), own);
    assert_eq!(cgroup::children(&env.tag), Vec::<std::path::PathBuf>::new());
    call(&["exec", "cat", "/proc/self/cgroup"])
        .ok()
        .prints(own.trim_end());
    let list = env.rt.call(&["list"]).ok();
    assert!(list.stdout.contains(&id), "{list}");
    let why = "made without a cgroup";
    call(&["ps"]).fails().says(why);
    call(&["pause"]).fails().says(why);
    call(&["resume"]).fails().says("not paused");
    env.rt
        .call(&["update", "--pids-limit", "9", &id])
        .fails()
        .says(why);
    env.rt.call(&["events", "--stats", &id]).fails().says(why);
    env.rt.call(&["events", &id]).fails().says(why);
    let exec = ["exec", "--cgroup", "sub", &id, "true"];
    env.rt.call(&exec).exits(255).says(why);
    env.rt
        .call(&["kill", "--all", &id, "TERM"])
        .fails()
        .says(why);
    assert_eq!(call(&["state"]).ok().json()["status"], "running");
    env.rt.call(&["kill", "--all", &id, "KILL"]).ok();
    assert_eq!(call(&["state"]).ok().json()["status"], "stopped");
    call(&["delete"]).ok();
}

fn end_without_a_cgroup(env: &Env) {
    // By force; by a signal; with the host's pids, where others of the container cannot be found.
    for own_pids in [true, false] {
        let mut bundle = env.bundle();
        bundle.args(&["sleep", "1000"]);
        if !own_pids {
            bundle.without_namespace("pid");
        }
        let id = bundle.id.clone();
        let create = || {
            let output = without_cgroup(env, "create", &bundle).ok();
            env.rt.call(&["start", &id]).ok();
            output
        };
        let output = create();
        assert_eq!(
            !own_pids,
            output
                .stderr
                .contains("neither a cgroup nor a pid namespace")
        );
        env.rt.call(&["delete", "--force", &id]).ok();
        create();
        env.rt.call(&["kill", &id, "KILL"]).ok();
        let stopped = || {
            let state = env.rt.call(&["state", &id]).ok().json();
            (state["status"] == "stopped").then_some(())
        };
        process::until("it is stopped", 15, stopped);
        env.rt.call(&["delete", &id]).ok();
    }
}

fn limits_need_a_cgroup(env: &Env) {
    for (pointer, value) in [
        ("/linux/resources/memory/limit", json!(64 << 20)),
        ("/linux/resources/pids/limit", json!(10)),
        ("/linux/resources/cpu/cpus", json!("0")),
    ] {
        let mut bundle = env.bundle();
        bundle.args(&["true"]).set(pointer, value);
        without_cgroup(env, "run", &bundle)
            .fails()
            .says("limits need a cgroup");
        assert!(!env.rt.root.join(&bundle.id).exists());
    }
    // Rules for devices are no limits, but not had either.
    let mut bundle = env.bundle();
    bundle.args(&["true"]).set(
        "/linux/resources/devices",
        json!([{"allow": false, "access": "rwm"}]),
    );
    without_cgroup(env, "run", &bundle)
        .ok()
        .says("linux.resources.devices has no effect");
}

/// A mount of type cgroup shows the cgroup in which the container is: the caller's.
fn cgroup_mount_without_a_cgroup(env: &Env) {
    let own = cgroup::of_process(std::process::id().try_into().unwrap(), "pids").unwrap();
    for namespace in [true, false] {
        let mut bundle = env.bundle();
        bundle.mount(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["ro"]}),
        );
        if !namespace {
            bundle.without_namespace("cgroup");
        }
        // The shell is seen by number 1 where its cgroup is.
        bundle.sh("grep :pids: /proc/self/cgroup; grep -cx 1 /sys/fs/cgroup/pids/cgroup.procs");
        let output = without_cgroup(env, "run", &bundle).ok();
        let shown = if namespace { "/" } else { own.as_str() };
        assert!(
            output.stdout.contains(&format!(":pids:{shown}\n")),
            "{output}"
        );
        assert!(output.stdout.ends_with("\n1\n"), "{output}");
    }
}

fn delete_by_expression(env: &Env) {
    let (one, two, other) = (
        env.bundle().sleeper(),
        env.bundle().sleeper(),
        env.bundle().sleeper(),
    );
    let expression = format!("^({}|{})$", one.id, two.id);
    let delete = |flags: &[&str]| {
        let args = [&["delete"], flags, &["--regex", &expression]].concat();
        env.rt.call(&args)
    };
    delete(&[]).fails().says(&one.id).says(&two.id);
    delete(&["--force"]).ok();
    one.verb("state").fails();
    two.verb("state").fails();
    assert_eq!(other.status(), "running");
    delete(&["--force"]).ok();
    env.rt
        .call(&["delete", "--regex", "(x"])
        .fails()
        .says("invalid regular expression");
}

/// The same command, by a caller who has these supplementary groups.
fn with_groups(command: &Command, groups: &str) -> Command {
    let mut all = Command::new("setpriv");
    all.args(["--groups", groups])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        all.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => all.env(name, value),
            None => all.env_remove(name),
        };
    }
    all
}

const KEEP: &str = "run.oci.keep_original_groups";

fn groups_are_kept(env: &Env) {
    let groups = |value: &str| {
        let mut bundle = env.bundle();
        bundle.args(&["/bin/probe", "facts"]);
        bundle.set("/process/user/additionalGids", json!([77]));
        bundle.set("/annotations", json!({KEEP: value}));
        let command = with_groups(&bundle.command("run", &[]), "4,5,4000");
        let facts = env.rt.finish(env.rt.spawn(command)).ok().json();
        facts["status"]["Groups"].as_str().unwrap().to_owned()
    };
    assert_eq!(groups("1"), "4 5 4000");
    assert_eq!(groups("0"), "77");
}

fn groups_are_kept_in_a_user_namespace(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns().args(&["/bin/probe", "facts"]);
    let run = |bundle: &crate::harness::Bundle<'_>| {
        let command = with_groups(&bundle.command("run", &[]), "4,5");
        let facts = env.rt.finish(env.rt.spawn(command)).ok().json();
        facts["status"]["Groups"].as_str().unwrap().to_owned()
    };
    assert_eq!(run(&bundle), "");
    bundle.set("/annotations", json!({KEEP: "1"}));
    assert_eq!(run(&bundle), "65534 65534", "they have no names there");
}

fn groups_are_kept_by_exec(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/annotations", json!({KEEP: "1"}));
    let container = bundle.sleeper();
    let groups = |flags: &[&str]| {
        let command = container.exec_command(flags, &["/bin/probe", "facts"]);
        let command = with_groups(&command, "4,5");
        let facts = env.rt.finish(env.rt.spawn(command)).ok().json();
        facts["status"]["Groups"].as_str().unwrap().to_owned()
    };
    assert_eq!(groups(&[]), "4 5");
    assert_eq!(groups(&["--additional-gids", "88"]), "88", "a flag wins");
}

fn unclear_word_keeps_no_groups(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/annotations", json!({KEEP: "maybe"}));
    bundle.refused().says(KEEP);
}

fn says(text: &str) -> serde_json::Value {
    let code = format!("echo {text}; echo {text} on stderr >&2");
    json!({"path": "/bin/sh", "args": ["sh", "-c", code]})
}

fn output_of_hooks_goes_to_files(env: &Env) {
    let mut bundle = env.bundle();
    let (out, err) = (env.path("out"), env.path("err"));
    fs::write(&out, "before\n").unwrap();
    bundle.set(
        "/annotations",
        json!({"run.oci.hooks.stdout": out, "run.oci.hooks.stderr": err}),
    );
    for kind in hooks::KINDS {
        bundle.push(&format!("/hooks/{kind}"), says(kind));
    }
    let container = bundle.sleeper();
    container.stop();
    container.delete();
    // Not the hooks of the container: it must not get hold of files outside.
    let kinds = ["prestart", "createRuntime", "poststart", "poststop"];
    assert_eq!(read(&out), format!("before\n{}\n", kinds.join("\n")));
    assert_eq!(
        read(&err),
        kinds.map(|k| format!("{k} on stderr\n")).concat()
    );
}

fn output_of_hooks_goes_to_plain_files_only(env: &Env) {
    let target = env.path("target");
    fs::write(&target, "").unwrap();
    let link = env.path("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let directory = env.directory("directory");
    for path in [
        link.as_path(),
        &directory,
        "/dev/kmsg".as_ref(),
        "x".as_ref(),
    ] {
        let mut bundle = env.bundle();
        bundle.set("/annotations", json!({"run.oci.hooks.stdout": path}));
        bundle.push("/hooks/createRuntime", says("createRuntime"));
        bundle.refused().says(path.to_str().unwrap());
    }
    assert_eq!(read(&target), "");
    let mut bundle = env.bundle();
    bundle.set("/annotations", json!({"run.oci.hooks.stdout": "/dev/null"}));
    bundle.push("/hooks/createRuntime", says("createRuntime"));
    bundle.runs();
}

fn sub_cgroup_of_some_hierarchies(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.without_namespace("cgroup").sleeper();
    fs::create_dir(cgroup::path("pids", &env.tag, &bundle.id).join("sub")).unwrap();
    let facts = container.exec_facts(&["--cgroup", "sub"]);
    let text = facts["cgroup"].as_str().unwrap();
    let line = |name: &str| {
        let mut lines = text.lines();
        lines.find(|l| l.contains(&format!(":{name}:"))).unwrap()
    };
    assert!(
        line("pids").ends_with(&format!("{}/sub", bundle.id)),
        "{text}"
    );
    assert!(line("memory").ends_with(&bundle.id), "{text}");
    for bad in ["other", "sub/..", "../other"] {
        let output = container.exec_with(&["--cgroup", bad], &["true"]);
        output.exits(255).says(bad);
    }
}

fn delete_from_a_frozen_cgroup_outside(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    let own = cgroup::path("freezer", &env.tag, &bundle.id);
    let outside = own.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("tasks"), container.pid().to_string()).unwrap();
    fs::write(outside.join("freezer.state"), "FROZEN").unwrap();
    let start = Instant::now();
    env.rt.call(&["delete", "--force", &container.id]).ok();
    assert!(start.elapsed() < Duration::from_secs(5), "{start:?}");
    let state = read(outside.join("freezer.state"));
    assert_eq!(state.trim(), "FROZEN", "it is not the container's");
    fs::remove_dir(&outside).unwrap();
}

fn delete_of_a_container_that_froze_itself(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    let sub = cgroup::path("freezer", &env.tag, &bundle.id).join("sub");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("tasks"), container.pid().to_string()).unwrap();
    fs::write(sub.join("freezer.state"), "FROZEN").unwrap();
    let start = Instant::now();
    env.rt.call(&["delete", "--force", &container.id]).ok();
    assert!(start.elapsed() < Duration::from_secs(5), "{start:?}");
}

fn unknown_system_calls_can_be_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["true"]).set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}
        ]}),
    );
    bundle.run().ok();
    let set = |bundle: &mut crate::harness::Bundle<'_>, value: &str| {
        let name = "run.oci.seccomp_fail_unknown_syscall";
        bundle.set("/annotations", json!({name: value}));
    };
    set(&mut bundle, "0");
    bundle.run().ok();
    set(&mut bundle, "1");
    bundle.refused().says("no_such_call");
    set(&mut bundle, "perhaps");
    bundle.refused().says("neither 1 nor 0");
}

fn host_sysfs_of_a_shared_network(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .userns()
        .without_namespace("network")
        .without_mount("/sys/fs/cgroup")
        .without_mount("/sys")
        .mount(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]}))
        .sh("ls -d /sys/kernel; ls /sys/fs/cgroup | wc -l; grep -v ' ro,nosuid,nodev,noexec' /proc/mounts | grep -c ' /sys'");
    let output = bundle.run();
    output.exits(1).prints("/sys/kernel\n0\n0");
}

fn mounting_once_more_changes_options(env: &Env) {
    let mut bundle = env.bundle();
    let again = |kind: &str, at: &str| {
        json!({"destination": at, "type": kind, "source": kind,
            "options": ["nosuid", "noexec", "nodev", "ro"]})
    };
    bundle
        .without_mount("/dev/mqueue")
        .mount(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}))
        .mount(again("mqueue", "/dev/mqueue"))
        .mount(again("proc", "/proc"))
        .sh("grep -E ' (/dev/mqueue|/proc) [a-z]+ ro,nosuid,nodev,noexec' /proc/mounts | wc -l");
    bundle.run().ok().prints("2");
}
