//! How a session ended, in the words of its protocol.
//!
//! From `v4.channel.k8s.io` on the error stream carries a `metav1.Status` as JSON, whose causes have the exit code; before
//! that it carries a sentence, or nothing for success.

use crate::limits;
use rcrun_error::{Error, Result};
use serde_json::json;

/// How the end is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A sentence, nothing for success.
    Plain,
    /// `metav1.Status`.
    Json,
}

/// A message that is not endless.
pub(crate) fn message(error: &Error) -> String {
    let mut text = error.chain().to_string();
    text.truncate(text.floor_char_boundary(limits::STATUS));
    text
}

/// What goes to the error stream.
pub(crate) fn render(style: Style, outcome: &Result<u8>) -> String {
    let failed = |code: u8| format!("command terminated with non-zero exit code: {code}");
    match (style, outcome) {
        (Style::Plain, Ok(0)) => String::new(),
        (Style::Plain, Ok(code)) => failed(*code),
        (Style::Plain, Err(error)) => message(error),
        (Style::Json, Ok(0)) => json!({"metadata": {}, "status": "Success"}).to_string(),
        (Style::Json, Ok(code)) => json!({
            "metadata": {},
            "status": "Failure",
            "message": failed(*code),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        })
        .to_string(),
        (Style::Json, Err(error)) => json!({
            "metadata": {},
            "status": "Failure",
            "message": message(error),
            "reason": "InternalError",
            "details": {"causes": [{"message": message(error)}]},
            "code": 500,
        })
        .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let error = || Err(Error::invalid("cannot find the container"));
        let table = [
            (Style::Plain, Ok(0), ""),
            (
                Style::Plain,
                Ok(3),
                "command terminated with non-zero exit code: 3",
            ),
            (Style::Plain, error(), "cannot find the container"),
            (Style::Json, Ok(0), r#"{"metadata":{},"status":"Success"}"#),
        ];
        for (style, outcome, text) in table {
            assert_eq!(render(style, &outcome), text);
        }
        let read = |outcome| -> serde_json::Value {
            serde_json::from_str(&render(Style::Json, &outcome)).unwrap()
        };
        let three = read(Ok(3));
        assert_eq!(three["reason"], "NonZeroExitCode");
        assert_eq!(
            three["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "3"})
        );
        assert_eq!(read(error())["message"], "cannot find the container");
        assert_eq!(read(error())["code"], 500);
    }
}
