//! What is told of an image. Pure: facts in, messages out.

use std::collections::{BTreeMap, BTreeSet};

use rcrun_image::Digest;
use rcrun_image::document::ImageConfig;
use rcrun_image::names::{Record, UNNAMED};
use rcrun_image::platform::Platform;

use crate::proto::v1 as cri;
use crate::{Error, ErrorKind, Result};

/// What is kept of an image in memory.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The digest of its configuration.
    pub(super) id: Digest,
    /// The digest of its manifest.
    pub(super) manifest: Digest,
    /// What it is made for.
    pub(super) platform: Platform,
    /// `USER[:GROUP]`.
    pub(super) user: String,
    /// Bytes that it takes.
    pub(super) size: u64,
    /// Of its manifest.
    pub(super) annotations: BTreeMap<String, String>,
}

/// The message, with the names that stand for this image on this machine.
pub(super) fn image(facts: &Facts, names: &[Record], pinned: bool) -> cri::Image {
    let (mut tags, mut digests) = (BTreeSet::new(), BTreeSet::new());
    for record in names {
        let Ok(name) = record.reference() else {
            continue;
        };
        if name.name() == UNNAMED {
            continue;
        }
        if name.digest().is_none() {
            tags.insert(name.to_string());
        }
        let digest = name.digest().unwrap_or(&record.target.digest).clone();
        digests.insert(name.with_digest(digest).to_string());
    }
    let (uid, username) = user(&facts.user);
    let annotations = facts.annotations.clone();
    cri::Image {
        id: facts.id.to_string(),
        repo_tags: tags.into_iter().collect(),
        repo_digests: digests.into_iter().collect(),
        size: facts.size,
        uid: uid.map(|value| cri::Int64Value { value }),
        username,
        spec: (!annotations.is_empty()).then(|| cri::ImageSpec {
            image: facts.id.to_string(),
            annotations,
            ..Default::default()
        }),
        pinned,
    }
}

/// A number is a user's, anything else a name; the group does not count.
fn user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    let digits = !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_digit());
    match user.parse::<i64>() {
        Ok(uid) if digits => (Some(uid), String::new()),
        _ => (None, user.to_owned()),
    }
}

/// What crictl's users look for: the configuration as it is, and the name of the layers.
pub(super) fn verbose(raw: &[u8]) -> Result<BTreeMap<String, String>> {
    let corrupt = |error: serde_json::Error| Error::new(ErrorKind::Corrupt, error.to_string());
    let config = ImageConfig::read(raw)?;
    let chain = rcrun_overlay::layer::chain::chain_ids(&config.rootfs.diff_ids);
    let spec: serde_json::Value = serde_json::from_slice(raw).map_err(corrupt)?;
    let info = serde_json::json!({
        "chainID": chain.last().map(ToString::to_string).unwrap_or_default(),
        "imageSpec": spec,
    });
    Ok(BTreeMap::from([("info".to_owned(), info.to_string())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, target: &Digest) -> Record {
        serde_json::from_value(serde_json::json!({
            "version": 1, "name": name, "since": 0,
            "target": {"mediaType": "x", "digest": target, "size": 1},
        }))
        .unwrap()
    }

    fn facts(user: &str) -> Facts {
        Facts {
            id: Digest::of(b"config"),
            manifest: Digest::of(b"manifest"),
            platform: Platform::host(),
            user: user.to_owned(),
            size: 7,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn names_become_tags_and_digests() {
        let (index, other) = (Digest::of(b"index"), Digest::of(b"other"));
        let records = [
            record("b.io/x/a:2", &index),
            record("b.io/x/a:1", &index),
            record(&format!("b.io/x/a@{other}"), &other),
            record(&format!("c.io/y:3@{other}"), &other),
            record(&format!("{UNNAMED}@{other}"), &other),
        ];
        let told = image(&facts(""), &records, true);
        assert_eq!(told.repo_tags, ["b.io/x/a:1", "b.io/x/a:2"]);
        let mut expected = vec![
            format!("b.io/x/a@{index}"),
            format!("b.io/x/a@{other}"),
            format!("c.io/y@{other}"),
        ];
        expected.sort();
        assert_eq!(told.repo_digests, expected);
        assert_eq!((told.size, told.pinned, told.spec), (7, true, None));
        assert_eq!(told.id, Digest::of(b"config").to_string());
    }

    #[test]
    fn users() {
        for (text, uid, name) in [
            ("", None, ""),
            ("0", Some(0), ""),
            ("1000:1001", Some(1000), ""),
            ("www:1001", None, "www"),
            ("www", None, "www"),
            ("+5", None, "+5"),
            ("-5", None, "-5"),
            ("99999999999999999999", None, "99999999999999999999"),
            (":5", None, ""),
        ] {
            assert_eq!(user(text), (uid, name.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn annotations_are_of_the_image() {
        let mut facts = facts("");
        facts.annotations.insert("a".into(), "b".into());
        let spec = image(&facts, &[], false).spec.unwrap();
        assert_eq!(spec.image, facts.id.to_string());
        assert_eq!(spec.annotations["a"], "b");
    }

    #[test]
    fn the_configuration_is_shown_as_it_is() {
        let diff_id = Digest::of(b"layer");
        let raw = serde_json::json!({
            "os": "linux", "architecture": "amd64", "unknown": [1],
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let info = verbose(raw.to_string().as_bytes()).unwrap();
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        assert_eq!(info["imageSpec"], raw);
        assert_eq!(info["chainID"], diff_id.to_string());
    }
}
