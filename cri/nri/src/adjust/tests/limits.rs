//! Limits.

use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn limits() {
    let spec = |resources: Value| json!({"linux": {"resources": resources}});
    let none = LinuxResources::default;
    let zero = LinuxMemory::default;
    all(vec![
        // A limit of memory alone is one of swap, too.
        (
            spec(json!({"memory": {"limit": 1, "swap": 2, "reservation": 3}})),
            memory(LinuxMemory {
                limit: int64(9),
                ..zero()
            }),
            spec(json!({"memory": {"limit": 9, "swap": 9, "reservation": 3}})),
        ),
        (
            json!({}),
            memory(LinuxMemory {
                limit: int64(9),
                swap: int64(-1),
                ..zero()
            }),
            spec(json!({"memory": {"limit": 9, "swap": -1}})),
        ),
        (
            spec(json!({"memory": {"limit": 1}})),
            memory(LinuxMemory {
                limit: int64(0),
                reservation: int64(2),
                swappiness: uint64(3),
                disable_oom_killer: Some(OptionalBool { value: true }),
                use_hierarchy: Some(OptionalBool { value: true }),
                ..zero()
            }),
            spec(
                json!({"memory": {"limit": 1, "reservation": 2, "swappiness": 3, "disableOOMKiller": true}}),
            ),
        ),
        (
            spec(json!({"cpu": {"shares": 1, "cpus": "0"}})),
            resources(LinuxResources {
                cpu: Some(LinuxCpu {
                    shares: None,
                    quota: int64(-1),
                    period: uint64(2),
                    realtime_runtime: int64(3),
                    realtime_period: uint64(4),
                    cpus: String::new(),
                    mems: "1".to_owned(),
                }),
                ..none()
            }),
            spec(json!({"cpu": {
                "shares": 1, "cpus": "0", "quota": -1, "period": 2, "realtimeRuntime": 3, "realtimePeriod": 4, "mems": "1",
            }})),
        ),
        (
            spec(json!({
                "hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 1}],
                "unified": {"a": "0", "b": "0"},
                "pids": {"limit": 1},
            })),
            resources(LinuxResources {
                hugepage_limits: vec![HugepageLimit {
                    page_size: "2MB".to_owned(),
                    limit: 5,
                }],
                unified: texts(&[("b", "1"), ("c", "1")]),
                pids: Some(LinuxPids { limit: -7 }),
                ..none()
            }),
            spec(json!({
                "hugepageLimits": [{"pageSize": "2MB", "limit": 5}, {"pageSize": "1GB", "limit": 1}],
                "unified": {"a": "0", "b": "1", "c": "1"},
                "pids": {"limit": -1},
            })),
        ),
        (
            json!({}),
            resources(LinuxResources {
                devices: vec![
                    LinuxDeviceCgroup {
                        allow: true,
                        ..LinuxDeviceCgroup::default()
                    },
                    LinuxDeviceCgroup {
                        allow: false,
                        r#type: "c".to_owned(),
                        major: int64(1),
                        minor: int64(0),
                        access: "m".to_owned(),
                    },
                ],
                ..none()
            }),
            spec(json!({"devices": [
                {"allow": true}, {"allow": false, "type": "c", "major": 1, "minor": 0, "access": "m"},
            ]})),
        ),
        (
            spec(json!({"blockIO": {"weight": 1}, "pids": null})),
            resources(LinuxResources {
                blockio_class: text(""),
                ..none()
            }),
            spec(json!({"pids": null})),
        ),
    ]);
}
