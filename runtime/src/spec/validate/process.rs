//! Rules for `process`, which also hold for what `exec` runs.

use oci_spec::runtime::{LinuxSchedulerPolicy as Policy, PosixRlimit, Process, Scheduler, User};

use super::{Found, Problems};

pub(super) fn check(process: &Process, selinux: bool, found: &mut Found) {
    if process.cwd().as_os_str().is_empty() {
        found.problem("process.cwd", "Cwd property must not be empty");
    } else if !process.cwd().is_absolute() {
        found.problem("process.cwd", "Cwd must be an absolute path");
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        found.problem("process.args", "args must not be empty");
    }
    for (index, text) in process.env().iter().flatten().enumerate() {
        variable(text, || format!("process.env[{index}]"), found);
    }
    user(process.user(), found);
    rlimits(process.rlimits().as_deref().unwrap_or_default(), found);
    if let Some(scheduler) = process.scheduler() {
        self::scheduler(scheduler, found);
    }
    if let Some(size) = process.console_size() {
        let fits = |length: u64| u16::try_from(length).is_ok();
        found.require(
            fits(size.height()) && fits(size.width()),
            path("consoleSize"),
            || "height and width must be below 65536",
        );
    }
    if let Some(io) = process.io_priority() {
        found.require(
            (0..=7).contains(&io.priority()),
            path("ioPriority.priority"),
            || format!("invalid ioPriority.Priority: {}", io.priority()),
        );
    }
    if let Some(adjustment) = process.oom_score_adj() {
        found.require(
            (-1000..=1000).contains(&adjustment),
            path("oomScoreAdj"),
            || format!("{adjustment} is not between -1000 and 1000"),
        );
    }
    if let Some(affinity) = process.exec_cpu_affinity() {
        for (name, list) in [
            ("initial", affinity.initial()),
            ("final", affinity.cpu_affinity_final()),
        ] {
            let valid = list.as_deref().is_none_or(is_number_list);
            found.require(
                valid,
                path(&format!("execCPUAffinity.{name}")),
                || "not a list of numbers and ranges like 0-3,7",
            );
        }
    }
    if process
        .selinux_label()
        .as_ref()
        .is_some_and(|label| !label.is_empty())
        && !selinux
    {
        let message =
            "selinux label is specified in config, but selinux is disabled or not supported";
        found.problem("process.selinuxLabel", message);
    }
}

/// Judges a process description on its own, as `exec` needs it.
pub fn process(process: &Process, selinux: bool) -> Result<(), Problems> {
    let mut found = Found::default();
    check(process, selinux, &mut found);
    if found.problems.0.is_empty() {
        Ok(())
    } else {
        Err(found.problems)
    }
}

fn path(property: &str) -> impl FnOnce() -> String {
    move || format!("process.{property}")
}

/// An environment variable as `NAME=value`.
pub(super) fn variable(text: &str, path: impl FnOnce() -> String, found: &mut Found) {
    match text.find('=') {
        None => found.problem(path(), "invalid environment variable: missing '='"),
        Some(0) => found.problem(path(), "invalid environment variable: name cannot be empty"),
        Some(_) => {}
    }
}

fn user(user: &User, found: &mut Found) {
    // (uid_t) -1 means "leave as it is" to setresuid(2).
    let is_id = |id: u32| id != u32::MAX;
    for (name, id) in [("uid", user.uid()), ("gid", user.gid())] {
        found.require(is_id(id), path(&format!("user.{name}")), || {
            format!("{id} is no {name}")
        });
    }
    for (index, gid) in user.additional_gids().iter().flatten().enumerate() {
        found.require(
            is_id(*gid),
            path(&format!("user.additionalGids[{index}]")),
            || format!("{gid} is no gid"),
        );
    }
    if let Some(umask) = user.umask() {
        found.require(umask <= 0o777, path("user.umask"), || {
            format!("{umask:#o} is above 0o777")
        });
    }
}

fn rlimits(limits: &[PosixRlimit], found: &mut Found) {
    for (index, limit) in limits.iter().enumerate() {
        let earlier = limits[..index]
            .iter()
            .any(|other| other.typ() == limit.typ());
        found.require(!earlier, path(&format!("rlimits[{index}].type")), || {
            format!("duplicate limit {}", limit.typ())
        });
        found.require(
            limit.soft() <= limit.hard(),
            path(&format!("rlimits[{index}].soft")),
            || format!("{} is above the hard limit {}", limit.soft(), limit.hard()),
        );
    }
}

/// sched_setattr(2): which parameters go with which policy.
fn scheduler(scheduler: &Scheduler, found: &mut Found) {
    let policy = *scheduler.policy();
    let nice = scheduler.nice().unwrap_or(0);
    let priority = scheduler.priority().unwrap_or(0);
    let is_real_time = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
    if matches!(policy, Policy::SchedOther | Policy::SchedBatch) {
        found.require((-20..=19).contains(&nice), path("scheduler.nice"), || {
            format!("invalid scheduler.nice: {nice} when scheduler.policy is {policy}")
        });
    }
    found.require(
        priority == 0 || is_real_time,
        path("scheduler.priority"),
        || "scheduler.priority can only be specified for SchedFIFO or SchedRR policy",
    );
    if is_real_time {
        found.require(
            (1..=99).contains(&priority),
            path("scheduler.priority"),
            || format!("{priority} is not between 1 and 99"),
        );
    }
    let times = [
        ("runtime", *scheduler.runtime()),
        ("deadline", *scheduler.deadline()),
        ("period", *scheduler.period()),
    ];
    if policy == Policy::SchedDeadline {
        if let Err(why) = deadline_times(&times) {
            // In the words of crun, whose users know them; runc leaves it at the kernel's EINVAL.
            let text = format!("sched_setattr: `SCHED_DEADLINE` {why}");
            found.problem(path("scheduler")(), text);
        }
    } else {
        found.require(
            times.iter().all(|(_, time)| time.unwrap_or(0) == 0),
            path("scheduler"),
            || "scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
        );
    }
    found.require(
        policy != Policy::SchedIso,
        path("scheduler.policy"),
        || "SCHED_ISO is reserved and not implemented by Linux",
    );
}

/// What the kernel demands of runtime, deadline and period (sched(7), "SCHED_DEADLINE"): each at
/// least 1024 ns and below 2^63, in ascending order; a period of 0, or none, is the deadline.
fn deadline_times(times: &[(&str, Option<u64>); 3]) -> Result<(), String> {
    const RANGE: std::ops::RangeInclusive<u64> = 1024..=i64::MAX as u64;
    for (name, time) in &times[..2] {
        match time {
            None => return Err(format!("requires `{name}`")),
            Some(0) => return Err(format!("{name} must be greater than 0")),
            Some(_) => {}
        }
    }
    let given = || {
        let all = times.iter();
        all.filter_map(|(name, time)| time.filter(|time| *time > 0).map(|time| (name, time)))
    };
    for ((name, time), (next, limit)) in given().zip(given().skip(1)) {
        if time > limit {
            return Err(format!("{name} {time} must be <= {next} {limit}"));
        }
    }
    match given().find(|(_, time)| !RANGE.contains(time)) {
        None => Ok(()),
        Some((name, time)) => Err(format!(
            "{name} {time} must be between {} and {}",
            RANGE.start(),
            RANGE.end()
        )),
    }
}

/// `0-3,7`: numbers and ascending ranges, separated by commas.
pub(super) fn is_number_list(text: &str) -> bool {
    text.split(',').all(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let parse = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if digits {
                text.parse::<u32>().ok()
            } else {
                None
            }
        };
        matches!((parse(first), parse(last)), (Some(first), Some(last)) if first <= last)
    })
}
