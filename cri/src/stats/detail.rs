//! What a cgroup tells beyond [`super::cgroup`], which only metrics ask for: kinds of memory, throttling,
//! limits, block devices, huge pages.
//!
//! Kernel: Documentation/admin-guide/cgroup-v1/{memory,cpuacct,blkio-controller}.rst, cgroup-v2.rst,
//! scheduler/sched-bwc.rst. A file that is not there is no figure; nothing is made up for it.

use std::path::Path;

use rcrun_runtime::cgroup::{Cgroup, Hierarchy};

use super::cgroup::{Words, limit, number, text};

/// `cpuacct.stat` counts in these on every architecture that Linux has kept (USER_HZ).
const TICK: u64 = 1_000_000_000 / 100;
/// Most devices whose figures are told, and most sizes of huge pages.
const MOST_DEVICES: usize = 256;
const MOST_SIZES: usize = 16;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Detail {
    pub(super) cpu: Cpu,
    pub(super) memory: Memory,
    /// Tasks that there may be; absent: any number.
    pub(super) tasks_max: Option<u64>,
    pub(super) huge: Vec<Huge>,
    pub(super) moved: Vec<Moved>,
}

/// Times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) user: u64,
    pub(super) system: u64,
    pub(super) periods: u64,
    pub(super) throttled_periods: u64,
    pub(super) throttled: u64,
    /// Microseconds.
    pub(super) period: Option<u64>,
    /// Microseconds of each period; absent: all of it.
    pub(super) quota: Option<u64>,
    pub(super) shares: Option<u64>,
}

/// Bytes, and counts of faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) cache: u64,
    pub(super) mapped: u64,
    pub(super) kernel: u64,
    pub(super) active_file: u64,
    pub(super) inactive_file: u64,
    /// The most that there ever was.
    pub(super) most: u64,
    /// How often the limit was hit; cgroup v1 only.
    pub(super) hits: u64,
    /// Faults and major ones, without those of cgroups below where the kernel tells.
    pub(super) own_faults: [u64; 2],
    pub(super) oom_kills: u64,
    pub(super) reservation: Option<u64>,
    /// Of memory and swap together with cgroup v1, of swap with v2, as the kernel limits it.
    pub(super) swap_limit: Option<u64>,
}

/// Huge pages of a size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Huge {
    /// As `2MB`.
    pub(super) size: String,
    pub(super) usage: u64,
    /// The most that there ever was; cgroup v1 only.
    pub(super) most: Option<u64>,
}

/// What went to and from a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) device: (u32, u32),
    /// `Read`, `Write`, `Discard`; with cgroup v1 also `Sync`, `Async` and `Total`.
    pub(super) operation: &'static str,
    pub(super) bytes: u64,
    pub(super) count: u64,
}

/// Operations as cgroup v1 calls them, with v2's fields.
const OPERATIONS: [(&str, &str, &str); 6] = [
    ("Read", "rbytes", "rios"),
    ("Write", "wbytes", "wios"),
    ("Discard", "dbytes", "dios"),
    ("Sync", "", ""),
    ("Async", "", ""),
    ("Total", "", ""),
];

pub(super) fn read(cgroup: &Cgroup) -> Detail {
    match (cgroup.hierarchy, cgroup.unified()) {
        (Hierarchy::Unified, Some(directory)) => unified(directory),
        (_, beside) => legacy(|name| cgroup.controller(name), beside),
    }
}

fn legacy<'a>(controller: impl Fn(&str) -> Option<&'a Path>, beside: Option<&'a Path>) -> Detail {
    let (cpu, used) = (controller("cpu"), controller("cpuacct"));
    let times = Words::read(used, "cpuacct.stat");
    let throttling = Words::read(cpu, "cpu.stat");
    Detail {
        cpu: Cpu {
            user: times.or_none("user").saturating_mul(TICK),
            system: times.or_none("system").saturating_mul(TICK),
            periods: throttling.or_none("nr_periods"),
            throttled_periods: throttling.or_none("nr_throttled"),
            throttled: throttling.or_none("throttled_time"),
            period: number(cpu, "cpu.cfs_period_us"),
            // -1 is no number here.
            quota: number(cpu, "cpu.cfs_quota_us"),
            shares: number(cpu, "cpu.shares"),
        },
        memory: legacy_memory(controller("memory")),
        tasks_max: number(controller("pids"), "pids.max"),
        huge: huge(controller("hugetlb").or(beside)),
        moved: legacy_moved(controller("blkio")),
    }
}

fn legacy_memory(directory: Option<&Path>) -> Memory {
    let stat = Words::read(directory, "memory.stat");
    let of = |name: &str| number(directory, name);
    Memory {
        cache: stat.or_none("total_cache"),
        mapped: stat.or_none("total_mapped_file"),
        kernel: of("memory.kmem.usage_in_bytes").unwrap_or(0),
        active_file: stat.or_none("total_active_file"),
        inactive_file: stat.or_none("total_inactive_file"),
        most: of("memory.max_usage_in_bytes").unwrap_or(0),
        hits: of("memory.failcnt").unwrap_or(0),
        own_faults: ["pgfault", "pgmajfault"].map(|name| stat.or_none(name)),
        oom_kills: Words::read(directory, "memory.oom_control").or_none("oom_kill"),
        reservation: limit(of("memory.soft_limit_in_bytes")),
        swap_limit: limit(of("memory.memsw.limit_in_bytes")),
    }
}

fn unified(path: &Path) -> Detail {
    let directory = Some(path);
    let stat = Words::read(directory, "cpu.stat");
    let micro = |name: &str| stat.or_none(name).saturating_mul(1000);
    let bandwidth = text(directory, "cpu.max").unwrap_or_default();
    let mut bandwidth = bandwidth.split_whitespace().map(|word| word.parse().ok());
    let (quota, period) = (bandwidth.next().flatten(), bandwidth.next().flatten());
    let memory = Words::read(directory, "memory.stat");
    Detail {
        cpu: Cpu {
            user: micro("user_usec"),
            system: micro("system_usec"),
            periods: stat.or_none("nr_periods"),
            throttled_periods: stat.or_none("nr_throttled"),
            throttled: micro("throttled_usec"),
            period,
            quota,
            shares: number(directory, "cpu.weight").map(shares),
        },
        memory: Memory {
            cache: memory.or_none("file"),
            mapped: memory.or_none("file_mapped"),
            kernel: memory.or_none("kernel"),
            active_file: memory.or_none("active_file"),
            inactive_file: memory.or_none("inactive_file"),
            most: number(directory, "memory.peak").unwrap_or(0),
            hits: 0,
            own_faults: ["pgfault", "pgmajfault"].map(|name| memory.or_none(name)),
            oom_kills: Words::read(directory, "memory.events").or_none("oom_kill"),
            reservation: number(directory, "memory.low"),
            swap_limit: number(directory, "memory.swap.max"),
        },
        tasks_max: number(directory, "pids.max"),
        huge: huge(directory),
        moved: unified_moved(&text(directory, "io.stat").unwrap_or_default()),
    }
}

/// The shares that a weight was made of, as [`rcrun_runtime::cgroup`] makes it: there
/// `log10(weight) = (l * l + 125 * l) / 612 - 7 / 34`, where `l` is `log2(shares)`.
fn shares(weight: u64) -> u64 {
    // 10000 at most, as the kernel has it.
    let weight = f64::from(u32::try_from(weight.clamp(1, 10_000)).unwrap_or(1));
    let root = (125.0_f64 * 125.0 + 4.0 * 612.0 * (weight.log10() + 7.0 / 34.0)).sqrt();
    let shares = f64::midpoint(root, -125.0)
        .exp2()
        .round()
        .clamp(2.0, 262_144.0);
    // In these bounds.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let shares = shares as u64;
    shares
}

/// `hugetlb.2MB.current`; v1: `hugetlb.2MB.usage_in_bytes` and `hugetlb.2MB.max_usage_in_bytes`.
fn huge(directory: Option<&Path>) -> Vec<Huge> {
    let Some(entries) = directory.and_then(|path| std::fs::read_dir(path).ok()) else {
        return Vec::new();
    };
    let one = |name: String| {
        let rest = name.strip_prefix("hugetlb.")?;
        let (size, file) = rest.split_once('.')?;
        if !matches!(file, "current" | "usage_in_bytes") {
            return None;
        }
        Some(Huge {
            usage: number(directory, &name)?,
            most: number(directory, &format!("hugetlb.{size}.max_usage_in_bytes")),
            size: size.to_owned(),
        })
    };
    let mut all: Vec<Huge> = entries
        .filter_map(|entry| one(entry.ok()?.file_name().into_string().ok()?))
        .take(MOST_SIZES)
        .collect();
    all.sort_unstable_by(|a, b| a.size.cmp(&b.size));
    all
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines `MAJOR:MINOR OPERATION COUNT` of two files; those of BFQ where the other way counts nothing.
fn legacy_moved(directory: Option<&Path>) -> Vec<Moved> {
    let read = |prefix: &str, name: &str| {
        text(directory, &format!("blkio.{prefix}.{name}_recursive")).unwrap_or_default()
    };
    let mut all = Vec::new();
    for prefix in ["throttle", "bfq"] {
        let counts = read(prefix, "io_serviced");
        for line in read(prefix, "io_service_bytes").lines() {
            if all.len() >= MOST_DEVICES * OPERATIONS.len() {
                break;
            }
            let Some((start, bytes)) = line.rsplit_once(' ') else {
                continue;
            };
            let mut words = start.split(' ');
            let (Some(device), Some(operation)) = (words.next().and_then(device), words.next())
            else {
                continue;
            };
            let known = OPERATIONS.iter().find(|(name, ..)| *name == operation);
            let (Some((operation, ..)), Ok(bytes)) = (known, bytes.parse()) else {
                continue;
            };
            let count = counts
                .lines()
                .find_map(|line| line.strip_prefix(start)?.strip_prefix(' ')?.parse().ok());
            all.push(Moved {
                device,
                operation,
                bytes,
                count: count.unwrap_or(0),
            });
        }
        if !all.is_empty() {
            break;
        }
    }
    all
}

/// Lines `MAJOR:MINOR rbytes=0 wbytes=0 rios=0 wios=0 dbytes=0 dios=0`.
fn unified_moved(text: &str) -> Vec<Moved> {
    let mut all = Vec::new();
    for line in text.lines().take(MOST_DEVICES) {
        let mut words = line.split_whitespace();
        let Some(device) = words.next().and_then(device) else {
            continue;
        };
        let fields: Vec<(&str, u64)> = words
            .filter_map(|word| {
                let (name, value) = word.split_once('=')?;
                Some((name, value.parse().ok()?))
            })
            .collect();
        let field = |wanted: &str| {
            let found = fields.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| *value)
        };
        for (operation, bytes, count) in OPERATIONS {
            let Some(bytes) = field(bytes) else { continue };
            all.push(Moved {
                device,
                operation,
                bytes,
                count: field(count).unwrap_or(0),
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::tests::directory;
    use super::*;

    fn moved(device: (u32, u32), operation: &'static str, bytes: u64, count: u64) -> Moved {
        Moved {
            device,
            operation,
            bytes,
            count,
        }
    }

    #[test]
    fn cgroup_v1() {
        let directory = directory(&[
            ("cpuacct.stat", "user 12\nsystem 3\n"),
            (
                "cpu.stat",
                "nr_periods 9\nnr_throttled 4\nthrottled_time 77\n",
            ),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.cfs_quota_us", "-1\n"),
            ("cpu.shares", "512\n"),
            (
                "memory.stat",
                "cache 1\nmapped_file 1\npgfault 5\npgmajfault 1\ntotal_cache 10\ntotal_mapped_file 11\n\
                 total_active_file 12\ntotal_inactive_file 13\ntotal_pgfault 99\n",
            ),
            ("memory.kmem.usage_in_bytes", "14\n"),
            ("memory.max_usage_in_bytes", "15\n"),
            ("memory.failcnt", "16\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
            ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
            ("memory.memsw.limit_in_bytes", "4096\n"),
            ("pids.max", "max\n"),
            ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
            ("hugetlb.2MB.rsvd.usage_in_bytes", "1\n"),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 100\n8:0 Write 200\n8:0 Total 300\nTotal 300\n",
            ),
            (
                "blkio.throttle.io_serviced_recursive",
                "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
            ),
            ("blkio.bfq.io_service_bytes_recursive", "8:0 Read 7\n"),
        ]);
        let found = legacy(|_| Some(directory.path()), None);
        let cpu = Cpu {
            user: 120_000_000,
            system: 30_000_000,
            periods: 9,
            throttled_periods: 4,
            throttled: 77,
            period: Some(100_000),
            quota: None,
            shares: Some(512),
        };
        assert_eq!(found.cpu, cpu);
        let memory = Memory {
            cache: 10,
            mapped: 11,
            kernel: 14,
            active_file: 12,
            inactive_file: 13,
            most: 15,
            hits: 16,
            own_faults: [5, 1],
            oom_kills: 2,
            reservation: None,
            swap_limit: Some(4096),
        };
        assert_eq!((found.memory, found.tasks_max), (memory, None));
        let huge = Huge {
            size: "2MB".to_owned(),
            usage: 2_097_152,
            most: Some(4_194_304),
        };
        assert_eq!(found.huge, [huge]);
        let all = [("Read", 100, 1), ("Write", 200, 2), ("Total", 300, 3)];
        let all = all.map(|(operation, bytes, count)| moved((8, 0), operation, bytes, count));
        assert_eq!(found.moved, all);
    }

    #[test]
    fn cgroup_v2() {
        let directory = directory(&[
            (
                "cpu.stat",
                "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\nthrottled_usec 1\n",
            ),
            ("cpu.max", "20000 100000\n"),
            ("cpu.weight", "100\n"),
            (
                "memory.stat",
                "anon 1\nfile 20\nkernel 21\nfile_mapped 22\nactive_file 23\ninactive_file 24\npgfault 6\n",
            ),
            ("memory.peak", "25\n"),
            ("memory.low", "0\n"),
            ("memory.swap.max", "max\n"),
            ("memory.events", "low 0\nmax 8\noom 3\noom_kill 2\n"),
            ("pids.max", "100\n"),
            ("hugetlb.1GB.current", "0\n"),
            ("hugetlb.1GB.rsvd.current", "5\n"),
            (
                "io.stat",
                "259:1 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \nx rbytes=1\n",
            ),
        ]);
        let found = unified(directory.path());
        assert_eq!(
            (found.cpu.user, found.cpu.system, found.cpu.throttled),
            (5000, 4000, 1000)
        );
        let limits = (found.cpu.period, found.cpu.quota, found.cpu.shares);
        assert_eq!(limits, (Some(100_000), Some(20_000), Some(1024)));
        let memory = found.memory;
        assert_eq!(
            (memory.cache, memory.mapped, memory.kernel, memory.most),
            (20, 22, 21, 25)
        );
        assert_eq!(
            (memory.hits, memory.oom_kills, memory.own_faults),
            (0, 2, [6, 0])
        );
        assert_eq!((memory.reservation, memory.swap_limit), (Some(0), None));
        assert_eq!(found.tasks_max, Some(100));
        assert_eq!((found.huge.len(), found.huge[0].most), (1, None));
        let device = (259, 1);
        let all = [
            moved(device, "Read", 1, 3),
            moved(device, "Write", 2, 4),
            moved(device, "Discard", 5, 6),
        ];
        assert_eq!(found.moved, all);
        // No bandwidth is limited.
        std::fs::write(directory.path().join("cpu.max"), "max 50000\n").unwrap();
        let cpu = unified(directory.path()).cpu;
        assert_eq!((cpu.quota, cpu.period), (None, Some(50_000)));
    }

    #[test]
    fn what_is_gone_is_nothing() {
        let gone = Path::new("/sys/fs/cgroup/no/such");
        assert_eq!(unified(gone), Detail::default());
        assert_eq!(legacy(|_| Some(gone), Some(gone)), Detail::default());
        assert_eq!(legacy(|_| None, None), Detail::default());
    }

    #[test]
    fn weights_come_from_shares() {
        for (weight, expected) in [
            (1, 2),
            (100, 1024),
            (10_000, 262_144),
            (0, 2),
            (u64::MAX, 262_144),
        ] {
            assert_eq!(shares(weight), expected, "{weight}");
        }
    }

    #[test]
    fn a_flood_of_devices_is_cut() {
        let text: String = (0..100_000)
            .map(|n| format!("8:{n} rbytes=1 rios=1\n"))
            .collect();
        assert_eq!(unified_moved(&text).len(), MOST_DEVICES);
    }
}
