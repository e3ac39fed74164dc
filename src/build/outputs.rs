//! Where a result goes: `--output`, `--tag`, `--push`, `--iidfile`, `--metadata-file`.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rcrun_builder::context::copy::{Options, Request, Source, Times, Unpack, select};
use rcrun_builder::context::tree::{Owners, Tree};
use rcrun_image::closure::Platforms;
use rcrun_image::document::{Descriptor, media};
use rcrun_image::names::Names;
use rcrun_image::push::UPLOADS;
use rcrun_image::recompress::Layers;
use rcrun_image::reference::Reference;
use rcrun_image::stored::Subject;
use rcrun_image::transport::{self, Location, Means, Out};
use rcrun_overlay::digest::Algorithm;
use rcrun_overlay::layer::diff;
use rcrun_overlay::snapshot::{Mounting, Stack};
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::arguments::{How, Output};
use super::job::{Built, Job, open_directory};
use crate::images;

/// Whether any of these is made of an image. Nothing said means the store.
pub(super) fn needs_image(outputs: &[(Output, How)]) -> bool {
    let image = |(output, _): &(Output, How)| {
        matches!(
            output,
            Output::Image { .. } | Output::Oci { .. } | Output::Docker { .. }
        )
    };
    outputs.is_empty() || outputs.iter().any(image)
}

/// Writes everything.
pub(super) fn write(job: &Job<'_>, built: &[Built]) -> Result<()> {
    let top = top(job, built)?;
    let mut kept = job.asked.names.clone();
    let mut pushed: Vec<Reference> = Vec::new();
    let mut store = job.asked.outputs.is_empty() || job.flags.load || job.flags.push;
    for (output, _) in &job.asked.outputs {
        match output {
            Output::Image { names, push } => {
                let names: Vec<Reference> = names
                    .iter()
                    .map(|name| name.parse())
                    .collect::<Result<_>>()?;
                if *push {
                    pushed.extend(if names.is_empty() {
                        kept.clone()
                    } else {
                        names.clone()
                    });
                }
                kept.extend(names);
                store = true;
            }
            Output::Nothing => {}
            Output::Tar { dest } => {
                one(built)?;
                let mut sink = sink(dest.as_deref())?;
                archive(job, &built[0], &mut sink)?;
            }
            Output::Local { dest } => local(job, built, dest)?,
            Output::Oci { .. } | Output::Docker { .. } => {}
        }
    }
    if let Some(top) = &top {
        if store {
            keep(job, top, &kept)?;
        }
        for (output, _) in &job.asked.outputs {
            save(job, top, output)?;
        }
        if job.flags.push {
            pushed.extend(job.asked.names.iter().cloned());
        }
        for name in &pushed {
            push(job, name)?;
        }
    }
    tell(job, built, top.as_ref(), &kept)
}

fn one(built: &[Built]) -> Result<()> {
    match built.len() {
        1 => Ok(()),
        _ => Err(Error::unsupported(
            "an archive of files is of one platform only",
        )),
    }
}

/// The image's manifest, or an index of several.
fn top(job: &Job<'_>, built: &[Built]) -> Result<Option<Descriptor>> {
    let written: Vec<&Descriptor> = built
        .iter()
        .filter_map(|one| one.written.as_ref().map(|written| &written.manifest))
        .collect();
    match written.as_slice() {
        [] => Ok(None),
        [only] if !job.asked.several => Ok(Some(Descriptor {
            platform: None,
            ..(*only).clone()
        })),
        several => {
            let docker = several[0].media_type == media::DOCKER_MANIFEST;
            let kind = if docker {
                media::DOCKER_LIST
            } else {
                media::OCI_INDEX
            };
            let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": several});
            let bytes = serde_json::to_vec(&index)
                .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
            let content = job.store.content();
            let digest = content
                .prepare(job.lease, Algorithm::Sha256, &bytes)?
                .commit()?
                .digest()
                .clone();
            Ok(Some(Descriptor {
                media_type: kind.to_owned(),
                digest,
                size: bytes.len() as u64,
                platform: None,
                ..several[0].clone()
            }))
        }
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

/// Layouts and archives of images.
fn save(job: &Job<'_>, top: &Descriptor, output: &Output) -> Result<()> {
    let name = job.asked.names.first();
    let to = match output {
        Output::Oci {
            dest: Some(dest),
            archive: false,
        } => Location::Layout {
            directory: dest.clone(),
            name: name.and_then(Reference::tag).map(str::to_owned),
        },
        Output::Oci { archive: false, .. } => {
            return Err(Error::invalid("type=oci,tar=false needs dest=DIRECTORY"));
        }
        Output::Oci { dest, .. } => Location::LayoutArchive {
            file: dest.clone().unwrap_or_else(|| transport::STREAM.into()),
            name: name.and_then(Reference::tag).map(str::to_owned),
        },
        Output::Docker { dest } => Location::DockerArchive {
            file: dest.clone().unwrap_or_else(|| transport::STREAM.into()),
            reference: name.cloned(),
        },
        _ => return Ok(()),
    };
    copy(job, Subject::Digest(top.digest.clone()), &to)
}

fn push(job: &Job<'_>, name: &Reference) -> Result<()> {
    job.progress.line(&format!("pushing {name}"));
    copy(
        job,
        Subject::Name(name.clone()),
        &Location::Registry(name.clone()),
    )
}

fn copy(job: &Job<'_>, subject: Subject, to: &Location) -> Result<()> {
    let cancel = job.cancel.child();
    let client = match to {
        Location::Registry(_) => Some(images::client(
            job.settings,
            job.flags.authfile.as_deref(),
            &cancel,
            None,
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
    transport::copy_out(&means, &[subject], to, &how, Some(&mut out))?;
    out.flush().context(|| "cannot write to standard output")
}

/// All files of a result, mounted nowhere.
fn files(job: &Job<'_>, built: &Built) -> Result<OwnedFd> {
    let stack = Stack::open(job.store, &built.solved.layers, job.marks())?;
    let mounted = stack.detached(&Mounting::default())?;
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&mounted, ".", flags, Mode::empty()).context(|| "cannot open the result")
}

fn sink(dest: Option<&Path>) -> Result<Box<dyn Write>> {
    Ok(match dest {
        Some(path) => {
            Box::new(File::create(path).context(|| format!("cannot create {}", path.display()))?)
        }
        None => Box::new(std::io::stdout()),
    })
}

fn archive(job: &Job<'_>, built: &Built, sink: &mut dyn Write) -> Result<()> {
    let root = files(job, built)?;
    let mut options = diff::Options::new(job.marks());
    options.latest = Some(built.solved.epoch);
    let buffered = std::io::BufWriter::with_capacity(128 << 10, sink);
    let mut buffered = diff::write(root.as_fd(), options, buffered)?;
    buffered
        .flush()
        .context(|| "cannot write an archive of the files")
}

fn local(job: &Job<'_>, built: &[Built], dest: &Path) -> Result<()> {
    for one in built {
        let mut dest = dest.to_owned();
        if built.len() > 1 {
            let stage = &one.graph.stages[one.graph.target];
            dest.push(stage.platform.to_string().replace('/', "_"));
        }
        std::fs::create_dir_all(&dest).context(|| format!("cannot make {}", dest.display()))?;
        let tree = Tree::new(files(job, one)?, Owners::Kept, "the result");
        let request = Request {
            sources: vec![Source::Path {
                tree,
                path: ".".to_owned(),
            }],
            dest: "/".to_owned(),
            owner: None,
            chmod: None,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::No,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let options = Options {
            times: Times::Keep,
            threads,
        };
        let root = open_directory(&dest)?;
        select(&request)?
            .execute(root.as_fd(), options)
            .context(|| format!("cannot write to {}", dest.display()))?;
    }
    Ok(())
}

/// Files for scripts, and the identifier.
fn tell(
    job: &Job<'_>,
    built: &[Built],
    top: Option<&Descriptor>,
    names: &[Reference],
) -> Result<()> {
    let config = match built {
        [one] => one
            .written
            .as_ref()
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
