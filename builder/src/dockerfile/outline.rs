//! What a Dockerfile offers to who builds it: `--print=targets` and `--print=outline`, as `BuildKit`'s requests
//! `frontend.targets` and `frontend.outline` (1.0.0) answer.

use std::collections::{BTreeMap, BTreeSet};

use rcrun_image::platform::Platform;
use serde::Serialize;

use super::diagnostic::Diagnostic;
use super::instruction::{ArgItem, Dockerfile, Instruction, Kind};
use super::mount::Mount;
use super::scope::{Applied, Globals, Request, Undefined};
use super::span::Span;
use super::stages::{Base, Plan, Source, Stages};
use super::walk::{BaseFacts, Ground, Visitor};

/// Lines of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// One for each line.
    pub ranges: Vec<Range>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Range {
    /// Where it begins.
    pub start: Position,
    /// Where it ends.
    pub end: Position,
}

/// A line, counted from one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Its number.
    pub line: u32,
}

impl From<Span> for Location {
    fn from(span: Span) -> Self {
        let line = |line| Range {
            start: Position { line },
            end: Position { line },
        };
        Self {
            ranges: (span.first_line..=span.last_line.max(span.first_line))
                .map(line)
                .collect(),
        }
    }
}

/// The stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// In the order of the file.
    pub targets: Vec<Target>,
    /// The Dockerfile, in base64.
    pub sources: Vec<String>,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Built unless another is asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// What its comment says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it is built on, as it is written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// `--platform`, as it is written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Where its `FROM` stands.
    pub location: Location,
}

/// What a target takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What its comment says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Build arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OutlineArg>,
    /// Secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<OutlineAccess>,
    /// SSH agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<OutlineAccess>,
    /// The Dockerfile, in base64.
    pub sources: Vec<String>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What its comment says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its value in this build.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Where it is declared.
    pub location: Location,
}

/// A secret or an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlineAccess {
    /// Its id.
    pub name: String,
    /// Its absence is an error.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The instruction that takes it first.
    pub location: Location,
}

/// The stages of a Dockerfile; `text` is its source.
pub fn targets(dockerfile: &Dockerfile, text: &[u8]) -> Targets {
    let last = dockerfile.stages.len();
    let target = |stage: &super::Stage| Target {
        name: stage.name.clone().unwrap_or_default(),
        default: stage.index + 1 == last,
        description: stage.description.clone().unwrap_or_default(),
        base: stage.base.clone(),
        platform: stage.platform.clone().unwrap_or_default(),
        location: stage.span.into(),
    };
    Targets {
        targets: dockerfile.stages.iter().map(target).collect(),
        sources: vec![crate::base64(text)],
    }
}

/// What the requested target takes, with what it is built on and copies from. `base` tells of images what is known.
///
/// # Errors
///
/// What keeps the target from being built.
pub fn outline(
    dockerfile: &Dockerfile,
    text: &[u8],
    request: &Request,
    base: &dyn Fn(&str, &Platform) -> Option<BaseFacts>,
) -> Result<Outline, Diagnostic> {
    let globals = Globals::new(dockerfile, request)?;
    let stages = Stages::new(dockerfile, &globals)?;
    let target = stages.target(request.target.as_deref())?;
    let wanted = stages.reachable(target);
    stages.check_order(&wanted)?;
    let image = |(index, plan): (usize, &Plan)| match &plan.base {
        Base::Image(name) if wanted[index] => base(
            name,
            plan.platform.as_ref().unwrap_or(&request.target_platform),
        ),
        _ => None,
    };
    let images: Vec<_> = stages.plans.iter().enumerate().map(image).collect();
    let mut draft = Draft {
        dockerfile,
        request,
        globals: &globals,
        parts: vec![Part::default(); wanted.len()],
    };
    let ground = Ground {
        dockerfile,
        globals: &globals,
        request,
        stages: &stages,
        wanted: &wanted,
        images: &images,
    };
    ground.walk(&mut draft)?;
    Ok(draft.finish(text, &stages, target))
}

/// An argument that a stage may use.
#[derive(Debug, Clone)]
struct Known {
    item: ArgItem,
    value: String,
    depends: BTreeSet<String>,
    span: Span,
}

/// What one stage takes by itself.
#[derive(Debug, Clone, Default)]
struct Part {
    /// Arguments that the stage declares.
    known: BTreeMap<String, Known>,
    used: BTreeSet<String>,
    secrets: BTreeMap<String, (bool, Span)>,
    ssh: BTreeMap<String, (bool, Span)>,
}

struct Draft<'a> {
    dockerfile: &'a Dockerfile,
    request: &'a Request,
    globals: &'a Globals,
    parts: Vec<Part>,
}

impl Visitor for Draft<'_> {
    fn stage(&mut self, index: usize, plan: &Plan, _: Option<&BaseFacts>) {
        self.parts[index].used.clone_from(&plan.used);
    }

    fn instruction(
        &mut self,
        index: usize,
        instruction: &Instruction,
        _: Vec<Undefined>,
        applied: Result<Applied, Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let applied = applied?;
        let part = &mut self.parts[index];
        for mount in &applied.mounts {
            let (accesses, id, required) = match mount {
                Mount::Secret { id, required, .. } => (&mut part.secrets, id, required),
                Mount::Ssh { id, required, .. } => (&mut part.ssh, id, required),
                _ => continue,
            };
            accesses
                .entry(id.clone())
                .or_insert((*required, instruction.span));
        }
        let (Kind::Arg(written), Kind::Arg(valued)) = (&instruction.kind, &applied.kind) else {
            return Ok(());
        };
        for (item, valued) in written.items.iter().zip(&valued.items) {
            part.used.insert(item.name.clone());
            let given = self.request.build_args.contains_key(&item.name);
            let is_global = self.globals.environment_has(&item.name);
            // What comes from the global scope is described there.
            if given || item.default.is_some() || !is_global {
                let value = valued.default.clone().unwrap_or_default();
                let known = Known {
                    item: item.clone(),
                    value,
                    depends: BTreeSet::new(),
                    span: instruction.span,
                };
                part.known.insert(item.name.clone(), known);
            }
        }
        Ok(())
    }
}

impl Draft<'_> {
    fn global(&self, name: &str) -> Option<Known> {
        let global = self.globals.declared.get(name)?;
        Some(Known {
            item: global.item.clone(),
            value: global.value.clone().unwrap_or_default(),
            depends: global.depends.clone(),
            span: global.span,
        })
    }

    /// The arguments that a stage uses, with those that their defaults are made of.
    fn arguments(&self, index: usize) -> Vec<Known> {
        let part = &self.parts[index];
        let mut open: Vec<String> = part.used.iter().cloned().collect();
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            if let Some(known) = part
                .known
                .get(&name)
                .cloned()
                .or_else(|| self.global(&name))
            {
                open.extend(known.depends.iter().cloned());
                found.push(known);
            }
        }
        found
    }

    /// The target, what it is built on, what it copies from, and so on: what is nearest first.
    fn order(stages: &Stages, target: usize) -> Vec<usize> {
        let (mut found, mut seen) = (Vec::new(), vec![false; stages.plans.len()]);
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            found.push(index);
            let plan = &stages.plans[index];
            open.extend(
                plan.sources
                    .iter()
                    .rev()
                    .filter_map(|(source, _)| match source {
                        Source::Stage(index) => Some(*index),
                        Source::Named(_) => None,
                    }),
            );
            if let Base::Stage(base) = plan.base {
                open.push(base);
            }
        }
        found
    }

    fn finish(self, text: &[u8], stages: &Stages, target: usize) -> Outline {
        let (mut args, mut secrets, mut ssh) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for index in Self::order(stages, target) {
            for known in self.arguments(index) {
                args.entry(known.item.name.clone()).or_insert(known);
            }
            for (all, own) in [
                (&mut secrets, &self.parts[index].secrets),
                (&mut ssh, &self.parts[index].ssh),
            ] {
                for (name, access) in own {
                    all.entry(name.clone()).or_insert(*access);
                }
            }
        }
        let mut args: Vec<Known> = args.into_values().collect();
        args.sort_by_key(|known| known.span.first_line);
        let args = args.into_iter().map(|known| OutlineArg {
            name: known.item.name,
            description: known.item.description.unwrap_or_default(),
            value: known.value,
            location: known.span.into(),
        });
        let accesses = |all: BTreeMap<String, (bool, Span)>| {
            let mut all: Vec<_> = all.into_iter().collect();
            all.sort_by_key(|(_, (_, span))| span.first_line);
            let access = |(name, (required, span)): (String, (bool, Span))| OutlineAccess {
                name,
                required,
                location: span.into(),
            };
            all.into_iter().map(access).collect()
        };
        let stage = &self.dockerfile.stages[target];
        Outline {
            name: stage.name.clone().unwrap_or_default(),
            description: stage.description.clone().unwrap_or_default(),
            args: args.collect(),
            secrets: accesses(secrets),
            ssh: accesses(ssh),
            sources: vec![crate::base64(text)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn stages_are_targets() {
        let text =
            "# base is small\nFROM --platform=$TARGETPLATFORM alpine AS Base\nRUN x\nFROM base\n";
        let found = targets(&parse(text.as_bytes()).unwrap(), text.as_bytes());
        let json = serde_json::to_value(&found.targets).unwrap();
        let line = |line: u32| serde_json::json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]});
        let wanted = serde_json::json!([
            {"name": "base", "description": "is small", "base": "alpine", "platform": "$TARGETPLATFORM",
             "location": line(2)},
            {"default": true, "base": "base", "location": line(4)},
        ]);
        assert_eq!(json, wanted);
    }

    const TEXT: &str = r"# VERSION is the base's
ARG VERSION=3
ARG IMAGE=alpine:$VERSION
ARG UNUSED=1
FROM $IMAGE AS base
ARG BASE=b
FROM scratch AS tools
# TOOL names a tool
ARG TOOL
ARG VERSION
RUN --mount=type=secret,id=key,required --mount=type=ssh x
FROM scratch AS other
ARG OTHER
# app is it
FROM base AS app
COPY --from=tools / /
ARG TARGETARCH
ARG MORE=$BASE-$VERSION
RUN --mount=type=secret,id=key --mount=type=secret,id=$MORE,target=/x y
";

    fn outlined(args: &[(&str, &str)], target: Option<&str>) -> Outline {
        let build_args = args
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let request = Request {
            build_args,
            target: target.map(str::to_owned),
            ..Request::default()
        };
        let dockerfile = parse(TEXT.as_bytes()).unwrap();
        outline(&dockerfile, TEXT.as_bytes(), &request, &|_, _| None).unwrap()
    }

    fn args(outline: &Outline) -> String {
        let arg = |arg: &OutlineArg| {
            format!(
                "{}={}:{}",
                arg.name, arg.value, arg.location.ranges[0].start.line
            )
        };
        outline.args.iter().map(arg).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_a_target_takes() {
        let found = outlined(&[], None);
        assert_eq!(
            (found.name.as_str(), found.description.as_str()),
            ("app", "is it")
        );
        assert_eq!(
            args(&found),
            "VERSION=3:2 IMAGE=alpine:3:3 BASE=b:6 TOOL=:9 MORE=b-:18"
        );
        assert_eq!(found.args[0].description, "is the base's");
        assert_eq!(found.args[3].description, "names a tool");
        let secrets: Vec<_> = found
            .secrets
            .iter()
            .map(|one| (one.name.as_str(), one.required))
            .collect();
        assert_eq!(secrets, [("b-", false), ("key", false)]);
        assert_eq!(found.ssh[0].name, "default");

        let found = outlined(&[("VERSION", "4"), ("TOOL", "sed")], Some("tools"));
        assert_eq!(args(&found), "TOOL=sed:9 VERSION=4:10");
        assert!(found.secrets[0].required);
        assert_eq!(args(&outlined(&[], Some("OTHER"))), "OTHER=:13");
        assert_eq!(
            args(&outlined(&[("IMAGE", "x")], Some("base"))),
            "IMAGE=x:3 BASE=b:6"
        );
    }
}
