//! The lint against what `BuildKit` reports, recorded: 87 Dockerfiles with the warnings of a build and of its lint request.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::dockerfile::scope::DEFAULT_PATH;
use crate::dockerfile::{BaseFacts, CheckOptions, Ignored, Report, Request, check_text};

#[derive(Deserialize)]
struct Case {
    test: String,
    dockerfile: String,
    dockerignore: String,
    attrs: Option<BTreeMap<String, String>>,
    build_err: String,
    build_err_location: u32,
    warnings: Option<Vec<Expected>>,
    unmarshal_warnings: Option<Vec<Expected>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Expected {
    line: u32,
    detail: String,
    rule_name: String,
    description: String,
    #[serde(rename = "URL")]
    url: String,
    level: u32,
}

/// As much of `.dockerignore` as the recorded cases have.
struct Patterns(Vec<String>);

impl Ignored for Patterns {
    fn excludes(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.as_str() {
            "*" | "**" => true,
            ".*" => path.starts_with('.'),
            name => path == name,
        })
    }

    fn excludes_all(&self) -> bool {
        self.0
            .iter()
            .any(|pattern| matches!(pattern.as_str(), "*" | "**" | "**/*"))
    }
}

fn found(report: &Report) -> Vec<Expected> {
    let mut found: Vec<Expected> = report
        .warnings
        .iter()
        .map(|warning| Expected {
            line: warning.span.first_line,
            detail: warning.message.clone(),
            rule_name: warning.rule.name().into(),
            description: warning.rule.description().into(),
            url: warning.rule.url().unwrap_or_default().into(),
            level: 1,
        })
        .collect();
    found.sort();
    found
}

fn run(case: &Case, all_stages: bool) -> Report {
    let attrs = case.attrs.clone().unwrap_or_default();
    let build_args = attrs
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("build-arg:")?, value)));
    let build_args = build_args
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    let request = Request {
        build_args,
        ..Request::default()
    };
    let platform = request.target_platform.clone();
    let patterns: Vec<String> = case
        .dockerignore
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let ignored = Patterns(patterns);
    let without_exceptions =
        !ignored.0.is_empty() && !ignored.0.iter().any(|pattern| pattern.starts_with('!'));
    let base = |_: &str, _: &_| {
        let env = vec![format!("PATH={DEFAULT_PATH}")];
        Some(BaseFacts {
            platform: platform.clone(),
            env,
            shell: Vec::new(),
            onbuild: Vec::new(),
        })
    };
    let ignored = without_exceptions.then_some(&ignored as &dyn Ignored);
    let options = CheckOptions {
        request,
        selection: None,
        all_stages,
        ignored,
        base: &base,
    };
    check_text(case.dockerfile.as_bytes(), &options)
}

fn error(report: &Report) -> (String, u32) {
    if let Some(refusal) = report.refusal() {
        return (
            refusal,
            report
                .warnings
                .last()
                .map_or(0, |warning| warning.span.first_line),
        );
    }
    let Some(error) = report.errors.first() else {
        return (String::new(), 0);
    };
    let hint = error
        .hint
        .as_ref()
        .map(|hint| format!(" ({hint})"))
        .unwrap_or_default();
    (format!("{}{hint}", error.message), error.span.first_line)
}

#[test]
fn buildkits_table() {
    let mut count = 0;
    for line in include_str!("../../../fixtures/dockerfile/lint.jsonl").lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let context = format!("{}:\n{}", case.test, case.dockerfile);
        let mut expected = case.warnings.clone().unwrap_or_default();
        expected.sort();
        let built = run(&case, false);
        assert_eq!(found(&built), expected, "{context}");
        // The lint request looks at all stages. Where it finds other things the table has no lines that can be compared.
        let linted = run(&case, true);
        let details = |all: &[Expected]| {
            let mut all: Vec<_> = all
                .iter()
                .map(|one| (one.detail.clone(), one.rule_name.clone()))
                .collect();
            all.sort();
            all
        };
        let wanted = case.unmarshal_warnings.as_ref().unwrap_or(&expected);
        assert_eq!(details(&found(&linted)), details(wanted), "{context}");
        compare_errors(&case, &error(&built), &context);
        count += 1;
    }
    assert_eq!(count, 87);
}

/// Messages are those of the table, but for what another library says about a platform in one of them.
fn compare_errors(case: &Case, (message, line): &(String, u32), context: &str) {
    let wanted = case
        .build_err
        .strip_prefix(&format!("dockerfile parse error on line {line}: "));
    let wanted = wanted.unwrap_or(&case.build_err);
    match (
        wanted.split_once(": \"\" is an invalid component"),
        message.split_once(": invalid platform"),
    ) {
        (Some((wanted, tail)), Some((found, found_tail))) => {
            assert_eq!(found, wanted, "{context}");
            assert!(
                tail.ends_with("(did you mean MY_ARCH?)")
                    && found_tail.ends_with("(did you mean MY_ARCH?)")
            );
        }
        _ => assert_eq!(message, wanted, "{context}"),
    }
    if !case.build_err.is_empty() {
        assert_eq!(*line, case.build_err_location, "{context}");
    }
}
