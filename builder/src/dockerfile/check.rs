//! The lint: everything that is odd about a Dockerfile, in the words and on the lines of `BuildKit`.
//!
//! Owns the order of the checks and the walk through the stages. What one instruction says by itself is in `lint`. What a
//! rule has to know of the world it is told: build arguments, base images, `.dockerignore`.

mod lint;

use std::cell::RefCell;

use rcrun_image::platform::Platform;
use rcrun_image::reference::Reference;

use super::diagnostic::{Diagnostic, Warning};
use super::instruction::{Dockerfile, Instruction};
use super::parse::parse_partly;
use super::rule::Rule;
use super::scope::{Applied, Globals, Request, Undefined};
use super::selection::Selection;
use super::span::Span;
use super::stages::{Base, FromWords, Plan, Stages};
use super::walk::{BaseFacts, Ground, Visitor};
use super::word::Words;
use lint::StageFacts;

/// What is known of `.dockerignore`. Asked only if it has no exceptions (`!pattern`): with these it cannot be told whether
/// something below a directory is there.
pub trait Ignored {
    /// Whether a path, or a directory above it, is excluded.
    fn excludes(&self, path: &str) -> bool;
    /// Whether a pattern excludes everything: `*`, `**` or `**/*`.
    fn excludes_all(&self) -> bool;
}

/// What the checks are told.
pub struct CheckOptions<'a> {
    /// What is built.
    pub request: Request,
    /// `--check=...`; then the directive of the Dockerfile does not count. Nor does it with a build argument
    /// `BUILDKIT_DOCKERFILE_CHECK`.
    pub selection: Option<Selection>,
    /// Stages that the target does not need, too. Without a target, that is how `--check` works.
    pub all_stages: bool,
    /// `.dockerignore`, if there is one without exceptions.
    pub ignored: Option<&'a dyn Ignored>,
    /// Base images; `None` if one is not known. Then nothing is said of variables in its stages.
    pub base: &'a dyn Fn(&str, &Platform) -> Option<BaseFacts>,
}

impl std::fmt::Debug for CheckOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckOptions")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// In the order of the checks; those of one instruction stand together.
    pub warnings: Vec<Warning>,
    /// Why the checks ended early: the build would, too.
    pub errors: Vec<Diagnostic>,
    /// `error=true`, and there are warnings.
    pub refused: bool,
}

impl Report {
    /// What a refused build says.
    pub fn refusal(&self) -> Option<String> {
        let mut names: Vec<&str> = self
            .warnings
            .iter()
            .map(|warning| warning.rule.name())
            .collect();
        names.sort_unstable();
        names.dedup();
        self.refused
            .then(|| format!("lint violation found for rules: {}", names.join(", ")))
    }
}

/// Checks a text: what [`check`] finds, or what keeps it from being a Dockerfile, and the warnings up to there.
pub fn check_text(text: &[u8], options: &CheckOptions<'_>) -> Report {
    let parsed = parse_partly(text);
    run(&parsed.dockerfile, parsed.errors, options)
}

/// Checks a Dockerfile.
pub fn check(dockerfile: &Dockerfile, options: &CheckOptions<'_>) -> Report {
    run(dockerfile, Vec::new(), options)
}

fn run(dockerfile: &Dockerfile, errors: Vec<Diagnostic>, options: &CheckOptions<'_>) -> Report {
    let selection = match selection(dockerfile, options) {
        Ok(selection) => selection,
        Err(error) => {
            return Report {
                errors: vec![error],
                ..Report::default()
            };
        }
    };
    let checker = Checker {
        dockerfile,
        options,
        selection,
        warnings: RefCell::default(),
    };
    let errors = checker
        .statements(errors)
        .and_then(|()| checker.build().map_err(|error| vec![error]));
    let warnings = checker.warnings.into_inner();
    let refused = checker.selection.error && !warnings.is_empty();
    Report {
        warnings,
        errors: errors.err().unwrap_or_default(),
        refused,
    }
}

fn selection(dockerfile: &Dockerfile, options: &CheckOptions<'_>) -> Result<Selection, Diagnostic> {
    const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";
    match (&options.selection, options.request.build_args.get(ARGUMENT)) {
        (Some(selection), _) => Ok(selection.clone()),
        (None, Some(text)) => Selection::parse(text).map_err(|reason| {
            Diagnostic::error(
                Span::default(),
                format!("failed to parse {ARGUMENT}: {reason}"),
            )
        }),
        (None, None) => Selection::of(&dockerfile.directives),
    }
}

struct Checker<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a CheckOptions<'a>,
    selection: Selection,
    warnings: RefCell<Vec<Warning>>,
}

/// Where warnings of one instruction go.
#[derive(Clone, Copy)]
struct Place<'c> {
    selection: &'c Selection,
    warnings: &'c RefCell<Vec<Warning>>,
    span: Span,
}

impl Place<'_> {
    fn warn(&self, rule: Rule, message: String) {
        self.warn_at(self.span, rule, message);
    }

    fn warn_at(&self, span: Span, rule: Rule, message: String) {
        if self.selection.has(rule) {
            self.warnings.borrow_mut().push(Warning {
                rule,
                message,
                span,
            });
        }
    }
}

impl Checker<'_> {
    fn place<'c>(&'c self, selection: &'c Selection, span: Span) -> Place<'c> {
        Place {
            selection,
            warnings: &self.warnings,
            span,
        }
    }

    /// What each statement says by itself, up to the first that is wrong.
    fn statements(&self, errors: Vec<Diagnostic>) -> Result<(), Vec<Diagnostic>> {
        let end = errors
            .first()
            .map_or(u32::MAX, |error| error.span.first_line);
        for span in &self.dockerfile.empty_continuations {
            self.place(&self.selection, *span)
                .warn(Rule::NoEmptyContinuation, "Empty continuation line".into());
        }
        for arg in self
            .dockerfile
            .global_args
            .iter()
            .filter(|arg| arg.span.first_line < end)
        {
            let selection = self.selection.with_comments(&arg.comments);
            lint::argument(&self.place(&selection, arg.span), &arg.arg, &arg.comments);
        }
        for stage in self
            .dockerfile
            .stages
            .iter()
            .filter(|stage| stage.span.first_line < end)
        {
            let selection = self.selection.with_comments(&stage.comments);
            lint::from(&self.place(&selection, stage.span), stage);
            for instruction in stage
                .instructions
                .iter()
                .filter(|one| one.span.first_line < end)
            {
                let selection = self.selection.with_comments(&instruction.comments);
                lint::statement(&self.place(&selection, instruction.span), instruction);
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// What depends on the whole file, on variables and on the world.
    fn build(&self) -> Result<(), Diagnostic> {
        let whole = self.place(&self.selection, Span::default());
        lint::stage_names(&whole, self.dockerfile);
        lint::casing(&whole, self.dockerfile);
        self.default_bases();
        let globals = Globals::new(self.dockerfile, &self.options.request)?;
        self.froms(&globals);
        let stages = Stages::new(self.dockerfile, &globals)?;
        let target = stages.target(self.options.request.target.as_deref())?;
        let wanted = if self.options.all_stages {
            vec![true; stages.plans.len()]
        } else {
            stages.reachable(target)
        };
        let images = self.bases(&stages, &wanted);
        stages.check_order(&wanted)?;
        let mut walk = Walk {
            checker: self,
            facts: vec![StageFacts::default(); stages.plans.len()],
        };
        let (dockerfile, request) = (self.dockerfile, &self.options.request);
        let ground = Ground {
            dockerfile,
            globals: &globals,
            request,
            stages: &stages,
            wanted: &wanted,
            images: &images,
        };
        ground.walk(&mut walk)
    }

    /// Base images as they are if nobody gives build arguments.
    fn default_bases(&self) {
        let Ok(globals) = Globals::defaults(self.dockerfile, &self.options.request) else {
            return;
        };
        let words = Words::new(self.dockerfile.directives.escape);
        for stage in &self.dockerfile.stages {
            let Ok(base) = words.expand(&stage.base, &globals.environment) else {
                return;
            };
            if base.value.parse::<Reference>().is_err() {
                let message = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base
                );
                self.place(&self.selection, stage.span)
                    .warn(Rule::InvalidDefaultArgInFrom, message);
            }
        }
    }

    /// The words of each `FROM`, up to the first that is wrong.
    fn froms(&self, globals: &Globals) {
        let words = Words::new(self.dockerfile.directives.escape);
        let names = globals.names();
        for stage in &self.dockerfile.stages {
            let selection = self.selection.with_comments(&stage.comments);
            let from = FromWords::read(stage, globals, &words);
            let place = self.place(&selection, stage.span);
            if !lint::from_words(&place, stage, &from, globals, &names) {
                return;
            }
        }
    }

    /// What is known of the base images of the stages that are wanted.
    fn bases(&self, stages: &Stages, wanted: &[bool]) -> Vec<Option<BaseFacts>> {
        let mut found = Vec::with_capacity(stages.plans.len());
        for (plan, stage) in stages.plans.iter().zip(&self.dockerfile.stages) {
            let Base::Image(name) = &plan.base else {
                found.push(None);
                continue;
            };
            let platform = plan
                .platform
                .as_ref()
                .unwrap_or(&self.options.request.target_platform);
            let facts = if wanted[stage.index] {
                (self.options.base)(name, platform)
            } else {
                None
            };
            if let Some(facts) = &facts {
                let place = self.place(&self.selection, stage.span);
                lint::base_platform(&place, name, platform, &facts.platform);
            }
            found.push(facts);
        }
        found
    }
}

/// The checks on the walk.
struct Walk<'c> {
    checker: &'c Checker<'c>,
    facts: Vec<StageFacts>,
}

impl Visitor for Walk<'_> {
    fn stage(&mut self, index: usize, plan: &Plan, image: Option<&BaseFacts>) {
        self.facts[index] = match plan.base {
            Base::Stage(base) => self.facts[base].inherited(),
            Base::Scratch => StageFacts::new(true, false),
            Base::Image(_) => StageFacts::new(
                image.is_some(),
                image.is_some_and(|image| !image.shell.is_empty()),
            ),
        };
    }

    fn instruction(
        &mut self,
        index: usize,
        instruction: &Instruction,
        undefined: Vec<Undefined>,
        applied: Result<Applied, Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let selection = self.checker.selection.with_comments(&instruction.comments);
        let place = self.checker.place(&selection, instruction.span);
        let facts = &mut self.facts[index];
        if facts.base_is_known {
            undefined
                .iter()
                .for_each(|one| lint::undefined(&place, one));
        }
        facts.applied(
            &place,
            instruction,
            &applied?.kind,
            self.checker.options.ignored,
        )
    }
}
