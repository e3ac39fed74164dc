//! The variables of a stage: what instructions see, and what of it the image keeps.
//!
//! `ENV` sets both, `ARG` only the first. Stages built on others share what they inherit, so that ten thousand of them
//! that each add a variable take no more memory than the file that says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::word::Lookup;

/// Lookups walk no further than this; then what is shared is copied into one map.
const MAX_LAYERS: usize = 64;

#[derive(Debug, Clone, Default)]
struct Entry {
    value: Option<Arc<str>>,
    /// In the image's configuration, with its place there.
    kept: Option<(usize, Arc<str>)>,
    /// Declared by `ARG`, first at this place, last with this value.
    declared: Option<(usize, Option<Arc<str>>)>,
}

#[derive(Debug, Clone, Default)]
struct Layer {
    below: Option<Arc<Layer>>,
    depth: usize,
    entries: HashMap<Arc<str>, Entry>,
}

/// Variables and their values.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    top: Arc<Layer>,
    next: usize,
    count: usize,
    /// Bytes of all names and values that were ever put here.
    written: usize,
    /// What the image keeps and `ARG` hides.
    hidden: Vec<Arc<str>>,
}

impl Lookup for Environment {
    fn get(&self, name: &str) -> Option<&str> {
        self.entry(name)?.value.as_deref()
    }
}

impl Environment {
    fn entry(&self, name: &str) -> Option<&Entry> {
        let mut layer = &self.top;
        loop {
            match (layer.entries.get(name), &layer.below) {
                (None, Some(below)) => layer = below,
                (found, _) => return found,
            }
        }
    }

    fn put(&mut self, name: &str, entry: Entry) {
        if Arc::get_mut(&mut self.top).is_none() {
            self.top = Arc::new(if self.top.depth < MAX_LAYERS {
                Layer {
                    depth: self.top.depth + 1,
                    below: Some(self.top.clone()),
                    entries: HashMap::new(),
                }
            } else {
                let entries = self
                    .all()
                    .into_iter()
                    .map(|(name, entry)| (name, entry.clone()))
                    .collect();
                Layer {
                    entries,
                    ..Layer::default()
                }
            });
        }
        if let Some(top) = Arc::get_mut(&mut self.top) {
            top.entries.insert(name.into(), entry);
        }
    }

    /// All entries, by name.
    fn all(&self) -> BTreeMap<Arc<str>, &Entry> {
        let mut found = BTreeMap::new();
        let mut layer = Some(&self.top);
        while let Some(here) = layer {
            for (name, entry) in &here.entries {
                found.entry(name.clone()).or_insert(entry);
            }
            layer = here.below.as_ref();
        }
        found
    }

    fn place(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    /// The entry to be changed.
    fn found(&mut self, name: &str) -> Entry {
        let found = self.entry(name).cloned();
        self.count += usize::from(found.is_none());
        found.unwrap_or_default()
    }

    /// Sets a variable that the image does not keep.
    pub fn set(&mut self, name: &str, value: &str) {
        let mut entry = self.found(name);
        self.written += name.len() + value.len();
        entry.value = Some(value.into());
        if entry.kept.is_some() {
            self.hidden.push(name.into());
        }
        self.put(name, entry);
    }

    /// As `ENV` does: the image keeps it, where a variable of this name stands already or behind all others.
    pub fn keep(&mut self, name: &str, value: &str) {
        let mut entry = self.found(name);
        let place = entry
            .kept
            .as_ref()
            .map_or_else(|| self.place(), |kept| kept.0);
        self.written += name.len() + value.len();
        let value: Arc<str> = value.into();
        entry.value = Some(value.clone());
        entry.kept = Some((place, value));
        self.put(name, entry);
    }

    /// Notes that `ARG` declares a name.
    pub fn declare(&mut self, name: &str, value: Option<&str>) {
        let mut entry = self.found(name);
        let place = entry
            .declared
            .as_ref()
            .map_or_else(|| self.place(), |declared| declared.0);
        self.written += name.len() + value.map_or(0, str::len);
        entry.declared = Some((place, value.map(Arc::from)));
        self.put(name, entry);
    }

    /// Whether `ARG` declares a name, with a value or not.
    pub fn is_declared(&self, name: &str) -> bool {
        self.entry(name)
            .is_some_and(|entry| entry.declared.is_some())
    }

    /// What `ARG` declares, in order, with the values that it has now.
    pub fn declared(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let mut found: Vec<_> = self.all().into_iter().collect();
        found.retain(|(_, entry)| entry.declared.is_some());
        found.sort_by_key(|(_, entry)| entry.declared.as_ref().map(|declared| declared.0));
        let value = |entry: &Entry| {
            let declared = || entry.declared.clone().and_then(|declared| declared.1);
            entry.value.clone().or_else(declared).unwrap_or_default()
        };
        found
            .into_iter()
            .map(|(name, entry)| (name, value(entry)))
            .collect()
    }

    /// What the image keeps counts again where `ARG` has hidden it: so a stage begins that is built on another.
    pub(super) fn restore_kept(&mut self) {
        for name in std::mem::take(&mut self.hidden) {
            let mut entry = self.found(&name);
            if let Some((_, kept)) = &entry.kept {
                entry.value = Some(kept.clone());
            }
            self.put(&name, entry);
        }
    }

    /// Bytes of all names and values that it ever had.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// How many names there are, set or declared.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All variables with their values, by name: the environment of `RUN`.
    pub fn pairs(&self) -> impl Iterator<Item = (Arc<str>, Arc<str>)> {
        self.all()
            .into_iter()
            .filter_map(|(name, entry)| Some((name, entry.value.clone()?)))
    }

    /// What the image keeps, in the order of its configuration.
    pub fn kept(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let mut found: Vec<_> = self
            .all()
            .into_iter()
            .filter_map(|(name, entry)| Some((entry.kept.clone()?, name)))
            .collect();
        found.sort_by_key(|((place, _), _)| *place);
        found
            .into_iter()
            .map(|((_, value), name)| (name, value))
            .collect()
    }

    /// The names that are set.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.pairs().map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(environment: &Environment) -> String {
        let pairs = environment.kept();
        pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn images_keep_what_env_sets() {
        let mut first = Environment::default();
        first.keep("b", "1");
        first.keep("a", "2");
        first.set("arg", "3");
        first.set("b", "hidden");
        assert_eq!(
            (first.get("b"), first.get("arg"), first.get("none")),
            (Some("hidden"), Some("3"), None)
        );
        assert_eq!(kept(&first), "b=1 a=2");
        let mut second = first.clone();
        second.restore_kept();
        second.keep("c", "4");
        second.keep("b", "5");
        assert_eq!((second.get("b"), second.get("arg")), (Some("5"), Some("3")));
        assert_eq!(kept(&second), "b=5 a=2 c=4");
        assert_eq!((first.get("b"), first.get("c")), (Some("hidden"), None));
        assert_eq!(first.names().len(), 3);
    }

    #[test]
    fn many_layers_are_one_map() {
        let mut all = vec![Environment::default()];
        for i in 0..1000 {
            let mut next = all[i].clone();
            next.keep(&format!("v{i}"), "x");
            all.push(next);
        }
        assert_eq!(all[1000].names().len(), 1000);
        assert_eq!(all[500].get("v499"), Some("x"));
        assert_eq!(all[500].get("v500"), None);
        assert!(all.iter().all(|one| one.top.depth <= MAX_LAYERS));
    }
}
