//! `--build-context`: what names mean. Looked up when a stage needs them; what nobody needs is not
//! fetched.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rcrun_builder::context::dated::Dated;
use rcrun_builder::context::git;
use rcrun_builder::context::source::{self, Location};
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
}

/// Where files of a name are.
struct Place {
    /// The flag, for errors.
    flag: String,
    name: String,
    location: Location,
    git: git::Settings,
    scratch: PathBuf,
    opened: Mutex<Option<(Tree, Dated)>>,
}

impl Contexts {
    /// Understands all flags, and fetches nothing.
    pub(super) fn new(job: &Job<'_>) -> Result<Self> {
        let (mut named, mut places) = (BTreeMap::new(), BTreeMap::new());
        for (index, (name, value)) in job.asked.contexts.iter().enumerate() {
            let flag = format!("--build-context {name}={value}");
            let key = key(name).context(|| flag.clone())?;
            let known = match value.split_once("://") {
                Some(("docker-image", image)) => Named::Image(image.to_owned()),
                Some(("oci-layout", layout)) => Named::Image(format!("{LAYOUT}{layout}")),
                _ => match value.strip_prefix("target:") {
                    Some(stage) => Named::Stage(stage.to_owned()),
                    None => {
                        let place = Arc::new(Place {
                            location: source::locate(value).context(|| flag.clone())?,
                            flag,
                            name: name.clone(),
                            git: job.asked.settings.git.clone(),
                            scratch: job.scratch.join(format!("context-{index}")),
                            opened: Mutex::new(None),
                        });
                        places.insert(key.clone(), Arc::clone(&place));
                        Named::Tree(Files::new(move || Ok(place.open()?.0)))
                    }
                },
            };
            named.insert(key, known);
        }
        Ok(Self { named, places })
    }

    /// For the graph.
    pub(super) fn named(&self) -> BTreeMap<String, Named> {
        self.named.clone()
    }

    /// The time of one, if it has one.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>> {
        match self.places.get(name) {
            Some(place) => place.open()?.1.time(),
            None => Ok(None),
        }
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
    /// Fetches the files, once.
    fn open(&self) -> Result<(Tree, Dated)> {
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
