//! One instruction after the other: what each changes in the image's configuration, in the variables
//! that later ones see, and which steps they make.

use super::{Environment, Op, Problem, Source, Step, Wanted, path};
use crate::Error;
use crate::dockerfile::{
    self, ArgItem, Command, Healthcheck, Instruction, Kind, Lookup, Pair, Probe, Span, Words,
};
use crate::image::{self, Draft, Settings};

/// Arguments that are for the builder, and no variables.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Variables of proxies; both cases are meant.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// What a stage hands on to those that are built upon it.
#[derive(Debug, Clone, Default)]
pub(super) struct Inherited {
    /// Variables, with arguments.
    pub(super) environment: Environment,
    /// Arguments that were declared, and what they were.
    pub(super) arguments: Vec<(String, String)>,
    /// `ONBUILD`, for stages upon this one.
    pub(super) triggers: Vec<String>,
}

/// A walk through the instructions of a stage.
pub(super) struct Walk<'a> {
    pub(super) wanted: &'a Wanted,
    pub(super) globals: &'a Environment,
    pub(super) words: Words,
    pub(super) environment: Environment,
    pub(super) arguments: Vec<(String, String)>,
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
        match &instruction.kind {
            Kind::Copy(copy) => {
                let from = sources.first().copied().flatten();
                self.copy(copy, from.unwrap_or(Source::Context))
            }
            Kind::Add(add) => self.add(add),
            Kind::Run(run) => self.run(run, sources),
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
                let user = self.word(user)?;
                self.image.config.user.clone_from(&user);
                self.note(&format!("USER {user}"))
            }
            Kind::Stopsignal { signal } => {
                let signal = self.word(signal)?;
                if !is_signal(&signal) {
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

    /// A word, expanded.
    pub(super) fn word(&self, word: &str) -> Result<String, Problem> {
        let expanded = self.words.expand(word, &self.environment);
        let expanded = expanded.map_err(|error| self.error(error.to_string()))?;
        Ok(expanded.value)
    }

    pub(super) fn word_of(&self, word: Option<&String>) -> Result<Option<String>, Problem> {
        let value = word.map(|word| self.word(word)).transpose()?;
        Ok(value.filter(|value| !value.is_empty()))
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
        let path = self.word(path)?;
        let current = match self.image.config.working_dir.as_str() {
            "" => "/",
            current => current,
        };
        // Nothing, perhaps by a variable, changes nothing.
        let path = path::absolute(current, &path);
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
        let expanded = self.pairs(pairs)?;
        let mut text = "ENV".to_owned();
        for (name, value) in &expanded {
            self.environment.set(name, value);
            self.image.config.set_env(name, value);
            text.push_str(&format!(" {name}={value}"));
        }
        self.note(&text)
    }

    fn label(&mut self, pairs: &[Pair]) -> Result<(), Problem> {
        let expanded = self.pairs(pairs)?;
        let mut text = "LABEL".to_owned();
        for (name, value) in expanded {
            text.push_str(&format!(" {name}={value}"));
            self.image.config.labels.insert(name, value);
        }
        self.note(&text)
    }

    /// All of them see what was set before the instruction.
    fn pairs(&self, pairs: &[Pair]) -> Result<Vec<(String, String)>, Problem> {
        let one = |pair: &Pair| Ok((self.word(&pair.key)?, self.word(&pair.value)?));
        pairs.iter().map(one).collect()
    }

    fn arg(&mut self, items: &[ArgItem]) -> Result<(), Problem> {
        let mut text = "ARG".to_owned();
        for item in items {
            let given = self.wanted.arguments.get(&item.name).cloned();
            let value = match (given, &item.default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(self.word(default)?),
                (None, None) => self.globals.get(&item.name).map(str::to_owned),
            };
            text.push(' ');
            text.push_str(&item.name);
            if let Some(value) = &value {
                text.push('=');
                text.push_str(value);
                if !NO_VARIABLES.contains(&item.name.as_str()) {
                    self.environment.set(&item.name, value);
                }
            }
            self.arguments.push((item.name.clone(), value.unwrap_or_default()));
        }
        self.note(&text)
    }

    fn expose(&mut self, ports: &[String]) -> Result<(), Problem> {
        let mut words = Vec::new();
        for port in ports {
            let split = self.words.split(port, &self.environment);
            words.extend(split.map_err(|error| self.error(error.to_string()))?);
        }
        let ports = dockerfile::expose::ports(&words).map_err(|error| self.error(error.to_string()))?;
        let text = format!("EXPOSE [{}]", ports.join(" "));
        for port in ports {
            Settings::add(&mut self.image.config.exposed_ports, port);
        }
        self.note(&text)
    }

    fn volume(&mut self, paths: &[String]) -> Result<(), Problem> {
        let paths: Vec<String> = paths.iter().map(|path| self.word(path)).collect::<Result<_, _>>()?;
        if paths.iter().any(String::is_empty) {
            return Err(self.error("VOLUME specified can not be an empty string"));
        }
        let text = format!("VOLUME [{}]", paths.join(" "));
        for path in paths {
            Settings::add(&mut self.image.config.volumes, path);
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

    /// Proxies that were given to the build, in both cases, as BuildKit hands them on.
    pub(super) fn proxies(&self) -> Vec<String> {
        let mut all = Vec::new();
        for name in PROXIES {
            let same = |other: &&String| other.eq_ignore_ascii_case(name);
            let Some(given) = self.wanted.arguments.keys().rfind(same) else {
                continue;
            };
            let value = &self.wanted.arguments[given];
            all.push(format!("{}={value}", name.to_ascii_uppercase()));
            all.push(format!("{name}={value}"));
        }
        all
    }
}

fn of_probe(probe: &Probe) -> image::Healthcheck {
    let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
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
    let quoted: Vec<String> = args.iter().map(|arg| dockerfile::quote::quoted(arg)).collect();
    format!("[{}]", quoted.join(" "))
}

/// A number from 1 to 64, or a name with or without `SIG`, `RTMIN+3` included (moby/sys/signal).
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 37] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
        "UNUSED",
    ];
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u32>().is_ok_and(|number| number != 0);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = |text: &str, most: u32| text.parse().is_ok_and(|number: u32| (1..=most).contains(&number));
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|rest| number(rest, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|rest| number(rest, 14))
}
