//! Credentials: docker's and podman's files, and the helpers they name.
//!
//! Owns finding, storing and forgetting them. Where they may be sent is decided in
//! [`super::authenticate`]. Files are read in podman's order, then docker's: `$REGISTRY_AUTH_FILE`
//! alone if it is set, else `$XDG_RUNTIME_DIR/containers/auth.json`,
//! `$XDG_CONFIG_HOME/containers/auth.json` and `$DOCKER_CONFIG/config.json`; `login` writes to
//! `$REGISTRY_AUTH_FILE` or docker's file, which all tools read.

use std::fmt;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::helper::{self, Helpers, Kept};
use crate::reference::DEFAULT_HOST;
use crate::{Context, Error, ErrorKind, Result};

/// Docker's name for docker.io in its files.
const DEFAULT_KEY: &str = "https://index.docker.io/v1/";
/// The user that means that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
const MAX_FILE: u64 = 1 << 20;

/// Text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be sent.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What proves who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token to get tokens with.
    Identity {
        /// The name it was made for, if known.
        user: String,
        /// The token.
        token: Secret,
    },
    /// A token for the registry itself.
    Registry {
        /// The token.
        token: Secret,
    },
}

/// Where credentials are.
#[derive(Debug, Clone)]
pub struct Credentials {
    files: Vec<PathBuf>,
    written: Option<PathBuf>,
    helpers: Helpers,
    given: Option<(String, Credential)>,
}

impl Credentials {
    /// As an environment says.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let path = |name: &str| {
            variable(name)
                .filter(|text| !text.is_empty())
                .map(PathBuf::from)
        };
        let helpers = Helpers {
            path: variable("PATH"),
            deadline: helper::DEADLINE,
        };
        if let Some(file) = path("REGISTRY_AUTH_FILE") {
            let (files, written) = (vec![file.clone()], Some(file));
            return Self {
                files,
                written,
                helpers,
                given: None,
            };
        }
        let home = path("HOME");
        let below_home = |name: &str| home.as_ref().map(|home| home.join(name));
        let configuration = path("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
        let docker = path("DOCKER_CONFIG").or_else(|| below_home(".docker"));
        let written = docker.map(|directory| directory.join("config.json"));
        let podman = [path("XDG_RUNTIME_DIR"), configuration]
            .into_iter()
            .flatten();
        let files = podman
            .map(|directory| directory.join("containers/auth.json"))
            .chain(written.clone())
            .collect();
        Self {
            files,
            written,
            helpers,
            given: None,
        }
    }

    /// None at all, for anonymous use.
    pub fn none() -> Self {
        Self {
            files: Vec::new(),
            written: None,
            helpers: Helpers {
                path: None,
                deadline: helper::DEADLINE,
            },
            given: None,
        }
    }

    /// This one for this host, and no file.
    pub fn only(host: &str, credential: &Credential) -> Self {
        Self::none().with(host, credential)
    }

    /// This one for this host, whatever the files say; they are asked for others.
    #[must_use]
    pub fn with(mut self, host: &str, credential: &Credential) -> Self {
        self.given = Some((host.to_owned(), credential.clone()));
        self
    }

    /// With another deadline for helpers.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.helpers.deadline = deadline;
        self
    }

    /// The credential for a repository of a host; the most specific one of the first file with any.
    pub fn find(&self, host: &str, repository: &str) -> Result<Option<Credential>> {
        if let Some((known, credential)) = &self.given
            && known == host
        {
            return Ok(Some(credential.clone()));
        }
        for path in &self.files {
            let words = || format!("cannot read credentials from {}", path.display());
            let Some(file) = read(path).context(words)? else {
                continue;
            };
            if let Some(found) = self.find_in(&file, host, repository).context(words)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn find_in(
        &self,
        file: &Map<String, Value>,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>> {
        let keys = keys(host, repository);
        if let Some(name) = member(file, "credHelpers", &keys).and_then(Value::as_str) {
            return Ok(self.helpers.get(name, server(host))?.map(from_helper));
        }
        if let Some(name) = file
            .get("credsStore")
            .and_then(Value::as_str)
            .filter(|n| !n.is_empty())
        {
            match self.helpers.get(name, server(host)) {
                Ok(Some(kept)) => return Ok(Some(from_helper(kept))),
                Ok(None) => {}
                // A store for everything that is not installed here must not stop anonymous use.
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    tracing::warn!(helper = name, "the credential store is not installed");
                }
                Err(e) => return Err(e),
            }
        }
        let Some(entry) = member(file, "auths", &keys) else {
            return Ok(None);
        };
        from_entry(entry).context(|| format!("invalid entry for {host}"))
    }

    /// The file that [`Self::store`] writes, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.written.as_deref()
    }

    /// Keeps a credential for a host, in the helper that the file names or in the file itself.
    pub fn store(&self, host: &str, credential: &Credential) -> Result<()> {
        self.change(host, |file| {
            let (user, secret) = match credential {
                Credential::Basic { user, password } => (user.as_str(), password),
                Credential::Identity { token, .. } => (TOKEN_USER, token),
                Credential::Registry { .. } => {
                    return Err(Error::unsupported("a registry token cannot be kept"));
                }
            };
            let entry = match helper_of(file, host) {
                Some(name) => {
                    let kept = Kept {
                        server_url: server(host).into(),
                        username: user.into(),
                        secret: secret.clone(),
                    };
                    self.helpers.store(&name, &kept)?;
                    Map::new()
                }
                None => to_entry(credential),
            };
            let auths = file.entry("auths").or_insert_with(|| Map::new().into());
            match auths.as_object_mut() {
                Some(auths) => auths.insert(server(host).into(), entry.into()),
                None => return Err(Error::invalid("the member auths is not an object")),
            };
            Ok(true)
        })
        .map(drop)
    }

    /// Forgets a host. Says whether it was known.
    pub fn erase(&self, host: &str) -> Result<bool> {
        self.change(host, |file| {
            let mut known = false;
            if let Some(name) = helper_of(file, host) {
                known = self.helpers.get(&name, server(host))?.is_some();
                self.helpers.erase(&name, server(host))?;
            }
            if let Some(auths) = file.get_mut("auths").and_then(Value::as_object_mut) {
                for key in keys(host, "") {
                    known |= auths.remove(&key).is_some();
                }
            }
            Ok(known)
        })
    }

    /// Changes the file that is written: under a lock of its directory, whole or not at all.
    fn change(
        &self,
        host: &str,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<bool>,
    ) -> Result<bool> {
        let Some(path) = &self.written else {
            return Err(Error::unsupported(format!(
                "no file to keep credentials for {host} in: HOME is not set"
            )));
        };
        // People link the file to another place; it is the other place that changes.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let words = || format!("cannot change {}", path.display());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
        else {
            return Err(Error::invalid(words()));
        };
        create_private(parent).context(words)?;
        let directory = std::fs::File::open(parent).context(words)?;
        directory.lock().context(words)?;
        let mut file = read(&path).context(words)?.unwrap_or_default();
        if !change(&mut file)? {
            return Ok(false);
        }
        let mut bytes =
            serde_json::to_vec_pretty(&file).map_err(|e| Error::invalid(e.to_string()))?;
        bytes.push(b'\n');
        rcrun_overlay::durable::replace(directory.as_fd(), name, &bytes, Mode::from(0o600))
            .context(words)?;
        Ok(true)
    }
}

fn create_private(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)?;
    Ok(())
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::invalid(format!("larger than {MAX_FILE} bytes")));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some(Map::new()));
    }
    // serde's words name the place, never the text.
    let value = serde_json::from_slice(&bytes).map_err(|e| Error::invalid(e.to_string()))?;
    Ok(Some(value))
}

/// The key of a host that we write, and the name that helpers know it by.
fn server(host: &str) -> &str {
    match host {
        DEFAULT_HOST => DEFAULT_KEY,
        other => other,
    }
}

/// The keys that may stand for a repository, most specific first.
fn keys(host: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    while !path.is_empty() {
        keys.push(format!("{host}/{path}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    let names: &[&str] = match host {
        DEFAULT_HOST => &[
            DEFAULT_KEY,
            DEFAULT_HOST,
            "index.docker.io",
            "registry-1.docker.io",
        ],
        _ => &[],
    };
    keys.extend(names.iter().map(|name| (*name).to_owned()));
    if names.is_empty() {
        keys.push(host.to_owned());
        for scheme in ["https", "http"] {
            for path in ["", "/", "/v1/", "/v2/"] {
                keys.push(format!("{scheme}://{host}{path}"));
            }
        }
    }
    keys
}

fn member<'a>(file: &'a Map<String, Value>, list: &str, keys: &[String]) -> Option<&'a Value> {
    let list = file.get(list)?.as_object()?;
    keys.iter().find_map(|key| list.get(key))
}

fn helper_of(file: &Map<String, Value>, host: &str) -> Option<String> {
    let own = member(file, "credHelpers", &keys(host, ""));
    own.or_else(|| file.get("credsStore"))
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

fn from_helper(kept: Kept) -> Credential {
    match kept.username.as_str() {
        TOKEN_USER => Credential::Identity {
            user: String::new(),
            token: kept.secret,
        },
        _ => Credential::Basic {
            user: kept.username,
            password: kept.secret,
        },
    }
}

fn from_entry(entry: &Value) -> Result<Option<Credential>> {
    let text = |name: &str| {
        let text = entry.get(name).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let (mut user, mut password) = (text("username"), text("password"));
    if let Some(encoded) = text("auth") {
        let decoded = BASE64_STANDARD.decode(encoded.trim()).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or_else(|| Error::invalid("auth is not base64 of text"))?;
        let (name, secret) = decoded
            .split_once(':')
            .ok_or_else(|| Error::invalid("auth has no colon"))?;
        user = Some(name.to_owned());
        password = Some(secret.trim_end_matches('\0').to_owned());
    }
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credential::Identity {
            user: user.unwrap_or_default(),
            token: Secret::new(token),
        }));
    }
    if let Some(token) = text("registrytoken") {
        let token = Secret::new(token);
        return Ok(Some(Credential::Registry { token }));
    }
    Ok(match (user, password) {
        (Some(user), Some(password)) => Some(Credential::Basic {
            user,
            password: Secret::new(password),
        }),
        _ => None,
    })
}

fn to_entry(credential: &Credential) -> Map<String, Value> {
    let mut entry = Map::new();
    let auth = |user: &str, secret: &str| BASE64_STANDARD.encode(format!("{user}:{secret}")).into();
    match credential {
        Credential::Basic { user, password } => {
            entry.insert("auth".into(), auth(user, password.expose()));
        }
        Credential::Identity { user, token } => {
            entry.insert("auth".into(), auth(user, ""));
            entry.insert("identitytoken".into(), token.expose().into());
        }
        Credential::Registry { .. } => {}
    }
    entry
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
