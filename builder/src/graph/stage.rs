//! Stages: names, what each is built upon, and the order in which they are read.

mod sources;

use std::collections::BTreeMap;
use std::sync::Arc;

use rcrun_image::platform::Platform;

use super::instruction::Walk;
use super::{At, Base, BaseImage, Bases, Graph, Named, Problem, Source, Stage, Wanted, order};
use crate::Error;
use crate::dockerfile::scope::{self, Globals, Scope};
use crate::dockerfile::{self, Dockerfile, Instruction, Span, Words};
use crate::image::{Draft, PATH};

/// The base that is nothing.
pub(super) const SCRATCH: &str = "scratch";

/// Decides what is done for a target. What base images say is asked of `bases`, only for stages that are
/// needed.
pub fn plan(file: &Dockerfile, wanted: &Wanted, bases: &dyn Bases) -> Result<Graph, Problem> {
    let request = request_of(wanted);
    let target = request.target_platform.clone();
    let globals = Globals::new(file, &request)?;
    let mut planner = Planner {
        file,
        wanted,
        bases,
        words: Words::new(file.directives.escape),
        request: &request,
        globals: &globals,
        target,
        parts: Vec::new(),
        by_name: BTreeMap::new(),
    };
    planner.stages()?;
    planner.sources()?;
    let target = planner.find_target()?;
    planner.finish(target)
}

/// What variables depend on.
pub(super) fn request_of(wanted: &Wanted) -> scope::Request {
    let host = machine();
    scope::Request {
        build_args: wanted.arguments.clone(),
        target_platform: wanted.platform.clone().unwrap_or_else(|| host.clone()),
        build_platform: host,
        target: wanted.target.clone(),
    }
}

/// This machine, as builds know it: generations of amd64 are no variants of it.
pub fn machine() -> Platform {
    let host = Platform::host();
    match host.architecture.as_str() {
        "amd64" => Platform::new(&host.os, &host.architecture, ""),
        _ => host,
    }
}

/// What a stage hands on to those that are built upon it.
#[derive(Clone)]
struct Inherited<'a> {
    scope: Scope<'a>,
    /// `ONBUILD`, for stages upon this one.
    triggers: Vec<String>,
}

/// What a stage begins with, for what, what its image says, and what the stage below hands on.
type Begun<'a> = (Base, Platform, Draft, Option<Inherited<'a>>);

/// A stage on its way.
pub(super) struct Part {
    name: String,
    span: Span,
    /// What stands behind `FROM`, expanded.
    pub(super) base: String,
    /// The earlier stage that this is.
    upon: Option<usize>,
    pub(super) platform: Option<Platform>,
    /// What replaces the whole stage.
    pub(super) instead: Option<Named>,
    instructions: Vec<Instruction>,
    /// Of each instruction, where files come from.
    sources: Vec<Vec<Option<Source>>>,
    /// An image that only files are taken from.
    unnamed: bool,
}

/// Reads stages.
pub(super) struct Planner<'a> {
    file: &'a Dockerfile,
    pub(super) wanted: &'a Wanted,
    bases: &'a dyn Bases,
    words: Words,
    request: &'a scope::Request,
    globals: &'a Globals,
    pub(super) target: Platform,
    pub(super) parts: Vec<Part>,
    pub(super) by_name: BTreeMap<String, usize>,
}

impl<'a> Planner<'a> {
    fn stages(&mut self) -> Result<(), Problem> {
        for stage in &self.file.stages {
            let base = self.expand(&stage.base, stage.span)?;
            if base.is_empty() {
                let text = format!("base name ({}) should not be blank", stage.base);
                return Err(Problem::at(stage.span, Error::invalid(text)));
            }
            let platform = match &stage.platform {
                None => None,
                Some(written) => {
                    let text = self.expand(written, stage.span)?;
                    if text.is_empty() {
                        let text = format!("empty platform value from expression {written}");
                        return Err(Problem::at(stage.span, Error::invalid(text)));
                    }
                    Some(text.parse::<Platform>().at(stage.span)?)
                }
            };
            let built_for = platform.as_ref().unwrap_or(&self.target);
            let named = stage
                .name
                .as_ref()
                .and_then(|name| self.context_of(name, built_for));
            let part = Part {
                name: stage
                    .name
                    .clone()
                    .unwrap_or_else(|| format!("stage-{}", stage.index)),
                span: stage.span,
                upon: self
                    .by_name
                    .get(&base.to_lowercase())
                    .copied()
                    .filter(|_| named.is_none()),
                base,
                platform,
                instead: named.cloned(),
                sources: Vec::new(),
                instructions: match named {
                    Some(_) => Vec::new(),
                    None => stage.instructions.clone(),
                },
                unnamed: false,
            };
            self.parts.push(part);
            if let Some(name) = &stage.name {
                self.by_name
                    .insert(name.to_lowercase(), self.parts.len() - 1);
            }
        }
        Ok(())
    }

    fn expand(&self, word: &str, span: Span) -> Result<String, Problem> {
        let expanded = self.words.expand(word, &self.globals.environment);
        let wrong =
            |error: dockerfile::WordError| Problem::at(span, Error::invalid(error.to_string()));
        Ok(expanded.map_err(wrong)?.value)
    }

    fn find_target(&self) -> Result<usize, Problem> {
        let Some(name) = self
            .wanted
            .target
            .as_deref()
            .filter(|name| !name.is_empty())
        else {
            return Ok(self.file.stages.len() - 1);
        };
        let number = || {
            name.parse::<usize>()
                .ok()
                .filter(|index| *index < self.file.stages.len())
        };
        let found = self
            .by_name
            .get(&name.to_lowercase())
            .copied()
            .or_else(number);
        found.ok_or_else(|| {
            let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
            names.sort_unstable();
            let error = Error::invalid(format!("target stage {name:?} could not be found"));
            let close = dockerfile::suggest::closest_in_any_case(name, names.iter().copied());
            Problem::from(match (close, names.is_empty()) {
                (Some(close), _) => error.with_hint(format!("did you mean {close}?")),
                (None, true) => error.with_hint("no stage of the Dockerfile has a name"),
                (None, false) => error.with_hint(format!("there is {}", names.join(", "))),
            })
        })
    }

    /// Reads the stages that are needed, each after those that it is built upon.
    fn finish(mut self, target: usize) -> Result<Graph, Problem> {
        let mut done: Vec<Option<(Stage, Inherited<'a>)>> = Vec::new();
        done.resize_with(self.parts.len(), || None);
        let mut open = vec![target];
        while let Some(&index) = open.last() {
            if done.get(index).is_some_and(Option::is_some) {
                open.pop();
                continue;
            }
            if let Some(upon) = self.parts[index].upon.or_else(|| self.named_stage(index))
                && done[upon].is_none()
            {
                if open.contains(&upon) {
                    let name = &self.parts[upon].name;
                    let text = format!("circular dependency detected on stage: {name}");
                    return Err(Problem::at(self.parts[index].span, Error::invalid(text)));
                }
                open.push(upon);
                continue;
            }
            let (stage, inherited) = self.stage(index, &done)?;
            done.resize_with(self.parts.len(), || None);
            let needs = stage.steps.iter().flat_map(|step| step.op.needs());
            // A stage cannot be used before it is there, and what nobody needs is never read.
            let needs: Vec<usize> = needs.collect();
            for need in &needs {
                let later = *need >= index && !self.parts[*need].unnamed;
                if later {
                    return Err(self.used_too_early(&stage, *need));
                }
            }
            done[index] = Some((stage, inherited));
            open.pop();
            open.extend(needs.into_iter().filter(|need| done[*need].is_none()));
        }
        let mut stages: Vec<Stage> = Vec::with_capacity(done.len());
        for (index, stage) in done.into_iter().enumerate() {
            stages.push(match stage {
                Some((stage, _)) => stage,
                None => self.unread(index),
            });
        }
        if self.file.stages.len() == 1 {
            stages[0].name.clear();
        }
        order::reachable(&mut stages, target)?;
        let labels = &self.wanted.labels;
        stages[target].image.config.labels.extend(labels.clone());
        Ok(Graph {
            stages,
            target,
            epoch: self.wanted.epoch,
        })
    }

    fn used_too_early(&self, stage: &Stage, need: usize) -> Problem {
        let at = stage
            .steps
            .iter()
            .find(|step| step.op.needs().contains(&need));
        let span = at.map_or(stage.span, |step| step.span);
        let name = &self.parts[need].name;
        let text = match need
            == self
                .parts
                .iter()
                .position(|part| part.span == stage.span)
                .unwrap_or(need)
        {
            true => format!("circular dependency detected on stage: {name}"),
            false => format!(
                "cannot copy from stage {name:?}, it needs to be defined before current stage {:?}",
                stage.name
            ),
        };
        Problem::at(span, Error::invalid(text))
    }

    /// One that nobody needs.
    fn unread(&self, index: usize) -> Stage {
        let part = &self.parts[index];
        Stage {
            name: part.name.clone(),
            span: part.span,
            base: match part.upon {
                Some(upon) => Base::Stage(upon),
                None => Base::Unknown(part.base.clone()),
            },
            platform: part.platform.clone().unwrap_or_else(|| self.target.clone()),
            steps: Vec::new(),
            image: Draft::empty(&self.target),
            needed: false,
        }
    }

    fn stage(
        &mut self,
        index: usize,
        done: &[Option<(Stage, Inherited<'a>)>],
    ) -> Result<(Stage, Inherited<'a>), Problem> {
        let span = self.parts[index].span;
        let (base, platform, mut image, inherited) = self.begin(index, done)?;
        let has_path = image
            .config
            .env
            .iter()
            .any(|line| line.starts_with("PATH="));
        if !has_path {
            image.config.env.push(format!("PATH={PATH}"));
        }
        let (scope, triggers) = match inherited {
            Some(inherited) => (inherited.scope.on_stage(), inherited.triggers),
            None => {
                let env = &image.config.env;
                let scope = Scope::on_image(self.file, self.globals, self.request, env);
                (scope, std::mem::take(&mut image.config.on_build))
            }
        };
        image.config.on_build.clear();
        self.triggers(index, &triggers)?;
        let part = &self.parts[index];
        let named = &part.name;
        let filter = &self.wanted.no_cache_filter;
        let mut walk = Walk {
            namespace: &self.wanted.cache_namespace,
            scope,
            proxies: self
                .request
                .proxies()
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            image,
            steps: Vec::new(),
            triggers: Vec::new(),
            anew: self.wanted.no_cache
                || filter.iter().any(|name| name.eq_ignore_ascii_case(named)),
            span,
            text: String::new(),
            command_set: false,
        };
        for (instruction, sources) in part.instructions.iter().zip(&part.sources) {
            walk.instruction(instruction, sources)?;
        }
        let inherited = Inherited {
            scope: walk.scope,
            triggers: walk.triggers,
        };
        let stage = Stage {
            name: part.name.clone(),
            span,
            base,
            platform,
            steps: walk.steps,
            image: walk.image,
            needed: false,
        };
        Ok((stage, inherited))
    }

    /// Instructions that the base has for whoever builds upon it.
    fn triggers(&mut self, index: usize, triggers: &[String]) -> Result<(), Problem> {
        let span = self.parts[index].span;
        let mut instructions = Vec::with_capacity(triggers.len());
        let mut sources = Vec::with_capacity(triggers.len());
        for text in triggers {
            let parsed = dockerfile::parse_onbuild(text, span);
            let instruction = parsed.map_err(|wrong| {
                let text = format!("onbuild trigger {text:?}: {}", wrong.message);
                Problem::at(span, Error::invalid(text))
            })?;
            sources.push(self.sources_of(&instruction)?);
            instructions.push(instruction);
        }
        let part = &mut self.parts[index];
        part.instructions.splice(0..0, instructions);
        part.sources.splice(0..0, sources);
        Ok(())
    }

    /// What a stage begins with.
    fn begin(
        &self,
        index: usize,
        done: &[Option<(Stage, Inherited<'a>)>],
    ) -> Result<Begun<'a>, Problem> {
        let part = &self.parts[index];
        let platform = part.platform.clone().unwrap_or_else(|| self.target.clone());
        if let Some(upon) = part.upon {
            let Some((stage, inherited)) = done.get(upon).and_then(Option::as_ref) else {
                return Err(Problem::at(
                    part.span,
                    Error::invalid("a stage is built upon itself"),
                ));
            };
            return Ok((
                Base::Stage(upon),
                stage.platform.clone(),
                stage.image.clone(),
                Some(inherited.clone()),
            ));
        }
        let instead = part.instead.as_ref().or_else(|| self.named_context(part));
        let base = match instead {
            Some(Named::Tree(files)) => {
                let (tree, source) = files.open().at(part.span)?;
                let mut image = Draft::empty(&platform);
                image.record(&format!("FROM {}", part.base), true, true);
                return Ok((Base::Tree(tree, source), platform.clone(), image, None));
            }
            Some(Named::Stage(name)) => {
                let found = self.by_name.get(&name.to_lowercase());
                let found = found.and_then(|index| Some((*index, done.get(*index)?.as_ref()?)));
                let Some((upon, (stage, inherited))) = found else {
                    let text = format!(
                        "--build-context {}=target:{name}: no such stage before",
                        part.base
                    );
                    return Err(Problem::at(part.span, Error::invalid(text)));
                };
                let image = stage.image.clone();
                return Ok((
                    Base::Stage(upon),
                    stage.platform.clone(),
                    image,
                    Some(inherited.clone()),
                ));
            }
            Some(Named::Image(name)) => name,
            None => &part.base,
        };
        if base == SCRATCH {
            return Ok((
                Base::Scratch,
                platform.clone(),
                Draft::empty(&platform),
                None,
            ));
        }
        let found: Arc<BaseImage> = self.bases.image(base, &platform).at(part.span)?;
        let image = Draft::of(&found.image.config);
        // Without a word of the user, a base may be for another machine, and so is what is built on it.
        let platform = match part.platform.is_none() && self.wanted.platform.is_none() {
            true if !image.architecture.is_empty() => image.platform(),
            _ => platform,
        };
        Ok((Base::Image(found), platform, image, None))
    }
}

/// A duration as Go prints it.
pub(super) fn go_duration(nanoseconds: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let fraction = |whole: u64, part: u64, digits: usize, unit: &str| {
        let text = format!("{whole}.{part:0digits$}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        ns if ns < 1000 => format!("{ns}ns"),
        ns if ns < 1_000_000 => fraction(ns / 1000, ns % 1000, 3, "µs"),
        ns if ns < SECOND => fraction(ns / 1_000_000, ns % 1_000_000, 6, "ms"),
        ns => {
            let (minutes, seconds) = (ns / SECOND / 60, ns / SECOND % 60);
            let seconds = fraction(seconds, ns % SECOND, 9, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}
