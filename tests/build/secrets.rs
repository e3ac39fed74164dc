//! Secrets and passwords are in nothing that a build leaves (CVE-2023-26054 and its like): store, image, cache,
//! statements and messages are searched for canaries.

use crate::harness::builds::{Build, Builds};
use crate::harness::{Env, Need, Test, test};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(e10_secrets_are_in_nothing_that_is_left),
        test!(e10_passwords_of_addresses_are_in_no_message),
        test!(e10_credentials_of_servers_are_for_these_alone).needs(Need::Program("git")),
    ]
}

/// Files below a directory that have a canary, layers decompressed where nothing else can tell.
fn search(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if entry.file_name().to_string_lossy().contains("canary") {
            found.push(path.display().to_string());
        }
        if kind.is_dir() {
            search(&path, found);
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap();
            if bytes.windows(6).any(|some| some == b"canary") {
                found.push(path.display().to_string());
            }
        }
    }
}

#[track_caller]
fn assert_none(builds: &Builds<'_>, places: &[&Path], build: &Build) {
    let mut found = Vec::new();
    search(&builds.shelf.path(), &mut found);
    for place in places {
        search(place, &mut found);
    }
    assert!(found.is_empty(), "canaries in {found:?}");
    assert!(!build.output.stderr.contains("canary"), "{}", build.output);
    assert!(!build.output.stdout.contains("canary"), "{}", build.output);
}

fn e10_secrets_are_in_nothing_that_is_left(env: &Env) {
    let builds = Builds::new(env);
    let file = env.path("secret");
    fs::write(&file, "canary-file").unwrap();
    builds.shelf.set("SECRET_OF_TEST", "canary-variable");
    builds
        .shelf
        .set("HTTPS_PROXY", "http://u:canary-own@127.0.0.1:1");
    let (cache, out) = (env.path("cache"), env.path("layout"));
    let flags = [
        &format!("--secret=id=file,src={}", file.display()),
        "--secret=id=variable,env=SECRET_OF_TEST",
        "--build-arg=HTTP_PROXY=http://u:canary-proxy@127.0.0.1:1",
        "--build-arg=no_proxy=canary.example.org",
        "--provenance=mode=max",
        "--sbom=true",
        "--explain",
        &format!(
            "--cache-to=type=local,dest={},mode=max,cache-mounts=true",
            cache.display()
        ),
        &format!("--output=type=oci,tar=false,dest={}", out.display()),
        "--output=type=image",
    ];
    // Each is really there: the step fails otherwise.
    let text = "FROM base\n\
        RUN --mount=type=secret,id=file grep -q ^can\"\"ary /run/secrets/file\n\
        RUN --mount=type=secret,id=variable,env=TOKEN,required --mount=type=cache,target=/c \
            test \"${TOKEN#can\"\"ary}\" != \"$TOKEN\" && echo >/c/x\n\
        RUN test \"${HTTP_PROXY#*can\"\"ary}\" != \"$HTTP_PROXY\"\n";
    let build = builds.of(&flags, text, &[]);
    assert_eq!(build.done().len(), 3);
    assert_none(&builds, &[&cache, &out], &build);
    // The search finds what is there.
    builds.of(&[], "FROM scratch\nCOPY f /\n", &[("f", "canary")]);
    let mut found = Vec::new();
    search(&builds.shelf.path(), &mut found);
    assert!(!found.is_empty());
}

fn e10_passwords_of_addresses_are_in_no_message(env: &Env) {
    let builds = Builds::new(env);
    let host = builds.shelf.registry.host().to_owned();
    let cache = env.path("cache");
    let flag = format!("--cache-to=type=local,dest={},mode=max", cache.display());
    let flags = [&flag, "--provenance=mode=max", "--explain"];
    for address in ["/file", "/a.git"] {
        let address = format!("http://u:canary@{host}{address}");
        let context = builds.dockerfile(&format!("FROM base\nADD {address} /x\n"));
        let build = builds.build(&flags, &context);
        assert_none(&builds, &[&cache], &build.fails("ADD http://xxxx"));
    }
}

/// A server that has nothing; what it was asked.
fn heard() -> (String, std::sync::Arc<std::sync::Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let log = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut request) = (stream.unwrap(), vec![0; 8192]);
            let length = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]);
            log.lock().unwrap().push_str(&request.to_lowercase());
            let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(none.as_bytes());
        }
    });
    (address, heard)
}

fn e10_credentials_of_servers_are_for_these_alone(env: &Env) {
    let builds = Builds::new(env);
    builds.shelf.set("OWN", "canary");
    let (host, heard) = heard();
    let cache = env.path("cache");
    let to = format!("--cache-to=type=local,dest={},mode=max", cache.display());
    // base64 of "x-access-token:canary"
    let basic = "authorization: basic ec1hy2nlc3mtdg9rzw46y2fuyxj5";
    for (id, path, expected) in [
        (
            "HTTP_AUTH_TOKEN_127.0.0.1",
            "f",
            "authorization: bearer canary",
        ),
        ("HTTP_AUTH_HEADER_127.0.0.1", "f", "authorization: canary"),
        ("HTTP_AUTH_TOKEN_example.org", "f", ""),
        (&format!("GIT_AUTH_TOKEN.{host}"), "a.git", basic),
        (
            &format!("GIT_AUTH_HEADER.{host}"),
            "a.git",
            "authorization: canary",
        ),
        // Not encrypted, and not meant for this server.
        ("GIT_AUTH_TOKEN", "a.git", ""),
    ] {
        heard.lock().unwrap().clear();
        let secret = format!("--secret=id={id},env=OWN");
        let context = builds.dockerfile(&format!("FROM base\nADD http://{host}/{path} /x\n"));
        let build = builds.build(&[&secret, &to, "--provenance=mode=max"], &context);
        assert_none(&builds, &[&cache], &build.fails("ADD http://"));
        let heard = heard.lock().unwrap().clone();
        assert!(heard.contains("get /"), "{id}: {heard}");
        assert!(heard.contains(expected), "{id}: {heard}");
        assert_eq!(
            heard.contains("authorization"),
            !expected.is_empty(),
            "{id}: {heard}"
        );
    }
}
