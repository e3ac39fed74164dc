//! Names of images in a store: `images/names/NAME.json`, one record each.
//!
//! A name is a reference in full: `docker.io/library/debian:12`, or with a digest in place of the
//! tag. A record is replaced whole and durably after everything that it stands for is there, so a
//! name never dangles; removing one needs no space. Owns the records, not what they name.

use std::os::fd::OwnedFd;

use rcrun_overlay::durable;
use rcrun_overlay::lease::{Lease, Root};
use rcrun_overlay::record;
use rcrun_overlay::store::Store;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use crate::document::Descriptor;
use crate::reference::Reference;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// The repository, of no registry, where images that came without a name are kept by their digests.
pub const UNNAMED: &str = "localhost/unnamed";
/// The version of records that is read and written.
pub const VERSION: u32 = 1;
/// How records' file names end.
const SUFFIX: &str = ".json";
/// The longest file name.
const NAME_MAX: usize = 255;
/// The longest record that is read.
const RECORD_LIMIT: u64 = 1 << 20;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The reference in full.
    pub name: String,
    /// The index or manifest.
    pub target: Descriptor,
    /// When the name came to stand for it: seconds since 1970.
    pub since: u64,
}

impl Record {
    /// The name as a reference.
    pub fn reference(&self) -> Result<Reference> {
        self.name.parse()
    }
}

/// The names of a store.
#[derive(Debug)]
pub struct Names {
    directory: OwnedFd,
}

impl Names {
    /// The names in this store.
    pub fn new(store: &Store) -> Result<Self> {
        let directory = store.directory("images/names")?;
        Ok(Self { directory })
    }

    /// What a name stands for.
    pub fn get(&self, name: &Reference) -> Result<Option<Record>> {
        let record = self.read(&file_name(&name.to_string()))?;
        Ok(record.filter(|record| record.name == name.to_string()))
    }

    /// Lets a name stand for an index or manifest, all of which is in the store and durable. The
    /// lease is what keeps it there until the name does.
    pub fn set(&self, lease: &Lease, name: &Reference, target: &Descriptor) -> Result<Record> {
        lease.hold(&[Root::Image(target.digest.clone())])?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let record = Record {
            version: VERSION,
            name: name.to_string(),
            target: target.clone(),
            since: now.map_or(0, |time| time.as_secs()),
        };
        let text = record::encode(&record)?;
        let file = file_name(&record.name);
        durable::replace(&self.directory, &file, &text, Mode::from(0o600))
            .context(|| format!("cannot name {} {name}", target.digest))?;
        if name.name() != UNNAMED {
            self.remove(&unnamed(&target.digest)?)?;
        }
        Ok(record)
    }

    /// Keeps an index or manifest, as [`Names::set`] does, that came without a name: by its digest,
    /// until it gets a name or somebody prunes.
    pub fn keep_unnamed(&self, lease: &Lease, target: &Descriptor) -> Result<()> {
        let named = |record: &Record| record.target.digest == target.digest;
        if !self.list()?.iter().any(named) {
            self.set(lease, &unnamed(&target.digest)?, target)?;
        }
        Ok(())
    }

    /// Before a name moves: what it stands for so far keeps a name by its digest, as docker does, so
    /// that it stays until somebody prunes.
    pub fn keep(&self, lease: &Lease, record: &Record) -> Result<()> {
        let name = record.reference()?;
        let by_digest = name.with_digest(record.target.digest.clone());
        if by_digest == name || self.get(&by_digest)?.is_some() {
            return Ok(());
        }
        lease.hold(&[Root::Image(record.target.digest.clone())])?;
        // Only a name that still says the same vouches for what is held now.
        if self.get(&name)?.as_ref() == Some(record) {
            self.set(lease, &by_digest, &record.target)?;
        }
        Ok(())
    }

    /// Removes a name; false if there was none.
    pub fn remove(&self, name: &Reference) -> Result<bool> {
        let file = file_name(&name.to_string());
        durable::remove(&self.directory, &file).context(|| format!("cannot remove name {name}"))
    }

    /// All records, by name. A record that cannot be read is an error, not a missing name: nothing
    /// may be swept that it could stand for.
    pub fn list(&self) -> Result<Vec<Record>> {
        let mut broken = None;
        let records = self.survey(&mut |_, error| {
            broken.get_or_insert(error);
        })?;
        broken.map_or(Ok(records), Err)
    }

    /// All records that can be read, by name; of others `broken` gets the file and why.
    pub fn survey(&self, broken: &mut dyn FnMut(&str, Error)) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let directory = rustix::fs::Dir::read_from(&self.directory)
            .context(|| "cannot list the names of images")?;
        for entry in directory {
            let entry = entry.context(|| "cannot list the names of images")?;
            let file = entry.file_name().to_string_lossy();
            if !file.starts_with(durable::TEMPORARY) && file.ends_with(SUFFIX) {
                match self.read(&file) {
                    // Perhaps it was removed meanwhile.
                    Ok(record) => records.extend(record),
                    Err(error) => broken(&file, error),
                }
            }
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    fn read(&self, file: &str) -> Result<Option<Record>> {
        let corrupt = |why: String| {
            Error::new(
                ErrorKind::Corrupt,
                format!("cannot read images/names/{file}: {why}"),
            )
        };
        let Some(bytes) = durable::read(&self.directory, file, RECORD_LIMIT)? else {
            return Ok(None);
        };
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if record.version != VERSION {
            return Err(corrupt(format!(
                "version {} is not {VERSION}",
                record.version
            )));
        }
        record::check(&bytes).context(|| format!("cannot read images/names/{file}"))?;
        Ok(Some(record))
    }
}

fn unnamed(digest: &Digest) -> Result<Reference> {
    format!("{UNNAMED}@{digest}").parse()
}

/// `/` and `%` are written as in URLs; a name that is too long for a file goes by its digest.
fn file_name(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len() + SUFFIX.len());
    for character in name.chars() {
        match character {
            '/' => escaped.push_str("%2F"),
            '%' => escaped.push_str("%25"),
            other => escaped.push(other),
        }
    }
    if escaped.len() + SUFFIX.len() > NAME_MAX {
        escaped = format!("%{}", Digest::of(name.as_bytes()).hex());
    }
    escaped + SUFFIX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Descriptor {
        serde_json::from_value(serde_json::json!({
            "mediaType": crate::document::media::OCI_MANIFEST,
            "digest": Digest::of(text.as_bytes()), "size": text.len(),
        }))
        .unwrap()
    }

    #[test]
    fn what_came_without_a_name_is_kept_until_it_gets_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let names = Names::new(&store).unwrap();
        let lease = store.lease().unwrap();
        let all = || -> Vec<String> {
            let records = names.list().unwrap().into_iter();
            records.map(|record| record.name).collect()
        };
        let (one, other) = (target("one"), target("other"));
        names.keep_unnamed(&lease, &one).unwrap();
        names.keep_unnamed(&lease, &one).unwrap();
        names.keep_unnamed(&lease, &other).unwrap();
        let unnamed = |target: &Descriptor| format!("{UNNAMED}@{}", target.digest);
        let mut both = vec![unnamed(&one), unnamed(&other)];
        both.sort();
        assert_eq!(all(), both);
        names.set(&lease, &"a:1".parse().unwrap(), &one).unwrap();
        assert_eq!(all(), ["docker.io/library/a:1".to_owned(), unnamed(&other)]);
        names.keep_unnamed(&lease, &one).unwrap();
        assert_eq!(all().len(), 2);
    }

    #[test]
    fn names_are_set_moved_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let names = Names::new(&store).unwrap();
        let lease = store.lease().unwrap();
        let long: Reference = format!("example.org/{}:{}", "a/".repeat(60) + "b", "t".repeat(128))
            .parse()
            .unwrap();
        let short: Reference = "debian:12".parse().unwrap();
        for name in [&short, &long] {
            assert!(names.get(name).unwrap().is_none());
            names.set(&lease, name, &target("one")).unwrap();
            names.set(&lease, name, &target("two")).unwrap();
            assert_eq!(names.get(name).unwrap().unwrap().target, target("two"));
        }
        let all: Vec<String> = names.list().unwrap().into_iter().map(|r| r.name).collect();
        assert_eq!(all, [short.to_string(), long.to_string()]);
        let old = names.get(&short).unwrap().unwrap();
        names.keep(&lease, &old).unwrap();
        names.set(&lease, &short, &target("three")).unwrap();
        // It moved meanwhile: nobody vouches for what it stood for before.
        let gone = Record {
            target: target("four"),
            ..old.clone()
        };
        names.keep(&lease, &gone).unwrap();
        let kept = short.with_digest(old.target.digest.clone());
        assert_eq!(names.get(&kept).unwrap().unwrap().target, target("two"));
        assert_eq!(names.list().unwrap().len(), 3);
        assert!(names.remove(&kept).unwrap());
        assert!(names.remove(&short).unwrap());
        assert!(!names.remove(&short).unwrap());
        assert_eq!(names.list().unwrap().len(), 1);
        let path = directory.path().join("images/names");
        std::fs::write(path.join("damaged.json"), "{").unwrap();
        assert_eq!(names.list().unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn file_names_differ_for_different_names() {
        assert_eq!(file_name("a/b:c"), "a%2Fb:c.json");
        assert_ne!(file_name("a/b"), file_name("a%2Fb"));
        let long = "x".repeat(300);
        assert!(file_name(&long).len() <= NAME_MAX);
        assert_ne!(file_name(&long), file_name(&(long.clone() + "y")));
    }
}
