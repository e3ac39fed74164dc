//! `--annotation` and the fields `annotation...` of an output: what stands where in an image's documents.
//! Pure.
//!
//! The words are buildx's: `KEY=VALUE` is for each manifest; `manifest[PLATFORM]:KEY=VALUE` for one of them,
//! `manifest-descriptor` for its entry in the index, `index` for the index; several with commas.

use std::collections::BTreeMap;

use rcrun_image::platform::Platform;
use rcrun_runtime::error::{Error, Result};

/// Where one stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Descriptor,
    Index,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Annotation {
    kind: Kind,
    platform: Option<Platform>,
    key: String,
    value: String,
}

/// All of an image; later ones replace earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Annotations(Vec<Annotation>);

impl Annotations {
    /// Adds one as `--annotation` has it.
    pub(super) fn flag(&mut self, text: &str) -> Result<()> {
        let wrong = || Error::invalid(format!("{text:?} is not KEY=VALUE"));
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let (kinds, key) = match name.split_once(':') {
            Some((kinds, key)) if kinds.split(',').all(looks_like_kind) => (kinds, key),
            _ => ("manifest", name),
        };
        if key.is_empty() {
            return Err(wrong());
        }
        for kind in kinds.split(',') {
            self.add(kind, key, value)?;
        }
        Ok(())
    }

    /// Adds one as an output has it: `annotation.KEY`, `annotation-index.KEY`,
    /// `annotation-manifest[PLATFORM].KEY`; false if it is none.
    pub(super) fn field(&mut self, name: &str, value: &str) -> Result<bool> {
        let Some(rest) = name.strip_prefix("annotation") else {
            return Ok(false);
        };
        let (kind, key) = match rest.strip_prefix('.') {
            Some(key) => ("manifest", key),
            None => match rest.strip_prefix('-').and_then(|rest| rest.split_once('.')) {
                Some((kind, key)) => (kind, key),
                None => return Ok(false),
            },
        };
        if key.is_empty() {
            return Err(Error::invalid(format!("{name:?} has no key")));
        }
        self.add(kind, key, value)?;
        Ok(true)
    }

    fn add(&mut self, kind: &str, key: &str, value: &str) -> Result<()> {
        let (word, platform) = match kind.split_once('[') {
            Some((word, rest)) => {
                let wrong = || Error::invalid(format!("{kind:?} has no ] at its end"));
                let platform = rest.strip_suffix(']').ok_or_else(wrong)?;
                (word, Some(platform.parse()?))
            }
            None => (kind, None),
        };
        let kind = match word {
            "manifest" => Kind::Manifest,
            "manifest-descriptor" => Kind::Descriptor,
            "index" if platform.is_none() => Kind::Index,
            "index" => return Err(Error::invalid("an index is of all platforms")),
            "index-descriptor" => {
                return Err(Error::unsupported(
                    "index-descriptor: nothing that is written names an index",
                ));
            }
            other => {
                return Err(
                    Error::invalid(format!("unknown place {other:?} of an annotation"))
                        .with_hint("use manifest, manifest-descriptor or index"),
                );
            }
        };
        self.0.push(Annotation {
            kind,
            platform,
            key: key.to_owned(),
            value: value.to_owned(),
        });
        Ok(())
    }

    /// With those of somebody else.
    pub(super) fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    /// Of the manifest for a platform.
    pub(super) fn manifest(&self, platform: &Platform) -> BTreeMap<String, String> {
        self.of(Kind::Manifest, Some(platform))
    }

    /// Of its entry in the index.
    pub(super) fn descriptor(&self, platform: &Platform) -> BTreeMap<String, String> {
        self.of(Kind::Descriptor, Some(platform))
    }

    /// Of the index.
    pub(super) fn index(&self) -> BTreeMap<String, String> {
        self.of(Kind::Index, None)
    }

    /// That there is a place for all of them.
    pub(super) fn check(&self, index: bool) -> Result<()> {
        match self.0.iter().find(|one| one.kind != Kind::Manifest) {
            Some(one) if !index => Err(Error::invalid(format!(
                "annotation {} is for an index, and there is none: the image is of one platform, without attestations",
                one.key
            ))),
            _ => Ok(()),
        }
    }

    fn of(&self, kind: Kind, platform: Option<&Platform>) -> BTreeMap<String, String> {
        let fits = |one: &&Annotation| {
            one.kind == kind && (one.platform.is_none() || one.platform.as_ref() == platform)
        };
        let pair = |one: &Annotation| (one.key.clone(), one.value.clone());
        self.0.iter().filter(fits).map(pair).collect()
    }
}

/// Whether a word in front of a colon says a place; a key may have colons too.
fn looks_like_kind(word: &str) -> bool {
    let word = word.split('[').next().unwrap_or_default();
    word.starts_with("manifest") || word.starts_with("index")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place() {
        let mut all = Annotations::default();
        for text in [
            "a=1",
            "manifest:b=2=3",
            "index:c=4",
            "index,manifest-descriptor:d=5",
            "manifest[linux/arm64]:a=6",
            "x:y=7",
            "a=",
        ] {
            all.flag(text).unwrap();
        }
        assert!(all.field("annotation.e", "8").unwrap());
        assert!(all.field("annotation-index.f", "9").unwrap());
        assert!(
            all.field("annotation-manifest[linux/amd64].g.h", "10")
                .unwrap()
        );
        assert!(!all.field("annotate", "").unwrap());
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(a, b)| ((*a).into(), (*b).into()))
                .collect()
        };
        let amd64 = "linux/amd64".parse().unwrap();
        let arm64 = "linux/arm64".parse().unwrap();
        let same = [("b", "2=3"), ("x:y", "7"), ("e", "8")];
        let of = |more: &[(&str, &str)]| map(&[&same[..], more].concat());
        assert_eq!(all.manifest(&amd64), of(&[("a", ""), ("g.h", "10")]));
        assert_eq!(all.manifest(&arm64), of(&[("a", "")]));
        assert_eq!(all.index(), map(&[("c", "4"), ("d", "5"), ("f", "9")]));
        assert_eq!(all.descriptor(&amd64), map(&[("d", "5")]));
        all.check(true).unwrap();
        all.check(false).unwrap_err();
        for text in [
            "a",
            "=b",
            "index:=b",
            "index-descriptor:a=b",
            "index[linux/amd64]:a=b",
            "manifests:a=b",
            "manifest[linux/amd64:a=b",
        ] {
            Annotations::default().flag(text).unwrap_err();
        }
    }
}
