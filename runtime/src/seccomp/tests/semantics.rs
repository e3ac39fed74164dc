//! What rules mean: tables of actions, operators, precedence, architectures.

use serde_json::{Value, json};

use super::super::arch::{AUDIT_X86_64, X32_BIT};
use super::interpreter::{Data, run, verify};
use super::{Filter, filter, refused};

pub(super) const I386: u32 = 0x4000_0003;
pub(super) const ARM: u32 = 0x4000_0028;
pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const ERRNO: u32 = 0x0005_0000;
pub(super) const KILL: u32 = 0;

pub(super) fn decide(filter: &Filter, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    verify(&filter.program);
    run(
        &filter.program,
        &Data {
            nr,
            arch,
            args,
            big: false,
        },
    )
    .0
}

pub(super) fn x86_64(filter: &Filter, nr: u32, args: [u64; 6]) -> u32 {
    decide(filter, AUDIT_X86_64, nr, args)
}

/// An allow-list with one entry for getpid (39), plus a newer call so that 39 is not the newest.
fn one(entry: Value) -> Filter {
    let mut entry = entry;
    entry["names"] = json!(["getpid"]);
    filter(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99, "syscalls": [
        entry, {"names": ["openat2"], "action": "SCMP_ACT_ALLOW"}]}),
    )
}

#[test]
fn actions_have_the_kernels_numbers() {
    for (action, errno, number) in [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
        ("SCMP_ACT_TRAP", None, 0x0003_0000),
        ("SCMP_ACT_ERRNO", None, ERRNO | 1),
        ("SCMP_ACT_ERRNO", Some(0), ERRNO),
        ("SCMP_ACT_ERRNO", Some(38), ERRNO | 38),
        ("SCMP_ACT_TRACE", None, 0x7ff0_0001),
        ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_ALLOW", None, ALLOW),
    ] {
        let f = one(json!({"names": [], "action": action, "errnoRet": errno}));
        assert_eq!(x86_64(&f, 39, [0; 6]), number, "{action} {errno:?}");
        assert_eq!(x86_64(&f, 40, [0; 6]), ERRNO | 99, "{action} {errno:?}");
    }
}

#[test]
fn errno_is_refused_where_it_has_no_meaning() {
    for action in [
        "ALLOW",
        "KILL",
        "KILL_THREAD",
        "KILL_PROCESS",
        "TRAP",
        "LOG",
    ] {
        let action = format!("SCMP_ACT_{action}");
        assert_eq!(
            refused(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["read"], "action": action, "errnoRet": 1}]})),
            format!("seccomp errnoRet is set, but {action} takes none")
        );
        assert_eq!(
            refused(
                json!({"defaultAction": action, "defaultErrnoRet": 1, "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ERRNO"}]})
            ),
            format!("seccomp defaultErrnoRet is set, but {action} takes none")
        );
    }
    assert_eq!(
        refused(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 65536})),
        "seccomp defaultErrnoRet 65536 is not below 65536"
    );
}

#[test]
fn operators_compare_64_bits() {
    const BIG: u64 = 0x1_0000_0005;
    /// Operator, value, second value, what matches, what does not.
    type Case = (
        &'static str,
        u64,
        Option<u64>,
        &'static [u64],
        &'static [u64],
    );
    let cases: [Case; 14] = [
        ("EQ", 5, None, &[5], &[4, 6, BIG, 5 << 32]),
        (
            "EQ",
            BIG,
            None,
            &[BIG],
            &[5, 1 << 32, BIG + 1, 0x2_0000_0005],
        ),
        ("NE", 5, None, &[4, 6, BIG, u64::MAX], &[5]),
        ("NE", BIG, None, &[5, 1 << 32, 0x2_0000_0005], &[BIG]),
        ("LT", 5, None, &[0, 4], &[5, 6, BIG, 1 << 32, u64::MAX]),
        (
            "LT",
            BIG,
            None,
            &[0, 5, 0xffff_ffff, BIG - 1],
            &[BIG, BIG + 1, 2 << 32],
        ),
        ("LE", 5, None, &[0, 5], &[6, 1 << 32, u64::MAX]),
        ("LE", BIG, None, &[6, BIG, BIG - 1], &[BIG + 1, 2 << 32]),
        ("GT", 5, None, &[6, 1 << 32, u64::MAX], &[0, 5]),
        ("GT", BIG, None, &[BIG + 1, 2 << 32], &[6, BIG, BIG - 1]),
        (
            "GE",
            BIG,
            None,
            &[BIG, 2 << 32, u64::MAX],
            &[6, BIG - 1, 0xffff_ffff],
        ),
        (
            "MASKED_EQ",
            0xf0,
            Some(0x50),
            &[0x50, 0x5f, 0xf_0000_0050],
            &[0x40, 0, 0xf0],
        ),
        (
            "MASKED_EQ",
            0xf_0000_0000,
            Some(0x1_0000_0000),
            &[1 << 32, BIG],
            &[5, 3 << 32],
        ),
        (
            "MASKED_EQ",
            0x7e02_0000,
            Some(0),
            &[0, 0x11, 1 << 32],
            &[0x2_0000, 0x1000_0000],
        ),
    ];
    for (op, value, two, yes, no) in cases {
        for index in [0usize, 5] {
            let f = one(json!({"action": "SCMP_ACT_ALLOW", "args": [
                {"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")}]}));
            for (values, want) in [(yes, ALLOW), (no, ERRNO | 99)] {
                for v in values {
                    let mut args = [0x7777_7777_7777_7777; 6];
                    args[index] = *v;
                    assert_eq!(x86_64(&f, 39, args), want, "{v:#x} {op} {value:#x} {two:?}");
                }
            }
        }
    }
}

#[test]
fn narrow_architectures_compare_low_words() {
    for (arch, token, nr) in [
        ("X86", I386, 20),
        ("X32", AUDIT_X86_64, X32_BIT | 39),
        ("ARM", ARM, 20),
    ] {
        let f = filter(json!({"defaultAction": "SCMP_ACT_ERRNO",
            "architectures": [format!("SCMP_ARCH_{arch}")], "syscalls": [
            {"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 1, "value": 0xffff_ffff_0000_0003u64, "op": "SCMP_CMP_EQ"}]},
            {"names": ["openat2"], "action": "SCMP_ACT_ALLOW"}]}));
        assert_eq!(decide(&f, token, nr, [0, 3, 0, 0, 0, 0]), ALLOW, "{arch}");
        assert_eq!(
            decide(&f, token, nr, [0, 0x9_0000_0003, 0, 0, 0, 0]),
            ALLOW,
            "{arch}"
        );
        assert_eq!(
            decide(&f, token, nr, [0, 4, 0, 0, 0, 0]),
            ERRNO | 1,
            "{arch}"
        );
    }
}

#[test]
fn all_arguments_of_a_rule_must_match_unless_one_repeats() {
    let arg = |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let f = one(json!({"action": "SCMP_ACT_ALLOW", "args": [arg(2, 7), arg(0, 5)]}));
    assert_eq!(x86_64(&f, 39, [5, 0, 7, 0, 0, 0]), ALLOW);
    assert_eq!(x86_64(&f, 39, [5, 0, 8, 0, 0, 0]), ERRNO | 99);
    assert_eq!(x86_64(&f, 39, [4, 0, 7, 0, 0, 0]), ERRNO | 99);
    let f = one(json!({"action": "SCMP_ACT_ALLOW", "args": [arg(0, 5), arg(0, 6), arg(1, 9)]}));
    for (args, want) in [
        ([5, 0], ALLOW),
        ([6, 0], ALLOW),
        ([0, 9], ALLOW),
        ([7, 8], ERRNO | 99),
    ] {
        assert_eq!(
            x86_64(&f, 39, [args[0], args[1], 0, 0, 0, 0]),
            want,
            "{args:?}"
        );
    }
    assert_eq!(
        refused(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [arg(6, 0)]}]})),
        "error creating seccomp syscall condition for syscall read: argument index 6 is not below 6"
    );
}

/// A rule for getpid.
fn rule(action: &str, args: &[(u32, &str, u64)]) -> Value {
    let arg = |(i, op, v): &(u32, &str, u64)| json!({"index": i, "op": format!("SCMP_CMP_{op}"), "value": v});
    let args: Vec<_> = args.iter().map(arg).collect();
    json!({"names": ["getpid"], "action": format!("SCMP_ACT_{action}"), "args": args})
}

#[test]
fn which_of_several_rules_wins() {
    let trap = 0x0003_0000;
    let log = 0x7ffc_0000;
    let cases: Vec<(&str, Vec<Value>, [u64; 2], u32)> = vec![
        (
            "the first unconditional",
            vec![rule("TRAP", &[]), rule("LOG", &[])],
            [0, 0],
            trap,
        ),
        (
            "unconditional beats earlier",
            vec![rule("TRAP", &[(0, "EQ", 1)]), rule("LOG", &[])],
            [1, 0],
            log,
        ),
        (
            "unconditional beats later",
            vec![rule("LOG", &[]), rule("TRAP", &[(0, "EQ", 1)])],
            [1, 0],
            log,
        ),
        (
            "equality before bounds",
            vec![rule("LOG", &[(0, "GT", 1)]), rule("TRAP", &[(0, "EQ", 5)])],
            [5, 0],
            trap,
        ),
        (
            "upper before lower bound",
            vec![rule("LOG", &[(0, "GT", 1)]), rule("TRAP", &[(0, "LT", 9)])],
            [5, 0],
            trap,
        ),
        (
            "narrower lower bound",
            vec![rule("LOG", &[(0, "GT", 1)]), rule("TRAP", &[(0, "GT", 3)])],
            [5, 0],
            trap,
        ),
        (
            "narrower upper bound",
            vec![rule("LOG", &[(0, "LE", 9)]), rule("TRAP", &[(0, "LE", 7)])],
            [5, 0],
            trap,
        ),
        (
            "higher argument",
            vec![rule("LOG", &[(0, "EQ", 5)]), rule("TRAP", &[(1, "GT", 0)])],
            [5, 1],
            trap,
        ),
        (
            "as listed",
            vec![rule("LOG", &[(0, "GT", 4)]), rule("TRAP", &[(0, "GE", 4)])],
            [5, 0],
            log,
        ),
        (
            "default action dropped",
            vec![rule("ALLOW", &[]), rule("TRAP", &[(0, "EQ", 5)])],
            [5, 0],
            trap,
        ),
    ];
    for (what, rules, args, want) in cases {
        let f = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
        assert_eq!(
            x86_64(&f, 39, [args[0], args[1], 0, 0, 0, 0]),
            want,
            "{what}"
        );
    }
    assert_eq!(
        refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            rule("LOG", &[(0, "EQ", 5), (1, "GT", 3)]), rule("TRAP", &[(1, "GT", 3), (0, "EQ", 5)])]})),
        "seccomp rules for syscall getpid have the same conditions and different actions"
    );
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let list = json!([{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}]);
    for (default, errno, unknown) in [
        ("ERRNO", None, ERRNO | 38),
        ("ERRNO", Some(13), ERRNO | 38),
        ("KILL", None, ERRNO | 38),
        ("TRAP", None, ERRNO | 38),
        ("LOG", None, 0x7ffc_0000),
        ("TRACE", None, 0x7ff0_0001),
    ] {
        let f = filter(
            json!({"defaultAction": format!("SCMP_ACT_{default}"), "defaultErrnoRet": errno,
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"], "syscalls": list}),
        );
        let known = x86_64(&f, 436, [0; 6]);
        for (arch, bit) in [
            (AUDIT_X86_64, 0),
            (AUDIT_X86_64, X32_BIT),
            (I386, 0),
            (ARM, 0),
        ] {
            assert_eq!(decide(&f, arch, bit | 437, [0; 6]), ALLOW, "{default}");
            assert_eq!(decide(&f, arch, bit | 436, [0; 6]), known, "{default}");
            for nr in [438, 999, 1000, 2000, 0x000f_0000, 0x3fff_ffff] {
                assert_eq!(
                    decide(&f, arch, bit | nr, [0; 6]),
                    unknown,
                    "{default} {nr}"
                );
            }
        }
    }
    let f = filter(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_ARM"],
        "syscalls": [{"names": ["read", "openat2", "set_tls"], "action": "SCMP_ACT_ALLOW"}]}),
    );
    for (nr, want) in [
        (437, ALLOW),
        (438, 38 | ERRNO),
        (0xf_0005, ALLOW),
        (0xf_0004, 1 | ERRNO),
        (0xf_0010, 38 | ERRNO),
    ] {
        assert_eq!(decide(&f, ARM, nr, [0; 6]), want, "{nr:#x}");
    }
}

#[test]
fn architectures_not_listed_are_killed() {
    let list = json!([{"names": ["getpid", "openat2"], "action": "SCMP_ACT_ALLOW"}]);
    let f = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list}));
    assert_eq!(x86_64(&f, 39, [0; 6]), ALLOW);
    assert_eq!(x86_64(&f, X32_BIT | 39, [0; 6]), KILL);
    assert_eq!(x86_64(&f, u32::MAX, [0; 6]), ERRNO | 1);
    assert_eq!(decide(&f, I386, 20, [0; 6]), KILL);
    let f = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures":
        ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": list}));
    assert_eq!(x86_64(&f, 39, [0; 6]), ALLOW);
    assert_eq!(x86_64(&f, X32_BIT | 39, [0; 6]), ALLOW);
    assert_eq!(x86_64(&f, X32_BIT | 40, [0; 6]), ERRNO | 1);
    assert_eq!(decide(&f, I386, 20, [0; 6]), ALLOW);
    assert_eq!(decide(&f, ARM, 20, [0; 6]), KILL);
}

#[test]
fn multiplexed_calls_are_covered() {
    let f = filter(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
        {"names": ["bind", "shmat", "accept"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 3, "op": "SCMP_CMP_EQ"}]},
        {"names": ["openat2"], "action": "SCMP_ACT_ALLOW"}]}),
    );
    for (nr, args, want) in [
        (102, [2, 0], ALLOW),
        (102, [5, 0], ALLOW),
        (102, [3, 0], ERRNO | 1),
        (102, [1, 3], ALLOW),
        (102, [1, 2], ERRNO | 1),
        (117, [21, 0], ALLOW),
        (117, [1, 0], ERRNO | 1),
        (361, [0, 0], ALLOW),
        (359, [2, 3], ALLOW),
        (359, [1, 3], ERRNO | 1),
    ] {
        let args = [args[0], args[1], 0, 0, 0, 0];
        assert_eq!(decide(&f, I386, nr, args), want, "{nr} {args:?}");
    }
}
