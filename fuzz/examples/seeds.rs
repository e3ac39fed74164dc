//! Writes the seeds of all targets below a directory, one file each: a corpus for cargo-fuzz to begin with.
//! `cargo run -p rcrun-fuzz --example seeds fuzz/libfuzzer/corpus`

use rcrun_fuzz::TARGETS;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let directory = PathBuf::from(
        std::env::args_os()
            .nth(1)
            .unwrap_or_else(|| "corpus".into()),
    );
    for target in TARGETS {
        let directory = directory.join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
