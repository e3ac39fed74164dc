//! `rcrun df`: what the store takes, as `du` would say, and what can be had back.

use std::collections::{BTreeMap, HashSet};

use rcrun_builder::cache::Cache;
use rcrun_image::Digest;
use rcrun_image::catalog::{Catalog, Listed};
use rcrun_image::pull::Way;
use rcrun_image::reference::Reference;
use rcrun_image::roots;
use rcrun_overlay::gc::{self, Reachable, Sizes};
use rcrun_overlay::lease::{LayerId, Root};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::Result;
use serde::Serialize;

use super::list::{NONE, created_since, id};
use crate::format::{self, Column, Format};
use crate::images::{self, User};
use crate::settings::Settings;
use crate::verbs::containers;
use crate::{output, units};

/// show what images and containers take on the disk
///
/// SIZE is what is allocated on the disk; the sum of all lines is what du(1)
/// says. RECLAIMABLE is what `rcrun prune --all --build-cache` would free, of
/// volumes what `rcrun volume prune --all` would.
///
/// Fields: Type, TotalCount, Active, Size, Bytes, Reclaimable, ReclaimableBytes.
/// With --verbose: Repository, Tag, ID, CreatedSince, Size, Bytes, SharedSize,
/// SharedBytes, UniqueSize, UniqueBytes, Containers.
#[derive(Debug, clap::Parser)]
#[command(name = "df", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Df {
    #[arg(long, value_name = "FORMAT", default_value = "table", help = format::HELP)]
    format: Format,
    /// each image, with what it shares with others and what it has alone
    #[arg(long, short)]
    verbose: bool,
}

/// A line, with docker's names.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    r#type: &'static str,
    total_count: u64,
    active: u64,
    size: String,
    bytes: u64,
    reclaimable: String,
    reclaimable_bytes: u64,
}

const COLUMNS: [Column; 5] = [
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
];

impl Row {
    fn new(r#type: &'static str, total: u64, active: u64, bytes: u64, reclaimable: u64) -> Self {
        let share = match bytes {
            0 => String::new(),
            _ => format!(" ({}%)", u128::from(reclaimable) * 100 / u128::from(bytes)),
        };
        Self {
            r#type,
            total_count: total,
            active,
            size: units::size(bytes),
            bytes,
            reclaimable: units::size(reclaimable) + &share,
            reclaimable_bytes: reclaimable,
        }
    }
}

/// An image's line.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageRow {
    repository: String,
    tag: String,
    #[serde(rename = "ID")]
    id: String,
    created_since: String,
    size: String,
    bytes: u64,
    shared_size: String,
    shared_bytes: u64,
    unique_size: String,
    unique_bytes: u64,
    containers: usize,
}

const IMAGE_COLUMNS: [Column; 8] = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
];

impl crate::verbs::Run for Df {
    fn run(self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        let users = images::users(&store)?;
        let catalog = images::catalog(&store, &users)?;
        images::warn_of_broken(&catalog);
        let sizes = gc::sizes(&store)?;
        let text = match self.verbose {
            true => {
                let rows = image_rows(&catalog, &users, &sizes)?;
                format::render(&rows, &self.format, &IMAGE_COLUMNS)?
            }
            false => {
                let rows = rows(&store, &catalog, &users, &sizes)?;
                format::render(&rows, &self.format, &COLUMNS)?
            }
        };
        output::print(&text)?;
        Ok(0)
    }
}

fn bytes(sizes: &Sizes, of: &Reachable) -> u64 {
    let blobs = of.blobs.iter().filter_map(|blob| sizes.blobs.get(blob));
    let layers: HashSet<&LayerId> = of.layers.iter().map(|layer| sizes.real(layer)).collect();
    let layers = layers
        .into_iter()
        .filter_map(|layer| sizes.layers.get(layer));
    blobs.chain(layers).sum()
}

fn rows(store: &Store, catalog: &Catalog, users: &[User], sizes: &Sizes) -> Result<Vec<Row>> {
    let usage = gc::usage(store)?;
    let manifests = users.iter().filter_map(|user| user.manifest.clone());
    let manifests: HashSet<Digest> = manifests.collect();
    let held: HashSet<Root> = manifests.iter().cloned().map(Root::Image).collect();
    let named = roots::reachable(store, &held)?;
    let mut used = Reachable::default();
    let mut active = 0;
    for listed in &catalog.images {
        if manifests.contains(&listed.image.manifest.digest) {
            let (blobs, layers) = parts(listed)?;
            used.blobs.extend(blobs);
            used.layers.extend(layers);
            active += 1;
        }
    }
    let all: u64 = sizes.blobs.values().chain(sizes.layers.values()).sum();
    let images = bytes(sizes, &named);
    let snapshots: u64 = sizes.snapshots.values().sum();
    let incoming = usage.incoming.bytes;
    let cache = Cached::of(store, &named, sizes)?;
    let volumes = containers::volume::totals(store)?;
    let loose = all
        .saturating_sub(images)
        .saturating_sub(cache.layers_bytes);
    // Layers that are being unpacked are neither images nor garbage.
    let counted = all + incoming + usage.damaged.bytes + snapshots + cache.mounts + volumes[2];
    let rest = usage.total().saturating_sub(counted);
    let count = |kind: usize| u64::try_from(kind).unwrap_or(u64::MAX);
    let loose_count = sizes
        .blobs
        .keys()
        .filter(|one| !named.blobs.contains(one))
        .count()
        + sizes
            .layers
            .keys()
            .filter(|one| !named.layers.contains(one) && !cache.counts(sizes.real(one)))
            .count();
    Ok(vec![
        Row::new(
            "Images",
            count(catalog.images.len()),
            active,
            images,
            images.saturating_sub(bytes(sizes, &used)),
        ),
        Row::new(
            "Containers",
            count(users.len()),
            count(users.len()),
            snapshots,
            0,
        ),
        Row::new(
            "Local Volumes",
            volumes[0],
            volumes[1],
            volumes[2],
            volumes[3],
        ),
        Row::new(
            "Build Cache",
            count(cache.steps),
            0,
            cache.layers_bytes + cache.mounts,
            cache.layers_bytes + cache.mounts,
        ),
        Row::new("Downloads", usage.incoming.count, 0, incoming, incoming),
        Row::new(
            "Damaged",
            usage.damaged.count,
            0,
            usage.damaged.bytes,
            usage.damaged.bytes,
        ),
        Row::new("Unreferenced", count(loose_count), 0, loose, loose),
        Row::new("Other", usage.other.count, usage.other.count, rest, 0),
    ])
}

/// The build cache.
struct Cached {
    /// Layers that are counted with it or with images.
    layers: HashSet<LayerId>,
    /// Layers of steps.
    steps: usize,
    /// What those take that no image has.
    layers_bytes: u64,
    /// What the directories of cache mounts take.
    mounts: u64,
}

impl Cached {
    fn of(store: &Store, named: &Reachable, sizes: &Sizes) -> Result<Self> {
        let images: HashSet<LayerId> = named
            .layers
            .iter()
            .map(|layer| sizes.real(layer).clone())
            .collect();
        let Some(cache) = Cache::existing(store)? else {
            return Ok(Self {
                layers: images,
                steps: 0,
                layers_bytes: 0,
                mounts: 0,
            });
        };
        let all: HashSet<LayerId> = cache.layers()?.into_iter().collect();
        let own = Reachable {
            // What an image has too is counted there.
            layers: all.difference(&images).cloned().collect(),
            ..Reachable::default()
        };
        Ok(Self {
            steps: all.len(),
            layers_bytes: bytes(sizes, &own),
            mounts: gc::measure(&cache.directory("mounts")?, c".")?,
            layers: all.into_iter().chain(images).collect(),
        })
    }

    fn counts(&self, layer: &LayerId) -> bool {
        self.layers.contains(layer)
    }
}

/// What an image needs on the disk.
fn parts(listed: &Listed) -> Result<(HashSet<Digest>, HashSet<LayerId>)> {
    let image = &listed.image;
    let mut blobs: HashSet<Digest> = image
        .document
        .layers
        .iter()
        .map(|layer| layer.digest.clone())
        .collect();
    blobs.insert(image.id.clone());
    blobs.insert(image.manifest.digest.clone());
    blobs.extend(listed.names.iter().map(|name| name.target.digest.clone()));
    let mut layers: HashSet<LayerId> = HashSet::new();
    for way in Way::ALL {
        layers.extend(image.layers(way)?);
    }
    Ok((blobs, layers))
}

fn image_rows(catalog: &Catalog, users: &[User], sizes: &Sizes) -> Result<Vec<ImageRow>> {
    let (mut blobs, mut layers) = (BTreeMap::new(), BTreeMap::new());
    let mut all = Vec::new();
    for listed in &catalog.images {
        let parts = parts(listed)?;
        for blob in &parts.0 {
            *blobs.entry(blob.clone()).or_insert(0_u32) += 1;
        }
        for layer in &parts.1 {
            *layers.entry(sizes.real(layer).clone()).or_insert(0_u32) += 1;
        }
        all.push((listed, parts));
    }
    let mut rows = Vec::new();
    for (listed, (own_blobs, own_layers)) in all {
        let (mut shared, mut unique) = (0, 0);
        let mut add = |users: u32, size: Option<&u64>| match users {
            0 | 1 => unique += size.unwrap_or(&0),
            _ => shared += size.unwrap_or(&0),
        };
        for blob in &own_blobs {
            add(blobs[blob], sizes.blobs.get(blob));
        }
        for layer in own_layers.iter().map(|layer| sizes.real(layer)) {
            add(layers[layer], sizes.layers.get(layer));
        }
        let name = listed
            .names
            .first()
            .map(rcrun_image::names::Record::reference)
            .transpose()?;
        let manifest = &listed.image.manifest.digest;
        let uses = |user: &&User| user.manifest.as_ref() == Some(manifest);
        rows.push(ImageRow {
            repository: name.as_ref().map_or(NONE.into(), Reference::familiar_name),
            tag: name
                .as_ref()
                .and_then(|name| name.tag())
                .unwrap_or(NONE)
                .to_owned(),
            id: id(&listed.image.id, false),
            created_since: created_since(listed.image.config.created.as_deref()),
            size: units::size(shared + unique),
            bytes: shared + unique,
            shared_size: units::size(shared),
            shared_bytes: shared,
            unique_size: units::size(unique),
            unique_bytes: unique,
            containers: users.iter().filter(uses).count(),
        });
    }
    Ok(rows)
}
