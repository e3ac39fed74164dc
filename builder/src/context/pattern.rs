//! Patterns of ignore files, `--exclude` and `--parents`, as moby/patternmatcher matches them.
//!
//! A pattern is a path with `*`, `?`, `[...]` and `**`; `!` at its front takes back what earlier ones
//! matched. What a pattern matches, it matches with all that is below. Every pattern is compiled to
//! a small automaton that runs in time proportional to path and pattern; BuildKit's own
//! translation to regular expressions is followed as far as it shows, also where it differs from
//! Go's `filepath.Match`: `**` takes any number of directories, a negated class takes `/`, and `^`
//! outside of a class matches nothing.
//!
//! Which file of a walk is matched depends on what its directories matched ([`Matched`]), so that
//! the answer is the same as BuildKit's walk gives.

use crate::path::clean;
use crate::{Error, Result};

/// Longest pattern.
const PATTERN_BYTES: usize = 4096;
/// Patterns of one list.
const PATTERNS: usize = 100_000;

/// A list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
    exceptions: bool,
}

/// Which patterns of a list matched a directory or one of those above it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched(Vec<bool>);

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    exception: bool,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Only this path.
    Exact,
    /// All paths that begin so: a trailing `**`.
    Prefix(String),
    /// All paths that end so: a leading `**`.
    Suffix(String),
    /// The rest.
    Automaton(Vec<Step>),
    /// What passes the check of syntax, but can never be compiled.
    Malformed,
}

/// One step of an automaton. It consumes one character, unless it repeats.
#[derive(Debug, Clone)]
enum Step {
    One(Set),
    /// Any number of characters of the set.
    Many(Set),
    /// Nothing, or anything that ends with a slash.
    Directories,
}

#[derive(Debug, Clone)]
enum Set {
    Only(char),
    /// Any but `/`.
    Name,
    /// Any but a line feed.
    Any,
    Class(bool, Vec<(char, char)>),
}

impl Set {
    fn has(&self, character: char) -> bool {
        match self {
            Self::Only(only) => *only == character,
            Self::Name => character != '/',
            Self::Any => character != '\n',
            Self::Class(negated, ranges) => {
                let within = |(from, to): &(char, char)| (*from..=*to).contains(&character);
                ranges.iter().any(within) != *negated
            }
        }
    }
}

impl Patterns {
    /// Reads a list. Empty patterns do not count.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut all = Self::default();
        for pattern in patterns {
            all.add(pattern)?;
        }
        Ok(all)
    }

    /// Appends a pattern.
    pub fn add(&mut self, pattern: &str) -> Result<()> {
        let shown = pattern.trim_matches(is_space);
        let wrong = |why: &str| Error::invalid(format!("invalid pattern {shown:?}: {why}"));
        if shown.is_empty() {
            return Ok(());
        }
        if shown.len() > PATTERN_BYTES || self.list.len() >= PATTERNS {
            return Err(wrong("too long, or too many patterns"));
        }
        let mut text = clean(shown);
        let exception = text.starts_with('!');
        if exception {
            if text.len() == 1 {
                return Err(wrong("an exception needs a pattern after its `!`"));
            }
            text.remove(0);
        }
        super::wildcard::check(text.as_bytes()).map_err(|()| wrong("unbalanced `[` or `\\`"))?;
        let kind = compile(&text);
        self.exceptions |= exception;
        self.list.push(Pattern {
            text,
            exception,
            kind,
        });
        Ok(())
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether some pattern takes back what others matched.
    pub fn has_exceptions(&self) -> bool {
        self.exceptions
    }

    /// Whether a path matches, judged by itself and by all directories above it.
    pub fn matches(&self, path: &str) -> Result<bool> {
        let mut matched = false;
        for pattern in &self.list {
            if pattern.exception == matched && pattern.matches_or_parent(path)? {
                matched = !pattern.exception;
            }
        }
        Ok(matched)
    }

    /// The pattern that decides about a path, with its number: the last one that counts.
    pub fn deciding(&self, path: &str) -> Option<usize> {
        let (mut matched, mut deciding) = (false, None);
        for (number, pattern) in self.list.iter().enumerate() {
            if pattern.exception == matched && pattern.matches_or_parent(path).unwrap_or(false) {
                (matched, deciding) = (!pattern.exception, Some(number));
            }
        }
        deciding.filter(|_| matched)
    }

    /// The text of a pattern, cleaned.
    pub fn text(&self, number: usize) -> &str {
        &self.list[number].text
    }

    /// Whether a path of a walk matches, given what its directory matched; none for names at the
    /// top. Also what it hands down itself.
    pub fn step(&self, path: &str, parent: Option<&Matched>) -> Result<(bool, Matched)> {
        let mut matched = false;
        let mut handed = vec![false; self.list.len()];
        for (number, pattern) in self.list.iter().enumerate() {
            let mut hit = parent.is_some_and(|parent| parent.0[number]);
            if !hit {
                if pattern.exception != matched {
                    continue;
                }
                hit = match parent {
                    Some(_) => pattern.matches(path)?,
                    None => pattern.matches_or_parent(path)?,
                };
            }
            handed[number] = hit;
            if hit {
                matched = !pattern.exception;
            }
        }
        Ok((matched, Matched(handed)))
    }

    /// Whether something below a directory that matched could not match: an exception that is later
    /// than the pattern that decided and can match there.
    pub fn may_except_below(&self, directory: &str, matched: &Matched) -> bool {
        if !self.exceptions {
            return false;
        }
        let plain =
            |(number, pattern): &(usize, &Pattern)| !pattern.exception && matched.0[*number];
        let decided = self.list.iter().enumerate().rev().find(plain);
        let later = decided.map_or(0, |(number, _)| number + 1);
        let mut later = self.list[later..].iter();
        later.any(|pattern| pattern.exception && pattern.may_match_below(directory))
    }

    /// Whether something below a directory that does not match could match.
    pub fn may_match_below(&self, directory: &str) -> bool {
        let mut plain = self.list.iter().filter(|pattern| !pattern.exception);
        plain.any(|pattern| pattern.may_match_below(directory))
    }
}

impl Pattern {
    fn matches(&self, path: &str) -> Result<bool> {
        Ok(match &self.kind {
            Kind::Exact => path == self.text,
            Kind::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Kind::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path)
            }
            Kind::Automaton(steps) => run(steps, path).is_some_and(|alive| alive[steps.len()]),
            Kind::Malformed => {
                let text = &self.text;
                return Err(Error::invalid(format!(
                    "invalid pattern {text:?}: its `\\` or its `[` means nothing"
                )));
            }
        })
    }

    fn matches_or_parent(&self, path: &str) -> Result<bool> {
        if self.matches(path)? {
            return Ok(true);
        }
        let parent = clean(path.rsplit_once('/').map_or(".", |(parent, _)| parent));
        if parent == "." || !path.contains('/') {
            return Ok(false);
        }
        let mut ends = parent.match_indices('/').map(|(at, _)| at);
        Ok(
            ends.any(|end| self.matches(&parent[..end]).unwrap_or(false))
                || self.matches(&parent).unwrap_or(false),
        )
    }

    fn may_match_below(&self, directory: &str) -> bool {
        let below = format!("{directory}/");
        let meets = |text: &str| text.starts_with(&below) || below.starts_with(text);
        match &self.kind {
            Kind::Exact => self.text.starts_with(&below),
            Kind::Prefix(prefix) => meets(prefix),
            Kind::Suffix(_) | Kind::Malformed => true,
            // Alive after the directory and its slash, and not only because it is at its end.
            Kind::Automaton(steps) => {
                run(steps, &below).is_some_and(|alive| alive[..steps.len()].contains(&true))
            }
        }
    }
}

/// The steps that may come next after all of the text, the end included; none if it cannot be
/// matched any more.
fn run(steps: &[Step], text: &str) -> Option<Vec<bool>> {
    // Twice as many states as steps: whether a `Directories` has begun.
    let end = steps.len();
    let mut now = vec![false; end + 1];
    let mut inside = vec![false; end + 1];
    enter(steps, &mut now, 0);
    for character in text.chars() {
        let mut next = vec![false; end + 1];
        let mut next_inside = vec![false; end + 1];
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::One(set) if now[at] && set.has(character) => enter(steps, &mut next, at + 1),
                Step::Many(set) if now[at] && set.has(character) => enter(steps, &mut next, at),
                Step::Directories if now[at] || inside[at] => {
                    if character == '/' {
                        enter(steps, &mut next, at + 1);
                    }
                    next_inside[at] |= character != '\n';
                }
                _ => {}
            }
        }
        if !next.contains(&true) && !next_inside.contains(&true) {
            return None;
        }
        (now, inside) = (next, next_inside);
    }
    // Inside of directories means alive, but not yet past them.
    for at in 0..end {
        now[at] |= inside[at];
    }
    Some(now)
}

/// Marks a step, and those after it that may be skipped.
fn enter(steps: &[Step], states: &mut [bool], mut at: usize) {
    loop {
        states[at] = true;
        match steps.get(at) {
            Some(Step::Many(_) | Step::Directories) => at += 1,
            _ => return,
        }
    }
}

fn compile(text: &str) -> Kind {
    let mut characters = text.chars().peekable();
    let mut steps = Vec::new();
    // As BuildKit's translation: exact until something else is seen.
    let (mut exact, mut prefix, mut suffix) = (true, false, false);
    let mut first = true;
    while let Some(character) = characters.next() {
        let leading = std::mem::take(&mut first);
        match character {
            '*' if characters.next_if_eq(&'*').is_some() => {
                characters.next_if_eq(&'/');
                if characters.peek().is_none() {
                    if exact {
                        (exact, prefix) = (false, true);
                    } else {
                        (exact, suffix) = (false, false);
                        steps.push(Step::Many(Set::Any));
                    }
                } else {
                    exact = false;
                    suffix = false;
                    steps.push(Step::Directories);
                }
                if leading {
                    (exact, prefix, suffix) = (false, false, true);
                }
            }
            '*' => {
                (exact, suffix) = (false, false);
                steps.push(Step::Many(Set::Name));
            }
            '?' => {
                (exact, suffix) = (false, false);
                steps.push(Step::One(Set::Name));
            }
            '\\' => match characters.next() {
                Some(escaped) => {
                    (exact, suffix) = (false, false);
                    match escape(escaped) {
                        Some(set) => steps.push(Step::One(set)),
                        None => return Kind::Malformed,
                    }
                }
                None => return Kind::Malformed,
            },
            '[' => {
                (exact, suffix) = (false, false);
                match class(&mut characters) {
                    Some(step) => steps.push(step),
                    None => return Kind::Malformed,
                }
            }
            ']' => {
                (exact, suffix) = (false, false);
                steps.push(Step::One(Set::Only(']')));
            }
            // The start of the text, which is nowhere else.
            '^' if steps.is_empty() => {}
            '^' => steps.push(Step::One(Set::Class(false, Vec::new()))),
            other => steps.push(Step::One(Set::Only(other))),
        }
    }
    if suffix {
        return Kind::Suffix(text[2..].to_owned());
    }
    if prefix {
        return Kind::Prefix(text[..text.len() - 2].to_owned());
    }
    if exact {
        return Kind::Exact;
    }
    Kind::Automaton(steps)
}

/// What a backslash makes of a character in a regular expression.
fn escape(character: char) -> Option<Set> {
    let control = |character| Some(Set::Only(character));
    match character {
        'd' => Some(Set::Class(false, vec![('0', '9')])),
        'D' => Some(Set::Class(true, vec![('0', '9')])),
        's' => Some(Set::Class(false, SPACES.to_vec())),
        'S' => Some(Set::Class(true, SPACES.to_vec())),
        'w' => Some(Set::Class(false, WORDS.to_vec())),
        'W' => Some(Set::Class(true, WORDS.to_vec())),
        'a' => control('\u{7}'),
        'f' => control('\u{c}'),
        't' => control('\t'),
        'n' => control('\n'),
        'r' => control('\r'),
        'v' => control('\u{b}'),
        other if other.is_ascii_alphanumeric() => None,
        other if !other.is_ascii() => None,
        other => control(other),
    }
}

const SPACES: [(char, char); 3] = [('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')];
const WORDS: [(char, char); 4] = [('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')];

/// A class, after its `[`.
fn class(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Step> {
    let negated = characters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let from = match characters.next()? {
            ']' if !ranges.is_empty() => return Some(Step::One(Set::Class(negated, ranges))),
            '\\' => match escape(characters.next()?)? {
                Set::Only(character) => character,
                Set::Class(false, mut more) => {
                    ranges.append(&mut more);
                    continue;
                }
                _ => return None,
            },
            // Inside of a class BuildKit still translates wildcards: to `[^/]`, whose end ends the
            // class, with its `[`, `^` and `/` as members.
            wildcard @ ('*' | '?') => {
                ranges.extend([('[', '['), ('^', '^'), ('/', '/')]);
                let set = Set::Class(negated, ranges);
                return match wildcard {
                    '*' if characters.peek() == Some(&'*') => None,
                    '*' => Some(Step::Many(set)),
                    _ => Some(Step::One(set)),
                };
            }
            '[' if characters.peek() == Some(&':') => return None,
            other => other,
        };
        let mut to = from;
        let mut ahead = characters.clone();
        if ahead.next() == Some('-') && ahead.peek().is_some_and(|next| *next != ']') {
            characters.next();
            to = match characters.next()? {
                '\\' => match escape(characters.next()?)? {
                    Set::Only(character) => character,
                    _ => return None,
                },
                other => other,
            };
            if to < from {
                return None;
            }
        }
        ranges.push((from, to));
    }
}

/// Go's notion of white space.
pub(super) fn is_space(character: char) -> bool {
    matches!(
        character,
        '\t'..='\r' | ' ' | '\u{85}' | '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}'
            | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

#[cfg(test)]
mod tests;
