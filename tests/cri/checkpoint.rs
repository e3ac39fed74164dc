//! CheckpointContainer, and containers that go on from an archive. Needs a criu that works (see `harness::criu`).

use crate::harness::cri::pull;
use crate::harness::pods::Pods;
use crate::harness::store::Image;
use crate::harness::{Env, Test, criu, process, test};
use rcrun_cri::proto::v1 as cri;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    let all = vec![
        test!(it_goes_on_in_another_pod),
        test!(again_and_again),
        test!(a_large_container_takes_no_memory_of_the_server),
        test!(the_archive_is_what_others_read),
        test!(what_cannot_be_saved),
        test!(an_image_with_a_checkpoint),
        test!(a_terminal),
        test!(a_caller_who_does_not_wait),
        test!(the_server_is_killed_while_it_saves),
        test!(the_server_is_killed_while_it_restores),
    ];
    all.into_iter().map(|test| test.timeout(180)).collect()
}

/// Counts in memory, so that a new start would show; ends with 7.
pub(super) const COUNTER: &str = "trap 'exit 7' TERM; i=0; echo kept > /kept; rm /bin/ls; \
    while :; do i=$((i+1)); echo $i; sleep 0.05; done";

/// A node that has criu.
pub(super) fn node(env: &Env) -> Pods<'_> {
    criu::require(env);
    let criu = process::which(Path::new("criu")).unwrap();
    Pods::with(env, &json!({ "criu": criu, "restore": true }))
}

pub(super) fn request(container: &str, location: &str) -> cri::CheckpointContainerRequest {
    cri::CheckpointContainerRequest {
        container_id: container.to_owned(),
        location: location.to_owned(),
        timeout: 0,
    }
}

#[track_caller]
pub(super) fn save(pods: &Pods<'_>, container: &str, location: &Path) {
    let request = request(container, &location.display().to_string());
    pods.node
        .ok(pods.node.runtime().checkpoint_container(request));
}

/// A pod with a container that runs, made with this configuration; both are named so.
#[track_caller]
pub(super) fn started(
    pods: &Pods<'_>,
    name: &str,
    config: &cri::ContainerConfig,
) -> (String, String) {
    let pod = pods.pod(name);
    let id = pods.run(&pod);
    let container = pods.create(&id, config, &pod);
    pods.start(&container);
    (id, container)
}

/// A counter that runs in a pod of this name, and what it counts beyond 3.
#[track_caller]
pub(super) fn counter(pods: &Pods<'_>, name: &str) -> (String, String) {
    let made = started(pods, name, &pods.container("count", COUNTER));
    beyond(pods, &made.1, 3);
    made
}

/// The configuration of a container that goes on from an archive, or an image.
pub(super) fn from(pods: &Pods<'_>, image: &str) -> cri::ContainerConfig {
    let mut config = pods.container("count", "echo started anew; exit 1");
    config.image.as_mut().unwrap().image = image.to_owned();
    config
}

pub(super) fn start_request(container: &str) -> cri::StartContainerRequest {
    cri::StartContainerRequest {
        container_id: container.to_owned(),
    }
}

#[track_caller]
pub(super) fn take_away(pods: &Pods<'_>, all: &[&str]) {
    for pod in all {
        pods.stop(pod);
        pods.remove(pod);
    }
    pods.assert_nothing_left();
}

/// The last number in a log.
pub(super) fn count(pods: &Pods<'_>, container: &str) -> Option<u32> {
    let log = pods.log(&pods.status(container));
    log.lines().rev().find_map(|line| line.parse().ok())
}

#[track_caller]
pub(super) fn beyond(pods: &Pods<'_>, container: &str, than: u32) -> u32 {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(count) = count(pods, container).filter(|n| *n > than) {
            return count;
        }
        let late = std::time::Instant::now() >= end;
        assert!(!late, "not beyond {than}: {:?}", pods.status(container));
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
pub(super) fn exec(pods: &Pods<'_>, container: &str, script: &str) -> String {
    let request = cri::ExecSyncRequest {
        container_id: container.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).into(),
        timeout: 10,
    };
    let answer = pods.node.ok(pods.node.runtime().exec_sync(request));
    let text = [answer.stdout, answer.stderr].concat();
    format!(
        "{}: {}",
        answer.exit_code,
        String::from_utf8_lossy(&text).trim()
    )
}

/// Files of an archive.
pub(super) fn members(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let read = |entry: std::io::Result<tar::Entry<'_, File>>| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, content)
    };
    archive.entries().unwrap().map(read).collect()
}

/// What is kept of a container that is saved or restored.
pub(super) fn leftovers(pods: &Pods<'_>, container: &str) -> Vec<PathBuf> {
    let directory = pods
        .node
        .shelf
        .path()
        .join("cri/containers")
        .join(container);
    let all = ["saving", "restoring"].map(|name| directory.join(name));
    all.into_iter().filter(|path| path.exists()).collect()
}

fn it_goes_on_in_another_pod(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "first");
    let archive = env.path("one.tar");
    save(&pods, &one, &archive);
    let stood = count(&pods, &one).unwrap();
    beyond(&pods, &one, stood + 2);
    assert_eq!(leftovers(&pods, &one), [""; 0].map(PathBuf::from));
    pods.stop(&first);
    pods.remove(&first);
    let pod = pods.pod("second");
    let second = pods.run(&pod);
    let two = pods.create(&second, &from(&pods, &archive.display().to_string()), &pod);
    let status = pods.status(&two);
    assert_eq!(status.state(), cri::ContainerState::ContainerCreated);
    assert!(status.image_ref.contains("@sha256:"), "{status:?}");
    assert_eq!(status.image.unwrap().image, archive.display().to_string());
    pods.start(&two);
    assert_eq!(leftovers(&pods, &two), [""; 0].map(PathBuf::from));
    let next = beyond(&pods, &two, stood);
    assert!(next < stood + 60, "from {stood} to {next}");
    // The log goes on: nothing is missing, nothing comes twice.
    let status = pods.status(&two);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    let log = pods.log(&status);
    let numbers: Vec<u32> = log.lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<u32> = (1..=u32::try_from(numbers.len()).unwrap()).collect();
    assert_eq!(numbers, expected);
    assert_eq!(
        exec(&pods, &two, "cat /kept; test -e /bin/ls || echo gone"),
        "0: kept\ngone"
    );
    assert_eq!(exec(&pods, &two, "hostname"), "0: second");
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        // Its cgroup is the root of what it sees.
        assert_eq!(exec(&pods, &two, "cat /proc/1/cgroup"), "0: 0::/");
        assert_eq!(
            exec(
                &pods,
                &two,
                "cat /sys/fs/cgroup/cgroup.events | grep populated"
            ),
            "0: populated 1"
        );
    }
    pods.stop_container(&two, 10);
    let status = pods.ended(&two);
    assert_eq!((status.exit_code, &*status.reason), (7, "Error"));
    take_away(&pods, &[&second]);
}

/// The most memory that the server had, in MiB.
fn peak(pods: &Pods<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pods.node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().trim_end_matches(" kB").trim();
    number.parse::<u64>().unwrap() / 1024
}

fn a_large_container_takes_no_memory_of_the_server(env: &Env) {
    let pods = node(env);
    let script = format!(
        "x=$(head -c 64000000 /dev/zero | tr '\\0' x); head -c 100000000 /dev/urandom > /big; \
         sha256sum /big > /sum; {COUNTER}"
    );
    let (first, one) = started(&pods, "first", &pods.container("count", &script));
    beyond(&pods, &one, 3);
    let before = peak(&pods);
    let archive = env.path("one.tar");
    save(&pods, &one, &archive);
    let size = fs::metadata(&archive).unwrap().len() >> 20;
    assert!(size > 150, "{size} MiB");
    let stood = count(&pods, &one).unwrap();
    let (second, two) = started(
        &pods,
        "second",
        &from(&pods, &archive.display().to_string()),
    );
    beyond(&pods, &two, stood);
    let after = peak(&pods);
    assert!(after < before + 32, "{before} MiB, then {after} MiB");
    assert_eq!(
        exec(&pods, &two, "sha256sum -c -s /sum && echo same"),
        "0: same"
    );
    take_away(&pods, &[&first, &second]);
}

fn again_and_again(env: &Env) {
    let pods = node(env);
    let (mut pod, mut container) = counter(&pods, "p0");
    exec(
        &pods,
        &container,
        "mkdir /made; echo 0 > /made/0; rm -r /etc; mkdir /etc",
    );
    for round in 1..3 {
        let archive = env.path(&format!("{round}.tar"));
        save(&pods, &container, &archive);
        let stood = count(&pods, &container).unwrap();
        pods.stop(&pod);
        pods.remove(&pod);
        (pod, container) = started(
            &pods,
            &format!("p{round}"),
            &from(&pods, &archive.display().to_string()),
        );
        beyond(&pods, &container, stood);
        exec(&pods, &container, &format!("echo {round} > /made/{round}"));
    }
    // Of all generations: also what the first one had deleted.
    let found = exec(
        &pods,
        &container,
        "cat /made/*; cat /kept; test -e /bin/ls || echo gone",
    );
    assert_eq!(found, "0: 0\n1\n2\nkept\ngone");
    let found = exec(&pods, &container, "test -e /etc/passwd || echo gone");
    assert_eq!(found, "0: gone");
    take_away(&pods, &[&pod]);
}

fn the_archive_is_what_others_read(env: &Env) {
    let pods = node(env);
    let (pod, one) = counter(&pods, "first");
    let directory = env.directory("checkpoints");
    let path = directory.join("checkpoint-first_default-count.tar");
    save(&pods, &one, &path);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        1,
        "nothing beside it"
    );
    let all = members(&path);
    let text = |wanted: &str| {
        let found = all.iter().find(|(name, _)| name == wanted);
        let found = found.unwrap_or_else(|| panic!("{wanted} is not in the archive"));
        String::from_utf8(found.1.clone()).unwrap()
    };
    let json = |name: &str| serde_json::from_str::<Value>(&text(name)).unwrap();
    let config = json("config.dump");
    let status = pods.status(&one);
    assert_eq!(config["id"], one.as_str());
    assert_eq!(config["rootfsImageRef"], status.image_ref.as_str());
    assert_eq!(config["rootfsImageName"], status.image.unwrap().image);
    assert!(config["checkpointedTime"].as_str().unwrap().ends_with('Z'));
    let spec = json("spec.dump");
    let notes = &spec["annotations"];
    assert_eq!(notes["io.kubernetes.cri.container-name"], "count");
    assert_eq!(notes["io.kubernetes.cri.sandbox-name"], "first");
    assert_eq!(json("status.dump")["metadata"]["name"], "count");
    assert_eq!(json("deleted.files"), json!(["/bin/ls"]));
    assert!(json("status")["Pid"].as_i64().unwrap() > 0);
    assert!(json("bind.mounts").is_array());
    assert!(text("container.log").contains("stdout F 1\n"));
    assert!(text("dump.log").contains("Dumping finished successfully"));
    for name in [
        "stats-dump",
        "checkpoint/inventory.img",
        "checkpoint/pages-1.img",
    ] {
        assert!(all.iter().any(|(there, _)| there == name), "{name}");
    }
    let changes = &all
        .iter()
        .find(|(name, _)| name == "rootfs-diff.tar")
        .unwrap()
        .1;
    let mut changes = tar::Archive::new(&**changes);
    let names: Vec<String> = changes
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.iter().any(|name| name == "kept"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains(".wh.")), "{names:?}");
    take_away(&pods, &[&pod]);
}

fn what_cannot_be_saved(env: &Env) {
    let pods = node(env);
    let (pod, one) = counter(&pods, "first");
    let directory = env.directory("checkpoints");
    let place = directory.join("a.tar").display().to_string();
    let node = &pods.node;
    let refused = |request, code| {
        let why = node.refused(node.runtime().checkpoint_container(request), code);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        why
    };
    refused(request(&"0".repeat(64), &place), Code::NotFound);
    for wrong in [
        "a.tar",
        "",
        "/",
        "/nonexistent/a.tar",
        "/tmp/../a.tar",
        "/proc/a.tar/",
    ] {
        refused(request(&one, wrong), Code::InvalidArgument);
    }
    let negative = cri::CheckpointContainerRequest {
        timeout: -1,
        ..request(&one, &place)
    };
    refused(negative, Code::InvalidArgument);
    let made = pods.create(&pod, &pods.container("made", "true"), &pods.pod("first"));
    let why = refused(request(&made, &place), Code::FailedPrecondition);
    assert!(why.contains("was not started"), "{why}");
    pods.start(&made);
    pods.ended(&made);
    let why = refused(request(&made, &place), Code::FailedPrecondition);
    assert!(why.contains("has ended"), "{why}");
    // What is there is not replaced.
    fs::write(&place, "precious").unwrap();
    let there = request(&one, &place);
    node.refused(
        node.runtime().checkpoint_container(there),
        Code::AlreadyExists,
    );
    assert_eq!(fs::read(&place).unwrap(), b"precious");
    fs::remove_file(&place).unwrap();
    // What criu cannot save goes on: a file of the host that is open.
    let stood = count(&pods, &one).unwrap();
    beyond(&pods, &one, stood + 2);
    assert_eq!(leftovers(&pods, &one), [""; 0].map(PathBuf::from));
    take_away(&pods, &[&pod]);
}

fn an_image_with_a_checkpoint(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "first");
    let path = env.path("one.tar");
    save(&pods, &one, &path);
    let stood = count(&pods, &one).unwrap();
    for (name, annotation) in [
        ("new", "org.criu.checkpoint.container.name"),
        ("old", "io.kubernetes.cri-o.annotations.checkpoint.name"),
    ] {
        let mut image = Image::new(&[fs::read(&path).unwrap()]);
        image.annotations = json!({annotation: "count"});
        pods.node.shelf.publish(name, &image);
        let image = pods.node.shelf.name(name);
        pods.node.ok(pods.node.images().pull_image(pull(&image)));
        let (pod, container) = started(&pods, name, &from(&pods, &image));
        beyond(&pods, &container, stood);
        let status = pods.status(&container);
        assert_eq!(status.image_ref, pods.status(&one).image_ref);
        // The name is the one that a kubelet knows.
        assert!(status.image.unwrap().image.starts_with(&image));
        pods.stop(&pod);
        pods.remove(&pod);
    }
    take_away(&pods, &[&first]);
}

fn a_terminal(env: &Env) {
    let pods = node(env);
    let mut config = pods.container("count", COUNTER);
    (config.tty, config.stdin) = (true, true);
    let (first, one) = started(&pods, "first", &config);
    let numbers = |container: &str| {
        let log = pods.log(&pods.status(container)).replace('\r', "");
        log.lines().rev().find_map(|line| line.parse::<u32>().ok())
    };
    let goes = |container: &str, than: u32| {
        process::until("the counter goes on", 20, || {
            numbers(container).filter(|n| *n > than)
        })
    };
    goes(&one, 3);
    let path = env.path("one.tar");
    save(&pods, &one, &path);
    let stood = numbers(&one).unwrap();
    goes(&one, stood + 2);
    let mut config = from(&pods, &path.display().to_string());
    (config.tty, config.stdin) = (true, true);
    let (second, two) = started(&pods, "second", &config);
    goes(&two, stood);
    take_away(&pods, &[&first, &second]);
}

fn a_caller_who_does_not_wait(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "first");
    let directory = env.directory("checkpoints");
    let place = directory.join("a.tar").display().to_string();
    for limit in [1, 30, 100] {
        let mut impatient = tonic::Request::new(request(&one, &place));
        impatient.set_timeout(Duration::from_millis(limit));
        let answer = pods
            .node
            .wait(pods.node.runtime().checkpoint_container(impatient));
        if answer.is_ok() {
            // It was fast.
            fs::remove_file(&place).unwrap();
        }
        process::until("nothing of it is left", 20, || {
            leftovers(&pods, &one).is_empty().then_some(())
        });
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        let stood = count(&pods, &one).unwrap();
        beyond(&pods, &one, stood + 2);
    }
    save(&pods, &one, Path::new(&place));
    take_away(&pods, &[&first]);
}

/// Kills the server in the middle of a request; `due` says when.
fn killed_during(
    pods: &Pods<'_>,
    call: impl Future<Output = ()> + Send + 'static,
    due: impl Fn() -> bool,
) {
    let calling = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(call);
    });
    process::until("it is in the middle of it", 20, || due().then_some(()));
    pods.node.kill();
    calling.join().unwrap();
    pods.node.start();
}

fn the_server_is_killed_while_it_saves(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "first");
    let directory = env.directory("checkpoints");
    for (round, wait) in ["order.json", "checkpoint/pages-1.img", "rootfs-diff.tar"]
        .iter()
        .enumerate()
    {
        let place = directory.join(format!("{round}.tar"));
        let saving = pods
            .node
            .shelf
            .path()
            .join("cri/containers")
            .join(&one)
            .join("saving");
        let sign = saving.join(wait);
        let request = request(&one, &place.display().to_string());
        let socket = pods.node.socket.clone();
        let call = async move {
            let wire = rcrun_cri::client::connect(&socket).await.unwrap();
            let origin = "http://localhost".parse().unwrap();
            let mut client =
                cri::runtime_service_client::RuntimeServiceClient::with_origin(wire, origin);
            let _ = client.checkpoint_container(request).await;
        };
        killed_during(&pods, call, || sign.exists() || place.exists());
        process::until("nothing of it is left", 30, || {
            leftovers(&pods, &one).is_empty().then_some(())
        });
        let left: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        let whole = place.file_name().unwrap();
        assert!(left.iter().all(|name| name == whole), "{left:?}");
        let _ = fs::remove_file(&place);
        let stood = count(&pods, &one).unwrap();
        beyond(&pods, &one, stood + 2);
    }
    save(&pods, &one, &directory.join("last.tar"));
    take_away(&pods, &[&first]);
}

fn the_server_is_killed_while_it_restores(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "first");
    let path = env.path("one.tar");
    save(&pods, &one, &path);
    let stood = count(&pods, &one).unwrap();
    for round in 0..3 {
        let name = format!("p{round}");
        let pod = pods.pod(&name);
        let id = pods.run(&pod);
        let config = from(&pods, &path.display().to_string());
        let two = pods.create(&id, &config, &pod);
        let monitors = env.rt.root.join(".cri/run/.monitors").join(&two);
        let socket = pods.node.socket.clone();
        let request = start_request(&two);
        let call = async move {
            let wire = rcrun_cri::client::connect(&socket).await.unwrap();
            let origin = "http://localhost".parse().unwrap();
            let mut client =
                cri::runtime_service_client::RuntimeServiceClient::with_origin(wire, origin);
            let _ = client.start_container(request).await;
        };
        let state = env.rt.root.join(".cri/run").join(&two);
        let due = || match round {
            0 => monitors.exists(),
            _ => state.exists(),
        };
        killed_during(&pods, call, due);
        // It goes on, or is to be started, or has ended: in any case it can be removed.
        match pods.status(&two).state() {
            cri::ContainerState::ContainerRunning => drop(beyond(&pods, &two, stood)),
            cri::ContainerState::ContainerCreated => {
                let mut client = pods.node.runtime();
                let request = start_request(&two);
                // A monitor that had only just begun may be in the way: then it has ended.
                match pods.node.wait(client.start_container(request)) {
                    Ok(_) => drop(beyond(&pods, &two, stood)),
                    Err(_) => drop(pods.ended(&two)),
                }
            }
            state => assert_eq!(state, cri::ContainerState::ContainerExited),
        }
        pods.stop(&id);
        pods.remove(&id);
    }
    take_away(&pods, &[&first]);
}
