//! Flags: the words that begin with `--` before an instruction's arguments.

use std::ops::Range;

use super::fault::Fault;
use super::suggest::closest;

/// A flag as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flag {
    /// Without quotes and escapes.
    pub(super) text: String,
    /// Where in the instruction.
    pub(super) range: Range<usize>,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// `--link`, `--link=true`, `--link=false`
    Bool,
    /// `--from=x`, once.
    One,
    /// `--mount=x`, any number of times.
    Many,
}

/// The flags that were given.
#[derive(Debug, Default)]
pub(super) struct Given<'f> {
    flags: Vec<(&'static str, String, &'f Flag)>,
}

impl<'f> Given<'f> {
    /// Reads them by the table of those that an instruction has.
    pub(super) fn read(flags: &'f [Flag], table: &[(&'static str, Takes)]) -> Result<Self, Fault> {
        let mut given = Self::default();
        for flag in flags {
            let (dashed, value) = match flag.text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag.text.as_str(), None),
            };
            let fault = |message: String| Fault::new(message).at(&flag.range);
            let name = dashed.strip_prefix("--").unwrap_or(dashed);
            let Some((name, takes)) = table.iter().find(|known| known.0 == name) else {
                let meant = closest(name, table.iter().map(|known| known.0));
                return Err(fault(format!("unknown flag: {dashed}")).did_you_mean(meant));
            };
            if *takes != Takes::Many && given.get(name).is_some() {
                return Err(fault(format!("duplicate flag specified: {dashed}")));
            }
            let value = match (takes, value) {
                (Takes::Bool, None) => "true".to_owned(),
                (Takes::Bool, Some("")) | (_, None) => {
                    return Err(fault(format!("missing a value on flag: {dashed}")));
                }
                (Takes::Bool, Some(value)) => match value.to_lowercase().as_str() {
                    truth @ ("true" | "false") => truth.to_owned(),
                    _ => {
                        return Err(fault(format!(
                            "expecting boolean value for flag {dashed}, not: {value}"
                        )));
                    }
                },
                (_, Some(value)) => value.to_owned(),
            };
            given.flags.push((name, value, flag));
        }
        Ok(given)
    }

    /// The value of one.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.flags
            .iter()
            .find(|flag| flag.0 == name)
            .map(|flag| flag.1.as_str())
    }

    /// Its value, owned, and none if that is empty: `BuildKit` does not tell these apart.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    }

    /// The value of a [`Takes::Bool`].
    pub(super) fn truth(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| value == "true")
    }

    /// All values of a [`Takes::Many`], with their places.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'f Flag)> {
        self.flags
            .iter()
            .filter(move |flag| flag.0 == name)
            .map(|flag| (flag.1.as_str(), flag.2))
    }

    /// The values alone.
    pub(super) fn values(&self, name: &str) -> Vec<String> {
        self.all(name).map(|(value, _)| value.to_owned()).collect()
    }

    /// Where a flag stands.
    pub(super) fn range(&self, name: &str) -> Option<&'f Range<usize>> {
        self.flags
            .iter()
            .find(|flag| flag.0 == name)
            .map(|flag| &flag.2.range)
    }
}
