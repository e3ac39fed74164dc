//! The AppArmor profile that containers get unless told otherwise (apparmor.d(5)), and its way into the kernel.
//!
//! It is a second lock on doors that namespaces, mounts and the filter of system calls have closed already: no
//! mounting, no tracing or signalling of what is not a container's, no writing to what of /proc and /sys belongs to
//! the kernel. The compiler of policies is AppArmor's own, `apparmor_parser`; without it there is no profile. The
//! profile stays in the kernel when nobody uses it any more, for whoever starts the next container.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, ErrorKind, Result};

/// Its name.
pub const NAME: &str = "rcrun-default";

/// Where AppArmor's packages have the compiler.
const PARSERS: [&str; 3] = [
    "/sbin/apparmor_parser",
    "/usr/sbin/apparmor_parser",
    "/usr/bin/apparmor_parser",
];
/// The features that the text is written for, where the compiler knows of such files (since AppArmor 3): what
/// later kernels mediate besides stays as it was.
const FEATURES: &str = "/etc/apparmor.d/abi/3.0";
/// Profiles that are in the kernel, and their modes.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// How much of what the compiler says is told.
const WORDS: usize = 1024;

/// What there is of AppArmor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Support {
    /// The kernel does not have it, or it is not turned on.
    #[default]
    Off,
    /// It is on, and nobody here sees its profiles: in a container, say.
    Hidden,
    /// Profiles can be looked at.
    On,
}

/// Whether AppArmor is turned on.
pub fn is_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|y| y.starts_with(b"Y"))
}

/// What there is.
pub fn support() -> Support {
    match (is_enabled(), Path::new(LOADED).exists()) {
        (false, _) => Support::Off,
        (true, false) => Support::Hidden,
        (true, true) => Support::On,
    }
}

/// Whether a profile of this name is in the kernel.
pub fn is_loaded(name: &str) -> Result<bool> {
    let text = std::fs::read_to_string(LOADED).context(|| format!("cannot read {LOADED}"))?;
    Ok(lists(&text, name))
}

/// A line is `NAME (MODE)`; names may have spaces.
fn lists(text: &str, name: &str) -> bool {
    let mut lines = text.lines();
    lines.any(|line| line.rsplit_once(" (").is_some_and(|(one, _)| one == name))
}

/// The compiler of policies.
pub fn parser() -> Option<&'static str> {
    PARSERS.into_iter().find(|path| Path::new(path).exists())
}

/// Loads [`NAME`], in the place of what may have that name: another version has another text.
pub fn load() -> Result<()> {
    let failed = || format!("cannot load the AppArmor profile {NAME}");
    let Some(parser) = parser() else {
        let text = "there is no apparmor_parser";
        return Err(Error::new(ErrorKind::Unsupported, text)
            .with_hint("install AppArmor's tools (package apparmor, or apparmor-parser)")
            .context(failed()));
    };
    let own = std::fs::read_to_string("/proc/self/attr/apparmor/current").unwrap_or_default();
    let text = text(Path::new(FEATURES).exists(), confined(&own));
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache", "--quiet"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(|| format!("cannot execute {parser}"))
        .context(failed)?;
    let mut input = child.stdin.take();
    // One that ends early says why.
    let _ = input.as_mut().map(|input| input.write_all(text.as_bytes()));
    drop(input);
    let output = child.wait_with_output().context(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(WORDS).collect();
    let what = format!("{parser} ended with {}: {said}", output.status);
    Err(Error::new(ErrorKind::Internal, what).context(failed()))
}

/// Loads [`NAME`] unless something of that name is there.
pub fn load_once() -> Result<()> {
    match is_loaded(NAME)? {
        true => Ok(()),
        false => load(),
    }
}

/// The profile that confines this program, of `NAME (MODE)`: it has to be able to send signals to containers.
fn confined(own: &str) -> Option<&str> {
    let name = own.trim().rsplit_once(" (")?.0;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte);
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}

/// The text of the profile.
fn text(features: bool, server: Option<&str>) -> String {
    let mut text = String::new();
    if features {
        text.push_str("abi <abi/3.0>,\n");
    }
    // Paths are those of the container: what lies outside of its root has none, and is as if it were in it.
    let _ = writeln!(
        text,
        "profile {NAME} flags=(attach_disconnected,mediate_deleted) {{"
    );
    text.push_str(RULES);
    for peer in ["unconfined"].into_iter().chain(server) {
        let _ = writeln!(text, "  signal (receive) peer={peer},");
    }
    let _ = writeln!(text, "  signal (send, receive) peer={NAME},");
    // Processes of a container see and trace each other.
    let _ = writeln!(
        text,
        "  ptrace (trace, read, tracedby, readby) peer={NAME},"
    );
    text.push_str("}\n");
    text
}

/// What does not depend on anything. What is denied stays so though the first rules allow everything.
const RULES: &str = "
  file,
  capability,
  network,
  umount,
  deny mount,

  # of /proc only what belongs to a process, and of /proc/sys shared memory of an IPC namespace
  deny /proc/* w,
  deny /proc/[^0-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,

  # of /sys only cgroups
  deny /sys/[^f]** wklx,
  deny /sys/f[^s]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/fs/cg[^r]** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_and_a_mode() {
        let text = "rcrun-default (enforce)\nfire fox (complain)\n/usr/bin/man (enforce)\n";
        for (name, there) in [
            (NAME, true),
            ("fire fox", true),
            ("/usr/bin/man", true),
            ("rcrun", false),
            ("rcrun-default (enforce)", false),
            ("", false),
        ] {
            assert_eq!(lists(text, name), there, "{name}");
        }
        assert!(!lists("", NAME));
    }

    #[test]
    fn only_plain_names_come_into_the_text() {
        for (own, name) in [
            ("unconfined\n", None),
            ("", None),
            ("/usr/bin/rcrun (enforce)\n", Some("/usr/bin/rcrun")),
            ("rcrun (complain)", Some("rcrun")),
            ("a, capability (enforce)", None),
            ("a}\nprofile b { (enforce)", None),
            (" (enforce)", None),
        ] {
            assert_eq!(confined(own), name, "{own:?}");
        }
    }

    #[test]
    fn rules_depend_on_the_compiler_and_on_who_sends_signals() {
        let (old, new) = (text(false, None), text(true, Some("/usr/bin/rcrun")));
        assert!(old.starts_with("profile rcrun-default "), "{old}");
        assert!(new.starts_with("abi <abi/3.0>,\nprofile "), "{new}");
        assert!(!old.contains("peer=/usr/bin/rcrun,"), "{old}");
        assert!(
            new.contains("signal (receive) peer=/usr/bin/rcrun,"),
            "{new}"
        );
        for rules in [&old, &new] {
            assert!(rules.contains("deny mount,"));
            assert_eq!(rules.matches('{').count(), rules.matches('}').count());
        }
    }
}
