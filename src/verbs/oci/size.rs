//! Sizes with units and lengths of time, as Go programs write them.

use std::time::Duration;

/// `512`, `64k`, `1.5GiB`: bytes in powers of 1024; `-1` stands for no limit.
pub(super) fn bytes(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let wrong = || format!("invalid size: '{text}'");
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    if unit.matches('b').count() > 1 || unit.matches('i').count() > 1 || unit == "i" {
        return Err(wrong());
    }
    let size = number * 1024_f64.powi(power);
    // i64::MAX as a float is 2^63, the first value that does not fit.
    if size.is_finite() && size < i64::MAX as f64 {
        Ok(size as i64)
    } else {
        Err(wrong())
    }
}

/// `5s`, `1h30m`, `1.5ms`, `0`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("time: invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        seconds += number.parse::<f64>().map_err(|_| wrong())? * scale;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("-1", -1),
            ("0", 0),
            ("512", 512),
            ("64k", 65_536),
            ("64KB", 65_536),
            ("1.5m", 1_572_864),
            ("2 GiB", 2_147_483_648),
            ("1b", 1),
            ("8191P", 9_222_246_136_947_933_184),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in [
            "", "k", "1x", "-2", "1kk", "1bb", "1i", "1..2", "9000P", "1  k", "+1",
        ] {
            assert_eq!(bytes(text), Err(format!("invalid size: '{text}'")));
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("5s", 5000),
            ("100ms", 100),
            ("1h1m1s", 3_661_000),
            ("1.5s", 1500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "1s5", "."] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
