//! The recorded table, and what is derived from the rules.

use super::*;

fn matches(patterns: &[&str], path: &str) -> bool {
    let patterns = Patterns::new(patterns.iter().copied()).unwrap();
    patterns.matches(path).unwrap()
}

/// Recorded from the tests of moby/patternmatcher.
#[test]
fn as_recorded() {
    let table = include_str!("../../../../fixtures/context/patternmatcher.jsonl");
    let mut count = 0;
    for line in table.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let patterns = case["patterns"].as_array().unwrap();
        let patterns = patterns.iter().map(|text| text.as_str().unwrap());
        let path = case["path"].as_str().unwrap();
        let result = Patterns::new(patterns).and_then(|patterns| patterns.matches(path));
        match case["err"].as_bool().unwrap_or_default() {
            true => assert!(result.is_err(), "{line}"),
            false => assert_eq!(result.unwrap(), case["ignored"], "{line}"),
        }
        count += 1;
    }
    assert_eq!(count, 134);
}

#[test]
fn classes_and_their_oddities() {
    for (pattern, path, expected) in [
        ("[[]x", "[x", true),
        ("a[.]b", "a.b", true),
        ("a[.]b", "axb", false),
        ("[*]", "*", false),
        ("[*]", "^/]", true),
        ("[?]", "[]", true),
        ("a[^b]c", "a/c", true),
        ("\\d", "7", true),
        ("x^y*", "x^y", false),
        ("x^y", "x^y", true),
        ("^y*", "yz", true),
        ("**/x*", "a\n/x", false),
    ] {
        assert_eq!(matches(&[pattern], path), expected, "{pattern:?} {path:?}");
    }
}

#[test]
fn a_walk_hands_down() {
    // Alone, the directory above is looked at; in a walk it was before the exception counted.
    let patterns = Patterns::new(["foo/bar", "!foo"]).unwrap();
    assert!(!patterns.matches("foo/bar").unwrap());
    let (foo, handed) = patterns.step("foo", None).unwrap();
    let (bar, _) = patterns.step("foo/bar", Some(&handed)).unwrap();
    assert_eq!((foo, bar), (false, true));
}

#[test]
fn only_where_something_can_be_is_descended() {
    for (patterns, directory, expected) in [
        (&["a"][..], "a", false),
        (&["a", "!a/b"], "a", true),
        (&["a", "!b/c"], "a", false),
        (&["!a/b", "a"], "a", false),
        (&["*", "!a/*/c"], "a", true),
        (&["*", "!a/*/c"], "a/x", true),
        (&["*", "!a/*/c"], "b", false),
        (&["*", "!a/*.txt"], "a/x", false),
        (&["*", "!**/x"], "anything", true),
        (&["*", "!a/**"], "b", false),
        (&["*", "!a/**"], "a", true),
        (&["*", "!a/**/x"], "a/b/c/d", true),
    ] {
        let list = Patterns::new(patterns.iter().copied()).unwrap();
        let (matched, handed) = list.step(directory, None).unwrap();
        assert!(matched);
        let may = list.may_except_below(directory, &handed);
        assert_eq!(may, expected, "{patterns:?} {directory}");
    }
    let list = Patterns::new(["a/b*/c", "x/**"]).unwrap();
    for (directory, expected) in [("a", true), ("a/bx", true), ("a/c", false), ("x", true)] {
        assert_eq!(list.may_match_below(directory), expected, "{directory}");
    }
}

/// What is pruned has nothing that the walk would have kept.
#[test]
fn pruning_changes_nothing() {
    let names = ["a", "b", "ab"];
    let words = [
        "a", "b", "*", "a*", "**", "a/b", "*/b", "**/a", "a/**", "a/*/b", "[ab]",
    ];
    let words: Vec<String> = words
        .iter()
        .flat_map(|word| [(*word).to_owned(), format!("!{word}")])
        .collect();
    for first in &words {
        for second in &words {
            for third in &words {
                let list = [first, second, third].map(String::as_str);
                let list = Patterns::new(list).unwrap();
                pruned(&list, "", None, false, &names, 3);
            }
        }
    }
}

fn pruned(
    list: &Patterns,
    above: &str,
    parent: Option<&Matched>,
    cut: bool,
    names: &[&str],
    depth: usize,
) {
    if depth == 0 {
        return;
    }
    for name in names {
        let path = format!("{above}/{name}");
        let path = path.trim_matches('/');
        let (matched, handed) = list.step(path, parent).unwrap();
        assert!(matched || !cut, "{list:?} {path}");
        let cut = cut || (matched && !list.may_except_below(path, &handed));
        pruned(list, path, Some(&handed), cut, names, depth - 1);
    }
}

#[test]
fn what_is_refused() {
    for text in ["!", "[", "a\\", "[a", "[]", &"x".repeat(5000)] {
        assert!(Patterns::new([text]).is_err(), "{text}");
    }
    assert!(Patterns::new(["", "  "]).unwrap().is_empty());
    let error = Patterns::new(["[[:alpha:]]"]).unwrap().matches("a");
    assert!(error.unwrap_err().to_string().contains("[[:alpha:]]"));
}
