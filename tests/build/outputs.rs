//! Where results go: files, archives, layouts, registries, and what scripts read.

use crate::harness::builds::Builds;
use crate::harness::{Env, Test, test};
use std::fs;

pub(super) fn tests() -> Vec<Test> {
    vec![test!(outputs)]
}

fn outputs(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.context(&[
        (
            "Dockerfile",
            "FROM scratch\nCOPY --chown=5:6 d /d\nCOPY l* /links/\n",
        ),
        ("d/f", "1"),
        ("link -> d/f", ""),
    ]);
    let local = env.path("local");
    builds
        .build(&[&format!("--output={}", local.display())], &context)
        .ok();
    assert_eq!(fs::read_to_string(local.join("d/f")).unwrap(), "1");
    let tar = env.path("files.tar");
    builds
        .build(
            &[&format!("--output=type=tar,dest={}", tar.display())],
            &context,
        )
        .ok();
    let mut names: Vec<String> = tar::Archive::new(fs::File::open(&tar).unwrap())
        .entries()
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    assert_eq!(names, ["d/", "d/f", "links/", "links/link"]);
    // Images in other places are the same.
    let stored = builds.build(&["-t", "mine:1"], &context).ok();
    let layout = env.path("layout");
    let oci = format!("--output=type=oci,tar=false,dest={}", layout.display());
    builds.build(&[&oci, "-t", "mine:1"], &context).ok();
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], stored.digest());
    let named = |tag: &str| {
        serde_json::json!({
            "io.containerd.image.name": format!("docker.io/library/mine:{tag}"),
            "org.opencontainers.image.ref.name": tag,
        })
    };
    assert_eq!(index["manifests"][0]["annotations"], named("1"));
    // Each name is an entry, beside what is there; without one it is the latest.
    builds
        .build(&[&oci, "-t", "mine:2", "-t", "mine:3"], &context)
        .ok();
    builds.build(&[&oci], &context).ok();
    builds.build(&[&oci], &context).ok();
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let annotations: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["annotations"].clone())
        .collect();
    let latest = serde_json::json!({"org.opencontainers.image.ref.name": "latest"});
    assert_eq!(annotations, [named("1"), named("2"), named("3"), latest]);
    for kind in ["oci", "docker"] {
        let dest = env.path(&format!("{kind}.tar"));
        let flag = format!("--output=type={kind},dest={}", dest.display());
        let names = ["-t", "mine:2", "-t", "other:3"];
        builds
            .build(&[&[flag.as_str()], &names[..]].concat(), &context)
            .ok();
        let said = builds.shelf.ok(&["load", "-i", dest.to_str().unwrap()]);
        for name in ["mine:2", "other:3"] {
            assert!(said.contains(name), "{kind}: {said}, not {name}");
        }
    }
    let name = builds.shelf.name("pushed:1");
    let pushed = builds.build(&["-t", &name, "--push"], &context).ok();
    assert!(
        !builds
            .shelf
            .registry
            .seen_of("PUT", "pushed/manifests")
            .is_empty()
    );
    assert_eq!(pushed.digest(), stored.digest());
    // What scripts read.
    let id = env.path("id");
    let flag = format!("--iidfile={}", id.display());
    let quiet = builds
        .shelf
        .command(&["build", "-q", &flag, context.to_str().unwrap()]);
    let quiet = env.rt.finish(env.rt.spawn(quiet)).ok();
    assert_eq!(quiet.text(), stored.id());
    assert_eq!(quiet.stderr, "");
    assert_eq!(fs::read_to_string(&id).unwrap(), stored.id());
    builds
        .build(&["--output=type=nothing"], &context)
        .fails("nothing");
    builds.build(&["--push"], &context).fails("--tag");
}
