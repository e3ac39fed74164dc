use super::*;
use crate::Digest;
use crate::dockerfile::{Security, Span};
use crate::graph::{Stage, Step};
use crate::image::Draft;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn asked<'a>(version: Version, mode: Mode, context: &'a Origin) -> Asked<'a> {
    Asked {
        version,
        mode,
        builder: "me",
        program: ("rcrun", "1"),
        reproducible: false,
        dockerfile: ("Dockerfile", b"FROM scratch"),
        context,
        contexts: Vec::new(),
        locals: BTreeSet::new(),
        arguments: map(&[("target", "t"), ("build-arg:A", "1"), ("label:l", "m")]),
        repository: map(&[("revision", "123")]),
        layouts: BTreeMap::new(),
        platform: "linux/amd64".into(),
        no_network: false,
        layers: &[],
        moment: None,
    }
}

fn run(network: Network, mounts: Vec<RunMount>) -> Op {
    Op::Run(Box::new(RunOp {
        args: vec!["x".into()],
        script: None,
        env: Vec::new(),
        proxies: Vec::new(),
        directory: "/".into(),
        user: String::new(),
        mounts,
        network,
        security: Security::Sandbox,
        devices: Vec::new(),
    }))
}

fn graph(ops: Vec<Op>) -> Graph {
    let platform = crate::graph::machine();
    let step = |op| Step {
        span: Span::new(0, 0, 2, 3),
        text: String::new(),
        op,
        anew: false,
    };
    let stage = Stage {
        name: String::new(),
        span: Span::default(),
        base: Base::Scratch,
        image: Draft::empty(&platform),
        platform,
        steps: ops.into_iter().map(step).collect(),
        needed: true,
    };
    Graph {
        stages: vec![stage],
        target: 0,
        epoch: None,
    }
}

fn repository() -> Origin {
    Origin::Commit {
        remote: "https://xxxxx:xxxxx@a.b/c.git".into(),
        reference: Some("main".into()),
        subdir: Some("d".into()),
        commit: "abc".into(),
    }
}

#[test]
fn both_formats_say_the_same() {
    let context = repository();
    let graph = graph(Vec::new());
    let materials = [Material::file(
        "https://a.b/f?token=canary",
        &Digest::of(b"f"),
    )]
    .into();
    let digest = json!({"sha1": "abc"});
    let dependencies = json!([
        {"uri": "https://xxxxx:xxxxx@a.b/c.git#main", "digest": digest},
        {"uri": "https://a.b/f", "digest": {"sha256": Digest::of(b"f").hex()}},
    ]);
    let uri = "https://xxxxx:xxxxx@a.b/c.git#main:d";
    let request = json!({
        "frontend": "dockerfile.v0",
        "args": {"target": "t", "build-arg:A": "1", "label:l": "m"},
        "secrets": [
            {"id": "GIT_AUTH_HEADER", "optional": true},
            {"id": "GIT_AUTH_TOKEN", "optional": true},
        ],
    });
    let source = json!({
        "filename": "Dockerfile", "language": "Dockerfile", "data": crate::base64(b"FROM scratch"),
    });
    let more = json!({
        "vcs": {"revision": "123"}, "source": {"locations": {}, "infos": [source]},
    });
    let mut asked = asked(Version::V1, Mode::Max, &context);
    asked.moment = Some(Moment {
        id: "x".into(),
        began: 0,
        ended: 60,
    });
    asked.reproducible = true;
    let first = predicate(&asked, &graph, &materials);
    asked.version = Version::V02;
    let second = predicate(&asked, &graph, &materials);
    assert_first(&first, uri, &digest, &request, &dependencies, &more);
    assert_second(&second, uri, &digest, &request, &dependencies, &more);
}

fn assert_first(
    told: &Value,
    uri: &str,
    digest: &Value,
    request: &Value,
    dependencies: &Value,
    more: &Value,
) {
    assert_eq!(
        *told,
        json!({
            "buildDefinition": {
                "buildType":
                    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": {
                    "configSource": {"uri": uri, "digest": digest, "path": "Dockerfile"},
                    "request": request,
                },
                "internalParameters": {
                    "builderPlatform": "linux/amd64", "dockerfileVersion": DOCKERFILE, "buildConfig": {},
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": "me", "version": {"rcrun": "1"}},
                "metadata": {
                    "invocationId": "x",
                    "startedOn": "1970-01-01T00:00:00Z",
                    "finishedOn": "1970-01-01T00:01:00Z",
                    "buildkit_metadata": more,
                    "buildkit_hermetic": true,
                    "buildkit_reproducible": true,
                    "buildkit_completeness": {"request": true, "resolvedDependencies": true},
                },
            },
        })
    );
}

fn assert_second(
    told: &Value,
    uri: &str,
    digest: &Value,
    request: &Value,
    dependencies: &Value,
    more: &Value,
) {
    assert_eq!(
        *told,
        json!({
            "builder": {"id": "me"},
            "buildType": "https://mobyproject.org/buildkit@v1",
            "buildConfig": {},
            "materials": dependencies,
            "invocation": {
                "configSource": {"uri": uri, "digest": digest, "entryPoint": "Dockerfile"},
                "parameters": request,
                "environment": {"platform": "linux/amd64", "dockerfileVersion": DOCKERFILE},
            },
            "metadata": {
                "buildInvocationID": "x",
                "buildStartedOn": "1970-01-01T00:00:00Z",
                "buildFinishedOn": "1970-01-01T00:01:00Z",
                "completeness": {"parameters": true, "environment": true, "materials": true},
                "reproducible": true,
                "https://mobyproject.org/buildkit@v1#metadata": more,
                "https://mobyproject.org/buildkit@v1#hermetic": true,
            },
        })
    );
}

/// What the least mode leaves out, and that it says so only if there was something.
#[test]
fn the_least_mode() {
    let context = repository();
    let graph = graph(vec![run(Network::Default, vec![secret("s", false)])]);
    let mut asked = asked(Version::V1, Mode::Min, &context);
    for arguments in [true, false] {
        if !arguments {
            asked.arguments.retain(|name, _| name == "target");
        }
        let told = predicate(&asked, &graph, &BTreeSet::new());
        let request = &told["buildDefinition"]["externalParameters"]["request"];
        let expected = json!({"frontend": "dockerfile.v0", "args": {"target": "t"}});
        assert_eq!(*request, expected);
        let metadata = &told["runDetails"]["metadata"];
        assert_eq!(
            metadata["buildkit_metadata"],
            json!({"vcs": {"revision": "123"}})
        );
        assert_eq!(
            metadata["buildkit_completeness"],
            json!({"request": !arguments, "resolvedDependencies": true})
        );
        assert!(
            told["buildDefinition"]["internalParameters"]
                .get("buildConfig")
                .is_none()
        );
    }
}

fn secret(id: &str, required: bool) -> RunMount {
    RunMount::Secret {
        id: id.into(),
        target: None,
        env: None,
        required,
        file: (0o400, 0, 0),
    }
}

fn agent(id: &str, required: bool) -> RunMount {
    RunMount::Ssh {
        id: id.into(),
        target: "/x".into(),
        required,
        file: (0o600, 0, 0),
    }
}

#[test]
fn what_steps_ask_for() {
    let mounts = vec![
        secret("b", false),
        secret("a", false),
        agent("", false),
        agent("other", true),
    ];
    // Whoever needs it counts.
    let graph = graph(vec![
        run(Network::None, mounts),
        run(Network::None, vec![secret("b", true)]),
    ]);
    let local = Origin::Local;
    let asked = asked(Version::V1, Mode::Max, &local);
    let told = predicate(&asked, &graph, &BTreeSet::new());
    let request = &told["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(
        request["secrets"],
        json!([{"id": "a", "optional": true}, {"id": "b"}])
    );
    assert_eq!(
        request["ssh"],
        json!([{"id": "default", "optional": true}, {"id": "other"}])
    );
    for (url, kind, id) in [
        ("ssh://git@a.b/c", "ssh", "default"),
        ("git@a.b:c", "ssh", "default"),
        ("https://a.b/c.git", "secrets", "GIT_AUTH_HEADER"),
    ] {
        let materials = [Material::commit(url, None, "abc")].into();
        let graph = self::graph(Vec::new());
        let told = predicate(&asked, &graph, &materials);
        let request = &told["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(
            request[kind][0],
            json!({"id": id, "optional": true}),
            "{url}"
        );
    }
}

#[test]
fn what_is_hermetic() {
    let local = Origin::Local;
    for (networks, without, locals, expected) in [
        (&[][..], false, &[][..], true),
        (&[], false, &["context"], false),
        (&[Network::None], false, &[], true),
        (&[Network::None, Network::Default], false, &[], false),
        (&[Network::Default], true, &[], true),
        (&[Network::Host], true, &[], false),
    ] {
        let ops = networks.iter().map(|network| run(*network, Vec::new()));
        let mut asked = asked(Version::V1, Mode::Min, &local);
        asked.no_network = without;
        asked.locals = locals.iter().map(|name| (*name).to_owned()).collect();
        let told = predicate(&asked, &graph(ops.collect()), &BTreeSet::new());
        let metadata = &told["runDetails"]["metadata"];
        let hermetic = metadata.get("buildkit_hermetic");
        assert_eq!(hermetic, expected.then_some(&json!(true)), "{networks:?}");
        let complete = &metadata["buildkit_completeness"]["resolvedDependencies"];
        assert_eq!(*complete, json!(locals.is_empty()));
    }
}

/// Steps have numbers, inputs, lines, and what they do.
#[test]
fn steps_of_a_stage() {
    let local = Origin::Local;
    let copy = Op::Copy(Box::new(crate::graph::CopyOp {
        from: crate::graph::Source::Context,
        sources: vec![
            crate::graph::CopySource::Path("a".into()),
            crate::graph::CopySource::Http("https://u:canary@a.b/f?canary".into()),
            crate::graph::CopySource::Inline {
                name: "EOF".into(),
                contents: String::new(),
            },
        ],
        dest: "/d/".into(),
        chown: None,
        chmod: None,
        parents: false,
        exclude: Vec::new(),
        unpack: crate::context::copy::Unpack::No,
        link: false,
        checksum: None,
        keep_git_dir: None,
    }));
    let graph = graph(vec![copy, run(Network::None, Vec::new())]);
    let asked = asked(Version::V1, Mode::Max, &local);
    let told = predicate(&asked, &graph, &BTreeSet::new());
    assert!(!told.to_string().contains("canary"), "{told}");
    let source = |id: &str, identifier: &str| {
        let op = json!({"Op": {"source": {"identifier": identifier}}});
        json!({"id": id, "op": op})
    };
    let actions = json!([
        {"Action": {"copy": {"src": "/a", "dest": "/d/"}}},
        {"Action": {"copy": {"src": "/f", "dest": "/d/"}}},
        {"Action": {"mkfile": {"path": "/d/EOF"}}},
    ]);
    let meta = json!({"args": ["x"], "env": [], "cwd": "/"});
    let machine = crate::graph::machine();
    let mut platform = json!({"Architecture": machine.architecture, "OS": machine.os});
    if !machine.variant.is_empty() {
        platform["Variant"] = json!(machine.variant);
    }
    assert_eq!(
        told["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"],
        json!([
            source("step0", "local://context"),
            source("step1", "https://xxxxx:xxxxx@a.b/f"),
            {
                "id": "step2", "inputs": ["step0:0", "step1:0"],
                "op": {"Op": {"file": {"actions": actions}}},
            },
            {
                "id": "step3", "inputs": ["step2:0"],
                "op": {"Op": {"exec": {"meta": meta, "network": 2}}, "platform": platform},
            },
            {"id": "step4", "inputs": ["step3:0"], "op": {"Op": {}}},
        ])
    );
    let line = |line: u32| json!({"start": {"line": line}, "end": {"line": line}});
    let place = json!({"locations": [{"ranges": [line(2), line(3)]}]});
    assert_eq!(
        told["runDetails"]["metadata"]["buildkit_metadata"]["source"]["locations"],
        json!({"step0": {}, "step1": {}, "step2": place, "step3": place})
    );
}
