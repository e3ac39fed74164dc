//! A connection to a server of the CRI, for tests and examples.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;

/// A connection; clones are the same one.
#[derive(Clone, Debug)]
pub struct Wire(hyper::client::conn::http2::SendRequest<Body>);

type Sending = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

impl tonic::codegen::Service<Request<Body>> for Wire {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Sending;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(task)
    }

    fn call(&mut self, request: Request<Body>) -> Sending {
        Box::pin(self.0.send_request(request))
    }
}

/// Connects to a server's socket.
pub async fn connect(socket: &Path) -> std::io::Result<Wire> {
    let stream = TokioIo::new(tokio::net::UnixStream::connect(socket).await?);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
    let (sender, connection) = shaken.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(Wire(sender))
}
