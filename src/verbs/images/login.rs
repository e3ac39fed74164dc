//! `rcrun login` and `rcrun logout`.

use std::io::{IsTerminal, Read};

use rcrun_image::reference::{DEFAULT_HOST, check_host};
use rcrun_image::registry::{Client, Credential, Secret};
use rcrun_runtime::error::{Context, Error, Result};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use crate::settings::Settings;
use crate::{images, output, progress};

pub(super) const USAGE: &str = "[HOST]

HOST is a registry such as registry.example.org:5000; without it docker.io is
meant. Credentials are kept where docker and podman find them: in the file
that $REGISTRY_AUTH_FILE names, else in $DOCKER_CONFIG/config.json
(~/.docker/config.json), or in the credential helper which that file names.";

/// The longest password that is read.
const MAX_SECRET: u64 = 64 << 10;

/// log in to a registry
#[derive(Debug, clap::Parser)]
#[command(name = "login", disable_help_flag = true)]
pub(crate) struct Login {
    /// keep credentials in this file
    #[arg(long, value_name = "FILE")]
    authfile: Option<String>,
    /// password; others can see it in the list of processes
    #[arg(
        long,
        short,
        value_name = "PASSWORD",
        conflicts_with = "password_stdin"
    )]
    password: Option<String>,
    /// read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// user name
    #[arg(long, short, value_name = "NAME")]
    username: Option<String>,
    host: Option<String>,
}

impl crate::verbs::Run for Login {
    fn run(self, settings: &Settings) -> Result<u8> {
        let host = host(self.host.as_deref())?;
        let options = images::options(settings, self.authfile.as_deref())?;
        let credentials = options.credentials.clone();
        let Some(credential) = self.credential(&host)? else {
            return Ok(130);
        };
        Client::login(options, &host, &credential)?;
        credentials.store(&host, &credential)?;
        output::print("Login Succeeded\n")?;
        Ok(0)
    }
}

impl Login {
    /// What was given or is asked for; none if it was called off.
    fn credential(&self, host: &str) -> Result<Option<Credential>> {
        let terminal = std::io::stdin().is_terminal();
        let missing = |what: &str| {
            Error::invalid(format!(
                "cannot log in to {host}: there is no terminal to ask for the {what}"
            ))
            .with_hint("give --username NAME and --password-stdin")
        };
        let user = match &self.username {
            Some(user) => user.clone(),
            None if self.password_stdin => {
                return Err(Error::invalid("--password-stdin needs --username"));
            }
            None if terminal => match ask("Username: ", false)? {
                Some(user) => user,
                None => return Ok(None),
            },
            None => return Err(missing("user name")),
        };
        let password = match &self.password {
            Some(password) => password.clone(),
            None if self.password_stdin => {
                let mut text = String::new();
                std::io::stdin()
                    .take(MAX_SECRET)
                    .read_to_string(&mut text)
                    .context(|| "cannot read the password from standard input")?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            None if terminal => match ask("Password: ", true)? {
                Some(password) => password,
                None => return Ok(None),
            },
            None => return Err(missing("password")),
        };
        if user.is_empty() || password.is_empty() {
            return Err(Error::invalid("user name and password must not be empty"));
        }
        let password = Secret::new(password);
        Ok(Some(Credential::Basic { user, password }))
    }
}

/// Reads a line at the terminal; none after Ctrl-C or Ctrl-D. The terminal is as before afterwards:
/// its signals are off meanwhile, so that none can end this process in between.
fn ask(prompt: &str, hidden: bool) -> Result<Option<String>> {
    let terminal = std::io::stdin();
    let before = tcgetattr(&terminal).context(|| "cannot read the terminal's settings")?;
    let mut raw = before.clone();
    let off = LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO;
    raw.local_modes.remove(off);
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(&terminal, OptionalActions::Now, &raw)
        .context(|| "cannot change the terminal's settings")?;
    progress::to_stderr(prompt);
    let read = read_line(hidden);
    let restored = tcsetattr(&terminal, OptionalActions::Now, &before);
    progress::to_stderr("\n");
    restored.context(|| "cannot restore the terminal's settings")?;
    read
}

fn read_line(hidden: bool) -> Result<Option<String>> {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let mut byte = [0];
        let count = rustix::io::read(std::io::stdin(), &mut byte)
            .context(|| "cannot read from the terminal")?;
        match byte[0] {
            _ if count == 0 => return Ok(None),
            3 | 4 => return Ok(None),
            b'\r' | b'\n' => break,
            8 | 127 => {
                // A whole character, of however many bytes.
                while bytes.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
                if !hidden {
                    progress::to_stderr("\x08 \x08");
                }
            }
            21 => bytes.clear(),
            byte if bytes.len() as u64 <= MAX_SECRET => {
                bytes.push(byte);
                if !hidden {
                    progress::to_stderr(&String::from_utf8_lossy(&[byte]));
                }
            }
            _ => {}
        }
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| Error::invalid("what was typed is not valid UTF-8"))
}

/// forget the credentials for a registry
#[derive(Debug, clap::Parser)]
#[command(name = "logout", disable_help_flag = true)]
pub(crate) struct Logout {
    /// forget those in this file
    #[arg(long, value_name = "FILE")]
    authfile: Option<String>,
    host: Option<String>,
}

impl crate::verbs::Run for Logout {
    fn run(self, settings: &Settings) -> Result<u8> {
        let host = host(self.host.as_deref())?;
        let credentials = images::options(settings, self.authfile.as_deref())?.credentials;
        let text = match credentials.erase(&host)? {
            true => format!("Removed the credentials for {host}\n"),
            false => format!("Not logged in to {host}\n"),
        };
        output::print(&text)?;
        Ok(0)
    }
}

/// The registry's name; people also paste its address.
fn host(given: Option<&str>) -> Result<String> {
    let text = given.unwrap_or(DEFAULT_HOST);
    let text = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text)
        .trim_end_matches('/');
    let host = match text {
        "index.docker.io/v1" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_HOST,
        other => other,
    };
    check_host(host).context(|| format!("invalid registry {host:?}"))?;
    Ok(host.to_owned())
}
