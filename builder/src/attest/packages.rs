//! Which packages an image has: its databases are found and read. Everything stays inside the image's root;
//! files that are too large, or of which there are too many, are said to be unread.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::golang::{self, Told};
use super::rpm;
use super::sbom::{Found, Package, apk, dpkg, node, os_release, pacman, python};
use crate::{Context, Result};

/// The longest database.
const DATABASE: u64 = 256 << 20;
/// The longest description of one package.
const DESCRIPTION: u64 = 4 << 20;
/// Entries of the image that are looked at.
const ENTRIES: usize = 4_000_000;
/// What is shorter is no program of Go.
const PROGRAM: i64 = 4096;
/// How deep directories may be inside one another.
const DEPTH: usize = 128;
/// Where dpkg keeps what is installed.
const DPKG: &str = "var/lib/dpkg/status";
/// Where images without dpkg have one file for each package.
const DPKG_PARTS: &str = "var/lib/dpkg/status.d";
/// Where apk keeps what is installed.
const APK: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];
/// Where pacman keeps what is installed, a directory for each package.
const PACMAN: &str = "var/lib/pacman/local";
/// Where rpm keeps what is installed; the second and third are where newer distributions do.
const RPM: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];
/// Directories of the kernel, which are no part of an image.
const KERNEL: [&str; 3] = ["dev", "proc", "sys"];

/// Reads an image's databases.
pub fn find(root: BorrowedFd<'_>) -> Result<Found> {
    let mut search = Search {
        root,
        found: Found::default(),
        left: ENTRIES,
    };
    search
        .databases()
        .and_then(|()| search.walk("", DEPTH))
        .context(|| "cannot look for packages in the image")?;
    Ok(search.found)
}

struct Search<'a> {
    root: BorrowedFd<'a>,
    found: Found,
    left: usize,
}

impl Search<'_> {
    fn databases(&mut self) -> Result<()> {
        for name in ["etc/os-release", "usr/lib/os-release"] {
            if let Some(text) = self.text(name, DESCRIPTION)? {
                self.found.distribution = os_release(&text, "ID");
                self.found.version = os_release(&text, "VERSION_ID");
                break;
            }
        }
        if let Some(text) = self.text(DPKG, DATABASE)? {
            self.found.packages.extend(dpkg(&text, DPKG));
        }
        if let Some(directory) = self.open(DPKG_PARTS, OFlags::DIRECTORY)? {
            for (name, _) in entries(&directory)? {
                if name.ends_with(".md5sums") {
                    continue;
                }
                let path = format!("{DPKG_PARTS}/{name}");
                if let Some(text) = self.text(&path, DESCRIPTION)? {
                    self.found.packages.extend(dpkg(&text, &path));
                }
            }
        }
        let before = self.found.packages.len();
        for name in APK {
            if self.found.packages.len() == before
                && let Some(text) = self.text(name, DATABASE)?
            {
                self.found.packages.extend(apk(&text, name));
            }
        }
        if let Some(directory) = self.open(PACMAN, OFlags::DIRECTORY)? {
            for (name, kind) in entries(&directory)? {
                if kind == FileType::Directory {
                    self.package(&format!("{PACMAN}/{name}/desc"), pacman)?;
                }
            }
        }
        for directory in RPM {
            // One may be a link to another.
            if self.rpm(directory)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads a directory of rpm; false if there is no database.
    fn rpm(&mut self, directory: &str) -> Result<bool> {
        for (name, kind) in rpm::KINDS {
            let path = format!("{directory}/{name}");
            let Some(opened) = self.open(&path, OFlags::empty())? else {
                continue;
            };
            let file = File::from(opened);
            let metadata = file
                .metadata()
                .context(|| format!("cannot examine /{path}"))?;
            if !metadata.is_file() {
                continue;
            }
            let size = metadata.len();
            let read = |offset: u64, length: usize| {
                let end = offset.checked_add(length as u64)?;
                if end > size.min(DATABASE) {
                    return None;
                }
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
            };
            let (packages, whole) = rpm::packages(&read, kind, &path);
            self.found.packages.extend(packages);
            let log = self.open(&format!("{path}-wal"), OFlags::empty())?;
            let pending = log.is_some_and(|log| {
                let size = File::from(log).metadata().map(|metadata| metadata.len());
                size.is_ok_and(|size| size > 0)
            });
            if !whole || pending {
                let what = match pending {
                    true => "changes that are only in its log",
                    false => "parts of it are damaged, or of no known kind",
                };
                self.found.unread.push(format!("/{path}: {what}"));
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Looks for what Python and Node.js install, and for programs of Go.
    fn walk(&mut self, path: &str, depth: usize) -> Result<()> {
        let Some(directory) =
            self.open(if path.is_empty() { "." } else { path }, OFlags::DIRECTORY)?
        else {
            return Ok(());
        };
        let is_modules = path.rsplit('/').next() == Some("node_modules");
        let is_scope = path
            .rsplit_once('/')
            .is_some_and(|(above, name)| name.starts_with('@') && above.ends_with("node_modules"));
        for (name, kind) in entries(&directory)? {
            if self.left == 0 {
                let text = format!("more than {ENTRIES} files");
                if !self.found.unread.contains(&text) {
                    self.found.unread.push(text);
                }
                return Ok(());
            }
            self.left -= 1;
            if kind == FileType::RegularFile {
                self.program(&directory, path, &name)?;
            }
            if kind != FileType::Directory || (path.is_empty() && KERNEL.contains(&name.as_str())) {
                continue;
            }
            let inner = match path {
                "" => name.clone(),
                path => format!("{path}/{name}"),
            };
            if name.ends_with(".dist-info") {
                self.package(&format!("{inner}/METADATA"), python)?;
                continue;
            }
            if is_modules || is_scope {
                self.package(&format!("{inner}/package.json"), node)?;
            }
            if depth > 0 {
                self.walk(&inner, depth - 1)?;
            }
        }
        Ok(())
    }

    /// Reads what Go wrote into a program.
    fn program(&mut self, directory: &OwnedFd, path: &str, name: &str) -> Result<()> {
        let shown = match path {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(directory, name, flags) {
            Ok(stat) if stat.st_mode & 0o111 != 0 && stat.st_size >= PROGRAM => {}
            _ => return Ok(()),
        }
        let Some(opened) = self.open(&shown, OFlags::NOFOLLOW)? else {
            return Ok(());
        };
        let file = File::from(opened);
        let read = |offset: u64, length: usize| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
        };
        match golang::told(&read, &shown) {
            Told::Nothing => {}
            Told::Unread => self
                .found
                .unread
                .push(format!("/{shown}: written by a Go before 1.18")),
            Told::Modules(all) => self.found.packages.extend(all),
        }
        Ok(())
    }

    fn package(&mut self, path: &str, read: fn(&str, &str) -> Option<Package>) -> Result<()> {
        if let Some(text) = self.text(path, DESCRIPTION)? {
            self.found.packages.extend(read(&text, path));
        }
        Ok(())
    }

    /// Opens something of the image, links included; none if there is none of that kind.
    fn open(&self, path: &str, kind: OFlags) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | kind;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..16 {
            return match rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve) {
                Ok(opened) => Ok(Some(opened)),
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::ACCESS) => {
                    Ok(None)
                }
                Err(errno) => Err(errno).context(|| format!("cannot open /{path}")),
            };
        }
        Ok(None)
    }

    fn text(&mut self, path: &str, limit: u64) -> Result<Option<String>> {
        let Some(opened) = self.open(path, OFlags::empty())? else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(&opened).context(|| format!("cannot examine /{path}"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::from(opened)
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .context(|| format!("cannot read /{path}"))?;
        if bytes.len() as u64 > limit {
            let text = format!("/{path}: longer than {limit} bytes");
            self.found.unread.push(text);
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// Names and kinds, sorted; names that are no text belong to no package.
fn entries(directory: impl AsFd) -> Result<Vec<(String, FileType)>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(directory).context(|| "cannot list a directory")? {
        let entry = entry.context(|| "cannot list a directory")?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => all.push((name.to_owned(), entry.file_type())),
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn write(root: &Path, name: &str, text: impl AsRef<[u8]>) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn names(root: &Path) -> (Vec<String>, Found) {
        let found = find(File::open(root).unwrap().as_fd()).unwrap();
        let mut names: Vec<String> = found.packages.iter().map(|one| one.name.clone()).collect();
        names.sort();
        (names, found)
    }

    #[test]
    fn all_databases_of_an_image() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "etc/os-release", "ID=x\nVERSION_ID=3\n");
        write(
            root,
            "var/lib/dpkg/status",
            "Package: a\nVersion: 1\nStatus: install ok installed\n",
        );
        write(root, "var/lib/dpkg/status.d/b", "Package: b\nVersion: 1\n");
        write(
            root,
            "var/lib/dpkg/status.d/b.md5sums",
            "Package: c\nVersion: 1\n",
        );
        write(root, "lib/apk/db/installed", "P:d\nV:1\n");
        let python = "usr/lib/python3/dist-packages";
        write(
            root,
            &format!("{python}/e-1.dist-info/METADATA"),
            "Name: e\nVersion: 1\n",
        );
        write(
            root,
            "app/node_modules/f/package.json",
            r#"{"name":"f","version":"1"}"#,
        );
        write(
            root,
            "app/node_modules/@s/g/package.json",
            r#"{"name":"@s/g","version":"1"}"#,
        );
        write(
            root,
            "app/node_modules/f/node_modules/h/package.json",
            r#"{"name":"h","version":"1"}"#,
        );
        write(root, "app/package.json", r#"{"name":"own","version":"1"}"#);
        write(
            root,
            "proc/node_modules/i/package.json",
            r#"{"name":"i","version":"1"}"#,
        );
        let header = rpm::tests::header("k", "1", None, 0);
        let database = rpm::tests::ndb(&[header]);
        write(root, "usr/lib/sysimage/rpm/Packages.db", database);
        // As SUSE has it.
        std::fs::create_dir_all(root.join("var/lib")).unwrap();
        symlink("../../usr/lib/sysimage/rpm", root.join("var/lib/rpm")).unwrap();
        write(root, "var/lib/pacman/local/ALPM_DB_VERSION", "9\n");
        write(
            root,
            "var/lib/pacman/local/j-1/desc",
            "%NAME%\nj\n\n%VERSION%\n1\n",
        );
        let (names, found) = names(root);
        assert_eq!(names, ["@s/g", "a", "b", "d", "e", "f", "h", "j", "k"]);
        assert_eq!(found.distribution.as_deref(), Some("x"));
        assert_eq!(found.unread, Vec::<String>::new());
    }

    #[test]
    fn what_is_not_read_of_rpm_is_said() {
        let header = rpm::tests::header("k", "1", None, 0);
        let database = rpm::tests::ndb(&[header]);
        for (files, expected) in [
            (
                &[("rpmdb.sqlite", &b""[..])][..],
                "rpmdb.sqlite: parts of it are damaged",
            ),
            (
                &[("Packages.db", &database), ("Packages.db-wal", b"x")],
                "Packages.db: changes that are only in its log",
            ),
            (&[("Packages.db", &database), ("Packages.db-wal", b"")], ""),
            (
                &[("Packages.db", &database[..4200])],
                "Packages.db: parts of it are",
            ),
            (&[("__db.001", b"x")], ""),
        ] {
            let directory = tempfile::tempdir().unwrap();
            for (name, bytes) in files {
                write(directory.path(), &format!("var/lib/rpm/{name}"), bytes);
            }
            let unread = names(directory.path()).1.unread.join(";");
            let expected = match expected {
                "" => String::new(),
                text => format!("/var/lib/rpm/{text}"),
            };
            assert!(unread.starts_with(&expected), "{unread}");
            assert_eq!(unread.is_empty(), expected.is_empty(), "{unread}");
        }
    }

    #[test]
    fn links_stay_inside_and_odd_files_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (
            directory.path().join("root"),
            directory.path().join("outside"),
        );
        write(&outside, "status", "Package: secret\nVersion: 1\n");
        std::fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
        symlink(outside.join("status"), root.join("var/lib/dpkg/status")).unwrap();
        symlink("../../../../../outside", root.join("var/lib/dpkg/status.d")).unwrap();
        std::fs::create_dir_all(root.join("lib/apk/db")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("lib/apk/db/installed"),
            FileType::Fifo,
            Mode::from(0o600),
            0,
        )
        .unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/var", root.join("usr")).unwrap();
        assert_eq!(names(&root).0, Vec::<String>::new());
    }

    /// As `go version -m` reads it.
    #[test]
    fn programs_of_go_as_go_reads_them() {
        let listed = |program: &Path| -> Option<String> {
            let done = std::process::Command::new("go")
                .args(["version", "-m"])
                .arg(program)
                .output()
                .ok()?;
            let text = String::from_utf8(done.stdout).ok()?;
            (done.status.success() && !text.is_empty()).then_some(text)
        };
        let root = std::process::Command::new("go")
            .args(["env", "GOROOT"])
            .output();
        let root = root
            .ok()
            .and_then(|done| String::from_utf8(done.stdout).ok());
        let program = root.map(|root| Path::new(root.trim()).join("bin/gofmt"));
        let Some((program, text)) =
            program.and_then(|program| listed(&program).map(|text| (program, text)))
        else {
            println!("skipped: no go");
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        std::fs::copy(&program, directory.path().join("gofmt")).unwrap();
        let (_, found) = names(directory.path());
        let go = found
            .packages
            .iter()
            .find(|one| one.name == "stdlib")
            .unwrap();
        assert!(text.contains(&format!("go{}", go.version)), "{text}");
        let modules =
            |line: &&str| line.trim().starts_with("mod") || line.trim().starts_with("dep");
        assert_eq!(
            found.packages.len(),
            1 + text.lines().filter(modules).count(),
            "{text}"
        );
    }
}
