//! The rows of the resource tables.

use oci_spec::runtime::LinuxResources;

use super::resources::{Missing, Write, v1, v2};

fn parse(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// Writes as `controller file=value`, with marks: `?` optional, `~` tried again, `>` memory limit.
fn show(writes: &[Write]) -> Vec<String> {
    writes
        .iter()
        .map(|w| {
            let mut text = format!("{} {}={}", w.controller, w.file, w.value);
            match &w.missing {
                Missing::Fail => {}
                Missing::Skip => text.push_str(" ?"),
                Missing::Use(file, value) => text.push_str(&format!(" or {file}={value}")),
            }
            if w.again {
                text.push_str(" ~");
            }
            if w.memory_limit {
                text.push_str(" >");
            }
            text
        })
        .collect()
}

#[test]
#[allow(clippy::too_many_lines)] // A data table.
fn rows_of_v1() {
    let rows: &[(&str, &[&str])] = &[
        ("{}", &[]),
        (r#"{"cpu":{"shares":1024}}"#, &["cpu cpu.shares=1024"]),
        (r#"{"cpu":{"shares":0,"quota":0,"period":0}}"#, &[]),
        (
            r#"{"cpu":{"period":5000}}"#,
            &["cpu cpu.cfs_period_us=5000"],
        ),
        (
            r#"{"cpu":{"period":5000,"quota":-1,"burst":0}}"#,
            &[
                "cpu cpu.cfs_period_us=5000 ~",
                "cpu cpu.cfs_burst_us=0 ? ~",
                "cpu cpu.cfs_quota_us=-1",
            ],
        ),
        (
            r#"{"cpu":{"realtimePeriod":5,"realtimeRuntime":4,"idle":1}}"#,
            &[
                "cpu cpu.rt_period_us=5 ~",
                "cpu cpu.rt_runtime_us=4",
                "cpu cpu.idle=1",
            ],
        ),
        (
            r#"{"cpu":{"cpus":"0-1","mems":"0"}}"#,
            &["cpuset cpuset.cpus=0-1", "cpuset cpuset.mems=0"],
        ),
        (r#"{"cpu":{"cpus":"","mems":""}}"#, &[]),
        (r#"{"pids":{"limit":0}}"#, &["pids pids.max=1"]),
        (r#"{"pids":{"limit":-1}}"#, &["pids pids.max=max"]),
        (r#"{"pids":{"limit":7}}"#, &["pids pids.max=7"]),
        (
            r#"{"memory":{"limit":10,"swap":20,"reservation":5,"swappiness":0,
                "disableOOMKiller":true,"kernel":3,"kernelTCP":4}}"#,
            &[
                "memory memory.soft_limit_in_bytes=5",
                "memory memory.oom_control=1",
                "memory memory.swappiness=0",
                "memory memory.limit_in_bytes=10 ~ >",
                "memory memory.memsw.limit_in_bytes=20 >",
            ],
        ),
        (
            r#"{"memory":{"limit":-1,"swappiness":18446744073709551615}}"#,
            &[
                "memory memory.limit_in_bytes=-1 ~ >",
                "memory memory.memsw.limit_in_bytes=-1 ? >",
            ],
        ),
        (
            r#"{"memory":{"limit":0,"swap":0,"disableOOMKiller":false}}"#,
            &[],
        ),
        (
            r#"{"blockIO":{"weight":10,"leafWeight":20,
                "weightDevice":[{"major":8,"minor":0,"weight":30,"leafWeight":40}],
                "throttleReadBpsDevice":[{"major":8,"minor":1,"rate":1}],
                "throttleWriteBpsDevice":[{"major":8,"minor":2,"rate":2}],
                "throttleReadIOPSDevice":[{"major":8,"minor":3,"rate":3}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":4,"rate":0}]}}"#,
            &[
                "blkio blkio.weight=10 or blkio.bfq.weight=10",
                "blkio blkio.leaf_weight=20",
                "blkio blkio.weight_device=8:0 30 or blkio.bfq.weight_device=8:0 30",
                "blkio blkio.leaf_weight_device=8:0 40",
                "blkio blkio.throttle.read_bps_device=8:1 1",
                "blkio blkio.throttle.write_bps_device=8:2 2",
                "blkio blkio.throttle.read_iops_device=8:3 3",
                "blkio blkio.throttle.write_iops_device=8:4 0",
            ],
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4096}]}"#,
            &[
                "hugetlb hugetlb.2MB.limit_in_bytes=4096",
                "hugetlb hugetlb.2MB.rsvd.limit_in_bytes=4096 ?",
            ],
        ),
        (
            r#"{"network":{"classID":1048577,"priorities":[{"name":"lo","priority":3}]}}"#,
            &[
                "net_cls net_cls.classid=1048577",
                "net_prio net_prio.ifpriomap=lo 3",
            ],
        ),
        (
            r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":4},"a":{"hcaObjects":1}}}"#,
            &[
                "rdma rdma.max=a hca_object=1",
                "rdma rdma.max=mlx5_1 hca_handle=3 hca_object=4",
            ],
        ),
    ];
    for (json, want) in rows {
        assert_eq!(show(&v1(&parse(json)).unwrap()), *want, "{json}");
    }
}

#[test]
#[allow(clippy::too_many_lines)] // A data table.
fn rows_of_v2() {
    let rows: &[(&str, &[&str])] = &[
        ("{}", &[]),
        (r#"{"cpu":{"shares":1024}}"#, &["cpu cpu.weight=100"]),
        (r#"{"cpu":{"quota":5000}}"#, &["cpu cpu.max=5000 100000"]),
        (r#"{"cpu":{"period":5000}}"#, &["cpu cpu.max=max 5000"]),
        (
            r#"{"cpu":{"quota":-1,"period":5000}}"#,
            &["cpu cpu.max=max 5000"],
        ),
        (
            r#"{"cpu":{"quota":2000,"burst":1000,"idle":0,"shares":2,
                "realtimePeriod":5,"realtimeRuntime":4,"cpus":"0","mems":"0"}}"#,
            &[
                "cpu cpu.idle=0",
                "cpu cpu.weight=1",
                "cpu cpu.max.burst=1000 ~",
                "cpu cpu.max=2000 100000",
                "cpuset cpuset.cpus=0",
                "cpuset cpuset.mems=0",
            ],
        ),
        (r#"{"pids":{"limit":0}}"#, &["pids pids.max=1"]),
        (r#"{"pids":{"limit":-5}}"#, &["pids pids.max=max"]),
        (
            r#"{"memory":{"limit":10,"swap":30,"reservation":5,"swappiness":50,
                "disableOOMKiller":true}}"#,
            &[
                "memory memory.low=5",
                "memory memory.swap.max=20 >",
                "memory memory.max=10 >",
            ],
        ),
        (
            r#"{"memory":{"limit":10,"swap":10}}"#,
            &["memory memory.swap.max=0 ? >", "memory memory.max=10 >"],
        ),
        (
            r#"{"memory":{"limit":-1}}"#,
            &["memory memory.swap.max=max ? >", "memory memory.max=max >"],
        ),
        (
            r#"{"blockIO":{"weight":750,"leafWeight":20,
                "weightDevice":[{"major":8,"minor":0,"weight":1000}],
                "throttleReadBpsDevice":[{"major":8,"minor":1,"rate":1}],
                "throttleWriteBpsDevice":[{"major":8,"minor":2,"rate":2}],
                "throttleReadIOPSDevice":[{"major":8,"minor":3,"rate":3}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":4,"rate":0}]}}"#,
            &[
                "io io.bfq.weight=750 or io.weight=7475",
                "io io.bfq.weight=8:0 1000 or io.weight=8:0 10000",
                "io io.max=8:1 rbps=1",
                "io io.max=8:2 wbps=2",
                "io io.max=8:3 riops=3",
                "io io.max=8:4 wiops=max",
            ],
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4096}]}"#,
            &[
                "hugetlb hugetlb.2MB.max=4096",
                "hugetlb hugetlb.2MB.rsvd.max=4096 ?",
            ],
        ),
        (r#"{"network":{"classID":1048577}}"#, &[]),
        (
            r#"{"unified":{"memory.max":"5","io.max":"8:0 rbps=1\n8:16 rbps=2\n"}}"#,
            &[
                "unified io.max=8:0 rbps=1",
                "unified io.max=8:16 rbps=2",
                "unified memory.max=5 >",
            ],
        ),
    ];
    for (json, want) in rows {
        assert_eq!(show(&v2(&parse(json)).unwrap()), *want, "{json}");
    }
}

#[test]
fn refused() {
    for (json, text) in [
        (
            r#"{"unified":{"memory.max":"5"}}"#,
            "cannot use unified on cgroup v1",
        ),
        (
            r#"{"cpu":{"shares":1}}"#,
            "the minimum allowed cpu-shares is 2",
        ),
        (
            r#"{"cpu":{"shares":262145}}"#,
            "the maximum allowed cpu-shares is 262144",
        ),
        (r#"{"memory":{"swappiness":101}}"#, "valid range is 0-100"),
    ] {
        let error = v1(&parse(json)).unwrap_err().chain().to_string();
        assert!(error.contains(text), "{json}: {error}");
    }
    for (json, text) in [
        (
            r#"{"memory":{"swap":5}}"#,
            "unable to set swap limit without memory limit",
        ),
        (
            r#"{"unified":{"../x.y":"5"}}"#,
            "must be a file name (no slashes)",
        ),
        (r#"{"unified":{"..":"5"}}"#, "CONTROLLER.PARAMETER"),
        (r#"{"unified":{"memory":"5"}}"#, "CONTROLLER.PARAMETER"),
        (r#"{"unified":{"memory.m\nx":"5"}}"#, "CONTROLLER.PARAMETER"),
    ] {
        let error = v2(&parse(json)).unwrap_err().chain().to_string();
        assert!(error.contains(text), "{json}: {error}");
    }
}
