//! NRI: what plugins are told of pods and containers, in which order, and what becomes of what they want.
//!
//! The plugins are those of rcrun-nri's own tests: frames and calls written anew, on a thread of their own.

use crate::harness::nri::plugin::{Reply, answer, nothing};
use crate::harness::nri::{Events, Lab, Seen, find, refuse, until, watch};
use crate::harness::pods::{Pods, creation};
use crate::harness::{Env, Test, test};
use prost::Message;
use rcrun_cri::proto::v1 as cri;
use rcrun_nri::proto::v1alpha1 as nri;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(nothing_is_offered_unless_asked_for),
        test!(events_come_in_their_order),
        test!(plugins_see_what_there_is),
        test!(a_refused_pod_leaves_nothing),
        test!(a_refused_container_leaves_nothing),
        test!(a_refused_start_is_a_failed_one),
        test!(a_plugin_that_hangs_is_dropped),
        test!(another_server_tells_nothing_again),
    ]
}

fn nothing_is_offered_unless_asked_for(env: &Env) {
    let socket = env.path("nri.sock");
    let pods = Pods::with(env, &json!({"nri": {"socket": socket}}));
    assert!(!socket.exists());
    let pod = pods.run(&pods.pod("one"));
    pods.remove(&pod);
    pods.node.stop().ok();
}

fn events_come_in_their_order(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let mut plugin = lab.join("all", &[], |_, _| nothing());
    lab.heard(&mut plugin);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let (_, short) = pods.finish(&pod, &of_pod, &pods.container("short", "exit 3"));
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.clone(),
        resources: Some(cri::LinuxContainerResources::default()),
        ..Default::default()
    };
    let runtime = || pods.node.runtime();
    pods.node
        .ok(runtime().update_pod_sandbox_resources(request));
    let long = lab.sleep(&pod, &of_pod, "long");
    lab.update(
        &long,
        cri::LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        },
    );
    // Each is told once, however often it is asked for.
    pods.stop_container(&short.id, 0);
    pods.stop_container(&long, 0);
    pods.stop_container(&long, 0);
    pods.remove_container(&short.id);
    pods.remove_container(&short.id);
    pods.stop(&pod);
    pods.stop(&pod);
    pods.remove(&pod);
    pods.remove(&pod);
    let of = |id: &str, names: &[&str]| -> Events {
        let about = |name: &&str| ((*name).to_owned(), id.to_owned());
        names.iter().map(about).collect()
    };
    let made = [
        "CreateContainer",
        "ValidateContainerAdjustment",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
    ];
    let expected = [
        of(&pod, &["RunPodSandbox"]),
        of(&short.id, &made),
        of(&short.id, &["StopContainer"]),
        of(&pod, &["UpdatePodSandbox", "PostUpdatePodSandbox"]),
        of(&long, &made),
        of(
            &long,
            &["UpdateContainer", "PostUpdateContainer", "StopContainer"],
        ),
        of(&short.id, &["RemoveContainer"]),
        of(&pod, &["StopPodSandbox"]),
        of(&long, &["RemoveContainer"]),
        of(&pod, &["RemovePodSandbox"]),
    ];
    assert_eq!(lab.heard(&mut plugin), expected.concat());
    pods.assert_nothing_left();
}

fn plugins_see_what_there_is(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let seen = Seen::default();
    let _plugin = lab.join("eyes", &[], watch(&seen));
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let mut config = pods.container("c", "exit 3");
    config.annotations = [("a".to_owned(), "b".to_owned())].into();
    let (_, status) = pods.finish(&pod, &of_pod, &config);
    let addresses = [pods.pod_status(&pod).network.unwrap().ip];
    pods.remove(&pod);

    let told = find(&seen, "RunPodSandbox", &pod).pod.unwrap();
    assert_eq!(
        (told.name.as_str(), told.namespace.as_str()),
        ("one", "default")
    );
    assert_eq!(
        (told.uid.as_str(), &told.ips[..]),
        ("uid-one", &addresses[..])
    );
    assert_eq!(
        (&told.labels, &told.annotations),
        (&of_pod.labels, &of_pod.annotations)
    );
    let linux = told.linux.unwrap();
    assert_eq!(linux.cgroup_parent, of_pod.linux.unwrap().cgroup_parent);
    let network = linux.namespaces.iter().find(|one| one.r#type == "network");
    assert!(network.unwrap().path.ends_with("/net"), "{linux:?}");

    let created = find(&seen, "CreateContainer", &status.id)
        .container
        .unwrap();
    assert_eq!(created.state(), nri::ContainerState::ContainerUnknown);
    assert_eq!(
        (created.name.as_str(), created.pod_sandbox_id.as_str()),
        ("c", &*pod)
    );
    assert_eq!(created.args, ["sh", "-c", "exit 3"]);
    assert!(
        created.env.contains(&"A=image".to_owned()),
        "{:?}",
        created.env
    );
    assert!(
        created
            .mounts
            .iter()
            .any(|mount| mount.destination == "/proc")
    );
    assert_eq!(created.labels["container"], "c");
    assert_eq!(created.annotations["a"], "b");
    assert_eq!(created.image.unwrap().config_digest, status.image_id);

    let started = find(&seen, "StartContainer", &status.id).container.unwrap();
    assert_eq!(started.state(), nri::ContainerState::ContainerCreated);
    assert!(started.pid > 1, "{started:?}");
    let runs = find(&seen, "PostStartContainer", &status.id)
        .container
        .unwrap();
    assert_eq!(runs.state(), nri::ContainerState::ContainerRunning);
    assert_eq!(
        (runs.created_at, runs.started_at),
        (status.created_at, status.started_at)
    );
    for event in ["StopContainer", "RemoveContainer"] {
        let ended = find(&seen, event, &status.id).container.unwrap();
        assert_eq!(ended.state(), nri::ContainerState::ContainerStopped);
        assert_eq!(
            (ended.exit_code, ended.finished_at),
            (3, status.finished_at)
        );
        assert_eq!(ended.args, ["sh", "-c", "exit 3"]);
    }
}

fn a_refused_pod_leaves_nothing(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let mut plugin = lab.join("no", &[], refuse("RunPodSandbox"));
    lab.heard(&mut plugin);
    let of_pod = pods.pod("one");
    let request = || cri::RunPodSandboxRequest {
        config: Some(of_pod.clone()),
        runtime_handler: String::new(),
    };
    let result = pods
        .node
        .wait(pods.node.runtime().run_pod_sandbox(request()));
    let why = result.unwrap_err().message().to_owned();
    assert!(
        why.contains("cannot run the pod") && why.contains("not today"),
        "{why}"
    );
    let heard = lab.heard(&mut plugin).into_iter().map(|(name, _)| name);
    let expected = ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"];
    assert_eq!(heard.collect::<Vec<_>>(), expected);
    let list = cri::ListPodSandboxRequest::default();
    let all = pods.node.ok(pods.node.runtime().list_pod_sandbox(list));
    assert!(all.items.is_empty(), "{all:?}");
    pods.assert_nothing_left();
    // The name is free, and the plugin was not dropped.
    assert!(
        pods.node
            .wait(pods.node.runtime().run_pod_sandbox(request()))
            .is_err()
    );
    plugin.task.abort();
    until(
        || pods.node.log().contains("10-no is gone"),
        || pods.node.log(),
    );
    let pod = pods.run(&of_pod);
    pods.remove(&pod);
}

fn a_refused_container_leaves_nothing(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let config = pods.container("c", "exit 0");
    let create = || {
        let request = creation(&pod, &config, &of_pod);
        pods.node
            .wait(pods.node.runtime().create_container(request))
    };
    let validates = |method: &str, _: &[u8]| match method {
        "ValidateContainerAdjustment" => answer(&nri::ValidateContainerAdjustmentResponse {
            reject: true,
            reason: "not today".to_owned(),
        }),
        _ => nothing(),
    };
    // What no runtime could start: it fails after the plugins agreed.
    let impossible = |method: &str, _: &[u8]| match method {
        "CreateContainer" => answer(&nri::CreateContainerResponse {
            adjust: Some(nri::ContainerAdjustment {
                cdi_devices: vec![nri::CdiDevice {
                    name: "nobody.example/not-today=0".to_owned(),
                }],
                ..Default::default()
            }),
            ..Default::default()
        }),
        _ => nothing(),
    };
    type Handler = Box<dyn FnMut(&str, &[u8]) -> Reply + Send>;
    let handlers: [(&str, Handler); 3] = [
        ("refuses", Box::new(refuse("CreateContainer"))),
        ("validates", Box::new(validates)),
        ("impossible", Box::new(impossible)),
    ];
    for (name, handler) in handlers {
        let mut plugin = lab.join(name, &[], handler);
        lab.heard(&mut plugin);
        let why = create().unwrap_err().message().to_owned();
        assert!(
            why.contains("not today") || why.contains("not-today"),
            "{name}: {why}"
        );
        let heard = lab.heard(&mut plugin).into_iter().map(|(name, _)| name);
        let heard: Vec<_> = heard
            .filter(|name| name != "ValidateContainerAdjustment")
            .collect();
        let expected = ["CreateContainer", "StopContainer", "RemoveContainer"];
        assert_eq!(heard, expected, "{name}");
        for directory in ["cri/containers", "snapshots"] {
            let left = std::fs::read_dir(pods.node.shelf.path().join(directory)).unwrap();
            assert_eq!(left.count(), 0, "{name}: {directory}");
        }
        plugin.task.abort();
        let gone = format!("10-{name} is gone");
        until(|| pods.node.log().contains(&gone), || pods.node.log());
    }
    assert!(create().is_ok());
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn a_refused_start_is_a_failed_one(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let mut plugin = lab.join("no", &[], refuse("StartContainer"));
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let id = pods.create(&pod, &pods.container("c", "echo ran"), &of_pod);
    let request = || cri::StartContainerRequest {
        container_id: id.clone(),
    };
    let result = pods
        .node
        .wait(pods.node.runtime().start_container(request()));
    let why = result.unwrap_err().message().to_owned();
    assert!(
        why.contains("cannot start the container") && why.contains("not today"),
        "{why}"
    );
    let status = pods.status(&id);
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (128, "StartError")
    );
    assert_eq!((status.started_at, pods.log(&status)), (0, String::new()));
    pods.node.refused(
        pods.node.runtime().start_container(request()),
        Code::FailedPrecondition,
    );
    pods.remove(&pod);
    let heard = lab.heard(&mut plugin).into_iter();
    let heard: Vec<_> = heard
        .filter(|(_, about)| *about == id)
        .map(|(name, _)| name)
        .collect();
    let expected = [
        "CreateContainer",
        "ValidateContainerAdjustment",
        "PostCreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
    ];
    assert_eq!(heard, expected);
    pods.assert_nothing_left();
}

fn a_plugin_that_hangs_is_dropped(env: &Env) {
    let lab = Lab::with(env, 1);
    let pods = &lab.pods;
    let plugin = lab.join("deaf", &[], |method, _| match method {
        "Synchronize" => nothing(),
        _ => Reply::Silence,
    });
    let before = Instant::now();
    let (pod, _, id) = lab.sleeper("one");
    // It cost its time once.
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "{:?}",
        before.elapsed()
    );
    lab.runtime.block_on(plugin.end());
    assert_eq!(
        pods.status(&id).state(),
        cri::ContainerState::ContainerRunning
    );
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn another_server_tells_nothing_again(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let mut plugin = lab.join("all", &[], |_, _| nothing());
    let (pod, of_pod, runs) = lab.sleeper("one");
    let (_, ended) = pods.finish(&pod, &of_pod, &pods.container("ended", "exit 5"));
    let stopped = pods.run(&pods.pod("stopped"));
    pods.stop(&stopped);
    let before = lab.heard(&mut plugin);
    pods.node.kill();
    lab.runtime.block_on(plugin.end());
    pods.node.start();

    let state = Arc::new(Mutex::new(nri::SynchronizeRequest::default()));
    let told = Arc::clone(&state);
    let mut plugin = lab.join("all", &[], move |method, payload| {
        if method == "Synchronize" {
            *told.lock().unwrap() = nri::SynchronizeRequest::decode(payload).unwrap();
        }
        nothing()
    });
    lab.heard(&mut plugin);
    let state = state.lock().unwrap().clone();
    let mut there: Vec<_> = state.pods.iter().map(|pod| pod.id.clone()).collect();
    there.sort();
    let mut expected = vec![pod.clone(), stopped.clone()];
    expected.sort();
    assert_eq!(there, expected);
    let there: Vec<_> = state
        .containers
        .iter()
        .map(|one| (&*one.id, one.state()))
        .collect();
    assert_eq!(there, [(&*runs, nri::ContainerState::ContainerRunning)]);
    pods.remove(&stopped);
    pods.remove(&pod);
    let after = lab.heard(&mut plugin);
    let mut times: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in before.iter().chain(&after) {
        *times.entry(event.clone()).or_default() += 1;
    }
    times.retain(|(event, _), _| event.starts_with("Stop") || event.starts_with("Remove"));
    let mut expected = BTreeMap::new();
    for (kind, ids) in [
        ("Container", [&runs, &ended.id]),
        ("PodSandbox", [&pod, &stopped]),
    ] {
        for (event, id) in ["Stop", "Remove"]
            .iter()
            .flat_map(|event| ids.map(|id| (event, id)))
        {
            expected.insert((format!("{event}{kind}"), id.clone()), 1);
        }
    }
    assert_eq!(times, expected, "{before:?}\n{after:?}");
    pods.assert_nothing_left();
}
