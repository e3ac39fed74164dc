//! `rcrun stats`: what containers use, from their cgroups, in docker's columns.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use rcrun_runtime::cgroup;
use rcrun_runtime::error::{ErrorKind, Result};
use serde::Serialize;

use super::list::found;
use super::{all, get_with_record};
use crate::containers::{Containers, Record, Status, short};
use crate::format::{self, Column, Format};
use crate::settings::Settings;
use crate::{output, report, units};

/// How long use of the processor is measured, and how often all is shown.
const PERIOD: Duration = Duration::from_secs(1);
/// Clears a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// show what containers use
#[derive(Debug, clap::Parser)]
#[command(name = "stats", disable_help_flag = true)]
pub(crate) struct Stats {
    /// also those that do not run
    #[arg(long, short)]
    all: bool,
    #[arg(long, value_name = "FORMAT", help = format::HELP, default_value = "table")]
    format: Format,
    /// only once
    #[arg(long)]
    no_stream: bool,
    /// whole identifiers
    #[arg(long)]
    no_trunc: bool,
    names: Vec<String>,
}

/// A line, with docker's names.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    container: String,
    #[serde(rename = "ID")]
    id: String,
    name: String,
    #[serde(rename = "CPUPerc")]
    cpu_perc: String,
    mem_usage: String,
    mem_perc: String,
    #[serde(rename = "NetIO")]
    net_io: String,
    #[serde(rename = "BlockIO")]
    block_io: String,
    #[serde(rename = "PIDs")]
    pids: u64,
}

const COLUMNS: [Column; 8] = [
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
];

/// What was measured at a moment.
#[derive(Debug)]
struct Sample {
    record: Record,
    at: Instant,
    /// None of a container that does not run.
    stats: Option<cgroup::stats::Stats>,
    network: (u64, u64),
}

impl crate::verbs::Run for Stats {
    fn run(self, settings: &Settings) -> Result<u8> {
        let containers = all(settings)?;
        for name in &self.names {
            get_with_record(settings, name)?;
        }
        let screen = !self.no_stream
            && std::io::stdout().is_terminal()
            && matches!(self.format, Format::Table);
        let mut before = self.samples(containers.as_ref())?;
        loop {
            std::thread::sleep(PERIOD);
            let now = self.samples(containers.as_ref())?;
            let rows: Vec<Row> = now.iter().map(|now| self.row(&before, now)).collect();
            let text = format::render(&rows, &self.format, &COLUMNS)?;
            let clear = if screen { CLEAR } else { "" };
            match output::print(&format!("{clear}{text}")) {
                Err(_) if !self.no_stream => return Ok(0),
                other => other?,
            }
            if self.no_stream {
                return Ok(0);
            }
            before = now;
        }
    }
}

impl Stats {
    fn samples(&self, containers: Option<&Containers>) -> Result<Vec<Sample>> {
        let Some(containers) = containers else {
            return Ok(Vec::new());
        };
        let mut samples = Vec::new();
        if self.names.is_empty() {
            for one in found(containers)? {
                if self.all || one.status.pid().is_some() {
                    samples.push(sample(one.record, &one.status)?);
                }
            }
            return Ok(samples);
        }
        report::each(&self.names, |name| {
            // Removed since: shown no more.
            let Some(container) = containers.find(name)? else {
                return Ok(());
            };
            if let Some(record) = container.record()? {
                let status = container.status(&record)?;
                samples.push(sample(record, &status)?);
            }
            Ok(())
        })?;
        Ok(samples)
    }

    fn row(&self, before: &[Sample], now: &Sample) -> Row {
        let record = &now.record;
        let id = match self.no_trunc {
            true => record.id.clone(),
            false => short(&record.id).to_owned(),
        };
        let mut row = Row {
            container: id.clone(),
            id,
            name: record.name.clone(),
            cpu_perc: "--".to_owned(),
            mem_usage: "-- / --".to_owned(),
            mem_perc: "--".to_owned(),
            net_io: "--".to_owned(),
            block_io: "--".to_owned(),
            pids: 0,
        };
        let Some(stats) = &now.stats else {
            return row;
        };
        let earlier = before.iter().find(|one| one.record.id == record.id);
        let used = earlier.and_then(|one| Some((one, one.stats.as_ref()?.cpu.usage.total)));
        if let Some((earlier, used)) = used {
            let used = stats.cpu.usage.total.saturating_sub(used);
            let passed = now.at.saturating_duration_since(earlier.at);
            row.cpu_perc = percent(u128::from(used), passed.as_nanos());
        }
        let (usage, limit) = memory(stats, total_memory());
        row.mem_usage = format!("{} / {}", binary(usage), binary(limit));
        row.mem_perc = percent(u128::from(usage), u128::from(limit));
        row.net_io = format!(
            "{} / {}",
            units::size(now.network.0),
            units::size(now.network.1)
        );
        let (read, written) = blocks(stats);
        row.block_io = format!("{} / {}", units::size(read), units::size(written));
        row.pids = stats.pids.current;
        row
    }
}

fn sample(record: Record, status: &Status) -> Result<Sample> {
    let stats = match status.pid().map(|_| record.runtime().stats(&record.id)) {
        // It ended meanwhile.
        Some(Err(error)) if error.kind() != ErrorKind::NotFound => return Err(error),
        Some(Ok(stats)) => Some(stats),
        _ => None,
    };
    Ok(Sample {
        at: Instant::now(),
        stats,
        network: status.pid().map(network).unwrap_or_default(),
        record,
    })
}

/// Bytes that the interfaces of a process's network namespace received and sent; loopback is nobody's.
fn network(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut sum = (0, 0);
    for line in text.lines() {
        let Some((name, figures)) = line.split_once(':') else {
            continue;
        };
        let figures: Vec<u64> = figures
            .split_whitespace()
            .filter_map(|figure| figure.parse().ok())
            .collect();
        if let ([received, _, _, _, _, _, _, _, sent, ..], true) = (&*figures, name.trim() != "lo")
        {
            sum = (sum.0 + received, sum.1 + sent);
        }
    }
    sum
}

/// Memory in use, without what only caches files and could be dropped at once; and the limit.
fn memory(stats: &cgroup::stats::Stats, total: u64) -> (u64, u64) {
    let memory = &stats.memory;
    let raw = |name: &str| memory.raw.get(name).copied();
    let idle = raw("total_inactive_file").or_else(|| raw("inactive_file"));
    let usage = memory.usage.usage.saturating_sub(idle.unwrap_or(0));
    let limit = match memory.usage.limit {
        0 => total,
        limit => limit.min(total),
    };
    (usage, limit)
}

/// The machine's memory in bytes.
fn total_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.map_or(u64::MAX, |kilobytes| kilobytes * 1024)
}

fn blocks(stats: &cgroup::stats::Stats) -> (u64, u64) {
    let sum = |op: &str| {
        let all = stats.blkio.io_service_bytes_recursive.iter();
        all.filter(|entry| entry.op.eq_ignore_ascii_case(op))
            .map(|entry| entry.value)
            .sum()
    };
    (sum("read"), sum("write"))
}

/// Two digits; nothing of nothing is nothing.
fn percent(part: u128, whole: u128) -> String {
    let hundredths = (part * 10_000).checked_div(whole).unwrap_or(0);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// Four digits and a binary unit, as docker has it for memory: `1.945GiB`.
fn binary(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    #[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut number = bytes as f64;
    while number >= 1000.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    let digits = match number {
        _ if unit == 0 => 0,
        n if n < 10.0 => 3,
        n if n < 100.0 => 2,
        _ => 1,
    };
    let text = format!("{number:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1536, "1.5KiB"),
            (6_127_616, "5.844MiB"),
            (2_088_370_176, "1.945GiB"),
            (536_870_912, "512MiB"),
        ] {
            assert_eq!(binary(bytes), text);
        }
        assert_eq!(percent(1, 3), "33.33%");
        assert_eq!(percent(3, 2), "150.00%");
        assert_eq!(percent(1, 0), "0.00%");
    }
}
