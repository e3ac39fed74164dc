//! What a back end is given and what it answers: the one place where the protocols and the containers meet.

use crate::pipe::{Reader, Writer};
use crate::request::{AttachRequest, ExecRequest, PortForwardRequest};
use rcrun_error::Result;
use std::future::Future;
use tokio::sync::watch;

/// Who runs programs in containers and dials into pods.
///
/// When the client is gone, [`Gone`] says so, standard input fails with `ConnectionReset` (it does not end: nobody must
/// take a broken line for the end of a file), and writes fail with `BrokenPipe`. Then the future has
/// [`limits::GRACE`](crate::limits::GRACE) to clean up before it is dropped.
pub trait Backend: Send + Sync + 'static {
    /// Runs a program and answers with its exit code (0 to 255).
    ///
    /// What was written before the answer reaches the client; what is written later does not.
    fn exec(
        &self,
        request: ExecRequest,
        streams: Streams,
    ) -> impl Future<Output = Result<u8>> + Send;

    /// Joins the streams of a container's first process until it ends.
    fn attach(
        &self,
        request: AttachRequest,
        streams: Streams,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Connects one forwarded connection to a port of the pod, until both directions have ended.
    fn port_forward(
        &self,
        request: PortForwardRequest,
        port: u16,
        stream: Duplex,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// The streams of a program; those that were not asked for are `None`.
#[derive(Debug)]
pub struct Streams {
    /// What the client types. Its end is the client's half-close.
    pub stdin: Option<Reader>,
    /// Goes to the client, of a terminal both outputs. Shutting it down or dropping it closes this half only.
    pub stdout: Option<Writer>,
    /// Goes to the client.
    pub stderr: Option<Writer>,
    /// Sizes of the terminal, if there is one.
    pub resizes: Option<Resizes>,
    /// Whether the client is gone.
    pub gone: Gone,
}

/// One forwarded connection.
#[derive(Debug)]
pub struct Duplex {
    /// From the client.
    pub from: Reader,
    /// To the client.
    pub to: Writer,
    /// Whether the client is gone.
    pub gone: Gone,
}

/// A size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// Sizes of a terminal as the client tells them. Of many at once only the last one counts.
#[derive(Debug)]
pub struct Resizes(pub(crate) watch::Receiver<Option<Size>>);

impl Resizes {
    /// The next size; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Size> {
        self.0.changed().await.ok()?;
        *self.0.borrow_and_update()
    }
}

/// Whether the client of a session is gone.
#[derive(Debug, Clone)]
pub struct Gone(pub(crate) watch::Receiver<bool>);

impl Gone {
    /// Now.
    pub fn is_gone(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is.
    pub async fn wait(&self) {
        // Whoever could say so is gone itself: that is the same.
        let _ = self.0.clone().wait_for(|gone| *gone).await;
    }
}
