//! Stages, arguments, variables, triggers, and what containers of the image are to be.

use crate::harness::builds::{Builds, Case};
use crate::harness::{Env, Test, test};
use serde_json::{Value, json};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(arguments),
        test!(stages),
        test!(triggers),
        test!(platforms),
        test!(configurations),
        test!(history_says_how_it_was_made),
        test!(errors_name_the_line),
    ]
}

const CASE: Case<'_> = Case::NONE;

fn arguments(env: &Env) {
    let proxies = "FROM base\nARG FOO\nARG BAR\nARG BAZ=baz\nRUN echo $HTTP_PROXY:$NO_PROXY:$FOO:$BAR:$BAZ > /a\n";
    let missing = "FROM base\nARG FOO\nARG BAR=${FOO:?\"is missing\"}\nRUN echo $BAR > /a\n";
    let default = "FROM base\nARG one\nENV one \"one=${one:-default}\"\nENV two \"${one%%e*}\"\nRUN echo $one $two > /a\n";
    Builds::new(env).table(&[
        Case {
            name: "global ones choose bases, are passed on by name, and see each other",
            dockerfile: "ARG a1=\"foo bar\" a2=se\nARG a3=\"$a2-foo\"\nFROM ba$a2\nARG a3 a4=\"123 456\" a1\nRUN echo \"$a1:$a3:$a4:$a2\" > /a\n",
            expected: &[("a", "f 644 0:0 foo bar:se-foo:123 456:")],
            ..CASE
        },
        Case {
            name: "flags win over defaults",
            flags: &["--build-arg=tag=base"],
            dockerfile: "ARG tag=nosuchimage\nFROM ${tag}\n",
            ..CASE
        },
        Case {
            name: "an error of one's own",
            dockerfile: "ARG FOO=${FOO:?\"not good\"}\nFROM base\n",
            fails: "FOO: not good",
            ..CASE
        },
        Case {
            name: "unless it is given",
            flags: &["--build-arg=FOO=x"],
            dockerfile: "ARG FOO=${FOO:?\"not good\"}\nFROM base\n",
            ..CASE
        },
        Case {
            name: "a default that needs another argument",
            dockerfile: missing,
            fails: "FOO: is missing",
            ..CASE
        },
        Case {
            name: "which is given",
            flags: &["--build-arg=FOO=1"],
            dockerfile: missing,
            expected: &[("a", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "or itself is given, so its default does not count",
            flags: &["--build-arg=BAR=2"],
            dockerfile: missing,
            expected: &[("a", "f 644 0:0 2")],
            ..CASE
        },
        Case {
            name: "proxies need no declaration",
            flags: &["--build-arg=FOO=foo", "--build-arg=HTTP_PROXY=hp", "--build-arg=NO_PROXY=np"],
            dockerfile: proxies,
            expected: &[("a", "f 644 0:0 hp:np:foo::baz")],
            ..CASE
        },
        Case {
            name: "and do not count for the cache",
            flags: &["--build-arg=FOO=foo", "--build-arg=HTTP_PROXY=other"],
            dockerfile: proxies,
            expected: &[("a", "f 644 0:0 hp:np:foo::baz")],
            ..CASE
        },
        Case {
            name: "others do",
            flags: &["--build-arg=FOO=foo2", "--build-arg=HTTP_PROXY=other"],
            dockerfile: proxies,
            expected: &[("a", "f 644 0:0 other::foo2::baz")],
            ..CASE
        },
        Case {
            name: "defaults in variables",
            dockerfile: default,
            expected: &[("a", "f 644 0:0 one=default on")],
            ..CASE
        },
        Case {
            name: "also if empty",
            flags: &["--build-arg=one="],
            dockerfile: default,
            expected: &[("a", "f 644 0:0 one=default on")],
            ..CASE
        },
        Case {
            name: "empty ones are variables, those without a value are none; percents are percents",
            dockerfile: "FROM base\nARG FOO\nARG BAR=\nENV P foo%sbar\nRUN env | grep -E '^(FOO|BAR|P)=' | sort > /a\n",
            expected: &[("a", "f 644 0:0 BAR=\nP=foo%sbar")],
            ..CASE
        },
        Case {
            name: "an argument wins over a variable that was there before",
            flags: &["--build-arg=A=flag"],
            dockerfile: "FROM base AS one\nENV A=env\nFROM one\nARG A\nRUN echo $A > /a\n",
            expected: &[("a", "f 644 0:0 flag")],
            ..CASE
        },
        Case {
            name: "arguments end with the stages that are built upon theirs",
            flags: &["--build-arg=A=flag"],
            dockerfile: "FROM base AS one\nARG A\nRUN echo $A > /a\nFROM one\nRUN echo x$A >> /a\nFROM base\nCOPY --from=1 /a /\nRUN echo y$A >> /a\n",
            expected: &[("a", "f 644 0:0 flag\nxflag\ny")],
            ..CASE
        },
    ]);
}

fn stages(env: &Env) {
    let named = "FROM base AS Build\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE > /a\nFROM scratch AS two\nCOPY --from=build /a /b\nFROM build\nRUN touch /last\n";
    Builds::new(env).table(&[
        Case {
            name: "names in any case, the last is built",
            dockerfile: named,
            expected: &[("a", "f 644 0:0 default"), ("last", "f 644 0:0"), ("b", "-")],
            ..CASE
        },
        Case {
            name: "a target, also in any case",
            flags: &["--target=TWO"],
            dockerfile: named,
            expected: &[("b", "f 644 0:0 TWO"), ("a", "-")],
            ..CASE
        },
        Case {
            name: "a target by number",
            flags: &["--target=1"],
            dockerfile: named,
            expected: &[("b", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "a target that is not there",
            flags: &["--target=biuld"],
            dockerfile: named,
            fails: "did you mean build",
            ..CASE
        },
        Case {
            name: "stages that nobody needs are not built",
            dockerfile: "FROM base AS one\nRUN false\nFROM nosuchimage.invalid/x AS two\nFROM base\nRUN touch /a\n",
            expected: &[("a", "f 644 0:0")],
            ..CASE
        },
        Case {
            name: "from a stage that comes later",
            dockerfile: "FROM base AS one\nCOPY --from=two /a /\nFROM base AS two\nCOPY --from=one /a /\n",
            fails: "needs to be defined before",
            ..CASE
        },
        Case {
            name: "a number that is no stage",
            dockerfile: "FROM base\nCOPY --from=7 /a /\n",
            fails: "7",
            ..CASE
        },
        Case {
            name: "nothing at all",
            dockerfile: "# nothing\n",
            fails: "no",
            ..CASE
        },
        Case {
            name: "an instruction in front of all stages",
            dockerfile: "RUN true\nFROM base\n",
            fails: "no build stage",
            ..CASE
        },
        Case {
            name: "an empty base",
            dockerfile: "ARG none\nFROM ${none}\n",
            fails: "base name",
            ..CASE
        },
        Case {
            name: "a base that is not there",
            dockerfile: "FROM 127.0.0.1:1/nothing\n",
            fails: "127.0.0.1:1/nothing",
            ..CASE
        },
        Case {
            name: "twice the same name: the later one counts",
            dockerfile: "FROM base AS x\nRUN echo 1 > /a\nFROM base AS x\nRUN echo 2 > /a\nFROM scratch\nCOPY --from=x /a /\n",
            expected: &[("a", "f 644 0:0 2")],
            ..CASE
        },
    ]);
}

fn triggers(env: &Env) {
    let builds = Builds::new(env);
    let parent = builds.of(
        &["-t", "parent"],
        "FROM base\nONBUILD RUN echo once >> /a\nONBUILD RUN <<E\necho script >> /a\nE\nONBUILD COPY f /f\n",
        &[],
    );
    assert_eq!(
        parent.config()["OnBuild"],
        json!([
            "RUN echo once >> /a",
            "RUN <<E\necho script >> /a\nE",
            "COPY f /f"
        ])
    );
    let parent = "FROM base\nONBUILD RUN --mount=type=cache,id=onbuild,target=/c touch /c/f\nONBUILD COPY --from=other /x /x\nONBUILD RUN --mount=from=other,target=/o cp /o/x /y\n";
    builds.of(&["-t", "needing"], parent, &[]);
    builds.table(&[
        Case {
            name: "they run in front of the stage's own instructions, once",
            dockerfile: "FROM parent AS one\nRUN echo own >> /a\nFROM one\nRUN echo child >> /a\n",
            context: &[("f", "1")],
            expected: &[
                ("a", "f 644 0:0 once\nscript\nown\nchild"),
                ("f", "f 644 0:0 1"),
            ],
            ..CASE
        },
        Case {
            name: "those of a stage run in stages that are built upon it",
            dockerfile: "FROM base AS src\nRUN echo 12 > /in\nFROM base AS one\nONBUILD COPY --from=src /in /out\nONBUILD RUN echo 11 > /a\nFROM one\nRUN cat /out >> /a\n",
            expected: &[("a", "f 644 0:0 11\n12")],
            ..CASE
        },
        Case {
            name: "they bring stages, mounts and cache directories of their own",
            dockerfile: "FROM base AS other\nRUN echo 1 > /x\nFROM needing\nRUN --mount=type=cache,id=onbuild,target=/c test -e /c/f\n",
            expected: &[("x", "f 644 0:0 1"), ("y", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "not for triggers",
            dockerfile: "FROM base\nONBUILD ONBUILD RUN true\n",
            fails: "ONBUILD",
            ..CASE
        },
        Case {
            name: "not for stages",
            dockerfile: "FROM base\nONBUILD FROM base\n",
            fails: "FROM",
            ..CASE
        },
    ]);
    let child = builds.of(&[], "FROM parent\n", &[("f", "1")]);
    assert_eq!(child.config()["OnBuild"], Value::Null);
}

fn platforms(env: &Env) {
    let builds = Builds::new(env);
    builds.table(&[
        Case {
            name: "arguments of platforms, global ones without a declaration",
            dockerfile: "FROM scratch AS for-linux\nCOPY f a\nFROM for-${TARGETOS}\nCOPY f b\n",
            context: &[("f", "1")],
            expected: &[("a", "f 644 0:0 1"), ("b", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "in stages by declaration; flags win",
            flags: &["--platform=darwin/ppc64le", "--build-arg=TARGETOS=freebsd"],
            dockerfile: "FROM --platform=$BUILDPLATFORM base AS one\nARG TARGETPLATFORM\nARG TARGETOS\nRUN echo $TARGETPLATFORM $TARGETOS $TARGETARCH > /a\nFROM scratch\nCOPY --from=one /a /\n",
            expected: &[("a", "f 644 0:0 darwin/ppc64le freebsd")],
            ..CASE
        },
        Case {
            name: "a platform that is none",
            dockerfile: "FROM --platform=what/is/this/then base\n",
            fails: "platform",
            ..CASE
        },
    ]);
    let several = builds.of(
        &["--platform=linux/arm/v6,linux/s390x,linux/amd64"],
        "ARG TARGETARCH\nFROM scratch AS one\nARG TARGETPLATFORM\nLABEL for=$TARGETPLATFORM\nARG TARGETARCH\nCOPY of-$TARGETARCH /who\n",
        &[("of-arm", "arm"), ("of-s390x", "s390x"), ("of-amd64", "amd64")],
    );
    let index = several.manifest();
    let manifests = index["manifests"].as_array().unwrap();
    let seen: Vec<(String, Value)> = manifests
        .iter()
        .map(|one| {
            let manifest: Value =
                serde_json::from_slice(&several.blob(one["digest"].as_str().unwrap())).unwrap();
            let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
            let config: Value = serde_json::from_slice(&several.blob(&config)).unwrap();
            (
                config["config"]["Labels"]["for"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
                one["platform"].clone(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (
                "linux/arm/v6".to_owned(),
                json!({"os": "linux", "architecture": "arm", "variant": "v6"})
            ),
            (
                "linux/s390x".to_owned(),
                json!({"os": "linux", "architecture": "s390x"})
            ),
            (
                "linux/amd64".to_owned(),
                json!({"os": "linux", "architecture": "amd64"})
            ),
        ]
    );
}

fn configurations(env: &Env) {
    let builds = Builds::new(env);
    let of = |flags: &[&str], dockerfile: &str| builds.of(flags, dockerfile, &[]).config();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let sh = |text: &str| json!(["/bin/sh", "-c", text]);
    for (name, dockerfile, expected) in [
        (
            "scratch has a path, and a shell in front of commands",
            "FROM scratch\nENTRYPOINT foo bar\n",
            json!({"Entrypoint": sh("foo bar"), "Env": [path], "WorkingDir": "/"}),
        ),
        (
            "an entrypoint takes the command of the base away, SHELL is kept",
            "FROM base\nSHELL [\"ls\"]\nENTRYPOINT my entrypoint\n",
            json!({"Entrypoint": ["ls", "my entrypoint"], "Shell": ["ls"], "Env": ["PATH=/bin"]}),
        ),
        (
            "but not one that was given",
            "FROM base\nCMD [\"a\"]\nENTRYPOINT [\"b\"]\n",
            json!({"Entrypoint": ["b"], "Cmd": ["a"], "ArgsEscaped": true, "Env": ["PATH=/bin"]}),
        ),
        (
            "JSON that is none is a command",
            "FROM base\nENTRYPOINT []random string\n",
            json!({"Entrypoint": sh("[]random string"), "Env": ["PATH=/bin"]}),
        ),
        (
            "ports, volumes, labels, users, signals",
            "FROM base\nARG P=\"3000 4000/udp\"\nEXPOSE $P\nEXPOSE 5000-5001\nVOLUME /a [\"/b\"]\nVOLUME [\"/c\"]\nLABEL a=1 b=\"2 3\" c=$P\nUSER nobody\nSTOPSIGNAL SIGTERM\nWORKDIR /w\n",
            json!({
                "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "User": "nobody", "WorkingDir": "/w", "StopSignal": "SIGTERM",
                "ExposedPorts": {"3000/tcp": {}, "4000/udp": {}, "5000/tcp": {}, "5001/tcp": {}},
                "Volumes": {"/a": {}, "[/b]": {}, "/c": {}},
                "Labels": {"a": "1", "b": "2 3", "c": "3000 4000/udp"},
            }),
        ),
        (
            "health",
            "FROM base\nHEALTHCHECK --interval=5s --timeout=1m --retries=3 --start-period=2s --start-interval=1s CMD true\nMAINTAINER me\n",
            json!({
                "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"],
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Timeout": 60_000_000_000_u64,
                    "StartPeriod": 2_000_000_000, "StartInterval": 1_000_000_000, "Retries": 3,
                },
            }),
        ),
        (
            "no health, variables by the old form and in each other",
            "FROM base\nHEALTHCHECK NONE\nENV A b c\nENV D=$A E=$D F='$A' PATH=$PATH:/x\n",
            json!({
                "Cmd": ["/bin/sh"], "Env": ["PATH=/bin:/x", "A=b c", "D=b c", "E=", "F=$A"],
                "Healthcheck": {"Test": ["NONE"]},
            }),
        ),
    ] {
        assert_eq!(of(&[], dockerfile), expected, "{name}");
    }
    let labels = of(
        &["--label=bar=baz", "--label=a=flag"],
        "FROM base\nLABEL a=file foo=bar\n",
    );
    assert_eq!(
        labels["Labels"],
        json!({"a": "flag", "bar": "baz", "foo": "bar"})
    );
}

fn history_says_how_it_was_made(env: &Env) {
    let builds = Builds::new(env);
    let built = builds.of(
        &[],
        "FROM base AS one\nENV foo=bar\nCOPY foo /foo2\nFROM base\nARG a=1\nARG b=2\nARG a=3\nLABEL lbl=val\nCOPY --from=one foo2 foo3\nWORKDIR /\nRUN echo bar > foo4\nRUN [\"ls\"]\nEXPOSE 2375 5000 1234/udp\n",
        &[("foo", "contents")],
    );
    let document = built.document();
    let history: Vec<(String, bool)> = document["history"]
        .as_array()
        .unwrap()
        .iter()
        .skip(2)
        .map(|one| {
            assert_eq!(one["comment"], "buildkit.dockerfile.v0");
            (
                one["created_by"].as_str().unwrap().to_owned(),
                one["empty_layer"] == json!(true),
            )
        })
        .collect();
    let expected = [
        ("ARG a=1", true),
        ("ARG b=2", true),
        ("ARG a=3", true),
        ("LABEL lbl=val", true),
        ("COPY foo2 foo3 # buildkit", false),
        ("WORKDIR /", true),
        (
            "RUN |2 a=3 b=2 /bin/sh -c echo bar > foo4 # buildkit",
            false,
        ),
        ("RUN |2 a=3 b=2 ls # buildkit", false),
        ("EXPOSE [1234/udp 2375/tcp 5000/tcp]", true),
    ];
    let expected: Vec<(String, bool)> = expected
        .iter()
        .map(|(text, empty)| ((*text).to_owned(), *empty))
        .collect();
    assert_eq!(history, expected);
    let layers = document["rootfs"]["diff_ids"].as_array().unwrap().len();
    assert_eq!(layers, 1 + 3);
}

fn errors_name_the_line(env: &Env) {
    let builds = Builds::new(env);
    for (dockerfile, line) in [
        ("FROM base\nENV\n", 2),
        ("FROM scratch\nENV foo=bar\nRUN what\n", 3),
        ("FROM scratch\nENV foo=bar\nCOPY foo bar\nENV bar=baz\n", 3),
        ("FROM scratch\nENV foo=bar\nCOPY --foo=bar / /\n", 3),
        (
            "FROM scratch\nENV foo=bar\nCOPY --from=127.0.0.1:1/x foo bar\n",
            3,
        ),
        ("FROM scratch\nRUN wh\\\nat\nENV bar=baz\n", 2),
        ("FROM scratch\n\n\nFNTRYPOINT [\"a\"]\n", 4),
        ("FROM scratch\nCOPY <<E /\nno end\n", 2),
    ] {
        let built = builds.build(&[], &builds.dockerfile(dockerfile));
        built.fails(&format!("Dockerfile:{line}:"));
    }
    let mistyped = builds.dockerfile("FROM scratch\nFNTRYPOINT [\"a\"]\n");
    let mistyped = builds.build(&[], &mistyped);
    mistyped
        .fails("unknown instruction: FNTRYPOINT")
        .fails("did you mean ENTRYPOINT");
}
