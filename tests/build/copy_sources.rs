//! What `COPY` and `ADD` take: links, archives, the root of the context; and what they refuse.

use super::copy::CASE;
use crate::harness::builds::{BASE_TIME, Builds, Case};
use crate::harness::{Env, Test, test};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(links_of_layers),
        test!(archives),
        test!(refusals),
        test!(files_of_the_context_are_roots_and_have_the_time_of_the_base),
    ]
}

/// `--link`: above whatever is below.
fn links_of_layers(env: &Env) {
    Builds::new(env).table(&[
        Case {
            name: "with owner and mode, into directories that are not there",
            dockerfile: "FROM base\nCOPY --link --chown=5:6 --chmod=600 f /x/y/f\nCOPY --link f /etc/f\nRUN test -f /etc/passwd && test -f /etc/f\n",
            context: &[("f", "1")],
            expected: &[
                ("x/y/f", "f 600 5:6 1"),
                ("etc/f", "f 644 0:0 1"),
                ("etc", "d 755 0:0"),
            ],
            ..CASE
        },
        Case {
            name: "from a stage",
            dockerfile: "FROM base AS one\nRUN echo 1 > /f\nFROM base\nCOPY --link --from=one /f /g/\n",
            expected: &[("g/f", "f 644 0:0 1")],
            ..CASE
        },
    ]);
}

/// An archive of one file, and links and directories by name.
pub(super) fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(if *kind == tar::EntryType::Directory {
            0o755
        } else {
            0o644
        });
        header.set_mtime(1_500_000_000);
        header.set_uid(11);
        header.set_gid(12);
        match kind {
            tar::EntryType::Regular => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, content.as_bytes())
            }
            tar::EntryType::Directory => {
                header.set_size(0);
                builder.append_data(&mut header, name, &[][..])
            }
            _ => {
                header.set_size(0);
                builder.append_link(&mut header, name, content)
            }
        }
        .unwrap();
    }
    builder.into_inner().unwrap()
}

fn archives(env: &Env) {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let builds = Builds::new(env);
    let simple = archive(&[("foo", Regular, "1"), ("deep/bar", Regular, "2")]);
    let links = archive(&[
        ("run/", Directory, ""),
        ("var/", Directory, ""),
        ("var/run", Symlink, "/run"),
    ]);
    let through = archive(&[
        ("var/run/x/", Directory, ""),
        ("var/run/x/f", Regular, "3"),
        ("var/run/x/g", Link, "var/run/x/f"),
    ]);
    let context = builds.context(&[(
        "Dockerfile",
        "FROM base
ADD t.tar /a/
ADD --chown=100:200 t.tar /b/
ADD *.tar /c/
ADD --unpack=false t.tar /d/
COPY t.tar /e/
ADD t.tar.gz /f/
ADD links.tar /
ADD through.tar /
ADD no.tar.gz /g/
ADD --unpack t.tar /h/
",
    )]);
    fs::write(context.join("t.tar"), &simple).unwrap();
    fs::write(context.join("links.tar"), links).unwrap();
    fs::write(context.join("through.tar"), through).unwrap();
    fs::write(context.join("no.tar.gz"), "no archive").unwrap();
    let zipped = std::process::Command::new("gzip")
        .arg("-nk")
        .arg(context.join("t.tar"))
        .status();
    assert!(zipped.unwrap().success());
    let built = builds.build(&[], &context).ok();
    let files = built.files();
    let expected = [
        ("a/foo", "f 644 11:12 1"),
        ("a/deep/bar", "f 644 11:12 2"),
        ("b/foo", "f 644 100:200 1"),
        ("b", "d 755 100:200"),
        ("c/foo", "f 644 11:12 1"),
        ("f/deep/bar", "f 644 11:12 2"),
        ("run/x/f", "f 644 11:12 3"),
        ("var/run", "l 11:12 /run"),
        ("g/no.tar.gz", "f 644 0:0 no archive"),
        ("h/foo", "f 644 11:12 1"),
        ("d/foo", "-"),
    ];
    for (path, line) in expected {
        assert_eq!(files.line(path), line, "{path}");
    }
    assert_eq!(files.get("d/t.tar").content, simple);
    assert_eq!(files.get("e/t.tar").content, simple);
    assert_eq!(files.get("run/x/f").links, 2);
    assert_eq!(files.get("a/foo").modified, (1_500_000_000, 0));
}

fn refusals(env: &Env) {
    let builds = Builds::new(env);
    let of = |name: &'static str, dockerfile: &'static str, fails: &'static str| Case {
        name,
        dockerfile,
        context: &[("f", "1")],
        fails,
        ..CASE
    };
    builds.table(&[
        of(
            "variables in --from",
            "FROM scratch\nARG F=x\nCOPY --from=$F . .\n",
            "variable expansion is not supported for --from",
        ),
        of(
            "a checksum of a local file",
            "FROM scratch\nADD --checksum=sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b f /\n",
            "checksum",
        ),
        of("an unknown flag", "FROM scratch\nCOPY --form=a f /\n", "--form"),
        of("a missing file", "FROM scratch\nCOPY none /\n", "none"),
        of("no destination", "FROM scratch\nCOPY f\n", "COPY"),
        of(
            "the stage itself",
            "FROM scratch AS me\nCOPY --from=me f /\n",
            "me",
        ),
        of(
            "a URL for COPY",
            "FROM scratch\nCOPY http://127.0.0.1/f /\n",
            "URL",
        ),
    ]);
}

fn files_of_the_context_are_roots_and_have_the_time_of_the_base(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.context(&[("Dockerfile", "FROM base\nCOPY d /d\n"), ("d/f", "1")]);
    fs::write(context.join("d/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(context.join("d/run"), fs::Permissions::from_mode(0o4755)).unwrap();
    chown(context.join("d/f"), Some(1234), Some(99)).unwrap();
    // A socket becomes an empty file, as with BuildKit.
    let _socket = UnixListener::bind(context.join("d/socket")).unwrap();
    let built = builds.build(&[], &context).ok();
    let files = built.files();
    assert_eq!(files.line("d/f"), "f 644 0:0 1");
    assert_eq!(files.line("d/run"), "f 4755 0:0 #!/bin/sh");
    assert_eq!(files.get("d/socket").kind, 'f');
    for path in ["d", "d/f", "d/run"] {
        assert_eq!(files.get(path).modified, (BASE_TIME, 0), "{path}");
    }
}
