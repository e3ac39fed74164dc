//! Which stage is built on which, and which takes files from which. Pure: whether an image exists is for others.
//!
//! Named contexts, which may take the place of a stage or an image, are the solver's: they are asked for by the names that
//! are here.

use std::collections::{BTreeSet, HashMap};

use rcrun_image::platform::Platform;
use rcrun_image::reference::Reference;

use super::diagnostic::Diagnostic;
use super::instruction::{Dockerfile, Instruction, Kind, Stage};
use super::parse::parse_onbuild;
use super::quote::quoted;
use super::scope::{Globals, at};
use super::span::Span;
use super::suggest::closest;
use super::word::{Expanded, Nothing, WordError, Words};

/// What a stage is built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// `FROM scratch`: nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, by the name that is written.
    Image(String),
}

/// Where `COPY --from` and `RUN --mount=from=` take files from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A stage.
    Stage(usize),
    /// A named context, `scratch`, or an image.
    Named(String),
}

/// What the `FROM` of a stage comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it is built on.
    pub base: Base,
    /// `--platform`
    pub platform: Option<Platform>,
    /// The global arguments that the `FROM` uses.
    pub used: BTreeSet<String>,
    /// What the stage takes files from, with the instruction that does.
    pub sources: Vec<(Source, Span)>,
}

/// All stages.
#[derive(Debug, Clone)]
pub struct Stages {
    /// In the order of the file.
    pub plans: Vec<Plan>,
    names: Vec<Option<String>>,
    by_name: HashMap<String, usize>,
}

/// What the words of a `FROM` expand to; the checks want to know as well.
#[derive(Debug)]
pub(super) struct FromWords {
    pub(super) base: Result<Expanded, WordError>,
    pub(super) platform: Option<Result<Expanded, WordError>>,
}

impl FromWords {
    pub(super) fn read(stage: &Stage, globals: &Globals, words: &Words) -> Self {
        let expand = |word: &str| words.expand(word, &globals.environment);
        Self {
            base: expand(&stage.base),
            platform: stage.platform.as_deref().map(expand),
        }
    }

    /// What they mean, or why they mean nothing.
    fn judge(
        self,
        stage: &Stage,
        globals: &Globals,
    ) -> Result<(String, Option<Platform>, BTreeSet<String>), Diagnostic> {
        let wrong = |message: String| Diagnostic::error(stage.span, message);
        let base = self.base.map_err(|error| at(stage.span, &error))?;
        if base.value.is_empty() {
            let error = wrong(format!("base name ({}) should not be blank", stage.base));
            return Err(suggested(error, &base.unmatched, globals));
        }
        let mut used = base.matched;
        let Some(platform) = self.platform else {
            return Ok((base.value, None, used));
        };
        let platform = platform.map_err(|error| at(stage.span, &error))?;
        let written = stage.platform.as_deref().unwrap_or_default();
        if platform.value.is_empty() {
            let error = wrong(format!("empty platform value from expression {written}"));
            return Err(suggested(error, &platform.unmatched, globals));
        }
        let parsed: Platform = platform.value.parse().map_err(|error: crate::Error| {
            let error = wrong(format!("failed to parse platform {written}: {error}"));
            suggested(error, &platform.unmatched, globals)
        })?;
        used.extend(platform.matched);
        Ok((base.value, Some(parsed), used))
    }
}

/// That an image could have a name: names of contexts have to be such, too.
fn check_name(name: &str, span: Span) -> Result<(), Diagnostic> {
    match name.parse::<Reference>() {
        Ok(_) => Ok(()),
        Err(error) => {
            let message = format!("failed to parse stage name {}: {error}", quoted(name));
            Err(Diagnostic::error(span, message))
        }
    }
}

/// An error with the name that may have been meant by one that is not set.
fn suggested(error: Diagnostic, unset: &BTreeSet<String>, globals: &Globals) -> Diagnostic {
    let names = globals.environment.names();
    let meant = unset
        .iter()
        .find_map(|name| closest(name, names.iter().map(|name| &**name)));
    match meant {
        Some(meant) => error.with_hint(format!("did you mean {meant}?")),
        None => error,
    }
}

impl Stages {
    /// Of a Dockerfile.
    ///
    /// # Errors
    ///
    /// The first `FROM` that means nothing; `--from` of stages that do not exist; stages that need each other; names that no
    /// image can have.
    pub fn new(dockerfile: &Dockerfile, globals: &Globals) -> Result<Self, Diagnostic> {
        let words = Words::new(dockerfile.directives.escape);
        let mut stages = Self {
            plans: Vec::new(),
            names: Vec::new(),
            by_name: HashMap::new(),
        };
        for stage in &dockerfile.stages {
            let from = FromWords::read(stage, globals, &words);
            let (name, platform, used) = from.judge(stage, globals)?;
            let base = match stages.find(&name) {
                Some(index) => Base::Stage(index),
                None if name == "scratch" => Base::Scratch,
                None => Base::Image(name),
            };
            stages.plans.push(Plan {
                base,
                platform,
                used,
                sources: Vec::new(),
            });
            stages.names.push(stage.name.clone());
            if let Some(name) = &stage.name {
                // The last of one name counts.
                stages.by_name.insert(name.clone(), stage.index);
            }
        }
        for stage in &dockerfile.stages {
            if let Base::Stage(base) = stages.plans[stage.index].base {
                for one in &dockerfile.stages[base].instructions {
                    if let Kind::Onbuild(onbuild) = &one.kind {
                        stages.add_trigger(stage, &onbuild.expression)?;
                    }
                }
            }
            for instruction in &stage.instructions {
                stages.add_sources(stage.index, instruction)?;
            }
        }
        stages.check_circles()?;
        for (plan, stage) in stages.plans.iter().zip(&dockerfile.stages) {
            if let Base::Image(name) = &plan.base {
                check_name(name, stage.span)?;
            }
            for (source, span) in &plan.sources {
                if let Source::Named(name) = source {
                    check_name(name, *span)?;
                }
            }
        }
        Ok(stages)
    }

    /// The stage of a name, in any case.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    /// What a stage is called in messages.
    pub fn shown(&self, index: usize) -> String {
        self.names
            .get(index)
            .cloned()
            .flatten()
            .unwrap_or_else(|| format!("stage-{index}"))
    }

    fn add_sources(&mut self, index: usize, instruction: &Instruction) -> Result<(), Diagnostic> {
        let found = self
            .sources(instruction)?
            .into_iter()
            .map(|source| (source, instruction.span));
        self.plans[index].sources.extend(found);
        Ok(())
    }

    /// Adds what a trigger takes files from to what a stage needs: of a base image once that is known. Triggers of stages
    /// are there from the start. What is wrong with a trigger itself is for who runs it.
    ///
    /// # Errors
    ///
    /// As [`Self::sources`].
    pub fn add_trigger(&mut self, stage: &Stage, text: &str) -> Result<(), Diagnostic> {
        match parse_onbuild(text, stage.span) {
            Ok(instruction) => self.add_sources(stage.index, &instruction),
            Err(_) => Ok(()),
        }
    }

    /// What an instruction takes files from. Triggers too: they find the stages of the Dockerfile that they run in.
    ///
    /// # Errors
    ///
    /// Indexes that no stage has; variables in `COPY --from`.
    pub fn sources(&self, instruction: &Instruction) -> Result<Vec<Source>, Diagnostic> {
        match &instruction.kind {
            Kind::Copy(copy) => {
                let source = copy.from.as_deref().map(|from| self.copy_source(from));
                let source = source
                    .transpose()
                    .map_err(|error| at(instruction.span, &error))?;
                Ok(source.into_iter().collect())
            }
            Kind::Run(run) => Ok(run
                .mounts
                .iter()
                .filter_map(|mount| Some(self.mount_source(mount.from()?)))
                .collect()),
            _ => Ok(Vec::new()),
        }
    }

    /// `COPY --from=`: an index, a stage, or something else of that name.
    ///
    /// # Errors
    ///
    /// As [`Self::sources`].
    pub fn copy_source(&self, from: &str) -> Result<Source, WordError> {
        let plain = Words::new('\\').expand(from, &Nothing)?.value;
        if plain != from {
            let error = WordError::new(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global \
                 scope as a workaround",
            );
            return Err(error.with_hint(Some("FROM image:$VERSION AS NAME, and --from=NAME")));
        }
        let digits = from.strip_prefix(['-', '+']).unwrap_or(from);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(self.mount_source(from));
        }
        let index = from
            .parse()
            .ok()
            .filter(|index: &usize| *index < self.plans.len());
        index
            .map(Source::Stage)
            .ok_or_else(|| WordError::new(format!("invalid stage index {from}")))
    }

    /// `RUN --mount=from=`: a stage, or something else of that name.
    pub fn mount_source(&self, from: &str) -> Source {
        self.find(from)
            .map_or_else(|| Source::Named(from.to_owned()), Source::Stage)
    }

    /// The stage that is asked for; the last if none is.
    ///
    /// # Errors
    ///
    /// A name that no stage has.
    pub fn target(&self, name: Option<&str>) -> Result<usize, Diagnostic> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(self.plans.len().saturating_sub(1));
        };
        self.find(name).ok_or_else(|| {
            let error = Diagnostic::error(
                Span::default(),
                format!("target stage {} could not be found", quoted(name)),
            );
            match closest(name, self.names.iter().flatten().map(String::as_str)) {
                Some(meant) => error.with_hint(format!("did you mean {meant}?")),
                None => error,
            }
        })
    }

    /// The stages that `target` needs, itself included.
    pub fn reachable(&self, target: usize) -> Vec<bool> {
        let mut found = vec![false; self.plans.len()];
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            let Some(plan) = self.plans.get(index).filter(|_| !found[index]) else {
                continue;
            };
            found[index] = true;
            if let Base::Stage(base) = plan.base {
                open.push(base);
            }
            open.extend(self.needed(index));
        }
        found
    }

    fn needed(&self, index: usize) -> impl Iterator<Item = usize> {
        self.plans[index]
            .sources
            .iter()
            .filter_map(|(source, _)| match source {
                Source::Stage(index) => Some(*index),
                Source::Named(_) => None,
            })
    }

    /// That a stage of those in `wanted` takes files from one that comes later.
    ///
    /// # Errors
    ///
    /// The first that does.
    pub fn check_order(&self, wanted: &[bool]) -> Result<(), Diagnostic> {
        for (index, plan) in self
            .plans
            .iter()
            .enumerate()
            .filter(|(index, _)| wanted.get(*index) == Some(&true))
        {
            for (source, span) in &plan.sources {
                if let Source::Stage(from) = source
                    && *from >= index
                {
                    let message = format!(
                        "cannot copy from stage {}, it needs to be defined before current stage {}",
                        quoted(&self.shown(*from)),
                        quoted(&self.shown(index))
                    );
                    return Err(Diagnostic::error(*span, message));
                }
            }
        }
        Ok(())
    }

    /// That stages take files from each other, or from themselves.
    fn check_circles(&self) -> Result<(), Diagnostic> {
        #[derive(Clone, Copy, PartialEq)]
        enum Colour {
            New,
            Open,
            Done,
        }
        let mut colours = vec![Colour::New; self.plans.len()];
        for start in 0..self.plans.len() {
            // A stack of our own: a chain of stages may be longer than the thread's.
            let mut path = vec![(start, 0)];
            while let Some((index, next)) = path.pop() {
                if next == 0 && colours[index] != Colour::New {
                    continue;
                }
                colours[index] = Colour::Open;
                let Some((source, span)) = self.plans[index].sources.get(next) else {
                    colours[index] = Colour::Done;
                    continue;
                };
                path.push((index, next + 1));
                let Source::Stage(needed) = source else {
                    continue;
                };
                match colours[*needed] {
                    Colour::Open => {
                        let message = format!(
                            "circular dependency detected on stage: {}",
                            self.shown(*needed)
                        );
                        return Err(Diagnostic::error(*span, message));
                    }
                    Colour::New => path.push((*needed, 0)),
                    Colour::Done => {}
                }
            }
        }
        Ok(())
    }
}
