//! Where a result goes: `--output`, `--tag`, `--push`, `--iidfile`, `--metadata-file`.

use std::io::Write;
use std::os::fd::OwnedFd;

use rcrun_image::closure::Platforms;
use rcrun_image::document::Descriptor;
use rcrun_image::names::Names;
use rcrun_image::push::UPLOADS;
use rcrun_image::recompress::Layers;
use rcrun_image::reference::Reference;
use rcrun_image::stored::Subject;
use rcrun_image::transport::{self, Location, Means, Out};
use rcrun_overlay::snapshot::{Mounting, Stack};
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::destination::{How, Output};
use super::job::{Built, Job};
use super::{attest, result};
use crate::images;

/// Whether this is made of an image.
pub(super) fn is_image(output: &Output) -> bool {
    matches!(
        output,
        Output::Image { .. } | Output::Oci { .. } | Output::Docker { .. }
    )
}

/// Whether statements have a place in this.
pub(super) fn has_statements(output: &Output) -> bool {
    is_image(output) || matches!(output, Output::Local { .. } | Output::Tar { .. })
}

/// Whether any of these is made of files at all.
pub(super) fn needs_files(outputs: &[(Output, How)]) -> bool {
    !outputs.iter().all(|(output, _)| *output == Output::Nothing)
}

/// Writes everything.
pub(super) fn write(job: &Job<'_>, built: &[Built], facts: &attest::Facts) -> Result<()> {
    let tops: Vec<Descriptor> = (0..job.variants.len())
        .map(|index| result::top(job, built, index, facts))
        .collect::<Result<_>>()?;
    let mut kept: Vec<Reference> = Vec::new();
    // First all that is only here: a push may fail.
    for (index, (output, how)) in job.asked.outputs.iter().enumerate() {
        match output {
            Output::Image { by_digest, .. } => {
                let names = if *by_digest {
                    Vec::new()
                } else {
                    named(job, output)?
                };
                keep(job, &tops[job.variant(index)], &names)?;
                kept.extend(names);
            }
            Output::Nothing => {}
            Output::Tar { dest, split } => {
                super::files::archive(job, built, dest.as_deref(), *split, how, facts)?;
            }
            Output::Local { dest, split } => {
                super::files::local(job, built, dest, *split, how, facts)?;
            }
            Output::Oci { .. } | Output::Docker { .. } => {
                save(job, &tops[job.variant(index)], output, how)?;
            }
        }
    }
    for (index, (output, _)) in job.asked.outputs.iter().enumerate() {
        if let Output::Image {
            push: true,
            by_digest,
            ..
        } = output
        {
            let top = &tops[job.variant(index)];
            for name in named(job, output)? {
                push(job, top, &name, *by_digest)?;
            }
        }
    }
    tell(job, built, tops.first(), &kept, facts)
}

/// What an image is called: what its output says, or else what the build says.
pub(super) fn named(job: &Job<'_>, output: &Output) -> Result<Vec<Reference>> {
    match output {
        Output::Image { names, .. } if !names.is_empty() => {
            names.iter().map(|name| name.parse()).collect()
        }
        _ => Ok(job.asked.names.clone()),
    }
}

fn keep(job: &Job<'_>, top: &Descriptor, names: &[Reference]) -> Result<()> {
    let all = Names::new(job.store)?;
    for name in names {
        if all.get(name)?.is_some_and(|record| record.target == *top) {
            job.progress.line(&format!("naming to {name}"));
            continue;
        }
        // What had the name stays until somebody prunes, as with docker.
        if let Some(record) = all
            .get(name)?
            .filter(|record| record.target.digest != top.digest)
        {
            all.keep(job.lease, &record)?;
        }
        all.set(job.lease, name, top)?;
        job.progress.line(&format!("naming to {name}"));
    }
    if names.is_empty() {
        all.keep_unnamed(job.lease, top)?;
    }
    Ok(())
}

/// Layouts and archives of images, by all of their names.
fn save(job: &Job<'_>, top: &Descriptor, output: &Output, how: &How) -> Result<()> {
    let own: Vec<Reference> = how
        .names
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_>>()
        .context(|| "the name of an output")?;
    let names = match own.as_slice() {
        [] => job.asked.names.as_slice(),
        own => own,
    };
    let digest = &top.digest;
    let called = |name: &Reference| Subject::Called(digest.clone(), name.clone());
    let mut subjects: Vec<Subject> = names.iter().map(called).collect();
    if subjects.is_empty() {
        subjects.push(Subject::Digest(digest.clone()));
    }
    let stream = || transport::STREAM.into();
    let to = match output {
        Output::Oci {
            dest: Some(dest),
            archive: false,
        } => Location::Layout {
            directory: dest.clone(),
            // In a directory there may be others.
            name: names.is_empty().then(|| "latest".to_owned()),
        },
        Output::Oci { archive: false, .. } => {
            return Err(Error::invalid("type=oci,tar=false needs dest=DIRECTORY"));
        }
        Output::Oci { dest, .. } => Location::LayoutArchive {
            file: dest.clone().unwrap_or_else(stream),
            name: None,
        },
        Output::Docker { dest } => Location::DockerArchive {
            file: dest.clone().unwrap_or_else(stream),
            reference: None,
        },
        _ => return Ok(()),
    };
    copy(job, &subjects, &to)
}

fn push(job: &Job<'_>, top: &Descriptor, name: &Reference, by_digest: bool) -> Result<()> {
    let digest = &top.digest;
    let to = match by_digest {
        true => name.with_digest(digest.clone()),
        false => name.clone(),
    };
    job.progress.line(&format!("pushing {to}"));
    let subject = Subject::Digest(digest.clone());
    copy(job, &[subject], &Location::Registry(to))
}

pub(super) fn copy(job: &Job<'_>, subjects: &[Subject], to: &Location) -> Result<()> {
    let cancel = job.cancel.child();
    let client = match to {
        Location::Registry(_) => Some(images::telling_client(
            job.settings,
            job.flags.authfile.as_deref(),
            &cancel,
            job.notice().clone(),
        )?),
        _ => None,
    };
    let means = Means {
        store: job.store,
        client: client.as_ref(),
        watch: &|_| (),
        cancel: &cancel,
    };
    let how = Out {
        platforms: &Platforms::All,
        layers: Layers::Keep,
        oci: matches!(to, Location::Layout { .. } | Location::LayoutArchive { .. }),
        uploads: UPLOADS,
    };
    let mut out = std::io::stdout();
    transport::copy_out(&means, subjects, to, &how, Some(&mut out))?;
    out.flush().context(|| "cannot write to standard output")
}

/// All files of a result, mounted nowhere.
pub(super) fn files(job: &Job<'_>, built: &Built) -> Result<OwnedFd> {
    let stack = Stack::open(job.store, &built.solved.layers, job.marks())?;
    let mounted = stack.detached(&Mounting::default())?;
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&mounted, ".", flags, Mode::empty()).context(|| "cannot open the result")
}

/// What buildx tells of how it was built; `BUILDX_METADATA_PROVENANCE` says how much.
fn provenance(job: &Job<'_>, built: &[Built], facts: &attest::Facts, metadata: &mut Value) {
    const KEY: &str = "buildx.build.provenance";
    let how = std::env::var("BUILDX_METADATA_PROVENANCE").unwrap_or_default();
    let max = match how.as_str() {
        "disabled" | "0" | "f" | "F" | "false" | "FALSE" | "False" => return,
        how => how == "max",
    };
    let several = job.asked.several || built.len() > 1;
    for one in built {
        let stage = &one.graph.stages[one.graph.target];
        let key = match several {
            true => format!("{KEY}/{}", stage.platform),
            false => KEY.to_owned(),
        };
        metadata[key] = attest::told(job, one, facts, max);
    }
}

/// Files for scripts, and the identifier.
fn tell(
    job: &Job<'_>,
    built: &[Built],
    top: Option<&Descriptor>,
    names: &[Reference],
    facts: &attest::Facts,
) -> Result<()> {
    let config = match built {
        [one] => one
            .written
            .first()
            .map(|written| written.config.to_string()),
        _ => None,
    };
    let id = config
        .clone()
        .or_else(|| top.map(|top| top.digest.to_string()));
    if let (Some(path), Some(id)) = (&job.flags.iidfile, &id) {
        std::fs::write(path, id).context(|| format!("cannot write {path}"))?;
    }
    if let Some(path) = &job.flags.metadata_file {
        let mut metadata = json!({});
        if let Some(top) = top {
            metadata["containerimage.digest"] = json!(top.digest);
            metadata["containerimage.descriptor"] = json!(top);
        }
        if let Some(config) = &config {
            metadata["containerimage.config.digest"] = json!(config);
        }
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            metadata["image.name"] = Value::String(names.join(","));
        }
        provenance(job, built, facts, &mut metadata);
        let text = serde_json::to_vec_pretty(&metadata)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
        std::fs::write(path, text).context(|| format!("cannot write {path}"))?;
    }
    if let Some(id) = id {
        match job.flags.quiet {
            true => job.print(&format!("{id}\n"))?,
            false => job.progress.line(&format!("image {id}")),
        }
    }
    Ok(())
}
