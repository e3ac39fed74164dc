//! Does what a graph says, unless it was done before.
//!
//! Every stage that is needed has a thread; a step that takes files from another stage waits for that
//! one. A step is a cache key and, if there is no record of it, work: a layer is begun above those below,
//! changed by a copy or by a container, and published with its record. Whoever is killed leaves finished
//! steps, which count, and unfinished layers, which are swept.

mod access;
mod copy;
mod directory;
mod done;
mod explain;
pub(crate) mod import;
mod key;
mod make;
pub(crate) mod mounts;
mod run;
mod settings;
mod squash;
mod wait;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use rcrun_image::registry::Cancel;
use rcrun_overlay::layer::Overlay;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::lease::{LayerId, Lease};
use rcrun_overlay::store::Store;

use crate::cache::{Cache, Entry};
use crate::context::copy::StatCache;
use crate::context::tree::Tree;
use crate::events::{Event, StepId, Watch};
use crate::graph::{Base, Graph, Op, Problem, Source, Stage, Step};
use crate::runner::Runner;
use crate::{Digest, Error, ErrorKind, Result};
pub(crate) use access::way;
pub use done::{Done, DoneStep, Kind, Material};
pub use import::{Imports, Lost};
use key::Key;
pub use settings::{Secret, Settings, Tools};
use wait::Cell;

/// Stages that are built at the same time.
const WORKERS: usize = 16;

/// A stage that is done.
#[derive(Debug)]
pub struct Solved {
    /// What it depends on.
    pub key: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<LayerId>,
    /// How many of them are the base image's.
    pub inherited: usize,
    /// The latest modification time, seconds since 1970.
    pub epoch: i64,
    /// Its files, once somebody asked for them.
    mounted: OnceLock<Arc<OwnedFd>>,
}

/// Builds a graph.
pub struct Solver<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) cache: &'a Cache,
    pub(crate) graph: &'a Graph,
    pub(crate) context: &'a Tree,
    pub(crate) settings: &'a Settings,
    pub(crate) runner: &'a dyn Runner,
    pub(crate) watch: &'a Watch<'a>,
    pub(crate) cancel: Cancel,
    pub(crate) marks: Overlay,
    pub(crate) stats: StatCache,
    imports: Option<&'a Imports<'a>>,
    pending: import::Pending,
    lost: Mutex<Vec<import::Lost>>,
    layers: Layers,
    /// Those that were made.
    made: Mutex<Vec<LayerId>>,
    cells: Vec<Cell<Arc<Solved>>>,
    failed: Mutex<Option<Problem>>,
    done: Mutex<Done>,
    /// Whose step a person looked into: the others were called off for that.
    blamed: Mutex<Option<ThreadId>>,
    /// Of each stage, the number of its first step.
    numbers: Vec<StepId>,
}

impl std::fmt::Debug for Solver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Solver").finish_non_exhaustive()
    }
}

impl<'a> Solver<'a> {
    /// Of a graph. `first` is the number of its first step, where several graphs are built.
    pub fn new(
        tools: &Tools<'a>,
        graph: &'a Graph,
        context: &'a Tree,
        settings: &'a Settings,
        first: StepId,
    ) -> Result<Self> {
        let mut next = first;
        let mut numbers = Vec::with_capacity(graph.stages.len());
        for stage in &graph.stages {
            numbers.push(next);
            next += stage.steps.len();
        }
        let stats = StatCache::load(
            std::os::fd::AsFd::as_fd(&tools.cache.directory("last")?),
            "stats",
        );
        Ok(Self {
            store: tools.store,
            lease: tools.lease,
            cache: tools.cache,
            graph,
            context,
            settings,
            runner: tools.runner,
            watch: tools.watch,
            cancel: tools.cancel.child(),
            marks: tools.marks,
            stats,
            imports: tools.imports.filter(|imports| !imports.known.is_empty()),
            pending: Mutex::default(),
            lost: Mutex::default(),
            layers: Layers::new(tools.store)?,
            made: Mutex::default(),
            cells: graph.stages.iter().map(|_| Cell::new()).collect(),
            failed: Mutex::default(),
            done: Mutex::default(),
            blamed: Mutex::default(),
            numbers,
        })
    }

    /// Builds the target. What was made is not durable until [`Layers::settle`] has seen it.
    pub fn solve(&self) -> Result<Arc<Solved>, Problem> {
        // Whoever waits for a stage finds that its thread has begun: stages that others take files from
        // are begun first, and none takes any from a later one.
        let stages = self
            .graph
            .stages
            .iter()
            .enumerate()
            .filter(|(_, stage)| stage.needed);
        let mut order: Vec<usize> = stages.map(|(index, _)| index).collect();
        order.sort_by_key(|index| (!self.graph.stages[*index].steps.is_empty(), *index));
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS.min(order.len()) {
                scope.spawn(|| {
                    while let Some(index) =
                        order.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        self.one(*index);
                    }
                });
            }
        });
        let directory = self.cache.directory("last");
        // Without it hashing takes longer the next time.
        let _ = directory.map(|at| self.stats.save(std::os::fd::AsFd::as_fd(&at), "stats"));
        if let Some(problem) = self
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            return Err(problem);
        }
        self.cancel.check()?;
        let done = self.cells[self.graph.target].get();
        done.ok_or_else(|| Error::new(ErrorKind::Internal, "the target was not built").into())
    }

    /// The layers that were made so far, also if not all could be, and others that are not durable yet.
    pub fn made(&self) -> Vec<LayerId> {
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What was done or found done, for other machines; complete once [`Solver::solve`] has returned.
    pub fn done(&self) -> Done {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.clone()
    }

    fn one(&self, index: usize) {
        let solved = self.stage(index);
        match solved {
            Ok(solved) => self.cells[index].set(Some(Arc::new(solved))),
            Err(problem) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                // What ends since it was called off is not why.
                let blamed = *self.blamed.lock().unwrap_or_else(PoisonError::into_inner);
                let is_ours = blamed == Some(std::thread::current().id());
                if failed.is_none() && (is_ours || !self.cancel.is_cancelled()) {
                    *failed = Some(problem);
                }
                drop(failed);
                self.cancel.cancel();
                self.cells[index].set(None);
            }
        }
    }

    /// Calls everything else off, for a person who looks into a step of this thread.
    pub(crate) fn alone(&self) {
        let mut blamed = self.blamed.lock().unwrap_or_else(PoisonError::into_inner);
        *blamed = Some(std::thread::current().id());
        drop(blamed);
        self.cancel.cancel();
    }

    /// A stage that this one needs, when it is done.
    pub(crate) fn wait(&self, index: usize) -> Result<Arc<Solved>> {
        self.cells[index].wait().ok_or_else(|| {
            let name = &self.graph.stages[index].name;
            Error::new(
                ErrorKind::FailedPrecondition,
                format!("stage {name} was not built"),
            )
        })
    }

    fn stage(&self, index: usize) -> Result<Solved, Problem> {
        let stage = &self.graph.stages[index];
        let mut state = self
            .begin(stage)
            .map_err(|error| Problem::at(stage.span, error))?;
        for (number, step) in stage.steps.iter().enumerate() {
            let id = self.numbers[index] + number;
            let title = title(stage, step, number);
            (self.watch)(&Event::Started { id, title: &title });
            let since = Instant::now();
            let slot = explain::slot(&stage.name, number);
            let done = self
                .cancel
                .check()
                .and_then(|()| self.step(id, &mut state, step, stage, &slot));
            match done {
                Ok(cached) => (self.watch)(&Event::Done {
                    id,
                    cached,
                    took: since.elapsed(),
                }),
                Err(error) => {
                    if !self.cancel.is_cancelled() {
                        (self.watch)(&Event::Failed {
                            id,
                            why: &error.chain().to_string(),
                        });
                    }
                    return Err(Problem::at(step.span, error));
                }
            }
        }
        Ok(state)
    }

    /// What a stage begins with.
    fn begin(&self, stage: &Stage) -> Result<Solved> {
        let new = |key, layers: Vec<LayerId>, inherited, epoch| Solved {
            key,
            layers,
            inherited,
            epoch: self.settings.epoch.unwrap_or(epoch),
            mounted: OnceLock::new(),
        };
        match &stage.base {
            Base::Scratch => Ok(new(Key::new("scratch").finish(), Vec::new(), 0, 0)),
            Base::Stage(index) => {
                let upon = self.wait(*index)?;
                Ok(new(
                    upon.key.clone(),
                    upon.layers.clone(),
                    upon.inherited,
                    upon.epoch,
                ))
            }
            Base::Image(base) => {
                let layers = base.image.layers(way(self.marks))?;
                let ids: Vec<String> = layers.iter().map(ToString::to_string).collect();
                let key = Key::new("image").list("layers", &ids).finish();
                let epoch = base.image.config.created.as_deref();
                let epoch = epoch.and_then(access::seconds).unwrap_or(0);
                let count = layers.len();
                Ok(new(key, layers, count, epoch))
            }
            Base::Tree(tree, _) => {
                let (layer, key) = self.materialize(tree, "/", self.settings.epoch.unwrap_or(0))?;
                Ok(new(key, vec![layer], 0, 0))
            }
            Base::Unknown(name) => Err(Error::new(
                ErrorKind::Internal,
                format!("nobody knows {name}"),
            )),
        }
    }

    /// Does a step, or finds it done.
    fn step(
        &self,
        id: StepId,
        state: &mut Solved,
        step: &Step,
        stage: &Stage,
        slot: &str,
    ) -> Result<bool> {
        if !step.anew
            && let Op::Copy(op) = &step.op
            && let Some((layer, key)) = self.shortcut(state, op)?
        {
            self.advance(state, step, layer, key)?;
            return Ok(true);
        }
        let prepared = self.prepare(state, step)?;
        let below = below(&state.layers);
        if !step.anew
            && let Some(layer) = self.hit(&prepared.key, &below)?
        {
            self.advance(state, step, layer, prepared.key)?;
            return Ok(true);
        }
        if !step.anew
            && let Some((layer, _)) = self.imported(&prepared.key, state)?
        {
            self.advance(state, step, layer, prepared.key)?;
            return Ok(true);
        }
        let turn = self.turn(&prepared.key)?;
        // Somebody else may have done it while we waited.
        if !step.anew
            && let Some(layer) = self.hit(&prepared.key, &below)?
        {
            self.advance(state, step, layer, prepared.key)?;
            return Ok(true);
        }
        if self.settings.explain {
            let why = match step.anew {
                true => "it is to be done anew".to_owned(),
                false => self.why(slot, &prepared),
            };
            (self.watch)(&Event::Explained { id, why: &why });
        }
        if matches!(step.op, Op::Run(_)) {
            crate::foreign::check(&stage.platform)?;
        }
        let since = Instant::now();
        let layer = self.perform(id, state, step, &prepared)?;
        let mut above = state.layers.clone();
        above.push(layer.clone());
        let entry = Entry::new(layer.clone(), below, &step.text, since.elapsed());
        let entry = entry.under(self::below(&above));
        self.cache.put(&prepared.key, &entry)?;
        self.remember(slot, &prepared);
        drop(turn);
        self.advance(state, step, layer, prepared.key)?;
        Ok(false)
    }

    /// The stage is one step further.
    fn advance(&self, state: &mut Solved, step: &Step, layer: LayerId, key: Digest) -> Result<()> {
        let from = match &step.op {
            Op::Copy(op) => match (op.from, import::outline(state, op)) {
                (Source::Stage(index), Some(outline)) => {
                    let from = self.wait(index)?;
                    Some((outline, from.layers.clone(), from.epoch))
                }
                _ => None,
            },
            _ => None,
        };
        let step = DoneStep {
            key: key.clone(),
            below: state.layers.clone(),
            layer: layer.clone(),
            text: step.text.clone(),
            epoch: state.epoch,
            from,
        };
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.steps.push(step);
        drop(done);
        state.advance(layer, key);
        Ok(())
    }

    fn prepare(&self, state: &Solved, step: &Step) -> Result<Prepared<'_>> {
        match &step.op {
            Op::Copy(copy) => self.prepare_copy(state, copy, step.anew),
            Op::Run(run) => self.prepare_run(state, run),
            Op::Directory { path, user } => Ok(Prepared {
                key: Key::new("directory")
                    .digest("below", &state.key)
                    .text("path", path)
                    .text("user", user)
                    .finish(),
                work: Work::Directory,
                inputs: vec![
                    ("the previous step".to_owned(), state.key.to_string()),
                    ("the path".to_owned(), path.clone()),
                    ("the user".to_owned(), user.clone()),
                ],
            }),
        }
    }

    fn perform(
        &self,
        id: StepId,
        state: &Solved,
        step: &Step,
        prepared: &Prepared<'_>,
    ) -> Result<LayerId> {
        self.complete(&state.layers)?;
        match (&step.op, &prepared.work) {
            (Op::Copy(op), Work::Copy(selection)) => {
                self.perform_copy(state, op, selection, &prepared.key)
            }
            (Op::Run(op), Work::Run(work)) => self.perform_run(id, state, op, work, &prepared.key),
            (Op::Directory { path, user }, _) => {
                self.layer(&prepared.key, &state.layers, |_, root| {
                    self.make_directory(state, root, path, user)
                })
            }
            // What was found is not there any more.
            (Op::Copy(op), Work::Known) => match self.prepare_copy(state, op, true)?.work {
                Work::Copy(work) => self.perform_copy(state, op, &work, &prepared.key),
                _ => Err(Error::new(ErrorKind::Internal, "a copy was not prepared")),
            },
            _ => Err(Error::new(
                ErrorKind::Internal,
                "a step was prepared as another",
            )),
        }
    }
}

impl Solved {
    fn advance(&mut self, layer: LayerId, key: Digest) {
        self.layers.push(layer);
        self.key = key;
    }
}

/// A step before it is done.
pub(crate) struct Prepared<'a> {
    pub(crate) key: Digest,
    pub(crate) work: Work<'a>,
    /// What it depends on, by name, for those who ask why.
    pub(crate) inputs: explain::Inputs,
}

/// What was found out about a step before it is done.
pub(crate) enum Work<'a> {
    Copy(copy::Work),
    Run(Box<run::Work<'a>>),
    Directory,
    /// It was found done.
    Known,
}

/// A digest of the layers below a step.
pub(crate) fn below(layers: &[LayerId]) -> Digest {
    let names: Vec<&str> = layers.iter().map(LayerId::as_str).collect();
    Digest::of(names.join("\n").as_bytes())
}

/// As people know a step: `[builder 2/5] RUN make`.
fn title(stage: &Stage, step: &Step, number: usize) -> String {
    let place = format!("{}/{}", number + 1, stage.steps.len());
    match stage.name.is_empty() {
        true => format!("[{place}] {}", step.text),
        false => format!("[{} {place}] {}", stage.name, step.text),
    }
}
