//! Times as text.

/// Nanoseconds since the epoch of `2026-11-22T05:44:29.123456789Z` (RFC 3339, UTC), from 1970 on.
pub(crate) fn nanoseconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let valid = year >= 1970
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && (1..=9).contains(&fraction.len());
    if !valid {
        return None;
    }
    let digits: i64 = fraction.parse().ok().filter(|digits| *digits >= 0)?;
    let nanoseconds = digits * 10_i64.pow(9 - u32::try_from(fraction.len()).ok()?);
    let seconds =
        rcrun_runtime::days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:01.5Z", Some(1_500_000_000)),
            (
                "2000-02-29T12:00:00.000000001Z",
                Some(951_825_600_000_000_001),
            ),
            (
                "2026-11-22T05:44:29.123456789Z",
                Some(1_795_326_269_123_456_789),
            ),
            ("2026-11-22T05:44:29", None),
            ("2026-13-22T05:44:29Z", None),
            ("2026-11-22T05:44Z", None),
            ("2026-11-22T05:44:29.Z", None),
            ("", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
