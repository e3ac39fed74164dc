//! `rcrun inspect`: everything about an image, in docker's shape.
//!
//! What else has identifiers gets a variant of [`Found`] and its place in [`find`].

use rcrun_image::Digest;
use rcrun_image::catalog::{Listed, Meant};
use rcrun_image::names::UNNAMED;
use rcrun_image::pull::Way;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, Result};
use serde::Serialize;
use serde_json::Value;

use crate::format::{self, Format};
use crate::settings::Settings;
use crate::verbs::containers;
use crate::{images, output, report, units};

/// show everything about containers and images
#[derive(Debug, clap::Parser)]
#[command(name = "inspect", disable_help_flag = true)]
pub(crate) struct Inspect {
    /// print an array of objects, 'json' (an object per line), or by fields: '{Id} {Config.Cmd}'
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<Format>,
    /// only things of this type: container or image
    #[arg(long, value_name = "TYPE", value_parser = ["container", "image"])]
    r#type: Option<String>,
    #[arg(required = true)]
    names: Vec<String>,
}

impl crate::verbs::Run for Inspect {
    fn run(self, settings: &Settings) -> Result<u8> {
        let mut found = Vec::new();
        let failed = report::each(&self.names, |name| {
            found.push(find(settings, name, self.r#type.as_deref())?);
            Ok(())
        });
        let text = match self.format {
            None | Some(Format::Table) => output::json_indented(&found, "    ")? + "\n",
            Some(format) => format::render(&found, &format, &[])?,
        };
        output::print(&text)?;
        failed.map(|()| 0)
    }
}

/// Something that has an identifier.
#[derive(Debug, Default, Serialize)]
#[serde(untagged)]
enum Found {
    #[default]
    Nothing,
    Container(Value),
    Image(Box<Shown>),
}

/// What a name or an identifier stands for, of this type or of any.
fn find(settings: &Settings, name: &str, kind: Option<&str>) -> Result<Found> {
    if kind != Some("image")
        && let Some(container) = containers::inspect::find(settings, name)?
    {
        return Ok(Found::Container(container));
    }
    if kind == Some("container") {
        let text = format!("no such container: {name}");
        return Err(Error::new(rcrun_runtime::error::ErrorKind::NotFound, text));
    }
    let shown = image(&settings.store()?, name)?;
    Ok(Found::Image(Box::new(shown)))
}

/// An image, in docker's shape.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    id: Digest,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    comment: String,
    created: Option<String>,
    author: String,
    config: Value,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    size: u64,
    compressed_size: u64,
    graph_driver: Driver,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Metadata,
    descriptor: rcrun_image::document::Descriptor,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Driver {
    name: &'static str,
    data: Data,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    /// The unpacked layers, topmost first, as overlayfs wants them.
    lower_dir: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    r#type: &'static str,
    layers: Vec<Digest>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: Option<String>,
}

fn image(store: &Store, name: &str) -> Result<Shown> {
    let users = images::users(store)?;
    let catalog = images::catalog(store, &users)?;
    let listed = match catalog.find(name)? {
        Meant::Name(_, Some(listed)) | Meant::Image(listed) => listed,
        Meant::Name(record, None) => {
            let broken = catalog.broken.iter().find(|(broken, _)| broken == record);
            let why = broken.map_or(String::new(), |(_, error)| format!(": {}", error.chain()));
            let message = format!("cannot read image {}{why}", record.name);
            return Err(Error::new(
                rcrun_runtime::error::ErrorKind::Corrupt,
                message,
            ));
        }
    };
    show(store, listed).context(|| format!("cannot inspect {name}"))
}

fn show(store: &Store, listed: &Listed) -> Result<Shown> {
    let image = &listed.image;
    let layers = Layers::new(store)?;
    let size = image.size(&layers)?;
    let mut lower = Vec::new();
    for way in Way::ALL {
        if !lower.is_empty() {
            break;
        }
        for id in image.layers(way)?.iter().rev() {
            if layers.get(id)?.is_some() {
                let path = store.path().join("layers").join(id.as_str()).join("diff");
                lower.push(path.display().to_string());
            }
        }
    }
    // As it is, with what this program does not know of.
    let raw: Value =
        serde_json::from_slice(&image.raw).map_err(|error| Error::invalid(error.to_string()))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
    for record in &listed.names {
        let name = record.reference()?;
        if name.name() == UNNAMED {
            continue;
        }
        if name.tag().is_some() && name.digest().is_none() {
            repo_tags.push(name.familiar());
        }
        let digest = name.with_digest(record.target.digest.clone()).familiar();
        if !repo_digests.contains(&digest) {
            repo_digests.push(digest);
        }
    }
    let last = listed.names.iter().map(|record| record.since).max();
    let comment = image.config.history.last();
    Ok(Shown {
        id: image.id.clone(),
        repo_tags,
        repo_digests,
        comment: comment
            .and_then(|step| step.comment.clone())
            .unwrap_or_default(),
        created: image.config.created.clone(),
        author: image.config.author.clone().unwrap_or_default(),
        config: raw.get("config").cloned().unwrap_or(Value::Null),
        architecture: text(&raw["architecture"]),
        variant: text(&raw["variant"]),
        os: text(&raw["os"]),
        size: size.unpacked,
        compressed_size: size.compressed,
        graph_driver: Driver {
            name: "overlay",
            data: Data {
                lower_dir: lower.join(":"),
            },
        },
        root_fs: RootFs {
            r#type: "layers",
            layers: image.config.rootfs.diff_ids.clone(),
        },
        metadata: Metadata {
            last_tag_time: last.map(units::rfc3339),
        },
        descriptor: image.manifest.clone(),
    })
}
