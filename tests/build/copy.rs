//! `COPY` and `ADD`: what comes where, with which owner and mode.

use crate::harness::builds::{Builds, Case};
use crate::harness::{Env, Test, test};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(paths),
        test!(wildcards),
        test!(links),
        test!(owners),
        test!(modes),
        test!(parents),
        test!(excluded_files),
    ]
}

pub(super) const CASE: Case<'_> = Case::NONE;

fn paths(env: &Env) {
    Builds::new(env).table(&[
        Case {
            name: "a file to a name, to a directory with a slash, to a relative place, above the directory",
            dockerfile: "FROM scratch\nCOPY f /g\nCOPY f /d/\nWORKDIR /w/v\nCOPY f ./\nCOPY f sub/name\nCOPY f ..\nADD f ./a/b\n",
            context: &[("f", "1")],
            expected: &[
                ("g", "f 644 0:0 1"),
                ("d/f", "f 644 0:0 1"),
                ("w/v/f", "f 644 0:0 1"),
                ("w/v/sub/name", "f 644 0:0 1"),
                ("w/f", "f 644 0:0 1"),
                ("w/v/a/b", "f 644 0:0 1"),
                ("d", "d 755 0:0"),
            ],
            ..CASE
        },
        Case {
            name: "an empty destination is the working directory, also with --link",
            dockerfile: "FROM scratch\nENV none=\"\"\nWORKDIR /w\nCOPY f $none\nCOPY --link g $none\nCOPY --link h .\n",
            context: &[("f", "1"), ("g", "2"), ("h", "3")],
            expected: &[
                ("w/f", "f 644 0:0 1"),
                ("w/g", "f 644 0:0 2"),
                ("w/h", "f 644 0:0 3"),
            ],
            ..CASE
        },
        Case {
            name: "of directories the contents",
            dockerfile: "FROM scratch\nCOPY d /a\nCOPY d/ /b\nCOPY d/. /c/\nCOPY d d/s /e/\n",
            context: &[("d/f", "1"), ("d/s/g", "2")],
            expected: &[
                ("a/f", "f 644 0:0 1"),
                ("a/s/g", "f 644 0:0 2"),
                ("b/s/g", "f 644 0:0 2"),
                ("c/f", "f 644 0:0 1"),
                ("e/s/g", "f 644 0:0 2"),
                ("e/g", "f 644 0:0 2"),
            ],
            ..CASE
        },
        Case {
            name: "variables in sources and destinations",
            dockerfile: "FROM scratch\nENV FROM f\nARG TO=x\nCOPY $FROM ${TO}/y\n",
            context: &[("f", "1")],
            expected: &[("x/y", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "over what is there, twice",
            dockerfile: "FROM scratch\nCOPY sub sub\nCOPY sub sub\nCOPY a/f to/f\nCOPY a/f to/f\nCOPY a to\nCOPY other to/f\n",
            context: &[("sub/x/y/f", "1"), ("a/f", "2"), ("other", "3")],
            expected: &[("sub/x/y/f", "f 644 0:0 1"), ("to/f", "f 644 0:0 3")],
            ..CASE
        },
        Case {
            name: "names that are no ASCII, escaped or with a plus",
            dockerfile: "FROM scratch\nCOPY t-äöü.txt /\nCOPY t-%C3%A4.txt /\nCOPY t+a.txt /\nCOPY [\"with space\", \"/with also/\"]\n",
            context: &[
                ("t-äöü.txt", "1"),
                ("t-%C3%A4.txt", "2"),
                ("t+a.txt", "3"),
                ("with space", "4"),
            ],
            expected: &[
                ("t-äöü.txt", "f 644 0:0 1"),
                ("t-%C3%A4.txt", "f 644 0:0 2"),
                ("t+a.txt", "f 644 0:0 3"),
                ("with also/with space", "f 644 0:0 4"),
            ],
            ..CASE
        },
        Case {
            name: "from a stage relative paths begin at its root, and a number is a stage",
            dockerfile: "FROM scratch AS one\nWORKDIR /w\nCOPY f /top\nFROM scratch\nCOPY --from=one top .\nCOPY --from=0 /top second\n",
            context: &[("f", "1")],
            expected: &[("top", "f 644 0:0 1"), ("second", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "from an image",
            dockerfile: "FROM scratch\nCOPY --from=base /etc/group /g\n",
            expected: &[(
                "g",
                "f 644 0:0 root:x:0:\nuser:x:1000:\nextra:x:2000:user\nnogroup:x:65534:",
            )],
            ..CASE
        },
        Case {
            name: "heredocs are files",
            dockerfile: "FROM scratch\nARG who=you\nWORKDIR /d\nCOPY <<E one\nfor $who\nE\nCOPY <<'E' <<F two/\nfor $who\nE\nand '${who}'\nF\nADD --chmod=700 --chown=3:4 <<-E /three\n\t\ttabs\n\tE\nCOPY <<E four\n\\$ \"q\"\nE\nCOPY <<E s1\n\\\nE\nCOPY <<E s2\n\\\\\nE\nCOPY <<\"E\" r1\n\\\nE\nCOPY <<\"E\" r2\n\\\\ \\$ '${who}'\nE\n",
            expected: &[
                ("d/one", "f 644 0:0 for you"),
                ("d/two/E", "f 644 0:0 for $who"),
                ("d/two/F", "f 644 0:0 and 'you'"),
                ("three", "f 700 3:4 tabs"),
                ("d/four", "f 644 0:0 $ \"q\""),
                ("d/s1", "f 644 0:0 "),
                ("d/s2", "f 644 0:0 \\"),
                ("d/r1", "f 644 0:0 \\"),
                ("d/r2", "f 644 0:0 \\\\ \\$ '${who}'"),
            ],
            ..CASE
        },
    ]);
}

fn wildcards(env: &Env) {
    let files = [
        ("a.go", "a"),
        ("b.go", "b"),
        ("c.txt", "c"),
        ("sub/d1/d2/f", "f"),
        ("sub/d3/d2/f", "g"),
        ("sub/top", "t"),
        ("we[ird", "w"),
    ];
    Builds::new(env).table(&[
        Case {
            name: "stars, question marks, ranges, negation",
            dockerfile: "FROM scratch\nCOPY *.go /go/\nCOPY ?.txt /q/\nCOPY [a-b].go /r/\nCOPY [^a].go /n/\nCOPY sub/*/d2/f /deep/\nCOPY a* renamed\n",
            context: &files,
            expected: &[
                ("go/a.go", "f 644 0:0 a"),
                ("go/b.go", "f 644 0:0 b"),
                ("go/c.txt", "-"),
                ("q/c.txt", "f 644 0:0 c"),
                ("r/b.go", "f 644 0:0 b"),
                ("n/b.go", "f 644 0:0 b"),
                ("n/a.go", "-"),
                ("deep/f", "f 644 0:0 g"),
                ("renamed", "f 644 0:0 a"),
            ],
            ..CASE
        },
        Case {
            name: "of directories that match the contents",
            dockerfile: "FROM scratch\nCOPY sub/* /all/\nCOPY sub/d* /some/\n",
            context: &files,
            expected: &[
                ("all/top", "f 644 0:0 t"),
                ("all/d2/f", "f 644 0:0 g"),
                ("some/d2/f", "f 644 0:0 g"),
                ("some/top", "-"),
            ],
            ..CASE
        },
        Case {
            name: "a pattern without a match beside something is nothing",
            dockerfile: "FROM scratch\nCOPY a.go nothing* /x/\n",
            context: &files,
            expected: &[("x/a.go", "f 644 0:0 a")],
            ..CASE
        },
        Case {
            name: "a bracket is escaped as Go does",
            dockerfile: "FROM scratch\nCOPY we[[]ird /x\n",
            context: &files,
            expected: &[("x", "f 644 0:0 w")],
            ..CASE
        },
        Case {
            name: "a name without a wildcard has to be there",
            dockerfile: "FROM scratch\nCOPY a.go nothing /x/\n",
            context: &files,
            fails: "nothing",
            ..CASE
        },
    ]);
}

fn links(env: &Env) {
    Builds::new(env).table(&[
        Case {
            name: "links that are named are followed, those below are copied",
            dockerfile: "FROM scratch\nCOPY l /\nCOPY dir/l* /named/\nCOPY dir /whole\nCOPY way/g /through\n",
            context: &[
                ("f", "1"),
                ("l -> f", ""),
                ("dir/g", "2"),
                ("dir/l0 -> g", ""),
                ("dir/l1 -> l0", ""),
                ("way -> dir", ""),
            ],
            expected: &[
                ("l", "f 644 0:0 1"),
                ("named/l0", "f 644 0:0 2"),
                ("named/l1", "f 644 0:0 2"),
                ("whole/l0", "l g"),
                ("whole/l1", "l l0"),
                ("through", "f 644 0:0 2"),
            ],
            ..CASE
        },
        Case {
            name: "links of stages are followed within them",
            dockerfile: "FROM base AS one\nRUN mkdir -p /out/sub && ln -s /out/sub /abs && ln -s out/sub /rel && echo 1 > /abs/f\nFROM scratch\nCOPY --from=one /abs/f .\nCOPY --from=one /rel/f g\n",
            expected: &[("f", "f 644 0:0 1"), ("g", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "links that leave the context end in it",
            dockerfile: "FROM scratch\nCOPY d/up /x\n",
            context: &[("d/up -> ../../../../f", ""), ("f", "1")],
            expected: &[("x", "f 644 0:0 1")],
            ..CASE
        },
        Case {
            name: "destinations through links of the image, absolute and leaving",
            dockerfile: "FROM base\nRUN mkdir /real && ln -s /real /abs && ln -s ../../real /up\nCOPY f /abs/a\nCOPY f /up/b\nCOPY f /abs/\n",
            context: &[("f", "1")],
            expected: &[
                ("real/a", "f 644 0:0 1"),
                ("real/b", "f 644 0:0 1"),
                ("real/f", "f 644 0:0 1"),
                ("abs", "l /real"),
            ],
            ..CASE
        },
        Case {
            name: "a file that was a directory in another context",
            dockerfile: "FROM scratch\nCOPY foo /\n",
            context: &[("foo", "now a file")],
            expected: &[("foo", "f 644 0:0 now a file")],
            ..CASE
        },
    ]);
}

fn owners(env: &Env) {
    Builds::new(env).table(&[
        Case {
            name: "--chown: names, numbers, both, variables; made directories too",
            flags: &["--build-arg=group=extra"],
            dockerfile: "FROM base\nARG group\nENV owner=user\nCOPY --chown=user f /a/f\nCOPY --chown=5 f /b\nCOPY --chown=5:6 d /c\nCOPY --chown=user:7 f /d\nCOPY --chown=${owner}:$group f /e\nCOPY --chown=nobody:nogroup f /g/h/i\n",
            context: &[("f", "1"), ("d/s/f", "2")],
            expected: &[
                ("a/f", "f 644 1000:1000 1"),
                ("a", "d 755 1000:1000"),
                ("b", "f 644 5:5 1"),
                ("c/s/f", "f 644 5:6 2"),
                ("c/s", "d 755 5:6"),
                ("d", "f 644 1000:7 1"),
                ("e", "f 644 1000:2000 1"),
                ("g/h", "d 755 65534:65534"),
            ],
            ..CASE
        },
        Case {
            name: "owners of a stage are kept, those of directories that are there too",
            dockerfile: "FROM base AS one\nRUN mkdir -p /d/s && echo 1 > /d/s/f && chown 1:2 /d && chown 3:4 /d/s && chown 5:6 /d/s/f\nFROM base\nRUN mkdir /there && chown 7:8 /there\nCOPY --from=one /d /new\nCOPY --from=one /d/. /there\nCOPY --from=one --chown=9:9 /d /owned\n",
            expected: &[
                ("new", "d 755 0:0"),
                ("new/s", "d 755 3:4"),
                ("new/s/f", "f 644 5:6 1"),
                ("there", "d 755 7:8"),
                ("there/s/f", "f 644 5:6 1"),
                ("owned", "d 755 9:9"),
                ("owned/s/f", "f 644 9:9 1"),
            ],
            ..CASE
        },
        Case {
            name: "what RUN made of the accounts counts",
            dockerfile: "FROM base\nRUN echo 'new:x:77:78::/:/bin/sh' >> /etc/passwd && echo 'ng:x:79:' >> /etc/group\nCOPY --chown=new:ng . /d\nCOPY --chown=new f /e\n",
            context: &[("f", "1")],
            expected: &[("d/f", "f 644 77:79 1"), ("e", "f 644 77:78 1")],
            ..CASE
        },
        Case {
            name: "without accounts only numbers",
            dockerfile: "FROM scratch\nCOPY --chown=12:34 f /\n",
            context: &[("f", "1")],
            expected: &[("f", "f 644 12:34 1")],
            ..CASE
        },
        Case {
            name: "a user that is not there",
            dockerfile: "FROM base\nCOPY --chown=whoever f /\n",
            context: &[("f", "1")],
            fails: "whoever",
            ..CASE
        },
        Case {
            name: "a number that is no user",
            dockerfile: "FROM base\nCOPY --chown=4294967296 f /\n",
            context: &[("f", "1")],
            fails: "4294967296",
            ..CASE
        },
    ]);
}

fn modes(env: &Env) {
    Builds::new(env).table(&[
        Case {
            name: "octal, variables, and for made directories",
            flags: &["--build-arg=mode=755"],
            dockerfile: "FROM scratch\nARG mode\nCOPY --chmod=0644 f /a\nCOPY --chmod=777 f /b\nCOPY --chmod=0 f /c\nCOPY --chmod=770 f /p/s/f\nCOPY --chmod=$mode f /d\nADD --chmod=04711 f /e\n",
            context: &[("f", "1")],
            expected: &[
                ("a", "f 644 0:0 1"),
                ("b", "f 777 0:0 1"),
                ("c", "f 0 0:0 1"),
                ("p/s", "d 770 0:0"),
                ("d", "f 755 0:0 1"),
                ("e", "f 4711 0:0 1"),
            ],
            ..CASE
        },
        Case {
            name: "symbolic",
            dockerfile: "FROM base AS one\nRUN mkdir -p /in/d && touch /in/f && chmod 666 /in/f && chmod 124 /in/d\nFROM scratch\nCOPY --from=one --chmod=go-w /in/f /f1\nCOPY --from=one --chmod=u=rw,g=r,o=r /in/f /f2\nCOPY --from=one --chmod=a+X /in/f /f3\nCOPY --from=one --chmod=go-w /in /d1\nCOPY --from=one --chmod=u+rw,g+r,o-x,o+w /in /d2\nCOPY --from=one --chmod=a+X /in /d3\n",
            expected: &[
                ("f1", "f 644 0:0"),
                ("f2", "f 644 0:0"),
                ("f3", "f 666 0:0"),
                ("d1/d", "d 104 0:0"),
                ("d2/d", "d 766 0:0"),
                ("d3/d", "d 135 0:0"),
            ],
            ..CASE
        },
        Case {
            name: "no mode",
            dockerfile: "FROM scratch\nCOPY --chmod=64a f /\n",
            context: &[("f", "1")],
            fails: "64a",
            ..CASE
        },
        Case {
            name: "more than a mode has",
            dockerfile: "FROM scratch\nADD --chmod=10000 f /\n",
            context: &[("f", "1")],
            fails: "10000",
            ..CASE
        },
    ]);
}

fn parents(env: &Env) {
    let files = [
        ("a/b/c/f", "1"),
        ("a/b/c/g", "2"),
        ("a/b2/c/g", "3"),
        ("a/b/x/y/g", "4"),
    ];
    let stage = "FROM scratch AS one\nCOPY . /t/\nFROM scratch\n";
    let of = |copies: &str| format!("{stage}{copies}");
    let pivots = of(
        "COPY --from=one --parents /t/a/b/./c /mid/\nCOPY --from=one --parents /t/a/b/c/. /end/\nCOPY --from=one --parents ./t/a/b/c /start/\nCOPY --from=one --parents /t/a/./b/./c /double/\nCOPY --from=one --parents /t/a/./*/c /wild/\nCOPY --from=one --parents /t/a/b*/./**/g /deep/\n",
    );
    let nothing = of("COPY --from=one --parents /t/none /x/\n");
    let no_match = of("COPY --from=one --parents /t/a/n*/c /x/\nCOPY --from=one /t/a/b/c/f /y\n");
    Builds::new(env).table(&[
        Case {
            name: "directories in front of files are kept",
            dockerfile: "FROM scratch\nCOPY --parents a/b/c/f /\nWORKDIR /w\nCOPY --parents a/b/c/* .\n",
            context: &files,
            expected: &[
                ("a/b/c/f", "f 644 0:0 1"),
                ("a/b/c/g", "-"),
                ("w/a/b/c/f", "f 644 0:0 1"),
                ("w/a/b/c/g", "f 644 0:0 2"),
            ],
            ..CASE
        },
        Case {
            name: "only those behind the point",
            dockerfile: &pivots,
            context: &files,
            expected: &[
                ("mid/c/f", "f 644 0:0 1"),
                ("mid/a", "-"),
                ("end/t/a/b/c/f", "f 644 0:0 1"),
                ("start/t/a/b/c/f", "f 644 0:0 1"),
                ("double/b/c/f", "f 644 0:0 1"),
                ("wild/b/c/f", "f 644 0:0 1"),
                ("wild/b2/c/g", "f 644 0:0 3"),
                ("deep/c/g", "f 644 0:0 3"),
                ("deep/x/y/g", "f 644 0:0 4"),
                ("deep/c/f", "-"),
            ],
            ..CASE
        },
        Case {
            name: "a name has to be there",
            dockerfile: &nothing,
            context: &files,
            fails: "/t/none",
            ..CASE
        },
        Case {
            name: "a pattern need not match",
            dockerfile: &no_match,
            context: &files,
            expected: &[("x/a", "-"), ("y", "f 644 0:0 1")],
            ..CASE
        },
    ]);
}

fn excluded_files(env: &Env) {
    let files = [
        ("one/a.png", "1"),
        ("one/b.txt", "2"),
        ("two/c.pdf", "3"),
        ("two/d.png", "4"),
        ("two/l.txt -> d.png", ""),
    ];
    Builds::new(env).table(&[
        Case {
            name: "patterns are of the source, several add up",
            dockerfile: "FROM scratch\nCOPY --exclude=*/*.png --exclude=*/*.pdf . /1\nADD --exclude=*.png one/ /2/\nCOPY --exclude=*.png --exclude=*.txt one two /3/\nCOPY --exclude=* one /4/\nCOPY --exclude=* --exclude=!*/*.txt . /5/\nCOPY --exclude=*.png --exclude=*.pdf *[eo] /6/\nADD --exclude=* *[eo] /7/\n",
            context: &files,
            expected: &[
                ("1/one/b.txt", "f 644 0:0 2"),
                ("1/one/a.png", "-"),
                ("1/two/c.pdf", "-"),
                ("1/two/l.txt", "l d.png"),
                ("2/b.txt", "f 644 0:0 2"),
                ("2/a.png", "-"),
                ("3/c.pdf", "f 644 0:0 3"),
                ("3/b.txt", "-"),
                ("3/l.txt", "-"),
                ("4/a.png", "-"),
                ("5/one/b.txt", "f 644 0:0 2"),
                ("6/b.txt", "f 644 0:0 2"),
                ("6/l.txt", "l d.png"),
                ("6/a.png", "-"),
                ("6/c.pdf", "-"),
                ("7/b.txt", "-"),
            ],
            ..CASE
        },
        Case {
            name: "from a stage",
            dockerfile: "FROM scratch AS one\nCOPY . /\nFROM scratch\nCOPY --from=one --exclude=**/*.png / /x\n",
            context: &files,
            expected: &[
                ("x/one/b.txt", "f 644 0:0 2"),
                ("x/one/a.png", "-"),
                ("x/two/d.png", "-"),
            ],
            ..CASE
        },
    ]);
}
