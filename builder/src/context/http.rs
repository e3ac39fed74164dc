//! Files from HTTP servers: ADD of a URL, and contexts.
//!
//! The file's name comes from the URL's path, as BuildKit has it; what the server calls it
//! (`Content-Disposition`) means nothing. Mode 0600; the modification time is the server's
//! `Last-Modified`, or 1970.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rcrun_image::registry::Notice;
use rcrun_image::registry::client::Options;
use rcrun_image::registry::settings::Settings;
use rcrun_image::registry::url::Url;
use rcrun_image::registry::web::{Answer, Header, Web};
use rcrun_overlay::digest::{Algorithm, Hasher};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};

use super::credentials::Credentials;
use super::git::Secret;
use super::tree::{Owners, Tree};
use crate::attest::address::redacted;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Largest file.
const FILE_BYTES: u64 = 64 << 30;
/// What a file is called whose URL has no name.
const UNNAMED: &str = "__unnamed__";

/// What is to be fetched.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `http://` or `https://`.
    pub url: &'a str,
    /// What the file is called; by the URL if none.
    pub name: Option<&'a str>,
    /// What the content must be.
    pub checksum: Option<&'a Digest>,
    /// The ETag of an earlier [`Download`]: if it still holds, nothing is fetched.
    pub etag: Option<&'a str>,
    /// What the server is shown, if there is something for it.
    pub credentials: &'a Credentials,
    /// User and password of the URL are shown to it, too, and not refused: whoever wrote them typed them. In a
    /// Dockerfile they would be there for everybody.
    pub typed: bool,
}

/// A file that was fetched.
#[derive(Debug, Clone)]
pub struct Download {
    /// The scratch directory, which contains the file.
    pub tree: Tree,
    /// The file's name in it.
    pub name: String,
    /// Of the content: what the cache key needs.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What the server calls this version.
    pub etag: Option<String>,
    /// Seconds since 1970, where the server says it.
    pub modified: Option<u64>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// The file.
    New(Download),
    /// The version with that ETag is still the one.
    Unchanged,
}

/// A client as registries are reached, with the proxies of the environment. It tells of waits.
pub fn client(notice: &Notice) -> Web {
    let mut options = Options::new(Settings::default(), |name| std::env::var(name).ok());
    options.notice = notice.clone();
    Web::new(options)
}

/// Whether a source of ADD is meant to be fetched by HTTP. Git sources are looked for before.
pub fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// The name that a URL gives its file.
pub fn name_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let path = rest[..end].split_once('/').map_or("", |(_, path)| path);
    let path = super::git::percent_decoded(path);
    let name = path.trim_end_matches('/').rsplit('/').next();
    match name.unwrap_or_default() {
        "" | "." => UNNAMED.to_owned(),
        name => name.to_owned(),
    }
}

/// A URL without user and password, and these as a header.
fn without_user(url: &str) -> (String, Option<Secret>) {
    let plain = || (url.to_owned(), None);
    let Some((scheme, rest)) = url.split_once("://") else {
        return plain();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@') else {
        return plain();
    };
    let bare = format!("{scheme}://{}", &rest[at + 1..]);
    let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
    let decoded = super::git::percent_decoded;
    let pair = format!("{}:{}", decoded(user), decoded(password));
    let header = format!("Basic {}", crate::base64(pair.as_bytes()));
    (bare, Some(Secret::new(header)))
}

/// Fetches a file into a scratch directory.
pub fn fetch(web: &Web, request: &Request<'_>, directory: BorrowedFd<'_>) -> Result<Fetched> {
    let name = request
        .name
        .map_or_else(|| name_of(request.url), str::to_owned);
    if name == ".." || name.contains(['/', '\0']) || name.len() > 255 {
        let message = format!("refuse {:?}: it names no file", redacted(request.url));
        return Err(Error::invalid(message));
    }
    let bare = request.url.split('#').next().unwrap_or_default();
    let (bare, own) = match request.typed {
        true => without_user(bare),
        false => (bare.to_owned(), None),
    };
    let url = Url::parse(&bare)?;
    let context = || format!("cannot fetch {url}");
    let mut headers = Vec::new();
    if let Some(etag) = request.etag {
        headers.push((Header::from_static("if-none-match"), etag.to_owned()));
    }
    if let Some(value) = request.credentials.http(&bare).or(own) {
        // Not shown to whom the server passes us on.
        headers.push((
            Header::from_static("authorization"),
            value.expose().to_owned(),
        ));
    }
    let answer = web.get(&url, &headers).context(context)?;
    if answer.status == 304 {
        return match request.etag {
            Some(_) => Ok(Fetched::Unchanged),
            None => Err(Error::invalid("it was not asked whether it changed")).context(context),
        };
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, &name, flags, Mode::from(0o600)).context(context)?;
    let fetched = save(answer, &file, request.checksum).and_then(|saved| {
        let root = super::open::directory(directory, b"")?;
        Ok(Download {
            tree: Tree::new(
                root,
                Owners::Root,
                request.url.split(['?', '#']).next().unwrap_or_default(),
            ),
            name: name.clone(),
            digest: saved.digest,
            size: saved.size,
            etag: saved.etag,
            modified: saved.modified,
        })
    });
    if fetched.is_err() {
        let _ = rustix::fs::unlinkat(directory, &name, AtFlags::empty());
    }
    fetched.map(Fetched::New).context(context)
}

fn save(answer: Answer, file: &OwnedFd, checksum: Option<&Digest>) -> Result<Saved> {
    let etag = answer.header("etag").map(str::to_owned);
    let modified = answer
        .header("last-modified")
        .and_then(|text| httpdate::parse_http_date(text).ok());
    let modified = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let said: Option<u64> = answer
        .header("content-length")
        .and_then(|text| text.trim().parse().ok());
    let too_large = || {
        Error::new(
            ErrorKind::Exhausted,
            format!("refuse more than {FILE_BYTES} bytes"),
        )
    };
    if said.is_some_and(|said| said > FILE_BYTES) {
        return Err(too_large());
    }
    let mut hashers: Vec<Hasher> = vec![Algorithm::Sha256.hasher()];
    if let Some(checksum) = checksum {
        hashers.push(checksum.algorithm().hasher());
    }
    let (mut size, mut buffer) = (0, vec![0; 128 << 10]);
    let mut body = answer.into_reader();
    loop {
        let length = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context(|| "the transfer broke off"),
        };
        size += length as u64;
        if size > FILE_BYTES {
            return Err(too_large());
        }
        for hasher in &mut hashers {
            hasher.update(&buffer[..length]);
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let written = rustix::io::write(file.as_fd(), rest).context(|| "cannot write it")?;
            rest = &rest[written..];
        }
    }
    if said.is_some_and(|said| said != size) {
        return Err(Error::new(ErrorKind::Unavailable, "the transfer broke off"));
    }
    if let (Some(expected), Some(hasher)) = (
        checksum,
        (hashers.len() > 1).then(|| hashers.pop()).flatten(),
    ) {
        let found = hasher.finish();
        if found != *expected {
            let message = format!("digest mismatch: it is {found}, not {expected}");
            return Err(Error::invalid(message)
                .with_hint("the file on the server is another one than --checksum says"));
        }
    }
    let seconds = modified.map(|time| time.as_secs());
    let time = Timespec {
        tv_sec: i64::try_from(seconds.unwrap_or_default()).unwrap_or_default(),
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::fchmod(file, Mode::from(0o600)).context(|| "fchmod")?;
    rustix::fs::futimens(file, &times).context(|| "futimens")?;
    let digest = hashers.swap_remove(0).finish();
    Ok(Saved {
        digest,
        size,
        etag,
        modified: seconds,
    })
}

struct Saved {
    digest: Digest,
    size: u64,
    etag: Option<String>,
    modified: Option<u64>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::context::testing::Server;

    fn get(
        server: &Server,
        path: &str,
        checksum: Option<&Digest>,
    ) -> (tempfile::TempDir, Result<Fetched>) {
        let directory = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        let url = server.url(path);
        let request = Request {
            url: &url,
            name: None,
            checksum,
            etag: None,
            credentials: &Credentials::default(),
            typed: true,
        };
        let fetched = fetch(&client(&Notice::default()), &request, fd.as_fd());
        (directory, fetched)
    }

    #[test]
    fn names() {
        for (url, name) in [
            ("http://h/a/b.tar.gz", "b.tar.gz"),
            ("http://h/a/b.txt?x=/y#z", "b.txt"),
            ("http://h", UNNAMED),
            ("http://h/", UNNAMED),
            ("http://h/a/", "a"),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2fb", "b"),
            ("http://h?x=y", UNNAMED),
        ] {
            assert_eq!(name_of(url), name, "{url}");
        }
    }

    #[test]
    fn a_file() {
        let headers = "ETag: \"v1\"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
        let server = Server::new(vec![("/d/f.txt", 200, headers, b"content".to_vec())]);
        let digest = Digest::of(b"content");
        let (directory, fetched) = get(&server, "/d/f.txt", Some(&digest));
        let Fetched::New(download) = fetched.unwrap() else {
            panic!("unchanged");
        };
        assert_eq!(
            (download.name.as_str(), &download.digest, download.size),
            ("f.txt", &digest, 7)
        );
        assert_eq!(download.etag.as_deref(), Some("\"v1\""));
        let stat = std::fs::metadata(directory.path().join("f.txt")).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o600, 1_445_412_480));
        assert_eq!(download.modified, Some(1_445_412_480));
    }

    #[test]
    fn unchanged() {
        let server = Server::new(vec![("/f", 304, "", Vec::new())]);
        let directory = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        let url = server.url("/f");
        let request = Request {
            url: &url,
            name: None,
            checksum: None,
            etag: Some("\"v1\""),
            credentials: &Credentials::default(),
            typed: true,
        };
        let fetched = fetch(&client(&Notice::default()), &request, fd.as_fd()).unwrap();
        assert!(matches!(fetched, Fetched::Unchanged));
        assert!(
            server.seen().contains("if-none-match: \"v1\""),
            "{}",
            server.seen()
        );
    }

    #[test]
    fn a_wrong_digest_leaves_nothing() {
        let server = Server::new(vec![("/f", 200, "", b"content".to_vec())]);
        let (directory, fetched) = get(&server, "/f", Some(&Digest::of(b"other")));
        let error = fetched.unwrap_err().chain().to_string();
        assert!(error.contains("digest mismatch"), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_file_is_named() {
        let server = Server::new(vec![]);
        let (_directory, fetched) = get(&server, "/gone", None);
        let error = fetched.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.chain().to_string().contains("/gone"));
    }

    #[test]
    fn e8_a_server_does_not_choose_the_name() {
        let headers = "Content-Disposition: attachment; filename=\"../../x\"\r\n";
        let server = Server::new(vec![
            ("/f", 302, "Location: /%2e%2e/..%2fevil\r\n", Vec::new()),
            ("/%2e%2e/..%2fevil", 200, headers, b"x".to_vec()),
        ]);
        let (directory, fetched) = get(&server, "/f", None);
        fetched.unwrap();
        assert!(directory.path().join("f").exists());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        for path in ["/..", "/a/%2e%2e", "/a%00b"] {
            let (directory, fetched) = get(&server, path, None);
            assert!(fetched.is_err(), "{path}");
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn e10_credentials_are_for_their_server_only() {
        let other = Server::new(vec![("/g", 200, "", b"x".to_vec())]);
        let place = format!("Location: {}\r\n", other.url("/g"));
        let server = Server::new(vec![
            ("/f", 302, Box::leak(place.into_boxed_str()), Vec::new()),
            ("/own", 302, "Location: /h\r\n", Vec::new()),
            ("/h", 200, "", b"x".to_vec()),
        ]);
        let secret: [(&str, &[u8]); 1] = [("HTTP_AUTH_TOKEN_127.0.0.1", b"canary")];
        let credentials = Credentials::among(secret);
        for path in ["/f", "/own"] {
            let directory = tempfile::tempdir().unwrap();
            let fd = OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
            let request = Request {
                url: &server.url(path),
                name: None,
                checksum: None,
                etag: None,
                credentials: &credentials,
                typed: true,
            };
            fetch(&client(&Notice::default()), &request, fd.as_fd()).unwrap();
        }
        // Another port is another server.
        assert!(!other.seen().contains("canary"), "{}", other.seen());
        assert_eq!(
            server
                .seen()
                .matches("authorization: bearer canary")
                .count(),
            3
        );
    }

    #[test]
    fn e10_users_of_addresses_are_told_their_server_only() {
        let other = Server::new(vec![("/g", 200, "", b"x".to_vec())]);
        let place = format!("Location: {}\r\n", other.url("/g"));
        let server = Server::new(vec![
            ("/f", 200, "", b"x".to_vec()),
            ("/g", 302, Box::leak(place.into_boxed_str()), Vec::new()),
            ("/gone", 404, "", Vec::new()),
        ]);
        let get = |path: &str| {
            let directory = tempfile::tempdir().unwrap();
            let fd = OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
            let url = server.url(path).replace("http://", "http://u%40:canary@");
            let request = Request {
                url: &url,
                name: None,
                checksum: None,
                etag: None,
                credentials: &Credentials::default(),
                typed: true,
            };
            fetch(&client(&Notice::default()), &request, fd.as_fd())
        };
        get("/f").unwrap();
        let header = format!("authorization: basic {}", crate::base64(b"u@:canary"));
        let seen = server.seen();
        assert!(
            seen.contains(&header.to_lowercase()) || seen.contains(&header),
            "{seen}"
        );
        get("/g").unwrap();
        assert!(!other.seen().contains("authorization"), "{}", other.seen());
        let error = get("/gone").unwrap_err().chain().to_string();
        assert!(!error.contains("canary"), "{error}");
        for (url, bare) in [
            ("http://a.b/c@d", "http://a.b/c@d"),
            ("http://a.b?c@d", "http://a.b?c@d"),
        ] {
            assert_eq!(without_user(url).0, bare);
        }
    }

    #[test]
    fn redirects_end() {
        let server = Server::new(vec![("/f", 302, "Location: /f\r\n", Vec::new())]);
        let (_directory, fetched) = get(&server, "/f", None);
        let error = fetched.unwrap_err().chain().to_string();
        assert!(error.contains("redirects"), "{error}");
    }
}
