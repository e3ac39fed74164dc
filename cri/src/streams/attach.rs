//! Attach: a client beside the log, at the streams of a container's own program.
//!
//! Its monitor has these (docs/monitor.md). The client is one that the container waits for: nothing is lost
//! to who reads slowly. The input of a container that was made without is nobody's; with `stdin_once` the
//! monitor ends it after this client.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rcrun_runtime::monitor::{AttachOptions, Client, Size};
use rcrun_streaming::{Resizes, Streams};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::copy::{Sink, input, output};
use super::of_status;
use crate::core::{Container, Core, Life};
use crate::{Context, Error, ErrorKind, Result};

/// Joins until the container has ended, or the client has gone.
pub(super) async fn attach(core: &Arc<Core>, container: &Container, ends: Streams) -> Result<()> {
    let config = container.config();
    let Streams {
        stdin,
        stdout,
        // A terminal has one output.
        stderr,
        resizes,
        gone,
    } = ends;
    let (stdin, stderr) = (
        stdin.filter(|_| config.stdin),
        stderr.filter(|_| !config.tty),
    );
    let mut options = AttachOptions {
        lossless: true,
        ..AttachOptions::default()
    };
    let to_container = stdin.is_some().then(|| sender(&mut options.stdin));
    let from_stdout = stdout.is_some().then(|| receiver(&mut options.stdout));
    let from_stderr = stderr.is_some().then(|| receiver(&mut options.stderr));
    let (to_container, from_stdout, from_stderr) = (
        to_container.transpose()?,
        from_stdout.transpose()?,
        from_stderr.transpose()?,
    );
    let (root, id) = (core.places.runtime_root(), container.id.clone());
    let attaching = core.light.run(move || {
        let mut client = Client::connect(&root, &id)?;
        client.attach(options)?;
        Ok(Mutex::new(client))
    });
    let client = Arc::new(attaching.await.map_err(of_status)?);
    let shown = from_stdout.is_some() || from_stderr.is_some();
    let (_never, watched) = watch::channel(false);
    let all = async {
        let out = output(from_stdout, stdout.map(Sink::Client), watched.clone());
        let err = output(from_stderr, stderr.map(Sink::Client), watched);
        tokio::join!(out, err);
        if !shown {
            let mut life = container.life.subscribe();
            let _ = life.wait_for(|life| matches!(life, Life::Ended(_))).await;
        }
    };
    let rest = async {
        let sizes = resize(core, Arc::clone(&client), resizes);
        tokio::join!(input(stdin, to_container), sizes);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = all => Ok(()),
        () = rest => Ok(()),
        () = gone.wait() => Err(Error::new(ErrorKind::Unavailable, "the client is gone")),
    }
}

/// A pipe to the monitor.
fn sender(theirs: &mut Option<OwnedFd>) -> Result<pipe::Sender> {
    let failed = || "cannot create a pipe";
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context(failed)?;
    *theirs = Some(reader);
    pipe::Sender::from_owned_fd(writer).context(failed)
}

/// A pipe from it.
fn receiver(theirs: &mut Option<OwnedFd>) -> Result<pipe::Receiver> {
    let failed = || "cannot create a pipe";
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context(failed)?;
    *theirs = Some(writer);
    pipe::Receiver::from_owned_fd(reader).context(failed)
}

/// Hands sizes on; the connection is held meanwhile, and with it the streams.
async fn resize(core: &Arc<Core>, client: Arc<Mutex<Client>>, sizes: Option<Resizes>) {
    let Some(mut sizes) = sizes else { return };
    while let Some(size) = sizes.next().await {
        let client = Arc::clone(&client);
        let resized = core.light.run(move || {
            let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
            client.resize(Size {
                height: size.height,
                width: size.width,
            })
        });
        if let Err(status) = resized.await {
            // It has no terminal, or has ended: its streams say so.
            tracing::debug!("cannot resize a terminal: {}", status.message());
            return;
        }
    }
}
