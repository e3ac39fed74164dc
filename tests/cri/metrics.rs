//! Metrics: of pods and containers, in place of the kubelet's own; of the server, for Prometheus.

use super::stats::{resources, until};
use crate::harness::cri::Node;
use crate::harness::pods::Pods;
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(every_metric_is_described),
        test!(figures_of_a_container),
        test!(figures_of_a_pod),
        test!(kills_for_want_of_memory_are_counted),
        test!(who_does_not_run_has_no_metrics),
        test!(the_server_counts_its_requests),
        test!(the_server_counts_pulls_and_pods),
        test!(the_page_is_for_this_machine_only),
        test!(scrapers_have_limits),
    ]
}

/// What a kubelet's own cAdvisor tells, and dashboards ask for: below `container_`, by what comes after it.
const NAMES: &[&str] = &[
    "blkio_device_usage_total",
    "cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total",
    "cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total",
    "file_descriptors",
    "fs_inodes_free fs_inodes_total fs_limit_bytes fs_usage_bytes",
    "fs_reads_bytes_total fs_reads_total fs_writes_bytes_total fs_writes_total",
    "hugetlb_max_usage_bytes hugetlb_usage_bytes",
    "last_seen",
    "memory_cache memory_failcnt memory_failures_total memory_kernel_usage memory_mapped_file",
    "memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes memory_working_set_bytes",
    "network_receive_bytes_total network_receive_errors_total",
    "network_receive_packets_dropped_total network_receive_packets_total",
    "network_transmit_bytes_total network_transmit_errors_total",
    "network_transmit_packets_dropped_total network_transmit_packets_total",
    "oom_events_total",
    "pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total",
    "pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total",
    "pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total",
    "processes sockets threads threads_max ulimits_soft",
    "spec_cpu_period spec_cpu_quota spec_cpu_shares",
    "spec_memory_limit_bytes spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes",
    "start_time_seconds",
];
/// Those that not every machine has figures of: accounts of block devices, huge pages.
const OF_SOME: [&str; 3] = ["blkio_device_usage", "hugetlb_", "fs_"];

fn names() -> Vec<String> {
    let all = NAMES.iter().flat_map(|line| line.split(' '));
    all.map(|name| format!("container_{name}")).collect()
}

#[track_caller]
fn described(node: &Node) -> BTreeMap<String, cri::MetricDescriptor> {
    let request = cri::ListMetricDescriptorsRequest {};
    let answer = node.ok(node.runtime().list_metric_descriptors(request));
    let all = answer.descriptors.into_iter();
    all.map(|one| (one.name.clone(), one)).collect()
}

#[track_caller]
fn metrics(pods: &Pods) -> Vec<cri::PodSandboxMetrics> {
    let node = &pods.node;
    let request = cri::ListPodSandboxMetricsRequest {};
    node.ok(node.runtime().list_pod_sandbox_metrics(request))
        .pod_metrics
}

/// Of the one container of the one pod there is.
#[track_caller]
fn of_container(pods: &Pods) -> Vec<cri::Metric> {
    let mut all = metrics(pods);
    assert_eq!((all.len(), all[0].container_metrics.len()), (1, 1));
    all.remove(0).container_metrics.remove(0).metrics
}

#[track_caller]
fn figure(metrics: &[cri::Metric], name: &str, label: &str) -> u64 {
    let wanted = |one: &&cri::Metric| {
        one.name.strip_prefix("container_") == Some(name)
            && (label.is_empty() || one.label_values[5..].iter().any(|value| value == label))
    };
    let found: Vec<_> = metrics.iter().filter(wanted).collect();
    assert_eq!(found.len(), 1, "{name} {label}: {found:?}");
    found[0].value.unwrap().value
}

fn sleeper(pods: &Pods, script: &str) -> (String, String) {
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let mut config = pods.container("c", script);
    let limits = resources(&mut config);
    limits.cpu_period = 100_000;
    limits.cpu_quota = 20_000;
    limits.cpu_shares = 1024;
    limits.memory_limit_in_bytes = 64 << 20;
    limits.memory_swap_limit_in_bytes = 64 << 20;
    let id = pods.create(&pod, &config, &of_pod);
    pods.start(&id);
    (pod, id)
}

fn every_metric_is_described(env: &Env) {
    let pods = Pods::new(env);
    let described = described(&pods.node);
    let (pod, _) = sleeper(&pods, "sleep 1000");
    let all = metrics(&pods);
    let mut told = BTreeSet::new();
    let of_containers = all[0].container_metrics.iter().flat_map(|one| &one.metrics);
    for metric in all[0].metrics.iter().chain(of_containers) {
        let about = &described[&metric.name];
        assert_eq!(
            metric.label_values.len(),
            about.label_keys.len(),
            "{metric:?}"
        );
        assert!(metric.value.is_some(), "{metric:?}");
        told.insert(metric.name.clone());
    }
    for name in names() {
        let about = described
            .get(&name)
            .unwrap_or_else(|| panic!("{name} is not described"));
        assert!(
            !about.help.is_empty() && !about.label_keys.is_empty(),
            "{name}"
        );
        let of_some = OF_SOME.iter().any(|part| name.contains(part));
        assert!(told.contains(&name) || of_some, "{name} is not told");
    }
    // The same, in pieces.
    let request = cri::StreamPodSandboxMetricsRequest {};
    let node = &pods.node;
    let mut stream = node.ok(node.runtime().stream_pod_sandbox_metrics(request));
    let mut streamed = Vec::new();
    while let Some(piece) = node.wait(stream.message()).unwrap() {
        streamed.extend(piece.pod_sandbox_metrics);
    }
    let names = |all: &[cri::PodSandboxMetrics]| -> BTreeSet<String> {
        let inner = all.iter().flat_map(|one| &one.container_metrics);
        let inner = inner.flat_map(|one| &one.metrics);
        let outer = all.iter().flat_map(|one| &one.metrics);
        inner.chain(outer).map(|one| one.name.clone()).collect()
    };
    assert_eq!(streamed.len(), 1);
    assert!(names(&streamed).is_superset(&names(&all)));
    pods.remove(&pod);
}

fn figures_of_a_container(env: &Env) {
    let pods = Pods::new(env);
    let script = "dd if=/dev/zero of=/a bs=1M count=3 2>/dev/null; sleep 1000 & sleep 1000 & wait";
    let (pod, id) = sleeper(&pods, script);
    until("all processes are there", || {
        figure(&of_container(&pods), "processes", "") == 3
    });
    let all = of_container(&pods);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let mebibyte = 1 << 20;
    for (name, least, most) in [
        ("threads", 3, 3),
        ("threads_max", 0, 1 << 22),
        ("file_descriptors", 9, 60),
        ("sockets", 0, 0),
        ("spec_cpu_period", 100_000, 100_000),
        ("spec_cpu_quota", 20_000, 20_000),
        ("spec_cpu_shares", 1024, 1024),
        ("spec_memory_limit_bytes", 64 * mebibyte, 64 * mebibyte),
        ("spec_memory_reservation_limit_bytes", 0, 0),
        ("memory_usage_bytes", 4096, 64 * mebibyte),
        ("memory_working_set_bytes", 4096, 64 * mebibyte),
        ("memory_max_usage_bytes", 4096, 64 * mebibyte),
        ("memory_rss", 4096, 8 * mebibyte),
        ("memory_cache", 0, 16 * mebibyte),
        ("memory_kernel_usage", 0, 16 * mebibyte),
        ("memory_swap", 0, mebibyte),
        ("memory_failcnt", 0, 0),
        ("oom_events_total", 0, 0),
        ("cpu_usage_seconds_total", 0, 5),
        ("cpu_cfs_periods_total", 0, 1000),
        ("fs_inodes_free", 0, u64::MAX),
        ("fs_limit_bytes", 64 * mebibyte, u64::MAX),
        ("last_seen", now - 1, now),
        ("start_time_seconds", now - 30, now),
        ("ulimits_soft", 16, 1 << 30),
        ("pressure_memory_stalled_seconds_total", 0, 1),
    ] {
        let found = figure(&all, name, "");
        assert!(
            (least..=most).contains(&found),
            "{name}: {found} is not in {least}..={most}"
        );
    }
    assert!(figure(&all, "ulimits_soft", "max_open_files") >= 16);
    let faults = |scope: &str| {
        let wanted = |one: &&cri::Metric| {
            one.name.ends_with("failures_total") && one.label_values[5..] == ["pgfault", scope]
        };
        all.iter().find(wanted).unwrap().value.unwrap().value
    };
    assert!(faults("container") > 10 && faults("hierarchy") >= faults("container"));
    // Measured at most so often.
    until("what it wrote is measured", || {
        figure(&of_container(&pods), "fs_usage_bytes", "") >= 3 * mebibyte
    });
    let image = pods.node.shelf.name("app");
    for metric in &all {
        assert_eq!(
            metric.label_values[..5],
            ["one", "default", "c", id.as_str(), image.as_str()],
            "{metric:?}"
        );
        let gauge = metric.metric_type() == cri::MetricType::Gauge;
        let total = metric.name.ends_with("_total") && !metric.name.contains("inodes");
        assert!(!gauge || !total, "{metric:?}");
        // What was measured before says when.
        let usage = metric.name == "container_fs_usage_bytes";
        assert_eq!(metric.timestamp != 0, usage, "{metric:?}");
    }
    pods.remove(&pod);
}

fn figures_of_a_pod(env: &Env) {
    let pods = Pods::new(env);
    let pod = pods.run(&pods.pod("one"));
    let read = || metrics(&pods).remove(0);
    let before = read();
    assert_eq!(before.pod_sandbox_id, pod);
    assert!(before.container_metrics.is_empty());
    let ip = pods.pod_status(&pod).network.unwrap().ip;
    for _ in 0..10 {
        TcpStream::connect((ip.as_str(), 9)).unwrap_err();
    }
    let after = read();
    for (name, least) in [
        ("network_receive_packets_total", 10),
        ("network_receive_bytes_total", 540),
        ("network_transmit_packets_total", 10),
        ("network_transmit_bytes_total", 540),
    ] {
        let of = |one: &cri::PodSandboxMetrics| figure(&one.metrics, name, "eth0");
        let grown = of(&after) - of(&before);
        assert!((least..100_000).contains(&grown), "{name}: {grown}");
    }
    for name in [
        "receive_errors",
        "receive_packets_dropped",
        "transmit_errors",
    ] {
        let name = format!("network_{name}_total");
        assert_eq!(figure(&after.metrics, &name, "eth0"), 0, "{name}");
    }
    for metric in &after.metrics {
        let expected = ["one", "default", "", pod.as_str(), ""];
        assert_eq!(metric.label_values[..5], expected, "{metric:?}");
    }
    pods.remove(&pod);
    assert!(metrics(&pods).is_empty());
}

fn kills_for_want_of_memory_are_counted(env: &Env) {
    let pods = Pods::new(env);
    // The shell outlives what it starts.
    let (pod, _) = sleeper(&pods, "tail /dev/zero; sleep 1000");
    until("somebody is killed", || {
        figure(&of_container(&pods), "oom_events_total", "") == 1
    });
    let all = of_container(&pods);
    assert!(figure(&all, "memory_max_usage_bytes", "") > 60 << 20);
    pods.remove(&pod);
}

fn who_does_not_run_has_no_metrics(env: &Env) {
    let pods = Pods::new(env);
    let config = pods.pod("one");
    let pod = pods.run(&config);
    let made = pods.create(&pod, &pods.container("made", "sleep 1000"), &config);
    pods.finish(&pod, &config, &pods.container("ended", "true"));
    assert!(metrics(&pods)[0].container_metrics.is_empty());
    pods.start(&made);
    assert_eq!(metrics(&pods)[0].container_metrics[0].container_id, made);
    pods.stop(&pod);
    assert!(metrics(&pods).is_empty());
    pods.remove(&pod);
}

/// An address where nobody listens, in a network of the test's own.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[track_caller]
fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // The answer may come before all was sent.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[track_caller]
fn page(address: SocketAddr) -> String {
    let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    body.to_owned()
}

#[track_caller]
fn series(page: &str, name: &str) -> f64 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in\n{page}"))
        .parse()
        .unwrap()
}

fn the_server_counts_its_requests(env: &Env) {
    let address = free();
    let node = Node::with(
        env,
        Default::default(),
        json!({"metrics_address": address.to_string()}),
    );
    for _ in 0..3 {
        node.ok(node.runtime().version(cri::VersionRequest::default()));
    }
    let request = cri::PodSandboxStatusRequest::default();
    node.refused(
        node.runtime().pod_sandbox_status(request),
        tonic::Code::NotFound,
    );
    let page = page(address);
    let requests = |method: &str, code: &str| {
        series(
            &page,
            &format!("rcrun_cri_requests_total{{method=\"{method}\",code=\"{code}\"}}"),
        )
    };
    assert_eq!(requests("Version", "OK"), 3.0);
    assert_eq!(requests("PodSandboxStatus", "NOT_FOUND"), 1.0);
    let duration =
        |rest: &str| series(&page, &format!("rcrun_cri_request_duration_seconds_{rest}"));
    assert_eq!(duration("count{method=\"Version\"}"), 3.0);
    assert_eq!(duration("bucket{method=\"Version\",le=\"+Inf\"}"), 3.0);
    assert!(duration("sum{method=\"Version\"}") < 3.0);
    assert!((1e6..1e9).contains(&series(&page, "process_resident_memory_bytes")));
    assert!((1.0..200.0).contains(&series(&page, "process_threads")));
    assert!((3.0..200.0).contains(&series(&page, "process_open_fds")));
    assert!(page.contains("rcrun_build_info{version=\""), "{page}");
}

fn the_server_counts_pulls_and_pods(env: &Env) {
    let address = free();
    let pods = Pods::with(env, &json!({"metrics_address": address.to_string()}));
    let node = &pods.node;
    let none = crate::harness::cri::pull(&node.shelf.name("none"));
    node.refused(node.images().pull_image(none), tonic::Code::NotFound);
    let config = pods.pod("one");
    let pod = pods.run(&config);
    let id = pods.create(&pod, &pods.container("c", "sleep 1000"), &config);
    pods.finish(&pod, &config, &pods.container("ended", "true"));
    let listening = node.ok(node
        .runtime()
        .get_container_events(cri::GetEventsRequest {}));
    let first = page(address);
    for (name, value) in [
        ("rcrun_cri_image_pulls_total{code=\"OK\"}", 1.0),
        ("rcrun_cri_image_pulls_total{code=\"NOT_FOUND\"}", 1.0),
        ("rcrun_cri_image_pull_duration_seconds_count", 2.0),
        ("rcrun_cri_pods{state=\"ready\"}", 1.0),
        ("rcrun_cri_pods{state=\"not_ready\"}", 0.0),
        ("rcrun_cri_containers{state=\"created\"}", 1.0),
        ("rcrun_cri_containers{state=\"running\"}", 0.0),
        ("rcrun_cri_containers{state=\"exited\"}", 1.0),
        ("rcrun_cri_event_listeners", 1.0),
        ("rcrun_cri_event_listeners_dropped_total", 0.0),
        ("rcrun_cri_monitors_lost_total", 0.0),
    ] {
        assert_eq!(series(&first, name), value, "{name}");
    }
    // The base root file system, compressed.
    let pulled = series(&first, "rcrun_cri_image_pull_bytes_total");
    assert!((1e5..1e8).contains(&pulled), "{pulled}");
    assert!(series(&first, "rcrun_store_bytes{part=\"images\"}") > 1e5);
    drop(listening);
    pods.start(&id);
    pods.stop(&pod);
    let second = page(address);
    assert_eq!(series(&second, "rcrun_cri_pods{state=\"not_ready\"}"), 1.0);
    assert_eq!(
        series(&second, "rcrun_cri_containers{state=\"exited\"}"),
        2.0
    );
    assert!(series(&second, "process_cpu_seconds_total") > 0.0);
    pods.remove(&pod);
}

fn the_page_is_for_this_machine_only(env: &Env) {
    let node = Node::prepare(env, Default::default());
    for address in ["0.0.0.0:9710", "[::]:9710", "10.0.0.1:9710"] {
        node.configure(json!({"metrics_address": address}));
        node.shelf
            .call(&["serve"])
            .fails()
            .says("set cri.metrics_beyond_loopback");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    node.configure(json!({"metrics_address": address}));
    node.shelf.call(&["serve"]).fails().says(&format!(
        "cannot listen on {address}, the setting cri.metrics_address"
    ));
    assert!(!node.socket.exists());
    drop(taken);
    let everywhere = format!("0.0.0.0:{}", address.rsplit_once(':').unwrap().1);
    node.configure(json!({"metrics_address": everywhere, "metrics_beyond_loopback": true}));
    node.start();
    node.ok(node.runtime().version(cri::VersionRequest::default()));
    page(address.parse().unwrap());
}

fn scrapers_have_limits(env: &Env) {
    let address = free();
    let node = Node::with(
        env,
        Default::default(),
        json!({"metrics_address": address.to_string()}),
    );
    // Then it listens.
    node.ok(node.runtime().version(cri::VersionRequest::default()));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        (
            "POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 405 ",
        ),
        ("HELO me\r\n\r\n", "HTTP/1.1 400 "),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let answer = ask(address, request);
        assert!(answer.starts_with(status), "{request}: {answer}");
    }
    let head = ask(address, "HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.ends_with("Connection: close\r\n\r\n"), "{head}");
    assert_eq!(
        ask(address, &"a".repeat(100_000)),
        "",
        "a head without an end"
    );
    // Those who say nothing have all the places, and the next one has none.
    let silent: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    until("all places are taken", || {
        ask(address, "GET /metrics HTTP/1.1\r\n\r\n").is_empty()
    });
    node.ok(node.runtime().version(cri::VersionRequest::default()));
    drop(silent);
    until("there are places again", || {
        ask(address, "GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200")
    });
}
