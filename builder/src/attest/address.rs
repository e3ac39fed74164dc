//! Addresses as statements have them: package URLs of images, and URLs without what may be secret. Pure.
//!
//! User and password become `xxxxx`, as BuildKit has it (`util/urlutil`). It keeps queries, in which tokens and
//! signatures are; here they go.

use crate::Digest;

/// What stands in place of a user or a password.
const MASK: &str = "xxxxx";

/// A URL with user and password masked. What has no `://` has none.
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}@{}", masked(&rest[..at]), &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// `USER:PASSWORD`, masked.
pub(crate) fn masked(user: &str) -> String {
    let mask = |text: &str| match text.is_empty() {
        true => "",
        false => MASK,
    };
    match user.split_once(':') {
        Some((user, _)) => format!("{}:{MASK}", mask(user)),
        None => mask(user).to_owned(),
    }
}

/// A URL without what may be secret: user and password masked, without query and fragment.
pub fn public(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    redacted(&url[..end])
}

/// A repository: its URL, and in the fragment reference and directory.
pub fn repository(url: &str, reference: Option<&str>, subdir: Option<&str>) -> String {
    let url = public(url);
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

/// An image as a package URL: `pkg:docker/NAME@TAG?digest=...&platform=...`.
pub fn image(
    kind: &str,
    name: &str,
    tag: Option<&str>,
    digest: Option<&Digest>,
    platform: &str,
) -> String {
    let name: Vec<String> = name
        .split('/')
        .map(|part| escaped(part).replace(':', "%3A"))
        .collect();
    let name = name.join("/");
    let version = tag.map_or_else(String::new, |tag| format!("@{}", escaped(tag)));
    let digest = digest.map_or_else(String::new, |digest| format!("digest={digest}&"));
    let platform = escaped(platform);
    format!("pkg:{kind}/{name}{version}?{digest}platform={platform}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_tell_no_secrets() {
        for (url, shown) in [
            ("https://a.b/c", "https://a.b/c"),
            ("https://u:p@a.b/c", "https://xxxxx:xxxxx@a.b/c"),
            ("https://u@a.b/c", "https://xxxxx@a.b/c"),
            ("https://:p@a.b/c", "https://:xxxxx@a.b/c"),
            ("https://@a.b/c", "https://@a.b/c"),
            (
                "https://u:p@w@a.b/c@d?token=x#f",
                "https://xxxxx:xxxxx@a.b/c@d",
            ),
            ("https://u:p%zz@a.b", "https://xxxxx:xxxxx@a.b"),
            ("https://a.b?x", "https://a.b"),
            ("ssh://git@a.b/c", "ssh://xxxxx@a.b/c"),
            ("git@a.b:c", "git@a.b:c"),
        ] {
            assert_eq!(public(url), shown);
            assert_eq!(public(shown), shown, "twice is as good as once");
        }
        assert_eq!(
            redacted("https://u:p@a.b/c?x=y#z"),
            "https://xxxxx:xxxxx@a.b/c?x=y#z"
        );
    }

    #[test]
    fn repositories() {
        let url = "https://u:p@a.b/c.git";
        for (reference, subdir, shown) in [
            (None, None, ""),
            (Some("v1"), None, "#v1"),
            (Some("v1"), Some("d/e"), "#v1:d/e"),
            (None, Some("d"), "#:d"),
        ] {
            let expected = format!("https://xxxxx:xxxxx@a.b/c.git{shown}");
            assert_eq!(repository(url, reference, subdir), expected);
        }
    }

    #[test]
    fn images_are_package_urls() {
        let digest = Digest::of(b"x");
        for (name, tag, with, expected) in [
            ("example.org/a", Some("1"), false, "example.org/a@1?"),
            (
                "127.0.0.1:5000/a/b",
                Some("1"),
                false,
                "127.0.0.1%3A5000/a/b@1?",
            ),
            ("a", Some("1"), true, "a@1?digest=DIGEST&"),
            ("a", None, true, "a?digest=DIGEST&"),
        ] {
            let url = image("docker", name, tag, with.then_some(&digest), "linux/arm64");
            let expected = expected.replace("DIGEST", &digest.to_string());
            assert_eq!(url, format!("pkg:docker/{expected}platform=linux%2Farm64"));
        }
    }
}
