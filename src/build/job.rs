//! One `rcrun build`: context and Dockerfile, a graph for each platform, steps, and the result.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcrun_builder::cache::Cache;
use rcrun_builder::context::source::{self, Context as Files};
use rcrun_builder::context::tree::Tree;
use rcrun_builder::dockerfile::{self, Diagnostic, Dockerfile};
use rcrun_builder::events::{Event, Watch};
use rcrun_builder::export::{self, Target, Written};
use rcrun_builder::graph::{self, Graph, Problem, Wanted};
use rcrun_builder::shrink::shrink;
use rcrun_builder::solve::{Done, Solved};
use rcrun_image::platform::Platform;
use rcrun_image::progress;
use rcrun_image::pull::Way;
use rcrun_image::registry::{Cancel, Notice};
use rcrun_overlay::layer::Overlay;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::lease::{LayerId, Lease};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::asked::Asked;
use super::bases::Images;
use super::call::Call;
use super::contexts::Contexts;
use super::places::{self, Place};
use super::progress::{Progress, Style};
use super::result::{self, Variant};
use super::{attest, caches, check, epoch, failure, outputs};
use crate::settings::Settings;
use crate::verbs::build::Build;
use crate::{images, interrupt, output};

/// Builds, and returns the exit code.
pub(crate) fn build(flags: &Build, settings: &Settings) -> Result<u8> {
    let mut asked = Asked::read(flags)?;
    let way = images::way();
    if way == Way::Single {
        return Err(Error::unsupported(
            "cannot build with a single user id: files of images belong to several",
        )
        .with_hint(
            "give this user ranges in /etc/subuid and /etc/subgid, as usermod --add-subuids does",
        ));
    }
    let store = settings.store()?;
    let cache = Cache::open(&store)?;
    places::sweep(&store, &settings.runtime)?;
    cache.sweep()?;
    Layers::new(&store)?.remove_abandoned()?;
    let style = match flags.quiet {
        true => Style::Quiet,
        false => Style::parse(&flags.progress)?,
    };
    let progress = Arc::new(Progress::new(style));
    let shown = Arc::clone(&progress);
    asked.settings.git.notice = images::told(move |line| shown.line(line));
    let cancel = Cancel::new();
    let lease = store.lease()?;
    // What is fetched goes where steps work: it is removed with it.
    let place = Place::new(&store)?;
    let (_for_git, agent) = asked.agent_of_git(place.path())?;
    asked.settings.git.ssh_agent = agent;
    let (variants, which) = result::variants(&asked.outputs, asked.docker, &asked.annotations);
    let job = Job {
        flags,
        asked: &asked,
        settings,
        store: &store,
        cache: &cache,
        lease: &lease,
        way,
        progress: &progress,
        cancel: &cancel,
        scratch: place.path(),
        variants,
        which,
    };
    let tick = || progress.tick();
    let tick: Option<&(dyn Fn() + Sync)> = progress.ticks().then_some(&tick);
    let ended = interrupt::watched(&|| cancel.cancel(), tick, || {
        let done = job.run();
        progress.end();
        done
    })?;
    if let Some(code) = ended.exit_code().filter(|_| ended.result.is_err()) {
        progress.line("interrupted: the steps that were finished are kept");
        return Ok(code);
    }
    match ended.result {
        Ok(code) => Ok(code),
        Err(failed) => Err(failure::report(failed, &progress)),
    }
}

/// Refuses a Dockerfile that is written for another program than the one whose language this is: the
/// program would have to be pulled and run (`# syntax=`, `BUILDKIT_SYNTAX`).
fn frontend(file: &Dockerfile, arguments: &BTreeMap<String, String>) -> Result<()> {
    let asked = arguments
        .get("BUILDKIT_SYNTAX")
        .or(file.directives.syntax.as_ref());
    let Some(asked) = asked.and_then(|text| text.split_whitespace().next()) else {
        return Ok(());
    };
    let path = asked.split('@').next().unwrap_or(asked);
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.split(':').next().unwrap_or(name);
    match name {
        "dockerfile" | "dockerfile-upstream" | "dockerfile.v0" => Ok(()),
        _ => Err(Error::unsupported(format!(
            "the Dockerfile is written for the frontend {asked:?}, and not for docker/dockerfile"
        ))
        .with_hint("only the language of docker/dockerfile is built in; leave the syntax line out if it is that")),
    }
}

/// Why a build failed.
pub(super) enum Failed {
    /// For a reason that has nothing to do with a Dockerfile.
    Error(Error),
    /// The Dockerfile cannot be read.
    File(String, String, Vec<Diagnostic>),
    /// An instruction.
    Problem(String, String, Problem),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// A build.
pub(super) struct Job<'a> {
    pub(super) flags: &'a Build,
    pub(super) asked: &'a Asked,
    pub(super) settings: &'a Settings,
    pub(super) store: &'a Store,
    pub(super) cache: &'a Cache,
    pub(super) lease: &'a Lease,
    pub(super) way: Way,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
    pub(super) scratch: &'a Path,
    /// The ways in which the image is written, and which one each output means.
    pub(super) variants: Vec<Variant>,
    which: Vec<usize>,
}

/// A platform's image.
pub(super) struct Built {
    pub(super) graph: Graph,
    pub(super) solved: Arc<Solved>,
    /// One for each way in which outputs want it.
    pub(super) written: Vec<Written>,
    /// Its layers before they were made one.
    pub(super) layers: Vec<LayerId>,
    /// For other machines.
    pub(super) done: Done,
}

impl Job<'_> {
    fn run(&self) -> Result<u8, Failed> {
        let began = std::time::SystemTime::now();
        let files = self.files()?;
        if let Some(code) = self.told(&files)? {
            return Ok(code);
        }
        let text = failure::shown(&String::from_utf8_lossy(&files.dockerfile.text));
        let name = files.dockerfile.name.clone();
        let file = dockerfile::parse(&files.dockerfile.text);
        let file = file.map_err(|wrong| Failed::File(name.clone(), text.clone(), wrong))?;
        frontend(&file, &self.asked.wanted.arguments)?;
        let contexts = Contexts::new(self)?;
        let mut built = Vec::new();
        let platforms: Vec<Option<Platform>> = match self.asked.platforms.as_slice() {
            [] => vec![None],
            all => all.iter().cloned().map(Some).collect(),
        };
        for platform in platforms {
            let wanted = Wanted {
                platform,
                several: self.asked.platforms.len() > 1,
                contexts: contexts.named(),
                ..self.asked.wanted.clone()
            };
            let problem = |problem| Failed::Problem(name.clone(), text.clone(), problem);
            let time = epoch::resolve(self, &files.dated, &contexts, &file, &wanted);
            let time = time.map_err(problem)?;
            let (file, wanted) = graph::settle(&file, &wanted, time);
            let one = self.one(&file, &files.tree, &wanted, &built);
            built.push(one.map_err(problem)?);
        }
        let report = check::report(self.store, &files, &self.request(), false);
        if let Some(refusal) = report.refusal() {
            return Err(Error::invalid(refusal).into());
        }
        let facts = attest::Facts::new(self, &files, &contexts, began);
        facts.check(&self.asked.attest)?;
        outputs::write(self, &built, &facts)?;
        caches::write(self, &built)?;
        for warning in &report.warnings {
            self.progress
                .line(&format!("WARNING: {}", check::line(warning)));
        }
        self.limit()?;
        Ok(0)
    }

    /// Who is told what is tried again.
    pub(super) fn notice(&self) -> &Notice {
        &self.asked.settings.git.notice
    }

    /// What is only asked about the Dockerfile; the exit code.
    fn told(&self, files: &Files) -> Result<Option<u8>> {
        let Some(call) = Call::asked(self.flags)? else {
            return Ok(None);
        };
        check::answer(self.store, files, &self.request(), &call).map(Some)
    }

    /// What variables depend on.
    fn request(&self) -> dockerfile::Request {
        dockerfile::Request {
            build_args: self.asked.wanted.arguments.clone(),
            target_platform: self
                .asked
                .platforms
                .first()
                .cloned()
                .unwrap_or_else(graph::machine),
            target: self.asked.wanted.target.clone(),
            build_platform: graph::machine(),
        }
    }

    /// `--cache-limit`, or that of the settings.
    fn limit(&self) -> Result<()> {
        let limit = match &self.flags.cache_limit {
            Some(limit) => Some(limit.clone()),
            None => self.settings.file()?.build.cache_limit,
        };
        let Some(limit) = limit else {
            return Ok(());
        };
        let limit = crate::units::bytes(&limit).context(|| "the limit of the build cache")?;
        let shrunk = shrink(self.store, self.cache, Some(limit), Some(self.lease))?;
        if shrunk.forgotten + shrunk.mounts > 0 {
            images::sweep(self.store, &rcrun_overlay::gc::Policy::default())?;
        }
        Ok(())
    }

    /// One platform.
    fn one(
        &self,
        file: &Dockerfile,
        context: &Tree,
        wanted: &Wanted,
        before: &[Built],
    ) -> Result<Built, Problem> {
        let pulls = |name: &str, event: progress::Event| self.pulled(name, &event);
        let bases = Images {
            settings: self.settings,
            store: self.store,
            lease: self.lease,
            way: self.way,
            always: self.flags.pull,
            cancel: self.cancel,
            notice: self.notice(),
            watch: &pulls,
            known: Mutex::new(HashMap::new()),
        };
        let graph = graph::plan(file, wanted, &bases)?;
        let steps = before
            .iter()
            .flat_map(|one| &one.graph.stages)
            .map(|stage| stage.steps.len());
        let attempt = self.solve(&graph, context, steps.sum())?;
        let (made, done) = (attempt.made, attempt.done);
        // What was made is written out while layers are archived.
        std::thread::scope(|scope| {
            let settled = scope.spawn(|| self.settle(&made));
            let built = attempt.solved.and_then(|(solved, layers)| {
                let mut built = Built {
                    graph,
                    solved,
                    written: Vec::new(),
                    layers,
                    done,
                };
                for variant in &self.variants {
                    built.written.push(self.image(&built, variant)?);
                }
                Ok(built)
            });
            match settled.join() {
                Ok(settled) => settled.map_err(Problem::from).and(built),
                Err(_) => Err(Error::new(ErrorKind::Internal, "a thread panicked").into()),
            }
        })
    }

    /// Makes layers durable; if that took a sync, then all there are.
    fn settle(&self, made: &[LayerId]) -> Result<()> {
        let layers = Layers::new(self.store)?;
        if layers.settle(made)? > 0 {
            layers.settle_older(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Where results are written first.
    pub(super) fn target<'a>(&'a self, watch: &'a Watch<'a>) -> Target<'a> {
        Target {
            store: self.store,
            lease: self.lease,
            cache: self.cache,
            marks: self.marks(),
            watch,
        }
    }

    /// Which way of writing the image an output means.
    pub(super) fn variant(&self, output: usize) -> usize {
        self.which.get(output).copied().unwrap_or_default()
    }

    fn image(&self, built: &Built, variant: &Variant) -> Result<Written> {
        let watch = |event: &Event<'_>| self.progress.event(event);
        let target = self.target(&watch);
        let stage = &built.graph.stages[built.graph.target];
        let options = export::Options {
            annotations: variant.annotations.manifest(&stage.image.platform()),
            inline: caches::inline(&self.asked.cache_to).then_some(&built.done),
            squash: self.flags.squash,
            ..variant.options()
        };
        export::image(&target, &built.graph, &built.solved, &options)
    }

    pub(super) fn marks(&self) -> Overlay {
        match self.way {
            Way::Privileged => Overlay::Trusted,
            Way::Rootless | Way::Single => Overlay::User,
        }
    }

    /// Context and Dockerfile.
    fn files(&self) -> Result<Files> {
        let location = source::locate(&self.flags.context)?;
        let scratch = self.fresh("context")?;
        let arguments = source::Arguments {
            location: &location,
            file: self.flags.file.as_deref(),
            git: &self.asked.settings.git,
            scratch: &scratch,
        };
        let mut input: Box<dyn Read> = Box::new(std::io::stdin());
        source::open(&arguments, &mut *input)
    }

    /// A directory for something that is fetched.
    pub(super) fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch.join(name);
        std::fs::create_dir(&path).context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// A base image comes.
    fn pulled(&self, name: &str, event: &progress::Event) {
        use rcrun_image::progress::Event;
        match event {
            Event::Resolved { digest, layers } => {
                let size = crate::units::size(layers.iter().map(|layer| layer.size).sum());
                let count = layers.len();
                self.progress
                    .line(&format!("{name}: {count} layers, {size} ({digest})"));
            }
            Event::Unpacked(digest) => self.progress.line(&format!("{name}: {digest} unpacked")),
            _ => {}
        }
    }

    /// What scripts read.
    pub(super) fn print(&self, text: &str) -> Result<()> {
        output::print(text)
    }
}

/// Opens a directory of the host for a result.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .context(|| format!("cannot open {}", path.display()))
}
