//! Known vulnerabilities of servers like this one, each as an attack that must fail. Numbers are those of the
//! project's catalogue; what of its groups c and f is not here stands where its subject is: c1 `probes`, c2 and f6 `streams` and cri/streaming, c4 `oci::cves_escape`, c5 `people::copies`, f1 to f3, f7 and
//! what of c6 is pure in cri/src/spec and cri/network. There is no c7: nothing here runs a tool in a container's view.

use crate::harness::attack::Canary;
use crate::harness::cri::Node;
use crate::harness::pods::{Pods, creation};
use crate::harness::process;
use crate::harness::streaming::resident;
use crate::harness::{Env, Test, full, test};
use rcrun_cri::client::Wire;
use rcrun_cri::proto::v1 as cri;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::{Service as _, http};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(c3_the_monitor_outlives_what_runs_out_of_memory),
        test!(c6_logs_through_links_and_pipes),
        test!(c7_figures_follow_and_run_nothing),
        test!(f4_identifiers_are_no_paths),
        test!(f5_methods_with_bytes_that_are_nearly_right).timeout(1800),
    ]
}

/// CVE-2019-14891: what keeps a container's log and end is killed with it, or before.
fn c3_the_monitor_outlives_what_runs_out_of_memory(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    // The first takes one child after the other with it; the second dies itself.
    let mut first = pods.container(
        "first",
        "echo before; sh -c 'x=a; while :; do x=$x$x; done'; echo after; exec sleep 4321",
    );
    let limits = cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..Default::default()
    };
    first.linux.as_mut().unwrap().resources = Some(limits.clone());
    let id = pods.create(&pod, &first, &of_pod);
    pods.start(&id);
    let log = pods.logs("one").join(&first.log_path);
    process::until("the end of the child", 20, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("after").then_some(())
    });
    let monitors: Vec<i32> = process::all()
        .into_iter()
        .filter(|(_, _, what)| what.contains("monitor") && what.contains(&id))
        .map(|(pid, _, _)| pid)
        .collect();
    assert_eq!(monitors.len(), 1, "{:?}", process::all());
    let read =
        |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", monitors[0])).unwrap();
    let score: i32 = read("oom_score_adj").trim().parse().unwrap();
    // Who may lower it: CAP_SYS_RESOURCE is not everywhere.
    match std::fs::write("/proc/self/oom_score_adj", "-999") {
        Ok(()) => {
            std::fs::write("/proc/self/oom_score_adj", "0").unwrap();
            assert!(score <= -999, "{score}");
        }
        Err(error) => println!("skipped: oom_score_adj of the monitor: {error}"),
    }
    let groups = read("cgroup");
    assert!(!groups.contains(&id), "{groups}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("before") && text.contains("after"), "{text}");
    let mut second = pods.container("second", "echo before; x=a; while :; do x=$x$x; done");
    second.linux.as_mut().unwrap().resources = Some(limits);
    let (_, status) = pods.finish(&pod, &of_pod, &second);
    assert_eq!(status.reason, "OOMKilled");
    let text = std::fs::read_to_string(pods.logs("one").join(&second.log_path)).unwrap();
    assert!(text.contains("before"), "{text}");
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// CVE-2025-0750, CVE-2026-53489: a log that leads elsewhere, planted before the container is made, and before its log
/// is opened anew.
fn c6_logs_through_links_and_pipes(env: &Env) {
    let pods = Pods::new(env);
    let victim = env.path("victim");
    std::fs::write(&victim, "precious\n").unwrap();
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let logs = pods.logs("one");
    std::fs::create_dir_all(&logs).unwrap();
    let fifo = |path: &std::path::Path| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
    };
    for (name, pipe) in [("link", false), ("pipe", true)] {
        let config = pods.container(name, "echo from-the-container");
        let log = logs.join(&config.log_path);
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        match pipe {
            true => fifo(&log),
            false => symlink(&victim, &log).unwrap(),
        }
        let begun = Instant::now();
        let runtime = || pods.node.runtime();
        let made = pods
            .node
            .wait(runtime().create_container(creation(&pod, &config, &of_pod)));
        let status = made.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let words = format!("{}: it is not a regular file", log.display());
        assert!(status.message().contains(&words), "{status:?}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{name}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious\n", "{name}");
        std::fs::remove_file(&log).unwrap();
    }
    // While it runs, when the log is opened anew.
    let config = pods.container(
        "turn",
        "while :; do echo from-the-container; sleep 0.05; done",
    );
    let id = pods.create(&pod, &config, &of_pod);
    pods.start(&id);
    let log = logs.join(&config.log_path);
    let reopen = || {
        let request = cri::ReopenContainerLogRequest {
            container_id: id.clone(),
        };
        pods.node
            .wait(pods.node.runtime().reopen_container_log(request))
    };
    for pipe in [false, true] {
        std::fs::remove_file(&log).unwrap();
        match pipe {
            true => fifo(&log),
            false => symlink(&victim, &log).unwrap(),
        }
        let status = reopen().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious\n");
    }
    std::fs::remove_file(&log).unwrap();
    reopen().unwrap();
    process::until("a line in the log", 10, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("from-the-container").then_some(())
    });
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// CVE-2022-1227, CVE-2023-0778: what is told of a container is not found by its programs, nor through its links.
fn c7_figures_follow_and_run_nothing(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    // On the host, where a link of the container would lead if somebody followed it there.
    let big = env.directory("big");
    std::fs::write(big.join("file"), vec![1; 32 << 20]).unwrap();
    let script = format!(
        "mkdir /usr/bin; for p in ps du df; do echo 'touch /pwned' >/usr/bin/$p; chmod +x /usr/bin/$p; \
         cp /usr/bin/$p /bin/$p; done; mkdir /d; while :; do ln -s {0} /d/x; rm /d/x; mkdir /d/x; rmdir /d/x; \
         n=$((n+1)); echo $n >/d/count; done",
        big.display()
    );
    let id = pods.create(&pod, &pods.container("c", &script), &of_pod);
    pods.start(&id);
    let upper = pods.node.shelf.path().join("snapshots");
    let count = || {
        let find = std::process::Command::new("find")
            .arg(&upper)
            .args(["-path", "*/d/count"])
            .output();
        let found = String::from_utf8(find.unwrap().stdout).unwrap();
        let text = std::fs::read_to_string(found.trim()).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    process::until("the attack", 10, || (count() > 0).then_some(()));
    let traced = env.path("strace.log");
    for _ in 0..if full() { 200 } else { 5 } {
        // A new server knows no sizes yet.
        pods.node.kill();
        pods.node.start();
        let begun = count();
        let mut strace = std::process::Command::new("strace");
        strace.args([
            "-I",
            "2",
            "-f",
            "-e",
            "trace=execve",
            "-p",
            &pods.node.pid().to_string(),
        ]);
        let tracer = env.rt.spawn({
            strace.arg("-o").arg(&traced);
            strace
        });
        process::until("the tracer", 10, || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", pods.node.pid()));
            (!status.unwrap().contains("TracerPid:\t0\n")).then_some(())
        });
        let used = process::until("the size", 10, || {
            let request = cri::ContainerStatsRequest {
                container_id: id.clone(),
            };
            let stats = pods
                .node
                .ok(pods.node.runtime().container_stats(request))
                .stats;
            let layer = stats.unwrap().writable_layer?;
            (count() > begun).then(|| layer.used_bytes.unwrap().value)
        });
        assert!(used < 1 << 20, "{used} bytes");
        let list = cri::ListPodSandboxStatsRequest::default();
        pods.node
            .ok(pods.node.runtime().list_pod_sandbox_stats(list));
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(tracer.pid()).unwrap(),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        env.rt.finish(tracer);
        let text = std::fs::read_to_string(&traced).unwrap();
        assert!(!text.contains("execve("), "{text}");
    }
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// Identifiers that would be paths, patterns or too much.
fn strange() -> Vec<String> {
    let mut all: Vec<String> = [
        "..",
        "../..",
        "../../etc",
        "/",
        "/etc/passwd",
        ".",
        "./",
        "a/b",
        "a\\b",
        "*",
        "?",
        "%2e%2e",
        "..%2f",
        "\n",
        "a\nb",
        "\0",
        "a\0b",
        " ",
        "-",
        "--all",
        "-f",
        "~",
        "$HOME",
        "`id`",
        "{}",
        "é",
        "\u{202e}",
        "con",
        ".new-1",
        "exit",
        "pod.json",
        "lock",
    ]
    .map(str::to_owned)
    .into();
    for length in [63, 64, 65, 255, 256, 4096, 1 << 20] {
        all.push("a".repeat(length));
        all.push("../".repeat(length / 3 + 1));
    }
    all
}

fn f4_identifiers_are_no_paths(env: &Env) {
    let pods = Pods::new(env);
    let canary = Canary::plant(&env.path("canary"));
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let node = &pods.node;
    for id in strange() {
        let short: String = id.chars().take(40).collect();
        let refused = |code: Code| {
            let known = matches!(code, Code::NotFound | Code::InvalidArgument);
            assert!(known, "{short:?}: {code:?}");
        };
        let (pod_sandbox_id, container_id) = (id.clone(), id.clone());
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose: true,
        };
        let answer = node.wait(node.runtime().pod_sandbox_status(request));
        refused(answer.unwrap_err().code());
        let request = cri::ContainerStatusRequest {
            container_id,
            verbose: true,
        };
        let answer = node.wait(node.runtime().container_status(request));
        refused(answer.unwrap_err().code());
        let request = cri::StartContainerRequest {
            container_id: id.clone(),
        };
        let answer = node.wait(node.runtime().start_container(request));
        refused(answer.unwrap_err().code());
        let request = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: vec!["true".to_owned()],
            timeout: 1,
        };
        let answer = node.wait(node.runtime().exec_sync(request));
        refused(answer.unwrap_err().code());
        let request = cri::PortForwardRequest {
            pod_sandbox_id: id.clone(),
            port: vec![80],
        };
        let answer = node.wait(node.runtime().port_forward(request));
        refused(answer.unwrap_err().code());
        let config = pods.container("c", "true");
        let answer = node.wait(
            node.runtime()
                .create_container(creation(&id, &config, &of_pod)),
        );
        refused(answer.unwrap_err().code());
        // What is not there is gone already; nothing is done about it.
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.clone(),
        };
        let answer = node.wait(node.runtime().remove_pod_sandbox(request));
        answer
            .map(|_| ())
            .unwrap_or_else(|status| refused(status.code()));
        let request = cri::RemoveContainerRequest {
            container_id: id.clone(),
        };
        let answer = node.wait(node.runtime().remove_container(request));
        answer
            .map(|_| ())
            .unwrap_or_else(|status| refused(status.code()));
        // Names that a kubelet gives are words, whatever they look like: no path is made of them.
        let mut named = pods.pod("two");
        let metadata = named.metadata.as_mut().unwrap();
        metadata.name.clone_from(&id);
        metadata.uid.clone_from(&id);
        let request = cri::RunPodSandboxRequest {
            config: Some(named),
            runtime_handler: String::new(),
        };
        if let Ok(made) = node.wait(node.runtime().run_pod_sandbox(request)) {
            pods.remove(&made.into_inner().pod_sandbox_id);
        }
    }
    canary.is_intact();
    assert!(pods.pod_status(&pod).state() == cri::PodSandboxState::SandboxReady);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// Bytes as a message, once.
struct Once(Option<Vec<u8>>);

impl hyper::body::Body for Once {
    type Data = hyper::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        let frame = self
            .0
            .take()
            .map(|bytes| Ok(hyper::body::Frame::data(bytes.into())));
        std::task::Poll::Ready(frame)
    }
}

/// Calls a method with a body of one's own; the head of the answer.
fn call(node: &Node<'_>, wire: &mut Wire, method: &str, message: &[u8]) -> Option<u16> {
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(message);
    let request = http::Request::builder()
        .method("POST")
        .uri(format!("http://localhost/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "2S")
        .body(Body::new(Once(Some(body))))
        .unwrap();
    let answer = node.wait(wire.call(request));
    answer.ok().map(|answer| answer.status().as_u16())
}

/// All of the interface, as they stand in paths.
fn methods() -> Vec<String> {
    let text = include_str!("../../cri/proto/api.proto");
    let mut service = "";
    let mut methods = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("service ") {
            service = rest.split(' ').next().unwrap();
        } else if let Some(rest) = line.strip_prefix("rpc ") {
            let name = rest.split('(').next().unwrap();
            methods.push(format!("runtime.v1.{service}/{name}"));
        }
    }
    methods
}

fn f5_methods_with_bytes_that_are_nearly_right(env: &Env) {
    use prost::Message as _;
    let pods = Pods::new(env);
    let node = &pods.node;
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let config = pods.container("c", "exec sleep 4321");
    let id = pods.create(&pod, &config, &of_pod);
    let seeds = [
        cri::RunPodSandboxRequest {
            config: Some(of_pod.clone()),
            runtime_handler: String::new(),
        }
        .encode_to_vec(),
        creation(&pod, &config, &of_pod).encode_to_vec(),
        cri::ExecSyncRequest {
            container_id: id,
            cmd: vec!["true".to_owned()],
            timeout: 1,
        }
        .encode_to_vec(),
        Vec::new(),
    ];
    let methods = methods();
    assert!(methods.len() >= 43, "{methods:?}");
    let mut random = 0x5eed_u64;
    let mut next = |limit: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(random >> 33).unwrap() % limit.max(1)
    };
    let time = Duration::from_secs(if full() { 1500 } else { 8 });
    let (begun, mut rounds, mut before) = (Instant::now(), 0, None);
    let mut wire = node.connect();
    while begun.elapsed() < time {
        for method in &methods {
            let mut message = seeds[next(seeds.len())].clone();
            for _ in 0..next(6) {
                if message.is_empty() {
                    message.push(0);
                }
                let (at, byte) = (next(message.len()), u8::try_from(next(256)).unwrap());
                match next(5) {
                    0 => message[at] = byte,
                    1 => message.insert(at, byte),
                    2 => drop(message.remove(at)),
                    3 => message.truncate(at),
                    _ => message.extend_from_within(at..),
                }
            }
            assert_eq!(
                call(node, &mut wire, method, &message),
                Some(200),
                "{method} {message:?}"
            );
        }
        rounds += 1;
        if rounds == 10 {
            before = Some(resident(node.pid()));
        }
    }
    env.rt
        .note(&format!("{rounds} rounds of {} methods\n", methods.len()));
    assert!(!node.log().contains("panicked"), "{}", node.log());
    node.ok(node.runtime().version(cri::VersionRequest::default()));
    let grown = resident(node.pid()).saturating_sub(before.unwrap_or(usize::MAX));
    assert!(grown < 32 << 10, "{grown} KiB more after {rounds} rounds");
    let list = cri::ListPodSandboxRequest::default();
    for pod in node.ok(node.runtime().list_pod_sandbox(list)).items {
        pods.remove(&pod.id);
    }
    pods.assert_nothing_left();
}
