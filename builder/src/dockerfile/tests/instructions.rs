//! Each instruction with its flags.

use std::time::Duration;

use crate::dockerfile::{Command, Healthcheck, Kind, Network, Probe, Security, parse};

fn one(line: &str) -> Kind {
    let text = format!("FROM a\n{line}\n");
    let file = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{line}: {errors:?}"));
    file.stages[0].instructions[0].kind.clone()
}

#[track_caller]
fn refuses(line: &str, message: &str, hint: Option<&str>) {
    let errors = parse(format!("FROM a\n{line}\n").as_bytes()).expect_err(line);
    assert_eq!(errors[0].message, message, "{line}");
    assert_eq!(errors[0].hint.as_deref(), hint, "{line}");
}

#[test]
fn add() {
    let line = "ADD --chown=u:$g --chmod=$m --link --keep-git-dir=false --checksum=sha256:a --unpack --exclude=*.a \
                --exclude=$b a https://b/c /d/";
    let Kind::Add(add) = one(line) else { panic!() };
    assert_eq!(
        (add.chown.as_deref(), add.chmod.as_deref()),
        (Some("u:$g"), Some("$m"))
    );
    assert_eq!(
        (add.link, add.keep_git_dir, add.unpack),
        (true, Some(false), Some(true))
    );
    assert_eq!(
        (add.checksum.as_deref(), add.exclude),
        (Some("sha256:a"), vec!["*.a".into(), "$b".into()])
    );
    assert_eq!(
        (add.sources.paths, add.sources.dest),
        (vec!["a".into(), "https://b/c".into()], "/d/".into())
    );
    let Kind::Add(add) = one("add [\"a b\", \"c d\"]") else {
        panic!()
    };
    assert_eq!(
        (
            add.link,
            add.keep_git_dir,
            add.unpack,
            add.sources.paths[0].as_str()
        ),
        (false, None, None, "a b")
    );
    refuses("ADD --from=x a b", "unknown flag: --from", None);
    refuses(
        "ADD --unpak a b",
        "unknown flag: --unpak",
        Some("did you mean unpack?"),
    );
    refuses("ADD --chown a b", "missing a value on flag: --chown", None);
    refuses(
        "ADD --chown=a --chown=b c d",
        "duplicate flag specified: --chown",
        None,
    );
    refuses("ADD --link= a b", "missing a value on flag: --link", None);
}

#[test]
fn copy() {
    let Kind::Copy(copy) = one("COPY --from=0 --parents --link=TRUE --chown= --exclude=x a b/")
    else {
        panic!()
    };
    assert_eq!(
        (copy.from.as_deref(), copy.parents, copy.link, copy.chown),
        (Some("0"), true, true, None)
    );
    refuses("COPY --checksum=x a b", "unknown flag: --checksum", None);
    refuses(
        "COPY --link=1 a b",
        "expecting boolean value for flag --link, not: 1",
        None,
    );
    refuses(
        "COPY a",
        "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        None,
    );
}

#[test]
fn run() {
    let Kind::Run(run) = one(
        "RUN --network=host --security=insecure --device=a/b=c,required --device=name=d x && y",
    ) else {
        panic!()
    };
    assert_eq!(
        (run.network, run.security),
        (Network::Host, Security::Insecure)
    );
    let devices: Vec<_> = run
        .devices
        .iter()
        .map(|device| (device.name.as_str(), device.required))
        .collect();
    assert_eq!(devices, [("a/b=c", true), ("d", false)]);
    assert_eq!(run.command, Command::Shell("x && y".into()));
    let Kind::Run(run) = one("RUN") else { panic!() };
    assert_eq!(run.command, Command::Shell(String::new()));
    let Kind::Run(run) = one("RUN [\"a\", '']") else {
        panic!()
    };
    assert_eq!(run.command, Command::Shell("[\"a\", '']".into()));
    refuses(
        "RUN --network=hots x",
        "invalid network mode \"hots\"",
        Some("did you mean host?"),
    );
    refuses(
        "RUN --security=none x",
        "security \"none\" is not valid",
        Some("sandbox or insecure"),
    );
    refuses(
        "RUN --device=a,b x",
        "invalid field 'b' must be a key=value pair",
        None,
    );
    refuses(
        "RUN --device=a,nam=b x",
        "unexpected key 'nam' in 'nam=b'",
        Some("did you mean name?"),
    );
    refuses(
        "RUN --device=a,name=b x",
        "device name already set to a",
        None,
    );
    refuses(
        "RUN --device=a,required=x y",
        "invalid value for required: x",
        None,
    );
    refuses(
        "RUN --device= y",
        "failed to parse csv devices: it is empty",
        None,
    );
    refuses(
        "RUN --mount=from=$x,target=/a y",
        "'from' doesn't support variable expansion, define alias stage instead",
        Some("FROM image:$VERSION AS NAME, and from=NAME"),
    );
}

#[test]
fn commands() {
    assert!(matches!(one("CMD []"), Kind::Cmd { command: Command::Exec(none) } if none.is_empty()));
    assert!(
        matches!(one("CMD a  b"), Kind::Cmd { command: Command::Shell(line) } if line == "a  b")
    );
    assert!(
        matches!(one("ENTRYPOINT [\"a\"]"), Kind::Entrypoint { command: Command::Exec(args) } if args == ["a"])
    );
    assert!(
        matches!(one("SHELL [\"a\", \"-c\"]"), Kind::Shell(shell) if shell.arguments == ["a", "-c"])
    );
    refuses("SHELL []", "SHELL requires at least one argument", None);
    refuses("CMD --x a", "unknown flag: --x", None);
}

#[test]
fn healthcheck() {
    assert!(matches!(
        one("HEALTHCHECK none"),
        Kind::Healthcheck(Healthcheck::None)
    ));
    // NONE has never looked at flags.
    assert!(matches!(
        one("HEALTHCHECK --nonsense NONE"),
        Kind::Healthcheck(Healthcheck::None)
    ));
    let line = "HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=0s --start-interval=5s --retries=3 CMD a b";
    let Kind::Healthcheck(Healthcheck::Cmd(probe)) = one(line) else {
        panic!()
    };
    let wanted = Probe {
        command: Command::Shell("a b".into()),
        interval: Duration::from_secs(90),
        timeout: Duration::from_millis(500),
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(5),
        retries: 3,
    };
    assert_eq!(probe, wanted);
    let Kind::Healthcheck(Healthcheck::Cmd(probe)) = one("HEALTHCHECK cmd [\"a\", \"b\"]") else {
        panic!()
    };
    assert_eq!(probe.command, Command::Exec(vec!["a".into(), "b".into()]));
    refuses(
        "HEALTHCHECK",
        "HEALTHCHECK requires at least one argument",
        None,
    );
    refuses(
        "HEALTHCHECK NONE x",
        "HEALTHCHECK NONE takes no arguments",
        None,
    );
    refuses(
        "HEALTHCHECK CMD",
        "Missing command after HEALTHCHECK CMD",
        None,
    );
    refuses(
        "HEALTHCHECK CMD []",
        "Missing command after HEALTHCHECK CMD",
        None,
    );
    refuses(
        "HEALTHCHECK EXEC a",
        "Unknown type \"EXEC\" in HEALTHCHECK (try CMD)",
        None,
    );
    refuses(
        "HEALTHCHECK --interval=1us CMD a",
        "Interval \"interval\" cannot be less than 1ms",
        None,
    );
    refuses(
        "HEALTHCHECK --timeout=5 CMD a",
        "missing unit in duration \"5\"",
        None,
    );
    refuses(
        "HEALTHCHECK --retries=-1 CMD a",
        "--retries cannot be negative (-1)",
        None,
    );
}

#[test]
fn metadata() {
    let Kind::Env { pairs } = one("ENV a=\"b c\" d=e\\ f g=") else {
        panic!()
    };
    let pairs: Vec<_> = pairs
        .iter()
        .map(|pair| (pair.key.as_str(), pair.value.as_str(), pair.legacy))
        .collect();
    assert_eq!(
        pairs,
        [
            ("a", "\"b c\"", false),
            ("d", "e\\ f", false),
            ("g", "", false)
        ]
    );
    let Kind::Label(label) = one("LABEL a b = c") else {
        panic!()
    };
    assert_eq!(
        (label.pairs[0].value.as_str(), label.pairs[0].legacy),
        ("b = c", true)
    );
    let Kind::Arg(arg) = one("# a does this\n# b does that\nARG a b=1 c=") else {
        panic!()
    };
    let items: Vec<_> = arg
        .items
        .iter()
        .map(|item| {
            (
                item.name.as_str(),
                item.default.as_deref(),
                item.description.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        items,
        [
            ("a", None, Some("does this")),
            ("b", Some("1"), Some("does that")),
            ("c", Some(""), None)
        ]
    );
    assert!(
        matches!(one("EXPOSE 9 80 8/udp"), Kind::Expose(expose) if expose.ports == ["8/udp", "80", "9"])
    );
    assert!(matches!(one("VOLUME /a /b"), Kind::Volume(volume) if volume.paths == ["/a", "/b"]));
    assert!(matches!(one("VOLUME [\" /a b \"]"), Kind::Volume(volume) if volume.paths == ["/a b"]));
    assert!(matches!(one("USER a b"), Kind::User { user } if user == "a b"));
    assert!(matches!(one("WORKDIR $a/b c"), Kind::Workdir { path } if path == "$a/b c"));
    assert!(matches!(one("STOPSIGNAL --x 9"), Kind::Stopsignal { signal } if signal == "9"));
    assert!(matches!(one("MAINTAINER a <b>"), Kind::Maintainer { name } if name == "a <b>"));
}

#[test]
fn metadata_that_is_refused() {
    for name in ["MAINTAINER", "WORKDIR", "USER", "STOPSIGNAL"] {
        refuses(name, &format!("{name} requires exactly one argument"), None);
    }
    for name in ["ENV", "LABEL", "ARG", "ONBUILD", "EXPOSE", "VOLUME"] {
        refuses(
            name,
            &format!("{name} requires at least one argument"),
            None,
        );
    }
    for line in [
        "ENV --a b=c",
        "LABEL --a b=c",
        "EXPOSE --a 1",
        "USER --a b",
        "WORKDIR --a b",
        "MAINTAINER --a b",
    ] {
        refuses(line, "unknown flag: --a", None);
    }
    refuses(
        "ONBUILD ONBUILD RUN x",
        "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        None,
    );
    refuses(
        "ONBUILD maintainer x",
        "MAINTAINER isn't allowed as an ONBUILD trigger",
        None,
    );
}
