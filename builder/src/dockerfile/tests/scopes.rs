//! Which variables instructions see, which stages need which.

use std::collections::BTreeMap;

use rcrun_image::platform::Platform;

use crate::dockerfile::{
    Applied, Base, Dockerfile, Globals, Kind, Lookup, Mount, Request, Scope, Source, Stages, parse,
};

fn read(text: &str) -> Dockerfile {
    parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{text}: {errors:#?}"))
}

fn request(args: &[(&str, &str)]) -> Request {
    Request {
        build_args: args
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        build_platform: Platform::new("linux", "amd64", ""),
        target_platform: Platform::new("linux", "arm", "v7"),
        target: None,
    }
}

/// The instructions of the first stage, applied.
fn applied(
    text: &str,
    args: &[(&str, &str)],
    image: &[&str],
) -> (Vec<Applied>, BTreeMap<String, String>) {
    let (file, request) = (read(text), request(args));
    let globals = Globals::new(&file, &request).unwrap();
    let image: Vec<String> = image.iter().map(|pair| (*pair).to_owned()).collect();
    let mut scope = Scope::on_image(&file, &globals, &request, &image);
    let instructions = file.stages[0].instructions.iter();
    let found = instructions
        .map(|one| {
            scope
                .apply(one)
                .unwrap_or_else(|error| panic!("{text}: {error:?}"))
        })
        .collect();
    let pairs = scope.environment().pairs();
    (
        found,
        pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    )
}

#[track_caller]
fn workdir(text: &str, args: &[(&str, &str)], wanted: &str) {
    let (found, _) = applied(text, args, &["IMG=from-image", "PATH=/p"]);
    let Some(Kind::Workdir { path }) = found.last().map(|one| &one.kind) else {
        panic!("{text}")
    };
    assert_eq!(path, wanted, "{text}");
}

#[test]
fn values_of_arguments() {
    workdir("ARG G=g\nFROM a\nWORKDIR /$G", &[], "/");
    workdir("ARG G=g\nFROM a\nARG G\nWORKDIR /$G", &[], "/g");
    workdir("ARG G=g\nFROM a\nARG G=own\nWORKDIR /$G", &[], "/own");
    workdir(
        "ARG G=g\nFROM a\nARG G=own\nWORKDIR /$G",
        &[("G", "given")],
        "/given",
    );
    workdir("ARG G\nFROM a\nARG G\nWORKDIR /${G-unset}", &[], "/unset");
    workdir(
        "ARG A=1\nARG B=$A$A\nFROM a\nARG B\nWORKDIR /$B",
        &[("A", "2")],
        "/22",
    );
    workdir("FROM a\nARG A=1 B=$A C\nWORKDIR /$B$C", &[], "/1");
    workdir(
        "FROM a\nWORKDIR /$IMG",
        &[("IMG", "not declared")],
        "/from-image",
    );
    workdir(
        "FROM a\nARG IMG\nWORKDIR /$IMG",
        &[("IMG", "given")],
        "/given",
    );
    workdir("FROM a\nARG X=1\nENV X=2\nARG X=3\nWORKDIR /$X", &[], "/3");
    workdir(
        "FROM a\nARG X=1\nENV X=2\nWORKDIR /$X",
        &[("X", "given")],
        "/2",
    );
    // A default that is not needed may be broken.
    workdir(
        "FROM a\nARG X=${Y?}\nWORKDIR /$X",
        &[("X", "given")],
        "/given",
    );
}

#[test]
fn platform_arguments() {
    let text = "FROM a\nARG BUILDPLATFORM TARGETPLATFORM TARGETVARIANT TARGETSTAGE\n\
                WORKDIR $BUILDPLATFORM:$TARGETPLATFORM:$TARGETVARIANT:$TARGETSTAGE";
    workdir(text, &[], "linux/amd64:linux/arm/v7:v7:default");
    workdir(
        text,
        &[("TARGETVARIANT", "v6")],
        "linux/amd64:linux/arm/v7:v6:default",
    );
    workdir(
        &text.replace("FROM a", "FROM a AS S"),
        &[],
        "linux/amd64:linux/arm/v7:v7:s",
    );
    // They have to be declared.
    workdir("FROM a\nWORKDIR /$TARGETOS", &[], "/");
}

#[test]
fn an_instruction_sees_what_was_before_it() {
    let (found, environment) = applied("FROM x\nENV a=1\nENV a=2 b=$a $a=c\nENV b=$b$b", &[], &[]);
    assert_eq!(
        (
            environment["a"].as_str(),
            environment["b"].as_str(),
            environment["1"].as_str()
        ),
        ("2", "11", "c")
    );
    assert!(environment["PATH"].contains("/usr/bin"));
    assert!(matches!(&found[1].kind, Kind::Env { pairs } if pairs[2].key == "1"));
}

#[test]
fn where_variables_are_replaced() {
    let text = "FROM a\nARG v=x\\ y n=7\nLABEL $v=\"$v\" '$v'=1\nCOPY --chown=$n:$n --chmod=$n --exclude=$v $v ${v}z /$v/\n\
                ADD --checksum=$n http://a <<D b\n\"$v\"\nD\nRUN --mount=type=cache,target=/$v,id=$n echo $v\nCMD $v\n\
                EXPOSE $n-9/udp $v$none 1\nVOLUME [\"$v\"]\nUSER $n:$n\nSTOPSIGNAL $n\nSHELL [\"$v\"]\n\
                HEALTHCHECK CMD $v\nONBUILD RUN $v\n";
    let (found, _) = applied(text, &[("v", "x y")], &[]);
    let shown: Vec<String> = found
        .iter()
        .map(|one| serde_json::to_string(&one.kind).unwrap())
        .collect();
    for (index, wanted) in [
        (1, r#"{"key":"x y","value":"x y""#),
        (1, r#"{"key":"$v","value":"1""#),
        (2, r#""paths":["x y","x yz"]"#),
        (2, r#""dest":"/x y/""#),
        (2, r#""chown":"7:7","chmod":"7""#),
        (2, r#""exclude":["$v"]"#),
        (3, r#""raw":"\"x y\"\n""#),
        (3, r#""checksum":"7""#),
        (4, r#""command":{"shell":"echo $v"}"#),
        (5, r#""shell":"$v""#),
        (6, r#""ports":["7-9/udp","x","y","1"]"#),
        (7, r#""paths":["x y"]"#),
        (8, r#""user":"7:7""#),
        (9, r#""signal":"7""#),
        (10, r#""arguments":["$v"]"#),
        (11, r#""shell":"$v""#),
        (12, r#""expression":"RUN $v""#),
    ] {
        // Ports are sorted as they are written: "$n..." is before "$v..." and behind "1".
        let shown =
            shown[index].replace(r#"["1","7-9/udp","x","y"]"#, r#"["x","y","7-9/udp","1"]"#);
        assert!(shown.contains(wanted), "{wanted} in {shown}");
    }
    assert!(
        matches!(&found[4].mounts[0], Mount::Cache { target, id: Some(id), .. } if target == "/x y" && id == "7")
    );
}

#[test]
fn stages_inherit() {
    let file = read("FROM a AS b\nENV e=1\nARG e=2 g=3\nFROM b\nWORKDIR $e$g\nARG h=$g\nRUN x");
    let request = request(&[]);
    let globals = Globals::new(&file, &request).unwrap();
    let mut first = Scope::on_image(&file, &globals, &request, &["PATH=/x".into(), "e=0".into()]);
    for one in &file.stages[0].instructions {
        first.apply(one).unwrap();
    }
    assert_eq!(first.environment().get("e"), Some("2"));
    let mut second = first.on_stage();
    let path = second.apply(&file.stages[1].instructions[0]).unwrap();
    assert!(matches!(path.kind, Kind::Workdir { path } if path == "13"));
    second.apply(&file.stages[1].instructions[1]).unwrap();
    let show = |pairs: Vec<(std::sync::Arc<str>, std::sync::Arc<str>)>| {
        pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(show(second.arguments()), "e=1 g=3 h=3");
    assert_eq!(show(second.environment().kept()), "PATH=/x e=1");
}

#[test]
fn undefined_variables_are_noticed() {
    let file = read("FROM a\nARG known other\nCOPY $known $pth $PATH /$othr\nWORKDIR ${x?}");
    let request = request(&[]);
    let globals = Globals::new(&file, &request).unwrap();
    let mut scope = Scope::on_image(&file, &globals, &request, &["path=/x".into()]);
    let mut found = Vec::new();
    for one in &file.stages[0].instructions {
        let result = scope.apply(one);
        found.extend(scope.take_undefined());
        assert_eq!(result.is_err(), matches!(one.kind, Kind::Workdir { .. }));
    }
    let found: Vec<_> = found
        .iter()
        .map(|one| (one.name.as_str(), one.meant.as_deref()))
        .collect();
    assert_eq!(found, [("pth", Some("path")), ("othr", None), ("x", None)]);
}

#[test]
fn proxies_need_no_declaration() {
    let request = request(&[("http_proxy", "a"), ("NO_PROXY", "b"), ("x", "c")]);
    let found: Vec<String> = request
        .proxies()
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(
        found,
        ["HTTP_PROXY=a", "http_proxy=a", "NO_PROXY=b", "no_proxy=b"]
    );
    let (_, environment) = applied("FROM a\nRUN x", &[("HTTP_PROXY", "a")], &[]);
    assert!(!environment.contains_key("HTTP_PROXY"));
}

fn stages(text: &str) -> Result<Stages, String> {
    let (file, request) = (read(text), request(&[]));
    let globals = Globals::new(&file, &request).map_err(|error| error.message)?;
    Stages::new(&file, &globals)
        .map_err(|error| format!("{}: {}", error.span.first_line, error.message))
}

#[test]
fn stages_need_each_other() {
    let text = "ARG I=img\nFROM $I AS a\nFROM scratch AS B\nCOPY --from=A x x\nCOPY --from=0 x x\nCOPY --from=named x x\n\
                FROM b AS c\nRUN --mount=from=a,target=/x --mount=type=cache,from=0,target=/y z\n\
                FROM --platform=$BUILDPLATFORM A AS unused\nFROM b AS last";
    let found = stages(text).unwrap();
    let bases: Vec<_> = found.plans.iter().map(|plan| plan.base.clone()).collect();
    assert_eq!(
        bases,
        [
            Base::Image("img".into()),
            Base::Scratch,
            Base::Stage(1),
            Base::Stage(0),
            Base::Stage(1)
        ]
    );
    let sources: Vec<_> = found.plans[1]
        .sources
        .iter()
        .map(|(source, _)| source.clone())
        .collect();
    assert_eq!(
        sources,
        [
            Source::Stage(0),
            Source::Stage(0),
            Source::Named("named".into())
        ]
    );
    let sources: Vec<_> = found.plans[2]
        .sources
        .iter()
        .map(|(source, _)| source.clone())
        .collect();
    // An index is one for COPY alone.
    assert_eq!(sources, [Source::Stage(0), Source::Named("0".into())]);
    assert_eq!(
        found.plans[3].platform,
        Some(Platform::new("linux", "amd64", ""))
    );
    assert_eq!(found.plans[0].used.iter().collect::<Vec<_>>(), ["I"]);
    assert_eq!(found.target(None).unwrap(), 4);
    assert_eq!(found.target(Some("C")).unwrap(), 2);
    assert_eq!(found.reachable(2), [true, true, true, false, false]);
    let error = found.target(Some("unusd")).unwrap_err();
    assert_eq!(error.message, "target stage \"unusd\" could not be found");
    assert_eq!(error.hint.as_deref(), Some("did you mean unused?"));
    // Of stages of one name the last counts, from where it is.
    let found = stages("FROM x AS a\nFROM a AS a\nFROM a").unwrap();
    assert_eq!(
        (&found.plans[1].base, &found.plans[2].base),
        (&Base::Stage(0), &Base::Stage(1))
    );
}

#[test]
fn triggers_need_stages() {
    let text =
        "FROM a AS b\nONBUILD COPY --from=d x y\nONBUILD RNU\nFROM c AS d\nFROM b AS e\nFROM x";
    let mut found = stages(text).unwrap();
    assert_eq!(found.reachable(2), [true, true, true, false]);
    assert_eq!(found.plans[2].sources[0].1.first_line, 5);
    // Those of an image are known later.
    let file = read(text);
    found
        .add_trigger(&file.stages[3], "RUN --mount=from=b,target=/x y")
        .unwrap();
    assert_eq!(found.reachable(3), [true, false, false, true]);
    assert!(
        found
            .add_trigger(&file.stages[3], "COPY --from=9 x y")
            .is_err()
    );
}

#[test]
fn values_that_cannot_be() {
    for (line, message) in [
        ("STOPSIGNAL $x", "invalid signal: "),
        (
            "VOLUME /a $x",
            "VOLUME specified can not be an empty string",
        ),
        ("RUN --mount=target=/$x y", "invalid mount target \"/\""),
        (
            "COPY --chmod=${x:-10000} a b",
            "invalid chmod parameter: '10000'. it should be octal string and between 0 and 07777",
        ),
        ("COPY https://a/b c", "source can't be a URL for COPY"),
        ("COPY git@a:b c", "source can't be a git ref for COPY"),
        (
            "ADD --checksum=sha256:a b c",
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            "ADD --checksum=sha256:a http://b http://c d/",
            "checksum can't be specified for multiple sources",
        ),
    ] {
        let (file, request) = (read(&format!("FROM a\n{line}")), request(&[]));
        let globals = Globals::new(&file, &request).unwrap();
        let mut scope = Scope::on_image(&file, &globals, &request, &[]);
        assert_eq!(
            scope
                .apply(&file.stages[0].instructions[0])
                .unwrap_err()
                .message,
            message,
            "{line}"
        );
    }
}

#[test]
fn stages_that_cannot_be() {
    for (text, message) in [
        ("FROM a\nCOPY --from=1 x y", "2: invalid stage index 1"),
        ("FROM a\nCOPY --from=-1 x y", "2: invalid stage index -1"),
        (
            "FROM a AS b\nCOPY --from=b x y",
            "2: circular dependency detected on stage: b",
        ),
        (
            "FROM a\nCOPY --from=0 x y",
            "2: circular dependency detected on stage: stage-0",
        ),
        (
            "FROM a AS b\nCOPY --from=c x y\nFROM a AS c\nRUN --mount=from=b,target=/x y",
            "4: circular dependency detected on stage: b",
        ),
        ("FROM $x", "1: base name ($x) should not be blank"),
        (
            "FROM --platform=$TARGETPLATFROM a",
            "1: empty platform value from expression $TARGETPLATFROM",
        ),
        (
            "FROM a${x",
            "1: failed to process \"a${x\": syntax error: missing '}'",
        ),
        (
            "FROM a\nARG v\nCOPY --from=x$v y z",
            "3: variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope \
             as a workaround",
        ),
    ] {
        assert_eq!(stages(text).unwrap_err(), message, "{text}");
    }
    let later = stages("FROM a AS b\nCOPY --from=c x y\nFROM a AS c").unwrap();
    let error = later.check_order(&[true, true]).unwrap_err();
    assert_eq!(
        error.message,
        "cannot copy from stage \"c\", it needs to be defined before current stage \"b\""
    );
    assert!(later.check_order(&[false, true]).is_ok());
}
