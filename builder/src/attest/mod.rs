//! What is attested of an image: in-toto statements about its manifest (in-toto attestation v1). Pure, but for
//! [`packages`], which looks into the image's files.
//!
//! Nothing in them is of the moment: no times, no random names, unless the user asks for times. So the same
//! build gives the same statements.

pub mod address;
pub mod golang;
pub mod packages;
pub mod provenance;
mod rpm;
pub mod sbom;
pub mod steps;

use serde_json::{Value, json};

use crate::Digest;
use crate::context::listing::Listed;

/// The media type of a statement.
pub const STATEMENT: &str = "application/vnd.in-toto+json";
/// The predicate of an SBOM.
pub const SPDX: &str = "https://spdx.dev/Document";
/// The predicate of provenance.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// A statement about an image: one subject for each of its names.
pub fn statement(names: &[String], manifest: &Digest, kind: &str, predicate: &Value) -> Value {
    let digest = json!({manifest.algorithm().name(): manifest.hex()});
    let nameless = ["_".to_owned()];
    let names = if names.is_empty() {
        &nameless[..]
    } else {
        names
    };
    let subject: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "digest": digest}))
        .collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": kind,
        "subject": subject,
        "predicate": predicate,
    })
}

/// A statement about files: a subject for each.
pub fn statement_of_files(files: &[Listed], kind: &str, predicate: &Value) -> Value {
    let subject = files.iter().filter_map(|file| {
        let digest = file.digest.as_ref()?;
        let digest = json!({digest.algorithm().name(): digest.hex()});
        let name = String::from_utf8_lossy(&file.path);
        Some(json!({"name": name, "digest": digest}))
    });
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": kind,
        "subject": subject.collect::<Vec<_>>(),
        "predicate": predicate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_a_subject_for_each_name() {
        let digest = Digest::of(b"x");
        let url = address::image("docker", "example.org/a", Some("1"), None, "linux/amd64");
        assert_eq!(url, "pkg:docker/example.org/a@1?platform=linux%2Famd64");
        let of = |names: &[String]| statement(names, &digest, SPDX, &json!({}))["subject"].clone();
        let sha = json!({"sha256": digest.hex()});
        assert_eq!(of(&[]), json!([{"name": "_", "digest": sha}]));
        assert_eq!(
            of(&[url.clone(), "b".into()]),
            json!([{"name": url, "digest": sha}, {"name": "b", "digest": sha}])
        );
    }
}
