//! A client as a kubelet is one: it asks again when a connection breaks, and knows that what it asked for may
//! have been done.

use super::pods::creation;
use rcrun_cri::proto::v1 as cri;
use rcrun_cri::proto::v1::runtime_service_client::RuntimeServiceClient;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tonic::{Code, Response, Status};

type Client = RuntimeServiceClient<rcrun_cri::client::Wire>;

/// Asks again until the server is there and answers.
pub(crate) struct Caller {
    tokio: tokio::runtime::Runtime,
    socket: PathBuf,
    client: Option<Client>,
}

impl Caller {
    pub(crate) fn new(socket: &Path) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            tokio,
            socket: socket.to_owned(),
            client: None,
        }
    }

    /// One request, as often as it takes: a connection that breaks says nothing of whether it was done.
    pub(crate) fn ask<T, F>(&mut self, mut request: impl FnMut(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < end, "no answer for a minute");
            if self.client.is_none() {
                match self
                    .tokio
                    .block_on(rcrun_cri::client::connect(&self.socket))
                {
                    Ok(wire) => {
                        let origin = "http://localhost".parse().unwrap();
                        self.client = Some(Client::with_origin(wire, origin));
                    }
                    Err(_) => {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    }
                }
            }
            let client = self.client.clone().unwrap();
            match self.tokio.block_on(request(client)) {
                Ok(response) => return Ok(response.into_inner()),
                // The connection broke: tonic has no status of the server's.
                Err(status)
                    if matches!(
                        status.code(),
                        Code::Unknown | Code::Unavailable | Code::Cancelled
                    ) =>
                {
                    self.client = None;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(status)
                    if status.code() == Code::Internal && status.message().contains("h2") =>
                {
                    self.client = None;
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// RunPodSandbox.
    pub(crate) fn make_pod(&mut self, config: &cri::PodSandboxConfig) -> String {
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let answer = self.ask(|mut client| {
            let request = request.clone();
            async move { client.run_pod_sandbox(request).await }
        });
        match answer {
            Ok(answer) => answer.pod_sandbox_id,
            // Made by a request whose answer did not arrive: a kubelet finds it in the list.
            Err(status) if status.code() == Code::AlreadyExists => self.listed_pod(config),
            Err(status) => panic!("{status:?}"),
        }
    }

    /// CreateContainer.
    pub(crate) fn make_container(
        &mut self,
        pod: &str,
        container: &cri::ContainerConfig,
        config: &cri::PodSandboxConfig,
    ) -> String {
        let request = creation(pod, container, config);
        let answer = self.ask(|mut client| {
            let request = request.clone();
            async move { client.create_container(request).await }
        });
        match answer {
            Ok(answer) => answer.container_id,
            Err(status) if status.code() == Code::AlreadyExists => {
                let all = self.containers(pod);
                all.into_iter().next().unwrap().id
            }
            Err(status) => panic!("{status:?}"),
        }
    }

    /// StartContainer.
    pub(crate) fn start(&mut self, id: &str) {
        let started = self.ask(|mut client| {
            let request = cri::StartContainerRequest {
                container_id: id.to_owned(),
            };
            async move { client.start_container(request).await }
        });
        match started {
            Ok(_) => {}
            // By a request whose answer did not arrive.
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => panic!("{status:?}"),
        }
    }

    /// ContainerStatus.
    pub(crate) fn status(&mut self, id: &str) -> cri::ContainerStatus {
        let answer = self.ask(|mut client| {
            let request = cri::ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: false,
            };
            async move { client.container_status(request).await }
        });
        answer.unwrap().status.unwrap()
    }

    /// Waits for a container's end.
    pub(crate) fn ended(&mut self, id: &str) -> cri::ContainerStatus {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.status(id);
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < end, "{status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// StopContainer, without patience.
    pub(crate) fn stop_container(&mut self, id: &str) {
        self.ask(|mut client| {
            let request = cri::StopContainerRequest {
                container_id: id.to_owned(),
                timeout: 0,
            };
            async move { client.stop_container(request).await }
        })
        .unwrap();
    }

    /// RemoveContainer.
    pub(crate) fn remove_container(&mut self, id: &str) {
        self.ask(|mut client| {
            let request = cri::RemoveContainerRequest {
                container_id: id.to_owned(),
            };
            async move { client.remove_container(request).await }
        })
        .unwrap();
    }

    /// StopPodSandbox.
    pub(crate) fn stop_pod(&mut self, pod: &str) {
        self.ask(|mut client| {
            let request = cri::StopPodSandboxRequest {
                pod_sandbox_id: pod.to_owned(),
            };
            async move { client.stop_pod_sandbox(request).await }
        })
        .unwrap();
    }

    /// RemovePodSandbox.
    pub(crate) fn remove_pod(&mut self, pod: &str) {
        self.ask(|mut client| {
            let request = cri::RemovePodSandboxRequest {
                pod_sandbox_id: pod.to_owned(),
            };
            async move { client.remove_pod_sandbox(request).await }
        })
        .unwrap();
    }

    /// ListPodSandbox.
    pub(crate) fn pods(&mut self) -> Vec<cri::PodSandbox> {
        let answer = self.ask(|mut client| {
            let request = cri::ListPodSandboxRequest::default();
            async move { client.list_pod_sandbox(request).await }
        });
        answer.unwrap().items
    }

    fn listed_pod(&mut self, config: &cri::PodSandboxConfig) -> String {
        let mut all = self.pods().into_iter();
        let found = all.find(|pod| pod.metadata == config.metadata);
        found.unwrap().id
    }

    /// ListContainers, of one pod.
    pub(crate) fn containers(&mut self, pod: &str) -> Vec<cri::Container> {
        let answer = self.ask(|mut client| {
            let request = cri::ListContainersRequest {
                filter: Some(cri::ContainerFilter {
                    pod_sandbox_id: pod.to_owned(),
                    ..Default::default()
                }),
            };
            async move { client.list_containers(request).await }
        });
        answer.unwrap().containers
    }
}
