//! Layers are what they were: against ourselves, GNU tar in both directions, and overlayfs.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::Unpacked;
use super::attributes::read_extended_of;
use super::diff::{self, pack};
use super::options::{Options, Overlay};
use super::unpack::unpack_layer;
use crate::archive::{Entry, Kind, Reader, Time, Writer};
use crate::compress::Compression;
use crate::digest::Digest;

/// One line for each file below: all that an archive can say about it.
pub(super) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut groups: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(directory) = todo.pop() {
        let mut paths: Vec<_> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            let stat = path.symlink_metadata().unwrap();
            let kind = stat.file_type();
            let mut content = String::new();
            if kind.is_dir() {
                todo.push(path.clone());
            } else if kind.is_symlink() {
                content = format!("{:?}", std::fs::read_link(&path).unwrap());
            } else if kind.is_file() {
                let digest = Digest::of(&std::fs::read(&path).unwrap());
                content = format!("{} {}", stat.len(), &digest.hex()[..16]);
            }
            let first = match groups.get(&stat.ino()) {
                Some(first) if !kind.is_dir() => first.strip_prefix(root).unwrap().to_path_buf(),
                _ => PathBuf::new(),
            };
            groups.entry(stat.ino()).or_insert_with(|| path.clone());
            let file = super::tree::refer(CWD, path.as_os_str().as_bytes()).unwrap();
            let attributes = read_extended_of(file.as_fd()).unwrap();
            let attributes: Vec<_> = attributes
                .iter()
                .map(|(name, value)| format!("{}={value:?}", String::from_utf8_lossy(name)))
                .collect();
            lines.push(format!(
                "{:?} {:o} {}/{} {}.{:09} {:x} {content} ={first:?} {attributes:?}",
                path.strip_prefix(root).unwrap(),
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.mtime(),
                stat.mtime_nsec(),
                stat.rdev(),
            ));
        }
    }
    lines.sort();
    lines
}

pub(super) fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    println!("skipped: needs root");
    false
}

fn touch(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn own(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    rustix::fs::chmod(path, Mode::from(mode)).unwrap();
}

/// user::rw-, user:1000:r--, group::r--, mask::r--, other::---, as the kernel stores it.
pub(super) const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255,
    255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];
/// cap_net_raw=ep, revision 2.
pub(super) const CAPABILITY: [u8; 20] =
    [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A directory with one of everything.
fn everything(root: &Path) {
    let file = |name: &str, content: &[u8], mode| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        chmod(&path, mode);
        path
    };
    file("a/empty", b"", 0o600);
    let large: Vec<u8> = (0..300_001_u32).flat_map(u32::to_le_bytes).collect();
    file("a/large", &large, 0o644);
    let set_user = file("bin/su", b"#!", 0o755);
    own(&set_user, 7, 8);
    chmod(&set_user, 0o6755);
    let ping = file("bin/ping", b"ping", 0o755);
    own(&ping, 5, 5);
    attribute(&ping, "security.capability", &CAPABILITY);
    attribute(&ping, "user.binary", b"\n=\0\xff");
    own(&file("huge-ids", b"x", 0o640), 4_000_000_000, 3_000_000);
    file("umask-group-write", b"x", 0o666);
    file("read-only", b"x", 0o400);
    let acl = file("acl", b"x", 0o640);
    attribute(&acl, "system.posix_acl_access", &ACL);
    let hard = file("hard/one", b"linked", 0o644);
    std::fs::hard_link(&hard, root.join("hard/two")).unwrap();
    std::fs::hard_link(&hard, root.join("a/three")).unwrap();
    symlink("../a/large", root.join("hard/link")).unwrap();
    symlink("/nowhere/".repeat(30), root.join("hard/long-link")).unwrap();
    own(&root.join("hard/link"), 3, 4);
    attribute(&root.join("hard/link"), "trusted.on-link", b"1");
    std::fs::hard_link(root.join("hard/link"), root.join("hard/same-link")).unwrap();
    let node = |name: &str, kind, mode, (major, minor)| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::empty(), device).unwrap();
        chmod(&root.join(name), mode);
    };
    node("null", FileType::CharacterDevice, 0o666, (1, 3));
    node("disk", FileType::BlockDevice, 0o1660, (259, 70_000));
    node("pipe", FileType::Fifo, 0o622, (0, 0));
    let deep = ["n".repeat(200), "m".repeat(255), "o".repeat(99)].join("/");
    file(&deep, b"deep", 0o644);
    let odd = PathBuf::from(std::ffi::OsString::from_vec(b"\xff\n = odd".to_vec()));
    std::fs::write(root.join(odd), b"odd").unwrap();
    std::fs::File::create(root.join("sparse"))
        .unwrap()
        .set_len(3 << 20)
        .unwrap();
    let sticky = root.join("tmp");
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&sticky)
        .unwrap();
    chmod(&sticky, 0o3777);
    own(&sticky, 0, 50);
    std::fs::write(sticky.join("not-of-group-50"), b"").unwrap();
    own(&sticky.join("not-of-group-50"), 0, 0);
    let default = root.join("default-acl");
    std::fs::create_dir(&default).unwrap();
    std::fs::write(default.join("without-acl"), b"").unwrap();
    attribute(&default, "system.posix_acl_default", &ACL);
    let closed = root.join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::write(closed.join("inside"), b"").unwrap();
    chmod(&closed, 0o000);
    touch(&root.join("a/empty"), -5, 250_000_000);
    touch(&root.join("hard/link"), 1_000_000_000, 1);
    touch(&root.join("a"), 1_234_567_890, 123_456_789);
    touch(&closed, 1, 0);
}

pub(super) fn unpack(bytes: &[u8], directory: &Path) -> crate::Result<Unpacked> {
    unpack_with(bytes, directory, &Options::privileged())
}

pub(super) fn unpack_with(
    bytes: &[u8],
    directory: &Path,
    options: &Options,
) -> crate::Result<Unpacked> {
    let fd = std::fs::File::open(directory).unwrap();
    unpack_layer(bytes, fd.as_fd(), options)
}

pub(super) fn exact() -> diff::Options {
    diff::Options {
        nanoseconds: true,
        ..diff::Options::new(Overlay::Trusted)
    }
}

pub(super) fn packed(directory: &Path, options: diff::Options) -> Vec<u8> {
    let fd = std::fs::File::open(directory).unwrap();
    diff::write(fd.as_fd(), options, Vec::new()).unwrap()
}

#[test]
fn everything_survives_the_round_trip() {
    if !is_root() {
        return;
    }
    let (source, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    everything(source.path());
    let fd = std::fs::File::open(source.path()).unwrap();
    let plain = packed(source.path(), exact());
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut all = Vec::new();
        for threads in [0, 1, 2, 5] {
            all.push(pack(fd.as_fd(), exact(), compression, threads, Vec::new()).unwrap());
        }
        let (packed, bytes) = all.swap_remove(1);
        assert!(
            all.iter()
                .skip(1)
                .all(|other| *other == (packed.clone(), bytes.clone()))
        );
        assert_eq!(packed.digest, Digest::of(&bytes));
        assert_eq!(packed.diff_id, Digest::of(&plain));
        let directory = again.path().join(format!("{compression:?}"));
        std::fs::create_dir(&directory).unwrap();
        let unpacked = unpack(&bytes, &directory).unwrap();
        assert_eq!(
            (unpacked.diff_id, unpacked.size),
            (packed.diff_id, packed.size)
        );
        assert_eq!(unpacked.pending.directories(), [b""], "only the root");
        assert!(unpacked.pending.links().is_empty());
        assert_eq!(unpacked.skipped, 0);
        assert_eq!(listing(&directory), listing(source.path()));
        // And the archive of the copy is the archive.
        assert!(self::packed(&directory, exact()) == plain);
    }
}

#[test]
fn whole_seconds_and_a_latest_time() {
    let source = tempfile::tempdir().unwrap();
    for (name, seconds) in [("old", 100), ("new", 2_000)] {
        std::fs::write(source.path().join(name), b"").unwrap();
        touch(&source.path().join(name), seconds, 999);
    }
    let options = diff::Options {
        latest: Some(1_000),
        ..diff::Options::new(Overlay::Trusted)
    };
    let bytes = packed(source.path(), options);
    let mut reader = Reader::new(&*bytes);
    let mut times = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        times.push((entry.mtime.seconds, entry.mtime.nanoseconds));
    }
    assert_eq!(times, [(1_000, 0), (100, 0)]);
}

fn tar(arguments: &[&str], directory: &Path) {
    let output = Command::new("tar")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tar {arguments:?}: {errors}");
}

#[test]
fn gnu_tar_unpacks_what_we_pack() {
    if !is_root() {
        return;
    }
    let (source, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    everything(source.path());
    let archive = theirs.path().with_extension("tar");
    std::fs::write(&archive, packed(source.path(), exact())).unwrap();
    let arguments = [
        "-xpf",
        archive.to_str().unwrap(),
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
    ];
    tar(&arguments, theirs.path());
    std::fs::remove_file(&archive).unwrap();
    assert_eq!(listing(theirs.path()), listing(source.path()));
}

#[test]
fn we_unpack_what_gnu_tar_packs() {
    if !is_root() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    everything(source.path());
    let holes = source.path().join("holes");
    std::fs::write(&holes, b"begin").unwrap();
    let file = std::fs::File::options().write(true).open(&holes).unwrap();
    for piece in 1..40_u64 {
        use std::os::unix::fs::FileExt;
        file.write_all_at(b"piece", piece << 20).unwrap();
    }
    file.set_len(50 << 20).unwrap();
    let expected = listing(source.path());
    for format in [
        &["--format=pax", "--xattrs", "--xattrs-include=*"][..],
        &["--format=pax", "--xattrs", "--xattrs-include=*", "-S"],
        &[
            "--format=pax",
            "--xattrs",
            "--xattrs-include=*",
            "-S",
            "--sparse-version=0.0",
        ],
        &[
            "--format=pax",
            "--xattrs",
            "--xattrs-include=*",
            "-S",
            "--sparse-version=0.1",
        ],
        &["--format=gnu"],
        &["--format=gnu", "-S"],
    ] {
        let ours = tempfile::tempdir().unwrap();
        let archive = ours.path().with_extension("tar");
        tar(
            &[&["-cf", archive.to_str().unwrap()], format, &["."]].concat(),
            source.path(),
        );
        let bytes = std::fs::read(&archive).unwrap();
        std::fs::remove_file(&archive).unwrap();
        let unpacked = unpack(&bytes, ours.path()).unwrap();
        assert_eq!(unpacked.diff_id, Digest::of(&bytes));
        let strip = |lines: &[String]| -> Vec<String> {
            // GNU's own format has neither fractions of seconds nor attributes.
            let lossy = format[0] == "--format=gnu";
            let strip = |line: &String| match line.find('.').filter(|_| lossy) {
                Some(at) if line.contains(" =") => {
                    let rest = line[at..].find(' ').unwrap() + at;
                    line[..at].to_string() + line[rest..].split(" [").next().unwrap()
                }
                _ => line.clone(),
            };
            lines.iter().map(strip).collect()
        };
        let got = strip(&listing(ours.path()));
        for (got, expected) in got.iter().zip(&strip(&expected)) {
            // Before 1970 the fraction that is cut off counts the other way.
            if !expected.contains("a/empty") || format[0] != "--format=gnu" {
                assert_eq!(got, expected, "{format:?}");
            }
        }
        assert_eq!(got.len(), expected.len());
        if format.contains(&"-S") {
            let blocks = ours.path().join("holes").metadata().unwrap().blocks();
            assert!(blocks < 1000, "{format:?}: {blocks} blocks");
        }
    }
}

/// An archive of entries: path, kind, content, attributes.
pub(super) fn archive(entries: &[(&str, Kind)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, kind) in entries {
        let mode = if *kind == Kind::Directory {
            0o750
        } else {
            0o640
        };
        let entry = Entry {
            path: path.as_bytes().to_vec(),
            kind: kind.clone(),
            mode,
            uid: 0,
            gid: 0,
            mtime: Time {
                seconds: 77,
                nanoseconds: 0,
            },
            size: path.len() as u64,
            map: None,
            attributes: Vec::new(),
        };
        writer.append(&entry, &mut path.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

pub(super) fn link(target: &str) -> Kind {
    Kind::Symlink(target.as_bytes().into())
}

pub(super) fn hard(target: &str) -> Kind {
    Kind::Hardlink(target.as_bytes().into())
}

#[test]
fn files_that_cannot_be_archived() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join(".wh.x"), b"").unwrap();
    let fd = std::fs::File::open(source.path()).unwrap();
    diff::write(fd.as_fd(), exact(), Vec::new()).unwrap_err();
    std::fs::remove_file(source.path().join(".wh.x")).unwrap();
    // A socket is left out.
    let _socket = std::os::unix::net::UnixListener::bind(source.path().join("socket")).unwrap();
    let bytes = diff::write(fd.as_fd(), exact(), Vec::new()).unwrap();
    assert_eq!(bytes.len(), 1024);
    if is_root() {
        std::fs::write(source.path().join("x"), b"").unwrap();
        attribute(&source.path().join("x"), "trusted.overlay.metacopy", b"");
        diff::write(fd.as_fd(), exact(), Vec::new()).unwrap_err();
    }
}
