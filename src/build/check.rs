//! What is said of a Dockerfile without building it ([`call`] says what can be asked), and warnings after a
//! build.

use rcrun_builder::context::ignore::Ignore;
use rcrun_builder::context::source::Context as Files;
use rcrun_builder::dockerfile::walk::BaseFacts;
use rcrun_builder::dockerfile::{
    CheckOptions, Diagnostic, Dockerfile, Ignored, Report, Request, Warning, check_text, outline,
    targets,
};
use rcrun_image::catalog;
use rcrun_image::platform::Platform;
use rcrun_image::reference::Reference;
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Error, ErrorKind, Result};
use serde::Serialize;

use super::call::{self, Call, Method};
use super::failure;
use crate::output;

/// An ignore file, as the checks ask for it.
struct OfContext<'a>(&'a Ignore);

impl Ignored for OfContext<'_> {
    fn excludes(&self, path: &str) -> bool {
        self.0.matches(path)
    }

    fn excludes_all(&self) -> bool {
        let deciding = self.0.reason("a file of any name");
        deciding.is_some_and(|(_, pattern)| matches!(pattern, "*" | "**" | "**/*"))
    }
}

/// What is odd about a Dockerfile. Of base images is known what the store has.
pub(super) fn report(store: &Store, files: &Files, request: &Request, all_stages: bool) -> Report {
    let ignore = files
        .tree
        .ignore()
        .filter(|ignore| !ignore.has_exceptions());
    let ignored = ignore.map(OfContext);
    let base = |name: &str, platform: &Platform| facts(store, name, platform);
    let options = CheckOptions {
        request: request.clone(),
        selection: None,
        all_stages,
        ignored: ignored.as_ref().map(|ignored| ignored as &dyn Ignored),
        base: &base,
    };
    let mut report = check_text(&files.dockerfile.text, &options);
    report
        .warnings
        .sort_by_key(|warning| warning.span.first_line);
    report
}

fn facts(store: &Store, name: &str, platform: &Platform) -> Option<BaseFacts> {
    let reference: Reference = name.parse().ok()?;
    let (_, image) = catalog::named(store, &reference, platform).ok()??;
    Some(BaseFacts {
        platform: image.config.platform(),
        env: image.config.config.env,
        shell: image.config.config.shell,
        onbuild: image.config.config.on_build,
    })
}

/// Prints the answer; the exit code.
pub(super) fn answer(store: &Store, files: &Files, request: &Request, call: &Call) -> Result<u8> {
    let source = &files.dockerfile;
    let base = |name: &str, platform: &Platform| facts(store, name, platform);
    let parsed = || -> Result<Dockerfile> {
        rcrun_builder::dockerfile::parse(&source.text).map_err(|wrong| {
            let lines: Vec<String> = wrong.iter().map(failure::line).collect();
            let text = format!("cannot read {}: {}", source.name, lines.join("; "));
            Error::invalid(text)
        })
    };
    let text = match (call.method, call.json) {
        (Method::Check, _) => return checked(store, files, request, call),
        (Method::Describe, true) => json(&call::describe_json())?,
        (Method::Describe, false) => call::describe(),
        (Method::Ast, _) => json(&parsed()?)?,
        (Method::Targets, as_json) => {
            let targets = targets(&parsed()?, &source.text);
            match as_json {
                true => json(&targets)?,
                false => call::targets(&targets),
            }
        }
        (Method::Outline, as_json) => {
            let outline = outline(&parsed()?, &source.text, request, &base);
            let outline = outline.map_err(|wrong| Error::invalid(failure::line(&wrong)))?;
            match as_json {
                true => json(&outline)?,
                false => call::outline(&outline),
            }
        }
    };
    output::print(&text)?;
    Ok(0)
}

/// Prints what is odd; the exit code.
fn checked(store: &Store, files: &Files, request: &Request, call: &Call) -> Result<u8> {
    let report = report(store, files, request, request.target.is_none());
    let source = &files.dockerfile;
    let name = failure::file_name(&source.name);
    output::print(&match (call.json, call.bare) {
        (false, _) => shown(&report, files),
        (true, true) => json(&report.warnings)?,
        (true, false) => json(&call::lint_json(&report, &name, &source.text))?,
    })?;
    let clean = report.warnings.is_empty() && report.errors.is_empty();
    Ok(u8::from(!clean && !call.ignore_status))
}

fn shown(report: &Report, files: &Files) -> String {
    let text = String::from_utf8_lossy(&files.dockerfile.text);
    let name = &files.dockerfile.name;
    let mut out = String::new();
    for warning in &report.warnings {
        out += &failure::show(&Diagnostic::from(warning.clone()), &text, name);
    }
    for error in &report.errors {
        out += &failure::show(error, &text, name);
    }
    let count = report.warnings.len();
    if count == 0 && report.errors.is_empty() {
        out += "Check complete, no warnings found.\n";
    } else if report.errors.is_empty() {
        let (what, have) = match count {
            1 => ("warning", "has"),
            _ => ("warnings", "have"),
        };
        out += &format!("Check complete, {count} {what} {have} been found!\n");
    }
    out
}

fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    let text =
        text.map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
    Ok(text + "\n")
}

/// One line for a warning, after a build.
pub(super) fn line(warning: &Warning) -> String {
    format!(
        "{}: {} (line {})",
        warning.rule.name(),
        warning.message,
        warning.span.first_line
    )
}
