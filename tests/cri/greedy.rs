//! Clients that take all they can get (RELIABILITY.md, 42): connections, streams, parallel requests, long messages.
//! The kubelet beside them notices nothing, and the server stays small.

use crate::harness::cri::Wire;
use crate::harness::pods::Pods;
use crate::harness::streaming::{entries, resident};
use crate::harness::{Env, Test, full, test};
use hyper::body::{Bytes, Frame};
use rcrun_cri::proto::v1 as cri;
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::{Service as _, http};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(connections_without_end),
        test!(streams_that_never_begin),
        test!(listeners_without_end),
        test!(a_thousand_lists_at_once),
        test!(long_messages),
        test!(a_client_that_stands_still_is_let_go),
    ]
}

/// Beginning of a message that never ends.
struct Part(Option<Bytes>);

impl hyper::body::Body for Part {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            _ => Poll::Pending,
        }
    }
}

/// A call whose message has this many bytes more than are sent.
fn part_of_a_call(sent: usize, missing: usize) -> http::Request<Body> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(sent + missing).unwrap().to_be_bytes());
    bytes.resize(5 + sent, 0);
    http::Request::builder()
        .method("POST")
        .uri("http://localhost/runtime.v1.RuntimeService/ListContainers")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Part(Some(bytes.into()))))
        .unwrap()
}

fn is_refused(code: &Code) -> bool {
    // The last one: on a machine where all of this takes long.
    matches!(
        code,
        Code::ResourceExhausted | Code::Unavailable | Code::DeadlineExceeded
    )
}

/// What a kubelet asks all the time, and that it is answered soon.
fn assert_serves(pods: &Pods) {
    let begun = Instant::now();
    let node = &pods.node;
    node.ok(node.runtime().version(cri::VersionRequest::default()));
    let list = cri::ListPodSandboxRequest::default();
    assert_eq!(
        node.ok(node.runtime().list_pod_sandbox(list)).items.len(),
        1
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
}

fn connections_without_end(env: &Env) {
    let pods = Pods::new(env);
    let pod = pods.run(&pods.pod("one"));
    let node = &pods.node;
    // A kubelet's, which waits for events, and is not the one that goes.
    let mut kubelet = node.runtime();
    let request = cri::GetEventsRequest {};
    let mut events = node.ok(kubelet.get_container_events(request));
    let before = (entries(node.pid(), "fd"), resident(node.pid()));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let count = if full() { 10_000 } else { 700 };
    let mut all = std::collections::VecDeque::new();
    for index in 0..count {
        let mut one = UnixStream::connect(&node.socket).unwrap();
        // Nothing, half of the greeting, or all of it.
        let _ = one.write_all(&preface[..[0, 10, preface.len()][index % 3]]);
        all.push_back(one);
        if all.len() > 700 {
            all.pop_front();
        }
    }
    assert_serves(&pods);
    let after = (entries(node.pid(), "fd"), resident(node.pid()));
    assert!(after.0 <= before.0 + 256 + 16, "{before:?} {after:?}");
    // Some 70 KiB for each of the 256.
    assert!(after.1 <= before.1 + (24 << 10), "{before:?} {after:?}");
    // The first ones were closed.
    let mut first = all.pop_front().unwrap();
    first
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    pods.stop(&pod);
    let event = node.wait(events.message()).unwrap().unwrap();
    assert_eq!(event.container_id, pod);
    drop(all);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// Begins calls and does not end them; what those were answered that were.
async fn begin(wires: &mut [Wire], calls: usize, sent: usize, missing: usize) -> Vec<Code> {
    let mut answers = tokio::task::JoinSet::new();
    for index in 0..calls {
        let wire = index % wires.len();
        let call = wires[wire].call(part_of_a_call(sent, missing));
        answers.spawn(async move {
            let code = |answer: http::Response<_>| {
                let code = answer.headers().get("grpc-status").cloned();
                code.map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
            };
            // HTTP/2 has bounds of its own, beyond which the whole connection ends.
            call.await.map_or(Code::Unavailable, code)
        });
    }
    let mut codes = Vec::new();
    // Until there are no more for a while.
    let quiet = Duration::from_secs(4);
    while let Ok(Some(code)) = tokio::time::timeout(quiet, answers.join_next()).await {
        codes.push(code.unwrap());
    }
    codes
}

fn streams_that_never_begin(env: &Env) {
    const CALLS: usize = 10_000;
    let pods = Pods::new(env);
    let pod = pods.run(&pods.pod("one"));
    let node = &pods.node;
    let mut wires: Vec<_> = (0..4).map(|_| node.connect()).collect();
    let before = resident(node.pid());
    // None of these has said what it wants; those that came first make room for those behind them.
    let codes = node.wait(begin(&mut wires, CALLS, 0, 100));
    assert!(codes.len() >= CALLS - 256, "{}", codes.len());
    assert!(codes.iter().all(is_refused), "{codes:?}");
    assert_serves(&pods);
    let after = resident(node.pid());
    assert!(after <= before + (48 << 10), "{before} {after} KiB");
    drop(wires);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn listeners_without_end(env: &Env) {
    let pods = Pods::new(env);
    let pod = pods.run(&pods.pod("one"));
    let node = &pods.node;
    let mut client = node.runtime();
    let (mut heard, mut refused) = (Vec::new(), 0);
    for _ in 0..200 {
        match node.wait(client.get_container_events(cri::GetEventsRequest {})) {
            Ok(events) => heard.push(events.into_inner()),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                refused += 1;
            }
        }
    }
    assert_eq!((heard.len(), refused), (64, 136));
    assert_serves(&pods);
    // They left: there is room.
    drop(heard);
    let end = Instant::now() + Duration::from_secs(5);
    while let Err(status) = node.wait(client.get_container_events(cri::GetEventsRequest {})) {
        assert!(Instant::now() < end, "{status:?}");
    }
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn a_thousand_lists_at_once(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let node = &pods.node;
    for number in 0..10 {
        let config = pods.container(&format!("c{number}"), "true");
        pods.create(&pod, &config, &of_pod);
    }
    let before = (resident(node.pid()), entries(node.pid(), "task"));
    let mut longest = Duration::ZERO;
    for _ in 0..if full() { 50 } else { 3 } {
        let client = node.runtime();
        let begun = Instant::now();
        node.wait(async {
            let mut answers = tokio::task::JoinSet::new();
            for _ in 0..1000 {
                let mut client = client.clone();
                answers.spawn(async move {
                    let list = cri::ListContainersRequest::default();
                    client.list_containers(list).await
                });
            }
            while let Some(answer) = answers.join_next().await {
                let answer = answer.unwrap().unwrap().into_inner();
                assert_eq!(answer.containers.len(), 10);
            }
        });
        longest = longest.max(begun.elapsed());
    }
    let after = (resident(node.pid()), entries(node.pid(), "task"));
    env.rt.note(&format!(
        "a thousand lists took {longest:?} at most; KiB and threads before and after: {before:?} {after:?}\n"
    ));
    assert!(after.0 <= before.0 + (32 << 10), "{before:?} {after:?}");
    assert!(after.1 <= before.1 + 8, "{before:?} {after:?}");
    assert_serves(&pods);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn long_messages(env: &Env) {
    let pods = Pods::new(env);
    let pod = pods.run(&pods.pod("one"));
    let node = &pods.node;
    let list = |bytes: usize| cri::ListContainersRequest {
        filter: Some(cri::ContainerFilter {
            id: "x".repeat(bytes),
            ..Default::default()
        }),
    };
    // The longest is answered; one that is longer is refused, with the limit.
    let mut client = node.runtime();
    assert!(
        node.ok(client.list_containers(list((16 << 20) - 32)))
            .containers
            .is_empty()
    );
    let why = node.refused(client.list_containers(list(16 << 20)), Code::OutOfRange);
    assert!(why.contains("16777216"), "{why}");
    // Sixteen that do not end: the server takes as many as there is room for.
    let before = resident(node.pid());
    let mut wires: Vec<_> = (0..16).map(|_| node.connect()).collect();
    let codes = node.wait(begin(&mut wires, 16, (16 << 20) - 100, 50));
    assert!(codes.len() >= 12, "{codes:?}");
    assert!(codes.iter().all(is_refused), "{codes:?}");
    assert_serves(&pods);
    let after = resident(node.pid());
    env.rt
        .note(&format!("KiB before and after: {before} {after}\n"));
    assert!(after <= before + (160 << 10), "{before} {after} KiB");
    drop(wires);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn a_client_that_stands_still_is_let_go(env: &Env) {
    if !full() {
        env.skip("needs a minute: RCRUN_TEST_FULL=1");
    }
    let pods = Pods::new(env);
    let mut still = UnixStream::connect(&pods.node.socket).unwrap();
    still
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    still
        .set_read_timeout(Some(Duration::from_secs(80)))
        .unwrap();
    // It reads, and says nothing to any of it.
    let begun = Instant::now();
    let mut rest = Vec::new();
    still.read_to_end(&mut rest).unwrap();
    let took = begun.elapsed().as_secs();
    assert!((45..70).contains(&took), "{took} s");
    pods.assert_nothing_left();
}
