//! A few lines at the end of a terminal: the steps that are being done, with the last line of each.

use rcrun_builder::events::Event;

use super::Shown;
use crate::progress::to_stderr;

/// Steps that are shown at once.
const MOST: usize = 12;
/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// What is on the screen below everything else.
#[derive(Debug, Default)]
pub(super) struct Screen {
    lines: usize,
}

pub(super) fn show(shown: &mut Shown, event: &Event<'_>) {
    match event {
        Event::Done { id, cached, took } => {
            let title = shown
                .steps
                .get(id)
                .map(|step| step.title.clone())
                .unwrap_or_default();
            let state = match cached {
                true => "CACHED".to_owned(),
                false => format!("{:.1}s", took.as_secs_f64()),
            };
            line(shown, &row(" => ", &title, &state));
        }
        Event::Failed { id, .. } => {
            let title = shown
                .steps
                .get(id)
                .map(|step| step.title.clone())
                .unwrap_or_default();
            line(shown, &row(" => ", &title, "ERROR"));
        }
        Event::Explained { why, .. } => line(shown, &format!("    not cached: {why}")),
        Event::Warning { text } => line(shown, &format!("WARNING: {text}")),
        Event::Started { .. } => draw(shown),
        Event::Output { .. } | Event::Exporting { .. } => {}
    }
}

/// A line that stays, above those that change.
pub(super) fn line(shown: &mut Shown, text: &str) {
    let below = rows(shown);
    write(shown, &format!("{text}\n"), &below);
}

/// Brings what changes up to date.
pub(super) fn draw(shown: &mut Shown) {
    let below = rows(shown);
    write(shown, "", &below);
}

/// Removes what changes.
pub(super) fn end(shown: &mut Shown) {
    write(shown, "", &[]);
}

fn rows(shown: &Shown) -> Vec<String> {
    let mut rows = Vec::new();
    for id in shown.active.iter().take(MOST) {
        let Some(step) = shown.steps.get(id) else {
            continue;
        };
        let seconds = format!("{:.1}s", step.since.elapsed().as_secs_f64());
        rows.push(row(" => ", &step.title, &seconds));
        if let Some(last) = step.recent.last() {
            rows.push(row("    ", last, ""));
        }
    }
    if !rows.is_empty() {
        let text = format!("{} done, {} of them cached", shown.done, shown.cached);
        let seconds = format!("{:.1}s", shown.began.elapsed().as_secs_f64());
        rows.insert(0, row("[+] Building ", &text, &seconds));
    }
    rows
}

fn write(shown: &mut Shown, above: &str, below: &[String]) {
    let mut text = String::new();
    if shown.terminal.lines > 0 {
        text.push_str(&format!("\x1b[{}A\x1b[J", shown.terminal.lines));
    }
    text.push_str(above);
    for row in below {
        text.push_str(row);
        text.push('\n');
    }
    shown.terminal.lines = below.len();
    to_stderr(&text);
}

/// A row that fits the screen, with something at its right end.
fn row(before: &str, text: &str, right: &str) -> String {
    let columns = rustix::termios::tcgetwinsize(std::io::stderr())
        .map_or(COLUMNS, |size| usize::from(size.ws_col));
    let columns = if columns < 20 { COLUMNS } else { columns };
    let room = columns.saturating_sub(before.len() + right.len() + 2);
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    let mut short: String = plain.chars().take(room).collect();
    if plain.chars().count() > room {
        short.pop();
        short.push('…');
    }
    let fill = room.saturating_sub(short.chars().count());
    format!("{before}{short}{} {right}", " ".repeat(fill))
}
