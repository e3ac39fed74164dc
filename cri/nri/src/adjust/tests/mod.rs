use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

use crate::proto::v1alpha1::*;

mod limits;
mod linux_part;
mod refused;
mod whole;

type Adjust = ContainerAdjustment;

type Linux = LinuxContainerAdjustment;

fn linux(linux: Linux) -> Adjust {
    Adjust {
        linux: Some(linux),
        ..Adjust::default()
    }
}

fn resources(resources: LinuxResources) -> Adjust {
    linux(Linux {
        resources: Some(resources),
        ..Linux::default()
    })
}

fn memory(memory: LinuxMemory) -> Adjust {
    resources(LinuxResources {
        memory: Some(memory),
        ..LinuxResources::default()
    })
}

fn texts(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    let list = list.iter();
    list.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn env(list: &[(&str, &str)]) -> Adjust {
    let list = list.iter();
    Adjust {
        env: list
            .map(|(key, value)| KeyValue {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
        ..Adjust::default()
    }
}

fn mount(destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        r#type: "bind".to_owned(),
        source: "/src".to_owned(),
        options: words(options),
    }
}

fn int64(value: i64) -> Option<OptionalInt64> {
    Some(OptionalInt64 { value })
}

fn uint64(value: u64) -> Option<OptionalUInt64> {
    Some(OptionalUInt64 { value })
}

fn text(value: &str) -> Option<OptionalString> {
    Some(OptionalString {
        value: value.to_owned(),
    })
}

/// Each case: a configuration, what is wanted, what comes of it.
#[track_caller]
fn all(cases: Vec<(Value, Adjust, Value)>) {
    for (before, wanted, after) in cases {
        let mut spec = before.clone();
        apply(&mut spec, &wanted).unwrap();
        assert_eq!(spec, after, "{before} with {wanted:?}");
    }
}

#[test]
fn nothing_wanted_changes_nothing() {
    let empty = linux(Linux {
        resources: Some(LinuxResources {
            memory: Some(LinuxMemory::default()),
            cpu: Some(LinuxCpu::default()),
            ..LinuxResources::default()
        }),
        rdt: Some(LinuxRdt::default()),
        ..Linux::default()
    });
    let empty = Adjust {
        hooks: Some(Hooks::default()),
        ..empty
    };
    for spec in [json!({}), json!({"linux": {"x": 1}, "unknown": [null]})] {
        all(vec![
            (spec.clone(), Adjust::default(), spec.clone()),
            (spec.clone(), empty.clone(), spec),
        ]);
    }
}

#[test]
fn annotations_are_set_and_removed() {
    let wanted = |list| Adjust {
        annotations: texts(list),
        ..Adjust::default()
    };
    all(vec![
        (
            json!({}),
            wanted(&[("a", "1")]),
            json!({"annotations": {"a": "1"}}),
        ),
        (
            json!({"annotations": null}),
            wanted(&[("a", "1")]),
            json!({"annotations": {"a": "1"}}),
        ),
        (
            json!({"annotations": {"a": "0", "b": "0"}}),
            wanted(&[("a", "1"), ("-b", ""), ("-c", "")]),
            json!({"annotations": {"a": "1"}}),
        ),
        // Removed and set is set.
        (
            json!({"annotations": {"a": "0"}}),
            wanted(&[("-a", ""), ("a", "1")]),
            json!({"annotations": {"a": "1"}}),
        ),
    ]);
}

#[test]
fn variables_keep_their_place() {
    let spec = |list: &[&str]| json!({"process": {"env": list}});
    all(vec![
        (json!({}), env(&[("A", "1")]), spec(&["A=1"])),
        (
            spec(&["A=0", "B=0"]),
            env(&[("A", "1"), ("C", "=")]),
            spec(&["A=1", "B=0", "C=="]),
        ),
        (spec(&["A=0", "B=0"]), env(&[("-A", "")]), spec(&["B=0"])),
        (
            spec(&["A=0", "B"]),
            env(&[("B", "1")]),
            spec(&["A=0", "B=1"]),
        ),
        // Programs take the first or the last of two.
        (
            spec(&["A=0", "B=0", "A=2"]),
            env(&[("A", "1")]),
            spec(&["A=1", "B=0"]),
        ),
        (spec(&["A=0", "AA=0"]), env(&[("-A", "")]), spec(&["AA=0"])),
        (
            spec(&["A=0"]),
            env(&[("-A", ""), ("A", "1")]),
            spec(&["A=1"]),
        ),
    ]);
}

#[test]
fn arguments_hooks_and_rlimits() {
    let hook = |path: &str, timeout| Hook {
        path: path.to_owned(),
        args: words(&["x", "y"]),
        env: words(&["A=1"]),
        timeout,
    };
    let hooks = Adjust {
        hooks: Some(Hooks {
            prestart: vec![hook("/a", None)],
            poststop: vec![Hook {
                path: "/b".to_owned(),
                ..Hook::default()
            }],
            create_container: vec![hook("/c", Some(OptionalInt { value: 3 }))],
            ..Hooks::default()
        }),
        ..Adjust::default()
    };
    let rlimits = Adjust {
        rlimits: vec![PosixRlimit {
            r#type: "RLIMIT_CORE".to_owned(),
            hard: u64::MAX,
            soft: 1,
        }],
        ..Adjust::default()
    };
    let args = Adjust {
        args: words(&["sh"]),
        ..Adjust::default()
    };
    all(vec![
        (
            json!({"process": {"args": ["a", "b"]}}),
            args,
            json!({"process": {"args": ["sh"]}}),
        ),
        (
            json!({"hooks": {"prestart": [{"path": "/own"}]}}),
            hooks,
            json!({"hooks": {
                "prestart": [{"path": "/own"}, {"path": "/a", "args": ["x", "y"], "env": ["A=1"]}],
                "createContainer": [{"path": "/c", "args": ["x", "y"], "env": ["A=1"], "timeout": 3}],
                "poststop": [{"path": "/b"}],
            }}),
        ),
        (
            json!({"process": {"rlimits": [
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}, {"type": "RLIMIT_CPU", "hard": 0, "soft": 0},
            ]}}),
            rlimits,
            json!({"process": {"rlimits": [
                {"type": "RLIMIT_CORE", "hard": u64::MAX, "soft": 1}, {"type": "RLIMIT_CPU", "hard": 0, "soft": 0},
            ]}}),
        ),
    ]);
}

#[test]
fn mounts_replace_what_is_at_their_place_and_are_sorted() {
    let at = |place: &str| json!({"destination": place});
    let spec =
        |places: &[&str]| json!({"mounts": places.iter().map(|p| at(p)).collect::<Vec<_>>()});
    let places = |spec: &Value| -> Vec<String> {
        let mounts = spec["mounts"].as_array().unwrap().iter();
        mounts
            .map(|mount| mount["destination"].as_str().unwrap().to_owned())
            .collect()
    };
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (
            &["/proc", "/dev", "/dev/pts"],
            &["/a/b/c", "/a"],
            &["/a", "/dev", "/proc", "/dev/pts", "/a/b/c"],
        ),
        (&["/proc", "/dev"], &["-/proc"], &["/dev"]),
        (&["/a"], &["/a"], &["/a"]),
        (&["/a/"], &["-/a"], &[]),
        (&["/a"], &["-//a/./b/.."], &[]),
        (&["/a"], &["-/b"], &["/a"]),
        (&["/a"], &["-/a", "/a"], &["/a"]),
    ];
    for (before, wanted, after) in cases {
        let mut spec = spec(before);
        let wanted = Adjust {
            mounts: wanted.iter().map(|place| mount(place, &[])).collect(),
            ..Adjust::default()
        };
        apply(&mut spec, &wanted).unwrap();
        assert_eq!(places(&spec), *after);
    }
    let mut spec = spec(&["/a"]);
    let wanted = Adjust {
        mounts: vec![mount("/a", &["ro"])],
        ..Adjust::default()
    };
    apply(&mut spec, &wanted).unwrap();
    let whole = json!({"destination": "/a", "type": "bind", "source": "/src", "options": ["ro"]});
    assert_eq!(spec["mounts"], json!([whole]));
}

#[test]
fn propagation_reaches_the_root_and_the_caller_hears_of_it() {
    for (root, option, expected, shared, receiving) in [
        (Value::Null, "rprivate", Value::Null, 0, 0),
        (Value::Null, "rshared", json!("rshared"), 1, 0),
        (json!("rslave"), "rshared", json!("rshared"), 1, 0),
        (Value::Null, "rslave", json!("rslave"), 0, 1),
        (json!("private"), "rslave", json!("rslave"), 0, 1),
        (json!("rshared"), "rslave", json!("rshared"), 0, 1),
        (json!("shared"), "rslave", json!("shared"), 0, 1),
    ] {
        let mut spec = json!({"linux": {"rootfsPropagation": root}});
        let wanted = Adjust {
            mounts: vec![mount("/a", &["rbind", option])],
            ..Adjust::default()
        };
        let applied = apply(&mut spec, &wanted).unwrap();
        assert_eq!(
            spec["linux"]["rootfsPropagation"], expected,
            "{root} {option}"
        );
        assert_eq!(
            (applied.shared.len(), applied.receiving.len()),
            (shared, receiving)
        );
    }
}
