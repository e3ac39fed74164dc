//! `RUN`: what it depends on, and its container.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rcrun_overlay::lease::LayerId;

use super::explain::hidden;
use super::key::Key;
use super::{Prepared, Solved, Solver};
use crate::dockerfile::{Network, Security, Sharing};
use crate::events::{Event, StepId};
use crate::graph::{RunMount, RunOp, SCRIPTS, Source};
use crate::runner::{Limits, RunStep, StepMount};
use crate::{Digest, Error, ErrorKind, Result};

/// What was found out about a step.
pub(crate) struct Work<'a> {
    /// Of each mount with files of elsewhere: the layers that have them.
    sources: Vec<Option<Vec<LayerId>>>,
    /// Secrets, by the number of their mounts.
    secrets: BTreeMap<usize, &'a [u8]>,
}

impl Solver<'_> {
    pub(super) fn prepare_run(&self, state: &Solved, op: &RunOp) -> Result<Prepared<'_>> {
        self.allowed(op)?;
        let mut sources = Vec::with_capacity(op.mounts.len());
        let mut secrets = BTreeMap::new();
        let mut key = Key::new("run")
            .digest("below", &state.key)
            .list("args", &op.args)
            .list("env", &op.env)
            .text("directory", &op.directory)
            .text("user", &op.user)
            .option("network", network(op.network))
            .number("insecure", (op.security == Security::Insecure).into())
            .list(
                "devices",
                &op.devices
                    .iter()
                    .map(|one| one.name.clone())
                    .collect::<Vec<_>>(),
            );
        if let Some((name, text)) = &op.script {
            key = key.text("script", name).text("text", text);
        }
        let rights = rights(&self.settings.limits);
        key = key
            .number("closed", self.closed(op).into())
            .list("rights", &rights);
        let mut inputs = vec![
            ("the previous step".to_owned(), state.key.to_string()),
            ("the command".to_owned(), op.args.join("\n")),
            ("the working directory".to_owned(), op.directory.clone()),
            ("the user".to_owned(), op.user.clone()),
            (
                "the network".to_owned(),
                format!("{:?} {}", op.network, self.closed(op)),
            ),
            ("the rights".to_owned(), rights.join("\n")),
        ];
        for line in &op.env {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            inputs.push((format!("variable {name}"), hidden(value)));
        }
        let words: Vec<String> = op.mounts.iter().map(describe).collect();
        inputs.push(("the mounts".to_owned(), words.join("\n")));
        for (index, mount) in op.mounts.iter().enumerate() {
            let (layers, digest) = self.source_of(mount, state)?;
            if let RunMount::Secret { id, required, .. } = mount {
                match self.settings.secrets.get(id) {
                    Some(secret) => drop(secrets.insert(index, secret.0.as_slice())),
                    None if *required => {
                        return Err(Error::new(
                            ErrorKind::NotFound,
                            format!("secret {id}: not found"),
                        )
                        .with_hint(format!("`--secret id={id},src=FILE` gives it to the build")));
                    }
                    None => {}
                }
            }
            let digest = digest.map(|digest| digest.to_string());
            key = key
                .text("mount", &words[index])
                .option("files", digest.as_deref());
            if let (Some(digest), Some(target)) = (digest, mount.target()) {
                inputs.push((format!("what is mounted at {target}"), digest));
            }
            sources.push(layers);
        }
        Ok(Prepared {
            key: key.finish(),
            work: super::Work::Run(Box::new(Work { sources, secrets })),
            inputs,
        })
    }

    /// The layers that a mount takes files from, and a digest of what it depends on.
    fn source_of(
        &self,
        mount: &RunMount,
        state: &Solved,
    ) -> Result<(Option<Vec<LayerId>>, Option<Digest>)> {
        let (from, source) = match mount {
            RunMount::Bind { from, source, .. } => (from, source),
            RunMount::Cache {
                from: Some(from),
                source,
                ..
            } => (from, source),
            _ => return Ok((None, None)),
        };
        // What a cache has at first is no part of what the step depends on.
        let is_cache = matches!(mount, RunMount::Cache { .. });
        match from {
            Source::Context => {
                let (layer, key) = self.materialize(self.context, source, state.epoch)?;
                Ok((Some(vec![layer]), Some(key).filter(|_| !is_cache)))
            }
            Source::Stage(index) => {
                let layers = self.wait(*index)?.layers.clone();
                let digest = match is_cache {
                    true => None,
                    false => Some(self.part_of(*index, source)?),
                };
                Ok((Some(layers), digest))
            }
        }
    }

    /// Whether `--network none` takes the network from it.
    fn closed(&self, op: &RunOp) -> bool {
        op.network == Network::Default && self.settings.no_network
    }

    fn allowed(&self, op: &RunOp) -> Result<()> {
        let refuse = |what: &str, entitlement: &str| {
            let text = format!("{what} is not allowed");
            let hint = format!("`--allow {entitlement}` allows it for this build");
            Err(Error::new(ErrorKind::PermissionDenied, text).with_hint(hint))
        };
        if op.network == Network::Host && !self.settings.allow_network {
            return refuse("--network=host", "network.host");
        }
        if op.security == Security::Insecure && !self.settings.allow_insecure {
            return refuse("--security=insecure", "security.insecure");
        }
        let allowed = &self.settings.allow_devices;
        for device in &op.devices {
            let fits = |one: &String| one.is_empty() || *one == device.name;
            if !allowed.iter().any(fits) {
                return refuse(
                    &format!("device {}", device.name),
                    &format!("device={}", device.name),
                );
            }
        }
        Ok(())
    }

    pub(super) fn perform_run(
        &self,
        id: StepId,
        state: &Solved,
        op: &RunOp,
        work: &Work<'_>,
        key: &Digest,
    ) -> Result<LayerId> {
        for layers in work.sources.iter().flatten() {
            self.complete(layers)?;
        }
        let mut held = Vec::new();
        let mut agents = Vec::new();
        let mut env = op.env.clone();
        env.extend(op.proxies.iter().cloned());
        let mut mounts = Vec::with_capacity(op.mounts.len());
        for (index, mount) in op.mounts.iter().enumerate() {
            let secret = work.secrets.get(&index).copied();
            if let (
                RunMount::Secret {
                    env: Some(name), ..
                },
                Some(secret),
            ) = (mount, secret)
            {
                let text = std::str::from_utf8(secret).map_err(|_| {
                    Error::invalid(format!("the secret for variable {name} is not UTF-8"))
                })?;
                env.push(format!("{name}={text}"));
            }
            let layers = work.sources[index].as_ref();
            mounts.extend(self.step_mount(mount, layers, secret, &mut held, &mut agents)?);
        }
        if let Some((name, text)) = &op.script {
            mounts.push(StepMount::File {
                target: format!("{SCRIPTS}/{name}"),
                contents: text.clone().into_bytes(),
                attributes: (0o755, 0, 0),
            });
        }
        if agents.iter().any(|_| true) && !env.iter().any(|line| line.starts_with("SSH_AUTH_SOCK="))
        {
            env.extend(
                agents
                    .first()
                    .map(|target| format!("SSH_AUTH_SOCK={target}")),
            );
        }
        let layer = self.layer_elsewhere(key, &state.layers, |layer| {
            let step = RunStep {
                store: self.store.path().to_owned(),
                layer: layer.clone(),
                below: state.layers.clone(),
                user_marks: self.marks == rcrun_overlay::layer::Overlay::User,
                args: op.args.clone(),
                env,
                directory: match op.directory.as_str() {
                    "" => "/".to_owned(),
                    path => path.to_owned(),
                },
                user: op.user.clone(),
                mounts,
                network: match op.network {
                    Network::Default => !self.settings.no_network,
                    Network::None => false,
                    Network::Host => true,
                },
                insecure: op.security == Security::Insecure,
                devices: op
                    .devices
                    .iter()
                    .map(|device| device.name.clone())
                    .collect(),
                limits: self.settings.limits.clone(),
                terminal: false,
            };
            self.container(id, op, &step)
        })?;
        let _: Vec<OwnedFd> = held;
        Ok(layer)
    }

    fn container(&self, id: StepId, op: &RunOp, step: &RunStep) -> Result<()> {
        let mut output = |stderr: bool, bytes: &[u8]| {
            (self.watch)(&Event::Output { id, stderr, bytes });
        };
        let ended = self.runner.run(step, &mut output, &self.cancel)?;
        self.cancel.check()?;
        if ended.code != 0 && self.settings.debug {
            // Others would write over the terminal.
            self.alone();
            let why = format!(
                "exit code {}: a shell in its files, as they are now",
                ended.code
            );
            (self.watch)(&Event::Failed { id, why: &why });
            let shell = RunStep {
                args: vec!["/bin/sh".to_owned()],
                terminal: true,
                ..step.clone()
            };
            self.runner.debug(&shell)?;
        }
        let command = op.args.join(" ");
        match ended {
            ended if ended.code == 0 => Ok(()),
            ended if ended.out_of_memory => Err(Error::new(
                ErrorKind::Exhausted,
                format!("process {command:?} was killed by the memory limit"),
            )
            .with_hint("`--memory` sets the limit")),
            ended => Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "process {command:?} did not complete successfully: exit code: {}",
                    ended.code
                ),
            )),
        }
    }
}

/// What flags of a build change that a program can see, but for amounts of memory and time and name
/// servers: those do not decide what comes out.
fn rights(limits: &Limits) -> Vec<String> {
    let lists = [
        ("host", &limits.hosts),
        ("ulimit", &limits.ulimits),
        ("cap-add", &limits.cap_add),
        ("cap-drop", &limits.cap_drop),
        ("security-opt", &limits.security_opt),
    ];
    let mut all = vec![format!("hostname={}", limits.hostname)];
    all.extend(limits.shm_size.iter().map(|size| format!("shm={size}")));
    for (name, values) in lists {
        all.extend(values.iter().map(|value| format!("{name}={value}")));
    }
    all
}

fn network(network: Network) -> Option<&'static str> {
    match network {
        Network::Default => None,
        Network::None => Some("none"),
        Network::Host => Some("host"),
    }
}

/// What of a mount the step depends on, beside files.
fn describe(mount: &RunMount) -> String {
    match mount {
        RunMount::Bind {
            source,
            target,
            read_only,
            ..
        } => {
            format!("bind {source} {target} {read_only}")
        }
        RunMount::Cache {
            target,
            id,
            sharing,
            read_only,
            ..
        } => {
            let sharing = match sharing {
                Sharing::Shared => "shared",
                Sharing::Private => "private",
                Sharing::Locked => "locked",
            };
            format!("cache {target} {id} {sharing} {read_only}")
        }
        RunMount::Tmpfs { target, size, .. } => format!("tmpfs {target} {size}"),
        RunMount::Secret {
            id,
            target,
            env,
            file,
            ..
        } => {
            format!("secret {id} {target:?} {env:?} {file:?}")
        }
        RunMount::Ssh {
            id, target, file, ..
        } => format!("ssh {id} {target} {file:?}"),
    }
}
