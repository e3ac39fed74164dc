//! Sizes and times for people, in docker's words, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcrun_runtime::error::{Error, Result};

const SIZES: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// Bytes as people write them: `512m`, `1.5g`.
pub(crate) fn bytes(text: &str) -> Result<u64> {
    let size = crate::containers::spec::words::size(text)?;
    // It has no sign.
    Ok(size.unsigned_abs())
}

/// Three digits and a decimal unit: `117MB`, `1.23GB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut unit = 0;
    // Only for display: a `f64` is exact up to 8 PB.
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut number = bytes as f64;
    while number >= 999.5 && unit + 1 < SIZES.len() {
        number /= 1000.0;
        unit += 1;
    }
    let digits = match number {
        _ if unit == 0 => 0,
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{number:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", SIZES[unit])
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const MONTH: u64 = 30 * DAY;
const YEAR: u64 = 365 * DAY;

/// How long ago: `2 weeks ago`.
pub(crate) fn ago(then: u64, now: u64) -> String {
    let seconds = now.saturating_sub(then);
    let hours = (seconds + HOUR / 2) / HOUR;
    let text = match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        s if s < MINUTE => format!("{s} seconds"),
        s if s < 2 * MINUTE => "About a minute".to_owned(),
        s if s < HOUR => format!("{} minutes", s / MINUTE),
        _ if hours <= 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        s if s < 2 * WEEK => format!("{} days", s / DAY),
        s if s < 2 * MONTH => format!("{} weeks", s / WEEK),
        s if s < 2 * YEAR => format!("{} months", s / MONTH),
        s => format!("{} years", s / YEAR),
    };
    text + " ago"
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// RFC 3339, seconds, UTC.
pub(crate) fn rfc3339(unix: u64) -> String {
    rcrun_runtime::rfc3339_seconds(unix) + "Z"
}

/// Reads RFC 3339; none for what is no time, or one before 1970.
pub(crate) fn parse_rfc3339(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        let all = digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| digits.parse().ok()).flatten()
    };
    let separators = [(4, '-'), (7, '-'), (13, ':'), (16, ':')];
    let right = |(at, wanted): &(usize, char)| text.as_bytes().get(*at) == Some(&(*wanted as u8));
    if !separators.iter().all(right) || !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' '))
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    let rest = text.get(19..)?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let offset = match rest {
        "Z" | "z" => 0,
        zone => {
            let sign = match zone.bytes().next()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let part = |text: &str| match text.len() {
                2 => text.parse::<u8>().ok().map(i64::from),
                _ => None,
            };
            sign * (part(hours)? * 3600 + part(minutes)? * 60)
        }
    };
    let unix = rcrun_runtime::days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
        - offset;
    u64::try_from(unix).ok().filter(|_| valid)
}

/// A duration as Go writes it (`1h30m`, also `7d`), or a moment: seconds since 1970, RFC 3339 or a
/// day. What is meant is a moment; a duration counts back from `now`.
pub(crate) fn moment(text: &str, now: u64) -> Result<u64> {
    if let Ok(unix) = text.parse::<u64>() {
        return Ok(unix);
    }
    if let Some(unix) = parse_rfc3339(text).or_else(|| parse_rfc3339(&format!("{text}T00:00:00Z")))
    {
        return Ok(unix);
    }
    duration(text)
        .map(|past| now.saturating_sub(past.as_secs()))
        .ok_or_else(|| {
            Error::invalid(format!(
                "invalid time {text:?}: use a duration (10m, 1h30m, 7d), seconds since 1970 or \
                 2026-11-22T08:00:00Z"
            ))
        })
}

/// The same to the nanosecond, as logs have it: RFC 3339, UTC, nine digits. A fraction may stand behind
/// seconds of either form.
pub(crate) fn instant(text: &str, now: u64) -> Result<String> {
    let (whole, fraction) = match text.split_once('.') {
        Some((seconds, rest)) => {
            let zone = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            let digits = &rest[..rest.len() - zone.len()];
            if digits.is_empty() || digits.len() > 9 {
                return Err(Error::invalid(format!(
                    "invalid time {text:?}: a fraction has one to nine digits"
                )));
            }
            (format!("{seconds}{zone}"), digits)
        }
        None => (text.to_owned(), ""),
    };
    let seconds = rfc3339(moment(&whole, now)?);
    Ok(format!("{}.{fraction:0<9}Z", seconds.trim_end_matches('Z')))
}

fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .filter(|end| *end > 0)?;
        let number: u64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let part = match &rest[..end] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(MINUTE)?),
            "h" => Duration::from_secs(number.checked_mul(HOUR)?),
            "d" => Duration::from_secs(number.checked_mul(DAY)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants() {
        for (text, expected) in [
            ("10m", Some("1970-01-01T00:06:40.000000000Z")),
            ("7", Some("1970-01-01T00:00:07.000000000Z")),
            ("7.25", Some("1970-01-01T00:00:07.250000000Z")),
            ("7.000000001", Some("1970-01-01T00:00:07.000000001Z")),
            ("2026-11-22", Some("2026-11-22T00:00:00.000000000Z")),
            (
                "2026-11-22T08:00:00.5+01:00",
                Some("2026-11-22T07:00:00.500000000Z"),
            ),
            ("7.", None),
            ("7.1234567890", None),
            ("7.5x", None),
            ("soon", None),
        ] {
            assert_eq!(instant(text, 1000).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (999_499, "999kB"),
            (999_500, "1MB"),
            (72_800_000, "72.8MB"),
            (116_960_123, "117MB"),
            (1_230_000_000, "1.23GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn times_ago() {
        for (seconds, text) in [
            (0, "Less than a second ago"),
            (59, "59 seconds ago"),
            (119, "About a minute ago"),
            (3_599, "59 minutes ago"),
            (3_600, "About an hour ago"),
            (10_000, "3 hours ago"),
            (2 * DAY, "2 days ago"),
            (14 * DAY, "2 weeks ago"),
            (61 * DAY, "2 months ago"),
            (800 * DAY, "2 years ago"),
        ] {
            assert_eq!(ago(5, 5 + seconds), text);
        }
        assert_eq!(ago(9, 5), "Less than a second ago");
    }

    #[test]
    fn times_are_read() {
        for (text, unix) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00Z", Some(951_782_400)),
            ("2024-02-29T23:59:59.123456789Z", Some(1_709_251_199)),
            ("2100-03-01T02:00:00+02:00", Some(4_107_542_400)),
            ("2100-02-28 22:30:00-01:30", Some(4_107_542_400)),
            ("1969-12-31T23:59:59Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01", None),
            ("0001-01-01T00:00:00Z", None),
            ("2024-01-01T00:00:00+1:00", None),
            (
                "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}",
                None,
            ),
        ] {
            assert_eq!(parse_rfc3339(text), unix, "{text}");
        }
        for unix in [0, 951_782_399, 1_709_251_200, 4_107_542_399] {
            assert_eq!(parse_rfc3339(&rfc3339(unix)), Some(unix));
        }
    }

    #[test]
    fn moments() {
        for (text, expected) in [
            ("1h30m", Some(1_000_000 - 5_400)),
            ("7d", Some(1_000_000 - 7 * DAY)),
            ("12", Some(12)),
            ("1970-01-02", Some(DAY)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("", None),
            ("h", None),
            ("1x", None),
            ("-1h", None),
        ] {
            assert_eq!(moment(text, 1_000_000).ok(), expected, "{text}");
        }
    }
}
