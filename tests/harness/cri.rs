//! A node: the CRI server on a socket and a store of its own, and a client of it.

use super::process;
use super::runtime::{Output, Running};
use super::{Env, Shelf};
pub(crate) use rcrun_cri::client::Wire;
use rcrun_cri::client::connect;
use rcrun_cri::proto::v1 as cri;
use rcrun_cri::proto::v1::image_service_client::ImageServiceClient;
use rcrun_cri::proto::v1::runtime_service_client::RuntimeServiceClient;
use rcrun_image::registry::testing::Setup;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// How long the server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lines of the server's log that a failed test shows.
const LAST: usize = 40;

/// The server, with the registry that it pulls from.
pub(crate) struct Node<'a> {
    pub(crate) shelf: Shelf<'a>,
    pub(crate) socket: PathBuf,
    tokio: tokio::runtime::Runtime,
    server: RefCell<Option<Running>>,
    more: RefCell<Value>,
}

pub(crate) type Images = ImageServiceClient<Wire>;
pub(crate) type Runtime = RuntimeServiceClient<Wire>;

impl<'a> Node<'a> {
    /// A server that has started.
    pub(crate) fn new(env: &'a Env) -> Self {
        Self::with(env, Setup::default(), json!({}))
    }

    /// The same with a registry as set up, and this in the section `cri`.
    pub(crate) fn with(env: &'a Env, setup: Setup, section: Value) -> Self {
        let node = Self::prepare(env, setup);
        node.configure(section);
        node.start();
        node
    }

    /// One that has not started.
    pub(crate) fn prepare(env: &'a Env, setup: Setup) -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            shelf: Shelf::with(env, setup),
            socket: env.path("run/cri.sock"),
            tokio,
            server: RefCell::default(),
            more: RefCell::new(json!({})),
        }
    }

    /// Writes the settings file with this in the section `cri`.
    pub(crate) fn configure(&self, mut section: Value) {
        section["listen"] = json!(format!("unix://{}", self.socket.display()));
        let mut all = self.more.borrow().clone();
        all["cri"] = section;
        self.shelf.settings(&all);
    }

    /// Sections that stand beside `cri`, from the next [`Self::configure`] on.
    pub(crate) fn beside(&self, sections: Value) {
        *self.more.borrow_mut() = sections;
    }

    /// Starts the server, and waits until it answers.
    #[track_caller]
    pub(crate) fn start(&self) {
        self.start_by(self.shelf.command(&["serve"]));
    }

    #[track_caller]
    pub(crate) fn start_by(&self, command: Command) {
        let running = self.shelf.env.rt.spawn(command);
        *self.server.borrow_mut() = Some(running);
        let end = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            assert!(
                Instant::now() < end,
                "the server does not start:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the server wrote so far.
    pub(crate) fn log(&self) -> String {
        let mut server = self.server.borrow_mut();
        server
            .as_mut()
            .map(|running| running.read().1)
            .unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.server.borrow().as_ref().map(Running::pid).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        let mut server = self.server.take().unwrap();
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }

    /// SIGTERM; what the server said in its life.
    #[track_caller]
    pub(crate) fn stop(&self) -> Output {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&self) -> Output {
        let server = self.server.take().unwrap();
        self.shelf.env.rt.finish_within(server, PATIENCE)
    }

    /// A connection.
    pub(crate) fn connect(&self) -> Wire {
        self.tokio.block_on(connect(&self.socket)).unwrap()
    }

    pub(crate) fn images(&self) -> Images {
        ImageServiceClient::with_origin(self.connect(), "http://localhost".parse().unwrap())
            .max_decoding_message_size(64 << 20)
    }

    pub(crate) fn runtime(&self) -> Runtime {
        RuntimeServiceClient::with_origin(self.connect(), "http://localhost".parse().unwrap())
    }

    /// Waits for something asynchronous, at most so long as a test may.
    #[track_caller]
    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(PATIENCE, work).await };
        match self.tokio.block_on(limited) {
            Ok(done) => done,
            Err(_) => panic!(
                "no answer in {PATIENCE:?}:\n{}\n{}",
                self.log(),
                process::table()
            ),
        }
    }

    /// A request that is answered.
    #[track_caller]
    pub(crate) fn ok<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> T {
        match self.wait(call) {
            Ok(response) => response.into_inner(),
            Err(status) => panic!("{status:?}\n{}", self.log()),
        }
    }

    /// A request that is refused with this code; why.
    #[track_caller]
    pub(crate) fn refused<T: std::fmt::Debug>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
        code: Code,
    ) -> String {
        let status = self.wait(call).expect_err("was not refused");
        assert_eq!(status.code(), code, "{status:?}\n{}", self.log());
        status.message().to_owned()
    }

    /// Pulls an image without credentials; its identifier.
    #[track_caller]
    pub(crate) fn pull(&self, name: &str) -> String {
        self.ok(self.images().pull_image(pull(name))).image_ref
    }

    #[track_caller]
    pub(crate) fn remove(&self, name: &str) {
        let request = cri::RemoveImageRequest { image: spec(name) };
        self.ok(self.images().remove_image(request));
    }

    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> Option<cri::Image> {
        let request = cri::ImageStatusRequest {
            image: spec(name),
            verbose: false,
        };
        let answer = self.ok(self.images().image_status(request));
        assert!(answer.info.is_empty());
        answer.image
    }

    #[track_caller]
    pub(crate) fn list(&self) -> Vec<cri::Image> {
        let request = cri::ListImagesRequest::default();
        self.ok(self.images().list_images(request)).images
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let last = log.lines().rev().take(LAST).collect::<Vec<_>>();
            eprintln!("{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.child.kill();
            let _ = server.child.wait();
        }
    }
}

/// An image's name in a request.
pub(crate) fn spec(name: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    })
}

/// A pull without credentials.
pub(crate) fn pull(name: &str) -> cri::PullImageRequest {
    cri::PullImageRequest {
        image: spec(name),
        ..Default::default()
    }
}
