//! `rcrun start`, people's form, and `restart`.

use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Result};
use rcrun_runtime::monitor::When;

use super::attach::Attachment;
use super::run::code_of;
use super::stop::{HowFlags, Stopping, all_ended};
use super::{get_with_record, no_such};
use crate::containers::{Container, Containers, Record, Status, make, network};
use crate::images::{self, mounts};
use crate::settings::Settings;
use crate::{output, report};

/// start containers that have ended
#[derive(Debug, clap::Parser)]
#[command(name = "start", disable_help_flag = true)]
pub(crate) struct Start {
    /// be at its streams until it ends; the exit code is its own
    #[arg(long, short)]
    attach: bool,
    /// give it your standard input as well
    #[arg(long, short)]
    interactive: bool,
    /// keys that leave the container running: ctrl-p,ctrl-q; '' for none (default: its own)
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Start {
    fn run(self, settings: &Settings) -> Result<u8> {
        if !self.attach && !self.interactive {
            report::each(&self.names, |name| {
                let (containers, container, record) = get_with_record(settings, name)?;
                start(settings, &containers, &container, &record)
                    .context(|| format!("cannot start container {name}"))?;
                output::print(&format!("{name}\n"))
            })?;
            return Ok(0);
        }
        let [name] = self.names.as_slice() else {
            let text = "--attach and --interactive take one container";
            return Err(rcrun_runtime::error::Error::invalid(text));
        };
        let (containers, container, record) = get_with_record(settings, name)?;
        let attachment = Attachment {
            keys: self.detach_keys.as_deref(),
            stdin: self.interactive,
            proxy: true,
            lossless: true,
        };
        let failed = || format!("cannot start container {name}");
        let lock = container.lock().context(failed)?;
        if is_started(&container, &record).context(failed)? {
            drop(lock);
            let relay = attachment.begin(&container, &record)?;
            return attachment.stay(&container, &record, relay);
        }
        let begun =
            launch(settings, &containers, &container, &record, When::Later).and_then(|()| {
                let mut relay = attachment.begin(&container, &record)?;
                network::connect(settings, &container, &record)?;
                relay.start()?;
                Ok(relay)
            });
        let relay = match begun {
            Ok(relay) => relay,
            Err(error) => {
                network::give_up(&container, &record);
                return code_of(error.context(failed()));
            }
        };
        drop(lock);
        attachment.stay(&container, &record, relay)
    }
}

/// stop containers and start them again
#[derive(Debug, clap::Parser)]
#[command(name = "restart", disable_help_flag = true)]
pub(crate) struct Restart {
    #[command(flatten)]
    how: HowFlags,
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Restart {
    fn run(self, settings: &Settings) -> Result<u8> {
        let how = self.how.read()?;
        report::each(&self.names, |name| {
            let (containers, container, record) = get_with_record(settings, name)?;
            let mut stopping = [Stopping::ask(name, container, record, &how)?];
            all_ended(&mut stopping)?;
            stopping[0].finish()?;
            // With --rm it is gone now.
            let container = containers.find(name)?.ok_or_else(|| no_such(name))?;
            let record = container.record()?.ok_or_else(|| no_such(name))?;
            start(settings, &containers, &container, &record)
                .context(|| format!("cannot start container {name}"))?;
            output::print(&format!("{name}\n"))
        })?;
        Ok(0)
    }
}

/// Starts one; one that runs is what was wanted.
fn start(
    settings: &Settings,
    containers: &Containers,
    container: &Container,
    record: &Record,
) -> Result<()> {
    let _lock = container.lock()?;
    if is_started(container, record)? {
        return Ok(());
    }
    match record.network {
        None => launch(settings, containers, container, record, When::Now),
        Some(_) => {
            launch(settings, containers, container, record, When::Later)?;
            let started = network::start(settings, container, record);
            started.inspect_err(|_| network::give_up(container, record))
        }
    }
}

/// Whether its program runs. One that only waits for its start, while nobody holds its lock, waits for
/// somebody who was killed.
fn is_started(container: &Container, record: &Record) -> Result<bool> {
    Ok(match container.status(record)? {
        Status::Running(_) | Status::Paused(_) => true,
        Status::Created | Status::Exited(_) => false,
    })
}

/// Gives it a new life, under its lock: what is left of the last one goes first.
fn launch(
    settings: &Settings,
    containers: &Containers,
    container: &Container,
    record: &Record,
    when: When,
) -> Result<()> {
    mounts::refuse_writable(&record.snapshot.parse()?)?;
    images::restored(&Store::open(containers.store())?, record)?;
    container.forget(record)?;
    let launch = make::launch(settings, container, record, containers.store(), when);
    // The monitor is not waited for: it outlives us. It keeps the lock until the container is made.
    let started = launch.start(&settings.log_flags(), Some(container.fd()));
    started.map(drop)
}
