//! Durations in Go's notation: `1m30s`, `1.5h`, `300ms`.

use std::time::Duration;

/// Nanoseconds of each unit.
const UNITS: &[(&str, u128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Go's durations end here.
const MAX: u128 = i64::MAX as u128;

/// Reads one. Negative ones are refused: nothing in a Dockerfile takes them.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let invalid =
        || format!("invalid duration {text:?}: expected a number and a unit, such as 30s");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" || rest == "-0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = |text: &str| {
            text.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len())
        };
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("missing unit in duration {text:?}"));
        }
        let Some((_, unit)) = UNITS.iter().find(|known| known.0 == unit) else {
            return Err(format!("unknown unit {unit:?} in duration {text:?}"));
        };
        let amount = match whole {
            "" => 0,
            whole => whole.parse::<u64>().map_err(|_| invalid())?,
        };
        total += u128::from(amount) * unit;
        let mut place = *unit;
        for digit in fraction.bytes() {
            place /= 10;
            total += u128::from(digit - b'0') * place;
        }
        if total > MAX {
            return Err(invalid());
        }
        rest = after;
    }
    Ok(Duration::from_nanos(
        u64::try_from(total).unwrap_or(u64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("1s", 1_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("300ms", 300_000_000),
            ("2us3ns", 2_003),
            ("1µs", 1_000),
            ("0.0000000019s", 1),
            ("+3s", 3_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "1x",
            "1 s",
            "-1s",
            ".s",
            "1s ",
            "99999999999999999999s",
            "9999999h",
            "1ss",
            "ä",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
