//! The steps of a build, once or several times: what imported caches said they have, and then could not give, is
//! done here in another attempt, for which everything counts that the one before has done.

use std::sync::Arc;

use rcrun_builder::context::tree::Tree;
use rcrun_builder::events::{Event, StepId};
use rcrun_builder::graph::{Graph, Problem};
use rcrun_builder::solve::{self, Done, Imports, Lost, Solved, Solver, Tools};
use rcrun_image::document::Descriptor;
use rcrun_overlay::lease::LayerId;
use rcrun_runtime::error::Result;

use super::job::Job;
use super::runner::Processes;
use super::{caches, outputs};

/// What became of the steps of a graph.
pub(super) struct Attempt {
    /// With the layers before they were made one.
    pub(super) solved: Result<(Arc<Solved>, Vec<LayerId>), Problem>,
    /// Layers that are not durable yet, also if not all could be made.
    pub(super) made: Vec<LayerId>,
    /// For other machines.
    pub(super) done: Done,
}

impl Job<'_> {
    /// Does what a graph says; again without what imported caches turn out not to have. What was done counts.
    pub(super) fn solve(
        &self,
        graph: &Graph,
        context: &Tree,
        first: StepId,
    ) -> Result<Attempt, Problem> {
        let platform = &graph.stages[graph.target].platform;
        let mut caches = caches::open(self, platform)?;
        let mut made = Vec::new();
        loop {
            let (mut attempt, lost) = self.attempt(graph, context, first, &caches)?;
            made.append(&mut attempt.made);
            if attempt.solved.is_ok() || lost.is_empty() || self.cancel.is_cancelled() {
                return Ok(Attempt { made, ..attempt });
            }
            // Each time there is less to be lost.
            caches.forget(&lost);
        }
    }

    fn attempt(
        &self,
        graph: &Graph,
        context: &Tree,
        first: StepId,
        caches: &caches::Opened<'_>,
    ) -> Result<(Attempt, Vec<Lost>)> {
        let runner = Processes {
            store: self.store,
            runtime: &self.settings.runtime,
            agents: &self.asked.agents,
        };
        let watch = |event: &Event<'_>| self.progress.event(event);
        let bring = |place: usize, blob: &Descriptor| caches.bring(place, blob);
        let imports = Imports {
            known: &caches.known,
            bring: &bring,
        };
        let tools = Tools {
            store: self.store,
            lease: self.lease,
            cache: self.cache,
            runner: &runner,
            watch: &watch,
            cancel: self.cancel,
            marks: self.marks(),
            imports: Some(&imports),
        };
        let settings = solve::Settings {
            scratch: self.scratch.to_owned(),
            epoch: self.asked.settings.epoch.or(graph.epoch),
            ..self.asked.settings.clone()
        };
        let solver = Solver::new(&tools, graph, context, &settings, first)?;
        let solved = solver.solve().and_then(|solved| {
            self.complete(&solver, &solved)?;
            let layers = solved.layers.clone();
            let solved = match self.flags.squash {
                true => Arc::new(solver.squash(&solved)?),
                false => solved,
            };
            Ok((solved, layers))
        });
        let attempt = Attempt {
            solved,
            made: solver.made(),
            done: solver.done(),
        };
        Ok((attempt, solver.lost()))
    }

    /// Fetches layers of imported caches that the results are made of.
    fn complete(&self, solver: &Solver<'_>, solved: &Solved) -> Result<()> {
        let asked = self.asked;
        if outputs::needs_files(&asked.outputs) || caches::needs_layers(&asked.cache_to) {
            solver.complete(&solved.layers)?;
        }
        if caches::needs_all(&asked.cache_to) {
            for step in solver.done().steps {
                solver.complete(&[step.layer])?;
            }
        }
        Ok(())
    }
}
