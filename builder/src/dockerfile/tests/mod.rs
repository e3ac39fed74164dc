//! What the language as a whole does.

mod hostile;
mod instructions;
mod lint;
mod lint_rules;
mod oracle;
mod random;
mod scopes;
mod statements;
