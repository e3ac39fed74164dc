//! `--build-context`: what names mean. Looked up when a stage needs them; what nobody needs is not
//! fetched.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rcrun_builder::attest::address;
use rcrun_builder::context::git;
use rcrun_builder::context::source::{self, Location, Opened, Origin};
use rcrun_builder::context::tree::Tree;
use rcrun_builder::graph::{Files, Named};
use rcrun_runtime::error::{Context, Error, Result};

use super::bases::LAYOUT;
use super::job::Job;

/// All of them.
pub(super) struct Contexts {
    named: BTreeMap<String, Named>,
    /// Those that are files.
    places: BTreeMap<String, Arc<Place>>,
    /// What each is, as it may be published.
    told: BTreeMap<String, String>,
    /// By names of images in layouts, what the build calls them.
    layouts: BTreeMap<String, String>,
}

/// Where files of a name are.
struct Place {
    /// The flag, for errors.
    flag: String,
    name: String,
    location: Location,
    git: git::Settings,
    scratch: PathBuf,
    opened: Mutex<Option<Opened>>,
}

impl Contexts {
    /// Understands all flags, and fetches nothing.
    pub(super) fn new(job: &Job<'_>) -> Result<Self> {
        let (mut named, mut places) = (BTreeMap::new(), BTreeMap::new());
        let (mut told, mut layouts) = (BTreeMap::new(), BTreeMap::new());
        for (index, (name, value)) in job.asked.contexts.iter().enumerate() {
            let flag = format!("--build-context {name}={}", address::redacted(value));
            let key = key(name).context(|| flag.clone())?;
            let known = match value.split_once("://") {
                Some(("docker-image", image)) => Named::Image(image.to_owned()),
                Some(("oci-layout", layout)) => {
                    let image = format!("{LAYOUT}{layout}");
                    let own = name.split("::").next().unwrap_or(name);
                    layouts.insert(image.clone(), own.to_owned());
                    told.insert(name.clone(), format!("{LAYOUT}{own}"));
                    Named::Image(image)
                }
                _ => match value.strip_prefix("target:") {
                    Some(stage) => Named::Stage(stage.to_owned()),
                    None => {
                        let location = source::locate(value).context(|| flag.clone())?;
                        told.insert(name.clone(), shown(name, &location));
                        let place = Arc::new(Place {
                            location,
                            flag,
                            name: name.clone(),
                            git: job.asked.settings.git.clone(),
                            scratch: job.scratch.join(format!("context-{index}")),
                            opened: Mutex::new(None),
                        });
                        places.insert(key.clone(), Arc::clone(&place));
                        Named::Tree(Files::new(move || place.files()))
                    }
                },
            };
            told.entry(name.clone()).or_insert_with(|| value.clone());
            named.insert(key, known);
        }
        Ok(Self {
            named,
            places,
            told,
            layouts,
        })
    }

    /// For the graph.
    pub(super) fn named(&self) -> BTreeMap<String, Named> {
        self.named.clone()
    }

    /// What each is, as docker's client says it: nothing of passwords, and of this machine only the name.
    pub(super) fn told(&self) -> &BTreeMap<String, String> {
        &self.told
    }

    /// By names of images in layouts, what the build calls them.
    pub(super) fn layouts(&self) -> &BTreeMap<String, String> {
        &self.layouts
    }

    /// Those that were needed and are files: their names, and where they are from.
    pub(super) fn used(&self) -> Vec<(String, Origin)> {
        let opened = |place: &Arc<Place>| {
            let opened = place.opened.lock().unwrap_or_else(PoisonError::into_inner);
            opened.as_ref().map(|opened| opened.origin.clone())
        };
        let used = self.places.values();
        used.filter_map(|place| Some((place.name.clone(), opened(place)?)))
            .collect()
    }

    /// The time of one, if it has one.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>> {
        match self.places.get(name) {
            Some(place) => place.open()?.dated.time(),
            None => Ok(None),
        }
    }
}

/// A context that is files, to be published.
fn shown(name: &str, location: &Location) -> String {
    match location {
        Location::Git(address) => address::repository(
            &address.shown(),
            address.reference.as_deref(),
            address.subdir.as_deref(),
        ),
        Location::Http(url) => address::public(url),
        Location::Directory(_) | Location::Input => format!("local:{name}"),
    }
}

/// Names count in any case; `NAME::PLATFORM` is for one platform.
fn key(name: &str) -> Result<String> {
    let name = name.to_lowercase();
    let Some((name, platform)) = name.split_once("::") else {
        return Ok(name);
    };
    if name.is_empty() {
        return Err(Error::invalid("there is no name before \"::\""));
    }
    let platform: rcrun_image::platform::Platform = platform.parse()?;
    Ok(format!("{name}::{platform}"))
}

impl Place {
    /// The files, and what they are called.
    fn files(&self) -> Result<(Tree, String)> {
        let opened = self.open()?;
        let local = || format!("local://{}", self.name);
        Ok((opened.tree, opened.origin.uri().unwrap_or_else(local)))
    }

    /// Fetches the files, once.
    fn open(&self) -> Result<Opened> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        let failed = || self.flag.clone();
        std::fs::create_dir(&self.scratch)
            .context(|| format!("cannot make {}", self.scratch.display()))?;
        let found = source::open_named(&self.name, &self.location, &self.git, &self.scratch);
        let found = found.context(failed)?;
        *opened = Some(found.clone());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("Base", "base"),
            ("base::linux/AMD64", "base::linux/amd64"),
            ("base::linux/arm64/v8", "base::linux/arm64"),
        ] {
            assert_eq!(key(name).unwrap(), expected);
        }
        for name in ["::linux/amd64", "base::", "base::a/b/c/d/e"] {
            key(name).unwrap_err();
        }
    }
}
