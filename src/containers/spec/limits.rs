//! Limits: `--memory`, `--cpus`, `--pids-limit` and their like, and `--ulimit`.

use rcrun_runtime::error::{Error, Result};
use serde_json::{Map, Value, json};

use super::words::{Problems, size, size_or_unlimited};
use crate::containers::flags::ContainerFlags;

/// Microseconds of a period for `--cpus`.
const PERIOD: u64 = 100_000;
/// The least quota that the kernel takes.
const LEAST_QUOTA: i64 = 1000;
/// Less than this nothing starts with.
const LEAST_MEMORY: i64 = 512 << 10;

/// Names of `--ulimit`, and what setrlimit(2) calls them.
const LIMITS: [(&str, &str); 16] = [
    ("as", "RLIMIT_AS"),
    ("core", "RLIMIT_CORE"),
    ("cpu", "RLIMIT_CPU"),
    ("data", "RLIMIT_DATA"),
    ("fsize", "RLIMIT_FSIZE"),
    ("locks", "RLIMIT_LOCKS"),
    ("memlock", "RLIMIT_MEMLOCK"),
    ("msgqueue", "RLIMIT_MSGQUEUE"),
    ("nice", "RLIMIT_NICE"),
    ("nofile", "RLIMIT_NOFILE"),
    ("nproc", "RLIMIT_NPROC"),
    ("rss", "RLIMIT_RSS"),
    ("rtprio", "RLIMIT_RTPRIO"),
    ("rttime", "RLIMIT_RTTIME"),
    ("sigpending", "RLIMIT_SIGPENDING"),
    ("stack", "RLIMIT_STACK"),
];

/// `linux.resources` without devices. `swap`: the kernel limits it.
pub(crate) fn resources(
    flags: &ContainerFlags,
    swap: bool,
    problems: &mut Problems,
) -> Map<String, Value> {
    let mut all = Map::new();
    if let Some(memory) = memory(flags, swap, problems) {
        all.insert("memory".into(), memory);
    }
    if let Some(cpu) = cpu(flags, problems) {
        all.insert("cpu".into(), cpu);
    }
    match flags.pids_limit {
        None => {}
        // As docker: 0 and less are no limit.
        Some(limit) => {
            let limit = if limit <= 0 { -1 } else { limit };
            all.insert("pids".into(), json!({"limit": limit}));
        }
    }
    all
}

fn memory(flags: &ContainerFlags, accounted: bool, problems: &mut Problems) -> Option<Value> {
    let limit = problems.one("--memory", flags.memory.as_deref(), |text| {
        let limit = size(text)?;
        match limit < LEAST_MEMORY {
            true => Err(Error::invalid(format!(
                "{text} is less than 512k, with which nothing starts"
            ))),
            false => Ok(limit),
        }
    });
    let swap = problems.one(
        "--memory-swap",
        flags.memory_swap.as_deref(),
        size_or_unlimited,
    );
    let reservation = problems.one(
        "--memory-reservation",
        flags.memory_reservation.as_deref(),
        size,
    );
    let mut memory = Map::new();
    if let Some(limit) = limit {
        memory.insert("limit".into(), json!(limit));
    }
    match (limit, swap.filter(|swap| *swap != 0)) {
        (None, Some(_)) if flags.memory.is_none() => {
            problems.tell(
                "--memory-swap: is a limit of memory and swap together, so --memory is needed",
            );
        }
        (Some(limit), Some(swap)) if swap != -1 && swap < limit => {
            problems.tell("--memory-swap: is less than --memory, which it includes");
        }
        (Some(_), Some(swap)) => drop(memory.insert("swap".into(), json!(swap))),
        // Where swap is not accounted, what nobody asked for is left out.
        (Some(limit), None) if accounted => {
            drop(memory.insert("swap".into(), json!(limit.saturating_mul(2))));
        }
        (_, _) => {}
    }
    if let Some(reservation) = reservation {
        if limit.is_some_and(|limit| limit < reservation) {
            problems.tell("--memory-reservation: is more than --memory");
        }
        memory.insert("reservation".into(), json!(reservation));
    }
    (!memory.is_empty()).then_some(Value::Object(memory))
}

fn cpu(flags: &ContainerFlags, problems: &mut Problems) -> Option<Value> {
    let mut cpu = Map::new();
    let quota = problems.one("--cpus", flags.cpus.as_deref(), cpus);
    if flags.cpus.is_some() && (flags.cpu_period.is_some() || flags.cpu_quota.is_some()) {
        problems
            .tell("--cpus: says the same as --cpu-period and --cpu-quota: give one or the other");
    }
    let quota = quota.flatten().map(|quota| (PERIOD, quota));
    if let Some((period, quota)) = quota {
        cpu.insert("period".into(), json!(period));
        cpu.insert("quota".into(), json!(quota));
    }
    for (name, value) in [
        ("period", flags.cpu_period.map(|value| json!(value))),
        ("quota", flags.cpu_quota.map(|value| json!(value))),
        (
            "shares",
            flags
                .cpu_shares
                .filter(|value| *value != 0)
                .map(|value| json!(value)),
        ),
        ("cpus", flags.cpuset_cpus.as_ref().map(|value| json!(value))),
        ("mems", flags.cpuset_mems.as_ref().map(|value| json!(value))),
    ] {
        if let Some(value) = value {
            cpu.insert(name.into(), value);
        }
    }
    (!cpu.is_empty()).then_some(Value::Object(cpu))
}

/// `1.5` -> microseconds in a period; 0 is no limit.
fn cpus(text: &str) -> Result<Option<i64>> {
    let wrong = || Error::invalid(format!("{text:?} is no number of CPUs: write 2 or 0.5"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let whole: i64 = format!("0{whole}").parse().map_err(|_| wrong())?;
    // A period has 100,000 microseconds: five digits count.
    let fraction: i64 = format!("{fraction:0<5.5}").parse().map_err(|_| wrong())?;
    let quota = whole
        .checked_mul(100_000)
        .and_then(|q| q.checked_add(fraction));
    match quota.ok_or_else(wrong)? {
        0 => Ok(None),
        quota if quota < LEAST_QUOTA => Err(Error::invalid(format!(
            "{text} is less than 0.01, which is the least"
        ))),
        quota => Ok(Some(quota)),
    }
}

/// `nofile=1024[:2048]`; -1 and `unlimited` are none.
pub(crate) fn ulimit(text: &str) -> Result<Value> {
    let wrong = || Error::invalid(format!("{text:?} is not NAME=SOFT[:HARD]"));
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let Some((_, name)) = LIMITS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<_> = LIMITS.iter().map(|(name, _)| *name).collect();
        return Err(Error::invalid(format!(
            "{name:?} is no resource limit: use one of {}",
            known.join(", ")
        )));
    };
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse::<u64>().map_err(|_| wrong()),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(Error::invalid(format!(
            "{text:?}: the soft limit is above the hard one"
        )));
    }
    Ok(json!({"type": name, "soft": soft, "hard": hard}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(flags: &ContainerFlags) -> String {
        let mut problems = Problems::default();
        let value = resources(flags, true, &mut problems);
        match problems.finish() {
            Ok(()) => serde_json::to_string(&value).unwrap(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn memory_and_swap() {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        for (memory, swap, reservation, expected) in [
            ("", "", "", "{}"),
            (
                "1m",
                "",
                "",
                r#"{"memory":{"limit":1048576,"swap":2097152}}"#,
            ),
            (
                "1m",
                "1m",
                "",
                r#"{"memory":{"limit":1048576,"swap":1048576}}"#,
            ),
            (
                "1m",
                "-1",
                "512k",
                r#"{"memory":{"limit":1048576,"reservation":524288,"swap":-1}}"#,
            ),
            (
                "1m",
                "0",
                "",
                r#"{"memory":{"limit":1048576,"swap":2097152}}"#,
            ),
        ] {
            let flags = ContainerFlags {
                memory: text(memory),
                memory_swap: text(swap),
                memory_reservation: text(reservation),
                ..ContainerFlags::default()
            };
            assert_eq!(found(&flags), expected, "{memory} {swap}");
        }
        for (memory, swap, problem) in [
            ("", "1m", "--memory is needed"),
            ("2m", "1m", "less than --memory"),
            ("1k", "", "less than 512k"),
            ("lots", "", "no size"),
            ("-1", "", "no size"),
        ] {
            let flags = ContainerFlags {
                memory: text(memory),
                memory_swap: text(swap),
                ..ContainerFlags::default()
            };
            let found = found(&flags);
            assert!(found.contains(problem), "{memory} {swap}: {found}");
        }
    }

    #[test]
    fn numbers_of_cpus() {
        for (text, expected) in [
            ("1", Some(Some(100_000))),
            ("1.5", Some(Some(150_000))),
            (".5", Some(Some(50_000))),
            ("0.01", Some(Some(1000))),
            ("2.123456789", Some(Some(212_345))),
            ("0", Some(None)),
            ("0.001", None),
            ("", None),
            (".", None),
            ("-1", None),
            ("1e3", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(cpus(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn ulimits() {
        let shown = |text| ulimit(text).map(|value| value.to_string()).ok();
        assert_eq!(
            shown("nofile=1:2").unwrap(),
            r#"{"hard":2,"soft":1,"type":"RLIMIT_NOFILE"}"#
        );
        assert_eq!(
            shown("core=-1").unwrap(),
            format!(
                r#"{{"hard":{0},"soft":{0},"type":"RLIMIT_CORE"}}"#,
                u64::MAX
            )
        );
        for text in [
            "nofile",
            "nofile=",
            "nofile=2:1",
            "shiny=1",
            "nofile=-2",
            "nofile=1:2:3",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }
}
