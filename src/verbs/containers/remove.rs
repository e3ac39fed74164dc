//! `rcrun rm`, which is also `delete` of a container that people made.

use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::{all, no_such};
use crate::containers::{Container, Containers, Status};
use crate::images::mounts;
use crate::settings::Settings;
use crate::{output, report};

/// remove containers
///
/// Works on a full disk. What was removed meanwhile by somebody else is no error.
#[derive(Debug, clap::Parser)]
#[command(name = "rm", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Remove {
    /// kill those that run; one that does not exist is no error
    #[arg(long, short)]
    force: bool,
    /// also volumes that were made for them without a name
    #[arg(long, short)]
    volumes: bool,
    /// one that ended by itself, whose monitor calls
    #[arg(long, hide = true)]
    exited: bool,
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Remove {
    fn run(self, settings: &Settings) -> Result<u8> {
        let containers = all(settings)?;
        let find = |name: &str| -> Result<Option<(&Containers, Container)>> {
            match &containers {
                Some(containers) => Ok(containers.find(name)?.map(|found| (containers, found))),
                None => Ok(None),
            }
        };
        report::each(&self.names, |name| {
            match find(name)? {
                Some((containers, container)) => {
                    let removed = match remove(containers, &container, self.force, self.volumes) {
                        Err(error) if error.kind() == ErrorKind::Corrupt && self.force => {
                            // Its record would say which runtime holds it: most likely the one of now.
                            containers.remove_damaged(&container, &settings.runtime)
                        }
                        Err(error) if error.kind() == ErrorKind::Corrupt => {
                            Err(error.with_hint("--force removes it all the same"))
                        }
                        other => other,
                    };
                    removed.context(|| format!("cannot remove container {name}"))?;
                }
                None if self.force || self.exited => return Ok(()),
                None => return Err(no_such(name)),
            }
            match self.exited {
                true => Ok(()),
                false => output::print(&format!("{name}\n")),
            }
        })?;
        Ok(0)
    }
}

/// Removes one; that it is gone already is what was wanted.
pub(super) fn remove(
    containers: &Containers,
    container: &Container,
    force: bool,
    volumes: bool,
) -> Result<()> {
    let lock = match container.lock() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let record = container.record()?;
    let with_volumes = volumes || record.as_ref().is_some_and(|record| record.auto_remove);
    if let Some(record) = &record
        && !force
    {
        let word = match container.status(record)? {
            Status::Running(_) => Some("running"),
            Status::Paused(_) => Some("paused"),
            Status::Created | Status::Exited(_) => None,
        };
        if let Some(word) = word {
            let text = format!("it is {word}");
            return Err(Error::new(ErrorKind::FailedPrecondition, text)
                .with_hint("stop it first, or use --force"));
        }
        mounts::refuse_mounted(&record.snapshot.parse()?)?;
    }
    // The runtime kills what runs and waits for its end.
    match with_volumes {
        true => containers.remove_with_volumes(container, &lock),
        false => containers.remove(container, &lock),
    }
}
