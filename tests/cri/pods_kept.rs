//! What is known of pods by others, and later: lists, logs, sweeps, another server, people's containers.

use super::pods::until;
use crate::harness::pods::Pods;
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(lists_are_filtered),
        test!(a_log_goes_on_in_a_new_file),
        test!(sweeps_and_checks_of_the_store_know_what_is_used),
        test!(a_server_that_comes_back_finds_everything),
        test!(what_happens_without_a_server_is_known_later),
        test!(ports_of_the_host_are_had_once_by_pods_and_containers),
    ]
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
