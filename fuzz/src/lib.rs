//! Targets of fuzzing: everything of builder, image, store, streaming and NRI that reads bytes of strangers without touching files, each
//! with what has to hold for any input, beyond that it ends and does not panic.
//!
//! Two ways run them. `cargo test -p rcrun-fuzz` changes the seeds at random, the same way each time ([`mutate`]), for two
//! seconds each, and for minutes with `RCRUN_TEST_FULL=1`. `libfuzzer/` is for `cargo fuzz`, which needs a nightly
//! toolchain and looks at what the inputs reach: `cargo run -p rcrun-fuzz --example seeds fuzz/libfuzzer/corpus`, then
//! `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer TARGET`.
//!
//! What it found once is a seed, or a test where it was mended.

#![forbid(unsafe_code)]

pub mod archives;
pub mod documents;
pub mod language;
pub mod mutate;
pub mod plugins;
pub mod streams;

/// Something that is fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, also that of the program of cargo-fuzz.
    pub name: &'static str,
    /// Reads one input; panics if something does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "dockerfile",
        run: language::dockerfile,
        seeds: language::dockerfiles,
    },
    Target {
        name: "words",
        run: language::words,
        seeds: language::word_seeds,
    },
    Target {
        name: "ignore",
        run: language::ignore,
        seeds: language::ignore_seeds,
    },
    Target {
        name: "tar",
        run: archives::tar,
        seeds: archives::tar_seeds,
    },
    Target {
        name: "pax",
        run: archives::pax,
        seeds: archives::pax_seeds,
    },
    Target {
        name: "compressed",
        run: archives::compressed,
        seeds: archives::compressed_seeds,
    },
    Target {
        name: "manifest",
        run: documents::manifest,
        seeds: documents::manifest_seeds,
    },
    Target {
        name: "config",
        run: documents::config,
        seeds: documents::config_seeds,
    },
    Target {
        name: "cache",
        run: documents::cache,
        seeds: documents::cache_seeds,
    },
    Target {
        name: "packages",
        run: documents::packages,
        seeds: documents::package_seeds,
    },
    Target {
        name: "names",
        run: documents::names,
        seeds: documents::name_seeds,
    },
    Target {
        name: "spdy",
        run: streams::spdy,
        seeds: streams::spdy_seeds,
    },
    Target {
        name: "websocket",
        run: streams::websocket,
        seeds: streams::websocket_seeds,
    },
    Target {
        name: "http",
        run: streams::http,
        seeds: streams::http_seeds,
    },
    Target {
        name: "nri",
        run: plugins::nri,
        seeds: plugins::nri_seeds,
    },
];

/// Runs a target by its name, for the programs of cargo-fuzz.
///
/// # Panics
///
/// If there is none of that name, and if the target finds something.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this list").run)(input);
}

/// Two inputs in one: what is before the first NUL, and what is behind it.
fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == 0) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[]),
    }
}

fn bytes_of(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}
