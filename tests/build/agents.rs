//! `RUN --mount=type=ssh`: agents of whoever builds, and keys of files.

use crate::harness::builds::{Builds, Case};
use crate::harness::{Env, Need, Test, test};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(agents),
        test!(keys_of_files).needs(Need::Program("ssh-agent")),
        test!(git_asks_the_agent_that_is_called_default).needs(Need::Program("ssh-agent")),
    ]
}

const CASE: Case<'_> = Case::NONE;

pub(super) fn agents(env: &Env) {
    let builds = Builds::new(env);
    let path = env.path("agent");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let (sender, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut text = String::new();
            stream.unwrap().read_to_string(&mut text).unwrap();
            let _ = sender.send(text);
        }
    });
    // Not an agent: to any program all is passed on, if that is wanted.
    let flag = format!("--ssh=default={},raw=true", path.display());
    builds.table(&[
        Case {
            name: "the agent of the builder answers, at a socket with owner and mode",
            flags: &[&flag],
            dockerfile: "FROM base\nRUN --mount=type=ssh,mode=741,uid=100,gid=102 stat -c '%u %g %a %F' $SSH_AUTH_SOCK > /a\nRUN --mount=type=ssh,target=/dev/log busybox logger heard && test $SSH_AUTH_SOCK = /dev/log\nRUN test -z \"$SSH_AUTH_SOCK\"\n",
            expected: &[("a", "f 644 0:0 100 102 741 socket")],
            ..CASE
        },
        Case {
            name: "none is left out",
            dockerfile: "FROM base\nRUN --mount=type=ssh test -z \"$SSH_AUTH_SOCK\"\n",
            ..CASE
        },
        Case {
            name: "unless it has to be there",
            dockerfile: "FROM base\nRUN --mount=type=ssh,required,id=other true\n",
            fails: "--ssh other",
            ..CASE
        },
    ]);
    let heard = heard.recv_timeout(std::time::Duration::from_secs(10));
    assert!(heard.unwrap().contains("heard"));
}

/// A program of the host with all that it needs, as files of a context.
fn with_libraries(context: &Path, program: &str) {
    let path = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .unwrap();
    let path = String::from_utf8(path.stdout).unwrap().trim().to_owned();
    let listed = Command::new("ldd").arg(&path).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in libraries.chain([path.as_str()]) {
        let to = context.join(&path[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}

/// A program that does not outlive the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keys_of_files(env: &Env) {
    let builds = Builds::new(env);
    let mut flag = "--ssh=default=".to_owned();
    let mut fingerprints = Vec::new();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let key = env.path(kind);
        let path = key.to_str().unwrap();
        let made = Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-t", kind, "-f", path])
            .status();
        assert!(made.unwrap().success());
        chown(&key, env.user, env.user).unwrap();
        let listed = Command::new("ssh-keygen")
            .args(["-lf", path])
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        fingerprints.push(listed.split(' ').nth(1).unwrap().to_owned());
        flag.push_str(&format!("{path},"));
    }
    let flag = flag.trim_end_matches(',');
    let context = builds.context(&[(
        "Dockerfile",
        "FROM base\nCOPY . /\n\
         ENV PATH=/bin:/usr/bin\nRUN --mount=type=ssh,required ssh-add -l >/keys && ssh-add -T /one.pub\n\
         RUN --mount=type=ssh ! ssh-add -D && ! ssh-add -d /one.pub && ! ssh-add -x </dev/null && ssh-add -l >/again\n\
         RUN ! ssh-add -l\n",
    )]);
    with_libraries(&context, "ssh-add");
    fs::copy(env.path("ecdsa.pub"), context.join("one.pub")).unwrap();
    let built = builds.build(&[flag], &context).ok();
    let files = built.files();
    for fingerprint in &fingerprints {
        assert!(files.text("keys").contains(fingerprint), "{}", built.output);
    }
    assert_eq!(files.text("keys"), files.text("again"));
    // The same of an agent, which still has its key afterwards.
    let socket = env.path("agent");
    let socket = socket.to_str().unwrap();
    let mut agent = Command::new("ssh-agent");
    agent
        .args(["-D", "-a", socket])
        .stdout(std::process::Stdio::null());
    // It answers its own user, and root.
    if let Some(user) = env.user {
        agent.uid(user).gid(user);
    }
    let agent = Ended(agent.spawn().unwrap());
    let ask = |words: &[&str]| {
        let mut program = Command::new("ssh-add");
        program.args(words).env("SSH_AUTH_SOCK", socket);
        program.output().unwrap()
    };
    // Its socket is there before it listens.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !ask(&["-q", env.path("ecdsa").to_str().unwrap()])
        .status
        .success()
    {
        assert!(std::time::Instant::now() < end, "the agent takes no key");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let built = builds.build(
        &[&format!("--ssh=default={socket}"), "--no-cache"],
        &context,
    );
    let after = String::from_utf8(ask(&["-l"]).stdout).unwrap();
    drop(agent);
    let files = built.ok().files();
    assert!(files.text("keys").contains(&fingerprints[1]));
    assert!(!files.text("keys").contains(&fingerprints[0]));
    assert_eq!(files.text("again"), after);
    assert!(after.contains(&fingerprints[1]), "{after}");
    // Nobody is asked for a passphrase.
    let locked = env.path("locked");
    let locked = locked.to_str().unwrap();
    let made = Command::new("ssh-keygen")
        .args(["-q", "-N", "secret", "-t", "ed25519", "-f", locked])
        .status();
    assert!(made.unwrap().success());
    chown(locked, env.user, env.user).unwrap();
    let build = builds.build(&[&format!("--ssh=default={locked}")], &context);
    build.fails("the key is encrypted").fails("ssh-add");
}

fn git_asks_the_agent_that_is_called_default(env: &Env) {
    let builds = Builds::new(env);
    let (key, said) = (env.path("key"), env.path("said"));
    let made = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", "ed25519", "-C", "whose-key", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    chown(&key, env.user, env.user).unwrap();
    // A program that is called ssh, and tells whom it may ask.
    let programs = builds.context(&[]);
    let script = format!("#!/bin/sh\nssh-add -l >{} 2>&1\nexit 1\n", said.display());
    fs::write(programs.join("ssh"), script).unwrap();
    fs::set_permissions(programs.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    builds
        .shelf
        .set("PATH", &format!("{}:{path}", programs.display()));
    let text = "FROM scratch\nADD git@127.0.0.1:a/b.git /x\n";
    let context = builds.dockerfile(text);
    for (flag, asked) in [("default", true), ("other", false)] {
        let _ = fs::remove_file(&said);
        let flag = format!("--ssh={flag}={}", key.display());
        builds.build(&[&flag], &context).fails("git");
        let said = fs::read_to_string(&said).unwrap();
        assert_eq!(said.contains("whose-key"), asked, "{said}");
    }
    let _ = fs::remove_file(&said);
    let flag = format!("--ssh=default={}", key.display());
    builds
        .build(&[&flag], Path::new("git@127.0.0.1:a/b.git"))
        .fails("git");
    assert!(fs::read_to_string(&said).unwrap().contains("whose-key"));
    builds.assert_settled();
}
