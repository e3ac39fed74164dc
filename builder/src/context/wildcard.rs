//! Wildcards in sources of COPY and ADD: Go's `filepath.Match`.
//!
//! `*` and `?` match within one name; a class may match anything, `/` included; a backslash takes the
//! next character for itself. What is malformed matches nothing, as BuildKit has it.

/// Whether a text has wildcards.
pub(super) fn has_wildcards(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

/// Takes off the directories before the first name with wildcards.
pub(super) fn split(path: &[u8]) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let names: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .collect();
    let plain = names.iter().take_while(|name| !has_wildcards(name)).count();
    (names[..plain].to_vec(), names[plain..].to_vec())
}

/// Whether a pattern is well formed.
pub(super) fn check(pattern: &[u8]) -> Result<(), ()> {
    let mut rest = pattern;
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'\\' => after.split_first().ok_or(())?.1,
            b'[' => class(after, None).ok_or(())?.1,
            _ => after,
        };
    }
    Ok(())
}

/// Whether a pattern matches all of a text.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    check(pattern).is_ok() && matches_from(pattern, text)
}

fn matches_from(pattern: &[u8], text: &[u8]) -> bool {
    // The last star, and how far it reaches: enough, since a later star makes earlier ones moot.
    let (mut pattern, mut text) = (pattern, text);
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', after)) = pattern.split_first() {
            pattern = after;
            star = Some((after, text));
            continue;
        }
        let taken = match (pattern.is_empty(), text.is_empty()) {
            (true, true) => return true,
            (false, false) => one(pattern, text),
            _ => None,
        };
        match (taken, star) {
            (Some((after, rest)), _) => (pattern, text) = (after, rest),
            (None, Some((after, from))) => {
                // The star takes one character more.
                match character(from) {
                    Some((Some('/'), _)) | None => return false,
                    Some((_, rest)) => {
                        star = Some((after, rest));
                        (pattern, text) = (after, rest);
                    }
                }
            }
            (None, None) => return false,
        }
    }
}

/// Matches one character; what remains of pattern and text.
fn one<'p, 't>(pattern: &'p [u8], text: &'t [u8]) -> Option<(&'p [u8], &'t [u8])> {
    let (byte, after) = pattern.split_first()?;
    match byte {
        b'[' => {
            let (found, rest) = character(text)?;
            let (hit, after) = class(after, Some(found))?;
            hit.then_some((after, rest))
        }
        b'?' => match character(text)? {
            (Some('/'), _) => None,
            (_, rest) => Some((after, rest)),
        },
        b'\\' => {
            let (escaped, after) = after.split_first()?;
            (*escaped == text[0]).then_some((after, &text[1..]))
        }
        other => (*other == text[0]).then_some((after, &text[1..])),
    }
}

/// A class after its `[`: whether it has the character, and what follows it. None if malformed.
fn class(mut rest: &[u8], found: Option<Option<char>>) -> Option<(bool, &[u8])> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    // Bytes that are no UTF-8 are all the same, as in Go.
    let found = found.map(|found| found.unwrap_or(char::REPLACEMENT_CHARACTER));
    let (mut hit, mut ranges) = (false, 0);
    loop {
        if ranges > 0 && rest.first() == Some(&b']') {
            return Some((hit != negated, &rest[1..]));
        }
        let (from, after) = member(rest)?;
        let (mut to, mut after) = (from, after);
        if after.first() == Some(&b'-') {
            (to, after) = member(&after[1..])?;
        }
        hit |= found.is_some_and(|found| (from..=to).contains(&found));
        ranges += 1;
        rest = after;
    }
}

fn member(rest: &[u8]) -> Option<(char, &[u8])> {
    let rest = match rest.first()? {
        b'-' | b']' => return None,
        b'\\' => &rest[1..],
        _ => rest,
    };
    let (found, after) = character(rest)?;
    // The class has to end somewhere.
    let found = found?;
    (!after.is_empty()).then_some((found, after))
}

/// The first character; none inside if it is no UTF-8.
fn character(text: &[u8]) -> Option<(Option<char>, &[u8])> {
    let length = text.len().min(4);
    if length == 0 {
        return None;
    }
    for end in 1..=length {
        if let Ok(found) = std::str::from_utf8(&text[..end]) {
            return Some((found.chars().next(), &text[end..]));
        }
    }
    Some((None, &text[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_matches() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a\u{263a}b", true),
            ("a[^a]b", "a\u{263a}b", true),
            ("a???b", "a\u{263a}b", false),
            ("[a-\u{3b6}]*", "\u{3b1}", true),
            ("*[a-\u{3b6}]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("a[^x]b", "a/b", true),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "-", true),
            ("[]a]", "]", false),
            ("[-]", "-", false),
            ("[x-]", "x", false),
            ("[-x]", "x", false),
            ("[a-b-c]", "a", false),
            ("[", "a", false),
            ("[^", "a", false),
            ("a[", "a", false),
            ("a\\", "a", false),
            ("*x", "xxx", true),
            ("[[]xyz]", "[xyz]", true),
            ("", "", true),
            ("", "a", false),
        ] {
            let result = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(result, expected, "{pattern:?} {text:?}");
        }
        assert!(matches(b"?x", b"\xffx"));
    }

    #[test]
    fn a_thousand_stars_end() {
        let (pattern, text) = ("a*".repeat(1000), "a".repeat(4000));
        assert!(!matches(format!("{pattern}b").as_bytes(), text.as_bytes()));
        assert!(matches(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn plain_directories_come_first() {
        let (plain, rest) = split(b"/a/b\\*/c*/d");
        assert_eq!(plain, [&b"a"[..], b"b\\*"]);
        assert_eq!(rest, [&b"c*"[..], b"d"]);
        assert!(!has_wildcards(b"a\\*"));
        assert!(has_wildcards(b"a\\\\*"));
    }
}
