//! The integration suite: every user-visible behaviour of the runtime and of the image store, against the
//! real kernel.
//!
//! One binary plays four parts, told apart in `main`: the runner (libtest-mimic), the two processes that
//! isolate and reap one test (`harness::stage`), and the probe that runs inside containers (`probe`).
//! `RCRUN_RUNTIME=/path/to/runc cargo test` runs the same tests against another runtime;
//! `RCRUN_TEST_FULL=1` runs long variants with their full counts; `RCRUN_TEST_USER=1` runs the tests of builds
//! with an ordinary user's verbs, in a store of that user.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    missing_docs,
    reason = "a test reports by panicking and printing"
)]

mod build;
mod cri;
mod harness;
mod oci;
mod people;
mod probe;
mod store;

use std::process::ExitCode;

fn main() -> ExitCode {
    if probe::wanted() {
        return probe::main();
    }
    if let Some(code) = harness::monitor::main() {
        return code;
    }
    if let Some(code) = harness::stage::main(all) {
        return code;
    }
    harness::suite::main(all())
}

/// Every test of every area.
fn all() -> Vec<harness::Test> {
    let mut tests = build::all();
    tests.extend(cri::all());
    tests.extend(oci::all());
    tests.extend(people::all());
    tests.extend(store::all());
    tests
}
