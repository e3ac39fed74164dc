//! Exec and attach over whichever protocol: from streams of a wire to [`Streams`] and back to a status.

use crate::backend::{Backend, Gone, Resizes, Size, Streams};
use crate::limits;
use crate::pipe::{Reader, Writer};
use crate::request::{Request, Wanted};
use crate::status::{self, Style};
use rcrun_error::{Error, ErrorKind, Result};
use std::future::Future;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::timeout;

/// The streams of one program, as a protocol has found them.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) stdin: Option<Reader>,
    pub(crate) stdout: Option<Writer>,
    pub(crate) stderr: Option<Writer>,
    pub(crate) resize: Option<Reader>,
    pub(crate) error: Option<Writer>,
}

/// Runs the request and says on the wire how it ended.
pub(crate) async fn run<B: Backend>(
    backend: &B,
    request: Request,
    mut wire: Wire,
    style: Style,
    gone: Gone,
) {
    let handles: Vec<_> = [&wire.stdout, &wire.stderr]
        .into_iter()
        .flatten()
        .map(Writer::handle)
        .collect();
    let error = wire.error.take();
    let streams = Streams {
        stdin: wire.stdin,
        stdout: wire.stdout,
        stderr: wire.stderr,
        resizes: wire.resize.map(resizes),
        gone: gone.clone(),
    };
    let outcome = match request {
        Request::Exec(exec) => until_gone(backend.exec(exec, streams), &gone).await,
        Request::Attach(attach) => {
            let attached = async { backend.attach(attach, streams).await.map(|()| 0) };
            until_gone(attached, &gone).await
        }
        Request::PortForward(_) => Err(Error::invalid("cannot run a port-forward")),
    };
    // What is written after the answer is not part of it.
    handles.iter().for_each(crate::pipe::Handle::finish);
    if let Some(mut error) = error {
        // A client that is gone is told nothing.
        let _ = error
            .write_all(status::render(style, &outcome).as_bytes())
            .await;
        error.finish();
    }
}

/// Says that the session failed before anything was run.
pub(crate) async fn refuse(error: Option<Writer>, style: Style, why: Error) {
    if let Some(mut stream) = error {
        let _ = stream
            .write_all(status::render(style, &Err(why)).as_bytes())
            .await;
        stream.finish();
    }
}

/// The outcome; without a client, what was begun may end by itself for a while.
pub(crate) async fn until_gone<T>(work: impl Future<Output = Result<T>>, gone: &Gone) -> Result<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        outcome = &mut work => return outcome,
        () = gone.wait() => {}
    }
    match timeout(limits::GRACE, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            ErrorKind::Unavailable,
            "cannot go on: the client is gone",
        )),
    }
}

/// Which streams a client must open for a request.
pub(crate) fn expected(wanted: Wanted, resizes: bool) -> Vec<&'static str> {
    let Wanted {
        stdin,
        stdout,
        stderr,
        tty,
    } = wanted;
    let all = [
        ("error", true),
        ("stdin", stdin),
        ("stdout", stdout),
        ("stderr", stderr && !tty),
        ("resize", tty && resizes),
    ];
    all.into_iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(name, _)| name)
        .collect()
}

/// Why a client that opens too few streams is refused.
pub(crate) fn too_few(after: Duration) -> Error {
    let seconds = after.as_secs();
    Error::new(
        ErrorKind::Deadline,
        format!("cannot begin: the client did not open all streams within {seconds} s"),
    )
}

/// Reads sizes from a stream: objects of JSON, one behind the other.
fn resizes(mut reader: Reader) -> Resizes {
    let (tell, sizes) = watch::channel(None);
    tokio::spawn(async move {
        let mut text = Vec::new();
        while let Ok(Some(piece)) = reader.piece(limits::RESIZE).await {
            text.extend_from_slice(&piece);
            let Some(used) = sizes_in(&text, |size| _ = tell.send_replace(Some(size))) else {
                return;
            };
            text.drain(..used);
            if text.len() > limits::RESIZE || tell.is_closed() {
                return;
            }
        }
    });
    Resizes(sizes)
}

/// Tells the sizes in a text and how much of it was used; `None` if it is none.
fn sizes_in(text: &[u8], mut tell: impl FnMut(Size)) -> Option<usize> {
    #[derive(serde::Deserialize)]
    struct Object {
        #[serde(rename = "Width", alias = "width")]
        width: u16,
        #[serde(rename = "Height", alias = "height")]
        height: u16,
    }
    let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<Object>();
    loop {
        let used = objects.byte_offset();
        match objects.next() {
            Some(Ok(Object { width, height })) => tell(Size { width, height }),
            Some(Err(error)) if error.is_eof() => return Some(used),
            Some(Err(_)) => return None,
            None => return Some(text.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_come() {
        let read = |text: &str| {
            let mut sizes = Vec::new();
            let used = sizes_in(text.as_bytes(), |size| {
                sizes.push((size.width, size.height));
            });
            (used, sizes)
        };
        let one = r#"{"Width":80,"Height":24}"#;
        assert_eq!(read(one), (Some(24), vec![(80, 24)]));
        assert_eq!(
            read(&format!("{one}\n{one}\n")),
            (Some(50), vec![(80, 24); 2])
        );
        assert_eq!(read(&one[..23]), (Some(0), vec![]));
        assert_eq!(read(&format!("{one}{{\"Wid")), (Some(24), vec![(80, 24)]));
        assert_eq!(read(r#"{"Width":80}"#).0, None);
        assert_eq!(read(r#"{"Width":65536,"Height":1}"#).0, None);
        assert_eq!(read("nonsense").0, None);
    }

    #[test]
    fn which_streams_are_expected() {
        let wanted = |stdin, stderr, tty| Wanted {
            stdin,
            stdout: true,
            stderr,
            tty,
        };
        assert_eq!(
            expected(wanted(true, true, false), true),
            ["error", "stdin", "stdout", "stderr"]
        );
        assert_eq!(
            expected(wanted(false, false, true), true),
            ["error", "stdout", "resize"]
        );
        assert_eq!(
            expected(wanted(false, false, true), false),
            ["error", "stdout"]
        );
    }
}
