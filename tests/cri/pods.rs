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
        test!(lists_are_filtered),
        test!(a_log_goes_on_in_a_new_file),
        test!(sweeps_and_checks_of_the_store_know_what_is_used),
        test!(a_server_that_comes_back_finds_everything),
        test!(what_happens_without_a_server_is_known_later),
        test!(ports_of_the_host_are_had_once_by_pods_and_containers),
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

fn lists_are_filtered(env: &Env) {
    let pods = Pods::new(env);
    let (one, two) = (pods.pod("one"), pods.pod("two"));
    let (first, second) = (pods.run(&one), pods.run(&two));
    pods.stop(&second);
    let list = |filter: cri::PodSandboxFilter| {
        let request = cri::ListPodSandboxRequest {
            filter: Some(filter),
        };
        let answer = pods.node.ok(pods.node.runtime().list_pod_sandbox(request));
        let mut ids: Vec<String> = answer.items.into_iter().map(|pod| pod.id).collect();
        ids.sort();
        ids
    };
    let mut both = vec![first.clone(), second.clone()];
    both.sort();
    assert_eq!(list(cri::PodSandboxFilter::default()), both);
    let with = |edit: &dyn Fn(&mut cri::PodSandboxFilter)| {
        let mut filter = cri::PodSandboxFilter::default();
        edit(&mut filter);
        list(filter)
    };
    assert_eq!(
        with(&|filter| filter.id = first[..13].to_owned()),
        [first.as_str()]
    );
    let ready = cri::PodSandboxStateValue {
        state: cri::PodSandboxState::SandboxReady.into(),
    };
    assert_eq!(with(&|filter| filter.state = Some(ready)), [first.as_str()]);
    let label = || ("app".to_owned(), "two".to_owned());
    assert_eq!(
        with(&|filter| filter.label_selector = [label()].into()),
        [second.as_str()]
    );

    let id = pods.create(&first, &pods.container("c", "true"), &one);
    let containers = |filter: cri::ContainerFilter| {
        let request = cri::ListContainersRequest {
            filter: Some(filter),
        };
        let answer = pods.node.ok(pods.node.runtime().list_containers(request));
        answer
            .containers
            .into_iter()
            .map(|one| one.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(containers(cri::ContainerFilter::default()), [id.as_str()]);
    let of = |pod: &str| cri::ContainerFilter {
        pod_sandbox_id: pod.to_owned(),
        ..Default::default()
    };
    assert_eq!(containers(of(&first)), [id]);
    assert!(containers(of(&second)).is_empty());
    pods.remove(&first);
    pods.remove(&second);
}

fn a_log_goes_on_in_a_new_file(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = "n=0; while :; do echo line $n; n=$((n+1)); sleep 0.01; done";
    let id = pods.create(&pod, &pods.container("c", script), &of_pod);
    pods.start(&id);
    let status = pods.status(&id);
    until(|| pods.log(&status).contains("line 5"));
    let old = format!("{}.1", status.log_path);
    std::fs::rename(&status.log_path, &old).unwrap();
    let request = || cri::ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    pods.node
        .ok(pods.node.runtime().reopen_container_log(request()));
    until(|| pods.log(&status).contains("line"));
    pods.stop_container(&id, 0);
    let text = std::fs::read_to_string(&old).unwrap()
        + &std::fs::read_to_string(&status.log_path).unwrap();
    for (number, line) in text.lines().enumerate() {
        assert!(
            line.ends_with(&format!(" stdout F line {number}")),
            "{line}"
        );
    }
    pods.node.refused(
        pods.node.runtime().reopen_container_log(request()),
        Code::FailedPrecondition,
    );
    pods.remove(&pod);
}

fn sweeps_and_checks_of_the_store_know_what_is_used(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let runs = pods.create(&pod, &pods.container("runs", "exec sleep 1000"), &of_pod);
    pods.start(&runs);
    let made = pods.create(
        &pod,
        &pods.container("made", "ls /bin | grep -c .; echo started"),
        &of_pod,
    );
    let shelf = &pods.node.shelf;
    shelf.ok(&["fsck"]);
    // All names are gone, and nobody has an image but the two.
    pods.node.remove(&shelf.name("app"));
    shelf.ok(&["prune", "--all", "--force"]);
    shelf.ok(&["fsck"]);
    pods.start(&made);
    let log = pods.log(&pods.ended(&made));
    assert!(log.ends_with("started\n") && log.len() > 9, "{log}");
    pods.stop_container(&runs, 0);
    pods.remove(&pod);
    shelf.ok(&["fsck"]);
    pods.assert_nothing_left();
}

fn a_server_that_comes_back_finds_everything(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let runs = pods.create(
        &pod,
        &pods.container("runs", "echo up; exec sleep 1000"),
        &of_pod,
    );
    pods.start(&runs);
    let made = pods.create(&pod, &pods.container("made", "echo started"), &of_pod);
    let (_, ended) = pods.finish(&pod, &of_pod, &pods.container("ended", "exit 5"));
    let before: Vec<_> = [&runs, &made, &ended.id].map(|id| pods.status(id)).into();
    let pod_before = pods.pod_status(&pod);
    pods.node.kill();
    pods.node.start();
    let after: Vec<_> = [&runs, &made, &ended.id].map(|id| pods.status(id)).into();
    assert_eq!(before, after);
    assert_eq!(pod_before, pods.pod_status(&pod));
    pods.start(&made);
    let status = pods.ended(&made);
    assert_eq!(pods.log(&status), "started\n");
    pods.stop_container(&runs, 0);
    assert_eq!(pods.status(&runs).exit_code, 137);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn what_happens_without_a_server_is_known_later(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let file = env.path("go");
    let script = format!(
        "until [ -e /go/{} ]; do sleep 0.01; done; echo bye; exit 9",
        "go"
    );
    let mut config = pods.container("c", &script);
    config.mounts = vec![cri::Mount {
        container_path: "/go".to_owned(),
        host_path: env.path("").display().to_string(),
        readonly: true,
        ..Default::default()
    }];
    let id = pods.create(&pod, &config, &of_pod);
    pods.start(&id);
    let log = pods.status(&id).log_path;
    pods.node.kill();
    std::fs::write(file, "").unwrap();
    until(|| std::fs::read_to_string(&log).is_ok_and(|text| text.contains("bye")));
    pods.node.start();
    let status = pods.ended(&id);
    assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"));
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !done() {
        assert!(Instant::now() < end, "it takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn now() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

fn ports_of_the_host_are_had_once_by_pods_and_containers(env: &Env) {
    let pods = Pods::new(env);
    let name = pods.node.shelf.name("app");
    let with = |pod: &str, host_port| {
        let mut config = pods.pod(pod);
        config.port_mappings = vec![cri::PortMapping {
            host_port,
            container_port: 80,
            ..Default::default()
        }];
        config
    };
    let run = |publish: &str, more: &[&str]| {
        let flags = ["run", "-d", "--network=bridge", "-p", publish];
        let command = [&flags, more, &[&*name, "sleep", "10000"]].concat();
        pods.node.shelf.call(&command)
    };
    let pod = pods.run(&with("one", 8080));
    let refused = run("127.0.0.1:8080:80", &[]);
    assert_eq!(refused.code, 125, "{refused}");
    let words = format!("port 127.0.0.1:8080/tcp of the host is taken by pod {pod}");
    assert!(refused.stderr.contains(&words), "{refused}");
    let hint = format!("`crictl inspectp {pod}`");
    assert!(refused.stderr.contains(&hint), "{refused}");
    let container = run("8090:80", &["--name=web"]).ok().stdout;
    let request = cri::RunPodSandboxRequest {
        config: Some(with("two", 8090)),
        runtime_handler: String::new(),
    };
    let runtime = || pods.node.runtime();
    let said = pods.node.refused(
        runtime().run_pod_sandbox(request.clone()),
        Code::AlreadyExists,
    );
    let words = format!(
        "port 8090/tcp of the host is taken by container {}",
        container.trim()
    );
    assert!(said.contains(&words), "{said}");
    // Who goes makes place.
    pods.node.shelf.ok(&["rm", "-f", "web"]);
    let two = pods.node.ok(runtime().run_pod_sandbox(request));
    pods.stop(&pod);
    run("8080:80", &["--name=web"]).ok();
    pods.node.shelf.ok(&["rm", "-f", "web"]);
    for pod in [pod, two.pod_sandbox_id] {
        pods.remove(&pod);
    }
    pods.assert_nothing_left();
}
