//! RuntimeService, as far as it is there: what the server is, and what the node is to do.
//!
//! Everything that concerns pods and containers answers UNIMPLEMENTED, and [`Runtime::status`] says that
//! the runtime is not ready, so that a kubelet does not send pods to this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::images::Images;
use crate::proto::v1 as cri;
use crate::proto::v1::runtime_service_server::RuntimeService;
use crate::settings::{CgroupDriver, Settings};

/// The version of the kubelet's side, which containerd and CRI-O say too.
const KUBELET_API: &str = "0.1.0";
/// The version of this interface.
const API: &str = "v1";
/// Our name.
const NAME: &str = "rcrun";
/// Names of runtime handlers. The empty one is the default.
pub(crate) const HANDLERS: [&str; 2] = ["", NAME];
/// Why the runtime is not ready.
const WITHOUT_PODS: &str = "this version of rcrun serves images only: pods are not implemented";

/// The service.
#[derive(Debug)]
pub(crate) struct Runtime {
    version: &'static str,
    driver: CgroupDriver,
    images: Images,
    /// What UpdateRuntimeConfig said.
    pod_cidr: Mutex<String>,
}

impl Runtime {
    pub(crate) fn new(version: &'static str, settings: &Settings, images: Images) -> Self {
        Self {
            version,
            driver: settings.cgroup_driver.resolved(),
            images,
            pod_cidr: Mutex::default(),
        }
    }

    fn pod_cidr(&self) -> std::sync::MutexGuard<'_, String> {
        self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn info(&self) -> BTreeMap<String, String> {
        let config = serde_json::json!({
            "cri": *self.images.settings(),
            "cgroupDriver": self.driver,
            "podCIDR": *self.pod_cidr(),
        });
        BTreeMap::from([("config".to_owned(), config.to_string())])
    }
}

/// An answer that comes in pieces.
type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The refusal of a method, which is given as it stands below: `run_pod_sandbox`.
fn unimplemented(method: &str) -> Status {
    let word = |word: &str| word[..1].to_uppercase() + &word[1..];
    let name: String = method.split('_').map(word).collect();
    Status::unimplemented(format!("{name}: {WITHOUT_PODS}"))
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
            Box::pin(std::future::ready(Err(unimplemented(stringify!($method)))))
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
        let not_ready = |kind: &str| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status: false,
            reason: "PodsNotImplemented".to_owned(),
            message: WITHOUT_PODS.to_owned(),
        };
        let handler = |name: &str| cri::RuntimeHandler {
            name: name.to_owned(),
            features: Some(cri::RuntimeHandlerFeatures::default()),
        };
        let verbose = request.into_inner().verbose;
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![not_ready("RuntimeReady"), not_ready("NetworkReady")],
            }),
            info: if verbose {
                self.info()
            } else {
                BTreeMap::new()
            },
            runtime_handlers: HANDLERS.map(handler).into(),
            features: Some(cri::RuntimeFeatures::default()),
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

    absent! {
        run_pod_sandbox(RunPodSandboxRequest) -> cri::RunPodSandboxResponse;
        stop_pod_sandbox(StopPodSandboxRequest) -> cri::StopPodSandboxResponse;
        remove_pod_sandbox(RemovePodSandboxRequest) -> cri::RemovePodSandboxResponse;
        pod_sandbox_status(PodSandboxStatusRequest) -> cri::PodSandboxStatusResponse;
        list_pod_sandbox(ListPodSandboxRequest) -> cri::ListPodSandboxResponse;
        create_container(CreateContainerRequest) -> cri::CreateContainerResponse;
        start_container(StartContainerRequest) -> cri::StartContainerResponse;
        stop_container(StopContainerRequest) -> cri::StopContainerResponse;
        remove_container(RemoveContainerRequest) -> cri::RemoveContainerResponse;
        list_containers(ListContainersRequest) -> cri::ListContainersResponse;
        container_status(ContainerStatusRequest) -> cri::ContainerStatusResponse;
        update_container_resources(UpdateContainerResourcesRequest) -> cri::UpdateContainerResourcesResponse;
        reopen_container_log(ReopenContainerLogRequest) -> cri::ReopenContainerLogResponse;
        exec_sync(ExecSyncRequest) -> cri::ExecSyncResponse;
        exec(ExecRequest) -> cri::ExecResponse;
        attach(AttachRequest) -> cri::AttachResponse;
        port_forward(PortForwardRequest) -> cri::PortForwardResponse;
        container_stats(ContainerStatsRequest) -> cri::ContainerStatsResponse;
        list_container_stats(ListContainerStatsRequest) -> cri::ListContainerStatsResponse;
        pod_sandbox_stats(PodSandboxStatsRequest) -> cri::PodSandboxStatsResponse;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> cri::ListPodSandboxStatsResponse;
        checkpoint_container(CheckpointContainerRequest) -> cri::CheckpointContainerResponse;
        checkpoint_pod(CheckpointPodRequest) -> cri::CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> cri::RestorePodResponse;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> cri::ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> cri::ListPodSandboxMetricsResponse;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> cri::UpdatePodSandboxResourcesResponse;
    }

    type StreamPodSandboxesStream = Pieces<cri::StreamPodSandboxesResponse>;
    type StreamContainersStream = Pieces<cri::StreamContainersResponse>;
    type StreamContainerStatsStream = Pieces<cri::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Pieces<cri::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Pieces<cri::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Pieces<cri::ContainerEventResponse>;

    absent! {
        stream_pod_sandboxes(StreamPodSandboxesRequest) -> Self::StreamPodSandboxesStream;
        stream_containers(StreamContainersRequest) -> Self::StreamContainersStream;
        stream_container_stats(StreamContainerStatsRequest) -> Self::StreamContainerStatsStream;
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> Self::StreamPodSandboxStatsStream;
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> Self::StreamPodSandboxMetricsStream;
        get_container_events(GetEventsRequest) -> Self::GetContainerEventsStream;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_named_as_in_the_interface() {
        let status = unimplemented("run_pod_sandbox");
        assert!(
            status.message().starts_with("RunPodSandbox: "),
            "{status:?}"
        );
    }

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
