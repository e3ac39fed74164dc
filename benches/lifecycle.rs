//! Times the life of a container beside another runtime, in one run, one after the other.
//!
//! ```text
//! RCRUN_PEER=/usr/bin/crun RCRUN_ROUNDS=100 cargo bench --bench lifecycle
//! ```
//!
//! Prints for each job the median and the minimum in milliseconds, the peak memory of the largest
//! process in KiB and its minor page faults; and the ratio of the medians. Needs root and
//! busybox-static. On a noisy machine only the ratios mean something.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// First argument of the small process that runs a command and says what it took.
const MEASURE: &str = "measure-one";

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == MEASURE) {
        return measure(&words[2..]);
    }
    if !support::asked_for() {
        return;
    }
    let rounds = std::env::var("RCRUN_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    let mut runtimes = vec![PathBuf::from(support::RCRUN)];
    runtimes.extend(std::env::var_os("RCRUN_PEER").map(PathBuf::from));
    let name = format!("rcrun-lifecycle-{}", std::process::id());
    let work = Work(std::env::temp_dir().join(name));
    let mut results = Results::default();
    let sides: Vec<Side> = runtimes
        .iter()
        .enumerate()
        .map(|(n, path)| Side::new(&work.0, n, path))
        .collect();
    for side in &sides {
        side.call(&["run", "--detach", "--bundle", side.long(), side.id("long")]);
    }
    for round in 0..=rounds {
        for turn in 0..sides.len() {
            // Whoever is second profits from warm caches: take turns. The first round is for warming up.
            let side = &sides[(turn + round) % sides.len()];
            let figures = side.round();
            if round > 0 {
                results.add(side.number, figures);
            }
        }
    }
    results.print(&runtimes);
}

/// Runs one command and prints nanoseconds, peak KiB and page faults. A process of its own, since
/// the kernel keeps these figures as the maximum over all children.
fn measure(words: &[String]) {
    let begin = Instant::now();
    let status = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    let time = begin.elapsed().as_nanos();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    assert!(status.success(), "{words:?}: {status}");
    // Some end their answer without a new line.
    println!(
        "\nmeasured {time} {} {}",
        usage.max_rss(),
        usage.minor_page_faults()
    );
}

/// What one command took.
#[derive(Clone, Copy)]
struct Figure {
    time: Duration,
    peak: u64,
    faults: u64,
}

/// The directory of all sides, which goes with this; dropped after them.
struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One of the runtimes. Its containers go with it, also where a command of it failed.
struct Side {
    number: usize,
    program: String,
    state: String,
    short: String,
    long: String,
}

impl Drop for Side {
    fn drop(&mut self) {
        for name in ["short", "long"] {
            // What is not there (any more) cannot be deleted; the other may be.
            let _ = Command::new(&self.program)
                .args(["--root", &self.state, "delete", "--force", self.id(name)])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

impl Side {
    fn new(work: &Path, number: usize, program: &Path) -> Self {
        let own = work.join(number.to_string());
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        Self {
            number,
            program: text(program.to_owned()),
            state: text(own.join("state")),
            short: text(support::bundle(&own, "short", "true")),
            long: text(support::bundle(&own, "long", "sleep 1000000")),
        }
    }

    fn long(&self) -> &str {
        &self.long
    }

    /// An identifier of this side; leaked, as a benchmark has few of them.
    fn id(&self, name: &str) -> &'static str {
        format!("lifecycle-{}-{}-{name}", std::process::id(), self.number).leak()
    }

    #[track_caller]
    fn call(&self, words: &[&str]) -> Figure {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([MEASURE, &self.program, "--root", &self.state])
            .args(words)
            // A detached container must not hold the pipe that is read here.
            .stderr(Stdio::inherit())
            .stdout(std::fs::File::create(self.answer()).unwrap())
            .status()
            .unwrap();
        assert!(output.success(), "{} {words:?}", self.program);
        let text = std::fs::read_to_string(self.answer()).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("measured "))
            .unwrap();
        let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        let time = Duration::from_nanos(numbers[0]);
        Figure {
            time,
            peak: numbers[1],
            faults: numbers[2],
        }
    }

    fn answer(&self) -> String {
        format!("{}.answer", self.state)
    }

    /// Each job once.
    fn round(&self) -> Vec<(&'static str, Figure)> {
        let id = self.id("short");
        let run = self.call(&["run", "--bundle", &self.short, id]);
        let create = self.call(&["create", "--bundle", &self.short, id]);
        let start = self.call(&["start", id]);
        self.wait_until_stopped(id);
        let delete = self.call(&["delete", id]);
        let exec = self.call(&["exec", self.id("long"), "true"]);
        let state = self.call(&["state", self.id("long")]);
        let whole = Figure {
            time: create.time + start.time + delete.time,
            peak: create.peak.max(start.peak).max(delete.peak),
            faults: create.faults + start.faults + delete.faults,
        };
        vec![
            ("run", run),
            ("create+start+delete", whole),
            ("exec", exec),
            ("state", state),
        ]
    }

    fn wait_until_stopped(&self, id: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let state = Command::new(&self.program)
                .args(["--root", &self.state, "state", id])
                .output()
                .unwrap();
            if String::from_utf8_lossy(&state.stdout).contains("\"stopped\"") {
                return;
            }
            assert!(Instant::now() < deadline, "{id} does not end");
        }
    }
}

/// All figures, by job and runtime.
#[derive(Default)]
struct Results(BTreeMap<&'static str, BTreeMap<usize, Vec<Figure>>>);

impl Results {
    fn add(&mut self, side: usize, figures: Vec<(&'static str, Figure)>) {
        for (job, figure) in figures {
            self.0
                .entry(job)
                .or_default()
                .entry(side)
                .or_default()
                .push(figure);
        }
    }

    fn print(&self, runtimes: &[PathBuf]) {
        println!(
            "{:<20} {:>9} {:>9} {:>9} {:>8}  runtime",
            "job", "median ms", "min ms", "peak KiB", "faults"
        );
        for (job, sides) in &self.0 {
            let mut medians = Vec::new();
            for (side, figures) in sides {
                let mut figures = figures.clone();
                figures.sort_by_key(|figure| figure.time);
                let middle = figures[figures.len() / 2];
                let ms = |time: Duration| time.as_secs_f64() * 1e3;
                let peak = figures.iter().map(|figure| figure.peak).max().unwrap_or(0);
                println!(
                    "{job:<20} {:>9.2} {:>9.2} {peak:>9} {:>8}  {}",
                    ms(middle.time),
                    ms(figures[0].time),
                    middle.faults,
                    runtimes[*side].display()
                );
                medians.push(ms(middle.time));
            }
            if let [ours, peer] = medians[..] {
                println!("{job:<20} ratio {:.2}", ours / peer);
            }
        }
    }
}
