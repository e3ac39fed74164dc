//! The rules that look at one instruction, or at all keywords and names together.

use std::collections::{BTreeSet, HashSet};

use rcrun_image::platform::Platform;

use super::super::diagnostic::Diagnostic;
use super::super::expose;
use super::super::instruction::{Arg, Command, Dockerfile, Instruction, Kind, Stage};
use super::super::judge::is_remote;
use super::super::quote::quoted;
use super::super::rule::Rule;
use super::super::scope::{Globals, Undefined};
use super::super::span::Span;
use super::super::stages::FromWords;
use super::super::suggest::closest;
use super::super::word::{Expanded, Lookup};
use super::{Ignored, Place};
use crate::path::clean;

/// Parts of a name, between underscores, that make it sound secret.
const SECRET: &[&str] = &[
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Parts of a name that make it sound harmless all the same.
const NOT_SECRET: &[&str] = &["public", "file", "version"];

/// A `FROM` by itself.
pub(super) fn from(place: &Place<'_>, stage: &Stage) {
    if let Some(name) = stage
        .written_name
        .as_deref()
        .filter(|name| *name != name.to_lowercase())
    {
        place.warn(
            Rule::StageNameCasing,
            format!("Stage name '{name}' should be lowercase"),
        );
    }
    if let Some(keyword) = &stage.as_keyword {
        let from = &stage.keyword;
        // One that is neither is no measure for the other.
        let differs = match case(from) {
            Some(Case::Lower) => *keyword != keyword.to_lowercase(),
            Some(Case::Upper) => *keyword != keyword.to_uppercase(),
            None => false,
        };
        if differs {
            place.warn(
                Rule::FromAsCasing,
                format!("'{keyword}' and '{from}' keywords' casing do not match"),
            );
        }
    }
    if let Some(name) = &stage.name {
        description(place, "FROM", &[name], &stage.comments);
    }
}

/// An instruction by itself.
pub(super) fn statement(place: &Place<'_>, instruction: &Instruction) {
    match &instruction.kind {
        Kind::Maintainer { .. } => {
            let message = "Maintainer instruction is deprecated in favor of using label";
            place.warn(Rule::MaintainerDeprecated, message.into());
        }
        Kind::Arg(arg) => argument(place, arg, &instruction.comments),
        _ => {}
    }
}

/// An `ARG` by itself.
pub(super) fn argument(place: &Place<'_>, arg: &Arg, comments: &[String]) {
    let names: Vec<&str> = arg.items.iter().map(|item| item.name.as_str()).collect();
    description(place, "ARG", &names, comments);
}

/// The comment right above should begin with what it describes.
fn description(place: &Place<'_>, keyword: &str, names: &[&str], comments: &[String]) {
    let Some(last) = comments.last() else { return };
    let described = last.split(' ').next().unwrap_or_default();
    if names.contains(&described) {
        return;
    }
    let example = match names {
        [one] => one,
        _ => "<arg_key>",
    };
    let message =
        format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    place.warn(Rule::InvalidDefinitionDescription, message);
}

/// Names of stages that are taken.
pub(super) fn stage_names(place: &Place<'_>, dockerfile: &Dockerfile) {
    let mut seen = HashSet::new();
    for stage in &dockerfile.stages {
        let Some(name) = &stage.name else { continue };
        if name == "scratch" || name == "context" {
            let message = format!(
                "Stage name should not use the same name as reserved stage {}",
                quoted(name)
            );
            place.warn_at(stage.span, Rule::ReservedStageName, message);
        }
        if !seen.insert(name) {
            let message = format!(
                "Duplicate stage name {}, stage names should be unique",
                quoted(name)
            );
            place.warn_at(stage.span, Rule::DuplicateStageName, message);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

fn case(keyword: &str) -> Option<Case> {
    if keyword == keyword.to_lowercase() {
        Some(Case::Lower)
    } else if keyword == keyword.to_uppercase() {
        Some(Case::Upper)
    } else {
        None
    }
}

/// Keywords that are not written as most are.
pub(super) fn casing(place: &Place<'_>, dockerfile: &Dockerfile) {
    let keywords = || {
        dockerfile.stages.iter().flat_map(|stage| {
            let instructions = stage
                .instructions
                .iter()
                .map(|one| (one.keyword.as_str(), one.span));
            std::iter::once((stage.keyword.as_str(), stage.span)).chain(instructions)
        })
    };
    let count = |wanted: Case| {
        keywords()
            .filter(|(keyword, _)| case(keyword) == Some(wanted))
            .count()
    };
    let (most, shown) = match count(Case::Lower) > count(Case::Upper) {
        true => (Case::Lower, "lowercase"),
        false => (Case::Upper, "uppercase"),
    };
    for (keyword, span) in keywords().filter(|(keyword, _)| case(keyword) != Some(most)) {
        let message =
            format!("Command '{keyword}' should match the case of the command majority ({shown})");
        place.warn_at(span, Rule::ConsistentInstructionCasing, message);
    }
}

/// The words of a `FROM`. Says whether they mean anything.
pub(super) fn from_words(
    place: &Place<'_>,
    stage: &Stage,
    from: &FromWords,
    globals: &Globals,
    names: &BTreeSet<String>,
) -> bool {
    let undeclared = |unmatched: &BTreeSet<String>| {
        for name in unmatched.iter().filter(|name| !names.contains(*name)) {
            let meant = closest(name, names.iter().map(String::as_str));
            let message = format!(
                "FROM argument '{name}' is not declared{}",
                did_you_mean("", meant)
            );
            place.warn(Rule::UndefinedArgInFrom, message);
        }
    };
    match &from.base {
        Err(error) => {
            undeclared(&error.unmatched);
            return false;
        }
        Ok(base) => undeclared(&base.unmatched),
    }
    if from.base.as_ref().is_ok_and(|base| base.value.is_empty()) {
        return false;
    }
    match &from.platform {
        None => true,
        Some(Err(error)) => {
            undeclared(&error.unmatched);
            false
        }
        Some(Ok(platform)) => {
            undeclared(&platform.unmatched);
            redundant_platform(place, stage, platform, globals);
            constant_platform(place, stage, platform);
            platform.value.parse::<Platform>().is_ok()
        }
    }
}

fn did_you_mean(dollar: &str, meant: Option<&str>) -> String {
    meant
        .map(|meant| format!(" (did you mean {dollar}{meant}?)"))
        .unwrap_or_default()
}

fn redundant_platform(place: &Place<'_>, stage: &Stage, platform: &Expanded, globals: &Globals) {
    const NAME: &str = "TARGETPLATFORM";
    let alone = platform.matched.len() == 1
        && platform.matched.contains(NAME)
        && platform.unmatched.is_empty();
    if alone && globals.environment.get(NAME) == Some(&platform.value) {
        let written = stage.platform.as_deref().unwrap_or_default();
        let message = format!(
            "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
        );
        place.warn(Rule::RedundantTargetPlatform, message);
    }
}

fn constant_platform(place: &Place<'_>, stage: &Stage, platform: &Expanded) {
    if !platform.matched.is_empty() || !platform.unmatched.is_empty() {
        return;
    }
    let Ok(parsed) = platform.value.parse::<Platform>() else {
        return;
    };
    // A stage that is named for its platform means it.
    let name = stage.name.as_deref().unwrap_or_default();
    if !name.contains(&parsed.os) && !name.contains(&parsed.architecture) {
        let message = format!(
            "FROM --platform flag should not use constant value {}",
            quoted(&platform.value)
        );
        place.warn(Rule::FromPlatformFlagConstDisallowed, message);
    }
}

/// A base image that is made for something else than was asked for.
pub(super) fn base_platform(
    place: &Place<'_>,
    image: &str,
    expected: &Platform,
    actual: &Platform,
) {
    let (expected, actual) = (expected.normalized(), actual.normalized());
    if expected.os != actual.os || expected.architecture != actual.architecture {
        let message = format!(
            "Base image {image} was pulled with platform \"{actual}\", expected \"{expected}\" for current build"
        );
        place.warn(Rule::InvalidBaseImagePlatform, message);
    }
}

/// A variable that nobody declared.
pub(super) fn undefined(place: &Place<'_>, undefined: &Undefined) {
    let meant = did_you_mean("$", undefined.meant.as_deref());
    place.warn(
        Rule::UndefinedVar,
        format!("Usage of undefined variable '${}'{meant}", undefined.name),
    );
}

/// What a stage has so far.
#[derive(Debug, Clone, Default)]
pub(super) struct StageFacts {
    pub(super) base_is_known: bool,
    has_shell: bool,
    has_workdir: bool,
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
}

impl StageFacts {
    pub(super) fn new(base_is_known: bool, has_shell: bool) -> Self {
        Self {
            base_is_known,
            has_shell,
            ..Self::default()
        }
    }

    /// Of a stage that is built on this one.
    pub(super) fn inherited(&self) -> Self {
        Self {
            cmd: None,
            entrypoint: None,
            healthcheck: None,
            ..self.clone()
        }
    }

    /// An instruction whose variables are replaced.
    pub(super) fn applied(
        &mut self,
        place: &Place<'_>,
        instruction: &Instruction,
        kind: &Kind,
        ignored: Option<&dyn Ignored>,
    ) -> Result<(), Diagnostic> {
        let keyword = &instruction.keyword;
        let once = |before: &mut Option<Span>| {
            if let Some(before) = before.replace(instruction.span) {
                let message = format!(
                    "Multiple {keyword} instructions should not be used in the same stage because only the last one \
                     will be used"
                );
                // The one that does not count.
                place.warn_at(before, Rule::MultipleInstructionsDisallowed, message);
            }
        };
        match kind {
            Kind::Cmd { command } => {
                once(&mut self.cmd);
                self.form(place, keyword, command);
            }
            Kind::Entrypoint { command } => {
                once(&mut self.entrypoint);
                self.form(place, keyword, command);
            }
            Kind::Healthcheck(_) => once(&mut self.healthcheck),
            Kind::Shell(_) => self.has_shell = true,
            Kind::Workdir { path } => self.workdir(place, path),
            Kind::Env { pairs } => {
                for pair in pairs {
                    legacy(place, keyword, pair.legacy);
                    secret(place, "ENV", &pair.key);
                }
            }
            Kind::Label(label) => label
                .pairs
                .iter()
                .for_each(|pair| legacy(place, keyword, pair.legacy)),
            Kind::Arg(arg) => arg
                .items
                .iter()
                .for_each(|item| secret(place, "ARG", &item.name)),
            Kind::Expose(expose) => return ports(place, instruction.span, &expose.ports),
            Kind::Add(add) => {
                let local = add.sources.paths.iter().filter(|path| !is_remote(path));
                local.for_each(|path| excluded(place, "Add", path, ignored));
            }
            Kind::Copy(copy) if copy.from.is_none() => {
                copy.sources
                    .paths
                    .iter()
                    .for_each(|path| excluded(place, "Copy", path, ignored));
            }
            _ => {}
        }
        Ok(())
    }

    /// The first decides what the others are relative to.
    fn workdir(&mut self, place: &Place<'_>, path: &str) {
        let is_first = !std::mem::replace(&mut self.has_workdir, true);
        if is_first && !path.starts_with('/') {
            let message = format!(
                "Relative workdir {} can have unexpected results if the base image changes",
                quoted(path)
            );
            place.warn(Rule::WorkdirRelativePath, message);
        }
    }

    fn form(&self, place: &Place<'_>, keyword: &str, command: &Command) {
        if command.is_shell() && !self.has_shell {
            let message = format!(
                "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
            );
            place.warn(Rule::JsonArgsRecommended, message);
        }
    }
}

fn legacy(place: &Place<'_>, keyword: &str, is_legacy: bool) {
    if is_legacy {
        let message = format!(
            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
        );
        place.warn(Rule::LegacyKeyValueFormat, message);
    }
}

fn secret(place: &Place<'_>, keyword: &str, name: &str) {
    let has = |parts: &[&str]| {
        name.split('_')
            .any(|part| parts.iter().any(|one| part.eq_ignore_ascii_case(one)))
    };
    if has(SECRET) && !has(NOT_SECRET) {
        let message = format!(
            "Do not use ARG or ENV instructions for sensitive data ({keyword} {})",
            quoted(name)
        );
        place.warn(Rule::SecretsUsedInArgOrEnv, message);
    }
}

fn ports(place: &Place<'_>, span: Span, words: &[String]) -> Result<(), Diagnostic> {
    for word in words {
        if let Some((odd_case, mapped)) = expose::form(word) {
            if odd_case {
                let message =
                    format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase");
                place.warn(Rule::ExposeProtoCasing, message);
            }
            if mapped {
                let message = format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
                );
                place.warn(Rule::ExposeInvalidFormat, message);
            }
        }
        expose::ports(word).map_err(|message| Diagnostic::error(span, message))?;
    }
    Ok(())
}

fn excluded(place: &Place<'_>, verb: &str, source: &str, ignored: Option<&dyn Ignored>) {
    let Some(ignored) = ignored else { return };
    let path = clean(source);
    let is_root = path == "." || path == "/";
    if (!is_root || ignored.excludes_all()) && ignored.excludes(&path) {
        let message = format!(
            "Attempting to {verb} file {} that is excluded by .dockerignore",
            quoted(&path)
        );
        place.warn(Rule::CopyIgnoredFile, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, expected) in [
            ("", "."),
            ("./a//b/", "a/b"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("/../a", "/a"),
            ("/", "/"),
            ("a/..", "."),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
