//! Figures of cgroup2, mapped to the v1 names that readers know.

use std::path::Path;

use super::{
    Blkio, BlkioEntry, Cpu, Hugetlb, Memory, MemoryEntry, Pids, Pressure, PressureLine, Stats,
    flat, number, optional,
};
use crate::cgroup::{file, join};
use crate::error::Result;

pub(super) fn read(dir: &Path) -> Result<Stats> {
    let get = |name: &str| optional(&dir.join(name));
    let pressure = |name: &str| -> Result<Option<Pressure>> {
        Ok(get(name)?.map(|text| parse_pressure(&text)))
    };
    let mut stats = Stats {
        pids: pids(dir)?,
        ..Stats::default()
    };
    if let Some(text) = get("memory.stat")? {
        stats.memory = memory(dir, &text)?;
    }
    stats.memory.psi = pressure("memory.pressure")?;
    if let Some(text) = get("io.stat")? {
        stats.blkio = parse_io(&text);
    }
    stats.blkio.psi = pressure("io.pressure")?;
    if let Some(text) = get("cpu.stat")? {
        stats.cpu = parse_cpu(&text);
    }
    stats.cpu.psi = pressure("cpu.pressure")?;
    hugetlb(dir, &mut stats)?;
    Ok(stats)
}

fn value(dir: &Path, name: &str) -> Result<Option<u64>> {
    Ok(optional(&dir.join(name))?.and_then(|text| number(&text)))
}

/// Without the controller the processes are counted.
fn pids(dir: &Path) -> Result<Pids> {
    let Some(current) = value(dir, "pids.current")? else {
        let current = join::processes_below(dir)?.len() as u64;
        return Ok(Pids { current, limit: 0 });
    };
    let limit = value(dir, "pids.max")?
        .filter(|limit| *limit != u64::MAX)
        .unwrap_or(0);
    Ok(Pids { current, limit })
}

fn memory(dir: &Path, stat: &str) -> Result<Memory> {
    let raw: std::collections::BTreeMap<String, u64> = flat(stat)
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let usage = entry(dir, "memory")?;
    let mut swap = entry(dir, "memory.swap")?;
    // v1 counts memory and swap together; the most of both together is not known.
    if value(dir, "memory.swap.current")?.is_some() {
        swap.usage += usage.usage;
        swap.limit = swap.limit.saturating_add(usage.limit);
    } else {
        swap = MemoryEntry {
            limit: usage.limit,
            usage: usage.usage,
            ..MemoryEntry::default()
        };
    }
    swap.max = 0;
    Ok(Memory {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        swap,
        raw,
        ..Memory::default()
    })
}

fn entry(dir: &Path, prefix: &str) -> Result<MemoryEntry> {
    let get =
        |name: &str| -> Result<u64> { Ok(value(dir, &format!("{prefix}.{name}"))?.unwrap_or(0)) };
    Ok(MemoryEntry {
        usage: get("current")?,
        limit: get("max")?,
        max: get("peak")?,
        failcnt: 0,
    })
}

fn parse_cpu(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    for (key, value) in flat(text) {
        let nanoseconds = value.saturating_mul(1000);
        match key {
            "usage_usec" => cpu.usage.total = nanoseconds,
            "user_usec" => cpu.usage.user = nanoseconds,
            "system_usec" => cpu.usage.kernel = nanoseconds,
            "nr_periods" => cpu.throttling.periods = value,
            "nr_throttled" => cpu.throttling.throttled_periods = value,
            "throttled_usec" => cpu.throttling.throttled_time = nanoseconds,
            _ => {}
        }
    }
    cpu
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`
fn parse_io(text: &str) -> Blkio {
    let mut blkio = Blkio::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let Some((major, minor)) = fields.next().and_then(|id| id.split_once(':')) else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
            continue;
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let Some(value) = number(value) else { continue };
            let (op, list) = match key {
                "rbytes" => ("Read", &mut blkio.io_service_bytes_recursive),
                "wbytes" => ("Write", &mut blkio.io_service_bytes_recursive),
                "rios" => ("Read", &mut blkio.io_serviced_recursive),
                "wios" => ("Write", &mut blkio.io_serviced_recursive),
                _ => continue,
            };
            list.push(BlkioEntry {
                major,
                minor,
                op: op.to_owned(),
                value,
            });
        }
    }
    blkio
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`
fn parse_pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let mut parsed = PressureLine::default();
        let name = fields.next();
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "avg10" => parsed.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => parsed.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => parsed.avg300 = value.parse().unwrap_or(0.0),
                "total" => parsed.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        match name {
            Some("some") => pressure.some = parsed,
            Some("full") => pressure.full = parsed,
            _ => {}
        }
    }
    pressure
}

fn hugetlb(dir: &Path, stats: &mut Stats) -> Result<()> {
    // The sizes are in the file names themselves: hugetlb.2MB.current.
    let Ok(names) = file::names(dir) else {
        return Ok(());
    };
    for name in names {
        let Some(size) = name
            .strip_prefix("hugetlb.")
            .and_then(|n| n.strip_suffix(".current"))
        else {
            continue;
        };
        if size.contains('.') {
            continue;
        }
        let reserved = value(dir, &format!("hugetlb.{size}.rsvd.current"))?;
        let usage = match reserved {
            Some(usage) => usage,
            None => value(dir, &name)?.unwrap_or(0),
        };
        let events = optional(&dir.join(format!("hugetlb.{size}.events")))?.unwrap_or_default();
        let failcnt = file::keyed(&events, "max").unwrap_or(0);
        stats.hugetlb.insert(
            size.to_owned(),
            Hugetlb {
                usage,
                max: 0,
                failcnt,
            },
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu() {
        let got = parse_cpu(
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_throttled 2\nthrottled_usec 5\n",
        );
        assert_eq!(
            (got.usage.total, got.usage.user, got.usage.kernel),
            (30_000, 20_000, 10_000)
        );
        assert_eq!(
            (
                got.throttling.throttled_periods,
                got.throttling.throttled_time
            ),
            (2, 5000)
        );
    }

    #[test]
    fn io() {
        let got = parse_io("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=9 dios=9\n259:1 \n");
        let show = |list: &[BlkioEntry]| {
            list.iter()
                .map(|e| format!("{}:{} {} {}", e.major, e.minor, e.op, e.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            show(&got.io_service_bytes_recursive),
            ["8:0 Read 1", "8:0 Write 2"]
        );
        assert_eq!(
            show(&got.io_serviced_recursive),
            ["8:0 Read 3", "8:0 Write 4"]
        );
    }

    #[test]
    fn pressure_is_left_out_when_there_is_none() {
        let got = parse_pressure(
            "some avg10=1.50 avg60=0.10 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        );
        let json = serde_json::to_string(&got).unwrap();
        assert_eq!(
            json,
            r#"{"some":{"avg10":1.5,"avg60":0.1,"avg300":0.0,"total":12}}"#
        );
    }

    #[test]
    fn empty_stats_have_runcs_shape() {
        let json = serde_json::to_value(Stats::default()).unwrap();
        let want = serde_json::json!({
            "cpu": {},
            "cpuset": {"cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0,
                "memory_migrate": 0, "memory_spread_page": 0, "memory_spread_slab": 0,
                "memory_pressure": 0, "sched_load_balance": 0, "sched_relax_domain_level": 0},
            "memory": {}, "pids": {}, "blkio": {}, "hugetlb": {}, "intel_rdt": {},
            "network_interfaces": null
        });
        assert_eq!(json, want);
    }
}
