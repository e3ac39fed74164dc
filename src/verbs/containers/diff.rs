//! `rcrun diff`.

use rcrun_overlay::layer::{Change, ChangeKind};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Result};
use serde::Serialize;

use super::get_with_record;
use crate::format::{self, Column, Format};
use crate::images::{compare, mounts};
use crate::output;
use crate::settings::Settings;

/// list what a container changed in the files of its image, or what is different in another image
///
/// C is changed, or something in it is; A is added, D is deleted. Places for what is
/// mounted in every container, such as /etc/hosts, are left out.
/// Fields: Kind, Path.
#[derive(Debug, clap::Parser)]
#[command(name = "diff", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Diff {
    #[arg(long, value_name = "FORMAT", help = format::HELP)]
    format: Option<Format>,
    /// A container, or two images.
    #[arg(required = true, num_args = 1..=2)]
    names: Vec<String>,
}

/// Where something is mounted in every container, so that a place for it is made where the image has
/// none.
const PLACES: &[&[u8]] = &[
    b"dev",
    b"dev/console",
    b"dev/mqueue",
    b"dev/pts",
    b"dev/shm",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/resolv.conf",
    b"proc",
    b"sys",
    b"sys/fs/cgroup",
];

/// A line.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    kind: String,
    path: String,
}

const COLUMNS: [Column; 2] = [("KIND", "Kind"), ("PATH", "Path")];

impl crate::verbs::Run for Diff {
    fn run(self, settings: &Settings) -> Result<u8> {
        let changes = match &self.names[..] {
            [old, new] => compare::images(&settings.store()?, old, new)
                .context(|| format!("cannot tell what is different in {new}"))?,
            names => of_container(settings, names.first().map_or("", String::as_str))?,
        };
        let text = match &self.format {
            None => changes.iter().map(|change| format!("{change}\n")).collect(),
            Some(format) => {
                let rows: Vec<Row> = changes.iter().map(row).collect();
                format::render(&rows, format, &COLUMNS)?
            }
        };
        output::print(&text)?;
        Ok(0)
    }
}

fn of_container(settings: &Settings, name: &str) -> Result<Vec<Change>> {
    let (containers, _container, record) = get_with_record(settings, name)?;
    let find = || {
        let store = Store::open(containers.store())?;
        mounts::of_container(&store, &record)?.changes()
    };
    let changes = find().context(|| format!("cannot tell what container {name} changed"))?;
    Ok(without_places(changes))
}

/// Without those places, and without directories in which nothing else happened.
fn without_places(changes: Vec<Change>) -> Vec<Change> {
    let is_place = |change: &Change| {
        change.kind == ChangeKind::Added && PLACES.contains(&change.path.as_slice())
    };
    let is_in = |path: &[u8], directory: &[u8]| {
        let rest = path.strip_prefix(directory);
        rest.is_some_and(|rest| rest.starts_with(b"/"))
    };
    let (places, mut left): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(is_place);
    // From the end, so that what is in a directory was decided before.
    for index in (0..left.len()).rev() {
        let one = &left[index];
        let made_in = places.iter().any(|place| is_in(&place.path, &one.path));
        let other = left[index + 1..]
            .iter()
            .any(|other| is_in(&other.path, &one.path));
        if one.kind == ChangeKind::Modified && made_in && !other {
            left.remove(index);
        }
    }
    left
}

fn row(change: &Change) -> Row {
    let line = change.to_string();
    let (kind, path) = line.split_once(' ').unwrap_or_default();
    Row {
        kind: kind.to_owned(),
        path: path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_for_mounts_are_left_out() {
        let parse = |text: &str| -> Vec<Change> {
            let one = |line: &str| {
                let (kind, path) = line.split_at(1);
                Change {
                    path: path.into(),
                    kind: match kind {
                        "A" => ChangeKind::Added,
                        "C" => ChangeKind::Modified,
                        _ => ChangeKind::Deleted,
                    },
                }
            };
            text.split_whitespace().map(one).collect()
        };
        for (all, left) in [
            ("", ""),
            ("Cetc Aetc/hosts", ""),
            ("Cetc Aetc/hosts Aetc/mine", "Cetc Aetc/mine"),
            ("Cetc Cetc/hosts", "Cetc Cetc/hosts"),
            ("Cetc Detc/hosts", "Cetc Detc/hosts"),
            ("Cetc", "Cetc"),
            ("Adev Adev/pts Aproc Asys", ""),
            ("Csys Csys/fs Asys/fs/cgroup", ""),
            ("Aetc Aetc/hosts", "Aetc"),
            ("Cetc Aetc/hosts Cetcetera", "Cetcetera"),
        ] {
            assert_eq!(without_places(parse(all)), parse(left), "{all}");
        }
    }
}
