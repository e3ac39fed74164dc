//! Lines, as BuildKit writes them for CI.

use rcrun_builder::events::{Event, StepId};

use super::Shown;
use crate::progress::to_stderr;

pub(super) fn show(shown: &Shown, event: &Event<'_>, lines: &[String]) {
    let mut text = String::new();
    let id = match event {
        Event::Started { id, .. }
        | Event::Output { id, .. }
        | Event::Done { id, .. }
        | Event::Explained { id, .. }
        | Event::Failed { id, .. } => Some(*id),
        _ => None,
    };
    if let Some(id) = id {
        add_lines(&mut text, shown, id, lines);
    }
    match event {
        Event::Started { id, title } => text.push_str(&format!("#{} {title}\n", id + 1)),
        Event::Output { .. } => {}
        Event::Done {
            id, cached: true, ..
        } => text.push_str(&format!("#{} CACHED\n", id + 1)),
        Event::Done { id, took, .. } => {
            text.push_str(&format!("#{} DONE {:.1}s\n", id + 1, took.as_secs_f64()));
        }
        Event::Explained { id, why } => text.push_str(&format!("#{} not cached: {why}\n", id + 1)),
        Event::Failed { id, why } => text.push_str(&format!("#{} ERROR: {why}\n", id + 1)),
        Event::Exporting { what } => text.push_str(&format!("exporting {what}\n")),
        Event::Warning { text: warning } => text.push_str(&format!("WARNING: {warning}\n")),
    }
    to_stderr(&text);
}

fn add_lines(text: &mut String, shown: &Shown, id: StepId, lines: &[String]) {
    let Some(step) = shown.steps.get(&id) else {
        return;
    };
    let seconds = step.since.elapsed().as_secs_f64();
    for line in lines {
        text.push_str(&format!("#{} {seconds:.3} {line}\n", id + 1));
    }
}
