//! Limits, device rules, updates, statistics and out-of-memory events.

use oci_spec::runtime::LinuxResources;
use rustix::process::Signal;

use super::super::{Select, oom};
use super::{Fixture, wait_for};

#[test]
fn limits_are_set() {
    let json = r#"{"cpu":{"shares":2048,"quota":50000,"period":100000},
        "memory":{"limit":67108864,"reservation":33554432},"pids":{"limit":0}}"#;
    let cpus = r#"{"cpu":{"cpus":"0","mems":"0"}}"#;
    let Some(f) = Fixture::with("limits", cpus) else {
        return;
    };
    f.cgroup.create().unwrap();
    f.cgroup
        .apply(&serde_json::from_str(json).unwrap(), Select::ALL)
        .unwrap();
    match f
        .cgroup
        .apply(&serde_json::from_str(cpus).unwrap(), Select::ALL)
    {
        Ok(()) => assert_eq!(f.value("cpuset", "cpuset.cpus"), "0"),
        Err(error) => {
            let text = error.chain().to_string();
            assert!(
                f.v2() && text.contains("controller \"cpuset\" is not available"),
                "{text}"
            );
        }
    }
    let rows: &[(&str, &str, &str)] = if f.v2() {
        &[
            ("cpu", "cpu.weight", "174"),
            ("cpu", "cpu.max", "50000 100000"),
            ("memory", "memory.max", "67108864"),
            ("memory", "memory.low", "33554432"),
            ("pids", "pids.max", "1"),
        ]
    } else {
        &[
            ("cpu", "cpu.shares", "2048"),
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("memory", "memory.soft_limit_in_bytes", "33554432"),
            ("pids", "pids.max", "1"),
        ]
    };
    for (controller, file, want) in rows {
        assert_eq!(f.value(controller, file), *want, "{file}");
    }
}

#[test]
fn memory_limits_go_up_and_down_in_any_order() {
    let Some(f) = Fixture::new("memory") else {
        return;
    };
    f.cgroup.create().unwrap();
    if f.v2()
        || !f.cgroup.paths["memory"]
            .join("memory.memsw.limit_in_bytes")
            .exists()
    {
        println!("skipped: no combined limit of memory and swap here");
        return;
    }
    for (limit, swap) in [(8, 16), (32, 64), (4, 4), (128, 128), (-1, -1), (16, 32)] {
        let bytes = |mib: i64| if mib < 0 { -1 } else { mib << 20 };
        let json = format!(
            r#"{{"memory":{{"limit":{},"swap":{}}}}}"#,
            bytes(limit),
            bytes(swap)
        );
        f.cgroup
            .apply(&serde_json::from_str(&json).unwrap(), Select::MEMORY)
            .unwrap();
        if limit > 0 {
            assert_eq!(
                f.value("memory", "memory.limit_in_bytes"),
                bytes(limit).to_string()
            );
            assert_eq!(
                f.value("memory", "memory.memsw.limit_in_bytes"),
                bytes(swap).to_string()
            );
        }
    }
}

#[test]
fn devices_v1_are_those_of_the_rules() {
    let json = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#;
    let Some(f) = Fixture::with("devices", json) else {
        return;
    };
    if f.v2() {
        println!("skipped: v1 only");
        return;
    }
    f.cgroup.create().unwrap();
    let resources = serde_json::from_str(json).unwrap();
    f.cgroup.apply(&resources, Select::ALL).unwrap();
    let list = f.value("devices", "devices.list");
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    let mut want = vec![
        "b *:* m",
        "c *:* m",
        "c 10:200 rwm",
        "c 10:229 rw",
        "c 136:* rwm",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
    ];
    want.sort_unstable();
    assert_eq!(lines, want);
    // With a sub-cgroup the kernel refuses to reset: then only the difference is written.
    let sub = f.cgroup.paths["devices"].join("sub");
    std::fs::create_dir(&sub).unwrap();
    f.cgroup
        .apply(&LinuxResources::default(), Select::ALL)
        .unwrap();
    assert!(!f.value("devices", "devices.list").contains("10:229"));
    std::fs::remove_dir(sub).unwrap();
}

#[test]
fn devices_v2_are_those_of_the_rules() {
    let json = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;
    let Some(f) = Fixture::with("devices2", json) else {
        return;
    };
    if !f.v2() {
        println!("skipped: v2 only");
        return;
    }
    f.cgroup.create().unwrap();
    let run = |script: &str| {
        let mut child = f.spawn(script);
        child.wait().unwrap().success()
    };
    // What is made beforehand can be opened as long as nothing forbids it.
    assert!(run(": < /dev/null; : < /dev/kmsg"));
    let strict = serde_json::from_str(json).unwrap();
    for _ in 0..2 {
        // The second time the program replaces the first.
        f.cgroup.apply(&strict, Select::ALL).unwrap();
        assert!(run(": < /dev/null"));
        assert!(!run(": < /dev/kmsg"));
    }
    let open = serde_json::from_str(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).unwrap();
    f.cgroup.apply(&open, Select::ALL).unwrap();
    assert!(run(": < /dev/kmsg"), "the former program must be gone");
}

#[test]
fn update_sets_back_what_it_did_when_it_fails() {
    let json = r#"{"pids":{"limit":20},"memory":{"limit":67108864}}"#;
    let Some(f) = Fixture::with("update", json) else {
        return;
    };
    f.cgroup.create().unwrap();
    let old: LinuxResources = serde_json::from_str(json).unwrap();
    f.cgroup.apply(&old, Select::ALL).unwrap();
    let parse = |json: &str| serde_json::from_str::<LinuxResources>(json).unwrap();
    let merged = f
        .cgroup
        .update(&old, &parse(r#"{"pids":{"limit":30}}"#))
        .unwrap();
    assert_eq!(f.value("pids", "pids.max"), "30");
    assert_eq!(merged.memory().unwrap().limit(), Some(67_108_864));
    let bad = parse(r#"{"pids":{"limit":40},"cpu":{"cpus":"9999"}}"#);
    f.cgroup.update(&merged, &bad).unwrap_err();
    assert_eq!(f.value("pids", "pids.max"), "30");
    // A limit below what is used is refused when that is asked for.
    let mut child = f.spawn("exec perl -e '$x = \"x\" x (8 << 20); sleep 1000'");
    wait_for("memory to be used", || {
        f.cgroup.stats().unwrap().memory.usage.usage > 4 << 20
    });
    let low = parse(r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#);
    let error = f
        .cgroup
        .update(&merged, &low)
        .unwrap_err()
        .chain()
        .to_string();
    assert!(
        error.contains("rejecting memory limit 4096 <= usage"),
        "{error}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn stats_show_what_was_used() {
    let json = r#"{"pids":{"limit":77},"memory":{"limit":134217728}}"#;
    let Some(f) = Fixture::with("stats", json) else {
        return;
    };
    f.cgroup.create().unwrap();
    f.cgroup
        .apply(&serde_json::from_str(json).unwrap(), Select::ALL)
        .unwrap();
    let mut child = f.spawn("exec perl -e '$x = \"x\" x (1 << 20); 1 while 1'");
    wait_for("some processor time", || {
        f.cgroup.stats().unwrap().cpu.usage.total > 20_000_000
    });
    wait_for("a tick of it", || {
        f.cgroup.stats().unwrap().cpu.usage.user > 0
    });
    let stats = f.cgroup.stats().unwrap();
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 77));
    assert_eq!(stats.memory.usage.limit, 134_217_728);
    assert!(stats.memory.usage.usage > 0 && stats.memory.usage.usage < 134_217_728);
    assert!(!stats.memory.raw.is_empty());
    if f.v2() {
        let pressure = f.cgroup.unified().unwrap().join("cpu.pressure");
        assert_eq!(stats.cpu.psi.is_some(), pressure.exists());
    } else {
        assert!(!stats.cpuset.cpus.is_empty());
        assert_eq!(
            stats.cpu.usage.percpu.len(),
            stats.cpu.usage.percpu_user.len()
        );
    }
    f.cgroup.kill(Signal::KILL).unwrap();
    child.wait().unwrap();
    f.cgroup.remove().unwrap();
    assert!(f.cgroup.stats().is_err());
}

#[test]
fn oom_is_noticed() {
    let json = r#"{"memory":{"limit":16777216,"swap":16777216}}"#;
    let Some(f) = Fixture::with("oom", json) else {
        return;
    };
    f.cgroup.create().unwrap();
    f.cgroup
        .apply(&serde_json::from_str(json).unwrap(), Select::ALL)
        .unwrap();
    let mut child = f.spawn("perl -e '$x = \"x\" x (64 << 20)' || :; sleep 1000");
    let mut watch = f.cgroup.oom_watch().unwrap();
    wait_for("the kill", || {
        watch.next().unwrap() == Some(oom::Event::Oom)
    });
    // v1 tells of the shortage before it kills.
    wait_for("the kill to be counted", || {
        f.cgroup.oom_kills().unwrap() > 0
    });
    f.cgroup.kill(Signal::KILL).unwrap();
    child.wait().unwrap();
    f.cgroup.remove().unwrap();
    wait_for("the end", || {
        watch.next().unwrap() == Some(oom::Event::Gone)
    });
}

/// As systemd does with a scope: whoever counts has to be quick, or to know where else it was counted.
#[test]
fn oom_is_noticed_though_the_cgroup_goes_at_once() {
    let json = r#"{"memory":{"limit":16777216,"swap":16777216}}"#;
    for round in 0..10 {
        let Some(f) = Fixture::with("oom-gone", json) else {
            return;
        };
        if !f.v2() {
            println!("skipped: v2 only");
            return;
        }
        f.cgroup.create().unwrap();
        f.cgroup
            .apply(&serde_json::from_str(json).unwrap(), Select::ALL)
            .unwrap();
        let mut child = f.spawn("exec perl -e '$x = \"x\" x (64 << 20)'");
        let mut watch = f.cgroup.oom_watch().unwrap();
        // Which is not looked at before all is over.
        child.wait().unwrap();
        f.cgroup.remove().unwrap();
        assert_eq!(f.cgroup.oom_kills(), None);
        assert_eq!(watch.next().unwrap(), Some(oom::Event::Oom), "{round}");
        assert_eq!(watch.next().unwrap(), Some(oom::Event::Gone), "{round}");
    }
}
