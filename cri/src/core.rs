//! All pods and containers, in memory: what lists and look-ups are answered from, and where names are
//! reserved. The truth is on the disk ([`crate::records`]) and with the monitors.

mod objects;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rcrun_network::{Bridge, Network, Plugins};
use rcrun_nri::Nri;
use rcrun_runtime::container::{self, Runtime};
use tokio::sync::watch;
use tonic::Status;

use crate::events::Events;
use crate::host::Host;
use crate::images::Images;
use crate::meter::Meter;
use crate::proto::v1 as cri;
use crate::records::Places;
use crate::settings::{CgroupDriver, NetworkKind, Settings};
use crate::spec::Node;
use crate::stats::Known;
use crate::work::Gate;
use crate::{Context, Error, ErrorKind, Result};

pub(crate) use objects::{Container, ContainerState, End, Life, Pod, PodState};

/// Pods and containers that are made or taken away at a time: that is work for the processors.
const HEAVY: usize = 8;
/// Containers that are saved at a time: each stands still meanwhile, and is written to the disk.
const SAVES: usize = 2;
/// Calls that only wait a moment for files, signals and monitors.
const LIGHT: usize = 48;

/// Everything that methods share.
pub(crate) struct Core {
    pub(crate) host: Arc<Host>,
    pub(crate) images: Images,
    pub(crate) places: Places,
    /// Which makes the containers.
    pub(crate) runtime: Runtime,
    pub(crate) network: Network,
    pub(crate) node: Arc<Node>,
    pub(crate) events: Events,
    /// What is counted.
    pub(crate) meter: Arc<Meter>,
    /// Measured before.
    pub(crate) known: Known,
    pub(crate) heavy: Gate,
    pub(crate) light: Gate,
    pub(crate) saves: Gate,
    /// Plugins, where the settings ask for them ([`crate::nri`]).
    pub(crate) nri: OnceLock<Nri>,
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    pods: BTreeMap<String, Arc<Pod>>,
    containers: BTreeMap<String, Arc<Container>>,
    names: HashMap<Name, Reserved>,
}

/// What there may be one of at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    /// Name, namespace, uid, attempt.
    Pod(String, String, String, u32),
    /// The pod's identifier, name, attempt.
    Container(String, String, u32),
}

impl Name {
    pub(crate) fn of_pod(config: &cri::PodSandboxConfig) -> Self {
        let meta = config.metadata.clone().unwrap_or_default();
        Self::Pod(meta.name, meta.namespace, meta.uid, meta.attempt)
    }

    pub(crate) fn of_container(pod: &str, config: &cri::ContainerConfig) -> Self {
        let meta = config.metadata.clone().unwrap_or_default();
        Self::Container(pod.to_owned(), meta.name, meta.attempt)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name, namespace, uid, attempt) => {
                write!(f, "pod {namespace}/{name} (uid {uid}, attempt {attempt})")
            }
            Self::Container(_, name, attempt) => {
                write!(f, "container {name} (attempt {attempt}) of its pod")
            }
        }
    }
}

/// Who has a name: what is being made, or was.
#[derive(Debug, Clone)]
struct Reserved {
    id: String,
    outcome: watch::Receiver<Outcome>,
}

/// What became of a request to make something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It is being made.
    Pending,
    /// It is there.
    Made,
    /// It is not there.
    Failed,
}

/// The right to make something of a name. When it is dropped without a result the name is free again.
pub(crate) struct Reservation {
    core: Arc<Core>,
    name: Name,
    id: String,
    outcome: watch::Sender<Outcome>,
}

impl Reservation {
    /// It is there.
    pub(crate) fn done(self) {
        let _ = self.outcome.send(Outcome::Made);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if *self.outcome.borrow() == Outcome::Pending {
            self.core.release(&self.name, &self.id);
            let _ = self.outcome.send(Outcome::Failed);
        }
    }
}

/// A name, asked for.
pub(crate) enum Claim {
    /// It is the caller's.
    Free(Reservation),
    /// Something of this name is there.
    Taken(String),
}

impl Core {
    pub(crate) fn new(host: &Arc<Host>, settings: &Settings, images: Images) -> Result<Arc<Self>> {
        let places = Places::open(&host.store, &host.root)?;
        let network = network(settings, &places)?;
        let runtime = Runtime {
            root: places.runtime_root(),
            cgroup_driver: match settings.cgroup_driver.resolved() {
                CgroupDriver::Systemd => container::CgroupDriver::Systemd,
                _ => container::CgroupDriver::Files,
            },
            rootless: Some(false),
        };
        let meter = images.meter();
        let node = crate::facts::node(&runtime, settings).context(|| "cannot look at this node")?;
        Ok(Arc::new(Self {
            host: Arc::clone(host),
            images,
            places,
            runtime,
            network,
            node: Arc::new(node),
            events: Events::new(&meter),
            meter,
            known: Known::default(),
            heavy: Gate::new(HEAVY),
            light: Gate::new(LIGHT),
            saves: Gate::new(SAVES),
            nri: OnceLock::new(),
            tables: RwLock::default(),
        }))
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pods, by their identifiers.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    /// All containers.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.read().containers.values().cloned().collect()
    }

    /// The pod of this identifier, or of this unique beginning of one.
    pub(crate) fn pod(&self, id: &str) -> Result<Arc<Pod>, Status> {
        found("pod", id, by_beginning(&self.read().pods, id))
    }

    /// The container, likewise.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Status> {
        found("container", id, by_beginning(&self.read().containers, id))
    }

    /// The same where one that is not there is no error: it was removed.
    pub(crate) fn pod_if_any(&self, id: &str) -> Result<Option<Arc<Pod>>, Status> {
        if_any(self.pod(id))
    }

    /// Likewise.
    pub(crate) fn container_if_any(&self, id: &str) -> Result<Option<Arc<Container>>, Status> {
        if_any(self.container(id))
    }

    /// Asks for a name, for what will have this identifier. Waits for whoever makes something of this name.
    pub(crate) async fn claim(self: &Arc<Self>, name: &Name, id: &str) -> Claim {
        loop {
            match self.claim_now(name, id) {
                Ok(reservation) => return Claim::Free(reservation),
                Err((id, mut outcome)) => {
                    let became = outcome.wait_for(|became| *became != Outcome::Pending).await;
                    if became.is_ok_and(|became| *became == Outcome::Made) {
                        return Claim::Taken(id);
                    }
                    // Its maker failed: the name is free.
                }
            }
        }
    }

    fn claim_now(
        self: &Arc<Self>,
        name: &Name,
        id: &str,
    ) -> Result<Reservation, (String, watch::Receiver<Outcome>)> {
        let mut tables = self.change();
        if let Some(taken) = tables.names.get(name) {
            return Err((taken.id.clone(), taken.outcome.clone()));
        }
        let (outcome, receiver) = watch::channel(Outcome::Pending);
        let reserved = Reserved {
            id: id.to_owned(),
            outcome: receiver,
        };
        tables.names.insert(name.clone(), reserved);
        Ok(Reservation {
            core: Arc::clone(self),
            name: name.clone(),
            id: id.to_owned(),
            outcome,
        })
    }

    fn release(&self, name: &Name, id: &str) {
        let mut tables = self.change();
        if tables.names.get(name).is_some_and(|taken| taken.id == id) {
            tables.names.remove(name);
        }
    }

    /// Reserves the name of something that is there.
    fn hold(tables: &mut Tables, name: &Name, id: &str) {
        tables
            .names
            .entry(name.clone())
            .or_insert_with(|| Reserved {
                id: id.to_owned(),
                outcome: watch::channel(Outcome::Made).1,
            });
    }

    pub(crate) fn insert_pod(&self, pod: &Arc<Pod>) {
        let mut tables = self.change();
        Self::hold(&mut tables, &pod.name, &pod.id);
        tables.pods.insert(pod.id.clone(), Arc::clone(pod));
    }

    pub(crate) fn insert_container(&self, container: &Arc<Container>) {
        let mut tables = self.change();
        Self::hold(&mut tables, &container.name, &container.id);
        let (id, all) = (container.id.clone(), &container.pod.containers);
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id.clone(), Arc::clone(container));
        tables.containers.insert(id, Arc::clone(container));
    }

    pub(crate) fn forget_pod(&self, pod: &Pod) {
        self.known.forget(&pod.id);
        self.change().pods.remove(&pod.id);
        self.release(&pod.name, &pod.id);
    }

    pub(crate) fn forget_container(&self, container: &Container) {
        self.known.forget(&container.id);
        self.change().containers.remove(&container.id);
        let all = container.pod.containers.lock();
        all.unwrap_or_else(PoisonError::into_inner)
            .remove(&container.id);
        self.release(&container.name, &container.id);
    }
}

fn network(settings: &Settings, places: &Places) -> Result<Network> {
    let plugins = || {
        let cache = places.of_plugins();
        Plugins::new(&settings.cni_config, &settings.cni_plugins, &cache).sharing(places.ports())
    };
    let bridge = || {
        let bridge = Bridge::new(settings.bridge.clone(), &places.of_bridge());
        bridge.map(|bridge| bridge.sharing(places.ports()))
    };
    Ok(match settings.network {
        NetworkKind::Cni => Network::Plugins(plugins()),
        NetworkKind::Bridge => Network::Bridge(bridge()?),
        NetworkKind::Auto => {
            let plugins = plugins();
            match plugins.configuration() {
                Ok(_) => Network::Plugins(plugins),
                Err(_) => Network::Bridge(bridge()?),
            }
        }
    })
}

/// The one whose key is this or begins with it; the error has the number of those that do.
fn by_beginning<T: Clone>(all: &BTreeMap<String, T>, text: &str) -> Result<T, usize> {
    if let Some(found) = all.get(text) {
        return Ok(found.clone());
    }
    if text.is_empty() {
        return Err(0);
    }
    let mut begin = all
        .range(text.to_owned()..)
        .take_while(|(id, _)| id.starts_with(text));
    match (begin.next(), begin.count()) {
        (Some((_, found)), 0) => Ok(found.clone()),
        (None, _) => Err(0),
        (Some(_), more) => Err(more + 1),
    }
}

fn found<T>(what: &str, id: &str, found: Result<T, usize>) -> Result<T, Status> {
    found.map_err(|count| match count {
        0 => Status::not_found(format!("no such {what}: {id:?}")),
        count => Status::invalid_argument(format!(
            "the identifiers of {count} {what}s begin with {id:?}: say more of it"
        )),
    })
}

fn if_any<T>(found: Result<T, Status>) -> Result<Option<T>, Status> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Goes on to its end whether or not somebody waits for it.
pub(crate) async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        // Its panic was printed by the thread.
        Err(_) => Err(Status::internal("a defect in the server: see its log")),
    }
}

/// What has to be there in a request.
pub(crate) fn given<T>(value: Option<T>, what: &str) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument(format!("the request has no {what}")))
}

/// Something is in the wrong state for it.
pub(crate) fn precondition(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::FailedPrecondition, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_identifiers() {
        let all: BTreeMap<String, u8> = [("aa1", 1), ("aa2", 2), ("ab", 3)]
            .map(|(id, value)| (id.to_owned(), value))
            .into();
        for (text, expected) in [
            ("aa1", Ok(1)),
            ("ab", Ok(3)),
            ("aa", Err(2)),
            ("a", Err(3)),
            ("abc", Err(0)),
            ("", Err(0)),
            ("b", Err(0)),
        ] {
            assert_eq!(by_beginning(&all, text), expected, "{text}");
        }
    }
}
