//! What is attested of an image, and how it is attached.

use crate::harness::builds::{Build, Builds};
use crate::harness::people::layer;
use crate::harness::{Env, Test, test};
use serde_json::{Value, json};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(nothing_is_attested_unless_asked),
        test!(provenance_is_beside_the_image),
        test!(the_least_mode_tells_no_arguments),
        test!(statements_are_the_same_every_time),
        test!(an_sbom_lists_packages),
        test!(each_platform_has_its_own),
        test!(attested_images_travel),
        test!(attestations_need_a_place),
        test!(statements_stand_beside_files),
        test!(files_of_several_platforms),
        test!(artifacts_and_what_looks_like_images),
        test!(names_of_files),
        test!(arguments_ask_for_statements),
    ]
}

const DOCKERFILE: &str = "FROM base\nARG A\nCOPY file /file\n";

/// The index's entries: images, and what is attested.
pub(super) fn entries(build: &Build) -> (Vec<Value>, Vec<Value>) {
    let all = build.manifest()["manifests"].as_array().unwrap().clone();
    let is_about = |one: &Value| {
        one["annotations"]["vnd.docker.reference.type"] == json!("attestation-manifest")
    };
    all.into_iter().partition(|one| !is_about(one))
}

pub(super) fn document(build: &Build, digest: &Value) -> Value {
    serde_json::from_slice(&build.blob(digest.as_str().unwrap())).unwrap()
}

/// The statement of a kind about the first image.
pub(super) fn statement(build: &Build, kind: &str) -> Value {
    let (_, about) = entries(build);
    let manifest = document(build, &about[0]["digest"]);
    let layers = manifest["layers"].as_array().unwrap();
    let layer = layers
        .iter()
        .find(|one| one["annotations"]["in-toto.io/predicate-type"] == json!(kind));
    document(build, &layer.unwrap()["digest"])
}

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SPDX: &str = "https://spdx.dev/Document";

fn nothing_is_attested_unless_asked(env: &Env) {
    let builds = Builds::new(env);
    let plain = builds.of(&[], DOCKERFILE, &[("file", "x")]);
    assert!(plain.manifest().get("layers").is_some());
    let refused = ["--attest=type=provenance", "--provenance=false"];
    let same = builds.of(&refused, DOCKERFILE, &[("file", "x")]);
    assert_eq!(plain.digest(), same.digest());
}

fn provenance_is_beside_the_image(env: &Env) {
    let builds = Builds::new(env);
    let secret = env.path("secret");
    std::fs::write(&secret, "canary-in-a-file").unwrap();
    let flags = [
        "--provenance=mode=max,builder-id=urn:here",
        "--build-arg=A=1",
        "--label=l=m",
        "--build-arg=HTTP_PROXY=http://u:canary-of-a-proxy@127.0.0.1:1",
        &format!("--secret=id=s,src={}", secret.display()),
        "-t=example.org/app:1",
    ];
    let plain = builds.of(
        &["--label=l=m", "--build-arg=A=1"],
        DOCKERFILE,
        &[("file", "x")],
    );
    let build = builds.of(&flags, DOCKERFILE, &[("file", "x")]);
    let (images, about) = entries(&build);
    assert_eq!((images.len(), about.len()), (1, 1));
    assert_eq!(
        images[0]["digest"],
        json!(plain.digest()),
        "the image stays"
    );
    assert_eq!(
        about[0]["platform"],
        json!({"architecture": "unknown", "os": "unknown"})
    );
    let reference = &about[0]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(*reference, images[0]["digest"]);
    let manifest = document(&build, &about[0]["digest"]);
    assert_eq!(
        manifest["layers"][0]["mediaType"],
        "application/vnd.in-toto+json"
    );

    let statement = statement(&build, PROVENANCE);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    let name = statement["subject"][0]["name"].as_str().unwrap();
    assert!(
        name.starts_with("pkg:docker/example.org/app@1?platform=linux%2F"),
        "{name}"
    );
    let hex = plain.digest().split_off("sha256:".len());
    assert_eq!(statement["subject"][0]["digest"], json!({"sha256": hex}));
    let definition = &statement["predicate"]["buildDefinition"];
    let base = &definition["resolvedDependencies"][0];
    assert!(
        base["uri"]
            .as_str()
            .unwrap()
            .starts_with("pkg:docker/base@latest?"),
        "{base}"
    );
    assert_eq!(base["digest"]["sha256"].as_str().map(str::len), Some(64));
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"], json!({"build-arg:A": "1", "label:l": "m"}));
    assert!(request.get("secrets").is_none(), "nobody asked for it");
    let run = &statement["predicate"]["runDetails"];
    assert_eq!(run["builder"]["id"], "urn:here");
    assert!(run["metadata"].get("startedOn").is_none());
    assert!(!statement.to_string().contains("canary"));
    let timed = builds.of(&["--provenance=times=true"], DOCKERFILE, &[("file", "x")]);
    let timed = self::statement(&timed, PROVENANCE);
    assert!(timed["predicate"]["runDetails"]["metadata"]["startedOn"].is_string());
}

fn the_least_mode_tells_no_arguments(env: &Env) {
    let builds = Builds::new(env);
    let flags = ["--attest=type=provenance,mode=min", "--build-arg=A=canary"];
    let build = builds.of(&flags, DOCKERFILE, &[("file", "x")]);
    let statement = statement(&build, PROVENANCE).to_string();
    assert!(!statement.contains("canary") && !statement.contains("llbDefinition"));
}

fn statements_are_the_same_every_time(env: &Env) {
    let builds = Builds::new(env);
    let build = || {
        builds.of(
            &["--provenance=true", "--sbom=true", "--no-cache"],
            DOCKERFILE,
            &[("file", "x")],
        )
    };
    assert_eq!(build().digest(), build().digest());
}

fn an_sbom_lists_packages(env: &Env) {
    let builds = Builds::new(env);
    let status =
        b"Package: libx\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\n";
    let files: &[(&str, u32, &[u8])] = &[
        ("dpkg", 0o644, status),
        ("etc/os-release", 0o644, b"ID=debian\nVERSION_ID=12\n"),
    ];
    builds.publish("packages", &[layer(env, files)], json!({}));
    let text = "FROM packages\nRUN mkdir -p /var/lib/dpkg && mv /dpkg /var/lib/dpkg/status\n\
        COPY package.json /app/node_modules/y/\n";
    let context = [("package.json", r#"{"name":"y","version":"9"}"#)];
    let build = builds.of(&["--sbom=true"], text, &context);
    let statement = statement(&build, SPDX);
    let document = &statement["predicate"];
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    let packages = document["packages"].as_array().unwrap();
    let urls: Vec<&str> = packages
        .iter()
        .filter_map(|one| one["externalRefs"][0]["referenceLocator"].as_str())
        .collect();
    assert_eq!(
        urls,
        [
            "pkg:deb/debian/libx@1:2-3?arch=amd64&distro=debian-12",
            "pkg:npm/y@9"
        ]
    );
}

fn each_platform_has_its_own(env: &Env) {
    let builds = Builds::new(env);
    let flags = [
        "--platform=linux/amd64,linux/arm64",
        "--provenance=true",
        "--sbom=true",
    ];
    let build = builds.of(&flags, "FROM scratch\nCOPY file /\n", &[("file", "x")]);
    let (images, about) = entries(&build);
    assert_eq!((images.len(), about.len()), (2, 2));
    for (image, about) in images.iter().zip(&about) {
        let reference = &about["annotations"]["vnd.docker.reference.digest"];
        assert_eq!(*reference, image["digest"]);
        let manifest = document(&build, &about["digest"]);
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
    }
}

fn attested_images_travel(env: &Env) {
    let builds = Builds::new(env);
    let name = builds.shelf.name("attested:1");
    let flags = ["--provenance=true", "--sbom=true", "--push", "-t", &name];
    let build = builds.of(&flags, DOCKERFILE, &[("file", "x")]);
    builds.shelf.ok(&["rmi", &name]);
    builds.shelf.ok(&["pull", "--quiet", &name]);
    let upon = builds.of(&[], &format!("FROM {name}\nRUN cat /file >/other\n"), &[]);
    assert_eq!(upon.files().text("other"), "x");
    let dest = env.path("layout");
    let flag = format!("--output=type=oci,tar=false,dest={}", dest.display());
    builds.of(
        &["--provenance=true", "--sbom=true", &flag, "-t", &name],
        DOCKERFILE,
        &[("file", "x")],
    );
    let index: Value =
        serde_json::from_slice(&std::fs::read(dest.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], json!(build.digest()));
}

fn attestations_need_a_place(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM scratch\n");
    builds
        .build(&["--sbom=true", "--output=type=cacheonly"], &context)
        .fails("no output is either");
    builds
        .build(&["--sbom=true", "--format=docker"], &context)
        .fails("OCI's media types");
}

const FILES: &str = "\
FROM base AS made
ARG TARGETARCH
COPY a /out/
RUN echo 1 >/out/of_$TARGETARCH && mkdir /out/d && echo 2 >/out/d/b && ln -s a /out/link
FROM scratch
COPY --from=made /out /
";

pub(super) fn statement_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn names(statement: &Value) -> Vec<&str> {
    let subject = statement["subject"].as_array().unwrap();
    subject
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect()
}

fn statements_stand_beside_files(env: &Env) {
    let builds = Builds::new(env);
    let out = env.path("out");
    let context = builds.context(&[("Dockerfile", FILES), ("a", "1")]);
    let machine = rcrun_builder::graph::machine();
    let architecture = format!("of_{}", machine.architecture);
    let flags = ["--provenance=true", "--sbom=true"];
    let to = format!("--output={}", out.display());
    let of = |more: &[&str]| builds.build(&[&flags, more].concat(), &context).ok();
    of(&[&to]);
    let provenance = statement_of(&out.join("provenance.json"));
    assert_eq!(
        provenance["predicateType"],
        "https://slsa.dev/provenance/v1"
    );
    assert_eq!(names(&provenance), ["a", &architecture, "d/b"]);
    let digest = rcrun_image::Digest::of(b"1");
    assert_eq!(provenance["subject"][0]["digest"]["sha256"], digest.hex());
    let base = &provenance["predicate"]["buildDefinition"]["resolvedDependencies"][0]["uri"];
    assert!(
        base.as_str().unwrap().starts_with("pkg:docker/base"),
        "{base}"
    );
    let sbom = statement_of(&out.join("sbom.spdx.json"));
    assert_eq!(sbom["predicateType"], "https://spdx.dev/Document");
    assert_eq!(sbom["subject"], provenance["subject"]);
    let stat = fs::metadata(out.join("provenance.json")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o600, 0));
    // Again, over what is there; and the same every time.
    let before = fs::read(out.join("provenance.json")).unwrap();
    of(&[&to]);
    assert_eq!(fs::read(out.join("provenance.json")).unwrap(), before);
    // In a directory of its platform, with another name, or not at all.
    let split = env.path("split");
    let dest = format!(
        "type=local,dest={},platform-split=true,attestation-prefix=x-",
        split.display()
    );
    of(&["--output", &dest]);
    let platform = machine.to_string().replace('/', "_");
    assert!(split.join(&platform).join("x-provenance.json").exists());
    assert!(split.join(&platform).join("d/b").exists());
    let plain = env.path("plain");
    let dest = format!("--output={}", plain.display());
    builds
        .build(&["--provenance=inline-only=true", &dest], &context)
        .ok();
    assert!(plain.join("a").exists() && !plain.join("provenance.json").exists());
    // In an archive.
    let tar = env.path("files.tar");
    of(&[&format!("--output=type=tar,dest={}", tar.display())]);
    let found = entries_of(&tar);
    assert_eq!(found["a"], b"1");
    assert_eq!(found["provenance.json"], before);
    assert!(found.contains_key("sbom.spdx.json") && found.contains_key("link"));
    // A file of that name is not replaced.
    let own = builds.context(&[
        ("Dockerfile", "FROM scratch\nCOPY provenance.json /\n"),
        ("provenance.json", "own"),
    ]);
    builds
        .build(&["--provenance=true", &to], &own)
        .fails("attestation-prefix");
}

/// Names and contents of an archive.
fn entries_of(tar: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(tar).unwrap());
    let mut found = std::collections::BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = Vec::new();
        entry.read_to_end(&mut text).unwrap();
        found.insert(name, text);
    }
    found
}

fn files_of_several_platforms(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM scratch\nARG TARGETARCH\nCOPY a /of_$TARGETARCH\n";
    let context = builds.context(&[("Dockerfile", text), ("a", "1")]);
    let flags = [
        "--platform=linux/amd64,linux/arm64",
        "--provenance=mode=min",
    ];
    let build = |output: String, context: &Path| {
        builds.build(&[flags[0], flags[1], "--output", &output], context)
    };
    let split = env.path("split");
    build(format!("type=local,dest={}", split.display()), &context).ok();
    let one = env.path("one");
    let together = format!("type=local,dest={},platform-split=false", one.display());
    build(together.clone(), &context).ok();
    for architecture in ["amd64", "arm64"] {
        let file = format!("of_{architecture}");
        let directory = split.join(format!("linux_{architecture}"));
        assert_eq!(
            names(&statement_of(&directory.join("provenance.json"))),
            [file.as_str()]
        );
        assert!(directory.join(&file).exists() && one.join(&file).exists());
        let statement = one.join(format!("provenance.linux_{architecture}.json"));
        assert_eq!(names(&statement_of(&statement)), [file.as_str()]);
    }
    let same = builds.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "1")]);
    build(together, &same).fails("cannot overwrite a from linux_amd64 with linux_arm64");
    let tar = env.path("files.tar");
    let text = "FROM scratch\nARG TARGETARCH\nCOPY d /d\nCOPY a /of_$TARGETARCH\n";
    let context = builds.context(&[("Dockerfile", text), ("a", "1"), ("d/link -> ../a", "")]);
    fs::write(context.join("d/one"), vec![7; 300_000]).unwrap();
    let dest = format!("type=tar,dest={}", tar.display());
    build(dest.clone(), &context).ok();
    let found = entries_of(&tar);
    for architecture in ["amd64", "arm64"] {
        let inside = |name: &str| format!("linux_{architecture}/{name}");
        assert_eq!(found[&inside(&format!("of_{architecture}"))], b"1");
        assert_eq!(found[&inside("d/one")], [7; 300_000]);
        assert!(found.contains_key(&inside("")) && found.contains_key(&inside("d/link")));
        let statement: Value = serde_json::from_slice(&found[&inside("provenance.json")]).unwrap();
        assert_eq!(names(&statement).len(), 2);
    }
    build(format!("{dest},platform-split=false"), &context).fails("cannot overwrite d/link");
}

/// `BUILDKIT_ATTEST_...`, as BuildKit takes it; flags have the last word.
fn arguments_ask_for_statements(env: &Env) {
    let builds = Builds::new(env);
    let argument = "--build-arg=BUILDKIT_ATTEST_PROVENANCE=mode=min";
    let context = builds.dockerfile("FROM base\n");
    let build = builds.build(&[argument], &context).ok();
    let told = statement(&build, PROVENANCE)["predicate"].clone();
    let metadata = &told["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"]["request"], json!(false));
    let refused = builds
        .build(&[argument, "--provenance=false"], &context)
        .ok();
    assert!(refused.manifest().get("layers").is_some());
    builds
        .build(&["--build-arg=BUILDKIT_ATTEST_VSA="], &context)
        .fails("BUILDKIT_ATTEST_VSA");
}

/// `oci-artifact`: yes unless said.
fn artifacts_and_what_looks_like_images(env: &Env) {
    let builds = Builds::new(env);
    let name = builds.shelf.name("kinds:1");
    for (field, artifact) in [
        ("", true),
        (",oci-artifact=true", true),
        (",oci-artifact=false", false),
    ] {
        let output = format!("--output=type=image,name={name},push=true{field}");
        let build = builds.of(&["--provenance=mode=min", &output], "FROM base\n", &[]);
        let (images, about) = entries(&build);
        let image = &images[0];
        let manifest = document(&build, &about[0]["digest"]);
        if artifact {
            assert_eq!(
                manifest["artifactType"],
                "application/vnd.docker.attestation.manifest.v1+json"
            );
            assert_eq!(
                manifest["config"],
                json!({
                    "mediaType": "application/vnd.oci.empty.v1+json",
                    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
                    "size": 2, "data": "e30=",
                })
            );
            assert_eq!(
                manifest["subject"],
                json!({
                    "mediaType": image["mediaType"], "digest": image["digest"], "size": image["size"],
                })
            );
        } else {
            assert!(manifest.get("subject").is_none() && manifest.get("artifactType").is_none());
            let config = document(&build, &manifest["config"]["digest"]);
            assert_eq!(
                config["rootfs"]["diff_ids"],
                json!([manifest["layers"][0]["digest"]])
            );
        }
        // It comes back from the registry whole.
        builds.shelf.ok(&["rmi", &name]);
        builds.shelf.ok(&["pull", "--quiet", &name]);
        builds.of(&[], &format!("FROM {name}\nRUN true\n"), &[]);
    }
    let context = builds.dockerfile("FROM base\n");
    builds
        .build(
            &["--output=type=image,oci-artifact=true,oci-mediatypes=false"],
            &context,
        )
        .fails("exclude each other");
}

/// `filename`: the last part of it counts.
fn names_of_files(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let out = env.path("out");
    let output = format!("--output={}", out.display());
    let flag = "--provenance=mode=min,version=v0.2,filename=a/b.json";
    builds.build(&[flag, "--sbom=true", &output], &context).ok();
    assert_eq!(
        statement_of(&out.join("b.json"))["predicateType"],
        "https://slsa.dev/provenance/v0.2"
    );
    assert!(out.join("sbom.spdx.json").exists() && !out.join("provenance.json").exists());
    // Without an ending the platform comes last.
    let text = "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n";
    let context = builds.dockerfile(text);
    let both = env.path("both");
    let output = format!(
        "--output=type=local,dest={},platform-split=false",
        both.display()
    );
    let platforms = "--platform=linux/amd64,linux/arm64";
    let flag = "--provenance=mode=min,filename=told";
    builds.build(&[flag, platforms, &output], &context).ok();
    for architecture in ["amd64", "arm64"] {
        let statement = statement_of(&both.join(format!("told.linux_{architecture}")));
        assert_eq!(statement["subject"][0]["name"], json!(architecture));
    }
}
