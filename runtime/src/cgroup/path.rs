//! Names and paths of cgroups: what is accepted, and what a systemd slice's name expands to. Pure.
//!
//! `cgroupsPath`: config-linux.md, "Cgroups Path". An absolute path is relative to the root of each
//! hierarchy, a relative one is below the caller's own cgroup; a path with `..` is refused.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// Normalises a cgroup path; refuses what could leave its hierarchy or confuse a reader.
pub(super) fn clean(path: &Path) -> Result<PathBuf> {
    let bad = |why: &str| Error::invalid(format!("bad cgroup path {:?}: {why}", path.display()));
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::RootDir => out.push("/"),
            Component::CurDir => {}
            Component::Normal(name) => {
                let Some(name) = name.to_str() else {
                    return Err(bad("it is not UTF-8"));
                };
                if name.contains(['\n', '\0']) {
                    return Err(bad("it holds a newline or a null character"));
                }
                out.push(name);
            }
            Component::ParentDir | Component::Prefix(_) => return Err(bad("it holds \"..\"")),
        }
    }
    Ok(out)
}

/// Where `cgroup` (as /proc/self/cgroup prints it) is below a mount whose root is `root`.
pub(super) fn below(root: &str, cgroup: &str) -> Option<PathBuf> {
    let rest = if root == "/" {
        cgroup
    } else {
        cgroup.strip_prefix(root)?
    };
    if !(rest.is_empty() || rest.starts_with('/')) || rest.split('/').any(|part| part == "..") {
        return None;
    }
    Some(PathBuf::from(rest.trim_matches('/')))
}

/// `test-a.slice` is the directory `/test.slice/test-a.slice`; systemd.slice(5).
pub(super) fn expand_slice(slice: &str) -> Result<PathBuf> {
    let bad = || Error::invalid(format!("invalid slice name: {slice}"));
    let name = slice.strip_suffix(".slice").ok_or_else(bad)?;
    if name.is_empty() || name.contains('/') {
        return Err(bad());
    }
    if name == "-" {
        return Ok(PathBuf::from("/"));
    }
    let mut path = PathBuf::from("/");
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(bad());
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

/// Refuses a unit name that systemd would not take or that would leave its slice's directory.
pub(super) fn check_unit_name(name: &str) -> Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if name.len() > 255 || name.starts_with('.') || !name.chars().all(ok) {
        return Err(Error::invalid(format!(
            "invalid systemd unit name {name:?}"
        )));
    }
    Ok(())
}

/// Joins a sub-cgroup of `exec --cgroup`; it must stay at or below the container's cgroup.
pub(super) fn sub(base: &Path, sub: &str) -> Result<PathBuf> {
    let mut out = base.to_owned();
    for part in Path::new(sub).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => out.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::invalid(format!(
                    "bad sub cgroup path: {sub}: `..` components are not allowed"
                )));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_paths() {
        for (given, want) in [
            ("/a/b", "/a/b"),
            ("a//b/", "a/b"),
            ("/./a", "/a"),
            ("/", "/"),
            ("", ""),
            ("docker/0123", "docker/0123"),
        ] {
            assert_eq!(clean(Path::new(given)).unwrap(), Path::new(want), "{given}");
        }
        for bad in ["..", "/a/../b", "a/..", "/../../x", "a\nb"] {
            assert!(clean(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn below_mount_root() {
        assert_eq!(below("/", "/a/b"), Some("a/b".into()));
        assert_eq!(below("/", "/"), Some("".into()));
        assert_eq!(below("/a", "/a/b"), Some("b".into()));
        assert_eq!(below("/a", "/a"), Some("".into()));
        assert_eq!(below("/a", "/ab"), None);
        assert_eq!(below("/x", "/a"), None);
        // Seen from a cgroup namespace that the caller's cgroup is outside of.
        assert_eq!(below("/", "/../b"), None);
    }

    #[test]
    fn slices() {
        for (given, want) in [
            ("system.slice", "/system.slice"),
            ("test-a-b.slice", "/test.slice/test-a.slice/test-a-b.slice"),
            ("-.slice", "/"),
        ] {
            assert_eq!(expand_slice(given).unwrap(), Path::new(want));
        }
        for bad in [
            ".slice",
            "a",
            "a/b.slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "",
        ] {
            assert!(expand_slice(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unit_names() {
        assert!(check_unit_name("runc-abc.scope").is_ok());
        for bad in ["a/b.scope", "..", "a b.scope", ".scope", "a\n.scope"] {
            assert!(check_unit_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sub_cgroups() {
        let base = Path::new("/sys/fs/cgroup/c");
        assert_eq!(sub(base, "a/b").unwrap(), base.join("a/b"));
        assert_eq!(sub(base, "/").unwrap(), base);
        assert_eq!(sub(base, "./a/.").unwrap(), base.join("a"));
        for bad in ["..", "../c", "a/..", "a/../b", "a/../..", "/.."] {
            let text = sub(base, bad).unwrap_err().chain().to_string();
            assert!(
                text.starts_with(&format!("bad sub cgroup path: {bad}: ")),
                "{text}"
            );
        }
    }
}
