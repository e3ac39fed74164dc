//! `rcrun run IMAGE`: from a name to a running container.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcrun_image::platform::Platform;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rcrun_runtime::monitor::{self, Client, Ended, Launch, Relay, RelayOptions, When};

use crate::containers::flags::ContainerFlags;
use crate::containers::make::{self, Made, Wanted};
use crate::containers::network;
use crate::containers::{Containers, Stdin};
use crate::output;
use crate::settings::Settings;

pub(crate) const USAGE: &str = "IMAGE [COMMAND [ARGUMENT...]]

Makes a container of an image and runs its command, or the one behind the image's
name. What is not in the store is pulled. In the foreground its streams are
yours, and its exit code is the verb's; with --detach a monitor of its own keeps
it, and the ID is printed. The verb itself fails with 125; 126 is a command that
cannot be executed, and 127 one that does not exist.

Root's containers have a network of their own with a way out; -p 8080:80 lets the
world in by the host's port 8080. Ordinary users have --network none and host.

`rcrun run [-b BUNDLE] [options] ID`, as with runc, runs a bundle. So does a
directory with a config.json in the place of an image, and an ID in such a
directory.";

/// run a container of an image
#[derive(Debug, clap::Parser)]
#[command(name = "run", disable_help_flag = true)]
pub(crate) struct RunImage {
    /// leave the container in the background and print its ID
    #[arg(long, short)]
    detach: bool,
    #[command(flatten)]
    container: ContainerFlags,
    /// when to pull the image
    #[arg(long, value_name = "WHEN", default_value = "missing", value_parser = ["missing", "always", "never"])]
    pull: String,
    /// print no progress of a pull
    #[arg(long, short)]
    quiet: bool,
    /// image for this platform: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// file to write the ID to, which must not exist
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    /// keys that leave the container running: ctrl-p,ctrl-q; '' for none
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// pass signals on to the container ('--sig-proxy=false': do not)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = ["true", "false"])]
    sig_proxy: String,
    /// The image, then the command: whatever stands behind the image is the container's.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "IMAGE [COMMAND]"
    )]
    words: Vec<String>,
}

impl RunImage {
    fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

impl crate::verbs::Run for RunImage {
    fn run(self, settings: &Settings) -> Result<u8> {
        let keys = self.detach_keys.as_deref();
        let keys = keys
            .map(monitor::parse_keys)
            .transpose()
            .context(|| "--detach-keys")?;
        self.check_terminal()?;
        if let Some(path) = self.cidfile.as_deref().filter(|path| path.exists()) {
            let text = format!("--cidfile: {} exists already", path.display());
            return Err(Error::new(ErrorKind::Exists, text));
        }
        let wanted = Wanted {
            image: self.image(),
            command: self.command(),
            flags: &self.container,
            pull: &self.pull,
            quiet: self.quiet,
            platform: self.platform.as_ref(),
            stdin: match (self.container.interactive, self.detach) {
                (false, _) => Stdin::None,
                (true, false) => Stdin::Once,
                (true, true) => Stdin::Open,
            },
            detach_keys: self.detach_keys.as_deref(),
        };
        let containers = Containers::open(settings.store()?.path())?;
        match make::make(settings, &containers, &wanted)? {
            Err(code) => Ok(code),
            Ok(made) => {
                let keys = keys.unwrap_or_else(|| monitor::DETACH_KEYS.to_vec());
                let begun = self.begin(settings, &made, keys);
                if begun.is_err() {
                    // Nothing of it ever ran: there is nothing to look at.
                    let lock = made.container.made();
                    if let Err(error) = containers.remove_with_volumes(&made.container, &lock) {
                        tracing::warn!("{}", error.chain());
                    }
                }
                begun
            }
        }
    }
}

/// What a verb returns whose program could not be executed.
pub(super) fn code_of(error: Error) -> Result<u8> {
    let text = error.chain().to_string();
    let of_program = text
        .split(": ")
        .any(|part| part == "exec" || part.starts_with("exec "));
    if !of_program {
        return Err(error);
    }
    crate::report::tell(&error);
    Ok(match error.kind() {
        ErrorKind::NotFound => 127,
        _ => 126,
    })
}

impl RunImage {
    fn check_terminal(&self) -> Result<()> {
        use std::io::IsTerminal;
        let flags = &self.container;
        if flags.tty && flags.interactive && !self.detach && !std::io::stdin().is_terminal() {
            return Err(Error::invalid(
                "--tty and --interactive: standard input is not a terminal",
            )
            .with_hint("leave out -t, or run it in the background with -d"));
        }
        Ok(())
    }

    /// From a record to a container that runs, and to its end.
    fn begin(&self, settings: &Settings, made: &Made, keys: Vec<u8>) -> Result<u8> {
        if let Some(path) = &self.cidfile {
            write_id(path, made.container.id())?;
        }
        let bridged = made.record.network.is_some();
        let when = match self.detach && !bridged {
            true => When::Now,
            false => When::Later,
        };
        let launch = made.launch(settings, when)?;
        let flags = settings.log_flags();
        let mut started = match launch.start(&flags, Some(made.container.fd())) {
            Ok(started) => started,
            Err(error) => return self.failed(made, error),
        };
        if self.detach {
            if bridged && let Err(error) = network::start(settings, &made.container, &made.record) {
                return self.failed(made, error);
            }
            drop(made.container.made());
            output::print(&format!("{}\n", made.container.id()))?;
            return Ok(0);
        }
        let relay = self.attach(&launch, keys).and_then(|mut relay| {
            network::connect(settings, &made.container, &made.record)?;
            relay.start()?;
            Ok(relay)
        });
        let relay = match relay {
            Ok(relay) => relay,
            Err(error) => return self.failed(made, error),
        };
        drop(made.container.made());
        let ended = self.stay(settings, made, relay)?;
        if matches!(ended, Ended::Exit(_)) {
            // With --rm it also removes the container, which is to be gone when we are.
            started
                .monitor
                .wait()
                .context(|| "cannot wait for the monitor")?;
        }
        self.code(made, &ended)
    }

    /// A container that could not be started is removed, whatever the reason.
    fn failed(&self, made: &Made, error: Error) -> Result<u8> {
        let code = code_of(error)?;
        let containers = Containers::open(&made.store)?;
        containers.remove_with_volumes(&made.container, &made.container.made())?;
        Ok(code)
    }

    fn attach(&self, launch: &Launch, detach_keys: Vec<u8>) -> Result<Relay> {
        let client = Client::connect(&launch.runtime.root, &launch.id)?;
        let options = RelayOptions {
            stdin: self.container.interactive,
            output: true,
            lossless: true,
            detach_keys,
        };
        Relay::attach(client, options)
    }

    fn stay(&self, settings: &Settings, made: &Made, relay: Relay) -> Result<Ended> {
        let mut forward = |signal| match settings.runtime.kill(made.container.id(), signal, false) {
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
        match self.sig_proxy == "true" {
            true => relay.run(Some(&mut forward)),
            false => relay.run(None),
        }
    }

    fn code(&self, made: &Made, ended: &Ended) -> Result<u8> {
        match ended {
            Ended::Exit(exit) => crate::verbs::exit_code(exit.code),
            Ended::Detached => Ok(0),
            Ended::Interrupted(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
            Ended::Dropped | Ended::Gone => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the monitor of container {} was killed",
                    made.container.id()
                ),
            )),
        }
    }
}

fn write_id(path: &Path, id: &str) -> Result<()> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o644);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(id.as_bytes()));
    written.context(|| format!("--cidfile: cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn what_stands_behind_the_image_is_the_containers() {
        for (line, memory, words) in [
            ("-m 1g app", Some("1g"), &["app"][..]),
            ("app -m 1g", None, &["app", "-m", "1g"]),
            ("app --help -c x", None, &["app", "--help", "-c", "x"]),
            ("--rm app -- a", None, &["app", "--", "a"]),
            ("-- app -h", None, &["app", "-h"]),
        ] {
            let parsed =
                RunImage::try_parse_from(["run"].into_iter().chain(line.split(' '))).unwrap();
            assert_eq!(parsed.container.memory.as_deref(), memory, "{line}");
            assert_eq!(parsed.words, words, "{line}");
        }
        RunImage::try_parse_from(["run", "--no-such-flag", "app"]).unwrap_err();
        RunImage::try_parse_from(["run", "--rm"]).unwrap_err();
    }
}
