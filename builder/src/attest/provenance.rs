//! SLSA provenance v1: what an image was built from, and how it was asked for.
//!
//! The fields that SLSA leaves to builders are named as BuildKit names them, so that its readers find them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{algorithm_of, image_url, public_url, repository_url};
use crate::export::time::rfc3339;
use crate::graph::{Base, Graph};
use crate::solve::Material;

/// What `buildType` says; `docs/attestations.md` describes it.
pub const BUILD_TYPE: &str = "urn:rcrun:build:v1";

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What went in.
    Min,
    /// Also values of arguments, labels, which secrets and agents, and the Dockerfile.
    Max,
}

/// Where a context is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A repository.
    Commit {
        /// Its URL.
        remote: String,
        /// What was asked for.
        reference: Option<String>,
        /// The directory of it.
        subdir: Option<String>,
        /// What that is.
        commit: String,
    },
    /// A file of a server.
    File(String),
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// How much is told.
    pub mode: Mode,
    /// `builder.id`
    pub builder: &'a str,
    /// The user says that it gives the same every time.
    pub reproducible: bool,
    /// The Dockerfile's name and text.
    pub dockerfile: (&'a str, &'a [u8]),
    /// The context, if it has an address.
    pub context: Option<&'a Origin>,
    /// `--target`
    pub target: Option<&'a str>,
    /// `--build-arg`
    pub arguments: &'a BTreeMap<String, String>,
    /// `--label`
    pub labels: &'a BTreeMap<String, String>,
    /// Identifiers of secrets.
    pub secrets: Vec<&'a str>,
    /// Identifiers of agents.
    pub agents: Vec<&'a str>,
    /// The machine's.
    pub platform: String,
    /// When it began and ended, seconds since 1970, if that is wanted.
    pub times: Option<(i64, i64)>,
}

/// The predicate.
pub fn predicate(asked: &Asked<'_>, graph: &Graph, materials: &BTreeSet<Material>) -> Value {
    let mut all = BTreeSet::new();
    for stage in graph.stages.iter().filter(|stage| stage.needed) {
        if let Base::Image(base) = &stage.base {
            all.insert(base_image(
                &base.reference,
                &base.image.manifest.digest,
                &stage.platform.to_string(),
            ));
        }
    }
    all.extend(materials.iter().cloned());
    if let Some(Origin::Commit {
        remote,
        reference,
        commit,
        ..
    }) = asked.context
    {
        all.insert(Material::commit(remote, reference.as_deref(), commit));
    }
    let dependencies: Vec<Value> = all
        .iter()
        .map(|one| json!({"uri": one.uri, "digest": {one.algorithm.as_str(): one.digest}}))
        .collect();
    let mut source = json!({"path": asked.dockerfile.0});
    match asked.context {
        Some(Origin::Commit {
            remote,
            reference,
            subdir,
            commit,
        }) => {
            let uri = repository_url(remote, reference.as_deref(), subdir.as_deref());
            source["uri"] = json!(uri);
            source["digest"] = json!({algorithm_of(commit): commit});
        }
        Some(Origin::File(url)) => source["uri"] = json!(public_url(url)),
        None => {}
    }
    let mut metadata = json!({
        "buildkit_reproducible": asked.reproducible,
        "buildkit_completeness": {"request": asked.mode == Mode::Max, "resolvedDependencies": false},
    });
    if asked.mode == Mode::Max {
        let (name, text) = asked.dockerfile;
        metadata["buildkit_metadata"] = json!({
            "source": {"infos": [{"filename": name, "language": "Dockerfile", "data": base64(text)}]},
        });
    }
    if let Some((began, ended)) = asked.times {
        metadata["startedOn"] = json!(rfc3339(began));
        metadata["finishedOn"] = json!(rfc3339(ended));
    }
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"configSource": source, "request": request(asked)},
            "internalParameters": {"builderPlatform": asked.platform},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {"builder": {"id": asked.builder}, "metadata": metadata},
    })
}

fn request(asked: &Asked<'_>) -> Value {
    let mut arguments = Map::new();
    if let Some(target) = asked.target {
        arguments.insert("target".into(), json!(target));
    }
    let mut request = json!({"frontend": "dockerfile.v0"});
    if asked.mode == Mode::Max {
        for (name, value) in asked.arguments {
            if is_proxy(name) {
                continue;
            }
            arguments.insert(format!("build-arg:{name}"), json!(without_password(value)));
        }
        for (name, value) in asked.labels {
            arguments.insert(format!("label:{name}"), json!(value));
        }
        let ids = |ids: &[&str]| -> Vec<Value> { ids.iter().map(|id| json!({"id": id})).collect() };
        if !asked.secrets.is_empty() {
            request["secrets"] = json!(ids(&asked.secrets));
        }
        if !asked.agents.is_empty() {
            request["ssh"] = json!(ids(&asked.agents));
        }
    }
    request["args"] = Value::Object(arguments);
    request
}

/// Addresses of proxies, with passwords perhaps, are of the place and not of the build.
fn is_proxy(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(
        name.as_str(),
        "http_proxy" | "https_proxy" | "ftp_proxy" | "no_proxy" | "all_proxy"
    )
}

/// A value that is a URL has no user and password.
fn without_password(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return value.to_owned();
    };
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => value.to_owned(),
    }
}

fn base_image(reference: &str, digest: &crate::Digest, platform: &str) -> Material {
    if let Some(layout) = reference.strip_prefix("oci-layout://") {
        // What it is called, and not where it lies on this machine.
        let name = layout.trim_end_matches('/').rsplit('/').next();
        let name = name.and_then(|name| name.split(':').next());
        let name = super::escaped(name.unwrap_or_default());
        let (version, platform) = (
            super::escaped(&digest.to_string()),
            super::escaped(platform),
        );
        let uri = format!("pkg:oci/{name}@{version}?platform={platform}");
        return Material::new(&uri, digest);
    }
    let uri = match reference.parse::<rcrun_image::reference::Reference>() {
        Ok(name) => image_url(&name.familiar_name(), name.tag(), name.digest(), platform),
        Err(_) => image_url(reference, None, None, platform),
    };
    Material::new(&uri, digest)
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for some in bytes.chunks(3) {
        let byte = |index: usize| u32::from(some.get(index).copied().unwrap_or_default());
        let all = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let letter = LETTERS[(all >> (18 - 6 * index) & 63) as usize];
            text.push(if index > some.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_rfc_4648_has_it() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("\u{ff}\u{3f}", "w78/"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn what_is_told_depends_on_the_mode() {
        let arguments: BTreeMap<String, String> = [
            ("A", "1"),
            ("HTTP_PROXY", "http://u:canary@p"),
            ("URL", "https://u:canary@a.b/c?d"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .into();
        let labels = [("l".to_owned(), "m".to_owned())].into();
        let graph = Graph {
            stages: Vec::new(),
            target: 0,
            epoch: None,
        };
        let materials = [Material::new("https://a.b/f", &crate::Digest::of(b"f"))].into();
        let origin = Origin::Commit {
            remote: "https://u:canary@a.b/c.git".into(),
            reference: Some("main".into()),
            subdir: Some("d".into()),
            commit: "abc".into(),
        };
        let asked = |mode| Asked {
            mode,
            builder: "me",
            reproducible: false,
            dockerfile: ("Dockerfile", b"FROM scratch"),
            context: Some(&origin),
            target: Some("t"),
            arguments: &arguments,
            labels: &labels,
            secrets: vec!["s"],
            agents: vec!["default"],
            platform: "linux/amd64".into(),
            times: (mode == Mode::Max).then_some((0, 60)),
        };
        let least = predicate(&asked(Mode::Min), &graph, &materials);
        let most = predicate(&asked(Mode::Max), &graph, &materials);
        for one in [&least, &most] {
            assert!(!one.to_string().contains("canary"), "{one}");
            let definition = &one["buildDefinition"];
            assert_eq!(
                definition["resolvedDependencies"],
                json!([
                    {"uri": "https://a.b/c.git#main", "digest": {"sha1": "abc"}},
                    {"uri": "https://a.b/f", "digest": {"sha256": crate::Digest::of(b"f").hex()}},
                ])
            );
            assert_eq!(
                definition["externalParameters"]["configSource"],
                json!({"path": "Dockerfile", "uri": "https://a.b/c.git#main:d", "digest": {"sha1": "abc"}})
            );
        }
        let request = |one: &Value| one["buildDefinition"]["externalParameters"]["request"].clone();
        assert_eq!(
            request(&least),
            json!({"frontend": "dockerfile.v0", "args": {"target": "t"}})
        );
        assert_eq!(
            request(&most),
            json!({
                "frontend": "dockerfile.v0", "secrets": [{"id": "s"}], "ssh": [{"id": "default"}],
                "args": {
                    "target": "t", "build-arg:A": "1", "build-arg:URL": "https://a.b/c?d",
                    "label:l": "m",
                },
            })
        );
        let metadata = &most["runDetails"]["metadata"];
        assert_eq!(metadata["finishedOn"], "1970-01-01T00:01:00Z");
        assert_eq!(
            metadata["buildkit_metadata"]["source"]["infos"][0]["data"],
            base64(b"FROM scratch")
        );
        assert!(least["runDetails"]["metadata"].get("startedOn").is_none());
    }
}
