//! The Dockerfile language, as BuildKit reads it. Pure: opens nothing, runs nothing.
