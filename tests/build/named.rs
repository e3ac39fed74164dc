//! `--build-context`: names that mean something else than they would.

use crate::harness::builds::{Builds, Case};
use crate::harness::{Env, Test, test};
use std::fs;

pub(super) fn tests() -> Vec<Test> {
    vec![test!(named_contexts), test!(layouts_of_several_platforms)]
}

const CASE: Case<'_> = Case::NONE;

fn named_contexts(env: &Env) {
    let builds = Builds::new(env);
    builds.of(
        &["-t", "special"],
        "FROM base\nENV MADE=special\nRUN echo special > /which\n",
        &[],
    );
    let other = builds.context(&[("f", "other"), ("skip", "1"), (".dockerignore", "skip\n")]);
    let directory = format!("--build-context=other={}", other.display());
    let layout = env.path("layout");
    let layout_name = format!("oci:{}:tag", layout.display());
    builds.shelf.ok(&["push", "-q", "special", &layout_name]);
    let layout = format!("--build-context=base=oci-layout://{}:tag", layout.display());
    let trigger = env.path("trigger");
    let to = format!("--output=type=oci,tar=false,dest={}", trigger.display());
    builds.of(&[&to], "FROM base\nONBUILD COPY --from=other /x /y\n", &[]);
    let onbuild = format!("--build-context=input=oci-layout://{}", trigger.display());
    let machine = rcrun_builder::graph::machine();
    let for_this = format!("--build-context=base::{machine}=docker-image://special");
    builds.table(&[
        Case {
            name: "a directory to copy from and to mount, with its ignore file",
            flags: &[&directory],
            dockerfile: "FROM base\nCOPY --from=other . /all\nCOPY --from=other f /f\nRUN --mount=from=other,target=/m cat /m/f > /g\n",
            expected: &[
                ("all/f", "f 644 0:0 other"),
                ("all/skip", "-"),
                ("f", "f 644 0:0 other"),
                ("g", "f 644 0:0 other"),
            ],
            ..CASE
        },
        Case {
            name: "a directory as a base",
            flags: &[&directory],
            dockerfile: "FROM other\nCOPY x /\n",
            context: &[("x", "1")],
            expected: &[("f", "f 644 0:0 other"), ("x", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "an image instead of an image",
            flags: &["--build-context=base=docker-image://special"],
            dockerfile: "FROM base\nRUN echo $MADE > /a\n",
            expected: &[("which", "f 644 0:0 special"), ("a", "f 644 0:0 special")],
            ..CASE
        },
        Case {
            name: "an image by its full name",
            flags: &["--build-context=docker.io/library/base:latest=docker-image://special"],
            dockerfile: "FROM base\n",
            expected: &[("which", "f 644 0:0 special")],
            ..CASE
        },
        Case {
            name: "an image of a layout",
            flags: &[&layout],
            dockerfile: "FROM base\n",
            expected: &[("which", "f 644 0:0 special")],
            ..CASE
        },
        Case {
            name: "an image instead of a stage, which is not built then",
            flags: &["--build-context=one=docker-image://special"],
            dockerfile: "FROM base AS one\nRUN false\nFROM base\nCOPY --from=one /which /a\n",
            expected: &[("a", "f 644 0:0 special")],
            ..CASE
        },
        Case {
            name: "a stage",
            flags: &["--build-context=other=target:one"],
            dockerfile: "FROM base AS one\nRUN echo 1 > /a\nFROM base\nCOPY --from=other /a /b\n",
            expected: &[("b", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "nothing",
            flags: &["--build-context=other=docker-image://scratch"],
            dockerfile: "FROM other\nCOPY x /\n",
            context: &[("x", "1")],
            expected: &[("x", "f 644 0:0 1"), ("bin", "-")],
            ..CASE
        },
        Case {
            name: "an image instead of a stage that is built upon another one",
            flags: &["--build-context=two=docker-image://special"],
            dockerfile: "FROM scratch AS one\nFROM one AS two\nRUN false\nFROM two\nRUN test $MADE = special && test ! -e /out && echo 1 > /a\n",
            expected: &[("which", "f 644 0:0 special"), ("a", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "an image of a layout brings its triggers, and what they need",
            flags: &[&onbuild],
            dockerfile: "FROM base AS other\nRUN echo 1 > /x\nFROM input AS one\nFROM base\nCOPY --from=one /y /z\n",
            expected: &[("z", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "one for this platform comes before one for all",
            flags: &[&for_this, "--build-context=base=docker-image://127.0.0.1:1/x"],
            dockerfile: "FROM base\n",
            expected: &[("which", "f 644 0:0 special")],
            ..CASE
        },
        Case {
            name: "one for another platform is for nobody here, and does not hide one for all",
            flags: &[
                "--build-context=base::linux/s390x=docker-image://127.0.0.1:1/x",
                "--build-context=docker.io/library/base:latest=docker-image://special",
                "--build-context=special::linux/s390x=docker-image://127.0.0.1:1/x",
            ],
            dockerfile: "FROM base AS one\nFROM special\nCOPY --from=one /which /again\n",
            expected: &[("which", "f 644 0:0 special"), ("again", "f 644 0:0 special")],
            ..CASE
        },
        Case {
            name: "files and layouts that nobody asks for may be missing, too",
            flags: &[
                "--build-context=a=http://127.0.0.1:1/x.tar",
                "--build-context=b=http://127.0.0.1:1/x.git",
                "--build-context=c=oci-layout:///no/such",
            ],
            dockerfile: "FROM a AS unused\nFROM b AS b\nFROM c AS c\nFROM base\n",
            ..CASE
        },
        Case {
            name: "a file of a server that somebody asks for",
            flags: &["--build-context=a=http://127.0.0.1:1/x.tar"],
            dockerfile: "FROM base\nCOPY --from=a context /\n",
            fails: "--build-context a=http://127.0.0.1:1/x.tar",
            ..CASE
        },
        Case {
            name: "one that nobody asks for may be missing",
            flags: &["--build-context=nobody=docker-image://127.0.0.1:1/x"],
            dockerfile: "FROM base\n",
            ..CASE
        },
        Case {
            name: "a directory that is not there",
            flags: &["--build-context=other=/no/such"],
            dockerfile: "FROM base\nCOPY --from=other f /\n",
            fails: "/no/such",
            ..CASE
        },
    ]);
}

fn layouts_of_several_platforms(env: &Env) {
    let builds = Builds::new(env);
    let both = "--platform=linux/amd64,linux/arm64";
    let (layout, out) = (env.path("layout"), env.path("out"));
    let to = format!("--output=type=oci,tar=false,dest={}", layout.display());
    let text = "FROM scratch\nARG TARGETARCH\nCOPY f /of_$TARGETARCH\n";
    builds.of(&[both, &to], text, &[("f", "1")]);
    let flags = [
        both,
        "--provenance=true",
        &format!("--build-context=input=oci-layout://{}", layout.display()),
        &format!("--output={}", out.display()),
    ];
    let text = "FROM input\nCOPY f /own\n";
    builds.of(&flags, text, &[("f", "2")]);
    for architecture in ["amd64", "arm64"] {
        let directory = out.join(format!("linux_{architecture}"));
        let of = directory.join(format!("of_{architecture}"));
        assert_eq!(fs::read_to_string(of).unwrap(), "1");
        let text = fs::read(directory.join("provenance.json")).unwrap();
        let statement: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let base = &statement["predicate"]["buildDefinition"]["resolvedDependencies"][0];
        let uri = base["uri"].as_str().unwrap();
        assert!(uri.starts_with("pkg:oci/input?digest=sha256:"), "{uri}");
        assert!(
            uri.ends_with(&format!("platform=linux%2F{architecture}")),
            "{uri}"
        );
    }
    // What came in has no name here.
    let listed = builds.shelf.ok(&["images"]);
    assert!(!listed.contains("build-context"), "{listed}");
    builds.assert_settled();
}
