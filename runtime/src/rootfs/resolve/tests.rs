use super::*;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("rcrun-resolve-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("root/dir/sub")).unwrap();
        std::fs::write(path.join("outside"), "host").unwrap();
        std::fs::write(path.join("root/file"), "").unwrap();
        symlink("/dir", path.join("root/abs")).unwrap();
        symlink("../../../../outside", path.join("root/escape")).unwrap();
        symlink("/not/yet/there", path.join("root/dangling")).unwrap();
        symlink("loop", path.join("root/loop")).unwrap();
        Self(path)
    }
    fn root(&self) -> Root {
        let flags = PLACE | OFlags::DIRECTORY;
        Root::new(rustix::fs::open(self.0.join("root"), flags, Mode::empty()).unwrap())
    }
    fn inside(&self, path: &str) -> PathBuf {
        self.0.join("root").join(path)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn same(fd: &OwnedFd, path: &std::path::Path) -> bool {
    let (a, b) = (
        rustix::fs::fstat(fd).unwrap(),
        rustix::fs::stat(path).unwrap(),
    );
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

#[test]
fn both_ways_of_resolving_agree() {
    let tree = Tree::new("agree");
    let root = tree.root();
    for (path, expected) in [
        (c"/", ""),
        (c"/dir/sub", "dir/sub"),
        (c"abs/sub", "dir/sub"),
        (c"/dir/../../../dir", "dir"),
        (c"//dir/./sub/", "dir/sub"),
        (c"file", "file"),
    ] {
        let expected = tree.inside(expected);
        assert!(
            same(&root.find(path).unwrap(), &expected),
            "openat2 {path:?}"
        );
        assert!(
            same(&root.walk(path, None, Links::Follow).unwrap().0, &expected),
            "walk {path:?}"
        );
    }
    for path in [c"/escape", c"/nothing", c"/dangling"] {
        assert_eq!(root.find(path).unwrap_err(), Errno::NOENT, "{path:?}");
        assert_eq!(
            root.walk(path, None, Links::Follow).unwrap_err(),
            Errno::NOENT,
            "{path:?}"
        );
    }
    for links in [Links::Follow, Links::Refuse] {
        assert_eq!(root.open(c"/loop", PLACE, links).unwrap_err(), Errno::LOOP);
        assert_eq!(root.walk(c"/loop", None, links).unwrap_err(), Errno::LOOP);
    }
    assert_eq!(
        root.open(c"/abs/sub", PLACE, Links::Refuse).unwrap_err(),
        Errno::LOOP
    );
}

#[test]
fn missing_places_are_made_inside() {
    let tree = Tree::new("made");
    let root = tree.root();
    for (path, expected) in [
        (c"/a/b/c", "a/b/c"),
        (c"/dangling", "not/yet/there"),
        (c"/abs/new", "dir/new"),
        (c"/escape/x", "outside/x"),
    ] {
        let (fd, made) = root.ensure(path, Want::Directory, Links::Follow).unwrap();
        assert!(made && same(&fd, &tree.inside(expected)), "{path:?}");
    }
    let (fd, made) = root
        .ensure(c"/etc/new/file", Want::File, Links::Follow)
        .unwrap();
    assert!(
        made && same(&fd, &tree.inside("etc/new/file")) && tree.inside("etc/new/file").is_file()
    );
    assert!(!root.ensure(c"/file", Want::File, Links::Follow).unwrap().1);
    assert_eq!(
        std::fs::read_to_string(tree.0.join("outside")).unwrap(),
        "host"
    );
}

#[test]
fn a_file_in_the_way_is_an_error() {
    let tree = Tree::new("way");
    let root = tree.root();
    assert_eq!(
        root.ensure(c"/file", Want::Directory, Links::Follow)
            .unwrap_err(),
        Errno::NOTDIR
    );
    assert_eq!(
        root.ensure(c"/file/x", Want::File, Links::Follow)
            .unwrap_err(),
        Errno::NOTDIR
    );
}

#[test]
fn parents_are_made_and_names_checked() {
    let tree = Tree::new("parents");
    let root = tree.root();
    let (fd, name) = root.parent(c"/dev/net/tun").unwrap();
    assert!(same(&fd, &tree.inside("dev/net")));
    assert_eq!(name, c"tun");
    for path in [c"/", c"/x/..", c"/x/.", c"name"] {
        assert_eq!(root.parent(path).unwrap_err(), Errno::INVAL, "{path:?}");
    }
}
