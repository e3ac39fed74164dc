//! Pods: made, stopped, removed. A pod without a shared pid namespace is no process at all: namespaces
//! held by files ([`rcrun_runtime::pin`]), a network, and a directory.
//!
//! Each step has its way back, and what a step needs for that is on the disk before the step is done:
//! a server that is killed anywhere leaves a record in which the next one reads what to take away.

pub(crate) mod init;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use rcrun_network::request::Pod as PodOfNetwork;
use rcrun_network::{Key, Namespace, Request};
use rcrun_runtime::pin::{self, Pin};
use tonic::Status;

use crate::core::{Claim, Core, Name, Pod, Reservation, given, whole};
use crate::nri::Telling;
use crate::proto::v1 as cri;
use crate::records::{Kind, PodRecord, PodStage, random_id};
use crate::spec::pod::Pid;
use crate::spec::{IdMap, PodPlan};
use crate::status::status;
use crate::{Context, Error, ErrorKind, Result};

/// Files that a pod's containers see.
const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];
/// What pods call their device.
pub(crate) const INTERFACE: &str = "eth0";

impl Core {
    /// RunPodSandbox. Who asks again for what is still being made, or was made when nobody listened any more,
    /// gets that.
    pub(crate) async fn run_pod(
        self: &Arc<Self>,
        request: cri::RunPodSandboxRequest,
    ) -> Result<String, Status> {
        let config = given(request.config, "config")?;
        let refused = |error: Error| status(&error.context("cannot run the pod"));
        crate::spec::pod::handler(&request.runtime_handler).map_err(refused)?;
        let plan = crate::spec::pod(&config, &self.node).map_err(refused)?;
        let name = Name::of_pod(&config);
        let id = random_id().map_err(|error| status(&error))?;
        let reservation = match self.claim(&name, &id).await {
            Claim::Free(reservation) => reservation,
            Claim::Taken(id) => return self.adopted_pod(&name, &id, &config),
        };
        let record = PodRecord::new(&id, &config, &request.runtime_handler);
        let pod = Pod::new(record, config, Some(plan), &self.node);
        let core = Arc::clone(self);
        let made = Arc::clone(&pod);
        whole(async move { core.make_pod(made, reservation).await }).await?;
        // Not reached when the caller has gone.
        pod.heard.store(true, Ordering::Relaxed);
        Ok(id)
    }

    /// What an earlier request of the same name made: the caller's, if that one's answer was not heard.
    fn adopted_pod(
        &self,
        name: &Name,
        id: &str,
        config: &cri::PodSandboxConfig,
    ) -> Result<String, Status> {
        let unheard = |pod: &Arc<Pod>| {
            pod.is_ready() && *pod.config() == *config && !pod.heard.swap(true, Ordering::Relaxed)
        };
        match self.pod_if_any(id)?.filter(unheard) {
            Some(pod) => Ok(pod.id.clone()),
            None => Err(Status::already_exists(format!(
                "{name} is there already: {id}"
            ))),
        }
    }

    async fn make_pod(
        self: Arc<Self>,
        pod: Arc<Pod>,
        reservation: Reservation,
    ) -> Result<(), Status> {
        let (core, made) = (Arc::clone(&self), Arc::clone(&pod));
        let work = move || {
            core.make(&made).inspect_err(|_| {
                if let Err(error) = core.take_away(&made) {
                    tracing::error!(pod = made.id, "left behind: {}", error.chain());
                    // Somebody can still remove it.
                    core.insert_pod(&made);
                }
            })
        };
        self.heavy.run(work).await?;
        let told = self.telling().await;
        if let Some(told) = &told {
            self.agreed(told, &pod).await?;
        }
        self.insert_pod(&pod);
        reservation.done();
        drop(told);
        self.events
            .of_pod(&pod, cri::ContainerEventType::ContainerCreatedEvent);
        self.events
            .of_pod(&pod, cri::ContainerEventType::ContainerStartedEvent);
        init::watch(&self, &pod);
        self.settle(Kind::Pod, &pod.id);
        Ok(())
    }

    /// A pod that is whole is ready if plugins agree, or goes.
    async fn agreed(self: &Arc<Self>, told: &Telling, pod: &Arc<Pod>) -> Result<(), Status> {
        let agreed = told.run_pod(pod).await;
        let (core, made, agree) = (Arc::clone(self), Arc::clone(pod), agreed.is_ok());
        let rest = self.heavy.run(move || {
            let done = match agree {
                true => core.write_ready(&made).context(|| "cannot run the pod"),
                false => Ok(()),
            };
            if (done.is_err() || !agree)
                && let Err(error) = core.take_away(&made)
            {
                tracing::error!(pod = made.id, "left behind: {}", error.chain());
                core.insert_pod(&made);
            }
            done
        });
        let rest = rest.await;
        if agree && rest.is_err() {
            told.undo_pod(pod).await;
        }
        agreed.and(rest)
    }

    /// From here on it is there, also for later servers.
    fn write_ready(&self, pod: &Pod) -> Result<()> {
        let mut record = pod.state().record.clone();
        record.state = PodStage::Ready;
        self.places.write_pod(&record)?;
        pod.state().record = record;
        Ok(())
    }

    fn make(&self, pod: &Pod) -> Result<()> {
        let failed = || "cannot run the pod";
        let plan = pod.plan().context(failed)?;
        self.places.create(Kind::Pod, &pod.id).context(failed)?;
        pod.state().record.connected = plan.namespaces.network;
        let record = pod.state().record.clone();
        self.places.write_pod(&record).context(failed)?;
        self.pin(pod, plan).context(failed)?;
        let addresses = match plan.namespaces.network {
            true => self.connect(pod, plan).context(failed)?,
            false => Vec::new(),
        };
        self.files(pod, plan, &addresses).context(failed)?;
        if plan.namespaces.pid == Pid::Pod {
            init::start(self, pod, plan).context(failed)?;
        }
        pod.state().record.addresses = addresses.iter().map(IpAddr::to_string).collect();
        // Plugins are asked first.
        match self.nri.get() {
            None => self.write_ready(pod).context(failed),
            Some(_) => Ok(()),
        }
    }

    fn pin(&self, pod: &Pod, plan: &PodPlan) -> Result<()> {
        let kinds = &plan.namespaces;
        let mut namespaces = Vec::new();
        for (wanted, name) in [
            (kinds.network, "net"),
            (kinds.ipc, "ipc"),
            (kinds.uts, "uts"),
            (kinds.user.is_some(), "user"),
        ] {
            namespaces.extend(wanted.then(|| name.to_owned()));
        }
        let directory = self.places.of_boot(&pod.id);
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o711)
            .create(&directory)
            .context(|| format!("cannot make {}", directory.display()))?;
        let map: Vec<LinuxIdMapping> = kinds.user.iter().map(mapping).collect::<Result<_>>()?;
        let wanted = Pin {
            directory,
            namespaces,
            uids: map.clone(),
            gids: map,
            hostname: kinds.uts.then(|| plan.hostname.clone()),
            sysctls: plan
                .sysctls
                .iter()
                .map(|sysctl| (sysctl.path.clone(), sysctl.value.clone()))
                .collect(),
            shm: plan.shm,
        };
        match wanted.namespaces.is_empty() && wanted.shm.is_none() {
            true => Ok(()),
            false => wanted.spawn(),
        }
    }

    /// Connects it; its addresses, the pod's own first.
    fn connect(&self, pod: &Pod, plan: &PodPlan) -> Result<Vec<IpAddr>> {
        let directory = self.places.of_boot(&pod.id);
        let file = pin::open(&directory, "net")?;
        let path = directory.join("net");
        let config = pod.config();
        let meta = config.metadata.clone().unwrap_or_default();
        let mut request = Request::new(key(&pod.id)?, Namespace::new(&file, &path));
        request.pod = Some(PodOfNetwork {
            name: &meta.name,
            namespace: &meta.namespace,
            uid: &meta.uid,
        });
        request.ports = plan.ports.clone();
        request.bandwidth = plan.bandwidth;
        request.dns = config
            .dns_config
            .as_ref()
            .map(|dns| rcrun_network::outcome::Dns {
                nameservers: dns.servers.clone(),
                domain: String::new(),
                search: dns.searches.clone(),
                options: dns.options.clone(),
            });
        request.cgroup = Some(plan.cgroup.directory());
        let outcome = self.network.add(&request)?;
        let addresses: Vec<IpAddr> = outcome.addresses().collect();
        match addresses.is_empty() {
            true => Err(Error::new(
                ErrorKind::Unavailable,
                "the network gave the pod no address",
            )),
            false => Ok(addresses),
        }
    }

    /// Files that its containers see.
    fn files(&self, pod: &Pod, plan: &PodPlan, addresses: &[IpAddr]) -> Result<()> {
        let of_host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let directory = self.places.of_boot(&pod.id);
        let root = plan.namespaces.user.as_ref().and_then(|map| map.outside(0));
        let texts = [
            format!("{}\n", plan.hostname),
            plan.hosts(&of_host("/etc/hosts"), addresses),
            plan.resolv_conf(&of_host("/etc/resolv.conf")),
        ];
        for (name, text) in FILES.into_iter().zip(texts) {
            let path = directory.join(name);
            write_file(&path, &text, root)
                .context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// StopPodSandbox: its containers end, and its network is taken away; may be said again.
    pub(crate) async fn stop_pod(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Some(pod) = self.pod_if_any(id)? else {
            return Ok(());
        };
        let core = Arc::clone(self);
        whole(async move {
            let _turn = pod.turn.lock().await;
            core.stop_pod_now(&pod).await
        })
        .await
    }

    async fn stop_pod_now(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), Status> {
        let was_ready = pod.is_ready();
        // From here on it gets no more containers.
        let record = {
            let mut state = pod.state();
            state.record.state = PodStage::Stopped;
            state.record.clone()
        };
        let core = Arc::clone(self);
        if was_ready {
            let record = record.clone();
            self.light
                .run(move || core.places.write_pod(&record))
                .await?;
        }
        self.end_all(pod).await?;
        self.tell_pod_stop(pod).await?;
        let (core, stopped) = (Arc::clone(self), Arc::clone(pod));
        self.heavy.run(move || core.let_go(&stopped)).await?;
        if was_ready {
            self.events
                .of_pod(pod, cri::ContainerEventType::ContainerStoppedEvent);
            self.settle(Kind::Pod, &pod.id);
        }
        Ok(())
    }

    /// Takes its init, network and namespaces away.
    fn let_go(&self, pod: &Pod) -> Result<()> {
        let failed = || format!("cannot stop pod {}", pod.id);
        init::remove(self, &pod.id).context(failed)?;
        let connected = pod.state().record.connected;
        if connected {
            self.disconnect(&pod.id).context(failed)?;
        }
        self.unpin(&pod.id).context(failed)?;
        if connected {
            let record = {
                let mut state = pod.state();
                state.record.connected = false;
                state.record.clone()
            };
            self.places.write_pod(&record).context(failed)?;
        }
        Ok(())
    }

    /// Takes its network away, whether or not its namespace is still there.
    pub(crate) fn disconnect(&self, id: &str) -> Result<()> {
        let directory = self.places.of_boot(id);
        let (file, path) = (pin::open(&directory, "net"), directory.join("net"));
        let namespace = file.as_ref().ok().map(|file| Namespace::new(file, &path));
        self.network.remove(&key(id)?, namespace.as_ref())
    }

    /// Lets its namespaces go.
    pub(crate) fn unpin(&self, id: &str) -> Result<()> {
        let directory = self.places.of_boot(id);
        pin::unpin(&directory)?;
        for name in FILES {
            match std::fs::remove_file(directory.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context(|| format!("cannot empty {}", directory.display()));
                }
                _ => {}
            }
        }
        match std::fs::remove_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(|| format!("cannot remove {}", directory.display()))
            }
            _ => Ok(()),
        }
    }

    /// RemovePodSandbox: with all its containers; a pod that is not there is no error.
    pub(crate) async fn remove_pod(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Some(pod) = self.pod_if_any(id)? else {
            return Ok(());
        };
        let core = Arc::clone(self);
        whole(async move {
            let _turn = pod.turn.lock().await;
            if core.pod_if_any(&pod.id)?.is_none() {
                return Ok(());
            }
            core.stop_pod_now(&pod).await?;
            for container in pod.containers() {
                core.remove_container_of(&container).await?;
            }
            let told = core.telling().await;
            let seen = match &told {
                Some(told) => told.last_of_pod(&pod).await,
                None => None,
            };
            let (this, removed) = (Arc::clone(&core), Arc::clone(&pod));
            core.light.run(move || this.take_away(&removed)).await?;
            core.forget_pod(&pod);
            if let Some(told) = told {
                told.remove_pod(seen).await;
            }
            core.events
                .of_pod(&pod, cri::ContainerEventType::ContainerDeletedEvent);
            Ok(())
        })
        .await
    }

    /// All that there may be of it; the directory last.
    fn take_away(&self, pod: &Pod) -> Result<()> {
        self.let_go(pod)?;
        self.places.remove(Kind::Pod, &pod.id)
    }
}

/// What the network calls a pod.
pub(crate) fn key(id: &str) -> Result<Key> {
    Key::new(id, INTERFACE)
}

pub(crate) fn mapping(map: &IdMap) -> Result<LinuxIdMapping> {
    LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(map.host)
        .size(map.size)
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
}

fn write_file(path: &Path, text: &str, root: Option<u32>) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    // Whatever the umask says.
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    if root.is_some() {
        std::os::unix::fs::fchown(&file, root, root)?;
    }
    Ok(())
}

/// Where a pod's pinned namespaces are.
pub(crate) fn pinned(core: &Core, id: &str, plan: &PodPlan) -> crate::spec::container::Pinned {
    let directory = core.places.of_boot(id);
    let at = |there: bool, name: &str| -> Option<PathBuf> { there.then(|| directory.join(name)) };
    let kinds = &plan.namespaces;
    crate::spec::container::Pinned {
        network: at(kinds.network, "net"),
        ipc: at(kinds.ipc, "ipc"),
        uts: at(kinds.uts, "uts"),
        user: at(kinds.user.is_some(), "user"),
        pid: at(kinds.pid == Pid::Pod, "pid"),
    }
}
