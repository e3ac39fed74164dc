//! The files of an area: each lists its tests, and none is forgotten.

use super::Test;

/// A file of an area, and the function that lists its tests.
pub(crate) type Module = (&'static str, fn() -> Vec<Test>);

/// The tests of an area that only rcrun has, with the area's name in front of theirs.
pub(crate) fn of_images(area: &str, modules: &[Module]) -> Vec<Test> {
    let named = |(module, list): &Module| {
        let module = *module;
        let rename = move |mut test: Test| {
            let name = test.name.split("::").last().unwrap_or_default();
            test.name = format!("{area}::{module}::{name}");
            test.only_rcrun("runc has no images")
        };
        list().into_iter().map(rename).collect::<Vec<_>>()
    };
    modules.iter().flat_map(named).collect()
}

/// Compares the list, which is sorted, with the directory below tests/.
#[track_caller]
pub(crate) fn check(area: &str, modules: &[Module]) {
    let dir = format!("{}/tests/{area}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| name != "mod")
        .collect();
    files.sort();
    let listed: Vec<&str> = modules.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        files, listed,
        "files in tests/{area}, and modules that are run"
    );
    for (name, tests) in modules {
        assert!(!tests().is_empty(), "{name} has no tests");
    }
}
