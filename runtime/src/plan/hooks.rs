//! `hooks` of config.json -> programs with arguments and deadlines (runtime-spec config.md,
//! "POSIX-platform Hooks"). Pure.

use std::ffi::CString;

use oci_spec::runtime as oci;

use crate::error::{Error, Result};
use crate::sys::exec::Vector;

use super::{c_path, c_string};

/// A hook that the container's init runs, laid out before the fork.
#[derive(Debug)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: CString,
    /// argv; the path when the configuration gives none.
    pub args: Vector,
    /// environ: what the configuration says and nothing else.
    pub env: Vector,
    /// Seconds after which it is killed.
    pub timeout: Option<u32>,
}

/// Lays out one list of hooks; `name` is its property.
pub fn plan(name: &str, hooks: Option<&Vec<oci::Hook>>) -> Result<Vec<Hook>> {
    hooks
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(index, hook)| one(hook).map_err(|e| e.context(format!("hooks.{name}[{index}]"))))
        .collect()
}

fn one(hook: &oci::Hook) -> Result<Hook> {
    if !hook.path().is_absolute() {
        return Err(Error::invalid(format!(
            "path {:?} is not absolute",
            hook.path()
        )));
    }
    let path = c_path(hook.path())?;
    let words = |list: &Option<Vec<String>>| {
        list.iter()
            .flatten()
            .map(|w| c_string(w))
            .collect::<Result<Vec<_>>>()
    };
    let mut args = words(hook.args())?;
    if args.is_empty() {
        args.push(path.clone());
    }
    let timeout =
        match hook.timeout() {
            None => None,
            Some(seconds) => Some(u32::try_from(seconds).ok().filter(|s| *s > 0).ok_or_else(
                || {
                    Error::invalid(format!(
                        "timeout {seconds} is not a positive number of seconds"
                    ))
                },
            )?),
        };
    Ok(Hook {
        path,
        args: Vector::new(args),
        env: Vector::new(words(hook.env())?),
        timeout,
    })
}
