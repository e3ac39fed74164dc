//! What provenance tells, field by field, as BuildKit's readers expect it.

use super::attest::{document, entries, statement, statement_of};
use crate::harness::builds::{Build, Builds};
use crate::harness::people::layer;
use crate::harness::{Env, Test, test};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(formats_and_modes),
        test!(secrets_and_agents_that_steps_ask_for),
        test!(lines_of_the_dockerfile),
        test!(layers_of_steps),
        test!(results_without_files),
        test!(a_platform_twice),
        test!(an_empty_context_and_a_stage_as_one),
        test!(what_was_done_before_is_told_again),
        test!(platforms_share_the_build),
        test!(the_metadata_file),
    ]
}

const V1: &str = "https://slsa.dev/provenance/v1";
const V02: &str = "https://slsa.dev/provenance/v0.2";

/// The predicate about the first image, in SLSA v1.
pub(super) fn predicate(build: &Build) -> Value {
    statement(build, V1)["predicate"].clone()
}

pub(super) fn dependencies(predicate: &Value) -> Vec<&str> {
    let all = predicate["buildDefinition"]["resolvedDependencies"].as_array();
    let all = all.into_iter().flatten();
    all.map(|one| one["uri"].as_str().unwrap()).collect()
}

pub(super) fn locals(of: &Value) -> Vec<&str> {
    let all = of["locals"].as_array().into_iter().flatten();
    all.map(|one| one["name"].as_str().unwrap()).collect()
}

/// BuildKit's testProvenanceAttestation: both formats, both modes, and what is there if nothing is said.
fn formats_and_modes(env: &Env) {
    let builds = Builds::new(env);
    let published = builds.publish("from", &[layer(env, &[])], json!({"Env": ["PATH=/bin"]}));
    let dockerfile = "FROM from\nCOPY f /g\n";
    let machine = rcrun_builder::graph::machine().to_string();
    for version in ["", "version=v1", "version=v0.2"] {
        for mode in ["", "mode=min", "mode=max", "mode=full"] {
            let fields = ["type=provenance", "times=true", version, mode];
            let fields: Vec<&str> = fields
                .into_iter()
                .filter(|field| !field.is_empty())
                .collect();
            let flags = [
                "--attest",
                &fields.join(","),
                "--build-arg=FOO=bar",
                "--label=lbl=abc",
                "--target=0",
                "--build-context=foo=https://foo:canary@example.invalid/foo.html?canary",
            ];
            let build = builds.of(&flags, dockerfile, &[("f", "1")]);
            let old = version == "version=v0.2";
            let statement = statement(&build, if old { V02 } else { V1 });
            let told = &statement["predicate"];
            assert!(!statement.to_string().contains("canary"), "{statement}");
            let full = mode != "mode=min";
            let (request, source, dependencies, steps, metadata, extra) = match old {
                true => (
                    &told["invocation"]["parameters"],
                    &told["invocation"]["configSource"],
                    &told["materials"],
                    &told["buildConfig"],
                    &told["metadata"],
                    &told["metadata"]["https://mobyproject.org/buildkit@v1#metadata"],
                ),
                false => {
                    let definition = &told["buildDefinition"];
                    let metadata = &told["runDetails"]["metadata"];
                    (
                        &definition["externalParameters"]["request"],
                        &definition["externalParameters"]["configSource"],
                        &definition["resolvedDependencies"],
                        &definition["internalParameters"]["buildConfig"],
                        metadata,
                        &metadata["buildkit_metadata"],
                    )
                }
            };
            assert_eq!(request["frontend"], "dockerfile.v0");
            let mut args = json!({
                "target": "0", "context:foo": "https://xxxxx:xxxxx@example.invalid/foo.html",
            });
            if full {
                args["build-arg:FOO"] = json!("bar");
                args["label:lbl"] = json!("abc");
            }
            assert_eq!(request["args"], args, "{version} {mode}");
            assert_eq!(locals(request), ["context", "dockerfile"]);
            let name = if old { "entryPoint" } else { "path" };
            assert_eq!(*source, json!({name: "Dockerfile"}));
            let uri = format!(
                "pkg:docker/from@latest?platform={}",
                machine.replace('/', "%2F")
            );
            let hex = published.manifest.strip_prefix("sha256:").unwrap();
            assert_eq!(
                *dependencies,
                json!([{"uri": uri, "digest": {"sha256": hex}}])
            );
            match old {
                true => {
                    assert_eq!(told["buildType"], "https://mobyproject.org/buildkit@v1");
                    assert_eq!(told["builder"], json!({"id": ""}));
                    assert_eq!(
                        metadata["completeness"],
                        json!({"parameters": full, "environment": true, "materials": false})
                    );
                    assert_eq!(metadata["reproducible"], json!(false));
                    let environment = &told["invocation"]["environment"];
                    assert_eq!(environment["platform"], json!(machine));
                    assert_eq!(environment["dockerfileVersion"], "1.26.0");
                }
                false => {
                    let kind = told["buildDefinition"]["buildType"].as_str().unwrap();
                    assert!(kind.ends_with("/docs/attestations/slsa-definitions.md"));
                    let builder = &told["runDetails"]["builder"];
                    assert_eq!(builder["id"], "");
                    assert!(builder["version"]["rcrun"].is_string());
                    assert_eq!(
                        metadata["buildkit_completeness"],
                        json!({"request": full, "resolvedDependencies": false})
                    );
                    assert!(metadata.get("buildkit_reproducible").is_none());
                    let internal = &told["buildDefinition"]["internalParameters"];
                    assert_eq!(internal["builderPlatform"], json!(machine));
                    assert_eq!(internal["dockerfileVersion"], "1.26.0");
                }
            }
            assert!(!metadata.to_string().contains("hermetic"));
            let (id, began, ended) = match old {
                true => ("buildInvocationID", "buildStartedOn", "buildFinishedOn"),
                false => ("invocationId", "startedOn", "finishedOn"),
            };
            assert_eq!(metadata[id].as_str().map(str::len), Some(25));
            let time = |name: &str| metadata[name].as_str().unwrap().to_owned();
            assert!(time(began) <= time(ended));
            assert_eq!(steps.is_object(), full);
            assert_eq!(extra.get("source").is_some(), full);
            assert_eq!(extra.get("layers").is_some(), full);
            if full {
                let steps = steps["llbDefinition"].as_array().unwrap();
                // The image, the context, the copy, and the end.
                assert_eq!(steps.len(), 4, "{steps:?}");
                let infos = extra["source"]["infos"].as_array().unwrap();
                assert_eq!(infos.len(), 1);
                assert_eq!(
                    (&infos[0]["filename"], &infos[0]["language"]),
                    (&json!("Dockerfile"), &json!("Dockerfile"))
                );
                assert_eq!(extra["layers"].as_object().unwrap().len(), 2);
            }
        }
    }
}

/// testSecretSSHProvenance: what steps ask for is told, and nothing of what was given.
fn secrets_and_agents_that_steps_ask_for(env: &Env) {
    let builds = Builds::new(env);
    let file = env.path("secret");
    fs::write(&file, "canary").unwrap();
    let given = format!("--secret=id=given,src={}", file.display());
    let unused = format!("--secret=id=unused,src={}", file.display());
    let text = "FROM base AS other\nRUN --mount=type=secret,id=nobodys true\nFROM base\n\
        RUN --mount=type=secret,id=othersecret --mount=type=secret,id=mysecret \
        --mount=type=ssh true\n\
        RUN --mount=type=secret,required,id=given,env=X true\n";
    for (mode, expected) in [
        (
            "mode=max",
            json!([
                {"id": "given"}, {"id": "mysecret", "optional": true}, {"id": "othersecret", "optional": true},
            ]),
        ),
        ("mode=min", Value::Null),
    ] {
        let wanted = format!("--provenance={mode}");
        let flags = [&wanted, &given, &unused].map(String::as_str);
        let told = predicate(&builds.of(&flags, text, &[]));
        let request = &told["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(request["secrets"], expected);
        let agents = json!([{"id": "default", "optional": true}]);
        let agents = if mode == "mode=max" {
            agents
        } else {
            Value::Null
        };
        assert_eq!(request["ssh"], agents);
        assert!(!told.to_string().contains("canary"));
    }
}

/// testCommandSourceMapping: each step has its place in the Dockerfile, and each line its step.
fn lines_of_the_dockerfile(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM base\nRUN echo hello > foo\nWORKDIR /tmp\nCOPY foo foo2\nCOPY --link foo foo3\nADD bar bar";
    let build = builds.of(
        &["--provenance=mode=max"],
        text,
        &[("foo", "1"), ("bar", "2")],
    );
    let told = predicate(&build);
    let steps = &told["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"];
    let steps = steps.as_array().unwrap();
    let find = |id: &str| steps.iter().find(|step| step["id"] == json!(id)).unwrap();
    let ids: BTreeSet<&str> = steps
        .iter()
        .map(|step| step["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), steps.len());
    let source = &told["runDetails"]["metadata"]["buildkit_metadata"]["source"];
    let mut covered = [false; 6];
    for (id, place) in source["locations"].as_object().unwrap() {
        let step = find(id);
        let Some(places) = place["locations"].as_array() else {
            assert_eq!(step["op"]["Op"]["source"]["identifier"], "local://context");
            continue;
        };
        assert_eq!(places.len(), 1);
        for range in places[0]["ranges"].as_array().unwrap() {
            assert_eq!(range["start"], range["end"]);
            let line = range["start"]["line"].as_u64().unwrap();
            covered[usize::try_from(line).unwrap() - 1] = true;
        }
    }
    assert_eq!(covered, [true; 6]);
    // Inputs are steps that were told before, and what is run is told.
    let mut before = BTreeSet::new();
    for step in steps {
        for input in step["inputs"].as_array().into_iter().flatten() {
            let input = input.as_str().unwrap().strip_suffix(":0").unwrap();
            assert!(before.contains(input), "{input} of {step}");
        }
        before.insert(step["id"].as_str().unwrap());
    }
    let run = steps
        .iter()
        .find(|step| step["op"]["Op"]["exec"].is_object())
        .unwrap();
    let meta = &run["op"]["Op"]["exec"]["meta"];
    assert_eq!(meta["args"], json!(["/bin/sh", "-c", "echo hello > foo"]));
    assert_eq!(
        (&meta["cwd"], &meta["env"]),
        (&json!("/"), &json!(["PATH=/bin"]))
    );
}

/// testDuplicateLayersProvenance, and layers of each step of the result.
fn layers_of_steps(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM base AS base\nFROM base AS a\nRUN echo a > /a\nFROM base AS b\nCOPY --from=a /a /\nRUN echo b > /b\n";
    let build = builds.of(&["--provenance=true"], text, &[]);
    let (images, _) = entries(&build);
    let image = document(&build, &images[0]["digest"]);
    let all = image["layers"].as_array().unwrap();
    assert_eq!(all.len(), 3);
    let told = predicate(&build);
    let layers = &told["runDetails"]["metadata"]["buildkit_metadata"]["layers"];
    // The base image is the first step, once; that of stage `a` has no blob.
    let expected = json!({
        "step0:0": [all[..1]], "step2:0": [all[..2]], "step3:0": [all[..3]],
    });
    assert_eq!(*layers, expected);
    // Made one, only the end has them.
    let squashed = builds.of(&["--provenance=true", "--squash"], text, &[]);
    let layers = predicate(&squashed);
    let layers = &layers["runDetails"]["metadata"]["buildkit_metadata"]["layers"];
    let names: Vec<&String> = layers.as_object().unwrap().keys().collect();
    assert_eq!(names, ["step0:0", "step3:0"]);
    assert_eq!(layers["step3:0"][0].as_array().unwrap().len(), 2);
}

/// testNilProvenance: nothing but a configuration, to all kinds of outputs, of one and of two platforms.
fn results_without_files(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM scratch\nENV FOO=bar\n");
    for platforms in [
        "--platform=linux/amd64",
        "--platform=linux/amd64,linux/arm64",
    ] {
        let build = builds
            .build(&["--provenance=mode=max", platforms], &context)
            .ok();
        let told = predicate(&build);
        assert_eq!(dependencies(&told), Vec::<&str>::new());
        let config = &told["buildDefinition"]["internalParameters"]["buildConfig"];
        assert_eq!(*config, json!({}));
        let out = env.path(&format!("out-{}", platforms.len()));
        for output in [
            format!("type=local,dest={}", out.display()),
            format!("type=tar,dest={}.tar", out.display()),
        ] {
            let flags = ["--provenance=mode=max", platforms, "--output", &output];
            builds.build(&flags, &context).ok();
        }
        let inner = if platforms.contains(',') {
            "linux_arm64"
        } else {
            "."
        };
        let statement = statement_of(&out.join(inner).join("provenance.json"));
        assert_eq!(statement["subject"], json!([]));
    }
}

/// testDockerIgnoreMissingProvenance, as far as a context has to be there; testFrontendDeduplicateSources: a
/// stage that is a named context is of the same Dockerfile, which is told once.
fn an_empty_context_and_a_stage_as_one(env: &Env) {
    let builds = Builds::new(env);
    let empty = builds.context(&[]);
    let text = "FROM scratch AS base\nCOPY <<EOF /foo\ndata\nEOF\nFROM linked\nCOPY <<EOF /bar\ndata\nEOF\n";
    let file = builds.dockerfile(text).join("Dockerfile");
    let flags = [
        "--provenance=mode=max",
        "--build-context=linked=target:base",
        &format!("--file={}", file.display()),
    ];
    let build = builds.build(&flags, &empty).ok();
    let (images, _) = entries(&build);
    let image = document(&build, &images[0]["digest"]);
    assert_eq!(image["layers"].as_array().unwrap().len(), 2);
    let told = predicate(&build);
    let source = &told["runDetails"]["metadata"]["buildkit_metadata"]["source"];
    let infos = source["infos"].as_array().unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!(infos[0]["filename"], "Dockerfile");
    let request = &told["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"], json!({"context:linked": "target:base"}));
    assert_eq!(locals(request), ["context", "dockerfile"]);
}

/// What comes from the cache was made from the same, and there is no other statement about it.
fn what_was_done_before_is_told_again(env: &Env) {
    let builds = Builds::new(env);
    let web = builds.context(&[("f", "1")]);
    let url = super::contexts::files_of(&web);
    let text =
        format!("FROM base AS one\nADD {url}/f /f\nFROM base\nCOPY --from=one /f /g\nRUN true\n");
    let context = builds.dockerfile(&text);
    let build = || builds.build(&["--provenance=true"], &context).ok();
    let (first, second) = (build(), build());
    assert!(second.steps.iter().all(|step| step.cached));
    assert_eq!(first.digest(), second.digest());
    assert_eq!(dependencies(&predicate(&second)).len(), 2);
}

/// testDuplicatePlatformProvenance.
fn a_platform_twice(env: &Env) {
    let builds = Builds::new(env);
    let text = "FROM scratch AS base-linux\nCOPY f /\nFROM base-$TARGETOS\n";
    let flags = [
        "--provenance=mode=max",
        "--platform=linux/amd64,linux/amd64",
    ];
    let build = builds.of(&flags, text, &[("f", "1")]);
    let (images, about) = entries(&build);
    assert_eq!((images.len(), about.len()), (1, 1));
}

/// testMultiPlatformProvenance: the same request, of the same build, for each.
fn platforms_share_the_build(env: &Env) {
    let builds = Builds::new(env);
    let flags = [
        "--provenance=mode=max,times=true",
        "--platform=linux/amd64,linux/arm64",
        "--build-arg=FOO=bar",
        "--label=lbl=abc",
    ];
    let build = builds.of(
        &flags,
        "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n",
        &[("f", "1")],
    );
    let (_, about) = entries(&build);
    let told: Vec<Value> = about
        .iter()
        .map(|one| {
            let layers = &document(&build, &one["digest"])["layers"];
            document(&build, &layers[0]["digest"])["predicate"].clone()
        })
        .collect();
    assert_eq!(told.len(), 2);
    let args = json!({"build-arg:FOO": "bar", "label:lbl": "abc"});
    for one in &told {
        assert_eq!(
            one["buildDefinition"]["externalParameters"]["request"]["args"],
            args
        );
    }
    let id = |one: &Value| one["runDetails"]["metadata"]["invocationId"].clone();
    assert!(id(&told[0]).is_string() && id(&told[0]) == id(&told[1]));
}

/// `buildx.build.provenance`: v0.2 whatever is attested, and attested or not.
fn the_metadata_file(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM base\nARG A\n");
    let of = |variable: Option<&str>, flags: &[&str]| -> Value {
        let metadata = env.path(&format!("metadata-{}", env.unique()));
        let flag = format!("--metadata-file={}", metadata.display());
        let mut command = builds.command(
            &[&[flag.as_str(), "--build-arg=A=1"], flags].concat(),
            &context,
        );
        if let Some(value) = variable {
            command.env("BUILDX_METADATA_PROVENANCE", value);
        }
        let running = env.rt.spawn(command);
        builds
            .finish(running, &metadata, std::time::Duration::from_secs(50))
            .ok()
            .metadata
    };
    let key = "buildx.build.provenance";
    for (variable, flags, long) in [
        (None, &[][..], false),
        (Some("min"), &["--provenance=mode=min"], false),
        (Some("max"), &[], true),
        (Some("max"), &["--provenance=mode=min,version=v1"], true),
    ] {
        let told = of(variable, flags)[key].clone();
        assert_eq!(told["buildType"], "https://mobyproject.org/buildkit@v1");
        assert_eq!(
            told["invocation"]["parameters"]["args"],
            json!({"build-arg:A": "1"})
        );
        assert_eq!(told["materials"].as_array().unwrap().len(), 1);
        assert_eq!(told.get("metadata").is_some(), long);
        assert_eq!(told.get("buildConfig").is_some(), long);
        if long {
            assert!(told["metadata"]["buildStartedOn"].is_string());
        }
    }
    assert!(of(Some("disabled"), &[]).get(key).is_none());
    let both = of(
        None,
        &[
            "--platform=linux/amd64,linux/arm64",
            "--build-context=base=docker-image://scratch",
        ],
    );
    for platform in ["linux/amd64", "linux/arm64"] {
        assert!(both[format!("{key}/{platform}")].is_object(), "{both}");
    }
    assert!(both.get(key).is_none());
}
