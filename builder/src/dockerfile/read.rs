//! Nodes -> instructions: how many arguments, which flags, what values these have. What variables give is judged where
//! they are replaced.

use super::duration;
use super::fault::Fault;
use super::flag::{Given, Takes};
use super::heredoc;
use super::instruction::{
    Add, Arg, ArgItem, Command, Copy, Device, Expose, Healthcheck, Heredoc, Kind, Label, Network,
    Onbuild, Pair, Probe, Run, Security, Shell, Sources, Volume,
};
use super::mount::{MountSpec, fields, truth};
use super::node::Node;
use super::suggest::{closest, closest_in_any_case};

/// The keywords, in lower case.
pub(super) const KEYWORDS: &[&str] = &[
    "add",
    "arg",
    "cmd",
    "copy",
    "entrypoint",
    "env",
    "expose",
    "from",
    "healthcheck",
    "label",
    "maintainer",
    "onbuild",
    "run",
    "shell",
    "stopsignal",
    "user",
    "volume",
    "workdir",
];

const NO_FLAGS: &[(&str, Takes)] = &[];

const ADD: &[(&str, Takes)] = &[
    ("chown", Takes::One),
    ("chmod", Takes::One),
    ("link", Takes::Bool),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::One),
    ("unpack", Takes::Bool),
    ("exclude", Takes::Many),
];

const COPY: &[(&str, Takes)] = &[
    ("chown", Takes::One),
    ("from", Takes::One),
    ("chmod", Takes::One),
    ("link", Takes::Bool),
    ("exclude", Takes::Many),
    ("parents", Takes::Bool),
];

const RUN: &[(&str, Takes)] = &[
    ("mount", Takes::Many),
    ("network", Takes::One),
    ("security", Takes::One),
    ("device", Takes::Many),
];

const HEALTHCHECK: &[(&str, Takes)] = &[
    ("interval", Takes::One),
    ("timeout", Takes::One),
    ("start-period", Takes::One),
    ("start-interval", Takes::One),
    ("retries", Takes::One),
];

/// What `FROM` says.
pub(super) struct From {
    pub(super) base: String,
    pub(super) platform: Option<String>,
    pub(super) name: Option<String>,
}

/// The instruction of a node other than `FROM`. `text` is its line.
pub(super) fn instruction(
    node: Node,
    text: &str,
    heredocs: Vec<Heredoc>,
    comments: &[String],
) -> Result<Kind, Fault> {
    let name = node.keyword.to_ascii_uppercase();
    Ok(match name.as_str() {
        "ADD" => add(node, heredocs)?,
        "COPY" => copy(node, heredocs)?,
        "RUN" => run(node, heredocs)?,
        "ENV" => Kind::Env {
            pairs: pairs(node, &name)?,
        },
        "LABEL" => Kind::Label(Label {
            pairs: pairs(node, &name)?,
        }),
        "ARG" => Kind::Arg(arg(&node, comments)?),
        "CMD" => Kind::Cmd {
            command: command(plain(node)?),
        },
        "ENTRYPOINT" => Kind::Entrypoint {
            command: command(plain(node)?),
        },
        "EXPOSE" => {
            let mut ports = at_least_one(plain(node)?, &name)?;
            ports.sort();
            Kind::Expose(Expose { ports })
        }
        "VOLUME" => {
            let paths = at_least_one(plain(node)?, &name)?;
            let paths: Vec<String> = paths.iter().map(|path| path.trim().to_owned()).collect();
            if paths.iter().any(String::is_empty) {
                return Err(Fault::new("VOLUME specified can not be an empty string"));
            }
            Kind::Volume(Volume { paths })
        }
        "USER" => Kind::User {
            user: exactly_one(plain(node)?, &name)?,
        },
        "WORKDIR" => Kind::Workdir {
            path: exactly_one(plain(node)?, &name)?,
        },
        // These two have never looked at flags.
        "STOPSIGNAL" => Kind::Stopsignal {
            signal: exactly_one(node, &name)?,
        },
        "SHELL" => shell(plain(node)?)?,
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck(node)?),
        "ONBUILD" => onbuild(&plain(node)?, text, &heredocs)?,
        "MAINTAINER" => Kind::Maintainer {
            name: exactly_one(plain(node)?, &name)?,
        },
        _ => {
            let meant = closest_in_any_case(&node.keyword, KEYWORDS.iter().copied());
            let fault = Fault::new(format!("unknown instruction: {}", node.keyword));
            return Err(fault.at(&node.keyword_range).did_you_mean(meant));
        }
    })
}

/// A node that may have no flags.
fn plain(node: Node) -> Result<Node, Fault> {
    Given::read(&node.flags, NO_FLAGS)?;
    Ok(node)
}

fn exactly_one(node: Node, name: &str) -> Result<String, Fault> {
    match <[String; 1]>::try_from(node.arguments) {
        Ok([one]) => Ok(one),
        Err(_) => Err(Fault::new(format!("{name} requires exactly one argument"))),
    }
}

fn at_least_one(node: Node, name: &str) -> Result<Vec<String>, Fault> {
    if node.arguments.is_empty() {
        return Err(Fault::new(format!("{name} requires at least one argument")));
    }
    Ok(node.arguments)
}

fn command(node: Node) -> Command {
    if node.is_json {
        Command::Exec(node.arguments)
    } else {
        Command::Shell(node.arguments.join(" "))
    }
}

fn pairs(node: Node, name: &str) -> Result<Vec<Pair>, Fault> {
    let arguments = at_least_one(plain(node)?, name)?;
    let mut pairs = Vec::with_capacity(arguments.len() / 3);
    for three in arguments.chunks_exact(3) {
        if three[0].is_empty() {
            return Err(Fault::new(format!("{name} names can not be blank")));
        }
        pairs.push(Pair {
            key: three[0].clone(),
            value: three[1].clone(),
            legacy: three[2].is_empty(),
        });
    }
    Ok(pairs)
}

/// `ARG`, before the first `FROM` and in stages.
pub(super) fn arg(node: &Node, comments: &[String]) -> Result<Arg, Fault> {
    if node.arguments.is_empty() {
        return Err(Fault::new("ARG requires at least one argument"));
    }
    let item = |text: &String| {
        let (name, default) = match text.split_once('=') {
            Some(("", _)) => {
                return Err(Fault::new("ARG names can not be blank").at(&node.arguments_range));
            }
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (text.as_str(), None),
        };
        Ok(ArgItem {
            name: name.to_owned(),
            default,
            description: description(comments, name),
        })
    };
    Ok(Arg {
        items: node.arguments.iter().map(item).collect::<Result<_, _>>()?,
    })
}

/// What the comments above say of a name.
fn description(comments: &[String], name: &str) -> Option<String> {
    let found = comments
        .iter()
        .find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '));
    found.map(str::to_owned)
}

/// What a comment says of a stage.
pub(super) fn stage_description(comments: &[String], name: Option<&str>) -> Option<String> {
    description(comments, name?)
}

/// `FROM`.
pub(super) fn from(node: &Node) -> Result<From, Fault> {
    let name = match &node.arguments[..] {
        [_] => None,
        [_, keyword, name] if keyword.eq_ignore_ascii_case("as") => Some(stage_name(name, node)?),
        _ => {
            let fault = Fault::new("FROM requires either one or three arguments");
            return Err(fault.hint("FROM [--platform=PLATFORM] IMAGE [AS NAME]"));
        }
    };
    let given = Given::read(&node.flags, &[("platform", Takes::One)])?;
    Ok(From {
        base: node.arguments[0].clone(),
        platform: given.text("platform"),
        name,
    })
}

fn stage_name(name: &str, node: &Node) -> Result<String, Fault> {
    let lower = name.to_lowercase();
    let allowed =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if !lower.starts_with(|c: char| c.is_ascii_lowercase()) || !lower.chars().all(allowed) {
        let message = format!(
            "invalid name for build stage: {}, name can't start with a number or contain symbols",
            super::quote::quoted(name)
        );
        return Err(Fault::new(message).at(&node.arguments_range));
    }
    Ok(lower)
}

fn sources(node: &Node, name: &str, heredocs: &[Heredoc]) -> Result<Sources, Fault> {
    let Some((dest, from)) = node
        .arguments
        .split_last()
        .filter(|(_, from)| !from.is_empty())
    else {
        return Err(Fault::new(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        )));
    };
    if heredoc::read(dest).ok().flatten().is_some() {
        return Err(
            Fault::new(format!("{name} cannot accept a heredoc as a destination"))
                .at(&node.arguments_range),
        );
    }
    let mut sources = Sources {
        paths: Vec::new(),
        documents: Vec::new(),
        dest: dest.clone(),
    };
    for source in from {
        match heredoc::read(source) {
            Ok(Some(announced)) => {
                // The last of one name is the file of that name.
                let raw = heredocs
                    .iter()
                    .rev()
                    .find(|document| document.name == announced.name);
                let raw = raw.map(|document| document.raw.clone()).unwrap_or_default();
                sources.documents.push(Heredoc { raw, ..announced });
            }
            _ => sources.paths.push(source.clone()),
        }
    }
    Ok(sources)
}

fn add(node: Node, heredocs: Vec<Heredoc>) -> Result<Kind, Fault> {
    let sources = sources(&node, "ADD", &heredocs)?;
    let given = Given::read(&node.flags, ADD)?;
    Ok(Kind::Add(Add {
        sources,
        chown: given.text("chown"),
        chmod: given.text("chmod"),
        link: given.truth("link").unwrap_or_default(),
        keep_git_dir: given.truth("keep-git-dir"),
        checksum: given.text("checksum"),
        unpack: given.truth("unpack"),
        exclude: given.values("exclude"),
    }))
}

fn copy(node: Node, heredocs: Vec<Heredoc>) -> Result<Kind, Fault> {
    let sources = sources(&node, "COPY", &heredocs)?;
    let given = Given::read(&node.flags, COPY)?;
    Ok(Kind::Copy(Copy {
        sources,
        from: given.text("from"),
        chown: given.text("chown"),
        chmod: given.text("chmod"),
        link: given.truth("link").unwrap_or_default(),
        parents: given.truth("parents").unwrap_or_default(),
        exclude: given.values("exclude"),
    }))
}

fn run(node: Node, heredocs: Vec<Heredoc>) -> Result<Kind, Fault> {
    let given = Given::read(&node.flags, RUN)?;
    let whole = node.arguments_range.clone();
    let at = |name: &str| given.range(name).unwrap_or(&whole).clone();
    let mounts = given
        .all("mount")
        .map(|(value, flag)| MountSpec::read(value).map_err(|fault| fault.at(&flag.range)));
    let devices = given
        .all("device")
        .map(|(value, flag)| device(value).map_err(|fault| fault.at(&flag.range)));
    let network = match given.get("network").unwrap_or("default") {
        "default" => Network::Default,
        "none" => Network::None,
        "host" => Network::Host,
        other => {
            let fault = Fault::new(format!(
                "invalid network mode {}",
                super::quote::quoted(other)
            ));
            let meant = closest(other, ["default", "none", "host"]);
            return Err(fault
                .hint("default, none or host")
                .did_you_mean(meant)
                .at(&at("network")));
        }
    };
    let security = match given.get("security").unwrap_or("sandbox") {
        "sandbox" => Security::Sandbox,
        "insecure" => Security::Insecure,
        other => {
            let fault = Fault::new(format!(
                "security {} is not valid",
                super::quote::quoted(other)
            ));
            let meant = closest(other, ["sandbox", "insecure"]);
            return Err(fault
                .hint("sandbox or insecure")
                .did_you_mean(meant)
                .at(&at("security")));
        }
    };
    let (mounts, devices) = (
        mounts.collect::<Result<_, _>>()?,
        devices.collect::<Result<_, _>>()?,
    );
    Ok(Kind::Run(Run {
        command: command(node),
        heredocs,
        mounts,
        network,
        security,
        devices,
    }))
}

/// `--device=[name=]NAME[,required[=BOOL]]`
fn device(text: &str) -> Result<Device, Fault> {
    let mut device = Device {
        name: String::new(),
        required: false,
    };
    for text in fields(text)
        .map_err(|reason| Fault::new(format!("failed to parse csv devices: {reason}")))?
    {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (text.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required = truth(value)
                    .ok_or_else(|| Fault::new(format!("invalid value for required: {value}")))?;
            }
            ("name", Some(value)) if device.name.is_empty() => value.clone_into(&mut device.name),
            ("name", Some(_)) => {
                return Err(Fault::new(format!(
                    "device name already set to {}",
                    device.name
                )));
            }
            // A name may contain `=`: vendor.com/class=name.
            _ if device.name.is_empty() => device.name = text,
            (_, None) => {
                return Err(Fault::new(format!(
                    "invalid field '{text}' must be a key=value pair"
                )));
            }
            (key, Some(_)) => {
                let fault = Fault::new(format!("unexpected key '{key}' in '{text}'"));
                return Err(fault.did_you_mean(closest(key, ["name", "required"])));
            }
        }
    }
    Ok(device)
}

fn shell(node: Node) -> Result<Kind, Fault> {
    let is_json = node.is_json;
    let arguments = at_least_one(node, "SHELL")?;
    if !is_json {
        let fault = Fault::new("SHELL requires the arguments to be in JSON form");
        let words: Vec<String> = arguments
            .join(" ")
            .split_whitespace()
            .map(super::quote::quoted)
            .collect();
        return Err(fault.hint(format!("SHELL [{}]", words.join(", "))));
    }
    Ok(Kind::Shell(Shell { arguments }))
}

fn healthcheck(mut node: Node) -> Result<Healthcheck, Fault> {
    let Some(kind) = node.arguments.first().map(|kind| kind.to_uppercase()) else {
        return Err(Fault::new("HEALTHCHECK requires at least one argument"));
    };
    node.arguments.remove(0);
    if kind == "NONE" {
        if !node.arguments.is_empty() {
            return Err(Fault::new("HEALTHCHECK NONE takes no arguments"));
        }
        return Ok(Healthcheck::None);
    }
    let given = Given::read(&node.flags, HEALTHCHECK)?;
    if kind != "CMD" {
        return Err(Fault::new(format!(
            "Unknown type {} in HEALTHCHECK (try CMD)",
            super::quote::quoted(&kind)
        )));
    }
    if node.arguments.is_empty() {
        return Err(Fault::new("Missing command after HEALTHCHECK CMD"));
    }
    let duration = |name: &str| -> Result<std::time::Duration, Fault> {
        let Some(text) = given.text(name) else {
            return Ok(std::time::Duration::ZERO);
        };
        let fault = |message: String| match given.range(name) {
            Some(range) => Fault::new(message).at(range),
            None => Fault::new(message),
        };
        let value = duration::parse(&text).map_err(fault)?;
        if !value.is_zero() && value < std::time::Duration::from_millis(1) {
            return Err(fault(format!(
                "Interval {} cannot be less than 1ms",
                super::quote::quoted(name)
            )));
        }
        Ok(value)
    };
    let retries = match given.text("retries") {
        None => 0,
        Some(text) => match text.parse::<i32>() {
            Ok(number) => u32::try_from(number)
                .map_err(|_| Fault::new(format!("--retries cannot be negative ({number})")))?,
            Err(_) => {
                return Err(Fault::new(format!(
                    "invalid --retries {text:?}: expected a number"
                )));
            }
        },
    };
    let (interval, timeout) = (duration("interval")?, duration("timeout")?);
    let (start_period, start_interval) = (duration("start-period")?, duration("start-interval")?);
    let command = command(node);
    Ok(Healthcheck::Cmd(Probe {
        command,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    }))
}

fn onbuild(node: &Node, text: &str, heredocs: &[Heredoc]) -> Result<Kind, Fault> {
    let Some(trigger) = node
        .arguments
        .first()
        .map(|name| name.trim().to_uppercase())
    else {
        return Err(Fault::new("ONBUILD requires at least one argument"));
    };
    match trigger.as_str() {
        "ONBUILD" => {
            return Err(Fault::new(
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ));
        }
        "MAINTAINER" | "FROM" => {
            return Err(Fault::new(format!(
                "{trigger} isn't allowed as an ONBUILD trigger"
            )));
        }
        _ => {}
    }
    let mut expression = text
        .get(node.keyword_range.end..)
        .unwrap_or_default()
        .trim_start()
        .to_owned();
    for document in heredocs {
        expression.push('\n');
        expression.push_str(&document.raw);
        expression.push_str(&document.name);
    }
    Ok(Kind::Onbuild(Onbuild { expression }))
}
