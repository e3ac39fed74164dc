//! Annotations of crun that mean something here. Pure.
//!
//! Whoever writes a configuration's annotations, be it on behalf of a pod's author, decides over
//! them; `features` lists them as potentially unsafe for that reason.

use std::path::Path;

use crate::error::{Error, Result};

/// The program keeps the supplementary groups of who started the runtime.
pub const KEEP_GROUPS: &str = "run.oci.keep_original_groups";
/// File that receives the standard output of hooks.
pub const HOOKS_STDOUT: &str = "run.oci.hooks.stdout";
/// File that receives their standard error.
pub const HOOKS_STDERR: &str = "run.oci.hooks.stderr";
/// Which mount option carries the SELinux label (mount(8), "context").
pub const CONTEXT_TYPE: &str = "run.oci.mount_context_type";

/// A system call in the seccomp profile that is unknown here is an error.
pub const STRICT_SECCOMP: &str = "run.oci.seccomp_fail_unknown_syscall";

/// The init stays as first process, forwards signals and reaps; the program is its child. Ours.
pub const STAY: &str = "rcrun.init";

/// Whether [`STAY`] is on.
pub fn stays<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<bool> {
    switch(STAY, get)
}

/// The option that [`CONTEXT_TYPE`] names.
pub fn context_type<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<&'static str> {
    match get(CONTEXT_TYPE) {
        None | Some("context") => Ok("context"),
        Some("fscontext") => Ok("fscontext"),
        Some("defcontext") => Ok("defcontext"),
        Some("rootcontext") => Ok("rootcontext"),
        Some(other) => Err(Error::invalid(format!(
            "annotations[{CONTEXT_TYPE:?}]: {other:?} is none of context, fscontext, defcontext, \
             rootcontext"
        ))),
    }
}

/// Whether [`KEEP_GROUPS`] is on.
pub fn keeps_groups<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<bool> {
    switch(KEEP_GROUPS, get)
}

/// Whether [`STRICT_SECCOMP`] is on.
pub fn strict_seccomp<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<bool> {
    switch(STRICT_SECCOMP, get)
}

/// A wrong guess would give a program rights, so every other word than those for yes and no is
/// refused.
fn switch<'a>(name: &str, get: impl Fn(&str) -> Option<&'a str>) -> Result<bool> {
    match get(name) {
        None | Some("" | "0" | "false") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(other) => Err(Error::invalid(format!(
            "annotations[{name:?}]: {other:?} is neither 1 nor 0"
        ))),
    }
}

/// The files of [`HOOKS_STDOUT`] and [`HOOKS_STDERR`].
pub fn hook_streams<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<[Option<&'a Path>; 2]> {
    let one = |name: &str| match get(name).map(Path::new) {
        Some(path) if !path.is_absolute() => Err(Error::invalid(format!(
            "annotations[{name:?}]: {path:?} is not an absolute path"
        ))),
        path => Ok(path),
    };
    Ok([one(HOOKS_STDOUT)?, one(HOOKS_STDERR)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_kept_by_clear_words_only() {
        for (value, expected) in [
            (None, Some(false)),
            (Some("1"), Some(true)),
            (Some("true"), Some(true)),
            (Some("0"), Some(false)),
            (Some("false"), Some(false)),
            (Some("yes"), None),
            (Some("2"), None),
        ] {
            let found = keeps_groups(|name| value.filter(|_| name == KEEP_GROUPS));
            assert_eq!(found.ok(), expected, "{value:?}");
        }
    }

    #[test]
    fn context_types() {
        let found = |value: Option<&'static str>| context_type(|_| value).ok();
        assert_eq!(found(None), Some("context"));
        for kind in ["context", "fscontext", "defcontext", "rootcontext"] {
            assert_eq!(found(Some(kind)), Some(kind));
        }
        for bad in ["", "seclabel", "context=x,exec"] {
            assert_eq!(found(Some(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn files_of_hooks_are_absolute() {
        let found = hook_streams(|name| (name == HOOKS_STDERR).then_some("/var/log/x")).unwrap();
        assert_eq!(found, [None, Some(Path::new("/var/log/x"))]);
        for bad in ["", "x", "./x"] {
            assert!(hook_streams(|_| Some(bad)).is_err(), "{bad:?}");
        }
    }
}
