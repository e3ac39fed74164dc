//! A back end that needs no containers: programs of a few words, and ports that echo.
#![allow(
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "errors are mapped, and the programs are a table"
)]

use rcrun_error::{Error, Result};
use rcrun_streaming::{
    AttachRequest, Backend, Duplex, ExecRequest, PortForwardRequest, Request, Streams, Wanted,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the back end has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Requests that run.
    pub(crate) running: AtomicUsize,
    /// Requests whose client was said to be gone.
    pub(crate) gone: AtomicUsize,
    /// Bytes that `write` has written.
    pub(crate) written: AtomicUsize,
    /// Requests in all.
    pub(crate) all: AtomicUsize,
}

/// The back end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Echo(pub(crate) Arc<Seen>);

struct Running<'a>(&'a Seen);

impl<'a> Running<'a> {
    fn begin(seen: &'a Seen) -> Self {
        seen.all.fetch_add(1, Ordering::SeqCst);
        seen.running.fetch_add(1, Ordering::SeqCst);
        Self(seen)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend for Echo {
    async fn exec(&self, request: ExecRequest, streams: Streams) -> Result<u8> {
        let _running = Running::begin(&self.0);
        let gone = streams.gone.clone();
        let words: Vec<&str> = request.command.iter().map(String::as_str).collect();
        tokio::select! {
            biased;
            () = gone.wait() => {
                self.0.gone.fetch_add(1, Ordering::SeqCst);
                Err(Error::invalid("cannot go on: the client is gone"))
            }
            code = program(&self.0, &words, streams) => code,
        }
    }

    async fn attach(&self, _: AttachRequest, streams: Streams) -> Result<()> {
        let _running = Running::begin(&self.0);
        program(&self.0, &["cat"], streams).await.map(drop)
    }

    async fn port_forward(&self, _: PortForwardRequest, port: u16, stream: Duplex) -> Result<()> {
        let _running = Running::begin(&self.0);
        let Duplex {
            mut from, mut to, ..
        } = stream;
        if port == 99 {
            return Err(Error::invalid(
                "cannot connect to port 99: connection refused",
            ));
        }
        if port == 98 {
            return std::future::pending().await;
        }
        while let Some(piece) = from.piece(usize::MAX).await.map_err(lost)? {
            to.send(piece).await.map_err(lost)?;
        }
        to.shutdown().await.map_err(lost)
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::invalid(format!("cannot copy: {error}"))
}

async fn program(seen: &Seen, words: &[&str], streams: Streams) -> Result<u8> {
    let Streams {
        stdin,
        stdout,
        stderr,
        resizes,
        ..
    } = streams;
    match *words {
        ["cat"] => {
            let (Some(mut stdin), Some(mut stdout)) = (stdin, stdout) else {
                return Ok(2);
            };
            tokio::io::copy(&mut stdin, &mut stdout)
                .await
                .map_err(lost)?;
            Ok(0)
        }
        // Counts its input, and answers when that has ended.
        ["count"] => {
            let (mut sum, mut all) = (0_u64, 0_u64);
            let mut part = vec![0; 64 << 10];
            let mut stdin = stdin.ok_or_else(|| Error::invalid("cannot count nothing"))?;
            loop {
                let count = stdin.read(&mut part).await.map_err(lost)?;
                if count == 0 {
                    break;
                }
                all += count as u64;
                sum = part[..count].iter().fold(sum, |sum, byte| {
                    sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
                });
            }
            say(stdout, &format!("{all} {sum:x}\n")).await?;
            Ok(0)
        }
        ["exit", code] => {
            say(stdout, "out\n").await?;
            say(stderr, "err\n").await?;
            Ok(code.parse().unwrap_or(1))
        }
        ["fail"] => Err(Error::invalid("cannot find the program nosuch")),
        // So many bytes whose sum is known.
        ["write", count] => {
            let mut stdout = stdout.ok_or_else(|| Error::invalid("cannot write"))?;
            let mut left: usize = count.parse().unwrap_or(0);
            let part: Vec<u8> = (0..64 << 10).map(|at: u32| (at % 251) as u8).collect();
            while left > 0 {
                let count = left.min(part.len());
                stdout.write_all(&part[..count]).await.map_err(lost)?;
                left -= count;
                seen.written.fetch_add(count, Ordering::SeqCst);
            }
            Ok(0)
        }
        ["sizes", count] => {
            let mut resizes = resizes.ok_or_else(|| Error::invalid("cannot resize"))?;
            let mut stdout = stdout;
            let (width, height) = count.split_once('x').unwrap_or_default();
            while let Some(size) = resizes.next().await {
                if let Some(stdout) = &mut stdout {
                    let text = format!("{}x{}\n", size.width, size.height);
                    stdout.write_all(text.as_bytes()).await.map_err(lost)?;
                }
                if (
                    size.width.to_string().as_str(),
                    size.height.to_string().as_str(),
                ) == (width, height)
                {
                    return Ok(0);
                }
            }
            Ok(1)
        }
        // Closes its output, then waits for the end of its input.
        ["half"] => {
            say(stdout, "said\n").await?;
            let mut rest = Vec::new();
            if let Some(mut stdin) = stdin {
                stdin.read_to_end(&mut rest).await.map_err(lost)?;
            }
            Ok(u8::try_from(rest.len()).unwrap_or(255))
        }
        ["sleep", seconds] => {
            tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap_or(0))).await;
            Ok(0)
        }
        // Reads nothing, and keeps its streams.
        ["stuck"] => {
            let () = std::future::pending().await;
            drop((stdin, stdout, stderr));
            Ok(0)
        }
        _ => Err(Error::invalid("cannot run this")),
    }
}

async fn say(stream: Option<rcrun_streaming::Writer>, text: &str) -> Result<()> {
    match stream {
        Some(mut stream) => stream.write_all(text.as_bytes()).await.map_err(lost),
        None => Ok(()),
    }
}

/// A request in words: `exec FLAGS COMMAND...`, `attach FLAGS`, `forward PORTS`; flags are letters of `ioet`.
pub(crate) fn request(line: &str) -> Option<Request> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let (verb, flags) = (words.next()?, words.next()?);
    let streams = Wanted {
        stdin: flags.contains('i'),
        stdout: flags.contains('o'),
        stderr: flags.contains('e'),
        tty: flags.contains('t'),
    };
    let container = "c".to_owned();
    Some(match verb.as_str() {
        "exec" => Request::Exec(ExecRequest {
            container,
            command: words.collect(),
            streams,
        }),
        "attach" => Request::Attach(AttachRequest { container, streams }),
        "forward" => Request::PortForward(PortForwardRequest {
            sandbox: "p".to_owned(),
            ports: flags
                .split(',')
                .filter_map(|port| port.parse().ok())
                .collect(),
        }),
        _ => return None,
    })
}
