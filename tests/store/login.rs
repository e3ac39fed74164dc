//! `login` and `logout`, and pulls from registries that ask who one is.

use crate::harness::env::read;
use crate::harness::store::Image;
use crate::harness::{Env, Output, Shelf, Test, test};
use rcrun_image::registry::testing::{Access, Setup};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(basic_login_pull_logout),
        test!(token_login),
        test!(a_file_of_its_own),
        test!(without_a_terminal),
        test!(the_password_is_not_seen_at_a_terminal),
    ]
}

fn basic() -> Setup {
    Setup {
        access: Access::Basic("anna", "secret"),
        ..Setup::default()
    }
}

fn with_password(shelf: &Shelf<'_>, args: &[&str], password: &str) -> Output {
    let file = shelf.env.path("password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    let mut command = shelf.command(args);
    command.stdin(std::fs::File::open(file).unwrap());
    shelf.env.rt.finish(shelf.env.rt.spawn(command))
}

fn basic_login_pull_logout(env: &Env) {
    let shelf = Shelf::with(env, basic());
    shelf.publish("app", &Image::with_file("a", b"b"));
    let (host, name) = (shelf.registry.host(), shelf.name("app"));
    shelf
        .call(&["pull", "-q", &name])
        .exits(1)
        .says("401 Unauthorized")
        .says(&format!("hint: `rcrun login {host}`"));
    let login = ["login", "-u", "anna", "--password-stdin", &host];
    with_password(&shelf, &login, "wrong")
        .exits(1)
        .says("401")
        .says(&host);
    let file = env.path("home/.docker/config.json");
    assert!(!file.exists(), "nothing wrong is kept");
    with_password(&shelf, &login, "secret")
        .ok()
        .prints("Login Succeeded");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(read(&file).contains(&host));
    shelf.ok(&["pull", "-q", &name]);
    assert!(
        shelf
            .ok(&["logout", &host])
            .contains("Removed the credentials")
    );
    assert!(!read(&file).contains(&host));
    assert!(shelf.ok(&["logout", &host]).contains("Not logged in"));
    shelf.ok(&["rmi", &name]);
    shelf.call(&["pull", "-q", &name]).exits(1).says("401");
}

fn token_login(env: &Env) {
    let access = Access::Token {
        user: Some(("anna", "secret")),
        identity: None,
        life: "",
        realm: None,
    };
    let shelf = Shelf::with(
        env,
        Setup {
            access,
            ..Setup::default()
        },
    );
    shelf.publish("app", &Image::with_file("a", b"b"));
    let host = format!("http://{}/", shelf.registry.host());
    shelf.ok(&["login", "-u", "anna", "-p", "secret", &host]);
    shelf.ok(&["pull", "-q", &shelf.name("app")]);
}

fn a_file_of_its_own(env: &Env) {
    let shelf = Shelf::with(env, basic());
    shelf.publish("app", &Image::with_file("a", b"b"));
    let file = env.path("auth.json");
    let file = file.to_str().unwrap();
    let host = shelf.registry.host();
    shelf.ok(&[
        "login",
        "--authfile",
        file,
        "-u",
        "anna",
        "-p",
        "secret",
        &host,
    ]);
    assert!(!env.path("home/.docker").exists());
    let name = shelf.name("app");
    shelf.call(&["pull", "-q", &name]).exits(1).says("401");
    shelf.ok(&["pull", "-q", "--authfile", file, &name]);
}

fn without_a_terminal(env: &Env) {
    let shelf = Shelf::with(env, basic());
    let host = shelf.registry.host();
    shelf
        .call(&["login", &host])
        .exits(1)
        .says("there is no terminal to ask for the user name")
        .says("hint: give --username NAME and --password-stdin");
    shelf
        .call(&["login", "-u", "anna", &host])
        .exits(1)
        .says("for the password");
    shelf
        .call(&["login", "--password-stdin", &host])
        .exits(1)
        .says("--password-stdin needs --username");
    shelf
        .call(&["login", "-u", "a", "-p", "b", "--password-stdin", &host])
        .exits(1)
        .says("exclude each other");
    shelf
        .call(&["login", "-u", "a", "-p", "b", "a b"])
        .exits(1)
        .says("invalid registry");
}

fn the_password_is_not_seen_at_a_terminal(env: &Env) {
    use crate::harness::process::until;
    use std::io::{Read as _, Write as _};
    let shelf = Shelf::with(env, basic());
    let host = shelf.registry.host();
    for (typed, code) in [("secrex\x7ft\n", 0), ("sec\x03", 130)] {
        let pty = nix::pty::openpty(None, None).unwrap();
        let echoes = || {
            let modes = rustix::termios::tcgetattr(&pty.slave).unwrap().local_modes;
            modes.contains(rustix::termios::LocalModes::ECHO)
        };
        assert!(echoes());
        let mut command = shelf.command(&["login", "-u", "anna", &host]);
        command.stdin(pty.slave.try_clone().unwrap());
        let running = env.rt.spawn(command);
        until("it asks", 10, || (!echoes()).then_some(()));
        let mut master = std::fs::File::from(pty.master.try_clone().unwrap());
        master.write_all(typed.as_bytes()).unwrap();
        let output = env.rt.finish(running).exits(code);
        assert!(output.stderr.contains("Password: "), "{output}");
        assert!(!output.stderr.contains("sec"), "{output}");
        assert!(echoes(), "the terminal is as before");
        drop(pty.slave);
        let mut seen = Vec::new();
        let _ = master.read_to_end(&mut seen);
        assert!(
            !String::from_utf8_lossy(&seen).contains("sec"),
            "it was echoed"
        );
    }
    assert!(read(env.path("home/.docker/config.json")).contains(&host));
}
