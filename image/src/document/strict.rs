//! What is refused before a document is read at all: size, depth, and keys that two readers may
//! understand differently.
//!
//! Serde takes the last of two equal keys or reports them, Go takes the last and ignores their
//! case. A document with `layers` and `Layers` would thus be two documents with one digest
//! (CVE-2021-41190 was of this class), so it is none at all.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::{Context, Error, Result};

/// Largest manifest, index or configuration. Registries are told to refuse larger manifests
/// (distribution specification, "Pushing Manifests").
pub const MAX_DOCUMENT: usize = 4 << 20;
/// Deepest nesting of objects and lists; an image configuration needs 4.
pub const MAX_DEPTH: usize = 16;

/// Keys whose values are maps of a user's own keys, in which case means something.
const FREE_MAPS: [&str; 5] = ["annotations", "Labels", "Volumes", "ExposedPorts", "labels"];

/// Checks a document's bytes. `known` are the keys that mean something to us: no key may be equal to
/// one of them but for its case.
pub(crate) fn check(bytes: &[u8], known: &[&str]) -> Result<()> {
    check_size(bytes.len())?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let top = Value {
        known,
        depth: 0,
        free: false,
    };
    top.deserialize(&mut reader)
        .and_then(|()| reader.end())
        .map_err(|e| Error::invalid(e.to_string()))
        .context(|| "not a document that all readers understand alike")
}

/// Checks the size alone, before anything is read.
pub fn check_size(size: usize) -> Result<()> {
    if size > MAX_DOCUMENT {
        return Err(Error::invalid(format!(
            "the document has {size} bytes, and {MAX_DOCUMENT} is the limit"
        )));
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Value<'a> {
    known: &'a [&'a str],
    depth: usize,
    free: bool,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        if self.depth > MAX_DEPTH {
            let words = format!("nested deeper than {MAX_DEPTH}");
            return Err(serde::de::Error::custom(words));
        }
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let depth = self.depth + 1;
        while items.next_element_seed(Value { depth, ..self })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let wrong = |key: &str, why: &str| {
            <A::Error as serde::de::Error>::custom(format!("the key {key:?} {why}"))
        };
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let free = FREE_MAPS.contains(&key.as_str());
            if self.free {
                if !seen.insert(key.clone()) {
                    return Err(wrong(&key, "is there twice"));
                }
            } else {
                let folded = key.to_lowercase();
                let alike = |known: &&&str| known.to_lowercase() == folded;
                if !self.known.contains(&key.as_str())
                    && let Some(meant) = self.known.iter().find(alike)
                {
                    return Err(wrong(&key, &format!("is {meant:?} in other letters")));
                }
                if !seen.insert(folded) {
                    return Err(wrong(&key, "is there twice"));
                }
            }
            let depth = self.depth + 1;
            entries.next_value_seed(Value {
                depth,
                free,
                ..self
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let known = ["layers", "config"];
        let fine = [
            r#"{"layers":[{"a":1,"b":null,"c":-1.5}],"config":{"annotations":{"A":"1","a":"2"}}}"#,
            r#"{"config":{"Labels":{"layers":"x","Layers":"y"}}}"#,
            "[]",
        ];
        for text in fine {
            check(text.as_bytes(), &known).unwrap();
        }
        let wrong = [
            (r#"{"layers":1,"layers":2}"#, "twice"),
            (r#"{"x":1,"X":2}"#, "twice"),
            (r#"{"Layers":1}"#, "other letters"),
            (r#"{"config":{"LAYERS":1}}"#, "other letters"),
            (r#"{"a":[{"b":1,"b":1}]}"#, "twice"),
            (r#"{"annotations":{"a":1,"a":2}}"#, "twice"),
            (r#"{"\u006cayers":1,"layers":2}"#, "twice"),
            (r#"{"a":1} x"#, "trailing"),
            (r#"{"a":1"#, "EOF"),
            ("", "EOF"),
            ("{\"a\":\"\\ud800\"}", "hex escape"),
        ];
        for (text, words) in wrong {
            let error = check(text.as_bytes(), &known)
                .unwrap_err()
                .chain()
                .to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        // The Kelvin sign is a k in Go's folding.
        let kelvin = check("{\"to\u{212a}en\":1,\"token\":1}".as_bytes(), &known);
        kelvin.unwrap_err();
    }

    #[test]
    fn d10_size_and_depth() {
        let deep = format!("{}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        check(deep.as_bytes(), &[]).unwrap();
        let deeper = format!("[{deep}]");
        check(deeper.as_bytes(), &[]).unwrap_err();
        let bottomless = "[".repeat(1 << 20);
        check(bottomless.as_bytes(), &[]).unwrap_err();
        let large = vec![b' '; MAX_DOCUMENT + 1];
        let error = check(&large, &[]).unwrap_err().to_string();
        assert!(error.contains("4194304 is the limit"), "{error}");
    }
}
