//! Events and answers, over a real socket with plugins that behave.

mod plugin;

use std::sync::{Arc, Mutex};

use plugin::*;
use prost::Message;
use rcrun_nri::Runtime as _;
use rcrun_nri::proto::v1alpha1::*;

#[tokio::test]
async fn every_event_is_told_with_its_pod_and_container() {
    let lab = Lab::new().await;
    let mut all = Plugin::join(&lab.socket, "10", "all", &[], |_, _| nothing()).await;
    let operation = lab.nri.operation().await;
    let (pod, one) = (pod("p"), container("c"));
    operation.run_pod_sandbox(&pod).await.unwrap();
    let told = StartContainerRequest::decode(&*all.hear("RunPodSandbox").await).unwrap();
    assert_eq!((told.pod, told.container), (Some(pod.clone()), None));

    let (overhead, limits) = (shares(1), shares(2));
    operation
        .update_pod_sandbox(&pod, Some(&overhead), Some(&limits))
        .await
        .unwrap();
    let told = UpdatePodSandboxRequest::decode(&*all.hear("UpdatePodSandbox").await).unwrap();
    assert_eq!(told.overhead_linux_resources, Some(overhead));
    assert_eq!(told.linux_resources, Some(limits));
    operation.post_update_pod_sandbox(&pod).await.unwrap();
    all.hear("PostUpdatePodSandbox").await;

    let created = operation.create_container(&pod, &one).await.unwrap();
    assert_eq!(created, rcrun_nri::Created::default());
    let told = CreateContainerRequest::decode(&*all.hear("CreateContainer").await).unwrap();
    assert_eq!(
        (told.pod, told.container),
        (Some(pod.clone()), Some(one.clone()))
    );
    all.hear("ValidateContainerAdjustment").await;

    operation.post_create_container(&pod, &one).await.unwrap();
    operation.start_container(&pod, &one).await.unwrap();
    operation.post_start_container(&pod, &one).await.unwrap();
    for method in [
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
    ] {
        let told = StartContainerRequest::decode(&*all.hear(method).await).unwrap();
        assert_eq!(
            (told.pod, told.container),
            (Some(pod.clone()), Some(one.clone()))
        );
    }
    let updated = operation
        .update_container(&pod, &one, &memory(7))
        .await
        .unwrap();
    assert_eq!(updated.resources, memory(7));
    let told = UpdateContainerRequest::decode(&*all.hear("UpdateContainer").await).unwrap();
    assert_eq!(told.linux_resources, Some(memory(7)));
    operation.post_update_container(&pod, &one).await.unwrap();
    assert_eq!(operation.stop_container(&pod, &one).await.unwrap(), []);
    operation.remove_container(&pod, &one).await.unwrap();
    operation.stop_pod_sandbox(&pod).await.unwrap();
    operation.remove_pod_sandbox(&pod).await.unwrap();
    drop(operation);
    lab.nri.stop().await;
    all.hear("PostUpdateContainer").await;
    assert_eq!(
        all.all(),
        [
            "StopContainer",
            "RemoveContainer",
            "StopPodSandbox",
            "RemovePodSandbox",
            "Shutdown"
        ]
    );
    all.end().await;
}

#[tokio::test]
async fn plugins_are_asked_in_order_and_see_what_those_before_want() {
    let lab = Lab::new().await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut joined = Vec::new();
    // They connect in another order.
    for index in ["50", "10", "90"] {
        let asked = Arc::clone(&asked);
        let handler = move |method: &str, payload: &[u8]| {
            if method != "CreateContainer" {
                return nothing();
            }
            let told = CreateContainerRequest::decode(payload).unwrap();
            let container = told.container.unwrap();
            asked
                .lock()
                .unwrap()
                .push((index, container.env, container.annotations.len()));
            answer(&CreateContainerResponse {
                adjust: Some(ContainerAdjustment {
                    env: vec![KeyValue {
                        key: format!("K{index}"),
                        value: "v".to_owned(),
                    }],
                    annotations: [(format!("a{index}"), String::new())].into(),
                    ..ContainerAdjustment::default()
                }),
                update: vec![update(
                    "other",
                    if index == "50" {
                        memory(5)
                    } else {
                        LinuxResources::default()
                    },
                )],
                evict: vec![ContainerEviction {
                    container_id: format!("e{index}"),
                    reason: String::new(),
                }],
            })
        };
        let events = [Event::CreateContainer];
        joined.push(Plugin::join(&lab.socket, index, "x", &events, handler).await);
    }
    lab.plugins(&["10-x", "50-x", "90-x"]).await;
    let operation = lab.nri.operation().await;
    let mut made = container("c");
    made.env.push("PATH=/bin".to_owned());
    let created = operation.create_container(&pod("p"), &made).await.unwrap();
    let own = || "PATH=/bin".to_owned();
    assert_eq!(
        *asked.lock().unwrap(),
        [
            ("10", vec![own()], 0),
            ("50", vec![own(), "K10=v".to_owned()], 1),
            ("90", vec![own(), "K10=v".to_owned(), "K50=v".to_owned()], 2),
        ]
    );
    let keys: Vec<_> = created.adjust.env.iter().map(|one| &*one.key).collect();
    assert_eq!(keys, ["K10", "K50", "K90"]);
    assert_eq!(created.updates, [update("other", memory(5))]);
    let evicted: Vec<_> = created.evict.iter().map(|one| &*one.container_id).collect();
    assert_eq!(evicted, ["e10", "e50", "e90"]);
}

#[tokio::test]
async fn a_conflict_names_both_plugins_and_what_it_is_about() {
    let lab = Lab::new().await;
    let sets = |value: &'static str| {
        move |method: &str, _: &[u8]| match method {
            "CreateContainer" => answer(&CreateContainerResponse {
                adjust: Some(ContainerAdjustment {
                    annotations: [("key".to_owned(), value.to_owned())].into(),
                    ..ContainerAdjustment::default()
                }),
                ..CreateContainerResponse::default()
            }),
            _ => nothing(),
        }
    };
    let first = Plugin::join(&lab.socket, "10", "first", &[], sets("1")).await;
    let second = Plugin::join(&lab.socket, "20", "second", &[], sets("2")).await;
    let operation = lab.nri.operation().await;
    let outcome = operation.create_container(&pod("p"), &container("c")).await;
    let error = outcome.unwrap_err().chain().to_string();
    for word in [
        "container c",
        "10-first",
        "20-second",
        "Annotations",
        "\"key\"",
    ] {
        assert!(error.contains(word), "{error}");
    }
    // Both are still there.
    assert_eq!(lab.nri.plugins(), ["10-first", "20-second"]);
    drop((first, second));
}

#[tokio::test]
async fn a_plugin_that_says_no_fails_the_event_and_stays() {
    let lab = Lab::new().await;
    let refuses = |_: &str, _: &[u8]| Reply::Refuse(UNKNOWN, "not\ntoday");
    let accepts = |_: &str, _: &[u8]| nothing();
    let no = move |method: &str, payload: &[u8]| match method {
        "Synchronize" => nothing(),
        _ => refuses(method, payload),
    };
    let first = Plugin::join(&lab.socket, "10", "first", &[], no).await;
    let mut second = Plugin::join(&lab.socket, "20", "second", &[], accepts).await;
    let operation = lab.nri.operation().await;
    let (pod, one) = (pod("p"), container("c"));
    for _ in 0..2 {
        let mut errors = vec![
            operation.run_pod_sandbox(&pod).await.unwrap_err(),
            operation.start_container(&pod, &one).await.unwrap_err(),
            operation.stop_container(&pod, &one).await.unwrap_err(),
            operation.create_container(&pod, &one).await.unwrap_err(),
        ];
        let limits = LinuxResources::default();
        let outcome = operation.update_container(&pod, &one, &limits).await;
        errors.push(outcome.unwrap_err());
        for error in errors {
            let text = error.chain().to_string();
            assert!(
                text.contains("10-first") && text.contains("not today"),
                "{text}"
            );
        }
    }
    assert_eq!(second.all(), [] as [&str; 0]);
    assert_eq!(lab.nri.plugins(), ["10-first", "20-second"]);
    drop(first);
}

#[tokio::test]
async fn only_what_a_plugin_wants_is_told_to_it() {
    let lab = Lab::new().await;
    let events = [Event::StartContainer, Event::StopPodSandbox];
    let mut some = Plugin::join(&lab.socket, "10", "some", &events, |_, _| nothing()).await;
    let operation = lab.nri.operation().await;
    let (pod, one) = (pod("p"), container("c"));
    operation.run_pod_sandbox(&pod).await.unwrap();
    operation.create_container(&pod, &one).await.unwrap();
    operation.start_container(&pod, &one).await.unwrap();
    operation.stop_container(&pod, &one).await.unwrap();
    operation.stop_pod_sandbox(&pod).await.unwrap();
    operation.remove_pod_sandbox(&pod).await.unwrap();
    assert_eq!(some.all(), ["StartContainer", "StopPodSandbox"]);
}

#[tokio::test]
async fn a_plugin_older_than_the_methods_of_events_hears_of_changes_of_state() {
    let lab = Lab::new().await;
    let handler = |method: &str, _: &[u8]| match method {
        "Synchronize" | "StateChange" | "StopContainer" => nothing(),
        _ => Reply::Refuse(UNIMPLEMENTED, "method"),
    };
    let mut old = Plugin::join(&lab.socket, "10", "old", &[], handler).await;
    let operation = lab.nri.operation().await;
    let (pod, one) = (pod("p"), container("c"));
    for _ in 0..2 {
        operation.start_container(&pod, &one).await.unwrap();
        let change = StateChangeEvent::decode(&*old.hear("StateChange").await).unwrap();
        assert_eq!(change.event, Event::StartContainer as i32);
        assert_eq!(
            (change.pod, change.container),
            (Some(pod.clone()), Some(one.clone()))
        );
    }
    operation.remove_pod_sandbox(&pod).await.unwrap();
    // It is tried once for each event.
    assert_eq!(old.all(), ["RemovePodSandbox", "StateChange"]);
    // Where an answer is needed there is nothing to fall back to.
    assert!(operation.create_container(&pod, &one).await.is_err());
    assert_eq!(operation.stop_container(&pod, &one).await.unwrap(), []);
}

#[tokio::test]
async fn updates_are_joined_and_the_container_of_the_event_is_its_own() {
    let lab = Lab::new().await;
    let first = |method: &str, _: &[u8]| match method {
        "UpdateContainer" => answer(&UpdateContainerResponse {
            update: vec![update("c", shares(9)), update("other", memory(1))],
            evict: vec![ContainerEviction {
                container_id: "e".to_owned(),
                reason: "room".to_owned(),
            }],
        }),
        "StopContainer" => answer(&StopContainerResponse {
            update: vec![update("other", memory(3))],
        }),
        _ => nothing(),
    };
    let second = |method: &str, payload: &[u8]| match method {
        "UpdateContainer" => {
            let told = UpdateContainerRequest::decode(payload).unwrap();
            let seen = told.linux_resources.unwrap();
            assert_eq!(seen.memory, memory(7).memory);
            assert_eq!(seen.cpu, shares(9).cpu);
            answer(&UpdateContainerResponse {
                update: vec![update("other", shares(2))],
                evict: Vec::new(),
            })
        }
        _ => nothing(),
    };
    let first = Plugin::join(&lab.socket, "10", "first", &[], first).await;
    let second = Plugin::join(&lab.socket, "20", "second", &[], second).await;
    let operation = lab.nri.operation().await;
    let (pod, one) = (pod("p"), container("c"));
    let updated = operation
        .update_container(&pod, &one, &memory(7))
        .await
        .unwrap();
    assert_eq!(updated.resources.memory, memory(7).memory);
    assert_eq!(updated.resources.cpu, shares(9).cpu);
    let other = LinuxResources {
        cpu: shares(2).cpu,
        ..memory(1)
    };
    assert_eq!(updated.updates, [update("other", other)]);
    assert_eq!(updated.evict[0].container_id, "e");
    let updates = operation.stop_container(&pod, &one).await.unwrap();
    assert_eq!(updates, [update("other", memory(3))]);
    drop((first, second));
}

#[tokio::test]
async fn who_validates_sees_who_wants_what_and_may_reject() {
    let lab = Lab::new().await;
    let sets = |method: &str, _: &[u8]| match method {
        "CreateContainer" => answer(&CreateContainerResponse {
            adjust: Some(ContainerAdjustment {
                args: vec!["sh".to_owned()],
                ..ContainerAdjustment::default()
            }),
            ..CreateContainerResponse::default()
        }),
        _ => nothing(),
    };
    let validates = |method: &str, payload: &[u8]| match method {
        "ValidateContainerAdjustment" => {
            let told = ValidateContainerAdjustmentRequest::decode(payload).unwrap();
            // As it was before any plugin.
            assert_eq!(told.container, Some(container("c")));
            assert_eq!(told.adjust.unwrap().args, ["sh"]);
            let owners = &told.owners.unwrap().owners["c"];
            assert_eq!(owners.simple[&(Field::Args as i32)], "20-sets");
            let names: Vec<_> = told.plugins.iter().map(|one| &*one.name).collect();
            assert_eq!(names, ["validates", "sets"]);
            answer(&ValidateContainerAdjustmentResponse {
                reject: true,
                reason: "no other programs".to_owned(),
            })
        }
        _ => nothing(),
    };
    let events = [Event::ValidateContainerAdjustment];
    let validator = Plugin::join(&lab.socket, "10", "validates", &events, validates).await;
    let sets = Plugin::join(&lab.socket, "20", "sets", &[Event::CreateContainer], sets).await;
    let operation = lab.nri.operation().await;
    let outcome = operation.create_container(&pod("p"), &container("c")).await;
    let error = outcome.unwrap_err().chain().to_string();
    assert!(
        error.contains("10-validates") && error.contains("no other programs"),
        "{error}"
    );
    drop((validator, sets));
}

#[tokio::test]
async fn who_validates_is_asked_when_nobody_adjusts() {
    let lab = Lab::new().await;
    let validates = |method: &str, _: &[u8]| match method {
        "ValidateContainerAdjustment" => answer(&ValidateContainerAdjustmentResponse {
            reject: true,
            reason: String::new(),
        }),
        _ => nothing(),
    };
    let events = [Event::ValidateContainerAdjustment];
    let validator = Plugin::join(&lab.socket, "10", "validates", &events, validates).await;
    let operation = lab.nri.operation().await;
    let outcome = operation.create_container(&pod("p"), &container("c")).await;
    assert!(outcome.unwrap_err().to_string().contains("no reason given"));
    drop(validator);
}

#[tokio::test]
async fn events_are_with_the_plugins_one_at_a_time() {
    let lab = Arc::new(Lab::new().await);
    let mut one = Plugin::join(&lab.socket, "10", "one", &[], |_, _| nothing()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let lab = Arc::clone(&lab);
        tasks.spawn(async move {
            let operation = lab.nri.operation().await;
            let (pod, one) = (pod("p"), container(&format!("c{number}")));
            operation.create_container(&pod, &one).await.unwrap();
            operation.start_container(&pod, &one).await.unwrap();
        });
    }
    tasks.join_all().await;
    let all = one.all();
    assert_eq!(all.len(), 150);
    // Adjusting and validating are one event: nothing comes between.
    for (index, method) in all.iter().enumerate() {
        if method == "CreateContainer" {
            assert_eq!(all[index + 1], "ValidateContainerAdjustment");
        }
    }
    assert_eq!(lab.memory.update(Vec::new()).await, []);
}
