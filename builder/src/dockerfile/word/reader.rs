//! The reader behind [`super::Words`]: one pass over the characters, recursive only into substitutions.

use std::collections::BTreeSet;
use std::str::Chars;

use super::super::limits;
use super::pattern::Pattern;
use super::{Expanded, Lookup, Words};

/// Why a word cannot be read.
type Reason = String;

/// A word that is being read.
pub(super) struct Reader<'a> {
    words: &'a Words,
    rest: Chars<'a>,
    env: &'a dyn Lookup,
    limit: usize,
    /// How many bytes the results of all substitutions so far have.
    grown: usize,
    depth: usize,
    raw_escapes: bool,
    matched: BTreeSet<String>,
    pub(super) unmatched: BTreeSet<String>,
}

/// A value, and the words that it falls into if somebody wants to know.
#[derive(Default)]
struct Output {
    value: String,
    splits: bool,
    words: Vec<String>,
    current: String,
}

impl Output {
    /// What was quoted or escaped: white space in it separates nothing.
    fn solid(&mut self, text: &str) {
        self.value.push_str(text);
        if self.splits {
            self.current.push_str(text);
        }
    }

    fn solid_char(&mut self, c: char) {
        self.solid(c.encode_utf8(&mut [0; 4]));
    }

    fn loose(&mut self, text: &str) {
        self.value.push_str(text);
        if !self.splits {
            return;
        }
        for c in text.chars() {
            if !c.is_whitespace() {
                self.current.push(c);
            } else if !self.current.is_empty() {
                self.words.push(std::mem::take(&mut self.current));
            }
        }
    }

    fn finish(mut self) -> (String, Vec<String>) {
        if !self.current.is_empty() {
            self.words.push(self.current);
        }
        (self.value, self.words)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(words: &'a Words, word: &'a str, env: &'a dyn Lookup, limit: usize) -> Self {
        Self {
            words,
            rest: word.chars(),
            env,
            limit,
            grown: 0,
            depth: 0,
            raw_escapes: words.raw_escapes,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        }
    }

    /// All of it.
    pub(super) fn whole(&mut self, splits: bool) -> Result<(Expanded, Vec<String>), Reason> {
        let (value, words) = self.until(None, self.raw_escapes, splits)?.finish();
        let matched = std::mem::take(&mut self.matched);
        let unmatched = std::mem::take(&mut self.unmatched);
        Ok((
            Expanded {
                value,
                matched,
                unmatched,
            },
            words,
        ))
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn next(&mut self) -> Option<char> {
        self.rest.next()
    }

    fn skip_if(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.next();
        }
        there
    }

    /// Counts what a substitution gave.
    fn grow(&mut self, value: &str) -> Result<(), Reason> {
        self.grown += value.len();
        if self.grown > self.limit {
            return Err(format!("its value has more than {} bytes", self.limit));
        }
        Ok(())
    }

    /// Up to `stop`, which is taken, or to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        splits: bool,
    ) -> Result<Output, Reason> {
        if self.depth >= limits::WORD_DEPTH {
            return Err(format!(
                "substitutions are nested more than {} deep",
                limits::WORD_DEPTH
            ));
        }
        self.depth += 1;
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until_inner(stop, splits);
        self.raw_escapes = before;
        self.depth -= 1;
        result
    }

    fn until_inner(&mut self, stop: Option<char>, splits: bool) -> Result<Output, Reason> {
        let mut out = Output {
            splits,
            ..Output::default()
        };
        let escape = self.words.escape;
        let means_something = ['$', '<', '\'', '"', escape, stop.unwrap_or('$')];
        loop {
            let text = self.rest.as_str();
            let (plain, rest) = text.split_at(text.find(means_something).unwrap_or(text.len()));
            out.loose(plain);
            self.rest = rest.chars();
            let Some(c) = self.next() else { break };
            match c {
                c if stop == Some(c) => return Ok(out),
                '$' => {
                    let value = self.dollar()?;
                    self.grow(&value)?;
                    out.loose(&value);
                }
                '<' => self.angle(&mut out),
                '\'' if !self.words.no_quotes => self.single_quoted(&mut out)?,
                '"' if !self.words.no_quotes => self.double_quoted(&mut out)?,
                c if c == self.words.escape => {
                    if self.raw_escapes {
                        out.solid_char(c);
                    }
                    // At the end it escapes nothing.
                    match self.next() {
                        Some(escaped) => out.solid_char(escaped),
                        None => break,
                    }
                }
                c => out.loose(c.encode_utf8(&mut [0; 4])),
            }
        }
        match stop {
            Some(stop) => Err(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
            None => Ok(out),
        }
    }

    /// `<<` may begin a heredoc, whose name may stand behind spaces: `<< NAME` is one word.
    fn angle(&mut self, out: &mut Output) {
        out.solid_char('<');
        if self.skip_if('<') {
            out.solid_char('<');
            while let Some(c @ ('\t' | '\r' | ' ')) = self.peek() {
                self.next();
                out.solid_char(c);
            }
        }
    }

    fn single_quoted(&mut self, out: &mut Output) -> Result<(), Reason> {
        let raw = self.words.raw_quotes;
        if raw {
            out.solid_char('\'');
        }
        loop {
            match self.next() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote"
                            .into(),
                    );
                }
                Some('\'') => break,
                Some(c) => out.solid_char(c),
            }
        }
        if raw {
            out.solid_char('\'');
        }
        Ok(())
    }

    fn double_quoted(&mut self, out: &mut Output) -> Result<(), Reason> {
        let raw = self.words.raw_quotes;
        if raw {
            out.solid_char('"');
        }
        loop {
            let Some(c) = self.next() else {
                return Err(
                    "unexpected end of statement while looking for matching double-quote".into(),
                );
            };
            match c {
                '"' => break,
                '$' => {
                    let value = self.dollar()?;
                    self.grow(&value)?;
                    out.solid(&value);
                }
                c if c == self.words.escape => {
                    if self.raw_escapes {
                        out.solid_char(c);
                    }
                    match self.peek() {
                        None => {}
                        // Only these can be escaped; before others the escape character is one like any other.
                        Some(next) if next == '"' || next == '$' || next == self.words.escape => {
                            self.next();
                            out.solid_char(next);
                        }
                        Some(_) => out.solid_char(c),
                    }
                }
                c => out.solid_char(c),
            }
        }
        if raw {
            out.solid_char('"');
        }
        Ok(())
    }

    /// Behind a `$`.
    fn dollar(&mut self) -> Result<String, Reason> {
        if !self.skip_if('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.look_up(&name) {
                None if self.words.keep_unset => format!("${name}"),
                value => value.unwrap_or_default().to_owned(),
            });
        }
        match self.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            None => Err("syntax error: missing '}'".into()),
            Some('}') => Ok(match self.look_up(&name) {
                None if self.words.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default().to_owned(),
            }),
            Some(':') => {
                let modifier = self.next();
                self.modified(&name, modifier, true)
            }
            Some('/') => self.replaced(&name),
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => {
                self.modified(&name, Some(modifier), false)
            }
            Some(other) => Err(format!("unsupported modifier ({other}) in substitution")),
        }
    }

    /// `${name-word}` and its kind; with `colon`, an empty value counts as none.
    fn modified(
        &mut self,
        name: &str,
        modifier: Option<char>,
        colon: bool,
    ) -> Result<String, Reason> {
        let shown = format!(
            "{}{}",
            if colon { ":" } else { "" },
            modifier.map(String::from).unwrap_or_default()
        );
        let unsupported = || format!("unsupported modifier ({shown}) in substitution");
        let is_pattern = matches!(modifier, Some('#' | '%'));
        if colon && is_pattern {
            return Err(unsupported());
        }
        let word = self.inner('}', is_pattern, "syntax error: missing '}'")?;
        let value = self.look_up(name);
        if self.words.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{shown}{word}}}"));
        }
        let counts = value.filter(|value| !(colon && value.is_empty()));
        match modifier {
            Some('-') => Ok(counts.map_or(word, str::to_owned)),
            Some('+') => Ok(counts.map(|_| word).unwrap_or_default()),
            Some('?') => match (counts, value) {
                (Some(value), _) => Ok(value.to_owned()),
                _ if !word.is_empty() => Err(format!("{name}: {word}")),
                (None, None) => Err(format!("{name}: is not allowed to be unset")),
                (None, Some(_)) => Err(format!("{name}: is not allowed to be empty")),
            },
            Some(end @ ('#' | '%')) => {
                let (longest, word) = match word.strip_prefix(end) {
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                let pattern = Pattern::parse(word)?;
                let value = value.unwrap_or_default();
                let kept = if end == '#' {
                    pattern.trim_start(value, longest)
                } else {
                    pattern.trim_end(value, longest)
                };
                Ok(kept?.to_owned())
            }
            _ => Err(unsupported()),
        }
    }

    /// `${name/pattern/replacement}`, `${name//pattern/replacement}`.
    fn replaced(&mut self, name: &str) -> Result<String, Reason> {
        let all = self.skip_if('/');
        let pattern = self.inner('/', true, "syntax error: missing '/' in ${}")?;
        let replacement = self.inner('}', true, "syntax error: missing '}'")?;
        let value = self.look_up(name);
        if self.words.keep_unset && value.is_none() {
            let slash = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slash}{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        Pattern::parse(&pattern)?.replace(value, &replacement, all, self.limit)
    }

    /// The word within a substitution, up to `stop`. What goes wrong at the end of the text is that `stop` is missing.
    fn inner(&mut self, stop: char, raw_escapes: bool, missing: &str) -> Result<String, Reason> {
        match self.until(Some(stop), raw_escapes, false) {
            Ok(out) => Ok(out.value),
            Err(_) if self.peek().is_none() => Err(missing.into()),
            Err(reason) => Err(reason),
        }
    }

    /// A name: letters, digits and underscores; or digits; or one special parameter of the shell.
    fn name(&mut self) -> String {
        let text = self.rest.as_str();
        let Some(first) = text.chars().next() else {
            return String::new();
        };
        let length = |allowed: fn(char) -> bool| text.find(|c| !allowed(c)).unwrap_or(text.len());
        let end = if first.is_numeric() {
            length(char::is_numeric)
        } else if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            1
        } else {
            length(|c| c.is_alphanumeric() || c == '_')
        };
        self.rest = text[end..].chars();
        text[..end].to_owned()
    }

    fn look_up(&mut self, name: &str) -> Option<&'a str> {
        let value = self.env.get(name);
        let seen = if value.is_some() {
            &mut self.matched
        } else {
            &mut self.unmatched
        };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        value
    }
}
