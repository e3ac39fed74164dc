//! What the language as a whole does.

mod oracle;
