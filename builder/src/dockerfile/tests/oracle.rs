//! Comparison with `BuildKit`'s own test files, which are not part of this repository.
//! `RCRUN_BUILDKIT_TESTFILES=.../frontend/dockerfile/parser cargo test -p rcrun-builder oracle`

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rcrun_image::platform::Platform;
use serde::Deserialize;

use super::random::Texts;
use crate::dockerfile::outline::OutlineArg;
use crate::dockerfile::parse::parse_partly;
use crate::dockerfile::{
    BaseFacts, CheckOptions, Dockerfile, Kind, Request, Span, Words, check_text, dump, limits,
    outline,
};

fn files() -> Option<PathBuf> {
    let path = std::env::var_os("RCRUN_BUILDKIT_TESTFILES").map(PathBuf::from);
    if path.is_none() {
        eprintln!(
            "skipped: RCRUN_BUILDKIT_TESTFILES does not name BuildKit's frontend/dockerfile/parser"
        );
    }
    path
}

#[test]
fn oracle_syntax_trees() {
    let Some(files) = files() else { return };
    let mut same = 0;
    for directory in std::fs::read_dir(files.join("testfiles")).unwrap() {
        let directory = directory.unwrap().path();
        let text = std::fs::read(directory.join("Dockerfile")).unwrap();
        let wanted = std::fs::read_to_string(directory.join("result")).unwrap();
        let found =
            dump(&text).unwrap_or_else(|errors| panic!("{}: {errors:?}", directory.display()));
        assert_eq!(found, wanted, "{}", directory.display());
        same += 1;
    }
    for directory in std::fs::read_dir(files.join("testfiles-negative")).unwrap() {
        let text = std::fs::read(directory.unwrap().path().join("Dockerfile")).unwrap();
        assert!(dump(&text).is_err(), "{}", String::from_utf8_lossy(&text));
        same += 1;
    }
    eprintln!("{same} test files");
    assert!(same >= 36, "{same}");
}

/// The tables of the lexer, which lie beside the parser.
#[test]
fn oracle_words() {
    let Some(files) = files() else { return };
    let shell = files.join("../shell");
    let env: BTreeMap<String, String> = [
        ("PWD", "/home"),
        ("SHELL", "bash"),
        ("KOREAN", "한국어"),
        ("NULL", ""),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut same = 0;
    for line in std::fs::read_to_string(shell.join("envVarTest"))
        .unwrap()
        .lines()
    {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [platform, word, wanted] = parts[..] else {
            continue;
        };
        if line.starts_with('#') || platform == "W" {
            continue;
        }
        match Words::new('\\').expand(word, &env) {
            Ok(found) => assert_eq!(found.value, wanted, "{line}"),
            Err(error) => assert_eq!(wanted, "error", "{line}: {error}"),
        }
        same += 1;
    }
    let mut env = BTreeMap::new();
    for line in std::fs::read_to_string(shell.join("wordsTest"))
        .unwrap()
        .lines()
    {
        if let Some(pair) = line.strip_prefix("ENV ") {
            let (name, value) = pair.trim_start().split_once('=').unwrap();
            env.insert(name.to_owned(), value.to_owned());
        } else if let Some((word, wanted)) = line.split_once('|').filter(|_| !line.starts_with('#'))
        {
            let found = Words::new('\\')
                .split(word.trim(), &env)
                .unwrap_or_else(|_| vec!["error".into()]);
            let wanted: Vec<&str> = wanted.trim_start().split(',').collect();
            assert_eq!(found, wanted, "{line}");
            same += 1;
        }
    }
    eprintln!("{same} words");
    assert!(same > 200, "{same}");
}

/// Lines of instructions.
#[test]
fn oracle_lines() {
    let Some(files) = files() else { return };
    let text = std::fs::read(files.join("testfile-line/Dockerfile")).unwrap();
    let parsed = parse_partly(&text);
    let stage = &parsed.dockerfile.stages[0];
    let mut lines = vec![(stage.span.first_line, stage.span.last_line)];
    lines.extend(
        stage
            .instructions
            .iter()
            .map(|one| (one.span.first_line, one.span.last_line)),
    );
    assert_eq!(lines, [(5, 5), (11, 12), (17, 31)]);
}

/// What the program of `fixtures/dockerfile/oracle` answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    dump: String,
    error: String,
    commands: Option<Vec<Found>>,
    heredocs: Option<Vec<String>>,
    words: Vec<String>,
    lint: Option<Vec<String>>,
    lint_error: String,
    args: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    name: String,
    lines: [u32; 2],
    comments: Option<Vec<String>>,
}

/// Random texts, and the files that `RCRUN_ORACLE_FILES` lists, as `BuildKit` itself reads them.
#[test]
fn oracle_program() {
    let Some(program) = std::env::var_os("RCRUN_BUILDKIT_ORACLE") else {
        return eprintln!(
            "skipped: RCRUN_BUILDKIT_ORACLE does not name the program of fixtures/dockerfile/oracle"
        );
    };
    let count = std::env::var("RCRUN_ORACLE_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000);
    let mut random = Texts::new(0x0dd_ba11);
    let mut texts: Vec<String> = (0..count)
        .map(|_| String::from_utf8_lossy(&random.next_text()).into_owned())
        .collect();
    if let Some(list) = std::env::var_os("RCRUN_ORACLE_FILES") {
        let list = std::fs::read_to_string(list).unwrap();
        texts.extend(
            list.lines()
                .filter_map(|path| std::fs::read_to_string(path).ok()),
        );
    }
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines: Vec<String> = texts
        .iter()
        .map(|text| serde_json::to_string(text).unwrap())
        .collect();
    let writer = std::thread::spawn(move || {
        for line in lines {
            writeln!(input, "{line}").unwrap();
        }
    });
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut different = 0;
    for text in &texts {
        let answer: Answer = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        if let Err(difference) = compare(text, &answer) {
            different += 1;
            if different <= 20 {
                eprintln!("--- {text:?}\n{difference}\n");
            }
        }
    }
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    eprintln!("{} texts, {different} different", texts.len());
    assert_eq!(different, 0);
}

fn same<T: PartialEq + std::fmt::Debug + ?Sized>(
    what: &str,
    ours: &T,
    theirs: &T,
) -> Result<(), String> {
    if ours == theirs {
        Ok(())
    } else {
        Err(format!("{what}: ours {ours:?}, theirs {theirs:?}"))
    }
}

/// Comments without what it leaves of the `#` of those that are indented.
fn plain(comments: &[String]) -> Option<Vec<String>> {
    let plain = comments
        .iter()
        .map(|comment| comment.strip_prefix('#').unwrap_or(comment).trim());
    let plain: Vec<String> = plain
        .filter(|comment| !comment.is_empty())
        .map(str::to_owned)
        .collect();
    Some(plain).filter(|plain| !plain.is_empty())
}

fn compare(text: &str, answer: &Answer) -> Result<(), String> {
    // Its scanner drops a byte order mark, and a variable's `$1` in replacements means something to it.
    if !text.contains('\u{feff}') && !text.contains("//") {
        compare_words(text, answer)?;
    }
    // A word around `${...}`, which it loses when it looks for documents.
    let is_odd =
        text.chars().skip(1).any(|c| c == '\u{feff}') || text.contains("<<") && text.contains("${");
    // It takes flags apart byte by byte, so that those beyond ASCII are garbled.
    if is_odd || !text.is_ascii() && text.replace("\\\n", "").contains("--") {
        return Ok(());
    }
    let ours = dump(text.as_bytes()).unwrap_or_default();
    same("tree", ours.trim(), answer.dump.as_str())?;
    let parsed = parse_partly(text.as_bytes());
    let errors: Vec<&str> = parsed
        .errors
        .iter()
        .map(|error| error.message.as_str())
        .collect();
    match (errors.as_slice(), answer.error.as_str()) {
        ([] | ["dockerfile contains no stages to build"], "") => {
            compare_instructions(&parsed.dockerfile, answer)?;
            compare_builds(text, answer)
        }
        ([], error) => Err(format!("only theirs: {error}")),
        (errors, "") => Err(format!("only ours: {errors:?}")),
        (errors, error) => compare_errors(errors, error),
    }
}

/// The image that the program knows.
fn image(_: &str, _: &Platform) -> Option<BaseFacts> {
    let platform = Platform::new("linux", "amd64", "");
    let env = vec!["PATH=/bin".into(), "IMG=i".into()];
    Some(BaseFacts {
        platform,
        env,
        shell: Vec::new(),
        onbuild: Vec::new(),
    })
}

/// The lint and the outline.
fn compare_builds(text: &str, answer: &Answer) -> Result<(), String> {
    let platform = Platform::new("linux", "amd64", "");
    let request = Request {
        build_args: [("X".to_owned(), "given".to_owned())].into(),
        build_platform: platform.clone(),
        target_platform: platform,
        target: None,
    };
    let options = CheckOptions {
        request: request.clone(),
        selection: None,
        all_stages: true,
        ignored: None,
        base: &image,
    };
    let report = check_text(text.as_bytes(), &options);
    // Of two suggestions that are as good it takes any.
    let plain = |text: &str| {
        text.split(" (did you mean")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let ours = report.warnings.iter();
    let ours = ours.map(|one| {
        plain(&format!(
            "{} {}: {}",
            one.span.first_line,
            one.rule.name(),
            one.message
        ))
    });
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) = (
        ours.collect(),
        answer
            .lint
            .iter()
            .flatten()
            .map(|line| plain(line))
            .collect(),
    );
    ours.sort();
    theirs.sort();
    let error = report.errors.first().map(|error| error.message.as_str());
    let refusal = report.refusal();
    // Splitting words it loses what stands before `${...}`.
    if text
        .lines()
        .any(|line| line.to_lowercase().contains("expose") && line.contains("${"))
    {
        return Ok(());
    }
    // Which names systems may have is the image library's.
    if answer.lint_error.starts_with("failed to parse platform") {
        return Ok(());
    }
    if error.is_none() && refusal.is_none() && answer.lint_error.is_empty() {
        same("lint", &ours, &theirs)?;
    } else if (error.is_none() && refusal.is_none()) != answer.lint_error.is_empty() {
        return Err(format!(
            "lint: ours {error:?} {refusal:?}, theirs {:?}",
            answer.lint_error
        ));
    } else {
        return Ok(());
    }
    let file = parse_partly(text.as_bytes()).dockerfile;
    let ours = outline(&file, text.as_bytes(), &request, &image)
        .map_err(|error| format!("outline: {error:?}"))?;
    let line = |arg: &OutlineArg| {
        format!(
            "{} {}={} # {}",
            arg.location.ranges[0].start.line, arg.name, arg.value, arg.description
        )
    };
    let mut ours: Vec<String> = ours.args.iter().map(line).collect();
    let mut theirs = answer.args.clone().unwrap_or_default();
    ours.sort();
    theirs.sort();
    same("outline", &ours, &theirs)
}

fn compare_words(text: &str, answer: &Answer) -> Result<(), String> {
    let env: BTreeMap<String, String> = [("X", "x y"), ("a", "**/b"), ("e", "")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    let word = Words::new('\\').expand(text, &env);
    let word = word.map_or_else(
        |_| vec!["error".into()],
        |word| vec!["ok".into(), word.value],
    );
    same("word", &word, &answer.words)
}

/// Its one error is among ours; numbers and fields are read by others' code, whose words are not ours.
fn compare_errors(ours: &[&str], theirs: &str) -> Result<(), String> {
    let message = theirs
        .split_once(" line ")
        .and_then(|(_, rest)| rest.split_once(": "));
    let message = message.map_or(theirs, |(_, message)| message);
    let message = message.split(" (did you mean").next().unwrap_or_default();
    let is_other = ["time: ", "strconv.", "failed to parse csv"]
        .iter()
        .any(|start| message.starts_with(start));
    if is_other || ours.contains(&message) || ours.len() >= limits::DIAGNOSTICS {
        return Ok(());
    }
    Err(format!("ours {ours:?}, theirs {message:?}"))
}

fn compare_instructions(file: &Dockerfile, answer: &Answer) -> Result<(), String> {
    let found = |name: String, span: Span, comments: &[String]| Found {
        name,
        lines: [span.first_line, span.last_line],
        comments: plain(comments),
    };
    let args = file
        .global_args
        .iter()
        .map(|arg| found("arg".into(), arg.span, &arg.comments));
    let (mut commands, mut documents): (Vec<Found>, Vec<String>) = (args.collect(), Vec::new());
    for stage in &file.stages {
        let name = stage.name.clone().unwrap_or_default();
        let name = format!("from {name} {}", stage.base.to_lowercase());
        commands.push(found(name, stage.span, &stage.comments));
        for one in &stage.instructions {
            commands.push(found(one.keyword.to_lowercase(), one.span, &one.comments));
            let Kind::Run(run) = &one.kind else { continue };
            documents.extend(run.heredocs.iter().map(|doc| {
                format!(
                    "{}|{}|{}|{}|{}",
                    doc.name, doc.expand, doc.chomp, doc.descriptor, doc.raw
                )
            }));
        }
    }
    let mut theirs = answer.commands.clone().unwrap_or_default();
    for one in &mut theirs {
        one.comments = one.comments.as_deref().and_then(plain);
    }
    same("instructions", &commands, &theirs)?;
    let theirs = answer.heredocs.as_deref().unwrap_or_default();
    match documents.iter().find(|doc| !theirs.contains(doc)) {
        None => Ok(()),
        Some(doc) => Err(format!("only ours: document {doc:?}")),
    }
}
