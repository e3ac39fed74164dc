//! Seccomp: actions, operators, architectures, flags, and listeners.

use crate::harness::{Bundle, Env, Test, test};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(none_without_a_profile),
        test!(errno_defaults_to_eperm),
        test!(errno_of_the_rule),
        test!(default_errno),
        test!(allow_list),
        test!(only_the_programs_own_calls_need_be_allowed)
            .only_rcrun("runc calls fstatfs and others after it has loaded the filter"),
        test!(calls_newer_than_the_list_are_unknown),
        test!(kill_process),
        test!(trap),
        test!(trace_without_a_tracer),
        test!(log_is_allowed),
        test!(every_operator),
        test!(values_are_64_bits_wide),
        test!(all_arguments_must_match),
        test!(conditions_on_one_argument_are_alternatives),
        test!(rules_for_one_call_are_alternatives),
        test!(last_rule_without_conditions),
        test!(sub_architecture),
        test!(architecture_not_listed_is_killed),
        test!(unknown_names_are_skipped),
        test!(unknown_words_are_refused),
        test!(flags),
        test!(unknown_flag_is_refused),
        test!(exec_is_filtered_too),
        test!(works_without_no_new_privileges),
        test!(the_runtimes_own_calls_are_not_filtered),
        test!(multiple_names_in_one_rule),
    ]
}

/// umask(2) takes any argument and never fails: whatever it answers came from the filter.
pub(super) const UMASK: i64 = libc::SYS_umask;
const EPERM: i32 = 1;

/// A profile that allows everything but what these rules say.
pub(super) fn deny(bundle: &mut Bundle<'_>, rules: &[Value]) {
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules}),
    );
}

pub(super) fn rule(name: &str, action: &str) -> Value {
    json!({"names": [name], "action": action})
}

pub(super) fn umask(argument: u64) -> String {
    format!("syscall:{UMASK}:{argument}")
}

/// A bundle with such a profile.
fn denying<'e>(env: &'e Env, rules: &[Value]) -> Bundle<'e> {
    let mut bundle = env.bundle();
    deny(&mut bundle, rules);
    bundle
}

/// The same that only denies umask(2).
fn denying_umask(env: &Env) -> Bundle<'_> {
    denying(env, &[rule("umask", "SCMP_ACT_ERRNO")])
}

/// One call, one errno.
fn errno_rule(name: &str, errno: i32) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno})
}

/// A condition on the first argument.
fn condition(operator: &str, value: u64) -> Value {
    json!({"index": 0, "value": value, "op": format!("SCMP_CMP_{operator}")})
}

/// The errno of umask(2) with each of these arguments under these rules.
#[track_caller]
pub(super) fn answers(env: &Env, rules: &[Value], arguments: &[u64]) -> Vec<i32> {
    let mut bundle = denying(env, rules);
    let questions: Vec<String> = arguments.iter().map(|a| umask(*a)).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    bundle.errnos(&questions)
}

fn none_without_a_profile(env: &Env) {
    assert_eq!(env.bundle().facts()["status"]["Seccomp"], "0");
}

fn errno_defaults_to_eperm(env: &Env) {
    assert_eq!(
        answers(env, &[rule("umask", "SCMP_ACT_ERRNO")], &[0]),
        [EPERM]
    );
    let mut bundle = denying_umask(env);
    assert_eq!(bundle.facts()["status"]["Seccomp"], "2");
}

fn errno_of_the_rule(env: &Env) {
    let with = |errno| errno_rule("umask", errno);
    assert_eq!(answers(env, &[with(123)], &[0]), [123]);
    assert_eq!(
        answers(env, &[with(0)], &[0]),
        [0],
        "0 means: do nothing and succeed"
    );
}

/// What runc's init, a Go program, calls after it has loaded the filter.
const NEEDED_BY_RUNC: &[&str] = &[
    "fstatfs",
    "getdents64",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "eventfd2",
    "pipe2",
    "nanosleep",
    "tgkill",
    "sched_yield",
    "openat2",
    "faccessat2",
    "clone",
    "close_range",
    "dup3",
    "statfs",
    "write",
    "unlinkat",
    "capset",
    "setgroups",
];

/// What the probe, a static program, needs to say anything.
const NEEDED: &[&str] = &[
    "arch_prctl",
    "brk",
    "clock_nanosleep",
    "close",
    "execve",
    "exit",
    "exit_group",
    "fcntl",
    "fstat",
    "futex",
    "getpid",
    "getrandom",
    "gettid",
    "ioctl",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "open",
    "openat",
    "poll",
    "ppoll",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "stat",
    "statx",
    "uname",
    "write",
    "writev",
    "getcwd",
    "getuid",
    "capget",
    "prctl",
];

fn allow_list_profile(extra: &Value) -> Value {
    let mut profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": NEEDED, "action": "SCMP_ACT_ALLOW"}, {"names": NEEDED_BY_RUNC, "action": "SCMP_ACT_ALLOW"}
        ]
    });
    for (key, value) in extra.as_object().unwrap() {
        profile[key] = value.clone();
    }
    profile
}

fn default_errno(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/linux/seccomp",
        allow_list_profile(&json!({"defaultErrnoRet": 99})),
    );
    assert_eq!(bundle.attempts(&[&umask(0)])[0].0, 99);
}

fn allow_list(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/seccomp", allow_list_profile(&json!({})));
    assert_eq!(
        bundle.errnos(&[&umask(0), "read:/etc/passwd", "mkdir:/x"]),
        [EPERM, 0, EPERM]
    );
}

fn only_the_programs_own_calls_need_be_allowed(env: &Env) {
    let mut bundle = env.bundle();
    let mut profile = allow_list_profile(&json!({}));
    profile["syscalls"].as_array_mut().unwrap().truncate(1);
    bundle.set("/linux/seccomp", profile);
    assert_eq!(bundle.attempts(&["read:/etc/passwd"])[0].0, 0);
}

/// A program that finds ENOSYS falls back to an older call; one that finds EPERM gives up.
fn calls_newer_than_the_list_are_unknown(env: &Env) {
    const ENOSYS: i32 = 38;
    let mut bundle = env.bundle();
    bundle.set("/linux/seccomp", allow_list_profile(&json!({})));
    // The newest name in the list is faccessat2 (439): 440 is newer than the profile's author.
    assert_eq!(
        bundle.errnos(&["syscall:440:0", &umask(0)]),
        [ENOSYS, EPERM]
    );
}

#[track_caller]
fn exit_code(env: &Env, rules: &[Value]) -> i32 {
    let mut bundle = denying(env, rules);
    bundle.args(&["/bin/probe", "try", &umask(0)]).run().code
}

fn kill_process(env: &Env) {
    const SIGSYS: i32 = 31;
    for action in [
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_KILL",
    ] {
        assert_eq!(
            exit_code(env, &[rule("umask", action)]),
            128 + SIGSYS,
            "{action}"
        );
    }
}

fn trap(env: &Env) {
    assert_eq!(exit_code(env, &[rule("umask", "SCMP_ACT_TRAP")]), 128 + 31);
}

fn trace_without_a_tracer(env: &Env) {
    const ENOSYS: i32 = 38;
    assert_eq!(
        answers(env, &[rule("umask", "SCMP_ACT_TRACE")], &[0]),
        [ENOSYS]
    );
}

fn log_is_allowed(env: &Env) {
    assert_eq!(answers(env, &[rule("umask", "SCMP_ACT_LOG")], &[0]), [0]);
}

fn conditional(conditions: &Value) -> Value {
    json!({"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "args": conditions})
}

fn every_operator(env: &Env) {
    let table = [
        ("EQ", [0, 77, 0]),
        ("NE", [77, 0, 77]),
        ("LT", [77, 0, 0]),
        ("LE", [77, 77, 0]),
        ("GE", [0, 77, 77]),
        ("GT", [0, 0, 77]),
    ];
    for (operator, expected) in table {
        let rules = [conditional(&json!([condition(operator, 10)]))];
        assert_eq!(answers(env, &rules, &[9, 10, 11]), expected, "{operator}");
    }
    let masked = json!([{"index": 0, "value": 0xf0, "valueTwo": 0x50, "op": "SCMP_CMP_MASKED_EQ"}]);
    assert_eq!(
        answers(env, &[conditional(&masked)], &[0x5f, 0x51, 0x61, 0x50]),
        [77, 77, 0, 77]
    );
}

fn values_are_64_bits_wide(env: &Env) {
    let high = 0x1_0000_0005_u64;
    let rules = [conditional(&json!([condition("EQ", 5)]))];
    assert_eq!(answers(env, &rules, &[5, high]), [77, 0]);
    let rules = [conditional(&json!([condition("EQ", high)]))];
    assert_eq!(answers(env, &rules, &[5, high]), [0, 77]);
    let rules = [conditional(&json!([condition("GT", high)]))];
    assert_eq!(
        answers(env, &rules, &[6, high, high + 1, 0x2_0000_0000]),
        [0, 0, 77, 77]
    );
    let rules = [conditional(&json!([condition("LT", high)]))];
    assert_eq!(
        answers(env, &rules, &[6, high - 1, high, 0x2_0000_0000]),
        [77, 77, 0, 0]
    );
}

/// setpriority(2): three arguments; a higher nice value is always allowed.
fn priority(which: i64, nice: i64) -> String {
    format!("syscall:{}:{which}:0:{nice}", libc::SYS_setpriority)
}

fn all_arguments_must_match(env: &Env) {
    let mut bundle = env.bundle();
    let conditions = json!([{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 19, "op": "SCMP_CMP_EQ"}]);
    deny(
        &mut bundle,
        &[
            json!({"names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "args": conditions}),
        ],
    );
    assert_eq!(
        bundle.errnos(&[&priority(0, 19), &priority(0, 18), &priority(2, 19)]),
        [77, 0, 0]
    );
}

fn conditions_on_one_argument_are_alternatives(env: &Env) {
    let rules = [conditional(&json!([
        condition("EQ", 3),
        condition("EQ", 5)
    ]))];
    assert_eq!(answers(env, &rules, &[3, 4, 5]), [77, 0, 77]);
}

fn rules_for_one_call_are_alternatives(env: &Env) {
    let one = |value: u64| conditional(&json!([condition("EQ", value)]));
    assert_eq!(answers(env, &[one(3), one(5)], &[3, 4, 5]), [77, 0, 77]);
}

fn last_rule_without_conditions(env: &Env) {
    let rules = [
        conditional(&json!([condition("EQ", 3)])),
        errno_rule("setpriority", 5),
    ];
    let mut bundle = denying(env, &rules);
    assert_eq!(
        bundle.errnos(&[&umask(3), &umask(4), &priority(0, 19)]),
        [77, 0, 5]
    );
}

/// umask(2) in the 32-bit table.
const UMASK_I386: &str = "i386:60:0";

fn needs_i386(env: &Env) {
    let answer = env.bundle().args(&["/bin/probe", "try", "i386:20:0"]).run();
    if answer.code != 0 || answer.json()[0]["errno"] != 0 {
        env.skip("this kernel runs no 32-bit calls");
    }
}

fn sub_architecture(env: &Env) {
    needs_i386(env);
    let mut bundle = denying(env, &[errno_rule("umask", 77)]);
    bundle.set(
        "/linux/seccomp/architectures",
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    );
    assert_eq!(
        bundle.errnos(&["i386:20:0", UMASK_I386, &umask(0)]),
        [0, 77, 77],
        "numbers of the right table"
    );
}

fn architecture_not_listed_is_killed(env: &Env) {
    needs_i386(env);
    let mut bundle = denying_umask(env);
    bundle
        .args(&["/bin/probe", "try", "i386:20:0"])
        .run()
        .exits(128 + 31);
}

fn unknown_names_are_skipped(env: &Env) {
    let rules =
        [json!({"names": ["not_a_call", "umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9})];
    assert_eq!(answers(env, &rules, &[0]), [9]);
}

fn unknown_words_are_refused(env: &Env) {
    for bad in [
        json!({"defaultAction": "SCMP_ACT_PRAY"}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("umask", "SCMP_ACT_PRAY")]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [conditional(&json!([condition("LIKE", 1)]))]}),
    ] {
        let mut bundle = env.bundle();
        bundle.set("/linux/seccomp", bad).refused();
    }
}

fn flags(env: &Env) {
    for list in [
        json!([]),
        json!(["SECCOMP_FILTER_FLAG_LOG"]),
        json!([
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_TSYNC"
        ]),
    ] {
        let mut bundle = denying_umask(env);
        bundle.set("/linux/seccomp/flags", list);
        assert_eq!(bundle.attempts(&[&umask(0)])[0].0, EPERM);
    }
}

fn unknown_flag_is_refused(env: &Env) {
    let mut bundle = denying_umask(env);
    bundle
        .set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_NOPE"]))
        .refused();
}

fn exec_is_filtered_too(env: &Env) {
    let mut bundle = denying_umask(env);
    assert_eq!(
        bundle.sleeper().exec_attempts(&[], &[&umask(0)])[0].0,
        EPERM
    );
}

fn works_without_no_new_privileges(env: &Env) {
    let mut bundle = denying_umask(env);
    bundle.set("/process/noNewPrivileges", json!(false));
    bundle
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/capabilities", json!({}));
    assert_eq!(bundle.attempts(&[&umask(0)])[0].0, EPERM);
}

fn the_runtimes_own_calls_are_not_filtered(env: &Env) {
    let names = [
        "mount",
        "umount2",
        "pivot_root",
        "sethostname",
        "setgroups",
        "setuid",
        "setgid",
        "setresuid",
        "setresgid",
        "capset",
        "keyctl",
        "mknodat",
        "chroot",
        "unshare",
        "setns",
        "move_mount",
        "open_tree",
        "fsopen",
        "chdir",
        "fchdir",
        "openat2",
        "symlinkat",
        "mkdirat",
        "fchownat",
        "sched_setaffinity",
        "setpriority",
        "umask",
    ];
    let mut bundle = denying(env, &[json!({"names": names, "action": "SCMP_ACT_ERRNO"})]);
    bundle
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/cwd", json!("/tmp"));
    assert_eq!(bundle.attempts(&[&umask(0)])[0].0, EPERM);
    let container = bundle.args(&["sleep", "1000"]).start();
    container.exec(&["true"]).ok();
}

fn multiple_names_in_one_rule(env: &Env) {
    let mut bundle = denying(
        env,
        &[json!({"names": ["umask", "setpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 8})],
    );
    assert_eq!(bundle.errnos(&[&umask(0), &priority(0, 19)]), [8, 8]);
}
