//! Places in a configuration, made where they are missing.

use std::collections::BTreeMap;

use rcrun_error::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::collect::removal;

/// The object at a place; missing ones are made on the way, and so is what stands as null.
pub(super) fn object<'a>(spec: &'a mut Value, path: &[&str]) -> Result<&'a mut Map<String, Value>> {
    let mut at = spec;
    for (depth, name) in path.iter().enumerate() {
        let inside = at.as_object_mut();
        let inside = inside.ok_or_else(|| no(&path[..depth], "an object"))?;
        at = inside.entry(*name).or_insert(Value::Null);
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
    }
    at.as_object_mut().ok_or_else(|| no(path, "an object"))
}

/// The list at a place.
pub(super) fn list<'a>(spec: &'a mut Value, path: &[&str]) -> Result<&'a mut Vec<Value>> {
    let (name, above) = path.split_last().ok_or_else(|| no(path, "a list"))?;
    let at = object(spec, above)?.entry(*name).or_insert(Value::Null);
    if at.is_null() {
        *at = Value::Array(Vec::new());
    }
    at.as_array_mut().ok_or_else(|| no(path, "a list"))
}

fn no(path: &[&str], what: &str) -> Error {
    Error::invalid(format!(
        "{} of the configuration is not {what}",
        path.join(".")
    ))
}

/// Puts a value in the place of the first of those that match, or last, and removes all others; `None` removes all.
pub(super) fn replace(list: &mut Vec<Value>, same: impl Fn(&Value) -> bool, value: Option<Value>) {
    let place = list.iter().position(&same);
    match (place, value) {
        (None, None) => {}
        (None, Some(value)) => list.push(value),
        (Some(place), value) => {
            let mut index = 0;
            let keep = value.is_some().then_some(place);
            list.retain(|entry| {
                let kept = keep == Some(index) || !same(entry);
                index += 1;
                kept
            });
            if let Some(value) = value {
                list[place] = value;
            }
        }
    }
}

/// Writes the entries of a map, and takes away those that are marked.
pub(super) fn map<V: Serialize>(
    spec: &mut Value,
    path: &[&str],
    wanted: &BTreeMap<String, V>,
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let map = object(spec, path)?;
    // What is removed and set is set.
    for key in wanted.keys().filter_map(|key| removal(key)) {
        map.remove(key);
    }
    for (key, value) in wanted {
        if removal(key).is_none() {
            map.insert(key.clone(), json!(value));
        }
    }
    Ok(())
}

/// Writes what is there.
pub(super) fn set<V: Serialize>(map: &mut Map<String, Value>, name: &str, value: Option<V>) {
    if let Some(value) = value {
        map.insert(name.to_owned(), json!(value));
    }
}
