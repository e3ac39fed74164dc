//! Identifiers of containers and pods: 64 hexadecimal digits, at random.

use std::fmt::Write as _;

use crate::{Context, Result};

/// Digits of one.
const LENGTH: usize = 64;

/// 256 random bits: never the identifier of anything else.
pub fn random() -> Result<String> {
    // A request of up to 256 bytes is never answered in part.
    let mut bytes = [0_u8; LENGTH / 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context(|| "cannot get random bytes")?;
    let mut text = String::with_capacity(LENGTH);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// Whether it is a whole identifier.
pub fn is_whole(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(is_digit)
}

/// Whether it is a digit of one.
pub fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ones_are_whole_and_differ() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert!(is_whole(&one) && is_whole(&other));
        assert_ne!(one, other);
        for wrong in ["", &one[1..], &one.to_uppercase(), &format!("{one}0")] {
            assert!(!is_whole(wrong) || wrong == one, "{wrong}");
        }
    }
}
