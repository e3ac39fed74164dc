//! Every target, for a while, with inputs that are the same each time: two seconds, or `RCRUN_TEST_FULL=1` for five minutes.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test reports by panicking and printing"
)]

use rcrun_fuzz::mutate::Inputs;
use rcrun_fuzz::{TARGETS, Target};
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

/// Far more than any input takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn for_a_while(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let full = std::env::var("RCRUN_TEST_FULL").is_ok_and(|value| value == "1");
    let end = Instant::now() + Duration::from_secs(if full { 300 } else { 2 });
    let seeds = (target.seeds)();
    for seed in &seeds {
        one(target, seed);
    }
    let mut inputs = Inputs::new(seeds, 0x5eed);
    let mut count = 0;
    while Instant::now() < end {
        one(target, &inputs.next_input());
        count += 1;
    }
    println!("{name}: {count} inputs");
}

/// Panics with the input.
fn one(target: &Target, input: &[u8]) {
    let began = Instant::now();
    let done = catch_unwind(|| (target.run)(input));
    let took = began.elapsed();
    assert!(
        done.is_ok() && took < PATIENCE,
        "{} after {took:?} with b\"{}\"",
        target.name,
        input.escape_ascii()
    );
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            for_a_while(stringify!($name));
        })*

        #[test]
        fn all_targets_are_run() {
            let run = [$(stringify!($name)),*];
            let listed: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(listed, run);
            for name in listed {
                let program = format!("{}/libfuzzer/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
                assert!(std::path::Path::new(&program).exists(), "{program}");
            }
        }
    };
}

targets!(dockerfile words ignore tar pax compressed manifest config cache packages names spdy websocket http nri);
