//! Small grammars that several flags share.

use rcrun_runtime::error::{Error, Result};

/// All complaints about a command line, told together.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Keeps what is right, and remembers what is wrong with a flag's value.
    pub(crate) fn take<T>(&mut self, flag: &str, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| self.0.push(format!("{flag}: {}", error.chain())))
            .ok()
    }

    /// Each value of a flag.
    pub(crate) fn all<'a, T>(
        &mut self,
        flag: &str,
        values: &'a [String],
        mut read: impl FnMut(&'a str) -> Result<T>,
    ) -> Vec<T> {
        let one = |value| self.take(flag, read(value));
        values.iter().map(String::as_str).filter_map(one).collect()
    }

    /// The value of a flag that may be missing.
    pub(crate) fn one<'a, T>(
        &mut self,
        flag: &str,
        value: Option<&'a str>,
        read: impl FnOnce(&'a str) -> Result<T>,
    ) -> Option<T> {
        value.and_then(|value| self.take(flag, read(value)))
    }

    /// Something that no value of one flag is to blame for.
    pub(crate) fn tell(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// An error with all of them, if there are any.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::invalid(one.clone())),
            many => Err(Error::invalid(format!(
                "{} problems: {}",
                many.len(),
                many.join("; ")
            ))),
        }
    }
}

/// A size in bytes: digits, perhaps a fraction, and `b`, `k`, `m`, `g`, `t` (powers of 1024) in either
/// case, perhaps followed by `b` or `ib`.
pub(crate) fn size(text: &str) -> Result<i64> {
    let wrong = || Error::invalid(format!("{text:?} is no size: write 512m or 2g"));
    let lower = text.to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || number.ends_with('.') {
        return Err(wrong());
    }
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let unit = 1_i64 << shift;
    let mut sum = whole.checked_mul(unit).ok_or_else(wrong)?;
    if !fraction.is_empty() {
        let part: i128 = fraction.parse().map_err(|_| wrong())?;
        let power = 10_i128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
        let part = i64::try_from(part * i128::from(unit) / power).map_err(|_| wrong())?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
    }
    Ok(sum)
}

/// A size, or -1 for no limit.
pub(crate) fn size_or_unlimited(text: &str) -> Result<i64> {
    match text {
        "-1" => Ok(-1),
        _ => size(text),
    }
}

/// `NAME=VALUE`; the name is not empty.
pub(crate) fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::invalid(format!("{text:?} is not NAME=VALUE"))),
    }
}

/// `NAME[=VALUE]`; without one it is empty.
pub(crate) fn label(text: &str) -> Result<(String, String)> {
    match text.contains('=') {
        true => pair(text),
        false if text.is_empty() => Err(Error::invalid("a label needs a name")),
        false => Ok((text.to_owned(), String::new())),
    }
}

/// The lines of a file of labels or variables: no empty ones, no comments, no blanks in front.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// An absolute path in the container, with `.` and `..` folded.
pub(crate) fn inside(text: &str) -> Result<String> {
    if !text.starts_with('/') {
        return Err(Error::invalid(format!(
            "{text:?} is not an absolute path in the container"
        )));
    }
    let clean = rcrun_runtime::template::clean(text.as_ref());
    Ok(clean.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("1b", Some(1)),
            ("64m", Some(64 << 20)),
            ("1.5G", Some(3 << 29)),
            ("2gib", Some(2 << 30)),
            ("3KB", Some(3072)),
            ("", None),
            ("m", None),
            ("1.", None),
            (".5g", None),
            ("-1", None),
            ("1x", None),
            ("9999999999t", None),
            ("1.2.3m", None),
        ] {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
        assert_eq!(size_or_unlimited("-1").unwrap(), -1);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut problems = Problems::default();
        let values = ["1m".to_owned(), "x".to_owned(), "y".to_owned()];
        assert_eq!(problems.all("--memory", &values, size), [1 << 20]);
        let text = problems.finish().unwrap_err().to_string();
        assert!(text.starts_with("2 problems: --memory: "), "{text}");
        assert!(text.contains("\"x\"") && text.contains("\"y\""), "{text}");
    }

    #[test]
    fn files_of_lines() {
        let found: Vec<_> = lines("\u{feff}A=1\r\n\n # no\n  B=2 # yes\nC\n").collect();
        assert_eq!(found, ["A=1", "B=2 # yes", "C"]);
    }
}
