//! Where instructions take files from: stages, by number and by name, and images that are only copied from.

use super::{Part, Planner};
use crate::Error;
use crate::dockerfile::{self, Instruction, Kind, Span};
use crate::graph::{Problem, Source};

impl Planner<'_> {
    /// Finds where files come from, for all instructions; images that are only copied from become parts.
    pub(super) fn sources(&mut self) -> Result<(), Problem> {
        for index in 0..self.parts.len() {
            let instructions = std::mem::take(&mut self.parts[index].instructions);
            let sources: Result<_, _> = instructions
                .iter()
                .map(|one| self.sources_of(one))
                .collect();
            self.parts[index].sources = sources?;
            self.parts[index].instructions = instructions;
        }
        Ok(())
    }

    pub(super) fn sources_of(
        &mut self,
        instruction: &Instruction,
    ) -> Result<Vec<Option<Source>>, Problem> {
        let names: Vec<Option<String>> = match &instruction.kind {
            Kind::Copy(copy) => vec![copy.from.clone()],
            Kind::Run(run) => {
                let name = |mount: &dockerfile::MountSpec| mount.from().map(str::to_owned);
                run.mounts.iter().map(name).collect()
            }
            _ => Vec::new(),
        };
        let by_number = matches!(instruction.kind, Kind::Copy(_));
        let find = |name: Option<String>| match name {
            Some(name) if !name.is_empty() => {
                self.source(&name, by_number, instruction.span).map(Some)
            }
            _ => Ok(None),
        };
        names.into_iter().map(find).collect()
    }

    fn source(&mut self, name: &str, by_number: bool, span: Span) -> Result<Source, Problem> {
        if name.contains('$') {
            let error = Error::invalid(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                 global scope as a workaround",
            );
            return Err(Problem::at(
                span,
                error.with_hint("FROM image:$VERSION AS NAME, and --from=NAME"),
            ));
        }
        if by_number && let Ok(number) = name.parse::<i64>() {
            let index = usize::try_from(number)
                .ok()
                .filter(|index| *index < self.file.stages.len());
            let invalid = || {
                Problem::at(
                    span,
                    Error::invalid(format!("invalid stage index {number}")),
                )
            };
            return index.map(Source::Stage).ok_or_else(invalid);
        }
        if let Some(index) = self.by_name.get(&name.to_lowercase()) {
            return Ok(Source::Stage(*index));
        }
        let known = |part: &Part| part.unnamed && part.base == name;
        if let Some(index) = self.parts.iter().position(known) {
            return Ok(Source::Stage(index));
        }
        self.parts.push(Part {
            name: name.to_owned(),
            span,
            base: name.to_owned(),
            upon: None,
            platform: None,
            instead: None,
            instructions: Vec::new(),
            sources: Vec::new(),
            unnamed: true,
        });
        Ok(Source::Stage(self.parts.len() - 1))
    }
}
