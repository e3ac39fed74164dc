//! `rcrun ps`.

use std::process::Command;

use rcrun_runtime::error::{Context, Error, ErrorKind};

use crate::output;
use crate::settings::Settings;

/// ps displays the processes running inside a container
#[derive(Debug, clap::Parser)]
#[command(name = "ps", disable_help_flag = true)]
pub(crate) struct Ps {
    /// select one of: table or json
    #[arg(long, short, value_name = "string", default_value = "table")]
    format: String,
    id: String,
    options: Vec<String>,
}

impl crate::verbs::Run for Ps {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        let pids = settings.runtime.processes(&self.id)?;
        match self.format.as_str() {
            "json" => output::json_line(&Some(pids).filter(|pids| !pids.is_empty()))?,
            "table" => output::print(&select(&host_ps(&self.options)?, &pids)?)?,
            _ => return Err(Error::invalid("invalid format option")),
        }
        Ok(0)
    }
}

/// What ps(1) of the host prints with these options.
pub(in crate::verbs) fn host_ps(options: &[String]) -> Result<String, Error> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    }
    let output = command
        .args(options)
        .output()
        .context(|| "cannot run ps(1)")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Err(Error::invalid(format!("{}: {said}", output.status)))
}

/// The header of `listing` and the lines whose PID column is one of `pids`.
pub(in crate::verbs) fn select(listing: &str, pids: &[i32]) -> Result<String, Error> {
    let mut lines = listing.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::invalid("couldn't find PID field in ps output"))?;
    let mut text = format!("{header}\n");
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let field = line.split_whitespace().nth(column).unwrap_or_default();
        let pid: i32 = field.parse().map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                format!("unable to parse pid {field:?}: {e}"),
            )
        })?;
        if pids.contains(&pid) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::select;

    #[test]
    fn only_the_container_is_shown() {
        let listing = "USER   PID COMMAND\nroot     1 init\nroot    12 sh -c 1\nroot   112 x\n";
        let text = select(listing, &[12]).unwrap();
        assert_eq!(text, "USER   PID COMMAND\nroot    12 sh -c 1\n");
        assert!(select("USER COMMAND\n", &[12]).is_err());
        assert!(select("PID\nx\n", &[12]).is_err());
    }
}
