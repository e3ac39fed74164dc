//! What all records have in common: a version, and as the last field a digest of all before it.
//!
//! Blobs have their digests for names; records have none, and a wrong bit in a number or a digest
//! would be believed. `"seal"` is always written last, so what it is about is the text before it,
//! whatever fields a later version has. A record without one is believed as it is: one wrong bit
//! that makes another field of the seal's name leaves everything else right.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Context, Digest, Error, ErrorKind, Result};

/// What comes between the record's other fields and the seal.
const BEFORE: &[u8] = b",\"seal\":\"";
/// What comes after it.
const AFTER: &[u8] = b"\"}";
/// Hexadecimal digits of a seal.
const LENGTH: usize = 64;

/// Encodes a record, which is an object with at least one field.
pub fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    let internal = |why: String| Error::new(ErrorKind::Internal, format!("cannot encode: {why}"));
    let mut text = serde_json::to_vec(record).map_err(|error| internal(error.to_string()))?;
    if text.len() < 3 || text.pop() != Some(b'}') {
        return Err(internal("it is no object with fields".into()));
    }
    let seal = Digest::of(&text);
    text.extend_from_slice(BEFORE);
    text.extend_from_slice(seal.hex().as_bytes());
    text.extend_from_slice(AFTER);
    Ok(text)
}

/// Decodes a record of a version; `name` is the file's. The version is looked at first: what else another
/// one has may not be readable at all. One that is not this is `Unsupported`, all else `Corrupt`.
pub fn decode<T: DeserializeOwned>(text: &[u8], name: &str, version: u32) -> Result<T> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let corrupt = |error: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, format!("cannot read {name}: {error}"))
    };
    let head: Head = serde_json::from_slice(text).map_err(corrupt)?;
    if head.version != version {
        return Err(Error::unsupported(format!(
            "{name} has version {}, this program knows version {version} only",
            head.version
        )));
    }
    check(text).context(|| format!("cannot read {name}"))?;
    serde_json::from_slice(text).map_err(corrupt)
}

/// Sees whether a record's seal fits, if it has one.
pub fn check(text: &[u8]) -> Result<()> {
    let Some((record, seal)) = split(text) else {
        return Ok(());
    };
    match Digest::of(record).hex().as_bytes() == seal {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Corrupt,
            "its seal does not fit: it was changed or damaged",
        )),
    }
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_suffix(AFTER)?;
    let (rest, seal) = text.split_at_checked(text.len().checked_sub(LENGTH)?)?;
    Some((rest.strip_suffix(BEFORE)?, seal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_wrong_bit_is_found_or_harms_nothing() {
        let record = BTreeMap::from([("name", "a"), ("size", "7")]);
        let text = encode(&record).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["size"], "7");
        check(&text).unwrap();
        let end = text.len() - AFTER.len() - LENGTH - BEFORE.len();
        for bit in 0..text.len() * 8 {
            let mut other = text.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            if check(&other).is_ok() {
                assert!(bit / 8 >= end, "a wrong bit at {bit} is not found");
                // What the record says is right, if it can be read at all.
                assert_eq!(other[..end], text[..end]);
            }
        }
    }

    #[test]
    fn the_version_comes_before_all_else() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Record {
            version: u32,
            name: String,
        }
        let read = |text: &[u8]| decode::<Record>(text, "a.json", 1);
        let name = "a".to_owned();
        let text = encode(&Record { version: 1, name }).unwrap();
        assert_eq!(read(&text).unwrap().name, "a");
        let sealed = String::from_utf8(text).unwrap();
        for (text, kind, says) in [
            (sealed.replace("\"a\"", "\"b\""), ErrorKind::Corrupt, "seal"),
            (
                sealed.replace(":1,", ":2,"),
                ErrorKind::Unsupported,
                "version 2",
            ),
            (
                "{\"version\":2,\"name\":7}".into(),
                ErrorKind::Unsupported,
                "a.json",
            ),
            ("{\"version\":1}".into(), ErrorKind::Corrupt, "a.json"),
            ("[]".into(), ErrorKind::Corrupt, "a.json"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.chain().to_string().contains(says), "{error:?}");
        }
    }

    #[test]
    fn without_a_seal_it_is_believed_and_what_is_no_object_is_refused() {
        for text in [&b""[..], b"{}", b"{\"version\":1}", b"\"}"] {
            check(text).unwrap();
        }
        encode(&7).unwrap_err();
        encode(&BTreeMap::<u8, u8>::new()).unwrap_err();
    }
}
