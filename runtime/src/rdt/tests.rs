//! On plain directories in place of the filesystem.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::error::ErrorKind;

/// A directory that looks like a mounted resctrl with everything enabled.
struct Fake(PathBuf);

impl Fake {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let fake = Self(std::env::temp_dir().join(format!("rcrun-rdt-{}-{n}", std::process::id())));
        for (file, text) in [
            ("info/L3/cbm_mask", "fffff\n"),
            ("info/L3/min_cbm_bits", "2\n"),
            ("info/L3/num_closids", "16\n"),
            ("info/MB/bandwidth_gran", "10\n"),
            ("info/MB/delay_linear", "1\n"),
            ("info/MB/min_bandwidth", "10\n"),
            ("info/MB/num_closids", "8\n"),
            (
                "info/L3_MON/mon_features",
                "llc_occupancy\nmbm_total_bytes\nmbm_total_bytes_config\nmbm_local_bytes\n",
            ),
            ("info/last_cmd_status", "ok\n"),
            ("schemata", "    MB:0=100\n    L3:0=fffff\n"),
        ] {
            fake.put(file, text);
        }
        fake
    }

    fn put(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn get(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    /// Empties a group as the kernel does when it is removed.
    fn forget_files(&self, group: &str) {
        for entry in fs::read_dir(self.0.join(group)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
            .unwrap();
        }
    }

    fn resctrl(&self) -> Resctrl {
        Resctrl::at(&self.0)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config(json: Value) -> LinuxIntelRdt {
    serde_json::from_value(json).unwrap()
}

#[test]
fn the_mount_is_found() {
    let other = "25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n";
    let usual = "99 25 0:50 / /sys/fs/resctrl rw - resctrl resctrl rw\n";
    let odd = "98 25 0:50 / /mnt/cache\\040group rw shared:1 - resctrl none rw\n";
    for (mounts, want) in [
        (other.to_string(), None),
        (format!("{other}{usual}"), Some("/sys/fs/resctrl")),
        (format!("{odd}{other}"), Some("/mnt/cache group")),
        (format!("{odd}{usual}"), Some("/sys/fs/resctrl")),
        (
            "1 2 0:1 / /resctrl rw - tmpfs resctrl rw\nbroken line\n - resctrl\n".into(),
            None,
        ),
    ] {
        assert_eq!(find_mount(&mounts), want.map(PathBuf::from), "{mounts}");
    }
}

#[test]
fn configurations_are_checked() {
    let fake = Fake::new();
    for clos in [".", "..", "a/b", "/a", "../x"] {
        let error = fake
            .resctrl()
            .check(&config(json!({"closID": clos})))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("invalid intelRdt.ClosID {clos:?}")
        );
    }
    for clos in ["/", "gold", "a.b"] {
        fake.resctrl()
            .check(&config(json!({"closID": clos})))
            .unwrap();
    }
    let both = config(json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20"}));
    fake.resctrl().check(&both).unwrap();
    fs::remove_dir_all(fake.0.join("info/MB")).unwrap();
    let error = fake.resctrl().check(&both).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "intelRdt.memBwSchema is specified in config, but Intel RDT/MBA is not enabled"
    );
    fs::remove_dir_all(fake.0.join("info/L3")).unwrap();
    assert!(
        fake.resctrl()
            .check(&both)
            .unwrap_err()
            .to_string()
            .contains("Intel RDT/CAT")
    );
}

#[test]
fn a_container_without_class_gets_its_own_group() {
    let fake = Fake::new();
    let rdt = config(json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20",
        "schemata": ["L2:0=3", "", "L3:0=7"]}));
    let group = fake.resctrl().join(&rdt, "c1", 42).unwrap();
    assert_eq!(
        group,
        Group {
            path: fake.0.join("c1"),
            monitor: None,
            remove: true
        }
    );
    assert_eq!(fake.get("c1/tasks"), "42");
    assert_eq!(fake.get("c1/schemata"), "L3:0=f\nMB:0=20\nL2:0=3\nL3:0=7\n");
    fake.resctrl().add(&group, 43).unwrap();
    assert_eq!(fake.get("c1/tasks"), "43");
    fake.resctrl()
        .update(&group, &config(json!({"memBwSchema": "MB:0=50"})))
        .unwrap();
    assert_eq!(fake.get("c1/schemata"), "MB:0=50\n");
    let record: Group = serde_json::from_str(&serde_json::to_string(&group).unwrap()).unwrap();
    assert_eq!(record, group);
    let busy = record.destroy().unwrap_err();
    assert!(busy.to_string().starts_with("cannot remove "), "{busy}");
    fake.forget_files("c1");
    record.destroy().unwrap();
    assert!(!fake.has("c1"));
    record.destroy().unwrap();
}

#[test]
fn a_group_that_was_there_stays() {
    let fake = Fake::new();
    fs::create_dir(fake.0.join("c1")).unwrap();
    let group = fake.resctrl().join(&config(json!({})), "c1", 42).unwrap();
    assert!(!group.remove);
    fake.forget_files("c1");
    group.destroy().unwrap();
    assert!(fake.has("c1"));
}

#[test]
fn a_class_of_the_administrator_is_joined() {
    let fake = Fake::new();
    let gold = config(json!({"closID": "gold"}));
    let error = fake.resctrl().join(&gold, "c1", 42).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("clos dir not accessible (must be pre-created"),
        "{error}"
    );
    assert!(!fake.has("gold"));
    fs::create_dir(fake.0.join("gold")).unwrap();
    let group = fake.resctrl().join(&gold, "c1", 42).unwrap();
    assert_eq!(fake.get("gold/tasks"), "42");
    assert!(!fake.has("gold/schemata"));
    fake.forget_files("gold");
    group.destroy().unwrap();
    assert!(fake.has("gold"));
    let made = config(json!({"closID": "silver", "schemata": ["L3:0=f"]}));
    let group = fake.resctrl().join(&made, "c1", 42).unwrap();
    assert!(!group.remove, "others may share it");
    let root = fake
        .resctrl()
        .join(&config(json!({"closID": "/"})), "c1", 42)
        .unwrap();
    assert_eq!(root.path, fake.0);
    root.destroy().unwrap();
    assert!(fake.has("info"));
}

#[test]
fn monitoring_groups_come_and_go() {
    let fake = Fake::new();
    fs::create_dir_all(fake.0.join("gold/mon_groups")).unwrap();
    let rdt = config(json!({"closID": "gold", "enableMonitoring": true}));
    let group = fake.resctrl().join(&rdt, "c1", 42).unwrap();
    assert_eq!(group.monitor, Some(fake.0.join("gold/mon_groups/c1")));
    assert_eq!(fake.get("gold/mon_groups/c1/tasks"), "42");
    fake.resctrl().add(&group, 7).unwrap();
    assert_eq!(fake.get("gold/mon_groups/c1/tasks"), "7");
    fake.forget_files("gold/mon_groups/c1");
    group.destroy().unwrap();
    assert!(fake.has("gold/mon_groups") && !fake.has("gold/mon_groups/c1"));
}

#[test]
fn failures_leave_nothing_and_say_why() {
    let fake = Fake::new();
    fake.put("info/last_cmd_status", "out of CLOSIDs\n");
    // A monitoring group needs a directory that only the kernel makes.
    let rdt = config(json!({"enableMonitoring": true}));
    let error = fake.resctrl().join(&rdt, "c1", 42).unwrap_err();
    let text = error.chain().to_string();
    assert!(
        text.starts_with("cannot make ") && text.contains("mon_groups/c1"),
        "{text}"
    );
    assert!(
        text.contains("(last_cmd_status: out of CLOSIDs): no such file"),
        "{text}"
    );
    // The tasks file keeps a plain directory; the kernel's goes.
    fake.forget_files("c1");
    fs::remove_dir(fake.0.join("c1")).unwrap();
    fake.put("c2", "a file in the way");
    let error = fake
        .resctrl()
        .join(&config(json!({})), "c2", 42)
        .unwrap_err();
    assert!(error.chain().to_string().contains("c2/tasks"), "{error:?}");
}

#[test]
fn statistics() {
    let fake = Fake::new();
    fake.put("c1/schemata", "MB:0= 20\n    L3:0=0000f\n");
    fake.put("c1/mon_data/mon_L3_01/llc_occupancy", "5\n");
    fake.put("c1/mon_data/mon_L3_01/mbm_total_bytes", "6\n");
    fake.put("c1/mon_data/mon_L3_01/mbm_local_bytes", "7\n");
    fake.put("c1/mon_data/mon_L3_00/llc_occupancy", "1\n");
    fake.put("c1/mon_data/mon_L3_00/mbm_total_bytes", "2\n");
    fake.put("c1/mon_data/mon_L3_00/mbm_local_bytes", "3\n");
    let group = Group {
        path: fake.0.join("c1"),
        monitor: None,
        remove: true,
    };
    let stats = fake.resctrl().stats(&group).unwrap();
    assert_eq!(
        serde_json::to_value(&stats).unwrap(),
        json!({
            "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 2, "num_closids": 16},
            "l3_cache_schema_root": "L3:0=fffff",
            "l3_cache_schema": "L3:0=0000f",
            "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8},
            "mem_bw_schema_root": "MB:0=100",
            "mem_bw_schema": "MB:0= 20",
            "schemata": ["MB:0= 20", "    L3:0=0000f"],
            "mbm_stats": [{"mbm_total_bytes": 2, "mbm_local_bytes": 3}, {"mbm_total_bytes": 6, "mbm_local_bytes": 7}],
            "cmt_stats": [{"llc_occupancy": 1}, {"llc_occupancy": 5}],
        })
    );
    fake.put("c1/mon_data/mon_L3_00/llc_occupancy", "Unavailable\n");
    let error = fake.resctrl().stats(&group).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    for gone in ["info/L3", "info/MB", "info/L3_MON"] {
        fs::remove_dir_all(fake.0.join(gone)).unwrap();
    }
    let stats = fake.resctrl().stats(&group).unwrap();
    assert_eq!(
        serde_json::to_value(&stats).unwrap(),
        json!({"schemata": ["MB:0= 20", "    L3:0=0000f"]})
    );
}

#[test]
fn this_machine_has_it_or_says_so() {
    let mounted = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .contains(" - resctrl ");
    match Resctrl::find() {
        Ok(_) => assert!(mounted),
        Err(e) => {
            assert!(!mounted);
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            let want = "intelRdt is specified in config, but Intel RDT is not enabled";
            assert_eq!(e.to_string(), want);
        }
    }
}
