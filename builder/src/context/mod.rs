//! Build contexts: sources of files, which of them are ignored, their digests, and copies of them.
