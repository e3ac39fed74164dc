//! Every flag, seen from inside.

use crate::harness::people::People;
use crate::harness::{Env, Test, test};
use serde_json::json;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(the_image_says_what_runs),
        test!(variables_and_directories),
        test!(identity),
        test!(file_systems),
        test!(files_of_the_network),
        test!(namespaces),
        test!(limits),
        test!(capabilities_and_filters),
        test!(devices),
        test!(privileged),
        test!(a_terminal),
    ]
}

fn the_image_says_what_runs(env: &Env) {
    let config = json!({"Entrypoint": ["echo", "entry"], "Cmd": ["cmd"], "Env": ["PATH=/bin"]});
    let people = People::with(env, config);
    for (flags, command, expected) in [
        (&[][..], &[][..], "entry cmd\n"),
        (&[], &["x", "--rm", "-it"], "entry x --rm -it\n"),
        (&["--entrypoint", "printf"], &["%s", "y"], "y"),
        (&["--entrypoint", ""], &["echo", "z"], "z\n"),
    ] {
        let flags = [&["--rm"], flags].concat();
        assert_eq!(people.run(&flags, command).ok().stdout, expected);
    }
    let output = people.run(&["--rm", "--entrypoint", ""], &[]);
    assert!(
        output.code == 125 && output.stderr.contains("no command"),
        "{}",
        output.stderr
    );
}

fn variables_and_directories(env: &Env) {
    let people = People::with(
        env,
        json!({"Cmd": ["env"], "Env": ["PATH=/bin", "A=image"], "WorkingDir": "/a/new/one"}),
    );
    let file = people.file("vars", "# no\nFROM_FILE=1\nA=file\n");
    let file = file.to_str().unwrap();
    let text = people.sh(
        &[
            "--env-file",
            file,
            "-eB=2",
            "-e",
            "HOME=/x",
            "--hostname=box",
        ],
        "env; pwd",
    );
    for line in [
        "A=file",
        "FROM_FILE=1",
        "B=2",
        "HOME=/x",
        "HOSTNAME=box",
        "PATH=/bin",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in {text}"
        );
    }
    assert!(text.ends_with("/a/new/one\n"), "{text}");
    assert_eq!(people.sh(&["-w", "/tmp"], "pwd"), "/tmp\n");
    assert!(people.sh(&[], "env").contains("HOME=/root\n"));
    let output = people.run(&["--rm", "-w", "tmp"], &["true"]);
    assert!(
        output.code == 125 && output.stderr.contains("not an absolute path"),
        "{}",
        output.stderr
    );
}

fn identity(env: &Env) {
    let people = People::new(env);
    let id = "id -u; id -g; id -G";
    for (flags, expected) in [
        (&[][..], "0 0 0"),
        (&["-u", "user"], "1000 1000 1000 2000"),
        (&["-u", "1000"], "1000 1000 1000 2000"),
        (&["-u", "user:extra"], "1000 2000 2000"),
        (&["-u", "77:88", "--group-add=extra"], "77 88 88 2000"),
    ] {
        let found = people.sh(flags, id).replace('\n', " ");
        assert_eq!(found.trim(), expected, "{flags:?}");
    }
    let caps = "grep -E '^Cap(Eff|Amb)' /proc/self/status";
    let caps = people.sh(&["-u", "user"], caps);
    assert!(
        caps.lines().all(|line| line.ends_with("0000000000000000")),
        "{caps}"
    );
}

fn file_systems(env: &Env) {
    let people = People::new(env);
    let shared = env.directory("shared");
    std::fs::write(shared.join("file"), "of the host\n").unwrap();
    let path = shared.to_str().unwrap();
    let volume = format!("{path}:/data");
    assert_eq!(
        people.sh(&["-v", &volume], "cat /data/file; echo new > /data/new"),
        "of the host\n"
    );
    assert_eq!(
        std::fs::read_to_string(shared.join("new")).unwrap(),
        "new\n"
    );
    let readonly = format!("{path}:/data:ro");
    assert_eq!(
        people.sh(&["-v", &readonly], "echo x > /data/x || echo no"),
        "no\n"
    );
    let mount = format!("type=bind,source={path},target=/data/deep,readonly");
    let flags = ["--mount", &mount, "--tmpfs=/data:size=1m,mode=700"];
    let text = people.sh(
        &flags,
        "cat /data/deep/file; grep ' /data ' /proc/mounts; stat -c %a /data",
    );
    assert!(
        text.contains("of the host") && text.contains("size=1024k") && text.ends_with("700\n"),
        "{text}"
    );
    let text = people.sh(
        &["--read-only", "--tmpfs=/tmp"],
        "echo x > /etc/x || echo no; echo y > /tmp/y && cat /tmp/y",
    );
    assert_eq!(text, "no\ny\n");
    // What is written stays with the container.
    assert_eq!(
        people.sh(&[], "ls /data 2>&1 | wc -l; echo x > /etc/x"),
        "1\n"
    );
    assert_eq!(people.sh(&[], "ls /etc/x 2>/dev/null | wc -l"), "0\n");
    assert_eq!(
        people.sh(
            &["--shm-size=2m"],
            "df -k /dev/shm | tail -1 | awk '{print $2}'"
        ),
        "2048\n"
    );
    assert_eq!(
        people.sh(&[], "df -k /dev/shm | tail -1 | awk '{print $2}'"),
        "65536\n"
    );
    let output = people.run(&["--rm", "-v", "/no/such/place:/x"], &["true"]);
    assert!(
        output.code == 125 && output.stderr.contains("mkdir -p /no/such/place"),
        "{}",
        output.stderr
    );
    // Nothing of it can be seen from here.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("overlay") || !mounts.contains(people.shelf.path().to_str().unwrap()));
    let output = people
        .run(
            &["--rm", "-v", "/etc/hosts:/etc/hosts:ro"],
            &["cat", "/etc/hosts"],
        )
        .ok();
    assert_eq!(
        output.stdout,
        std::fs::read_to_string("/etc/hosts").unwrap()
    );
}

fn files_of_the_network(env: &Env) {
    let people = People::new(env);
    let text = people.sh(
        &["--hostname=box", "--add-host=db:10.1.2.3"],
        "hostname; cat /etc/hostname /etc/hosts",
    );
    assert!(
        text.starts_with("box\nbox\n127.0.0.1\tlocalhost\n"),
        "{text}"
    );
    assert!(text.contains("10.1.2.3\tdb\n"), "{text}");
    let text = people.sh(
        &["--dns=9.9.9.9", "--dns-search=a.b", "--dns-option=ndots:2"],
        "cat /etc/resolv.conf",
    );
    assert!(
        text.contains("nameserver 9.9.9.9\n") && text.contains("search a.b\n"),
        "{text}"
    );
    let text = people.sh(&[], "hostname");
    assert_eq!(text.trim_end().len(), 12);
    let interfaces = people.sh(&[], "ls /sys/class/net");
    assert!(!interfaces.contains("eth"), "{interfaces}");
    assert_eq!(
        people
            .sh(
                &[],
                "cat /sys/class/net/lo/operstate; ip addr show lo | grep -c 127.0.0.1"
            )
            .lines()
            .last(),
        Some("1")
    );
    let host = format!(
        "{}\n",
        std::fs::read_link("/proc/self/ns/net").unwrap().display()
    );
    assert_eq!(
        people.sh(&["--network=host"], "readlink /proc/self/ns/net"),
        host
    );
    assert_ne!(
        people.sh(&["--network=none"], "readlink /proc/self/ns/net"),
        host
    );
    for flag in ["--network=pasta", "-p=80:80", "--restart=always"] {
        let output = people.run(&["--rm", flag], &["true"]);
        assert_eq!(output.code, 125, "{flag}: {}", output.stderr);
    }
    people.sh(&["--restart=no"], "true");
}

fn namespaces(env: &Env) {
    let people = People::new(env);
    let of = |kind: &str| {
        format!(
            "{}\n",
            std::fs::read_link(format!("/proc/self/ns/{kind}"))
                .unwrap()
                .display()
        )
    };
    for kind in ["pid", "ipc", "uts"] {
        let script = format!("readlink /proc/self/ns/{kind}");
        assert_ne!(people.sh(&[], &script), of(kind), "{kind}");
        assert_eq!(
            people.sh(&[&format!("--{kind}=host")], &script),
            of(kind),
            "{kind}"
        );
    }
    people.run(&["-d", "--name=one"], &["sleep", "100"]).ok();
    let flags = [
        "--pid=container:one",
        "--network=container:one",
        "--ipc=container:one",
    ];
    let text = people.sh(&flags, "ps -o comm");
    assert!(text.contains("sleep"), "{text}");
    people.remove("one");
    let output = people.run(&["--pid=container:one"], &["true"]);
    assert!(
        output.code == 125 && output.stderr.contains("no such container: one"),
        "{}",
        output.stderr
    );
    people.assert_empty();
}

fn limits(env: &Env) {
    let people = People::new(env);
    let flags = [
        "--ulimit=nofile=100:200",
        "--ulimit",
        "core=0",
        "--oom-score-adj=321",
    ];
    let text = people.sh(
        &flags,
        "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj",
    );
    assert_eq!(text, "100\n200\n321\n");
    // Not what the monitor has.
    assert_eq!(people.sh(&[], "cat /proc/self/oom_score_adj"), "0\n");
    let flags = [
        "-d",
        "--name=one",
        "--memory=64m",
        "--pids-limit=17",
        "--cpus=0.5",
        "--cpu-shares=512",
    ];
    let id = people.run(&flags, &["sleep", "100"]).ok().stdout;
    let state = env
        .rt
        .call(&["events", "--stats", id.trim_end()])
        .ok()
        .stdout;
    let stats: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 17, "{stats}");
    assert_eq!(
        stats["data"]["memory"]["usage"]["limit"],
        64 << 20,
        "{stats}"
    );
    people.remove("one");
}

fn capabilities_and_filters(env: &Env) {
    let people = People::new(env);
    let bounding = "grep CapBnd /proc/self/status | cut -f2";
    assert_eq!(people.sh(&[], bounding), "00000000a80425fb\n");
    assert_eq!(
        people.sh(&["--cap-drop=ALL"], bounding),
        "0000000000000000\n"
    );
    assert_eq!(
        people.sh(&["--cap-drop=all", "--cap-add=CHOWN"], bounding),
        "0000000000000001\n"
    );
    assert_eq!(
        people.sh(&["--cap-add=NET_ADMIN"], bounding),
        "00000000a80435fb\n"
    );
    let status = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'";
    assert_eq!(people.sh(&[], status), "NoNewPrivs:0\nSeccomp:2\n");
    let flags = [
        "--security-opt=no-new-privileges",
        "--security-opt=seccomp=unconfined",
    ];
    assert_eq!(people.sh(&flags, status), "NoNewPrivs:1\nSeccomp:0\n");
    // What the filter is for.
    assert_eq!(
        people.sh(&[], "unshare -r true 2>/dev/null || echo no"),
        "no\n"
    );
    assert_eq!(
        people.sh(
            &["--security-opt=seccomp=unconfined"],
            "unshare -U true && echo yes"
        ),
        "yes\n"
    );
    let profile = people.file("profile.json", r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":[]},{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":[]}],
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1,"excludes":{"caps":["CAP_NET_ADMIN"]}}]}"#);
    let option = format!("--security-opt=seccomp={}", profile.display());
    assert_eq!(
        people.sh(&[&option], "mkdir /x 2>/dev/null || echo no"),
        "no\n"
    );
    assert_eq!(
        people.sh(&[&option, "--cap-add=net_admin"], "mkdir /x && echo yes"),
        "yes\n"
    );
    let hidden = "cat /proc/kcore 2>/dev/null | head -c1 | wc -c; echo 1 > /proc/sys/kernel/shmmax || echo no";
    assert_eq!(
        people.sh(&[], &format!("{hidden} 2>/dev/null")).trim(),
        "0\nno"
    );
    assert_eq!(
        people.sh(
            &["--sysctl=kernel.shm_rmid_forced=1"],
            "cat /proc/sys/kernel/shm_rmid_forced"
        ),
        "1\n"
    );
}

fn devices(env: &Env) {
    let people = People::new(env);
    let text = people.sh(&[], "ls /dev | tr '\\n' ' '");
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "shm", "mqueue",
        "pts",
    ] {
        assert!(
            text.split(' ').any(|found| found == name),
            "{name} is not in {text}"
        );
    }
    assert!(!text.contains("kmsg"), "{text}");
    let text = people.sh(
        &["--device=/dev/zero:/dev/nothing:r"],
        "head -c3 /dev/nothing | wc -c; ls -l /dev/nothing",
    );
    assert!(text.starts_with("3\n") && text.contains("1,   5"), "{text}");
    // A vendor's device.
    let cdi = std::path::Path::new("/etc/cdi");
    let existed = cdi.exists();
    if !existed && std::fs::create_dir(cdi).is_err() {
        return;
    }
    let file = cdi.join(format!("{}.json", env.tag));
    let text = json!({"cdiVersion": "0.6.0", "kind": "rcrun.test/thing", "devices": [{"name": env.tag, "containerEdits": {
        "env": ["THING=1"], "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/null"}],
        "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/thing", "options": ["ro"]}]}}]});
    std::fs::write(&file, text.to_string()).unwrap();
    let name = format!("--device=rcrun.test/thing={}", env.tag);
    let output = people.run(
        &["--rm", &name],
        &["sh", "-c", "echo $THING; ls /dev/thing /thing"],
    );
    std::fs::remove_file(&file).unwrap();
    if !existed {
        let _ = std::fs::remove_dir(cdi);
    }
    assert_eq!(output.ok().stdout, "1\n/dev/thing\n/thing\n");
    let output = people.run(&["--rm", "--gpus=all"], &["true"]);
    assert!(
        output.code == 125 && output.stderr.contains("nvidia.com/gpu=all"),
        "{}",
        output.stderr
    );
}

fn privileged(env: &Env) {
    let people = People::new(env);
    let script = "grep -E '^(CapEff|Seccomp):' /proc/self/status | tr -d '\\t'; ls /dev/null; grep ' /sys ' /proc/mounts";
    let text = people.sh(&["--privileged"], script);
    assert!(
        text.contains("Seccomp:0\n") && text.contains("/sys sysfs rw"),
        "{text}"
    );
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find(|line| line.starts_with("CapPrm:"))
        .unwrap();
    let mask = own.split_whitespace().nth(1).unwrap();
    assert!(text.contains(&format!("CapEff:{mask}")), "{text} {mask}");
    let output = people.run(&["--rm", "--privileged", "--userns=auto"], &["true"]);
    assert!(
        output.code == 125 && output.stderr.contains("--privileged"),
        "{}",
        output.stderr
    );
}

fn a_terminal(env: &Env) {
    let people = People::new(env);
    let output = people.run(&["--rm", "-it"], &["true"]);
    assert!(
        output.code == 125 && output.stderr.contains("not a terminal"),
        "{}",
        output.stderr
    );
    // Without an input of ours there is one nevertheless.
    let text = people.sh(&["-t"], "tty; echo $TERM");
    assert_eq!(text.replace('\r', ""), "/dev/pts/0\nxterm\n");
}
