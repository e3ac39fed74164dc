//! Rules for `process`.

use serde_json::{Value, json};

use super::super::process;
use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn process_properties() {
    let row = |name: &str, good: Value, bad: Value, complaint| {
        (
            json!({"process": {name: good}}),
            json!({"process": {name: bad}}),
            complaint,
        )
    };
    let limit = |soft: u64| json!({"type": "RLIMIT_CPU", "hard": 5, "soft": soft});
    let max = u32::MAX;
    rows(
        &FACTS,
        &[
            row(
                "cwd",
                json!("/x"),
                json!("x"),
                "process.cwd: Cwd must be an absolute path",
            ),
            row(
                "cwd",
                json!("/"),
                json!(""),
                "process.cwd: Cwd property must not be empty",
            ),
            row(
                "args",
                json!(["x"]),
                json!([]),
                "process.args: args must not be empty",
            ),
            row(
                "env",
                json!(["A="]),
                json!(["A=1", "A"]),
                "process.env[1]: invalid environment vari",
            ),
            row(
                "env",
                json!([]),
                json!(["=x"]),
                "process.env[0]: invalid environment variable: name",
            ),
            row(
                "user",
                json!({"uid": 1}),
                json!({"uid": max}),
                "process.user.uid: 4294967295 is no",
            ),
            row(
                "user",
                json!({"gid": 1}),
                json!({"gid": max}),
                "process.user.gid: 4294967295 is no",
            ),
            row(
                "user",
                json!({"additionalGids": [0, 5]}),
                json!({"additionalGids": [0, max]}),
                "process.user.additionalGids[1]: 4294967295",
            ),
            row(
                "user",
                json!({"umask": 18}),
                json!({"umask": 512}),
                "process.user.umask: 0o1000 is",
            ),
            row(
                "rlimits",
                json!([limit(5)]),
                json!([limit(6)]),
                "process.rlimits[0].soft: 6 is above the hard limit 5",
            ),
            row(
                "rlimits",
                json!([limit(1), {"type": "RLIMIT_AS", "hard": 1, "soft": 1}]),
                json!([limit(1), limit(2)]),
                "process.rlimits[1].type: duplicate limit RLIMIT_CPU",
            ),
            row(
                "consoleSize",
                json!({"height": 24, "width": 80}),
                json!({"height": 24, "width": 65_536}),
                "process.consoleSize: ",
            ),
            row(
                "oomScoreAdj",
                json!(-1000),
                json!(1001),
                "process.oomScoreAdj: 1001 is not between",
            ),
            row(
                "ioPriority",
                json!({"class": "IOPRIO_CLASS_BE", "priority": 7}),
                json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
                "process.ioPriority.priority: invalid ioPriority.Priority: 8",
            ),
            row(
                "execCPUAffinity",
                json!({"initial": "0-1,3", "final": "7"}),
                json!({"final": "3-1"}),
                "process.execCPUAffinity.final: not a list",
            ),
        ],
    );
    let label = json!({"process": {"selinuxLabel": "a:b:c"}});
    assert!(
        judge(
            &label,
            &Facts {
                selinux: true,
                ..FACTS
            }
        )
        .is_ok()
    );
    let problems = judge(&label, &FACTS).unwrap_err().to_string();
    assert!(problems.contains("selinux label is specified in config, but selinux is disabled"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn scheduler() {
    let row = |good: Value, bad: Value, complaint| {
        (
            json!({"process": {"scheduler": good}}),
            json!({"process": {"scheduler": bad}}),
            complaint,
        )
    };
    let policy = |name: &str| json!({"policy": name});
    let nice = |nice: i32| json!({"policy": "SCHED_BATCH", "nice": nice});
    let fifo = |priority: i32| json!({"policy": "SCHED_FIFO", "priority": priority});
    let deadline = |runtime: u64, deadline: u64, period: u64| {
        json!({"policy": "SCHED_DEADLINE", "runtime": runtime, "deadline": deadline,
               "period": period})
    };
    rows(
        &FACTS,
        &[
            row(
                nice(-20),
                nice(-21),
                "process.scheduler.nice: invalid scheduler.nice: -21 when",
            ),
            row(
                nice(19),
                nice(20),
                "process.scheduler.nice: invalid scheduler.nice: 20 when",
            ),
            row(
                fifo(1),
                fifo(0),
                "process.scheduler.priority: 0 is not between 1 and 99",
            ),
            row(
                fifo(99),
                fifo(100),
                "process.scheduler.priority: 100 is not between",
            ),
            row(
                policy("SCHED_IDLE"),
                json!({"policy": "SCHED_IDLE", "priority": 1}),
                "process.scheduler.priority: scheduler.priority can only be specified for",
            ),
            row(
                policy("SCHED_OTHER"),
                json!({"policy": "SCHED_OTHER", "period": 1}),
                "process.scheduler: scheduler runtime/deadline/period can only be",
            ),
            row(
                deadline(1024, 2048, 3072),
                deadline(3000, 2000, 3000),
                "process.scheduler: sched_setattr: `SCHED_DEADLINE` runtime 3000 must be <= deadline 2000",
            ),
            row(
                deadline(1024, 1024, 0),
                deadline(0, 2000, 3000),
                "process.scheduler: sched_setattr: `SCHED_DEADLINE` runtime must be greater than 0",
            ),
            row(
                deadline(1024, 3000, 3000),
                deadline(1024, 3000, 2999),
                "process.scheduler: sched_setattr: `SCHED_DEADLINE` deadline 3000 must be <= period 2999",
            ),
            row(
                deadline(1024, 1 << 62, 0),
                deadline(1023, 3000, 3000),
                "process.scheduler: sched_setattr: `SCHED_DEADLINE` runtime 1023 must be between 1024 and 9223372036854775807",
            ),
            row(
                deadline(1024, 3000, 1 << 62),
                deadline(1024, 3000, 1 << 63),
                "process.scheduler: sched_setattr: `SCHED_DEADLINE` period 9223372036854775808 must be between",
            ),
            row(
                json!({"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 2000}),
                json!({"policy": "SCHED_DEADLINE", "runtime": 2000, "period": 2000}),
                "process.scheduler: sched_setattr: `SCHED_DEADLINE` requires `deadline`",
            ),
            row(
                policy("SCHED_OTHER"),
                json!({"policy": "SCHED_DEADLINE", "deadline": 2000}),
                "process.scheduler: sched_setattr: `SCHED_DEADLINE` requires `runtime`",
            ),
            row(
                policy("SCHED_OTHER"),
                policy("SCHED_ISO"),
                "process.scheduler.policy: SCHED_ISO",
            ),
        ],
    );
}

#[test]
fn what_exec_runs_is_judged_alone() {
    let read =
        |value: Value| -> oci_spec::runtime::Process { serde_json::from_value(value).unwrap() };
    let good = read(json!({"user": {}, "cwd": "/", "args": ["x"]}));
    assert_eq!(process(&good, false), Ok(()));
    let bad = read(json!({"user": {}, "cwd": "", "args": []}));
    assert_eq!(process(&bad, false).unwrap_err().0.len(), 2);
}
