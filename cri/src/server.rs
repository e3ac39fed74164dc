//! The server's life: socket, connections, signals, end.
//!
//! # Why no server of tonic's
//!
//! Two services on one socket need nothing but a look at the path, and gRPC needs nothing of a connection
//! but HTTP/2. tonic's own server would bring tower's layers, its router axum and matchit; docs/cri.md
//! has the figures. So hyper serves each connection, `front` chooses the service, and tonic does what it
//! does best: framing, limits, status codes.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

use crate::bounds::{Arriving, Bounds, Leaving, PING, Place, STREAMS};
use crate::core::Core;
use crate::host::Host;
use crate::images::Images;
use crate::listen::Socket;
use crate::meter::{Meter, serve as meter};
use crate::notify::notify;
use crate::proto::v1::image_service_server::ImageServiceServer;
use crate::proto::v1::runtime_service_server::RuntimeServiceServer;
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::{Context, Result};

/// The longest message, which is also the kubelet's limit.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// Threads that answer; what blocks has others.
const WORKERS: usize = 2;
/// Threads that block, at most; they end when they have had nothing to do for a while.
const BLOCKING: usize = 128;
/// When those end.
const BLOCKING_IDLE: Duration = Duration::from_secs(2);
/// The longest message of a failure, encoded.
const MAX_SAID: usize = 8 << 10;
/// How long requests may take to end when the server is told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How long connections may take to end after that.
const FAREWELL: Duration = Duration::from_millis(500);
/// After an error of accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until SIGTERM or SIGINT. `settings` are those of the start.
pub fn serve(host: Host, settings: &Settings) -> Result<()> {
    settings.check()?;
    settings.check_stream_tls()?;
    let path = settings.socket()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(BLOCKING_IDLE)
        .thread_name("rcrun-cri")
        .enable_all()
        .build()
        .context(|| "cannot start the server's threads")?;
    let served = runtime.block_on(run(host, settings, &path));
    // Work that is called off and does not end must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

async fn run(host: Host, settings: &Settings, path: &Path) -> Result<()> {
    let failed = || "cannot start the server";
    // Before anybody can know that we are there.
    let signals = [
        signal(SignalKind::terminate()).context(failed)?,
        signal(SignalKind::interrupt()).context(failed)?,
        signal(SignalKind::hangup()).context(failed)?,
    ];
    let socket = Socket::open(path)?;
    // The socket goes with its value, also where the start failed.
    run_on(&socket, host, settings, signals).await
}

async fn run_on(
    socket: &Socket,
    host: Host,
    settings: &Settings,
    [mut terminate, mut interrupt, mut hangup]: [Signal; 3],
) -> Result<()> {
    let failed = || "cannot start the server";
    let listener = UnixListener::from_std(socket.listener.try_clone()?).context(failed)?;
    let version = host.version;
    let host = Arc::new(host);
    let images = Images::start(&host, settings).await?;
    let core = {
        let (host, settings, images) = (Arc::clone(&host), settings.clone(), images.clone());
        let recovered = tokio::task::spawn_blocking(move || {
            let core = Core::new(&host, &settings, images)?;
            core.recover()?;
            Ok(core)
        });
        let recovered: Result<Arc<Core>> = match recovered.await {
            Ok(recovered) => recovered,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        recovered?
    };
    let plugins = crate::nri::start(&core, &settings.nri)
        .await
        .context(|| "cannot offer NRI")?;
    core.resume();
    images.tidy();
    let metrics = meter::start(&core, settings.metrics()?).await?;
    let streaming = crate::streams::bind(&core, settings).await?;
    let urls = streaming.urls();
    tracing::debug!(address = %streaming.address(), "exec, attach and port-forward");
    let streaming = tokio::spawn(streaming.serve());
    let front = Front::new(
        Arc::clone(&core.meter),
        images.clone(),
        Runtime::new(version, settings, Arc::clone(&core), urls),
    );
    let (stop, stopped) = watch::channel(false);
    // Every connection has a sender; when all are gone, all have ended.
    let (open, mut closed) = mpsc::channel::<Infallible>(1);
    notify("READY=1");
    tracing::info!(listen = %settings.listen, store = %host.store.path().display(), "rcrun serves the CRI");
    let bounds = Bounds::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => if let Some(place) = bounds.enter() {
                    let front = front.at(place);
                    tokio::spawn(connection(stream, front, stopped.clone(), open.clone()));
                },
                Err(error) => {
                    tracing::error!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = hangup.recv() => images.reload(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    notify("STOPPING=1");
    tracing::info!("the server stops");
    drop(listener);
    streaming.abort();
    socket.remove();
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    images.stop();
    core.events.stop();
    let _ = stop.send(true);
    drop(open);
    let mut running = front.running.subscribe();
    let answered = running.wait_for(|running| *running == 0);
    if tokio::time::timeout(GRACE, answered).await.is_err() {
        tracing::warn!("requests were still running after {} s", GRACE.as_secs());
    }
    if let Some(nri) = core.nri.get() {
        nri.stop().await;
    }
    drop(plugins);
    // What was answered is on its way; a client that does not listen is not waited for.
    let _ = tokio::time::timeout(FAREWELL, closed.recv()).await;
    Ok(())
}

/// Serves a connection until its end, or until its requests are answered when the server stops.
async fn connection(
    stream: UnixStream,
    front: PlacedFront,
    mut stopped: watch::Receiver<bool>,
    _open: mpsc::Sender<Infallible>,
) {
    let place = Arc::clone(&front.place);
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .serve_connection(TokioIo::new(stream), front);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = place.unwanted() => return,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // Clients come and go as they like.
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Chooses the service of a request.
#[derive(Clone)]
struct Front {
    meter: Arc<Meter>,
    images: ImageServiceServer<Images>,
    runtime: RuntimeServiceServer<Runtime>,
    /// How many requests are being answered.
    running: watch::Sender<usize>,
}

/// A request that is being answered.
struct Running(watch::Sender<usize>);

impl Running {
    fn begin(running: &watch::Sender<usize>) -> Self {
        running.send_modify(|running| *running += 1);
        Self(running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl Front {
    fn new(meter: Arc<Meter>, images: Images, runtime: Runtime) -> Self {
        Self {
            meter,
            running: watch::Sender::new(0),
            images: ImageServiceServer::new(images)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            runtime: RuntimeServiceServer::new(runtime)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        }
    }

    /// For the requests of one connection.
    fn at(&self, place: Place) -> PlacedFront {
        PlacedFront {
            front: self.clone(),
            place: Arc::new(place),
        }
    }

    async fn answer(mut self, request: Request<Arriving>) -> Response<Body> {
        let kind = request.headers().get(http::header::CONTENT_TYPE);
        let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if !grpc || request.method() != Method::POST {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        let answered = match service {
            "runtime.v1.ImageService" => self.images.call(request).await,
            "runtime.v1.RuntimeService" => self.runtime.call(request).await,
            other => {
                let message = format!("there is no service {other:?}: this is CRI v1");
                Ok(Status::unimplemented(message).into_http())
            }
        };
        answered.unwrap_or_else(|never| match never {})
    }

    /// Answers within the client's deadline, whatever happens.
    async fn answer_in_time(self, request: Request<Arriving>) -> Response<Body> {
        let _running = Running::begin(&self.running);
        let (begun, meter) = (Instant::now(), Arc::clone(&self.meter));
        let path = request.uri().path().to_owned();
        let limit = match deadline(request.headers()) {
            Ok(limit) => limit,
            Err(status) => {
                meter.answered(&path, status.code(), begun.elapsed());
                return status.into_http();
            }
        };
        let answer = Caught(Box::pin(self.answer(request)));
        let answered = match limit {
            None => Ok(answer.await),
            Some(Duration::ZERO) => Err(()),
            Some(limit) => tokio::time::timeout(limit, answer).await.map_err(drop),
        };
        let response = match answered {
            Ok(Some(response)) => response,
            Ok(None) => Status::internal("a defect in the server: see its log").into_http(),
            Err(()) => Status::deadline_exceeded(format!(
                "the client's deadline of {limit:?} has passed",
                limit = limit.unwrap_or_default()
            ))
            .into_http(),
        };
        let response = bounded(response);
        let (took, code) = (begun.elapsed(), code(&response));
        meter.answered(&path, code, took);
        tell(&path, took, code);
        response
    }
}

/// The same, for one connection.
struct PlacedFront {
    front: Front,
    place: Arc<Place>,
}

impl hyper::service::Service<Request<Incoming>> for PlacedFront {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let front = self.front.clone();
        let begun = self.place.begin().map(Arc::new);
        Box::pin(async move {
            let begun = match begun {
                Ok(begun) => begun,
                Err(status) => {
                    let path = request.uri().path();
                    front.meter.answered(path, status.code(), Duration::ZERO);
                    return Ok(status.into_http());
                }
            };
            let request = request.map(|body| Arriving::new(body, &begun));
            let response = front.answer_in_time(request).await;
            Ok(response.map(|body| Body::new(Leaving::new(body, begun))))
        })
    }
}

/// One line for each request, with the code where it failed.
fn tell(path: &str, took: Duration, code: Code) {
    let method = path.rsplit('/').next().unwrap_or(path);
    tracing::debug!(method, code = ?code, microseconds = took.as_micros(), "answered");
}

/// What is said of a failure travels in the head, for which clients have limits: some words of a request come back in it,
/// and those may be long.
fn bounded(mut response: Response<Body>) -> Response<Body> {
    let said = response.headers().get("grpc-message");
    if let Some(shorter) = said.and_then(|said| shorter(said.as_bytes())) {
        response.headers_mut().insert("grpc-message", shorter);
    }
    response
}

/// The beginning of a message that is too long; none of its characters, which are encoded (`%E2%82%AC`), is cut.
fn shorter(said: &[u8]) -> Option<HeaderValue> {
    if said.len() <= MAX_SAID {
        return None;
    }
    let mut end = MAX_SAID;
    // Not within an escape, and not between those of one character.
    while end > 0 && said[..end].iter().rev().take(2).any(|byte| *byte == b'%') {
        end -= 1;
    }
    let continued = |at: usize| {
        said.get(at) == Some(&b'%') && matches!(said.get(at + 1), Some(b'8'..=b'9' | b'A'..=b'B'))
    };
    while end >= 3 && continued(end) {
        end -= 3;
    }
    let kept = [&said[..end], b"..."].concat();
    HeaderValue::from_bytes(&kept).ok()
}

/// Where something failed, and in streams before they began, the code is in the head.
fn code(response: &Response<Body>) -> Code {
    match response.headers().get("grpc-status") {
        Some(code) => Code::from_bytes(code.as_bytes()),
        None if response.status().is_success() => Code::Ok,
        None => Code::Unknown,
    }
}

/// What the client says in `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP2, "Requests").
fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let wrong = || Status::invalid_argument("the header grpc-timeout is not a number and a unit");
    let text = value.to_str().map_err(|_| wrong())?;
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || !(1..=8).contains(&number.len()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(wrong()),
    }))
}

/// A future whose panic is `None`: it costs one request, and not those beside it.
struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Future for Caught<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(task)));
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Duration>, Code> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        deadline(&headers).map_err(|status| status.code())
    }

    #[test]
    fn deadlines_of_clients() {
        assert_eq!(deadline(&HeaderMap::new()).unwrap(), None);
        for (text, expected) in [
            ("1m", Duration::from_millis(1)),
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("5u", Duration::from_micros(5)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(read(text), Ok(Some(expected)), "{text}");
        }
        for text in [
            "",
            "1",
            "m",
            "1s",
            "123456789m",
            "-1m",
            "+1m",
            "1.5S",
            "1 S",
        ] {
            assert_eq!(read(text), Err(Code::InvalidArgument), "{text:?}");
        }
    }

    #[test]
    fn long_words_lose_their_end_and_no_half_of_a_character() {
        assert_eq!(shorter(b"short"), None);
        assert_eq!(shorter(&[b'x'; MAX_SAID]), None);
        for before in 0..10 {
            for piece in ["x", "%22", "%C3%A9", "%E2%82%AC", "%F0%9F%A6%80"] {
                let said = "x".repeat(before) + &piece.repeat(MAX_SAID + 1);
                let kept = shorter(said.as_bytes()).unwrap();
                let kept = kept.to_str().unwrap().strip_suffix("...").unwrap();
                assert!(
                    kept.len() <= MAX_SAID && kept.len() > MAX_SAID - 16,
                    "{piece}"
                );
                let whole = (kept.len() - before) / piece.len();
                assert_eq!(kept, "x".repeat(before) + &piece.repeat(whole), "{piece}");
            }
        }
    }

    #[test]
    fn a_panic_costs_one_request() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let panicked = Caught(Box::pin(async { panic!("on purpose") }));
        assert!(runtime.block_on(panicked).is_none());
        assert_eq!(runtime.block_on(Caught(Box::pin(async { 1 }))), Some(1));
    }
}
