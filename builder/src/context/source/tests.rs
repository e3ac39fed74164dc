//! Every kind of context.

use super::*;
use crate::context::testing::Server;

fn tar(files: &[(&str, &str)], links: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    for (name, text) in files {
        header.set_size(text.len() as u64);
        builder
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
    }
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    for (name, target) in links {
        builder.append_link(&mut header, name, target).unwrap();
    }
    builder.into_inner().unwrap()
}

fn opened(
    location: &Location,
    file: Option<&str>,
    mut input: &[u8],
) -> Result<(tempfile::TempDir, Context)> {
    let scratch = tempfile::tempdir().unwrap();
    let arguments = Arguments {
        location,
        file,
        git: &git::Settings::default(),
        scratch: scratch.path(),
    };
    let context = open(&arguments, &mut input)?;
    Ok((scratch, context))
}

fn names(context: &Context) -> String {
    let names = crate::context::open::names(context.tree.root()).unwrap();
    let names = names
        .iter()
        .map(|name| String::from_utf8_lossy(name).into_owned());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn locations() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    assert_eq!(locate("-").unwrap(), Location::Input);
    assert_eq!(locate(path).unwrap(), Location::Directory(path.into()));
    assert!(matches!(
        locate("https://h/a.git#x").unwrap(),
        Location::Git(_)
    ));
    assert!(matches!(
        locate("github.com/a/b").unwrap(),
        Location::Git(_)
    ));
    assert!(matches!(
        locate("https://h/a.tar.gz").unwrap(),
        Location::Http(_)
    ));
    for wrong in [
        "/nonexistent",
        "ftp://h/a",
        "/etc/passwd",
        "https://h/a.git?x=y",
    ] {
        locate(wrong).unwrap_err();
    }
}

#[test]
fn a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let location = Location::Directory(path.to_owned());
    let write = |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
    let error = opened(&location, None, b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    write("dockerfile", "lower");
    assert_eq!(
        opened(&location, None, b"").unwrap().1.dockerfile.text,
        b"lower"
    );
    write("Dockerfile", "upper");
    let (_scratch, context) = opened(&location, None, b"").unwrap();
    assert_eq!(context.dockerfile.text, b"upper");
    assert!(context.tree.ignore().is_none());
    write(".dockerignore", "bar\n");
    write("Dockerfile2", "two");
    write("Dockerfile2.dockerignore", "foo\n");
    let ignored = |file: Option<&str>, name: &str| {
        let (_scratch, context) = opened(&location, file, b"stdin").unwrap();
        context
            .tree
            .ignore()
            .is_some_and(|ignore| ignore.matches(name))
    };
    let two = path.join("Dockerfile2");
    let two = two.to_str();
    assert!(ignored(None, "bar") && !ignored(None, "foo"));
    assert!(
        ignored(two, "foo") && !ignored(two, "bar"),
        "its own ignore file wins"
    );
    assert!(ignored(Some("-"), "bar"));
    let (_scratch, context) = opened(&location, Some("-"), b"stdin").unwrap();
    assert_eq!(context.dockerfile.text, b"stdin");
    write(".dockerignore", "!\n");
    let error = opened(&location, None, b"")
        .unwrap_err()
        .chain()
        .to_string();
    assert!(
        error.contains(".dockerignore") && error.contains("line 1"),
        "{error}"
    );
}

#[test]
fn standard_input() {
    let (_scratch, context) = opened(&Location::Input, None, b"FROM x\n").unwrap();
    assert_eq!(context.dockerfile.text, b"FROM x\n");
    assert_eq!(names(&context), "");
    let archive = tar(
        &[
            ("Dockerfile", "one"),
            ("sub/other", "two"),
            (".dockerignore", "*"),
        ],
        &[],
    );
    let compressed = zstd::encode_all(&*archive, 1).unwrap();
    for bytes in [&archive, &compressed] {
        let (_scratch, context) = opened(&Location::Input, None, bytes).unwrap();
        assert_eq!(context.dockerfile.text, b"one");
        assert_eq!(names(&context), ".dockerignore Dockerfile sub");
        assert!(context.tree.ignore().is_none());
    }
    let (_scratch, context) = opened(&Location::Input, Some("sub/other"), &archive).unwrap();
    assert_eq!(context.dockerfile.text, b"two");
    opened(&Location::Input, Some("-"), b"FROM x").unwrap_err();
    opened(&Location::Input, Some("x"), b"FROM x").unwrap_err();
    opened(&Location::Input, Some("nope"), &archive).unwrap_err();
    opened(&Location::Input, Some("sub"), &archive).unwrap_err();
}

#[test]
fn by_http() {
    let archive = tar(&[("Dockerfile", "one"), ("a", "a")], &[]);
    let server = Server::new(vec![
        ("/c.tar", 200, "", archive),
        ("/Dockerfile", 200, "", b"FROM x".to_vec()),
    ]);
    let (_scratch, context) = opened(&Location::Http(server.url("/c.tar")), None, b"").unwrap();
    assert_eq!(names(&context), "Dockerfile a");
    let (_scratch, context) =
        opened(&Location::Http(server.url("/Dockerfile")), None, b"").unwrap();
    assert_eq!(context.dockerfile.text, b"FROM x");
    assert_eq!(names(&context), "context");
    let directory = tempfile::tempdir().unwrap();
    let local = Location::Directory(directory.path().to_owned());
    let url = server.url("/Dockerfile");
    let (_scratch, context) = opened(&local, Some(&url), b"").unwrap();
    assert_eq!(context.dockerfile.text, b"FROM x");
    let scratch = tempfile::tempdir().unwrap();
    let named = Location::Http(server.url("/c.tar"));
    let Opened { tree, .. } =
        open_named("n", &named, &git::Settings::default(), scratch.path()).unwrap();
    assert_eq!(crate::context::open::names(tree.root()).unwrap().len(), 1);
}

#[test]
fn named_directories_have_their_ignore_file() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(".dockerignore"), "bar\n").unwrap();
    let location = Location::Directory(directory.path().to_owned());
    let scratch = tempfile::tempdir().unwrap();
    let Opened { tree, .. } =
        open_named("n", &location, &git::Settings::default(), scratch.path()).unwrap();
    assert!(tree.ignore().unwrap().matches("bar"));
}

#[test]
fn e8_a_context_with_links_out_of_it() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let out = outside.path().to_str().unwrap();
    let secret = format!("{out}/secret");
    for (files, links) in [
        (&[][..], &[("Dockerfile", secret.as_str())][..]),
        (&[], &[("d", out), ("Dockerfile", "d/secret")]),
        (
            &[("Dockerfile", "FROM x")],
            &[("Dockerfile", secret.as_str())],
        ),
    ] {
        let archive = tar(files, links);
        let opened = opened(&Location::Input, None, &archive);
        assert!(
            opened.is_err(),
            "{links:?}: {:?}",
            opened.unwrap().1.dockerfile
        );
    }
    // A link inside is followed.
    let archive = tar(&[("sub/real", "FROM x")], &[("Dockerfile", "sub/real")]);
    assert_eq!(
        opened(&Location::Input, None, &archive)
            .unwrap()
            .1
            .dockerfile
            .text,
        b"FROM x"
    );
}
