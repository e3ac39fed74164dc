//! `rcrun history`.

use rcrun_image::catalog::{Meant, no_such_image};
use rcrun_image::pull::Way;
use rcrun_overlay::layer::store::Layers;
use rcrun_runtime::error::Result;
use serde::Serialize;

use super::list::{created_since, id};
use crate::format::{self, Column, Format};
use crate::settings::Settings;
use crate::{images, output, units};

/// show how an image was made
///
/// Fields: ID, CreatedAt, CreatedSince, CreatedBy, Size, Bytes, Comment.
#[derive(Debug, clap::Parser)]
#[command(name = "history", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct History {
    #[arg(long, value_name = "FORMAT", default_value = "table", help = format::HELP)]
    format: Format,
    /// do not shorten instructions and identifiers
    #[arg(long)]
    no_trunc: bool,
    /// print identifiers only
    #[arg(long, short)]
    quiet: bool,
    #[arg(required = true)]
    image: String,
}

/// A line, with docker's names.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    created_at: String,
    created_since: String,
    created_by: String,
    size: String,
    bytes: u64,
    comment: String,
}

const COLUMNS: [Column; 5] = [
    ("IMAGE", "ID"),
    ("CREATED", "CreatedSince"),
    ("CREATED BY", "CreatedBy"),
    ("SIZE", "Size"),
    ("COMMENT", "Comment"),
];

/// What docker prints for a step that is no image of its own.
const MISSING: &str = "<missing>";
/// How much of an instruction is shown.
const SHOWN: usize = 45;

impl crate::verbs::Run for History {
    fn run(self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        let users = images::users(&store)?;
        let catalog = images::catalog(&store, &users)?;
        let image = match catalog.find(&self.image)? {
            Meant::Name(_, Some(listed)) | Meant::Image(listed) => &listed.image,
            Meant::Name(..) => return Err(no_such_image(&self.image)),
        };
        let layers = Layers::new(&store)?;
        let mut sizes = Vec::new();
        let ways: Vec<_> = Way::ALL
            .iter()
            .map(|way| image.layers(*way))
            .collect::<Result<_>>()?;
        for (index, blob) in image.document.layers.iter().enumerate() {
            let mut size = blob.size;
            for way in &ways {
                if let Some(layer) = layers.get(&way[index])? {
                    size = layer.record.size;
                    break;
                }
            }
            sizes.push(size);
        }
        let mut sizes = sizes.into_iter();
        let mut rows = Vec::new();
        for step in &image.config.history {
            let bytes = match step.empty_layer {
                true => 0,
                false => sizes.next().unwrap_or(0),
            };
            let created_by = step.created_by.clone().unwrap_or_default();
            rows.push(Row {
                id: MISSING.to_owned(),
                created_at: step.created.clone().unwrap_or_default(),
                created_since: created_since(step.created.as_deref()),
                created_by: match self.no_trunc {
                    true => created_by,
                    false => shortened(&created_by),
                },
                size: units::size(bytes),
                bytes,
                comment: step.comment.clone().unwrap_or_default(),
            });
        }
        rows.reverse();
        if let Some(top) = rows.first_mut() {
            top.id = id(&image.id, self.no_trunc);
        }
        let text = match self.quiet {
            true => rows.iter().map(|row| row.id.clone() + "\n").collect(),
            false => format::render(&rows, &self.format, &COLUMNS)?,
        };
        output::print(&text).map(|()| 0)
    }
}

/// As docker does it: 45 characters, the last one an ellipsis.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some(_) => text.chars().take(SHOWN - 1).chain(['…']).collect(),
    }
}
