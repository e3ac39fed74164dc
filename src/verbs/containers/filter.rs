//! `--filter` of the verbs that select containers: values of one key are alternatives, of several
//! keys all have to hold; each label has to.

use std::collections::BTreeMap;

use rcrun_runtime::error::Result;
use serde_json::Value;

use super::list::Found;
use super::port;
use crate::containers::{Containers, Record, Status};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verbs) struct Filter {
    key: Key,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Name,
    Id,
    Status,
    Label,
    Ancestor,
    Exited,
    Before,
    Since,
    Volume,
    Network,
    Health,
    Publish,
    Expose,
    IsTask,
}

const KEYS: [(&str, Key); 14] = [
    ("name", Key::Name),
    ("id", Key::Id),
    ("status", Key::Status),
    ("label", Key::Label),
    ("ancestor", Key::Ancestor),
    ("exited", Key::Exited),
    ("before", Key::Before),
    ("since", Key::Since),
    ("volume", Key::Volume),
    ("network", Key::Network),
    ("health", Key::Health),
    ("publish", Key::Publish),
    ("expose", Key::Expose),
    ("is-task", Key::IsTask),
];

/// Docker's words of how well a container is. Nothing here looks: it is always none.
const HEALTHS: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// Docker's words; the last ones are never true here.
const STATUSES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "exited",
    "restarting",
    "removing",
    "dead",
];

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("it is not KEY=VALUE")?;
        let known = KEYS.iter().find(|(name, _)| *name == key);
        let names = || KEYS.map(|(name, _)| name).join(", ");
        let (_, key) = *known.ok_or_else(|| format!("there is {}", names()))?;
        match key {
            Key::Status if !STATUSES.contains(&value) => {
                return Err(format!("status is one of {}", STATUSES.join(", ")));
            }
            Key::Health if !HEALTHS.contains(&value) => {
                return Err(format!("health is one of {}", HEALTHS.join(", ")));
            }
            Key::IsTask if crate::arguments::switch(value).is_none() => {
                return Err("is-task is true or false".to_owned());
            }
            Key::Exited if value.parse::<i32>().is_err() => {
                return Err("exited is an exit code".to_owned());
            }
            _ => {}
        }
        Ok(Self {
            key,
            value: value.to_owned(),
        })
    }
}

/// When containers that filters name were made.
pub(super) type Moments = BTreeMap<String, String>;

impl Filter {
    /// Whether containers that do not run can be meant.
    pub(super) fn is_about_status(&self) -> bool {
        matches!(self.key, Key::Status | Key::Exited)
    }

    /// Looks up the containers that `before` and `since` name.
    pub(super) fn moments(filters: &[Self], containers: &Containers) -> Result<Moments> {
        let named = filters
            .iter()
            .filter(|filter| matches!(filter.key, Key::Before | Key::Since));
        named
            .map(|filter| {
                let record = containers.get(&filter.value)?.complete()?;
                Ok((filter.value.clone(), record.created))
            })
            .collect()
    }

    /// Whether the container is selected.
    pub(super) fn all_hold(filters: &[Self], moments: &Moments, one: &Found) -> bool {
        let holds = |filter: &Self| filter.holds(moments, one);
        KEYS.iter().all(|(_, key)| {
            let mut same = filters
                .iter()
                .filter(|filter| filter.key == *key)
                .peekable();
            match key {
                Key::Label => same.all(holds),
                _ => same.peek().is_none() || same.any(holds),
            }
        })
    }

    fn holds(&self, moments: &Moments, one: &Found) -> bool {
        let (record, status) = (&one.record, &one.status);
        let value = self.value.as_str();
        let made = || moments.get(value).map(String::as_str);
        match self.key {
            Key::Name => matches(value, &record.name),
            Key::Id => record.id.starts_with(value),
            Key::Status => status.as_str() == value,
            Key::Label => match value.split_once('=') {
                Some((name, value)) => record.labels.get(name).is_some_and(|found| found == value),
                None => record.labels.contains_key(value),
            },
            Key::Ancestor => is_ancestor(value, record),
            Key::Exited => {
                matches!(status, Status::Exited(Some(exit)) if value.parse() == Ok(exit.code))
            }
            Key::Before => made().is_some_and(|made| record.created.as_str() < made),
            Key::Since => made().is_some_and(|made| record.created.as_str() > made),
            Key::Volume => uses(value, one),
            Key::Network => network(one).as_deref() == Some(value),
            Key::Health => value == "none",
            Key::Publish => one
                .ports()
                .iter()
                .any(|port| port::is(value, port.host, port.protocol)),
            Key::Expose => {
                let published = one.record.network.iter().flat_map(|network| &network.ports);
                let mut found = published.map(|port| (port.container, port.protocol));
                found.any(|(port, protocol)| port::is(value, port, protocol))
            }
            Key::IsTask => crate::arguments::switch(value) == Some(false),
        }
    }
}

/// Part of a name; `^` and `$` stand for its beginning and end.
fn matches(pattern: &str, name: &str) -> bool {
    let (begins, pattern) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    // Docker's names begin with one.
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    let (ends, pattern) = match pattern.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    match (begins, ends) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

/// A volume by its name, or anything by where it is mounted.
fn uses(value: &str, one: &Found) -> bool {
    let mut volumes = one.record.volumes.iter();
    volumes.any(|volume| volume.name == value || volume.destination == value)
        || value.starts_with('/')
            && one.container.mounts().is_ok_and(|mounts| {
                let at = |key: &str, mount: &Value| mount[key].as_str() == Some(value);
                let bound = |mount: &Value| mount["type"] == "bind";
                mounts
                    .iter()
                    .any(|mount| bound(mount) && (at("destination", mount) || at("source", mount)))
            })
}

/// `bridge`, `none` or `host`, as it was asked for; of another container's there is no word.
pub(super) fn network(one: &Found) -> Option<String> {
    if one.record.network.is_some() {
        return Some("bridge".to_owned());
    }
    let config = one.container.config().ok()?;
    let all = config["linux"]["namespaces"].as_array()?;
    match all.iter().find(|kind| kind["type"] == "network") {
        None => Some("host".to_owned()),
        Some(kind) if kind["path"].is_null() => Some("none".to_owned()),
        Some(_) => None,
    }
}

/// The image as it was named, in full, or by its identifiers.
fn is_ancestor(image: &str, record: &Record) -> bool {
    let facts = &record.image;
    let repository = |name: &str| match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before.to_owned(),
        _ => name.to_owned(),
    };
    let is_id = image.len() >= 4 && image.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digests = [&facts.config, &facts.manifest];
    facts.name == image
        || facts.reference == image
        || repository(&facts.name) == image
        || digests.iter().any(|digest| {
            let hex = digest.split_once(':').map_or("", |(_, hex)| hex);
            digest.as_str() == image || (is_id && hex.starts_with(image))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (pattern, name, expected) in [
            ("web", "my-web-1", true),
            ("^web", "my-web-1", false),
            ("^my", "my-web-1", true),
            ("^/my", "my-web-1", true),
            ("1$", "my-web-1", true),
            ("^my-web-1$", "my-web-1", true),
            ("^web$", "web1", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in [
            "name",
            "nmae=x",
            "status=up",
            "exited=x",
            "",
            "health=well",
            "is-task=2",
        ] {
            text.parse::<Filter>().unwrap_err();
        }
        for text in [
            "name=x",
            "status=dead",
            "exited=137",
            "label=a=b",
            "volume=/x",
            "network=none",
            "health=none",
            "is-task=false",
        ] {
            text.parse::<Filter>().unwrap();
        }
    }
}
