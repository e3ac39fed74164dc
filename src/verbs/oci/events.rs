//! `rcrun events`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rcrun_runtime::cgroup::oom::{self, Watch};
use rcrun_runtime::cgroup::stats::Stats;
use rcrun_runtime::error::{Context, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::size;
use crate::output;
use crate::settings::Settings;

/// display container events such as OOM notifications, cpu, memory, and IO usage statistics
///
/// The events command displays information about the container. By default the
/// information is displayed once every 5 seconds.
#[derive(Debug, clap::Parser)]
#[command(name = "events", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Events {
    /// set the stats collection interval
    #[arg(long, value_name = "duration", default_value = "5s", value_parser = size::duration)]
    interval: Duration,
    /// display the container's stats then exit
    #[arg(long)]
    stats: bool,
    id: String,
}

/// One line of output.
#[derive(Debug, Serialize)]
struct Event<'a, T> {
    r#type: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

impl crate::verbs::Run for Events {
    fn run(self, settings: &Settings) -> Result<u8> {
        if self.interval.is_zero() {
            return Err(Error::invalid("duration interval must be greater than 0"));
        }
        if self.stats {
            self.print(settings.runtime.stats(&self.id)?)?;
        } else {
            let mut watch = settings.runtime.oom_watch(&self.id)?;
            self.follow(settings, &mut watch)?;
        }
        Ok(0)
    }
}

impl Events {
    fn print(&self, stats: Stats) -> Result<()> {
        output::json_line(&Event {
            r#type: "stats",
            id: &self.id,
            data: Some(stats),
        })
    }

    /// Prints statistics on every tick and each OOM kill, until the cgroup is gone.
    fn follow(&self, settings: &Settings, watch: &mut Watch) -> Result<()> {
        let mut tick = Instant::now() + self.interval;
        loop {
            let left = tick.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tick = Instant::now() + self.interval;
                match settings.runtime.stats(&self.id) {
                    Ok(stats) => self.print(stats)?,
                    Err(error) => tracing::error!("{}", error.chain()),
                }
                continue;
            }
            if wait(watch, left)? {
                while let Some(seen) = watch.next()? {
                    if seen == oom::Event::Gone {
                        return Ok(());
                    }
                    let (r#type, id) = ("oom", self.id.as_str());
                    output::json_line(&Event::<()> {
                        r#type,
                        id,
                        data: None,
                    })?;
                }
            }
        }
    }
}

/// Whether the watch has something to say before the time is over.
fn wait(watch: &Watch, time: Duration) -> Result<bool> {
    let events = PollFlags::IN | PollFlags::PRI;
    let mut descriptors = [PollFd::from_borrowed_fd(watch.as_fd(), events)];
    let time = Timespec::try_from(time).ok();
    match poll(&mut descriptors, time.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno).context(|| "cannot wait for OOM events"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_type_and_id_first() {
        let line = |data| {
            serde_json::to_string(&Event {
                r#type: "oom",
                id: "c",
                data,
            })
            .unwrap()
        };
        assert_eq!(line(None), r#"{"type":"oom","id":"c"}"#);
        assert_eq!(line(Some(1)), r#"{"type":"oom","id":"c","data":1}"#);
    }
}
