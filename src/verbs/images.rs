//! The verbs on images and the store, with docker's names and habits.

use super::Verb;

/// The rows, in the order of the help.
pub(super) const VERBS: &[Verb] = &[];
