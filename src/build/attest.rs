//! `--attest`, `--provenance`, `--sbom`: which statements are asked for, and how they are attached to an image
//! (BuildKit's docs/attestations/attestation-storage.md): each platform's image gets a manifest beside it
//! in the index, whose layers are the statements.

use std::time::SystemTime;

use rcrun_builder::attest::provenance::{self, Mode, Origin};
use rcrun_builder::attest::sbom::Subject;
use rcrun_builder::attest::{
    PROVENANCE, SPDX, STATEMENT, image_url, packages, sbom, statement, statement_of_files,
};
use rcrun_builder::context::listing::Listed;
use rcrun_builder::graph;
use rcrun_image::document::{Descriptor, media};
use rcrun_image::platform::Platform;
use rcrun_image::reference::Reference;
use rcrun_runtime::error::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::arguments::{fields, truth};
use super::job::{Built, Job};
use super::{outputs, result};

/// What is asked for. Nothing is attested unless it is, so that a single image is a single manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    provenance: Option<Provenance>,
    sbom: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Provenance {
    mode: Mode,
    builder: String,
    reproducible: bool,
    times: bool,
    /// Not beside files.
    inline_only: bool,
}

/// What is known of a build beside its graph.
pub(super) struct Facts {
    /// The Dockerfile's name and text.
    pub(super) dockerfile: (String, Vec<u8>),
    /// Where the context is from, if that has an address.
    pub(super) context: Option<Origin>,
    /// When it began.
    pub(super) began: SystemTime,
}

impl Wanted {
    /// Whether there is anything.
    pub(super) fn any(&self) -> bool {
        self.sbom || self.provenance.is_some()
    }

    /// `--attest type=...`.
    pub(super) fn flag(&mut self, text: &str) -> Result<()> {
        let mut rest = fields(text);
        let at = rest.iter().position(|(name, _)| name == "type");
        let kind = at.and_then(|at| rest.remove(at).1);
        match kind.as_deref() {
            Some("provenance") => self.set_provenance(&rest),
            Some("sbom") => self.set_sbom(&rest),
            Some(other) => Err(Error::unsupported(format!(
                "unknown type {other:?} of an attestation"
            ))
            .with_hint("use provenance or sbom")),
            None => Err(Error::invalid("an attestation needs a type")
                .with_hint("such as type=provenance,mode=max")),
        }
    }

    /// `--provenance`: true, false, or fields.
    pub(super) fn provenance(&mut self, text: &str) -> Result<()> {
        match truth("--provenance", Some(text)) {
            Ok(true) => self.set_provenance(&[]),
            Ok(false) => {
                self.provenance = None;
                Ok(())
            }
            Err(_) => self.set_provenance(&fields(text)),
        }
    }

    /// `--sbom`: true, false, or fields.
    pub(super) fn sbom(&mut self, text: &str) -> Result<()> {
        match truth("--sbom", Some(text)) {
            Ok(wanted) => {
                self.sbom = wanted;
                Ok(())
            }
            Err(_) => self.set_sbom(&fields(text)),
        }
    }

    fn set_provenance(&mut self, fields: &[(String, Option<String>)]) -> Result<()> {
        let mut wanted = Provenance {
            mode: Mode::Max,
            builder: String::new(),
            reproducible: false,
            times: false,
            inline_only: false,
        };
        let mut disabled = false;
        for (name, value) in fields {
            let value = value.as_deref();
            let is = || truth(name, value);
            match (name.as_str(), value) {
                ("mode", Some("min")) => wanted.mode = Mode::Min,
                ("mode", Some("max")) => wanted.mode = Mode::Max,
                ("builder-id", Some(id)) => id.clone_into(&mut wanted.builder),
                ("reproducible", _) => wanted.reproducible = is()?,
                ("times", _) => wanted.times = is()?,
                ("disabled", _) => disabled = is()?,
                ("inline-only", _) => wanted.inline_only = is()?,
                ("version", Some("v1")) => {}
                ("version", Some(other)) => {
                    return Err(Error::unsupported(format!(
                        "provenance {other}: only v1 is written"
                    )));
                }
                (name, value) => {
                    let value = value.unwrap_or_default();
                    return Err(Error::invalid(format!(
                        "{name}={value} is no field of provenance"
                    )));
                }
            }
        }
        self.provenance = (!disabled).then_some(wanted);
        Ok(())
    }

    fn set_sbom(&mut self, fields: &[(String, Option<String>)]) -> Result<()> {
        let mut wanted = true;
        for (name, value) in fields {
            match name.as_str() {
                "disabled" => wanted = !truth(name, value.as_deref())?,
                "generator" => {
                    return Err(Error::unsupported(
                        "generator: packages are read by rcrun itself, and no other program is run",
                    ));
                }
                other => {
                    return Err(Error::invalid(format!("{other:?} is no field of an SBOM")));
                }
            }
        }
        self.sbom = wanted;
        Ok(())
    }
}

/// A predicate: its type, the file that it is in beside files, and what it says.
type Predicate = (&'static str, &'static str, Value);

/// What is asked for, about one platform's result.
fn predicates(
    job: &Job<'_>,
    built: &Built,
    subject: &Subject<'_>,
    facts: &Facts,
) -> Result<Vec<Predicate>> {
    let wanted = &job.asked.attest;
    let mut all = Vec::new();
    if wanted.sbom {
        let found = packages::find(std::os::fd::AsFd::as_fd(&outputs::files(job, built)?))?;
        let document = sbom::document(&found, subject, built.solved.epoch);
        all.push((SPDX, "sbom.spdx.json", document));
    }
    let provenance = wanted.provenance.as_ref();
    if let Some(provenance) = provenance.filter(|one| subject.image || !one.inline_only) {
        let predicate = predicate(job, built, provenance, facts);
        all.push((PROVENANCE, "provenance.json", predicate));
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
    let image = &built.written.get(index).ok_or_else(none)?.manifest;
    let stage = &built.graph.stages[built.graph.target];
    let platform = stage.image.platform().to_string();
    let names = named(job, index)?;
    let urls: Vec<String> = names
        .iter()
        .map(|name| image_url(&name.familiar_name(), name.tag(), None, &platform))
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
    for (kind, _, predicate) in predicates(job, built, &subject, facts)? {
        let text = statement(&urls, &image.digest, kind, &predicate);
        let mut layer = result::document(job, STATEMENT, &text)?;
        layer
            .annotations
            .insert("in-toto.io/predicate-type".into(), kind.into());
        layers.push(layer);
    }
    manifest(job, image, &layers).map(Some)
}

/// What is attested of files: statements with the names of their files.
pub(super) fn beside(
    job: &Job<'_>,
    built: &Built,
    files: &[Listed],
    facts: &Facts,
) -> Result<Vec<(&'static str, Vec<u8>)>> {
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
    let mut all = Vec::new();
    for (kind, name, predicate) in predicates(job, built, &subject, facts)? {
        let statement = statement_of_files(files, kind, &predicate);
        let bytes = serde_json::to_vec_pretty(&statement)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
        all.push((name, bytes));
    }
    Ok(all)
}

fn predicate(job: &Job<'_>, built: &Built, wanted: &Provenance, facts: &Facts) -> Value {
    let seconds = |at: SystemTime| {
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
    };
    let (name, text) = &facts.dockerfile;
    let request = &job.asked.wanted;
    let asked = provenance::Asked {
        mode: wanted.mode,
        builder: &wanted.builder,
        reproducible: wanted.reproducible,
        dockerfile: (name, text),
        context: facts.context.as_ref(),
        target: request.target.as_deref(),
        arguments: &request.arguments,
        labels: &request.labels,
        secrets: job.asked.secrets(),
        agents: job.asked.agent_ids(),
        platform: graph::machine().to_string(),
        times: wanted
            .times
            .then(|| (seconds(facts.began), seconds(SystemTime::now()))),
    };
    provenance::predicate(&asked, &built.graph, &built.done.materials)
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

/// The manifest that is about an image, and its entry for the index.
fn manifest(job: &Job<'_>, image: &Descriptor, layers: &[Descriptor]) -> Result<Descriptor> {
    let digests: Vec<String> = layers.iter().map(|one| one.digest.to_string()).collect();
    let config = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = result::document(job, media::OCI_CONFIG, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": config,
        "layers": layers,
    });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let read = |flags: &[(&str, &str)]| -> Result<Wanted> {
            let mut wanted = Wanted::default();
            for (name, value) in flags {
                match *name {
                    "attest" => wanted.flag(value)?,
                    "sbom" => wanted.sbom(value)?,
                    _ => wanted.provenance(value)?,
                }
            }
            Ok(wanted)
        };
        let provenance = |mode| Provenance {
            mode,
            builder: String::new(),
            reproducible: false,
            times: false,
            inline_only: false,
        };
        for (flags, mode, sbom) in [
            (&[][..], None, false),
            (&[("provenance", "true")], Some(Mode::Max), false),
            (&[("provenance", "mode=min")], Some(Mode::Min), false),
            (
                &[("attest", "type=provenance,mode=min")],
                Some(Mode::Min),
                false,
            ),
            (
                &[("attest", "type=provenance"), ("provenance", "false")],
                None,
                false,
            ),
            (&[("attest", "type=provenance,disabled=true")], None, false),
            (&[("sbom", "true")], None, true),
            (&[("attest", "type=sbom")], None, true),
            (&[("attest", "type=sbom"), ("sbom", "false")], None, false),
        ] {
            let expected = Wanted {
                provenance: mode.map(provenance),
                sbom,
            };
            assert_eq!(read(flags).unwrap(), expected, "{flags:?}");
        }
        for flags in [
            ("attest", "mode=max"),
            ("attest", "type=x"),
            ("attest", "type=sbom,generator=image"),
            ("attest", "type=provenance,version=v0.2"),
            ("provenance", "mode=all"),
            ("provenance", "unknown=1"),
            ("sbom", "maybe"),
        ] {
            read(&[flags]).unwrap_err();
        }
        let more = read(&[("provenance", "builder-id=me,reproducible=true,times=true")]);
        let more = more.unwrap().provenance.unwrap();
        assert!(more.times && more.reproducible && more.builder == "me");
    }
}
