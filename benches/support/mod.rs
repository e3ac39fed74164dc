//! What the benchmarks share: bundles of this machine's static busybox.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// The release build under test.
pub(crate) const RCRUN: &str = env!("CARGO_BIN_EXE_rcrun");

/// Whether this is `cargo bench`: these are tools, and `cargo test --benches` has nothing to test.
pub(crate) fn asked_for() -> bool {
    std::env::args().any(|word| word == "--bench")
}

/// Makes a bundle that runs these words, with the default configuration of `rcrun spec`.
pub(crate) fn bundle(work: &Path, name: &str, script: &str) -> PathBuf {
    let directory = work.join(name);
    let rootfs = directory.join("rootfs");
    for path in ["bin", "dev", "proc", "sys"] {
        std::fs::create_dir_all(rootfs.join(path)).unwrap();
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is needed");
    for link in ["sh", "true", "sleep"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(link)).unwrap();
    }
    let made = Command::new(RCRUN)
        .arg("spec")
        .current_dir(&directory)
        .status()
        .unwrap();
    assert!(made.success());
    let file = directory.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = script.split(' ').collect();
    std::fs::write(&file, config.to_string()).unwrap();
    directory
}
