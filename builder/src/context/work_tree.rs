//! The git repository that a directory of the host lies in: its commit and where it came from, as a hint in
//! provenance. Files are read (gitrepository-layout(5), git-config(5)); git is not run, so nothing that a
//! repository configures is.
//!
//! What cannot be read as git writes it is not there: includes of configurations, `url.*.insteadOf`, references
//! in tables (reftable). Whether files were changed since the commit is not looked at.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Largest file with a reference.
const REFERENCE_BYTES: u64 = 4096;
/// Largest configuration.
const CONFIG_BYTES: u64 = 1 << 20;
/// Largest list of references.
const PACKED_BYTES: u64 = 256 << 20;
/// Longest line of that.
const LINE_BYTES: u64 = 8192;
/// References that lead to references.
const LINKS: usize = 5;

/// A directory that belongs to a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkTree {
    /// Where it begins.
    pub root: PathBuf,
    /// Its commit; none before the first.
    pub commit: Option<String>,
    /// Where it came from, as it is configured.
    pub remote: Option<String>,
}

/// The work tree that a directory lies in.
pub fn find(directory: &Path) -> Option<WorkTree> {
    let directory = directory.canonicalize().ok()?;
    directory.ancestors().find_map(at)
}

fn at(root: &Path) -> Option<WorkTree> {
    let dot = root.join(".git");
    let own = match dot.symlink_metadata().ok()?.is_file() {
        true => {
            let text = read(&dot, REFERENCE_BYTES)?;
            root.join(text.strip_prefix("gitdir: ")?.trim_end())
        }
        false => dot,
    };
    // Several work trees share what is not in their own directory.
    let common = match read(&own.join("commondir"), REFERENCE_BYTES) {
        Some(path) => own.join(path.trim_end()),
        None => own.clone(),
    };
    let head = read(&own.join("HEAD"), REFERENCE_BYTES)?;
    let head = head.trim_end();
    let commit = resolve(&own, &common, head);
    let branch = head.strip_prefix("ref: refs/heads/");
    let config = read(&common.join("config"), CONFIG_BYTES).unwrap_or_default();
    Some(WorkTree {
        root: root.to_owned(),
        commit,
        remote: remote(&config, branch),
    })
}

/// A small file of text. What is none, or none that could be meant, is not there.
fn read(path: &Path, limit: u64) -> Option<String> {
    let mut text = String::new();
    let read = open(path)?.take(limit + 1).read_to_string(&mut text).ok()?;
    (read as u64 <= limit).then_some(text)
}

/// Opens a file; nothing that would make whoever reads it wait.
fn open(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    file.metadata().ok()?.is_file().then_some(file)
}

fn resolve(own: &Path, common: &Path, head: &str) -> Option<String> {
    let mut text = head.to_owned();
    for _ in 0..LINKS {
        let Some(name) = text.strip_prefix("ref: ") else {
            return is_commit(&text).then_some(text);
        };
        let path = Path::new(name);
        let inside = |part| matches!(part, Component::Normal(_));
        if !path.starts_with("refs") || !path.components().all(inside) {
            return None;
        }
        let places = [own, common].map(|directory| directory.join(path));
        let loose = places.iter().find_map(|path| read(path, REFERENCE_BYTES));
        text = match loose {
            Some(text) => text.trim_end().to_owned(),
            None => packed(&common.join("packed-refs"), name)?,
        };
    }
    None
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A reference in the list of those that have no file: `COMMIT NAME`.
fn packed(path: &Path, name: &str) -> Option<String> {
    let mut file = BufReader::new(open(path)?.take(PACKED_BYTES));
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut file).take(LINE_BYTES);
        if limited.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            continue;
        };
        match text.trim_end().split_once(' ') {
            Some((commit, found)) if found == name => {
                return is_commit(commit).then(|| commit.to_owned());
            }
            _ => {}
        }
    }
}

/// The URL of the remote that a branch follows, or else of `origin`, or of `upstream`.
fn remote(config: &str, branch: Option<&str>) -> Option<String> {
    let settings = settings(config);
    let get = |section: &str, part: &str, key: &str| {
        let same = |one: &&Setting| one.section == section && one.part == part && one.key == key;
        settings.iter().find(same).map(|one| one.value.clone())
    };
    let followed = branch.and_then(|branch| get("branch", branch, "remote"));
    let names = [followed, Some("origin".into()), Some("upstream".into())];
    let urls = names
        .into_iter()
        .flatten()
        .filter_map(|name| get("remote", &name, "url"));
    urls.into_iter().find(|url| !url.is_empty())
}

/// `[SECTION "PART"] KEY = VALUE`.
struct Setting {
    section: String,
    part: String,
    key: String,
    value: String,
}

/// The settings of a configuration; lines that make no sense are none.
fn settings(config: &str) -> Vec<Setting> {
    let mut all = Vec::new();
    let (mut section, mut part) = (String::new(), String::new());
    let mut lines = config.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim();
        if let Some(rest) = line.strip_prefix('[') {
            let Some((head, rest)) = heading(rest) else {
                continue;
            };
            (section, part) = head;
            line = rest.trim();
        }
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let (key, text) = line.split_once('=').unwrap_or((line, ""));
        let mut text = text.trim().to_owned();
        // A backslash at the end: the next line belongs to it.
        while text.ends_with('\\') && !text.ends_with("\\\\") {
            text.pop();
            let Some(more) = lines.next() else { break };
            text.push_str(more);
        }
        all.push(Setting {
            section: section.clone(),
            part: part.clone(),
            key: key.trim().to_ascii_lowercase(),
            value: value(&text),
        });
    }
    all
}

/// `SECTION "PART"] REST`.
fn heading(text: &str) -> Option<((String, String), &str)> {
    let end = text.find([']', '"'])?;
    let section = text[..end].trim().to_ascii_lowercase();
    if text[end..].starts_with(']') {
        return Some(((section, String::new()), &text[end + 1..]));
    }
    let mut part = String::new();
    let mut characters = text[end + 1..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let rest = text[end + 1 + at + 1..].trim_start();
                return Some(((section, part), rest.strip_prefix(']')?));
            }
            '\\' => part.push(characters.next()?.1),
            other => part.push(other),
        }
    }
    None
}

/// What stands behind `=`: quotes hold blanks and marks of comments together.
fn value(text: &str) -> String {
    let mut out = String::new();
    let mut kept = 0;
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '#' | ';' if !quoted => break,
            '\\' => match characters.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('b') => drop(out.pop()),
                Some(other) => out.push(other),
                None => {}
            },
            other => {
                out.push(other);
                if other.is_whitespace() && !quoted {
                    continue;
                }
            }
        }
        kept = out.len();
    }
    out.truncate(kept);
    out
}

/// A path as it is seen from the work tree's root: what provenance may say of it.
pub fn within(root: &Path, path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let inner = path.strip_prefix(root).ok()?;
    match inner.as_os_str().as_bytes() {
        [] => Some(".".to_owned()),
        inner => String::from_utf8(inner.to_vec()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    #[test]
    fn configurations() {
        let origin = "[remote \"origin\"]\n\turl = https://u:p@a.b/c # mine\n\tfetch = x\n";
        let other = "[core]\nbare=false\n[Remote \"o\\\"t\"] URL = \"a b;\\\\\" \n";
        let follows = "[branch \"b/c\"]\nremote = o\\\"t\n";
        let upstream = "[remote \"upstream\"]\nurl = up\\\n  stream\n";
        for (config, branch, expected) in [
            (String::new(), None, None),
            (origin.to_owned(), Some("main"), Some("https://u:p@a.b/c")),
            (
                [other, origin, follows].concat(),
                Some("b/c"),
                Some("a b;\\"),
            ),
            (
                [other, origin, follows].concat(),
                Some("d"),
                Some("https://u:p@a.b/c"),
            ),
            ([other, upstream].concat(), None, Some("up  stream")),
            ([upstream, origin].concat(), None, Some("https://u:p@a.b/c")),
            ("[remote \"origin]\nurl = x".to_owned(), None, None),
            ("[remote \"origin\nurl = x\n[\n]\n\\".to_owned(), None, None),
        ] {
            assert_eq!(remote(&config, branch).as_deref(), expected, "{config}");
        }
    }

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn commits_are_found_where_git_has_them() {
        let other = COMMIT.replace('0', "f");
        let line = |name: &str| {
            format!("# pack-refs with: peeled\n{other} refs/x\n{COMMIT} {name}\n^{other}\n")
        };
        let packed = line("refs/heads/main");
        for (files, expected) in [
            (&[(".git/HEAD", COMMIT)][..], Some(COMMIT)),
            (
                &[
                    (".git/HEAD", "ref: refs/heads/main\n"),
                    (".git/refs/heads/main", &format!("{COMMIT}\n")),
                    (
                        ".git/packed-refs",
                        &line("refs/heads/main").replace(COMMIT, &other),
                    ),
                ],
                Some(COMMIT),
            ),
            (
                &[
                    (".git/HEAD", "ref: refs/heads/main\n"),
                    (".git/packed-refs", &packed),
                ],
                Some(COMMIT),
            ),
            (
                &[
                    (".git", "gitdir: real/worktrees/w\n"),
                    ("real/worktrees/w/HEAD", "ref: refs/heads/main\n"),
                    ("real/worktrees/w/commondir", "../..\n"),
                    ("real/refs/heads/main", COMMIT),
                ],
                Some(COMMIT),
            ),
            (&[(".git/HEAD", "ref: refs/heads/none\n")], None),
            (&[(".git/HEAD", "ref: refs/heads/.invalid\n")], None),
            (
                &[(".git/HEAD", "ref: refs/../../out"), ("out", COMMIT)],
                None,
            ),
            (&[(".git/HEAD", "ref: /etc/hostname")], None),
            (
                &[(".git/HEAD", "ref: refs/a"), (".git/refs/a", "ref: refs/a")],
                None,
            ),
            (&[(".git/HEAD", "text of another file")], None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path(), files);
            write(directory.path(), &[("deep/er/file", "")]);
            let root = directory.path().canonicalize().unwrap();
            let found = find(&root.join("deep/er")).unwrap();
            assert_eq!(found.root, root);
            assert_eq!(found.commit.as_deref(), expected, "{files:?}");
            assert_eq!(within(&root, &root).as_deref(), Some("."));
            let inner = within(&root, &root.join("deep/../deep/er"));
            assert_eq!(inner.as_deref(), Some("deep/er"));
            assert_eq!(within(&root.join("deep"), &root), None);
        }
    }

    /// What lies in the way of a name is no file that is waited for, and no limit is passed.
    #[test]
    fn attack_odd_repositories() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, &[("sub/x", "")]);
        let fifo = root.join(".git");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::from(0o600)).unwrap();
        assert_eq!(at(root), None);
        std::fs::remove_file(&fifo).unwrap();
        let large = "x".repeat(usize::try_from(REFERENCE_BYTES).unwrap() + 1);
        write(root, &[(".git/HEAD", &large)]);
        assert_eq!(at(root), None);
        let long = format!("{}\n{COMMIT} refs/m\n", "x".repeat(100_000));
        write(
            root,
            &[(".git/HEAD", "ref: refs/m"), (".git/packed-refs", &long)],
        );
        assert_eq!(at(root).unwrap().commit.as_deref(), Some(COMMIT));
        std::fs::remove_file(root.join(".git/packed-refs")).unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            root.join(".git/packed-refs"),
            Mode::from(0o600),
        )
        .unwrap();
        assert_eq!(at(root).unwrap().commit, None);
    }
}
