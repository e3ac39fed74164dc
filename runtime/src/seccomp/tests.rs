//! The compiler against an interpreter of the kernel's machine and an independent reading of profiles.

mod interpreter;
mod kernel;
mod oracle;
mod profiles;
mod semantics;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::Value;

use super::{Filter, compile};

/// A profile from JSON, as the configuration holds it.
fn profile(json: Value) -> LinuxSeccomp {
    serde_json::from_value(json).unwrap()
}

fn filter(json: Value) -> Filter {
    compile(&profile(json)).unwrap().unwrap()
}

fn refused(json: Value) -> String {
    compile(&profile(json)).unwrap_err().chain().to_string()
}

/// The profile that docker gives an unprivileged container on x86-64.
fn default_profile() -> LinuxSeccomp {
    serde_json::from_str(include_str!("fixtures/seccomp-default.json")).unwrap()
}
