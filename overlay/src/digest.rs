//! Content digests: `ALGORITHM:HEX`, as in the image specification ("Digests", descriptor.md).
//!
//! A digest becomes part of file names and URLs, so nothing else than a registered algorithm with
//! exactly its number of lower-case hexadecimal digits can ever be one.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::{Error, Result};

/// A registered algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, what everybody uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Its name in digests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits a digest has.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// The digest of these bytes.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Starts hashing.
    pub fn hasher(self) -> Hasher {
        match self {
            Self::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Self::Sha512 => Hasher::Sha512(sha2::Sha512::new()),
        }
    }
}

/// The identity of some bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    /// Of these bytes, with SHA-256.
    pub fn of(bytes: &[u8]) -> Self {
        Algorithm::Sha256.digest(bytes)
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal digits, lower case.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("invalid digest {text:?}: {why}"));
        let (name, hex) = text.split_once(':').ok_or_else(|| wrong("no algorithm"))?;
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| wrong("the algorithm is neither sha256 nor sha512"))?;
        if hex.len() != algorithm.hex_len() {
            return Err(wrong("wrong length"));
        }
        if !hex
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(wrong("not lower-case hexadecimal"));
        }
        let hex = hex.into();
        Ok(Self { algorithm, hex })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Hashes as bytes come.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// With SHA-256.
    Sha256(sha2::Sha256),
    /// With SHA-512.
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => hashed(Algorithm::Sha256, &hasher.finalize()),
            Self::Sha512(hasher) => hashed(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

fn hashed(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    let hex: String = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect();
    let hex = hex.into();
    Digest { algorithm, hex }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn of_nothing() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        let long = Algorithm::Sha512.hasher().finish();
        assert!(long.to_string().starts_with("sha512:cf83e1357eefb8bd"));
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
    }

    #[test]
    fn only_registered_and_exact_ones() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap().to_string(), EMPTY);
        let upper = EMPTY.to_uppercase().replace("SHA", "sha");
        let short = &EMPTY[..EMPTY.len() - 1];
        let long = format!("{EMPTY}0");
        let other = EMPTY.replace("sha256", "md5");
        let path = "sha256:../../../../../../../../../../../../../../../../../../../../etc/passwd";
        for text in [
            "",
            ":",
            "sha256:",
            &upper,
            short,
            &long,
            &other,
            path,
            &EMPTY[7..],
        ] {
            let error = text.parse::<Digest>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
