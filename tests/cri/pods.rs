//! Pods and containers from their making to their removal.

use crate::harness::pods::{Pods, creation, pod_security};
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_pod_lives_and_leaves_nothing),
        test!(a_container_lives_and_leaves_nothing),
        test!(containers_of_a_pod_share_what_they_should),
        test!(what_is_there_is_not_made_twice),
        test!(what_is_not_there_cannot_be_used),
        test!(stopping_asks_and_then_kills),
        test!(ends_have_codes_and_reasons),
        test!(a_pod_takes_its_containers_along),
        test!(processes_are_shared_where_asked_for),
        test!(processes_are_shared_in_a_user_namespace),
        test!(a_dead_init_makes_the_pod_unready),
    ]
}

fn a_pod_lives_and_leaves_nothing(env: &Env) {
    let pods = Pods::new(env);
    let config = pods.pod("one");
    let id = pods.run(&config);
    let status = pods.pod_status(&id);
    assert_eq!(status.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, config.metadata);
    assert_eq!(
        (status.labels, status.annotations),
        (config.labels, config.annotations)
    );
    let ip = status.network.unwrap().ip;
    assert!(ip.starts_with("10.137."), "{ip}");
    pods.stop(&id);
    pods.stop(&id);
    let status = pods.pod_status(&id);
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
    assert_eq!(status.network.unwrap().ip, "");
    pods.remove(&id);
    pods.remove(&id);
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id,
        verbose: false,
    };
    let runtime = || pods.node.runtime();
    pods.node
        .refused(runtime().pod_sandbox_status(request), Code::NotFound);
    pods.assert_nothing_left();
}

fn a_container_lives_and_leaves_nothing(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let config = pods.container(
        "c",
        "echo hello; echo $A $HOSTNAME; hostname; exec sleep 1000",
    );
    let before = now();
    let id = pods.create(&pod, &config, &of_pod);
    let status = pods.status(&id);
    assert_eq!(status.state(), cri::ContainerState::ContainerCreated);
    assert_eq!(
        (status.started_at, status.finished_at, status.exit_code),
        (0, 0, 0)
    );
    assert!(status.created_at >= before);
    assert!(status.image_id.starts_with("sha256:"), "{status:?}");
    pods.start(&id);
    let status = pods.status(&id);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(status.started_at >= status.created_at);
    until(|| pods.log(&status).contains("one\none\n"));
    assert_eq!(pods.log(&status), "hello\nimage one\none\n");
    pods.stop_container(&id, 0);
    let status = pods.status(&id);
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert!(status.finished_at >= status.started_at);
    // Again is no error.
    pods.stop_container(&id, 10);
    pods.remove_container(&id);
    pods.remove_container(&id);
    let request = cri::ContainerStatusRequest {
        container_id: id,
        verbose: false,
    };
    pods.node.refused(
        pods.node.runtime().container_status(request),
        Code::NotFound,
    );
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn containers_of_a_pod_share_what_they_should(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; \
                  cat /dev/shm/word 2>/dev/null; echo first >/dev/shm/word; cat /etc/hostname";
    let (one, _) = pods.finish(&pod, &of_pod, &pods.container("a", script));
    let (two, _) = pods.finish(&pod, &of_pod, &pods.container("b", script));
    let (one, two): (Vec<_>, Vec<_>) = (one.lines().collect(), two.lines().collect());
    assert_eq!(one[..3], two[..3]);
    assert_eq!((one[5], two[5], two[6]), ("one", "first", "one"));
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    for (name, line) in ["net", "ipc", "uts", "pid", "mnt"].iter().zip(&one) {
        assert_ne!(own(name).to_str().unwrap(), *line);
    }
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn what_is_there_is_not_made_twice(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let request = cri::RunPodSandboxRequest {
        config: Some(of_pod.clone()),
        runtime_handler: String::new(),
    };
    let runtime = || pods.node.runtime();
    pods.node.refused(
        runtime().run_pod_sandbox(request.clone()),
        Code::AlreadyExists,
    );
    let config = pods.container("c", "true");
    let id = pods.create(&pod, &config, &of_pod);
    let again = creation(&pod, &config, &of_pod);
    pods.node
        .refused(runtime().create_container(again), Code::AlreadyExists);
    // Another attempt is another container.
    let mut second = config.clone();
    second.metadata.as_mut().unwrap().attempt = 1;
    pods.create(&pod, &second, &of_pod);
    pods.remove_container(&id);
    pods.create(&pod, &config, &of_pod);
    pods.remove(&pod);
    // The name is free again.
    let pod = pods.run(&of_pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn what_is_not_there_cannot_be_used(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let runtime = || pods.node.runtime();
    let mut config = pods.container("c", "true");
    let nowhere = creation("feedface", &config, &of_pod);
    pods.node
        .refused(runtime().create_container(nowhere), Code::NotFound);
    config.image.as_mut().unwrap().image = pods.node.shelf.name("other");
    let missing = creation(&pod, &config, &of_pod);
    let why = pods
        .node
        .refused(runtime().create_container(missing), Code::NotFound);
    assert!(why.contains("is not here"), "{why}");
    let request = cri::StartContainerRequest {
        container_id: "feedface".to_owned(),
    };
    pods.node
        .refused(runtime().start_container(request), Code::NotFound);
    pods.stop(&pod);
    let config = pods.container("c", "true");
    let late = creation(&pod, &config, &of_pod);
    pods.node
        .refused(runtime().create_container(late), Code::FailedPrecondition);
    let request = cri::RunPodSandboxRequest {
        config: Some(pods.pod("two")),
        runtime_handler: "kata".to_owned(),
    };
    pods.node
        .refused(runtime().run_pod_sandbox(request), Code::InvalidArgument);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn stopping_asks_and_then_kills(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = "trap 'echo asked; exit 3' TERM; echo up; while :; do sleep 0.01; done";
    let id = pods.create(&pod, &pods.container("polite", script), &of_pod);
    pods.start(&id);
    until(|| pods.log(&pods.status(&id)).contains("up"));
    pods.stop_container(&id, 60);
    let status = pods.status(&id);
    assert_eq!(
        (status.exit_code, pods.log(&status).as_str()),
        (3, "up\nasked\n")
    );

    let script = "trap '' TERM; echo up; while :; do sleep 0.01; done";
    let id = pods.create(&pod, &pods.container("deaf", script), &of_pod);
    pods.start(&id);
    until(|| pods.log(&pods.status(&id)).contains("up"));
    let begun = Instant::now();
    pods.stop_container(&id, 1);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(pods.status(&id).exit_code, 137);

    // One that was never started.
    let id = pods.create(&pod, &pods.container("idle", "true"), &of_pod);
    pods.stop_container(&id, 60);
    assert_eq!(
        pods.status(&id).state(),
        cri::ContainerState::ContainerExited
    );
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn ends_have_codes_and_reasons(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    for (name, script, code, reason) in [
        ("good", "exit 0", 0, "Completed"),
        ("bad", "exit 42", 42, "Error"),
    ] {
        let (_, status) = pods.finish(&pod, &of_pod, &pods.container(name, script));
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
    }
    let mut hungry = pods.container("hungry", "x=a; while :; do x=$x$x; done");
    hungry.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..Default::default()
    });
    let (_, status) = pods.finish(&pod, &of_pod, &hungry);
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled")
    );

    let mut missing = pods.container("missing", "");
    missing.command = vec!["/no/such/program".to_owned()];
    let request = creation(&pod, &missing, &of_pod);
    let runtime = || pods.node.runtime();
    match pods.node.wait(runtime().create_container(request)) {
        Err(status) => assert!(status.message().contains("/no/such/program"), "{status:?}"),
        Ok(answer) => {
            let id = answer.into_inner().container_id;
            let request = cri::StartContainerRequest {
                container_id: id.clone(),
            };
            let refused = pods
                .node
                .wait(runtime().start_container(request))
                .unwrap_err();
            assert!(
                refused.message().contains("/no/such/program"),
                "{refused:?}"
            );
            let status = pods.ended(&id);
            assert_eq!(
                (status.exit_code, status.reason.as_str()),
                (128, "StartError")
            );
            assert!(status.message.contains("/no/such/program"), "{status:?}");
        }
    }
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn a_pod_takes_its_containers_along(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let running = pods.create(&pod, &pods.container("runs", "exec sleep 1000"), &of_pod);
    pods.start(&running);
    let made = pods.create(&pod, &pods.container("made", "true"), &of_pod);
    pods.stop(&pod);
    for id in [&running, &made] {
        let status = pods.status(id);
        assert_eq!(
            status.state(),
            cri::ContainerState::ContainerExited,
            "{status:?}"
        );
    }
    pods.remove(&pod);
    pods.assert_nothing_left();
    // Without being stopped before.
    let pod = pods.run(&of_pod);
    let running = pods.create(&pod, &pods.container("runs", "exec sleep 1000"), &of_pod);
    pods.start(&running);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn shared(pods: &Pods<'_>, name: &str) -> cri::PodSandboxConfig {
    let mut config = pods.pod(name);
    let options = pod_security(&mut config)
        .namespace_options
        .as_mut()
        .unwrap();
    options.pid = cri::NamespaceMode::Pod.into();
    config
}

fn processes_are_shared_where_asked_for(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = shared(&pods, "one");
    let pod = pods.run(&of_pod);
    let config = pods.container("a", "exec sleep 1234");
    let with = |config: &mut cri::ContainerConfig| {
        let security = crate::harness::pods::security(config);
        security.namespace_options = Some(cri::NamespaceOption {
            pid: cri::NamespaceMode::Pod.into(),
            ..Default::default()
        });
    };
    let mut first = config.clone();
    with(&mut first);
    let id = pods.create(&pod, &first, &of_pod);
    pods.start(&id);
    let mut second = pods.container(
        "b",
        "sleep 0.1; cat /proc/1/comm; ps | grep -c 'sleep 123[4]'",
    );
    with(&mut second);
    let (log, _) = pods.finish(&pod, &of_pod, &second);
    assert_eq!(log, "rcrun\n1\n");
    // What is orphaned goes to the pod's init, which leaves no zombies.
    let mut third = pods.container(
        "c",
        "sh -c 'sleep 0.05 & true'; sleep 0.3; ps | grep -c '[Z] '",
    );
    with(&mut third);
    let (log, _) = pods.finish(&pod, &of_pod, &third);
    assert_eq!(log, "0\n");
    pods.stop_container(&id, 0);
    assert_eq!(
        pods.pod_status(&pod).state(),
        cri::PodSandboxState::SandboxReady
    );
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// The pod's root is nobody outside, and may not pass the store's directories.
fn processes_are_shared_in_a_user_namespace(env: &Env) {
    let pods = Pods::new(env);
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(pods.node.shelf.path(), closed).unwrap();
    let map = vec![cri::IdMapping {
        host_id: 100_000,
        container_id: 0,
        length: 65_536,
    }];
    let options = cri::NamespaceOption {
        pid: cri::NamespaceMode::Pod.into(),
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: map.clone(),
            gids: map,
        }),
        ..Default::default()
    };
    let mut of_pod = shared(&pods, "one");
    pod_security(&mut of_pod).namespace_options = Some(options.clone());
    let pod = pods.run(&of_pod);
    let mut config = pods.container("c", "cat /proc/1/comm; head -n 1 /proc/1/uid_map");
    crate::harness::pods::security(&mut config).namespace_options = Some(options);
    let (log, _) = pods.finish(&pod, &of_pod, &config);
    let words: Vec<&str> = log.split_whitespace().collect();
    assert_eq!(words, ["rcrun", "0", "100000", "65536"]);
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn a_dead_init_makes_the_pod_unready(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = shared(&pods, "one");
    let pod = pods.run(&of_pod);
    let state = env.rt.root.join(".cri/run").join(&pod).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(state["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until(|| pods.pod_status(&pod).state() == cri::PodSandboxState::SandboxNotready);
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

pub(super) fn until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !done() {
        assert!(Instant::now() < end, "it takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn now() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}
