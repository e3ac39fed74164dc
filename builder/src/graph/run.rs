//! `RUN`.

use std::sync::Arc;

use super::instruction::Walk;
use super::{Op, Problem, path};
use crate::dockerfile::{Command, Device, Mount, Network, Run, Security, Sharing};

/// Where files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The build's context.
    Context,
    /// A stage, or an image.
    Stage(usize),
}

/// What is run.
#[derive(Debug, Clone)]
pub struct RunOp {
    /// Program and arguments.
    pub args: Vec<String>,
    /// A heredoc that is a program of its own: name and text. It appears at [`SCRIPTS`].
    pub script: Option<(String, String)>,
    /// Variables, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Variables of proxies: seen, but nothing depends on them.
    pub proxies: Vec<String>,
    /// Absolute.
    pub directory: String,
    /// As `USER` has it.
    pub user: String,
    /// In order; later ones hide earlier ones.
    pub mounts: Vec<RunMount>,
    /// `--network`
    pub network: Network,
    /// `--security`
    pub security: Security,
    /// `--device`
    pub devices: Vec<Device>,
}

/// Where a heredoc that is a program appears.
pub const SCRIPTS: &str = "/dev/pipes";

/// Something that is mounted. Targets are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunMount {
    /// Files of elsewhere.
    Bind {
        /// Of where.
        from: Source,
        /// Within that.
        source: String,
        /// Where they appear.
        target: String,
        /// Writes are refused, instead of thrown away.
        read_only: bool,
    },
    /// A directory that later builds find again.
    Cache {
        /// What it has at first.
        from: Option<Source>,
        /// Within that, and of the directory itself.
        source: String,
        /// Where it appears.
        target: String,
        /// Which one.
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// Writes are refused.
        read_only: bool,
        /// Mode, user and group when it is made.
        made: (u32, u32, u32),
    },
    /// Memory.
    Tmpfs {
        /// Where it appears.
        target: String,
        /// Bytes; zero: as the kernel has it.
        size: u64,
        /// Writes are refused.
        read_only: bool,
    },
    /// A secret.
    Secret {
        /// Which one.
        id: String,
        /// Where it appears as a file.
        target: Option<String>,
        /// The variable that has it.
        env: Option<String>,
        /// Its absence is an error.
        required: bool,
        /// Mode, user and group of the file.
        file: (u32, u32, u32),
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Which agent.
        id: String,
        /// Where the socket appears.
        target: String,
        /// Its absence is an error.
        required: bool,
        /// Mode, user and group of the socket.
        file: (u32, u32, u32),
    },
}

impl RunMount {
    /// Where its files come from.
    pub fn from(&self) -> Option<&Source> {
        match self {
            Self::Bind { from, .. } => Some(from),
            Self::Cache { from, .. } => from.as_ref(),
            _ => None,
        }
    }

    /// Where it appears in the file system.
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Bind { target, .. }
            | Self::Cache { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Ssh { target, .. } => Some(target),
            Self::Secret { target, .. } => target.as_deref(),
        }
    }
}

impl Walk<'_> {
    pub(super) fn run(
        &mut self,
        run: &Run,
        resolved: Vec<Mount>,
        sources: &[Option<Source>],
    ) -> Result<(), Problem> {
        let (args, script) = self.command(run);
        let mut mounts = Vec::with_capacity(resolved.len());
        let mut agents = 0;
        for (mount, from) in resolved.into_iter().zip(sources) {
            mounts.push(self.mount(mount, *from, &mut agents)?);
        }
        let line = |(name, value): (Arc<str>, Arc<str>)| format!("{name}={value}");
        let env = self.scope.environment().pairs().map(line).collect();
        let text: String = self.arguments_in_use() + &args.join(" ");
        let op = RunOp {
            args,
            script,
            env,
            proxies: self.proxies.clone(),
            directory: self.image.config.working_dir.clone(),
            user: self.image.config.user.clone(),
            mounts,
            network: run.network,
            security: run.security,
            devices: run.devices.clone(),
        };
        self.step(Op::Run(Box::new(op)));
        self.image.record(&format!("RUN {text}"), true, true);
        Ok(())
    }

    /// Program and arguments; a heredoc that begins with `#!` is a program.
    fn command(&self, run: &Run) -> (Vec<String>, Option<(String, String)>) {
        let line = match &run.command {
            Command::Exec(args) => return (args.clone(), None),
            Command::Shell(line) => line,
        };
        let alone = match run.heredocs.as_slice() {
            [one] if is_marker(line) => Some(one),
            _ => None,
        };
        let line = match alone {
            Some(one) => {
                let content = one.content();
                if content.starts_with("#!") {
                    let script = (one.name.clone(), content.into_owned());
                    return (vec![format!("{SCRIPTS}/{}", one.name)], Some(script));
                }
                content.into_owned()
            }
            None => run.heredocs.iter().fold(line.clone(), |mut line, one| {
                line.push('\n');
                line.push_str(&one.raw);
                line.push_str(&one.name);
                line
            }),
        };
        let mut args = self.shell();
        args.push(line);
        (args, None)
    }

    /// The build arguments that a command sees, as history shows them.
    fn arguments_in_use(&self) -> String {
        let arguments = self.scope.arguments();
        let lines: Vec<String> = arguments
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        match lines.len() {
            0 => String::new(),
            count => format!("|{count} {} ", lines.join(" ")),
        }
    }

    /// Where a mount appears.
    fn place(&self, target: &str) -> Result<String, Problem> {
        let place = path::absolute(&self.image.config.working_dir, target);
        match place.as_str() {
            "/" => Err(self.error(format!("invalid mount target {target:?}"))),
            _ => Ok(place),
        }
    }

    fn mount(
        &self,
        mount: Mount,
        from: Option<Source>,
        agents: &mut usize,
    ) -> Result<RunMount, Problem> {
        let within = |source: &str| path::absolute("/", source);
        Ok(match mount {
            Mount::Bind {
                source,
                target,
                read_only,
                ..
            } => RunMount::Bind {
                from: from.unwrap_or(Source::Context),
                source: within(&source),
                target: self.place(&target)?,
                read_only,
            },
            Mount::Cache {
                source,
                target,
                id,
                sharing,
                read_only,
                mode,
                uid,
                gid,
                ..
            } => {
                let id = id.filter(|id| !id.is_empty());
                let id = id.unwrap_or_else(|| path::clean(&target));
                RunMount::Cache {
                    from,
                    source: within(&source),
                    id: format!("{}/{id}", self.namespace),
                    target: self.place(&target)?,
                    sharing,
                    read_only,
                    made: (mode.unwrap_or(0o755), uid.unwrap_or(0), gid.unwrap_or(0)),
                }
            }
            Mount::Tmpfs {
                target,
                size,
                read_only,
            } => RunMount::Tmpfs {
                target: self.place(&target)?,
                size,
                read_only,
            },
            entrusted => return self.entrusted(entrusted, agents),
        })
    }

    /// What whoever builds lets a step have: secrets and agents.
    fn entrusted(&self, mount: Mount, agents: &mut usize) -> Result<RunMount, Problem> {
        match mount {
            Mount::Secret {
                id,
                target,
                env,
                required,
                mode,
                uid,
                gid,
            } => Ok(RunMount::Secret {
                target: target.map(|target| self.place(&target)).transpose()?,
                id,
                env,
                required,
                file: (mode, uid, gid),
            }),
            Mount::Ssh {
                id,
                target,
                required,
                mode,
                uid,
                gid,
            } => {
                let target = match target {
                    Some(target) => self.place(&target)?,
                    None => format!("/run/buildkit/ssh_agent.{agents}"),
                };
                *agents += 1;
                Ok(RunMount::Ssh {
                    id,
                    target,
                    required,
                    file: (mode, uid, gid),
                })
            }
            _ => Err(self.error("this mount is neither a secret nor an agent")),
        }
    }
}

/// Whether a line is nothing but the mark of its heredoc.
fn is_marker(line: &str) -> bool {
    let mark = line.trim().trim_start_matches(|c: char| c.is_ascii_digit());
    mark.strip_prefix("<<").is_some_and(|rest| {
        let name = rest.strip_prefix('-').unwrap_or(rest);
        !name.is_empty() && !name.contains(char::is_whitespace) && !name.contains('<')
    })
}
