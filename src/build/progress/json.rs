//! One object a line, for programs.

use rcrun_builder::events::Event;
use serde_json::json;

use super::Shown;
use crate::progress::to_stderr;

pub(super) fn show(shown: &Shown, event: &Event<'_>) {
    let seconds = shown.began.elapsed().as_secs_f64();
    let object = match event {
        Event::Started { id, title } => json!({"event": "started", "step": id, "title": title}),
        Event::Output { id, stderr, bytes } => json!({
            "event": "output", "step": id, "stream": if *stderr { "stderr" } else { "stdout" },
            "data": String::from_utf8_lossy(bytes),
        }),
        Event::Done { id, cached, took } => json!({
            "event": "done", "step": id, "cached": cached, "seconds": took.as_secs_f64(),
        }),
        Event::Explained { id, why } => json!({"event": "explained", "step": id, "why": why}),
        Event::Failed { id, why } => json!({"event": "failed", "step": id, "error": why}),
        Event::Exporting { what } => json!({"event": "exporting", "what": what}),
        Event::Warning { text } => json!({"event": "warning", "text": text}),
    };
    let mut object = object;
    object["time"] = json!(seconds);
    to_stderr(&format!("{object}\n"));
}

pub(super) fn line(text: &str) {
    let object = json!({"event": "message", "text": text});
    to_stderr(&format!("{object}\n"));
}
