//! Shell patterns of substitutions: `*`, `?`, and `\` before these and itself. No brackets.
//!
//! `\/` and `\}` stand for the character alone: it had to be escaped for the sake of `${}`. As in the regular expressions
//! of `BuildKit`, neither `*` nor `?` matches a newline.

use super::super::limits;

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Char(char),
    One,
    Many,
}

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Item>);

impl Pattern {
    /// From its text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut items = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            items.push(match c {
                // Two in a row match what one does.
                '*' if items.last() == Some(&Item::Many) => continue,
                '*' => Item::Many,
                '?' => Item::One,
                '\\' if matches!(rest.peek(), Some('}' | '/')) => continue,
                '\\' => match rest.next() {
                    Some(escaped @ ('*' | '?' | '\\')) => Item::Char(escaped),
                    other => {
                        let shown = other.map(String::from).unwrap_or_default();
                        return Err(format!(
                            "invalid pattern ({text}) in substitution: invalid escape '\\{shown}'"
                        ));
                    }
                },
                c => Item::Char(c),
            });
        }
        Ok(Self(items))
    }

    /// `value` without the shortest or longest beginning that matches.
    pub(super) fn trim_start<'v>(&self, value: &'v str, longest: bool) -> Result<&'v str, String> {
        let chars: Vec<char> = value.chars().collect();
        let mut budget = limits::PATTERN_STEPS;
        let taken = matches(&self.0, &chars, longest, &mut budget)?.unwrap_or(0);
        let bytes: usize = chars[..taken].iter().map(|c| c.len_utf8()).sum();
        Ok(&value[bytes..])
    }

    /// `value` without the shortest or longest end that matches.
    pub(super) fn trim_end<'v>(&self, value: &'v str, longest: bool) -> Result<&'v str, String> {
        let items: Vec<Item> = self.0.iter().rev().copied().collect();
        let chars: Vec<char> = value.chars().rev().collect();
        let mut budget = limits::PATTERN_STEPS;
        let taken = matches(&items, &chars, longest, &mut budget)?.unwrap_or(0);
        let bytes: usize = chars[..taken].iter().map(|c| c.len_utf8()).sum();
        Ok(&value[..value.len() - bytes])
    }

    /// `value` with the first match, or all that do not overlap, replaced. Of matches that begin at one place the longest
    /// counts. An empty one right behind another match does not.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        limit: usize,
    ) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        let mut budget = limits::PATTERN_STEPS;
        let mut out = String::new();
        let (mut at, mut behind_match) = (0, false);
        while at <= chars.len() {
            let found = matches(&self.0, &chars[at..], true, &mut budget)?;
            match found.filter(|length| *length > 0 || !behind_match) {
                Some(length) => {
                    out.push_str(replacement);
                    at += length;
                    if !all {
                        break;
                    }
                    behind_match = length > 0;
                    if length == 0 {
                        out.extend(chars.get(at));
                        at += 1;
                    }
                }
                None => {
                    out.extend(chars.get(at));
                    at += 1;
                    behind_match = false;
                }
            }
            if out.len() > limit {
                return Err(format!("its value has more than {limit} bytes"));
            }
        }
        out.extend(chars.get(at..).unwrap_or_default());
        Ok(out)
    }
}

/// How many of the first `chars` match, at least or at most; `None` if no beginning does. All ways are tried at once, so
/// that the steps are at most the product of both lengths.
fn matches(
    items: &[Item],
    chars: &[char],
    longest: bool,
    budget: &mut usize,
) -> Result<Option<usize>, String> {
    let mut here = vec![false; items.len() + 1];
    here[0] = true;
    let mut best = None;
    for position in 0..=chars.len() {
        *budget = budget
            .checked_sub(items.len() + 1)
            .ok_or("its pattern takes too long to match")?;
        // `*` may match nothing.
        for index in 0..items.len() {
            if here[index] && items[index] == Item::Many {
                here[index + 1] = true;
            }
        }
        if here[items.len()] {
            best = Some(position);
            if !longest {
                break;
            }
        }
        let Some(c) = chars.get(position) else { break };
        let mut next = vec![false; items.len() + 1];
        for index in 0..items.len() {
            if here[index] {
                match items[index] {
                    Item::Char(wanted) if wanted == *c => next[index + 1] = true,
                    Item::One if *c != '\n' => next[index + 1] = true,
                    Item::Many if *c != '\n' => next[index] = true,
                    _ => {}
                }
            }
        }
        if !next.contains(&true) {
            break;
        }
        here = next;
    }
    Ok(best)
}
