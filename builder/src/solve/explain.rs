//! Why a step had to be done: what it depended on the last time at this place, compared with now.

use super::{Prepared, Solver};
use crate::Digest;

/// The inputs of a step, each by name with a digest of it.
pub(super) type Inputs = Vec<(String, String)>;

/// The name of a step's place: of its stage and number, whatever the instruction says.
pub(super) fn slot(stage: &str, number: usize) -> String {
    Digest::of(format!("{stage}\n{number}").as_bytes())
        .hex()
        .to_owned()
}

/// An input that is only compared, never shown: it may be a secret.
pub(super) fn hidden(value: &str) -> String {
    Digest::of(value.as_bytes()).to_string()
}

/// What changed.
pub(super) fn changes(before: &Inputs, now: &Inputs) -> String {
    let find = |all: &Inputs, name: &str| {
        all.iter()
            .find(|(other, _)| other == name)
            .map(|(_, v)| v.clone())
    };
    let mut words = Vec::new();
    for (name, value) in now {
        match find(before, name) {
            Some(old) if old == *value => {}
            Some(_) => words.push(format!("{name} changed")),
            None => words.push(format!("{name} is new")),
        }
    }
    for (name, _) in before {
        if find(now, name).is_none() {
            words.push(format!("{name} is gone"));
        }
    }
    match words.is_empty() {
        true => "nothing changed, but its layer is not in the store any more".to_owned(),
        false => words.join(", "),
    }
}

impl Solver<'_> {
    /// In words.
    pub(super) fn why(&self, slot: &str, prepared: &Prepared<'_>) -> String {
        match self.cache.noted::<Recorded>("last", slot) {
            Some(before) => changes(&before.inputs, &prepared.inputs),
            None => "it was never done before".to_owned(),
        }
    }

    /// For the next time. Without it that can only say that it does not know.
    pub(super) fn remember(&self, slot: &str, prepared: &Prepared<'_>) {
        let inputs = prepared.inputs.clone();
        let _ = self.cache.note("last", slot, &Recorded { inputs });
    }
}

/// As it is kept.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Recorded {
    inputs: Inputs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named() {
        let inputs = |list: &[(&str, &str)]| -> Inputs {
            list.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let before = inputs(&[("files", "1"), ("variable A", "1"), ("user", "0")]);
        for (now, expected) in [
            (
                &[("files", "2"), ("variable A", "1"), ("user", "0")][..],
                "files changed",
            ),
            (&[("files", "1"), ("user", "0")], "variable A is gone"),
            (
                &[
                    ("files", "1"),
                    ("variable A", "2"),
                    ("user", "0"),
                    ("variable B", ""),
                ],
                "variable A changed, variable B is new",
            ),
            (
                &[("files", "1"), ("variable A", "1"), ("user", "0")],
                "nothing changed, but its layer is not in the store any more",
            ),
        ] {
            assert_eq!(changes(&before, &inputs(now)), expected);
        }
    }
}
