#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rcrun_fuzz::run("nri", input));
