//! The verbs on containers that were made from images, with docker's names and habits.

pub(super) mod run;

use super::{Count, Verb};

/// The rows, in the order of the help.
pub(super) const VERBS: &[Verb] =
    &[Verb::people::<run::RunImage>("run", Count::AtLeast(1), run::USAGE).fails_as("", 125)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parser_is_consistent_and_has_a_help_line() {
        for verb in VERBS {
            let command = (verb.command)();
            assert!(command.get_about().is_some(), "{}", verb.name);
            for argument in command.get_arguments().filter(|a| a.get_long().is_some()) {
                assert!(argument.get_help().is_some(), "{argument}");
            }
            command.debug_assert();
        }
    }
}
