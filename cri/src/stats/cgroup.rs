//! What a cgroup has used, from as few files as tell it: with many pods these are read every few seconds.
//!
//! cgroup v1: `cpuacct`, `memory`, `pids`, and pressure of the cgroup2 beside it; cgroup v2: one directory.
//! [`super::detail`] has what only metrics tell. A cgroup that goes meanwhile has used
//! nothing: that is no error.

use std::collections::HashMap;
use std::path::Path;

use rcrun_runtime::cgroup::{Cgroup, Hierarchy, Request};
use rcrun_runtime::container::CgroupDriver;
use rustix::fs::{Mode, OFlags};

use crate::Result;
use crate::records::now;

/// At least this means no limit of cgroup v1 (`PAGE_COUNTER_MAX` in bytes, rounded to pages of any size).
const NO_LIMIT: u64 = i64::MAX as u64 & !0xf_ffff;

/// What is read of a file at once: more than any but `io.stat` has.
const PIECE: usize = 8 << 10;
/// What is read of a file.
const LONGEST: usize = 1 << 20;

/// At a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample {
    /// Nanoseconds since the epoch.
    pub(crate) at: i64,
    /// Nanoseconds of processors.
    pub(crate) cpu: Option<u64>,
    pub(crate) memory: Option<Memory>,
    pub(crate) processes: Option<u64>,
    pub(crate) pressure: [Option<Pressure>; 3],
}

/// Bytes, and counts of faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) usage: u64,
    /// Without what the kernel could give back at once.
    pub(crate) working_set: u64,
    pub(crate) rss: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) faults: u64,
    pub(crate) major_faults: u64,
    pub(crate) swap: Option<u64>,
    pub(crate) swap_limit: Option<u64>,
}

/// Pressure stall information, of cgroup v2: some and full, each the averages and the total (microseconds).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pressure {
    pub(crate) some: Stalled,
    pub(crate) full: Stalled,
}

/// A line of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Stalled {
    pub(crate) averages: [f64; 3],
    pub(crate) total: u64,
}

/// A cgroup, given by its path in each hierarchy.
pub(crate) fn find(path: &str) -> Result<Cgroup> {
    let annotations = HashMap::new();
    Cgroup::resolve(&Request {
        id: "",
        cgroups_path: Some(Path::new(path)),
        driver: CgroupDriver::Files,
        resources: None,
        annotations: &annotations,
        rootless: true,
    })
}

/// Reads it.
pub(crate) fn read(path: &str) -> Result<Sample> {
    Ok(sample(&find(path)?))
}

pub(super) fn sample(cgroup: &Cgroup) -> Sample {
    let at = now();
    match (cgroup.hierarchy, cgroup.unified()) {
        (Hierarchy::Unified, Some(directory)) => unified(at, directory),
        (_, beside) => legacy(at, |name| cgroup.controller(name), beside),
    }
}

/// On a hybrid host the processes are in a cgroup2 as well, which knows how long they were stalled.
fn legacy<'a>(
    at: i64,
    controller: impl Fn(&str) -> Option<&'a Path>,
    beside: Option<&Path>,
) -> Sample {
    let in_memory = |name: &str| number(controller("memory"), name);
    let memory = in_memory("memory.usage_in_bytes").map(|usage| {
        let stat = Words::read(controller("memory"), "memory.stat");
        let with_swap = in_memory("memory.memsw.usage_in_bytes");
        let memory = limit(in_memory("memory.limit_in_bytes"));
        let both = limit(in_memory("memory.memsw.limit_in_bytes"));
        Memory {
            usage,
            working_set: usage.saturating_sub(stat.or_none("total_inactive_file")),
            rss: stat.or_none("total_rss"),
            limit: memory,
            faults: stat.or_none("total_pgfault"),
            major_faults: stat.or_none("total_pgmajfault"),
            swap: with_swap.map(|all| all.saturating_sub(usage)),
            swap_limit: both
                .zip(memory)
                .map(|(both, memory)| both.saturating_sub(memory)),
        }
    });
    Sample {
        at,
        cpu: number(controller("cpuacct"), "cpuacct.usage"),
        memory,
        processes: number(controller("pids"), "pids.current"),
        pressure: beside.map_or([None; 3], pressures),
    }
}

fn unified(at: i64, directory: &Path) -> Sample {
    let pressure = pressures(directory);
    let directory = Some(directory);
    let memory = number(directory, "memory.current").map(|usage| {
        let stat = Words::read(directory, "memory.stat");
        Memory {
            usage,
            working_set: usage.saturating_sub(stat.or_none("inactive_file")),
            rss: stat.or_none("anon"),
            limit: number(directory, "memory.max"),
            faults: stat.or_none("pgfault"),
            major_faults: stat.or_none("pgmajfault"),
            swap: number(directory, "memory.swap.current"),
            swap_limit: number(directory, "memory.swap.max"),
        }
    });
    let cpu = Words::read(directory, "cpu.stat").get("usage_usec");
    Sample {
        at,
        cpu: cpu.map(|microseconds| microseconds.saturating_mul(1000)),
        memory,
        processes: number(directory, "pids.current"),
        pressure,
    }
}

fn pressures(directory: &Path) -> [Option<Pressure>; 3] {
    ["cpu.pressure", "memory.pressure", "io.pressure"]
        .map(|name| text(Some(directory), name).and_then(|text| pressure(&text)))
}

/// What is no limit in cgroup v1 is none here.
pub(super) fn limit(value: Option<u64>) -> Option<u64> {
    value.filter(|limit| *limit < NO_LIMIT)
}

/// A file of a cgroup: opened, read at once, closed. The kernel makes its text when it is read, and gives all of
/// it that there is room for (kernfs, `seq_read`), so that a piece which does not fill the buffer is the last.
pub(super) fn text(directory: Option<&Path>, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory?.join(name), flags, Mode::empty()).ok()?;
    let mut all = Vec::new();
    let mut piece = [0; PIECE];
    while all.len() < LONGEST {
        let count = rustix::io::read(&file, &mut piece).ok()?;
        all.extend_from_slice(&piece[..count]);
        if count < PIECE {
            break;
        }
    }
    String::from_utf8(all).ok()
}

pub(super) fn number(directory: Option<&Path>, name: &str) -> Option<u64> {
    text(directory, name)?.trim().parse().ok()
}

/// Lines of a name and a number.
#[derive(Debug, Default)]
pub(super) struct Words(String);

impl Words {
    /// Of a file that need not be there.
    pub(super) fn read(directory: Option<&Path>, name: &str) -> Self {
        Self(text(directory, name).unwrap_or_default())
    }

    pub(super) fn get(&self, name: &str) -> Option<u64> {
        let mut lines = self.0.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse().ok()
    }

    /// What is not there is 0.
    pub(super) fn or_none(&self, name: &str) -> u64 {
        self.get(name).unwrap_or(0)
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`.
fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let stalled = match fields.next()? {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _ => continue,
        };
        for field in fields {
            let (name, value) = field.split_once('=')?;
            match name {
                "avg10" => stalled.averages[0] = value.parse().ok()?,
                "avg60" => stalled.averages[1] = value.parse().ok()?,
                "avg300" => stalled.averages[2] = value.parse().ok()?,
                "total" => stalled.total = value.parse().ok()?,
                _ => {}
            }
        }
    }
    Some(pressure)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::stats) fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn cgroup_v1() {
        let directory = directory(&[
            ("cpuacct.usage", "123456\n"),
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.limit_in_bytes", "5000\n"),
            ("memory.memsw.usage_in_bytes", "1100\n"),
            ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            (
                "memory.stat",
                "rss 1\ntotal_rss 400\ntotal_inactive_file 300\ntotal_pgfault 7\n",
            ),
            ("pids.current", "3\n"),
        ]);
        let found = legacy(9, |_| Some(directory.path()), None);
        let memory = Memory {
            usage: 1000,
            working_set: 700,
            rss: 400,
            limit: Some(5000),
            faults: 7,
            major_faults: 0,
            swap: Some(100),
            swap_limit: None,
        };
        assert_eq!(found.memory, Some(memory));
        assert_eq!(
            (found.at, found.cpu, found.processes),
            (9, Some(123_456), Some(3))
        );
        assert_eq!(found.pressure, [None; 3]);
    }

    #[test]
    fn a_hybrid_host_knows_of_pressure() {
        let line = "some avg10=0.50 avg60=0.00 avg300=0.00 total=9\n";
        let directory = directory(&[("cpu.pressure", line)]);
        let found = legacy(9, |_| None, Some(directory.path()));
        assert_eq!(found.pressure[0].unwrap().some.total, 9);
        assert_eq!(found.pressure[1], None);
    }

    #[test]
    fn cgroup_v2() {
        let directory = directory(&[
            ("cpu.stat", "usage_usec 50\nuser_usec 20\n"),
            ("memory.current", "1000\n"),
            ("memory.max", "max\n"),
            (
                "memory.stat",
                "anon 400\ninactive_file 1300\npgfault 7\npgmajfault 2\n",
            ),
            ("pids.current", "3\n"),
            (
                "io.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.25 total=5\n",
            ),
        ]);
        let found = unified(9, directory.path());
        let memory = found.memory.unwrap();
        assert_eq!(
            (memory.working_set, memory.rss, memory.limit),
            (0, 400, None)
        );
        assert_eq!((memory.faults, memory.major_faults), (7, 2));
        assert_eq!(found.cpu, Some(50_000));
        let io = found.pressure[2].unwrap();
        assert_eq!((io.some.averages[0], io.some.total), (1.5, 77));
        assert_eq!((io.full.averages[2], io.full.total), (0.25, 5));
        assert_eq!(found.pressure[0], None);
    }

    #[test]
    fn names_are_whole_words() {
        let words = Words("rss_huge 1\nrss 2\nfile\nx -1\n".to_owned());
        assert_eq!(
            (words.get("rss"), words.get("rss_huge")),
            (Some(2), Some(1))
        );
        for none in ["file", "x", "ss", ""] {
            assert_eq!(words.get(none), None, "{none}");
        }
        assert_eq!(words.or_none("x"), 0);
    }

    #[test]
    fn a_cgroup_that_is_gone_has_used_nothing() {
        let gone = Path::new("/sys/fs/cgroup/no/such");
        assert_eq!(
            unified(1, gone),
            Sample {
                at: 1,
                ..Sample::default()
            }
        );
        assert_eq!(
            legacy(1, |_| Some(gone), Some(gone)),
            Sample {
                at: 1,
                ..Sample::default()
            }
        );
    }
}
