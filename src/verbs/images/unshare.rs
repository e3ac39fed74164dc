//! `rcrun unshare`: an ordinary user's namespace, to look at what is in it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rcrun_runtime::error::{Error, ErrorKind, Result};

use crate::settings::{Settings, in_user_namespace};

pub(super) const USAGE: &str = "[COMMAND [ARGUMENT...]]

The command, or else $SHELL, is root of the user namespace that an ordinary
user's containers are in: files of all their ids belong to it, and what
`rcrun mount` shows is to be seen by it and what it starts.";

/// run a command as root of your user namespace
#[derive(Debug, clap::Parser)]
#[command(name = "unshare", disable_help_flag = true)]
pub(crate) struct Unshare {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl crate::verbs::Run for Unshare {
    fn run(self, _: &Settings) -> Result<u8> {
        if !in_user_namespace() {
            let text = "root of the machine needs no user namespace";
            return Err(Error::new(ErrorKind::FailedPrecondition, text)
                .with_hint("call it as an ordinary user"));
        }
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
        let (program, arguments) = match self.command.split_first() {
            Some((program, arguments)) => (program.clone(), arguments.to_vec()),
            None => (shell, Vec::new()),
        };
        // Returns only if it failed.
        let error = Command::new(&program).args(arguments).exec();
        let failed = Error::from(error).context(format!("cannot execute {program}"));
        crate::report::tell(&failed);
        Ok(match failed.kind() {
            ErrorKind::NotFound => 127,
            _ => 126,
        })
    }
}
