//! GetContainerEvents: what happens, in its order.

use crate::harness::cri::Node;
use crate::harness::pods::Pods;
use crate::harness::{Env, Test, test};
use cri::ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};
use rcrun_cri::proto::v1 as cri;
use tonic::{Code, Streaming};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(everything_is_told_in_its_order),
        test!(an_end_is_told_with_its_code),
        test!(all_listeners_hear_the_same),
        test!(listening_ends_with_the_server),
    ]
}

type Events = Streaming<cri::ContainerEventResponse>;

#[track_caller]
fn listen(node: &Node) -> Events {
    let request = cri::GetEventsRequest {};
    node.ok(node.runtime().get_container_events(request))
}

#[track_caller]
fn next(node: &Node, events: &mut Events) -> cri::ContainerEventResponse {
    let event = node.wait(events.message()).unwrap();
    event.expect("there is another event")
}

fn everything_is_told_in_its_order(env: &Env) {
    let pods = Pods::new(env);
    let mut events = listen(&pods.node);
    let config = pods.pod("one");
    let pod = pods.run(&config);
    let id = pods.create(&pod, &pods.container("c", "sleep 1000"), &config);
    pods.start(&id);
    pods.stop_container(&id, 0);
    pods.remove_container(&id);
    pods.stop(&pod);
    pods.remove(&pod);
    use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    use cri::PodSandboxState::{SandboxNotready, SandboxReady};
    let mut last = 0;
    for (of, kind, state, of_container) in [
        (&pod, Created, SandboxReady, None),
        (&pod, Started, SandboxReady, None),
        (&id, Created, SandboxReady, Some(ContainerCreated)),
        (&id, Started, SandboxReady, Some(ContainerRunning)),
        (&id, Stopped, SandboxReady, Some(ContainerExited)),
        (&id, Deleted, SandboxReady, None),
        (&pod, Stopped, SandboxNotready, None),
        (&pod, Deleted, SandboxNotready, None),
    ] {
        let event = next(&pods.node, &mut events);
        assert_eq!(
            (&event.container_id, event.container_event_type()),
            (of, kind)
        );
        assert!(event.created_at >= last, "{event:?}");
        last = event.created_at;
        let status = event.pod_sandbox_status.unwrap();
        assert_eq!((&status.id, status.state()), (&pod, state), "{kind:?}");
        assert_eq!(status.metadata, config.metadata);
        let containers: Vec<_> = event
            .containers_statuses
            .iter()
            .map(|one| (one.id.as_str(), one.state()))
            .collect();
        let expected: Vec<_> = of_container
            .map(|state| (id.as_str(), state))
            .into_iter()
            .collect();
        assert_eq!(containers, expected, "{kind:?}");
    }
}

fn an_end_is_told_with_its_code(env: &Env) {
    let pods = Pods::new(env);
    let config = pods.pod("one");
    let pod = pods.run(&config);
    let id = pods.create(&pod, &pods.container("c", "exit 7"), &config);
    let mut events = listen(&pods.node);
    pods.start(&id);
    assert_eq!(
        next(&pods.node, &mut events).container_event_type(),
        Started
    );
    let event = next(&pods.node, &mut events);
    assert_eq!(event.container_event_type(), Stopped);
    let status = &event.containers_statuses[0];
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(status.finished_at >= status.started_at);
    assert_eq!(pods.status(&id), *status);
    pods.remove(&pod);
}

fn all_listeners_hear_the_same(env: &Env) {
    let pods = Pods::new(env);
    let mut first = listen(&pods.node);
    let mut second = listen(&pods.node);
    // One that went away is no harm.
    drop(listen(&pods.node));
    let pod = pods.run(&pods.pod("one"));
    // One that comes later hears what comes later.
    let mut third = listen(&pods.node);
    pods.remove(&pod);
    let told = |events: &mut Events, count: usize| -> Vec<_> {
        (0..count).map(|_| next(&pods.node, events)).collect()
    };
    let all = told(&mut first, 4);
    assert_eq!(all, told(&mut second, 4));
    assert_eq!(all[2..], told(&mut third, 2));
    let kinds: Vec<_> = all
        .iter()
        .map(cri::ContainerEventResponse::container_event_type)
        .collect();
    assert_eq!(kinds, [Created, Started, Stopped, Deleted]);
}

fn listening_ends_with_the_server(env: &Env) {
    let node = Node::new(env);
    let mut events = listen(&node);
    node.signal(rustix::process::Signal::TERM);
    let status = node.wait(events.message()).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains("list everything anew"),
        "{status:?}"
    );
    node.ended().ok();
}
