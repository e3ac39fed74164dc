//! A Dockerfile becomes an image: files, configuration, and what the second time costs.

use crate::harness::builds::{BASE_TIME, Builds};
use crate::harness::{Env, Test, test};
use serde_json::json;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_dockerfile_becomes_an_image),
        test!(the_second_time_nothing_is_done),
    ]
}

const DOCKERFILE: &str = "\
FROM base AS made
WORKDIR /work
COPY a b/ ./
RUN cat a b > both
FROM base
ENV A=1 PATH=/bin:/sbin
COPY --from=made --chown=user:extra /work/both /out/
LABEL made=twice
CMD [\"cat\", \"/out/both\"]
";

pub(super) fn a_dockerfile_becomes_an_image(env: &Env) {
    let builds = Builds::new(env);
    let built = builds.of(
        &["-t", "mine"],
        DOCKERFILE,
        &[("a", "one\n"), ("b/b", "two\n")],
    );
    let files = built.files();
    assert_eq!(files.line("out/both"), "f 644 1000:2000 one\ntwo");
    assert_eq!(files.line("out"), "d 755 1000:2000");
    assert_eq!(files.line("work"), "-");
    assert_eq!(files.get("out/both").modified, (BASE_TIME, 0));
    assert_eq!(
        built.config(),
        json!({
            "Cmd": ["cat", "/out/both"], "Env": ["PATH=/bin:/sbin", "A=1"], "Labels": {"made": "twice"},
            "ArgsEscaped": true,
        })
    );
    assert_eq!(
        built.metadata["image.name"],
        "docker.io/library/mine:latest"
    );
    let parent = format!("--cgroup-parent={}", env.tag);
    // An ordinary user has no cgroup here.
    let parent = env.user.is_none().then_some(parent.as_str());
    let words = [&["run", "--rm"], parent.as_slice(), &["mine"]].concat();
    let said = builds.shelf.ok(&words);
    assert_eq!(said, "one\ntwo\n");
    builds.assert_settled();
}

fn the_second_time_nothing_is_done(env: &Env) {
    let builds = Builds::new(env);
    let files = [("a", "one\n"), ("b/b", "two\n")];
    let first = builds.of(&[], DOCKERFILE, &files);
    assert_eq!(first.done().len(), 4, "{}", first.output);
    assert_eq!(first.cached(), Vec::<&str>::new());
    let second = builds.of(&[], DOCKERFILE, &files);
    assert_eq!(second.done(), Vec::<&str>::new());
    assert_eq!(second.cached().len(), 4);
    assert_eq!(first.digest(), second.digest());
    let third = builds.of(
        &["--explain"],
        DOCKERFILE,
        &[("a", "three\n"), ("b/b", "two\n")],
    );
    assert_eq!(third.cached().len(), 1, "{}", third.output);
    assert_eq!(third.step("COPY a b/").why, "what is copied changed");
    assert_eq!(third.step("RUN cat").why, "the previous step changed");
    assert_eq!(third.files().line("out/both"), "f 644 1000:2000 three\ntwo");
}
