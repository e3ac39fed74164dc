//! From bytes to types: one read, one parse; a second, patient look only when something is wrong.
//!
//! The patient look works on a [`Value`], as Go's decoder would see it (of duplicate keys the last
//! wins). It gives the properties their exact names (`super::document`; the fast look does so on
//! its way, `super::names`), repairs what `oci-spec` reads differently from runtime-spec
//! (`super::repair`), and then collects every problem with its JSON path instead of stopping at
//! the first.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{LinuxResources, Process, Spec};
use rustix::fs::{FileType, Mode, OFlags};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::document::{self, Step};
use super::{names, repair};
use crate::error::{Context, Error, ErrorKind, Result};

/// Name of the configuration in a bundle.
pub const CONFIG: &str = "config.json";
/// Largest configuration that is read; real ones stay below a megabyte.
pub const SIZE_LIMIT: usize = 32 << 20;
/// Problems collected before giving up.
const PROBLEM_LIMIT: usize = 64;

/// A configuration that could be read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its contents.
    pub spec: Spec,
    /// The bytes of the file.
    pub raw: Vec<u8>,
    /// What was left out or changed, for the log.
    pub warnings: Vec<String>,
}

/// Reads the configuration of the bundle: its `config.json`, or the file that the caller named.
pub fn load(bundle: &Path, named: Option<&Path>) -> Result<Loaded> {
    if let Some(path) = named {
        return spec_owned(read_path(path)?).context(|| path.display().to_string());
    }
    let directory = rustix::fs::open(
        bundle,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| format!("cannot open bundle {}", bundle.display()))?;
    let file = rustix::fs::openat(&directory, CONFIG, READ_FLAGS, Mode::empty());
    let file = match file {
        Err(rustix::io::Errno::NOENT) => {
            let message = format!("JSON specification file {CONFIG} not found");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        other => other.context(|| format!("cannot open {}", bundle.join(CONFIG).display()))?,
    };
    let raw = read(file).context(|| format!("cannot read {}", bundle.join(CONFIG).display()))?;
    spec_owned(raw).context(|| bundle.join(CONFIG).display().to_string())
}

/// Parses a configuration.
pub fn spec(raw: &[u8]) -> Result<Loaded> {
    spec_owned(raw.to_vec())
}

/// Reads the process description of `exec --process`.
pub fn process(path: &Path) -> Result<Process> {
    let raw = read_path(path)?;
    parse(&raw, repair::process)
        .map(|(process, _)| process)
        .context(|| path.display().to_string())
}

/// Reads the resources of `update --resources`.
pub fn resources_file(path: &Path) -> Result<LinuxResources> {
    resources(&read_path(path)?).context(|| path.display().to_string())
}

/// Parses the resources of `update --resources`.
pub fn resources(raw: &[u8]) -> Result<LinuxResources> {
    let (mut resources, _) = parse(raw, repair::resources)?;
    if has_doubtful_pids(&resources) && !names_pids_limit(raw, &[]) {
        LinuxResources::set_pids(&mut resources, None);
    }
    Ok(resources)
}

// NONBLOCK: a FIFO in place of the file must not stop us.
const READ_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// A file that the caller of a verb names; a shell's `<(...)` makes that a pipe.
fn read_path(path: &Path) -> Result<Vec<u8>> {
    let text = || format!("open {}", path.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).context(text)?;
    let stat = rustix::fs::fstat(&file).context(text)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return read(file).context(text);
    }
    let mut raw = Vec::new();
    let limit = u64::try_from(SIZE_LIMIT).unwrap_or(u64::MAX);
    std::fs::File::from(file)
        .take(limit)
        .read_to_end(&mut raw)
        .context(text)?;
    Ok(raw)
}

fn read(file: OwnedFd) -> Result<Vec<u8>> {
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid("not a regular file"));
    }
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if size > SIZE_LIMIT {
        return Err(Error::invalid(format!(
            "{size} bytes are more than {SIZE_LIMIT}"
        )));
    }
    let mut raw = Vec::with_capacity(size + 1);
    let limit = u64::try_from(SIZE_LIMIT).unwrap_or(u64::MAX);
    std::fs::File::from(file)
        .take(limit)
        .read_to_end(&mut raw)?;
    Ok(raw)
}

fn spec_owned(raw: Vec<u8>) -> Result<Loaded> {
    if raw.trim_ascii() == b"null" {
        return Err(Error::invalid("config cannot be null"));
    }
    let (mut spec, mut warnings) = parse::<Spec>(&raw, repair::spec)?;
    repair::normalise(&mut spec, &mut warnings);
    drop_unset_pids_limit(&mut spec, &raw);
    if names_vtpms(&raw) {
        let message = "linux.resources.vtpms: virtual TPMs are not supported";
        return Err(Error::unsupported(message));
    }
    Ok(Loaded {
        spec,
        raw,
        warnings,
    })
}

/// Parses at once if possible, and with repairs and a list of all problems otherwise.
fn parse<T: DeserializeOwned>(
    raw: &[u8],
    repair: fn(&mut Value, &mut Vec<String>),
) -> Result<(T, Vec<String>)> {
    if has_zero_escape(raw) {
        refuse_zero_bytes(raw)?;
    }
    if let Ok(value) = names::parse(raw) {
        return Ok((value, Vec::new()));
    }
    let mut value: Value = serde_json::from_slice(raw)
        .map_err(|e| Error::invalid(format!("cannot parse JSON: {e}")))?;
    if !value.is_object() {
        return Err(Error::invalid(
            "invalid configuration: the document is not an object",
        ));
    }
    let mut warnings = Vec::new();
    let told_twice = told_twice::<T>(&mut value)?;
    repair(&mut value, &mut warnings);
    patient(value, told_twice)
        .map(|parsed| (parsed, warnings))
        .map_err(|problems| {
            Error::invalid(format!("invalid configuration: {}", problems.join("; ")))
        })
}

/// Puts names right; returns what several spellings of one name say differently.
fn told_twice<T: DeserializeOwned>(value: &mut Value) -> Result<Vec<String>> {
    let places = document::rename::<T>(value).map_err(|path| {
        let cause = "an object or a list where a single value belongs";
        let problem = word(&show(&path), cause);
        Error::invalid(format!("invalid configuration: {problem}"))
    })?;
    let cause = "named more than once, in upper and lower case, with different values";
    let places = places.iter().map(|path| word(&show(path), cause));
    Ok(places.collect())
}

/// Whether a string may have a zero byte, which no system call can be told.
fn has_zero_escape(raw: &[u8]) -> bool {
    positions(raw, b'\\').any(|at| raw[at..].starts_with(b"\\u0000"))
}

fn positions(raw: &[u8], wanted: u8) -> impl Iterator<Item = usize> {
    raw.iter()
        .enumerate()
        .filter(move |(_, byte)| **byte == wanted)
        .map(|(at, _)| at)
}

fn refuse_zero_bytes(raw: &[u8]) -> Result<()> {
    // What cannot be parsed is reported as such later.
    let value: Value = serde_json::from_slice(raw).unwrap_or_default();
    let mut places = Vec::new();
    find_zero_bytes(&value, &mut Vec::new(), &mut places);
    if places.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid configuration: {}",
        places.join("; ")
    )))
}

fn find_zero_bytes(value: &Value, path: &mut Vec<Step>, places: &mut Vec<String>) {
    let holds = |text: &str| text.contains('\0');
    let mut visit = |step: Step, value: &Value, bad: bool| {
        path.push(step);
        if bad {
            places.push(format!(
                "{}: contains a null byte",
                show(path).escape_default()
            ));
        }
        find_zero_bytes(value, path, places);
        path.pop();
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let bad = holds(key) || value.as_str().is_some_and(holds);
                visit(Step::Key(key.clone()), value, bad);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                visit(Step::Index(index), value, value.as_str().is_some_and(holds));
            }
        }
        _ => {}
    }
}

/// Deserialises, and on a problem notes it, takes the offending node out and tries again.
fn patient<T: DeserializeOwned>(
    mut value: Value,
    mut problems: Vec<String>,
) -> Result<T, Vec<String>> {
    let mut removed = Removed::default();
    // Each round takes something out or fills something in; the bound is for what nobody foresaw.
    for _ in 0..4 * PROBLEM_LIMIT {
        let (steps, cause) = match document::read::<T>(&mut value) {
            Ok(parsed) if problems.is_empty() => return Ok(parsed),
            Ok(_) => return Err(problems),
            Err(problem) => problem,
        };
        let missing = cause
            .strip_prefix("missing field `")
            .and_then(|text| text.split('`').next());
        if let Some(field) = missing {
            // A field that was taken out a moment ago has been reported already.
            if !removed.has_key(&steps, field) {
                problems.push(word(&join(&removed.original(&steps), field), "missing"));
            }
        } else {
            problems.push(word(&show(&removed.original(&steps)), &cause));
        }
        if problems.len() >= PROBLEM_LIMIT {
            return Err(problems);
        }
        if missing.is_some_and(|field| fill::<T>(&mut value, &steps, field)) {
            continue;
        }
        if steps.is_empty() || !removed.take_out(&mut value, &steps) {
            break;
        }
    }
    Err(problems)
}

/// A problem in words; where engines know a text of runc for a property, it goes along.
fn word(path: &str, cause: &str) -> String {
    let known = match path.strip_prefix("linux.memoryPolicy.") {
        Some("mode") => "invalid memory policy mode: ",
        Some(rest) if rest.starts_with("flags") => "invalid memory policy flag: ",
        _ => "",
    };
    format!("{path}: {known}{cause}")
}

/// Puts something of the right type where a field is missing, so that the rest can be looked at.
fn fill<T: DeserializeOwned>(value: &mut Value, object: &[Step], field: &str) -> bool {
    let mut place = object.to_vec();
    place.push(Step::Key(field.to_owned()));
    for candidate in [json!(""), json!(0), json!([]), json!({})] {
        let Some(Value::Object(map)) = descend(value, object) else {
            return false;
        };
        map.insert(field.to_owned(), candidate);
        match document::read::<T>(value) {
            Err((path, _)) if path == place => {}
            _ => return true,
        }
    }
    if let Some(Value::Object(map)) = descend(value, object) {
        map.remove(field);
    }
    false
}

/// `process.rlimits[0].type`; `config.json` for the whole document.
fn show(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => {
                text.push_str(&format!("[{index}]"));
            }
        }
    }
    if text.is_empty() {
        "(document)".to_owned()
    } else {
        text
    }
}

fn join(steps: &[Step], field: &str) -> String {
    if steps.is_empty() {
        field.to_owned()
    } else {
        format!("{}.{field}", show(steps))
    }
}

/// What was taken out, so that later paths can be told in terms of the original document.
#[derive(Debug, Default)]
struct Removed {
    /// By path of the array as it is now: original indices that are gone, ascending.
    elements: BTreeMap<Vec<Step>, Vec<usize>>,
    keys: Vec<Vec<Step>>,
}

impl Removed {
    fn original(&self, steps: &[Step]) -> Vec<Step> {
        let mut original = Vec::with_capacity(steps.len());
        for (depth, step) in steps.iter().enumerate() {
            original.push(match step {
                Step::Index(index) => Step::Index(self.original_index(&steps[..depth], *index)),
                key @ Step::Key(_) => key.clone(),
            });
        }
        original
    }

    fn original_index(&self, array: &[Step], index: usize) -> usize {
        let gone = self
            .elements
            .get(array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        gone.iter()
            .fold(index, |index, gone| index + usize::from(*gone <= index))
    }

    fn has_key(&self, object: &[Step], field: &str) -> bool {
        self.keys
            .iter()
            .any(|path| path.split_last() == Some((&Step::Key(field.to_owned()), object)))
    }

    /// Takes out the innermost array element of the path, or else its last key.
    fn take_out(&mut self, value: &mut Value, steps: &[Step]) -> bool {
        let depth = steps
            .iter()
            .rposition(|step| matches!(step, Step::Index(_)));
        let depth = depth.unwrap_or(steps.len() - 1);
        let (parent, last) = (&steps[..depth], &steps[depth]);
        match (descend(value, parent), last) {
            (Some(Value::Array(list)), Step::Index(index)) if *index < list.len() => {
                list.remove(*index);
                let original = self.original_index(parent, *index);
                let gone = self.elements.entry(parent.to_vec()).or_default();
                gone.push(original);
                gone.sort_unstable();
                true
            }
            (Some(Value::Object(map)), Step::Key(key)) => {
                self.keys.push(steps.to_vec());
                map.remove(key).is_some()
            }
            _ => false,
        }
    }
}

fn descend<'a>(value: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    })
}

/// `"pids": {}` sets no limit, but the type cannot tell it from the limit 0.
fn drop_unset_pids_limit(spec: &mut Spec, raw: &[u8]) {
    let resources = spec
        .linux_mut()
        .as_mut()
        .and_then(|linux| linux.resources_mut().as_mut());
    if let Some(resources) = resources
        && has_doubtful_pids(resources)
        && !names_pids_limit(raw, &["linux", "resources"])
    {
        resources.set_pids(None);
    }
}

fn has_doubtful_pids(resources: &LinuxResources) -> bool {
    resources.pids().is_some_and(|pids| pids.limit() == 0)
}

fn names_pids_limit(raw: &[u8], resources: &[&str]) -> bool {
    let value: Value = serde_json::from_slice(raw).unwrap_or_default();
    let path = [resources, &["pids", "limit"]].concat();
    any(&value, &path, |limit| !limit.is_null())
}

/// Whether virtual TPMs are asked for; the types do not know the property.
fn names_vtpms(raw: &[u8]) -> bool {
    let word = b"vtpms\"";
    let ends = positions(raw, b'"').map(|at| &raw[..=at]);
    let mut words = ends.filter_map(|text| text.last_chunk::<6>());
    if !words.any(|found| found.eq_ignore_ascii_case(word)) {
        return false;
    }
    let value: Value = serde_json::from_slice(raw).unwrap_or_default();
    any(&value, &["linux", "resources", "vtpms"], |list| {
        list.as_array().is_some_and(|list| !list.is_empty())
    })
}

/// Whether something at the path, in any spelling, is as wanted.
fn any(value: &Value, path: &[&str], wanted: fn(&Value) -> bool) -> bool {
    let Some((name, rest)) = path.split_first() else {
        return wanted(value);
    };
    let inside = value.as_object().into_iter().flatten();
    inside
        .filter(|(key, _)| names::same(name, key))
        .any(|(_, value)| any(value, rest, wanted))
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
