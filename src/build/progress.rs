//! What people and CI see of a build, on standard error.
//!
//! `plain` writes lines, each with the number of its step and the seconds since that began. `tty` keeps a
//! few lines at the end of the screen up to date and lets what is done scroll away. `rawjson` writes one
//! object a line. `quiet` writes nothing. All keep the last lines of a step for the case that it fails.

mod json;
mod plain;
mod recent;
mod terminal;

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rcrun_builder::events::{Event, StepId};
use rcrun_runtime::error::{Error, Result};

use recent::Recent;

/// How a build is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Lines.
    Plain,
    /// A screen.
    Terminal,
    /// Objects.
    Json,
    /// Nothing.
    Quiet,
}

impl Style {
    /// `--progress`
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "auto" | "" => match std::io::stderr().is_terminal() {
                true => Self::Terminal,
                false => Self::Plain,
            },
            "plain" => Self::Plain,
            "tty" => Self::Terminal,
            "rawjson" => Self::Json,
            "quiet" | "none" => Self::Quiet,
            other => {
                let text = format!("invalid value {other:?} for --progress");
                return Err(
                    Error::invalid(text).with_hint("use auto, plain, tty, rawjson or quiet")
                );
            }
        })
    }
}

/// Shows what happens.
#[derive(Debug)]
pub(crate) struct Progress {
    style: Style,
    shown: Mutex<Shown>,
}

/// A step as far as it is shown.
#[derive(Debug)]
struct Step {
    title: String,
    since: Instant,
    recent: Recent,
    over: bool,
}

#[derive(Debug)]
struct Shown {
    began: Instant,
    steps: HashMap<StepId, Step>,
    /// Those that are not over, in the order in which they began.
    active: Vec<StepId>,
    terminal: terminal::Screen,
    done: usize,
    cached: usize,
}

impl Progress {
    pub(crate) fn new(style: Style) -> Self {
        let shown = Shown {
            began: Instant::now(),
            steps: HashMap::new(),
            active: Vec::new(),
            terminal: terminal::Screen::default(),
            done: 0,
            cached: 0,
        };
        let shown = Mutex::new(shown);
        Self { style, shown }
    }

    /// Shows an event.
    pub(crate) fn event(&self, event: &Event<'_>) {
        let mut shown = self.lock();
        let shown = &mut *shown;
        let lines = shown.keep(event);
        match self.style {
            Style::Quiet => {}
            Style::Json => json::show(shown, event),
            Style::Plain => plain::show(shown, event, &lines),
            Style::Terminal => terminal::show(shown, event),
        }
    }

    /// A line about something that is no step.
    pub(crate) fn line(&self, text: &str) {
        let mut shown = self.lock();
        match self.style {
            Style::Quiet => {}
            Style::Json => json::line(text),
            Style::Plain => crate::progress::to_stderr(&format!("{text}\n")),
            Style::Terminal => terminal::line(&mut shown, text),
        }
    }

    /// Whether [`Self::tick`] does something.
    pub(crate) fn ticks(&self) -> bool {
        self.style == Style::Terminal
    }

    /// Brings the screen up to date.
    pub(crate) fn tick(&self) {
        if self.style == Style::Terminal {
            terminal::draw(&mut self.lock());
        }
    }

    /// Nothing more happens.
    pub(crate) fn end(&self) {
        if self.style == Style::Terminal {
            terminal::end(&mut self.lock());
        }
    }

    /// What a step that failed wrote last, with its title.
    pub(crate) fn last_words(&self) -> Option<(String, Vec<String>)> {
        let shown = self.lock();
        // Where lines are written all of them were.
        if matches!(self.style, Style::Plain | Style::Json) {
            return None;
        }
        let failed = shown.steps.values().find(|step| step.recent.is_kept())?;
        Some((failed.title.clone(), failed.recent.lines()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    /// Takes note of an event; whole lines that a step wrote by it.
    fn keep(&mut self, event: &Event<'_>) -> Vec<String> {
        match event {
            Event::Started { id, title } => {
                let step = Step {
                    title: (*title).to_owned(),
                    since: Instant::now(),
                    recent: Recent::default(),
                    over: false,
                };
                self.steps.insert(*id, step);
                self.active.push(*id);
            }
            Event::Output { id, bytes, stderr } => {
                if let Some(step) = self.steps.get_mut(id) {
                    return step.recent.add(*stderr, bytes);
                }
            }
            Event::Done { id, cached, .. } => {
                self.done += 1;
                self.cached += usize::from(*cached);
                return self.over(*id, false);
            }
            Event::Failed { id, .. } => return self.over(*id, true),
            _ => {}
        }
        Vec::new()
    }

    fn over(&mut self, id: StepId, failed: bool) -> Vec<String> {
        self.active.retain(|other| *other != id);
        let Some(step) = self.steps.get_mut(&id) else {
            return Vec::new();
        };
        step.over = true;
        let rest = step.recent.rest();
        match failed {
            true => step.recent.keep(),
            false => step.recent = Recent::default(),
        }
        rest
    }
}
