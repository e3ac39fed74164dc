//! Tells the program which source revision it was built from, and the linker which functions to put
//! side by side.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=RCRUN_COMMIT");
    let commit = std::env::var("RCRUN_COMMIT").ok().or_else(described);
    println!(
        "cargo:rustc-env=RCRUN_COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
    order_functions();
}

/// Release builds have the functions that containers need in one place: the kernel maps 64 KiB
/// around each page that is touched, so scattered functions cost memory and page faults. The list
/// comes from `benches/hot_text.rs`, for which `RCRUN_LINK_MAP` asks for a map of the result.
fn order_functions() {
    const LIST: &str = "benches/hot-text.ld";
    println!("cargo:rerun-if-changed={LIST}");
    println!("cargo:rerun-if-env-changed=RCRUN_LINK_MAP");
    let is = |name, value| std::env::var(name).is_ok_and(|found| found == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        return;
    }
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{root}/{LIST}");
    if let Ok(map) = std::env::var("RCRUN_LINK_MAP") {
        println!("cargo:rustc-link-arg-bins=-Wl,-Map={map}");
    }
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
