//! The host's program git, run so that neither the host's configuration nor a repository decides
//! what is executed.

use rcrun_image::registry::Notice;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::address::Address;
use super::{Secret, Settings};
use crate::{Context, Error, ErrorKind, Result};

/// What git may answer.
const ANSWER_BYTES: u64 = 64 << 20;
/// How much of its complaints is repeated.
const WORDS_BYTES: usize = 2000;

/// What repositories may not decide.
const HARDENED: [&str; 15] = [
    "protocol.allow=never",
    "protocol.http.allow=always",
    "protocol.https.allow=always",
    "protocol.ssh.allow=always",
    "protocol.git.allow=always",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "credential.helper=",
    "init.defaultBranch=master",
    "advice.detachedHead=false",
    "gc.auto=0",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
];

/// Git for one remote.
#[derive(Debug)]
pub(super) struct Git<'a> {
    settings: &'a Settings,
    remote: String,
    /// The whole value of a header.
    authorization: Option<Secret>,
    directory: Option<PathBuf>,
    work_tree: Option<PathBuf>,
}

impl<'a> Git<'a> {
    /// Who is told what is tried again.
    pub(super) fn notice(&self) -> &'a Notice {
        &self.settings.notice
    }

    pub(super) fn new(address: &Address, settings: &'a Settings) -> Self {
        let own = address
            .credential
            .as_ref()
            .filter(|_| address.remote.starts_with("http"))
            .map(|own| Secret::new(format!("basic {}", crate::base64(own.expose().as_bytes()))));
        let authorization = own
            .or_else(|| settings.credentials.git(&address.remote))
            .map(|value| Secret::new(format!("Authorization: {}", value.expose())));
        Self {
            settings,
            remote: address.remote.clone(),
            authorization,
            directory: None,
            work_tree: None,
        }
    }

    /// In this repository.
    pub(super) fn within(mut self, directory: &Path, work_tree: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self.work_tree = Some(work_tree.to_owned());
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // The shell sets the mask that files are made with: 022 everywhere.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 022 && exec git \"$@\"", "git"]);
        for setting in HARDENED {
            command.args(["-c", setting]);
        }
        if let (Some(directory), Some(tree)) = (&self.directory, &self.work_tree) {
            command.arg("--git-dir").arg(directory);
            command.arg("--work-tree").arg(tree);
            command.current_dir(tree);
        } else {
            command.current_dir("/");
        }
        command.args(arguments);
        command.env_clear();
        let proxies = [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "all_proxy",
            "SSL_CERT_FILE",
            "PATH",
        ];
        for name in proxies {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let hosts = self.settings.known_hosts.as_ref();
        let known = hosts.map(|path| path.display().to_string());
        let trust = match &known {
            Some(path) => format!(
                "-o StrictHostKeyChecking=yes -o UserKnownHostsFile='{}'",
                path.replace('\'', "'\\''")
            ),
            None => "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null".to_owned(),
        };
        let ssh = format!(
            "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=20 {trust}"
        );
        command.envs([
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("HOME", "/dev/null"),
            ("XDG_CONFIG_HOME", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS", "/bin/false"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_ALLOW_PROTOCOL", "http:https:ssh:git"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("LC_ALL", "C"),
            ("GIT_SSH_COMMAND", &ssh),
        ]);
        if let Some(agent) = &self.settings.ssh_agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        if let Some(secret) = &self.authorization {
            // In the environment, which only this user sees; arguments everybody sees.
            command.env("GIT_CONFIG_COUNT", "1");
            command.env(
                "GIT_CONFIG_KEY_0",
                format!("http.{}.extraheader", scope(&self.remote)),
            );
            command.env("GIT_CONFIG_VALUE_0", secret.expose());
        }
        command
    }

    /// Runs git; what it wrote.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        let verb = arguments.first().unwrap_or(&"");
        let words = || format!("cannot run git {verb} for {}", self.remote);
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context(words)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let complaints = std::thread::spawn(move || all_of(err, ANSWER_BYTES));
        let answer = all_of(out, ANSWER_BYTES);
        let status = child.wait().context(words)?;
        let complaints = complaints.join().unwrap_or_default();
        if status.success() {
            return String::from_utf8(answer)
                .map_err(|_| Error::invalid("no text"))
                .context(words);
        }
        let text = self.harmless(&String::from_utf8_lossy(&complaints));
        if status.code() == Some(127) {
            let error = Error::unsupported("there is no program git on this machine");
            return Err(error.with_hint("install git")).context(words);
        }
        Err(Error::new(kind(&text), text)).context(words)
    }

    /// The last lines of what git said, without secrets and without what moves a cursor.
    fn harmless(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(secret) = &self.authorization {
            let value = secret.expose();
            let encoded = value.rsplit(' ').next().unwrap_or(value);
            text = text.replace(encoded, "***");
        }
        let printable: String = text
            .chars()
            .map(|character| {
                if character.is_control() {
                    ' '
                } else {
                    character
                }
            })
            .collect();
        let words = printable.split_whitespace().collect::<Vec<_>>().join(" ");
        let start = words.len().saturating_sub(WORDS_BYTES);
        let start = (start..words.len()).find(|at| words.is_char_boundary(*at));
        words[start.unwrap_or(0)..].to_owned()
    }
}

fn kind(text: &str) -> ErrorKind {
    let has = |words: &str| text.contains(words);
    if has("Authentication failed") || has("Permission denied") || has("could not read Username") {
        ErrorKind::PermissionDenied
    } else if has("not found") || has("does not exist") {
        ErrorKind::NotFound
    } else if has("Could not resolve")
        || has("unable to access")
        || has("Could not read from remote")
    {
        ErrorKind::Unavailable
    } else {
        ErrorKind::InvalidInput
    }
}

/// For which URLs a token is: GitHub's are for all of GitHub, as submodules need it.
fn scope(remote: &str) -> &str {
    let all = ["https://github.com/", "https://www.github.com/"];
    all.into_iter()
        .find(|all| remote.starts_with(all))
        .unwrap_or(remote)
}

fn all_of(stream: Option<impl Read>, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Some(mut stream) = stream else {
        return bytes;
    };
    // What is more is thrown away, so that git does not wait for us.
    let _ = stream.by_ref().take(most).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::credentials::Credentials;

    #[test]
    fn e10_no_secret_in_arguments_or_errors() {
        let address = super::super::parse("https://u:canary-password@h.invalid/a.git")
            .unwrap()
            .unwrap();
        let settings = Settings {
            credentials: Credentials::among([("GIT_AUTH_TOKEN", &b"canary-token"[..])]),
            ..Settings::default()
        };
        for address in [
            address.clone(),
            Address {
                credential: None,
                ..address
            },
        ] {
            let git = Git::new(&address, &settings);
            let command = git.command(&["ls-remote", "--", &address.remote]);
            let arguments: Vec<_> = command
                .get_args()
                .map(|text| text.to_string_lossy().into_owned())
                .collect();
            let arguments = arguments.join(" ");
            let encoded = git
                .authorization
                .as_ref()
                .unwrap()
                .expose()
                .rsplit(' ')
                .next()
                .unwrap()
                .to_owned();
            for secret in ["canary", &encoded] {
                assert!(!arguments.contains(secret), "{arguments}");
                assert!(!format!("{git:?}").contains(secret));
            }
            assert!(
                !git.harmless(&format!("header {encoded} sent"))
                    .contains(&encoded)
            );
        }
    }
}
