//! Questions about a Dockerfile, which build nothing: `--check`, `--call`, `--print`.

use crate::harness::builds::Builds;
use crate::harness::{Env, Output, Test, test};
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(targets),
        test!(outlines),
        test!(what_is_odd),
        test!(which_questions_there_are),
        test!(questions_of_other_kinds_are_refused),
    ]
}

const TARGETS: &str = "\
# build defines stage for compiling the binary
FROM base AS build
RUN true

FROM other as second
RUN false

FROM base
RUN false

# binary returns the compiled binary
FROM second AS binary
";

const OUTLINE: &str = "\
# of all
ARG inherited=inherited-value
ARG inherited2=inherited2-value
ARG unused=abc

FROM base AS first
ARG FOO=123
RUN --mount=type=secret,id=one true

# main is what is wanted
FROM scratch AS main
# BAR is another one
ARG BAR=456
ARG inherited
RUN --mount=type=secret,id=two,required --mount=type=ssh,required true
COPY --from=first /f /

FROM first AS unrelated
ARG ABC=a
";

fn ask(builds: &Builds<'_>, flags: &[&str], context: &Path) -> Output {
    let words = [&["build"], flags, &[context.to_str().unwrap()]].concat();
    builds
        .env
        .rt
        .finish(builds.env.rt.spawn(builds.shelf.command(&words)))
}

#[track_caller]
fn parsed(output: Output) -> Value {
    serde_json::from_str(&output.ok().stdout).unwrap()
}

fn targets(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile(TARGETS);
    assert_eq!(
        ask(&builds, &["--call=targets"], &context).ok().stdout,
        "TARGET           DESCRIPTION\n\
         build            defines stage for compiling the binary\n\
         second\n\
         \n\
         binary (default) returns the compiled binary\n"
    );
    let json = parsed(ask(&builds, &["--call=targets,format=json"], &context));
    let print = parsed(ask(&builds, &["--print=targets"], &context));
    assert_eq!(json, print);
    let line = |line: u64| json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]});
    assert_eq!(
        json["targets"],
        json!([
            {"name": "build", "base": "base", "description": "defines stage for compiling the binary", "location": line(2)},
            {"name": "second", "base": "other", "location": line(5)},
            {"base": "base", "location": line(8)},
            {"name": "binary", "base": "second", "default": true, "description": "returns the compiled binary", "location": line(12)},
        ])
    );
}

fn outlines(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile(OUTLINE);
    let flags = ["--call=outline", "--target=main", "--build-arg=BAR=678"];
    assert_eq!(
        ask(&builds, &flags, &context).ok().stdout,
        "TARGET:      main\n\
         DESCRIPTION: is what is wanted\n\
         \n\
         BUILD ARG   VALUE             DESCRIPTION\n\
         inherited   inherited-value\n\
         FOO         123\n\
         BAR         678               is another one\n\
         \n\
         SECRET   REQUIRED\n\
         one\n\
         two      true\n\
         \n\
         SSH       REQUIRED\n\
         default   true\n"
    );
    let json = parsed(ask(
        &builds,
        &["--call=outline,format=json", "--target=main"],
        &context,
    ));
    assert_eq!(json["args"][2]["value"], "456");
    assert_eq!(json["secrets"][1]["required"], true);
    assert_eq!(
        json["secrets"][0]["location"]["ranges"][0]["start"]["line"],
        8
    );
    let other = parsed(ask(&builds, &["--print=outline"], &context));
    assert_eq!(other["name"], "unrelated");
    assert!(other.get("ssh").is_none());
    ask(&builds, &["--call=outline", "--target=none"], &context)
        .fails()
        .says("none");
}

fn what_is_odd(env: &Env) {
    let builds = Builds::new(env);
    let odd = builds.dockerfile("from base\nMAINTAINER me\n");
    let found = |flags: &[&str], context: &Path| {
        let output = ask(&builds, flags, context);
        assert_eq!(output.code, 1, "{output}");
        output.stdout
    };
    for flags in ["--check", "--call=check", "--call=lint"] {
        let said = found(&[flags], &odd);
        assert!(said.contains("MaintainerDeprecated"), "{said}");
        assert!(said.contains("2 warnings have been found"), "{said}");
    }
    ask(&builds, &["--call=check,ignorestatus"], &odd).ok();
    let said = found(&["--call=check,format=json"], &odd);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["warnings"].as_array().unwrap().len(), 2);
    let deprecated = &json["warnings"][1];
    assert_eq!(deprecated["ruleName"], "MaintainerDeprecated");
    assert_eq!(deprecated["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(deprecated["location"]["sourceIndex"], 0);
    assert!(deprecated["url"].as_str().unwrap().starts_with("https://"));
    assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    let broken = builds.dockerfile("FROM base\nRUM x\n");
    let said = found(&["--call=check,format=json"], &broken);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        json["buildError"]["location"]["ranges"][0]["start"]["line"],
        2
    );
    let clean = builds.dockerfile("FROM base\n");
    let said = ask(&builds, &["--check"], &clean).ok();
    assert_eq!(said.stdout, "Check complete, no warnings found.\n");
    let json = parsed(ask(&builds, &["--call=check,format=json"], &clean));
    assert_eq!(json["warnings"], json!([]));
}

fn which_questions_there_are(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM base\n");
    let said = ask(&builds, &["--call=describe"], &context).ok().stdout;
    let names: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected = ["NAME", "outline", "targets", "lint", "subrequests.describe"];
    assert_eq!(names, expected);
    let json = parsed(ask(
        &builds,
        &["--call=subrequests.describe,format=json"],
        &context,
    ));
    assert_eq!(json[0]["name"], "frontend.outline");
    assert_eq!(json[0]["version"], "1.0.0");
    // The word that means: build.
    ask(&builds, &["--call=build", "-t", "built"], &context).ok();
    builds.shelf.ok(&["rmi", "built"]);
}

fn questions_of_other_kinds_are_refused(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM base\n");
    for (flags, says) in [
        (&["--call=ast"][..], "\"ast\""),
        (&["--call=check,format=xml"], "format=xml"),
        (&["--check", "--print=ast"], "exclude"),
    ] {
        ask(&builds, flags, &context).fails().says(says);
    }
}
