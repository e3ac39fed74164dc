//! Files, stages, heredocs, and errors that are reported together.

use crate::dockerfile::{Diagnostic, Dockerfile, Kind, Span, dump, parse, parse_onbuild};

fn read(text: &str) -> Dockerfile {
    parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{text}: {errors:#?}"))
}

fn errors(text: &str) -> Vec<Diagnostic> {
    parse(text.as_bytes()).expect_err(text)
}

fn messages(text: &str) -> Vec<(u32, String)> {
    errors(text)
        .into_iter()
        .map(|error| (error.span.first_line, error.message))
        .collect()
}

#[test]
fn stages() {
    let text = "# c\nARG V=1\nfrom a:$V as Build\nRUN x\nFROM --platform=linux/$ARCH build\n";
    let file = read(text);
    assert_eq!(
        file.global_args[0].arg.items[0].default.as_deref(),
        Some("1")
    );
    assert_eq!(file.global_args[0].comments, ["c"]);
    let [first, second] = &file.stages[..] else {
        panic!("{file:?}")
    };
    assert_eq!(
        (first.base.as_str(), first.name.as_deref()),
        ("a:$V", Some("build"))
    );
    assert_eq!(
        (first.keyword.as_str(), first.as_keyword.as_deref()),
        ("from", Some("as"))
    );
    assert_eq!(first.written_name.as_deref(), Some("Build"));
    assert_eq!(first.instructions.len(), 1);
    assert_eq!(second.platform.as_deref(), Some("linux/$ARCH"));
    assert_eq!((second.index, second.name.clone()), (1, None));
    assert_eq!(&text[first.span.bytes()], "from a:$V as Build");
}

#[test]
fn directives() {
    let file = read(
        "# syntax=docker/dockerfile:1 # x\r\n#ESCAPE = `\r\n# check=skip=all\r\nFROM a\r\nRUN b `\r\n c\r\n",
    );
    assert_eq!(
        file.directives.syntax.as_deref(),
        Some("docker/dockerfile:1 # x")
    );
    assert_eq!(file.directives.escape, '`');
    assert_eq!(file.directives.check.as_deref(), Some("skip=all"));
    assert_eq!(file.directives.check_span.first_line, 3);
    assert_eq!(file.stages[0].instructions[0].text, "RUN b  c");
    // A comment, an empty line, or a directive that does not exist ends them.
    for first in ["# hello\n", "\n", "# future=1\n", "FROM x\n"] {
        let file = read(&format!("{first}# escape=`\nFROM a\n"));
        assert_eq!(file.directives.escape, '\\', "{first}");
    }
    let file = read("#!/usr/bin/env build\n# syntax=a\n# check=skip=B\n# escape=`\nFROM a\n");
    assert_eq!(
        (file.directives.syntax.as_deref(), file.directives.escape),
        (Some("a"), '\\')
    );
    assert_eq!(
        messages("# escape=x\nFROM a\n")[0].1,
        "invalid escape token 'x' does not match ` or \\"
    );
    let twice = messages("# escape=`\n# escape=\\\nFROM a\n");
    assert_eq!(
        twice,
        [(2, "only one escape parser directive can be used".to_owned())]
    );
}

#[test]
fn all_errors_at_once() {
    let text = "FROM\nCOPY a\nRUN --netwrk=none x\nFROM a AS 1x\nADD --link=maybe a b\nRNU\nHEALTHCHECK --retries=x CMD y\n\
                LABEL a\nRUN [1]\nFROM a b\nVOLUME [\"\"]\nSHELL sh\nARG =1\nENV =1\nONBUILD FROM x\n";
    let found = messages(text);
    let wanted = [
        (1, "FROM requires either one or three arguments"),
        (
            2,
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        (3, "unknown flag: --netwrk"),
        (
            4,
            "invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
        ),
        (5, "expecting boolean value for flag --link, not: maybe"),
        (6, "unknown instruction: RNU"),
        (7, "invalid --retries \"x\": expected a number"),
        (8, "LABEL must have two arguments"),
        (
            9,
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        (10, "FROM requires either one or three arguments"),
        (11, "VOLUME specified can not be an empty string"),
        (12, "SHELL requires the arguments to be in JSON form"),
        (13, "ARG names can not be blank"),
        (14, "ENV names can not be blank"),
        (15, "FROM isn't allowed as an ONBUILD trigger"),
    ];
    assert_eq!(
        found,
        wanted.map(|(line, message)| (line, message.to_owned()))
    );
    let hint = |line: usize| errors(text)[line - 1].hint.clone();
    assert_eq!(hint(3).as_deref(), Some("did you mean network?"));
    assert_eq!(hint(6).as_deref(), Some("did you mean RUN?"));
    assert_eq!(hint(12).as_deref(), Some("SHELL [\"sh\"]"));
}

#[test]
fn errors_underline_their_place() {
    let text = "FROM a\nRUN --mount=type=cache,target=/x \\\n    --netwrk=none \\\n x\nONBUILD FORM x\nCPOY a b\n";
    let found = errors(text);
    assert_eq!(&text[found[0].span.bytes()], "--netwrk=none");
    assert_eq!(found[0].span.first_line, 3);
    assert_eq!(&text[found[1].span.bytes()], "CPOY");
    // A trigger is judged when it is triggered.
    assert_eq!(found.len(), 2);
}

#[test]
fn nothing_to_build() {
    for (text, line, message) in [
        ("", 1, "file with no instructions"),
        ("# only\n\n# comments\n", 3, "file with no instructions"),
        ("ARG a\n", 1, "dockerfile contains no stages to build"),
        (
            "ARG a\nRUN b\nRUN c\n",
            2,
            "no build stage in current context",
        ),
        ("\\\n", 1, "unknown instruction: "),
    ] {
        assert_eq!(messages(text), [(line, message.to_owned())], "{text:?}");
    }
}

#[test]
fn heredocs() {
    let text = "FROM a\nRUN <<A cat <<-'B' - > x\n$v\nA\n\t\tb\n\tB\nCOPY <<f.txt <<\"g\" h /d/\n\t1 $v\r\nf.txt\n2 $v\ng\nUSER u\n";
    let file = read(text);
    let [run, copy, user] = &file.stages[0].instructions[..] else {
        panic!("{file:?}")
    };
    let Kind::Run(kind) = &run.kind else {
        panic!("{run:?}")
    };
    assert_eq!(run.text, "RUN <<A cat <<-'B' - > x");
    let [a, b] = &kind.heredocs[..] else {
        panic!("{kind:?}")
    };
    assert_eq!(
        (a.name.as_str(), a.raw.as_str(), a.expand, a.chomp),
        ("A", "$v\n", true, false)
    );
    assert_eq!(
        (b.raw.as_str(), &*b.content(), b.expand, b.chomp),
        ("\t\tb\n", "b\n", false, true)
    );
    assert_eq!((run.span.first_line, run.span.last_line), (2, 6));
    let Kind::Copy(kind) = &copy.kind else {
        panic!("{copy:?}")
    };
    assert_eq!(
        (kind.sources.paths.as_slice(), kind.sources.dest.as_str()),
        (&["h".to_owned()][..], "/d/")
    );
    let documents = &kind.sources.documents;
    assert_eq!(
        (
            documents[0].name.as_str(),
            &*documents[0].content(),
            documents[0].expand
        ),
        ("f.txt", "\t1 $v\r\n", true)
    );
    assert_eq!(
        (&*documents[1].content(), documents[1].expand),
        ("2 $v\n", false)
    );
    assert!(matches!(&user.kind, Kind::User { user } if user == "u"));
}

#[test]
fn what_looks_like_a_heredoc() {
    // In JSON, in quotes, and for instructions without heredocs it is text.
    let file = read(
        "FROM a\nRUN [\"<<A\"]\nRUN echo \"<<A\"\nUSER <<A\nRUN cat <<<A\nRUN x 2<<1\n1\nCMD <<A\n",
    );
    assert_eq!(file.stages[0].instructions.len(), 6);
    // An instruction that is wrong keeps its documents from being taken for instructions.
    let found = messages("FROM a\nCOPY --frm=x <<A /b\nNONSENSE\nA\nRUN [1] <<B\nB\n");
    assert_eq!(found[0], (2, "unknown flag: --frm".to_owned()));
    assert!(!found.iter().any(|(line, _)| *line == 3), "{found:?}");
    let found = messages("FROM a\nRUN <<A\nRUN x\n");
    assert_eq!(found, [(2, "unterminated heredoc".to_owned())]);
    assert_eq!(
        messages("FROM a\nCOPY x <<A\nA\n")[0].1,
        "COPY cannot accept a heredoc as a destination"
    );
}

#[test]
fn triggers() {
    let text = "FROM a\nONBUILD   RUN --network=none <<A cat\n\tx\nA\nonbuild copy --from=b c d\nONBUILD LABEL a=b\n";
    let file = read(text);
    let expressions: Vec<&str> = file.stages[0]
        .instructions
        .iter()
        .map(|one| match &one.kind {
            Kind::Onbuild(onbuild) => onbuild.expression.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        expressions,
        [
            "RUN --network=none <<A cat\n\tx\nA",
            "copy --from=b c d",
            "LABEL a=b"
        ]
    );
    let from = Span::new(1, 2, 7, 7);
    let run = parse_onbuild(expressions[0], from).unwrap();
    assert_eq!(
        (run.span, run.text.as_str()),
        (from, "RUN --network=none <<A cat")
    );
    assert!(matches!(run.kind, Kind::Run(run) if run.heredocs[0].raw == "\tx\n"));
    for (trigger, message) in [
        ("FROM a", "FROM is not a command type"),
        (
            "RUN a\nRUN b",
            "onbuild trigger should be a single expression",
        ),
        ("", "file with no instructions"),
        ("RNU a", "unknown instruction: RNU"),
        ("COPY --from a b", "missing a value on flag: --from"),
        ("RUN <<A", "unterminated heredoc"),
    ] {
        let error = parse_onbuild(trigger, from).unwrap_err();
        assert!(
            error.message.ends_with(message) && error.span == from,
            "{trigger}: {error:?}"
        );
    }
}

#[test]
fn empty_continuation_lines() {
    let file = read("FROM a\nRUN b \\\n\n  c \\\n\n d\nRUN e \\\n # f\n g\n");
    let lines: Vec<u32> = file
        .empty_continuations
        .iter()
        .map(|span| span.first_line)
        .collect();
    assert_eq!(lines, [6]);
}

#[test]
fn the_tree_is_dumped() {
    let text = "from a as b\nRUN --mount=type=ssh  x  y\nENV a=b\n\nONBUILD CMD [\"x\"]\n";
    assert_eq!(
        dump(text.as_bytes()).unwrap(),
        "(from \"a\" \"as\" \"b\")\n(run [\"--mount=type=ssh\"] \"x  y\")\n(env \"a\" \"b\" \"=\")\n(onbuild (cmd \"x\"))\n"
    );
    assert!(dump(b"# nothing\n").is_err());
}

#[test]
fn the_tree_is_json() {
    let file =
        read("FROM a AS b\nRUN --mount=type=cache,target=/$x --network=none [\"a\"]\nEXPOSE 80\n");
    let json = serde_json::to_value(&file).unwrap();
    let run = &json["stages"][0]["instructions"][0];
    assert_eq!(run["kind"]["instruction"], "run");
    assert_eq!(run["kind"]["command"]["exec"][0], "a");
    assert_eq!(run["kind"]["network"], "none");
    assert_eq!(run["kind"]["mounts"][0]["fields"][1]["value"], "/$x");
    assert_eq!(run["span"]["first_line"], 2);
    assert_eq!(
        json["stages"][0]["instructions"][1]["kind"]["ports"][0],
        "80"
    );
}
