//! Requests of any kind: what the server is, what is not there yet, deadlines, and what is no request.

use crate::harness::cri::{Node, spec};
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{HeaderMap, Request, Response};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(what_the_server_is),
        test!(what_the_node_is_to_do),
        test!(checkpoints_of_pods_are_not_there_and_that_is_said),
        test!(deadlines_are_obeyed),
        test!(what_is_no_request_of_this_interface),
        test!(long_messages),
        test!(bytes_that_are_no_http),
        test!(many_connections),
    ]
}

fn what_the_server_is(env: &Env) {
    let node = Node::with(env, Default::default(), json!({"cgroup_driver": "systemd"}));
    let answer = node.ok(node.runtime().version(cri::VersionRequest::default()));
    assert_eq!(
        (&*answer.runtime_name, &*answer.runtime_api_version),
        ("rcrun", "v1")
    );
    let said = node.shelf.ok(&["--version"]);
    assert!(
        said.contains(&format!("rcrun version {}", answer.runtime_version)),
        "{said}"
    );
    for verbose in [false, true] {
        let answer = node.ok(node.runtime().status(cri::StatusRequest { verbose }));
        let conditions = answer.status.unwrap().conditions;
        let kinds: Vec<&str> = conditions.iter().map(|one| &*one.r#type).collect();
        assert_eq!(kinds, ["RuntimeReady", "NetworkReady"]);
        // There is no CNI configuration.
        assert!(conditions[0].status && !conditions[1].status);
        assert_eq!(conditions[1].reason, "NetworkPluginNotReady");
        assert!(!conditions[1].message.is_empty());
        let handlers: Vec<&str> = answer
            .runtime_handlers
            .iter()
            .map(|one| &*one.name)
            .collect();
        assert_eq!(handlers, ["", "rcrun"]);
        assert!(answer.features.unwrap().supplemental_groups_policy);
        assert_eq!(answer.info.contains_key("config"), verbose);
    }
    let answer = node.ok(node.runtime().runtime_config(cri::RuntimeConfigRequest {}));
    assert_eq!(
        answer.linux.unwrap().cgroup_driver(),
        cri::CgroupDriver::Systemd
    );
}

fn what_the_node_is_to_do(env: &Env) {
    let node = Node::new(env);
    let update = |cidr: &str| cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig {
                pod_cidr: cidr.to_owned(),
            }),
        }),
    };
    for cidr in ["", "10.1.0.0/16", "", "10.2.0.0/16,fd00::/64"] {
        node.ok(node.runtime().update_runtime_config(update(cidr)));
    }
    let request = cri::UpdateRuntimeConfigRequest::default();
    node.ok(node.runtime().update_runtime_config(request));
    let answer = node.ok(node.runtime().status(cri::StatusRequest { verbose: true }));
    let config: serde_json::Value = serde_json::from_str(&answer.info["config"]).unwrap();
    assert_eq!(config["podCIDR"], "10.2.0.0/16,fd00::/64");
    let said = node.refused(
        node.runtime().update_runtime_config(update("10.1.0.0")),
        Code::InvalidArgument,
    );
    assert!(said.contains("it is not ADDRESS/LENGTH"), "{said}");
}

fn checkpoints_of_pods_are_not_there_and_that_is_said(env: &Env) {
    let node = Node::new(env);
    let request = cri::CheckpointPodRequest::default();
    node.refused(node.runtime().checkpoint_pod(request), Code::Unimplemented);
    let request = cri::RestorePodRequest::default();
    node.refused(node.runtime().restore_pod(request), Code::Unimplemented);
}

/// Sends a request of one's own; the answer's head and trailers.
fn raw(node: &Node<'_>, request: Request<Body>) -> (Response<()>, HeaderMap) {
    let mut wire = node.connect();
    node.wait(async {
        let response = wire.call(request).await.unwrap();
        let (head, mut body) = response.into_parts();
        let mut trailers = HeaderMap::new();
        while let Some(frame) = std::future::poll_fn(|task| {
            tonic::codegen::Body::poll_frame(std::pin::Pin::new(&mut body), task)
        })
        .await
        {
            if let Ok(found) = frame.unwrap().into_trailers() {
                trailers = found;
            }
        }
        (Response::from_parts(head, ()), trailers)
    })
}

fn request(path: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = "POST".parse().unwrap();
    *request.uri_mut() = format!("http://localhost{path}").parse().unwrap();
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("te", "trailers".parse().unwrap());
    request
}

fn code(answer: &(Response<()>, HeaderMap)) -> Option<Code> {
    let status = answer
        .0
        .headers()
        .get("grpc-status")
        .or(answer.1.get("grpc-status"));
    status.map(|status| Code::from_bytes(status.as_bytes()))
}

fn deadlines_are_obeyed(env: &Env) {
    let node = Node::new(env);
    let version = "/runtime.v1.RuntimeService/Version";
    for (timeout, expected) in [
        ("0n", Code::DeadlineExceeded),
        ("soon", Code::InvalidArgument),
        ("1", Code::InvalidArgument),
        ("123456789S", Code::InvalidArgument),
    ] {
        let mut request = request(version);
        request
            .headers_mut()
            .insert("grpc-timeout", timeout.parse().unwrap());
        assert_eq!(code(&raw(&node, request)), Some(expected), "{timeout}");
    }
    let mut request = tonic::Request::new(cri::VersionRequest::default());
    request.set_timeout(Duration::from_secs(10));
    node.ok(node.runtime().version(request));
}

fn what_is_no_request_of_this_interface(env: &Env) {
    let node = Node::new(env);
    for path in [
        "/runtime.v1alpha2.RuntimeService/Version",
        "/runtime.v1.ImageService/Nothing",
        "/runtime.v1.ImageService",
        "/",
        "/grpc.health.v1.Health/Check",
    ] {
        assert_eq!(
            code(&raw(&node, request(path))),
            Some(Code::Unimplemented),
            "{path}"
        );
    }
    let mut get = request("/runtime.v1.RuntimeService/Version");
    *get.method_mut() = "GET".parse().unwrap();
    let mut text = request("/runtime.v1.RuntimeService/Version");
    text.headers_mut()
        .insert("content-type", "text/plain".parse().unwrap());
    for other in [get, text] {
        assert_eq!(raw(&node, other).0.status(), 415);
    }
    node.ok(node.runtime().version(cri::VersionRequest::default()));
}

fn long_messages(env: &Env) {
    let node = Node::new(env);
    // The kubelet's limit is 16 MiB: what is shorter is read, and judged.
    for (size, expected) in [
        (15 << 20, Code::InvalidArgument),
        (17 << 20, Code::OutOfRange),
    ] {
        let request = cri::PullImageRequest {
            image: spec(&"x".repeat(size)),
            ..Default::default()
        };
        let said = node.refused(node.images().pull_image(request), expected);
        assert!(said.len() < 5000, "{}", said.len());
    }
    let many = cri::PullImageRequest {
        image: spec("NOT A NAME"),
        sandbox_config: Some(cri::PodSandboxConfig {
            labels: (0..100_000)
                .map(|n| (format!("label-{n}"), "x".to_owned()))
                .collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    node.refused(node.images().pull_image(many), Code::InvalidArgument);
    node.ok(node.runtime().version(cri::VersionRequest::default()));
}

fn bytes_that_are_no_http(env: &Env) {
    let node = Node::new(env);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut seed = 1_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let byte = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as u8
        };
        (0..length).map(byte).collect()
    };
    for round in 0..200 {
        let mut stream = UnixStream::connect(&node.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let mut bytes = match round % 4 {
            0 => Vec::new(),
            1 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            _ => [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat(),
        };
        bytes.extend(noise(round * 7));
        // It may close before it has read all.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    node.ok(node.runtime().version(cri::VersionRequest::default()));
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

fn many_connections(env: &Env) {
    let node = Node::new(env);
    let wires: Vec<_> = (0..200).map(|_| node.connect()).collect();
    let begun = Instant::now();
    node.ok(node.runtime().version(cri::VersionRequest::default()));
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(wires);
}
