//! `<<NAME` in an instruction's line: which documents follow it.

use super::instruction::Heredoc;
use super::limits;
use super::word::{Nothing, WordError, Words};

/// The documents that a line announces, without their content, in order. They are words of their own, as the shell
/// reads words: not within quotes. The escape character is a backslash whatever the directive says, as in `BuildKit`.
pub(super) fn announced(line: &str) -> Result<Vec<Heredoc>, WordError> {
    let words = Words {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Words::new('\\')
    };
    // A line that is no sequence of words is the shell's to refuse.
    let words = words.split(line, &Nothing).unwrap_or_default();
    let mut found = Vec::new();
    for word in words {
        found.extend(read(&word)?);
        if found.len() > limits::HEREDOCS {
            return Err(WordError::new(format!(
                "refuse more than {} heredocs",
                limits::HEREDOCS
            )));
        }
    }
    Ok(found)
}

/// The document that one word announces: `[DIGITS]<<[-]NAME`, the name perhaps quoted.
pub(super) fn read(word: &str) -> Result<Option<Heredoc>, WordError> {
    let (digits, rest) = word.split_at(
        word.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(word.len()),
    );
    let Some(rest) = rest.strip_prefix("<<") else {
        return Ok(None);
    };
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let words = Words {
        keep_unset: true,
        ..Words::new('\\')
    };
    let plain = words.split(rest, &Nothing)?;
    let raw = Words {
        raw_quotes: true,
        ..words
    }
    .split(rest, &Nothing)?;
    let ([name], [raw]) = (&plain[..], &raw[..]) else {
        return Ok(None);
    };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        name: name.clone(),
        raw: String::new(),
        // With a quote that means something, nothing in the document does.
        expand: quotes(name) == quotes(raw),
        chomp,
        descriptor: digits
            .parse()
            .unwrap_or(if digits.is_empty() { 0 } else { u64::MAX }),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let name = |word: &str| {
            read(word).map(|found| found.map(|found| (found.name, found.expand, found.chomp)))
        };
        for (word, expected) in [
            ("<<A", Some(("A", true, false))),
            ("<<-A", Some(("A", true, true))),
            ("<< A", Some(("A", true, false))),
            ("<<- A", Some(("A", true, true))),
            ("<< -A", Some(("-A", true, false))),
            ("<<'A'", Some(("A", false, false))),
            ("<<\"A\"", Some(("A", false, false))),
            ("<<A'B'", Some(("AB", false, false))),
            ("<<A\\'B", Some(("A'B", true, false))),
            ("<<'a b'", Some(("a b", false, false))),
            ("<<$A", Some(("$A", true, false))),
            ("7<<A", Some(("A", true, false))),
            ("<<A b", None),
            ("<<<A", None),
            ("<A", None),
            ("<<", None),
            ("<<-", None),
            ("A", None),
            ("", None),
            ("x<<A", None),
        ] {
            let expected = expected.map(|(name, expand, chomp)| (name.to_owned(), expand, chomp));
            assert_eq!(name(word).unwrap(), expected, "{word}");
        }
        for word in ["<<'A", "<<A\""] {
            assert!(name(word).is_err(), "{word}");
        }
        assert_eq!(read("3<<A").unwrap().unwrap().descriptor, 3);
        assert_eq!(
            read("99999999999999999999<<A").unwrap().unwrap().descriptor,
            u64::MAX
        );
    }

    #[test]
    fn lines() {
        let names = |line: &str| -> Vec<String> {
            announced(line)
                .unwrap()
                .into_iter()
                .map(|found| found.name)
                .collect()
        };
        assert_eq!(names("RUN cat <<A <<-B 4<< C > x"), ["A", "B", "C"]);
        assert_eq!(names("RUN '<<A' \"<<B\" \\<<C"), [""; 0]);
        assert_eq!(names("RUN cat <<A 'open"), [""; 0]);
        assert!(announced("RUN cat <<A\\\\\\\\'x").is_ok());
        assert!(announced(&"<<A ".repeat(limits::HEREDOCS + 1)).is_err());
    }
}
