//! What comes out, and how: one layer of many, several outputs, several platforms.

use crate::harness::builds::{Build, Builds};
use crate::harness::{Env, Test, test};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(all_layers_of_a_build_are_one),
        test!(squashed_twice_is_squashed_once),
        test!(each_output_has_its_own_compression),
        test!(annotations_stand_where_they_are_said_to),
        test!(pushed_by_digest_it_has_no_tag),
        test!(two_outputs_cannot_have_one_name),
        test!(several_platforms_are_one_index),
        test!(programs_of_other_machines_run_where_there_is_an_emulator)
            .root("only root can look for emulators"),
        test!(programs_of_other_machines_need_binfmt)
            .root("in a user namespace nobody can tell which emulators the machine has"),
    ]
}

fn layers(build: &Build) -> Vec<Value> {
    build.manifest()["layers"].as_array().unwrap().clone()
}

fn all_layers_of_a_build_are_one(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM base\nRUN echo gone >/secret && mkdir /d && echo 1 >/d/1\n\
        RUN rm /secret /etc/group && rm -r /d && mkdir /d && echo 2 >/d/2\nENV A=1\n\
        COPY file /d/3\nRUN chown 5:6 /d && chmod 700 /d\n";
    let plain = builds.of(&[], text, &[("file", "x")]);
    let one = builds.of(&["--squash"], text, &[("file", "x")]);
    assert_eq!((layers(&plain).len(), layers(&one).len()), (5, 2));
    assert_eq!(layers(&plain)[0], layers(&one)[0], "the base stays");
    let (mut before, mut now) = (plain.files(), one.files());
    for files in [&mut before, &mut now] {
        for file in files.0.values_mut() {
            // Files are shared with the layers that they are from.
            file.links = 0;
        }
        files.0.remove("");
    }
    assert_eq!(before, now);
    assert_eq!(now.line("etc/group"), "-");
    let flags = ["--squash", "--output=type=image,compression=uncompressed"];
    let open = builds.of(&flags, text, &[("file", "x")]);
    let blob = open.blob(layers(&open)[1]["digest"].as_str().unwrap());
    let mut archive = tar::Archive::new(&blob[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(
        names.iter().any(|name| name.ends_with(".wh.group")),
        "{names:?}"
    );
    assert!(
        !names.iter().any(|name| name.contains("secret")),
        "{names:?}"
    );
    let document = one.document();
    let history = document["history"].as_array().unwrap();
    let full = history
        .iter()
        .filter(|one| one["empty_layer"] != json!(true));
    assert_eq!(full.count(), 2, "{history:?}");
    assert_eq!(document["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
    assert_eq!(
        history.last().unwrap()["comment"],
        "4 layers squashed into one"
    );
}

fn squashed_twice_is_squashed_once(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM base\nRUN echo 1 >/1\nRUN echo 2 >/2\n";
    let first = builds.of(&["--squash"], text, &[]);
    let second = builds.of(&["--squash"], text, &[]);
    assert_eq!(second.done(), Vec::<&str>::new());
    assert_eq!(first.digest(), second.digest());
    let anew = builds.of(&["--squash", "--no-cache"], text, &[]);
    assert_eq!(first.digest(), anew.digest());
    // What is built upon it knows its layer.
    builds.of(&["--squash", "-t", "squashed"], text, &[]);
    let upon = builds.of(&[], "FROM squashed\nRUN cat /1 /2 >/3\n", &[]);
    assert_eq!(upon.files().text("3"), "1\n2\n");
    builds.assert_settled();
}

/// The layers' media types of a layout's only image.
fn types(layout: &Path) -> Vec<String> {
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = read(&layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let manifest = read(&layout.join("blobs/sha256").join(&digest["sha256:".len()..]));
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|one| {
            one["mediaType"]
                .as_str()
                .unwrap()
                .rsplit(['.', '+'])
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
}

fn each_output_has_its_own_compression(env: &Env) {
    let builds = Builds::new(env);
    let places: Vec<_> = ["a", "b", "c"].map(|name| env.path(name)).into();
    let output = |index: usize, how: &str| {
        format!(
            "--output=type=oci,tar=false,dest={}{how}",
            places[index].display()
        )
    };
    let flags = [
        &output(0, ",compression=zstd,compression-level=7"),
        &output(1, ",compression=uncompressed"),
        &output(2, ""),
        "--output=type=image",
    ];
    let build = builds.of(&flags, "FROM scratch\nCOPY file /\n", &[("file", "x")]);
    let all: Vec<_> = places.iter().map(|place| types(place)).collect();
    assert_eq!(all, [["zstd"], ["tar"], ["gzip"]]);
    assert!(build.output.code == 0);
}

fn annotations_stand_where_they_are_said_to(env: &Env) {
    let builds = Builds::new(env);
    let flags = [
        "--platform=linux/amd64,linux/arm64",
        "--annotation=a=1",
        "--annotation=index:b=2",
        "--annotation=manifest[linux/arm64],manifest-descriptor[linux/arm64]:c=3",
    ];
    let build = builds.of(&flags, "FROM scratch\nCOPY file /\n", &[("file", "x")]);
    let index = build.manifest();
    assert_eq!(index["annotations"], json!({"b": "2"}));
    let manifests = index["manifests"].as_array().unwrap();
    let own = |one: &Value| -> Value {
        let bytes = build.blob(one["digest"].as_str().unwrap());
        serde_json::from_slice::<Value>(&bytes).unwrap()["annotations"].clone()
    };
    assert_eq!(own(&manifests[0]), json!({"a": "1"}));
    assert_eq!(own(&manifests[1]), json!({"a": "1", "c": "3"}));
    assert_eq!(manifests[0].get("annotations"), None);
    assert_eq!(manifests[1]["annotations"], json!({"c": "3"}));
    let context = builds.dockerfile("FROM scratch\n");
    builds
        .build(&["--annotation=index:b=2"], &context)
        .fails("there is none");
}

fn pushed_by_digest_it_has_no_tag(env: &Env) {
    let builds = Builds::new(env);
    let name = builds.shelf.name("digest");
    let flag = format!("--output=type=image,name={name},push=true,push-by-digest=true");
    let build = builds.of(&[&flag], "FROM scratch\nCOPY file /\n", &[("file", "x")]);
    let by_tag = builds.shelf.call(&["pull", "--quiet", &name]);
    assert_ne!(by_tag.code, 0, "{by_tag}");
    builds
        .shelf
        .ok(&["pull", "--quiet", &format!("{name}@{}", build.digest())]);
}

fn two_outputs_cannot_have_one_name(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM scratch\n");
    let two = ["-o=type=image", "-o=type=image,compression=zstd", "-t=a"];
    builds.build(&two, &context).fails("two outputs");
    let named = [
        "-o=type=image,name=b",
        "-o=type=image,name=c,compression=zstd",
    ];
    builds.build(&named, &context).ok();
    for name in ["b", "c"] {
        builds.shelf.ok(&["inspect", name]);
    }
}

fn several_platforms_are_one_index(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM scratch AS a\nARG TARGETARCH\nCOPY $TARGETARCH /\nFROM a\nCOPY both /\n";
    let context = builds.context(&[
        ("Dockerfile", text),
        ("amd64/f", "1"),
        ("arm64/f", "2"),
        ("both", "3"),
    ]);
    let flags = ["--platform=linux/amd64,linux/arm64"];
    let first = builds.build(&flags, &context).ok();
    let again = builds.build(&["--no-cache", flags[0]], &context).ok();
    assert_eq!(first.digest(), again.digest());
    let index = first.manifest();
    assert_eq!(
        index["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    let platforms: Vec<&Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["platform"]["architecture"])
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    let dest = env.path("files");
    let flag = format!("--output=type=local,dest={}", dest.display());
    builds.build(&[flags[0], &flag], &context).ok();
    for (name, text) in [("linux_amd64", "1"), ("linux_arm64", "2")] {
        assert_eq!(fs::read_to_string(dest.join(name).join("f")).unwrap(), text);
        assert_eq!(
            fs::read_to_string(dest.join(name).join("both")).unwrap(),
            "3"
        );
    }
}

/// A program for arm64 without libraries, which writes `arm\n`.
fn program_for_arm() -> Vec<u8> {
    let code: [u32; 8] = [
        0xd280_0020, // mov x0, #1
        0x1000_00e1, // adr x1, text
        0xd280_0082, // mov x2, #4
        0xd280_0808, // mov x8, #64: write
        0xd400_0001, // svc #0
        0xd280_0000, // mov x0, #0
        0xd280_0ba8, // mov x8, #93: exit
        0xd400_0001, // svc #0
    ];
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
    half(&mut file, 2); // executable
    half(&mut file, 183); // arm64
    word(&mut file, 1);
    long(&mut file, 0x40_0000 + 120); // behind both headers
    long(&mut file, 64);
    long(&mut file, 0);
    word(&mut file, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut file, value);
    }
    word(&mut file, 1); // to be loaded
    word(&mut file, 5); // read and execute
    for value in [0, 0x40_0000, 0x40_0000, 156, 156, 0x1000] {
        long(&mut file, value);
    }
    for instruction in code {
        word(&mut file, instruction);
    }
    file.extend(b"arm\n");
    file
}

fn programs_of_other_machines_run_where_there_is_an_emulator(env: &Env) {
    let builds = Builds::new(env);
    let formats = env.directory("formats");
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::empty();
    let known = nix::mount::mount(none, &formats, Some("binfmt_misc"), flags, none);
    let arm = fs::read_to_string(formats.join("qemu-aarch64"));
    if known.is_ok() {
        nix::mount::umount(&formats).unwrap();
    }
    if !arm.is_ok_and(|text| text.starts_with("enabled") && text.contains('F')) {
        env.skip("no emulator for arm64 is registered here that opens its program at once (qemu-user-static)");
    }
    let text = "FROM scratch\nCOPY --chmod=755 program /\nRUN [\"/program\"]\n";
    let context = builds.dockerfile(text);
    fs::write(context.join("program"), program_for_arm()).unwrap();
    let built = builds.build(&["--platform=linux/arm64"], &context).ok();
    assert_eq!(built.step("RUN").said, "arm\n");
    assert_eq!(built.document()["architecture"], "arm64");
}

fn programs_of_other_machines_need_binfmt(env: &Env) {
    let builds = Builds::new(env);
    if Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists() {
        eprintln!("skipped: this machine runs programs of s390x");
        return;
    }
    let text = "FROM scratch\nCOPY file /\nRUN [\"/file\"]\n";
    let context = builds.context(&[("Dockerfile", text), ("file", "x")]);
    let build = builds.build(&["--platform=linux/s390x"], &context);
    build.fails("binfmt_misc");
    // Without programs there is nothing to ask for.
    let text = "FROM scratch\nCOPY file /\nWORKDIR /a\n";
    builds.of(&["--platform=linux/s390x"], text, &[("file", "x")]);
}
