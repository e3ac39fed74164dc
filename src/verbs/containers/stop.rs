//! `rcrun stop`: asks, waits, kills. Several at the same time; of two who stop the same one, the less
//! patient one decides.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::get_with_record;
use crate::containers::{Container, Init, Record, Status, wait_for};
use crate::settings::Settings;
use crate::verbs::oci::parse_signal;
use crate::{output, report};

/// How long a killed process may take to go.
const KILL_TIME: Duration = Duration::from_secs(10);
const KILL: i32 = 9;

/// ask containers to end, and kill those that do not in time
#[derive(Debug, clap::Parser)]
#[command(name = "stop", disable_help_flag = true)]
pub(crate) struct Stop {
    #[command(flatten)]
    how: HowFlags,
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Stop {
    fn run(self, settings: &Settings) -> Result<u8> {
        let how = self.how.read()?;
        let mut stopping = Vec::new();
        let asked = report::each(&self.names, |name| {
            let (_, container, record) = get_with_record(settings, name)?;
            stopping.push(Stopping::ask(name, container, record, &how)?);
            Ok(())
        });
        all_ended(&mut stopping)?;
        let ended = report::each(stopping, |one| {
            one.finish()?;
            output::print(&format!("{}\n", one.name))
        });
        asked.and(ended).map(|()| 0)
    }
}

/// The flags that say how.
#[derive(Debug, clap::Args)]
pub(super) struct HowFlags {
    /// seconds until it is killed (default: the container's own, or 10; -1: never)
    #[arg(
        long,
        short,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    time: Option<i64>,
    /// signal that asks it to end (default: the container's own)
    #[arg(long, short, value_name = "SIGNAL")]
    signal: Option<String>,
}

impl HowFlags {
    pub(super) fn read(&self) -> Result<How> {
        let signal = self.signal.as_deref().map(parse_signal).transpose()?;
        let time = self.time;
        Ok(How { time, signal })
    }
}

/// How a container is asked, beyond what its record says.
#[derive(Debug, Default)]
pub(super) struct How {
    /// Seconds; negative: for ever.
    time: Option<i64>,
    signal: Option<i32>,
}

impl How {
    /// How long it has; none for ever.
    fn time(&self, record: &Record) -> Option<Duration> {
        match self.time {
            Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
            None => record.stop_timeout.map(Duration::from_secs),
        }
    }
}

/// A container that was asked to end.
#[derive(Debug)]
pub(super) struct Stopping {
    name: String,
    container: Container,
    record: Record,
    /// None when there was nothing to stop.
    init: Option<Init>,
    /// When it is killed, or given up once it was.
    deadline: Option<Instant>,
    killed: bool,
    failed: Option<Error>,
}

impl Stopping {
    pub(super) fn ask(name: &str, container: Container, record: Record, how: &How) -> Result<Self> {
        let failed = || format!("cannot stop container {name}");
        let init = container.init(&record).context(failed)?;
        let mut one = Self {
            name: name.to_owned(),
            deadline: how.time(&record).map(|time| Instant::now() + time),
            container,
            record,
            init,
            killed: false,
            failed: None,
        };
        if one.init.is_none() {
            return Ok(one);
        }
        let signal = match one.container.status(&one.record).context(failed)? {
            // Its init hears nothing but that.
            Status::Created => KILL,
            _ => how.signal.unwrap_or(one.record.stop_signal),
        };
        if how.time == Some(0) {
            one.kill().context(failed)?;
        } else {
            one.send(signal).context(failed)?;
            // Frozen, it could not follow.
            if matches!(one.container.status(&one.record), Ok(Status::Paused(_))) {
                let _ = one.record.runtime().resume(one.container.id());
            }
        }
        Ok(one)
    }

    fn send(&self, signal: i32) -> Result<()> {
        match self
            .record
            .runtime()
            .kill(self.container.id(), signal, false)
        {
            // It ended by itself, or was removed.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::FailedPrecondition | ErrorKind::NotFound
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn kill(&mut self) -> Result<()> {
        self.killed = true;
        self.deadline = Some(Instant::now() + KILL_TIME);
        self.send(KILL)
    }

    fn is_over(&self) -> bool {
        self.init.is_none() || self.failed.is_some()
    }

    /// Something is due: the signal, or giving up.
    fn advance(&mut self) {
        let late = self.deadline.is_some_and(|at| at <= Instant::now());
        if self.is_over() || !late {
            return;
        }
        let outcome = match self.killed {
            false => self.kill(),
            true => Err(Error::new(
                ErrorKind::Deadline,
                "it did not end within 10 s of SIGKILL",
            )),
        };
        self.failed = outcome.err();
    }

    /// Its end is on the disk, so that whoever looks next sees it.
    pub(super) fn finish(&self) -> Result<()> {
        let failed = || format!("cannot stop container {}", self.name);
        if let Some(error) = &self.failed {
            let error = Error::new(error.kind(), error.chain().to_string());
            return Err(error).context(failed);
        }
        self.container.await_record(&self.record).context(failed)?;
        Ok(())
    }
}

/// Waits until all have ended, and kills each at its time.
pub(super) fn all_ended(all: &mut [Stopping]) -> Result<()> {
    loop {
        let waiting: Vec<usize> = (0..all.len()).filter(|at| !all[*at].is_over()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let next = waiting.iter().filter_map(|at| all[*at].deadline).min();
        let time = next.map(|at| at.saturating_duration_since(Instant::now()));
        let fds: Vec<_> = waiting
            .iter()
            .filter_map(|at| all[*at].init.as_ref())
            .map(|init| init.pidfd.as_fd())
            .collect();
        let ready = wait_for(&fds, time)?;
        for (at, ready) in waiting.into_iter().zip(ready) {
            match ready {
                true => all[at].init = None,
                false => all[at].advance(),
            }
        }
    }
}
