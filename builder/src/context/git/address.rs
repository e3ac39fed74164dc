//! What a git URL says.

use super::Secret;
use crate::{Error, Result};

/// Longest URL.
const TEXT_BYTES: usize = 8192;

/// What a git URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// For the program git, without fragment, query and password.
    pub remote: String,
    /// User and password of an HTTP URL.
    pub credential: Option<Secret>,
    /// Branch, tag, full reference or commit; none is the remote's HEAD.
    pub reference: Option<String>,
    /// A directory of the repository.
    pub subdir: Option<String>,
    /// The commit that the reference must be, or its beginning.
    pub checksum: Option<String>,
    /// `?keep-git-dir=`.
    pub keep_git_dir: Option<bool>,
    /// `?submodules=`; they come unless this is false.
    pub submodules: Option<bool>,
    /// `?fetch-by-commit=`: the checksum is the commit, and the remote is not asked for it.
    pub by_commit: bool,
    /// `?mtime=commit`: files get the time of the commit.
    pub commit_times: bool,
    /// Whether the text could as well be a path: `github.com/a/b`. ADD then takes it for one.
    pub ambiguous: bool,
    /// Whether it comes unencrypted and unauthenticated, by `git://` or `http://`.
    pub insecure: bool,
}

impl Address {
    /// Its URL to be published: whether there is a user and a password is seen, and nothing of them.
    pub fn shown(&self) -> String {
        let redacted = crate::attest::address::redacted(&self.remote);
        match (&self.credential, redacted.split_once("://")) {
            (Some(user), Some((scheme, rest))) => {
                let user = crate::attest::address::masked(user.expose());
                format!("{scheme}://{user}@{rest}")
            }
            _ => redacted,
        }
    }
}

/// A URL in its parts.
struct Parts {
    remote: String,
    credential: Option<Secret>,
    query: String,
    fragment: String,
}

/// Reads a git URL; nothing if the text is none. By HTTP only what ends with `.git` is one.
pub fn parse(text: &str) -> Result<Option<Address>> {
    if text.starts_with("./") || text.starts_with("../") || text.chars().any(char::is_control) {
        return Ok(None);
    }
    let scheme = text
        .split_once("://")
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    let alphanumeric = |scheme: &str| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let ambiguous = text.starts_with("github.com/");
    let parts = match scheme.filter(|scheme| alphanumeric(scheme)) {
        _ if ambiguous => url("https", text),
        Some(scheme) => {
            if !matches!(scheme.as_str(), "http" | "https" | "ssh" | "git") {
                return Ok(None);
            }
            let rest = text.split_once("://").map_or("", |(_, rest)| rest);
            let parts = url(&scheme, rest);
            let http = scheme.starts_with("http");
            let path = parts.remote.splitn(4, '/').nth(3).unwrap_or_default();
            if http && !percent_decoded(path).ends_with(".git") {
                return Ok(None);
            }
            parts
        }
        None => match scp(text) {
            Some(parts) => parts,
            None => return Ok(None),
        },
    };
    let Parts {
        remote,
        credential,
        query,
        fragment,
    } = parts;
    let insecure = remote.starts_with("http://") || remote.starts_with("git://");
    let mut address = Address {
        remote,
        credential,
        reference: None,
        subdir: None,
        checksum: None,
        keep_git_dir: None,
        submodules: None,
        by_commit: false,
        commit_times: false,
        ambiguous,
        insecure,
    };
    let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
    address.reference = some(reference);
    address.subdir = some(subdir.trim_matches('/'));
    let wrong = |why: String| {
        let remote = &address.remote;
        Error::invalid(format!("invalid git URL {remote}: {why}"))
    };
    if text.len() > TEXT_BYTES {
        return Err(wrong("too long".to_owned()));
    }
    let mut address = address.clone();
    read_query(&mut address, &query).map_err(wrong)?;
    check(&mut address).map_err(wrong)?;
    Ok(Some(address))
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Takes a URL apart, after its scheme.
fn url(scheme: &str, rest: &str) -> Parts {
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let http = scheme.starts_with("http");
    let credential = user.filter(|_| http).map(percent_decoded).map(Secret::new);
    let user = user
        .filter(|_| !http)
        .map(|user| format!("{user}@"))
        .unwrap_or_default();
    Parts {
        remote: format!("{scheme}://{user}{host}{path}"),
        credential,
        query: query.to_owned(),
        fragment: percent_decoded(fragment),
    }
}

/// `user@host:path`.
fn scp(text: &str) -> Option<Parts> {
    let (user, rest) = text.split_once('@')?;
    let (host, rest) = rest.split_once(':')?;
    let word = |text: &str, more: &[char]| {
        let known =
            |character: char| character.is_ascii_alphanumeric() || more.contains(&character);
        !text.is_empty() && text.chars().all(known)
    };
    if !word(user, &['-', '_']) || !word(host, &['-', '.']) {
        return None;
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Some(Parts {
        remote: format!("{user}@{host}:{path}"),
        credential: None,
        query: query.to_owned(),
        fragment: fragment.to_owned(),
    })
}

fn read_query(address: &mut Address, query: &str) -> Result<(), String> {
    let (mut tag, mut branch) = (None, None);
    let mut seen: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
        let (name, value) = (decoded(name), decoded(value));
        if seen.contains(&name) {
            return Err(format!("query {name:?} has multiple values"));
        }
        let flag = || match value.as_str() {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(format!("invalid {name} value: {value:?}")),
        };
        match name.as_str() {
            "submodules" => address.submodules = Some(flag()?),
            "keep-git-dir" => address.keep_git_dir = Some(flag()?),
            "fetch-by-commit" => address.by_commit = flag()?,
            _ if value.is_empty() => return Err(format!("query {name:?} has no value")),
            "ref" => agree("ref", &mut address.reference, &value)?,
            "subdir" => {
                let value = value.trim_matches('/').to_owned();
                agree("subdir", &mut address.subdir, &value)?;
            }
            "tag" => tag = Some(prefixed("refs/tags/", &value)),
            "branch" => branch = Some(prefixed("refs/heads/", &value)),
            "checksum" | "commit" => address.checksum = Some(value),
            "mtime" => match value.as_str() {
                "checkout" => {}
                "commit" => address.commit_times = true,
                _ => return Err(format!("invalid mtime value: {value:?}")),
            },
            _ => return Err(format!("unexpected query {name:?}")),
        }
        seen.push(name);
    }
    if tag.is_some() && branch.is_some() {
        return Err("branch conflicts with tag".to_owned());
    }
    match tag.or(branch) {
        Some(reference) => agree("ref", &mut address.reference, &reference),
        None => Ok(()),
    }
}

fn prefixed(prefix: &str, name: &str) -> String {
    match name.starts_with(prefix) {
        true => name.to_owned(),
        false => format!("{prefix}{name}"),
    }
}

fn agree(what: &str, slot: &mut Option<String>, value: &str) -> Result<(), String> {
    match slot {
        Some(before) if before != value => {
            Err(format!("{what} conflicts: {before:?} and {value:?}"))
        }
        _ => {
            *slot = some(value);
            Ok(())
        }
    }
}

/// What git could take for something else, or what leads out of the repository.
fn check(address: &mut Address) -> Result<(), String> {
    let host = match address.remote.split_once("://") {
        Some((_, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host)
        }
        None => address.remote.split_once('@').map_or("", |(_, host)| host),
    };
    if host.starts_with('-') || host.is_empty() || address.remote.starts_with('-') {
        return Err("its host is none".to_owned());
    }
    if let Some(reference) = &address.reference
        && !is_reference(reference)
    {
        return Err(format!("{reference:?} is no reference"));
    }
    if let Some(checksum) = &address.checksum
        && !(checksum.len() <= 64 && checksum.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return Err(format!("checksum {checksum:?} is no commit"));
    }
    if let Some(checksum) = &mut address.checksum {
        checksum.make_ascii_lowercase();
    }
    if let Some(subdir) = &address.subdir
        && subdir.split('/').any(|name| name == "..")
    {
        return Err(format!(
            "subdirectory {subdir:?} leads out of the repository"
        ));
    }
    Ok(())
}

/// Git's own rules for names of references (git-check-ref-format), and no option.
pub(super) fn is_reference(text: &str) -> bool {
    let odd = |character: char| character.is_control() || " ~^:?*[\\".contains(character);
    !text.is_empty()
        && text.len() <= 1024
        && !text.starts_with(['-', '/'])
        && !text.ends_with(['/', '.'])
        && !text.contains("..")
        && !text.contains("//")
        && !text.contains("@{")
        && !text.chars().any(odd)
}

/// Takes `%xx` for what it stands for; what is malformed stays.
pub(in crate::context) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parsed = Option<(&'static str, &'static str, &'static str)>;

    /// Remote, reference, subdirectory; nothing for what is no git URL.
    const URLS: &[(&str, Parsed)] = &[
        ("https://example.com/", None),
        ("https://example.com/foo", None),
        (
            "https://example.com/foo.git",
            Some(("https://example.com/foo.git", "", "")),
        ),
        (
            "https://example.com/foo.git#deadbeef",
            Some(("https://example.com/foo.git", "deadbeef", "")),
        ),
        (
            "https://example.com/foo.git#release/1.2",
            Some(("https://example.com/foo.git", "release/1.2", "")),
        ),
        ("https://example.com/foo.git/", None),
        ("https://example.com/foo.git.bar", None),
        (
            "git://example.com/foo",
            Some(("git://example.com/foo", "", "")),
        ),
        (
            "github.com/moby/buildkit",
            Some(("https://github.com/moby/buildkit", "", "")),
        ),
        (
            "github.com/moby/buildkit#master",
            Some(("https://github.com/moby/buildkit", "master", "")),
        ),
        ("custom.xyz/moby/buildkit.git", None),
        (
            "git@github.com:moby/buildkit",
            Some(("git@github.com:moby/buildkit", "", "")),
        ),
        (
            "git@github.com:a/b.git?subdir=/sub#v1",
            Some(("git@github.com:a/b.git", "v1", "sub")),
        ),
        (
            "nonstandard@example.com:/srv/x.git",
            Some(("nonstandard@example.com:/srv/x.git", "", "")),
        ),
        (
            "ssh://root@h.example:2222/root/foo.git",
            Some(("ssh://root@h.example:2222/root/foo.git", "", "")),
        ),
        (
            "https://github.com/foo/bar.git#baz/qux:quux/quuz",
            Some(("https://github.com/foo/bar.git", "baz/qux", "quux/quuz")),
        ),
        ("http://github.com/docker/docker.git:#branch", None),
        (
            "https://github.com/docker/docker.git#:myfolder",
            Some(("https://github.com/docker/docker.git", "", "myfolder")),
        ),
        ("./.git", None),
        ("../x.git", None),
        (".git", None),
        ("httpx://github.com/a.git", None),
        (
            "HTTP://github.com/a.git",
            Some(("http://github.com/a.git", "", "")),
        ),
        (
            "https://h/d.git?ref=v1&subdir=/sub",
            Some(("https://h/d.git", "v1", "sub")),
        ),
        (
            "https://h/d.git?subdir=/sub#v1",
            Some(("https://h/d.git", "v1", "sub")),
        ),
        (
            "https://h/d.git?tag=v1",
            Some(("https://h/d.git", "refs/tags/v1", "")),
        ),
        (
            "https://h/d.git?branch=v1",
            Some(("https://h/d.git", "refs/heads/v1", "")),
        ),
        (
            "https://h/d.git?branch=refs/heads/v1",
            Some(("https://h/d.git", "refs/heads/v1", "")),
        ),
        ("git@helloworld.net", None),
        ("bad:user@helloworld.net:foo/bar.git", None),
        ("", None),
    ];

    #[test]
    fn urls() {
        for &(text, expected) in URLS {
            let parsed = parse(text).unwrap();
            let shown = parsed.as_ref().map(|address| {
                let part = |part: &Option<String>| part.clone().unwrap_or_default();
                (
                    address.remote.clone(),
                    part(&address.reference),
                    part(&address.subdir),
                )
            });
            let expected = expected.map(|(remote, reference, subdir)| {
                (remote.to_owned(), reference.to_owned(), subdir.to_owned())
            });
            assert_eq!(shown, expected, "{text}");
        }
        let ambiguous = parse("github.com/a/b").unwrap().unwrap();
        assert!(ambiguous.ambiguous && !ambiguous.insecure);
        assert!(parse("git://h/a").unwrap().unwrap().insecure);
    }

    #[test]
    fn flags() {
        let text = "https://h/a.git?fetch-by-commit&checksum=DEADBEEF&keep-git-dir&submodules=false&mtime=commit";
        let address = parse(text).unwrap().unwrap();
        assert!(address.by_commit && address.commit_times);
        assert_eq!(address.keep_git_dir, Some(true));
        assert_eq!(address.submodules, Some(false));
        assert_eq!(address.checksum.as_deref(), Some("deadbeef"));
    }

    #[test]
    fn contradictions() {
        for (query, words) in [
            ("?ref=v1.0.0#v1.2.3", "ref conflicts"),
            ("?ref=v1.0.0&tag=v1.2.3", "ref conflicts"),
            ("?tag=v1.0.0&branch=v1.0", "branch conflicts with tag"),
            ("?subdir=a#x:b", "subdir conflicts"),
            ("?invalid=123", "unexpected query"),
            ("?mtime=invalid", "invalid mtime"),
            ("?fetch-by-commit=maybe", "invalid fetch-by-commit"),
            ("?ref=", "no value"),
            ("?ref=a&ref=b", "multiple values"),
            ("?checksum=xyz", "no commit"),
        ] {
            let error = parse(&format!("https://h/a.git{query}"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{query}: {error}");
        }
    }

    #[test]
    fn e7_options_and_ways_out() {
        for text in [
            "https://h/a.git#--upload-pack=x",
            "https://h/a.git?ref=-x",
            "https://h/a.git#main:../../",
            "https://h/a.git?subdir=a/../..",
            "https://h/a.git#a:b/..",
            "https://h/a.git#x%00y",
            "https://h/a.git?ref=refs/*",
            "https://h/a.git?ref=a%3ab",
            "ssh://-oProxyCommand=x/a",
            "ssh://u@-oProxyCommand=x/a",
            "git:///a",
        ] {
            let error = parse(text);
            assert!(error.is_err(), "{text}: {error:?}");
        }
        assert!(parse("-x@h:a").is_err());
    }

    #[test]
    fn e10_passwords_are_no_part_of_the_remote() {
        let address = parse("https://user:se%40cret@h/a.git").unwrap().unwrap();
        assert_eq!(address.remote, "https://h/a.git");
        assert_eq!(
            address.credential.as_ref().unwrap().expose(),
            "user:se@cret"
        );
        assert!(!format!("{address:?}").contains("cret@"));
        let error = parse("https://user:secret@h/a.git?x=1").unwrap_err();
        assert!(!error.chain().to_string().contains("secret"));
    }
}
