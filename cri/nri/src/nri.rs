//! All plugins: how they come and go, and who is asked about an event.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use rcrun_error::{Error, ErrorKind, Result};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{RwLock, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::launch::{self, Found};
use crate::limits;
use crate::operation::Operation;
use crate::plugin::{Identity, Plugin};
use crate::proto::v1alpha1::{
    ContainerUpdate, Empty, Event, SynchronizeRequest, SynchronizeResponse,
};
use crate::runtime::{Runtime, State};
use crate::settings::Settings;

/// How long nobody is accepted after the kernel refused, which it does when descriptors run out.
const PAUSE: Duration = Duration::from_millis(200);

/// The interface, as long as it is offered. Dropping it drops all plugins at once; [`Nri::stop`] tells them.
#[derive(Debug)]
pub struct Nri {
    core: Arc<Core>,
    stop: watch::Sender<bool>,
}

/// What events, plugins that join and the listener share.
pub(crate) struct Core {
    settings: Settings,
    runtime: Arc<dyn Runtime>,
    /// Operations hold it together, a plugin that joins alone.
    joining: Arc<RwLock<()>>,
    /// One event at a time.
    turn: tokio::sync::Mutex<()>,
    /// In the order in which they are asked.
    plugins: Mutex<Vec<Arc<Plugin>>>,
    /// Nobody joins any more; changes with `plugins` held.
    closed: AtomicBool,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plugins = self.plugins();
        f.debug_struct("Core")
            .field("plugins", &*plugins)
            .finish_non_exhaustive()
    }
}

impl Nri {
    /// Starts the plugins that are installed, tells them what is there, and lets others connect to a socket that
    /// listens, if there is one; it does not block, and is closed when the interface stops.
    ///
    /// A plugin that cannot be started is logged and left out. The caller must be within a tokio runtime with time and
    /// I/O; operations may begin when this has returned.
    pub async fn start(
        settings: Settings,
        runtime: Arc<dyn Runtime>,
        listener: Option<std::os::unix::net::UnixListener>,
    ) -> Result<Self> {
        settings.check()?;
        let found = launch::discover(&settings.plugins, &settings.configurations)?;
        let listener = listener.map(UnixListener::from_std).transpose()?;
        let core = Arc::new(Core {
            settings,
            runtime,
            joining: Arc::new(RwLock::new(())),
            turn: tokio::sync::Mutex::new(()),
            plugins: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
        });
        let nri = Self {
            core: Arc::clone(&core),
            stop: watch::Sender::new(false),
        };
        core.launch(found, &nri.stop).await?;
        if let Some(listener) = listener {
            tokio::spawn(accept(core, listener, nri.stop.subscribe()));
        }
        Ok(nri)
    }

    /// Begins an operation; waits for a plugin that is joining.
    pub async fn operation(&self) -> Operation {
        let hold = Arc::clone(&self.core.joining).read_owned().await;
        Operation::new(Arc::clone(&self.core), hold)
    }

    /// The plugins that are there, as `NN-NAME`, in the order in which they are asked.
    pub fn plugins(&self) -> Vec<String> {
        let names = |plugin: &Arc<Plugin>| plugin.identity.to_string();
        self.core.all().iter().map(names).collect()
    }

    /// Tells all plugins that it is over, and drops them: nobody connects any more, and what we started is ended.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut told = JoinSet::new();
        for plugin in self.core.close() {
            told.spawn(async move {
                // Whether it listens or not: it goes.
                let _: Result<Empty> = plugin.ask("Shutdown", &Empty {}).await;
                plugin.close("the runtime goes down");
            });
        }
        while told.join_next().await.is_some() {}
    }
}

impl Drop for Nri {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for plugin in self.core.close() {
            plugin.close("the runtime goes down");
        }
    }
}

impl Core {
    fn plugins(&self) -> MutexGuard<'_, Vec<Arc<Plugin>>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are there.
    pub(crate) fn all(&self) -> Vec<Arc<Plugin>> {
        let plugins = self.plugins();
        let there = plugins.iter().filter(|plugin| !plugin.is_gone());
        there.cloned().collect()
    }

    /// Those that are there, when it is over: who is about to join is dropped instead.
    fn close(&self) -> Vec<Arc<Plugin>> {
        let plugins = self.plugins();
        self.closed.store(true, Ordering::Relaxed);
        plugins.clone()
    }

    /// Those that are to be asked about an event; `None` if nobody is, which costs nothing.
    pub(crate) fn wanting(&self, event: Event) -> Option<Vec<Arc<Plugin>>> {
        let plugins = self.plugins();
        let wanting = plugins
            .iter()
            .filter(|plugin| plugin.wants(event) && !plugin.is_gone());
        let wanting: Vec<_> = wanting.cloned().collect();
        (!wanting.is_empty()).then_some(wanting)
    }

    /// Waits until no other event is with the plugins.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Waits until there are no operations. Those that begin meanwhile wait, too, but for one that does not end only
    /// [`limits::JOIN`], then twice as long, and never longer than [`limits::JOIN_MAX`].
    async fn alone(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        let mut patience = limits::JOIN;
        loop {
            if let Ok(alone) = timeout(patience, self.joining.write()).await {
                return alone;
            }
            sleep(PAUSE).await;
            patience = (2 * patience).min(limits::JOIN_MAX);
        }
    }

    /// Starts installed plugins, all at once, and tells those that came what is there.
    async fn launch(self: &Arc<Self>, found: Vec<Found>, stop: &watch::Sender<bool>) -> Result<()> {
        let mut starting = JoinSet::new();
        for found in found {
            let (core, stop) = (Arc::clone(self), stop.subscribe());
            starting.spawn(async move {
                let identity = found.identity.clone();
                match core.launch_one(found, stop).await {
                    Ok(plugin) => Some(plugin),
                    Err(error) => {
                        tracing::warn!("NRI plugin {identity} is left out: {}", error.chain());
                        None
                    }
                }
            });
        }
        let started = starting.join_all().await.into_iter().flatten();
        let mut started: Vec<Plugin> = started.collect();
        if started.is_empty() {
            return Ok(());
        }
        let _alone = self.alone().await;
        let state = self.runtime.synchronize().await?;
        let mut updates = Vec::new();
        started.sort_by(|a, b| a.identity.index.cmp(&b.identity.index));
        for plugin in started {
            let told = timeout(plugin.joining_time(), synchronize(&plugin, &state)).await;
            match told.unwrap_or_else(|_| Err(late(&plugin.identity))) {
                Ok(wanted) => {
                    updates.extend(wanted);
                    self.add(plugin);
                }
                Err(error) => {
                    tracing::warn!(
                        "NRI plugin {} is left out: {}",
                        plugin.identity,
                        error.chain()
                    );
                }
            }
        }
        self.update(updates).await;
        Ok(())
    }

    async fn launch_one(
        self: &Arc<Self>,
        found: Found,
        stop: watch::Receiver<bool>,
    ) -> Result<Plugin> {
        let (stream, process) = launch::spawn(&self.settings.plugins, &found.identity)?;
        let launched = Some((found.identity, found.configuration));
        let runtime = Arc::clone(&self.runtime);
        let plugin = Plugin::admit(stream, launched, &self.settings, runtime).await?;
        tokio::spawn(launch::attend(process, plugin.ending(), stop));
        Ok(plugin)
    }

    /// Lets a plugin that connected join.
    async fn admit(self: &Arc<Self>, stream: UnixStream) -> Result<()> {
        let runtime = Arc::clone(&self.runtime);
        let plugin = Plugin::admit(stream, None, &self.settings, runtime).await?;
        let _alone = tokio::select! {
            alone = self.alone() => alone,
            () = plugin.gone() => return Err(plugin.lost()),
        };
        if self.all().len() >= limits::PLUGINS {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "cannot accept NRI plugin {}: there are {} already",
                    plugin.identity,
                    limits::PLUGINS
                ),
            ));
        }
        let state = self.runtime.synchronize().await?;
        let told = timeout(plugin.joining_time(), synchronize(&plugin, &state)).await;
        let updates = told.unwrap_or_else(|_| Err(late(&plugin.identity)))?;
        self.add(plugin);
        self.update(updates).await;
        Ok(())
    }

    /// From here on the plugin hears of events, until its connection ends.
    fn add(self: &Arc<Self>, plugin: Plugin) {
        let mut plugins = self.plugins();
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        tracing::info!("NRI plugin {} has joined", plugin.identity);
        let plugin = Arc::new(plugin);
        plugins.push(Arc::clone(&plugin));
        // Stable: of one index, who came first is asked first.
        plugins.sort_by(|a, b| a.identity.index.cmp(&b.identity.index));
        drop(plugins);
        let core = Arc::downgrade(self);
        tokio::spawn(async move {
            plugin.gone().await;
            tracing::info!("NRI plugin {} is gone", plugin.identity);
            if let Some(core) = core.upgrade() {
                core.plugins().retain(|other| !Arc::ptr_eq(other, &plugin));
            }
        });
    }

    /// What plugins want when they join.
    async fn update(&self, updates: Vec<ContainerUpdate>) {
        if updates.is_empty() {
            return;
        }
        for failed in self.runtime.update(updates).await {
            tracing::warn!(
                "cannot update container {} as an NRI plugin wants",
                failed.container_id
            );
        }
    }
}

fn late(identity: &Identity) -> Error {
    let words = format!("cannot Synchronize: NRI plugin {identity} failed: it took too long");
    Error::new(ErrorKind::Deadline, words)
}

/// Tells a plugin what is there, in as many messages as that takes, and returns what it wants updated.
async fn synchronize(plugin: &Plugin, state: &State) -> Result<Vec<ContainerUpdate>> {
    for request in parts(state) {
        let more = request.more;
        let time = plugin.joining_time();
        let answer: SynchronizeResponse = plugin.ask_within(time, "Synchronize", &request).await?;
        if !more {
            return Ok(answer.update);
        }
        if !answer.more || !answer.update.is_empty() {
            return Err(Error::unsupported(format!(
                "cannot Synchronize: NRI plugin {} takes no list in several messages",
                plugin.identity
            )));
        }
    }
    Ok(Vec::new())
}

/// The messages that tell what is there. Each is as long as messages may be, but for what frames it.
fn parts(state: &State) -> Vec<SynchronizeRequest> {
    /// Field and length of an entry, at most.
    const ENTRY: usize = 6;
    /// What frames a message: service, method, times.
    const ENVELOPE: usize = 1024;
    let most = limits::MESSAGE - ENVELOPE;
    let mut parts = vec![SynchronizeRequest::default()];
    let mut length = 0;
    let mut room = |parts: &mut Vec<SynchronizeRequest>, entry: usize| {
        length += entry + ENTRY;
        if length > most
            && let Some(last) = parts.last_mut()
            && !(last.pods.is_empty() && last.containers.is_empty())
        {
            last.more = true;
            parts.push(SynchronizeRequest::default());
            length = entry + ENTRY;
        }
        parts.len() - 1
    };
    for pod in &state.pods {
        let part = room(&mut parts, pod.encoded_len());
        parts[part].pods.push(pod.clone());
    }
    for container in &state.containers {
        let part = room(&mut parts, container.encoded_len());
        parts[part].containers.push(container.clone());
    }
    parts
}

/// Lets plugins connect until the interface stops.
async fn accept(core: Arc<Core>, listener: UnixListener, mut stop: watch::Receiver<bool>) {
    let strangers = Arc::new(Semaphore::new(limits::STRANGERS));
    let stopped = stop.clone();
    let accepting = async {
        loop {
            // Never closed, so there is always a permit in the end.
            let Ok(permit) = Arc::clone(&strangers).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (core, mut stop) = (Arc::clone(&core), stopped.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            outcome = core.admit(stream) => if let Err(error) = outcome {
                                tracing::warn!("an NRI plugin is left out: {}", error.chain());
                            },
                            _ = stop.wait_for(|stop| *stop) => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept NRI plugins: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
