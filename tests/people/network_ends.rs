//! What is left of connections: by those who end, start again, or are killed, and by attackers.

use super::network::{
    BRIDGE, SERVER, address, connected, hear, heard, inspect, nobody_is_connected, serve, wait_for,
};
use crate::harness::people::People;
use crate::harness::{Env, Test, test};
use serde_json::json;
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_new_life_has_a_place_of_its_own),
        test!(addresses_can_be_asked_for),
        test!(who_is_killed_leaves_nothing).timeout(150),
        test!(who_ends_unnoticed_makes_place),
        test!(one_that_waits_for_its_start_can_be_started),
        test!(root_has_a_bridge_by_default),
        test!(attack_on_the_bridge_of_another_root),
    ]
}

fn a_new_life_has_a_place_of_its_own(env: &Env) {
    let people = People::new(env);
    serve(&people, "web", &["-p", "8080:80", "--stop-timeout=0"]);
    let first = address(&people, "web");
    heard("127.0.0.1:8080");
    people.shelf.ok(&["stop", "web"]);
    nobody_is_connected(env);
    assert_eq!(hear("127.0.0.1:8080"), None);
    assert_eq!(people.shelf.call(&["port", "web"]).code, 1);
    // Somebody else may have it meanwhile.
    people
        .run(&["--rm", BRIDGE, "-p", "8080:80"], &["true"])
        .ok();
    people.shelf.ok(&["start", "web"]);
    assert_eq!(heard("127.0.0.1:8080"), "web");
    let second = address(&people, "web");
    assert_ne!(first, second);
    let hosts = people.shelf.ok(&["exec", "web", "cat", "/etc/hosts"]);
    assert!(hosts.contains(&format!("{second}\tweb\n")), "{hosts}");
    assert!(!hosts.contains(&first), "{hosts}");
    for _ in 0..5 {
        people.shelf.ok(&["restart", "web"]);
        assert_eq!(connected(env).len(), 1);
    }
    assert_eq!(heard("127.0.0.1:8080"), "web");
    // The monitor of the life before last has nothing to say any more.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(heard("127.0.0.1:8080"), "web");
    people.remove("web");
    nobody_is_connected(env);
    let output = people.run(&["--rm", BRIDGE, "-p", "8080:80"], &["sh", "-c", "exit 3"]);
    assert_eq!(output.code, 3);
    assert_eq!(connected(env), Vec::<String>::new());
    people.assert_empty();
}

fn addresses_can_be_asked_for(env: &Env) {
    let people = People::new(env);
    let flags = [BRIDGE, "--ip=10.138.9.9", "--mac-address=02:00:00:00:00:09"];
    let text = people.sh(&flags, "ip addr show eth0");
    assert!(
        text.contains("10.138.9.9/16") && text.contains("02:00:00:00:00:09"),
        "{text}"
    );
    for (flags, why) in [
        (
            &[BRIDGE, "--ip=10.137.0.9"][..],
            "10.137.0.9 is not in 10.138.0.0/16",
        ),
        (&[BRIDGE, "--ip=10.138.0.1"], "no address for a container"),
        (&[BRIDGE, "--ip=::1"], "--ip: "),
        (&[BRIDGE, "--mac-address=x"], "no hardware address"),
        (
            &["--network=none", "--ip=10.138.0.9"],
            "--ip: takes --network bridge",
        ),
        (
            &["--network=host", "-p=80:80"],
            "the program's ports are the host's",
        ),
        (
            &[BRIDGE, "-p=80:80:80:80"],
            "is not [ADDRESS:][HOST]:CONTAINER",
        ),
        (
            &[BRIDGE, "-p=80:80", "-p=127.0.0.1:80:81"],
            "asked for twice",
        ),
    ] {
        let output = people.run(&[&["--rm"], flags].concat(), &["true"]);
        assert_eq!(output.code, 125, "{flags:?}: {}", output.stderr);
        assert!(output.stderr.contains(why), "{flags:?}: {}", output.stderr);
    }
    people.assert_empty();
    nobody_is_connected(env);
}

fn who_is_killed_leaves_nothing(env: &Env) {
    let people = People::new(env);
    let free = || {
        people
            .run(&["--rm", "--name=web", BRIDGE, "-p", "8080:80"], &["true"])
            .ok();
        assert_eq!(connected(env), Vec::<String>::new());
    };
    for step in 0..20 {
        for mode in ["-d", "--rm"] {
            let mut running = people.spawn(
                &[mode, "--name=web", BRIDGE, "-p", "8080:80"],
                &["sleep", "100"],
            );
            std::thread::sleep(Duration::from_millis(step * 5));
            running.child.kill().unwrap();
            let _ = env.rt.finish(running);
            let removed = people.shelf.call(&["rm", "--force", "web"]);
            let gone = removed.stderr.to_lowercase().contains("no such container");
            assert!(removed.code == 0 || gone, "{step}: {}", removed.stderr);
            free();
        }
        people
            .run(
                &["-d", "--name=web", BRIDGE, "-p", "8080:80"],
                &["sleep", "100"],
            )
            .ok();
        let mut running = people.shelf.spawn(&["rm", "--force", "web"]);
        std::thread::sleep(Duration::from_millis(step * 4));
        running.child.kill().unwrap();
        let _ = env.rt.finish(running);
        people.shelf.call(&["rm", "--force", "web"]);
        free();
    }
    people.shelf.ok(&["prune", "--force"]);
    nobody_is_connected(env);
    people.assert_empty();
}

fn who_ends_unnoticed_makes_place(env: &Env) {
    let people = People::new(env);
    serve(&people, "web", &["-p", "8080:80"]);
    kill_all(&people, "web");
    assert_eq!(connected(env).len(), 1);
    // The kernel takes the namespace away in its own time.
    wait_for("the port", || {
        let output = people.run(&["--rm", BRIDGE, "-p", "8080:80"], &["true"]);
        (output.code == 0).then_some(())
    });
    serve(&people, "other", &["-p", "8081:80"]);
    kill_all(&people, "other");
    wait_for("prune", || {
        people.shelf.ok(&["container", "prune", "--force"]);
        // The one that was killed last may have been dying when it was looked at.
        (connected(env).is_empty() && people.containers().is_empty()).then_some(())
    });
    nobody_is_connected(env);
    people.assert_empty();
}

/// First the monitor, then what it looked after.
fn kill_all(people: &People<'_>, name: &str) {
    use nix::sys::signal::{Signal, kill};
    let pid = inspect(people, name)["State"]["Pid"].as_i64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent: i32 = (stat.rsplit(')').next().unwrap().split_whitespace().nth(1))
        .and_then(|text| text.parse().ok())
        .unwrap();
    for pid in [parent, i32::try_from(pid).unwrap()] {
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
}

/// A client that is killed between making a container and starting it.
fn one_that_waits_for_its_start_can_be_started(env: &Env) {
    let people = People::new(env);
    let mut seen = 0;
    let begun = Instant::now();
    let flags = ["-d", "--name=web", BRIDGE, "-p", "8080:80"];
    people.run(&flags, &["sh", "-c", SERVER]).ok();
    let whole = begun.elapsed();
    people.remove("web");
    for step in 0..80 {
        let mut running = people.spawn(
            &["-d", "--name=web", BRIDGE, "-p", "8080:80"],
            &["sh", "-c", SERVER],
        );
        // The moment is in the second half, most likely.
        std::thread::sleep(whole * (20 + step % 40 * 2) / 100);
        running.child.kill().unwrap();
        let _ = env.rt.finish(running);
        let state = people.shelf.ok(&["ps", "-a", "--format={State}"]);
        if state == "created\n" {
            seen += 1;
            people.shelf.ok(&["start", "web"]);
            heard("127.0.0.1:8080");
        }
        people.shelf.call(&["rm", "--force", "web"]);
        if seen == 2 {
            break;
        }
    }
    assert!(seen > 0, "the moment was never met");
    people.shelf.ok(&["prune", "--force"]);
    nobody_is_connected(env);
}

fn root_has_a_bridge_by_default(env: &Env) {
    let people = People::new(env);
    people.shelf.settings(&json!({"network": {}}));
    let text = people.sh(&["-p", "8080:80"], "ip addr show eth0");
    assert!(text.contains("10.138.0."), "{text}");
    // The bridge can be another one once nobody is connected.
    let bridge = json!({"name": "mine", "v4": "10.99.0.0/24", "v6": "fd00:99::/64", "mtu": 1400});
    people
        .shelf
        .settings(&json!({"network": {"bridge": bridge}}));
    let text = people.sh(&["--ip6=fd00:99::77"], "ip addr show eth0; cat /etc/hosts");
    for part in ["10.99.0.119/24", "fd00:99::77/64", "mtu 1400"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    people
        .shelf
        .settings(&json!({"network": {"default": "host"}}));
    assert!(!people.sh(&[], "ls /sys/class/net").contains("eth0"));
    nobody_is_connected(env);
}

fn attack_on_the_bridge_of_another_root(env: &Env) {
    let people = People::new(env);
    serve(&people, "web", &["-p", "8080:80"]);
    let mut command = people.command(&["--rm", BRIDGE], &["true"]);
    // The last one wins.
    let other = env.directory("other-root");
    let words: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let at = words.iter().position(|word| word == "run").unwrap();
    let mut again = std::process::Command::new(command.get_program());
    again
        .args(&words[..at])
        .arg("--root")
        .arg(&other)
        .args(&words[at..]);
    for (name, value) in command.get_envs() {
        again.env(name, value.unwrap());
    }
    command = again;
    command.stdin(std::process::Stdio::null());
    let output = env.rt.finish(env.rt.spawn(command));
    assert_eq!(output.code, 125, "{}", output.stderr);
    assert!(
        output
            .stderr
            .contains("cannot use bridge rcrun1: it is that of"),
        "{}",
        output.stderr
    );
    assert_eq!(heard("127.0.0.1:8080"), "web");
    people.remove("web");
    nobody_is_connected(env);
    people.assert_empty();
}
