//! Comparison with `BuildKit`'s own test files, which are not part of this repository.
//! `RCRUN_BUILDKIT_TESTFILES=.../frontend/dockerfile/parser cargo test -p rcrun-builder oracle`

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::dockerfile::{Words, dump};

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
    let parsed = super::super::parse::parse_partly(&text);
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
