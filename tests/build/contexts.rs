//! Where files come from: directories, ignore files, archives, standard input, names, and the network.

use super::copy_sources::archive;
use crate::harness::builds::{Build, Builds, Case};
use crate::harness::{Env, Need, Test, test};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(ignore_files),
        test!(dockerfiles_elsewhere),
        test!(standard_input),
        test!(downloads),
        test!(repositories).needs(Need::Program("git")),
    ]
}

const CASE: Case<'_> = Case::NONE;

fn ignore_files(env: &Env) {
    let builds = Builds::new(env);
    let all = "FROM scratch\nCOPY . /\n";
    let of = |ignore: &'static str| {
        [
            (".dockerignore", ignore),
            ("foo", "1"),
            ("bar", "1"),
            ("bay", "1"),
            ("d/foo", "1"),
            ("d/e/bar", "1"),
        ]
    };
    let first = of("ba*\nDockerfile\n!bay\n.dockerignore\n");
    let deep = of("# a comment\n\n**/foo\n  /d/e/ \n");
    let except = of("*\n!d/e\n!Dockerfile\n");
    let bom = of("\u{feff}foo\n");
    let broken = of("!\n");
    let bracket = of("[\n");
    builds.table(&[
        Case {
            name: "patterns, exceptions, the Dockerfile and itself",
            dockerfile: all,
            context: &first,
            expected: &[
                ("foo", "f 644 0:0 1"),
                ("bar", "-"),
                ("bay", "f 644 0:0 1"),
                ("Dockerfile", "-"),
                (".dockerignore", "-"),
                ("d/e/bar", "f 644 0:0 1"),
            ],
            ..CASE
        },
        Case {
            name: "two stars, comments, space, a slash",
            dockerfile: all,
            context: &deep,
            expected: &[
                ("foo", "-"),
                ("d/foo", "-"),
                ("d/e", "-"),
                ("bar", "f 644 0:0 1"),
            ],
            ..CASE
        },
        Case {
            name: "everything but a directory below",
            dockerfile: all,
            context: &except,
            expected: &[("d/e/bar", "f 644 0:0 1"), ("d/foo", "-"), ("foo", "-")],
            ..CASE
        },
        Case {
            name: "a byte order mark",
            dockerfile: all,
            context: &bom,
            expected: &[("foo", "-"), ("bar", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "an exception from nothing",
            dockerfile: all,
            context: &broken,
            fails: ".dockerignore",
            ..CASE
        },
        Case {
            name: "no pattern",
            dockerfile: all,
            context: &bracket,
            fails: ".dockerignore",
            ..CASE
        },
        Case {
            name: "what is ignored is not there, and named as such",
            dockerfile: "FROM scratch\nCOPY bar /\n",
            context: &first,
            fails: "bar",
            ..CASE
        },
    ]);
    let context = builds.context(&[
        ("Dockerfile", all),
        ("Other", all),
        ("Other.dockerignore", "foo\n"),
        (".dockerignore", "bar\n"),
        ("foo", "1"),
        ("bar", "1"),
    ]);
    let files = builds.build(&[], &context).ok().files();
    assert_eq!(
        (files.line("foo"), files.line("bar")),
        ("f 644 0:0 1".into(), "-".into())
    );
    let other = format!("--file={}", context.join("Other").display());
    let files = builds.build(&[&other], &context).ok().files();
    assert_eq!(
        (files.line("foo"), files.line("bar")),
        ("-".into(), "f 644 0:0 1".into())
    );
}

fn dockerfiles_elsewhere(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.context(&[
        ("f", "1"),
        ("sub/Dockerfile", "FROM scratch\nCOPY f /a\n"),
        ("Dockerfile.web", "FROM scratch\nCOPY f /b\n"),
        ("Dockerfile -> Dockerfile.web", ""),
    ]);
    let build = |flags: &[&str]| builds.build(flags, &context).ok().files();
    assert_eq!(build(&[]).line("b"), "f 644 0:0 1");
    let inside = format!("--file={}", context.join("sub/Dockerfile").display());
    assert_eq!(build(&[&inside]).line("a"), "f 644 0:0 1");
    let outside = builds.dockerfile("FROM scratch\nCOPY f /c\n");
    let outside = format!("--file={}", outside.join("Dockerfile").display());
    assert_eq!(build(&[&outside]).line("c"), "f 644 0:0 1");
    // Docker's other spelling, where there is no Dockerfile.
    let lower = builds.context(&[("dockerfile", "FROM scratch\nCOPY dockerfile /d\n")]);
    assert_eq!(builds.build(&[], &lower).ok().files().get("d").kind, 'f');
    builds
        .build(&[], &builds.context(&[("f", "1")]))
        .fails("Dockerfile");
    builds.build(&["--file=none"], &context).fails("none");
    builds
        .build(&[], Path::new("/no/such/place"))
        .fails("/no/such/place");
}

/// A build that reads this from standard input.
#[track_caller]
fn fed(builds: &Builds<'_>, flags: &[&str], context: &str, input: &[u8]) -> Build {
    let metadata = builds.env.path("fed");
    let flag = format!("--metadata-file={}", metadata.display());
    let flags = [&[flag.as_str()], flags].concat();
    let path = builds.env.path("input");
    fs::write(&path, input).unwrap();
    let mut command = builds.command(&flags, Path::new(context));
    command.stdin(Stdio::from(fs::File::open(&path).unwrap()));
    let running = builds.env.rt.spawn(command);
    builds.finish(running, &metadata, Duration::from_secs(30))
}

fn standard_input(env: &Env) {
    use tar::EntryType::Regular;
    let builds = Builds::new(env);
    let text = b"FROM base\nRUN echo 1 > /a\n";
    let built = fed(&builds, &[], "-", text).ok();
    assert_eq!(built.files().line("a"), "f 644 0:0 1");
    // There is no context then.
    fed(&builds, &[], "-", b"FROM scratch\nCOPY f /\n").fails("f");
    let context = builds.context(&[("f", "1")]);
    let context = context.to_str().unwrap();
    let built = fed(&builds, &["--file=-"], context, b"FROM scratch\nCOPY f /\n").ok();
    assert_eq!(built.files().line("f"), "f 644 0:0 1");
    let tar = archive(&[
        ("Dockerfile", Regular, "FROM scratch\nCOPY f sub/g /\n"),
        ("f", Regular, "1"),
        ("./sub/g", Regular, "2"),
        ("other/File", Regular, "FROM scratch\nCOPY f /other\n"),
    ]);
    for (name, bytes) in [("tar", tar.clone()), ("gzip", gzip(env, &tar))] {
        let built = fed(&builds, &[], "-", &bytes).ok();
        let files = built.files();
        // An archive says whose files are.
        assert_eq!(files.line("f"), "f 644 11:12 1", "{name}");
        assert_eq!(files.line("g"), "f 644 11:12 2", "{name}");
        let built = fed(&builds, &["--file=other/File"], "-", &bytes).ok();
        assert_eq!(built.files().line("other"), "f 644 11:12 1", "{name}");
    }
    fed(&builds, &[], "-", &tar[..700]).fails("");
    fed(&builds, &[], "-", b"").fails("");
    fed(&builds, &["--file=-"], "-", text).fails("both context and Dockerfile");
}

fn gzip(env: &Env, bytes: &[u8]) -> Vec<u8> {
    let path = env.path("to-compress");
    fs::write(&path, bytes).unwrap();
    let output = Command::new("gzip").arg("-c").arg(&path).output().unwrap();
    output.stdout
}

/// A server with one file; what was asked for.
pub(super) fn serve(last_modified: &str, body: &[u8]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let (body, last_modified) = (body.to_vec(), last_modified.to_owned());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let line = request.lines().next().unwrap_or_default().to_owned();
            log.lock().unwrap().push(line.clone());
            let (status, length) = match line.contains("/missing") {
                true => ("404 Not Found", 0),
                false => ("200 OK", body.len()),
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{last_modified}\r\n"
            );
            if !line.starts_with("HEAD") && length > 0 {
                let _ = stream.write_all(&body);
            }
        }
    });
    (format!("http://{address}"), asked)
}

fn downloads(env: &Env) {
    use tar::EntryType::Regular;
    let builds = Builds::new(env);
    let (web, _) = serve(
        "Last-Modified: Wed, 02 Jan 2013 03:04:05 GMT\r\n",
        b"content",
    );
    let digest = rcrun_image::Digest::of(b"content").to_string();
    let other = rcrun_image::Digest::of(b"other").to_string();
    let short = digest.strip_prefix("sha256:").unwrap().to_owned();
    let of = |text: &str| format!("FROM base\n{text}\n");
    let plain = of(&format!(
        "ADD {web}/foo /dest/\nADD {web}/foo /named\nADD {web}/ /unnamed/\nADD --chmod=644 --chown=5:6 {web}/foo /m\nENV U={web}/foo D={digest}\nADD --checksum=${{D}} $U /sum"
    ));
    let wrong = of(&format!("ADD --checksum={other} {web}/foo /"));
    let md5 = of(&format!(
        "ADD --checksum=md5:7e55db001d319a94b0b713529a756623 {web}/foo /"
    ));
    let bare = of(&format!("ADD --checksum={short} {web}/foo /"));
    let missing = of(&format!("ADD {web}/missing /"));
    builds.table(&[
        Case {
            name: "names, modes, owners, checksums",
            dockerfile: &plain,
            expected: &[
                ("dest/foo", "f 600 0:0 content"),
                ("named", "f 600 0:0 content"),
                ("unnamed/__unnamed__", "f 600 0:0 content"),
                ("m", "f 644 5:6 content"),
                ("sum", "f 600 0:0 content"),
            ],
            ..CASE
        },
        Case {
            name: "another checksum",
            dockerfile: &wrong,
            fails: "digest",
            ..CASE
        },
        Case {
            name: "an unknown algorithm",
            dockerfile: &md5,
            fails: "md5",
            ..CASE
        },
        Case {
            name: "no algorithm",
            dockerfile: &bare,
            fails: "checksum",
            ..CASE
        },
        Case {
            name: "nothing there",
            dockerfile: &missing,
            fails: "404",
            ..CASE
        },
    ]);
    let built = builds.build(&[], &builds.dockerfile(&plain)).ok();
    assert_eq!(built.done(), Vec::<&str>::new());
    assert_eq!(built.files().get("named").modified, (1_357_095_845, 0));
    // Archives are only unpacked on demand.
    let tar = archive(&[("foo", Regular, "1")]);
    let (web, _) = serve("", &tar);
    let text = of(&format!(
        "ADD {web}/t.tar /a/\nADD --unpack {web}/t.tar /b/\nADD {web}/t.tar /c.tar"
    ));
    let files = builds.of(&[], &text, &[]).files();
    assert_eq!(files.get("a/t.tar").content, tar);
    assert_eq!(files.line("b/foo"), "f 644 11:12 1");
    assert_eq!(files.get("c.tar").content, tar);
    // Contexts: a Dockerfile, or an archive.
    let (web, _) = serve("", b"FROM base\nRUN echo 1 > /a\n");
    let built = builds
        .build(&[], Path::new(&format!("{web}/Dockerfile")))
        .ok();
    assert_eq!(built.files().line("a"), "f 644 0:0 1");
    let tar = archive(&[
        ("Dockerfile", Regular, "FROM scratch\nCOPY f /\n"),
        ("f", Regular, "1"),
    ]);
    let (web, _) = serve("", &tar);
    let built = builds
        .build(&[], Path::new(&format!("{web}/context.tar")))
        .ok();
    assert_eq!(built.files().line("f"), "f 644 11:12 1");
}

/// Serves the files of a directory: a git server that only knows files.
pub(super) fn files_of(root: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let root = root.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default();
            let (status, body) = match fs::read(root.join(path.trim_start_matches('/'))) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(&body);
        }
    });
    format!("http://{address}")
}

pub(super) fn git(directory: &Path, words: &[&str]) -> String {
    let done = Command::new("git")
        .args([
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@y",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(words)
        .current_dir(directory)
        .env("HOME", directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "git {words:?}: {said}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

fn repositories(env: &Env) {
    let builds = Builds::new(env);
    let repository = builds.context(&[
        ("Dockerfile", "FROM scratch\nCOPY f /first\n"),
        ("f", "1"),
        ("sub/Dockerfile", "FROM scratch\nCOPY g /sub\n"),
        ("sub/g", "2"),
    ]);
    git(&repository, &["init"]);
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "-m", "one"]);
    git(&repository, &["tag", "v1"]);
    let first = git(&repository, &["rev-parse", "HEAD"]);
    fs::write(repository.join("f"), "changed").unwrap();
    git(&repository, &["checkout", "-b", "other"]);
    git(&repository, &["commit", "-am", "two"]);
    git(&repository, &["checkout", "main"]);
    git(&repository, &["update-server-info"]);
    let url = format!("{}/.git", files_of(&repository));
    let build = |reference: &str| builds.build(&[], Path::new(&format!("{url}{reference}")));
    for (reference, path, content) in [
        ("", "first", "1"),
        ("#other", "first", "changed"),
        ("#v1", "first", "1"),
        ("#refs/heads/other", "first", "changed"),
        (&format!("#{first}"), "first", "1"),
        ("#other:sub", "sub", "2"),
        ("#:sub", "sub", "2"),
    ] {
        let built = build(reference);
        assert_eq!(built.ok().files().text(path), content, "{reference}");
    }
    build("#nosuch").fails("nosuch");
    build("#main:nosuch").fails("nosuch");
    let text = format!(
        "FROM base\nADD {url}#v1 /one\nADD --keep-git-dir=true {url}#other /two\nADD {url}#v1:sub /three\nADD --checksum={first} {url}#v1 /four\nADD --chown=5:6 --exclude=sub {url} /five\n"
    );
    let files = builds.of(&[], &text, &[]).files();
    assert_eq!(files.text("one/f"), "1");
    assert_eq!(files.line("one/.git"), "-");
    assert_eq!(files.text("two/f"), "changed");
    assert_eq!(files.get("two/.git").kind, 'd');
    assert_eq!(files.text("three/g"), "2");
    assert_eq!(files.text("four/f"), "1");
    assert_eq!(files.line("five/f"), "f 644 5:6 1");
    assert_eq!(files.line("five/sub"), "-");
    let wrong = "0".repeat(40);
    let text = format!("FROM base\nADD --checksum={wrong} {url}#v1 /x\n");
    builds
        .build(&[], &builds.dockerfile(&text))
        .fails("checksum");
}
