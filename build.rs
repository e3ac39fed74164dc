//! Tells the program which source revision it was built from.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=RCRUN_COMMIT");
    let commit = std::env::var("RCRUN_COMMIT").ok().or_else(described);
    println!(
        "cargo:rustc-env=RCRUN_COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
}

/// The revision of the checkout; `None` in a source archive.
fn described() -> Option<String> {
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["describe", "--always", "--abbrev=12"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
