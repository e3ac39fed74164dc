//! `SOURCE_DATE_EPOCH`: numbers, defaults of the Dockerfile, and the times of contexts and of what stages
//! add.

use super::contexts::{files_of, git, serve};
use crate::harness::builds::{BASE_TIME, Build, Builds};
use crate::harness::{Env, Need, Test, test};
use std::path::Path;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_default_of_the_dockerfile),
        test!(the_time_of_downloads),
        test!(the_time_of_a_commit).needs(Need::Program("git")),
        test!(what_has_no_time_says_nothing),
        test!(stages_that_are_no_source_are_refused),
    ]
}

const SAID: &str = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
const SAID_SECONDS: i64 = 1_445_412_480;
const IN_ARCHIVE: i64 = 1_700_000_302;
/// What a step sees goes to `/epoch`.
const SHOW: &str = "FROM base\nARG SOURCE_DATE_EPOCH\nCOPY Dockerfile /copied\nRUN echo \"${SOURCE_DATE_EPOCH-unset}\" >/epoch\n";

/// The time that an image and its files have.
#[track_caller]
fn time(build: &Build) -> String {
    let document = build.document();
    let created = document["created"].as_str().unwrap().to_owned();
    let history = document["history"].as_array().unwrap();
    assert_eq!(history.last().unwrap()["created"], created.as_str());
    created
}

#[track_caller]
fn seen(build: &Build) -> String {
    let files = build.files();
    files.text("epoch").trim().to_owned()
}

fn archive(files: &[(&str, &str, i64)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text, time) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        header.set_mtime(u64::try_from(*time).unwrap());
        builder
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn a_default_of_the_dockerfile(env: &Env) {
    let builds = Builds::new(env);
    let text = format!("ARG SOURCE_DATE_EPOCH=1445412480\n{SHOW}");
    let built = builds.of(&[], &text, &[]);
    assert_eq!(time(&built), "2015-10-21T07:28:00Z");
    assert_eq!(seen(&built), "1445412480");
    assert_eq!(built.files().get("copied").modified, (SAID_SECONDS, 0));
    // What the build is given comes first: also nothing, and what the caller's environment has.
    let built = builds.of(&["--build-arg=SOURCE_DATE_EPOCH=1700000002"], &text, &[]);
    assert_eq!(time(&built), "2023-11-14T22:13:22Z");
    assert_eq!(seen(&built), "1700000002");
    let built = builds.of(&["--build-arg=SOURCE_DATE_EPOCH="], &text, &[]);
    assert_eq!(seen(&built), "unset");
    let of_base = builds.of(&[], "FROM base\nRUN echo >/a\n", &[]);
    assert_eq!(time(&built), time(&of_base));
    assert_eq!(built.files().get("copied").modified, (BASE_TIME, 0));
    builds.shelf.set("SOURCE_DATE_EPOCH", "1700000003");
    assert_eq!(seen(&builds.of(&[], &text, &[])), "1700000003");
    // The time of the image is one thing, the variable another.
    let built = builds.of(&["--timestamp=1445412480"], &text, &[]);
    assert_eq!(time(&built), "2015-10-21T07:28:00Z");
    assert_eq!(seen(&built), "1700000003");
    let wrong = builds.dockerfile("ARG SOURCE_DATE_EPOCH=soon\nFROM base\n");
    builds.shelf.set("SOURCE_DATE_EPOCH", "");
    builds
        .build(&[], &wrong)
        .fails("invalid SOURCE_DATE_EPOCH: soon");
}

fn the_time_of_downloads(env: &Env) {
    let builds = Builds::new(env);
    let context = archive(&[
        ("Dockerfile", SHOW, IN_ARCHIVE - 3600),
        ("f", "1", IN_ARCHIVE),
    ]);
    const CONTEXT: &str = "--build-arg=SOURCE_DATE_EPOCH=context";
    for (headers, expected) in [(SAID, SAID_SECONDS), ("", IN_ARCHIVE)] {
        let (web, _) = serve(headers, &context);
        let url = format!("{web}/context.tar");
        let built = builds.build(&[CONTEXT], Path::new(&url)).ok();
        assert_eq!(seen(&built), expected.to_string());
        assert_eq!(built.files().get("copied").modified, (expected, 0));
        // A named context, which may be the default of the argument.
        let flag = format!("--build-context=MySource={web}/f.tar");
        let text = format!("ARG SOURCE_DATE_EPOCH=mysource\n{SHOW}");
        assert_eq!(seen(&builds.of(&[&flag], &text, &[])), expected.to_string());
        // A stage.
        let text = format!(
            "ARG SOURCE_DATE_EPOCH=source\nFROM scratch AS source\nARG NAME=f\nADD {web}/$NAME.tar /\n{SHOW}"
        );
        let built = builds.of(&[], &text, &[]);
        assert_eq!(seen(&built), expected.to_string());
        assert!(built.document().to_string().contains("epoch"));
        let number = ["--build-arg=SOURCE_DATE_EPOCH=7"];
        assert_eq!(seen(&builds.of(&number, &text, &[])), "7");
    }
    builds.assert_settled();
}

fn the_time_of_a_commit(env: &Env) {
    let builds = Builds::new(env);
    let repository = builds.context(&[("Dockerfile", SHOW), ("sub/Dockerfile", SHOW)]);
    git(&repository, &["init"]);
    git(&repository, &["add", "."]);
    let date = "--date=1700000101 +0000";
    git(&repository, &["commit", "-m", "one", date]);
    // The committer's time counts, not the author's.
    let committed = git(&repository, &["log", "-1", "--format=%ct"]);
    assert_ne!(committed, "1700000101");
    git(&repository, &["update-server-info"]);
    let url = format!("{}/.git", files_of(&repository));
    let of_context = "--build-arg=SOURCE_DATE_EPOCH=context";
    for suffix in ["", "#:sub", "?keep-git-dir=true"] {
        let url = format!("{url}{suffix}");
        let built = builds.build(&[of_context], Path::new(&url)).ok();
        assert_eq!(seen(&built), committed, "{suffix}");
    }
    let named = format!("--build-context=src={url}");
    let flags = ["--build-arg=SOURCE_DATE_EPOCH=src", &named];
    assert_eq!(seen(&builds.of(&flags, SHOW, &[])), committed);
    let stage = format!("FROM scratch AS src\nADD {url}#main /\n{SHOW}");
    assert_eq!(seen(&builds.of(&flags[..1], &stage, &[])), committed);
}

fn what_has_no_time_says_nothing(env: &Env) {
    let builds = Builds::new(env);
    let other = builds.context(&[("f", "1")]);
    let named = format!("--build-context=other={}", other.display());
    for name in ["context", "other"] {
        let argument = format!("--build-arg=SOURCE_DATE_EPOCH={name}");
        let built = builds.of(&[&named, &argument], SHOW, &[]);
        assert_eq!(seen(&built), "unset");
        assert_eq!(built.files().get("copied").modified, (BASE_TIME, 0));
        assert!(
            built.output.stderr.contains("has no time"),
            "{}",
            built.output
        );
        // Nor does the default that said so.
        let text = format!("ARG SOURCE_DATE_EPOCH={name}\n{SHOW}");
        assert_eq!(seen(&builds.of(&[&named], &text, &[])), "unset");
    }
}

fn stages_that_are_no_source_are_refused(env: &Env) {
    let builds = Builds::new(env);
    for (stage, says) in [
        ("COPY Dockerfile /\n", "must be a source only"),
        ("ADD Dockerfile /\n", "one file of a server"),
        ("", "exactly one ADD"),
    ] {
        let text = format!("ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\n{stage}FROM base\n");
        builds.build(&[], &builds.dockerfile(&text)).fails(says);
    }
}
