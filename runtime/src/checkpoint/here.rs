//! What `restore` has to know of this machine: cgroups, mounts and namespaces, as criu will see them.

use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// Where criu is in each hierarchy: that is where the dumped root's cgroup is from now on.
pub(super) fn cgroup_roots(criu: i32) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/{criu}/cgroup");
    let text = std::fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
    Ok(parse_cgroups(&text))
}

/// Lines `NUMBER:CONTROLLER[,..]:PATH`; cgroup2 has no controllers.
fn parse_cgroups(text: &str) -> Vec<(String, String)> {
    let mut roots = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
            let each = controllers
                .split(',')
                .map(|c| (c.to_owned(), path.to_owned()));
            roots.extend(each);
        }
    }
    roots
}

/// criu climbs from a source to the mount that holds it, and stumbles over `.`, `..` and links.
pub(super) fn real(source: &Path) -> PathBuf {
    source.canonicalize().unwrap_or_else(|_| source.to_owned())
}

pub(super) fn time_namespace(process: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/time")).ok()
}

/// As criu sees it, whose working directory is another.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .context(|| format!("cannot resolve {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_gets_its_root() {
        let text = "5:cpu,cpuacct:/a/b\n2:name=systemd:/a:c\n0::/x\n";
        let expected = [
            ("cpu", "/a/b"),
            ("cpuacct", "/a/b"),
            ("name=systemd", "/a:c"),
            ("", "/x"),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(c, p)| ((*c).to_owned(), (*p).to_owned()))
            .collect();
        assert_eq!(parse_cgroups(text), expected);
    }
}
