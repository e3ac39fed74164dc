//! `rcrun attach`, and the attachment of `start -a`.

use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rcrun_runtime::monitor::{self, Client, Ended, Relay, RelayOptions};

use super::{get_with_record, not_running};
use crate::containers::{Container, Record, Status, Stdin};
use crate::settings::Settings;

/// be at the streams of a container that runs
///
/// The exit code is the container's. The detach keys leave it running.
#[derive(Debug, clap::Parser)]
#[command(name = "attach", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Attach {
    /// keys that leave the container running: ctrl-p,ctrl-q; '' for none (default: its own)
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// do not give it your standard input
    #[arg(long)]
    no_stdin: bool,
    /// pass signals on to the container ('--sig-proxy=false': do not)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = ["true", "false"])]
    sig_proxy: String,
    name: String,
}

impl crate::verbs::Run for Attach {
    fn run(self, settings: &Settings) -> Result<u8> {
        let (_, container, record) = get_with_record(settings, &self.name)?;
        match container.status(&record)? {
            Status::Running(_) | Status::Created => {}
            Status::Paused(_) => {
                let text = format!("container {} is paused", self.name);
                return Err(Error::new(ErrorKind::FailedPrecondition, text));
            }
            Status::Exited(_) => return Err(not_running(&self.name)),
        }
        let attachment = Attachment {
            keys: self.detach_keys.as_deref(),
            stdin: !self.no_stdin,
            proxy: self.sig_proxy == "true",
            lossless: false,
        };
        let relay = attachment.begin(&container, &record)?;
        attachment.stay(&container, &record, relay)
    }
}

/// How one is attached.
#[derive(Debug)]
pub(super) struct Attachment<'a> {
    pub(super) keys: Option<&'a str>,
    pub(super) stdin: bool,
    pub(super) proxy: bool,
    pub(super) lossless: bool,
}

impl Attachment<'_> {
    pub(super) fn begin(&self, container: &Container, record: &Record) -> Result<Relay> {
        let keys = self.keys.unwrap_or(&record.detach_keys);
        let detach_keys = monitor::parse_keys(keys).context(|| "--detach-keys")?;
        let client = Client::connect(&record.runtime.root, container.id())?;
        let options = RelayOptions {
            stdin: self.stdin && record.stdin != Stdin::None,
            output: true,
            lossless: self.lossless,
            detach_keys,
        };
        Relay::attach(client, options)
    }

    /// To the end of the container, or of the attachment; the exit code.
    pub(super) fn stay(&self, container: &Container, record: &Record, relay: Relay) -> Result<u8> {
        let runtime = record.runtime();
        let mut forward = |signal| match runtime.kill(container.id(), signal, false) {
            // It has just ended: that is what we are about to hear.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::FailedPrecondition
                ) =>
            {
                Ok(())
            }
            other => other,
        };
        let ended = match self.proxy {
            true => relay.run(Some(&mut forward)),
            false => relay.run(None),
        };
        let unavailable = |text: String| Err(Error::new(ErrorKind::Unavailable, text));
        match ended? {
            Ended::Exit(exit) => crate::verbs::exit_code(exit.code),
            Ended::Detached => Ok(0),
            Ended::Interrupted(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
            Ended::Dropped => unavailable(format!(
                "container {} writes faster than its output is read here",
                record.name
            )),
            Ended::Gone => unavailable(format!(
                "the monitor of container {} was killed",
                record.name
            )),
        }
    }
}
