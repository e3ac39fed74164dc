//! ExecSync: what the kubelet's probes and hooks do.

use crate::harness::process::{self, until};
use crate::harness::streaming::{Ended, STDOUT, World, children, entries, resident};
use crate::harness::{Env, Test, full, test};
use rcrun_cri::proto::v1 as cri;
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_program_is_answered_with_its_output_and_its_code),
        test!(a_program_is_run_as_its_container_is),
        test!(programs_enter_a_user_namespace),
        test!(what_cannot_be_run_is_an_error),
        test!(a_late_program_is_killed_with_all_that_it_started),
        test!(a_program_nobody_waits_for_is_killed),
        test!(programs_of_a_killed_server_end_with_the_next_one),
        test!(what_holds_the_output_does_not_hold_the_answer),
        test!(an_endless_output_is_cut),
        test!(many_probes_leave_nothing),
    ]
}

fn a_program_is_answered_with_its_output_and_its_code(env: &Env) {
    let world = World::new(env);
    for (script, expected) in [
        ("echo out; echo err >&2; exit 3", ("out\n", "err\n", 3)),
        ("true", ("", "", 0)),
        ("exit 255", ("", "", 255)),
        ("kill -9 $$", ("", "", 137)),
        ("printf 'a\\nb'; cat", ("a\nb", "", 0)),
    ] {
        let (out, err, code) = world.sync(script);
        assert_eq!((out.as_str(), err.as_str(), code), expected, "{script}");
    }
    // Words are not taken for flags, and nothing is added or lost.
    let request = world.request(&["printf", "[%s]", "--", "-x", "", "a b", "é"], 5);
    let answer = world
        .pods
        .node
        .ok(world.pods.node.runtime().exec_sync(request));
    assert_eq!(answer.stdout, "[--][-x][][a b][é]".as_bytes());
    world.leaves_nothing();
}

fn a_program_is_run_as_its_container_is(env: &Env) {
    let change = |config: &mut cri::ContainerConfig| {
        config.envs = vec![cri::KeyValue {
            key: "B".to_owned(),
            value: b"b c".to_vec(),
        }];
        config.working_dir = "/tmp".to_owned();
        let security = crate::harness::pods::security(config);
        security.run_as_user = Some(cri::Int64Value { value: 1000 });
        security.run_as_group = Some(cri::Int64Value { value: 1001 });
        security.supplemental_groups = vec![1002];
        security.no_new_privs = true;
    };
    let script = "env | grep -v ^_ | sort; pwd; id -u; id -G; grep -E 'Cap|NoNew|Seccomp:' \
                  /proc/self/status; cat /proc/self/oom_score_adj; ulimit -a; echo .; exec sleep 1000";
    let world = World::with(env, script, |_| {}, change);
    let status = world.pods.status(&world.id);
    until("the container has said all", 10, || {
        world.pods.log(&status).ends_with(".\n").then_some(())
    });
    let own = world.pods.log(&status);
    let (out, err, _) = world.sync(script.strip_suffix("; exec sleep 1000").unwrap());
    assert_eq!(err, "");
    assert_eq!(out, own);
    assert!(
        own.contains("B=b c\n") && own.contains("\n1000\n1001 1002"),
        "{own}"
    );
    // But for the terminal.
    let mut session = world.exec("ot", &["sh", "-c", "echo $TERM; tty"]);
    assert_eq!(session.end(), Ended::Code(0));
    assert_eq!(session.text(STDOUT), "xterm\r\n/dev/pts/0\r\n");
    world.leaves_nothing();
}

fn programs_enter_a_user_namespace(env: &Env) {
    let mapped = |pod: &mut cri::PodSandboxConfig| {
        let security = crate::harness::pods::pod_security(pod);
        let map = vec![cri::IdMapping {
            host_id: 100_000,
            container_id: 0,
            length: 65_536,
        }];
        let options = security.namespace_options.get_or_insert_default();
        options.userns_options = Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: map.clone(),
            gids: map,
        });
    };
    let world = World::with(env, "exec sleep 10000", mapped, |_| {});
    let (out, err, code) = world.sync("id -u; head -n 1 /proc/self/uid_map; hostname; exit 4");
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536", "one"], "{err}");
    assert_eq!(code, 4);
    world.late(TREE, 1);
    world.none_runs("4321");
    let mut session = world.exec("ot", &["sh", "-c", "tty; exit 5"]);
    assert_eq!(session.end(), Ended::Code(5));
    assert_eq!(session.text(STDOUT), "/dev/pts/0\r\n");
    world.leaves_nothing();
}

fn what_cannot_be_run_is_an_error(env: &Env) {
    let world = World::new(env);
    let node = &world.pods.node;
    let refused = |cmd: &[&str], code| {
        let request = world.request(cmd, 5);
        node.refused(node.runtime().exec_sync(request), code)
    };
    let why = refused(&["/no/such/program"], Code::FailedPrecondition);
    assert!(
        why.contains("/no/such/program") && why.contains("no such file"),
        "{why}"
    );
    let why = refused(&["no-such-program"], Code::FailedPrecondition);
    assert!(why.contains("executable file not found in $PATH"), "{why}");
    let why = refused(&["/etc"], Code::FailedPrecondition);
    assert!(why.contains("/etc"), "{why}");
    refused(&[], Code::InvalidArgument);
    let request = world.request(&["true"], -1);
    node.refused(node.runtime().exec_sync(request), Code::InvalidArgument);
    let mut request = world.request(&["true"], 1);
    request.container_id = "0".repeat(64);
    node.refused(node.runtime().exec_sync(request), Code::NotFound);
    world.pods.stop_container(&world.id, 0);
    let why = refused(&["true"], Code::FailedPrecondition);
    assert!(why.contains("has ended"), "{why}");
    world.leaves_nothing();
}

/// A tree of which each process is in a session of its own, and one has left its parent.
const TREE: &str = "setsid sh -c 'sleep 4321 & setsid sleep 4321 & (setsid sleep 4321 &) ; sleep 4321' & \
                    sleep 4321";

fn a_late_program_is_killed_with_all_that_it_started(env: &Env) {
    let world = World::new(env);
    for script in [TREE.to_owned(), format!("trap '' TERM HUP INT; {TREE}")] {
        let begun = Instant::now();
        let why = world.late(&script, 1);
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "{:?}",
            begun.elapsed()
        );
        assert!(why.contains("timeout 1 s exceeded"), "{why}");
        world.none_runs("4321");
        world.no_groups();
    }
    // The container goes on.
    assert_eq!(world.sync("echo on").0, "on\n");
    world.leaves_nothing();
}

fn a_program_nobody_waits_for_is_killed(env: &Env) {
    let world = World::new(env);
    let request = world.request(&["sh", "-c", TREE], 0);
    let mut client = world.pods.node.runtime();
    world.pods.node.wait(async {
        let call = tokio::spawn(async move { client.exec_sync(request).await });
        while process::all()
            .iter()
            .filter(|(_, _, what)| what.contains("4321"))
            .count()
            < 4
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        call.abort();
        let _ = call.await;
    });
    // The client's end of the connection is in this process: it has to say that it has gone.
    let moment = async { tokio::time::sleep(Duration::from_millis(50)).await };
    world.pods.node.wait(moment);
    world.none_runs("4321");
    world.leaves_nothing();
}

fn programs_of_a_killed_server_end_with_the_next_one(env: &Env) {
    let world = World::new(env);
    let request = world.request(&["sh", "-c", TREE], 0);
    let mut client = world.pods.node.runtime();
    world.pods.node.wait(async {
        let call = tokio::spawn(async move { client.exec_sync(request).await });
        while process::all()
            .iter()
            .filter(|(_, _, what)| what.contains("4321"))
            .count()
            < 4
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.pods.node.signal(Signal::KILL);
        assert!(call.await.unwrap().is_err());
    });
    world.pods.node.kill();
    assert!(world.running("sleep 4321") > 0);
    world.pods.node.start();
    world.none_runs("4321");
    assert_eq!(world.sync("echo on").0, "on\n");
    world.leaves_nothing();
}

fn what_holds_the_output_does_not_hold_the_answer(env: &Env) {
    let world = World::new(env);
    let begun = Instant::now();
    let (out, _, code) = world.sync("sleep 4321 & echo out; exit 4");
    assert_eq!((out.as_str(), code), ("out\n", 4));
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    // It is the container's business from then on.
    assert_eq!(world.running("sleep 4321"), 1);
    world.no_groups();
    // One that ends soon is heard to its end.
    let (out, ..) = world.sync("(sleep 0.2; echo late) & echo out");
    assert_eq!(out, "out\nlate\n");
    // One that goes on writing does not hold it either.
    let (out, ..) = world.sync("yes 4322 & echo out");
    assert!(out.contains("out\n"));
    world.none_runs("4322");
    assert_eq!(world.running("sleep 4321"), 1);
    world.pods.stop_container(&world.id, 0);
    world.none_runs("4321");
    world.leaves_nothing();
}

fn an_endless_output_is_cut(env: &Env) {
    let world = World::new(env);
    let node = &world.pods.node;
    let resident = || resident(node.pid());
    let before = resident();
    let request = world.request(&["head", "-c", "100000000", "/dev/zero"], 20);
    let mut runtime = node.runtime().max_decoding_message_size(16 << 20);
    let answer = node.ok(runtime.exec_sync(request));
    assert_eq!((answer.exit_code, answer.stderr.len()), (0, 0));
    assert_eq!(answer.stdout.len(), (16 << 20) - 64);
    // Both together are no more.
    let script = "head -c 20000000 /dev/zero; head -c 1000 /dev/zero >&2";
    let answer = node.ok(runtime.exec_sync(world.request(&["sh", "-c", script], 20)));
    assert_eq!(answer.stderr.len(), 1000);
    assert_eq!(answer.stdout.len(), (16 << 20) - 64 - 1000);
    // What never ends is ended.
    let call = runtime.exec_sync(world.request(&["cat", "/dev/zero"], 1));
    node.refused(call, Code::DeadlineExceeded);
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    world.leaves_nothing();
}

fn many_probes_leave_nothing(env: &Env) {
    let world = World::new(env);
    let node = &world.pods.node;
    let (children, count) = (|| children(node.pid()), |what| entries(node.pid(), what));
    world.sync("true");
    let before = (count("fd"), children());
    let mut times = Vec::new();
    let mut runtime = node.runtime();
    for _ in 0..if full() { 3000 } else { 60 } {
        let begun = Instant::now();
        let answer = node.ok(runtime.exec_sync(world.request(&["true"], 1)));
        times.push(begun.elapsed());
        assert_eq!(answer.exit_code, 0);
    }
    times.sort_unstable();
    let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let figures = format!("p50 {half:?}, p99 {most:?}\n");
    world.pods.env.rt.note(&figures);
    // Eight at a time.
    let runtime = node.runtime();
    node.wait(async {
        let mut all = Vec::new();
        for index in 0..8 {
            let mut runtime = runtime.clone();
            let script = format!("echo {index}; exit {index}");
            let request = world.request(&["sh", "-c", &script], 10);
            all.push(tokio::spawn(
                async move { runtime.exec_sync(request).await },
            ));
        }
        for (index, call) in all.into_iter().enumerate() {
            let answer = call.await.unwrap().unwrap().into_inner();
            assert_eq!(answer.stdout, format!("{index}\n").as_bytes());
            assert_eq!(answer.exit_code, i32::try_from(index).unwrap());
        }
    });
    until("as many descriptors and children as before", 10, || {
        (count("fd") <= before.0 + 2 && children() == before.1).then_some(())
    });
    world.leaves_nothing();
}
