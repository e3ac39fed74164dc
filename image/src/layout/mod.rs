//! OCI image layouts: directories with blobs under their digests and an `index.json` (image
//! specification 1.1, image-layout.md).
//!
//! Owns what stands in `oci-layout` and `index.json`, which is pure, and the directory
//! ([`directory`]); [`crate::archive`] has the same in a tar. Names stand in annotations: a tag, by
//! the specification, in `org.opencontainers.image.ref.name`, where some write a reference in full;
//! that is in `io.containerd.image.name` otherwise.

pub mod directory;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::document::{Descriptor, Document, check_document, media};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// The file that says that a directory is a layout.
pub const MARK: &str = "oci-layout";
/// The file that says what is in it.
pub const INDEX: &str = "index.json";
/// The directory of its blobs.
pub const BLOBS: &str = "blobs";
/// The version that is read and written.
pub const VERSION: &str = "1.0.0";
/// Annotation: the name within the layout, by the specification a tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation: the name in full.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// How many names an error tells.
const SHOWN: usize = 12;

/// What an image is called in a layout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label {
    /// The name within the layout.
    pub name: Option<String>,
    /// The name in full.
    pub image: Option<Reference>,
}

impl Label {
    /// What a reference is called: by its tag, and in full.
    pub fn of(image: &Reference) -> Self {
        Self {
            name: image.tag().map(str::to_owned),
            image: Some(image.clone()),
        }
    }
}

/// The contents of `oci-layout`.
pub fn mark() -> Vec<u8> {
    json!({"imageLayoutVersion": VERSION})
        .to_string()
        .into_bytes()
}

/// Checks the contents of `oci-layout`.
pub fn check_mark(bytes: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mark {
        image_layout_version: String,
    }
    let words = || format!("cannot read {MARK}");
    check_document(bytes, &["imageLayoutVersion"]).context(words)?;
    let mark: Mark = serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(error.to_string()))
        .context(words)?;
    match mark.image_layout_version.as_str() {
        VERSION => Ok(()),
        other => Err(Error::unsupported(format!(
            "{}: version {other:?} is not {VERSION}",
            words()
        ))),
    }
}

/// What is in a layout: indexes and manifests. Entries of other kinds are passed over.
pub fn entries(bytes: &[u8]) -> Result<Vec<Descriptor>> {
    let words = || format!("cannot read {INDEX}");
    match Document::read(bytes, None).context(words)? {
        Document::Index(index) => {
            let mut entries = index.manifests;
            entries.retain(|entry| media::MANIFESTS.contains(&entry.media_type.as_str()));
            Ok(entries)
        }
        Document::Manifest(_) => Err(Error::invalid(format!("{}: it is no index", words()))),
    }
}

/// The entry that a name (or `@DIGEST`) stands for, or the only one. Several with one name are for
/// different machines.
pub fn choose<'a>(
    entries: &'a [Descriptor],
    name: Option<&str>,
    machine: &Platform,
) -> Result<&'a Descriptor> {
    let found: Vec<&Descriptor> = match name {
        None => entries.iter().collect(),
        Some(name) => entries
            .iter()
            .filter(|entry| is_called(entry, name))
            .collect(),
    };
    match found[..] {
        [] => Err(Error::new(
            ErrorKind::NotFound,
            match name {
                Some(name) => format!("no image {name}: {}", offered(entries)),
                None => "no image in it".to_owned(),
            },
        )),
        [only] => Ok(only),
        [first, ..] if found.iter().all(|one| one.digest == first.digest) => Ok(first),
        _ => {
            let platforms = found.iter().map(|one| Some((*one, one.platform.as_ref()?)));
            let best = platforms
                .collect::<Option<Vec<_>>>()
                .and_then(|all| machine.best(all));
            best.ok_or_else(|| {
                Error::invalid(format!("several images: {}; say which", offered(entries)))
            })
        }
    }
}

fn is_called(entry: &Descriptor, name: &str) -> bool {
    if let Some(digest) = name.strip_prefix('@') {
        return digest == entry.digest.to_string();
    }
    let said = |key: &str| entry.annotations.get(key);
    if said(REF_NAME).is_some_and(|said| said == name) {
        return true;
    }
    match (said(IMAGE_NAME), name.parse::<Reference>()) {
        (Some(said), Ok(name)) => said.parse::<Reference>().is_ok_and(|said| said == name),
        _ => false,
    }
}

fn offered(entries: &[Descriptor]) -> String {
    let name = |entry: &Descriptor| match names(entry).first() {
        Some(name) => name.to_string(),
        None => match entry.annotations.get(REF_NAME) {
            Some(name) => format!("{name:?}"),
            None => format!("@{}", entry.digest),
        },
    };
    let shown: Vec<String> = entries.iter().take(SHOWN).map(name).collect();
    let more = entries.len().saturating_sub(SHOWN);
    let mut words = format!("there are {}", shown.join(", "));
    if more > 0 {
        words.push_str(&format!(" and {more} more"));
    }
    words
}

/// What an entry is called in full, if it says so. A tag alone names nothing.
pub fn names(entry: &Descriptor) -> Vec<Reference> {
    let full = entry.annotations.get(IMAGE_NAME).into_iter();
    let short = entry.annotations.get(REF_NAME).into_iter();
    let short = short.filter(|name| name.contains(['/', ':']));
    let mut names: Vec<Reference> = full
        .chain(short)
        .filter_map(|name| name.parse().ok())
        .collect();
    names.dedup();
    names.truncate(1);
    names
}

/// `index.json` with one more entry, or with another one of that name. Everything else stays.
pub fn with_entry(before: Option<&[u8]>, target: &Descriptor, label: &Label) -> Result<Vec<u8>> {
    let words = || format!("cannot change {INDEX}");
    let wrong = |why: String| Error::new(ErrorKind::Corrupt, format!("{}: {why}", words()));
    let mut index: Value = match before {
        Some(bytes) => {
            // Whatever we write back, we must have understood.
            entries(bytes)?;
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?
        }
        None => json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": []}),
    };
    let list = index
        .get_mut("manifests")
        .and_then(Value::as_array_mut)
        .ok_or_else(|| wrong("it lists nothing".to_owned()))?;
    let new = entry(target, label);
    let same = |old: &Value| is_replaced(old, &new);
    let place = list.iter().position(same).unwrap_or(list.len());
    list.retain(|old| !same(old));
    list.insert(place.min(list.len()), new);
    let bytes = serde_json::to_vec(&index).map_err(|error| wrong(error.to_string()))?;
    crate::document::check_size(bytes.len()).context(words)?;
    Ok(bytes)
}

/// Whether a new entry takes the place of an old one: the same name in full, else the same name in
/// the layout, else the same image without any.
fn is_replaced(old: &Value, new: &Value) -> bool {
    let said = |entry: &Value, key: &str| {
        let said = entry.get("annotations").and_then(|all| all.get(key));
        said.and_then(Value::as_str).map(str::to_owned)
    };
    match (said(old, IMAGE_NAME), said(new, IMAGE_NAME)) {
        (Some(old), Some(new)) => return old == new,
        (None, Some(_)) if said(new, REF_NAME).is_none() => return false,
        _ => {}
    }
    match (said(old, REF_NAME), said(new, REF_NAME)) {
        (old, Some(new)) => old == Some(new),
        (None, None) => said(old, IMAGE_NAME).is_none() && old.get("digest") == new.get("digest"),
        (Some(_), None) => false,
    }
}

fn entry(target: &Descriptor, label: &Label) -> Value {
    let mut entry = json!({
        "mediaType": target.media_type, "digest": target.digest, "size": target.size,
    });
    if let Some(name) = &label.name {
        entry["annotations"][REF_NAME] = name.clone().into();
    }
    if let Some(image) = &label.image {
        entry["annotations"][IMAGE_NAME] = image.to_string().into();
    }
    entry
}

/// Where a blob is.
pub fn blob_path(digest: &Digest) -> String {
    format!("{BLOBS}/{}/{}", digest.algorithm().name(), digest.hex())
}
