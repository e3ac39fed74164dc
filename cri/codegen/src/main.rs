//! Makes the messages of the CRI and of NRI from their definitions: `cargo run -p rcrun-cri-codegen`.
//! With `--check` it writes nothing and fails if they do not belong together.
//!
//! The output is checked in, so that a build needs neither a build script nor these dependencies. Its
//! first lines have the digest of the definition; tests of `rcrun-cri` and `rcrun-nri` compare that with
//! each run, and this program's `--check` compares all of it after a change of the generator.
#![allow(clippy::print_stderr, reason = "a tool reports by printing")]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use sha2::{Digest, Sha256};

/// Messages that hold secrets: they get a `Debug` by hand.
const SECRET: &str = "runtime.v1.AuthConfig";

/// One definition and the code made from it.
struct Unit {
    /// Below `cri`.
    definition: &'static str,
    /// Below `cri`.
    target: &'static str,
    /// What the generator calls it: the package.
    package: &'static str,
    /// Whose words the comments are.
    notice: &'static str,
}

const UNITS: &[Unit] = &[
    Unit {
        definition: "proto/api.proto",
        target: "src/proto/runtime.v1.rs",
        package: "runtime.v1",
        notice: "\
; comments of that definition:
// Copyright 2020 The Kubernetes Authors. Licensed under the Apache License, Version 2.0.",
    },
    Unit {
        definition: "nri/proto/nri.proto",
        target: "nri/src/proto/nri.rs",
        package: "nri.pkg.api.v1alpha1",
        notice: ".",
    },
    Unit {
        definition: "nri/proto/ttrpc.proto",
        target: "nri/src/proto/ttrpc.rs",
        package: "ttrpc",
        notice: ".",
    },
];

fn main() -> ExitCode {
    match run(std::env::args().any(|word| word == "--check")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rcrun-cri-codegen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool) -> Result<(), Box<dyn Error>> {
    let cri = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("this crate has no parent directory")?;
    for unit in UNITS {
        let made = generate(cri, unit)?;
        let target = cri.join(unit.target);
        if !check {
            std::fs::write(target, made)?;
        } else if std::fs::read_to_string(target)? != made {
            let target = unit.target;
            return Err(
                format!("cri/{target} is out of date: cargo run -p rcrun-cri-codegen").into(),
            );
        }
    }
    Ok(())
}

fn generate(cri: &Path, unit: &Unit) -> Result<String, Box<dyn Error>> {
    let definition = cri.join(unit.definition);
    let directory = definition
        .parent()
        .ok_or("the definition has no directory")?;
    let messages = protox::compile([&definition], [directory])?;
    let out = std::env::temp_dir().join(format!("rcrun-cri-codegen-{}", std::process::id()));
    std::fs::create_dir(&out)?;
    let compiled = tonic_prost_build::configure()
        .out_dir(&out)
        // Connections are our own: tonic's would bring tower and axum.
        .build_transport(false)
        // Only tests are clients.
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        // The same message is the same bytes.
        .btree_map(".")
        .skip_debug([SECRET])
        .compile_fds(messages);
    let code = std::fs::read_to_string(out.join(format!("{}.rs", unit.package)));
    std::fs::remove_dir_all(&out)?;
    compiled?;
    let digest = Sha256::digest(std::fs::read(&definition)?);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!(
        "// Made from cri/{} by `cargo run -p rcrun-cri-codegen`{}\n// Of the definition with sha256 {digest}.\n{}",
        unit.definition, unit.notice, code?
    ))
}
