//! Exec: a program in a container, with the streams of a client.
//!
//! The answer is the program's exit code; what keeps it from being run is an error. When the client has
//! gone, the program's streams close: with a terminal it is hung up (SIGHUP), without one it reads the end
//! of its input and may not write any more (SIGPIPE). It is not killed: what takes no notice of either goes
//! on, and ends with its container at the latest, as with containerd.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rcrun_streaming::{ExecRequest, Resizes, Size, Streams};
use rustix::termios::Winsize;
use tokio::sync::watch;

use super::copy::{Kept, Sink, input, output};
use super::process::{Asked, Process};
use crate::core::{Container, Core};
use crate::{Error, ErrorKind, Result};

/// Runs it.
pub(super) async fn exec(
    core: &Arc<Core>,
    container: &Container,
    request: &ExecRequest,
    ends: Streams,
) -> Result<u8> {
    let tty = request.streams.tty;
    let asked = Asked {
        container: container.id.clone(),
        command: request.command.clone(),
        terminal: tty,
        stdin: ends.stdin.is_some(),
        stdout: ends.stdout.is_some(),
        stderr: ends.stderr.is_some(),
        branch: None,
    };
    let mut process = Process::start(core, asked).await?;
    let gone = ends.gone.clone();
    tokio::select! {
        ended = streamed(&mut process, ends) => ended,
        () = gone.wait() => Err(Error::new(ErrorKind::Unavailable, "the client is gone")),
    }
}

async fn streamed(process: &mut Process, ends: Streams) -> Result<u8> {
    let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
    let (stderr, terminal) = (process.stderr.take(), process.terminal.take());
    let (ended, watched) = watch::channel(false);
    // Nobody would read a terminal otherwise.
    let mut nothing = Kept::new(0);
    let to = ends.stdout.map_or(Sink::Kept(&mut nothing), Sink::Client);
    let all = async {
        let out = output(stdout, Some(to), watched.clone());
        let err = output(stderr, ends.stderr.map(Sink::Client), watched);
        let end = async {
            let code = process.ended().await;
            ended.send_replace(true);
            code
        };
        tokio::join!(end, out, err).0
    };
    let rest = async {
        tokio::join!(input(ends.stdin, stdin), resize(terminal, ends.resizes));
        std::future::pending().await
    };
    tokio::select! {
        code = all => code,
        never = rest => never,
    }
}

/// Gives a terminal its sizes.
async fn resize(terminal: Option<OwnedFd>, sizes: Option<Resizes>) {
    let (Some(terminal), Some(mut sizes)) = (terminal, sizes) else {
        return;
    };
    while let Some(size) = sizes.next().await {
        // Of a terminal that was hung up nobody wants to know.
        let _ = rustix::termios::tcsetwinsize(&terminal, winsize(size));
    }
}

fn winsize(size: Size) -> Winsize {
    Winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
