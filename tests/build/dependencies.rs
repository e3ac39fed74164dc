//! What an image was built from: which of it provenance names, how, and what nobody is told.

use super::attest::{document, entries, statement};
use super::contexts::{files_of, git};
use super::provenance::{dependencies, locals, predicate};
use crate::harness::builds::{Build, Builds};
use crate::harness::people::layer;
use crate::harness::{Env, Need, Test, test};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(what_was_fetched),
        test!(images_of_layouts),
        test!(an_image_by_tag_and_digest),
        test!(repositories_as_contexts).needs(Need::Program("git")),
        test!(the_repository_around_a_context).needs(Need::Program("git")),
        test!(bases_of_each_platform),
        test!(all_dependencies_or_none),
    ]
}

fn sha256(text: &str) -> Value {
    json!({"sha256": rcrun_image::Digest::of(text.as_bytes()).hex()})
}

/// Files of servers, named contexts and the context itself; images come first, then repositories, then files.
fn what_was_fetched(env: &Env) {
    let builds = Builds::new(env);
    let web = builds.context(&[
        ("f", "1"),
        ("g", "2"),
        ("unused", "3"),
        ("my.Dockerfile", "FROM base\nCOPY f /h\n"),
    ]);
    let url = files_of(&web);
    let with = url.replace("http://", "http://u:canary@");
    let shown = url.replace("http://", "http://xxxxx:xxxxx@");
    let other = builds.context(&[("t", "tree")]);
    let text = format!(
        "FROM base\nADD {url}/f?canary=1 /f\nCOPY --from=web context /g\nCOPY --from=tree t /t\n"
    );
    let flags = [
        "--provenance=mode=min",
        &format!("--build-context=web={with}/g"),
        &format!("--build-context=unused={with}/unused"),
        &format!("--build-context=tree={}", other.display()),
        &format!("--build-context=nobody={}", other.display()),
        "--build-context=image=docker-image://base",
    ];
    let told = predicate(&builds.of(&flags, &text, &[]));
    assert!(!told.to_string().contains("canary"), "{told}");
    let all = &told["buildDefinition"]["resolvedDependencies"];
    assert!(
        all[0]["uri"]
            .as_str()
            .unwrap()
            .starts_with("pkg:docker/base@latest?")
    );
    assert_eq!(
        all[1],
        json!({"uri": format!("{url}/f"), "digest": sha256("1")})
    );
    assert_eq!(
        all[2],
        json!({"uri": format!("{shown}/g"), "digest": sha256("2")})
    );
    assert_eq!(dependencies(&told).len(), 3);
    let request = &told["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(locals(request), ["context", "dockerfile", "tree"]);
    assert_eq!(
        request["args"],
        json!({
            "context:web": format!("{shown}/g"), "context:unused": format!("{shown}/unused"),
            "context:tree": "local:tree", "context:nobody": "local:nobody",
            "context:image": "docker-image://base",
        })
    );
    // The context as an archive, and as nothing but a Dockerfile.
    let archive = env.path("archive.tar");
    let mut tar = tar::Builder::new(fs::File::create(&archive).unwrap());
    for name in ["f", "my.Dockerfile"] {
        tar.append_path_with_name(web.join(name), name).unwrap();
    }
    tar.finish().unwrap();
    fs::copy(&archive, web.join("archive.tar")).unwrap();
    let bytes = fs::read(&archive).unwrap();
    let hex = rcrun_image::Digest::of(&bytes).hex().to_owned();
    fs::write(web.join("plain"), "FROM base\nRUN --network=none true\n").unwrap();
    for (name, flags, path, digest) in [
        (
            "archive.tar?canary",
            &["--file=my.Dockerfile"][..],
            "my.Dockerfile",
            json!({"sha256": hex}),
        ),
        (
            "plain",
            &[],
            "Dockerfile",
            sha256("FROM base\nRUN --network=none true\n"),
        ),
    ] {
        let context = format!("{with}/{name}");
        let flags = [flags, &["--provenance=mode=min,reproducible=true"]].concat();
        let told = predicate(&builds.build(&flags, Path::new(&context)).ok());
        assert!(!told.to_string().contains("canary"), "{told}");
        let uri = format!("{shown}/{}", name.trim_end_matches("?canary"));
        let external = &told["buildDefinition"]["externalParameters"];
        assert_eq!(
            external["configSource"],
            json!({"uri": uri, "digest": digest, "path": path})
        );
        let all = &told["buildDefinition"]["resolvedDependencies"];
        assert_eq!(all[1], json!({"uri": uri, "digest": digest}));
        assert_eq!(external["request"], json!({"frontend": "dockerfile.v0"}));
        let metadata = &told["runDetails"]["metadata"];
        assert_eq!(
            metadata["buildkit_completeness"],
            json!({"request": true, "resolvedDependencies": true})
        );
        assert_eq!(metadata["buildkit_hermetic"], json!(true));
        assert_eq!(metadata["buildkit_reproducible"], json!(true));
    }
}

/// testOCILayoutProvenance: it is called as the build calls it, and not where it lies.
fn images_of_layouts(env: &Env) {
    let builds = Builds::new(env);
    let layout = env.path("secret-place");
    let to = format!("--output=type=oci,tar=false,dest={}", layout.display());
    let inner = builds.of(
        &[&to, "--provenance=true"],
        "FROM scratch\nCOPY f /f\n",
        &[("f", "1")],
    );
    let context = format!("--build-context=foo=oci-layout://{}", layout.display());
    let told = predicate(&builds.of(
        &["--provenance=true", &context],
        "FROM foo\nCOPY g /g\n",
        &[("g", "2")],
    ));
    assert!(!told.to_string().contains("secret-place"), "{told}");
    let digest = inner.digest();
    let hex = digest.strip_prefix("sha256:").unwrap();
    let platform = rcrun_builder::graph::machine()
        .to_string()
        .replace('/', "%2F");
    let uri = format!("pkg:oci/foo?digest={digest}&platform={platform}");
    assert_eq!(
        told["buildDefinition"]["resolvedDependencies"],
        json!([{"uri": uri, "digest": {"sha256": hex}}])
    );
    let request = &told["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"], json!({"context:foo": "oci-layout://foo"}));
}

/// What was named by its digest has no tag, unless it says one; it counts once if its tag is named, too.
fn an_image_by_tag_and_digest(env: &Env) {
    let builds = Builds::new(env);
    let published = builds.publish("twice", &[layer(env, &[])], json!({"Env": ["PATH=/bin"]}));
    let digest = &published.manifest;
    let name = builds.shelf.name("twice");
    let bare = name.trim_end_matches(":latest").to_owned();
    let platform = rcrun_builder::graph::machine()
        .to_string()
        .replace('/', "%2F");
    let url = |version: &str| {
        let name = bare.replace(':', "%3A");
        format!("pkg:docker/{name}{version}platform={platform}")
    };
    let pinned = format!("@latest?digest={digest}&");
    for (froms, expected) in [
        (vec![bare.clone()], vec![url("@latest?")]),
        (
            vec![format!("{bare}@{digest}")],
            vec![url(&format!("?digest={digest}&"))],
        ),
        (vec![format!("{bare}:latest@{digest}")], vec![url(&pinned)]),
        (
            vec![bare.clone(), format!("{bare}:latest@{digest}")],
            vec![url("@latest?")],
        ),
        (
            vec![
                format!("{bare}@{digest}"),
                format!("{bare}:latest@{digest}"),
            ],
            vec![url(&pinned), url(&format!("?digest={digest}&"))],
        ),
    ] {
        let mut text = String::new();
        for (index, from) in froms.iter().enumerate() {
            text.push_str(&format!("FROM {from} AS s{index}\nCOPY f /{index}\n"));
        }
        let last = froms.len() - 1;
        text.push_str("FROM scratch\n");
        for index in 0..=last {
            text.push_str(&format!("COPY --from=s{index} /{index} /\n"));
        }
        let told = predicate(&builds.of(&["--provenance=mode=min"], &text, &[("f", "1")]));
        assert_eq!(dependencies(&told), expected, "{text}");
    }
}

/// testGitProvenanceAttestation, of both kinds of repositories and in both formats.
fn repositories_as_contexts(env: &Env) {
    let builds = Builds::new(env);
    for format in ["sha1", "sha256"] {
        let text = "FROM base\nRUN --network=none echo git > /foo\nCOPY my.Dockerfile /\n";
        let root = builds.context(&[("src/my.Dockerfile", text)]);
        git(&root, &["init", &format!("--object-format={format}")]);
        git(&root, &["add", "."]);
        git(&root, &["commit", "-m", "one"]);
        git(&root, &["branch", "v1"]);
        let commit = git(&root, &["rev-parse", "v1"]);
        git(&root, &["update-server-info"]);
        let plain = format!("{}/.git", files_of(&root));
        let with = plain.replace("http://", "http://user:canary@");
        let shown = plain.replace("http://", "http://xxxxx:xxxxx@");
        let digest = json!({format: commit});
        for version in ["v1", "v0.2"] {
            let flags = [
                &format!("--provenance=version={version}"),
                "--file=my.Dockerfile",
            ];
            let build = builds
                .build(&flags, Path::new(&format!("{with}#v1:src")))
                .ok();
            let kind = format!("https://slsa.dev/provenance/{version}");
            let statement = statement(&build, &kind);
            assert!(!statement.to_string().contains("canary"), "{statement}");
            let told = &statement["predicate"];
            let uri = format!("{shown}#v1:src");
            let secrets = json!([
                {"id": "GIT_AUTH_HEADER", "optional": true}, {"id": "GIT_AUTH_TOKEN", "optional": true},
            ]);
            let request = json!({"frontend": "dockerfile.v0", "secrets": secrets});
            let (dependencies, hermetic) = match version {
                "v1" => {
                    let definition = &told["buildDefinition"];
                    let external = &definition["externalParameters"];
                    let source = json!({"uri": uri, "digest": digest, "path": "my.Dockerfile"});
                    assert_eq!(
                        *external,
                        json!({"configSource": source, "request": request})
                    );
                    let metadata = &told["runDetails"]["metadata"];
                    let complete = json!({"request": true, "resolvedDependencies": true});
                    assert_eq!(metadata["buildkit_completeness"], complete);
                    assert!(metadata["buildkit_metadata"].get("vcs").is_none());
                    (
                        &definition["resolvedDependencies"],
                        &metadata["buildkit_hermetic"],
                    )
                }
                _ => {
                    let source =
                        json!({"uri": uri, "digest": digest, "entryPoint": "my.Dockerfile"});
                    assert_eq!(told["invocation"]["configSource"], source);
                    assert_eq!(told["invocation"]["parameters"], request);
                    let metadata = &told["metadata"];
                    let complete =
                        json!({"parameters": true, "environment": true, "materials": true});
                    assert_eq!(metadata["completeness"], complete);
                    (
                        &told["materials"],
                        &metadata["https://mobyproject.org/buildkit@v1#hermetic"],
                    )
                }
            };
            assert_eq!(*hermetic, json!(true));
            assert_eq!(dependencies.as_array().unwrap().len(), 2);
            assert_eq!(
                dependencies[1],
                json!({"uri": format!("{shown}#v1"), "digest": digest})
            );
        }
        // A Dockerfile from elsewhere is not in the repository.
        let dockerfile = builds.context(&[("my.Dockerfile", text)]);
        let url = format!("{}/my.Dockerfile", files_of(&dockerfile));
        let flags = ["--provenance=mode=min", "--file", &url];
        let told = predicate(
            &builds
                .build(&flags, Path::new(&format!("{with}#v1:src")))
                .ok(),
        );
        let request = &told["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(locals(request), ["dockerfile"]);
    }
}

/// Hints about the repository that a directory lies in, and labels for who wants them. Passwords in its address
/// are not told, which BuildKit does (`request.root`).
fn the_repository_around_a_context(env: &Env) {
    let builds = Builds::new(env);
    let root = builds.context(&[("app/Dockerfile", "FROM base\n"), ("app/f", "1")]);
    git(&root, &["init"]);
    git(&root, &["add", "."]);
    git(&root, &["commit", "-m", "one"]);
    git(
        &root,
        &[
            "remote",
            "add",
            "origin",
            "https://ci:canary@example.invalid/repo.git",
        ],
    );
    let commit = git(&root, &["rev-parse", "HEAD"]);
    let source = "https://xxxxx:xxxxx@example.invalid/repo.git";
    let context = root.join("app");
    let build = |variables: &[(&str, &str)], flags: &[&str]| {
        let metadata = env.path(&format!("metadata-{}", env.unique()));
        let flag = format!("--metadata-file={}", metadata.display());
        let mut command =
            builds.command(&[&["--provenance=true", &flag], flags].concat(), &context);
        command.envs(variables.iter().copied());
        let running = env.rt.spawn(command);
        builds.finish(running, &metadata, std::time::Duration::from_secs(50))
    };
    let plain = build(&[], &[]).ok();
    let told = predicate(&plain);
    assert!(!told.to_string().contains("canary"), "{told}");
    assert_eq!(
        told["runDetails"]["metadata"]["buildkit_metadata"]["vcs"],
        json!({
            "revision": commit, "source": source, "localdir:context": "app", "localdir:dockerfile": "app",
        })
    );
    let config = |build: &Build| {
        let (images, _) = entries(build);
        let image = document(build, &images[0]["digest"]);
        document(build, &image["config"]["digest"])["config"]["Labels"].clone()
    };
    assert_eq!(config(&plain), Value::Null);
    let none = predicate(&build(&[("BUILDX_GIT_INFO", "false")], &[]).ok());
    let extra = &none["runDetails"]["metadata"]["buildkit_metadata"];
    assert!(extra.get("vcs").is_none(), "{extra}");
    let labelled = build(
        &[("BUILDX_GIT_LABELS", "1")],
        &["--label=org.opencontainers.image.source=mine"],
    );
    assert_eq!(
        config(&labelled.ok()),
        json!({
            "org.opencontainers.image.revision": commit,
            "org.opencontainers.image.source": "mine",
            "com.docker.image.source.entrypoint": "app/Dockerfile",
        })
    );
    build(&[("BUILDX_GIT_CHECK_DIRTY", "1")], &[]).fails("BUILDX_GIT_CHECK_DIRTY");
}

/// Each platform names the image that it is built upon, and the index that its name stands for.
fn bases_of_each_platform(env: &Env) {
    let builds = Builds::new(env);
    let name = builds.shelf.name("both:1");
    let platforms = "--platform=linux/amd64,linux/arm64";
    let base = builds.of(
        &[platforms, "--push", "-t", &name],
        "FROM scratch\nCOPY f /\n",
        &[("f", "1")],
    );
    let index = base.digest();
    let text = format!("FROM {name}\nCOPY f /g\n");
    let build = builds.of(&[platforms, "--provenance=mode=min"], &text, &[("f", "1")]);
    let (_, about) = entries(&build);
    for (one, architecture) in about.iter().zip(["amd64", "arm64"]) {
        let layers = &document(&build, &one["digest"])["layers"];
        let told = document(&build, &layers[0]["digest"])["predicate"].clone();
        let all = dependencies(&told);
        assert_eq!(all.len(), 1);
        assert!(
            all[0].ends_with(&format!("both@1?platform=linux%2F{architecture}")),
            "{all:?}"
        );
        let digest = &told["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"];
        assert_eq!(
            json!(index),
            json!(format!("sha256:{}", digest.as_str().unwrap()))
        );
    }
}

/// `complete-materials`: what is of this machine cannot be named.
fn all_dependencies_or_none(env: &Env) {
    let builds = Builds::new(env);
    let context = builds.dockerfile("FROM base\n");
    let flag = "--provenance=complete-materials=true";
    let out = env.path("out");
    let output = format!("--output={}", out.display());
    builds
        .build(&[flag, &output], &context)
        .fails("local are context, dockerfile");
    assert!(!out.exists(), "nothing is written");
    let url = format!("{}/Dockerfile", files_of(&context));
    builds.build(&[flag], Path::new(&url)).ok();
}
