//! A server that is killed again and again, or is not there for long: no container notices, nothing is lost,
//! nothing is left. Minutes with RCRUN_TEST_FULL=1, seconds without.

use crate::harness::caller::Caller;
use crate::harness::pods::Pods;
use crate::harness::{Env, Test, full, test};
use rcrun_cri::proto::v1 as cri;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(killed_again_and_again).timeout(1200),
        test!(without_a_server_no_line_is_lost).timeout(600),
        test!(churn_leaves_nothing).timeout(2400),
        test!(pods_of_callers_that_go_away),
    ]
}

/// One pod with one container that ends with this code, from beginning to end.
fn one_life(
    caller: &mut Caller,
    config: &cri::PodSandboxConfig,
    container: &cri::ContainerConfig,
    code: i32,
) {
    let pod = caller.make_pod(config);
    let id = caller.make_container(&pod, container, config);
    caller.start(&id);
    let status = caller.ended(&id);
    assert_eq!(status.exit_code, code, "{status:?}");
    caller.stop_pod(&pod);
    caller.remove_pod(&pod);
}

/// Numbers without a gap, in the CRI's lines.
fn assert_counts(text: &str, least: usize) {
    let mut count = 0;
    for line in text.lines() {
        let (_, number) = line.rsplit_once(' ').unwrap();
        assert_eq!(number.parse::<usize>().unwrap(), count, "{line}");
        count += 1;
    }
    assert!(count >= least, "{count} lines");
}

fn killed_again_and_again(env: &Env) {
    let (time, workers) = if full() { (900, 20) } else { (8, 4) };
    let pods = Pods::new(env);
    // One that lives through all of it.
    let of_pod = pods.pod("long");
    let long = pods.run(&of_pod);
    let script = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.01; done";
    let counter = pods.create(&long, &pods.container("counter", script), &of_pod);
    pods.start(&counter);
    let before = pods.status(&counter);

    let (stop, lives) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (socket, node) = (pods.node.socket.clone(), &pods.node);
    let configs: Vec<_> = (0..workers)
        .map(|number| pods.pod(&format!("w{number}")))
        .collect();
    let containers: Vec<_> = (0..workers)
        .map(|number| pods.container("c", &format!("sleep 0.0{number}; exit {}", number + 1)))
        .collect();
    let mut kills = 0;
    std::thread::scope(|scope| {
        for (number, (config, container)) in configs.iter().zip(&containers).enumerate() {
            let (stop, lives, socket) = (&stop, &lives, &socket);
            scope.spawn(move || {
                let mut caller = Caller::new(socket);
                let mut config = config.clone();
                while !stop.load(Ordering::Relaxed) {
                    let code = i32::try_from(number).unwrap() + 1;
                    let life = std::panic::AssertUnwindSafe(|| {
                        one_life(&mut caller, &config, container, code);
                    });
                    if let Err(why) = std::panic::catch_unwind(life) {
                        let text = why.downcast_ref::<String>();
                        eprintln!("worker {number}: {text:?}");
                        std::panic::resume_unwind(why);
                    }
                    lives.fetch_add(1, Ordering::Relaxed);
                    config.metadata.as_mut().unwrap().attempt += 1;
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(time);
        let mut seed = 1_u64;
        while Instant::now() < end {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            std::thread::sleep(Duration::from_millis(
                500 + (seed >> 33) % if full() { 2500 } else { 700 },
            ));
            node.kill();
            node.start();
            kills += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let after = pods.status(&counter);
    assert_eq!(
        (before.started_at, before.state),
        (after.started_at, after.state)
    );
    println!(
        "{kills} kills, {} lives of pods",
        lives.load(Ordering::Relaxed)
    );
    pods.stop_container(&counter, 0);
    assert_counts(
        &std::fs::read_to_string(&after.log_path).unwrap(),
        time as usize * 20,
    );
    pods.remove(&long);
    // Leases of the dead, and what they were making or throwing away; a server does that by itself, in a while.
    pods.node.shelf.ok(&["prune", "-f"]);
    pods.assert_nothing_left();
}

fn without_a_server_no_line_is_lost(env: &Env) {
    let time = if full() { 300 } else { 3 };
    let pods = Pods::new(env);
    let of_pod = pods.pod("loud");
    let pod = pods.run(&of_pod);
    // 1 MiB in a second: 1024 lines of 1 KiB, in ten bursts.
    let script = "line=$(printf '%0990d' 0); n=0; while :; do i=0; while [ $i -lt 103 ]; do echo $line $n; \
                  n=$((n+1)); i=$((i+1)); done; sleep 0.1; done";
    let ids: Vec<_> = (0..2)
        .map(|number| {
            let config = pods.container(&format!("c{number}"), script);
            let id = pods.create(&pod, &config, &of_pod);
            pods.start(&id);
            id
        })
        .collect();
    let logs: Vec<_> = ids.iter().map(|id| pods.status(id).log_path).collect();
    pods.node.kill();
    let size = |path: &String| std::fs::metadata(path).unwrap().len();
    let before: Vec<u64> = logs.iter().map(size).collect();
    std::thread::sleep(Duration::from_secs(time));
    let after: Vec<u64> = logs.iter().map(size).collect();
    for (before, after) in before.iter().zip(&after) {
        // It never stopped: at least a quarter of what it can on a machine with nothing else to do.
        assert!(after - before > time * (256 << 10), "{before} {after}");
    }
    pods.node.start();
    for (id, log) in ids.iter().zip(&logs) {
        assert_eq!(
            pods.status(id).state(),
            cri::ContainerState::ContainerRunning
        );
        pods.stop_container(id, 0);
        assert_counts(&std::fs::read_to_string(log).unwrap(), 100);
    }
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// Of a process: descriptors, threads, and kilobytes of memory of its own.
fn figures(pid: i32) -> (usize, usize, u64) {
    let count = |name: &str| {
        std::fs::read_dir(format!("/proc/{pid}/{name}"))
            .unwrap()
            .count()
    };
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private: u64 = rollup
        .lines()
        .filter(|line| line.starts_with("Private_Dirty:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    (count("fd"), count("task"), private)
}

fn churn_leaves_nothing(env: &Env) {
    const SAMPLES: u32 = 16;
    let (time, workers) = if full() { (1800, 4) } else { (8, 4) };
    let pods = Pods::new(env);
    let (stop, lives) = (AtomicBool::new(false), AtomicUsize::new(0));
    let socket = pods.node.socket.clone();
    let configs: Vec<_> = (0..workers)
        .map(|number| pods.pod(&format!("w{number}")))
        .collect();
    let container = pods.container("c", "exit 7");
    let pid = pods.node.pid();
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        for config in &configs {
            let (stop, lives, socket, container) = (&stop, &lives, &socket, &container);
            scope.spawn(move || {
                let mut caller = Caller::new(socket);
                let mut config = config.clone();
                while !stop.load(Ordering::Relaxed) {
                    one_life(&mut caller, &config, container, 7);
                    lives.fetch_add(1, Ordering::Relaxed);
                    config.metadata.as_mut().unwrap().attempt += 1;
                }
            });
        }
        for _ in 0..SAMPLES {
            std::thread::sleep(Duration::from_secs(time) / SAMPLES);
            samples.push((lives.load(Ordering::Relaxed), figures(pid)));
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("lives, (descriptors, threads, private KiB): {samples:?}");
    // Threads and connections of the moment come and go; after the first quarter nothing grows.
    let (first, last) = (samples[3].1, samples[15].1);
    assert!(last.0 <= first.0 + 40, "{samples:?}");
    assert!(last.1 <= first.1 + 40, "{samples:?}");
    assert!(last.2 <= first.2 + 4096, "{samples:?}");
    pods.assert_nothing_left();
}

fn pods_of_callers_that_go_away(env: &Env) {
    let pods = Pods::new(env);
    let config = pods.pod("one");
    for milliseconds in [0, 1, 3, 5, 8, 13, 20, 40, 80] {
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let mut runtime = pods.node.runtime();
        let early = pods.node.wait(async {
            let limit = Duration::from_millis(milliseconds);
            tokio::time::timeout(limit, runtime.run_pod_sandbox(request.clone())).await
        });
        let answer = match early {
            Ok(answered) => answered,
            // Again: the same pod, if it was made by then.
            Err(_) => pods.node.wait(pods.node.runtime().run_pod_sandbox(request)),
        };
        let list = cri::ListPodSandboxRequest::default();
        let all = pods
            .node
            .ok(pods.node.runtime().list_pod_sandbox(list))
            .items;
        assert_eq!(all.len(), 1, "{milliseconds} ms: {all:?}");
        let id = all[0].id.clone();
        match answer {
            Ok(answer) => assert_eq!(answer.into_inner().pod_sandbox_id, id),
            // The first answer had left when its caller's time ended.
            Err(status) => {
                assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
                assert!(status.message().contains(&id), "{status:?}");
            }
        }
        pods.remove(&id);
    }
    pods.assert_nothing_left();
}
