//! Layers on top of each other: deletions, replacements, and what needs the layers below.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::CWD;

use super::attributes::read_extended_of;
use super::options::{Options, Overlay, Owners};
use super::roundtrip::{archive, exact, hard, is_root, link, packed, unpack, unpack_with};
use super::{Change, ChangeKind, Unpacked, changes};
use crate::archive::Kind;

/// Names and kinds below a directory: `d` directory, `o` opaque one, `w` deletion, `f` file,
/// `l` link.
fn shape(root: &Path) -> String {
    let mut shape = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = path.symlink_metadata().unwrap();
            let fd = super::tree::refer(CWD, path.as_os_str().as_bytes()).unwrap();
            let opaque = read_extended_of(fd.as_fd()).unwrap();
            let opaque = opaque
                .iter()
                .any(|(name, value)| &**name == b"trusted.overlay.opaque" && &**value == b"y");
            let kind = match (stat.mode() & 0o170_000, stat.rdev()) {
                (0o040_000, _) if opaque => 'o',
                (0o040_000, _) => 'd',
                (0o020_000, 0) => 'w',
                (0o120_000, _) => 'l',
                _ => 'f',
            };
            if stat.is_dir() {
                todo.push(path.clone());
            }
            shape.push(format!(
                "{}:{kind}",
                path.strip_prefix(root).unwrap().display()
            ));
        }
    }
    shape.sort();
    shape.join(" ")
}

#[test]
fn whiteouts_and_replacements_in_any_order() {
    if !is_root() {
        return;
    }
    use Kind::{Directory as Dir, Regular as File};
    for (entries, expected) in [
        (
            &[(".wh.gone", File), ("d", Dir), ("d/.wh.gone", File)][..],
            "d/gone:w d:d gone:w",
        ),
        (
            &[("d", Dir), ("d/.wh..wh..opq", File), ("d/f", File)],
            "d/f:f d:o",
        ),
        (&[("d/.wh..wh..opq", File), ("d", Dir)], "d:o"),
        // A deletion means the layers below, not this one.
        (&[(".wh.f", File), ("f", File)], "f:f"),
        (&[("f", File), (".wh.f", File)], "f:f"),
        (&[(".wh.d", File), ("d", Dir), ("d/f", File)], "d/f:f d:o"),
        (&[("d", Dir), ("d/f", File), (".wh.d", File)], "d/f:f d:o"),
        (&[(".wh.d", File), ("d/f", File)], "d/f:f d:o"),
        // Later entries replace earlier ones; directories stay.
        (
            &[("x", File), ("x", Dir), ("x/y", File), ("x", Dir)],
            "x/y:f x:d",
        ),
        (
            &[("x", Dir), ("x/y", Dir), ("x/y/z", File), ("x", File)],
            "x:f",
        ),
        (
            &[
                ("x", Dir),
                ("x/.wh..wh..opq", File),
                ("x", File),
                ("x", Dir),
            ],
            "x:d",
        ),
        (&[("x", link("y")), ("x", File)], "x:f"),
        (&[("x", File), ("x", link("y")), ("x", Dir)], "x:d"),
        (&[("f", File), ("f", Kind::Character(0, 0))], "f:f"),
        (&[("f", Kind::Character(0, 0))], "f:w"),
        // Book-keeping of AUFS.
        (
            &[
                (".wh..wh.aufs", File),
                (".wh..wh.plnk", Dir),
                (".wh..wh.plnk/1.2", File),
            ],
            "",
        ),
        // Links inside the layer are followed, `/` being its root.
        (
            &[("u/l", Dir), ("l", link("/u/l")), ("l/f", File)],
            "l:l u/l/f:f u/l:d u:d",
        ),
        (
            &[("l", link("../../new")), ("l/f", File)],
            "l:l new/f:f new:d",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        unpack(&archive(entries), directory.path()).unwrap();
        assert_eq!(shape(directory.path()), expected, "{entries:?}");
        // The way back and forth again leads to the same.
        let again = tempfile::tempdir().unwrap();
        unpack(&packed(directory.path(), exact()), again.path()).unwrap();
        assert_eq!(shape(again.path()), expected, "{entries:?}");
    }
}

#[test]
fn deep_directories_are_replaced_with_few_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let deep = vec!["d"; 1_900].join("/");
    unpack_owned(
        &[(&deep, Kind::Regular), ("d", Kind::Regular)],
        directory.path(),
    );
    assert_eq!(std::fs::read(directory.path().join("d")).unwrap(), b"d");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

fn unpack_owned(entries: &[(&str, Kind)], directory: &Path) -> Unpacked {
    let mut options = Options::privileged();
    if !rustix::process::geteuid().is_root() {
        options.owners = Owners::Keep;
    }
    unpack_with(&archive(entries), directory, &options).unwrap()
}

/// Directories, opened.
struct Open(Vec<std::fs::File>);

impl Open {
    fn new<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        Self(
            paths
                .map(|path| std::fs::File::open(path).unwrap())
                .collect(),
        )
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }
}

/// Gives a layer what it takes from those below, top first.
fn settle(unpacked: &Unpacked, layer: &Path, lowers: &Open) -> crate::Result<()> {
    let layer = std::fs::File::open(layer).unwrap();
    let pending = &unpacked.pending;
    pending.settle(layer.as_fd(), &lowers.fds(), Overlay::Trusted)
}

struct Layers(Vec<tempfile::TempDir>);

impl Layers {
    /// Unpacks archives, bottom first, and settles each.
    fn new(archives: &[&[(&str, Kind)]]) -> crate::Result<Self> {
        let mut layers: Vec<tempfile::TempDir> = Vec::new();
        for entries in archives {
            let layer = tempfile::tempdir().unwrap();
            let unpacked = unpack(&archive(entries), layer.path())?;
            let lowers = Open::new(layers.iter().rev().map(tempfile::TempDir::path));
            settle(&unpacked, layer.path(), &lowers)?;
            layers.push(layer);
        }
        Ok(Self(layers))
    }

    fn top(&self) -> &Path {
        self.0.last().unwrap().path()
    }

    fn changes(&self) -> Vec<Change> {
        let open = Open::new(self.0.iter().rev().map(tempfile::TempDir::path));
        let fds = open.fds();
        changes(fds[0], &fds[1..], Overlay::Trusted).unwrap()
    }
}

#[test]
fn directories_that_an_archive_does_not_mention() {
    if !is_root() {
        return;
    }
    use Kind::{Directory as Dir, Regular as File};
    let layers = Layers::new(&[
        &[
            ("a", Dir),
            ("a/b", Dir),
            ("l", link("a")),
            ("o", Dir),
            ("o/p", Dir),
        ],
        &[("x", File)],
        &[
            ("a/b/f", File),
            ("new/g", File),
            ("l/h", File),
            ("o", Dir),
            ("o/.wh..wh..opq", File),
            ("o/p/f", File),
        ],
    ])
    .unwrap();
    let stat = |path: &str| {
        let stat = layers.top().join(path).metadata().unwrap();
        (stat.mode() & 0o7777, stat.mtime())
    };
    assert_eq!(stat("a"), (0o750, 77));
    assert_eq!(stat("a/b"), (0o750, 77));
    assert_eq!(stat("new"), (0o755, 0));
    // Covers the link below, and the directory that the opaque one hides.
    assert_eq!(stat("l"), (0o755, 0));
    assert_eq!(stat("o/p"), (0o755, 0));
}

#[test]
fn the_root_is_as_the_last_layer_says_that_mentions_it() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let layer = |name: &str, entries: &[(&str, Kind)]| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let unpacked = unpack(&archive(entries), &path).unwrap();
        (path, unpacked)
    };
    let says = |path: &Path| {
        let stat = path.metadata().unwrap();
        (stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec())
    };
    let (one, unpacked) = layer("one", &[("f", Kind::Regular)]);
    assert_eq!(unpacked.pending.directories(), [b""]);
    let settle = |unpacked: &Unpacked, path: &Path, lowers: &[&Path]| {
        let lowers = Open::new(lowers.iter().copied());
        super::stacked::settle(unpacked, path, &lowers).unwrap();
    };
    settle(&unpacked, &one, &[]);
    assert_eq!(says(&one), (0o755, 0, 0));
    let (two, unpacked) = layer("two", &[(".", Kind::Directory)]);
    assert!(unpacked.pending.is_empty());
    std::fs::set_permissions(&two, std::os::unix::fs::PermissionsExt::from_mode(0o1711)).unwrap();
    let (three, unpacked) = layer("three", &[("f", Kind::Regular)]);
    settle(&unpacked, &three, &[&two, &one]);
    assert_eq!(says(&three), says(&two));
    let (four, unpacked) = layer("four", &[("d/f", Kind::Regular)]);
    settle(&unpacked, &four, &[&three, &two, &one]);
    assert_eq!(says(&four), says(&two));
}

#[test]
fn hard_links_to_files_of_layers_below() {
    if !is_root() {
        return;
    }
    use Kind::{Directory as Dir, Regular as File};
    let layers = Layers::new(&[
        &[
            ("a", Dir),
            ("a/one", File),
            ("s", link("a")),
            ("a/link", link("one")),
        ],
        &[("other", File)],
        &[
            ("two", hard("a/one")),
            ("b/three", hard("two")),
            ("four", hard("s/one")),
            ("five", hard("a/link")),
        ],
    ])
    .unwrap();
    assert_eq!(
        shape(layers.top()),
        "a/link:l a/one:f a:d b/three:f b:d five:l four:f two:f"
    );
    let inode = |path: &str| layers.top().join(path).symlink_metadata().unwrap().ino();
    for path in ["two", "b/three", "four"] {
        assert_eq!(inode(path), inode("a/one"), "{path}");
    }
    assert_eq!(inode("five"), inode("a/link"));
    assert_eq!(std::fs::read(layers.top().join("four")).unwrap(), b"a/one");
    let stat = layers.top().join("a").metadata().unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o750, 77));
    // Deleted, hidden, missing, outside, a directory.
    for (middle, target) in [
        (&[(".wh.a", File)][..], "a/one"),
        (&[("a", Dir), ("a/.wh..wh..opq", File)], "a/one"),
        (&[], "a/missing"),
        (&[("s", link("/etc"))], "s/passwd"),
        (&[], "a"),
    ] {
        let bottom = &[("a", Dir), ("a/one", File)][..];
        let error = Layers::new(&[bottom, middle, &[("two", hard(target))]]).err();
        assert!(error.is_some(), "{middle:?} {target}");
    }
}

#[test]
fn what_was_changed() {
    if !is_root() {
        return;
    }
    use ChangeKind::{Added, Deleted, Modified};
    use Kind::{Directory as Dir, Regular as File};
    let layers = Layers::new(&[
        &[
            ("a", Dir),
            ("a/x", File),
            ("a/y", File),
            ("o", Dir),
            ("o/p", File),
            ("o/q", File),
        ],
        &[
            ("a", Dir),
            ("a/.wh.x", File),
            ("a/.wh.never", File),
            ("a/y", File),
            ("a/z", File),
            ("o", Dir),
            ("o/.wh..wh..opq", File),
            ("o/q", File),
        ],
    ])
    .unwrap();
    let change = |path: &str, kind| Change {
        path: path.as_bytes().to_vec(),
        kind,
    };
    assert_eq!(
        layers.changes(),
        [
            change("a", Modified),
            change("a/x", Deleted),
            change("a/y", Modified),
            change("a/z", Added),
            change("o", Modified),
            change("o/p", Deleted),
            change("o/q", Modified),
        ]
    );
}

/// An overlay mount of layers, read-only, for as long as this lives.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(layers: &Layers) -> Option<Self> {
        let paths = layers
            .0
            .iter()
            .rev()
            .map(|layer| layer.path().to_str().unwrap());
        let options = format!("lowerdir={}", paths.collect::<Vec<_>>().join(":"));
        let options = std::ffi::CString::new(options).unwrap();
        let target = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::RDONLY;
        match rustix::mount::mount("overlay", target.path(), "overlay", flags, &*options) {
            Ok(()) => Some(Self(target)),
            Err(errno) => {
                println!("skipped: cannot mount an overlay: {errno}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn the_kernel_shows_what_we_find() {
    use Kind::{Directory as Dir, Regular as File};
    if !is_root() {
        return;
    }
    let layers = Layers::new(&[
        &[
            ("a", Dir),
            ("a/x", File),
            ("a/y", File),
            ("o", Dir),
            ("o/p", File),
            ("r", Dir),
            ("r/old", File),
            ("s", link("a")),
            ("f", File),
            ("deep/er", Dir),
            ("deep/er/one", File),
        ],
        &[
            ("a/.wh.x", File),
            ("o", Dir),
            ("o/.wh..wh..opq", File),
            ("o/q", File),
            (".wh.r", File),
            ("r", Dir),
            ("r/new", File),
            (".wh.f", File),
        ],
        &[
            ("a/x", Dir),
            ("a/x/z", File),
            ("deep/er/two", hard("deep/er/one")),
            ("f", Dir),
        ],
    ])
    .unwrap();
    let Some(mounted) = Mounted::new(&layers) else {
        return;
    };
    let files: Vec<_> = layers
        .0
        .iter()
        .rev()
        .map(|layer| std::fs::File::open(layer.path()).unwrap())
        .collect();
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut merged = super::merged::Merged::new(&fds, Overlay::Trusted).unwrap();
    let (mut ours, mut todo) = (Vec::new(), vec![Vec::new()]);
    while let Some(path) = todo.pop() {
        for name in merged.names(&path).unwrap() {
            let path = crate::archive::name::join(&path, &name);
            let found = merged.find(&path).unwrap().unwrap();
            if found.is_directory() {
                todo.push(path.clone());
            }
            let kind = if found.is_directory() { 'd' } else { 'f' };
            let kind = if found.stat.st_mode & 0o170_000 == 0o120_000 {
                'l'
            } else {
                kind
            };
            ours.push(format!("{}:{kind}", String::from_utf8(path).unwrap()));
        }
    }
    ours.sort();
    assert_eq!(shape(mounted.0.path()), ours.join(" "));
    let one = mounted.0.path().join("deep/er/one").metadata().unwrap();
    let two = mounted.0.path().join("deep/er/two").metadata().unwrap();
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert!(
        merged
            .find(b"s/y")
            .unwrap()
            .is_some_and(|found| found.path == b"a/y")
    );
}
