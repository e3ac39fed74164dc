//! RuntimeService: what the kubelet and crictl ask of pods and containers.
//!
//! Handlers here unpack requests, call, and word answers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use rcrun_network::Readiness;
use tonic::codegen::tokio_stream::{self, Stream};
use tonic::{Request, Response, Status};

use crate::core::Core;
use crate::events::Listening;
use crate::proto::v1 as cri;
use crate::proto::v1::runtime_service_server::RuntimeService;
use crate::records::now;
use crate::report;
use crate::settings::{CgroupDriver, Settings};
use crate::stats::descriptors;
use crate::streams::Urls;

/// The version of the kubelet's side, which containerd and CRI-O say too.
const KUBELET_API: &str = "0.1.0";
/// The version of this interface.
const API: &str = "v1";
/// Our name.
const NAME: &str = "rcrun";
/// Names of runtime handlers. The empty one is the default.
pub(crate) const HANDLERS: [&str; 2] = ["", NAME];
/// Pods or containers in one piece of a streamed list.
const PIECE: usize = 100;

/// The service.
pub(crate) struct Runtime {
    version: &'static str,
    driver: CgroupDriver,
    core: Arc<Core>,
    urls: Urls,
    /// What UpdateRuntimeConfig said.
    pod_cidr: Mutex<String>,
}

impl Runtime {
    pub(crate) fn new(
        version: &'static str,
        settings: &Settings,
        core: Arc<Core>,
        urls: Urls,
    ) -> Self {
        Self {
            version,
            driver: settings.cgroup_driver.resolved(),
            core,
            urls,
            pod_cidr: Mutex::default(),
        }
    }

    fn pod_cidr(&self) -> std::sync::MutexGuard<'_, String> {
        self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn info(&self) -> BTreeMap<String, String> {
        let config = serde_json::json!({
            "cri": *self.core.images.settings(),
            "cgroupDriver": self.driver,
            "podCIDR": *self.pod_cidr(),
        });
        BTreeMap::from([("config".to_owned(), config.to_string())])
    }
}

/// An answer that comes in pieces.
type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// In pieces of a bearable size.
fn pieces<T, R: Send + 'static>(all: Vec<T>, piece: fn(Vec<T>) -> R) -> Pieces<R> {
    let mut rest = all;
    let mut pieces = Vec::with_capacity(rest.len().div_ceil(PIECE));
    while !rest.is_empty() {
        let more = rest.split_off(rest.len().min(PIECE));
        pieces.push(Ok(piece(rest)));
        rest = more;
    }
    Box::pin(tokio_stream::iter(pieces))
}

/// Whether this is what UpdateRuntimeConfig takes: networks, separated by commas; or nothing.
fn check_networks(text: &str) -> Result<(), Status> {
    let network = |text: &str| {
        let (address, length) = text.split_once('/')?;
        let most = match address.trim().parse().ok()? {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        length.parse::<u8>().ok().filter(|length| *length <= most)
    };
    let wrong = |part: &&str| network(part.trim()).is_none();
    match text.split(',').filter(|_| !text.is_empty()).find(wrong) {
        None => Ok(()),
        Some(wrong) => Err(Status::invalid_argument(format!(
            "cannot use {wrong:?} as the network of pods: it is not ADDRESS/LENGTH"
        ))),
    }
}

/// Methods that are not there yet, as `async_trait` would write them.
macro_rules! absent {
    ($($method:ident($request:ident) -> $response:ty;)*) => {$(
        fn $method<'a, 'b>(
            &'a self,
            _: Request<cri::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            let text = concat!(stringify!($method), " is not implemented");
            Box::pin(std::future::ready(Err(Status::unimplemented(text))))
        }
    )*};
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(
        &self,
        _: Request<cri::VersionRequest>,
    ) -> Result<Response<cri::VersionResponse>, Status> {
        Ok(Response::new(cri::VersionResponse {
            version: KUBELET_API.to_owned(),
            runtime_name: NAME.to_owned(),
            runtime_version: self.version.to_owned(),
            runtime_api_version: API.to_owned(),
        }))
    }

    async fn status(
        &self,
        request: Request<cri::StatusRequest>,
    ) -> Result<Response<cri::StatusResponse>, Status> {
        let condition = |kind: &str, ready: Readiness| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status: ready.ready,
            reason: ready.reason,
            message: ready.message,
        };
        let node = &self.core.node;
        let handler = |name: &str| cri::RuntimeHandler {
            name: name.to_owned(),
            features: Some(cri::RuntimeHandlerFeatures {
                recursive_read_only_mounts: node.deep_read_only,
                user_namespaces: node.mapped_mounts,
            }),
        };
        let core = Arc::clone(&self.core);
        let network = self
            .core
            .light
            .run(move || Ok(core.network.readiness()))
            .await?;
        let verbose = request.into_inner().verbose;
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", Readiness::ready()),
                    condition("NetworkReady", network),
                ],
            }),
            info: match verbose {
                true => self.info(),
                false => BTreeMap::new(),
            },
            runtime_handlers: HANDLERS.map(handler).into(),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                ..Default::default()
            }),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Result<Response<cri::RuntimeConfigResponse>, Status> {
        let driver = match self.driver {
            CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
            CgroupDriver::Auto | CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        };
        Ok(Response::new(cri::RuntimeConfigResponse {
            linux: Some(cri::LinuxRuntimeConfiguration {
                cgroup_driver: driver.into(),
            }),
        }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<cri::UpdateRuntimeConfigResponse>, Status> {
        let config = request.into_inner().runtime_config.unwrap_or_default();
        let cidr = config.network_config.unwrap_or_default().pod_cidr;
        check_networks(&cidr)?;
        // An empty one says nothing.
        if !cidr.is_empty() {
            *self.pod_cidr() = cidr;
        }
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Result<Response<cri::RunPodSandboxResponse>, Status> {
        let pod_sandbox_id = self.core.run_pod(request.into_inner()).await?;
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Result<Response<cri::StopPodSandboxResponse>, Status> {
        self.core
            .stop_pod(&request.into_inner().pod_sandbox_id)
            .await?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Result<Response<cri::RemovePodSandboxResponse>, Status> {
        self.core
            .remove_pod(&request.into_inner().pod_sandbox_id)
            .await?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Result<Response<cri::PodSandboxStatusResponse>, Status> {
        let request = request.into_inner();
        let pod = self.core.pod(&request.pod_sandbox_id)?;
        let containers = pod.containers();
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(report::pod(&pod)),
            info: match request.verbose {
                true => self.core.pod_info(&pod),
                false => BTreeMap::new(),
            },
            containers_statuses: containers
                .iter()
                .map(|one| report::container(one))
                .collect(),
            timestamp: now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
        let items = self.core.list_pods(request.into_inner().filter.as_ref());
        Ok(Response::new(cri::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Result<Response<cri::CreateContainerResponse>, Status> {
        let container_id = self.core.create_container(request.into_inner()).await?;
        Ok(Response::new(cri::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Result<Response<cri::StartContainerResponse>, Status> {
        self.core
            .start_container(&request.into_inner().container_id)
            .await?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Result<Response<cri::StopContainerResponse>, Status> {
        let request = request.into_inner();
        self.core
            .stop_container(&request.container_id, request.timeout)
            .await?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Result<Response<cri::RemoveContainerResponse>, Status> {
        self.core
            .remove_container(&request.into_inner().container_id)
            .await?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Result<Response<cri::ListContainersResponse>, Status> {
        let containers = self
            .core
            .list_containers(request.into_inner().filter.as_ref());
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Result<Response<cri::ContainerStatusResponse>, Status> {
        let request = request.into_inner();
        let container = self.core.container(&request.container_id)?;
        Ok(Response::new(cri::ContainerStatusResponse {
            status: Some(report::container(&container)),
            info: match request.verbose {
                true => self.core.container_info(&container).await,
                false => BTreeMap::new(),
            },
        }))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Result<Response<cri::ReopenContainerLogResponse>, Status> {
        self.core
            .reopen_log(&request.into_inner().container_id)
            .await?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Result<Response<cri::ExecSyncResponse>, Status> {
        let answer = self.core.exec_sync(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn exec(
        &self,
        request: Request<cri::ExecRequest>,
    ) -> Result<Response<cri::ExecResponse>, Status> {
        let url = self.core.url_of_exec(&self.urls, request.into_inner())?;
        Ok(Response::new(cri::ExecResponse { url }))
    }

    async fn attach(
        &self,
        request: Request<cri::AttachRequest>,
    ) -> Result<Response<cri::AttachResponse>, Status> {
        let url = self.core.url_of_attach(&self.urls, &request.into_inner())?;
        Ok(Response::new(cri::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Result<Response<cri::PortForwardResponse>, Status> {
        let url = self
            .core
            .url_of_forward(&self.urls, &request.into_inner())?;
        Ok(Response::new(cri::PortForwardResponse { url }))
    }

    type StreamPodSandboxesStream = Pieces<cri::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        let all = self.core.list_pods(request.into_inner().filter.as_ref());
        let piece = |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes };
        Ok(Response::new(pieces(all, piece)))
    }

    type StreamContainersStream = Pieces<cri::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        let all = self
            .core
            .list_containers(request.into_inner().filter.as_ref());
        let piece = |containers| cri::StreamContainersResponse { containers };
        Ok(Response::new(pieces(all, piece)))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Result<Response<cri::UpdateContainerResourcesResponse>, Status> {
        self.core.update_container(request.into_inner()).await?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<cri::UpdatePodSandboxResourcesResponse>, Status> {
        self.core.update_pod(request.into_inner()).await?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Result<Response<cri::ContainerStatsResponse>, Status> {
        let stats = self
            .core
            .container_stats(&request.into_inner().container_id)
            .await?;
        Ok(Response::new(cri::ContainerStatsResponse {
            stats: Some(stats),
        }))
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Result<Response<cri::ListContainerStatsResponse>, Status> {
        let stats = self
            .core
            .all_container_stats(request.into_inner().filter)
            .await?;
        Ok(Response::new(cri::ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Pieces<cri::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        let all = self
            .core
            .all_container_stats(request.into_inner().filter)
            .await?;
        let piece = |container_stats| cri::StreamContainerStatsResponse { container_stats };
        Ok(Response::new(pieces(all, piece)))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Result<Response<cri::PodSandboxStatsResponse>, Status> {
        let stats = self
            .core
            .pod_stats(&request.into_inner().pod_sandbox_id)
            .await?;
        Ok(Response::new(cri::PodSandboxStatsResponse {
            stats: Some(stats),
        }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Result<Response<cri::ListPodSandboxStatsResponse>, Status> {
        let stats = self.core.all_pod_stats(request.into_inner().filter).await?;
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Pieces<cri::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        let all = self.core.all_pod_stats(request.into_inner().filter).await?;
        let piece = |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats };
        Ok(Response::new(pieces(all, piece)))
    }

    type GetContainerEventsStream = Listening;

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        Ok(Response::new(self.core.events.listen()?))
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Result<Response<cri::CheckpointContainerResponse>, Status> {
        self.core.checkpoint_container(request.into_inner()).await?;
        Ok(Response::new(cri::CheckpointContainerResponse {}))
    }

    absent! {
        checkpoint_pod(CheckpointPodRequest) -> cri::CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> cri::RestorePodResponse;
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Result<Response<cri::ListMetricDescriptorsResponse>, Status> {
        Ok(Response::new(cri::ListMetricDescriptorsResponse {
            descriptors: descriptors(),
        }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<cri::ListPodSandboxMetricsResponse>, Status> {
        let pod_metrics = self.core.all_metrics().await?;
        Ok(Response::new(cri::ListPodSandboxMetricsResponse {
            pod_metrics,
        }))
    }

    type StreamPodSandboxMetricsStream = Pieces<cri::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        let all = self.core.all_metrics().await?;
        let piece = |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        };
        Ok(Response::new(pieces(all, piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_pods() {
        for text in ["", "10.1.0.0/16", "10.1.0.0/16,fd00::/64", "0.0.0.0/0"] {
            assert!(check_networks(text).is_ok(), "{text}");
        }
        for text in [
            "10.1.0.0",
            "10.1.0.0/33",
            "fd00::/129",
            "x/8",
            ",",
            "10.0.0.0/8,",
        ] {
            assert!(check_networks(text).is_err(), "{text}");
        }
    }
}
