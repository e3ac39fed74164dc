use rcrun_image::accounts::Accounts;
use std::path::Path;

use clap::Parser;
use rcrun_image::document::Config;
use serde_json::{Value, json};

use super::*;
use crate::containers::flags::ContainerFlags;
use rcrun_runtime::template::capabilities::of_mask;

#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    flags: ContainerFlags,
    words: Vec<String>,
}

fn asked(line: &[&str]) -> Result<Asked, String> {
    let line = Line::try_parse_from(std::iter::once("run").chain(line.iter().copied()))
        .map_err(|error| error.to_string())?;
    let networks = Networks {
        default: Place::Nothing,
        bridge: !line.flags.label.contains(&"rootless".to_owned()),
        gateways: vec![[10, 138, 0, 1].into()],
    };
    let around = Around {
        networks: &networks,
        cwd: Path::new("/"),
        variable: &|name| (name == "OURS").then(|| "ours".to_owned()),
        swap: true,
        cdi: &[],
    };
    Asked::read(&line.flags, &line.words, &around).map_err(|error| error.to_string())
}

fn facts() -> Facts {
    let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n";
    Facts {
        id: "0123456789abcdef".repeat(4),
        hostname: "machine".into(),
        capabilities: of_mask(u64::MAX >> 23),
        kernel: (6, 1),
        cgroup2: true,
        deep_read_only: true,
        accounts: Accounts {
            passwd: passwd.as_bytes().to_vec(),
            group: b"wheel:x:10:app\n".to_vec(),
        },
        directory: "/s".into(),
        ..Facts::default()
    }
}

fn image() -> Config {
    Config {
        env: ["PATH=/bin", "A=image", "nothing", "=empty", "B=1=2"]
            .map(str::to_owned)
            .into(),
        entrypoint: vec!["/start".into()],
        cmd: vec!["serve".into(), "--all".into()],
        working_dir: "data/../srv".into(),
        labels: [
            ("a".to_owned(), "image".to_owned()),
            ("b".into(), "image".into()),
        ]
        .into(),
        ..Config::default()
    }
}

fn made(line: &[&str]) -> Value {
    config(&asked(line).unwrap(), &facts(), &image()).unwrap()
}

#[test]
fn the_configuration_is_one_that_the_runtime_takes() {
    let lines: [&[&str]; 6] = [
        &[],
        &[
            "-it",
            "--init",
            "--memory=64m",
            "--cpus=.5",
            "--pids-limit=9",
            "--ulimit=nofile=10",
        ],
        &[
            "--privileged",
            "--pid=host",
            "--ipc=host",
            "--uts=host",
            "--network=host",
            "--cgroupns=host",
        ],
        &[
            "-v",
            "/etc:/x:ro",
            "--tmpfs=/t:size=1m",
            "--mount=type=bind,src=/,dst=/y,bind-propagation=rshared",
        ],
        &[
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--security-opt",
            "seccomp=unconfined",
        ],
        &[
            "--device=/dev/null:/dev/x:r",
            "--device-cgroup-rule=c 1:* r",
            "--sysctl=net.ipv4.ip_forward=1",
        ],
    ];
    let scratch = tempfile::tempdir().unwrap();
    for line in lines {
        let document = made(line);
        std::fs::write(scratch.path().join("config.json"), document.to_string()).unwrap();
        std::fs::create_dir_all(scratch.path().join("rootfs")).unwrap();
        if let Err(error) = rcrun_runtime::spec::load::load(scratch.path(), None) {
            panic!("{line:?}: {}", error.chain());
        }
    }
}

#[test]
fn commands() {
    for (line, expected) in [
        (&[][..], Some("/start serve --all")),
        (&["x", "y"], Some("/start x y")),
        (&["--entrypoint", "/bin/sh"], Some("/bin/sh")),
        (&["--entrypoint", "/bin/sh", "x"], Some("/bin/sh x")),
        (&["--entrypoint", "", "x"], Some("x")),
        (&["--entrypoint", ""], None),
    ] {
        let found = config(&asked(line).unwrap(), &facts(), &image())
            .ok()
            .map(|document| {
                let words: Vec<String> =
                    serde_json::from_value(document["process"]["args"].clone()).unwrap();
                words.join(" ")
            });
        assert_eq!(found.as_deref(), expected, "{line:?}");
    }
}

#[test]
fn environments() {
    let env = |line: &[&str]| made(line)["process"]["env"].clone();
    let base = ["PATH=/bin", "HOSTNAME=0123456789ab", "A=image", "B=1=2"];
    assert_eq!(env(&[]), json!(base));
    assert_eq!(
        env(&[
            "-t", "-eA=2", "-e", "A=3", "-e", "OURS", "-e", "NOT_OURS", "-e", "B"
        ]),
        json!([
            "PATH=/bin",
            "HOSTNAME=0123456789ab",
            "TERM=xterm",
            "A=3",
            "OURS=ours"
        ])
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# comment\nA=file\n\nC = x\n").unwrap();
    let path = file.path().to_str().unwrap();
    let problem = asked(&["--env-file", path]).unwrap_err();
    assert!(
        problem.contains("\"C \"") && problem.contains(path),
        "{problem}"
    );
    std::fs::write(file.path(), "A=file\nD= x # y\nOURS\n").unwrap();
    assert_eq!(
        env(&["--env-file", path, "-e", "A=flag"]),
        json!([
            "PATH=/bin",
            "HOSTNAME=0123456789ab",
            "A=flag",
            "B=1=2",
            "D= x # y",
            "OURS=ours"
        ])
    );
}

#[test]
fn who_and_where() {
    let process = |line: &[&str]| made(line)["process"].clone();
    let plain = process(&[]);
    assert_eq!(plain["cwd"], "/srv");
    assert_eq!(
        plain["user"],
        json!({"uid": 0, "gid": 0, "additionalGids": []})
    );
    let other = process(&["-u", "app", "-w", "/a/../b", "--group-add", "7"]);
    assert_eq!(other["cwd"], "/b");
    assert_eq!(
        other["user"],
        json!({"uid": 1000, "gid": 1001, "additionalGids": [10, 7]})
    );
    let nobody = config(&asked(&["-u", "ghost"]).unwrap(), &facts(), &image()).unwrap_err();
    let text = nobody.chain().to_string();
    assert_eq!(
        text,
        "cannot tell the user: no user \"ghost\" in the image's /etc/passwd"
    );
}

#[test]
fn namespaces_masks_and_devices() {
    let kinds = |line: &[&str]| {
        let document = made(line);
        let list = document["linux"]["namespaces"].as_array().unwrap().clone();
        let words: Vec<String> = list
            .iter()
            .map(|one| one["type"].as_str().unwrap().to_owned())
            .collect();
        words.join(" ")
    };
    assert_eq!(kinds(&[]), "mount pid network ipc uts cgroup");
    assert_eq!(kinds(&["--network", "host"]), "mount pid ipc uts cgroup");
    assert_eq!(
        kinds(&["--privileged", "--pid=host", "--ipc=host", "--uts=host"]),
        "mount network"
    );
    let plain = made(&[]);
    assert_eq!(plain["hostname"], "0123456789ab");
    assert_eq!(
        plain["linux"]["resources"]["devices"],
        json!([{"allow": false, "access": "rwm"}])
    );
    assert!(
        plain["linux"]["maskedPaths"]
            .as_array()
            .unwrap()
            .contains(&json!("/proc/kcore"))
    );
    assert!(plain["linux"]["seccomp"]["syscalls"].is_array());
    let open = made(&["--privileged"]);
    assert_eq!(
        open["linux"]["resources"]["devices"],
        json!([{"allow": true, "access": "rwm"}])
    );
    assert_eq!(open["linux"]["seccomp"], Value::Null);
    assert_eq!(open["linux"]["maskedPaths"], Value::Null);
    assert!(
        open["linux"]["devices"]
            .as_array()
            .unwrap()
            .iter()
            .any(|node| node["path"] == "/dev/null")
    );
    let unmasked = made(&["--security-opt", "systempaths=unconfined"]);
    assert_eq!(unmasked["linux"]["readonlyPaths"], Value::Null);
    let device = made(&["--device", "/dev/null:/dev/x:r"]);
    assert_eq!(
        device["linux"]["resources"]["devices"][1],
        json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"})
    );
}

#[test]
fn user_namespaces_have_maps() {
    let asked = asked(&["--userns", "0:100000:5", "--network", "host"]).unwrap();
    let Userns::Map(map) = asked.userns().clone() else {
        panic!()
    };
    let facts = Facts { map, ..facts() };
    let document = config(&asked, &facts, &image()).unwrap();
    let linux = &document["linux"];
    assert_eq!(
        linux["uidMappings"],
        json!([{"containerID": 0, "hostID": 100_000, "size": 5}])
    );
    assert_eq!(linux["uidMappings"], linux["gidMappings"]);
    let mount = |path: &str| {
        let all = document["mounts"].as_array().unwrap();
        all.iter()
            .find(|mount| mount["destination"] == path)
            .unwrap()
            .clone()
    };
    // A sysfs of one's own takes a network namespace of one's own; group 5 is not mapped.
    assert_eq!(mount("/sys")["type"], "bind");
    let terminals = mount("/dev/pts")["options"].as_array().unwrap().clone();
    assert!(!terminals.contains(&json!("gid=5")));
}

/// What an ordinary user cannot have is not in the configuration.
#[test]
fn root_of_a_namespace_asks_for_what_there_is() {
    let document = |line: &[&str], ids: &[(u32, u32)], systemd: bool| {
        let facts = Facts {
            rootless: Some(Rootless {
                uids: ids.to_vec(),
                gids: ids.to_vec(),
                groups: ids.len() > 1,
                oom_score: 200,
            }),
            systemd,
            ..facts()
        };
        config(&asked(line).unwrap(), &facts, &image())
    };
    let many = [(0, 1), (1, 65_536)];
    let kind = |document: &Value, path: &str| {
        let all = document["mounts"].as_array().unwrap();
        let mut found = all.iter().filter(|mount| mount["destination"] == path);
        found.next().unwrap()["type"].as_str().unwrap().to_owned()
    };
    let plain = document(&["-u", "app"], &many, false).unwrap();
    assert_eq!(
        plain["process"]["user"],
        json!({"uid": 1000, "gid": 1001, "additionalGids": [10]})
    );
    assert_eq!(plain["process"]["oomScoreAdj"], 200);
    assert_eq!(plain["linux"].get("cgroupsPath"), None);
    assert_eq!(
        (kind(&plain, "/sys"), kind(&plain, "/proc")),
        ("sysfs".into(), "proc".into())
    );
    let text = plain["mounts"].to_string();
    assert!(text.contains("gid=5"), "{text}");
    for (line, systemd, path) in [
        (&[][..], true, "user.slice:rcrun:"),
        (&["--cgroup-parent=/mine"], false, "/mine/"),
    ] {
        let document = document(line, &many, systemd).unwrap();
        let found = document["linux"]["cgroupsPath"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(found.starts_with(path), "{found}");
    }
    let host = document(
        &["--network=host", "--pid=host", "--oom-score-adj=500"],
        &many,
        false,
    )
    .unwrap();
    assert_eq!(
        (kind(&host, "/sys"), kind(&host, "/proc")),
        ("bind".into(), "bind".into())
    );
    assert_eq!(host["process"]["oomScoreAdj"], 500);

    // One id: root's groups of the image cannot be had, other users neither.
    let one = document(&["--group-add", "wheel"], &[(0, 1)], false).unwrap();
    assert_eq!(one["process"]["user"]["additionalGids"], json!([]));
    let text = one["mounts"].to_string();
    assert!(!text.contains("gid=5"), "{text}");
    for user in ["app", "1:0", "0:1", "65537"] {
        let error = document(&["-u", user], &[(0, 1)], false).unwrap_err();
        assert!(error.to_string().contains("no such id"), "{user}: {error}");
        assert!(error.hint().is_some());
    }
    document(&["-u", "65536"], &many, false).unwrap();
    document(&["-u", "65537"], &many, false).unwrap_err();
}

#[test]
fn labels_and_stopping() {
    let asked = asked(&[
        "-l",
        "b=flag",
        "--label",
        "c",
        "--stop-timeout=-1",
        "--stop-signal=usr1",
    ])
    .unwrap();
    let labels: Vec<_> = labels(&asked, &image()).into_iter().collect();
    let expected = [("a", "image"), ("b", "flag"), ("c", "")];
    assert_eq!(
        labels,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(stop(&asked, &image()).unwrap(), (10, None));
    let plain = self::asked(&[]).unwrap();
    assert_eq!(stop(&plain, &image()).unwrap(), (15, Some(10)));
    let quit = Config {
        stop_signal: Some("SIGQUIT".into()),
        stop_timeout: Some(3),
        ..image()
    };
    assert_eq!(stop(&plain, &quit).unwrap(), (3, Some(3)));
    let odd = Config {
        stop_signal: Some("SIGSHINY".into()),
        ..image()
    };
    stop(&plain, &odd).unwrap_err();
}

#[test]
fn every_mistake_is_told() {
    let problem = asked(&[
        "--memory=lots",
        "--cpus=many",
        "-v",
        "da/ta:/x",
        "-v",
        "/nonexistent:/y",
        "--cap-add=shiny",
        "--network=bridges",
        "--device=/nonexistent",
        "-p",
        "80:80",
        "--restart=always",
        "--name=-x",
        "--ulimit=x=1",
        "--security-opt=x",
        "--tmpfs=/a",
        "--mount=type=tmpfs,target=/a",
        "-e",
        "=x",
        "--userns=x",
        "--log-opt=x=1",
        "--log-driver=syslog",
        "--stop-signal=x",
        "--shm-size=x",
        "--add-host=x",
        "--dns=x",
        "--pid=none",
        "--gpus=all",
        "--hostname=a b",
    ])
    .unwrap_err();
    for part in [
        "--memory: ",
        "--cpus: ",
        "./da/ta",
        "mkdir -p /nonexistent",
        "--cap-add: ",
        "--network: \"bridges\"",
        "--device: cannot look at /nonexistent",
        "--publish: ",
        "--restart: ",
        "--name: ",
        "--ulimit: ",
        "--security-opt: ",
        "two mounts are at /a",
        "--env: ",
        "--userns: ",
        "--log-opt: ",
        "--log-driver: ",
        "--stop-signal: ",
        "--shm-size: ",
        "--add-host: ",
        "--dns: ",
        "--pid: ",
        "nvidia.com/gpu=all",
        "--hostname: ",
    ] {
        assert!(problem.contains(part), "{part} is not in:\n{problem}");
    }
    assert!(problem.starts_with("24 problems:"), "{problem}");
}

#[test]
fn the_bridge() {
    let refused = |line: &[&str]| asked(line).unwrap_err();
    let own = asked(&["--network=bridge", "-p", "8080:80", "--hostname=web"]).unwrap();
    let document = config(&own, &facts(), &image()).unwrap();
    let kinds = document["linux"]["namespaces"].as_array().unwrap();
    let network = kinds.iter().find(|kind| kind["type"] == "network");
    assert!(network.unwrap()["path"].is_null());
    let sysctl = &document["linux"]["sysctl"];
    assert_eq!(sysctl["net.ipv4.ip_unprivileged_port_start"], "0");
    assert_eq!(sysctl["net.ipv4.ping_group_range"], "0 2147483647");
    // What was asked for counts, and groups that are not mapped cannot be named.
    let other = "--sysctl=net.ipv4.ip_unprivileged_port_start=80";
    let other = asked(&["--network=bridge", other]).unwrap();
    let mapped = Facts {
        map: vec![Extent {
            inner: 0,
            outer: 100_000,
            size: 1000,
        }],
        ..facts()
    };
    let document = config(&other, &mapped, &image()).unwrap();
    let sysctl = &document["linux"]["sysctl"];
    assert_eq!(sysctl["net.ipv4.ip_unprivileged_port_start"], "80");
    assert!(sysctl["net.ipv4.ping_group_range"].is_null());
    let none = config(&asked(&[]).unwrap(), &facts(), &image()).unwrap();
    assert_eq!(none["linux"]["sysctl"], json!({}));
    // Its own line in /etc/hosts comes with its address.
    let texts = file_texts(&own, &facts(), "1.1.1.1 host\n", "nameserver 127.0.0.53\n");
    assert!(
        texts.hosts.starts_with("127.0.0.1\tlocalhost\n"),
        "{}",
        texts.hosts
    );
    assert!(!texts.hosts.contains("web") && !texts.hosts.contains("1.1.1.1"));
    let gate = asked(&["--network=bridge", "--add-host=gate:host-gateway"]).unwrap();
    let texts = file_texts(&gate, &facts(), "", "");
    assert!(
        texts.hosts.ends_with("10.138.0.1\tgate\n"),
        "{}",
        texts.hosts
    );
    for (line, why) in [
        (&["-p=80:80"][..], "--publish: takes --network bridge"),
        (
            &["-P", "--network=host"],
            "the program's ports are the host's",
        ),
        (&["-P", "--network=container:x"], "another container's"),
        (&["--add-host=a:host-gateway"], "it takes --network bridge"),
        (&["--ip=10.138.0.9"], "--ip: takes --network bridge"),
        (&["--network=bridge", "--ip=fd00::1"], "of the other family"),
        (&["--network=pasta"], "use bridge (root), host or none"),
        // Here the tests' word for who may make no bridge.
        (
            &["--label=rootless", "--network=bridge"],
            "which an ordinary user has not",
        ),
        (
            &["--label=rootless", "-p=80:80"],
            "an ordinary user has no bridge",
        ),
    ] {
        let problem = refused(line);
        assert!(problem.contains(why), "{line:?}: {problem}");
    }
}

#[test]
fn the_default_profile_of_apparmor_is_for_who_asks_for_none() {
    let facts = Facts {
        apparmor: Some("default"),
        ..facts()
    };
    for (line, profile) in [
        (&[][..], Some("default")),
        (&["--security-opt=apparmor=web"][..], Some("web")),
        (
            &["--security-opt=apparmor=unconfined"][..],
            Some("unconfined"),
        ),
        (&["--privileged"][..], None),
        (
            &["--privileged", "--security-opt", "apparmor=web"][..],
            Some("web"),
        ),
    ] {
        let made = config(&asked(line).unwrap(), &facts, &image()).unwrap();
        let found = made["process"]["apparmorProfile"].as_str();
        assert_eq!(found, profile, "{line:?}");
    }
    assert_eq!(made(&[])["process"].get("apparmorProfile"), None);
}
