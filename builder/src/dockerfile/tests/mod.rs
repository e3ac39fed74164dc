//! What the language as a whole does.

mod lint;
mod oracle;
