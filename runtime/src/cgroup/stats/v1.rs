//! Figures of v1 controllers: processor, memory, task and huge page figures as `cgroups-rs` reads
//! them; the rest by hand. Its block IO reader is not used: it does not know the files of BFQ, and
//! drops all figures when a device number does not fit 16 bits (NVMe partitions do not).

use std::path::{Path, PathBuf};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;

use super::{
    Blkio, BlkioEntry, Cgroup, Cpu, Cpuset, Hugetlb, Memory, MemoryEntry, Pids, Stats, flat,
    number, optional,
};
use crate::error::Result;

/// The kernel counts `cpuacct.stat` in ticks of this length, on every architecture Rust runs on.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats> {
    let mut stats = Stats::default();
    let dir = |name: &str| cgroup.controller(name).filter(|dir| dir.exists());
    if let Some(dir) = dir("cpuacct") {
        stats.cpu = cpu_usage(dir);
    }
    if let Some(dir) = dir("cpu")
        && let Some(text) = optional(&dir.join("cpu.stat"))?
    {
        for (key, value) in flat(&text) {
            match key {
                "nr_periods" => stats.cpu.throttling.periods = value,
                "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
                "throttled_time" => stats.cpu.throttling.throttled_time = value,
                _ => {}
            }
        }
    }
    if let Some(dir) = dir("cpuset") {
        stats.cpuset = cpuset(dir)?;
    }
    if let Some(dir) = dir("memory") {
        stats.memory = memory(dir);
    }
    if let Some(dir) = dir("pids") {
        stats.pids = pids(dir);
    }
    if let Some(dir) = dir("blkio") {
        stats.blkio = blkio(dir)?;
    }
    if let Some(dir) = dir("hugetlb") {
        hugetlb(dir, &mut stats);
    }
    Ok(stats)
}

fn cpu_usage(dir: &Path) -> Cpu {
    let got = CpuAcctController::new(dir.to_owned(), PathBuf::new()).cpuacct();
    let mut cpu = Cpu::default();
    cpu.usage.total = got.usage;
    for (key, ticks) in flat(&got.stat) {
        match key {
            "user" => cpu.usage.user = ticks * NANOSECONDS_PER_TICK,
            "system" => cpu.usage.kernel = ticks * NANOSECONDS_PER_TICK,
            _ => {}
        }
    }
    cpu.usage.percpu = got
        .usage_percpu
        .split_whitespace()
        .filter_map(number)
        .collect();
    // cpu user system
    for line in got.usage_all.lines().skip(1) {
        let fields: Vec<&str> = line.split(' ').collect();
        if let [_, user, kernel, ..] = fields.as_slice()
            && let (Some(user), Some(kernel)) = (number(user), number(kernel))
        {
            cpu.usage.percpu_user.push(user);
            cpu.usage.percpu_kernel.push(kernel);
        }
    }
    cpu
}

fn cpuset(dir: &Path) -> Result<Cpuset> {
    let get = |name: &str| -> Result<u64> {
        let text = optional(&dir.join(format!("cpuset.{name}")))?;
        Ok(text.and_then(|text| number(&text)).unwrap_or(0))
    };
    let list = |name: &str| -> Result<Vec<u16>> {
        let text = optional(&dir.join(format!("cpuset.{name}")))?;
        Ok(text.map(|text| ids(&text)).unwrap_or_default())
    };
    let level = optional(&dir.join("cpuset.sched_relax_domain_level"))?;
    Ok(Cpuset {
        cpus: list("cpus")?,
        cpu_exclusive: get("cpu_exclusive")?,
        mems: list("mems")?,
        mem_hardwall: get("mem_hardwall")?,
        mem_exclusive: get("mem_exclusive")?,
        memory_migrate: get("memory_migrate")?,
        memory_spread_page: get("memory_spread_page")?,
        memory_spread_slab: get("memory_spread_slab")?,
        memory_pressure: get("memory_pressure")?,
        sched_load_balance: get("sched_load_balance")?,
        sched_relax_domain_level: level.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
    })
}

/// `0-2,7`
fn ids(list: &str) -> Vec<u16> {
    let mut out = Vec::new();
    for part in list.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<u16>(), to.parse::<u16>()) {
            out.extend(from..=to);
        }
    }
    out
}

fn memory(dir: &Path) -> Memory {
    let controller = MemController::new(dir.to_owned(), PathBuf::new(), false);
    let entry = |limit: i64, usage, max, failcnt| MemoryEntry {
        limit: u64::try_from(limit).unwrap_or(0),
        usage,
        max,
        failcnt,
    };
    let m = controller.memory_stat();
    let swap = controller.memswap();
    let kernel = controller.kmem_stat();
    let tcp = controller.kmem_tcp_stat();
    Memory {
        cache: m.stat.cache,
        usage: entry(
            m.limit_in_bytes,
            m.usage_in_bytes,
            m.max_usage_in_bytes,
            m.fail_cnt,
        ),
        swap: entry(
            swap.limit_in_bytes,
            swap.usage_in_bytes,
            swap.max_usage_in_bytes,
            swap.fail_cnt,
        ),
        kernel: entry(
            kernel.limit_in_bytes,
            kernel.usage_in_bytes,
            kernel.max_usage_in_bytes,
            kernel.fail_cnt,
        ),
        kernel_tcp: entry(
            tcp.limit_in_bytes,
            tcp.usage_in_bytes,
            tcp.max_usage_in_bytes,
            tcp.fail_cnt,
        ),
        raw: m.stat.raw.into_iter().collect(),
        psi: None,
    }
}

fn pids(dir: &Path) -> Pids {
    let controller = PidController::new(dir.to_owned(), PathBuf::new(), false);
    let limit = match controller.get_pid_max() {
        Ok(MaxValue::Value(value)) => u64::try_from(value).unwrap_or(0),
        Ok(MaxValue::Max) | Err(_) => 0,
    };
    Pids {
        current: controller.get_pid_current().unwrap_or(0),
        limit,
    }
}

fn hugetlb(dir: &Path, stats: &mut Stats) {
    let controller = HugeTlbController::new(dir.to_owned(), PathBuf::new(), false);
    for size in controller.get_sizes() {
        // Reservations where the kernel counts them: what a program may count on.
        let reserved = format!("{size}.rsvd");
        let name = if controller.usage_in_bytes(&reserved).is_ok() {
            &reserved
        } else {
            &size
        };
        let Ok(usage) = controller.usage_in_bytes(name) else {
            continue;
        };
        let entry = Hugetlb {
            usage,
            max: controller.max_usage_in_bytes(name).unwrap_or(0),
            failcnt: controller.failcnt(name).unwrap_or(0),
        };
        stats.hugetlb.insert(size, entry);
    }
}

/// The files of the schedulers and of throttling in order of preference; a group is taken when its
/// first file has figures, and the search is over when all files of a group were there.
fn blkio(dir: &Path) -> Result<Blkio> {
    type Slot = fn(&mut Blkio) -> &mut Vec<BlkioEntry>;
    type Field = (&'static str, Slot);
    const FIELDS: [Field; 8] = [
        ("sectors", |b| &mut b.sectors_recursive),
        ("io_service_time", |b| &mut b.io_service_time_recursive),
        ("io_wait_time", |b| &mut b.io_wait_time_recursive),
        ("io_merged", |b| &mut b.io_merged_recursive),
        ("io_queued", |b| &mut b.io_queued_recursive),
        ("time", |b| &mut b.io_time_recursive),
        ("io_serviced", |b| &mut b.io_serviced_recursive),
        ("io_service_bytes", |b| &mut b.io_service_bytes_recursive),
    ];
    const TRANSFERS: &[Field] = FIELDS.split_at(6).1;
    let groups: [(&str, &str, &[Field]); 5] = [
        ("blkio.bfq.", "_recursive", &FIELDS),
        ("blkio.bfq.", "_recursive", TRANSFERS),
        ("blkio.", "_recursive", &FIELDS),
        ("blkio.throttle.", "_recursive", TRANSFERS),
        ("blkio.throttle.", "", TRANSFERS),
    ];
    let mut stats = Blkio::default();
    for (prefix, suffix, fields) in groups {
        let mut complete = true;
        for (name, slot) in fields {
            let text = optional(&dir.join(format!("{prefix}{name}{suffix}")))?;
            let entries = text.map(|text| entries(&text)).unwrap_or_default();
            if entries.is_empty() {
                complete = false;
                break;
            }
            *slot(&mut stats) = entries;
        }
        if complete {
            break;
        }
    }
    Ok(stats)
}

/// Lines `8:0 Read 4096` or `8:0 4096`; a closing `Total 4096` is skipped.
fn entries(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split([' ', ':']);
            let (major, minor) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let (op, value) = match (fields.next()?, fields.next()) {
                (value, None) => ("", value),
                (op, Some(value)) => (op, value),
            };
            Some(BlkioEntry {
                major,
                minor,
                op: op.to_owned(),
                value: number(value)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_entries() {
        assert_eq!(ids("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(ids("\n"), [0_u16; 0]);
        let got = entries("259:70000 Read 5\n8:16 9\nTotal 14\n");
        let want = [
            BlkioEntry {
                major: 259,
                minor: 70_000,
                op: "Read".into(),
                value: 5,
            },
            BlkioEntry {
                major: 8,
                minor: 16,
                op: String::new(),
                value: 9,
            },
        ];
        assert_eq!(got, want);
    }
}
