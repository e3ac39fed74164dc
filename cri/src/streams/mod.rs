//! Exec, attach and port-forward: what a kubelet's clients do in containers.
//!
//! Owns what happens behind the URLs of [`rcrun_streaming`] (which owns the protocols), and ExecSync. A
//! program is started by a process of its own, `rcrun exec` ([`process`]): to enter a container takes one
//! thread, and this server has several.

mod attach;
mod copy;
mod exec;
mod forward;
mod process;
mod sync;

use std::sync::Arc;

use rcrun_streaming::{
    AttachRequest, Backend, Duplex, ExecRequest, PortForwardRequest, Request, Streams as Ends,
    Wanted,
};
use tonic::Status;

use crate::core::{Container, Core, Life, Pod, precondition};
use crate::proto::v1 as cri;
use crate::settings::Settings;
use crate::status::status;
use crate::{Context, Error, ErrorKind, Result};

/// Where URLs lead to.
pub(crate) type Urls = rcrun_streaming::Urls<Containers>;
/// What serves them.
pub(crate) type Server = rcrun_streaming::Server<Containers>;

/// The containers, for those who come by a URL.
pub(crate) struct Containers(Arc<Core>);

/// Listens.
pub(crate) async fn bind(core: &Arc<Core>, settings: &Settings) -> Result<Server> {
    process::prepare(core)?;
    sync::resume(core);
    let server = Server::bind(settings.streaming(), Containers(Arc::clone(core))).await;
    server.context(|| "cannot serve exec, attach and port-forward")
}

impl Backend for Containers {
    async fn exec(&self, request: ExecRequest, ends: Ends) -> Result<u8> {
        let container = self.0.running(&request.container)?;
        exec::exec(&self.0, &container, &request, ends).await
    }

    async fn attach(&self, request: AttachRequest, ends: Ends) -> Result<()> {
        let container = self.0.running(&request.container)?;
        attach::attach(&self.0, &container, ends).await
    }

    async fn port_forward(
        &self,
        request: PortForwardRequest,
        port: u16,
        stream: Duplex,
    ) -> Result<()> {
        let pod = self.0.ready(&request.sandbox)?;
        forward::forward(&self.0, &pod, port, stream).await
    }
}

impl Core {
    /// A container that runs.
    fn running(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.container(id).map_err(of_status)?;
        match container.life() {
            Life::Running => Ok(container),
            Life::Made => Err(precondition(format!(
                "container {} is not started",
                container.id
            ))),
            Life::Ended(_) => Err(precondition(format!(
                "container {} has ended",
                container.id
            ))),
        }
    }

    /// A pod that has its namespaces.
    fn ready(&self, id: &str) -> Result<Arc<Pod>> {
        let pod = self.pod(id).map_err(of_status)?;
        match pod.is_ready() {
            true => Ok(pod),
            false => Err(precondition(format!("pod {} is not ready", pod.id))),
        }
    }

    /// Exec.
    pub(crate) fn url_of_exec(
        &self,
        urls: &Urls,
        request: cri::ExecRequest,
    ) -> Result<String, Status> {
        let container = self.running(&request.container_id).map_err(refused)?;
        issue(
            urls,
            Request::Exec(ExecRequest {
                container: container.id.clone(),
                command: request.cmd,
                streams: Wanted {
                    stdin: request.stdin,
                    stdout: request.stdout,
                    stderr: request.stderr,
                    tty: request.tty,
                },
            }),
        )
    }

    /// Attach.
    pub(crate) fn url_of_attach(
        &self,
        urls: &Urls,
        request: &cri::AttachRequest,
    ) -> Result<String, Status> {
        let container = self.running(&request.container_id).map_err(refused)?;
        issue(
            urls,
            Request::Attach(AttachRequest {
                container: container.id.clone(),
                streams: Wanted {
                    stdin: request.stdin,
                    stdout: request.stdout,
                    stderr: request.stderr,
                    tty: request.tty,
                },
            }),
        )
    }

    /// PortForward.
    pub(crate) fn url_of_forward(
        &self,
        urls: &Urls,
        request: &cri::PortForwardRequest,
    ) -> Result<String, Status> {
        let pod = self.ready(&request.pod_sandbox_id).map_err(refused)?;
        let ports = request.port.iter().map(|port| port_of(*port));
        issue(
            urls,
            Request::PortForward(PortForwardRequest {
                sandbox: pod.id.clone(),
                ports: ports.collect::<Result<_>>().map_err(refused)?,
            }),
        )
    }
}

fn port_of(port: i32) -> Result<u16> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Error::invalid(format!("cannot forward port {port}: not in 1..=65535")))
}

fn issue(urls: &Urls, request: Request) -> Result<String, Status> {
    urls.issue(request).map_err(refused)
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn refused(error: Error) -> Status {
    status(&error)
}

/// The other way around, of look-ups.
#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn of_status(status: Status) -> Error {
    let kind = match status.code() {
        tonic::Code::NotFound => ErrorKind::NotFound,
        tonic::Code::InvalidArgument => ErrorKind::InvalidInput,
        tonic::Code::Unavailable => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (port, expected) in [(1, Some(1)), (65535, Some(65535)), (0, None), (-1, None)] {
            assert_eq!(port_of(port).ok(), expected, "{port}");
        }
        assert!(port_of(65536).is_err());
    }

    #[test]
    fn lookups_keep_their_kind() {
        for (status, kind) in [
            (Status::not_found("x"), ErrorKind::NotFound),
            (Status::invalid_argument("x"), ErrorKind::InvalidInput),
            (Status::internal("x"), ErrorKind::Internal),
        ] {
            assert_eq!(of_status(status).kind(), kind);
        }
    }
}
