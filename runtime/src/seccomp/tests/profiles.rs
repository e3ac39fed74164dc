//! Whole profiles: notifications, flags, odd ones, too long ones, docker's.

use serde_json::{Value, json};

use super::super::arch::AUDIT_X86_64;
use super::interpreter::{Data, run, verify};
use super::semantics::{ALLOW, ERRNO, I386, KILL, decide, x86_64};
use super::{compile, default_profile, filter, profile, refused};
use crate::sys::seccomp as sys;

#[test]
fn notifications_need_a_listener_and_a_way_out() {
    let with = |names: &[&str], path: Option<&str>| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "m",
            "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]})
    };
    let f = filter(with(&["mkdir", "read"], Some("/run/agent.sock")));
    assert_eq!(f.flags, sys::FLAG_SPEC_ALLOW | sys::FLAG_NEW_LISTENER);
    let notify = f.notify.as_ref().unwrap();
    assert_eq!(notify.listener_path.to_str(), Some("/run/agent.sock"));
    assert_eq!(notify.metadata.as_deref(), Some("m"));
    assert_eq!(x86_64(&f, 83, [0; 6]), 0x7fc0_0000);
    assert_eq!(
        refused(with(&["mkdir"], None)),
        "seccomp listenerPath is not set"
    );
    assert_eq!(
        refused(with(&["mkdir"], Some(""))),
        "seccomp listenerPath is not set"
    );
    for call in ["write", "sendmsg"] {
        assert_eq!(
            refused(with(&["mkdir", call], Some("/s"))),
            format!("SCMP_ACT_NOTIFY cannot be used for the {call} syscall")
        );
    }
    assert_eq!(
        refused(json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/s"})),
        "SCMP_ACT_NOTIFY cannot be used as default action"
    );
}

#[test]
fn flags() {
    let with =
        |flags: Value| filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": flags})).flags;
    assert_eq!(with(Value::Null), 4);
    assert_eq!(with(json!([])), 0);
    assert_eq!(with(json!(["SECCOMP_FILTER_FLAG_TSYNC"])), 0);
    assert_eq!(
        with(json!([
            "SECCOMP_FILTER_FLAG_LOG",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW"
        ])),
        6
    );
    assert_eq!(with(json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])), 32);
}

#[test]
fn odd_profiles() {
    assert_eq!(
        compile(&profile(json!({"defaultAction": "SCMP_ACT_ALLOW"}))).unwrap(),
        None
    );
    assert_eq!(
        compile(&profile(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []})
        ))
        .unwrap(),
        None
    );
    let f = filter(json!({"defaultAction": "SCMP_ACT_KILL_PROCESS"}));
    assert_eq!(x86_64(&f, 39, [0; 6]), 0x8000_0000);
    assert_eq!(decide(&f, I386, 39, [0; 6]), KILL);
    let f = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["no_such", "getpid", "set_tls"], "action": "SCMP_ACT_ALLOW"}]}));
    assert_eq!(f.unknown, ["no_such"]);
    assert_eq!(x86_64(&f, 39, [0; 6]), ALLOW);
    assert_eq!(
        refused(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": [""], "action": "SCMP_ACT_ALLOW"}]})),
        "empty string is not a valid syscall"
    );
}

#[test]
fn too_long_programs_are_refused() {
    let rules: Vec<_> = (0..2000)
        .map(|v| {
            json!({"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": v * 3, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": v, "op": "SCMP_CMP_GT"}]})
        })
        .collect();
    let with = |n: usize| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules[..n]});
    assert!(refused(with(2000)).contains("the kernel takes at most 4096"));
    // Long enough for every kind of far jump, and still right.
    let f = filter(with(400));
    assert!(f.program.len() > 2000);
    for (a, b, want) in [
        (0, 1, ALLOW),
        (300, 101, ALLOW),
        (300, 100, ERRNO | 1),
        (1197, 9999, ALLOW),
        (1, 9999, ERRNO | 1),
    ] {
        assert_eq!(x86_64(&f, 39, [a, b, 0, 0, 0, 0]), want, "{a} {b}");
    }
}

#[test]
fn the_default_profile_is_small_and_shallow() {
    let f = compile(&default_profile()).unwrap().unwrap();
    verify(&f.program);
    assert_eq!(f.unknown, [] as [String; 0]);
    assert!(f.program.len() < 450, "{} instructions", f.program.len());
    for nr in 0..480 {
        let data = Data {
            nr,
            arch: AUDIT_X86_64,
            args: [0; 6],
            big: false,
        };
        let (_, steps) = run(&f.program, &data);
        assert!(steps < 40, "call {nr} takes {steps} steps");
    }
    for (nr, args, want) in [
        (0, [0; 6], ALLOW),
        (56, [0x11, 0, 0, 0, 0, 0], ALLOW),
        (56, [0x1000_0000, 0, 0, 0, 0, 0], ERRNO | 1),
        (435, [0; 6], ERRNO | 38),
        (41, [1, 0, 0, 0, 0, 0], ALLOW),
        (41, [38, 0, 0, 0, 0, 0], ERRNO | 1),
        (41, [40, 0, 0, 0, 0, 0], ERRNO | 1),
        (165, [0; 6], ERRNO | 1),
        (135, [0xffff_ffff, 0, 0, 0, 0, 0], ALLOW),
        (135, [1, 0, 0, 0, 0, 0], ERRNO | 1),
        (900, [0; 6], ERRNO | 38),
    ] {
        assert_eq!(x86_64(&f, nr, args), want, "{nr} {args:x?}");
    }
}
