//! `--call`, `--check`, `--print`: questions about a Dockerfile, and how the answers are shown. Pure.
//!
//! `--call METHOD[,format=text|json][,ignorestatus]` is docker's; names, columns and JSON are those of BuildKit's
//! requests (`frontend/subrequests`). `--print` is JSON in any case.

use rcrun_builder::dockerfile::outline::{Location, OutlineAccess};
use rcrun_builder::dockerfile::{Outline, Report, Targets};
use rcrun_runtime::error::{Error, Result};
use serde_json::{Value, json};

use crate::verbs::build::Build;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// What is odd.
    Check,
    /// What the target takes.
    Outline,
    /// Which targets there are.
    Targets,
    /// Which questions there are.
    Describe,
    /// What it says.
    Ast,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) json: bool,
    /// What was found is no failure.
    pub(super) ignore_status: bool,
    /// The warnings and nothing around them.
    pub(super) bare: bool,
}

impl Call {
    /// What the flags ask; none: for a build.
    pub(super) fn asked(flags: &Build) -> Result<Option<Self>> {
        match (flags.check, flags.call.as_deref(), flags.print.as_deref()) {
            (false, None, None) => Ok(None),
            (true, None, None) => Ok(Some(Self::new(Method::Check))),
            (false, Some(call), None) => Self::read(call),
            (false, None, Some(print)) => Self::print(print).map(Some),
            _ => Err(Error::invalid(
                "--check, --call and --print exclude each other",
            )),
        }
    }

    fn new(method: Method) -> Self {
        Self {
            method,
            json: false,
            ignore_status: false,
            bare: false,
        }
    }

    fn read(text: &str) -> Result<Option<Self>> {
        let mut parts = text.split(',');
        let method = match parts.next().unwrap_or_default() {
            "build" => None,
            "check" | "lint" => Some(Method::Check),
            "outline" => Some(Method::Outline),
            "targets" => Some(Method::Targets),
            "describe" | "subrequests.describe" => Some(Method::Describe),
            other => {
                let text = format!("invalid value {other:?} for --call");
                return Err(Error::invalid(text)
                    .with_hint("use build, check, outline, targets or describe"));
            }
        };
        let mut call = Self::new(method.unwrap_or(Method::Check));
        for part in parts {
            match part.split_once('=').unwrap_or((part, "true")) {
                ("format", "json") => call.json = true,
                ("format", "text") => call.json = false,
                ("ignorestatus", "true") => call.ignore_status = true,
                ("ignorestatus", "false") => call.ignore_status = false,
                _ => {
                    let text = format!("invalid {part:?} of --call {text}");
                    return Err(Error::invalid(text)
                        .with_hint("use format=text, format=json or ignorestatus"));
                }
            }
        }
        Ok(method.map(|_| call))
    }

    fn print(text: &str) -> Result<Self> {
        let method = match text {
            "ast" => Method::Ast,
            "targets" => Method::Targets,
            "outline" => Method::Outline,
            "lint" => Method::Check,
            other => {
                let text = format!("invalid value {other:?} for --print");
                return Err(Error::invalid(text).with_hint("use ast, outline, targets or lint"));
            }
        };
        Ok(Self {
            json: true,
            ignore_status: true,
            bare: true,
            ..Self::new(method)
        })
    }
}

/// Rows in columns, each as wide as its widest cell and a gap; the last of a row as it is.
fn table(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| column + 1 < row.len());
        let widths = cells.map(|row| row[column].chars().count());
        widths.max().unwrap_or_default() + gap
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            match column + 1 == row.len() {
                true => line.push_str(cell),
                false => line.push_str(&format!("{cell:<0$}", widths[column])),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// The targets, for people.
pub(super) fn targets(targets: &Targets) -> String {
    let mut rows = vec![row(&["TARGET", "DESCRIPTION"])];
    for target in &targets.targets {
        let name = match (target.name.as_str(), target.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        rows.push(vec![name, target.description.clone()]);
    }
    table(&rows, 1)
}

/// What a target takes, for people.
pub(super) fn outline(outline: &Outline) -> String {
    let mut parts = Vec::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = match outline.name.as_str() {
            "" => "(default)",
            name => name,
        };
        let mut rows = vec![row(&["TARGET:", name])];
        if !outline.description.is_empty() {
            rows.push(row(&["DESCRIPTION:", &outline.description]));
        }
        parts.push(table(&rows, 1));
    }
    if !outline.args.is_empty() {
        let mut rows = vec![row(&["BUILD ARG", "VALUE", "DESCRIPTION"])];
        let args = outline.args.iter();
        rows.extend(args.map(|arg| row(&[&arg.name, &arg.value, &arg.description])));
        parts.push(table(&rows, 3));
    }
    for (title, all) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !all.is_empty() {
            let mut rows = vec![row(&[title, "REQUIRED"])];
            let required = |one: &OutlineAccess| match one.required {
                true => "true",
                false => "",
            };
            rows.extend(all.iter().map(|one| row(&[&one.name, required(one)])));
            parts.push(table(&rows, 3));
        }
    }
    parts.join("\n")
}

/// Questions that can be asked: name, and what it gives.
const METHODS: [(&str, &str); 4] = [
    (
        "outline",
        "what the target takes: arguments, secrets, agents",
    ),
    ("targets", "which stages can be built"),
    ("lint", "what is odd about the Dockerfile"),
    ("subrequests.describe", "which questions there are"),
];

/// Which questions there are, for people.
pub(super) fn describe() -> String {
    let mut rows = vec![row(&["NAME", "VERSION", "DESCRIPTION"])];
    rows.extend(METHODS.map(|(name, text)| row(&[name, "1.0.0", text])));
    table(&rows, 1)
}

/// The same for programs.
pub(super) fn describe_json() -> Value {
    let one = |(name, text): (&str, &str)| {
        let target = json!({"name": "target", "description": "the stage"});
        let options = match name {
            "outline" => vec![target],
            _ => Vec::new(),
        };
        let named = |name: &str| json!({"name": name, "description": ""});
        let mut results = vec![named("result.json"), named("result.txt")];
        if name == "lint" {
            results.push(named("result.statuscode"));
        }
        json!({
            "name": format!("frontend.{name}"),
            "version": "1.0.0",
            "type": "rpc",
            "description": text,
            "opts": options,
            "inputs": null,
            "metadata": results,
            "refs": null,
        })
    };
    METHODS.map(one).into()
}

/// What was found, for programs: as BuildKit's `frontend.lint` has it.
pub(super) fn lint_json(report: &Report, name: &str, source: &[u8]) -> Value {
    let location = |span| {
        let location = Location::from(span);
        json!({"sourceIndex": 0, "ranges": location.ranges})
    };
    let warning = |warning: &rcrun_builder::dockerfile::Warning| {
        json!({
            "ruleName": warning.rule.name(),
            "description": warning.rule.description(),
            "url": warning.rule.url(),
            "detail": warning.message,
            "location": location(warning.span),
        })
    };
    let mut value = json!({
        "warnings": report.warnings.iter().map(warning).collect::<Vec<_>>(),
        "sources": [{
            "filename": name,
            "language": "Dockerfile",
            "data": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, source),
        }],
    });
    if let Some(error) = report.errors.first() {
        value["buildError"] = json!({"message": error.message, "location": location(error.span)});
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &[&str]) -> Result<Option<Call>> {
        let all = [&["build"], words, &["."]].concat();
        Call::asked(&<Build as clap::Parser>::try_parse_from(all).unwrap())
    }

    #[test]
    fn what_is_asked() {
        let of = |method, json, ignore_status, bare| Call {
            method,
            json,
            ignore_status,
            bare,
        };
        for (words, expected) in [
            (&[][..], None),
            (&["--call=build"], None),
            (&["--check"], Some(of(Method::Check, false, false, false))),
            (
                &["--call=lint"],
                Some(of(Method::Check, false, false, false)),
            ),
            (
                &["--call=check,format=json,ignorestatus"],
                Some(of(Method::Check, true, true, false)),
            ),
            (
                &["--call=outline,format=text"],
                Some(of(Method::Outline, false, false, false)),
            ),
            (
                &["--call=subrequests.describe,format=json"],
                Some(of(Method::Describe, true, false, false)),
            ),
            (
                &["--print=targets"],
                Some(of(Method::Targets, true, true, true)),
            ),
            (&["--print=ast"], Some(of(Method::Ast, true, true, true))),
        ] {
            assert_eq!(flags(words).unwrap(), expected, "{words:?}");
        }
        for words in [
            &["--call=ast"][..],
            &["--call=check,format=xml"],
            &["--call=check,what"],
            &["--print=check"],
            &["--check", "--call=check"],
            &["--call=build,what"],
        ] {
            flags(words).unwrap_err();
        }
    }

    #[test]
    fn columns() {
        let rows = [
            row(&["A", "BB", "C"]),
            row(&["ääää", "", "d"]),
            row(&["e", ""]),
        ];
        assert_eq!(table(&rows, 1), "A    BB C\nääää    d\ne\n");
    }

    #[test]
    fn all_questions_are_described() {
        let text = describe();
        assert!(
            text.starts_with("NAME                 VERSION DESCRIPTION\noutline "),
            "{text}"
        );
        let json = describe_json();
        assert_eq!(json[0]["opts"][0]["name"], "target");
        assert_eq!(json[2]["metadata"][2]["name"], "result.statuscode");
        assert_eq!(json[3]["name"], "frontend.subrequests.describe");
        assert!(json[1]["inputs"].is_null());
    }
}
