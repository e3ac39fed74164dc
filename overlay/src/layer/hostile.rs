//! Archives that attack: groups D1 to D7 of published vulnerabilities. Beside the directory of the
//! layer lies a canary, which must be the same afterwards.

use std::io::{self};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::options::{Devices, Options, Overlay, Owners};
use super::roundtrip::{ACL, CAPABILITY, archive, hard, link, listing, unpack, unpack_with};
use crate::ErrorKind;
use crate::archive::Kind::{self, Directory, Regular};
use crate::archive::{Entry, Time, Writer};
use crate::compress::Compression;

/// A layer's directory with a canary beside it.
pub(super) struct Cage {
    directory: tempfile::TempDir,
    before: Vec<String>,
}

impl Cage {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let canary = directory.path().join("canary");
        std::fs::create_dir_all(canary.join("sub")).unwrap();
        std::fs::write(canary.join("file"), "canary").unwrap();
        std::fs::write(canary.join("sub/file"), "canary").unwrap();
        std::fs::create_dir(directory.path().join("layer")).unwrap();
        let before = listing(&canary);
        Self { directory, before }
    }

    fn canary(&self) -> PathBuf {
        self.directory.path().join("canary")
    }

    pub(super) fn layer(&self) -> PathBuf {
        self.directory.path().join("layer")
    }

    fn unpack(&self, entries: &[(&str, Kind)]) -> crate::Result<super::Unpacked> {
        unpack_with(&archive(entries), &self.layer(), &unprivileged())
    }

    pub(super) fn intact(&self) {
        assert_eq!(
            listing(&self.canary()),
            self.before,
            "the canary was changed"
        );
        let names = std::fs::read_dir(self.directory.path()).unwrap().count();
        assert_eq!(names, 2, "something was made beside the layer");
    }
}

/// As root with all powers, else with what there is: the attacks are the same.
pub(super) fn unprivileged() -> Options {
    if rustix::process::geteuid().is_root() {
        return Options::privileged();
    }
    let (owners, devices) = (Owners::Keep, Devices::Placeholder);
    Options {
        owners,
        devices,
        overlay: Overlay::User,
        ..Options::privileged()
    }
}

/// A header with this raw name and a right checksum.
pub(super) fn raw(name: &[u8], kind: u8, size: u64) -> [u8; 512] {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_cksum();
    *header.as_bytes()
}

#[test]
fn d1_names_that_lead_out() {
    for (name, fine) in [
        (&b"../x"[..], false),
        (b"a/../../x", false),
        (b"..", false),
        (b"a/..", false),
        (b"/../x", false),
        (b"", false),
        (b".", false),
        (b"file/", false),
        (b"/abs", true),
        (b"\xff\xfe", true),
        (b"..x/...", true),
        (b"a\\..\\..\\x", true),
    ] {
        let cage = Cage::new();
        let bytes = [raw(name, b'0', 0), [0; 512], [0; 512]].concat();
        let result = unpack_with(&bytes, &cage.layer(), &unprivileged());
        assert_eq!(result.is_ok(), fine, "{:?}", String::from_utf8_lossy(name));
        cage.intact();
    }
    let cage = Cage::new();
    let long = "d/".repeat(2_048) + "f";
    assert_eq!(long.len(), 4_097);
    assert!(cage.unpack(&[(&long, Regular)]).is_err());
    let component = "c".repeat(256);
    assert!(cage.unpack(&[(&component, Regular)]).is_err());
    cage.intact();
}

#[test]
fn d2_writing_through_a_link() {
    for entries in [
        &[("l/file", Regular)][..],
        &[("l/new", Regular)],
        &[("l/sub", Directory)],
        &[("l/sub/file", link("x"))],
        &[("l/.wh.file", Regular)],
        &[("l/.wh..wh..opq", Regular)],
        &[("l/sub/.wh..wh..opq", Regular)],
        &[("h", hard("l/file"))],
        &[("l/h", hard("l/sub/file"))],
        &[("l/pipe", Kind::Fifo)],
        &[
            ("d", Directory),
            ("d/m", link("../l")),
            ("d/m/file", Regular),
        ],
    ] {
        for target in ["", "../canary", "x/../../canary"] {
            let cage = Cage::new();
            let canary = cage.canary();
            let target = if target.is_empty() {
                canary.to_str().unwrap()
            } else {
                target
            };
            let target = link(target);
            // Refused, or confined to the layer.
            let _ = cage.unpack(&[&[("l", target)], entries].concat());
            cage.intact();
        }
    }
}

#[test]
fn d2_the_root_as_a_link() {
    for name in [&b"."[..], b"./", b"/"] {
        let cage = Cage::new();
        let mut header = tar::Header::from_byte_slice(&raw(name, b'2', 0)).clone();
        header.as_mut_bytes()[157..167].copy_from_slice(b"../canary\0");
        header.set_cksum();
        let file = raw(b"file", b'0', 0);
        let bytes = [*header.as_bytes(), file, [0; 512], [0; 512]].concat();
        assert!(unpack(&bytes, &cage.layer()).is_err());
        cage.intact();
    }
}

#[test]
fn d2_hard_links_out_of_the_layer() {
    for target in [
        "../canary/file",
        "../../etc/shadow",
        "/etc/../../etc/shadow",
        "..",
        "",
        ".",
    ] {
        let cage = Cage::new();
        let result = cage.unpack(&[("d", Directory), ("d/h", hard(target)), ("d/h", Regular)]);
        assert!(result.is_err(), "{target}");
        cage.intact();
    }
    // An absolute target is one inside the layer, or below it: never the host's.
    let cage = Cage::new();
    let unpacked = cage.unpack(&[("h", hard("/etc/shadow"))]).unwrap();
    let layer = std::fs::File::open(cage.layer()).unwrap();
    let error = unpacked
        .pending
        .settle(layer.as_fd(), &[], Overlay::Trusted)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    cage.intact();
}

#[test]
fn d2_hard_links_to_links_and_deletions() {
    // The link itself gets a second name; writing to that replaces it.
    let cage = Cage::new();
    let target = cage.canary().join("file");
    let out = link(target.to_str().unwrap());
    cage.unpack(&[("l", out), ("h", hard("l"))]).unwrap();
    let second = cage.layer().join("h").symlink_metadata().unwrap();
    assert!(second.is_symlink());
    assert_eq!(target.metadata().unwrap().nlink(), 1);
    cage.unpack(&[("h", Regular)]).unwrap();
    assert!(cage.layer().join("h").symlink_metadata().unwrap().is_file());
    cage.intact();
    let cage = Cage::new();
    assert!(
        cage.unpack(&[(".wh.x", Regular), ("h", hard("x"))])
            .is_err()
    );
    assert!(cage.unpack(&[("h", hard(".wh.x"))]).is_err());
    cage.intact();
}

#[test]
fn d2_settling_through_links_of_other_layers() {
    // The layer below has a link to the canary where this one puts a directory; and the target of a
    // hard link leads through it.
    let (cage, below) = (Cage::new(), tempfile::tempdir().unwrap());
    symlink(cage.canary(), below.path().join("l")).unwrap();
    let lower = std::fs::File::open(below.path()).unwrap();
    let layer = std::fs::File::open(cage.layer()).unwrap();
    let unpacked = cage
        .unpack(&[("l/sub/new", Regular), ("h", hard("m/file"))])
        .unwrap();
    symlink(cage.canary(), below.path().join("m")).unwrap();
    let settled = unpacked
        .pending
        .settle(layer.as_fd(), &[lower.as_fd()], Overlay::Trusted);
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::NotFound);
    cage.intact();
}

/// Somebody with access to the layer's directory exchanges a directory for a link and back, as fast
/// as possible, while entries are unpacked into it, replaced and deleted.
#[test]
fn d2_directories_exchanged_meanwhile() {
    let cage = Cage::new();
    let entries: Vec<(&str, Kind)> = vec![
        ("d", Directory),
        ("d/file", Regular),
        ("d/sub", Directory),
        ("d/sub/file", Regular),
        ("d/.wh.file", Regular),
        ("d/link", link("file")),
        ("d/hard", hard("d/sub/file")),
        ("d/file", Directory),
        ("d/sub", Regular),
        ("d/.wh..wh..opq", Regular),
        ("d", Directory),
    ];
    let bytes = archive(&entries);
    let stop = AtomicBool::new(false);
    let swaps = AtomicU64::new(0);
    let layer = cage.layer();
    let (dir, trap) = (layer.join("d"), layer.join("trap"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if !trap.is_symlink() {
                    // The directory that was exchanged for the link before.
                    let _ = std::fs::remove_dir_all(&trap);
                    let _ = symlink(cage.canary(), &trap);
                }
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                if rustix::fs::renameat_with(cwd, &trap, cwd, &dir, flags).is_ok() {
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let start = Instant::now();
        let mut done = 0_u32;
        // At least this long, and on a busy machine until both have had their turns.
        while start.elapsed() < Duration::from_secs(3)
            || (swaps.load(Ordering::Relaxed) < 1_000 && start.elapsed() < Duration::from_mins(1))
        {
            // An error is as good as success.
            done += u32::from(unpack_with(&bytes, &layer, &unprivileged()).is_ok());
        }
        stop.store(true, Ordering::Relaxed);
        println!(
            "{done} unpacked, {} exchanged",
            swaps.load(Ordering::Relaxed)
        );
    });
    assert!(swaps.load(Ordering::Relaxed) >= 1_000);
    cage.intact();
}

#[test]
fn d3_attributes_do_not_follow_links() {
    let attributed = |path: &str, kind: Kind| Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o6777,
        uid: 1234,
        gid: 1234,
        mtime: Time {
            seconds: 5,
            nanoseconds: 5,
        },
        size: 0,
        map: None,
        attributes: vec![
            (b"user.x".as_slice().into(), b"x".as_slice().into()),
            (b"trusted.x".as_slice().into(), b"x".as_slice().into()),
            (b"security.capability".as_slice().into(), CAPABILITY.into()),
            (b"system.posix_acl_access".as_slice().into(), ACL.into()),
        ],
    };
    for second in [
        Directory,
        Regular,
        Kind::Fifo,
        hard("foo"),
        link("elsewhere"),
    ] {
        let cage = Cage::new();
        for target in [cage.canary(), cage.canary().join("file")] {
            let mut writer = Writer::new(Vec::new());
            let mut link = attributed("foo", link(target.to_str().unwrap()));
            // What a link cannot have is refused or left out; here the rest matters.
            link.attributes.truncate(1);
            writer.append(&link, &mut io::empty()).unwrap();
            let mut entry = attributed("foo", second.clone());
            if second == Kind::Fifo {
                entry.attributes.truncate(2);
            }
            writer.append(&entry, &mut io::empty()).unwrap();
            let _ = unpack_with(&writer.finish().unwrap(), &cage.layer(), &unprivileged());
            cage.intact();
            let _ = super::tree::remove(std::fs::File::open(cage.layer()).unwrap().as_fd(), b"foo");
        }
    }
}

#[test]
fn d3_attributes_of_overlayfs_and_of_the_host_are_not_taken() {
    let cage = Cage::new();
    let attribute = |name: &str, value: &[u8]| (name.as_bytes().into(), value.into());
    let entry = Entry {
        path: b"d".to_vec(),
        kind: Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        size: 0,
        map: None,
        attributes: vec![
            attribute("trusted.overlay.redirect", b"/canary"),
            attribute("trusted.overlay.opaque", b"y"),
            attribute("user.overlay.opaque", b"y"),
            attribute("trusted.overlay.metacopy", b""),
            attribute("security.selinux", b"system_u:object_r:shadow_t:s0"),
            attribute("security.ima", b"\x01"),
            attribute("user.kept", b"1"),
        ],
    };
    let mut writer = Writer::new(Vec::new());
    writer.append(&entry, &mut io::empty()).unwrap();
    unpack_with(&writer.finish().unwrap(), &cage.layer(), &unprivileged()).unwrap();
    let lines = listing(&cage.layer());
    assert!(lines[0].ends_with("[\"user.kept=[49]\"]"), "{lines:?}");
    cage.intact();
}

#[test]
fn d7_special_files_are_never_opened() {
    let entries = [
        ("pipe", Kind::Fifo),
        ("pipe", Regular),
        ("pipe", Kind::Fifo),
        ("other", hard("pipe")),
        ("tty", Kind::Character(5, 0)),
        ("watchdog", Kind::Character(10, 130)),
        ("disk", Kind::Block(8, 0)),
    ];
    let cage = Cage::new();
    let start = Instant::now();
    // Without privilege: names and modes only.
    let options = Options {
        owners: Owners::Keep,
        devices: Devices::Placeholder,
        overlay: Overlay::User,
        ..Options::privileged()
    };
    unpack_with(&archive(&entries), &cage.layer(), &options).unwrap();
    for name in ["tty", "watchdog", "disk"] {
        let stat = cage.layer().join(name).symlink_metadata().unwrap();
        assert!(
            stat.is_file() && stat.len() == 0 && stat.mode() & 0o7777 == 0o640,
            "{name}"
        );
    }
    let options = Options {
        devices: Devices::Refuse,
        ..options
    };
    let error = unpack_with(&archive(&entries), &cage.layer(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(start.elapsed() < Duration::from_secs(2));
    // Reading such a directory does not wait for a writer either.
    let layer = std::fs::File::open(cage.layer()).unwrap();
    let packing = super::diff::Options::new(Overlay::User);
    super::pack(layer.as_fd(), packing, Compression::None, 0, io::sink()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    if rustix::process::geteuid().is_root() {
        let cage = Cage::new();
        unpack(&archive(&entries), &cage.layer()).unwrap();
        let stat = cage.layer().join("disk").symlink_metadata().unwrap();
        assert_eq!(stat.rdev(), rustix::fs::makedev(8, 0));
    }
}

/// Sockets are no type of tar, and nothing else may be smuggled in under an unknown one.
#[test]
fn d7_unknown_types() {
    for kind in (0..=255_u8).filter(|kind| !b"01234567\0xgLKS".contains(kind)) {
        let bytes = [raw(b"f", kind, 0), [0; 512], [0; 512]].concat();
        let cage = Cage::new();
        assert!(
            unpack_with(&bytes, &cage.layer(), &unprivileged()).is_err(),
            "{kind}"
        );
        assert!(is_empty(&cage.layer()));
    }
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).unwrap().next().is_none()
}
