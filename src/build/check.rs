//! What is said of a Dockerfile without building it: `--check`, `--print`, and warnings after a build.

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
    check_text(&files.dockerfile.text, &options)
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

/// `--check`: prints what was found; the exit code.
pub(super) fn check(store: &Store, files: &Files, request: &Request) -> Result<u8> {
    let all = request.target.is_none();
    let report = report(store, files, request, all);
    let text = String::from_utf8_lossy(&files.dockerfile.text);
    let name = &files.dockerfile.name;
    let mut out = String::new();
    for warning in &report.warnings {
        out += &failure::show(&Diagnostic::from(warning.clone()), &text, name);
    }
    for error in &report.errors {
        out += &failure::show(error, &text, name);
    }
    let clean = report.warnings.is_empty() && report.errors.is_empty();
    if clean {
        out += "Check complete, no warnings found.\n";
    } else if report.errors.is_empty() {
        let count = report.warnings.len();
        let s = if count == 1 { "has" } else { "have" };
        let what = if count == 1 { "warning" } else { "warnings" };
        out += &format!("Check complete, {count} {what} {s} been found!\n");
    }
    output::print(&out)?;
    Ok(u8::from(!clean))
}

/// `--print`: JSON of what the Dockerfile says.
pub(super) fn print(store: &Store, files: &Files, request: &Request, what: &str) -> Result<u8> {
    let text = &files.dockerfile.text;
    let base = |name: &str, platform: &Platform| facts(store, name, platform);
    let parsed = || -> Result<Dockerfile> {
        rcrun_builder::dockerfile::parse(text).map_err(|wrong| {
            let lines: Vec<String> = wrong.iter().map(failure::line).collect();
            Error::invalid(format!(
                "cannot read {}: {}",
                files.dockerfile.name,
                lines.join("; ")
            ))
        })
    };
    let text = match what {
        "ast" => json(&parsed()?)?,
        "targets" => json(&targets(&parsed()?, text))?,
        "outline" => {
            let outline = outline(&parsed()?, text, request, &base);
            json(&outline.map_err(|wrong| Error::invalid(failure::line(&wrong)))?)?
        }
        "lint" => {
            let report = report(store, files, request, request.target.is_none());
            json(&report.warnings)?
        }
        other => {
            let text = format!("invalid value {other:?} for --print");
            return Err(Error::invalid(text).with_hint("use ast, outline, targets or lint"));
        }
    };
    output::print(&text)?;
    Ok(0)
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
