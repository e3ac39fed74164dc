//! How a container stands: what the runtime says of it, and the record of its end.

use std::os::fd::BorrowedFd;

use rcrun_overlay::durable;
use rcrun_runtime::container::{self, Runtime};
use rcrun_runtime::error::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::{Container, Record};

/// The record of the end, which the monitor writes.
pub(super) const FILE: &str = "exit";
const VERSION: u32 = 1;
const LIMIT: u64 = 64 << 10;

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Exit {
    version: u32,
    /// Exit code; 128 + N of a process that signal N ended.
    pub(crate) code: i32,
    /// That signal.
    pub(crate) signal: Option<i32>,
    /// The kernel killed something for lack of memory.
    #[serde(default)]
    pub(crate) oom: bool,
    /// RFC 3339, UTC.
    pub(crate) finished_at: String,
}

impl From<rcrun_runtime::monitor::Exit> for Exit {
    fn from(exit: rcrun_runtime::monitor::Exit) -> Self {
        Self {
            version: exit.version,
            code: exit.code,
            signal: exit.signal,
            oom: exit.oom,
            finished_at: exit.finished_at,
        }
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    /// Not started yet.
    Created,
    /// Its program runs; the pid of that.
    Running(i32),
    /// The same, frozen.
    Paused(i32),
    /// It ended; nobody knows how if the machine or the monitor died first.
    Exited(Option<Exit>),
}

impl Status {
    /// Docker's word.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Exited(_) => "exited",
        }
    }

    /// Whether it has processes.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self, Self::Exited(_))
    }

    /// The pid of its first process.
    pub(crate) fn pid(&self) -> Option<i32> {
        match self {
            Self::Running(pid) | Self::Paused(pid) => Some(*pid),
            Self::Created | Self::Exited(_) => None,
        }
    }
}

impl Container {
    /// How it stands now.
    pub(crate) fn status(&self, record: &Record) -> Result<Status> {
        // The runtime first: a container that ended in between has the record of its end by then.
        let state = alive(&record.runtime(), self.id())?;
        Ok(match state {
            Some(status) => status,
            None => Status::Exited(self.exit()?),
        })
    }

    /// The record of its end.
    pub(crate) fn exit(&self) -> Result<Option<Exit>> {
        read(self.fd())
    }
}

/// What the runtime says of a container that has a process.
fn alive(runtime: &Runtime, id: &str) -> Result<Option<Status>> {
    let report = match runtime.state(id) {
        Ok(report) => report,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // Killed before its record was written: nothing of it runs.
        Err(error) if error.kind() == ErrorKind::FailedPrecondition => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(match report.status {
        container::Status::Creating | container::Status::Created => Some(Status::Created),
        container::Status::Running => Some(Status::Running(report.pid)),
        container::Status::Paused => Some(Status::Paused(report.pid)),
        container::Status::Stopped => None,
    })
}

fn read(directory: BorrowedFd<'_>) -> Result<Option<Exit>> {
    let Some(bytes) = durable::read(directory, FILE, LIMIT)? else {
        return Ok(None);
    };
    let exit: Exit = serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(ErrorKind::Corrupt, format!("cannot read {FILE}: {e}")))?;
    match exit.version {
        VERSION => Ok(Some(exit)),
        other => Err(Error::unsupported(format!(
            "the record of the end has version {other}, this program knows version {VERSION} only"
        ))),
    }
}
