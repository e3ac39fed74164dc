//! How statements about a result are made and attached (BuildKit's docs/attestations/attestation-storage.md):
//! each platform's image gets a manifest beside it in the index, whose layers are the statements.

mod request;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use rcrun_builder::attest::provenance::{self, Mode, Moment, Version};
use rcrun_builder::attest::sbom::Subject;
use rcrun_builder::attest::{
    SPDX, STATEMENT, address, packages, sbom, statement, statement_of_files,
};
use rcrun_builder::context::listing::Listed;
use rcrun_builder::context::source::{self, Origin};
use rcrun_builder::graph;
use rcrun_image::document::{Descriptor, media};
use rcrun_image::platform::Platform;
use rcrun_image::reference::Reference;
use rcrun_runtime::error::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::contexts::Contexts;
use super::job::{Built, Job};
use super::{failure, outputs, result};
pub(super) use wanted::Wanted;
use wanted::{Provenance, SBOM_FILE};

/// What a manifest of statements is, as an artifact.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// The context's own name, and the Dockerfile's.
const CONTEXT: &str = "context";
const DOCKERFILE: &str = "dockerfile";

/// What is known of a build beside its graph.
pub(super) struct Facts {
    /// The Dockerfile's name and text.
    dockerfile: (String, Vec<u8>),
    /// Where the context is from.
    context: Origin,
    /// The same of named ones that were needed.
    contexts: Vec<Origin>,
    /// What came from this machine.
    locals: BTreeSet<String>,
    /// As a client of BuildKit would ask.
    arguments: BTreeMap<String, String>,
    /// The repository that a local context lies in.
    repository: BTreeMap<String, String>,
    /// What images in layouts are called.
    layouts: BTreeMap<String, String>,
    /// Which build this is, and when.
    moment: Moment,
}

impl Facts {
    /// Of a build that is done.
    pub(super) fn new(
        job: &Job<'_>,
        files: &source::Context,
        contexts: &Contexts,
        began: SystemTime,
    ) -> Self {
        let used = contexts.used();
        let local = files.origin == Origin::Local;
        let mut locals: BTreeSet<String> = used
            .iter()
            .filter(|(_, origin)| *origin == Origin::Local)
            .map(|(name, _)| name.clone())
            .collect();
        if local {
            locals.insert(CONTEXT.to_owned());
        }
        if local || !files.dockerfile.of_context {
            locals.insert(DOCKERFILE.to_owned());
        }
        let name = match files.dockerfile.of_context && !local {
            true => files.dockerfile.name.clone(),
            false => failure::file_name(&files.dockerfile.name),
        };
        Self {
            dockerfile: (name, files.dockerfile.text.clone()),
            context: files.origin.clone(),
            contexts: used.into_iter().map(|(_, origin)| origin).collect(),
            locals,
            arguments: request::arguments(job.flags, &job.asked.wanted, contexts.told()),
            repository: job.asked.repository.clone(),
            layouts: contexts.layouts().clone(),
            moment: Moment {
                id: request::unique(),
                began: seconds(began),
                ended: seconds(SystemTime::now()),
            },
        }
    }

    /// That all dependencies are known, if that is asked for.
    pub(super) fn check(&self, wanted: &Wanted) -> Result<()> {
        let complete = wanted.provenance.as_ref().is_some_and(|one| one.complete);
        if !complete || self.locals.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.locals.iter().map(String::as_str).collect();
        let text = format!(
            "provenance cannot name all dependencies: local are {}",
            names.join(", ")
        );
        Err(Error::new(ErrorKind::FailedPrecondition, text)
            .with_hint("build from a repository or an address, or without complete-materials"))
    }
}

fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

/// A predicate: its type, the file that it is in beside files, and what it says.
type Predicate = (&'static str, String, Value);

/// What is asked for, about one platform's result.
fn predicates(
    job: &Job<'_>,
    built: &Built,
    subject: &Subject<'_>,
    layers: &[Descriptor],
    facts: &Facts,
) -> Result<Vec<Predicate>> {
    let wanted = &job.asked.attest;
    let mut all = Vec::new();
    if wanted.sbom {
        let found = packages::find(std::os::fd::AsFd::as_fd(&outputs::files(job, built)?))?;
        let document = sbom::document(&found, subject, built.solved.epoch);
        all.push((SPDX, SBOM_FILE.to_owned(), document));
    }
    let provenance = wanted.provenance.as_ref();
    if let Some(provenance) = provenance.filter(|one| subject.image || !one.inline_only) {
        let kind = provenance.version.predicate();
        let predicate = predicate(job, built, provenance, layers, facts);
        all.push((kind, provenance.file.clone(), predicate));
    }
    Ok(all)
}

/// Writes what is attested of one platform's image, and returns its entry for the index.
pub(super) fn attach(
    job: &Job<'_>,
    built: &Built,
    index: usize,
    facts: &Facts,
) -> Result<Option<Descriptor>> {
    if !job.asked.attest.any() {
        return Ok(None);
    }
    let none = || Error::new(ErrorKind::Internal, "an image was not written");
    let written = built.written.get(index).ok_or_else(none)?;
    let image = &written.manifest;
    let stage = &built.graph.stages[built.graph.target];
    let platform = stage.image.platform().to_string();
    let names = named(job, index)?;
    let urls: Vec<String> = names
        .iter()
        .map(|name| address::image("docker", &name.familiar_name(), name.tag(), None, &platform))
        .collect();
    let name = names
        .first()
        .map_or_else(|| image.digest.to_string(), Reference::familiar);
    let subject = Subject {
        name: &name,
        digest: &image.digest,
        image: true,
    };
    let mut layers = Vec::new();
    for (kind, _, predicate) in predicates(job, built, &subject, &written.layers, facts)? {
        let text = statement(&urls, &image.digest, kind, &predicate);
        let mut layer = result::document(job, STATEMENT, &text)?;
        layer
            .annotations
            .insert("in-toto.io/predicate-type".into(), kind.into());
        layers.push(layer);
    }
    let artifact = job.variants.get(index).is_none_or(|one| one.artifact);
    manifest(job, image, &layers, artifact).map(Some)
}

/// What is attested of files: statements with the names of their files.
pub(super) fn beside(
    job: &Job<'_>,
    built: &Built,
    files: &[Listed],
    facts: &Facts,
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut text = Vec::new();
    for file in files {
        text.extend_from_slice(&file.path);
        let digest = file.digest.as_ref().map(ToString::to_string);
        text.extend(format!("\0{}\0", digest.unwrap_or_default()).bytes());
    }
    let stage = &built.graph.stages[built.graph.target];
    let subject = Subject {
        name: match stage.name.as_str() {
            "" => "files",
            name => name,
        },
        digest: &rcrun_builder::Digest::of(&text),
        image: false,
    };
    let layers = built.written.first().map_or(&[][..], |one| &one.layers);
    let mut all = Vec::new();
    for (kind, name, predicate) in predicates(job, built, &subject, layers, facts)? {
        let statement = statement_of_files(files, kind, &predicate);
        let bytes = serde_json::to_vec_pretty(&statement)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
        all.push((name, bytes));
    }
    Ok(all)
}

fn predicate(
    job: &Job<'_>,
    built: &Built,
    wanted: &Provenance,
    layers: &[Descriptor],
    facts: &Facts,
) -> Value {
    let (name, text) = &facts.dockerfile;
    let asked = provenance::Asked {
        version: wanted.version,
        mode: wanted.mode,
        builder: &wanted.builder,
        program: ("rcrun", env!("CARGO_PKG_VERSION")),
        reproducible: wanted.reproducible,
        dockerfile: (name, text),
        context: &facts.context,
        contexts: facts.contexts.clone(),
        locals: facts.locals.clone(),
        arguments: facts.arguments.clone(),
        repository: facts.repository.clone(),
        layouts: facts.layouts.clone(),
        platform: graph::machine().to_string(),
        no_network: job.asked.settings.no_network,
        layers,
        moment: wanted.times.then(|| facts.moment.clone()),
    };
    provenance::predicate(&asked, &built.graph, &built.done.materials)
}

/// What a metadata file says of one platform's result, as buildx has it there: always v0.2, and without the
/// parts that are long unless `max` is asked for.
pub(super) fn told(job: &Job<'_>, built: &Built, facts: &Facts, max: bool) -> Value {
    let asked = job.asked.attest.provenance.clone().unwrap_or_default();
    let wanted = Provenance {
        version: Version::V02,
        mode: Mode::Max,
        times: true,
        ..asked
    };
    let layers = built.written.first().map_or(&[][..], |one| &one.layers);
    let mut told = predicate(job, built, &wanted, layers, facts);
    if let (false, Some(fields)) = (max, told.as_object_mut()) {
        fields.remove("buildConfig");
        fields.remove("metadata");
    }
    told
}

/// All names that outputs give this image.
fn named(job: &Job<'_>, index: usize) -> Result<Vec<Reference>> {
    let mut names: Vec<Reference> = Vec::new();
    for (number, (output, _)) in job.asked.outputs.iter().enumerate() {
        if job.variant(number) == index && outputs::is_image(output) {
            names.extend(outputs::named(job, output)?);
        }
    }
    names.sort_by_key(ToString::to_string);
    names.dedup();
    Ok(names)
}

/// The manifest that is about an image, and its entry for the index. As an artifact it has no configuration, and
/// says itself what it is about, so that registries find it; else it looks like an image.
fn manifest(
    job: &Job<'_>,
    image: &Descriptor,
    layers: &[Descriptor],
    artifact: bool,
) -> Result<Descriptor> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "layers": layers,
    });
    if artifact {
        let mut config = json!(result::document(job, media::OCI_EMPTY, &json!({}))?);
        config["data"] = json!("e30=");
        manifest["artifactType"] = json!(ARTIFACT);
        manifest["config"] = config;
        manifest["subject"] = json!({
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": image.size,
        });
    } else {
        let digests: Vec<String> = layers.iter().map(|one| one.digest.to_string()).collect();
        let config = json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        manifest["config"] = json!(result::document(job, media::OCI_CONFIG, &config)?);
    }
    let mut entry = result::document(job, media::OCI_MANIFEST, &manifest)?;
    entry.platform = Some(Platform::new("unknown", "unknown", ""));
    for (name, value) in [
        ("vnd.docker.reference.type", "attestation-manifest"),
        ("vnd.docker.reference.digest", &image.digest.to_string()),
    ] {
        entry.annotations.insert(name.into(), value.into());
    }
    Ok(entry)
}

/// That there is a place for them.
pub(super) fn check(wanted: &Wanted, places: bool, docker: bool) -> Result<()> {
    match (wanted.any(), places, docker) {
        (true, false, _) => Err(Error::invalid(
            "attestations are parts of images or stand beside files, and no output is either",
        )
        .with_hint("use type=image, registry, oci, local or tar")),
        (true, true, true) => Err(Error::invalid(
            "attestations need OCI's media types, and an output has docker's",
        )),
        _ => Ok(()),
    }
}
