use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[derive(Deserialize)]
struct Row {
    env: Option<BTreeMap<String, String>>,
    input: String,
    expected: String,
    expected_err: bool,
    matches: Option<BTreeSet<String>>,
    unmatched: Option<BTreeSet<String>>,
}

/// What `BuildKit`'s lexer gives for 47 words, recorded.
#[test]
fn buildkits_table() {
    let table = include_str!("../../../fixtures/dockerfile/lex-process-with-matches.jsonl");
    let mut count = 0;
    for line in table.lines() {
        let row: Row = serde_json::from_str(line).unwrap();
        let env = row.env.unwrap_or_default();
        let read = Words::new('\\').expand(&row.input, &env);
        assert_eq!(read.is_err(), row.expected_err, "{}: {read:?}", row.input);
        if let Ok(read) = read {
            assert_eq!(read.value, row.expected, "{}", row.input);
            assert_eq!(
                read.matched,
                row.matches.unwrap_or_default(),
                "{}",
                row.input
            );
            assert_eq!(
                read.unmatched,
                row.unmatched.unwrap_or_default(),
                "{}",
                row.input
            );
        }
        count += 1;
    }
    assert_eq!(count, 47);
}

#[track_caller]
fn gives(word: &str, pairs: &[(&str, &str)], value: &str) {
    let read = Words::new('\\')
        .expand(word, &env(pairs))
        .unwrap_or_else(|error| panic!("{word}: {error}"));
    assert_eq!(read.value, value, "{word}");
}

#[track_caller]
fn refuses(word: &str, pairs: &[(&str, &str)], reason: &str) {
    let error = Words::new('\\').expand(word, &env(pairs)).expect_err(word);
    assert!(error.to_string().ends_with(reason), "{word}: {error}");
}

#[test]
fn quotes_and_escapes() {
    gives("plain", &[], "plain");
    gives("two  words ", &[], "two  words ");
    gives("'$x \\n'", &[("x", "1")], "$x \\n");
    gives("\"$x\"'$x'$x", &[("x", "1")], "1$x1");
    gives(r#""a\"b\$c\\d\e""#, &[], r#"a"b$c\d\e"#);
    gives(r"a\ b\$x\'", &[], "a b$x'");
    gives("end\\", &[], "end");
    gives("it''s\"\"", &[], "its");
    refuses("'open", &[], "looking for matching single-quote");
    refuses("\"open", &[], "looking for matching double-quote");
}

#[test]
fn a_backquote_may_be_the_escape_character() {
    let words = Words::new('`');
    let value = |word: &str| words.expand(word, &env(&[("d", "C:")])).unwrap().value;
    assert_eq!(value(r"$d\dir`$d"), r"C:\dir$d");
    assert_eq!(value(r#""a`"b""#), "a\"b");
}

#[test]
fn names() {
    let pairs = &[
        ("a", "A"),
        ("a1_b", "B"),
        ("1", "one"),
        ("12", "twelve"),
        ("ä", "umlaut"),
    ];
    gives("$a-$a1_b.$a/", pairs, "A-B.A/");
    gives("$12x ${1}x", pairs, "twelvex onex");
    gives("$ä${ä}", pairs, "umlautumlaut");
    gives("$ $. $", pairs, "$ $. $");
    gives("[$@$*$#$?$-$!$$]", pairs, "[]");
    refuses("${", pairs, "syntax error: missing '}'");
    refuses("${}", pairs, "bad substitution");
    refuses("${{a}", pairs, "bad substitution");
    refuses("${:a}", pairs, "bad substitution");
    refuses("${a", pairs, "missing '}'");
    refuses("${a.b}", pairs, "unsupported modifier (.) in substitution");
    refuses(
        "${a:#b}",
        pairs,
        "unsupported modifier (:#) in substitution",
    );
    refuses("${a:", pairs, "missing '}'");
    refuses(
        "${a:=b}",
        pairs,
        "unsupported modifier (:=) in substitution",
    );
}

#[test]
fn defaults_and_demands() {
    let pairs = &[("full", "F"), ("empty", "")];
    gives("${full:-w}${empty:-w}${none:-w}", pairs, "Fww");
    gives("${full-w}${empty-w}${none-w}", pairs, "Fw");
    gives("${full:+w}|${empty:+w}|${none:+w}", pairs, "w||");
    gives("${full+w}|${empty+w}|${none+w}", pairs, "w|w|");
    gives("${full:?w}${full?w}${empty?w}", pairs, "FF");
    refuses("${empty:?no value}", pairs, ": empty: no value");
    refuses("${none?}", pairs, ": none: is not allowed to be unset");
    refuses("${empty:?}", pairs, ": empty: is not allowed to be empty");
    gives("${none:-${empty:-'}'$full}}", pairs, "}F");
    gives("${none:-a\\}b}", pairs, "a}b");
}

#[test]
fn patterns() {
    let pairs = &[
        ("v", "aa/bb/cc"),
        ("p", "a*b"),
        ("s", "ß*"),
        ("n", "one\ntwo"),
    ];
    gives(
        "${v#*/} ${v##*/} ${v%/*} ${v%%/*}",
        pairs,
        "bb/cc cc aa/bb aa",
    );
    gives("${v#x} ${v#} ${v%c}", pairs, "aa/bb/cc aa/bb/cc aa/bb/c");
    gives("${v#?a} ${v##*} ${v%?}", pairs, "/bb/cc  aa/bb/c");
    gives("${p#a\\*} ${p%\\*b}", pairs, "b a");
    gives("${s#ß} ${s%\\*}", pairs, "* ß");
    gives(
        "${v/b/X} ${v//b/X} ${v/\\//-} ${v//\\//-}",
        pairs,
        "aa/Xb/cc aa/XX/cc aa-bb/cc aa-bb-cc",
    );
    gives("${v//c*/} ${v//?/.}", pairs, "aa/bb/ ........");
    gives("${n#*o}", pairs, "ne\ntwo");
    gives("${n##*o}", pairs, "ne\ntwo");
    gives("${none/a/b}", pairs, "");
    gives("${v///-}", pairs, "-a-a-/-b-b-/-c-c-");
    gives("${v//*/x}", pairs, "x");
    refuses(
        "${v#\\a}",
        pairs,
        "invalid pattern (\\a) in substitution: invalid escape '\\a'",
    );
    refuses("${v/a}", pairs, "missing '/' in ${}");
    refuses("${v/a/b", pairs, "missing '}'");
}

#[test]
fn a_dollar_in_a_replacement_is_a_dollar() {
    gives("${v//b/$r}", &[("v", "abc"), ("r", "$1")], "a$1c");
}

#[test]
fn words_are_split_after_their_variables_are_replaced() {
    let words = Words::new('\\');
    let split = |word: &str| {
        words
            .split(word, &env(&[("two", "80 443"), ("none", "")]))
            .unwrap()
    };
    assert_eq!(split("$two"), ["80", "443"]);
    assert_eq!(split("\"$two\""), ["80 443"]);
    assert_eq!(split("1$two 9"), ["180", "443", "9"]);
    assert_eq!(split("$none '' \"\""), Vec::<String>::new());
    assert_eq!(split(r"a\ b 'c d'e"), ["a b", "c de"]);
    // The part before a default stays.
    assert_eq!(split("80${x:-80}/tcp"), ["8080/tcp"]);
    // The name of a heredoc may stand behind spaces.
    assert_eq!(split("RUN << EOF cat"), ["RUN", "<< EOF", "cat"]);
}

#[test]
fn documents_keep_their_quotes() {
    let text = "\"$x\" '$x' \\$x `$x` \\\\\n";
    let read = Words::document(text, &env(&[("x", "1")])).unwrap();
    assert_eq!(read.value, "\"1\" '1' $x `1` \\\n");
}

#[test]
fn raw_words_keep_what_they_mean() {
    let words = Words {
        raw_quotes: true,
        keep_unset: true,
        ..Words::new('\\')
    };
    let value = |word: &str| words.expand(word, &env(&[("x", "1")])).unwrap().value;
    assert_eq!(
        value("\"$x\" '$x' $y ${y} ${y:-2} ${y#a} ${y//a/b}"),
        "\"1\" '$x' $y ${y} ${y:-2} ${y#a} ${y//a/b}"
    );
}

#[test]
fn unmatched_names_survive_an_error() {
    let error = Words::new('\\')
        .expand("$typo ${y?}", &Nothing)
        .unwrap_err();
    assert_eq!(
        error.unmatched,
        BTreeSet::from(["typo".to_owned(), "y".to_owned()])
    );
    assert_eq!(
        error.to_string(),
        "failed to process \"$typo ${y?}\": y: is not allowed to be unset"
    );
}

#[test]
fn deep_substitutions_are_refused() {
    let deep = |levels: usize| format!("{}x{}", "${a:-".repeat(levels), "}".repeat(levels));
    assert_eq!(
        Words::new('\\').expand(&deep(60), &Nothing).unwrap().value,
        "x"
    );
    for levels in [64, 100_000] {
        assert!(Words::new('\\').expand(&deep(levels), &Nothing).is_err());
    }
    assert!(
        Words::new('\\')
            .expand(&"${a:-".repeat(100_000), &Nothing)
            .is_err()
    );
}

#[test]
fn words_that_grow_are_refused() {
    let env = env(&[("x", &"y".repeat(100_000))]);
    let error = Words::new('\\')
        .expand(&"$x".repeat(100), &env)
        .unwrap_err();
    assert!(
        error.to_string().contains("more than 1048576 bytes"),
        "{error}"
    );
    assert!(
        Words::new('\\')
            .expand("${x//y/1234567890123}", &env)
            .is_err()
    );
}

#[test]
fn patterns_that_take_long_are_refused() {
    let env = env(&[("x", &"a".repeat(100_000))]);
    let stars = "*a".repeat(1000);
    assert!(
        Words::new('\\')
            .expand(&format!("${{x##{stars}b}}"), &env)
            .is_err()
    );
    assert!(Words::new('\\').expand("${x//*b/}", &env).is_err());
    assert_eq!(Words::new('\\').expand("${x//a/}", &env).unwrap().value, "");
}
