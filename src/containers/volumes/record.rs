//! `volume.json`: what a volume is. Written once, before the volume has its name.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use rcrun_overlay::{durable, record};
use rcrun_runtime::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The file.
pub(super) const FILE: &str = "volume.json";
/// The version that is written and read.
const VERSION: u32 = 1;
/// The longest record that is read: labels are up to who made it.
const LIMIT: u64 = 1 << 20;

/// The record. Unknown fields are ignored: a later version that means something else by it has
/// another number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// Its name.
    pub(crate) name: String,
    /// RFC 3339, UTC, nanoseconds.
    pub(crate) created: String,
    /// Of the person.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Nobody gave it a name: it goes with its container if that is wanted.
    #[serde(default)]
    pub(crate) anonymous: bool,
}

impl Record {
    /// Of a volume that is made now.
    pub(super) fn new(name: &str, labels: &BTreeMap<String, String>, anonymous: bool) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            created: crate::containers::now(),
            labels: labels.clone(),
            anonymous,
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let text = record::encode(self)?;
        match text.len() as u64 > LIMIT {
            true => Err(Error::invalid(format!(
                "the volume's record would be longer than {LIMIT} bytes: it has too many labels"
            ))),
            false => Ok(text),
        }
    }
}

/// Reads the record; none if there is none.
pub(super) fn read(directory: BorrowedFd<'_>) -> Result<Option<Record>> {
    let Some(bytes) = durable::read(directory, FILE, LIMIT)? else {
        return Ok(None);
    };
    parse(&bytes).map(Some)
}

fn parse(bytes: &[u8]) -> Result<Record> {
    record::decode(bytes, FILE, VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcrun_runtime::error::ErrorKind;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let record = Record::new("data", &labels, false);
        let text = record.encode().unwrap();
        assert_eq!(parse(&text).unwrap(), record);
        let changed = String::from_utf8(text).unwrap().replace("data", "date");
        assert_eq!(
            parse(changed.as_bytes()).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        let error = parse(br#"{"version":2,"name":7}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for bytes in [&b""[..], b"{", b"[]", br#"{"version":1}"#] {
            assert_eq!(parse(bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        let long = BTreeMap::from([("a".to_owned(), "b".repeat(1 << 20))]);
        Record::new("data", &long, false).encode().unwrap_err();
    }
}
