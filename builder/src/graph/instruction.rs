//! One instruction after the other: what each changes in the image's configuration, in the variables
//! that later ones see, and which steps they make.

use super::{Op, Problem, Source, Step, path};
use crate::Error;
use crate::dockerfile::scope::{Applied, Scope};
use crate::dockerfile::{
    self, ArgItem, Command, Healthcheck, Instruction, Kind, Pair, Probe, Span,
};
use crate::image::{self, Draft, Settings};

/// A walk through the instructions of a stage.
pub(super) struct Walk<'a> {
    /// `BUILDKIT_CACHE_MOUNT_NS`.
    pub(super) namespace: &'a str,
    pub(super) scope: Scope<'a>,
    /// Variables of proxies, `NAME=VALUE`.
    pub(super) proxies: Vec<String>,
    pub(super) image: Draft,
    pub(super) steps: Vec<Step>,
    pub(super) triggers: Vec<String>,
    /// The steps are made anew.
    pub(super) anew: bool,
    /// The instruction at which the walk is.
    pub(super) span: Span,
    pub(super) text: String,
    /// `CMD` was set in this stage.
    pub(super) command_set: bool,
}

impl Walk<'_> {
    /// Where sources come from was found before.
    pub(super) fn instruction(
        &mut self,
        instruction: &Instruction,
        sources: &[Option<Source>],
    ) -> Result<(), Problem> {
        self.span = instruction.span;
        self.text.clone_from(&instruction.text);
        let Applied { kind, mounts } = self.scope.apply(instruction)?;
        match &kind {
            Kind::Copy(copy) => {
                let from = sources.first().copied().flatten();
                self.copy(copy, from.unwrap_or(Source::Context))
            }
            Kind::Add(add) => self.add(add),
            Kind::Run(run) => self.run(run, mounts, sources),
            Kind::Workdir { path } => self.workdir(path),
            Kind::Env { pairs } => self.env(pairs),
            Kind::Label(label) => self.label(&label.pairs),
            Kind::Arg(arg) => self.arg(&arg.items),
            Kind::Cmd { command } => {
                let args = self.arguments_of(command);
                let text = format!("CMD {}", go_list(&args));
                self.image.config.cmd = args;
                self.image.config.args_escaped = true;
                self.command_set = true;
                self.note(&text)
            }
            Kind::Entrypoint { command } => {
                let args = self.arguments_of(command);
                let text = format!("ENTRYPOINT {}", go_list(&args));
                self.image.config.entrypoint = args;
                if !self.command_set {
                    self.image.config.cmd.clear();
                }
                self.note(&text)
            }
            Kind::Expose(expose) => self.expose(&expose.ports),
            Kind::Volume(volume) => self.volume(&volume.paths),
            Kind::User { user } => {
                self.image.config.user.clone_from(user);
                self.note(&format!("USER {user}"))
            }
            Kind::Stopsignal { signal } => {
                if !is_signal(signal) {
                    return Err(self.error(format!("Invalid signal: {signal}")));
                }
                self.image.config.stop_signal = Some(signal.clone());
                self.note(&format!("STOPSIGNAL {signal}"))
            }
            Kind::Shell(shell) => {
                self.image.config.shell.clone_from(&shell.arguments);
                self.note(&format!("SHELL [{}]", shell.arguments.join(" ")))
            }
            Kind::Healthcheck(check) => self.healthcheck(check),
            Kind::Onbuild(onbuild) => {
                self.triggers.push(onbuild.expression.clone());
                self.image.config.on_build.push(onbuild.expression.clone());
                Ok(())
            }
            Kind::Maintainer { name } => {
                self.image.author = Some(name.clone());
                self.note(&format!("MAINTAINER {name}"))
            }
        }
    }

    /// Something that is wrong here.
    pub(super) fn error(&self, text: impl Into<String>) -> Problem {
        self.problem(Error::invalid(text.into()))
    }

    pub(super) fn problem(&self, error: Error) -> Problem {
        Problem::at(self.span, error)
    }

    /// Adds a step.
    pub(super) fn step(&mut self, op: Op) {
        let step = Step {
            span: self.span,
            text: self.text.clone(),
            op,
            anew: self.anew,
        };
        self.steps.push(step);
    }

    /// An instruction that makes no layer.
    fn note(&mut self, text: &str) -> Result<(), Problem> {
        self.image.record(text, false, false);
        Ok(())
    }

    /// What reads lines.
    pub(super) fn shell(&self) -> Vec<String> {
        match self.image.config.shell.is_empty() {
            true => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            false => self.image.config.shell.clone(),
        }
    }

    fn arguments_of(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(args) => args.clone(),
            Command::Shell(line) => {
                let mut args = self.shell();
                args.push(line.clone());
                args
            }
        }
    }

    fn workdir(&mut self, path: &str) -> Result<(), Problem> {
        let current = match self.image.config.working_dir.as_str() {
            "" => "/",
            current => current,
        };
        // Nothing, perhaps by a variable, changes nothing.
        let path = path::absolute(current, path);
        self.image.config.working_dir.clone_from(&path);
        let layer = path != "/";
        self.image.record(&format!("WORKDIR {path}"), layer, false);
        if layer {
            let user = self.image.config.user.clone();
            self.step(Op::Directory { path, user });
        }
        Ok(())
    }

    fn env(&mut self, pairs: &[Pair]) -> Result<(), Problem> {
        let mut text = "ENV".to_owned();
        for pair in pairs {
            self.image.config.set_env(&pair.key, &pair.value);
            text.push_str(&format!(" {}={}", pair.key, pair.value));
        }
        self.note(&text)
    }

    fn label(&mut self, pairs: &[Pair]) -> Result<(), Problem> {
        let mut text = "LABEL".to_owned();
        for pair in pairs {
            text.push_str(&format!(" {}={}", pair.key, pair.value));
            self.image
                .config
                .labels
                .insert(pair.key.clone(), pair.value.clone());
        }
        self.note(&text)
    }

    fn arg(&mut self, items: &[ArgItem]) -> Result<(), Problem> {
        let text = items
            .iter()
            .fold("ARG".to_owned(), |text, item| match &item.default {
                Some(value) => format!("{text} {}={value}", item.name),
                None => format!("{text} {}", item.name),
            });
        self.note(&text)
    }

    fn expose(&mut self, words: &[String]) -> Result<(), Problem> {
        let mut names = Vec::new();
        for word in words {
            let ports = dockerfile::expose::ports(word).map_err(|error| self.error(error))?;
            names.extend(ports.names());
        }
        let text = format!("EXPOSE [{}]", names.join(" "));
        for port in names {
            Settings::add(&mut self.image.config.exposed_ports, port);
        }
        self.note(&text)
    }

    fn volume(&mut self, paths: &[String]) -> Result<(), Problem> {
        if paths.iter().any(String::is_empty) {
            return Err(self.error("VOLUME specified can not be an empty string"));
        }
        let text = format!("VOLUME [{}]", paths.join(" "));
        for path in paths {
            Settings::add(&mut self.image.config.volumes, path.clone());
        }
        self.note(&text)
    }

    fn healthcheck(&mut self, check: &Healthcheck) -> Result<(), Problem> {
        let check = match check {
            Healthcheck::None => image::Healthcheck {
                test: vec!["NONE".to_owned()],
                ..image::Healthcheck::default()
            },
            Healthcheck::Cmd(probe) => of_probe(probe),
        };
        let text = format!("HEALTHCHECK {}", describe(&check));
        self.image.config.healthcheck = Some(check);
        self.note(&text)
    }
}

fn of_probe(probe: &Probe) -> image::Healthcheck {
    let nanoseconds =
        |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut test = Vec::new();
    match &probe.command {
        Command::Shell(line) => test.extend(["CMD-SHELL".to_owned(), line.clone()]),
        Command::Exec(args) => {
            test.push("CMD".to_owned());
            test.extend(args.iter().cloned());
        }
    }
    image::Healthcheck {
        test,
        interval: nanoseconds(probe.interval),
        timeout: nanoseconds(probe.timeout),
        start_period: nanoseconds(probe.start_period),
        start_interval: nanoseconds(probe.start_interval),
        retries: probe.retries.into(),
    }
}

/// As Go prints the structure.
fn describe(check: &image::Healthcheck) -> String {
    let time = |nanoseconds: u64| super::stage::go_duration(nanoseconds);
    format!(
        "{{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        time(check.interval),
        time(check.timeout),
        time(check.start_period),
        time(check.start_interval),
        check.retries
    )
}

/// As Go prints a list of quoted strings.
fn go_list(args: &[String]) -> String {
    let quoted: Vec<String> = args
        .iter()
        .map(|arg| dockerfile::quote::quoted(arg))
        .collect();
    format!("[{}]", quoted.join(" "))
}

/// A number from 1 to 64, or a name with or without `SIG`, `RTMIN+3` included (moby/sys/signal).
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 37] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
        "RTMIN", "RTMAX", "UNUSED",
    ];
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u32>().is_ok_and(|number| number != 0);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = |text: &str, most: u32| {
        text.parse()
            .is_ok_and(|number: u32| (1..=most).contains(&number))
    };
    NAMES.contains(&name)
        || name
            .strip_prefix("RTMIN+")
            .is_some_and(|rest| number(rest, 15))
        || name
            .strip_prefix("RTMAX-")
            .is_some_and(|rest| number(rest, 14))
}
