//! The one table from errors to gRPC's status codes.

use tonic::{Code, Status};

use crate::{Error, ErrorKind};

/// A status travels in headers, for which clients have limits: longer messages lose their end.
const MAX_MESSAGE: usize = 4096;

/// The code that stands for a kind of errors.
pub(crate) fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Exists => Code::AlreadyExists,
        ErrorKind::InvalidInput => Code::InvalidArgument,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Busy | ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Corrupt => Code::DataLoss,
        _ => Code::Internal,
    }
}

/// An error with its causes, and what can be done about it.
pub(crate) fn status(error: &Error) -> Status {
    let mut message = error.chain().to_string();
    if let Some(hint) = error.hint() {
        message = format!("{message}; {hint}");
    }
    Status::new(code(error.kind()), shortened(message))
}

fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = message.floor_char_boundary(MAX_MESSAGE);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_code() {
        for (kind, expected) in [
            (ErrorKind::NotFound, Code::NotFound),
            (ErrorKind::Exists, Code::AlreadyExists),
            (ErrorKind::InvalidInput, Code::InvalidArgument),
            (ErrorKind::FailedPrecondition, Code::FailedPrecondition),
            (ErrorKind::Unsupported, Code::Unimplemented),
            (ErrorKind::PermissionDenied, Code::PermissionDenied),
            (ErrorKind::Busy, Code::Unavailable),
            (ErrorKind::Deadline, Code::DeadlineExceeded),
            (ErrorKind::Exhausted, Code::ResourceExhausted),
            (ErrorKind::Corrupt, Code::DataLoss),
            (ErrorKind::Unavailable, Code::Unavailable),
            (ErrorKind::Internal, Code::Internal),
        ] {
            assert_eq!(code(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn cause_and_remedy_are_told() {
        let error = Error::new(ErrorKind::NotFound, "no such host")
            .context("cannot pull a:1")
            .with_hint("name another");
        let status = status(&error);
        assert_eq!(
            (status.code(), status.message()),
            (
                Code::NotFound,
                "cannot pull a:1: no such host; name another"
            )
        );
    }

    #[test]
    fn long_messages_end_between_characters() {
        let error = Error::invalid("é".repeat(MAX_MESSAGE));
        let status = status(&error);
        assert!(status.message().len() <= MAX_MESSAGE + 3);
        assert!(status.message().ends_with("é..."));
    }
}
