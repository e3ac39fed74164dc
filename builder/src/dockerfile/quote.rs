//! Text in double quotes, as Go's `%q` has it: many of `BuildKit`'s messages and its syntax tree's dump contain it.

use std::fmt::Write;

/// `text` quoted.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c.is_ascii_control() => _ = write!(out, "\\x{:02x}", u32::from(c)),
            c if is_shown(c) => out.push(c),
            c if u32::from(c) > 0xffff => _ = write!(out, "\\U{:08x}", u32::from(c)),
            c => _ = write!(out, "\\u{:04x}", u32::from(c)),
        }
    }
    out.push('"');
    out
}

/// Whether something is seen where the character stands.
fn is_shown(c: char) -> bool {
    if c.is_ascii() {
        return true;
    }
    // Behind another character marks are shown as they are.
    let mut behind = ['a', c].iter().collect::<String>();
    behind = behind.escape_debug().collect();
    !c.is_whitespace() && behind.ends_with(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters() {
        for (text, shown) in [
            ("a b", "a b"),
            ("\"\\'", "\\\"\\\\'"),
            (
                "\n\r\t\u{7}\u{8}\u{b}\u{c}\u{0}\u{7f}",
                "\\n\\r\\t\\a\\b\\v\\f\\x00\\x7f",
            ),
            ("äß☃😀e\u{301}", "äß☃😀e\u{301}"),
            (
                "\u{a0}\u{200b}\u{feff}\u{f63f}\u{f0000}",
                "\\u00a0\\u200b\\ufeff\\uf63f\\U000f0000",
            ),
        ] {
            assert_eq!(quoted(text), format!("\"{shown}\""));
        }
    }
}
