//! The configuration of an image that is being built, and its history, as BuildKit writes them
//! (docker-image-spec; image-spec config.md).

use std::collections::BTreeMap;

use rcrun_image::document::{self, ImageConfig};
use rcrun_image::platform::Platform;
use serde::{Serialize, Serializer};

use crate::{Digest, Error, ErrorKind, Result};

/// Where programs are looked for, unless the base image says so.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What stands beside each step that is ours. BuildKit's word, which tools look for.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// The document. Fields that are empty are left out, as Go does.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Draft {
    /// The architecture.
    pub architecture: String,
    /// The variant of the architecture.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// The operating system.
    pub os: String,
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What a container is to be.
    pub config: Settings,
    /// What the layers unpack to.
    pub rootfs: RootFs,
    /// How it was made.
    pub history: Vec<History>,
    /// For builds on other machines.
    #[serde(
        rename = "rcrun.buildcache.v1",
        skip_serializing_if = "Option::is_none"
    )]
    pub cache: Option<crate::remote::Records>,
}

/// What the layers unpack to.
#[derive(Debug, Clone, Serialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// One for each, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers",
            diff_ids: Vec::new(),
        }
    }
}

/// One step of how it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct History {
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A remark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// It is this build's, not the base's.
    #[serde(skip)]
    pub own: bool,
}

/// What a container of the image is to be.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Settings {
    /// `USER`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `EXPOSE`
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "set")]
    pub exposed_ports: Vec<String>,
    /// `ENV`, `NAME=VALUE`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// `CMD`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// `VOLUME`
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "set")]
    pub volumes: Vec<String>,
    /// `WORKDIR`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// `LABEL`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds until it is killed instead; only a base can say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    /// `CMD` is there, for the sake of Windows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// `HEALTHCHECK`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// `SHELL`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// How to see whether a container is well. Times in nanoseconds; zero: not said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `NONE`, `CMD` or `CMD-SHELL`, and what to run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two runs.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// How long one may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// How long failures at the start do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Between two runs in that time.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// How many failures mean unwell.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Go's set: an object whose values are empty.
fn set<S: Serializer>(names: &[String], writer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Nothing {}
    let all: BTreeMap<&String, Nothing> = names.iter().map(|name| (name, Nothing {})).collect();
    all.serialize(writer)
}

impl Draft {
    /// Of no image: `FROM scratch`.
    pub fn empty(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            config: Settings {
                working_dir: "/".into(),
                env: vec![format!("PATH={PATH}")],
                ..Settings::default()
            },
            ..Self::default()
        }
    }

    /// Of an image that is built upon.
    pub fn of(base: &ImageConfig) -> Self {
        Self {
            architecture: base.architecture.clone(),
            variant: base.variant.clone(),
            os: base.os.clone(),
            created: None,
            author: base.author.clone(),
            config: Settings::of(&base.config),
            rootfs: RootFs {
                diff_ids: base.rootfs.diff_ids.clone(),
                ..RootFs::default()
            },
            history: base.history.iter().map(History::of).collect(),
            cache: None,
        }
    }

    /// What it is for.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }

    /// Says how a step was made. What changed files says so at the end, as with BuildKit.
    pub fn record(&mut self, text: &str, layer: bool, files: bool) {
        let mark = if files { " # buildkit" } else { "" };
        self.history.push(History {
            created: None,
            created_by: Some(format!("{text}{mark}")),
            author: None,
            comment: Some(COMMENT.to_owned()),
            empty_layer: !layer,
            own: true,
        });
    }

    /// Says that the layers of this build were made one, as docker does: its steps stay, without layers,
    /// and one more has it.
    pub fn squash(&mut self) {
        let mut count = 0_usize;
        for one in self.history.iter_mut().filter(|one| one.own) {
            count += usize::from(!one.empty_layer);
            one.empty_layer = true;
        }
        if count > 0 {
            self.history.push(History {
                comment: Some(format!("{count} layers squashed into one")),
                own: true,
                ..History::default()
            });
        }
    }

    /// The document.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))
    }
}

impl History {
    fn of(base: &document::History) -> Self {
        Self {
            created: base.created.clone(),
            created_by: base.created_by.clone(),
            author: base.author.clone(),
            comment: base.comment.clone(),
            empty_layer: base.empty_layer,
            own: false,
        }
    }
}

impl Settings {
    fn of(base: &document::Config) -> Self {
        Self {
            user: base.user.clone(),
            exposed_ports: base.exposed_ports.clone(),
            env: base.env.clone(),
            entrypoint: base.entrypoint.clone(),
            cmd: base.cmd.clone(),
            volumes: base.volumes.clone(),
            working_dir: base.working_dir.clone(),
            labels: base.labels.clone(),
            stop_signal: base.stop_signal.clone(),
            stop_timeout: base.stop_timeout,
            args_escaped: base.args_escaped,
            healthcheck: base.healthcheck.as_ref().map(Healthcheck::of),
            on_build: base.on_build.clone(),
            shell: base.shell.clone(),
        }
    }

    /// Sets a variable, in its place if there is one.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let text = format!("{name}={value}");
        let same =
            |other: &String| other.split_once('=').map_or(&**other, |(name, _)| name) == name;
        match self.env.iter().position(same) {
            Some(at) => self.env[at] = text,
            None => self.env.push(text),
        }
    }

    /// Adds what is not there yet.
    pub fn add(list: &mut Vec<String>, text: String) {
        if !list.contains(&text) {
            list.push(text);
        }
    }
}

impl Healthcheck {
    fn of(base: &document::Healthcheck) -> Self {
        Self {
            test: base.test.clone(),
            interval: base.interval,
            timeout: base.timeout,
            start_period: base.start_period,
            start_interval: base.start_interval,
            retries: base.retries,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_is_left_out() {
        let mut draft = Draft::empty(&Platform::new("linux", "amd64", ""));
        Settings::add(&mut draft.config.exposed_ports, "80/tcp".into());
        Settings::add(&mut draft.config.exposed_ports, "80/tcp".into());
        draft.config.set_env("A", "1");
        draft.config.set_env("PATH", "/bin");
        draft.record("RUN x", true, true);
        draft.record("CMD y", false, false);
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&draft.encode().unwrap()).unwrap(),
            serde_json::json!({
                "architecture": "amd64", "os": "linux",
                "config": {
                    "ExposedPorts": {"80/tcp": {}}, "Env": ["PATH=/bin", "A=1"], "WorkingDir": "/",
                },
                "rootfs": {"type": "layers", "diff_ids": []},
                "history": [
                    {"created_by": "RUN x # buildkit", "comment": COMMENT},
                    {"created_by": "CMD y", "comment": COMMENT, "empty_layer": true},
                ],
            })
        );
    }

    #[test]
    fn a_base_stays_what_it_is() {
        let text = serde_json::json!({
            "architecture": "arm", "variant": "v7", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {
                "User": "app", "ExposedPorts": {"1/udp": {}}, "Env": ["A=b"], "Cmd": ["x"],
                "Healthcheck": {"Test": ["CMD", "y"], "Interval": 5, "Retries": 2},
                "Volumes": {"/v": {}}, "Labels": {"l": "m"}, "OnBuild": ["RUN z"], "Shell": ["/bin/b"],
            },
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x")]},
            "history": [{"created_by": "FROM", "empty_layer": true}],
        });
        let base = ImageConfig::read(&serde_json::to_vec(&text).unwrap()).unwrap();
        let draft = serde_json::to_value(Draft::of(&base)).unwrap();
        let mut expected = text;
        expected.as_object_mut().unwrap().remove("created");
        assert_eq!(draft, expected);
    }
}
