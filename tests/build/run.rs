//! `RUN`: its shell, its mounts, secrets, its network, rights and limits.

use crate::harness::builds::{Builds, Case};
use crate::harness::{Env, Test, test};
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(shells_and_heredocs),
        test!(users),
        test!(mounts_of_files),
        test!(cache_directories),
        test!(mounts_are_refused),
        test!(secrets),
        test!(networks),
        test!(rights),
        test!(limits),
        test!(failures),
    ]
}

const CASE: Case<'_> = Case::NONE;

fn shells_and_heredocs(env: &Env) {
    Builds::new(env).table(&[
        Case {
            name: "shell form, JSON form, an entrypoint that is not used, a working directory",
            dockerfile: "FROM base\nENTRYPOINT [\"/nothing\"]\nWORKDIR /w\nENV A=1\nRUN echo $A > shell\nRUN [\"/bin/sh\", \"-c\", \"echo $A$0 > json\", \"x\"]\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN false || echo $PWD > else\n",
            expected: &[
                ("w/shell", "f 644 0:0 1"),
                ("w/json", "f 644 0:0 1x"),
                ("w/else", "f 644 0:0 /w"),
            ],
            ..CASE
        },
        Case {
            name: "scripts: of the shell, of SHELL, of #!, with tabs",
            dockerfile: "FROM base\nARG n=arg\nRUN <<E\necho \"i $n\" > /a\necho more >> /a\nE\nSHELL [\"/bin/awk\"]\nRUN <<E\nBEGIN { print \"awk\" > \"/b\" }\nE\nSHELL [\"/bin/sh\", \"-c\"]\nRUN <<E\n#!/bin/awk -f\nBEGIN { print \"interpreter\" > \"/c\" }\nE\nRUN <<-E\n\techo '\n\t\ttab' > /d\n\tE\nRUN <<E\nn=own\necho $n > /e\nE\n",
            expected: &[
                ("a", "f 644 0:0 i arg\nmore"),
                ("b", "f 644 0:0 awk"),
                ("c", "f 644 0:0 interpreter"),
                ("d", "f 644 0:0 \ntab"),
                ("e", "f 644 0:0 own"),
                ("dev/pipes", "-"),
            ],
            ..CASE
        },
        Case {
            name: "documents for programs",
            dockerfile: "FROM base\nRUN cat <<E1 | tr a-z A-Z > /a; \\\n cat <<E2 | tr A-Z a-z > /b\nhello\nE1\nWORLD\nE2\nRUN <<E 3<<F sh\ncat /proc/self/fd/3 > /c\nE\nfrom three\nF\nRUN cat > /d <<'E'\n$HOME\nE\n",
            expected: &[
                ("a", "f 644 0:0 HELLO"),
                ("b", "f 644 0:0 world"),
                ("c", "f 644 0:0 from three"),
                ("d", "f 644 0:0 $HOME"),
            ],
            ..CASE
        },
        Case {
            name: "what is mounted for a step leaves nothing",
            dockerfile: "FROM scratch\nCOPY --from=base /bin /bin\nRUN true\nRUN --mount=type=tmpfs,target=/a/b --mount=type=cache,target=/c true\n",
            expected: &[
                ("proc", "-"),
                ("sys", "-"),
                ("dev", "-"),
                ("etc", "-"),
                ("a", "-"),
                ("c", "-"),
            ],
            ..CASE
        },
        Case {
            name: "files that containers get are those of the image again",
            dockerfile: "FROM base\nRUN echo mine > /etc/hosts && echo also > /etc/resolv.conf\n",
            expected: &[("etc/hosts", "-"), ("etc/resolv.conf", "-")],
            ..CASE
        },
        Case {
            name: "standard input is empty, the host name is the builder's",
            dockerfile: "FROM base\nRUN cat > /in; hostname > /name\n",
            expected: &[("in", "f 644 0:0"), ("name", "f 644 0:0 buildkitsandbox")],
            ..CASE
        },
    ]);
}

pub(super) fn users(env: &Env) {
    let ids = |user: &str| {
        format!("USER {user}\nRUN id -u >> /out/f; id -g >> /out/f; id -G >> /out/f\n")
    };
    let all = [
        "root",
        "user",
        "1000",
        "user:extra",
        "1000:2000",
        "1042:1043",
        "1234",
        "user:0",
    ];
    let mut dockerfile =
        "FROM base\nRUN mkdir -m 777 /out && touch /out/f && chmod 666 /out/f\n".to_owned();
    for user in all {
        dockerfile += &ids(user);
    }
    dockerfile += "USER user\nRUN echo $HOME > /out/home\nWORKDIR /made/here\n";
    let expected = "f 666 0:0 0\n0\n0\n1000\n1000\n1000 2000\n1000\n1000\n1000 2000\n1000\n2000\n2000\n1000\n2000\n2000\n1042\n1043\n1043\n1234\n0\n0\n1000\n0\n0";
    Builds::new(env).table(&[
        Case {
            name: "users and groups, by name and number, with further groups",
            dockerfile: &dockerfile,
            expected: &[
                ("out/f", expected),
                ("out/home", "f 644 1000:1000 /home/user"),
                ("made/here", "d 755 1000:1000"),
            ],
            ..CASE
        },
        Case {
            name: "a user that is not there",
            dockerfile: "FROM base\nUSER whoever\nRUN true\n",
            fails: "whoever",
            ..CASE
        },
        Case {
            name: "a directory that is there keeps its owner",
            dockerfile: "FROM base\nRUN mkdir /d && chown 5:6 /d\nUSER user\nWORKDIR /d\n",
            expected: &[("d", "d 755 5:6")],
            ..CASE
        },
    ]);
}

pub(super) fn mounts_of_files(env: &Env) {
    let builds = Builds::new(env);
    builds.table(&[
        Case {
            name: "of the context, whole and in part, one in the other, read-only",
            dockerfile: "FROM base\nRUN --mount=target=/c cat /c/f > /a\nRUN --mount=source=d,target=/x --mount=source=f,target=/x/over cat /x/g /x/over > /b\nRUN --mount=target=/c ! touch /c/new 2> /dev/null\nWORKDIR /w\nRUN --mount=target=.,rw touch new && cat f > /e\n",
            context: &[("f", "1\n"), ("d/g", "2\n"), ("d/over", "")],
            expected: &[
                ("a", "f 644 0:0 1"),
                ("b", "f 644 0:0 2\n1"),
                ("e", "f 644 0:0 1"),
                ("c", "-"),
                ("x", "-"),
                ("w/new", "-"),
            ],
            ..CASE
        },
        Case {
            name: "of stages and images; what is written into them is lost",
            dockerfile: "FROM base AS one\nRUN mkdir /out && echo 1 > /out/f\nFROM base\nRUN --mount=from=one,src=/out,dst=/o,rw echo changed > /o/f && touch /o/g\nRUN --mount=from=one,source=out,target=/o cat /o/f > /a && ls /o >> /a\nRUN --mount=type=bind,from=base,source=/etc/group,target=/g,readonly head -n 1 /g > /b\n",
            expected: &[("a", "f 644 0:0 1\nf"), ("b", "f 644 0:0 root:x:0:")],
            ..CASE
        },
        Case {
            name: "file systems in memory, with a size",
            dockerfile: "FROM base\nRUN --mount=type=tmpfs,target=/t touch /t/f\nRUN test ! -e /t/f\nRUN --mount=type=tmpfs,target=/dev/shm,size=128m mount | grep /dev/shm > /a\nRUN grep -o size=131072k /a > /b\n",
            expected: &[("b", "f 644 0:0 size=131072k")],
            ..CASE
        },
        Case {
            name: "variables in mounts",
            dockerfile: "FROM base\nARG type=tmpfs where=/t\nENV then=/u\nRUN --mount=type=$type,target=$where touch /t/f\nRUN --mount=type=tmpfs,target=${then} touch /u/f\n",
            expected: &[("t", "-"), ("u", "-")],
            ..CASE
        },
        Case {
            name: "links as sources",
            dockerfile: "FROM base AS one\nRUN mkdir -p /out/d && echo 1 > /out/d/f && ln -s /out/d /abs && ln -s d /out/rel\nFROM base\nRUN --mount=from=one,source=/abs,target=/x cat /x/f > /a\nRUN --mount=from=one,source=/out/rel,target=/x cat /x/f >> /a\nRUN --mount=source=l,target=/x cat /x/f >> /a\nRUN --mount=source=l/f,target=/x cat /x >> /a\nRUN --mount=source=lf,target=/x cat /x >> /a\n",
            context: &[("d/f", "2\n"), ("l -> d", ""), ("lf -> d/f", "")],
            expected: &[("a", "f 644 0:0 1\n1\n2\n2\n2")],
            ..CASE
        },
        Case {
            name: "a source that is not there",
            dockerfile: "FROM base\nRUN --mount=source=none,target=/x true\n",
            fails: "none",
            ..CASE
        },
    ]);
    let context = builds.context(&[
        ("f", "1"),
        (
            "Dockerfile",
            "FROM base\nRUN --mount=target=/c,rw rm /c/f; touch /c/new\n",
        ),
    ]);
    builds.build(&[], &context).ok();
    assert!(context.join("f").exists() && !context.join("new").exists());
}

pub(super) fn cache_directories(env: &Env) {
    Builds::new(env).table(&[
        Case {
            name: "by target or id, kept between steps, with owner and mode, with first contents",
            dockerfile: "FROM base AS one\nRUN mkdir /first && echo 1 > /first/f\nFROM base\nENV ID=mine\nARG TO=/e\nRUN --mount=type=cache,target=/a touch /a/f\nRUN --mount=type=cache,target=/b test ! -e /b/f\nRUN --mount=type=cache,target=/a test -e /a/f\nRUN --mount=type=cache,id=mine,target=/c touch /c/f\nRUN --mount=type=cache,id=$ID,target=/d --mount=type=cache,id=mine,target=$TO test -e /d/f && test -e /e/f\nRUN --mount=type=cache,target=/o,uid=1001,gid=1002,mode=0751 stat -c '%u %g %a' /o > /result\nRUN --mount=type=cache,from=one,source=/first,target=/p cat /p/f >> /result\nRUN --mount=type=cache,target=/a,readonly ! touch /a/g 2> /dev/null\n",
            expected: &[("result", "f 644 0:0 1001 1002 751\n1"), ("a", "-")],
            ..CASE
        },
        Case {
            name: "from another build of the same store",
            dockerfile: "FROM base\nRUN --mount=type=cache,target=/a ls /a > /result\n",
            expected: &[("result", "f 644 0:0 f")],
            ..CASE
        },
        Case {
            name: "others by the namespace",
            flags: &["--build-arg=BUILDKIT_CACHE_MOUNT_NS=other"],
            dockerfile: "FROM base\nRUN --mount=type=cache,target=/a ls -a /a | wc -l > /result\n",
            expected: &[("result", "f 644 0:0 2")],
            ..CASE
        },
        Case {
            name: "one below the other, in two stages at once, shared and locked",
            dockerfile: "FROM base AS one\nRUN --mount=type=cache,target=/x/y --mount=type=cache,target=/x/y/z,sharing=locked touch /x/y/z/1\nFROM base AS two\nRUN --mount=type=cache,target=/x/y --mount=type=cache,target=/x/y/z,sharing=locked touch /x/y/z/2\nFROM scratch\nCOPY --from=one /etc/group /1\nCOPY --from=two /etc/group /2\n",
            ..CASE
        },
    ]);
}

fn mounts_are_refused(env: &Env) {
    let of = |name: &'static str, dockerfile: &'static str, fails: &'static str| Case {
        name,
        dockerfile,
        fails,
        ..CASE
    };
    Builds::new(env).table(&[
        of(
            "a flag",
            "FROM base\nRUN --mont=target=/x true\n",
            "did you mean mount",
        ),
        of(
            "a key",
            "FROM base\nRUN --mount=typ=tmpfs true\n",
            "did you mean type",
        ),
        of(
            "a type",
            "FROM base\nRUN --mount=type=tmp,target=/x true\n",
            "did you mean tmpfs",
        ),
        of(
            "a sharing",
            "FROM base\nRUN --mount=type=cache,target=/x,sharing=none true\n",
            "sharing",
        ),
        of(
            "no target",
            "FROM base\nRUN --mount=type=cache true\n",
            "target",
        ),
        of(
            "the root",
            "FROM base\nRUN --mount=type=tmpfs,target=/ true\n",
            "/",
        ),
        of(
            "variables in from",
            "FROM base\nENV F=base\nRUN --mount=from=$F,target=/x true\n",
            "from",
        ),
        Case {
            name: "a stage behind, which needs this one",
            dockerfile: "FROM base AS one\nRUN --mount=from=two,target=/x true\nFROM one AS two\n",
            fails: "two",
            ..CASE
        },
    ]);
}

pub(super) fn secrets(env: &Env) {
    let builds = Builds::new(env);
    fs::write(env.path("secret"), "from a file").unwrap();
    builds.shelf.set("A_SECRET", "from outside");
    let file = format!("--secret=id=file,src={}", env.path("secret").display());
    let flags = [file.as_str(), "--secret=id=variable,env=A_SECRET"];
    builds.table(&[
        Case {
            name: "as files with owner and mode, as variables, as both; nothing stays",
            flags: &flags,
            dockerfile: "FROM base\nENV S=before\nRUN --mount=type=secret,id=file cat /run/secrets/file | wc -c > /a\nRUN --mount=type=secret,id=variable,target=/s,uid=100,gid=102,mode=741 stat -c '%u %g %a' /s > /b\nRUN --mount=type=secret,id=variable,env=S test \"$S\" = 'from outside' && test ! -e /run/secrets/variable\nRUN --mount=type=secret,id=variable,env=S,target=/t/s test \"$S\" = \"$(cat /t/s)\"\nRUN test \"$S\" = before && test ! -e /run/secrets && test ! -e /s && test ! -e /t\nRUN --mount=type=secret,target=/elsewhere/file cat /elsewhere/file | wc -c >> /a\n",
            expected: &[("a", "f 644 0:0 11\n11"), ("b", "f 644 0:0 100 102 741"), ("run", "-")],
            ..CASE
        },
        Case {
            name: "those that are not there are left out",
            dockerfile: "FROM base\nRUN --mount=type=secret,id=none test ! -e /run/secrets/none\nRUN --mount=type=secret,id=none,env=NONE test -z \"${NONE+x}\"\n",
            ..CASE
        },
        Case {
            name: "unless they have to be",
            dockerfile: "FROM base\nRUN --mount=type=secret,required,id=none true\n",
            fails: "secret none: not found",
            ..CASE
        },
    ]);
}

pub(super) fn networks(env: &Env) {
    let builds = Builds::new(env);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"foo\n");
        }
    });
    let reach = format!("nc 127.0.0.1 {port} < /dev/null");
    let open = format!(
        "FROM base\nRUN {reach} > /a\nRUN --network=none ! {reach} 2> /dev/null\nRUN --network=default {reach} >> /a\n"
    );
    let closed = format!("FROM base\nRUN ! {reach} 2> /dev/null\n");
    let host = format!("FROM base\nRUN --network=host {reach} > /a\n");
    builds.table(&[
        Case {
            name: "the host's, unless a step wants none",
            dockerfile: &open,
            expected: &[("a", "f 644 0:0 foo\nfoo")],
            ..CASE
        },
        Case {
            name: "none for all",
            flags: &["--network=none"],
            dockerfile: &closed,
            ..CASE
        },
        Case {
            name: "the host's only if it is allowed",
            dockerfile: &host,
            fails: "network.host",
            ..CASE
        },
        Case {
            name: "and it is",
            flags: &["--allow=network.host", "--network=none"],
            dockerfile: &host,
            expected: &[("a", "f 644 0:0 foo")],
            ..CASE
        },
        Case {
            name: "an unknown network",
            dockerfile: "FROM base\nRUN --network=bridge true\n",
            fails: "bridge",
            ..CASE
        },
        Case {
            name: "an unknown network of the build",
            flags: &["--network=bridge"],
            dockerfile: "FROM base\n",
            fails: "bridge",
            ..CASE
        },
        Case {
            name: "names and name servers of flags",
            flags: &["--add-host=there:10.1.2.3", "--dns=10.9.8.7"],
            dockerfile: "FROM base\nRUN grep there /etc/hosts > /a; grep 10.9 /etc/resolv.conf >> /a\n",
            expected: &[("a", "f 644 0:0 10.1.2.3\tthere\nnameserver 10.9.8.7")],
            ..CASE
        },
    ]);
}

fn rights(env: &Env) {
    let bounded = "RUN grep CapBnd /proc/self/status | cut -f 2 > /a\n";
    let usual = format!(
        "FROM base\n{bounded}RUN --security=sandbox test \"$(grep CapBnd /proc/self/status | cut -f 2)\" = \"$(cat /a)\"\n"
    );
    let insecure = "FROM base\nRUN --security=insecure test -e /dev/loop-control -o -e /dev/kmsg && mount -t tmpfs none /mnt 2> /dev/null || mount -t tmpfs none /tmp\n";
    let dropped = format!("FROM base\n{bounded}");
    Builds::new(env).table(&[
        Case {
            name: "those of docker, by default",
            dockerfile: &usual,
            expected: &[("a", "f 644 0:0 00000000a80425fb")],
            ..CASE
        },
        Case {
            name: "all only if allowed",
            dockerfile: insecure,
            fails: "security.insecure",
            ..CASE
        },
        Case {
            name: "and they are",
            flags: &["--allow=security.insecure"],
            dockerfile: insecure,
            ..CASE
        },
        Case {
            name: "an unknown security",
            dockerfile: "FROM base\nRUN --security=none true\n",
            fails: "none",
            ..CASE
        },
        Case {
            name: "an unknown entitlement",
            flags: &["--allow=everything"],
            dockerfile: "FROM base\n",
            fails: "everything",
            ..CASE
        },
        Case {
            name: "capabilities of flags",
            flags: &["--cap-drop=all"],
            dockerfile: &dropped,
            expected: &[("a", "f 644 0:0 0000000000000000")],
            ..CASE
        },
        Case {
            name: "a device only if allowed",
            dockerfile: "FROM base\nRUN --device=vendor.com/device=foo true\n",
            fails: "--allow device",
            ..CASE
        },
    ]);
}

pub(super) fn limits(env: &Env) {
    // An ordinary user without a cgroup of its own cannot limit memory, and is told.
    let refused = match env.user {
        Some(_) => "cannot set memory limit",
        None => "",
    };
    Builds::new(env).table(&[
        Case {
            name: "the name of the machine",
            flags: &["--build-arg=BUILDKIT_SANDBOX_HOSTNAME=foo"],
            dockerfile: "FROM base\nRUN hostname > /a; grep -c foo /etc/hosts >> /a\n",
            expected: &[("a", "f 644 0:0 foo\n1")],
            ..CASE
        },
        Case {
            name: "shared memory, open files",
            flags: &["--shm-size=128m", "--ulimit=nofile=1062:1063"],
            dockerfile: "FROM base\nRUN mount | grep /dev/shm | grep -o size=131072k > /a; ulimit -n >> /a; ulimit -Hn >> /a\n",
            expected: &[("a", "f 644 0:0 size=131072k\n1062\n1063")],
            ..CASE
        },
        Case {
            name: "memory",
            flags: &["--memory=64m"],
            dockerfile: "FROM base\nRUN cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes > /a 2> /dev/null; true\n",
            expected: &[("a", "f 644 0:0 67108864")],
            fails: refused,
            ..CASE
        },
        Case {
            name: "more memory than there may be",
            flags: &["--memory=32m", "--memory-swap=32m"],
            dockerfile: "FROM base\nRUN tail /dev/zero\n",
            fails: match env.user {
                Some(_) => refused,
                None => "was killed by the memory limit",
            },
            ..CASE
        },
    ]);
}

fn failures(env: &Env) {
    let of = |name: &'static str, dockerfile: &'static str, fails: &'static str| Case {
        name,
        dockerfile,
        fails,
        ..CASE
    };
    let builds = Builds::new(env);
    builds.table(&[
        of(
            "a program that is not there",
            "FROM base\nRUN [\"/no/such\"]\n",
            "/no/such",
        ),
        of(
            "an exit code, with the command and the line",
            "FROM base\n\nRUN exit 7\n",
            "exit code: 7",
        ),
        of("the line", "FROM base\n\nRUN exit 7\n", "Dockerfile:3"),
        of(
            "nothing to run it with",
            "FROM scratch\nRUN true\n",
            "/bin/sh",
        ),
        of(
            "JSON that is none",
            "FROM base\nRUN [\"echo\", \"hello\"]this is wrong\n",
            "this is wrong",
        ),
        of(
            "a signal",
            "FROM base\nRUN sh -c 'kill -9 $$'; exit $?\n",
            "exit code: 137",
        ),
    ]);
    // What failed is not kept: the next time it is tried again.
    let failing =
        "FROM base\nRUN --mount=type=cache,target=/c test -e /c/f || { touch /c/f; false; }\n";
    let context = builds.dockerfile(failing);
    builds.build(&[], &context).fails("exit code: 1");
    let again = builds.build(&[], &context).ok();
    assert_eq!(again.done().len(), 1);
    builds.assert_settled();
}
