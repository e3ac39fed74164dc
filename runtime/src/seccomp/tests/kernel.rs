//! Programs in the running kernel: a process that has loaded one reports what its calls answer.
//!
//! The test binary runs itself again as that process.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use oci_spec::runtime::{
    ContainerProcessState, ContainerProcessStateBuilder, LinuxSeccomp, SECCOMP_FD_NAME,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketType, recvmsg,
};
use serde_json::json;

use super::super::notify::send_listener;
use super::{compile, default_profile, profile};
use crate::sys::seccomp::{FLAG_NEW_LISTENER, load};

const CHILD: &str = "RCRUN_TEST_SECCOMP";

/// Runs `name` of this file again with `what` to do.
fn again(name: &str, what: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            &format!("seccomp::tests::kernel::{name}"),
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, what)
        .output()
        .unwrap()
}

fn role() -> Option<String> {
    std::env::var(CHILD).ok()
}

fn enter(p: &LinuxSeccomp) {
    rustix::thread::set_no_new_privs(true).unwrap();
    let filter = compile(p).unwrap().unwrap();
    assert!(load(&filter.program, filter.flags).unwrap().is_none());
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The answers of calls that need no privilege and change nothing when they are let through.
fn probe() -> String {
    let socket = |family| {
        let family = AddressFamily::from_raw(family);
        rustix::net::socket(family, SocketType::STREAM, None).err()
    };
    let unmount = rustix::mount::unmount("/no/such/mount", UnmountFlags::empty()).err();
    let openat2 = openat2(CWD, "/", OFlags::PATH, Mode::empty(), ResolveFlags::empty()).err();
    format!(
        "unmount={unmount:?} inet={:?} alg={:?} vsock={:?} openat2={openat2:?}",
        socket(2),
        socket(38),
        socket(40),
    )
}

#[test]
fn the_default_profile_in_the_kernel() {
    if role().is_some() {
        enter(&default_profile());
        println!("{}", probe());
        return;
    }
    let output = again("the_default_profile_in_the_kernel", "x");
    let perm = format!("{:?}", Some(Errno::PERM));
    assert!(
        stdout(&output).contains(&format!(
            "unmount={perm} inet=None alg={perm} vsock={perm} openat2=None"
        )),
        "{output:?}"
    );
}

#[test]
fn newer_calls_and_errors_in_the_kernel() {
    if role().is_some() {
        // Everything up to clone3 but umount2; openat2 is newer.
        let names: Vec<&str> = super::super::table::TABLE
            .iter()
            .filter(|row| row.1[0] <= 435 && row.0 != "umount2")
            .map(|row| row.0)
            .collect();
        enter(&profile(
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 77,
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}),
        ));
        println!("{}", probe());
        return;
    }
    let output = again("newer_calls_and_errors_in_the_kernel", "x");
    let text = stdout(&output);
    let unmount = format!("unmount={:?} ", Some(Errno::from_raw_os_error(77)));
    assert!(text.contains(&unmount), "{output:?}");
    assert!(
        text.contains(&format!("openat2={:?}", Some(Errno::NOSYS))),
        "{output:?}"
    );
}

#[test]
fn a_killed_process_dies_of_sigsys() {
    if role().is_some() {
        enter(&profile(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["umount2"], "action": "SCMP_ACT_KILL_PROCESS"}]}),
        ));
        println!("alive");
        println!("{}", probe());
        return;
    }
    let output = again("a_killed_process_dies_of_sigsys", "x");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
    assert!(
        stdout(&output).contains("alive") && !stdout(&output).contains("unmount"),
        "{output:?}"
    );
}

/// Compares far more programs than the interpreter's rules with the kernel's: each must be loadable.
#[test]
fn the_kernel_takes_every_size() {
    if role().is_some() {
        rustix::thread::set_no_new_privs(true).unwrap();
        for count in [1, 40, 100, 400, 700] {
            let rules: Vec<_> = (0..count)
                .map(|v| {
                    json!({"names": ["umount2"], "action": "SCMP_ACT_ERRNO", "args": [
                        {"index": 0, "value": v, "op": "SCMP_CMP_EQ"}]})
                })
                .collect();
            let p = profile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
            let filter = compile(&p).unwrap().unwrap();
            load(&filter.program, filter.flags).unwrap();
        }
        println!("loaded");
        return;
    }
    let output = again("the_kernel_takes_every_size", "x");
    assert!(stdout(&output).contains("loaded"), "{output:?}");
}

#[test]
fn the_agent_gets_the_listener() {
    if let Some(path) = role() {
        rustix::thread::set_no_new_privs(true).unwrap();
        let p = profile(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
            "syscalls": [{"names": ["umount2"], "action": "SCMP_ACT_NOTIFY"}]}),
        );
        let filter = compile(&p).unwrap().unwrap();
        assert_ne!(filter.flags & FLAG_NEW_LISTENER, 0);
        let fd = load(&filter.program, filter.flags).unwrap().unwrap();
        let state = ContainerProcessStateBuilder::default()
            .version("1.3.0")
            .fds(vec![SECCOMP_FD_NAME.to_string()])
            .pid(7)
            .metadata("m")
            .build()
            .unwrap();
        send_listener(&filter.notify.unwrap().listener_path, fd.as_fd(), &state).unwrap();
        return;
    }
    let path = std::env::temp_dir().join(format!("rcrun-seccomp-{}.sock", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let output = again("the_agent_gets_the_listener", path.to_str().unwrap());
    std::fs::remove_file(&path).unwrap();
    assert!(output.status.success(), "{output:?}");
    let (stream, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 4096];
    let got = recvmsg(
        &stream,
        &mut [IoSliceMut::new(&mut text)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    );
    let state: ContainerProcessState = serde_json::from_slice(&text[..got.unwrap().bytes]).unwrap();
    assert_eq!(
        (state.pid(), state.fds().as_slice()),
        (&7, &["seccompFd".to_string()][..])
    );
    assert_eq!(state.metadata().as_deref(), Some("m"));
    let fds: Vec<_> = ancillary
        .drain()
        .flat_map(|m| match m {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(fds.len(), 1);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fds[0].as_raw_fd())).unwrap();
    assert_eq!(link.to_str(), Some("anon_inode:seccomp notify"));
    let gone = send_listener(&path, fds[0].as_fd(), &state).unwrap_err();
    assert_eq!(gone.kind(), crate::error::ErrorKind::NotFound);
    assert!(
        gone.to_string()
            .starts_with("failed to connect with seccomp agent"),
        "{gone}"
    );
}

#[test]
fn this_kernel_knows_the_flags() {
    let known = super::super::supported_flags();
    assert!(
        known.contains(&"SECCOMP_FILTER_FLAG_SPEC_ALLOW") && known.len() <= 4,
        "{known:?}"
    );
    assert!(!crate::sys::seccomp::flag_supported(1 << 30));
}
