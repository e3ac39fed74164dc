//! Attackers: roots, archives and contexts that want out. Named after their case (CVES.md).

use super::add::tar;
use super::*;

const FILE: tar::EntryType = tar::EntryType::Regular;
const LINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;

/// A file outside that nobody may touch.
struct Canary(tempfile::TempDir);

impl Canary {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("canary"), "alive").unwrap();
        Self(directory)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn is_alive(&self) {
        assert_eq!(listing(self.0.path()), "canary=alive");
    }
}

#[test]
fn e9_links_of_the_root_lead_nowhere_else() {
    let canary = Canary::new();
    let up = format!("../../../../../../../../..{}", canary.path());
    for link in [canary.path(), &up] {
        for (source, dest) in [
            ("canary", "/l/"),
            ("canary", "/l"),
            ("sub", "/l"),
            ("sub", "/l/x"),
            ("canary", "/l/canary"),
            ("canary", "/../../l/../l/canary"),
        ] {
            let case = Case::new(&["canary=dead", "sub/canary=dead"]);
            populate(&case.root(""), &[&format!("l -> {link}")]);
            case.copy(&[source], dest).unwrap();
            canary.is_alive();
            let inside = case.root("").join(canary.path().trim_start_matches('/'));
            assert!(inside.exists(), "{dest} stays inside");
        }
    }
}

#[test]
fn e9_hard_links_of_the_root_are_not_written_through() {
    let canary = Canary::new();
    let case = Case::new(&["canary=dead"]);
    std::fs::hard_link(canary.0.path().join("canary"), case.root("canary")).unwrap();
    case.copy(&["canary"], "/").unwrap();
    canary.is_alive();
}

#[test]
fn e9_archives_with_links_out_of_the_root() {
    let canary = Canary::new();
    let out = canary.path();
    let up = format!("../../../../../../../../..{out}");
    let far = format!("{out}/canary");
    for entries in [
        &[(LINK, "l", out, 0), (FILE, "l/canary", "dead", 0)][..],
        &[(LINK, "l", &up, 0), (FILE, "l/canary", "dead", 0)],
        &[(HARD, "h", &far, 0), (FILE, "h", "dead", 0)],
        &[
            (LINK, "l", out, 0),
            (HARD, "h", "l/canary", 0),
            (FILE, "h", "dead", 0),
        ],
        &[(FILE, "../../../canary", "dead", 0)],
        &[(FILE, "a/../../canary", "dead", 0)],
    ] {
        for dest in ["/", "/d/"] {
            let case = Case::new(&[]);
            std::fs::write(case.from("x.tar"), tar(entries)).unwrap();
            let mut request = case.request(&["x.tar"], dest);
            request.unpack = Unpack::Auto;
            // Confined, or refused.
            let _ = case.run(&request);
            canary.is_alive();
            assert!(!case.directory.path().join("canary").exists());
        }
    }
}

#[test]
fn e9_absolute_names_of_archives_are_inside() {
    let canary = Canary::new();
    let name = format!("{}/canary", canary.path());
    let case = Case::new(&[]);
    std::fs::write(case.from("x.tar"), tar(&[(FILE, &name, "dead", 0)])).unwrap();
    let mut request = case.request(&["x.tar"], "/");
    request.unpack = Unpack::Auto;
    case.run(&request).unwrap();
    canary.is_alive();
    assert!(case.root("").join(name.trim_start_matches('/')).exists());
}

#[test]
fn e1_links_of_the_source_lead_nowhere_else() {
    let canary = Canary::new();
    let target = format!("l -> {}", canary.path());
    let up = format!("u -> ../../../../../../..{}", canary.path());
    let case = Case::new(&[&target, &up]);
    for source in [
        "l",
        "l/canary",
        "u",
        "u/canary",
        "l*/canary",
        "../../etc/passwd",
    ] {
        let copied = case.copy(&[source], "/x/");
        assert!(
            copied.is_err() || case.listing().is_empty(),
            "{source}: {}",
            case.listing()
        );
    }
    // As a name in a directory a link is only a name.
    case.copy(&["."], "/x/").unwrap();
    assert_eq!(
        std::fs::read_link(case.root("x/l")).unwrap().to_str(),
        Some(canary.path())
    );
}

/// Somebody exchanges a directory of the source for a link, again and again.
#[test]
fn e2_a_source_that_is_exchanged_meanwhile() {
    let canary = Canary::new();
    let case = Case::new(&["s/d/file=mine", "s/d/canary=mine"]);
    let (swapped, parked) = (case.from("s/d"), case.from("parked"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(&swapped, &parked).unwrap();
                std::os::unix::fs::symlink(canary.path(), &swapped).unwrap();
                std::fs::remove_file(&swapped).unwrap();
                std::fs::rename(&parked, &swapped).unwrap();
            }
        });
        let mut seen = Vec::new();
        for round in 0..300 {
            let dest = format!("/{round}/");
            let _ = case.copy(&["s"], &dest);
            let _ = case.copy(&["s/d/canary"], &dest);
            for path in [format!("{round}/canary"), format!("{round}/d/canary")] {
                let text = std::fs::read_to_string(case.root(&path)).unwrap_or_default();
                // A link that was copied as such still leads there.
                let link = std::fs::read_link(case.root(&format!("{round}/d"))).is_ok();
                if text == "alive" && !(link && path.ends_with("d/canary")) {
                    seen.push(path);
                }
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(seen, Vec::<String>::new());
    });
    canary.is_alive();
}

#[test]
fn d6_an_archive_that_is_a_bomb() {
    // A file of 4 GiB of zeros, 4 MB as gzip: no archive, so nothing is inflated but its beginning.
    let zeros = vec![0; 8 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(9));
    for _ in 0..4 {
        std::io::Write::write_all(&mut gzip, &zeros).unwrap();
    }
    let case = Case::new(&[]);
    std::fs::write(case.from("x.gz"), gzip.finish().unwrap()).unwrap();
    let mut request = case.request(&["x.gz"], "/");
    request.unpack = Unpack::Auto;
    case.run(&request).unwrap();
    assert!(std::fs::metadata(case.root("x.gz")).unwrap().len() < 1 << 20);
    // With the limits of an archive: bzip2 and xz end as gzip and zstd do.
    use super::super::archive::{detect, open};
    let limits = rcrun_overlay::compress::Limits {
        bytes: 1 << 20,
        ratio: 200,
        ratio_floor: 1 << 18,
    };
    let big = tar(&[(FILE, "zeros", &"\0".repeat(4 << 20), 0)]);
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let path = case.from(program);
        let raw = case.from("raw");
        std::fs::write(&raw, &big).unwrap();
        let output = std::process::Command::new(program)
            .args(["-c", "-q"])
            .stdin(std::fs::File::open(&raw).unwrap())
            .output();
        let Ok(output) = output else {
            println!("skipped: no {program}");
            continue;
        };
        std::fs::write(&path, output.stdout).unwrap();
        let file = OwnedFd::from(std::fs::File::open(&path).unwrap());
        let format = detect(&file).unwrap().unwrap();
        super::super::archive::rewind(&file).unwrap();
        let mut stream = open(&file, format, limits).unwrap();
        let error = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_err();
        let error = rcrun_overlay::archive::from_io(error);
        assert_eq!(
            error.kind(),
            crate::ErrorKind::Exhausted,
            "{program}: {error:?}"
        );
    }
}

#[test]
fn deep_trees_need_few_descriptors() {
    let case = Case::large();
    // Longer than one call may be given, so step by step.
    let mut at = OwnedFd::from(std::fs::File::open(case.from("")).unwrap());
    for _ in 0..1500 {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from(0o755)).unwrap();
        at = crate::context::open::directory(&at, b"d").unwrap();
    }
    drop(at);
    let report = case.copy(&["."], "/x/").unwrap();
    assert_eq!(report.directories, 1501);
}
