//! Containers on the bridge: connected after the runtime made their namespace and before their program
//! starts, disconnected when they have ended.
//!
//! No process of ours stays for it. The bridge's records (`ROOT/.network`, below the runtime's root) say who
//! is connected; each is written before the kernel is told anything. They have a container's record
//! behind them: that is there first and goes last. So whoever is killed, what is left goes with
//! `start`, `rm` or `prune` of the container, and a port that is needed before that is taken from whoever
//! has ended ([`Bridge::collect_dead`]).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rcrun_network::bridge::{Attached, Subnet};
use rcrun_network::{Bridge, Key, Namespace, Port, Ports, Protocol, Request};
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rcrun_runtime::monitor::Client;
use rustix::fs::{CWD, Mode, OFlags};

use super::record::NetworkUse;
use super::spec::{self, Asked, Facts, Networks, Place, Publish, choose_ports};
use super::{Container, Record};
use crate::rootless;
use crate::settings::{DefaultNetwork, Settings};

/// What containers call their device.
const INTERFACE: &str = "eth0";
/// The file that has the container's name and address.
const HOSTS: &str = "hosts";
/// The server of systemd-resolved, and the file of those that it asks.
const STUB: &str = "127.0.0.53";
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// How often ports are chosen anew that others took first.
const ATTEMPTS: usize = 8;

/// What is true of the machine's networks, as the settings have it.
pub(super) fn networks(settings: &Settings) -> Result<Networks> {
    let file = settings.file()?.network;
    let bridge = rootless::facts()?.is_none();
    let default = match file.default {
        Some(DefaultNetwork::Host) => Place::Host,
        Some(DefaultNetwork::None) => Place::Nothing,
        Some(DefaultNetwork::Bridge) | None if bridge => Place::Bridge,
        Some(DefaultNetwork::Bridge) | None => Place::Nothing,
    };
    let subnets = file.bridge.subnets();
    Ok(Networks {
        default,
        bridge,
        gateways: subnets.map(Subnet::gateway).collect(),
    })
}

/// What a container on the bridge asks of it.
pub(super) fn wanted(asked: &Asked, facts: &Facts) -> Option<NetworkUse> {
    if !asked.is_bridged() {
        return None;
    }
    let name = spec::hostname(asked, facts);
    let names = match name.split_once('.') {
        Some((first, _)) => format!("{name} {first}"),
        None => name,
    };
    Some(NetworkUse {
        ports: asked.published().to_vec(),
        addresses: asked.addresses().to_vec(),
        mac: asked.mac().map(str::to_owned),
        names,
        hosts: spec::file_texts(asked, facts, "", "").hosts,
    })
}

/// The host's resolv.conf(5). One that only names the server which systemd-resolved has on loopback is of no
/// use elsewhere; that writes down whom it asks itself.
pub(super) fn resolver(of_host: impl Fn(&str) -> String) -> String {
    let text = of_host("/etc/resolv.conf");
    let servers: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .map(str::trim)
        .collect();
    match servers.is_empty() || servers.iter().any(|server| *server != STUB) {
        true => text,
        false => match of_host(RESOLVED) {
            real if real.is_empty() => text,
            real => real,
        },
    }
}

/// Undoes what a start that failed has made; the error of that matters more.
pub(crate) fn give_up(container: &Container, record: &Record) {
    if let Err(error) = container.forget(record) {
        tracing::warn!("{}", error.chain());
    }
}

/// Connects a container that was made and waits for its start, whose lock is held.
pub(crate) fn connect(settings: &Settings, container: &Container, record: &Record) -> Result<()> {
    let Some(wanted) = &record.network else {
        return Ok(());
    };
    let file = settings.file()?.network;
    let root = &record.runtime.root;
    let bridge = Bridge::new(file.bridge, &directory(root))?.sharing(Ports::of(root));
    let key = key(container.id())?;
    let (namespace, path) = namespace(container, record)?;
    let mut request = Request::new(key, Namespace::new(&namespace, &path));
    request.addresses.clone_from(&wanted.addresses);
    request.mac.clone_from(&wanted.mac);
    let outcome = add(&bridge, &mut request, &wanted.ports)?;
    hosts(container, wanted, outcome.addresses())
}

/// Tries other ports as long as there are some to choose from; who has ended, but was not told of, makes place.
fn add(
    bridge: &Bridge,
    request: &mut Request<'_>,
    published: &[Publish],
) -> Result<rcrun_network::Outcome> {
    let mut collected = false;
    let mut attempts = 0;
    loop {
        let chosen = choose_ports(published, &mut |port| bridge.is_free(port), &mut any_port);
        let done = chosen.and_then(|ports| {
            request.ports = ports;
            bridge.add(request)
        });
        match done {
            Err(error) if error.kind() == ErrorKind::Exists && !collected => {
                collected = true;
                if bridge.collect_dead()? == 0 && published.iter().all(Publish::is_fixed) {
                    return Err(error);
                }
            }
            Err(error) if error.kind() == ErrorKind::Exists && attempts < ATTEMPTS => {
                attempts += 1;
                if published.iter().all(Publish::is_fixed) {
                    return Err(error);
                }
            }
            other => return other,
        }
    }
}

/// A port that no program listens at: the kernel's choice.
fn any_port(publish: &Publish) -> Result<u16> {
    let address = publish.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let at = SocketAddr::new(address, 0);
    let bound = match publish.protocol {
        Protocol::Udp => UdpSocket::bind(at).and_then(|socket| socket.local_addr()),
        Protocol::Tcp | Protocol::Sctp => {
            TcpListener::bind(at).and_then(|socket| socket.local_addr())
        }
    };
    let bound = bound.context(|| format!("cannot find a free port of {address}"))?;
    Ok(bound.port())
}

/// The namespace of the container's init, which was alive after it was opened.
fn namespace(container: &Container, record: &Record) -> Result<(OwnedFd, PathBuf)> {
    let gone = || Error::new(ErrorKind::FailedPrecondition, "it ended before its start");
    let init = container.init(record)?.ok_or_else(gone)?;
    let path = PathBuf::from(format!("/proc/{}/ns/net", init.pid));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let open = |path: &Path| {
        rustix::fs::openat(CWD, path, flags, Mode::empty())
            .context(|| format!("cannot open {}", path.display()))
    };
    let namespace = open(&path)?;
    let own = open(Path::new("/proc/thread-self/ns/net"))?;
    let stat = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd).context(|| "cannot stat a network namespace");
        stat.map(|stat| (stat.st_dev, stat.st_ino))
    };
    if init.ended(Some(std::time::Instant::now()))? {
        return Err(gone());
    }
    match stat(&namespace)? == stat(&own)? {
        true => Err(Error::new(
            ErrorKind::Internal,
            "the container has no network namespace of its own",
        )),
        false => Ok((namespace, path)),
    }
}

/// Its own line of /etc/hosts. The file is bound into the container already, so it is written in place.
fn hosts(
    container: &Container,
    wanted: &NetworkUse,
    addresses: impl Iterator<Item = IpAddr>,
) -> Result<()> {
    let mut text = wanted.hosts.clone();
    for address in addresses {
        text += &format!("{address}\t{}\n", wanted.names);
    }
    let write = || -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(container.fd(), HOSTS, flags, Mode::empty())?;
        rustix::fs::ftruncate(&file, 0)?;
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::write(file.as_fd(), rest))?;
            rest = &rest[count..];
        }
        Ok(())
    };
    write().context(|| format!("cannot write {}/{HOSTS}", container.path().display()))
}

/// Starts one that was made to be started later, after connecting it.
pub(crate) fn start(settings: &Settings, container: &Container, record: &Record) -> Result<()> {
    connect(settings, container, record)?;
    Client::connect(&record.runtime.root, container.id())?.start()
}

/// Takes away what a container has on the bridge, if it has anything. Its processes are gone, or go.
pub(super) fn disconnect(root: &Path, id: &str) -> Result<()> {
    let Some(bridge) = Bridge::existing(&directory(root))? else {
        return Ok(());
    };
    let key = key(id)?;
    match bridge.knows(&key)? {
        true => bridge.remove(&key),
        false => Ok(()),
    }
}

/// Takes away what is left of containers that nobody knows any more.
pub(crate) fn collect(root: &Path) -> Result<usize> {
    match Bridge::existing(&directory(root))? {
        Some(bridge) => bridge.collect_dead(),
        None => Ok(0),
    }
}

/// What a container has on the bridge at this moment.
pub(crate) fn attached(record: &Record) -> Result<Option<Attached>> {
    if record.network.is_none() {
        return Ok(None);
    }
    match Bridge::existing(&directory(&record.runtime.root))? {
        Some(bridge) => bridge.attached(&key(&record.id)?),
        None => Ok(None),
    }
}

/// Where a port of the host is: all addresses have a word of their own.
pub(crate) fn at(port: &Port) -> String {
    let address = port.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    SocketAddr::new(address, port.host).to_string()
}

fn key(id: &str) -> Result<Key> {
    Key::new(id, INTERFACE)
}

fn directory(root: &Path) -> PathBuf {
    Ports::of_containers(root)
}
