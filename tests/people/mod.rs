//! Containers of images, one module per area that a user can name.

mod copies;
mod flags;
mod hostile;
mod life;
mod logs;
mod users;
mod verbs;

use crate::harness::{Env, Test, test};

/// A file here, and the function that lists its tests.
type Module = (&'static str, fn() -> Vec<Test>);

/// Modules and their tests. `no_file_of_the_people_is_forgotten` compares this list with the directory.
const MODULES: &[Module] = &[
    ("copies", copies::tests),
    ("flags", flags::tests),
    ("hostile", hostile::tests),
    ("life", life::tests),
    ("logs", logs::tests),
    ("users", users::tests),
    ("verbs", verbs::tests),
];

pub(crate) fn all() -> Vec<Test> {
    let mut tests = vec![test!(no_file_of_the_people_is_forgotten)];
    for (module, list) in MODULES {
        tests.extend(list().into_iter().map(|mut test| {
            let name = test.name.split("::").last().unwrap_or_default();
            test.name = format!("people::{module}::{name}");
            test.only_rcrun("runc has no images")
        }));
    }
    tests
}

fn no_file_of_the_people_is_forgotten(_: &Env) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/people");
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| name != "mod")
        .collect();
    files.sort();
    let listed: Vec<&str> = MODULES.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        files, listed,
        "files in tests/people, and modules that are run"
    );
}
