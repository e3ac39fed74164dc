//! The walk through all stages in their order, each instruction with its variables: what the checks and the outline have in
//! common. The builder walks stages in another order, and with more than their variables.

use rcrun_image::platform::Platform;

use super::diagnostic::Diagnostic;
use super::instruction::{Dockerfile, Instruction, Kind};
use super::limits;
use super::parse::parse_onbuild;
use super::scope::{Applied, Globals, Request, Scope, Undefined};
use super::stages::{Base, Plan, Stages};

/// What is known of a base image.
#[derive(Debug, Clone)]
pub struct BaseFacts {
    /// What it was made for.
    pub platform: Platform,
    /// `NAME=value`
    pub env: Vec<String>,
    /// `SHELL` of its configuration.
    pub shell: Vec<String>,
    /// `ONBUILD` of its configuration.
    pub onbuild: Vec<String>,
}

/// Who walks.
pub(super) trait Visitor {
    /// A stage begins.
    fn stage(&mut self, index: usize, plan: &Plan, image: Option<&BaseFacts>);

    /// One of its instructions. An error ends the walk.
    fn instruction(
        &mut self,
        index: usize,
        instruction: &Instruction,
        undefined: Vec<Undefined>,
        applied: Result<Applied, Diagnostic>,
    ) -> Result<(), Diagnostic>;
}

/// What there is to walk through.
pub(super) struct Ground<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) globals: &'a Globals,
    pub(super) request: &'a Request,
    pub(super) stages: &'a Stages,
    /// The stages that are visited; with each its base.
    pub(super) wanted: &'a [bool],
    /// The images that stages are built on, as far as they are known.
    pub(super) images: &'a [Option<BaseFacts>],
}

impl<'a> Ground<'a> {
    /// Walks.
    pub(super) fn walk(&self, visitor: &mut dyn Visitor) -> Result<(), Diagnostic> {
        let mut walked: Vec<Option<Scope<'a>>> = Vec::with_capacity(self.stages.plans.len());
        let mut bytes = 0;
        for (index, stage) in self.dockerfile.stages.iter().enumerate() {
            if !self.wanted[index] {
                walked.push(None);
                continue;
            }
            let plan = &self.stages.plans[index];
            let image = self.images[index].as_ref();
            visitor.stage(index, plan, image);
            let mut scope = match plan.base {
                Base::Stage(base) => walked[base].as_ref().map(Scope::on_stage),
                Base::Scratch | Base::Image(_) => None,
            }
            .unwrap_or_else(|| {
                let env = image.map_or(&[][..], |image| &image.env);
                Scope::on_image(self.dockerfile, self.globals, self.request, env)
            });
            let triggers = self.triggers(plan, image);
            let triggered: Result<Vec<_>, _> = triggers
                .iter()
                .map(|text| parse_onbuild(text, stage.span))
                .collect();
            for instruction in triggered?.iter().chain(&stage.instructions) {
                let applied = scope.apply(instruction);
                let undefined = scope.take_undefined();
                visitor.instruction(index, instruction, undefined, applied)?;
            }
            bytes += scope.environment().written();
            if bytes > limits::ENVIRONMENTS_BYTES {
                let message = format!(
                    "refuse stages whose variables have more than {} bytes",
                    limits::ENVIRONMENTS_BYTES
                );
                return Err(Diagnostic::error(stage.span, message));
            }
            walked.push(Some(scope));
        }
        Ok(())
    }

    /// What the base of a stage has for those that are built on it.
    fn triggers(&self, plan: &Plan, image: Option<&'a BaseFacts>) -> Vec<&'a str> {
        match plan.base {
            Base::Stage(base) => {
                let instructions = self.dockerfile.stages[base].instructions.iter();
                let expression = |instruction: &'a Instruction| match &instruction.kind {
                    Kind::Onbuild(onbuild) => Some(onbuild.expression.as_str()),
                    _ => None,
                };
                instructions.filter_map(expression).collect()
            }
            Base::Scratch | Base::Image(_) => image
                .iter()
                .flat_map(|image| image.onbuild.iter().map(String::as_str))
                .collect(),
        }
    }
}
