//! `rcrun prune`.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use rcrun_builder::cache::Cache;
use rcrun_builder::shrink::shrink;
use rcrun_image::catalog::Listed;
use rcrun_image::names::{Names, UNNAMED};
use rcrun_overlay::gc::Policy;
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::list::{has_label, is_dangling};
use crate::images::{self, User};
use crate::settings::Settings;
use crate::verbs::containers;
use crate::{output, progress, units};

/// remove images without a tag, and whatever nothing refers to
///
/// Images that containers use stay, and so does what other processes are about
/// to use. Unfinished downloads go when nobody touched them for a day.
#[derive(Debug, clap::Parser)]
#[command(name = "prune", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Prune {
    /// all images that no container uses, and all unfinished downloads
    #[arg(long, short)]
    all: bool,
    /// also containers that do not run
    #[arg(long, conflicts_with = "filter")]
    containers: bool,
    /// only images for which KEY=VALUE holds: until=TIME (24h, 2026-11-22), label=NAME[=VALUE], label!=NAME[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// also the build cache
    #[arg(long)]
    build_cache: bool,
    /// also volumes without a name that no container uses (`rcrun volume prune --all`: all unused ones)
    #[arg(long, conflicts_with = "filter")]
    volumes: bool,
    /// of the build cache, keep what was used last, up to SIZE
    #[arg(long, value_name = "SIZE", requires = "build_cache")]
    keep_storage: Option<String>,
    /// do not ask
    #[arg(long, short)]
    force: bool,
}

/// One condition.
#[derive(Debug, Clone)]
enum Filter {
    /// Made before this moment.
    Until(u64),
    Label(String),
    NoLabel(String),
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("it is not KEY=VALUE")?;
        match key {
            "until" => units::moment(value, units::now())
                .map(Self::Until)
                .map_err(|error| error.to_string()),
            "label" => Ok(Self::Label(value.into())),
            "label!" => Ok(Self::NoLabel(value.into())),
            _ => Err("there is until, label and label!".into()),
        }
    }
}

impl Filter {
    fn holds(&self, listed: &Listed) -> bool {
        match self {
            Self::Until(moment) => {
                let created = listed.image.config.created.as_deref();
                created.and_then(units::parse_rfc3339).unwrap_or(0) < *moment
            }
            Self::Label(text) => has_label(listed, text),
            Self::NoLabel(text) => !has_label(listed, text),
        }
    }
}

impl crate::verbs::Run for Prune {
    fn run(self, settings: &Settings) -> Result<u8> {
        if !self.force {
            self.ask()?;
        }
        let store = settings.store()?;
        let mut bytes = 0;
        if self.containers {
            let (removed, used) = containers::group::ended(settings, &[])?;
            bytes += used;
            let lines = removed
                .iter()
                .map(|id| format!("Deleted container: {id}\n"));
            output::print(&lines.collect::<String>())?;
        }
        if self.volumes {
            let (removed, used) = containers::volume::anonymous(&store)?;
            bytes += used;
            let lines = removed
                .iter()
                .map(|name| format!("Deleted volume: {name}\n"));
            output::print(&lines.collect::<String>())?;
        }
        if let Some(cache) = Cache::existing(&store)?.filter(|_| self.build_cache) {
            let keep = self.keep_storage.as_deref().map(units::bytes);
            let keep = keep.transpose().context(|| "--keep-storage")?;
            shrink(&store, &cache, Some(keep.unwrap_or(0)), None)?;
        }
        self.untag(&store)?;
        let mut policy = Policy::default();
        if self.all {
            policy.abandoned_after = std::time::Duration::ZERO;
        }
        let collected = images::sweep(&store, &policy)?;
        images::settle(&store);
        let mut text = String::new();
        for blob in &collected.blobs {
            text += &format!("Deleted: {blob}\n");
        }
        for layer in &collected.layers {
            text += &format!("Deleted layer: {layer}\n");
        }
        for snapshot in &collected.snapshots {
            text += &format!("Deleted snapshot: {snapshot}\n");
        }
        text += &format!(
            "Total reclaimed space: {}\n",
            units::size(collected.bytes + bytes)
        );
        output::print(&text)?;
        Ok(0)
    }
}

impl Prune {
    /// At a terminal, or whatever stands in for one.
    fn ask(&self) -> Result<()> {
        let what = match self.all {
            true => "all images that no container uses",
            false => "all images without a tag",
        };
        progress::to_stderr(&format!(
            "This removes {what}, and everything that nothing refers to.\nGo on? [y/N] "
        ));
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if !std::io::stdin().is_terminal() {
            progress::to_stderr("\n");
        }
        match (read, answer.trim()) {
            (Ok(_), "y" | "Y" | "yes") => Ok(()),
            _ => Err(Error::new(
                ErrorKind::FailedPrecondition,
                "nothing was removed: it was not confirmed",
            )
            .with_hint("--force does not ask")),
        }
    }

    /// Removes the names of images that are to go.
    fn untag(&self, store: &Store) -> Result<()> {
        let users = images::users(store)?;
        let catalog = images::catalog(store, &users)?;
        images::warn_of_broken(&catalog);
        let goes = |listed: &&Listed| {
            (self.all || is_dangling(listed))
                && !is_used(listed, &users)
                && self.filter.iter().all(|filter| filter.holds(listed))
        };
        let stays = |listed: &&Listed| !goes(listed);
        // A name may lead to several images, by an index: it goes with the last of them.
        let kept: BTreeSet<&str> = catalog
            .images
            .iter()
            .filter(stays)
            .flat_map(|listed| listed.names.iter().map(|record| record.name.as_str()))
            .collect();
        let names = Names::new(store)?;
        let mut removed = BTreeSet::new();
        for listed in catalog.images.iter().filter(goes) {
            for record in &listed.names {
                let new = removed.insert(record.name.clone());
                let name = record.reference()?;
                if new
                    && !kept.contains(record.name.as_str())
                    && names.remove(&name)?
                    && name.name() != UNNAMED
                {
                    output::print(&format!("Untagged: {}\n", name.familiar()))?;
                }
            }
        }
        Ok(())
    }
}

fn is_used(listed: &Listed, users: &[User]) -> bool {
    let manifest = &listed.image.manifest.digest;
    users
        .iter()
        .any(|user| user.manifest.as_ref() == Some(manifest))
}
