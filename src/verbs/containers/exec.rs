//! `rcrun exec`, people's form.

use std::io::IsTerminal;
use std::path::PathBuf;

use rcrun_runtime::container::ExecOptions;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rcrun_runtime::monitor;
use rcrun_runtime::template::capabilities::of_mask;
use rustix::fs::{Mode, OFlags};

use super::run::code_of;
use super::{get_with_record, not_running};
use crate::containers::spec::words;
use crate::containers::{Container, Record, Status};
use crate::settings::Settings;

pub(super) const USAGE: &str = "CONTAINER COMMAND [ARGUMENT...]

Its exit code is the command's; 126 is a command that cannot be executed, and 127
one that does not exist.";

/// run another command in a container
#[derive(Debug, clap::Parser)]
#[command(name = "exec", disable_help_flag = true)]
pub(crate) struct Exec {
    /// leave it in the background
    #[arg(long, short)]
    detach: bool,
    /// keys that leave it running, with --tty: ctrl-p,ctrl-q; '' for none (default: the container's)
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// set a variable; without a value it is taken from rcrun's own environment
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// file with variables, one in a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// give it your standard input
    #[arg(long, short)]
    interactive: bool,
    /// give it all capabilities
    #[arg(long)]
    privileged: bool,
    /// give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// user or uid, and group or gid after a colon
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// working directory
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// The container, and the command.
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

impl crate::verbs::Run for Exec {
    fn run(self, settings: &Settings) -> Result<u8> {
        let Some((name, args)) = self.command.split_first() else {
            return Err(Error::invalid("it takes a container"));
        };
        if args.is_empty() {
            return Err(Error::invalid("it takes a command"));
        }
        let (_, container, record) = get_with_record(settings, name)?;
        match container.status(&record)? {
            Status::Running(_) => {}
            Status::Paused(_) => {
                let text = format!("container {name} is paused");
                return Err(Error::new(ErrorKind::FailedPrecondition, text)
                    .with_hint(format!("`rcrun unpause {name}` lets it go on")));
            }
            Status::Created | Status::Exited(_) => return Err(not_running(name)),
        }
        if self.tty && self.interactive && !self.detach && !std::io::stdin().is_terminal() {
            return Err(Error::invalid(
                "--tty and --interactive: standard input is not a terminal",
            )
            .with_hint("leave out -t"));
        }
        let options = self.options(&container, &record, args)?;
        if !self.interactive || self.detach {
            close_input()?;
        }
        match record.runtime().exec(container.id(), &options) {
            Ok(code) => crate::verbs::exit_code(code),
            Err(error) => code_of(error),
        }
    }
}

impl Exec {
    fn options(
        &self,
        container: &Container,
        record: &Record,
        args: &[String],
    ) -> Result<ExecOptions> {
        let mut env = Vec::new();
        if self.tty {
            env.push("TERM=xterm".to_owned());
        }
        for path in &self.env_file {
            let text = std::fs::read_to_string(path)
                .context(|| format!("--env-file: cannot read {}", path.display()))?;
            for line in words::lines(&text) {
                env.extend(variable(line)?);
            }
        }
        for text in &self.env {
            env.extend(variable(text)?);
        }
        let keys = self.detach_keys.as_deref().unwrap_or(&record.detach_keys);
        let mut options = ExecOptions {
            args: args.to_vec(),
            env,
            cwd: self.workdir.clone(),
            tty: self.tty,
            detach: self.detach,
            detach_keys: monitor::parse_keys(keys).context(|| "--detach-keys")?,
            ..ExecOptions::default()
        };
        if let Some(user) = self.user.as_deref().filter(|user| !user.is_empty()) {
            let root = container.living_root(record)?;
            let accounts = root.map(|root| root.accounts()).transpose()?;
            let identity = accounts.unwrap_or_default().identity(user, &[])?;
            options.user = Some((identity.uid, Some(identity.gid)));
            options.additional_gids = identity.additional;
        }
        if self.privileged {
            let all = of_mask(all_capabilities()?);
            options.caps = all.into_iter().map(str::to_owned).collect();
            options.no_new_privs = Some(false);
        }
        Ok(options)
    }
}

/// `NAME=VALUE`; `NAME` is our own one, if we have it.
fn variable(text: &str) -> Result<Option<String>> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    if name.is_empty() {
        return Err(Error::invalid(format!("variable {text:?} has no name")));
    }
    Ok(value.map(|value| format!("{name}={value}")))
}

/// All that this process may hand on.
fn all_capabilities() -> Result<u64> {
    let text =
        std::fs::read_to_string("/proc/self/status").context(|| "cannot read /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "cannot find CapBnd in /proc/self/status",
            )
        })
}

/// The command reads nothing of ours.
fn close_input() -> Result<()> {
    let failed = || "cannot close standard input";
    let null = rustix::fs::open(
        c"/dev/null",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    rustix::stdio::dup2_stdin(null.context(failed)?).context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let home = std::env::var("PATH").unwrap();
        for (text, expected) in [
            ("A=b=c", Some(Some("A=b=c".to_owned()))),
            ("A=", Some(Some("A=".to_owned()))),
            ("PATH", Some(Some(format!("PATH={home}")))),
            ("RCRUN_NO_SUCH_VARIABLE", Some(None)),
            ("=x", None),
            ("", None),
        ] {
            assert_eq!(variable(text).ok(), expected, "{text}");
        }
    }
}
