//! Splits an argument vector into flags and positional arguments, the way engines write it.
//!
//! Owns the grammar only: one or two dashes before any name, `--name value`, `--name=value`,
//! `--name=true|false` for switches, flags after positional arguments, and verbs that hand
//! everything behind their first argument down untouched. Which flags exist is told by a table;
//! what their values mean is the business of the verb's own parser.

/// One flag that a table knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag<'a> {
    /// Name without dashes.
    pub(crate) long: &'a str,
    /// One-letter name.
    pub(crate) short: Option<char>,
    /// Whether a value follows; otherwise it is a switch.
    pub(crate) takes_value: bool,
}

/// What was found, in the order given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// Flags by index into the table, with their value (`true` or `false` for a switch).
    pub(crate) flags: Vec<(usize, String)>,
    /// Everything else.
    pub(crate) positional: Vec<String>,
}

/// Splits `arguments` by `table`; after `stop_after` positional arguments all that follows is
/// positional. With 0 flags are taken up to the first argument that is none.
pub(crate) fn split(
    arguments: &[String],
    table: &[Flag<'_>],
    stop_after: Option<usize>,
) -> Result<Split, String> {
    let mut found = Split::default();
    let mut rest = arguments;
    while let [first, tail @ ..] = rest {
        if first == "--" {
            found.positional.extend_from_slice(tail);
            break;
        }
        let name = flag_text(first);
        let stops = match stop_after {
            Some(0) => name.is_none(),
            Some(count) => found.positional.len() == count,
            None => false,
        };
        if stops || is_negative_number(first) {
            found.positional.extend_from_slice(rest);
            break;
        }
        rest = tail;
        let Some(name) = name else {
            found.positional.push(first.clone());
            continue;
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let Some(index) = find(table, name) else {
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = if table[index].takes_value {
            match (value, tail) {
                (Some(value), _) => value.to_owned(),
                (None, [next, after @ ..]) => {
                    rest = after;
                    next.clone()
                }
                (None, []) => return Err(format!("flag needs an argument: {first}")),
            }
        } else {
            switch(value.unwrap_or_default())
                .ok_or_else(|| {
                    let value = value.unwrap_or_default();
                    format!("invalid value {value:?} for flag -{name}: parse error")
                })?
                .to_string()
        };
        found.flags.push((index, value));
    }
    Ok(found)
}

/// The name (and value) behind one or two dashes; `None` for a positional argument.
fn flag_text(argument: &str) -> Option<&str> {
    let text = argument.strip_prefix('-')?;
    let text = text.strip_prefix('-').unwrap_or(text);
    (!text.is_empty()).then_some(text)
}

/// A single dash before something that is no letter: `-1`, `-9`.
fn is_negative_number(argument: &str) -> bool {
    argument
        .strip_prefix('-')
        .and_then(|text| text.chars().next())
        .is_some_and(|c| c != '-' && !c.is_alphabetic())
}

fn find(table: &[Flag<'_>], name: &str) -> Option<usize> {
    let mut letters = name.chars();
    let letter = letters.next().filter(|_| letters.next().is_none());
    table
        .iter()
        .position(|flag| flag.long == name || (letter.is_some() && flag.short == letter))
}

/// The spellings of a truth value that Go's `strconv.ParseBool` takes; empty is true.
pub(crate) fn switch(value: &str) -> Option<bool> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag<'static>] = &[
        Flag {
            long: "bundle",
            short: Some('b'),
            takes_value: true,
        },
        Flag {
            long: "detach",
            short: Some('d'),
            takes_value: false,
        },
        Flag {
            long: "cap",
            short: Some('c'),
            takes_value: true,
        },
    ];

    fn run(line: &str, stop: Option<usize>) -> Result<(String, String), String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        split(&words, TABLE, stop).map(|found| {
            let flags: Vec<String> = found
                .flags
                .iter()
                .map(|(i, v)| format!("{}={v}", TABLE[*i].long))
                .collect();
            (flags.join(" "), found.positional.join(" "))
        })
    }

    #[test]
    fn every_spelling_is_understood() {
        for (line, flags, positional) in [
            ("id --bundle /b", "bundle=/b", "id"),
            ("-b /b id", "bundle=/b", "id"),
            ("-bundle /b -detach id", "bundle=/b detach=true", "id"),
            ("--b=/b=c id", "bundle=/b=c", "id"),
            ("--bundle= id", "bundle=", "id"),
            ("--detach=false id", "detach=false", "id"),
            ("-d=T id", "detach=true", "id"),
            ("--cap A --cap B id", "cap=A cap=B", "id"),
            ("--bundle -1 id", "bundle=-1", "id"),
            ("--bundle - id", "bundle=-", "id"),
            ("id -- --detach", "", "id --detach"),
            ("id -9", "", "id -9"),
            ("- id", "", "- id"),
        ] {
            assert_eq!(
                run(line, None),
                Ok((flags.into(), positional.into())),
                "{line}"
            );
        }
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        let ran = run("-d id sh -c true --bundle x -d", Some(1));
        assert_eq!(
            ran,
            Ok(("detach=true".into(), "id sh -c true --bundle x -d".into()))
        );
        assert_eq!(
            run("id -- sh -c x", Some(1)),
            Ok((String::new(), "id sh -c x".into()))
        );
    }

    #[test]
    fn flags_before_the_verb_are_taken() {
        let ran = run("--bundle /b -d verb -d", Some(0));
        assert_eq!(ran, Ok(("bundle=/b detach=true".into(), "verb -d".into())));
        assert!(run("--foo verb", Some(0)).is_err());
    }

    #[test]
    fn mistakes_are_named() {
        for (line, message) in [
            ("--foo id", "flag provided but not defined: -foo"),
            ("-foo=1 id", "flag provided but not defined: -foo"),
            ("id --bundle", "flag needs an argument: --bundle"),
            (
                "--detach=maybe id",
                "invalid value \"maybe\" for flag -detach: parse error",
            ),
        ] {
            assert_eq!(run(line, None), Err(message.into()), "{line}");
        }
    }
}
