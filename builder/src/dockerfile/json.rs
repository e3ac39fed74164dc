//! The JSON form of instructions: an array of strings. What is no JSON array is not in this form at all; one of anything
//! else than strings is a mistake.

use serde_json::value::RawValue;

/// What an argument is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `["a", "b"]`
    Strings(Vec<String>),
    /// `["a", 1]`
    OtherArray,
    /// Anything else.
    NotJson,
}

/// Which form `text` has.
pub(super) fn form(text: &str) -> Form {
    if !text.trim_start().starts_with('[') {
        return Form::NotJson;
    }
    // Elements stay text: nothing in an array that is none of ours is worth memory.
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(text.trim_start()) else {
        return Form::NotJson;
    };
    let strings = elements.iter().map(|element| string(element.get()));
    strings
        .collect::<Option<Vec<String>>>()
        .map_or(Form::OtherArray, Form::Strings)
}

/// The value of a string. Half of a surrogate pair, which JSON can write and UTF-8 cannot, becomes U+FFFD.
fn string(raw: &str) -> Option<String> {
    if let Ok(value) = serde_json::from_str(raw) {
        return Some(value);
    }
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    let (mut out, mut rest) = (String::new(), inner);
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let length = if rest[at..].starts_with("\\u") { 6 } else { 2 };
        let pair = rest
            .get(at..at + 12)
            .and_then(|pair| unescaped(pair).map(|c| (c, 12)));
        let one = rest
            .get(at..at + length)
            .map(|one| (unescaped(one).unwrap_or("\u{fffd}".into()), length));
        let (text, length) = if length == 6 { pair.or(one) } else { one }?;
        out.push_str(&text);
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    Some(out)
}

/// One character that is written by escapes alone.
fn unescaped(escapes: &str) -> Option<String> {
    let text: String = serde_json::from_str(&format!("\"{escapes}\"")).ok()?;
    (text.chars().count() == 1).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_strings() {
        for (text, strings) in [
            ("[]", vec![]),
            (r#"["a","b c"]"#, vec!["a", "b c"]),
            ("\t[ \"a\" ,\t\"\" ] ", vec!["a", ""]),
            (
                r#"["\"\\\/\b\f\n\r\t\u0041\ud83d\ude00"]"#,
                vec!["\"\\/\x08\x0c\n\r\tA😀"],
            ),
            (
                r#"["x\ud83d\n\u0041y\ude00"]"#,
                vec!["x\u{fffd}\nAy\u{fffd}"],
            ),
        ] {
            let strings = strings.into_iter().map(str::to_owned).collect();
            assert_eq!(form(text), Form::Strings(strings), "{text}");
        }
        for text in ["[1]", "[\"a\", null]", "[[\"a\"]]", "[{}]", "[true]"] {
            assert_eq!(form(text), Form::OtherArray, "{text}");
        }
        for text in [
            "['a']",
            "[\"a\"",
            "[\"a\",]",
            "[\"a\"] x",
            "[\"a\tb\"]",
            "[a]",
            "{}",
            "\"a\"",
            "",
            "[\"\\x\"]",
        ] {
            assert_eq!(form(text), Form::NotJson, "{text}");
        }
    }

    #[test]
    fn deep_arrays_are_read_without_recursion() {
        let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(form(&deep), Form::OtherArray);
        assert_eq!(form(&"[".repeat(100_000)), Form::NotJson);
    }
}
