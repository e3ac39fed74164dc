//! Plugins that are slow, dead, broken or hostile: what they cost, and that events go on.

mod plugin;

use std::time::{Duration, Instant};

use plugin::*;
use prost::Message;
use rcrun_nri::limits;
use rcrun_nri::proto::v1alpha1::*;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// Time for a plugin that does not answer at all.
const SHORT: Duration = Duration::from_millis(200);

async fn hasty() -> Lab {
    Lab::with(|settings| settings.request_time = SHORT).await
}

/// What a plugin does when a container starts; all else it does well.
async fn at_start(
    lab: &Lab,
    index: &str,
    mut reply: impl FnMut() -> Reply + Send + 'static,
) -> Plugin {
    let handler = move |method: &str, _: &[u8]| match method {
        "StartContainer" => reply(),
        _ => nothing(),
    };
    let events = [Event::StartContainer, Event::CreateContainer];
    Plugin::join(&lab.socket, index, "p", &events, handler).await
}

async fn start(lab: &Lab) -> rcrun_error::Result<()> {
    let operation = lab.nri.operation().await;
    operation.start_container(&pod("p"), &container("c")).await
}

#[tokio::test]
async fn no_answer_drops_the_plugin_and_the_event_goes_on() {
    let lab = hasty().await;
    let slow = at_start(&lab, "10", || Reply::Silence).await;
    let mut good = at_start(&lab, "20", nothing).await;
    let begun = Instant::now();
    start(&lab).await.unwrap();
    assert!(begun.elapsed() >= SHORT);
    assert!(begun.elapsed() < PATIENCE);
    good.hear("StartContainer").await;
    slow.end().await;
    lab.plugins(&["20-p"]).await;
    start(&lab).await.unwrap();
}

#[tokio::test]
async fn death_in_a_request_drops_the_plugin_at_once_and_the_event_goes_on() {
    let lab = Lab::new().await;
    let dies = at_start(&lab, "10", || Reply::Die).await;
    let mut good = at_start(&lab, "20", nothing).await;
    timeout(PATIENCE / 2, start(&lab)).await.unwrap().unwrap();
    good.hear("StartContainer").await;
    dies.end().await;
    lab.plugins(&["20-p"]).await;
}

#[tokio::test]
async fn death_of_one_that_validates_fails_the_event() {
    for (words, reply) in [
        ("closed the connection", (|| Reply::Die) as fn() -> Reply),
        ("no answer after", || Reply::Silence),
    ] {
        let lab = hasty().await;
        let handler = move |method: &str, _: &[u8]| match method {
            "ValidateContainerAdjustment" => reply(),
            _ => nothing(),
        };
        let events = [Event::ValidateContainerAdjustment];
        let validator = Plugin::join(&lab.socket, "10", "v", &events, handler).await;
        let operation = lab.nri.operation().await;
        let outcome = operation.create_container(&pod("p"), &container("c")).await;
        let error = outcome.unwrap_err().chain().to_string();
        assert!(error.contains("10-v") && error.contains(words), "{error}");
        drop(operation);
        validator.end().await;
        lab.plugins(&[]).await;
    }
    // One that dies while it is asked to adjust does not slip away either.
    let lab = Lab::new().await;
    let handler = |method: &str, _: &[u8]| match method {
        "CreateContainer" => Reply::Die,
        _ => nothing(),
    };
    let validator = Plugin::join(&lab.socket, "10", "v", &[], handler).await;
    let operation = lab.nri.operation().await;
    let outcome = operation.create_container(&pod("p"), &container("c")).await;
    assert!(outcome.unwrap_err().to_string().contains("not validated"));
    drop(validator);
}

#[tokio::test]
async fn an_answer_that_is_too_long_fails_the_event_and_the_plugin_stays() {
    let lab = Lab::new().await;
    let mut times = 0;
    let plugin = at_start(&lab, "10", move || {
        times += 1;
        let long = |stream| message(1, stream, RESPONSE, &vec![0; limits::MESSAGE + 1]);
        match times {
            1 => Reply::Raw(Box::new(long)),
            _ => nothing(),
        }
    })
    .await;
    let error = start(&lab).await.unwrap_err().chain().to_string();
    assert!(
        error.contains("10-p") && error.contains("4194305 bytes"),
        "{error}"
    );
    start(&lab).await.unwrap();
    lab.plugins(&["10-p"]).await;
    drop(plugin);
}

#[tokio::test]
async fn a_request_that_would_be_too_long_fails_the_event_and_nothing_else() {
    let lab = Lab::new().await;
    let mut plugin = at_start(&lab, "10", nothing).await;
    let operation = lab.nri.operation().await;
    let long = Container {
        env: vec!["x".repeat(limits::MESSAGE)],
        ..container("c")
    };
    let outcome = operation.start_container(&pod("p"), &long).await;
    let error = outcome.unwrap_err().chain().to_string();
    assert!(error.contains("a request of"), "{error}");
    drop(operation);
    start(&lab).await.unwrap();
    plugin.hear("StartContainer").await;
    // As much as there may be arrives.
    let operation = lab.nri.operation().await;
    let long = Container {
        env: vec!["x".repeat(limits::MESSAGE - 1024)],
        ..container("c")
    };
    operation.start_container(&pod("p"), &long).await.unwrap();
    assert!(plugin.hear("StartContainer").await.len() > limits::MESSAGE - 1024);
}

#[tokio::test]
async fn an_answer_of_very_many_parts_fails_the_event() {
    let lab = Lab::new().await;
    let handler = |method: &str, _: &[u8]| match method {
        // Empty mounts, two bytes each: field 3 within field 1.
        "CreateContainer" => {
            let mounts = [0x1a, 0].repeat(1 << 20);
            let mut bomb = vec![0x0a];
            prost::encoding::encode_varint(mounts.len() as u64, &mut bomb);
            bomb.extend(mounts);
            Reply::Answer(bomb)
        }
        _ => nothing(),
    };
    let bomber = Plugin::join(&lab.socket, "10", "bomber", &[], handler).await;
    let operation = lab.nri.operation().await;
    let outcome = operation.create_container(&pod("p"), &container("c")).await;
    let error = outcome.unwrap_err().chain().to_string();
    assert!(error.contains("parts"), "{error}");
    drop(bomber);
}

#[tokio::test]
async fn an_answer_that_is_no_message_fails_the_event() {
    let lab = Lab::new().await;
    let broken = at_start(&lab, "10", || Reply::Answer(vec![0xff; 9])).await;
    let error = start(&lab).await.unwrap_err().chain().to_string();
    assert!(error.contains("cannot be read"), "{error}");
    drop(broken);
}

#[tokio::test]
async fn garbage_drops_the_plugin_and_the_event_goes_on() {
    type Bytes = fn(u32) -> Vec<u8>;
    let cases: [(&str, Bytes); 7] = [
        ("noise", |_| vec![0xff; 100]),
        ("http", |_| b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ("third connection", |_| frame(3, b"hello")),
        ("answer to a stream that is to come", |stream| {
            response(stream + 2, Vec::new())
        }),
        ("answer to an even stream", |stream| {
            response(stream + 1, Vec::new())
        }),
        ("request where answers belong", |stream| {
            message(1, stream, REQUEST, b"")
        }),
        ("request on an even stream", |_| {
            request(
                2,
                "nri.pkg.api.v1alpha1.Runtime",
                "UpdateContainers",
                Vec::new(),
            )
        }),
    ];
    for (name, bytes) in cases {
        let lab = Lab::new().await;
        let garbage = move || Reply::Raw(Box::new(bytes));
        let broken = at_start(&lab, "10", garbage).await;
        let mut good = at_start(&lab, "20", nothing).await;
        let outcome = timeout(PATIENCE / 2, start(&lab)).await;
        outcome.expect(name).expect(name);
        good.hear("StartContainer").await;
        broken.end().await;
        lab.plugins(&["20-p"]).await;
    }
}

#[tokio::test]
async fn an_answer_that_comes_late_is_nobodys() {
    let lab = Lab::new().await;
    let mut plugin = at_start(&lab, "10", || {
        Reply::Raw(Box::new(|stream| {
            // Twice, and then one that was never asked for again.
            let mut bytes = response(stream, Vec::new());
            bytes.extend_from_within(..);
            bytes
        }))
    })
    .await;
    start(&lab).await.unwrap();
    start(&lab).await.unwrap();
    plugin.hear("StartContainer").await;
    plugin.hear("StartContainer").await;
    lab.plugins(&["10-p"]).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_half_of_a_frame() {
    let lab = Lab::new().await;
    let mut plugin = at_start(&lab, "10", nothing).await;
    let long = Container {
        env: vec!["x".repeat(limits::MESSAGE / 2)],
        ..container("c")
    };
    for _ in 0..20 {
        let operation = lab.nri.operation().await;
        // Begins to write, and is dropped.
        let pod = pod("p");
        let call = operation.start_container(&pod, &long);
        let _ = timeout(Duration::from_micros(300), call).await;
        drop(operation);
        start(&lab).await.unwrap();
    }
    lab.plugins(&["10-p"]).await;
    assert!(plugin.all().len() >= 20);
}

#[tokio::test]
async fn a_plugin_that_does_not_read_is_dropped() {
    let lab = hasty().await;
    let mut wire = Wire::connect(&lab.socket).await;
    register(&mut wire, "10", "deaf").await;
    // Configuration and lists are answered, then nothing is read any more.
    loop {
        let (connection, stream, _, body) = wire.receive().await.unwrap();
        if connection == 1 {
            wire.send(&response(stream, Vec::new())).await;
            if body.windows(11).any(|part| part == b"Synchronize") {
                break;
            }
        }
    }
    lab.plugins(&["10-deaf"]).await;
    let operation = lab.nri.operation().await;
    let long = Container {
        env: vec!["x".repeat(limits::MESSAGE / 2)],
        ..container("c")
    };
    operation.start_container(&pod("p"), &long).await.unwrap();
    lab.plugins(&[]).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_end_the_connection() {
    let lab = Lab::new().await;
    let mut wire = Wire::connect(&lab.socket).await;
    let name = "X".repeat(1000);
    // Each is answered with a refusal; none of those is read.
    let mut sent = 0;
    let flood = async {
        for stream in (1..).step_by(2) {
            if !wire.send(&request(stream, &name, &name, Vec::new())).await {
                return;
            }
            sent += 1;
        }
    };
    timeout(PATIENCE, flood)
        .await
        .expect("the end of the flood");
    assert!(sent > 1, "{sent}");
}

#[tokio::test]
async fn more_updates_at_once_than_there_may_be_are_refused() {
    let lab = Lab::new().await;
    *lab.memory.delay.lock().unwrap() = Duration::from_millis(300);
    let plugin = Plugin::join(&lab.socket, "10", "p", &[], |_, _| nothing()).await;
    let wanted = UpdateContainersRequest {
        update: vec![update("a", memory(1))],
        evict: Vec::new(),
    };
    let (plugin, wanted) = (std::sync::Arc::new(plugin), std::sync::Arc::new(wanted));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..3 * limits::REQUESTS {
        let (plugin, wanted) = (plugin.clone(), wanted.clone());
        calls.spawn(async move { plugin.call("UpdateContainers", &*wanted).await });
    }
    let outcomes = calls.join_all().await;
    let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert!(refused > 0 && refused < outcomes.len(), "{refused}");
    assert_eq!(lab.nri.plugins(), ["10-p"]);
}

#[tokio::test]
async fn who_never_registers_is_dropped_in_time() {
    let lab = Lab::with(|settings| settings.registration_time = SHORT).await;
    let begun = Instant::now();
    let mut silent = Wire::connect(&lab.socket).await;
    assert_eq!(timeout(PATIENCE, silent.receive()).await.unwrap(), None);
    assert!(begun.elapsed() >= SHORT);
    // One that begins a message and never ends it.
    let mut half = Wire::connect(&lab.socket).await;
    half.send(&[0, 0, 0, 2, 0, 0, 16, 0, 0, 0, 15]).await;
    assert_eq!(timeout(PATIENCE, half.receive()).await.unwrap(), None);
    assert_eq!(lab.nri.plugins(), [] as [&str; 0]);
}

#[tokio::test]
async fn who_registers_wrongly_is_told_and_dropped() {
    let lab = Lab::new().await;
    let long = "n".repeat(limits::NAME + 1);
    let mut told = Vec::new();
    for (index, name, words) in [
        ("1", "p", "two digits"),
        ("001", "p", "two digits"),
        ("1x", "p", "two digits"),
        ("10", "", "named"),
        ("10", "../etc", "named"),
        ("10", "a\nb", "named"),
        ("10", &long, "named"),
    ] {
        let mut wire = Wire::connect(&lab.socket).await;
        let request = RegisterPluginRequest {
            plugin_name: name.to_owned(),
            plugin_idx: index.to_owned(),
            nri_version: String::new(),
        };
        let refused = wire.call("RegisterPlugin", &request).await.unwrap_err();
        let said = refused.message;
        assert!(said.contains(words), "{index} {name}: {said}");
        told.push(wire);
    }
    for mut wire in told {
        assert_eq!(timeout(PATIENCE, wire.receive()).await.unwrap(), None);
    }
    assert_eq!(lab.nri.plugins(), [] as [&str; 0]);
}

#[tokio::test]
async fn nothing_comes_before_the_registration_and_it_comes_once() {
    let lab = Lab::new().await;
    let mut wire = Wire::connect(&lab.socket).await;
    let wanted = UpdateContainersRequest {
        update: vec![update("a", memory(1))],
        evict: Vec::new(),
    };
    let refused = wire.call("UpdateContainers", &wanted).await.unwrap_err();
    assert!(
        refused.message.contains("registers before"),
        "{}",
        refused.message
    );
    assert_eq!(*lab.memory.updates.lock().unwrap(), []);
    let plugin = Plugin::join(&lab.socket, "10", "p", &[], |_, _| nothing()).await;
    let again = RegisterPluginRequest {
        plugin_name: "other".to_owned(),
        plugin_idx: "99".to_owned(),
        nri_version: String::new(),
    };
    let refused = plugin.call("RegisterPlugin", &again).await.unwrap_err();
    assert!(refused.message.contains("already"), "{}", refused.message);
    lab.plugins(&["10-p"]).await;
}

#[tokio::test]
async fn who_wants_events_that_do_not_exist_is_dropped() {
    let lab = Lab::new().await;
    let mut wire = Wire::connect(&lab.socket).await;
    register(&mut wire, "10", "p").await;
    let answer = ConfigureResponse { events: 1 << 20 };
    loop {
        match timeout(PATIENCE, wire.receive()).await.unwrap() {
            Some((1, stream, ..)) => {
                wire.send(&response(stream, answer.encode_to_vec())).await;
            }
            Some(_) => {}
            None => break,
        }
    }
    assert_eq!(lab.nri.plugins(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_thousand_registrations_leave_nothing_behind() {
    let lab = Lab::new().await;
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let one = async |number: usize| {
        let name = format!("p{number}");
        let plugin = Plugin::join(&lab.socket, "10", &name, &[], |_, _| nothing()).await;
        plugin.task.abort();
    };
    one(0).await;
    lab.plugins(&[]).await;
    let before = descriptors();
    for number in 0..1000 {
        one(number).await;
    }
    lab.plugins(&[]).await;
    // Other tests of this program open some meanwhile; a leak would be a thousand.
    let settled = async {
        while descriptors() > before + 300 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, settled)
        .await
        .expect("no descriptors left behind");
    start(&lab).await.unwrap();
}

#[tokio::test]
async fn one_plugin_too_many_is_left_out() {
    let lab = Lab::new().await;
    let mut plugins = Vec::new();
    for number in 0..limits::PLUGINS {
        let name = format!("p{number}");
        plugins.push(Plugin::join(&lab.socket, "10", &name, &[], |_, _| nothing()).await);
    }
    let more = Plugin::begin(&lab.socket, "10", "more", &[], |_, _| nothing()).await;
    more.end().await;
    assert_eq!(lab.nri.plugins().len(), limits::PLUGINS);
    plugins.truncate(limits::PLUGINS - 1);
    start(&lab).await.unwrap();
}

#[tokio::test]
async fn strangers_do_not_keep_plugins_out_for_ever() {
    let lab = Lab::with(|settings| settings.registration_time = SHORT).await;
    let mut strangers = Vec::new();
    for _ in 0..3 * limits::STRANGERS {
        strangers.push(Wire::connect(&lab.socket).await);
    }
    let plugin = Plugin::join(&lab.socket, "10", "p", &[], |_, _| nothing()).await;
    lab.plugins(&["10-p"]).await;
    drop((strangers, plugin));
}

#[tokio::test]
async fn stopping_waits_for_no_plugin_longer_than_for_an_answer() {
    let lab = hasty().await;
    let handler = |method: &str, _: &[u8]| match method {
        "Shutdown" => Reply::Silence,
        _ => nothing(),
    };
    let mut plugins = Vec::new();
    for index in ["10", "20", "30"] {
        plugins.push(Plugin::join(&lab.socket, index, "p", &[], handler).await);
    }
    let socket = lab.socket.clone();
    timeout(PATIENCE, lab.nri.stop()).await.unwrap();
    for plugin in plugins {
        plugin.end().await;
    }
    assert!(tokio::net::UnixStream::connect(&socket).await.is_err());
}

#[tokio::test]
async fn dropping_it_ends_all_connections() {
    let lab = Lab::new().await;
    let plugin = at_start(&lab, "10", nothing).await;
    let mut stranger = Wire::connect(&lab.socket).await;
    // Who comes later was accepted later.
    drop(Plugin::join(&lab.socket, "20", "q", &[], |_, _| nothing()).await);
    let begun = Instant::now();
    drop(lab);
    plugin.end().await;
    let mut byte = [0];
    let end = timeout(PATIENCE, stranger.stream.read(&mut byte)).await;
    assert!(matches!(end.unwrap(), Ok(0) | Err(_)));
    assert!(begun.elapsed() < PATIENCE / 2);
}
