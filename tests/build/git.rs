//! What addresses of repositories mean, as contexts and for `ADD`.

use super::contexts::{files_of, git};
use crate::harness::builds::Builds;
use crate::harness::{Env, Need, Test, test};
use std::fs;
use std::path::Path;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(addresses).needs(Need::Program("git")),
        test!(what_is_kept_of_a_repository).needs(Need::Program("git")),
        test!(a_checksum_that_is_right_changes_nothing).needs(Need::Program("git")),
        test!(provenance_names_repository_and_commit).needs(Need::Program("git")),
    ]
}

const STAGES: &str = "\
FROM scratch AS withgit
COPY .git/HEAD out

FROM scratch AS withmodule
COPY module/file out

FROM scratch
COPY foo out
";

/// A suffix of the address, the target, and what comes out; or else what the error says.
struct Case<'a> {
    suffix: String,
    target: &'a str,
    expected: Result<&'a str, &'a str>,
}

fn case<'a>(suffix: &str, target: &'a str, expected: Result<&'a str, &'a str>) -> Case<'a> {
    let suffix = suffix.to_owned();
    Case {
        suffix,
        target,
        expected,
    }
}

fn addresses(env: &Env) {
    let builds = Builds::new(env);
    let module = builds.context(&[("file", "123")]);
    git(&module, &["init"]);
    git(&module, &["add", "."]);
    git(&module, &["commit", "-m", "one"]);
    git(&module, &["update-server-info"]);
    let root = builds.context(&[("Dockerfile", STAGES), ("foo", "base")]);
    let module = format!("{}/.git", files_of(&module));
    git(&root, &["init"]);
    git(&root, &["add", "."]);
    git(&root, &["commit", "-m", "base"]);
    git(&root, &["checkout", "-b", "modules"]);
    git(&root, &["submodule", "add", &module, "module"]);
    git(&root, &["commit", "-m", "module"]);
    git(&root, &["checkout", "main"]);
    fs::remove_dir_all(root.join("module")).unwrap();
    git(&root, &["branch", "base"]);
    git(&root, &["checkout", "-b", "feature"]);
    fs::create_dir(root.join("sub")).unwrap();
    fs::write(root.join("sub/foo"), "of the feature").unwrap();
    fs::write(root.join("sub/Dockerfile"), STAGES).unwrap();
    git(&root, &["add", "."]);
    git(&root, &["commit", "-m", "feature"]);
    git(&root, &["checkout", "main"]);
    fs::write(root.join("foo"), "two").unwrap();
    git(&root, &["commit", "-am", "two"]);
    git(&root, &["tag", "v2"]);
    let two = git(&root, &["rev-parse", "HEAD"]);
    fs::write(root.join("foo"), "latest").unwrap();
    git(&root, &["commit", "-am", "latest"]);
    let latest = git(&root, &["rev-parse", "HEAD"]);
    git(&root, &["update-server-info"]);
    let url = format!("{}/.git", files_of(&root));
    let cases = [
        case("#v2", "", Ok("two")),
        case("?ref=base", "", Ok("base")),
        case("?branch=base", "", Ok("base")),
        case("?branch=invalid", "", Err("cannot find reference")),
        case("?branch=v2", "", Err("cannot find reference")),
        case("?tag=base", "", Err("cannot find reference")),
        case("?tag=v2#refs/tags/v2", "", Ok("two")),
        case("?tag=v2#refs/heads/main", "", Err("conflict")),
        case(&format!("?commit={latest}"), "", Ok("latest")),
        case(&format!("?commit={}", &latest[..8]), "", Ok("latest")),
        case(
            &format!("?commit={}", &two[..8]),
            "",
            Err("expected the commit"),
        ),
        case(&format!("?ref={two}"), "", Ok("two")),
        case(
            &format!("?ref={}", &two[..8]),
            "",
            Err("cannot find reference"),
        ),
        case(&format!("?tag=v2&commit={two}"), "", Ok("two")),
        case(
            &format!("?tag=v2&commit={latest}"),
            "",
            Err("expected the commit"),
        ),
        case(&format!("?ref={two}&commit={two}"), "", Ok("two")),
        case("?subdir=sub&ref=feature", "", Ok("of the feature")),
        case("#feature:sub", "", Ok("of the feature")),
        case("?keep-git-dir=true", "withgit", Ok(&latest)),
        case("?keep-git-dir&submodules", "withgit", Ok(&latest)),
        case("?tag=v2&keep-git-dir=true", "withgit", Ok(&two)),
        case("", "withgit", Err(".git")),
        case("?keep-git-dir=false", "withgit", Err(".git")),
        case("#modules", "withmodule", Ok("123")),
        case("?submodules=true#modules", "withmodule", Ok("123")),
        case("?submodules#modules", "withmodule", Ok("123")),
        case("?submodules=false#modules", "withmodule", Err("module")),
        case("?unknown=1", "", Err("unknown")),
    ];
    for one in &cases {
        let address = format!("{url}{}", one.suffix);
        let target = format!("--target={}", one.target);
        let flags: &[&str] = match one.target {
            "" => &[],
            _ => &[&target],
        };
        let context = builds.build(flags, Path::new(&address));
        let text = format!(
            "FROM scratch AS fetched\nADD {address} /\n\
             FROM scratch AS withgit\nCOPY --from=fetched /.git/HEAD /out\n\
             FROM scratch AS withmodule\nCOPY --from=fetched /module/file /out\n\
             FROM scratch\nCOPY --from=fetched /foo /out\n"
        );
        let added = builds.build(flags, &builds.dockerfile(&text));
        for (way, build) in [("context", context), ("ADD", added)] {
            match one.expected {
                Ok(text) => {
                    let out = build.ok().files().text("out");
                    assert_eq!(out.trim(), text, "{way} {}", one.suffix);
                }
                Err(says) => drop(build.fails(says)),
            }
        }
    }
}

fn what_is_kept_of_a_repository(env: &Env) {
    let builds = Builds::new(env);
    for format in ["sha1", "sha256"] {
        let root = builds.context(&[("foo", "1"), ("run.sh", "2")]);
        let option = format!("--object-format={format}");
        git(&root, &["init", &option]);
        git(&root, &["add", "."]);
        git(&root, &["commit", "-m", "one"]);
        git(&root, &["tag", "v1"]);
        let commit = git(&root, &["rev-parse", "v1"]);
        fs::write(root.join("foo"), "changed").unwrap();
        git(&root, &["commit", "-am", "two"]);
        git(&root, &["update-server-info"]);
        let url = format!("{}/.git", files_of(&root));
        let text = format!(
            "FROM scratch\nARG REPO={url} TAG=v1\n\
             ADD --keep-git-dir --chown=4242:8484 --checksum={commit} ${{REPO}}#${{TAG}} /kept\n\
             ADD --checksum={commit} $REPO#$TAG /plain\n\
             ADD --keep-git-dir=true --checksum={commit} $REPO#{commit} /commit\n"
        );
        let built = builds.of(&[], &text, &[]);
        let files = built.files();
        assert_eq!(files.line("kept/foo"), "f 644 4242:8484 1");
        assert_eq!(files.line("kept/.git"), "d 755 4242:8484");
        assert_eq!(files.line("plain/foo"), "f 644 0:0 1");
        assert_eq!(files.line("plain/.git"), "-");
        assert_eq!(files.text("commit/.git/HEAD").trim(), commit);
        // What is kept is a repository without changes.
        let out = env.path(&format!("out-{format}"));
        let flag = format!("--output={}", out.display());
        builds.of(&[&flag], &text, &[]);
        let safe = format!("safe.directory={}", out.join("kept").display());
        let status = git(&out.join("kept"), &["-c", &safe, "status", "--short"]);
        assert_eq!(status, "");
    }
    let garbage = "FROM scratch\nADD --checksum=foobar https://127.0.0.1:1/a.git#v1 /x\n";
    builds
        .build(&[], &builds.dockerfile(garbage))
        .fails("foobar");
}

fn a_checksum_that_is_right_changes_nothing(env: &Env) {
    let builds = Builds::new(env);
    let root = builds.context(&[("foo", "1")]);
    git(&root, &["init"]);
    git(&root, &["add", "."]);
    git(&root, &["commit", "-m", "one"]);
    git(&root, &["tag", "v1"]);
    let commit = git(&root, &["rev-parse", "v1"]);
    git(&root, &["update-server-info"]);
    let url = format!("{}/.git#v1", files_of(&root));
    let after = "RUN echo >/after\n";
    let first = builds.of(&[], &format!("FROM base\nADD {url} /x\n{after}"), &[]);
    assert_eq!(first.done().len(), 2);
    let text = format!("FROM base\nADD --checksum={commit} {url} /x\n{after}");
    let second = builds.of(&[], &text, &[]);
    assert_eq!(second.done(), Vec::<&str>::new());
    assert_eq!(first.files(), second.files());
}

fn provenance_names_repository_and_commit(env: &Env) {
    let builds = Builds::new(env);
    for format in ["sha1", "sha256"] {
        let root = builds.context(&[
            ("sub/my.Dockerfile", "FROM base\nCOPY f /f\n"),
            ("sub/f", "1"),
        ]);
        git(&root, &["init", &format!("--object-format={format}")]);
        git(&root, &["add", "."]);
        git(&root, &["commit", "-m", "one"]);
        git(&root, &["tag", "v1"]);
        let commit = git(&root, &["rev-parse", "v1"]);
        git(&root, &["update-server-info"]);
        let url = format!("{}/.git", files_of(&root));
        let out = env.path(format);
        let flags = [
            "--provenance=mode=min",
            "--file=my.Dockerfile",
            &format!("--output={}", out.display()),
        ];
        let read = || -> serde_json::Value {
            let bytes = fs::read(out.join("provenance.json")).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        };
        builds
            .build(&flags, Path::new(&format!("{url}#v1:sub")))
            .ok();
        let statement = read();
        let definition = &statement["predicate"]["buildDefinition"];
        let digest = serde_json::json!({format: commit});
        assert_eq!(
            definition["externalParameters"]["configSource"],
            serde_json::json!({"uri": format!("{url}#v1:sub"), "path": "my.Dockerfile", "digest": digest})
        );
        let of_git = |statement: &serde_json::Value| {
            let all = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
            let all = all.as_array().unwrap().clone();
            assert_eq!(all.len(), 2, "{all:?}");
            let other = all
                .into_iter()
                .find(|one| one["uri"].as_str().unwrap().starts_with("http"));
            other.unwrap()
        };
        let expected = serde_json::json!({"uri": format!("{url}#v1"), "digest": digest});
        assert_eq!(of_git(&statement), expected);
        // The same of what ADD fetches.
        let add = builds.dockerfile(&format!("FROM base\nADD {url}#v1:sub /\n"));
        builds.build(&[flags[0], flags[2]], &add).ok();
        assert_eq!(of_git(&read()), expected);
    }
}
