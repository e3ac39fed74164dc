//! Exec, attach and port-forward: what the kubelet's clients and probes do.

use crate::harness::pods::Pods;
use crate::harness::process::{self, until};
use crate::harness::streaming::{Ended, STDERR, STDIN, STDOUT, Session};
use crate::harness::{Env, Test, full, test};
use rcrun_cri::proto::v1 as cri;
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_program_is_answered_with_its_output_and_its_code),
        test!(a_program_is_run_as_its_container_is),
        test!(what_cannot_be_run_is_an_error),
        test!(a_late_program_is_killed_with_all_that_it_started),
        test!(a_program_nobody_waits_for_is_killed),
        test!(programs_of_a_killed_server_end_with_the_next_one),
        test!(what_holds_the_output_does_not_hold_the_answer),
        test!(an_endless_output_is_cut),
        test!(many_probes_leave_nothing),
        test!(exec_has_streams_and_a_code),
        test!(exec_half_closes),
        test!(exec_has_a_terminal),
        test!(exec_of_what_is_not_there),
        test!(exec_carries_much),
        test!(vanished_clients_leave_nothing),
        test!(attach_joins_the_program),
        test!(attach_ends_the_input_once),
        test!(attach_has_a_terminal),
        test!(ports_are_forwarded),
        test!(ports_of_the_node_are_forwarded),
        test!(a_url_is_good_once),
        test!(requests_without_sense_are_refused),
    ]
}

/// A pod with a container that runs.
struct World<'a> {
    pods: Pods<'a>,
    of_pod: cri::PodSandboxConfig,
    pod: String,
    id: String,
}

impl<'a> World<'a> {
    fn new(env: &'a Env) -> Self {
        Self::with(env, "exec sleep 10000", |_| {}, |_| {})
    }

    fn with(
        env: &'a Env,
        script: &str,
        pod: impl FnOnce(&mut cri::PodSandboxConfig),
        container: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Self {
        let pods = Pods::new(env);
        let mut of_pod = pods.pod("one");
        pod(&mut of_pod);
        let sandbox = pods.run(&of_pod);
        let mut config = pods.container("c", script);
        container(&mut config);
        let id = pods.create(&sandbox, &config, &of_pod);
        pods.start(&id);
        Self {
            pods,
            of_pod,
            pod: sandbox,
            id,
        }
    }

    fn request(&self, cmd: &[&str], timeout: i64) -> cri::ExecSyncRequest {
        cri::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            timeout,
        }
    }

    #[track_caller]
    fn sync(&self, script: &str) -> (String, String, i32) {
        let request = self.request(&["sh", "-c", script], 0);
        let mut runtime = self.pods.node.runtime().max_decoding_message_size(16 << 20);
        let answer = self.pods.node.ok(runtime.exec_sync(request));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(answer.stdout), text(answer.stderr), answer.exit_code)
    }

    #[track_caller]
    fn late(&self, script: &str, timeout: i64) -> String {
        let request = self.request(&["sh", "-c", script], timeout);
        let node = &self.pods.node;
        node.refused(node.runtime().exec_sync(request), Code::DeadlineExceeded)
    }

    /// A session of exec; `streams` out of `i`, `o`, `e` and `t`.
    #[track_caller]
    fn exec(&self, streams: &str, cmd: &[&str]) -> Session {
        let request = cri::ExecRequest {
            container_id: self.id.clone(),
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            stdin: streams.contains('i'),
            stdout: streams.contains('o'),
            stderr: streams.contains('e'),
            tty: streams.contains('t'),
        };
        let url = self
            .pods
            .node
            .ok(self.pods.node.runtime().exec(request))
            .url;
        Session::open(&url)
    }

    #[track_caller]
    fn attach(&self, streams: &str) -> Session {
        let request = cri::AttachRequest {
            container_id: self.id.clone(),
            stdin: streams.contains('i'),
            stdout: streams.contains('o'),
            stderr: streams.contains('e'),
            tty: streams.contains('t'),
        };
        let url = self
            .pods
            .node
            .ok(self.pods.node.runtime().attach(request))
            .url;
        Session::open(&url)
    }

    #[track_caller]
    fn forward(&self) -> Session {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: self.pod.clone(),
            port: Vec::new(),
        };
        let url = self
            .pods
            .node
            .ok(self.pods.node.runtime().port_forward(request))
            .url;
        Session::forward(&url)
    }

    /// Commands that run in any container, but for those of the container itself.
    fn running(&self, word: &str) -> usize {
        let all = process::all();
        all.iter()
            .filter(|(_, state, what)| *state != 'Z' && what.contains(word))
            .count()
    }

    #[track_caller]
    fn none_runs(&self, word: &str) {
        until(&format!("no {word} runs"), 10, || {
            (self.running(word) == 0).then_some(())
        });
    }

    #[track_caller]
    fn leaves_nothing(self) {
        self.no_groups();
        self.pods.remove(&self.pod);
        self.pods.assert_nothing_left();
        self.none_runs("exec --");
    }

    /// Sub-cgroups of programs are gone.
    #[track_caller]
    fn no_groups(&self) {
        let find = || {
            let found = std::process::Command::new("find")
                .args(["/sys/fs/cgroup", "-name", "rcrun-sync-*"])
                .output()
                .unwrap();
            let found = String::from_utf8(found.stdout).unwrap();
            let ours: Vec<_> = found
                .lines()
                .filter(|line| line.contains(&self.pods.env.tag))
                .collect();
            ours.is_empty().then_some(())
        };
        until("no sub-cgroup is left", 10, find);
    }
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
    let resident = || -> usize {
        let text = process::status(node.pid(), "VmRSS");
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
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
    for _ in 0..if full() { 3000 } else { 60 } {
        let begun = Instant::now();
        let mut runtime = node.runtime();
        let answer = node.ok(runtime.exec_sync(world.request(&["true"], 1)));
        times.push(begun.elapsed());
        assert_eq!(answer.exit_code, 0);
    }
    times.sort_unstable();
    println!(
        "p50 {:?}, p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
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

/// Processes whose parent this is, dead ones too.
fn children(parent: i32) -> usize {
    let parent = parent.to_string();
    let all = process::all().into_iter();
    all.filter(|(pid, ..)| process::status(*pid, "PPid") == parent)
        .count()
}

fn entries(pid: i32, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{what}"))
        .unwrap()
        .count()
}

fn exec_has_streams_and_a_code(env: &Env) {
    let world = World::new(env);
    let script = "echo out; echo err >&2; exit 3";
    for (streams, out, err) in [
        ("oe", "out\n", "err\n"),
        ("o", "out\n", ""),
        ("e", "", "err\n"),
    ] {
        let mut session = world.exec(streams, &["sh", "-c", script]);
        assert_eq!(session.end(), Ended::Code(3), "{streams}");
        assert_eq!(
            (session.text(STDOUT), session.text(STDERR)),
            (out.into(), err.into())
        );
    }
    for (script, code) in [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137)] {
        assert_eq!(
            world.exec("oe", &["sh", "-c", script]).end(),
            Ended::Code(code)
        );
    }
    // Nobody keeps the session open who only has the output open still.
    let mut session = world.exec("o", &["sh", "-c", "sleep 4321 & echo out; exit 5"]);
    assert_eq!(session.end(), Ended::Code(5));
    assert_eq!(session.text(STDOUT), "out\n");
    world.pods.stop_container(&world.id, 0);
    world.leaves_nothing();
}

fn exec_half_closes(env: &Env) {
    let world = World::new(env);
    let mut session = world.exec("io", &["sh", "-c", "cat; echo end; exit 7"]);
    session.say(STDIN, b"hello\n");
    session.until(STDOUT, "hello\n");
    session.close(STDIN);
    assert_eq!(session.end(), Ended::Code(7));
    assert_eq!(session.text(STDOUT), "hello\nend\n");
    // A program that reads nothing does not mind.
    let mut session = world.exec("io", &["true"]);
    session.say(STDIN, &[b'x'; 1 << 16]);
    assert_eq!(session.end(), Ended::Code(0));
    // Without input it is at its end.
    assert_eq!(world.exec("o", &["cat"]).end(), Ended::Code(0));
    world.leaves_nothing();
}

fn exec_has_a_terminal(env: &Env) {
    let world = World::new(env);
    let script = "tty; stty -echo; exec 3<&0; (while sleep 0.02; do stty size <&3; done) & \
                  cat >/dev/null; kill $!; stty size; echo end; exit 6";
    let mut session = world.exec("iot", &["sh", "-c", script]);
    session.until(STDOUT, "/dev/pts/");
    for (width, height) in [(80, 24), (200, 50), (20, 3)] {
        session.resize(width, height);
        session.until(STDOUT, &format!("{height} {width}\r\n"));
    }
    // Many, and only the last one counts.
    for width in 1..500 {
        session.resize(width, 7);
    }
    session.resize(123, 45);
    session.until(STDOUT, "45 123\r\n");
    session.close(STDIN);
    session.until(STDOUT, "end\r\n");
    assert_eq!(session.end(), Ended::Code(6));
    // Ctrl-C reaches the program.
    let mut session = world.exec("iot", &["sh", "-c", "echo go; exec sleep 4321"]);
    session.until(STDOUT, "go");
    session.say(STDIN, b"\x03");
    assert_eq!(session.end(), Ended::Code(130));
    // A terminal that nobody looks at does not hold its program.
    let mut session = world.exec("it", &["sh", "-c", "head -c 300000 /dev/zero; exit 8"]);
    assert_eq!(session.end(), Ended::Code(8));
    world.leaves_nothing();
}

fn exec_of_what_is_not_there(env: &Env) {
    let world = World::new(env);
    for streams in ["oe", "iot"] {
        match world.exec(streams, &["no-such-program"]).end() {
            Ended::Error(why) => assert!(why.contains("not found in $PATH"), "{why}"),
            ended => panic!("{ended:?}"),
        }
    }
    let consoles = world.pods.env.rt.root.join(".cri/consoles");
    assert_eq!(std::fs::read_dir(consoles).unwrap().count(), 0);
    world.leaves_nothing();
}

fn exec_carries_much(env: &Env) {
    let world = World::new(env);
    let megabytes = if full() { 1024 } else { 32 };
    let mut session = world.exec("io", &["cat"]);
    let mut writer = session.writer();
    let begun = Instant::now();
    let writing = std::thread::spawn(move || {
        let piece: Vec<u8> = (0..1 << 15)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        for _ in 0..megabytes * 32 {
            assert!(writer.say(STDIN, &piece));
        }
        writer.close(STDIN);
    });
    assert_eq!(session.end(), Ended::Code(0));
    writing.join().unwrap();
    let heard = &session.heard[&STDOUT];
    assert_eq!(heard.len(), megabytes << 20);
    let piece: Vec<u8> = (0..1 << 15)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    assert!(heard.chunks(1 << 15).all(|chunk| chunk == piece));
    println!("{megabytes} MiB there and back in {:?}", begun.elapsed());
    world.leaves_nothing();
}

fn vanished_clients_leave_nothing(env: &Env) {
    let world = World::new(env);
    let node = &world.pods.node;
    let rounds = if full() { 2000 } else { 40 };
    let round = |index: usize| {
        let (streams, cmd): (_, &[&str]) = match index % 4 {
            // Hung up.
            0 => ("iot", &["sh", "-c", "echo go; sleep 4321; sleep 4321"]),
            // At its end.
            1 => ("io", &["sh", "-c", "echo go; cat; true 4321"]),
            // Not allowed to write any more.
            2 => (
                "oe",
                &["sh", "-c", "while echo go 4321; do sleep 0.02; done"],
            ),
            _ => ("", &[]),
        };
        let mut session = match streams {
            "" => world.attach("oe"),
            streams => world.exec(streams, cmd),
        };
        if !streams.is_empty() {
            session.until(STDOUT, "go");
        }
        session.vanish();
    };
    let settle = || {
        world.none_runs("4321");
        // Threads that block end after a while.
        std::thread::sleep(Duration::from_secs(3));
        (
            entries(node.pid(), "fd"),
            entries(node.pid(), "task"),
            children(node.pid()),
        )
    };
    (0..8).for_each(round);
    let before = settle();
    (0..rounds).for_each(round);
    let after = settle();
    assert!(after.0 <= before.0 + 5, "descriptors: {before:?} {after:?}");
    assert!(after.1 <= before.1, "threads: {before:?} {after:?}");
    assert_eq!(after.2, before.2, "children");
    // What takes no notice goes on, as with containerd; it ends with its container.
    let mut session = world.exec("o", &["sh", "-c", "echo go; exec sleep 4321"]);
    session.until(STDOUT, "go");
    session.vanish();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.running("sleep 4321"), 2, "it and who waits for it");
    world.pods.stop_container(&world.id, 0);
    world.none_runs("4321");
    world.leaves_nothing();
}

fn attach_joins_the_program(env: &Env) {
    let script = "while read line; do echo out $line; echo err $line >&2; done; echo end; exit 9";
    let world = World::with(env, script, |_| {}, |config| config.stdin = true);
    let mut first = world.attach("ioe");
    let mut second = world.attach("oe");
    // When a client has joined nobody says: the first one speaks until the other one hears it.
    std::thread::scope(|scope| {
        let hearing = scope.spawn(|| {
            second.until(STDOUT, "out one\n");
            second.until(STDERR, "err one\n");
        });
        while !hearing.is_finished() {
            first.say(STDIN, b"one\n");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    first.until(STDOUT, "out one\n");
    first.until(STDERR, "err one\n");
    // The end of a client's input is not the end of the container's.
    first.close(STDIN);
    first.vanish();
    let mut third = world.attach("ioe");
    third.say(STDIN, b"two\n");
    second.until(STDOUT, "out two\n");
    third.until(STDERR, "err two\n");
    let status = world.pods.status(&world.id);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(
        world
            .pods
            .log(&status)
            .contains("out one\nerr one\n")
    );
    world.pods.stop_container(&world.id, 0);
    assert_eq!(second.end(), Ended::Code(0));
    assert_eq!(third.end(), Ended::Code(0));
    world.leaves_nothing();
}

fn attach_ends_the_input_once(env: &Env) {
    let once = |config: &mut cri::ContainerConfig| {
        config.stdin = true;
        config.stdin_once = true;
    };
    let world = World::with(env, "cat; echo end; exit 9", |_| {}, once);
    let mut session = world.attach("io");
    session.say(STDIN, b"word\n");
    session.until(STDOUT, "word\n");
    session.close(STDIN);
    assert_eq!(session.end(), Ended::Code(0));
    assert_eq!(session.text(STDOUT), "word\nend\n");
    assert_eq!(world.pods.ended(&world.id).exit_code, 9);
    world.leaves_nothing();
}

fn attach_has_a_terminal(env: &Env) {
    let script = "stty -echo; echo ready; while read line; do stty size; done";
    let tty = |config: &mut cri::ContainerConfig| {
        config.stdin = true;
        config.tty = true;
    };
    let world = World::with(env, script, |_| {}, tty);
    let mut session = world.attach("iot");
    until("the terminal has its size", 10, || {
        session.resize(99, 33);
        std::thread::sleep(Duration::from_millis(20));
        session.say(STDIN, b"\n");
        session.until(STDOUT, "\n");
        std::thread::sleep(Duration::from_millis(20));
        session.text(STDOUT).contains("33 99\r\n").then_some(())
    });
    world.pods.stop_container(&world.id, 0);
    assert_eq!(session.end(), Ended::Code(0));
    world.leaves_nothing();
}

/// Who answers on a port: it says `greeting`, what it hears, and when that has ended, `end`.
fn answer(network: Option<&std::fs::File>, address: &str, greeting: &'static str) {
    let enter = network.map(|network| network.try_clone().unwrap());
    let address = address.to_owned();
    let listener = std::thread::spawn(move || {
        if let Some(network) = enter {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(network.as_fd(), kind).unwrap();
        }
        std::net::TcpListener::bind(address).unwrap()
    });
    let listener = listener.join().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let _ = socket.write_all(greeting.as_bytes());
                let mut heard = Vec::new();
                let _ = socket.read_to_end(&mut heard);
                heard.extend_from_slice(b"end\n");
                let _ = socket.write_all(&heard);
            });
        }
    });
}

fn ports_are_forwarded(env: &Env) {
    let world = World::new(env);
    let network = env.rt.root.join(".cri/pods").join(&world.pod).join("net");
    let network = std::fs::File::open(network).unwrap();
    answer(Some(&network), "127.0.0.1:81", "four\n");
    answer(Some(&network), "[::1]:82", "six\n");
    drop(network);
    let mut session = world.forward();
    session.connect(1, 81);
    session.connect(5, 83);
    session.connect(9, 82);
    session.connect(13, 81);
    // Each by itself; the end of one direction is not that of the other.
    session.data(3, b"a\n", true);
    session.data(11, b"b\n", true);
    session.data(15, b"c\n", false);
    session.data(15, b"d\n", true);
    let all = session.finished(&[3, 5, 11, 15]);
    assert_eq!(all[&3], "four\na\nend\n");
    assert_eq!(all[&15], "four\nc\nd\nend\n");
    assert_eq!(all[&11], "six\nb\nend\n");
    let why = &all[&5];
    assert!(
        why.contains("port 83") && why.contains("127.0.0.1:83"),
        "{why}"
    );
    assert!(why.to_lowercase().contains("connection refused"), "{why}");
    // The session goes on.
    session.connect(17, 81);
    session.data(19, b"e\n", true);
    assert_eq!(session.finished(&[19])[&19], "four\ne\nend\n");
    // Nothing of this is in the node's own network.
    assert!(std::net::TcpStream::connect("127.0.0.1:81").is_err());
    world.pods.stop(&world.pod);
    let request = cri::PortForwardRequest {
        pod_sandbox_id: world.pod.clone(),
        port: Vec::new(),
    };
    let node = &world.pods.node;
    node.refused(
        node.runtime().port_forward(request),
        Code::FailedPrecondition,
    );
    world.leaves_nothing();
}

fn ports_of_the_node_are_forwarded(env: &Env) {
    let host = |pod: &mut cri::PodSandboxConfig| {
        let security = crate::harness::pods::pod_security(pod);
        let options = security.namespace_options.get_or_insert_default();
        options.network = cri::NamespaceMode::Node.into();
    };
    let world = World::with(env, "exec sleep 10000", host, |_| {});
    answer(None, "127.0.0.1:81", "four\n");
    let mut session = world.forward();
    session.connect(1, 81);
    session.data(3, b"a\n", true);
    assert_eq!(session.finished(&[3])[&3], "four\na\nend\n");
    world.leaves_nothing();
}

fn a_url_is_good_once(env: &Env) {
    let world = World::new(env);
    let request = cri::ExecRequest {
        container_id: world.id.clone(),
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..Default::default()
    };
    let url = world
        .pods
        .node
        .ok(world.pods.node.runtime().exec(request))
        .url;
    let rest = url
        .strip_prefix("http://127.0.0.1:")
        .expect("on loopback only");
    assert_eq!(Session::open(&url).end(), Ended::Code(0));
    let (port, path) = rest.split_once('/').unwrap();
    assert!(
        path.strip_prefix("exec/").unwrap().len() >= 22,
        "{path}: 128 bits and more"
    );
    for path in [
        path,
        "exec/",
        "exec/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "..",
        "metrics",
    ] {
        let mut socket = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        write!(
            socket,
            "GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    world.leaves_nothing();
}

fn requests_without_sense_are_refused(env: &Env) {
    let world = World::new(env);
    let node = &world.pods.node;
    let exec = |change: fn(&mut cri::ExecRequest), code| {
        let mut request = cri::ExecRequest {
            container_id: world.id.clone(),
            cmd: vec!["true".to_owned()],
            stdout: true,
            ..Default::default()
        };
        change(&mut request);
        node.refused(node.runtime().exec(request), code)
    };
    exec(|request| request.cmd.clear(), Code::InvalidArgument);
    exec(|request| request.stdout = false, Code::InvalidArgument);
    exec(
        |request| (request.tty, request.stderr) = (true, true),
        Code::InvalidArgument,
    );
    exec(
        |request| request.container_id = "f".repeat(64),
        Code::NotFound,
    );
    exec(|request| request.container_id.clear(), Code::NotFound);
    for port in [0, -1, 65536] {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: world.pod.clone(),
            port: vec![port],
        };
        node.refused(node.runtime().port_forward(request), Code::InvalidArgument);
    }
    let config = world.pods.container("d", "true");
    let container_id = world.pods.create(&world.pod, &config, &world.of_pod);
    let request = cri::AttachRequest {
        container_id,
        stdout: true,
        ..Default::default()
    };
    let why = node.refused(node.runtime().attach(request), Code::FailedPrecondition);
    assert!(why.contains("is not started"), "{why}");
    world.leaves_nothing();
}
