//! Nodes -> instructions: how many arguments, which flags, what values these have. What variables give is judged where
//! they are replaced.

mod files;
mod probe;

use super::fault::Fault;
use super::flag::{Given, Takes};
use super::instruction::{
    Arg, ArgItem, Command, Device, Expose, Heredoc, Kind, Label, Network, Onbuild, Pair, Run,
    Security, Shell, Volume,
};
use super::mount::MountSpec;
use super::node::Node;
use super::suggest::{closest, closest_in_any_case};
use super::value::{fields, truth};

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

const RUN: &[(&str, Takes)] = &[
    ("mount", Takes::Many),
    ("network", Takes::One),
    ("security", Takes::One),
    ("device", Takes::Many),
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
        "ADD" => files::add(&node, &heredocs)?,
        "COPY" => files::copy(&node, &heredocs)?,
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
            let mut ports = several(node, &name)?;
            ports.sort();
            Kind::Expose(Expose { ports })
        }
        "VOLUME" => {
            let paths = several(node, &name)?;
            let paths: Vec<String> = paths.iter().map(|path| path.trim().to_owned()).collect();
            if paths.iter().any(String::is_empty) {
                return Err(Fault::new("VOLUME specified can not be an empty string"));
            }
            Kind::Volume(Volume { paths })
        }
        "USER" => Kind::User {
            user: single(node, &name)?,
        },
        "WORKDIR" => Kind::Workdir {
            path: single(node, &name)?,
        },
        // These two have never looked at flags.
        "STOPSIGNAL" => Kind::Stopsignal {
            signal: exactly_one(node, &name)?,
        },
        "SHELL" => shell(plain(node)?)?,
        "HEALTHCHECK" => Kind::Healthcheck(probe::healthcheck(node)?),
        "ONBUILD" => onbuild(node, text, &heredocs)?,
        "MAINTAINER" => Kind::Maintainer {
            name: single(node, &name)?,
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

/// One argument, and no flags.
fn single(node: Node, name: &str) -> Result<String, Fault> {
    if node.arguments.len() == 1 {
        Given::read(&node.flags, NO_FLAGS)?;
    }
    exactly_one(node, name)
}

/// One argument or more, and no flags.
fn several(node: Node, name: &str) -> Result<Vec<String>, Fault> {
    if !node.arguments.is_empty() {
        Given::read(&node.flags, NO_FLAGS)?;
    }
    at_least_one(node, name)
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

fn onbuild(node: Node, text: &str, heredocs: &[Heredoc]) -> Result<Kind, Fault> {
    let keyword_end = node.keyword_range.end;
    let arguments = several(node, "ONBUILD")?;
    let trigger = arguments
        .first()
        .map(|name| name.trim().to_uppercase())
        .unwrap_or_default();
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
        .get(keyword_end..)
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
