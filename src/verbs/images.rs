//! The verbs on images and the store, with docker's names and habits.

mod df;
mod fsck;
mod history;
mod inspect;
mod list;
mod login;
mod mount;
mod prune;
pub(super) mod pull;
mod push;
mod remove;
mod tag;
mod unshare;

use super::{Count, Verb};

const NAME: &str = "IMAGE

IMAGE is a name such as debian:12, an image's identifier or the beginning of one,
or a digest.";

/// The rows, in the order of the help.
pub(super) const VERBS: &[Verb] = &[
    Verb::people::<pull::Pull>("pull", Count::AtLeast(1), pull::USAGE),
    Verb::people::<push::Push>("push", Count::Between(1, 2), push::USAGE),
    Verb::people::<push::Save>("save", Count::AtLeast(1), push::SAVE),
    Verb::people::<push::Load>("load", Count::Exactly(0), ""),
    Verb::people::<list::Images>("images", Count::Between(0, 1), "[NAME[:TAG]]"),
    Verb::people::<tag::Tag>("tag", Count::Exactly(2), "IMAGE NAME[:TAG]"),
    Verb::people::<tag::Untag>("untag", Count::AtLeast(1), "NAME[:TAG]..."),
    Verb::people::<remove::Remove>("rmi", Count::AtLeast(1), "IMAGE..."),
    Verb::people::<inspect::Inspect>("inspect", Count::AtLeast(1), "CONTAINER|IMAGE..."),
    Verb::people::<history::History>("history", Count::Exactly(1), NAME),
    Verb::people::<login::Login>("login", Count::Between(0, 1), login::USAGE).without_store(),
    Verb::people::<login::Logout>("logout", Count::Between(0, 1), "[HOST]").without_store(),
    Verb::people::<mount::Mount>("mount", Count::Between(0, 2), mount::USAGE),
    Verb::people::<mount::Unmount>("unmount", Count::AtLeast(1), mount::WHAT),
    Verb::people::<mount::Unmount>("umount", Count::AtLeast(1), mount::WHAT).hidden(),
    Verb::people::<prune::Prune>("prune", Count::Exactly(0), ""),
    Verb::people::<df::Df>("df", Count::Exactly(0), ""),
    Verb::people::<unshare::Unshare>("unshare", Count::AtLeast(0), unshare::USAGE)
        .fails_as("", 125),
    Verb::people::<fsck::Fsck>("fsck", Count::Exactly(0), fsck::USAGE).fails_as("", 8),
];

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
