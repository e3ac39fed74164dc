//! Makes `cri/src/proto/runtime.v1.rs` from `cri/proto/api.proto`: `cargo run -p rcrun-cri-codegen`.
//! With `--check` it writes nothing and fails if the two do not belong together.
//!
//! The output is checked in, so that a build needs neither a build script nor these dependencies. Its
//! first line has the digest of the definition; a test of `rcrun-cri` compares that with each run, and
//! this program's `--check` compares all of it after a change of the generator.
#![allow(clippy::print_stderr, reason = "a tool reports by printing")]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use sha2::{Digest, Sha256};

/// Messages that hold secrets: they get a `Debug` by hand.
const SECRET: &str = "runtime.v1.AuthConfig";

/// Whose words the comments are.
const NOTICE: &str = "\
// Made from cri/proto/api.proto by `cargo run -p rcrun-cri-codegen`; comments of that definition:
// Copyright 2020 The Kubernetes Authors. Licensed under the Apache License, Version 2.0.";

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
    let definition = cri.join("proto/api.proto");
    let made = generate(&definition)?;
    let target = cri.join("src/proto/runtime.v1.rs");
    if !check {
        return Ok(std::fs::write(target, made)?);
    }
    match std::fs::read_to_string(target)? == made {
        true => Ok(()),
        false => {
            Err("cri/src/proto/runtime.v1.rs is out of date: cargo run -p rcrun-cri-codegen".into())
        }
    }
}

fn generate(definition: &Path) -> Result<String, Box<dyn Error>> {
    let directory = definition
        .parent()
        .ok_or("the definition has no directory")?;
    let messages = protox::compile([definition], [directory])?;
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
    let code = std::fs::read_to_string(out.join("runtime.v1.rs"));
    std::fs::remove_dir_all(&out)?;
    compiled?;
    let digest = Sha256::digest(std::fs::read(definition)?);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!(
        "{NOTICE}\n// Of the definition with sha256 {digest}.\n{}",
        code?
    ))
}
