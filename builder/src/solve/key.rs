//! Cache keys: a digest over everything that a step's result depends on. Pure.

use crate::Digest;

/// A digest over fields: each with its name and length, so that no two lists of fields give the same bytes.
#[derive(Debug, Clone)]
pub(crate) struct Key(Vec<u8>);

/// Goes into every key: changed whenever the same inputs would give something else.
const GENERATION: &str = "rcrun build 1";

impl Key {
    /// Of a kind of step.
    pub(crate) fn new(kind: &str) -> Self {
        Self(Vec::with_capacity(512))
            .text("generation", GENERATION)
            .text("kind", kind)
    }

    /// With a field.
    pub(crate) fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        for part in [name.as_bytes(), value] {
            self.0.extend_from_slice(&(part.len() as u64).to_le_bytes());
            self.0.extend_from_slice(part);
        }
        self
    }

    /// With a field.
    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.bytes(name, value.as_bytes())
    }

    /// With a field.
    pub(crate) fn number(self, name: &str, value: u64) -> Self {
        self.bytes(name, &value.to_le_bytes())
    }

    /// With a field that may be missing.
    pub(crate) fn option(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self.text("none", name),
        }
    }

    /// With a list.
    pub(crate) fn list<T: AsRef<str>>(mut self, name: &str, values: &[T]) -> Self {
        self = self.text("list", name).number("items", values.len() as u64);
        for value in values {
            self = self.text("item", value.as_ref());
        }
        self
    }

    /// With a digest.
    pub(crate) fn digest(self, name: &str, value: &Digest) -> Self {
        self.text(name, &value.to_string())
    }

    /// The key.
    pub(crate) fn finish(self) -> Digest {
        Digest::of(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_into_each_other() {
        let all = [
            Key::new("a"),
            Key::new("a").text("b", "c"),
            Key::new("a").text("bc", ""),
            Key::new("a").option("b", None),
            Key::new("a").option("b", Some("")),
            Key::new("a").list("b", &["c", "d"]),
            Key::new("a").list("b", &["cd"]),
            Key::new("a").list::<&str>("b", &[]),
            Key::new("a").number("b", 0),
        ];
        let digests: std::collections::HashSet<_> = all.into_iter().map(Key::finish).collect();
        assert_eq!(digests.len(), 9);
    }
}
