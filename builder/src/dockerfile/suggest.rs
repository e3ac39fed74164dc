//! What somebody may have meant: the name that differs least, by fewer than three letters.

/// The name among `options` that `text` may be a misspelling of. None if it is one of them: then the name is not what is
/// wrong. Of names that differ equally, one with the same letters comes first, then one that begins the same.
pub fn closest<'o>(text: &str, options: impl IntoIterator<Item = &'o str>) -> Option<&'o str> {
    let wanted: Vec<char> = text.chars().collect();
    let sorted = |chars: &[char]| {
        let mut chars = chars.to_vec();
        chars.sort_unstable();
        chars
    };
    let letters = sorted(&wanted);
    let mut best: Option<((usize, bool, bool), &str)> = None;
    for option in options {
        if option == text {
            return None;
        }
        let most = best.map_or(NEAR - 1, |((distance, ..), _)| distance);
        // A longer one is too far away, whatever it begins with.
        let chars: Vec<char> = option.chars().take(wanted.len() + NEAR).collect();
        if let Some(distance) = distance(&wanted, &chars, most) {
            let rank = (
                distance,
                letters != sorted(&chars),
                wanted.first() != chars.first(),
            );
            if best.is_none_or(|(before, _)| rank < before) {
                best = Some((rank, option));
            }
        }
    }
    best.map(|(_, option)| option)
}

/// The same without regard to case; `options` are in lower case and the answer is in the case of `text`.
pub fn closest_in_any_case<'o>(
    text: &str,
    options: impl IntoIterator<Item = &'o str>,
) -> Option<String> {
    let lower = text.to_lowercase();
    let found = closest(&lower, options)?;
    Some(if text == text.to_uppercase() && text != lower {
        found.to_uppercase()
    } else {
        found.to_owned()
    })
}

/// Names that differ by as many letters have nothing to do with each other.
const NEAR: usize = 3;

/// How many letters are to be added, removed or exchanged, if at most `most`. At each difference three ways go on, so
/// that this takes three to the power of `most` times the length.
fn distance(a: &[char], b: &[char], most: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    if a.is_empty() || b.is_empty() {
        return Some(a.len().max(b.len()));
    }
    let most = most.checked_sub(1)?;
    let ways = [(&a[1..], &b[1..]), (&a[1..], b), (a, &b[1..])];
    ways.iter()
        .filter_map(|(a, b)| distance(a, b, most))
        .min()
        .map(|rest| rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names() {
        let options = ["copy", "cmd", "env", "run", "entrypoint"];
        for (text, found) in [
            ("COYP", Some("COPY")),
            ("RNU", Some("RUN")),
            ("copi", Some("copy")),
            ("Rnu", Some("run")),
            ("ENTRYPONT", Some("ENTRYPOINT")),
            ("entrpnt", None),
            ("COPY", None),
            ("", None),
            ("zzzz", None),
            ("crun", Some("run")),
        ] {
            assert_eq!(
                closest_in_any_case(text, options).as_deref(),
                found,
                "{text}"
            );
        }
        assert_eq!(closest("myarch", ["MY_ARCH"]), None);
        assert_eq!(closest("MYARCH", ["MY_OS", "MY_ARCH"]), Some("MY_ARCH"));
        assert_eq!(closest("ab", ["abcd", "abc"]), Some("abc"));
        // Nothing is suggested for what is right.
        assert_eq!(closest("ab", ["abc", "ab"]), None);
    }

    #[test]
    fn long_names_are_compared_in_time() {
        let long = "x".repeat(200_000);
        let options: Vec<String> = (0..20).map(|i| format!("{long}{i}")).collect();
        assert!(closest(&long, options.iter().map(String::as_str)).is_some());
    }
}
