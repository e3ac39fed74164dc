//! What happens while something is built, for whoever shows it.

use std::time::Duration;

/// A step, counted from zero over the whole build.
pub type StepId = usize;

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is looked at.
    Started {
        /// Which.
        id: StepId,
        /// As people know it: `[builder 2/5] RUN make`.
        title: &'a str,
    },
    /// A step's program wrote something.
    Output {
        /// Which.
        id: StepId,
        /// To standard error.
        stderr: bool,
        /// What.
        bytes: &'a [u8],
    },
    /// A step is done.
    Done {
        /// Which.
        id: StepId,
        /// It had been done before.
        cached: bool,
        /// How long it took here.
        took: Duration,
    },
    /// Why it had to be done: one line of `--explain`.
    Explained {
        /// Which.
        id: StepId,
        /// In words.
        why: &'a str,
    },
    /// A step failed.
    Failed {
        /// Which.
        id: StepId,
        /// Why.
        why: &'a str,
    },
    /// The result is made: a layer is archived, a document written.
    Exporting {
        /// What.
        what: &'a str,
    },
    /// Something that people should know.
    Warning {
        /// What.
        text: &'a str,
    },
}

/// Hears what happens, from several threads.
pub type Watch<'a> = dyn Fn(&Event<'_>) + Sync + 'a;
