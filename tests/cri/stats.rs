//! Statistics of containers and pods, as the kubelet's summary has them; limits that are changed.

use crate::harness::pods::Pods;
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use std::time::{Duration, Instant};
use tonic::Code;

const MEBIBYTE: u64 = 1 << 20;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(what_a_container_uses),
        test!(what_a_container_writes),
        test!(what_a_pod_uses),
        test!(devices_count_without_a_container),
        test!(who_has_ended_uses_nothing),
        test!(statistics_are_filtered),
        test!(many_pods_are_told_quickly).timeout(600),
    ]
}

pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "it takes too long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn resources(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    let linux = config.linux.get_or_insert_default();
    linux.resources.get_or_insert_default()
}

#[track_caller]
pub(super) fn stats(pods: &Pods, container: &str) -> cri::ContainerStats {
    let request = cri::ContainerStatsRequest {
        container_id: container.to_owned(),
    };
    let answer = pods.node.ok(pods.node.runtime().container_stats(request));
    answer.stats.unwrap()
}

#[track_caller]
fn of_pod(pods: &Pods, pod: &str) -> cri::LinuxPodSandboxStats {
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: pod.to_owned(),
    };
    let answer = pods.node.ok(pods.node.runtime().pod_sandbox_stats(request));
    answer.stats.unwrap().linux.unwrap()
}

#[track_caller]
pub(super) fn value(value: Option<cri::UInt64Value>) -> u64 {
    value.expect("there is a figure").value
}

fn now() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap()
}

fn what_a_container_uses(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let mut config = pods.container("c", "while :; do :; done");
    let limits = resources(&mut config);
    limits.cpu_period = 100_000;
    limits.cpu_quota = 20_000;
    limits.memory_limit_in_bytes = 64 << 20;
    let id = pods.create(&pod, &config, &of_pod);
    pods.start(&id);
    let before = now();
    let first = stats(&pods, &id);
    let attributes = first.attributes.unwrap();
    assert_eq!(
        (attributes.id, attributes.metadata),
        (id.clone(), config.metadata)
    );
    assert_eq!(attributes.labels, config.labels);
    let first = first.cpu.unwrap();
    assert!(first.timestamp >= before && first.timestamp <= now());
    std::thread::sleep(Duration::from_secs(2));
    let second = stats(&pods, &id);
    let cpu = second.cpu.unwrap();
    let used = value(cpu.usage_core_nano_seconds) - value(first.usage_core_nano_seconds);
    let time = u64::try_from(cpu.timestamp - first.timestamp).unwrap();
    // A fifth of a processor, less where the machine is busy.
    let rate = value(cpu.usage_nano_cores);
    assert!((1_000_000..300_000_000).contains(&rate), "{rate}");
    let expected = used * 1_000_000_000 / time;
    assert!(rate.abs_diff(expected) <= 2, "{rate} {expected}");
    let memory = second.memory.unwrap();
    let (usage, set) = (value(memory.usage_bytes), value(memory.working_set_bytes));
    assert!((4096..64 * MEBIBYTE).contains(&usage), "{usage}");
    assert!(set > 0 && set <= usage, "{set} {usage}");
    assert_eq!(value(memory.available_bytes), 64 * MEBIBYTE - set);
    assert!(value(memory.rss_bytes) <= usage);
    assert!(value(memory.page_faults) >= value(memory.major_page_faults));
    assert!(value(memory.page_faults) > 0);
    pods.remove(&pod);
}

fn what_a_container_writes(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let write = |name: &str, count: u64| {
        format!("dd if=/dev/zero of=/{name} bs=1M count={count} 2>/dev/null; touch /{name}-done; ")
    };
    let script = format!("{}sleep 2; {}sleep 1000", write("a", 1), write("b", 5));
    let id = pods.create(&pod, &pods.container("c", &script), &of_pod);
    pods.start(&id);
    let layer = || stats(&pods, &id).writable_layer;
    until("its files are measured", || layer().is_some());
    let first = layer().unwrap();
    assert_eq!(
        first.fs_id.unwrap().mountpoint,
        pods.node.shelf.path().display().to_string()
    );
    assert!(first.timestamp > 0 && value(first.inodes_used) >= 1);
    let bytes = || value(layer().unwrap().used_bytes);
    until("it has grown", || bytes() >= 6 * MEBIBYTE);
    let last = layer().unwrap();
    assert!(last.timestamp > first.timestamp);
    assert!(value(last.used_bytes) < 8 * MEBIBYTE, "{last:?}");
    assert!((5..12).contains(&value(last.inodes_used)), "{last:?}");
    pods.remove(&pod);
}

fn what_a_pod_uses(env: &Env) {
    let pods = Pods::new(env);
    let config = pods.pod("one");
    let pod = pods.run(&config);
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let script =
            "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000 & sleep 1000 & wait";
        let id = pods.create(&pod, &pods.container(name, script), &config);
        pods.start(&id);
        ids.push(id);
    }
    until("all processes are there", || {
        of_pod(&pods, &pod)
            .process
            .is_some_and(|all| value(all.process_count) == 6)
    });
    let found = of_pod(&pods, &pod);
    let mut containers: Vec<_> = found
        .containers
        .iter()
        .map(|one| one.attributes.clone().unwrap().id)
        .collect();
    containers.sort();
    ids.sort();
    assert_eq!(containers, ids);
    let cpu =
        |usage: &Option<cri::CpuUsage>| value(usage.as_ref().unwrap().usage_core_nano_seconds);
    let parts: u64 = found.containers.iter().map(|one| cpu(&one.cpu)).sum();
    assert!(parts > 0);
    // It was read first.
    let whole = cpu(&of_pod(&pods, &pod).cpu);
    assert!(whole >= parts, "{whole} {parts}");
    let memory = |memory: &Option<cri::MemoryUsage>| value(memory.as_ref().unwrap().usage_bytes);
    let largest = found.containers.iter().map(|one| memory(&one.memory)).max();
    assert!(memory(&found.memory) >= largest.unwrap());
    pods.remove(&pod);
}

fn devices_count_without_a_container(env: &Env) {
    let pods = Pods::new(env);
    let pod = pods.run(&pods.pod("one"));
    let mut in_node = pods.pod("two");
    let options = crate::harness::pods::pod_security(&mut in_node)
        .namespace_options
        .get_or_insert_default();
    options.network = cri::NamespaceMode::Node.into();
    let other = pods.run(&in_node);
    let eth0 = || {
        let network = of_pod(&pods, &pod).network.unwrap();
        let default = network.default_interface.unwrap();
        assert_eq!(default.name, "eth0");
        assert!(network.interfaces.contains(&default));
        (value(default.rx_bytes), value(default.tx_bytes))
    };
    let before = eth0();
    let ip = pods.pod_status(&pod).network.unwrap().ip;
    for _ in 0..20 {
        let refused = std::net::TcpStream::connect((ip.as_str(), 9)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let after = eth0();
    // Each of them is a packet of at least 54 bytes in both directions.
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        assert!(
            (20 * 54..1 << 20).contains(&(after - before)),
            "{before} {after}"
        );
    }
    // The node's devices are not a pod's.
    assert_eq!(of_pod(&pods, &other).network, None);
    pods.stop(&pod);
    assert_eq!(of_pod(&pods, &pod).network, None);
    pods.remove(&pod);
    pods.remove(&other);
    pods.assert_nothing_left();
}

fn who_has_ended_uses_nothing(env: &Env) {
    let pods = Pods::new(env);
    let config = pods.pod("one");
    let pod = pods.run(&config);
    let script = "dd if=/dev/zero of=/a bs=1M count=2 2>/dev/null";
    let (_, ended) = pods.finish(&pod, &config, &pods.container("c", script));
    let found = stats(&pods, &ended.id);
    assert_eq!(found.attributes.unwrap().id, ended.id);
    assert_eq!((found.cpu, found.memory, found.swap), (None, None, None));
    let written = value(found.writable_layer.unwrap().used_bytes);
    assert!((2 * MEBIBYTE..3 * MEBIBYTE).contains(&written), "{written}");
    assert!(of_pod(&pods, &pod).containers.is_empty());
    // It is in the list nevertheless: the kubelet wants to know what its files take.
    assert_eq!(
        listed(&pods, cri::ContainerStatsFilter::default()),
        [ended.id.as_str()]
    );
    pods.remove_container(&ended.id);
    assert!(listed(&pods, cri::ContainerStatsFilter::default()).is_empty());
    let request = cri::ContainerStatsRequest {
        container_id: ended.id,
    };
    let runtime = || pods.node.runtime();
    pods.node
        .refused(runtime().container_stats(request), Code::NotFound);
    pods.remove(&pod);
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: pod,
    };
    pods.node
        .refused(runtime().pod_sandbox_stats(request), Code::NotFound);
}

/// 500 pods are to be told in 100 ms (`RCRUN_TEST_FULL=1`, and a binary that is optimized).
fn many_pods_are_told_quickly(env: &Env) {
    const ROUNDS: u32 = 10;
    let count = if crate::harness::full() { 500 } else { 20 };
    let pods = Pods::new(env);
    for number in 0..count {
        let config = pods.pod(&format!("p{number}"));
        let pod = pods.run(&config);
        let id = pods.create(&pod, &pods.container("c", "exec sleep 1000"), &config);
        pods.start(&id);
    }
    let node = &pods.node;
    let mut client = node.runtime().max_decoding_message_size(64 << 20);
    let mut measured = |what: &str, mut call: Box<dyn FnMut(&mut crate::harness::cri::Runtime)>| {
        call(&mut client);
        let times: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let begun = Instant::now();
                call(&mut client);
                begun.elapsed()
            })
            .collect();
        let (least, sum) = (times.iter().min().unwrap(), times.iter().sum::<Duration>());
        let text = format!(
            "{what}: {count} pods, least {least:?}, mean {:?}",
            sum / ROUNDS
        );
        println!("{text}");
        // Also without optimization, where the machine has more to do.
        assert!(
            *least < Duration::from_millis(5) * count + Duration::from_millis(50),
            "{text}"
        );
    };
    measured(
        "ListPodSandboxStats",
        Box::new(|client| {
            let request = cri::ListPodSandboxStatsRequest::default();
            let found = node.ok(client.list_pod_sandbox_stats(request)).stats;
            assert_eq!(found.len(), count as usize);
            let whole = |one: &cri::PodSandboxStats| {
                let linux = one.linux.as_ref().unwrap();
                linux.network.is_some() && linux.containers.len() == 1
            };
            assert!(found.iter().all(whole));
        }),
    );
    measured(
        "ListPodSandboxMetrics",
        Box::new(|client| {
            let request = cri::ListPodSandboxMetricsRequest {};
            let found = node.ok(client.list_pod_sandbox_metrics(request));
            assert_eq!(found.pod_metrics.len(), count as usize);
        }),
    );
    let request = cri::ListPodSandboxRequest::default();
    let all = node.ok(node.runtime().list_pod_sandbox(request)).items;
    for pod in all {
        pods.remove(&pod.id);
    }
}

#[track_caller]
fn listed(pods: &Pods, filter: cri::ContainerStatsFilter) -> Vec<String> {
    let filter = Some(filter);
    let ids = |all: Vec<cri::ContainerStats>| -> Vec<String> {
        let all = all.into_iter().map(|one| one.attributes.unwrap().id);
        all.collect()
    };
    let request = cri::ListContainerStatsRequest {
        filter: filter.clone(),
    };
    let node = &pods.node;
    let found = ids(node.ok(node.runtime().list_container_stats(request)).stats);
    let request = cri::StreamContainerStatsRequest { filter };
    let mut stream = node.ok(node.runtime().stream_container_stats(request));
    let mut streamed = Vec::new();
    while let Some(piece) = node.wait(stream.message()).unwrap() {
        streamed.extend(ids(piece.container_stats));
    }
    assert_eq!(found, streamed);
    found
}

#[track_caller]
fn listed_pods(pods: &Pods, filter: cri::PodSandboxStatsFilter) -> Vec<String> {
    let filter = Some(filter);
    let ids = |all: Vec<cri::PodSandboxStats>| -> Vec<String> {
        let all = all.into_iter().map(|one| one.attributes.unwrap().id);
        all.collect()
    };
    let request = cri::ListPodSandboxStatsRequest {
        filter: filter.clone(),
    };
    let node = &pods.node;
    let found = ids(node
        .ok(node.runtime().list_pod_sandbox_stats(request))
        .stats);
    let request = cri::StreamPodSandboxStatsRequest { filter };
    let mut stream = node.ok(node.runtime().stream_pod_sandbox_stats(request));
    let mut streamed = Vec::new();
    while let Some(piece) = node.wait(stream.message()).unwrap() {
        streamed.extend(ids(piece.pod_sandbox_stats));
    }
    assert_eq!(found, streamed);
    found
}

fn statistics_are_filtered(env: &Env) {
    let pods = Pods::new(env);
    let (one, two) = (pods.pod("one"), pods.pod("two"));
    let (first, second) = (pods.run(&one), pods.run(&two));
    let a = pods.create(&first, &pods.container("a", "sleep 1000"), &one);
    let b = pods.create(&second, &pods.container("b", "sleep 1000"), &two);
    let mut both = vec![a.clone(), b.clone()];
    both.sort();
    let with = |edit: &dyn Fn(&mut cri::ContainerStatsFilter)| {
        let mut filter = cri::ContainerStatsFilter::default();
        edit(&mut filter);
        listed(&pods, filter)
    };
    let label = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
    assert_eq!(with(&|_| {}), both);
    assert_eq!(with(&|filter| filter.id = a[..13].to_owned()), [a.as_str()]);
    assert_eq!(
        with(&|filter| filter.pod_sandbox_id = second[..13].to_owned()),
        [b.as_str()]
    );
    assert_eq!(
        with(&|filter| filter.label_selector = label("container", "b").into()),
        [b.as_str()]
    );
    assert!(with(&|filter| filter.label_selector = label("container", "c").into()).is_empty());
    assert!(
        with(&|filter| {
            filter.id.clone_from(&a);
            filter.pod_sandbox_id.clone_from(&second);
        })
        .is_empty()
    );
    let of_pods = |edit: &dyn Fn(&mut cri::PodSandboxStatsFilter)| {
        let mut filter = cri::PodSandboxStatsFilter::default();
        edit(&mut filter);
        listed_pods(&pods, filter)
    };
    assert_eq!(of_pods(&|_| {}).len(), 2);
    assert_eq!(
        of_pods(&|filter| filter.id = first[..13].to_owned()),
        [first.as_str()]
    );
    assert_eq!(
        of_pods(&|filter| filter.label_selector = label("app", "two").into()),
        [second.as_str()]
    );
    pods.remove(&first);
    pods.remove(&second);
}
