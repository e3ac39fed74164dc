//! How long a server of the CRI takes for pods with one container, call by call; also for others than ours.
//!
//! `latency SOCKET IMAGE PODS [CGROUP_PARENT]`: one line for each method with p50 and p99 in milliseconds, and
//! one for the five calls of a pod together. With several sockets, separated by commas, they take turns.
//! With `BURST` in the environment all pods are made at once; when standard input ends they are removed at once.

#![allow(clippy::print_stdout, reason = "it tells figures")]
#![allow(clippy::too_many_lines, reason = "one request after the other")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use rcrun_cri::client::Wire;
use rcrun_cri::proto::v1 as cri;
use rcrun_cri::proto::v1::runtime_service_client::RuntimeServiceClient;

type Client = RuntimeServiceClient<Wire>;
type Times = BTreeMap<&'static str, Vec<f64>>;

async fn connect(socket: &str) -> Result<Client, Box<dyn Error>> {
    let wire = rcrun_cri::client::connect(Path::new(socket)).await?;
    Ok(Client::with_origin(wire, "http://localhost".parse()?))
}

struct Stopwatch<'a> {
    times: &'a mut Times,
    since: Instant,
}

impl Stopwatch<'_> {
    fn lap(&mut self, name: &'static str) -> f64 {
        let time = self.since.elapsed().as_secs_f64() * 1e3;
        self.times.entry(name).or_default().push(time);
        self.since = Instant::now();
        time
    }
}

fn pod(number: usize, parent: &str, host_network: bool) -> cri::PodSandboxConfig {
    let network = match host_network {
        true => cri::NamespaceMode::Node,
        false => cri::NamespaceMode::Pod,
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: format!("latency-{number}"),
            uid: format!("latency-{number}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        log_directory: format!("/tmp/rcrun-latency/{number}"),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: format!("{parent}/pod{number}"),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    pid: cri::NamespaceMode::Container.into(),
                    network: network.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A pod with one container, started; both identifiers, and the milliseconds.
async fn begin(
    client: &mut Client,
    times: &mut Times,
    image: &str,
    number: usize,
    parent: &str,
) -> Result<(String, String, f64), Box<dyn Error>> {
    let config = pod(number, parent, std::env::var_os("HOST_NETWORK").is_some());
    let mut watch = Stopwatch {
        times,
        since: Instant::now(),
    };
    let mut all = 0.0;
    let request = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: String::new(),
    };
    let pod_id = client
        .run_pod_sandbox(request)
        .await?
        .into_inner()
        .pod_sandbox_id;
    all += watch.lap("RunPodSandbox");
    let container = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "c".to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        command: [
            "sh",
            "-c",
            "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done",
        ]
        .map(str::to_owned)
        .into(),
        log_path: "c.log".to_owned(),
        linux: Some(cri::LinuxContainerConfig::default()),
        ..Default::default()
    };
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod_id.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let container_id = client
        .create_container(request)
        .await?
        .into_inner()
        .container_id;
    all += watch.lap("CreateContainer");
    let request = cri::StartContainerRequest {
        container_id: container_id.clone(),
    };
    client.start_container(request).await?;
    all += watch.lap("StartContainer");
    Ok((pod_id, container_id, all))
}

async fn one(
    client: &mut Client,
    times: &mut Times,
    image: &str,
    number: usize,
    parent: &str,
) -> Result<(), Box<dyn Error>> {
    let (pod_id, container_id, mut all) = begin(client, times, image, number, parent).await?;
    let mut watch = Stopwatch {
        times,
        since: Instant::now(),
    };
    for _ in 0..3 {
        watch.since = Instant::now();
        let request = cri::ExecSyncRequest {
            container_id: container_id.clone(),
            cmd: vec!["true".to_owned()],
            timeout: 10,
        };
        if client.exec_sync(request).await.is_ok() {
            watch.lap("ExecSync");
        }
    }
    watch.since = Instant::now();
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: pod_id.clone(),
    };
    client.stop_pod_sandbox(request).await?;
    all += watch.lap("StopPodSandbox");
    let request = cri::RemovePodSandboxRequest {
        pod_sandbox_id: pod_id,
    };
    client.remove_pod_sandbox(request).await?;
    all += watch.lap("RemovePodSandbox");
    watch
        .times
        .entry("the five together")
        .or_default()
        .push(all);
    Ok(())
}

/// All at once, and later away again.
async fn burst(
    socket: &str,
    image: &str,
    count: usize,
    parent: &str,
) -> Result<(), Box<dyn Error>> {
    let since = Instant::now();
    let mut making = tokio::task::JoinSet::new();
    let client = connect(socket).await?;
    for number in 0..count {
        let (mut client, image, parent) = (client.clone(), image.to_owned(), parent.to_owned());
        making.spawn(async move {
            let made = begin(&mut client, &mut Times::new(), &image, number, &parent).await;
            made.map(|(pod, _, time)| (pod, time))
                .map_err(|error| error.to_string())
        });
    }
    let (mut pods, mut slowest) = (Vec::new(), 0.0_f64);
    while let Some(made) = making.join_next().await {
        let (pod, time) = made??;
        pods.push(pod);
        slowest = slowest.max(time);
    }
    let time = since.elapsed().as_secs_f64();
    println!("{count} pods at once in {time:.2} s, the slowest in {slowest:.0} ms");
    let wait = || std::io::Read::read(&mut std::io::stdin(), &mut [0; 1]);
    tokio::task::spawn_blocking(wait).await??;
    let since = Instant::now();
    let mut ending = tokio::task::JoinSet::new();
    for pod_sandbox_id in pods {
        let mut client = client.clone();
        ending.spawn(async move {
            let request = cri::StopPodSandboxRequest {
                pod_sandbox_id: pod_sandbox_id.clone(),
            };
            client.stop_pod_sandbox(request).await?;
            client
                .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id })
                .await
        });
    }
    while let Some(ended) = ending.join_next().await {
        ended??;
    }
    println!("removed at once in {:.2} s", since.elapsed().as_secs_f64());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [sockets, image, count, rest @ ..] = arguments.as_slice() else {
        return Err("latency SOCKET[,SOCKET...] IMAGE PODS [CGROUP_PARENT]".into());
    };
    let parent = rest.first().map_or("/rcrun-latency", String::as_str);
    if std::env::var_os("BURST").is_some() {
        return burst(sockets, image, count.parse()?, parent).await;
    }
    let mut servers = Vec::new();
    for socket in sockets.split(',') {
        servers.push((socket, connect(socket).await?, Times::new()));
    }
    for number in 0..count.parse()? {
        for (_, client, times) in &mut servers {
            one(client, times, image, number, parent).await?;
        }
    }
    for (socket, _, times) in &mut servers {
        println!("{socket}");
        for (name, times) in times {
            times.sort_by(f64::total_cmp);
            let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
            println!(
                "  {name:18} p50 {:7.1}  p99 {:7.1}  min {:7.1} ms",
                at(0.5),
                at(0.99),
                at(0.0)
            );
        }
    }
    Ok(())
}
