//! Names: which files are meant, and where they go.

use super::*;

/// Sources, destination, and what is in an empty root then.
#[test]
fn sources_and_destinations() {
    let files = [
        "a",
        "b.go",
        "c.go",
        "sub/d",
        "sub/dir/e",
        "sub/dir/deep/f",
        "empty/",
    ];
    for (sources, dest, expected) in [
        (&["a"][..], "/", "a"),
        (&["a"], "/new", "new=a"),
        (&["a"], "/new/", "new/a"),
        (&["a"], "/x/y/new", "x/y/new=a"),
        (&["a"], "/x/y/", "x/y/a"),
        (&["a"], "/x/.", "x/a"),
        (&["/a"], "/", "a"),
        (&["./a"], "/", "a"),
        (&["../a"], "/", "a"),
        (&["sub/../a"], "/", "a"),
        (&["a/"], "/", "a"),
        (&["sub"], "/", "d dir/deep/f dir/e"),
        (&["sub"], "/new", "new/d new/dir/deep/f new/dir/e"),
        (&["sub/"], "/new", "new/d new/dir/deep/f new/dir/e"),
        (&["sub/."], "/new/", "new/d new/dir/deep/f new/dir/e"),
        (&["empty"], "/new", "new/"),
        (&["a", "sub/dir"], "/x/", "x/a x/deep/f x/e"),
        (&["*.go"], "/go/", "go/b.go go/c.go"),
        (&["b*.go"], "/one.go", "one.go=b.go"),
        (&["sub/*"], "/x/", "x/d x/deep/f x/e"),
        (&["sub/*/e"], "/x/", "x/e"),
        (&["s?b/*/deep/f"], "/x/y", "x/y=sub/dir/deep/f"),
        (&["sub/[d]"], "/", "d"),
        (&["[^a]b*"], "/", ""),
        (&["s[^a]b/d"], "/", "d"),
        (&["sub[^x]d"], "/", "d"),
        (&["a", "nomatch*"], "/", "a"),
        (&["**/e"], "/", ""),
        (&["*/**/e"], "/", "e"),
        (
            &[""],
            "/new",
            "new/a new/b.go new/c.go new/empty/ new/sub/d new/sub/dir/deep/f new/sub/dir/e",
        ),
        (&["sub/d", "a"], "/x/", "x/a x/d"),
    ] {
        let case = Case::new(&files);
        case.copy(sources, dest).unwrap();
        assert_eq!(case.listing(), expected, "{sources:?} {dest}");
    }
}

#[test]
fn a_pattern_without_match_is_no_error() {
    let case = Case::new(&["a"]);
    let selection = select(&case.request(&["nomatch*", "a"], "/x/")).unwrap();
    assert_eq!(selection.unmatched(), ["nomatch*"]);
    assert_eq!(selection.files(), 1);
    case.copy(&["nomatch*"], "/x/").unwrap();
    assert_eq!(case.listing(), "");
}

#[test]
fn a_path_without_file_is_one() {
    let case = Case::new(&["a", "dangling -> nowhere"]);
    for path in ["b", "a/b", "x/y", "dangling"] {
        let error = case.copy(&[path], "/").unwrap_err();
        let text = error.chain().to_string();
        assert!(
            text.contains(path) && text.contains("the build context"),
            "{text}"
        );
    }
    let hint = case.copy(&["dangling"], "/").unwrap_err();
    assert!(hint.hint().unwrap().contains("nowhere"));
    // Also where a wildcard finds it.
    case.copy(&["dang*"], "/").unwrap_err();
}

#[test]
fn literal_wildcards() {
    let files = [
        "app/[xyz]/file",
        "app/st*uv/file",
        "app/strauv/file",
        "app/n?pe/file",
        "x\\*y",
    ];
    for (source, expected) in [
        ("app/[[]xyz]/file", "file"),
        ("app/st\\*uv*/f*", "file"),
        ("app/n?pe/file", "file"),
        ("app/[s]t\\*uv/file", "file"),
        // Without wildcards nothing is taken away, a backslash neither.
        ("x\\*y", "x\\*y"),
    ] {
        let case = Case::new(&files);
        case.copy(&[source], "/").unwrap();
        assert_eq!(case.listing(), expected, "{source}");
    }
}

#[test]
fn links_of_the_source_are_followed_once_and_inside() {
    let files = [
        "bar",
        "foo -> bar",
        "sub/file",
        "sub/l0 -> file",
        "sub/l1 -> second",
        "sub/second -> file",
        "abs -> /sub/file",
        "up -> ../../../../bar",
        "dir -> sub",
        "loop -> loop",
        "sub/lfile",
    ];
    for (sources, dest, expected) in [
        (&["foo"][..], "/", "foo=bar"),
        (&["sub/l*"], "/x/", "x/l0=sub/file x/l1=sub/file x/lfile"),
        (&["abs"], "/x", "x=sub/file"),
        (&["up"], "/x", "x=bar"),
        (&["dir/file"], "/", "file"),
        (
            &["dir"],
            "/x/",
            "x/file x/l0->file x/l1->second x/lfile x/second->file",
        ),
        (&["dir/l1"], "/", "l1=sub/file"),
        // What is in a directory is not followed, nor what a wildcard passes.
        (&["d*r/file"], "/", ""),
        (&["dir/f*"], "/", "file"),
    ] {
        let case = Case::new(&files);
        case.copy(sources, dest).unwrap();
        assert_eq!(case.listing(), expected, "{sources:?}");
    }
    let error = Case::new(&files).copy(&["loop"], "/").unwrap_err();
    assert!(error.chain().to_string().contains("links"), "{error:?}");
}

#[test]
fn links_of_the_destination_are_followed() {
    for (there, source, dest, expected) in [
        (
            &["real/", "link -> real"][..],
            "a",
            "/link/",
            "link->real real/a",
        ),
        (
            &["real/", "link -> /real"],
            "a",
            "/link",
            "link->/real real/a",
        ),
        (
            &["link -> ../../tmp/target"],
            "a",
            "/link/",
            "link->../../tmp/target tmp/target/a",
        ),
        (
            &["link -> target"],
            "sub",
            "/link/x",
            "link->target target/x/b",
        ),
        (&["file", "link -> file"], "a", "/link", "file=a link->file"),
        (
            &["link -> missing/name"],
            "a",
            "/link",
            "link->missing/name missing/name=a",
        ),
        (&["x/", "x/a -> /file", "file"], "a", "/x/", "file x/a"),
        (
            &["l1 -> l2", "l2 -> real", "real/"],
            "sub",
            "/l1",
            "l1->l2 l2->real real/b",
        ),
        (
            &["link -> gone/../real"],
            "a",
            "/link/",
            "link->gone/../real real/a",
        ),
    ] {
        let case = Case::new(&["a", "sub/b"]).onto(there);
        case.copy(&[source], dest).unwrap();
        assert_eq!(case.listing(), expected, "{source} {dest}");
    }
}

#[test]
fn what_is_there_is_replaced_or_refused() {
    for (there, source, dest, expected) in [
        (&["a=old"][..], "a", "/", Some("a")),
        (&["a -> elsewhere"], "a", "/", Some("a")),
        (&["b=old"], "sub", "/", Some("b d/c")),
        (&["d/x"], "sub", "/", Some("b d/c d/x")),
        (&["d=file"], "sub", "/", None),
        (&["d -> other", "other/"], "sub", "/", None),
        (&["b/"], "sub", "/", None),
        (&["b/x"], "sub", "/", None),
        (&["a/"], "a", "/", None),
        (&["x=file"], "sub", "/x", None),
        (&["x=file"], "a", "/x/", None),
        (&["x=file"], "a", "/x/y", None),
        (&["x -> y", "y=file"], "sub", "/x", None),
    ] {
        let case = Case::new(&["a", "sub/b", "sub/d/c"]).onto(there);
        match (case.copy(&[source], dest), expected) {
            (Ok(_), Some(expected)) => assert_eq!(case.listing(), expected, "{there:?} {source}"),
            (Err(error), None) => {
                let text = error.chain().to_string();
                assert!(
                    text.contains("cannot copy") && text.contains("directory"),
                    "{text}"
                );
            }
            (other, _) => panic!("{there:?} {source} {dest}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_was_linked_elsewhere_is_not_written_through() {
    let case = Case::new(&["a=new"]).onto(&["a=old"]);
    std::fs::hard_link(case.root("a"), case.root("b")).unwrap();
    case.copy(&["a"], "/").unwrap();
    assert_eq!(case.listing(), "a=new b=old");
}

#[test]
fn sources_come_in_order() {
    let case = Case::new(&["one/x=1", "two/x=2", "two/y=2"]);
    case.copy(&["one", "two"], "/d/").unwrap();
    assert_eq!(case.listing(), "d/x=2 d/y=2");
    let case = Case::new(&["one/x=1", "two/x=2"]);
    case.copy(&["t*", "o*"], "/d/").unwrap();
    assert_eq!(case.listing(), "d/x=1");
}

#[test]
fn parents() {
    let files = [
        "Dockerfile",
        "x/a.txt",
        "x/y/a.txt",
        "x/y/b.txt",
        "x/z/a.txt",
        "y/b.txt",
        "a/b/c/d/foo",
        "a/b/c/d/e/bay",
        "a/b2/c/d/e/bar",
        "a/b/c2/d/e/baz",
        "a/b/c2/d/e2/baz",
    ];
    for (sources, dest, expected) in [
        (&["x/y/a.txt"][..], "/", "x/y/a.txt"),
        (
            &["./x/a.txt", "./y/b.txt"],
            "/p/q",
            "p/q/x/a.txt p/q/y/b.txt",
        ),
        (&["x/y/*.txt"], "/p/", "p/x/y/a.txt p/x/y/b.txt"),
        (
            &["./x"],
            "/p/",
            "p/x/a.txt p/x/y/a.txt p/x/y/b.txt p/x/z/a.txt",
        ),
        (&["./x/y/"], "/p/", "p/x/y/a.txt p/x/y/b.txt"),
        (
            &["x/*/a.txt", "*/b.txt"],
            "/p/",
            "p/x/y/a.txt p/x/z/a.txt p/y/b.txt",
        ),
        (
            &["x/*"],
            "/p/",
            "p/x/a.txt p/x/y/a.txt p/x/y/b.txt p/x/z/a.txt",
        ),
        (&["x/./*"], "/p/", "p/a.txt p/y/a.txt p/y/b.txt p/z/a.txt"),
        (&["x/./y/*.txt"], "/p/", "p/y/a.txt p/y/b.txt"),
        (&["x/y/./*.txt"], "/p/", "p/a.txt p/b.txt"),
        (&["**/b.txt"], "/p/", "p/x/y/b.txt p/y/b.txt"),
        (&["/a/b/./c/d"], "/out/", "out/c/d/e/bay out/c/d/foo"),
        (
            &["/a/b/c/d/."],
            "/out/",
            "out/a/b/c/d/e/bay out/a/b/c/d/foo",
        ),
        (&["/a/./b/./c"], "/out/", "out/b/c/d/e/bay out/b/c/d/foo"),
        (
            &["/a/./*/c"],
            "/out/",
            "out/b/c/d/e/bay out/b/c/d/foo out/b2/c/d/e/bar",
        ),
        (&["/a/b*/./c/**/e"], "/out/", "out/c/d/e/bar out/c/d/e/bay"),
        (
            &["/a/b/c*/./d/**/baz", "/a/b*/./c/**/bar"],
            "/out/",
            "out/c/d/e/bar out/d/e/baz out/d/e2/baz",
        ),
        (&["/a/b2*/z"], "/out/", "out/"),
        (&["/a/b/./z*"], "/out/", "out/"),
        (&["/nope*/./z"], "/out/", ""),
    ] {
        let case = Case::new(&files);
        let mut request = case.request(sources, dest);
        request.parents = true;
        case.run(&request).unwrap();
        assert_eq!(case.listing(), expected, "{sources:?}");
    }
    for path in [
        "nope", "x/nope", "x/./nope", "nope/./x", "./", "./x/./", "nope/./*",
    ] {
        let case = Case::new(&files);
        let mut request = case.request(&[path], "/p/");
        request.parents = true;
        let error = case.run(&request).unwrap_err().chain().to_string();
        assert!(error.contains(path), "{path}: {error}");
    }
}

#[test]
fn parents_are_copied_with_their_attributes() {
    let case = Case::new(&["a/b/c", "a/b/d"]);
    std::fs::set_permissions(case.from("a"), PermissionsExt::from_mode(0o750)).unwrap();
    std::fs::set_permissions(case.from("a/b"), PermissionsExt::from_mode(0o701)).unwrap();
    let mut request = case.request(&["a/b/c"], "/p/");
    request.parents = true;
    case.run(&request).unwrap();
    assert_eq!(case.listing(), "p/a/b/c");
    assert!(attributes(&case.root("p/a")).starts_with("750 "));
    assert!(attributes(&case.root("p/a/b")).starts_with("701 "));
    // Those that are there get the mode only.
    let case = Case::new(&["a/b"]).onto(&["a/"]);
    std::fs::set_permissions(case.from("a"), PermissionsExt::from_mode(0o711)).unwrap();
    let mut request = case.request(&["a/b"], "/");
    request.parents = true;
    case.run(&request).unwrap();
    assert!(attributes(&case.root("a")).starts_with("711 "));
}

#[test]
fn exclude() {
    let files = [
        "dir1/101.png",
        "dir1/102.txt",
        "dir2/201.pdf",
        "dir2/203.png",
        "dir3/301.mp3",
        "dir3/302.mpeg",
        "dir4/401.txt",
        "dir4/402.txt -> 401.txt",
        "top.txt",
        "app/views/x",
        "app/views/keep",
        "app/cache/y",
    ];
    for (patterns, sources, dest, expected) in [
        (
            &["*/*.png", "dir3", "dir4", "app"][..],
            &["."][..],
            "/1",
            "1/dir1/102.txt 1/dir2/201.pdf 1/top.txt",
        ),
        (&["*.mp3"], &["dir3/"], "/3/", "3/302.mpeg"),
        (
            &["*.png", "*.txt", "*.mp3"],
            &["dir*"],
            "/4/",
            "4/201.pdf 4/302.mpeg",
        ),
        (&["*"], &["dir*"], "/6", "6/"),
        (&["**"], &["."], "/6", "6/"),
        (&["views"], &["app"], "/a/", "a/cache/y"),
        (&["views/x"], &["app"], "/a/", "a/cache/y a/views/keep"),
        (
            &["views", "!views/keep"],
            &["app/"],
            "/a/",
            "a/cache/y a/views/keep",
        ),
        // A source that is a file is copied whatever the patterns say.
        (&["*.txt"], &["top.txt"], "/", "top.txt"),
        (&["*.txt"], &["t*.txt"], "/", "top.txt"),
        (
            &["top.txt", "dir*", "app/c*"],
            &["/"],
            "/s/",
            "s/app/views/keep s/app/views/x",
        ),
    ] {
        let case = Case::new(&files);
        let mut request = case.request(sources, dest);
        request.exclude = patterns.iter().map(|&text| text.to_owned()).collect();
        case.run(&request).unwrap();
        assert_eq!(case.listing(), expected, "{patterns:?} {sources:?}");
    }
    let case = Case::new(&files);
    let mut request = case.request(&["app"], "/");
    request.parents = true;
    request.exclude = vec!["**/views".to_owned()];
    case.run(&request).unwrap();
    assert_eq!(case.listing(), "app/cache/y");
    request.exclude = vec!["[".to_owned()];
    let error = case.run(&request).unwrap_err().chain().to_string();
    assert!(
        error.contains("--exclude") && error.contains("\"[\""),
        "{error}"
    );
}

#[test]
fn heredocs() {
    let case = Case::new(&[]);
    let inline = |name: &str, contents: &str| Source::Inline {
        name: name.to_owned(),
        contents: contents.as_bytes().to_vec(),
    };
    let mut request = case.request(&[], "/one");
    request.sources = vec![inline("EOF", "first")];
    case.run(&request).unwrap();
    request.dest = "/d/".to_owned();
    request.sources = vec![inline("/a/robots.txt", "x"), inline("humans.txt", "y")];
    request.chmod = Some(Chmod::parse("u+x").unwrap());
    request.unpack = Unpack::Auto;
    case.run(&request).unwrap();
    assert_eq!(case.listing(), "d/humans.txt=y d/robots.txt=x one=first");
    assert!(attributes(&case.root("one")).starts_with("644 "));
    assert!(attributes(&case.root("d/humans.txt")).starts_with("744 "));
    request.sources = vec![inline("..", "x")];
    case.run(&request).unwrap_err();
}

#[test]
fn names_of_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let case = Case::new(&[
        "d/test-\u{e4}.txt",
        "d/test+a.txt",
        "d/%C3%A4",
        "d/with space",
        "d/new\nline",
    ]);
    let odd = case
        .from("d")
        .join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    std::fs::write(odd, "odd").unwrap();
    case.copy(&["d"], "/").unwrap();
    assert_eq!(std::fs::read_dir(case.root("")).unwrap().count(), 6);
    case.copy(&["d/test-\u{e4}.txt"], "/x").unwrap();
    case.copy(&["d/%C3%A4"], "/y").unwrap();
    case.copy(&["d/?[\u{e4}-\u{f0}]*"], "/z").unwrap();
}

#[test]
fn the_destination_must_be_absolute() {
    let case = Case::new(&["a"]);
    for dest in ["", "x", "./x"] {
        case.copy(&["a"], dest).unwrap_err();
    }
}
