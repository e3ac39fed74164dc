//! `rcrun exec`.

use std::path::PathBuf;

use rcrun_runtime::container::ExecOptions;
use rcrun_runtime::error::{Error, Result};
use rcrun_runtime::spec::load;

use super::container::given;
use crate::settings::Settings;

/// execute new process inside the container
#[derive(Debug, clap::Parser)]
#[command(name = "exec", disable_help_flag = true)]
pub(crate) struct Exec {
    /// path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal
    #[arg(long, value_name = "string")]
    console_socket: Option<PathBuf>,
    /// path to an AF_UNIX socket which will receive a file descriptor referencing the exec process
    #[arg(long, value_name = "string")]
    pidfd_socket: Option<PathBuf>,
    /// current working directory in the container
    #[arg(long, value_name = "string")]
    cwd: Option<PathBuf>,
    /// set environment variables
    #[arg(long, short, value_name = "string")]
    env: Vec<String>,
    /// allocate a pseudo-TTY
    #[arg(long, short)]
    tty: bool,
    /// UID (format: <uid>[:<gid>])
    #[arg(long, short, value_name = "string")]
    user: Option<String>,
    /// additional gids
    #[arg(long, short = 'g', value_name = "int")]
    additional_gids: Vec<String>,
    /// path to the process.json
    #[arg(long, short, value_name = "string")]
    process: Option<PathBuf>,
    /// detach from the container's process
    #[arg(long, short)]
    detach: bool,
    /// specify the file to write the process id to
    #[arg(long, value_name = "string")]
    pid_file: Option<PathBuf>,
    /// set the asm process label for the process commonly used with selinux
    #[arg(long, value_name = "string")]
    process_label: Option<String>,
    /// set the apparmor profile for the process
    #[arg(long, value_name = "string")]
    apparmor: Option<String>,
    /// set the no new privileges value for the process
    #[arg(long)]
    no_new_privs: Option<bool>,
    /// add a capability to the bounding set for the process
    #[arg(long, short, value_name = "string")]
    cap: Vec<String>,
    /// Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)
    #[arg(long, value_name = "int", default_value_t = 0)]
    preserve_fds: u32,
    /// run the process in an (existing) sub-cgroup(s). Format is [<controller>:]<cgroup>.
    #[arg(long, value_name = "string")]
    cgroup: Vec<String>,
    /// allow exec in a paused container
    #[arg(long)]
    ignore_paused: bool,
    /// disable the use of the subreaper used to reap reparented processes
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// wait for the process also with --console-socket
    #[arg(long, hide = true)]
    attend: bool,
    id: String,
    command: Vec<String>,
}

impl crate::verbs::Run for Exec {
    fn run(self, settings: &Settings) -> Result<u8> {
        let id = self.id.clone();
        let options = self.options()?;
        crate::verbs::exit_code(settings.runtime.exec(&id, &options)?)
    }
}

impl Exec {
    fn options(self) -> Result<ExecOptions> {
        let process = match given(self.process) {
            Some(path) => Some(load::process(&path)?),
            None if self.command.is_empty() => {
                return Err(Error::invalid("exec args cannot be empty"));
            }
            None => None,
        };
        let user = self.user.filter(|text| !text.is_empty());
        Ok(ExecOptions {
            process,
            args: self.command,
            env: self.env,
            cwd: given(self.cwd),
            user: user.as_deref().map(parse_user).transpose()?,
            additional_gids: self
                .additional_gids
                .iter()
                .map(|t| gid(t))
                .collect::<Result<_>>()?,
            tty: self.tty,
            caps: self.cap,
            no_new_privs: self.no_new_privs,
            apparmor: self.apparmor.filter(|text| !text.is_empty()),
            process_label: self.process_label.filter(|text| !text.is_empty()),
            detach: self.detach,
            detach_keys: Vec::new(),
            pid_file: given(self.pid_file),
            console_socket: given(self.console_socket),
            pidfd_socket: given(self.pidfd_socket),
            preserve_fds: self.preserve_fds,
            ignore_paused: self.ignore_paused,
            cgroup: self.cgroup,
            no_subreaper: self.no_subreaper,
            attend: self.attend,
        })
    }
}

/// `UID[:GID]`: numbers only, never names, and never the value that means "leave as it is".
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let gid = gid.map(|gid| number("gid", gid)).transpose()?;
    Ok((number("uid", uid)?, gid))
}

fn gid(text: &str) -> Result<u32> {
    if text.starts_with('-') {
        let message = format!("additional-gids must be a positive number {text}");
        return Err(Error::invalid(message));
    }
    number("gid", text)
}

fn number(what: &str, text: &str) -> Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number.filter(|number| *number != u32::MAX).ok_or_else(|| {
        Error::invalid(format!(
            "bad {what}: {text:?} is not a number between 0 and 4294967294"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        for (text, expected) in [
            ("0", (0, None)),
            ("1000:2000", (1000, Some(2000))),
            ("01", (1, None)),
            ("4294967294", (4_294_967_294, None)),
        ] {
            assert_eq!(parse_user(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_number_or_wraps_is_refused() {
        for text in [
            "4294967295",
            "4294967296",
            "99999999999",
            "-1",
            "+1",
            " 1",
            "1 ",
            "root",
            "",
            "1000:4294967296",
            "1000:",
            ":5",
            "1:2:3",
            "0x1",
        ] {
            assert!(parse_user(text).is_err(), "{text}");
        }
        let message = gid("-3").unwrap_err().to_string();
        assert_eq!(message, "additional-gids must be a positive number -3");
    }
}
