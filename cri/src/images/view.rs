//! All images at a moment, and which one is meant by what a request says. Pure.

use std::collections::{HashMap, HashSet};

use rcrun_image::Digest;
use rcrun_image::names::Record;
use rcrun_image::platform::Platform;
use rcrun_image::reference::Reference;

use super::describe::{self, Facts};
use crate::proto::v1 as cri;
use crate::{Error, Result};

/// The shortest beginning of an identifier that counts, which is what people are shown: `cafe` may be a
/// name that is not there, and somebody wants it removed.
const BEGINNING: usize = 12;
/// How many candidates an error names.
const SHOWN: usize = 4;

/// All images.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The number of the last change that it has.
    pub(super) changes: u64,
    /// One for each identifier, in the order of their first names.
    images: Vec<Entry>,
    by_id: HashMap<String, usize>,
    by_name: HashMap<String, usize>,
}

/// An image.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What is told of it.
    pub(crate) message: cri::Image,
    /// Its identifier.
    pub(crate) id: Digest,
    /// Its manifest.
    manifest: Digest,
    records: Vec<Record>,
}

impl Entry {
    /// Its manifest.
    pub(super) fn manifest(&self) -> &Digest {
        &self.manifest
    }

    /// All names that lead to it, also those that mean another one on this machine.
    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }
}

impl View {
    /// From all names, each with the images that it leads to.
    pub(super) fn new(
        changes: u64,
        led: Vec<(Record, Vec<Facts>)>,
        pinned: &HashSet<String>,
    ) -> Self {
        let host = Platform::host();
        let mut found: Vec<(Facts, Vec<Record>, Vec<Record>)> = Vec::new();
        let mut by_id: HashMap<String, usize> = HashMap::new();
        for (record, images) in led {
            let best = host.best(images.iter().map(|one| (one.id.clone(), &one.platform)));
            for facts in images {
                let here = best.as_ref() == Some(&facts.id);
                // A name means one image here. Those beside it, for other machines, go with that one; only
                // where there is none for this machine are they shown, without the name.
                if best.is_some() && !here {
                    continue;
                }
                let at = *by_id.entry(facts.id.to_string()).or_insert_with(|| {
                    found.push((facts, Vec::new(), Vec::new()));
                    found.len() - 1
                });
                let (_, all, meant) = &mut found[at];
                if !all.contains(&record) {
                    all.push(record.clone());
                    meant.extend(here.then(|| record.clone()));
                }
            }
        }
        let mut by_name = HashMap::new();
        let mut images = Vec::with_capacity(found.len());
        for (facts, records, meant) in found {
            by_name.extend(
                meant
                    .iter()
                    .map(|record| (record.name.clone(), images.len())),
            );
            let pinned = meant.iter().any(|record| pinned.contains(&record.name));
            images.push(Entry {
                message: describe::image(&facts, &meant, pinned),
                id: facts.id,
                manifest: facts.manifest,
                records,
            });
        }
        Self {
            changes,
            images,
            by_id,
            by_name,
        }
    }

    /// All of them.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Entry> {
        self.images.iter()
    }

    /// The image that is meant: by its identifier or the unique beginning of it, a digest of its manifest
    /// or index, a name, or a repository with a digest.
    pub(crate) fn find(&self, text: &str) -> Result<Option<&Entry>> {
        let digest = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = |text: &str| {
            let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            !text.is_empty() && text.bytes().all(hex)
        };
        if is_hex(digest) && digest.len() == 64 {
            return Ok(self.by_digest(&format!("sha256:{digest}")));
        }
        if let Ok(name) = text.parse::<Reference>()
            && let Some(found) = self.by_reference(&name)
        {
            return Ok(Some(found));
        }
        match is_hex(digest) && digest.len() >= BEGINNING {
            true => self.by_beginning(digest),
            false => Ok(None),
        }
    }

    fn by_digest(&self, digest: &str) -> Option<&Entry> {
        if let Some(at) = self.by_id.get(digest) {
            return self.images.get(*at);
        }
        let is = |other: &Digest| other.to_string() == digest;
        self.images.iter().find(|entry| {
            is(&entry.manifest) || entry.records.iter().any(|record| is(&record.target.digest))
        })
    }

    fn by_reference(&self, name: &Reference) -> Option<&Entry> {
        let at = |name: &str| self.by_name.get(name).and_then(|at| self.images.get(*at));
        if let Some(found) = at(&name.to_string()) {
            return Some(found);
        }
        // A digest decides, whatever tag stands before it.
        let digest = name.digest()?;
        let repository = name.name();
        self.images.iter().find(|entry| {
            entry.records.iter().any(|record| {
                let same = record
                    .reference()
                    .is_ok_and(|other| other.name() == repository);
                same && (record.target.digest == *digest || entry.manifest == *digest)
            })
        })
    }

    fn by_beginning(&self, beginning: &str) -> Result<Option<&Entry>> {
        let begins = |entry: &&Entry| entry.id.hex().starts_with(beginning);
        let found: Vec<&Entry> = self.images.iter().filter(begins).collect();
        match found.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only)),
            several => {
                let shown: Vec<String> = several
                    .iter()
                    .take(SHOWN)
                    .map(|entry| entry.id.to_string())
                    .collect();
                Err(Error::invalid(format!(
                    "{beginning:?} is the beginning of {} images' identifiers: {}",
                    several.len(),
                    shown.join(", ")
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn record(name: &str, target: &str) -> Record {
        serde_json::from_value(serde_json::json!({
            "version": 1, "name": name, "since": 0,
            "target": {"mediaType": "x", "digest": Digest::of(target.as_bytes()), "size": 1},
        }))
        .unwrap()
    }

    fn facts(name: &str, platform: &str) -> Facts {
        Facts {
            id: Digest::of(format!("config of {name}").as_bytes()),
            manifest: Digest::of(name.as_bytes()),
            platform: match platform {
                "host" => Platform::host(),
                other => other.parse().unwrap(),
            },
            user: String::new(),
            size: 1,
            annotations: BTreeMap::new(),
        }
    }

    fn view() -> View {
        let other = "linux/s390x";
        let led = vec![
            (record("a.io/x:1", "m1"), vec![facts("m1", "host")]),
            (record("a.io/x:2", "m1"), vec![facts("m1", "host")]),
            (
                record("a.io/y:1", "index"),
                vec![facts("m2", other), facts("m3", "host")],
            ),
            (record("a.io/z:1", "m4"), vec![facts("m4", other)]),
        ];
        View::new(1, led, &HashSet::from(["a.io/y:1".to_owned()]))
    }

    fn names(entry: &Entry) -> Vec<&str> {
        entry.message.repo_tags.iter().map(String::as_str).collect()
    }

    #[test]
    fn one_image_for_each_identifier() {
        let view = view();
        let all: Vec<Vec<&str>> = view.images.iter().map(names).collect();
        // The one for another machine has no name to run it by, but can be removed.
        assert_eq!(
            all,
            [vec!["a.io/x:1", "a.io/x:2"], vec!["a.io/y:1"], vec![]]
        );
        let pinned: Vec<bool> = view.images.iter().map(|one| one.message.pinned).collect();
        assert_eq!(pinned, [false, true, false]);
        assert_eq!(view.images[2].records.len(), 1);
    }

    #[test]
    fn everything_that_can_mean_an_image() {
        let view = view();
        let digest = |text: &str| Digest::of(text.as_bytes());
        let id = digest("config of m3");
        let found = [
            id.to_string(),
            id.hex().to_owned(),
            id.hex()[..12].to_owned(),
            format!("sha256:{}", &id.hex()[..12]),
            "a.io/y:1".to_owned(),
            digest("m3").to_string(),
            digest("index").to_string(),
            format!("a.io/y@{}", digest("index")),
            format!("a.io/y@{}", digest("m3")),
            format!("a.io/y:9@{}", digest("m3")),
        ];
        for text in &found {
            let entry = view.find(text).unwrap();
            assert_eq!(entry.map(|entry| &entry.id), Some(&id), "{text}");
        }
        for text in [
            "",
            "a.io/y",
            "a.io/y:2",
            "a.io/z:1",
            "y",
            "A B",
            &format!("a.io/x@{}", digest("m3")),
            &digest("nothing").to_string(),
        ] {
            assert!(view.find(text).unwrap().is_none(), "{text}");
        }
    }

    #[test]
    fn an_ambiguous_beginning_is_refused_and_a_short_one_no_identifier() {
        let beginning = "cafe".repeat(3);
        let led = ["0", "1"].map(|end| {
            let mut facts = facts(end, "host");
            facts.id = format!("sha256:{beginning}{}", end.repeat(52))
                .parse()
                .unwrap();
            (record(&format!("a.io/x:{end}"), end), vec![facts])
        });
        let view = View::new(1, led.into(), &HashSet::new());
        let error = view.find(&beginning).unwrap_err();
        assert!(
            error.to_string().contains("of 2 images' identifiers"),
            "{error}"
        );
        assert!(view.find(&format!("{beginning}0")).unwrap().is_some());
        assert!(view.find("cafe").unwrap().is_none());
    }
}
