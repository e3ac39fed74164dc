//! Judges a configuration: all problems at once, each with its JSON path.
//!
//! Pure: what must be known about the machine and the caller comes in as [`Facts`], which
//! [`Facts::gather`] collects (and only what the configuration makes relevant). The rules are
//! those of runtime-spec 1.3 (config.md, config-linux.md) and the kernel; where engines know a
//! text of runc for a rule, that text is used. What only the kernel can judge is not judged here.
//!
//! Sections of other platforms (`windows`, `solaris`, `zos`) are ignored; `vm` is refused, because
//! a container without the hypervisor it asks for would be less isolated than its author believes.

mod devices;
mod facts;
mod linux;
mod mounts;
mod process;
mod sysctl;

use std::fmt;
use std::path::Path;

use oci_spec::runtime::{Hook, LinuxNamespace, LinuxNamespaceType, Spec};

pub use facts::{Caller, Facts, Rootfs, selinux_enabled};
pub use process::process;
pub use sysctl::path_below_proc_sys;

use crate::error::Error;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, as in `process.rlimits[0].soft`.
    pub path: String,
    /// What, in words.
    pub message: String,
}

/// Everything that is wrong; never empty when returned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { path, message }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{path}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Error::invalid(format!("invalid configuration: {problems}"))
    }
}

/// Finds all problems; what may be run all the same is returned as warnings for the log.
pub fn validate(spec: &Spec, facts: &Facts) -> Result<Vec<String>, Problems> {
    let mut found = Found::default();
    version(spec.version(), &mut found);
    root(spec, facts, &mut found);
    match spec.process() {
        Some(process) => process::check(process, facts.selinux, &mut found),
        None => found.problem("process", "process property must not be empty"),
    }
    let namespaces = Namespaces::of(spec);
    host_name(spec, namespaces, &mut found);
    mounts::check(spec, facts, &mut found);
    hooks(spec, &mut found);
    linux::check(spec, facts, namespaces, &mut found);
    if spec.vm().is_some() {
        found.problem("vm", "this runtime does not run virtual machines");
    }
    if found.problems.0.is_empty() {
        Ok(found.warnings)
    } else {
        Err(found.problems)
    }
}

/// Collects what the rules find.
#[derive(Debug, Default)]
struct Found {
    problems: Problems,
    warnings: Vec<String>,
}

impl Found {
    fn problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.0.push(Problem {
            path: path.into(),
            message: message.into(),
        });
    }

    /// Notes a problem unless the condition holds; path and text are built only then.
    fn require<M: Into<String>>(
        &mut self,
        holds: bool,
        path: impl FnOnce() -> String,
        message: impl FnOnce() -> M,
    ) {
        if !holds {
            self.problem(path(), message());
        }
    }

    fn warn(&mut self, message: impl Into<String>) {
        self.warnings.push(message.into());
    }
}

/// The namespaces that the configuration lists.
#[derive(Debug, Clone, Copy)]
struct Namespaces<'a>(&'a [LinuxNamespace]);

impl<'a> Namespaces<'a> {
    fn of(spec: &'a Spec) -> Self {
        let list = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.namespaces().as_deref());
        Self(list.unwrap_or_default())
    }

    /// Listed, new or by path.
    fn has(self, r#type: LinuxNamespaceType) -> bool {
        self.0.iter().any(|namespace| namespace.typ() == r#type)
    }

    /// The path of an existing namespace to join.
    fn path(self, r#type: LinuxNamespaceType) -> Option<&'a Path> {
        let found = self.0.iter().find(|namespace| namespace.typ() == r#type)?;
        found.path().as_deref()
    }
}

/// Versions are those of semver.org 2.0.0; ours is the first major one.
fn version(text: &str, found: &mut Found) {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(number).collect();
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] => {}
        [Some(major), Some(_), Some(_)] => found.problem(
            "ociVersion",
            format!("version {major} of the specification is not supported, only version 1"),
        ),
        _ => found.problem(
            "ociVersion",
            format!("{text:?} is not a version like 1.3.0"),
        ),
    }
}

/// A number without sign or leading zero.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    if digits && !padded {
        text.parse().ok()
    } else {
        None
    }
}

fn root(spec: &Spec, facts: &Facts, found: &mut Found) {
    let Some(root) = spec.root() else {
        return found.problem("root", "root must be specified");
    };
    if root.path().as_os_str().is_empty() {
        return found.problem("root.path", "must not be empty");
    }
    match facts.rootfs {
        Rootfs::Usable => {}
        Rootfs::Symlink => {
            found.problem(
                "root.path",
                "invalid rootfs: not an absolute path, or a symlink",
            );
        }
        Rootfs::Unusable(errno) => {
            let path = root.path().display();
            let cause = std::io::Error::from(errno);
            found.problem("root.path", format!("invalid rootfs: {path}: {cause}"));
        }
    }
}

fn host_name(spec: &Spec, namespaces: Namespaces<'_>, found: &mut Found) {
    /// `__NEW_UTS_LEN` of linux/utsname.h.
    const LONGEST: usize = 64;
    let own = namespaces.has(LinuxNamespaceType::Uts);
    for (property, name) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else {
            continue;
        };
        found.require(
            own,
            || property.into(),
            || format!("unable to set {property} without a private UTS namespace"),
        );
        found.require(
            name.len() <= LONGEST,
            || property.into(),
            || format!("longer than {LONGEST} bytes"),
        );
    }
}

fn hooks(spec: &Spec, found: &mut Found) {
    let Some(hooks) = spec.hooks() else { return };
    for (kind, list) in [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ] {
        for (index, hook) in list.iter().flatten().enumerate() {
            self::hook(hook, || format!("hooks.{kind}[{index}]"), found);
        }
    }
}

fn hook(hook: &Hook, path: impl Fn() -> String, found: &mut Found) {
    found.require(
        hook.path().is_absolute(),
        || path() + ".path",
        || format!("{:?} is not an absolute path", hook.path()),
    );
    found.require(
        hook.timeout().is_none_or(|seconds| seconds > 0),
        || path() + ".timeout",
        || "must be greater than zero",
    );
    for (index, variable) in hook.env().iter().flatten().enumerate() {
        process::variable(variable, || format!("{}.env[{index}]", path()), found);
    }
}

#[cfg(test)]
mod tests;
