//! D4: an archive has one meaning. A corpus of ordinary, odd and contradictory archives is listed
//! by GNU tar, bsdtar and Python's tarfile: whatever we accept, each of them that accepts it too
//! must see exactly as we do, and GNU tar must accept it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::corpus_archives::corpus;
use super::{Kind, Reader, name};

/// Path, kind, size of a regular file or target of a link.
type Listing = Vec<String>;

fn ours(bytes: &[u8]) -> Option<Listing> {
    let mut reader = Reader::new(bytes);
    let mut listing = Vec::new();
    loop {
        match reader.next_entry() {
            Err(_) => return None,
            Ok(None) => return Some(listing),
            Ok(Some(entry)) => {
                let (kind, rest) = match &entry.kind {
                    Kind::Regular => ('-', entry.size.to_string()),
                    Kind::Directory => ('d', String::new()),
                    Kind::Symlink(target) => ('l', String::from_utf8_lossy(target).into()),
                    Kind::Hardlink(target) => ('h', String::from_utf8_lossy(target).into()),
                    Kind::Character(..) => ('c', String::new()),
                    Kind::Block(..) => ('b', String::new()),
                    Kind::Fifo => ('p', String::new()),
                };
                listing.push(line(kind, &String::from_utf8_lossy(&entry.path), &rest));
            }
        }
    }
}

fn line(kind: char, path: &str, rest: &str) -> String {
    let path = name::normalise(path.as_bytes()).unwrap_or_else(|_| path.as_bytes().to_vec());
    let path = String::from_utf8_lossy(&path);
    // Listings are split at blanks.
    let path: Vec<_> = path.split_whitespace().collect();
    format!("{kind} {} {rest}", path.join(" "))
}

/// A line of `tar -tv`: the fields before the path differ.
fn parse(text: &str, size: usize, path: usize) -> Option<String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    // Contiguous files are files.
    let kind = fields[0].chars().next()?;
    let kind = if kind == 'C' { '-' } else { kind };
    let rest = fields[path..].join(" ");
    Some(match kind {
        'l' => {
            let (path, target) = rest.split_once(" -> ")?;
            line(kind, path, target)
        }
        'h' => {
            let (path, target) = rest.split_once(" link to ")?;
            line(kind, path, target)
        }
        '-' if rest.contains(" link to ") => {
            let (path, target) = rest.split_once(" link to ")?;
            line('h', path, target)
        }
        '-' => line(kind, &rest, fields[size]),
        _ => line(kind, &rest, ""),
    })
}

fn theirs(mut command: Command, size: usize, path: usize) -> Option<Listing> {
    let output = command
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .output()
        .unwrap();
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|text| parse(text, size, path)).collect()
}

fn gnu_tar(archive: &Path) -> Option<Listing> {
    let mut command = Command::new("tar");
    command
        .args(["--numeric-owner", "--quoting-style=literal", "-tvf"])
        .arg(archive);
    theirs(command, 2, 5)
}

fn bsdtar(archive: &Path) -> Option<Listing> {
    let mut command = Command::new("bsdtar");
    command.args(["--numeric-owner", "-tvf"]).arg(archive);
    theirs(command, 4, 8)
}

/// Lists all archives of a directory at once: starting Python takes long.
const PYTHON: &str = r#"
import os, sys, tarfile
kinds = {b"1": "h", b"2": "l", b"3": "c", b"4": "b", b"5": "d", b"6": "p"}
for name in sorted(os.listdir(sys.argv[1])):
    lines = []
    try:
        with tarfile.open(os.path.join(sys.argv[1], name), "r:", errorlevel=2) as archive:
            for member in archive:
                kind = kinds.get(member.type, "-")
                rest = {"-": str(member.size), "l": member.linkname, "h": member.linkname}
                lines.append("\x1f".join((kind, member.name, rest.get(kind, ""))))
    except Exception:
        lines = ["error"]
    sys.stdout.buffer.write("\x1e".join([name] + lines).encode("utf-8", "replace") + b"\x1d")
"#;

fn python(directory: &Path) -> Option<BTreeMap<String, Option<Listing>>> {
    let output = Command::new("python3")
        .args(["-c", PYTHON])
        .arg(directory)
        .output()
        .ok()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let archives = text.split_terminator('\u{1d}').map(|archive| {
        let mut parts = archive.split('\u{1e}');
        let name = parts.next().unwrap().to_string();
        let lines: Vec<&str> = parts.collect();
        if lines == ["error"] {
            return (name, None);
        }
        let listing = lines.iter().map(|text| {
            let mut fields = text.split('\u{1f}');
            let kind = fields.next().unwrap().chars().next().unwrap();
            line(kind, fields.next().unwrap(), fields.next().unwrap())
        });
        (name, Some(listing.collect()))
    });
    Some(archives.collect())
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped {program}: not installed");
    }
    found
}

#[test]
fn d4_one_meaning_for_everybody() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus();
    assert!(corpus.len() >= 200, "{}", corpus.len());
    for (name, bytes) in &corpus {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    let names: std::collections::BTreeSet<_> = corpus.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), corpus.len());
    let python = if has("python3") {
        python(directory.path())
    } else {
        None
    };
    let (tar, bsd) = (has("tar"), has("bsdtar"));
    let mut wrong = Vec::new();
    let mut accepted = 0;
    for (name, bytes) in &corpus {
        let Some(ours) = ours(bytes) else { continue };
        accepted += 1;
        let path = directory.path().join(name);
        let mut compare = |who: &str, theirs: Option<Listing>, must: bool| match theirs {
            Some(theirs) if theirs != ours => {
                wrong.push(format!("{name}: {who} sees {theirs:?}, we see {ours:?}"));
            }
            None if must => wrong.push(format!("{name}: {who} refuses, we see {ours:?}")),
            _ => {}
        };
        if tar {
            compare("GNU tar", gnu_tar(&path), true);
        }
        if bsd {
            compare("bsdtar", bsdtar(&path), false);
        }
        if let Some(python) = &python {
            compare("Python", python[name].clone(), false);
        }
    }
    println!("{accepted} of {} accepted", corpus.len());
    // Refusing everything would prove nothing.
    assert!(accepted > 60, "{accepted}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
