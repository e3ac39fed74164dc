//! What is attested of an image: in-toto statements about its manifest (in-toto attestation v1). Pure, but for
//! [`packages`], which looks into the image's files.
//!
//! Nothing in them is of the moment: no times, no random names, unless the user asks for times. So the same
//! build gives the same statements.

pub mod golang;
pub mod packages;
pub mod provenance;
pub mod sbom;

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

/// An image as a package URL: `pkg:docker/NAME@TAG?platform=...`.
pub fn image_url(name: &str, tag: Option<&str>, digest: Option<&Digest>, platform: &str) -> String {
    let version = match (tag, digest) {
        (Some(tag), _) => format!("@{}", escaped(tag)),
        (None, Some(digest)) => format!("@{}", escaped(&digest.to_string())),
        (None, None) => String::new(),
    };
    let digest = match (tag, digest) {
        (Some(_), Some(digest)) => format!("digest={digest}&"),
        _ => String::new(),
    };
    format!(
        "pkg:docker/{name}{version}?{digest}platform={}",
        escaped(platform)
    )
}

/// What package URLs percent-encode.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// A URL without what may be secret: user, password, query and fragment.
pub fn public_url(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let host = rest.find('/').unwrap_or(rest.len());
    let start = rest[..host].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[start..])
}

/// A repository: its URL, and in the fragment reference and directory.
pub fn repository_url(url: &str, reference: Option<&str>, subdir: Option<&str>) -> String {
    let url = public_url(url);
    match (reference, subdir) {
        (None, None) => url,
        (reference, None) => format!("{url}#{}", reference.unwrap_or_default()),
        (reference, Some(subdir)) => format!("{url}#{}:{subdir}", reference.unwrap_or_default()),
    }
}

/// How commits of a repository are hashed.
pub(crate) fn algorithm_of(commit: &str) -> &'static str {
    match commit.len() {
        64 => "sha256",
        _ => "sha1",
    }
}

/// The same of what may be a package URL, whose query says what it is.
pub(crate) fn public_url_of(uri: &str) -> String {
    match uri.starts_with("pkg:") {
        true => uri.to_owned(),
        false => public_url(uri),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_tell_no_secrets() {
        for (url, expected) in [
            ("https://a.b/c", "https://a.b/c"),
            ("https://u:p@a.b/c", "https://a.b/c"),
            ("https://u:p@w@a.b/c@d?token=x#f", "https://a.b/c@d"),
            ("https://a.b?x", "https://a.b"),
            ("git@a.b:c", "git@a.b:c"),
        ] {
            assert_eq!(public_url(url), expected);
        }
    }

    #[test]
    fn a_statement_has_a_subject_for_each_name() {
        let digest = Digest::of(b"x");
        let url = image_url("example.org/a", Some("1"), None, "linux/amd64");
        assert_eq!(url, "pkg:docker/example.org/a@1?platform=linux%2Famd64");
        let of = |names: &[String]| statement(names, &digest, SPDX, &json!({}))["subject"].clone();
        let sha = json!({"sha256": digest.hex()});
        assert_eq!(of(&[]), json!([{"name": "_", "digest": sha}]));
        assert_eq!(
            of(&[url.clone(), "b".into()]),
            json!([{"name": url, "digest": sha}, {"name": "b", "digest": sha}])
        );
        let both = image_url("a", Some("1"), Some(&digest), "p");
        assert_eq!(both, format!("pkg:docker/a@1?digest={digest}&platform=p"));
    }
}
