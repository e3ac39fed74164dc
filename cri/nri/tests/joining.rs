//! How plugins join, what they are told then, and what they ask for on their own.

mod plugin;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plugin::*;
use prost::Message;
use rcrun_nri::proto::v1alpha1::*;
use tokio::time::timeout;

#[tokio::test]
async fn a_plugin_is_configured_and_told_what_is_there() {
    let lab = Lab::with(|settings| settings.runtime_version = "1.2.3".to_owned()).await;
    *lab.memory.state.lock().unwrap() = rcrun_nri::State {
        pods: vec![pod("p")],
        containers: vec![container("a"), container("b")],
    };
    let wanted = SynchronizeResponse {
        update: vec![update("a", memory(1)), update("b", memory(2))],
        more: false,
    };
    *lab.memory.failing.lock().unwrap() = vec!["b".to_owned()];
    let mut one = Plugin::begin(&lab.socket, "00", "one", &[], move |_, _| answer(&wanted)).await;
    let told = ConfigureRequest::decode(&*one.hear("Configure").await).unwrap();
    assert_eq!(told.runtime_name, "rcrun");
    assert_eq!(told.runtime_version, "1.2.3");
    assert_eq!(
        (told.registration_timeout, told.request_timeout),
        (20_000, 20_000)
    );
    let told = SynchronizeRequest::decode(&*one.hear("Synchronize").await).unwrap();
    assert_eq!(told.pods, [pod("p")]);
    assert_eq!(told.containers, [container("a"), container("b")]);
    assert!(!told.more);
    drop(lab.nri.operation().await);
    assert_eq!(lab.nri.plugins(), ["00-one"]);
    assert_eq!(
        *lab.memory.updates.lock().unwrap(),
        [update("a", memory(1))]
    );
}

#[tokio::test]
async fn a_plugin_may_update_containers_unasked_even_while_it_is_asked() {
    let lab = Lab::new().await;
    *lab.memory.failing.lock().unwrap() = vec!["b".to_owned()];
    let one = Plugin::join(&lab.socket, "10", "one", &[], |method, _| match method {
        "StartContainer" => Reply::Silence,
        _ => nothing(),
    })
    .await;
    let operation = lab.nri.operation().await;
    let (pod, made) = (pod("p"), container("c"));
    let waiting = operation.start_container(&pod, &made);
    let asks = async {
        let wanted = UpdateContainersRequest {
            update: vec![update("a", memory(1)), update("b", memory(2))],
            evict: Vec::new(),
        };
        let answer = one.call("UpdateContainers", &wanted).await.unwrap();
        let answer = UpdateContainersResponse::decode(&*answer).unwrap();
        assert_eq!(answer.failed, [update("b", memory(2))]);
        let wanted = UpdateContainersRequest {
            update: Vec::new(),
            evict: vec![ContainerEviction::default()],
        };
        let refused = one.call("UpdateContainers", &wanted).await.unwrap_err();
        assert_eq!(refused.code, UNIMPLEMENTED, "{}", refused.message);
        let unknown = one.call("Dance", &Empty {}).await.unwrap_err();
        assert_eq!(unknown.code, UNIMPLEMENTED, "{}", unknown.message);
    };
    tokio::select! {
        outcome = waiting => panic!("{outcome:?}"),
        () = asks => {}
    }
    assert_eq!(
        *lab.memory.updates.lock().unwrap(),
        [update("a", memory(1))]
    );
    // The call that was dropped above is forgotten, and the plugin is as before.
    operation.stop_container(&pod, &made).await.unwrap();
    assert_eq!(lab.nri.plugins(), ["10-one"]);
}

#[tokio::test]
async fn a_plugin_joins_between_operations_and_misses_nothing() {
    let lab = Lab::new().await;
    let operation = lab.nri.operation().await;
    let handler = |_: &str, _: &[u8]| nothing();
    let mut late = Plugin::begin(&lab.socket, "10", "late", &[], handler).await;
    late.hear("Configure").await;
    // A container is made while the plugin waits, and its state is there before the operation ends.
    let (pod, one) = (pod("p"), container("c"));
    operation.create_container(&pod, &one).await.unwrap();
    assert_eq!(late.all(), [] as [&str; 0]);
    lab.memory.state.lock().unwrap().containers.push(one);
    drop(operation);
    let told = SynchronizeRequest::decode(&*late.hear("Synchronize").await).unwrap();
    assert_eq!(told.containers, [container("c")]);
    // An operation that begins now is told to it.
    let operation = lab.nri.operation().await;
    let two = container("d");
    operation.create_container(&pod, &two).await.unwrap();
    let told = CreateContainerRequest::decode(&*late.hear("CreateContainer").await).unwrap();
    assert_eq!(told.container, Some(two));
}

#[tokio::test]
async fn an_operation_that_takes_long_holds_others_up_only_for_a_while() {
    let lab = Lab::new().await;
    let long = lab.nri.operation().await;
    let handler = |_: &str, _: &[u8]| nothing();
    let mut late = Plugin::begin(&lab.socket, "10", "late", &[], handler).await;
    late.hear("Configure").await;
    // Now it waits, and whoever comes waits behind it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    for _ in 0..5 {
        let other = timeout(Duration::from_secs(10), lab.nri.operation()).await;
        drop(other.expect("an operation while a plugin waits for another"));
    }
    assert!(begun.elapsed() > Duration::from_millis(300));
    assert_eq!(lab.nri.plugins(), [] as [&str; 0]);
    drop(long);
    late.hear("Synchronize").await;
    lab.plugins(&["10-late"]).await;
}

#[tokio::test]
async fn a_long_list_is_told_in_several_messages() {
    let lab = Lab::new().await;
    let state = rcrun_nri::State {
        pods: (0..100)
            .map(|number| PodSandbox {
                annotations: [("k".to_owned(), "v".repeat(30_000))].into(),
                ..pod(&format!("p{number}"))
            })
            .collect(),
        containers: (0..300)
            .map(|number| Container {
                env: vec!["E".repeat(40_000)],
                ..container(&format!("c{number}"))
            })
            .collect(),
    };
    *lab.memory.state.lock().unwrap() = state.clone();
    let parts = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&parts);
    let handler = move |method: &str, payload: &[u8]| {
        if method != "Synchronize" {
            return nothing();
        }
        let part = SynchronizeRequest::decode(payload).unwrap();
        let more = part.more;
        told.lock().unwrap().push(part);
        answer(&SynchronizeResponse {
            update: match more {
                true => Vec::new(),
                false => vec![update("c1", memory(1))],
            },
            more,
        })
    };
    let _patient = Plugin::begin(&lab.socket, "10", "patient", &[], handler).await;
    lab.plugins(&["10-patient"]).await;
    // What it wants is done before operations go on.
    drop(lab.nri.operation().await);
    let parts = std::mem::take(&mut *parts.lock().unwrap());
    assert!(parts.len() > 3, "{}", parts.len());
    let pods: Vec<_> = parts.iter().flat_map(|part| part.pods.clone()).collect();
    let containers = parts.iter().flat_map(|part| part.containers.clone());
    assert_eq!(pods, state.pods);
    assert_eq!(containers.collect::<Vec<_>>(), state.containers);
    assert_eq!(
        *lab.memory.updates.lock().unwrap(),
        [update("c1", memory(1))]
    );
    // One that knows one message only is left out.
    let handler = |_: &str, _: &[u8]| nothing();
    let hasty = Plugin::begin(&lab.socket, "20", "hasty", &[], handler).await;
    hasty.end().await;
    assert_eq!(lab.nri.plugins(), ["10-patient"]);
}

/// Each container reaches each plugin once: in the list that it is told when it joins, or as an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_container_is_lost_while_plugins_come_and_containers_are_made() {
    const MAKERS: usize = 4;
    const EACH: usize = 100;
    const PLUGINS: usize = 12;
    let lab = Arc::new(Lab::new().await);
    let mut makers = tokio::task::JoinSet::new();
    for maker in 0..MAKERS {
        let lab = Arc::clone(&lab);
        makers.spawn(async move {
            for number in 0..EACH {
                let operation = lab.nri.operation().await;
                let made = container(&format!("c{maker}-{number}"));
                operation.create_container(&pod("p"), &made).await.unwrap();
                tokio::task::yield_now().await;
                lab.memory.state.lock().unwrap().containers.push(made);
                drop(operation);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    let mut joining = tokio::task::JoinSet::new();
    for number in 0..PLUGINS {
        let lab = Arc::clone(&lab);
        joining.spawn(async move {
            tokio::time::sleep(Duration::from_millis(10 * number as u64)).await;
            let known = Arc::new(Mutex::new(Vec::new()));
            let listed = Arc::new(Mutex::new(0));
            let (knows, lists) = (Arc::clone(&known), Arc::clone(&listed));
            let handler = move |method: &str, payload: &[u8]| {
                let mut knows = knows.lock().unwrap();
                match method {
                    "Synchronize" => {
                        let told = SynchronizeRequest::decode(payload).unwrap();
                        *lists.lock().unwrap() = told.containers.len();
                        knows.extend(told.containers.into_iter().map(|one| one.id));
                    }
                    "CreateContainer" => {
                        let told = CreateContainerRequest::decode(payload).unwrap();
                        knows.push(told.container.unwrap().id);
                    }
                    _ => {}
                }
                nothing()
            };
            let events = [Event::CreateContainer];
            let plugin = Plugin::join(&lab.socket, "10", "p", &events, handler).await;
            // Some leave in the middle of it all.
            (number % 3 > 0).then_some((plugin, known, listed))
        });
    }
    let plugins = joining.join_all().await;
    makers.join_all().await;
    let mut all: Vec<String> = (0..MAKERS * EACH)
        .map(|number| format!("c{}-{}", number / EACH, number % EACH))
        .collect();
    all.sort();
    let mut midway = 0;
    for (_plugin, known, listed) in plugins.into_iter().flatten() {
        let mut known = known.lock().unwrap().clone();
        midway += usize::from((1..all.len()).contains(&*listed.lock().unwrap()));
        known.sort();
        assert_eq!(known, all);
    }
    assert!(midway > 0, "no plugin joined while containers were made");
}

/// The list of all that is there may take a plugin longer than an event, and yet not for ever.
#[tokio::test]
async fn a_plugin_has_the_time_of_its_registration_to_take_the_list_in() {
    let (short, long) = (Duration::from_millis(50), Duration::from_millis(900));
    let lab = Lab::with(|settings| {
        settings.request_time = short;
        settings.registration_time = long;
    })
    .await;
    let slow = |method: &str, _: &[u8]| {
        if method == "Synchronize" {
            std::thread::sleep(Duration::from_millis(250));
        }
        nothing()
    };
    let _slow = Plugin::begin(&lab.socket, "00", "slow", &[], slow).await;
    lab.plugins(&["00-slow"]).await;
    let never = |method: &str, _: &[u8]| match method {
        "Synchronize" => Reply::Silence,
        _ => nothing(),
    };
    let begun = Instant::now();
    let never = Plugin::begin(&lab.socket, "01", "never", &[], never).await;
    never.end().await;
    assert!(begun.elapsed() >= long);
    assert_eq!(lab.nri.plugins(), ["00-slow"]);
}
