//! Caches of other machines: what `--cache-to` writes and `--cache-from` reads. Pure; the format is
//! described in `docs/build-cache.md`.
//!
//! Layers have names of their own on each machine, so here a stack of layers is known by what it is:
//! its chain of DiffIDs. A record says that a step made a layer above such a stack, and counts only
//! there. It is believed since the user named the place; that the layer is the one that the record
//! means is verified by its digests.

use std::collections::HashMap;

use rcrun_image::document::{Descriptor, Manifest, media};
use rcrun_overlay::layer::chain::chain_ids;
use serde::{Deserialize, Serialize};

use crate::{Context, Digest, Error, ErrorKind, Result};

/// The configuration of a manifest that is such a cache.
pub const CONFIG: &str = "application/vnd.rcrun.buildcache.config.v1+json";
/// Where the configuration of an image has its records.
pub const INLINE: &str = "rcrun.buildcache.v1";
/// The version that is read and written.
const VERSION: u32 = 1;
/// Records of one cache that are read.
const RECORDS: usize = 50_000;
/// What BuildKit calls its own.
const FOREIGN: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Where BuildKit keeps its own in an image.
const FOREIGN_INLINE: &str = "moby.buildkit.cache.v0";
/// How much of an instruction a record has.
const TEXT: usize = 400;

/// A document of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Records {
    version: u32,
    /// The level that layers were compressed with; none: the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
    /// What steps made.
    pub records: Vec<Record>,
    /// What cache mounts have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
}

/// A step that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Of what it depends on.
    pub key: Digest,
    /// The key that steps above this one depend on, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub means: Option<Digest>,
    /// The chain of the layers below; none: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Digest>,
    /// Which layer of the manifest.
    pub layer: usize,
    /// Its DiffID. In an image the configuration says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Milliseconds that it took.
    #[serde(default)]
    pub took: u64,
    /// The latest time of its files, seconds since 1970.
    #[serde(default)]
    pub epoch: i64,
}

/// A cache mount's contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Its directory's name: a digest of what identifies it.
    pub name: Digest,
    /// Which layer of the manifest.
    pub layer: usize,
    /// Its DiffID.
    pub diff_id: Digest,
}

impl Records {
    /// With layers of a level.
    pub fn new(level: Option<i32>, records: Vec<Record>, mounts: Vec<Mount>) -> Self {
        Self {
            version: VERSION,
            level,
            records,
            mounts,
        }
    }
}

/// As much of an instruction as is of use.
pub fn shortened(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(TEXT)
        .collect()
}

/// A stack of layers with one more; none below: the first.
pub fn chain_with(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    match below {
        None => diff_id.clone(),
        Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
    }
}

/// A layer that can be had from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The key that steps above depend on.
    pub means: Digest,
    /// The chain of the layers below.
    pub below: Option<Digest>,
    /// Its DiffID.
    pub diff_id: Digest,
    /// Its blob.
    pub blob: Descriptor,
    /// Which cache has it.
    pub place: usize,
    /// The level that it was compressed with, where the cache knows.
    pub level: Option<Option<i32>>,
    /// The instruction.
    pub text: String,
    /// Milliseconds that it took.
    pub took: u64,
    /// The latest time of its files.
    pub epoch: i64,
}

/// All that the caches have which the user named.
#[derive(Debug, Default)]
pub struct Known {
    steps: HashMap<Digest, Vec<Remote>>,
    mounts: HashMap<Digest, Remote>,
    places: usize,
}

impl Known {
    /// Adds a cache: a manifest and its configuration. Returns its number and how many steps it knows. What
    /// is no cache of ours is an error that says what it is.
    pub fn add(&mut self, manifest: &Manifest, config: &[u8]) -> Result<(usize, usize)> {
        let place = self.places;
        let found = match manifest.config.media_type.as_str() {
            CONFIG => self.exported(manifest, config, place)?,
            media::OCI_CONFIG | media::DOCKER_CONFIG => self.inline(manifest, config, place)?,
            FOREIGN => return Err(foreign()),
            other => {
                return Err(Error::unsupported(format!(
                    "it is no build cache: its configuration is {other:?}"
                )));
            }
        };
        self.places += 1;
        Ok((place, found))
    }

    /// Whether there is anything.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.mounts.is_empty()
    }

    /// What a step made above a stack of layers.
    pub fn step(&self, key: &Digest, below: Option<&Digest>) -> Option<&Remote> {
        let all = self.steps.get(key)?;
        all.iter().find(|one| one.below.as_ref() == below)
    }

    /// A place does not have this blob after all: what it is for is not known from there any more.
    pub fn forget(&mut self, place: usize, blob: &Digest) {
        let other = |one: &Remote| one.place != place || one.blob.digest != *blob;
        for all in self.steps.values_mut() {
            all.retain(other);
        }
        self.mounts.retain(|_, one| other(one));
    }

    /// What a cache mount has.
    pub fn mount(&self, name: &Digest) -> Option<&Remote> {
        self.mounts.get(name)
    }

    fn exported(&mut self, manifest: &Manifest, config: &[u8], place: usize) -> Result<usize> {
        let records = read(config)?;
        let level = Some(records.level);
        for record in &records.records {
            let missing = || Error::invalid(format!("the record of {} has no DiffID", record.key));
            let diff_id = record.diff_id.clone().ok_or_else(missing)?;
            let blob = layer(manifest, record.layer)?;
            self.put(record, diff_id, blob, place, level);
        }
        for mount in &records.mounts {
            let blob = layer(manifest, mount.layer)?;
            let remote = Remote {
                means: mount.name.clone(),
                below: None,
                diff_id: mount.diff_id.clone(),
                blob,
                place,
                level: None,
                text: String::new(),
                took: 0,
                epoch: 0,
            };
            self.mounts.entry(mount.name.clone()).or_insert(remote);
        }
        Ok(records.records.len())
    }

    /// Of an image: its configuration has the chains, and what records say has to agree.
    fn inline(&mut self, manifest: &Manifest, config: &[u8], place: usize) -> Result<usize> {
        #[derive(Deserialize)]
        struct Image {
            #[serde(rename = "rcrun.buildcache.v1")]
            cache: Option<serde_json::Value>,
            #[serde(rename = "moby.buildkit.cache.v0")]
            foreign: Option<serde_json::Value>,
            rootfs: RootFs,
        }
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Vec<Digest>,
        }
        debug_assert_eq!(
            (INLINE, FOREIGN_INLINE),
            ("rcrun.buildcache.v1", "moby.buildkit.cache.v0")
        );
        let image: Image = serde_json::from_slice(config)
            .map_err(|e| Error::invalid(format!("cannot read its configuration: {e}")))?;
        let cache = match (image.cache, image.foreign) {
            (Some(cache), _) => cache,
            (None, Some(_)) => return Err(foreign()),
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "it is an image without a build cache",
                )
                .with_hint("`--cache-to type=inline` puts one into an image"));
            }
        };
        let records = read(&serde_json::to_vec(&cache).unwrap_or_default())?;
        let diff_ids = &image.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(Error::invalid("it has not as many layers as it says"));
        }
        let chain = chain_ids(diff_ids);
        let mut found = 0;
        for record in &records.records {
            let Some(diff_id) = diff_ids.get(record.layer) else {
                return Err(no_layer(record.layer));
            };
            let below = record.layer.checked_sub(1).map(|index| &chain[index]);
            if record.below.as_ref() != below {
                return Err(Error::invalid(format!(
                    "the record of {} is about other layers",
                    record.key
                )));
            }
            let blob = layer(manifest, record.layer)?;
            self.put(record, diff_id.clone(), blob, place, Some(records.level));
            found += 1;
        }
        Ok(found)
    }

    fn put(
        &mut self,
        record: &Record,
        diff_id: Digest,
        blob: Descriptor,
        place: usize,
        level: Option<Option<i32>>,
    ) {
        let remote = Remote {
            means: record.means.clone().unwrap_or_else(|| record.key.clone()),
            below: record.below.clone(),
            diff_id,
            blob,
            place,
            level,
            text: shortened(&record.text),
            took: record.took,
            epoch: record.epoch,
        };
        // The cache that was named first counts.
        let all = self.steps.entry(record.key.clone()).or_default();
        if !all.iter().any(|one| one.below == remote.below) {
            all.push(remote);
        }
    }
}

fn read(bytes: &[u8]) -> Result<Records> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let wrong = |e: serde_json::Error| Error::invalid(format!("its records cannot be read: {e}"));
    let Version { version } = serde_json::from_slice(bytes).map_err(wrong)?;
    if version != VERSION {
        return Err(Error::unsupported(format!(
            "it is a build cache of version {version}, and this is version {VERSION}"
        )));
    }
    let records: Records = serde_json::from_slice(bytes).map_err(wrong)?;
    if records.records.len() > RECORDS || records.mounts.len() > RECORDS {
        return Err(Error::new(
            ErrorKind::Exhausted,
            format!("it has more than {RECORDS} records"),
        ));
    }
    Ok(records)
}

fn layer(manifest: &Manifest, index: usize) -> Result<Descriptor> {
    let layer = manifest.layers.get(index).ok_or_else(|| no_layer(index))?;
    layer.layer().context(|| format!("layer {index}"))?;
    Ok(layer.clone())
}

fn no_layer(index: usize) -> Error {
    Error::invalid(format!("it has no layer {index}"))
}

fn foreign() -> Error {
    Error::unsupported("it is a cache of BuildKit, whose keys mean nothing here")
        .with_hint("write a cache with `rcrun build --cache-to`, under another name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcrun_image::document::Document;
    use serde_json::{Value, json};

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn manifest(kind: &str, layers: usize) -> Manifest {
        let layer = |index: usize| json!({"mediaType": media::OCI_LAYER_GZIP, "digest": digest(&format!("blob {index}")), "size": 5});
        let text = json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
            "config": {"mediaType": kind, "digest": digest("config"), "size": 9},
            "layers": (0..layers).map(layer).collect::<Vec<_>>(),
        });
        match Document::read(&serde_json::to_vec(&text).unwrap(), None).unwrap() {
            Document::Manifest(manifest) => *manifest,
            Document::Index(_) => panic!("no manifest"),
        }
    }

    fn record(key: &str, layer: usize) -> Value {
        json!({"key": digest(key), "layer": layer, "diffId": digest("diff"), "below": digest("below")})
    }

    fn add(kind: &str, layers: usize, config: &Value) -> (Known, Result<(usize, usize)>) {
        let mut known = Known::default();
        let result = known.add(
            &manifest(kind, layers),
            &serde_json::to_vec(config).unwrap(),
        );
        (known, result)
    }

    #[test]
    fn a_record_counts_above_the_same_layers_only() {
        let config = json!({"version": 1, "records": [record("a", 1)], "future": true});
        let (known, result) = add(CONFIG, 2, &config);
        assert_eq!(result.unwrap(), (0, 1));
        let found = known.step(&digest("a"), Some(&digest("below"))).unwrap();
        assert_eq!(found.blob.digest, digest("blob 1"));
        assert_eq!(
            (&found.means, &found.diff_id),
            (&digest("a"), &digest("diff"))
        );
        assert_eq!(known.step(&digest("a"), None), None);
        assert_eq!(known.step(&digest("a"), Some(&digest("other"))), None);
        assert_eq!(known.step(&digest("b"), Some(&digest("below"))), None);
    }

    #[test]
    fn what_is_no_cache_of_ours_is_said_to_be_what_it_is() {
        let good = json!({"version": 1, "records": []});
        for (kind, config, words) in [
            (FOREIGN, good.clone(), "of BuildKit"),
            ("application/x", good, "no build cache"),
            (CONFIG, json!({"version": 2, "records": []}), "version 2"),
            (CONFIG, json!({"records": []}), "cannot be read"),
            (CONFIG, json!([]), "cannot be read"),
            (
                CONFIG,
                json!({"version": 1, "records": [record("a", 2)]}),
                "no layer 2",
            ),
            (
                CONFIG,
                json!({"version": 1, "records": [{"key": digest("a"), "layer": 0}]}),
                "no DiffID",
            ),
            (
                CONFIG,
                json!({"version": 1, "records": [{"key": "sha256:x", "layer": 0}]}),
                "cannot be read",
            ),
            (
                media::OCI_CONFIG,
                json!({"rootfs": {"diff_ids": []}}),
                "without a build cache",
            ),
            (
                media::OCI_CONFIG,
                json!({"rootfs": {"diff_ids": []}, FOREIGN_INLINE: []}),
                "of BuildKit",
            ),
            (
                media::OCI_CONFIG,
                json!({"rootfs": {"diff_ids": []}, INLINE: {"version": 1, "records": []}}),
                "as many layers",
            ),
        ] {
            let (known, result) = add(kind, 2, &config);
            let error = result.unwrap_err().chain().to_string();
            assert!(error.contains(words), "{config}: {error}");
            assert!(known.is_empty());
        }
    }

    #[test]
    fn records_of_an_image_say_what_its_configuration_says() {
        let ids = [digest("one"), digest("two")];
        let inline = |below: &Digest| {
            json!({"rootfs": {"diff_ids": ids}, INLINE: {
                "version": 1, "records": [{"key": digest("a"), "layer": 1, "below": below}],
            }})
        };
        let (known, result) = add(media::OCI_CONFIG, 2, &inline(&ids[0]));
        assert_eq!(result.unwrap(), (0, 1));
        let found = known.step(&digest("a"), Some(&ids[0])).unwrap();
        assert_eq!(found.diff_id, ids[1]);
        let (_, result) = add(media::OCI_CONFIG, 2, &inline(&ids[1]));
        result.unwrap_err();
    }

    #[test]
    fn chains_are_those_of_the_specification() {
        let ids = [digest("one"), digest("two"), digest("three")];
        let mut chain = None;
        for (id, expected) in ids.iter().zip(chain_ids(&ids)) {
            chain = Some(chain_with(chain.as_ref(), id));
            assert_eq!(chain, Some(expected));
        }
    }
}
