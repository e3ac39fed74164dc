//! What a cache key depends on.

use super::*;
use crate::Digest;
use crate::context::copy::StatCache;

fn sum(request: &Request) -> Digest {
    select(request).unwrap().checksum(2, None).unwrap()
}

const FILES: [&str; 6] = [
    "s/a=1",
    "s/d/b=2",
    "s/d/c=3",
    "s/l -> a",
    "s/p/q/r=4",
    "other=5",
];

/// RELIABILITY 51: each change, and whether it is another copy.
#[test]
fn what_is_another_copy() {
    type Change = fn(&Case, &mut Request);
    let changes: [(&str, bool, Change); 21] = [
        ("nothing", false, |_, _| {}),
        ("content", true, |case, _| {
            std::fs::write(case.from("s/a"), "x").unwrap();
        }),
        ("mtime", false, |case, _| {
            let file = std::fs::File::open(case.from("s/a")).unwrap();
            file.set_modified(moment()).unwrap();
        }),
        ("the same content", false, |case, _| {
            std::fs::remove_file(case.from("s/a")).unwrap();
            std::fs::write(case.from("s/a"), "1").unwrap();
        }),
        ("mode", true, |case, _| {
            std::fs::set_permissions(case.from("s/a"), PermissionsExt::from_mode(0o755)).unwrap();
        }),
        ("mode of a directory", true, |case, _| {
            std::fs::set_permissions(case.from("s/d"), PermissionsExt::from_mode(0o700)).unwrap();
        }),
        ("mode of the source", false, |case, _| {
            std::fs::set_permissions(case.from("s"), PermissionsExt::from_mode(0o700)).unwrap();
        }),
        ("name", true, |case, _| {
            std::fs::rename(case.from("s/a"), case.from("s/z")).unwrap();
        }),
        ("one more file", true, |case, _| {
            populate(&case.from(""), &["s/new"]);
        }),
        ("one more directory", true, |case, _| {
            populate(&case.from(""), &["s/new/"]);
        }),
        ("a link's target", true, |case, _| {
            std::fs::remove_file(case.from("s/l")).unwrap();
            populate(&case.from(""), &["s/l -> b"]);
        }),
        ("a file instead of a link", true, |case, _| {
            std::fs::remove_file(case.from("s/l")).unwrap();
            populate(&case.from(""), &["s/l=a"]);
        }),
        ("a hard link instead of a file", true, |case, _| {
            std::fs::remove_file(case.from("s/d/c")).unwrap();
            std::fs::hard_link(case.from("s/d/b"), case.from("s/d/c")).unwrap();
        }),
        ("a hard link to elsewhere", false, |case, _| {
            std::fs::hard_link(case.from("s/d/b"), case.from("elsewhere")).unwrap();
        }),
        ("another file", false, |case, _| {
            std::fs::write(case.from("other"), "x").unwrap();
        }),
        ("owner", true, |_, request| {
            request.owner = Some(Owner { uid: 1, gid: 2 });
        }),
        ("chmod", true, |_, request| {
            request.chmod = Some(Chmod::parse("go-r").unwrap());
        }),
        ("destination", true, |_, request| {
            request.dest = "/e".to_owned();
        }),
        ("exclude", true, |_, request| {
            request.exclude = vec!["d/b".to_owned()];
        }),
        ("exclude of nothing", false, |_, request| {
            request.exclude = vec!["nope".to_owned()];
        }),
        ("parents", true, |_, request| request.parents = true),
    ];
    for (name, another, change) in changes {
        let case = Case::new(&FILES);
        let mut request = case.request(&["s"], "/d");
        let before = sum(&request);
        change(&case, &mut request);
        assert_eq!(sum(&request) != before, another, "{name}");
    }
}

#[test]
fn attributes_count() {
    let case = Case::new(&FILES);
    let before = sum(&case.request(&["s"], "/d"));
    for path in ["s/a", "s/d"] {
        let file = std::fs::File::open(case.from(path)).unwrap();
        let set = rustix::fs::fsetxattr(file, "user.x", b"1", rustix::fs::XattrFlags::empty());
        if set.is_err() {
            println!("skipped: no attributes on this file system");
            return;
        }
        let after = sum(&case.request(&["s"], "/d"));
        assert_ne!(after, before, "{path}");
    }
}

#[test]
fn owners_count_where_they_are_copied() {
    if !is_root("may change owners") {
        return;
    }
    for (case, another) in [(Case::new(&FILES), false), (Case::stage(&FILES), true)] {
        let before = sum(&case.request(&["s"], "/d"));
        std::os::unix::fs::chown(case.from("s/a"), Some(9), None).unwrap();
        assert_eq!(sum(&case.request(&["s"], "/d")) != before, another);
    }
}

/// The same files, made in another order, on another file system, with any number of threads.
#[test]
fn the_same_everywhere() {
    let mut reversed = FILES;
    reversed.reverse();
    let (one, two) = (Case::new(&FILES), Case::new(&reversed));
    let first = sum(&one.request(&["s"], "/d"));
    assert_eq!(first, sum(&two.request(&["s"], "/d")));
    let other = Path::new("/dev/shm");
    if let Ok(directory) = tempfile::tempdir_in(other) {
        populate(directory.path(), &reversed);
        let tree = Tree::open(directory.path(), "elsewhere").unwrap();
        let mut request = one.request(&[], "/d");
        let path = "s".to_owned();
        request.sources = vec![Source::Path { tree, path }];
        assert_eq!(first, sum(&request));
    }
    for threads in [1, 2, 7, 100] {
        let selection = select(&one.request(&["s"], "/d")).unwrap();
        assert_eq!(selection.checksum(threads, None).unwrap(), first);
    }
    // Recorded: a change of the format must be meant, since it makes all caches worthless.
    let recorded = "sha256:41ea101d857172c88d8d05592bf635ed3a1950c4e731b77827f57e80fab84f3a";
    if rustix::process::geteuid().is_root() {
        assert_eq!(first.to_string(), recorded);
    }
}

#[test]
fn remembered_digests_are_the_same() {
    let case = Case::new(&FILES);
    let request = case.request(&["s"], "/d");
    let before = sum(&request);
    let cache = StatCache::default();
    let again = |cache: &StatCache| select(&request).unwrap().checksum(2, Some(cache)).unwrap();
    // Just written: nothing may be remembered.
    assert_eq!(again(&cache), before);
    std::fs::write(case.from("s/a"), "2").unwrap();
    assert_ne!(again(&cache), before);
    std::fs::write(case.from("s/a"), "1").unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(again(&cache), before);
    assert_eq!(again(&cache), before);
    // A change that keeps size and modification time.
    let modified = std::fs::metadata(case.from("s/a"))
        .unwrap()
        .modified()
        .unwrap();
    std::fs::write(case.from("s/a"), "2").unwrap();
    let file = std::fs::File::open(case.from("s/a")).unwrap();
    file.set_modified(modified).unwrap();
    assert_ne!(again(&cache), before, "the time of change tells");
}

#[test]
fn archives_and_heredocs() {
    let case = Case::new(&[]);
    let mut request = case.request(&[], "/d");
    let inline = |name: &str, text: &str| Source::Inline {
        name: name.to_owned(),
        contents: text.as_bytes().to_vec(),
    };
    let mut sums = Vec::new();
    for (name, text) in [("a", "x"), ("b", "x"), ("a", "y")] {
        request.sources = vec![inline(name, text)];
        sums.push(sum(&request));
    }
    request.sources = vec![inline("a", "x"), inline("a", "y")];
    sums.push(sum(&request));
    std::fs::write(case.from("x.tar"), super::add::archive()).unwrap();
    for unpack in [Unpack::No, Unpack::Auto] {
        let mut request = case.request(&["x.tar"], "/d");
        request.unpack = unpack;
        sums.push(sum(&request));
    }
    let count = sums.len();
    sums.sort();
    sums.dedup();
    assert_eq!(sums.len(), count, "each is another copy");
}
