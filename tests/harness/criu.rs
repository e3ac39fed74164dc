//! A criu that works here, and containers that it can save: without streams that lead to files outside.
//!
//! `RCRUN_TEST_CRIU` names the program; otherwise it is looked for in the PATH. `criu check` decides.

use super::bundle::Bundle;
use super::{Container, Env, process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Names the program.
pub(crate) const PROGRAM: &str = "RCRUN_TEST_CRIU";
/// How long criu may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The PATH of tests: runtimes without a flag for it find criu there.
pub(crate) fn search_path() -> String {
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let program = std::env::var_os(PROGRAM).map(PathBuf::from);
    match program.as_deref().and_then(Path::parent) {
        Some(dir) => format!("{}:{usual}", dir.display()),
        None => usual.to_owned(),
    }
}

/// Skips the test where criu cannot work. It wants the loopback interface, even for looking around.
pub(crate) fn require(env: &Env) {
    let busybox = env.base().join("bin/busybox");
    let up = Command::new(busybox)
        .args(["ip", "link", "set", "lo", "up"])
        .status();
    assert!(
        up.unwrap().success(),
        "cannot bring up the loopback interface"
    );
    check(env, &["check"]);
}

/// Skips the test where criu or the kernel lacks a feature.
pub(crate) fn require_feature(env: &Env, feature: &str) {
    require(env);
    check(env, &["check", "--feature", feature]);
}

fn check(env: &Env, args: &[&str]) {
    let Some(criu) = process::which(Path::new("criu")) else {
        env.skip(format!("criu is not installed (and {PROGRAM} names none)"));
    };
    let output = Command::new(&criu).args(args).output().unwrap();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said
            .lines()
            .find(|line| line.contains("Error"))
            .unwrap_or_default();
        env.skip(format!("{} {}: {reason}", criu.display(), args.join(" ")));
    }
}

/// Runs a command with these streams to its end.
#[track_caller]
pub(crate) fn call(mut command: Command) {
    let mut child = command.spawn().unwrap();
    let status = process::wait_for(&mut child, LIMIT).unwrap();
    let status = status.unwrap_or_else(|| panic!("{command:?} hangs\n{}", process::table()));
    assert!(status.success(), "{command:?}: {status}");
}

/// The same command on /dev/null.
pub(crate) fn quiet(mut command: Command) -> Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// A started container on /dev/null.
#[track_caller]
pub(crate) fn start<'e>(bundle: &Bundle<'e>) -> Container<'e> {
    call(quiet(bundle.command("run", &["--detach"])));
    handle(bundle, &bundle.id)
}

/// A container that is there already.
pub(crate) fn handle<'e>(bundle: &Bundle<'e>, id: &str) -> Container<'e> {
    Container::new(bundle.env, id, File::open("/dev/null").unwrap())
}
