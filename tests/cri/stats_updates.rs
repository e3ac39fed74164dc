//! Limits that are changed while containers run, and what the kernel has of them.

use super::stats::{resources, stats, value};
use crate::harness::pods::Pods;
use crate::harness::{Env, Test, cgroup, test};
use rcrun_cri::proto::v1 as cri;
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(limits_of_a_container_are_changed),
        test!(limits_of_an_ended_container_are_not_changed),
        test!(limits_of_a_pod_are_changed),
    ]
}

fn update(id: &str, limits: cri::LinuxContainerResources) -> cri::UpdateContainerResourcesRequest {
    cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(limits),
        ..Default::default()
    }
}

fn limits_of_a_container_are_changed(env: &Env) {
    let pods = Pods::new(env);
    let config = pods.pod("one");
    let pod = pods.run(&config);
    let mut container = pods.container("c", "sleep 1000");
    let limits = resources(&mut container);
    limits.cpu_shares = 512;
    limits.memory_limit_in_bytes = 64 << 20;
    let id = pods.create(&pod, &container, &config);
    let file = |controller: &str, v1: &str, v2: &str| {
        let place = format!("{}/one/{id}", pods.cgroup.trim_start_matches('/'));
        let path = match cgroup::v1(controller) {
            Some(point) => point.join(place).join(v1),
            None => std::path::Path::new("/sys/fs/cgroup").join(place).join(v2),
        };
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let memory = || file("memory", "memory.limit_in_bytes", "memory.max");
    let change = |limits| {
        pods.node.ok(pods
            .node
            .runtime()
            .update_container_resources(update(&id, limits)))
    };
    assert_eq!(memory(), (64 << 20).to_string());
    // One that was made, and then one that runs.
    for limit in [96_u64 << 20, 128 << 20] {
        change(cri::LinuxContainerResources {
            memory_limit_in_bytes: i64::try_from(limit).unwrap(),
            ..Default::default()
        });
        assert_eq!(memory(), limit.to_string());
        if limit == 96 << 20 {
            pods.start(&id);
        }
    }
    change(cri::LinuxContainerResources {
        cpu_shares: 2048,
        cpu_period: 50_000,
        cpu_quota: 10_000,
        ..Default::default()
    });
    let told = || pods.status(&id).resources.unwrap().linux.unwrap();
    let expected = (2048, 50_000, 10_000, 128 << 20);
    let of = |told: cri::LinuxContainerResources| {
        (
            told.cpu_shares,
            told.cpu_period,
            told.cpu_quota,
            told.memory_limit_in_bytes,
        )
    };
    assert_eq!(of(told()), expected);
    if cgroup::v1("cpu").is_some() {
        assert_eq!(file("cpu", "cpu.shares", ""), "2048");
        assert_eq!(file("cpu", "cpu.cfs_quota_us", ""), "10000");
        assert_eq!(file("cpu", "cpu.cfs_period_us", ""), "50000");
    } else {
        assert_eq!(file("cpu", "", "cpu.max"), "10000 50000");
    }
    assert_eq!(
        value(stats(&pods, &id).memory.unwrap().available_bytes) >> 20,
        127
    );
    // The next server knows it too.
    pods.node.kill();
    pods.node.start();
    assert_eq!(of(told()), expected);
    // What cannot be is refused, and changes nothing.
    let wrong = cri::LinuxContainerResources {
        cpu_shares: -5,
        ..Default::default()
    };
    let request = update(&id, wrong);
    pods.node.refused(
        pods.node.runtime().update_container_resources(request),
        Code::InvalidArgument,
    );
    assert_eq!(of(told()), expected);
    pods.remove(&pod);
}

fn limits_of_an_ended_container_are_not_changed(env: &Env) {
    let pods = Pods::new(env);
    let config = pods.pod("one");
    let pod = pods.run(&config);
    let (_, ended) = pods.finish(&pod, &config, &pods.container("c", "true"));
    let runtime = || pods.node.runtime();
    let limits = || cri::LinuxContainerResources {
        cpu_shares: 512,
        ..Default::default()
    };
    for (request, code) in [
        (update(&ended.id, limits()), Code::FailedPrecondition),
        (update("none", limits()), Code::NotFound),
        (
            cri::UpdateContainerResourcesRequest {
                container_id: ended.id.clone(),
                ..Default::default()
            },
            Code::InvalidArgument,
        ),
    ] {
        pods.node
            .refused(runtime().update_container_resources(request), code);
    }
    assert_eq!(pods.status(&ended.id), ended);
    pods.remove(&pod);
}

fn limits_of_a_pod_are_changed(env: &Env) {
    let pods = Pods::new(env);
    let pod = pods.run(&pods.pod("one"));
    let request = |id: &str| cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.to_owned(),
        overhead: None,
        resources: Some(cri::LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        }),
    };
    let runtime = || pods.node.runtime();
    pods.node
        .ok(runtime().update_pod_sandbox_resources(request(&pod)));
    // A server that comes back knows the pod as it was changed.
    pods.node.kill();
    pods.node.start();
    assert_eq!(
        pods.pod_status(&pod).state(),
        cri::PodSandboxState::SandboxReady
    );
    pods.node
        .ok(runtime().update_pod_sandbox_resources(request(&pod)));
    pods.stop(&pod);
    for (id, code) in [
        (pod.as_str(), Code::FailedPrecondition),
        ("none", Code::NotFound),
    ] {
        let request = request(id);
        pods.node
            .refused(runtime().update_pod_sandbox_resources(request), code);
    }
    pods.remove(&pod);
}
