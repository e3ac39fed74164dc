//! `--build-context` in the graph: which name means what instead of what it would.

use rcrun_image::platform::Platform;
use rcrun_image::reference::Reference;

use super::Named;
use super::stage::{Part, Planner};

impl Planner<'_> {
    /// The stage that `--build-context` gives under the name of what a part begins with.
    pub(super) fn named_stage(&self, index: usize) -> Option<usize> {
        let part = &self.parts[index];
        let named = part.instead.as_ref().or_else(|| self.named_context(part));
        match named {
            Some(Named::Stage(name)) => self.by_name.get(&name.to_lowercase()).copied(),
            _ => None,
        }
    }

    /// A context that was given under an image's name, however that is written.
    pub(super) fn named_context(&self, part: &Part) -> Option<&Named> {
        let platform = part.platform.as_ref().unwrap_or(&self.target);
        if let Some(found) = self.context_of(&part.base, platform) {
            return Some(found);
        }
        let wanted: Reference = part.base.parse().ok()?;
        let names = self.wanted.contexts.keys();
        let mut names = names.map(|key| key.split("::").next().unwrap_or(key));
        names.find_map(|name| {
            let same = name.parse::<Reference>().is_ok_and(|name| name == wanted);
            same.then(|| self.context_of(name, platform))?
        })
    }

    /// A context of this name, for this platform or for all.
    pub(super) fn context_of(&self, name: &str, platform: &Platform) -> Option<&Named> {
        let contexts = &self.wanted.contexts;
        let special = contexts.get(&format!("{name}::{platform}"));
        special.or_else(|| contexts.get(name))
    }
}
