//! A statement taken apart: keyword, flags, arguments. Which of the ways of reading arguments an instruction has depends
//! on its keyword alone; what the arguments mean is for [`super::read`].
//!
//! Owns the dump of the syntax tree that `BuildKit`'s parser makes, so that both can be compared.

use std::fmt::Write;
use std::ops::Range;

use super::fault::Fault;
use super::flag::Flag;
use super::json::{self, Form};
use super::limits;
use super::quote::quoted;

/// The parts of a statement.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// As it was written.
    pub(super) keyword: String,
    pub(super) flags: Vec<Flag>,
    pub(super) arguments: Vec<String>,
    /// The arguments were JSON.
    pub(super) is_json: bool,
    /// What `ONBUILD` is about; its keyword and arguments are the arguments of the node.
    pub(super) trigger: Option<Box<Node>>,
    /// Where the keyword stands.
    pub(super) keyword_range: Range<usize>,
    /// Where the arguments stand.
    pub(super) arguments_range: Range<usize>,
}

/// White space that separates words; not that of other scripts.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Where `part`, a slice of `whole`, begins in it.
fn offset(whole: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize)
}

impl Node {
    /// Takes a line apart.
    pub(super) fn read(line: &str, escape: char) -> Result<Self, Fault> {
        Self::read_nested(line, escape, 0)
    }

    fn read_nested(line: &str, escape: char, depth: usize) -> Result<Self, Fault> {
        let trimmed = line.trim();
        let end = trimmed.find(is_blank).unwrap_or(trimmed.len());
        let keyword = trimmed[..end].to_owned();
        let start = offset(line, trimmed);
        let (flags, rest) = flags(trimmed[end..].trim_start_matches(is_blank), escape);
        let rest = rest.trim();
        let mut node = Self {
            keyword,
            keyword_range: start..start + end,
            ..Self::default()
        };
        let at = if rest.is_empty() {
            line.trim_end().len()
        } else {
            offset(line, rest)
        };
        node.arguments_range = at..at + rest.len();
        let shift = end
            + (trimmed[end..].len() - trimmed[end..].trim_start_matches(is_blank).len())
            + start;
        node.flags = flags;
        for flag in &mut node.flags {
            flag.range = flag.range.start + shift..flag.range.end + shift;
        }
        let whole = node.arguments_range.clone();
        node.read_arguments(rest, escape, depth)
            .map_err(|fault| fault.at(&whole))?;
        Ok(node)
    }

    fn read_arguments(&mut self, rest: &str, escape: char, depth: usize) -> Result<(), Fault> {
        let keyword = self.keyword.to_ascii_lowercase();
        match keyword.as_str() {
            "add" | "copy" | "volume" => {
                if !self.json(rest)? {
                    self.arguments = blank_separated(rest);
                }
            }
            "expose" | "from" => self.arguments = blank_separated(rest),
            "cmd" | "entrypoint" | "run" | "shell" => {
                if !self.json(rest)? {
                    self.arguments = all(rest);
                }
            }
            "maintainer" | "stopsignal" | "user" | "workdir" => self.arguments = all(rest),
            "arg" => self.arguments = words(rest, escape),
            "env" | "label" => self.arguments = pairs(rest, &keyword.to_uppercase(), escape)?,
            "healthcheck" => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let command = rest[end..].trim_start();
                if !self.json(command)? {
                    self.arguments = all(command);
                }
                if end > 0 {
                    self.arguments.insert(0, rest[..end].to_owned());
                }
            }
            "onbuild" if depth >= limits::TRIGGER_DEPTH => {
                // `ONBUILD ONBUILD` is refused by the first; how many there are does not matter.
                self.arguments = all(rest);
            }
            "onbuild" if !rest.is_empty() => {
                let trigger = Self::read_nested(rest, escape, depth + 1)?;
                self.arguments.push(trigger.keyword.clone());
                self.arguments.extend(trigger.arguments.iter().cloned());
                self.trigger = Some(Box::new(trigger));
            }
            "onbuild" => {}
            // Refused later, with a suggestion.
            _ => self.arguments.push(String::new()),
        }
        Ok(())
    }

    /// Takes the arguments if they are JSON.
    fn json(&mut self, rest: &str) -> Result<bool, Fault> {
        match json::form(rest) {
            Form::Strings(strings) => {
                self.arguments = strings;
                self.is_json = true;
                Ok(true)
            }
            Form::OtherArray => Err(Fault::new(
                "when using JSON array syntax, arrays must be comprised of strings only",
            )),
            Form::NotJson => Ok(false),
        }
    }

    /// Whether documents may follow it.
    pub(super) fn may_have_heredocs(&self) -> bool {
        let node = match &self.trigger {
            Some(trigger) if self.keyword.eq_ignore_ascii_case("onbuild") => trigger,
            _ => self,
        };
        !node.is_json && takes_heredocs(&node.keyword)
    }

    /// As `BuildKit` dumps it.
    pub(super) fn dump(&self, out: &mut String) {
        out.push_str(&self.keyword.to_lowercase());
        if !self.flags.is_empty() {
            let flags: Vec<String> = self.flags.iter().map(|flag| quoted(&flag.text)).collect();
            _ = write!(out, " [{}]", flags.join(" "));
        }
        if let Some(trigger) = &self.trigger {
            out.push_str(" (");
            trigger.dump(out);
            out.push(')');
            return;
        }
        for argument in &self.arguments {
            // Without a keyword nothing is before it.
            if !self.keyword.is_empty() {
                out.push(' ');
            }
            out.push_str(&quoted(argument));
        }
    }
}

/// Whether an instruction of this keyword may be followed by documents.
pub(super) fn takes_heredocs(keyword: &str) -> bool {
    ["add", "copy", "run"]
        .iter()
        .any(|known| keyword.eq_ignore_ascii_case(known))
}

/// All of it as one argument, if there is something.
fn all(rest: &str) -> Vec<String> {
    if rest.is_empty() {
        Vec::new()
    } else {
        vec![rest.to_owned()]
    }
}

fn blank_separated(rest: &str) -> Vec<String> {
    rest.split(is_blank)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Splits at white space outside quotes. Quotes and escape characters stay.
fn words(rest: &str, escape: char) -> Vec<String> {
    let mut found = Vec::new();
    let (mut word, mut begun, mut quote) = (String::new(), false, None);
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if begun {
                found.push(std::mem::take(&mut word));
            }
            begun = false;
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        // In single quotes it is a character like any other; at the end it is nothing.
        if c == escape && quote != Some('\'') {
            let Some(escaped) = chars.next() else { break };
            word.push(c);
            word.push(escaped);
        } else {
            word.push(c);
        }
        begun = true;
    }
    if begun {
        found.push(word);
    }
    found
}

/// `name=value ...`, or one pair in the old form `name value`. Three arguments for each: name, value, and what is between.
fn pairs(rest: &str, keyword: &str, escape: char) -> Result<Vec<String>, Fault> {
    let words = words(rest, escape);
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    if !first.contains('=') {
        let two = |rest: &str| -> Option<(String, String)> {
            let (name, value) = rest.split_once(is_blank)?;
            Some((
                name.to_owned(),
                value.trim_start_matches(is_blank).to_owned(),
            ))
        };
        let (name, value) =
            two(rest).ok_or_else(|| Fault::new(format!("{keyword} must have two arguments")))?;
        return Ok(vec![name, value, String::new()]);
    }
    let mut found = Vec::with_capacity(words.len() * 3);
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            let message = format!(
                "Syntax error - can't find = in {}. Must be of the form: name=value",
                quoted(&word)
            );
            return Err(Fault::new(message));
        };
        found.extend([name.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(found)
}

/// The flags at the beginning of `line`, without their quotes and escapes, and what follows them. `--` ends them.
fn flags(line: &str, escape: char) -> (Vec<Flag>, &str) {
    let mut found = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            return (found, rest);
        }
        let start = offset(line, rest);
        let (text, after) = flag(rest, escape);
        let end = offset(line, after);
        rest = after;
        if text == "--" {
            return (found, rest);
        }
        found.push(Flag {
            text,
            range: start..end,
        });
    }
}

fn flag(text: &str, escape: char) -> (String, &str) {
    let (mut word, mut quote) = (String::new(), None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, &text[at..]),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            // At the end it is nothing.
            _ if c == escape => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(c),
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(line: &str) -> String {
        let mut out = String::new();
        Node::read(line, '\\')
            .unwrap_or_else(|fault| panic!("{line}: {fault:?}"))
            .dump(&mut out);
        out
    }

    #[test]
    fn arguments() {
        for (line, dumped) in [
            ("FROM  a   as b", r#"from "a" "as" "b""#),
            ("Copy a\tb  c", r#"copy "a" "b" "c""#),
            (r#"COPY ["a b", "c"]"#, r#"copy "a b" "c""#),
            (r#"COPY ["a b", 'c']"#, r#"copy "[\"a" "b\"," "'c']""#),
            ("RUN  a  b ", r#"run "a  b""#),
            (r#"RUN ["a", "b"] "#, r#"run "a" "b""#),
            (r#"RUN ["a", "b"] x"#, r#"run "[\"a\", \"b\"] x""#),
            ("ENV a b  c", r#"env "a" "b  c" """#),
            ("ENV a  b", r#"env "a" "b" """#),
            (
                r#"ENV a=b c="d e" f=g\ h i='j\'"#,
                r#"env "a" "b" "=" "c" "\"d e\"" "=" "f" "g\\ h" "=" "i" "'j\\'" "=""#,
            ),
            ("LABEL a= b==c", r#"label "a" "" "=" "b" "=c" "=""#),
            ("ARG a b=c d=\"e f\"", r#"arg "a" "b=c" "d=\"e f\"""#),
            (
                "HEALTHCHECK --retries=3 CMD  a b",
                r#"healthcheck ["--retries=3"] "CMD" "a b""#,
            ),
            (
                r#"HEALTHCHECK CMD ["a", "b"]"#,
                r#"healthcheck "CMD" "a" "b""#,
            ),
            ("HEALTHCHECK NONE", r#"healthcheck "NONE""#),
            (
                "ONBUILD RUN --network=none a b",
                r#"onbuild (run ["--network=none"] "a b")"#,
            ),
            ("ONBUILD", "onbuild"),
            ("CMD", "cmd"),
            ("CMD []", "cmd"),
            ("NONSENSE a b", r#"nonsense """#),
            ("WORKDIR /a b\\ c", r#"workdir "/a b\\ c""#),
            ("VOLUME [\"/a\"]", r#"volume "/a""#),
        ] {
            assert_eq!(dump(line), dumped, "{line}");
        }
    }

    #[test]
    fn flags_stand_before_arguments() {
        for (line, dumped) in [
            ("COPY --a --b=c  d --e", r#"copy ["--a" "--b=c"] "d" "--e""#),
            (
                "RUN --a='b c' --d=\"e\\\"f\" g",
                r#"run ["--a=b c" "--d=e\"f"] "g""#,
            ),
            ("RUN --a -- --b c", r#"run ["--a"] "--b c""#),
            ("RUN --", "run"),
            ("RUN --a=b\\ c", r#"run ["--a=b c"]"#),
            ("RUN -a b", r#"run "-a b""#),
            ("COPY --from=ä b c", r#"copy ["--from=ä"] "b" "c""#),
        ] {
            assert_eq!(dump(line), dumped, "{line}");
        }
        let line = "  COPY  --chown=a --chmod='1 2'  b c";
        let node = Node::read(line, '\\').unwrap();
        assert_eq!(&line[node.keyword_range.clone()], "COPY");
        assert_eq!(&line[node.flags[0].range.clone()], "--chown=a");
        assert_eq!(&line[node.flags[1].range.clone()], "--chmod='1 2'");
        assert_eq!(&line[node.arguments_range.clone()], "b c");
    }

    #[test]
    fn what_is_refused() {
        for (line, message) in [
            ("ENV a", "ENV must have two arguments"),
            (
                "LABEL a=b c",
                "Syntax error - can't find = in \"c\". Must be of the form: name=value",
            ),
            (
                "RUN [\"a\", 1]",
                "when using JSON array syntax, arrays must be comprised of strings only",
            ),
        ] {
            assert_eq!(
                Node::read(line, '\\').unwrap_err().message,
                message,
                "{line}"
            );
        }
    }
}
