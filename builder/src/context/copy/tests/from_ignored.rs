//! Sources of which some are ignored.

use super::*;

/// Ignore file, sources, and what is copied; none is an error whose hint names the line.
#[test]
fn ignored_files_are_not_there() {
    let files = [
        "foo",
        "bar",
        "baz",
        "bay",
        "folder/file1",
        "folder/file2",
        "folder/deep/x",
        "volume/data/one.txt",
        "volume/data/two",
        "subdir/sub1.txt",
        "subdir/sub2.txt",
        "subdir/sub3.txt",
        "link -> bar",
        "way -> folder",
        ".dockerignore",
        "Dockerfile",
    ];
    for (ignore, sources, expected) in [
        ("*\n!foo\n", &["."][..], Some("foo")),
        (
            "*\n!folder\nfolder/deep\n",
            &["."],
            Some("folder/file1 folder/file2"),
        ),
        ("**\n!folder/file1\n", &["."], Some("folder/file1")),
        ("**\n!folder/file1\n", &["folder"], Some("file1")),
        ("**\n!folder/nothing\n", &["folder"], None),
        ("**\n!folder/nothing\n", &["folder/file1"], None),
        ("*\n!ba*\nbar\n", &["ba*"], Some("bay baz")),
        ("ba*\n!bay\n", &["ba[yrz]"], Some("bay")),
        (
            "*\n!volume\nvolume/\n!**/one.txt\n",
            &["./"],
            Some("volume/data/one.txt"),
        ),
        ("*\nsubdir\n!*/sub1*\n", &["./"], Some("subdir/sub1.txt")),
        (
            "*\nsubdir\n!*/sub1*\n!subdir/sub3*\n",
            &["subdir"],
            Some("sub1.txt sub3.txt"),
        ),
        ("bar\n", &["link"], None),
        ("link\n", &["link"], None),
        ("link\n", &["l*"], Some("")),
        ("folder/file1\n", &["way"], Some("deep/x file2")),
        ("folder\n", &["way"], None),
        ("foo\n", &["foo"], None),
        ("folder\n", &["folder/file1"], None),
        ("folder/deep\n", &["folder/*/x"], Some("")),
        ("folder\n!folder/deep/x\n", &["folder/*/x"], Some("x")),
        ("folder/*\n", &["folder"], Some("")),
        ("# nothing\n", &["foo"], Some("foo")),
    ] {
        let case = Case::new(&files).ignoring(ignore);
        match (case.copy(sources, "/"), expected) {
            (Ok(_), Some(expected)) => {
                assert_eq!(case.listing(), expected, "{ignore:?} {sources:?}");
            }
            (Err(error), None) => {
                let hint = error.hint().unwrap_or_default();
                assert!(
                    hint.contains("ignore file") && hint.contains("line"),
                    "{error:?} {hint}"
                );
            }
            (other, _) => panic!("{ignore:?} {sources:?}: {other:?} {:?}", case.listing()),
        }
    }
}

#[test]
fn what_is_excluded_counts_for_what_is_there() {
    // The ignored directory is there for a file that --exclude leaves out.
    let case = Case::new(&["d/keep", "d/gone", "e/x"]).ignoring("d\n!d/keep\n");
    let mut request = case.request(&["."], "/");
    request.exclude = vec!["d/keep".to_owned(), "e".to_owned()];
    case.run(&request).unwrap();
    assert_eq!(case.listing(), "d/");
    let case = Case::new(&["d/sub/keep", "d/gone"]).ignoring("d\n!d/sub/keep\n");
    let mut request = case.request(&["."], "/");
    request.exclude = vec!["d/sub".to_owned()];
    case.run(&request).unwrap();
    assert_eq!(case.listing(), "d/");
    let case = Case::new(&["d/sub/gone", "d/gone"]).ignoring("d\n!d/sub/keep\n");
    let mut request = case.request(&["."], "/");
    request.exclude = vec!["d/sub".to_owned()];
    case.run(&request).unwrap();
    assert_eq!(case.listing(), "");
}

#[test]
fn parents_of_what_is_there() {
    let case = Case::new(&["a/b/c", "a/b/d", "a/e/c"]).ignoring("a/b\n!a/b/c\na/e\n");
    let mut request = case.request(&["**/c"], "/p/");
    request.parents = true;
    case.run(&request).unwrap();
    assert_eq!(case.listing(), "p/a/b/c");
    request.sources.truncate(0);
    request.sources.push(Source::Path {
        tree: case.tree.clone(),
        path: "a/e/c".to_owned(),
    });
    let error = case.run(&request).unwrap_err();
    assert!(error.hint().unwrap().contains("line 3"), "{error:?}");
}

/// Directories in which nothing can be are not even opened: their times of access stay.
#[test]
fn only_what_is_needed_is_read() {
    if !is_root("reads what it may not") {
        // Without privilege a directory that cannot be read shows it.
        let case = Case::new(&["node_modules/x", "src/a"]).ignoring("node_modules\n!src/b\n");
        let closed = case.from("node_modules");
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o0)).unwrap();
        let copied = case.copy(&["."], "/");
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o755)).unwrap();
        copied.unwrap();
        return;
    }
    let case =
        Case::new(&["node_modules/x/y", "src/a", "other/z"]).ignoring("node_modules\n!src/b\n");
    let path = case.from("node_modules");
    let past = rustix::fs::Timespec {
        tv_sec: 1000,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: past,
        last_modification: past,
    };
    let file = std::fs::File::open(&path).unwrap();
    rustix::fs::futimens(&file, &times).unwrap();
    case.copy(&["."], "/").unwrap();
    case.copy(&["s*/a"], "/x").unwrap();
    assert_eq!(file.metadata().unwrap().atime(), 1000, "it was read");
    assert_eq!(case.listing(), "other/z src/a x=src/a");
}
