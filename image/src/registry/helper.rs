//! Credential helpers: programs `docker-credential-NAME` that keep secrets elsewhere (the protocol of
//! docker-credential-helpers). One is run with a deadline and a limit on what it may answer.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use std::os::unix::process::CommandExt;

use serde::{Deserialize, Serialize};

use super::credentials::Secret;
use crate::{Context, Error, ErrorKind, Result};

/// How long a helper may take; some ask a person.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
const MAX_ANSWER: u64 = 64 << 10;
const NOT_FOUND: &str = "credentials not found in native keychain";

/// What a helper keeps for a server.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Kept {
    #[serde(default, rename = "ServerURL")]
    pub server_url: String,
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub secret: Secret,
}

/// How helpers are run.
#[derive(Debug, Clone)]
pub(super) struct Helpers {
    /// Where they are looked for, as in `PATH`.
    pub path: Option<String>,
    /// How long one may take.
    pub deadline: Duration,
}

impl Helpers {
    /// Asks a helper for a server's credential.
    pub(super) fn get(&self, name: &str, server: &str) -> Result<Option<Kept>> {
        match self.run(name, "get", server.as_bytes())? {
            (true, answer) => serde_json::from_slice(&answer).map(Some).map_err(|_| {
                // The answer may hold a secret, also a malformed one.
                Error::new(
                    ErrorKind::Internal,
                    format!("credential helper {name} answers nonsense"),
                )
            }),
            (false, answer) if String::from_utf8_lossy(&answer).trim() == NOT_FOUND => Ok(None),
            (false, answer) => Err(failed(name, "get", &answer)),
        }
    }

    /// Gives a helper a credential to keep.
    pub(super) fn store(&self, name: &str, kept: &Kept) -> Result<()> {
        let input = serde_json::to_vec(kept).map_err(|e| Error::invalid(e.to_string()))?;
        match self.run(name, "store", &input)? {
            (true, _) => Ok(()),
            (false, answer) => Err(failed(name, "store", &answer)),
        }
    }

    /// Lets a helper forget a server.
    pub(super) fn erase(&self, name: &str, server: &str) -> Result<()> {
        match self.run(name, "erase", server.as_bytes())? {
            (true, _) => Ok(()),
            (false, answer) => Err(failed(name, "erase", &answer)),
        }
    }

    fn run(&self, name: &str, action: &str, input: &[u8]) -> Result<(bool, Vec<u8>)> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(word) {
            return Err(Error::invalid(format!(
                "invalid credential helper {name:?}"
            )));
        }
        let program = format!("docker-credential-{name}");
        let mut command = Command::new(&program);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context(|| format!("cannot run {program}"))?;
        let result = converse(&mut child, input, self.deadline);
        if result.is_err() {
            kill(&child);
        }
        let status = child
            .wait()
            .context(|| format!("cannot wait for {program}"))?;
        let answer = result.context(|| format!("cannot talk to {program}"))?;
        Ok((status.success(), answer))
    }
}

fn failed(name: &str, action: &str, answer: &[u8]) -> Error {
    let words: String = String::from_utf8_lossy(answer)
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect();
    let message = format!("credential helper {name} cannot {action}: {words}");
    Error::new(ErrorKind::Unavailable, message)
}

/// Kills the helper and what it started.
fn kill(child: &Child) {
    let group = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // It may be gone by itself.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

fn converse(child: &mut Child, input: &[u8], deadline: Duration) -> Result<Vec<u8>> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::new(ErrorKind::Internal, "no pipes"));
    };
    let input = input.to_vec();
    let (send, receive) = mpsc::channel();
    // Writing and reading both may block, and only the channel has a deadline. A thread that is
    // still here after it ends with the pipes, when the group was killed.
    std::thread::spawn(move || {
        // A helper that does not read is judged by what it answers.
        let _ = stdin.write_all(&input);
        drop(stdin);
        let mut answer = Vec::new();
        let result = stdout.take(MAX_ANSWER + 1).read_to_end(&mut answer);
        let _ = send.send(result.map(|_| answer));
    });
    let answer = receive
        .recv_timeout(deadline)
        .map_err(|_| Error::new(ErrorKind::Deadline, format!("no answer in {deadline:?}")))??;
    if answer.len() as u64 > MAX_ANSWER {
        return Err(Error::new(ErrorKind::Exhausted, "the answer is too long"));
    }
    Ok(answer)
}
