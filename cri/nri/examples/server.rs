//! The interface at a socket, for plugins written with the library of another project: each line of standard input
//! is an event, each line of output what came of it. `server SOCKET [PLUGINS [CONFIGURATIONS]]`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example")]

use std::sync::Arc;

use rcrun_nri::proto::v1alpha1::{Container, ContainerUpdate, LinuxResources, PodSandbox};
use rcrun_nri::{Answer, Nri, Runtime, Settings, State, adjust};
use tokio::io::{AsyncBufReadExt, BufReader};

struct Node;

impl Runtime for Node {
    fn synchronize(&self) -> Answer<'_, rcrun_error::Result<State>> {
        // Long enough for several messages, if asked for.
        let many = std::env::var("CONTAINERS").map_or(1, |many| many.parse().unwrap());
        let containers = (0..many).map(|number| Container {
            env: vec!["X".repeat(if many > 1 { 10_000 } else { 1 })],
            ..container(&format!("there-{number}"))
        });
        let state = State {
            pods: vec![pod()],
            containers: containers.collect(),
        };
        Box::pin(async { Ok(state) })
    }

    fn update(&self, updates: Vec<ContainerUpdate>) -> Answer<'_, Vec<ContainerUpdate>> {
        println!("update {updates:?}");
        Box::pin(async { Vec::new() })
    }
}

fn pod() -> PodSandbox {
    PodSandbox {
        id: "pod".to_owned(),
        name: "web".to_owned(),
        namespace: "default".to_owned(),
        ..PodSandbox::default()
    }
}

fn container(id: &str) -> Container {
    Container {
        id: id.to_owned(),
        pod_sandbox_id: "pod".to_owned(),
        name: id.to_owned(),
        ..Container::default()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut words = std::env::args().skip(1);
    let listener = words.next().map(|path| {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let mut directory = || words.next().unwrap_or_default().into();
    let settings = Settings {
        plugins: directory(),
        configurations: directory(),
        ..Settings::default()
    };
    let nri = Nri::start(settings, Arc::new(Node), listener)
        .await
        .unwrap();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let outcome = event(&nri, &line).await;
        println!("{line}: {outcome}");
    }
    nri.stop().await;
}

async fn event(nri: &Nri, line: &str) -> String {
    let (event, id) = line.split_once(' ').unwrap_or((line, "c"));
    let (pod, container) = (pod(), container(id));
    let told = nri.operation().await;
    let done = match event {
        "plugins" => return format!("{:?}", nri.plugins()),
        "run" => told.run_pod_sandbox(&pod).await,
        "update-pod" => told.update_pod_sandbox(&pod, None, None).await,
        "post-update-pod" => told.post_update_pod_sandbox(&pod).await,
        "stop-pod" => told.stop_pod_sandbox(&pod).await,
        "remove-pod" => told.remove_pod_sandbox(&pod).await,
        "post-create" => told.post_create_container(&pod, &container).await,
        "start" => told.start_container(&pod, &container).await,
        "post-start" => told.post_start_container(&pod, &container).await,
        "post-update" => told.post_update_container(&pod, &container).await,
        "remove" => told.remove_container(&pod, &container).await,
        "create" => {
            let mut spec = serde_json::json!({"process": {"env": ["PATH=/bin"]}});
            return match told.create_container(&pod, &container).await {
                Ok(created) => match adjust::apply(&mut spec, &created.adjust) {
                    Ok(applied) => format!("{spec} {applied:?} {:?}", created.updates),
                    Err(error) => error.chain().to_string(),
                },
                Err(error) => error.chain().to_string(),
            };
        }
        "update" => {
            let limits = LinuxResources::default();
            return match told.update_container(&pod, &container, &limits).await {
                Ok(updated) => format!("{updated:?}"),
                Err(error) => error.chain().to_string(),
            };
        }
        "stop" => {
            return match told.stop_container(&pod, &container).await {
                Ok(updates) => format!("{updates:?}"),
                Err(error) => error.chain().to_string(),
            };
        }
        other => return format!("no event {other}"),
    };
    match done {
        Ok(()) => "done".to_owned(),
        Err(error) => error.chain().to_string(),
    }
}
