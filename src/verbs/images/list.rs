//! `rcrun images`.

use rcrun_image::catalog::{Catalog, Listed, Meant};
use rcrun_image::names::{Record, UNNAMED};
use rcrun_overlay::layer::store::Layers;
use rcrun_runtime::error::{Error, Result};
use serde::Serialize;

use crate::format::{self, Column, Format};
use crate::images::{self, User};
use crate::settings::Settings;
use crate::{output, units};

/// What docker prints where there is nothing.
pub(super) const NONE: &str = "<none>";

/// list images
///
/// Fields: Repository, Tag, Digest, ID, CreatedAt, CreatedSince, Size, Bytes,
/// CompressedSize, CompressedBytes, Platform, Containers. Size is what the
/// layers unpack to, CompressedSize what a registry has.
#[derive(Debug, clap::Parser)]
#[command(name = "images", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Images {
    /// also those for other platforms
    #[arg(long, short)]
    all: bool,
    /// show digests
    #[arg(long)]
    digests: bool,
    /// only those for which KEY=VALUE holds: dangling=true, reference=PATTERN, before=IMAGE, since=IMAGE, label=NAME[=VALUE]
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    #[arg(long, value_name = "FORMAT", default_value = "table", help = format::HELP)]
    format: Format,
    /// do not shorten identifiers
    #[arg(long)]
    no_trunc: bool,
    /// print identifiers only
    #[arg(long, short)]
    quiet: bool,
    name: Option<String>,
}

/// One condition.
#[derive(Debug, Clone)]
enum Filter {
    Dangling(bool),
    Reference(String),
    Before(String),
    Since(String),
    Label(String),
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("it is not KEY=VALUE")?;
        match (key, value) {
            ("dangling", "true" | "1") => Ok(Self::Dangling(true)),
            ("dangling", "false" | "0") => Ok(Self::Dangling(false)),
            ("dangling", _) => Err("dangling is true or false".into()),
            ("reference", value) => Ok(Self::Reference(value.into())),
            ("before", value) => Ok(Self::Before(value.into())),
            ("since", value) => Ok(Self::Since(value.into())),
            ("label", value) => Ok(Self::Label(value.into())),
            _ => Err("there is dangling, reference, before, since and label".into()),
        }
    }
}

/// A line, with docker's names.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    repository: String,
    tag: String,
    digest: String,
    #[serde(rename = "ID")]
    id: String,
    created_at: String,
    created_since: String,
    size: String,
    bytes: u64,
    compressed_size: String,
    compressed_bytes: u64,
    platform: String,
    containers: usize,
}

const COLUMNS: [Column; 6] = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("DIGEST", "Digest"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
];

impl crate::verbs::Run for Images {
    fn run(mut self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        let users = images::users(&store)?;
        let catalog = images::catalog(&store, &users)?;
        images::warn_of_broken(&catalog);
        if let Some(name) = self.name.take() {
            self.filter.push(Filter::Reference(name));
        }
        let layers = Layers::new(&store)?;
        let mut shown: Vec<&Listed> = catalog.images.iter().collect();
        shown.retain(|listed| self.all || listed.meant);
        for filter in &self.filter {
            filter.keep_images(&catalog, &mut shown)?;
        }
        shown.sort_by_key(|listed| std::cmp::Reverse(created(listed)));
        let mut rows = Vec::new();
        for listed in shown {
            rows.extend(self.rows(listed, &users, &layers)?);
        }
        if self.quiet {
            let ids: String = rows.iter().map(|row| row.id.clone() + "\n").collect();
            output::print(&ids)?;
            return Ok(0);
        }
        let columns: Vec<Column> = COLUMNS
            .into_iter()
            .filter(|(name, _)| *name != "DIGEST" || self.digests)
            .collect();
        output::print(&format::render(&rows, &self.format, &columns)?)?;
        Ok(0)
    }
}

impl Images {
    /// A line for each name that is to be shown.
    fn rows(&self, listed: &Listed, users: &[User], layers: &Layers) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let image = &listed.image;
        let manifest = &image.manifest.digest;
        let size = image.size(layers)?;
        let row = |repository: String, tag: String, digest: String| Row {
            repository,
            tag,
            digest,
            id: id(&image.id, self.no_trunc),
            created_at: image.config.created.clone().unwrap_or_default(),
            created_since: created_since(image.config.created.as_deref()),
            size: units::size(size.unpacked),
            bytes: size.unpacked,
            compressed_size: units::size(size.compressed),
            compressed_bytes: size.compressed,
            platform: image.config.platform().to_string(),
            containers: users
                .iter()
                .filter(|user| user.manifest.as_ref() == Some(manifest) && !user.is_mount)
                .count(),
        };
        if listed.names.is_empty() && self.filter.iter().all(|one| one.takes(None)) {
            rows.push(row(NONE.into(), NONE.into(), manifest.to_string()));
        }
        for record in names(listed)? {
            let name = record.reference()?;
            if self.filter.iter().all(|filter| filter.takes(Some(&name))) {
                let tag = name.tag().unwrap_or(NONE).to_owned();
                let repository = match name.name() == UNNAMED {
                    true => NONE.to_owned(),
                    false => name.familiar_name(),
                };
                rows.push(row(repository, tag, record.target.digest.to_string()));
            }
        }
        Ok(rows)
    }
}

/// The names to show: one by digest only where its repository has no tag of the same image.
fn names(listed: &Listed) -> Result<Vec<&Record>> {
    let mut tagged = Vec::new();
    for record in &listed.names {
        let name = record.reference()?;
        if name.tag().is_some() {
            tagged.push(name.name());
        }
    }
    let mut shown = Vec::new();
    for record in &listed.names {
        let name = record.reference()?;
        if name.tag().is_some() || !tagged.contains(&name.name()) {
            shown.push(record);
        }
    }
    Ok(shown)
}

/// An identifier, shortened as docker does unless it is wanted whole.
pub(super) fn id(digest: &rcrun_image::Digest, whole: bool) -> String {
    match whole {
        true => digest.to_string(),
        false => digest.hex().chars().take(12).collect(),
    }
}

fn created(listed: &Listed) -> u64 {
    let text = listed.image.config.created.as_deref();
    text.and_then(units::parse_rfc3339).unwrap_or(0)
}

/// `2 weeks ago`, or what docker prints for an image that does not say.
pub(super) fn created_since(created: Option<&str>) -> String {
    match created.and_then(units::parse_rfc3339) {
        Some(then) if then > 0 => units::ago(then, units::now()),
        _ => "N/A".to_owned(),
    }
}

impl Filter {
    /// Drops images for which it does not hold, as far as it is about images.
    fn keep_images(&self, catalog: &Catalog, images: &mut Vec<&Listed>) -> Result<()> {
        let moment = |text: &str| -> Result<u64> {
            match catalog.find(text)? {
                Meant::Name(_, Some(listed)) | Meant::Image(listed) => Ok(created(listed)),
                Meant::Name(record, None) => {
                    let name = &record.name;
                    Err(Error::invalid(format!("image {name} cannot be read")))
                }
            }
        };
        match self {
            Self::Before(text) => {
                let moment = moment(text)?;
                images.retain(|listed| created(listed) < moment);
            }
            Self::Since(text) => {
                let moment = moment(text)?;
                images.retain(|listed| created(listed) > moment);
            }
            Self::Label(text) => images.retain(|listed| has_label(listed, text)),
            Self::Dangling(wanted) => images.retain(|listed| is_dangling(listed) == *wanted),
            Self::Reference(_) => {}
        }
        Ok(())
    }

    /// Whether a name is shown.
    fn takes(&self, name: Option<&rcrun_image::reference::Reference>) -> bool {
        let Self::Reference(pattern) = self else {
            return true;
        };
        name.is_some_and(|name| {
            let (short, whole) = (name.familiar_name(), name.familiar());
            let shown = [short, whole, name.name(), name.to_string()];
            shown.iter().any(|text| matches(pattern, text))
        })
    }
}

/// Whether it has no tag: what docker calls dangling.
pub(super) fn is_dangling(listed: &Listed) -> bool {
    listed
        .names
        .iter()
        .all(|record| record.reference().is_ok_and(|name| name.tag().is_none()))
}

/// `NAME` or `NAME=VALUE`.
pub(super) fn has_label(listed: &Listed, text: &str) -> bool {
    let labels = &listed.image.config.config.labels;
    match text.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
        None => labels.contains_key(text),
    }
}

/// Shell patterns of which `*` and `?` do not stand for a slash.
fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    match pattern.next() {
        None => text.next().is_none(),
        Some('*') => {
            let rest = pattern.as_str();
            loop {
                if matches(rest, text.as_str()) {
                    return true;
                }
                if text.next().is_none_or(|passed| passed == '/') {
                    return false;
                }
            }
        }
        Some('?') => {
            text.next().is_some_and(|c| c != '/') && matches(pattern.as_str(), text.as_str())
        }
        Some(wanted) => text.next() == Some(wanted) && matches(pattern.as_str(), text.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("debian", "debian", true),
            ("debian", "debian:12", false),
            ("deb*", "debian:12", true),
            ("*:12", "debian:12", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("?/b*", "a/bc", true),
            ("?", "", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
