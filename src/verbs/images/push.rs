//! `rcrun push`, `rcrun save` and `rcrun load`.

use std::io::{IsTerminal, Write as _};

use rcrun_image::catalog::Meant;
use rcrun_image::closure::Platforms;
use rcrun_image::platform::Platform;
use rcrun_image::pull::DOWNLOADS;
use rcrun_image::push::UPLOADS;
use rcrun_image::recompress::{Format, Layers, Which};
use rcrun_image::registry::Cancel;
use rcrun_image::stored::Subject;
use rcrun_image::transport::{self, In, Location, Means, Naming, Out, STREAM};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, Result};

use super::pull::{show, tell_of};
use crate::progress::{Progress, Words};
use crate::settings::Settings;
use crate::{images, interrupt, output};

pub(super) const USAGE: &str = "IMAGE [DESTINATION]

DESTINATION is a registry's name, docker://NAME, oci:DIRECTORY[:NAME],
oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]. Without it the image goes
where its name says. In OCI layouts, Docker's manifests become OCI's.";

pub(super) const SAVE: &str = "IMAGE...

Writes an archive as `docker save` does, or with --format oci one of an OCI
layout, to a file or to standard output.";

const SENT: Words = Words {
    moved: ("sent", ""),
    done: "",
};

/// send an image to a registry, a layout or an archive
#[derive(Debug, clap::Parser)]
#[command(name = "push", disable_help_flag = true)]
pub(crate) struct Push {
    /// take credentials from this file
    #[arg(long, value_name = "FILE")]
    authfile: Option<String>,
    /// compress layers anew that are not compressed this way: gzip, zstd
    #[arg(long, value_name = "FORMAT", value_parser = ["gzip", "zstd"])]
    compression: Option<String>,
    /// only the image for this platform: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// print nothing but the digest
    #[arg(long, short)]
    quiet: bool,
    #[arg(required = true)]
    image: String,
    destination: Option<Location>,
}

impl crate::verbs::Run for Push {
    fn run(self, settings: &Settings) -> Result<u8> {
        let store = settings.store()?;
        let subject = subject(&store, &self.image)?;
        let to = match (&self.destination, &subject) {
            (Some(to), _) => to.clone(),
            (None, Subject::Name(name)) => Location::Registry(name.clone()),
            (None, Subject::Digest(_) | Subject::Called(..)) => {
                return Err(Error::invalid(format!(
                    "cannot push {}: it is not a name, so say where to",
                    self.image
                )));
            }
        };
        let layers = match self.compression.as_deref() {
            Some("gzip") => Layers::Compress(Format::Gzip(None), Which::Others),
            Some(_) => Layers::Compress(Format::Zstd(None), Which::Others),
            None => Layers::Keep,
        };
        let platforms = platforms(self.platform.clone());
        let cancel = Cancel::new();
        let progress = std::sync::Arc::new(Progress::new(self.quiet, SENT));
        let client = match to {
            Location::Registry(_) => {
                let authfile = self.authfile.as_deref();
                Some(images::client(
                    settings,
                    authfile,
                    &cancel,
                    Some(&progress),
                )?)
            }
            _ => None,
        };
        let means = Means {
            store: &store,
            client: client.as_ref(),
            watch: &|event| show(&progress, &to.to_string(), event),
            cancel: &cancel,
        };
        let how = Out {
            platforms: &platforms,
            layers,
            // What reads such layouts knows OCI's documents only.
            oci: matches!(to, Location::Layout { .. } | Location::LayoutArchive { .. }),
            uploads: UPLOADS,
        };
        let tick = || progress.tick();
        let tick: Option<&(dyn Fn() + Sync)> = progress.ticks().then_some(&tick);
        let ended = interrupt::watched(&|| cancel.cancel(), tick, || {
            let subjects = std::slice::from_ref(&subject);
            let sent = transport::copy_out(&means, subjects, &to, &how, None);
            progress.end(sent.is_ok());
            sent
        })?;
        if let Some(code) = ended.exit_code().filter(|_| ended.result.is_err()) {
            progress.line("interrupted: what has arrived there is not sent again");
            return Ok(code);
        }
        for target in ended.result? {
            output::print(&format!("{}\n", target.digest))?;
        }
        Ok(0)
    }
}

fn platforms(one: Option<Platform>) -> Platforms {
    match one {
        Some(platform) => Platforms::One(platform),
        None => Platforms::AllOr(Platform::host()),
    }
}

/// What a person means, as copies out of the store want it.
fn subject(store: &Store, text: &str) -> Result<Subject> {
    let catalog = images::catalog(store, &images::users(store)?)?;
    Ok(match catalog.find(text)? {
        Meant::Name(record, _) => Subject::Name(record.reference()?),
        Meant::Image(listed) => Subject::Digest(listed.image.manifest.digest.clone()),
    })
}

/// write images into an archive
#[derive(Debug, clap::Parser)]
#[command(name = "save", disable_help_flag = true)]
pub(crate) struct Save {
    /// kind of archive: docker (default), oci
    #[arg(long, value_name = "FORMAT", default_value = "docker", value_parser = ["docker", "oci"])]
    format: String,
    /// write to this file instead of standard output
    #[arg(long, short, value_name = "FILE", default_value = STREAM)]
    output: String,
    /// only the image for this platform: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    #[arg(required = true)]
    images: Vec<String>,
}

impl crate::verbs::Run for Save {
    fn run(self, settings: &Settings) -> Result<u8> {
        if self.output == STREAM && std::io::stdout().is_terminal() {
            return Err(Error::invalid("an archive is not written to a terminal")
                .with_hint("give --output FILE, or redirect standard output"));
        }
        let store = settings.store()?;
        let mut subjects = Vec::new();
        for image in &self.images {
            subjects.push(subject(&store, image)?);
        }
        let file = self.output.clone().into();
        let to = match self.format.as_str() {
            "oci" => Location::LayoutArchive { file, name: None },
            _ => Location::DockerArchive {
                file,
                reference: None,
            },
        };
        let cancel = Cancel::new();
        let means = Means {
            store: &store,
            client: None,
            watch: &|_| (),
            cancel: &cancel,
        };
        let how = Out {
            platforms: &platforms(self.platform),
            layers: Layers::Keep,
            oci: self.format == "oci",
            uploads: UPLOADS,
        };
        let ended = interrupt::watched(&|| cancel.cancel(), None, || {
            let mut out = std::io::stdout();
            let saved = transport::copy_out(&means, &subjects, &to, &how, Some(&mut out));
            saved.and_then(|_| out.flush().context(|| "cannot write to standard output"))
        })?;
        match ended.exit_code().filter(|_| ended.result.is_err()) {
            Some(code) => Ok(code),
            None => ended.result.map(|()| 0),
        }
    }
}

/// read images from an archive that `save` or another program wrote
#[derive(Debug, clap::Parser)]
#[command(name = "load", disable_help_flag = true)]
pub(crate) struct Load {
    /// read this file instead of standard input
    #[arg(long, short, value_name = "FILE")]
    input: Option<String>,
    /// unpack the image for this platform: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// print names only
    #[arg(long, short)]
    quiet: bool,
}

const LOADED: Words = Words {
    moved: ("read", "unpacking"),
    done: "unpacked",
};

impl crate::verbs::Run for Load {
    fn run(self, settings: &Settings) -> Result<u8> {
        if self.input.is_none() && std::io::stdin().is_terminal() {
            return Err(
                Error::invalid("there is no archive to be read at a terminal")
                    .with_hint("give --input FILE, or redirect standard input"),
            );
        }
        let way = images::way();
        let store = settings.store()?;
        let progress = Progress::new(self.quiet, LOADED);
        let cancel = Cancel::new();
        let means = Means {
            store: &store,
            client: None,
            watch: &|event| show(&progress, "archive", event),
            cancel: &cancel,
        };
        let how = In {
            platforms: &platforms(self.platform.clone()),
            unpack: Some(way),
            downloads: DOWNLOADS,
            naming: &Naming::AsSaid,
        };
        let tick = || progress.tick();
        let tick: Option<&(dyn Fn() + Sync)> = progress.ticks().then_some(&tick);
        let ended = interrupt::watched(&|| cancel.cancel(), tick, || {
            let loaded = match &self.input {
                Some(path) => std::fs::File::open(path)
                    .context(|| format!("cannot open {path}"))
                    .and_then(|mut file| transport::load(&means, &how, &mut file)),
                None => transport::load(&means, &how, &mut std::io::stdin()),
            };
            progress.end(loaded.is_ok());
            loaded
        })?;
        match ended.exit_code().filter(|_| ended.result.is_err()) {
            Some(code) => Ok(code),
            None => tell_of(&ended.result?).map(|()| 0),
        }
    }
}
