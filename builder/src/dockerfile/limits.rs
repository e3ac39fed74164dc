//! How large a Dockerfile may be. All of it is somebody's input: whatever is beyond these is refused before work is done
//! for it.

/// Bytes of a Dockerfile, with its heredocs.
pub const FILE_BYTES: usize = 16 << 20;

/// Bytes of one physical line. `BuildKit`'s scanner has this limit, 64 KiB less one byte, its newline included.
pub const LINE_BYTES: usize = 64 * 1024 - 1;

/// Bytes of an instruction once its continuation lines are joined.
pub const INSTRUCTION_BYTES: usize = 4 << 20;

/// `FROM` instructions of a file.
pub const STAGES: usize = 10_000;

/// Instructions of a file.
pub const INSTRUCTIONS: usize = 100_000;

/// Heredocs of one instruction.
pub const HEREDOCS: usize = 1_000;

/// Substitutions within the words of substitutions: `${a:-${b:-...}}`.
pub const WORD_DEPTH: usize = 64;

/// Bytes that the variables of one word may have together.
pub const WORD_BYTES: usize = 1 << 20;

/// Bytes that the variables of one heredoc may have together.
pub const DOCUMENT_BYTES: usize = 16 << 20;

/// Bytes that all words of one instruction may have together, and all its heredocs.
pub const INSTRUCTION_VALUES: usize = 64 << 20;

/// Bytes of all values that the variables of a stage ever had. The kernel takes two megabytes.
pub const ENVIRONMENT_BYTES: usize = 16 << 20;

/// The same for all stages that are looked at together.
pub const ENVIRONMENTS_BYTES: usize = 128 << 20;

/// Bytes of a word that an error message shows.
pub const QUOTED_BYTES: usize = 1024;

/// Steps that matching one pattern of `${name#pattern}` may take.
pub const PATTERN_STEPS: usize = 16 << 20;

/// How often `ONBUILD` is read within `ONBUILD`, which is refused in any case.
pub const TRIGGER_DEPTH: usize = 16;

/// Errors that are reported at once; a file with more is no Dockerfile.
pub const DIAGNOSTICS: usize = 64;

/// Names among which one is looked for that may have been meant.
pub const SUGGESTIONS: usize = 1_000;
