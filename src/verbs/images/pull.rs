//! `rcrun pull`.

use std::sync::Arc;

use rcrun_image::closure::Platforms;
use rcrun_image::platform::Platform;
use rcrun_image::progress::Event;
use rcrun_image::pull::{self, DOWNLOADS, Pulled, Request, Way};
use rcrun_image::reference::Reference;
use rcrun_image::registry::{Cancel, Client};
use rcrun_image::transport::{self, Imported, In, Location, Means, Naming};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Error, Result};

use crate::progress::{Phase, Progress, Words};
use crate::settings::Settings;
use crate::{images, interrupt, output, report};

pub(super) const USAGE: &str = "NAME[:TAG|@DIGEST]...

Prints the name in full on standard output, and progress on standard error.
What is interrupted goes on where it stopped when it is pulled again.";

/// download images from a registry
#[derive(Debug, clap::Parser)]
#[command(name = "pull", disable_help_flag = true)]
pub(crate) struct Pull {
    /// download all tags of the repository
    #[arg(long, short)]
    all_tags: bool,
    /// take credentials from this file
    #[arg(long, value_name = "FILE")]
    authfile: Option<String>,
    /// download the images for all platforms; that for this machine is unpacked
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// take the image for this platform: OS/ARCHITECTURE[/VARIANT], or `all`
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Wanted>,
    /// print nothing but the name
    #[arg(long, short)]
    quiet: bool,
    #[arg(required = true)]
    images: Vec<String>,
}

/// What `--platform` takes.
#[derive(Debug, Clone)]
enum Wanted {
    All,
    One(Platform),
}

impl std::str::FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" => Ok(Self::All),
            text => text.parse().map(Self::One),
        }
    }
}

const WORDS: Words = Words {
    moved: ("fetched", "unpacking"),
    done: "unpacked",
};

/// Pulls an image for another verb, with progress on standard error. A signal that called it off comes
/// as the exit code.
pub(crate) fn fetch(
    settings: &Settings,
    store: &Store,
    reference: &Reference,
    platform: &Platform,
    quiet: bool,
) -> Result<Option<u8>> {
    let job = Job {
        settings,
        authfile: None,
        store,
        way: images::way(),
        platforms: Platforms::One(platform.clone()),
        progress: Arc::new(Progress::new(quiet, WORDS)),
        cancel: Cancel::new(),
    };
    let tick = || job.progress.tick();
    let tick: Option<&(dyn Fn() + Sync)> = job.progress.ticks().then_some(&tick);
    let ended = interrupt::watched(&|| job.cancel.cancel(), tick, || job.one(reference))?;
    match (ended.exit_code(), ended.result) {
        (Some(code), Err(_)) => Ok(Some(code)),
        (_, result) => result.map(|_| None),
    }
}

impl crate::verbs::Run for Pull {
    fn run(self, settings: &Settings) -> Result<u8> {
        let way = images::way();
        let store = settings.store()?;
        let job = Job {
            settings,
            authfile: self.authfile.as_deref(),
            store: &store,
            way,
            platforms: match (self.all_platforms, &self.platform) {
                (true, _) | (_, Some(Wanted::All)) => Platforms::All,
                (_, Some(Wanted::One(platform))) => Platforms::One(platform.clone()),
                (_, None) => Platforms::One(Platform::host()),
            },
            progress: Arc::new(Progress::new(self.quiet, WORDS)),
            cancel: Cancel::new(),
        };
        let tick = || job.progress.tick();
        let tick: Option<&(dyn Fn() + Sync)> = job.progress.ticks().then_some(&tick);
        let ended = interrupt::watched(&|| job.cancel.cancel(), tick, || {
            report::each(&self.images, |image| job.any(image, self.all_tags))
        })?;
        if let Some(code) = ended.exit_code().filter(|_| ended.result.is_err()) {
            let text = "interrupted: what has arrived is kept, and the next pull goes on with it";
            job.progress.line(text);
            return Ok(code);
        }
        ended.result?;
        images::settle(&store);
        Ok(0)
    }
}

/// What is to be known of images where there is one id only.
const SINGLE: &str = "Note: you have no subordinate ids, so all files of the image belong to you, and \
                      containers have no user but root (docs/rootless.md)";

/// What is the same for all images of a call.
struct Job<'a> {
    settings: &'a Settings,
    authfile: Option<&'a str>,
    store: &'a Store,
    way: Way,
    platforms: Platforms,
    progress: Arc<Progress>,
    /// Called off by a signal; a client of a pull that fails is of no use afterwards, and has its own.
    cancel: Cancel,
}

impl Job<'_> {
    fn any(&self, image: &str, all_tags: bool) -> Result<()> {
        self.cancel.check()?;
        let reference = match image.parse()? {
            Location::Registry(reference) => reference,
            other => return self.elsewhere(&other),
        };
        if !all_tags {
            if !names_version(image) {
                let tag = rcrun_image::reference::DEFAULT_TAG;
                self.progress.line(&format!("Using default tag: {tag}"));
            }
            return self.tell(&reference, &self.one(&reference)?);
        }
        if names_version(image) {
            return Err(Error::invalid(format!(
                "--all-tags takes a repository's name without tag and digest, not {image}"
            )));
        }
        let cancel = self.cancel.child();
        let tags = self.client(&cancel)?.tags(&reference)?;
        report::each(&tags, |tag| {
            let reference = reference.with_tag(tag)?;
            self.tell(&reference, &self.one(&reference)?)
        })
    }

    /// From a layout or an archive.
    fn elsewhere(&self, from: &Location) -> Result<()> {
        let cancel = self.cancel.child();
        let means = Means {
            store: self.store,
            client: None,
            watch: &|event| show(&self.progress, &from.to_string(), event),
            cancel: &cancel,
        };
        let how = In {
            platforms: &self.platforms,
            unpack: Some(self.way),
            downloads: DOWNLOADS,
            naming: &Naming::AsSaid,
        };
        let mut input = std::io::stdin();
        let images = transport::copy_in(&means, from, &how, Some(&mut input));
        self.progress.end(images.is_ok());
        let images = images?;
        self.tell_of_owners();
        tell_of(&images)
    }

    fn tell_of_owners(&self) {
        if self.way == Way::Single {
            self.progress.line(SINGLE);
        }
    }

    fn one(&self, reference: &Reference) -> Result<Pulled> {
        let cancel = self.cancel.child();
        let client = self.client(&cancel)?;
        let request = Request {
            reference,
            platform: &self.platforms.machine(),
            unpack: Some(self.way),
            downloads: DOWNLOADS,
            watch: &|event| show(&self.progress, &reference.familiar(), event),
            cancel: &cancel,
        };
        let pulled = match self.platforms {
            Platforms::All => pull::pull_all(self.store, &client, &request),
            Platforms::One(_) | Platforms::AllOr(_) => pull::pull(self.store, &client, &request),
        };
        self.progress.end(pulled.is_ok());
        if pulled.as_ref().is_ok_and(|pulled| !pulled.unchanged) {
            self.tell_of_owners();
        }
        pulled
    }

    fn client(&self, cancel: &Cancel) -> Result<Client> {
        images::client(self.settings, self.authfile, cancel, Some(&self.progress))
    }

    fn tell(&self, reference: &Reference, pulled: &Pulled) -> Result<()> {
        let name = reference.familiar();
        let status = match pulled.unchanged {
            true => format!("Image is up to date for {name}"),
            false => format!("Downloaded newer image for {name}"),
        };
        let digest = &pulled.record.target.digest;
        self.progress.line(&format!("Digest: {digest}"));
        self.progress.line(&format!("Status: {status}"));
        output::print(&format!("{reference}\n"))
    }
}

/// Whether a reference, as it was typed, has a tag or a digest.
fn names_version(text: &str) -> bool {
    let last = text.rsplit('/').next().unwrap_or(text);
    last.contains([':', '@'])
}

/// What came: each name, or what has none.
pub(super) fn tell_of(images: &[Imported]) -> Result<()> {
    for image in images {
        for record in &image.names {
            let name = record.reference()?.familiar();
            output::print(&format!("Loaded image: {name}\n"))?;
        }
        if image.names.is_empty() {
            let digest = &image.target.digest;
            output::print(&format!("Loaded image: {digest}\n"))?;
        }
    }
    Ok(())
}

/// Shows what happens.
pub(super) fn show(progress: &Progress, name: &str, event: Event) {
    match event {
        Event::Resolved { digest, layers } => {
            let size = layers.iter().map(|layer| layer.size).sum();
            let count = layers.len();
            let s = if count == 1 { "" } else { "s" };
            let size = crate::units::size(size);
            progress.line(&format!("{name}: {count} layer{s}, {size} ({digest})"));
            progress.begin(layers.into_iter().map(|layer| (layer.digest, layer.size)));
        }
        Event::Exists(digest) | Event::Mounted(digest) => progress.reached(&digest, Phase::Exists),
        Event::Waiting(digest) => progress.reached(&digest, Phase::Elsewhere),
        Event::Received(digest, bytes) | Event::Sent(digest, bytes) => {
            progress.moved(&digest, bytes);
        }
        Event::Fetched(digest) => progress.reached(&digest, Phase::Moved),
        Event::Delivered(digest) => {
            progress.reached(&digest, Phase::Moved);
            progress.reached(&digest, Phase::Done);
        }
        Event::Unpacked(digest) => progress.reached(&digest, Phase::Done),
        // Before it is sent: the bytes are counted then.
        Event::Compressed(..) => {}
        Event::Recompressed(old, new) => progress.became(&old, new.digest, new.size),
    }
}
