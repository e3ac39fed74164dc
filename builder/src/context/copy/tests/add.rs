//! ADD: archives.

use std::io::Write;

use super::*;

type Entry<'a> = (tar::EntryType, &'a str, &'a str, u64);
const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;
const LINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;

/// An archive: type, name, content or target, owner.
pub(super) fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, text, owner) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(if *kind == DIR { 0o750 } else { 0o640 });
        header.set_uid(*owner);
        header.set_gid(*owner);
        header.set_mtime(1_234_567_890);
        let data = if *kind == FILE { text.as_bytes() } else { b"" };
        header.set_size(data.len() as u64);
        if matches!(*kind, LINK | HARD) {
            header.set_link_name(text).unwrap();
        }
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(super) fn archive() -> Vec<u8> {
    tar(&[
        (DIR, "etc/", "", 0),
        (FILE, "etc/conf", "conf", 0),
        (FILE, "foo", "foo", 7),
    ])
}

/// What `gzip`, `bzip2`, `xz`, `zstd` make of something; none if the program is missing.
fn compressed(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let output = std::process::Command::new(program)
        .args(["-c", "-q"])
        .stdin(std::fs::File::open(file.path()).unwrap())
        .output()
        .ok()?;
    output.status.success().then_some(output.stdout)
}

fn add(case: &Case, sources: &[&str], dest: &str) -> Result<Report> {
    let mut request = case.request(sources, dest);
    request.unpack = Unpack::Auto;
    case.run(&request)
}

#[test]
fn archives_are_unpacked_whatever_their_name() {
    let plain = archive();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&plain).unwrap();
    let mut all = vec![
        ("plain", plain.clone()),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(&*plain, 3).unwrap()),
    ];
    for program in ["bzip2", "xz"] {
        match compressed(program, &plain) {
            Some(bytes) => all.push((program, bytes)),
            None => println!("skipped: no {program}"),
        }
    }
    for (name, bytes) in all {
        let case = Case::new(&[]);
        std::fs::write(case.from("x.bin"), &bytes).unwrap();
        add(&case, &["x.bin"], "/dest").unwrap();
        assert_eq!(case.listing(), "dest/etc/conf dest/foo", "{name}");
        add(&case, &["*.bin"], "/wild/").unwrap();
        assert!(case.root("wild/foo").exists());
        // COPY does not, nor does --unpack=false.
        case.copy(&["x.bin"], "/copied").unwrap();
        assert_eq!(std::fs::read(case.root("copied")).unwrap(), bytes);
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&[b'x'; 2000]).unwrap();
    let gzip = gzip.finish().unwrap();
    let half = &archive()[..300];
    for bytes in [
        &b""[..],
        b"text",
        &[0; 1024],
        &gzip,
        &gzip[..20],
        half,
        b"BZhxxxxx",
        b"\xfd7zXZ\0junk",
    ] {
        let case = Case::new(&[]);
        std::fs::write(case.from("x.tar.gz"), bytes).unwrap();
        add(&case, &["x.tar.gz"], "/").unwrap();
        assert_eq!(std::fs::read(case.root("x.tar.gz")).unwrap(), bytes);
    }
    // In a directory nothing is unpacked.
    let case = Case::new(&[]);
    std::fs::create_dir(case.from("d")).unwrap();
    std::fs::write(case.from("d/x.tar"), archive()).unwrap();
    add(&case, &["d"], "/").unwrap();
    assert_eq!(
        case.listing(),
        "x.tar=".to_owned() + &case.listing()["x.tar=".len()..]
    );
    assert!(case.root("x.tar").exists());
}

#[test]
fn a_link_to_an_archive_is_one() {
    let case = Case::new(&["l.tar -> x.tar"]);
    std::fs::write(case.from("x.tar"), archive()).unwrap();
    add(&case, &["l.tar"], "/").unwrap();
    assert_eq!(case.listing(), "etc/conf foo");
}

#[test]
fn a_broken_archive_is_an_error() {
    let case = Case::new(&[]);
    let whole = archive();
    std::fs::write(case.from("x.tar"), &whole[..600]).unwrap();
    let error = add(&case, &["x.tar"], "/").unwrap_err().chain().to_string();
    assert!(error.contains("x.tar"), "{error}");
}

#[test]
fn what_is_there_gives_way() {
    for (entries, there, expected) in [
        (&[(FILE, "x", "new", 0)][..], &["x=old"][..], "x=new"),
        (&[(FILE, "x", "new", 0)], &["x/y/z"], "x=new"),
        (&[(DIR, "x/", "", 0)], &["x=file"], "x/"),
        (
            &[(DIR, "x/", "", 0), (FILE, "x/a", "a", 0)],
            &["x -> elsewhere", "elsewhere/"],
            "elsewhere/ x/a",
        ),
        (
            &[(FILE, "x/a", "a", 0)],
            &["x -> elsewhere", "elsewhere/"],
            "elsewhere/a x->elsewhere",
        ),
        (
            &[(DIR, "x/", "", 0), (FILE, "x/a", "a", 0)],
            &["x/b"],
            "x/a x/b",
        ),
        (&[(LINK, "x", "t", 0)], &["x/y"], "x->t"),
        (
            &[
                (DIR, "d/", "", 0),
                (FILE, "d/f", "f", 0),
                (LINK, "d", "e", 0),
            ],
            &["e/"],
            "d->e e/",
        ),
        (&[(FILE, ".wh.x", "w", 0)], &["x"], ".wh.x=w x"),
        (
            &[(FILE, "a", "a", 0), (HARD, "b", "a", 0)],
            &["b=old"],
            "a b=a",
        ),
        (&[(FILE, "p/q/a", "a", 0)], &[], "p/q/a"),
    ] {
        let case = Case::new(&[]).onto(there);
        std::fs::write(case.from("x.tar"), tar(entries)).unwrap();
        add(&case, &["x.tar"], "/").unwrap();
        assert_eq!(case.listing(), expected, "{entries:?} {there:?}");
    }
}

#[test]
fn attributes_of_entries() {
    if !is_root("may change owners") {
        return;
    }
    let entries = [
        (DIR, "./", "", 50),
        (DIR, "d/", "", 51),
        (FILE, "d/f", "f", 52),
        (FILE, "implied/g", "g", 53),
        (DIR, "there/", "", 54),
    ];
    for owner in [None, Some(Owner { uid: 9, gid: 9 })] {
        let case = Case::new(&[]).onto(&["t/there/", "t/kept/"]);
        std::fs::write(case.from("x.tar"), tar(&entries)).unwrap();
        let mut request = case.request(&["x.tar"], "/t");
        request.unpack = Unpack::Auto;
        request.owner = owner;
        request.chmod = Some(Chmod::parse("777").unwrap());
        case.run(&request).unwrap();
        let id = |own: u32| owner.map_or(own, |owner| owner.uid);
        for (path, mode, uid) in [
            ("t", "755", 0),
            ("t/d", "750", id(51)),
            ("t/d/f", "640", id(52)),
            ("t/implied", "755", 0),
            ("t/implied/g", "640", id(53)),
            ("t/there", "750", id(54)),
        ] {
            let shown = attributes(&case.root(path));
            let expected = format!("{mode} {uid} {uid} ");
            assert!(
                shown.starts_with(&expected),
                "{path}: {shown}, not {expected}"
            );
        }
        let time = |path: &str| std::fs::metadata(case.root(path)).unwrap().mtime();
        // The archive's own times, but none later than the one set.
        assert_eq!(time("t/d"), 1_000_000_000);
    }
    let mut case = Case::new(&[]);
    case.times = Times::Keep;
    std::fs::write(case.from("x.tar"), tar(&entries)).unwrap();
    add(&case, &["x.tar"], "/new/t").unwrap();
    let time = |path: &str| std::fs::metadata(case.root(path)).unwrap().mtime();
    assert_eq!(time("new/t/d"), 1_234_567_890);
    assert_eq!(time("new/t/d/f"), 1_234_567_890);
}

#[test]
fn through_an_absolute_link() {
    let case = Case::new(&[]).onto(&["run/", "var/run -> /run"]);
    let entries = [
        (DIR, "var/run/act/", "", 0),
        (FILE, "var/run/act/HEAD", "ref", 0),
        (HARD, "var/run/act/HEAD.link", "var/run/act/HEAD", 0),
    ];
    std::fs::write(case.from("x.tar"), tar(&entries)).unwrap();
    add(&case, &["x.tar"], "/").unwrap();
    assert_eq!(
        case.listing(),
        "run/act/HEAD=ref run/act/HEAD.link=ref var/run->/run"
    );
    let inode = |path: &str| std::fs::metadata(case.root(path)).unwrap().ino();
    assert_eq!(inode("run/act/HEAD"), inode("run/act/HEAD.link"));
}

#[test]
fn later_copies_follow_links_of_an_archive() {
    let case = Case::new(&["foo=content"]);
    let entries = [(LINK, "symlink", "../tmp/symlink-target", 0)];
    std::fs::write(case.from("t.tar"), tar(&entries)).unwrap();
    add(&case, &["t.tar"], "/").unwrap();
    case.copy(&["foo"], "/symlink/").unwrap();
    assert_eq!(
        std::fs::read_to_string(case.root("tmp/symlink-target/foo")).unwrap(),
        "content"
    );
}

#[test]
fn the_destination_of_an_archive_is_a_directory() {
    let case = Case::new(&[]).onto(&["file", "dangling -> made/here"]);
    std::fs::write(case.from("x.tar"), archive()).unwrap();
    add(&case, &["x.tar"], "/file").unwrap_err();
    add(&case, &["x.tar"], "/dangling").unwrap();
    assert!(case.root("made/here/foo").exists());
}
