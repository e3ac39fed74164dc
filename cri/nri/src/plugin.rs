//! One plugin: how it joins, and how an event is told to it.
//!
//! A plugin registers by a request of its own, is configured (it answers with the events that it wants) and told
//! what is there. It is dropped, and the event goes on without it, when its connection ends, when it breaks the
//! protocol or gives no answer in time. An answer that says no, or that is too long, fails the event and leaves the
//! plugin where it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rcrun_error::{Context, Error, ErrorKind, Result};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::limits;
use crate::link::{Failure, Incoming, Link, decode};
use crate::proto::Code;
use crate::proto::v1alpha1::{
    ConfigureRequest, ConfigureResponse, Container, Empty, Event, PluginInstance, PodSandbox,
    RegisterPluginRequest, StartContainerRequest, StateChangeEvent, UpdateContainersRequest,
    UpdateContainersResponse,
};
use crate::runtime::Runtime;
use crate::settings::Settings;

/// The version of the interface that we speak.
const VERSION: &str = "v0.12.0";
/// Bits of all events that there are.
const EVENTS: i32 = (1 << (Event::Last as i32 - 1)) - 1;

/// By what plugins are known and ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Two digits.
    pub(crate) index: String,
    pub(crate) name: String,
}

impl Identity {
    pub(crate) fn new(index: &str, name: &str) -> Result<Self> {
        let digits = index.len() == 2 && index.bytes().all(|byte| byte.is_ascii_digit());
        if !digits {
            return Err(Error::invalid(format!(
                "cannot accept an NRI plugin with index {index:.8?}: two digits are needed"
            )));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
        if name.is_empty() || name.len() > limits::NAME || !name.bytes().all(plain) {
            return Err(Error::invalid(format!(
                "cannot accept an NRI plugin named {name:.128?}: up to {} letters, digits and -_.+ are needed",
                limits::NAME
            )));
        }
        Ok(Self {
            index: index.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.index, self.name)
    }
}

/// A plugin that has registered and was configured.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) identity: Identity,
    link: Link,
    events: i32,
    /// Events that it has no method for, so that they are told as changes of state.
    old: AtomicI32,
    request_time: Duration,
    /// For the list of all that is there: that may be more to do than an event.
    joining_time: Duration,
}

/// A plugin that nobody needs any more is disconnected.
impl Drop for Plugin {
    fn drop(&mut self) {
        self.link.close("the plugin was dropped");
    }
}

impl Plugin {
    /// Lets a plugin join. `launched` is who it is and its configuration, if we started it.
    pub(crate) async fn admit(
        stream: UnixStream,
        launched: Option<(Identity, String)>,
        settings: &Settings,
        runtime: Arc<dyn Runtime>,
    ) -> Result<Self> {
        let (link, incoming) = Link::new(stream, settings.request_time);
        let (identity, configuration) = match launched {
            Some((identity, configuration)) => (Some(identity), configuration),
            None => (None, String::new()),
        };
        let (tell, registered) = oneshot::channel();
        let serve = Serve {
            tell: Some(tell),
            identity,
            runtime,
            updates: Arc::new(Semaphore::new(limits::REQUESTS)),
        };
        tokio::spawn(serve.run(link.clone(), incoming));
        // Closed on every way out from here.
        let mut plugin = Self {
            identity: Identity {
                index: String::new(),
                name: String::new(),
            },
            link,
            events: EVENTS,
            old: AtomicI32::new(0),
            request_time: settings.request_time,
            joining_time: settings.request_time.max(settings.registration_time),
        };
        plugin.identity = match timeout(settings.registration_time, registered).await {
            Ok(Ok(Ok(identity))) => identity,
            Ok(Ok(Err(error))) => {
                // It was told why, and may read that before the connection ends.
                let _ = timeout(limits::GRACE, plugin.gone()).await;
                return Err(error);
            }
            Ok(Err(_)) => {
                let why = plugin.link.ended().unwrap_or_default();
                return Err(Error::new(ErrorKind::Unavailable, why))
                    .context(|| "cannot register an NRI plugin");
            }
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Deadline,
                    format!(
                        "cannot register an NRI plugin: it did not register within {} ms",
                        settings.registration_time.as_millis()
                    ),
                ));
            }
        };
        plugin.configure(configuration, settings).await?;
        Ok(plugin)
    }

    async fn configure(&mut self, config: String, settings: &Settings) -> Result<()> {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let request = ConfigureRequest {
            config,
            runtime_name: settings.runtime_name.clone(),
            runtime_version: settings.runtime_version.clone(),
            registration_timeout: milliseconds(settings.registration_time),
            request_timeout: milliseconds(settings.request_time),
            nri_version: VERSION.to_owned(),
        };
        let answer: ConfigureResponse = self.ask("Configure", &request).await?;
        if answer.events & !EVENTS != 0 {
            return Err(Error::invalid(format!(
                "cannot configure NRI plugin {}: it wants events {:#x}, and there are {EVENTS:#x}",
                self.identity, answer.events
            )));
        }
        if answer.events != 0 {
            self.events = answer.events;
        }
        Ok(())
    }

    pub(crate) fn wants(&self, event: Event) -> bool {
        self.events & bit(event) != 0
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.link.ended().is_some()
    }

    /// Returns when the connection has ended.
    pub(crate) async fn gone(&self) {
        self.link.end().await;
    }

    pub(crate) fn close(&self, why: &str) {
        self.link.close(why);
    }

    /// The error of a plugin that has gone before it joined.
    pub(crate) fn lost(&self) -> Error {
        let why = self.link.ended().unwrap_or_default();
        let words = format!("cannot synchronize NRI plugin {}: {why}", self.identity);
        Error::new(ErrorKind::Unavailable, words)
    }

    /// Its end, for who does not keep it.
    pub(crate) fn ending(&self) -> Ending {
        Ending(self.link.clone())
    }

    pub(crate) fn instance(&self) -> PluginInstance {
        PluginInstance {
            name: self.identity.name.clone(),
            index: self.identity.index.clone(),
        }
    }

    pub(crate) fn joining_time(&self) -> Duration {
        self.joining_time
    }

    /// Calls a method; every failure is an error.
    pub(crate) async fn ask<Q, A>(&self, method: &str, request: &Q) -> Result<A>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        self.ask_within(self.request_time, method, request).await
    }

    /// The same, with a time of its own.
    pub(crate) async fn ask_within<Q, A>(
        &self,
        time: Duration,
        method: &str,
        request: &Q,
    ) -> Result<A>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        let outcome = self.link.call(method, request, time).await;
        outcome.map_err(|failure| {
            if let Failure::Deadline(_) = failure {
                self.link.close("it gave no answer in time");
            }
            failure.error(&self.identity.to_string(), method)
        })
    }

    /// Calls the method of an event, if the plugin wants it. `None`: there is no answer, and none is needed.
    pub(crate) async fn relay<Q, A>(
        &self,
        event: Event,
        method: &str,
        request: &Q,
    ) -> Result<Option<A>>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        if !self.wants(event) {
            return Ok(None);
        }
        let outcome = self.link.call(method, request, self.request_time).await;
        self.settle(method, outcome)
    }

    /// The rule of the interface: a plugin that is lost is forgotten, one that says no is obeyed.
    fn settle<A>(&self, method: &str, outcome: Result<A, Failure>) -> Result<Option<A>> {
        match outcome {
            Ok(answer) => Ok(Some(answer)),
            Err(failure @ (Failure::Gone(_) | Failure::Deadline(_))) => {
                let error = failure.error(&self.identity.to_string(), method);
                tracing::warn!("NRI plugin {} is dropped: {}", self.identity, error.chain());
                self.link.close("it gave no answer");
                Ok(None)
            }
            Err(failure) => Err(failure.error(&self.identity.to_string(), method)),
        }
    }

    /// Tells an event that has no answer. A plugin that knows no method of this name is older than those methods,
    /// and hears of a change of state.
    pub(crate) async fn notify(
        &self,
        event: Event,
        method: &str,
        about: &StartContainerRequest,
    ) -> Result<()> {
        if !self.wants(event) {
            return Ok(());
        }
        if self.old.load(Ordering::Relaxed) & bit(event) == 0 {
            let outcome = self
                .link
                .call::<_, Empty>(method, about, self.request_time)
                .await;
            match outcome {
                Err(Failure::Refused { code, .. }) if code == Code::Unimplemented as i32 => {
                    self.old.fetch_or(bit(event), Ordering::Relaxed);
                }
                other => return self.settle(method, other).map(drop),
            }
        }
        let change = StateChangeEvent {
            event: event as i32,
            pod: about.pod.clone(),
            container: about.container.clone(),
        };
        let outcome = self
            .link
            .call::<_, Empty>("StateChange", &change, self.request_time)
            .await;
        self.settle(method, outcome).map(drop)
    }
}

/// When a plugin's connection ends.
#[derive(Debug)]
pub(crate) struct Ending(Link);

impl Ending {
    pub(crate) async fn wait(&self) {
        self.0.end().await;
    }

    pub(crate) fn close(&self, why: &str) {
        self.0.close(why);
    }
}

fn bit(event: Event) -> i32 {
    match event as i32 {
        number @ 1.. => 1 << (number - 1),
        _ => 0,
    }
}

/// The message of every event that has no answer: the pod is its field 1, the container its field 2.
pub(crate) fn about(pod: &PodSandbox, container: Option<&Container>) -> StartContainerRequest {
    StartContainerRequest {
        pod: Some(pod.clone()),
        container: container.cloned(),
    }
}

/// What a plugin asks of us.
struct Serve {
    /// Taken by the registration.
    tell: Option<oneshot::Sender<Result<Identity>>>,
    /// Known already, if we started it.
    identity: Option<Identity>,
    runtime: Arc<dyn Runtime>,
    /// Bounds the updates that are worked on.
    updates: Arc<Semaphore>,
}

impl Serve {
    async fn run(mut self, link: Link, mut incoming: mpsc::Receiver<Incoming>) {
        loop {
            // Ends with the reading task, too, but not before the last request was answered.
            let next = tokio::select! {
                next = incoming.recv() => next,
                () = link.end() => return,
            };
            match next {
                Some(request) => self.serve(request),
                None => return,
            }
        }
    }

    fn serve(&mut self, request: Incoming) {
        match request.method.as_str() {
            "RegisterPlugin" => {
                let outcome = self.register(&request.payload);
                request.answer(outcome.as_ref().map_err(Clone::clone));
            }
            "UpdateContainers" if self.tell.is_some() => {
                let why = "a plugin registers before anything else".to_owned();
                request.answer::<Empty>(Err((Code::FailedPrecondition, why)));
            }
            "UpdateContainers" => match Arc::clone(&self.updates).try_acquire_owned() {
                Ok(permit) => {
                    let runtime = Arc::clone(&self.runtime);
                    tokio::spawn(async move {
                        update(runtime, request).await;
                        drop(permit);
                    });
                }
                Err(_) => {
                    let why = "too many updates at once".to_owned();
                    request.answer::<Empty>(Err((Code::ResourceExhausted, why)));
                }
            },
            other => {
                let why = format!("no method {:?}", crate::link::words(other));
                request.answer::<Empty>(Err((Code::Unimplemented, why)));
            }
        }
    }

    fn register(&mut self, payload: &[u8]) -> Result<Empty, (Code, String)> {
        let request: RegisterPluginRequest =
            decode(payload).map_err(|why| (Code::InvalidArgument, why))?;
        let Some(tell) = self.tell.take() else {
            let why = "this plugin has registered already".to_owned();
            return Err((Code::FailedPrecondition, why));
        };
        let identity = match self.identity.take() {
            Some(known) => Ok(known),
            None => Identity::new(&request.plugin_idx, &request.plugin_name),
        };
        let outcome = match &identity {
            Ok(_) => Ok(Empty {}),
            Err(error) => Err((Code::InvalidArgument, error.to_string())),
        };
        let _ = tell.send(identity);
        outcome
    }
}

async fn update(runtime: Arc<dyn Runtime>, request: Incoming) {
    let wanted: UpdateContainersRequest = match decode(&request.payload) {
        Ok(wanted) => wanted,
        Err(why) => return request.answer::<Empty>(Err((Code::InvalidArgument, why))),
    };
    if !wanted.evict.is_empty() {
        let why = "containers are evicted in answers to events only".to_owned();
        return request.answer::<Empty>(Err((Code::Unimplemented, why)));
    }
    let failed = runtime.update(wanted.update).await;
    request.answer(Ok(&UpdateContainersResponse { failed }));
}
