//! Attributes: modes, owners, times, types, links, holes.

use rustix::fs::{FileType, Mode, XattrFlags};

use super::*;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn modes_are_kept_and_changed() {
    let case = Case::new(&["s/plain", "s/program", "s/dir/x", "s/setuid", "s/none"]);
    for (name, bits) in [
        ("plain", 0o640),
        ("program", 0o751),
        ("dir", 0o2755),
        ("setuid", 0o4711),
        ("none", 0),
    ] {
        mode(&case.from("s").join(name), bits);
    }
    case.copy(&["s"], "/kept").unwrap();
    let shown = |path: &str| {
        attributes(&case.root(path))
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    for (name, bits) in [
        ("plain", "640"),
        ("program", "751"),
        ("dir", "2755"),
        ("setuid", "4711"),
        ("none", "0"),
    ] {
        assert_eq!(shown(&format!("kept/{name}")), bits);
    }
    assert_eq!(shown("kept"), "755", "the directory itself is not copied");
    for (chmod, plain, program, dir, parent) in [
        ("0600", "600", "600", "600", "600"),
        ("4755", "4755", "4755", "4755", "755"),
        ("go-w", "640", "751", "2755", "755"),
        ("a+X", "640", "751", "2755", "755"),
        ("u=rwX,go=rX", "644", "755", "755", "755"),
        ("a+rX", "644", "755", "2755", "755"),
    ] {
        let case = Case::new(&[]);
        let mut request = Case::new(&[]).request(&[], "/p/q/");
        request.sources = vec![Source::Path {
            tree: self::shared(&case, chmod),
            path: "s".to_owned(),
        }];
        request.chmod = Some(Chmod::parse(chmod).unwrap());
        case.run(&request).unwrap();
        let shown = |path: &str| {
            attributes(&case.root(path))
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        assert_eq!(shown("p/q/plain"), plain, "{chmod}");
        assert_eq!(shown("p/q/program"), program, "{chmod}");
        assert_eq!(shown("p/q/dir"), dir, "{chmod}");
        assert_eq!(shown("p"), parent, "{chmod}");
        assert_eq!(shown("p/q"), parent, "{chmod}");
    }
}

fn shared(case: &Case, _chmod: &str) -> Tree {
    populate(&case.from(""), &["s/plain", "s/program", "s/dir/"]);
    for (name, bits) in [("plain", 0o640), ("program", 0o751), ("dir", 0o2755)] {
        mode(&case.from("s").join(name), bits);
    }
    case.tree.clone()
}

#[test]
fn owners() {
    if !is_root("may change owners") {
        return;
    }
    let files = ["s/file", "s/dir/x", "s/link -> file"];
    let own = |case: &Case| {
        for (path, id) in [
            ("s", 100),
            ("s/file", 101),
            ("s/dir", 102),
            ("s/dir/x", 103),
            ("s/link", 104),
        ] {
            std::os::unix::fs::lchown(case.from(path), Some(id), Some(id + 100)).unwrap();
        }
    };
    let ids = |case: &Case, path: &str| {
        let all = attributes(&case.root(path));
        all.split(' ').skip(1).take(2).collect::<Vec<_>>().join(":")
    };
    // Of a directory of the host: root's.
    let case = Case::new(&files);
    own(&case);
    case.copy(&["s"], "/d").unwrap();
    assert_eq!(ids(&case, "d/file"), "0:0");
    assert_eq!(ids(&case, "d/link"), "0:0");
    // Of a stage: as they are, but for the directory itself.
    let case = Case::stage(&files);
    own(&case);
    case.copy(&["s"], "/d").unwrap();
    for (path, id) in [
        ("d", "0:0"),
        ("d/file", "101:201"),
        ("d/dir", "102:202"),
        ("d/link", "104:204"),
    ] {
        assert_eq!(ids(&case, path), id, "{path}");
    }
    // With --chown: all, and the directories made on the way; not those that were there.
    let case = Case::stage(&files).onto(&["there/"]);
    own(&case);
    let mut request = case.request(&["s"], "/there/new/d");
    request.owner = Some(Owner { uid: 7, gid: 8 });
    case.run(&request).unwrap();
    for (path, id) in [
        ("there", "0:0"),
        ("there/new", "7:8"),
        ("there/new/d", "7:8"),
        ("there/new/d/file", "7:8"),
        ("there/new/d/link", "7:8"),
        ("there/new/d/dir/x", "7:8"),
    ] {
        assert_eq!(ids(&case, path), id, "{path}");
    }
    // A directory that is there gets what the copied one has, but the destination keeps its own.
    let case = Case::stage(&files).onto(&["d/dir/old"]);
    own(&case);
    for path in ["d", "d/dir"] {
        std::os::unix::fs::lchown(case.root(path), Some(500), Some(600)).unwrap();
    }
    case.copy(&["s"], "/d").unwrap();
    assert_eq!(ids(&case, "d"), "500:600");
    assert_eq!(ids(&case, "d/dir"), "102:202");
}

#[test]
fn setuid_bits_survive_chown() {
    if !is_root("may change owners") {
        return;
    }
    let case = Case::new(&["program"]);
    mode(&case.from("program"), 0o6755);
    let mut request = case.request(&["program"], "/");
    request.owner = Some(Owner { uid: 5, gid: 5 });
    case.run(&request).unwrap();
    assert!(attributes(&case.root("program")).starts_with("6755 5 5 "));
}

#[test]
fn times() {
    let old = UNIX_EPOCH + Duration::from_secs(1000);
    let new = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let limit = UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    for (times, of_old, of_new, made, kept) in [
        (Times::Keep, 1000, 2_000_000_000, None, None),
        (
            Times::Clamp(limit),
            1000,
            1_500_000_000,
            Some(1_500_000_000),
            Some(77),
        ),
        (
            Times::Set(limit),
            1_500_000_000,
            1_500_000_000,
            Some(1_500_000_000),
            Some(77),
        ),
    ] {
        let mut case = Case::new(&["s/old", "s/new", "s/dir/x", "s/l -> old"]).onto(&["there/"]);
        case.times = times;
        let set = |path: &Path, time: SystemTime| {
            let file = std::fs::File::open(path).unwrap();
            file.set_modified(time).unwrap();
        };
        set(&case.from("s/old"), old);
        set(&case.from("s/new"), new);
        set(&case.from("s/dir"), old);
        set(&case.from("s"), old);
        set(&case.root("there"), UNIX_EPOCH + Duration::from_secs(77));
        case.copy(&["s"], "/there/p/d").unwrap();
        case.copy(&["s/old"], "/there/single").unwrap();
        let at = |path: &str| std::fs::symlink_metadata(case.root(path)).unwrap().mtime();
        assert_eq!(at("there/p/d/old"), of_old);
        assert_eq!(at("there/p/d/new"), of_new);
        assert_eq!(at("there/p/d/dir"), of_old);
        assert_eq!(at("there/p/d"), of_old, "as its source");
        assert_eq!(at("there/single"), of_old);
        if let (Some(made), Some(kept)) = (made, kept) {
            assert_eq!(at("there/p"), made);
            assert_eq!(at("there"), kept, "it was there");
        }
    }
}

#[test]
fn special_files() {
    let case = Case::new(&["s/file"]);
    let from = std::fs::File::open(case.from("s")).unwrap();
    rustix::fs::mknodat(&from, "pipe", FileType::Fifo, Mode::from(0o620), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(case.from("s/socket")).unwrap();
    let device = rustix::fs::mknodat(
        &from,
        "null",
        FileType::CharacterDevice,
        Mode::from(0o666),
        rustix::fs::makedev(1, 3),
    );
    case.copy(&["s"], "/").unwrap();
    let socket = std::fs::symlink_metadata(case.root("socket")).unwrap();
    assert!(socket.is_file() && socket.len() == 0, "a stub");
    assert!(
        std::fs::symlink_metadata(case.root("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let mode = |path: &Path| attributes(path).split(' ').next().unwrap().to_owned();
    assert_eq!(mode(&case.root("pipe")), mode(&case.from("s/pipe")));
    if device.is_ok() {
        let device = std::fs::symlink_metadata(case.root("null")).unwrap();
        assert_eq!(device.rdev(), rustix::fs::makedev(1, 3));
    }
    // A pipe as the source itself.
    case.copy(&["s/pipe"], "/again").unwrap();
    assert!(
        std::fs::symlink_metadata(case.root("again"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

#[test]
fn hard_links_of_one_copy_stay_links() {
    let case = Case::new(&["s/a=x", "s/d/z=y", "t/other"]);
    std::fs::hard_link(case.from("s/a"), case.from("s/d/b")).unwrap();
    std::fs::hard_link(case.from("s/a"), case.from("s/d/c")).unwrap();
    std::fs::hard_link(case.from("s/a"), case.from("t/far")).unwrap();
    case.copy(&["s"], "/1").unwrap();
    let inode = |path: &str| std::fs::metadata(case.root(path)).unwrap().ino();
    assert_eq!(inode("1/a"), inode("1/d/b"));
    assert_eq!(inode("1/a"), inode("1/d/c"));
    assert_ne!(inode("1/a"), inode("1/d/z"));
    let links = std::fs::metadata(case.root("1/a")).unwrap().nlink();
    assert_eq!(links, 3);
    // Not across sources.
    case.copy(&["s", "t"], "/2").unwrap();
    assert_ne!(inode("2/a"), inode("2/far"));
    // Over what was there.
    case.copy(&["s"], "/1").unwrap();
    assert_eq!(inode("1/a"), inode("1/d/b"));
}

#[test]
fn attributes_are_copied() {
    let case = Case::new(&["s/file", "s/dir/x"]);
    let set = |path: &str, name: &str, value: &[u8]| {
        let file = std::fs::File::open(case.from(path)).unwrap();
        rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
    };
    if set("s/file", "user.test", b"value").is_err() {
        println!("skipped: no attributes on this file system");
        return;
    }
    set("s/dir", "user.dir", b"d").unwrap();
    // cap_net_raw+ep, version 2.
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let privileged = set("s/file", "security.capability", &capability).is_ok();
    // user::rw- user:1000:r-- group::r-- mask::r-- other::r--
    let entry = |tag: u16, bits: u16, id: u32| {
        [
            &tag.to_le_bytes()[..],
            &bits.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    };
    let none = u32::MAX;
    let list = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 6, none),
        entry(2, 4, 1000),
        entry(4, 4, none),
        entry(0x10, 4, none),
        entry(0x20, 4, none),
    ];
    let acl = set("s/file", "system.posix_acl_access", &list.concat()).is_ok();
    case.copy(&["s"], "/").unwrap();
    let get = |path: &str, name: &str| {
        let mut value = vec![0; 256];
        let length = rustix::fs::getxattr(case.root(path), name, &mut value).unwrap();
        value.truncate(length);
        value
    };
    assert_eq!(get("file", "user.test"), b"value");
    assert_eq!(get("dir", "user.dir"), b"d");
    if privileged {
        assert_eq!(get("file", "security.capability"), capability);
    }
    if acl {
        assert_eq!(get("file", "system.posix_acl_access"), list.concat());
    }
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::FileExt;
    let case = Case::new(&["s/small"]);
    let file = std::fs::File::create(case.from("s/sparse")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"middle", 300 << 20).unwrap();
    file.set_len(1 << 30).unwrap();
    let hole = std::fs::File::create(case.from("s/hole")).unwrap();
    hole.set_len(1 << 30).unwrap();
    drop((file, hole));
    case.copy(&["s"], "/").unwrap();
    for name in ["sparse", "hole"] {
        let stat = std::fs::metadata(case.root(name)).unwrap();
        assert_eq!(stat.len(), 1 << 30);
        assert!(stat.blocks() < 2048, "{name}: {} blocks", stat.blocks());
    }
    let file = std::fs::File::open(case.root("sparse")).unwrap();
    let mut middle = [0; 6];
    file.read_exact_at(&mut middle, 300 << 20).unwrap();
    assert_eq!(&middle, b"middle");
}

/// RELIABILITY: a file that is written to while the build reads it.
#[test]
fn a_file_that_changes_is_an_error() {
    let case = Case::new(&["s/file=one", "s/other"]);
    let selection = select(&case.request(&["s"], "/")).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(case.from("s/file"), "two").unwrap();
    let error = selection.checksum(2, None).unwrap_err();
    let text = error.chain().to_string();
    assert!(
        text.contains("s/file") && text.contains("changed"),
        "{text}"
    );
    assert!(error.hint().unwrap().contains(".dockerignore"));
    let root = OwnedFd::from(std::fs::File::open(case.root("")).unwrap());
    let options = Options {
        times: Times::Keep,
        threads: 2,
    };
    let error = selection.execute(root.as_fd(), options).unwrap_err();
    assert!(error.chain().to_string().contains("changed"), "{error:?}");
}
