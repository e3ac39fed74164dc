use super::*;
use crate::ErrorKind;
use rcrun_overlay::archive::{Entry, Time, Writer};
use std::os::fd::AsRawFd as _;

/// A name with a digest.
fn config() -> String {
    let image = format!("a.b/c@sha256:{}", "0a".repeat(32));
    serde_json::json!({ "rootfsImageRef": image }).to_string()
}

fn entry(path: &str, kind: Kind, size: u64) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o777,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size,
        map: None,
        attributes: Vec::new(),
    }
}

/// An archive with these files, in this order.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, text) in files {
        let entry = entry(path, Kind::Regular, text.len() as u64);
        writer.append(&entry, &mut text.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

fn origin(bytes: &[u8]) -> Origin {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Origin::Archive(file)
}

/// A directory to unpack into, and what is beside it.
struct Place {
    around: tempfile::TempDir,
    into: OwnedFd,
}

impl Place {
    fn new() -> Self {
        let around = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let into = around.path().join("into");
        std::fs::create_dir(&into).unwrap();
        let into = File::open(into).unwrap().into();
        Self { around, into }
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.around.path().join("into").join(name)).ok()
    }

    /// Nothing was written but below the directory.
    fn assert_nothing_beside(&self) {
        let all = std::fs::read_dir(self.around.path()).unwrap();
        let all: Vec<_> = all.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(all, ["into"]);
    }
}

#[track_caller]
fn refused(bytes: &[u8]) -> String {
    let place = Place::new();
    let error = origin(bytes).unpack(&place.into).unwrap_err();
    place.assert_nothing_beside();
    error.chain().to_string()
}

#[test]
fn what_is_wanted_arrives() {
    let bytes = archive(&[
        ("config.dump", &config()),
        (
            "spec.dump",
            "{\"mounts\":[{\"source\":\"/\",\"destination\":\"/host\"}]}",
        ),
        ("container.log", "log"),
        ("rootfs-diff.tar", "changes"),
        ("deleted.files", "[\"/a\"]"),
        ("checkpoint/inventory.img", "one"),
        ("checkpoint/descriptors.json", "[]"),
        ("checkpoint/cgroup.txt", "no"),
        ("dump.log", "no"),
    ]);
    let origin = origin(&bytes);
    assert!(origin.base().unwrap().image.starts_with("a.b/c@sha256:0a"));
    let place = Place::new();
    let arrived = origin.unpack(&place.into).unwrap();
    assert_eq!(arrived.deleted, [b"a"]);
    let mut text = String::new();
    arrived.changes.unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "changes");
    assert_eq!(place.read("container.log").unwrap(), "log");
    assert_eq!(place.read("checkpoint/inventory.img").unwrap(), "one");
    assert_eq!(place.read("checkpoint/descriptors.json").unwrap(), "[]");
    for name in [
        "spec.dump",
        "config.dump",
        "dump.log",
        "checkpoint/cgroup.txt",
    ] {
        assert_eq!(place.read(name), None, "{name}");
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [
        "checkpoint/../../pwned.img",
        "checkpoint/a/b.img",
        "checkpoint/.img",
        "checkpoint/a b.img",
        "checkpoint/a\n.img",
        &format!("checkpoint/{}.img", "x".repeat(200)),
    ] {
        refused(&archive(&[("checkpoint/a.img", ""), (name, "pwned")]));
    }
    // Absolute names are below the root of the archive; what is not wanted is passed over.
    let place = Place::new();
    let bytes = archive(&[("/checkpoint/a.img", "one"), ("/etc/pwned", "two")]);
    origin(&bytes).unpack(&place.into).unwrap();
    assert_eq!(place.read("checkpoint/a.img").unwrap(), "one");
    place.assert_nothing_beside();
}

#[test]
fn links_and_devices_are_refused() {
    let target = || b"/etc/passwd".as_slice().into();
    for kind in [
        Kind::Symlink(target()),
        Kind::Hardlink(target()),
        Kind::Character(1, 1),
        Kind::Block(8, 0),
        Kind::Fifo,
        Kind::Directory,
    ] {
        for name in [
            "checkpoint/a.img",
            "container.log",
            "rootfs-diff.tar",
            "deleted.files",
        ] {
            let mut writer = Writer::new(Vec::new());
            let wrong = entry(name, kind.clone(), 0);
            writer.append(&wrong, &mut std::io::empty()).unwrap();
            let said = refused(&writer.finish().unwrap());
            assert!(
                said.contains("not a regular file"),
                "{name} {kind:?}: {said}"
            );
        }
        let mut writer = Writer::new(Vec::new());
        let wrong = entry("config.dump", kind.clone(), 0);
        writer.append(&wrong, &mut std::io::empty()).unwrap();
        assert!(
            origin(&writer.finish().unwrap()).base().is_err(),
            "{kind:?}"
        );
    }
}

#[test]
fn what_is_there_twice_is_refused() {
    for name in ["checkpoint/a.img", "rootfs-diff.tar"] {
        let said = refused(&archive(&[(name, "one"), (name, "two")]));
        assert!(said.contains("twice"), "{said}");
    }
}

#[test]
fn sizes_have_limits() {
    let long = "x".repeat(usize::try_from(CONFIG_MOST).unwrap() + 1);
    let error = origin(&archive(&[("config.dump", &long)]))
        .base()
        .unwrap_err();
    assert!(
        error.chain().to_string().contains("longer than"),
        "{}",
        error.chain()
    );
    let long = "x".repeat(usize::try_from(DELETED_MOST).unwrap() + 1);
    let said = refused(&archive(&[("deleted.files", &long)]));
    assert!(said.contains("longer than"), "{said}");
    // A header that promises more than there is.
    let mut bytes = archive(&[("checkpoint/pages-1.img", "short")]);
    bytes[124..136].copy_from_slice(b"77777777777\0");
    bytes[148..156].copy_from_slice(b"        ");
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let said = refused(&bytes);
    assert!(said.contains("longer than the archive"), "{said}");
}

#[test]
fn truncated_archives_are_refused() {
    let long = "x".repeat(5000);
    let bytes = archive(&[("checkpoint/a.img", &long), ("rootfs-diff.tar", &long)]);
    for end in [1, 511, 513, 4000, 6000, 7000, 11_000] {
        assert!(!refused(&bytes[..end]).is_empty(), "{end}");
    }
    for bytes in [&b""[..], b"not an archive", &[0; 1024]] {
        refused(bytes);
        assert!(origin(bytes).base().is_err());
    }
}

#[test]
fn an_archive_is_a_file_that_is_no_link() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("file"), "x").unwrap();
    std::os::unix::fs::symlink("file", path("link")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), fifo, Mode::from(0o600), 0).unwrap();
    assert!(Origin::open(&path("file")).is_ok());
    for name in ["link", "fifo", "", "/dev/zero"] {
        let path = match name {
            "/dev/zero" => name.to_owned(),
            name => path(name),
        };
        let error = Origin::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
    }
    assert_eq!(
        Origin::open(&path("none")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn an_image_is_read_within_itself() {
    let place = Place::new();
    let tree = place.around.path().join("tree");
    let path = |name: &str| tree.join(name);
    std::fs::create_dir_all(path("checkpoint")).unwrap();
    std::fs::write(path("config.dump"), config()).unwrap();
    std::fs::write(path("checkpoint/a.img"), "one").unwrap();
    std::fs::write(path("container.log"), "log").unwrap();
    let open = || Origin::Tree(File::open(&tree).unwrap().into());
    assert!(open().base().is_ok());
    open().unpack(&place.into).unwrap();
    assert_eq!(place.read("checkpoint/a.img").unwrap(), "one");
    assert_eq!(place.read("container.log").unwrap(), "log");
    let again = |what: &str| {
        let place = Place::new();
        let error = open().unpack(&place.into).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::InvalidInput,
            "{what}: {}",
            error.chain()
        );
    };
    std::fs::remove_file(path("container.log")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path("container.log")).unwrap();
    again("a link to a file of the host");
    std::fs::remove_file(path("container.log")).unwrap();
    let holes = File::create(path("rootfs-diff.tar")).unwrap();
    holes.set_len(1 << 40).unwrap();
    assert!(holes.as_raw_fd() > 0);
    again("a file with holes");
    std::fs::remove_file(path("rootfs-diff.tar")).unwrap();
    std::fs::rename(path("checkpoint"), path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", path("checkpoint")).unwrap();
    let place = Place::new();
    assert!(open().unpack(&place.into).is_err());
}
