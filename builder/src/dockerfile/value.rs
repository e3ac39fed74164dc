//! Values within flags: comma separated fields, booleans, sizes, as Go reads them.

/// A boolean as Go reads it.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Bytes, with a binary unit: `64m`, `1.5GiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let (number, unit) = text.split_at(end);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if number.starts_with(['+', '-']) || number.contains(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let power = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit == "ib" => return None,
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number * 1024f64.powi(power);
    // Exact up to 8 PiB, which is more than any memory; beyond the largest signed number BuildKit has no answer either.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range, not negative"
    )]
    (0.0..9.2e18).contains(&bytes).then_some(bytes as u64)
}

/// The fields of one line of comma separated values (RFC 4180).
pub(super) fn fields(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Err("it is empty".into());
    }
    let mut found = Vec::new();
    let mut rest = line;
    loop {
        let Some(mut inner) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(format!("bare \" in non-quoted field {field}"));
            }
            found.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(found),
            }
            continue;
        };
        let mut field = String::new();
        loop {
            let Some((text, after)) = inner.split_once('"') else {
                return Err("extraneous or missing \" in quoted field".into());
            };
            field.push_str(text);
            match after.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    inner = after;
                }
                None => {
                    inner = after;
                    break;
                }
            }
        }
        found.push(field);
        match inner.strip_prefix(',') {
            Some(after) => rest = after,
            None if inner.is_empty() => return Ok(found),
            None => return Err("extraneous or missing \" in quoted field".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", Some(1)),
            ("1b", Some(1)),
            ("1 k", Some(1024)),
            ("1.5KiB", Some(1536)),
            ("2GB", Some(2 << 30)),
            ("1p", Some(1 << 50)),
            ("1ki", None),
            ("1ib", None),
            ("k", None),
            ("-1", None),
            ("1e3", None),
            ("9999999p", None),
            ("", None),
            ("1..2", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn lines_of_fields() {
        let read = |line| fields(line).map(|fields| fields.join("|"));
        for (line, found) in [
            ("a", "a"),
            ("a,b=c,", "a|b=c|"),
            ("\"a,b\",c", "a,b|c"),
            ("\"a\"\"b\"", "a\"b"),
            (" a, b", " a| b"),
            ("\"\"", ""),
        ] {
            assert_eq!(read(line).as_deref(), Ok(found), "{line}");
        }
        for line in ["", "a\"", "\"a", "\"a\"b", "a,\"b"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
