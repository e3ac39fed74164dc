//! Comparison with `BuildKit`'s own test files, which are not part of this repository.
//! `RCRUN_BUILDKIT_TESTFILES=.../frontend/dockerfile/parser cargo test -p rcrun-builder oracle`

use std::path::PathBuf;

use crate::dockerfile::dump;

fn files() -> Option<PathBuf> {
    let path = std::env::var_os("RCRUN_BUILDKIT_TESTFILES").map(PathBuf::from);
    if path.is_none() {
        eprintln!(
            "skipped: RCRUN_BUILDKIT_TESTFILES does not name BuildKit's frontend/dockerfile/parser"
        );
    }
    path
}

#[test]
fn oracle_syntax_trees() {
    let Some(files) = files() else { return };
    let mut same = 0;
    for directory in std::fs::read_dir(files.join("testfiles")).unwrap() {
        let directory = directory.unwrap().path();
        let text = std::fs::read(directory.join("Dockerfile")).unwrap();
        let wanted = std::fs::read_to_string(directory.join("result")).unwrap();
        let found =
            dump(&text).unwrap_or_else(|errors| panic!("{}: {errors:?}", directory.display()));
        assert_eq!(found, wanted, "{}", directory.display());
        same += 1;
    }
    for directory in std::fs::read_dir(files.join("testfiles-negative")).unwrap() {
        let text = std::fs::read(directory.unwrap().path().join("Dockerfile")).unwrap();
        assert!(dump(&text).is_err(), "{}", String::from_utf8_lossy(&text));
        same += 1;
    }
    eprintln!("{same} test files");
    assert!(same >= 36, "{same}");
}
