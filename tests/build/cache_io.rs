//! `--cache-to` and `--cache-from`: what one machine did is found done by another.

use crate::harness::builds::{Build, Builds};
use crate::harness::people::layer;
use crate::harness::{Env, Test, test};
use rcrun_image::registry::testing::{Answer, Fault};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(another_machine_finds_all_steps_done_at_a_registry),
        test!(only_what_is_needed_is_fetched),
        test!(the_least_mode_has_the_result_only),
        test!(an_image_has_its_own_cache_inside),
        test!(a_step_that_changed_is_done_above_those_that_are_fetched),
        test!(who_built_it_finds_what_others_did_upon_it),
        test!(what_was_fetched_is_kept),
        test!(cache_mounts_travel),
        test!(caches_of_others_are_warnings),
        test!(a_layer_that_has_vanished_is_made_here),
        test!(a_damaged_layer_is_an_error),
        test!(a_layer_that_is_another_is_an_error),
        test!(a_record_cannot_speak_for_another_step),
    ]
}

/// Every time another result, so that whoever has the same took it from elsewhere.
const UUID: &str = "cat /proc/sys/kernel/random/uuid";

fn dockerfile(last: &str) -> String {
    format!(
        "FROM base AS builder\nRUN {UUID} >/out && chown 7:8 /out\nRUN {UUID} >/etc/unused\n\
         FROM base\nRUN mkdir -p /x && {UUID} >/x/a && rm /etc/group\nWORKDIR /work\n\
         COPY --from=builder /out /b\nCOPY file /c\n{last}"
    )
}

const FILES: &[(&str, &str)] = &[("file", "text")];

/// A store that has nothing but the base image.
fn another_machine(builds: &Builds<'_>) -> PathBuf {
    let before = builds.env.path(&format!("store-{}", builds.env.unique()));
    fs::rename(builds.shelf.path(), &before).unwrap();
    let full = builds.shelf.name("base");
    builds.shelf.ok(&["pull", "--quiet", &full]);
    builds.shelf.ok(&["tag", &full, "base"]);
    before
}

fn back_to(builds: &Builds<'_>, store: &Path) {
    let away = builds.env.path(&format!("store-{}", builds.env.unique()));
    fs::rename(builds.shelf.path(), away).unwrap();
    fs::rename(store, builds.shelf.path()).unwrap();
}

fn layout(builds: &Builds<'_>, fields: &str) -> (PathBuf, String, String) {
    let path = builds.env.path(&format!("cache-{}", builds.env.unique()));
    let text = path.display();
    let to = format!("--cache-to=type=local,dest={text}{fields}");
    let from = format!("--cache-from=type=local,src={text}");
    (path, to, from)
}

fn blob(layout: &Path, digest: &Value) -> PathBuf {
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    layout.join("blobs/sha256").join(hex)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Manifest and configuration of a cache.
fn documents(layout: &Path) -> (Value, Value) {
    let index = read(&layout.join("index.json"));
    let manifest = read(&blob(layout, &index["manifests"][0]["digest"]));
    let config = read(&blob(layout, &manifest["config"]["digest"]));
    (manifest, config)
}

/// Changes a cache's configuration, with all digests above it.
fn rewrite(layout: &Path, change: impl FnOnce(&mut Value, &mut Value)) {
    let put = |value: &Value| {
        let bytes = serde_json::to_vec(value).unwrap();
        let digest = json!(rcrun_image::Digest::of(&bytes));
        fs::write(blob(layout, &digest), &bytes).unwrap();
        (digest, json!(bytes.len()))
    };
    let (mut manifest, mut config) = documents(layout);
    change(&mut manifest, &mut config);
    let (digest, size) = put(&config);
    (manifest["config"]["digest"], manifest["config"]["size"]) = (digest, size);
    let (digest, size) = put(&manifest);
    let path = layout.join("index.json");
    let mut index = read(&path);
    let entry = &mut index["manifests"][0];
    (entry["digest"], entry["size"]) = (digest, size);
    fs::write(&path, index.to_string()).unwrap();
}

#[track_caller]
fn all_cached(build: &Build) {
    assert_eq!(build.done(), Vec::<&str>::new(), "{}", build.output);
    assert!(!build.cached().is_empty());
}

pub(super) fn another_machine_finds_all_steps_done_at_a_registry(env: &Env) {
    let builds = Builds::new(env);
    let name = builds.shelf.name("cache:1");
    for compression in ["gzip", "zstd"] {
        let text = dockerfile(&format!("RUN echo {compression} >/d"));
        let to = format!("--cache-to=type=registry,ref={name},mode=max,compression={compression}");
        let first = builds.of(&[&to], &text, FILES);
        let mut files = first.files();
        another_machine(&builds);
        let flag = format!("--cache-from={name}");
        let second = builds.of(&[&flag], &text, FILES);
        all_cached(&second);
        assert_eq!(first.digest(), second.digest());
        // The root itself is in no archive.
        let mut all = second.files();
        // Later times than the image's are only where it was built.
        for files in [&mut files, &mut all] {
            files.0.remove("");
            files.0.values_mut().for_each(|file| file.modified = (0, 0));
        }
        assert_eq!(files, all);
        assert_eq!(second.files().line("b").split(' ').nth(2), Some("7:8"));
        builds.assert_settled();
    }
}

fn only_what_is_needed_is_fetched(env: &Env) {
    let builds = Builds::new(env);
    let (path, to, from) = layout(&builds, ",mode=max");
    let first = builds.of(&[&to], &dockerfile(""), FILES);
    let (manifest, config) = documents(&path);
    let used: Vec<Value> = first.manifest()["layers"].as_array().unwrap().clone();
    let unused: Vec<&Value> = manifest["layers"].as_array().unwrap().iter().collect();
    let unused: Vec<&&Value> = unused.iter().filter(|one| !used.contains(one)).collect();
    assert_eq!(unused.len(), 2, "those of the stage that is copied from");
    let texts: Vec<&str> = config["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["text"].as_str().unwrap())
        .collect();
    assert!(
        texts.iter().any(|text| text.contains("unused")),
        "{texts:?}"
    );
    // Not even the result is fetched where nothing is made of it.
    another_machine(&builds);
    let nothing = builds.of(&[&from, "--output=type=cacheonly"], &dockerfile(""), FILES);
    all_cached(&nothing);
    let there = |digest: &Value| {
        let hex = digest["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        builds
            .shelf
            .path()
            .join("content/sha256")
            .join(&hex[..2])
            .join(hex)
            .exists()
    };
    assert!(!used.iter().skip(1).any(there));
    // Without the blobs of the other stage the result is the same.
    for layer in &unused {
        fs::remove_file(blob(&path, &layer["digest"])).unwrap();
    }
    let second = builds.of(&[&from], &dockerfile(""), FILES);
    all_cached(&second);
    assert_eq!(first.digest(), second.digest());
    assert!(!unused.iter().any(|layer| there(layer)));
}

fn the_least_mode_has_the_result_only(env: &Env) {
    let builds = Builds::new(env);
    let (path, to, from) = layout(&builds, "");
    let text = format!(
        "FROM base AS other\nRUN {UUID} >/out\nFROM base\nRUN {UUID} >/a\nCOPY --from=other /out /b\n"
    );
    builds.of(&[&to], &text, &[]);
    let (manifest, _) = documents(&path);
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
    another_machine(&builds);
    let second = builds.of(&[&from], &text, &[]);
    assert_eq!(
        second.cached(),
        ["[stage-1 1/2] RUN cat /proc/sys/kernel/random/uuid >/a"]
    );
}

fn an_image_has_its_own_cache_inside(env: &Env) {
    let builds = Builds::new(env);
    let text = format!("FROM base\nENV A=1\nRUN {UUID} >/a\nCOPY file /c\nRUN {UUID} >/d\n");
    let name = builds.shelf.name("app:1");
    let plain = builds.of(&[], &text, FILES);
    assert!(plain.document().get("rcrun.buildcache.v1").is_none());
    let first = builds.of(
        &["--cache-to=type=inline", "--push", "-t", &name],
        &text,
        FILES,
    );
    assert_eq!(first.document()["rcrun.buildcache.v1"]["version"], 1);
    another_machine(&builds);
    let flag = format!("--cache-from=type=registry,ref={name}");
    let second = builds.of(&[&flag, "--cache-to=type=inline"], &text, FILES);
    all_cached(&second);
    assert_eq!(first.digest(), second.digest());
}

fn a_step_that_changed_is_done_above_those_that_are_fetched(env: &Env) {
    let builds = Builds::new(env);
    let (_, to, from) = layout(&builds, ",mode=max");
    let first = builds.of(&[&to], &dockerfile("RUN cat /x/a /b /c >/d"), FILES);
    let before = first.files();
    another_machine(&builds);
    let second = builds.of(&[&from], &dockerfile("RUN cat /x/a /b /c >/e"), FILES);
    assert_eq!(second.done(), ["[stage-1 5/5] RUN cat /x/a /b /c >/e"]);
    let now = second.files();
    assert_eq!(before.text("d"), now.text("e"));
    assert_eq!(now.line("etc/group"), "-");
    // Upon another base nothing of it counts.
    another_machine(&builds);
    let other = dockerfile("").replace("FROM base", "FROM other");
    builds.publish("other", &[layer(env, &[("z", 0o644, b"z")])], json!({}));
    let third = builds.of(&[&from], &other, FILES);
    assert_eq!(third.cached(), Vec::<&str>::new());
}

fn who_built_it_finds_what_others_did_upon_it(env: &Env) {
    let builds = Builds::new(env);
    let (_, to, from) = layout(&builds, ",mode=max");
    let longer = dockerfile("RUN cat /proc/sys/kernel/random/uuid >/d");
    builds.of(&[&to], &dockerfile(""), FILES);
    let first = another_machine(&builds);
    let second = builds.of(&[&from, &to], &longer, FILES);
    assert_eq!(second.done().len(), 1, "{}", second.output);
    // Back at the first one, whose layers have names of its own.
    back_to(&builds, &first);
    let third = builds.of(&[&from], &longer, FILES);
    all_cached(&third);
    assert_eq!(second.digest(), third.digest());
}

fn what_was_fetched_is_kept(env: &Env) {
    let builds = Builds::new(env);
    let (path, to, from) = layout(&builds, "");
    let text = format!("FROM base\nRUN {UUID} >/a\nRUN {UUID} >/b\n");
    let first = builds.of(&[&to], &text, &[]);
    another_machine(&builds);
    builds.of(&[&from], &text, &[]);
    fs::remove_dir_all(path).unwrap();
    builds.shelf.ok(&["prune", "--force"]);
    let third = builds.of(&[], &text, &[]);
    all_cached(&third);
    assert_eq!(first.digest(), third.digest());
    // What is to be done anew is done anew.
    let fourth = builds.of(&["--no-cache", &from], &text, &[]);
    assert_eq!(fourth.done().len(), 2);
    assert_ne!(first.digest(), fourth.digest());
}

pub(super) fn cache_mounts_travel(env: &Env) {
    let builds = Builds::new(env);
    let step = |last: &str| format!("FROM base\nRUN --mount=type=cache,target=/c,uid=3 {last}\n");
    let (_, to, from) = layout(&builds, ",cache-mounts=true");
    let fill = step("mkdir /c/d && echo kept >/c/d/f && ln -s f /c/d/l && chown 5:6 /c/d/f");
    builds.of(&[&to], &fill, &[]);
    let show = "ls -ln /c/d >&2 && cat /c/d/l >&2 && stat -c %u:%a /c >&2";
    another_machine(&builds);
    let said = builds
        .of(&[&from], &step(show), &[])
        .step("RUN")
        .said
        .clone();
    for part in ["kept", " 5 ", " 6 ", "3:755"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // What is here already is not replaced.
    builds.of(&[], &step("echo own >/c/d/f"), &[]);
    let again = builds.of(&[&from, "--no-cache"], &step(show), &[]);
    assert!(again.step("RUN").said.contains("own"));
    another_machine(&builds);
    let without = builds.of(&[], &step("ls -a /c >&2"), &[]);
    assert!(!without.step("RUN").said.contains('d'));
}

fn caches_of_others_are_warnings(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM base\nRUN echo >/a\n";
    let (path, to, from) = layout(&builds, "");
    let missing = format!("--cache-from={}", builds.shelf.name("none:1"));
    let base = format!("--cache-from={}", builds.shelf.name("base"));
    let nowhere = "--cache-from=type=local,src=/nonexistent";
    let build = builds.of(&[&missing, &base, nowhere, &to], text, &[]);
    for part in ["none:1", "without a build cache", "/nonexistent"] {
        assert!(build.output.stderr.contains(part), "{}", build.output);
    }
    rewrite(&path, |_, config| config["version"] = json!(7));
    another_machine(&builds);
    let build = builds.of(&[&from], text, &[]);
    assert!(
        build.output.stderr.contains("version 7"),
        "{}",
        build.output
    );
    assert_eq!(build.done().len(), 1);
    rewrite(&path, |manifest, config| {
        config["version"] = json!(1);
        manifest["config"]["mediaType"] = json!("application/vnd.buildkit.cacheconfig.v0");
    });
    another_machine(&builds);
    let build = builds.of(&[&from], text, &[]);
    assert!(build.output.stderr.contains("BuildKit"), "{}", build.output);
    assert_eq!(build.done().len(), 1);
}

fn a_layer_that_has_vanished_is_made_here(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM base\nRUN echo 1 >/a\nRUN echo 2 >/b\nRUN echo 3 >/c\n";
    let (path, to, from) = layout(&builds, "");
    let first = builds.of(&[&to], text, &[]);
    let (manifest, _) = documents(&path);
    let layers = manifest["layers"].as_array().unwrap();
    for (gone, cached) in [(0, 0), (1, 1), (2, 2)] {
        let file = blob(&path, &layers[gone]["digest"]);
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        another_machine(&builds);
        let context = builds.dockerfile(text);
        let build = builds.build(&[&from], &context).ok();
        assert_eq!(build.digest(), first.digest());
        let said = &build.output.stderr;
        assert_eq!(said.matches("WARNING").count(), 1, "{said}");
        let told = layers[gone]["digest"].as_str().unwrap();
        assert!(
            said.contains(told) && said.contains("is done here"),
            "{said}"
        );
        // What was found at first is looked for again: what there was counts, and what is missing is made.
        let done = build.done();
        assert!(
            done.iter()
                .any(|step| step.contains(&format!("echo {}", gone + 1))),
            "{done:?}"
        );
        assert!(build.step("echo 1").cached, "first, it was found");
        let last: Vec<bool> = build
            .steps
            .iter()
            .rev()
            .take(3)
            .map(|step| step.cached)
            .collect();
        assert_eq!(
            last.iter().filter(|cached| **cached).count(),
            cached,
            "{said}"
        );
        let again = builds.build(&[&from], &context).ok();
        all_cached(&again);
        fs::write(&file, bytes).unwrap();
    }
    // At a registry, where it is a stage that is copied from.
    let name = builds.shelf.name("cache");
    let to = format!("--cache-to=type=registry,ref={name},mode=max");
    let from = format!("--cache-from={name}");
    let first = builds.of(&[&to], &dockerfile(""), FILES);
    let taken = builds.shelf.registry.manifest("cache", "latest").unwrap();
    let taken: Value = serde_json::from_slice(&taken).unwrap();
    for layer in taken["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        builds
            .shelf
            .registry
            .fault("GET", digest, 9, Fault::Answer(Answer::new(404, "")));
    }
    another_machine(&builds);
    let build = builds.of(&[&from], &dockerfile(""), FILES);
    assert!(build.output.stderr.contains("WARNING"), "{}", build.output);
    assert_ne!(build.digest(), first.digest(), "other random numbers");
}

fn a_damaged_layer_is_an_error(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM base\nRUN echo >/a\n";
    let (path, to, from) = layout(&builds, "");
    builds.of(&[&to], text, &[]);
    let (manifest, _) = documents(&path);
    let layer = blob(&path, &manifest["layers"][0]["digest"]);
    let mut bytes = fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layer, bytes).unwrap();
    another_machine(&builds);
    let context = builds.dockerfile(text);
    let build = builds.build(&[&from], &context);
    build.fails("cannot fetch a layer of an imported cache");
    // Nothing of it is believed the next time.
    let build = builds.of(&[], text, &[]);
    assert_eq!(build.done().len(), 1);
}

fn a_layer_that_is_another_is_an_error(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM base\nRUN echo >/a\n";
    let (path, to, from) = layout(&builds, "");
    builds.of(&[&to], text, &[]);
    rewrite(&path, |_, config| {
        config["records"][0]["diffId"] = json!(rcrun_image::Digest::of(b"another"));
    });
    another_machine(&builds);
    let build = builds.build(&[&from], &builds.dockerfile(text));
    build.fails("and the cache says");
    let build = builds.of(&[], text, &[]);
    assert_eq!(build.done().len(), 1);
}

fn a_record_cannot_speak_for_another_step(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM base\nRUN echo >/a\n";
    let (path, to, from) = layout(&builds, "");
    builds.of(&[&to], text, &[]);
    let other = rcrun_image::Digest::of(b"the key of another step");
    rewrite(&path, |_, config| {
        config["records"][0]["means"] = json!(other);
        config["records"][0]["text"] = json!("RUN \u{1b}[2J");
    });
    another_machine(&builds);
    all_cached(&builds.of(&[&from], text, &[]));
    let kept: Vec<_> = fs::read_dir(builds.shelf.path().join("build/cache"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(!kept[0].ends_with(format!("{}.json", other.hex())));
    assert!(!fs::read_to_string(&kept[0]).unwrap().contains("u001b"));
}
