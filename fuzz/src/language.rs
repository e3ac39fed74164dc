//! Dockerfiles, words with variables, ignore files.

use std::collections::BTreeMap;
use std::sync::Arc;

use rcrun_builder::context::ignore::Ignore;
use rcrun_builder::context::pattern::Patterns;
use rcrun_builder::dockerfile::{
    BaseFacts, CheckOptions, Request, Words, check_text, dump, limits, outline, parse, render,
    targets,
};
use rcrun_builder::graph::{self, BaseImage, Bases, Wanted};
use rcrun_error::{Error, Result};
use rcrun_image::platform::Platform;

use crate::{bytes_of, halves};

/// There are none.
struct Nothing;

impl Bases for Nothing {
    fn image(&self, name: &str, _: &Platform) -> Result<Arc<BaseImage>> {
        Err(Error::invalid(format!("no image {name}")))
    }
}

/// Everything that is done with a text before something is built.
pub fn dockerfile(text: &[u8]) {
    let facts = |_: &str, platform: &Platform| {
        Some(BaseFacts {
            platform: platform.clone(),
            env: vec!["A=b".into()],
            shell: Vec::new(),
            onbuild: vec!["RUN x".into()],
        })
    };
    let request = Request::default();
    let _ = dump(text);
    let source = String::from_utf8_lossy(text);
    match parse(text) {
        Ok(file) => {
            let _ = targets(&file, text);
            let _ = outline(&file, text, &request, &facts);
            assert!(serde_json::to_vec(&file).is_ok(), "it has a document");
            let wanted = Wanted::default();
            if let Err(problem) = graph::plan(&file, &wanted, &Nothing) {
                assert!(!problem.error.to_string().is_empty(), "an error says why");
            }
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "an error says why");
            assert!(errors.len() <= limits::DIAGNOSTICS + limits::HEREDOCS);
            for error in errors.iter().take(3) {
                assert!(render(error, &source, "Dockerfile", 60, false).ends_with('\n'));
            }
        }
    }
    let options = CheckOptions {
        request,
        selection: None,
        all_stages: true,
        ignored: None,
        base: &facts,
    };
    let _ = check_text(text, &options);
}

/// Those that BuildKit's answers are recorded of, and some of scratch, which become graphs.
pub fn dockerfiles() -> Vec<Vec<u8>> {
    let recorded = include_str!("../../builder/fixtures/dockerfile/lint.jsonl").lines();
    let text = |line: &str| -> Option<Vec<u8>> {
        let case: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(case["dockerfile"].as_str()?.as_bytes().to_vec())
    };
    let mut all: Vec<Vec<u8>> = recorded.filter_map(text).collect();
    all.extend(bytes_of(&[
        "FROM scratch AS a\nARG X=1\nENV Y=${X:-2} Z=$Y\nCOPY --chown=1:2 --chmod=u+x a b* /c/\nADD https://h/f /g\nADD https://h/r.git#v1:d /h\nRUN --mount=type=cache,target=/x,id=$Y,sharing=locked --network=none y\n",
        "FROM scratch AS a\nCOPY <<E /f\n$X\nE\nFROM a AS b\nRUN <<'E' cat <<-F\n1\nE\n\t2\nF\nFROM scratch\nCOPY --from=b --link --parents --exclude=*.o /f /g\nWORKDIR $HOME/x\nHEALTHCHECK --interval=1s --retries=3 CMD [\"x\"]\nEXPOSE 1-9/udp $P\nVOLUME [\"/v\"]\nONBUILD COPY --from=a x y\nUSER 1:$G\nSTOPSIGNAL 9\nLABEL a=\"b c\" d=e\n",
        "# syntax=docker/dockerfile:1\n# escape=`\n# check=skip=all;error=true\nFROM scratch\nRUN a `\n b\nSHELL [\"x\", \"-c\"]\nCMD [\"a\", \"\\u0041\"]\n",
        "FROM scratch\nRUN --mount=type=bind,from=x,source=/a,target=/b,rw --mount=type=secret,id=s,env=E,required --mount=type=ssh,mode=0600,uid=1 --mount=type=tmpfs,target=/t,size=1g --security=insecure --device=d x\n",
    ]));
    all
}

/// Words: which escape character, a variable's value, and a word.
pub fn words(input: &[u8]) {
    let (value, word) = halves(input);
    let (Ok(value), Ok(word)) = (std::str::from_utf8(value), std::str::from_utf8(word)) else {
        return;
    };
    let env: BTreeMap<String, String> = [("X", value), ("EMPTY", ""), ("Y", "y")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for escape in ['\\', '`'] {
        for flags in 0..16_u8 {
            let words = Words {
                raw_quotes: flags & 1 > 0,
                raw_escapes: flags & 2 > 0,
                no_quotes: flags & 4 > 0,
                keep_unset: flags & 8 > 0,
                ..Words::new(escape)
            };
            let once = words.expand(word, &env).map(|expanded| expanded.value);
            if let Ok(value) = &once {
                assert!(value.len() <= limits::WORD_BYTES, "as long as words may be");
            }
            let again = words.expand(word, &env).map(|expanded| expanded.value);
            assert_eq!(once.ok(), again.ok(), "the same each time");
            if let Ok(split) = words.split(word, &env) {
                let length: usize = split.iter().map(String::len).sum();
                assert!(length <= limits::WORD_BYTES, "as long as words may be");
            }
        }
    }
    if let Ok(expanded) = Words::document(word, &env) {
        assert!(expanded.value.len() <= limits::DOCUMENT_BYTES);
    }
}

/// All forms of variables.
pub fn word_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "value\0a $X ${X} ${X:-w} ${X-w} ${X:+w} ${X+w} ${EMPTY:?why} ${NONE?why}",
        "a/b.c/d.c\0${X#*/} ${X##*/} ${X%.*} ${X%%.*} ${X/b/c} ${X//c/${Y:-[a-z]}} ${X/#a/b} ${X/%c/d}",
        "v\0'$X' \"$X ${Y}\" \\$X a\\ b `$X \"\\\"\" '\\'' $$ $1 ${",
        "\u{e4}\u{1f600}\0\u{e4}${X%?}\u{1f600}${X#\u{e4}} ${X//?/\\/} ${Y^^} $\u{e4}",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaab\0${X/*a*a*a*a*b/c} ${X##*a*a*a} ${X%%a*a*a*c}",
    ])
}

/// An ignore file and paths.
pub fn ignore(input: &[u8]) {
    let (file, paths) = halves(input);
    let paths = String::from_utf8_lossy(paths);
    if let Ok(ignore) = Ignore::parse(file) {
        for path in paths.split('\0') {
            let _ = (ignore.matches(path), ignore.reason(path));
        }
    }
    let text = String::from_utf8_lossy(file);
    let Ok(patterns) = Patterns::new(text.lines()) else {
        return;
    };
    for path in paths.split('\0').filter(|path| is_clean(path)) {
        let Ok(matches) = patterns.matches(path) else {
            continue;
        };
        assert_eq!(matches, patterns.deciding(path).is_some(), "{path:?}");
        // A walk that does not go into directories finds all the same.
        for (at, _) in path.match_indices('/') {
            let above = &path[..at];
            if matches && patterns.matches(above).is_ok_and(|matches| !matches) {
                assert!(patterns.may_match_below(above), "{path:?} below {above:?}");
            }
        }
    }
}

/// As walks have them.
fn is_clean(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// All forms of patterns.
pub fn ignore_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "# comment\n*.o\n!keep.o\ndir/\n/rooted\n\0a.o\0keep.o\0dir/a\0rooted\0x/rooted",
        "**/node_modules\n!**/node_modules/keep/**\na/**/b\n**\n\0x/node_modules/a\0node_modules/keep/a\0a/1/2/b",
        "[a-c]?[^x]*\n\\*\n[\\]]\n[a\\-z]\n./a/../b\n..\n!\n\0abc\0*\0]\0b/c",
        "a/*/c\nfoo*bar*\n*/*/*\n\0a/b/c\0foo1bar2\0a/b/c/d/e",
        "\u{feff}x\r\n  y  \n\u{e4}*\n!\u{e4}b\n\0x\0y\0\u{e4}b\0\u{e4}/c",
    ])
}
