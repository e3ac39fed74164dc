//! What is known of the git repository that a local context lies in, as docker's client tells it: a hint in
//! provenance (`vcs`), and labels if `BUILDX_GIT_LABELS` asks for them. Nobody has checked that files are those of
//! the commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rcrun_builder::attest::address::redacted;
use rcrun_builder::context::work_tree::{self, WorkTree};
use rcrun_runtime::error::{Error, Result};

/// Labels that name a source (image-spec's annotations), and docker's for the Dockerfile.
const REVISION: &str = "org.opencontainers.image.revision";
const SOURCE: &str = "org.opencontainers.image.source";
const ENTRYPOINT: &str = "com.docker.image.source.entrypoint";

/// What the environment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wishes {
    /// In provenance.
    hints: bool,
    /// Of the image.
    labels: bool,
}

impl Wishes {
    /// By docker's variables. `BUILDX_GIT_INFO=0` is no hints, `BUILDX_GIT_LABELS=1` (or `full`) labels.
    pub(super) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let is = |name: &str| variable(name).as_deref().and_then(boolean);
        if is("BUILDX_GIT_CHECK_DIRTY") == Some(true) {
            let text = "BUILDX_GIT_CHECK_DIRTY: files are not compared with those of the commit";
            return Err(Error::unsupported(text).with_hint("unset it"));
        }
        let labels = "BUILDX_GIT_LABELS";
        Ok(Self {
            hints: is("BUILDX_GIT_INFO").unwrap_or(true),
            labels: variable(labels).as_deref() == Some("full") || is(labels) == Some(true),
        })
    }

    /// Hints only if somebody is told them.
    pub(super) fn heard(self, heard: bool) -> Self {
        let hints = self.hints && heard;
        Self { hints, ..self }
    }
}

/// Go's words for yes and no.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// What is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// `source`, `revision`, `localdir:NAME`.
    pub(super) hints: BTreeMap<String, String>,
    /// For the image.
    pub(super) labels: BTreeMap<String, String>,
}

/// Of a build of local directories, the first being the context.
pub(super) fn told(
    wishes: Wishes,
    context: &str,
    file: Option<&str>,
    named: &BTreeMap<String, String>,
) -> Told {
    let mut told = Told::default();
    let directory = Path::new(context);
    if !(wishes.hints || wishes.labels) || context == "-" || !directory.is_dir() {
        return told;
    }
    let Some(tree) = work_tree::find(directory) else {
        return told;
    };
    let file = match file.filter(|file| *file != "-" && !file.contains("://")) {
        Some(file) => PathBuf::from(file),
        None => directory.join("Dockerfile"),
    };
    if wishes.hints {
        let parent = match file.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => directory,
        };
        let mut places = vec![("context", directory), ("dockerfile", parent)];
        let named = named.iter().map(|(name, value)| (name.as_str(), value));
        places.extend(named.map(|(name, value)| (name, Path::new(value.as_str()))));
        told.hints = hints(&tree, &places);
    }
    if wishes.labels {
        told.labels = labels(&tree, &file);
    }
    told
}

fn hints(tree: &WorkTree, places: &[(&str, &Path)]) -> BTreeMap<String, String> {
    let mut hints: BTreeMap<String, String> = facts(tree)
        .map(|(name, _, value)| (name.to_owned(), value))
        .collect();
    for (name, path) in places {
        if let Some(path) = work_tree::within(&tree.root, path).filter(|_| path.is_dir()) {
            hints.insert(format!("localdir:{name}"), path);
        }
    }
    hints
}

fn labels(tree: &WorkTree, file: &Path) -> BTreeMap<String, String> {
    let file = work_tree::within(&tree.root, file).map(|path| (ENTRYPOINT.to_owned(), path));
    let facts = facts(tree).map(|(_, label, value)| (label.to_owned(), value));
    facts.chain(file).collect()
}

/// What is known, by the names of hints and of labels.
fn facts(tree: &WorkTree) -> impl Iterator<Item = (&'static str, &'static str, String)> {
    let commit = tree.commit.clone();
    let remote = tree.remote.as_deref().map(redacted);
    let all = [("revision", REVISION, commit), ("source", SOURCE, remote)];
    all.into_iter()
        .filter_map(|(name, label, value)| Some((name, label, value?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes() {
        for (variables, hints, labels) in [
            (&[][..], true, false),
            (&[("BUILDX_GIT_INFO", "0")], false, false),
            (&[("BUILDX_GIT_INFO", "x")], true, false),
            (&[("BUILDX_GIT_LABELS", "full")], true, true),
            (&[("BUILDX_GIT_LABELS", "1")], true, true),
            (&[("BUILDX_GIT_LABELS", "false")], true, false),
            (&[("BUILDX_GIT_CHECK_DIRTY", "0")], true, false),
        ] {
            let value = |name: &str| {
                let found = variables.iter().find(|(found, _)| *found == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let read = Wishes::read(&value).unwrap();
            assert_eq!(read, Wishes { hints, labels });
            let unheard = Wishes {
                hints: false,
                labels,
            };
            assert_eq!((read.heard(true), read.heard(false)), (read, unheard));
        }
        Wishes::read(&|_| Some("true".to_owned())).unwrap_err();
    }

    #[test]
    fn of_a_work_tree() {
        let commit = "0123456789012345678901234567890123456789";
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let config = "[remote \"origin\"]\nurl = https://ci:canary@a.b/c\n";
        for (name, text) in [
            (".git/HEAD", commit),
            (".git/config", config),
            ("app/docker/my.Dockerfile", ""),
            ("app/Dockerfile", ""),
        ] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let both = Wishes {
            hints: true,
            labels: true,
        };
        let text = |path: &str| root.join(path).display().to_string();
        let named = BTreeMap::from([
            ("x".to_owned(), text("app/docker")),
            ("image".to_owned(), "docker-image://a".to_owned()),
        ]);
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect()
        };
        let file = text("app/docker/my.Dockerfile");
        let found = told(both, &text("app"), Some(&file), &named);
        let source = "https://xxxxx:xxxxx@a.b/c";
        assert_eq!(
            found.hints,
            map(&[
                ("source", source),
                ("revision", commit),
                ("localdir:context", "app"),
                ("localdir:dockerfile", "app/docker"),
                ("localdir:x", "app/docker"),
            ])
        );
        assert_eq!(
            found.labels,
            map(&[
                (SOURCE, source),
                (REVISION, commit),
                (ENTRYPOINT, "app/docker/my.Dockerfile"),
            ])
        );
        let found = told(both, &text("app"), None, &BTreeMap::new());
        assert_eq!(found.labels[ENTRYPOINT], "app/Dockerfile");
        assert_eq!(found.hints["localdir:dockerfile"], "app");
        for (wishes, context) in [
            (
                Wishes {
                    hints: false,
                    labels: false,
                },
                text("app"),
            ),
            (both, "-".to_owned()),
            (both, "https://a.b/c.git".to_owned()),
            (both, "/".to_owned()),
        ] {
            let found = told(wishes, &context, None, &BTreeMap::new());
            assert_eq!(found, Told::default(), "{context}");
        }
    }
}
