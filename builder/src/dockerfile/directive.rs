//! Parser directives: `# name=value` on the first lines, before anything else, other comments and empty lines included.

/// The directives that there are; a comment with another name ends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Syntax,
    Escape,
    Check,
}

/// Reads them, each once.
#[derive(Debug, Default)]
pub(super) struct Seen(Vec<Name>);

impl Seen {
    /// The directive of a line. `None`: it is none, and none can follow.
    pub(super) fn read<'l>(&mut self, line: &'l str) -> Result<Option<(Name, &'l str)>, String> {
        let Some((name, value)) = line.trim_start().strip_prefix('#').and_then(assignment) else {
            return Ok(None);
        };
        let lower = name.to_ascii_lowercase();
        let name = match lower.as_str() {
            "syntax" => Name::Syntax,
            "escape" => Name::Escape,
            "check" => Name::Check,
            _ => return Ok(None),
        };
        if self.0.contains(&name) {
            return Err(format!("only one {lower} parser directive can be used"));
        }
        self.0.push(name);
        Ok(Some((name, value)))
    }
}

/// The value of `check=` in the text of a comment, of an instruction's too.
pub(super) fn check(comment: &str) -> Option<&str> {
    let (name, value) = assignment(comment)?;
    name.eq_ignore_ascii_case("check").then_some(value)
}

/// `name = value`, neither empty.
fn assignment(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.trim_start().split_once('=')?;
    let (name, value) = (
        name.trim_end_matches(is_space),
        value.trim_matches(is_space),
    );
    let first = name.chars().next()?;
    let named = first.is_ascii_alphabetic() && name.chars().all(|c| c.is_ascii_alphanumeric());
    (named && !value.is_empty()).then_some((name, value))
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let read = |line| Seen::default().read(line).unwrap();
        for (line, found) in [
            ("#syntax=a/b:c", Some((Name::Syntax, "a/b:c"))),
            ("#  SynTax \t=  a b  ", Some((Name::Syntax, "a b"))),
            ("# escape = `", Some((Name::Escape, "`"))),
            ("\t# check=skip=all", Some((Name::Check, "skip=all"))),
            ("# check=", None),
            ("# syntax", None),
            ("# syn tax=a", None),
            ("# other=a", None),
            ("## syntax=a", None),
            ("syntax=a", None),
            ("", None),
        ] {
            assert_eq!(read(line), found, "{line:?}");
        }
    }

    #[test]
    fn each_once() {
        let mut seen = Seen::default();
        seen.read("# escape=`").unwrap();
        seen.read("# syntax=a").unwrap();
        assert_eq!(
            seen.read("# ESCAPE=`").unwrap_err(),
            "only one escape parser directive can be used"
        );
    }
}
