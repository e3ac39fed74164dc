//! The network that needs nothing else: a bridge, veth pairs, addresses, masquerade and ports, all made
//! by this process, kept by no other.
//!
//! One record for each attachment (`leases`) is written before the kernel is told anything and removed
//! after everything is undone; one lock is held meanwhile. So a SIGKILL at any instant leaves something
//! that [`Bridge::add`] of the same name makes anew, that [`Bridge::remove`] undoes, and that
//! [`Bridge::collect`] finds. The bridge itself stays when the last attachment goes ([`Bridge::retire`]
//! removes it); the table of nf_tables goes.
//!
//! Not owned: host firewalls. Where they drop what is forwarded, they have to be told of the bridge.
//! Somebody whose end nobody told of (a container whose monitor was killed) is found by its device: that
//! goes with the namespace, so an attachment without one is dead ([`Bridge::collect_dead`]).

mod going;
mod host;
mod leases;
pub(crate) mod links;
mod look;
mod rules;
mod settings;
#[cfg(test)]
pub(crate) mod tests;
mod traffic;
#[cfg(test)]
mod wishes;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::netlink::nft::{self, Transaction};
use crate::netlink::{Refused, Socket, conntrack, route};
use crate::ports::{But, Holder, Ports, Turn};
use crate::request::{Key, Port, Protocol, Request};
use crate::{Context, Error, ErrorKind, Outcome, Readiness, Result};
use host::Made;
use leases::{Lease, Place, Record, State};
pub use look::Attached;
pub(crate) use look::holder_of;
use rules::Mapped;
pub use settings::{Settings, Subnet};

/// The embedded network.
#[derive(Debug)]
pub struct Bridge {
    settings: Settings,
    directory: PathBuf,
    /// Who else has ports of the host.
    ports: Option<Ports>,
    /// Threads of one process take turns without asking the kernel over and over.
    turn: Mutex<()>,
}

/// What an operation works with, alone.
struct Desk<'a> {
    settings: &'a Settings,
    place: Place,
    /// Who has its ports.
    holder: Holder,
    routing: Socket,
    netfilter: Socket,
    /// Given back after the place.
    _turn: MutexGuard<'a, ()>,
}

impl Bridge {
    /// `directory`: where its records are, below /run, since they describe the running kernel. All who
    /// use one bridge use one directory.
    pub fn new(settings: Settings, directory: &Path) -> Result<Self> {
        settings.check()?;
        let directory = directory.to_owned();
        Ok(Self {
            settings,
            directory,
            ports: None,
            turn: Mutex::new(()),
        })
    }

    /// Ports of the host are had once by all whom this knows. The directory is one of those it names.
    #[must_use]
    pub fn sharing(mut self, ports: Ports) -> Self {
        self.ports = Some(ports);
        self
    }

    fn enter(&self) -> Result<Desk<'_>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Desk {
            _turn,
            settings: &self.settings,
            place: Place::enter(&self.directory)?,
            holder: match &self.ports {
                Some(ports) => ports.whose(&self.directory),
                None => Holder::Container,
            },
            routing: Socket::routing()?,
            netfilter: Socket::netfilter()?,
        })
    }

    /// Connects a namespace. What an earlier call left half done is undone first.
    pub fn add(&self, request: &Request<'_>) -> Result<Outcome> {
        possible(&self.settings, request)?;
        let failed = || format!("cannot connect {} to {}", request.key, self.settings.name);
        let done = match (self.attempt(request), &self.ports) {
            // Somebody may have ended on another bridge without anybody having said so.
            (Err(error), Some(ports))
                if error.kind() == ErrorKind::Exists
                    && !request.ports.is_empty()
                    && ports.collect_dead(Some(&self.directory))? > 0 =>
            {
                self.attempt(request)
            }
            (done, _) => done,
        };
        done.context(failed)
    }

    fn attempt(&self, request: &Request<'_>) -> Result<Outcome> {
        let turn = match &self.ports {
            Some(ports) if !request.ports.is_empty() => {
                let turn = ports.enter()?;
                ports.refuse_taken(&request.ports, But::Bridge(&self.directory), true)?;
                Some(turn)
            }
            _ => None,
        };
        self.enter()?.add(request, turn)
    }

    /// Whether everything still is as [`Bridge::add`] left it.
    pub fn check(&self, request: &Request<'_>) -> Result<()> {
        let mut desk = self.enter()?;
        desk.check(request)
            .context(|| format!("cannot confirm the network of {}", request.key))
    }

    /// Removes everything that belongs to none of `valid`.
    pub fn collect(&self, valid: &[Key]) -> Result<()> {
        self.remove_all(|lease| !valid.contains(&lease.key))
            .and_then(|()| self.enter()?.sweep())
            .context(|| format!("cannot clean up the network of {}", self.settings.name))
    }

    fn remove_all(&self, which: impl Fn(&Lease) -> bool) -> Result<()> {
        let mut desk = self.enter()?;
        let mut first = Ok(());
        let leases = desk.place.leases()?;
        for lease in leases.iter().filter(|lease| which(lease)) {
            let undone = desk.undo(lease);
            first = first.and(undone);
        }
        first
    }

    /// Removes the bridge, if nobody is connected to it.
    pub fn retire(&self) -> Result<()> {
        let mut desk = self.enter()?;
        if !desk.place.leases()?.is_empty() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "cannot remove {}: containers are connected",
                    self.settings.name
                ),
            ));
        }
        desk.drop_table()?;
        if desk.place.host::<Made>().is_some() {
            host::delete(&mut desk.routing, &self.settings.name)?;
        }
        desk.place.forget_host()
    }

    /// Whether this kernel can do it.
    pub fn readiness(&self) -> Readiness {
        let probe = || -> Result<()> {
            let mut netfilter = Socket::netfilter()?;
            table_number(&mut netfilter, &self.settings.table).map(|_| ())
        };
        match probe() {
            Ok(()) => Readiness::ready(),
            Err(error) => Readiness::missing(&error),
        }
    }
}

/// Refuses what this network cannot do, before anything is done.
fn possible(settings: &Settings, request: &Request<'_>) -> Result<()> {
    request.check_ports()?;
    let refuse = |what: &str| {
        let why = format!("cannot connect {}: {what}", request.key);
        let hint = "configure CNI plugins that do, or leave it out";
        Err(Error::unsupported(why).with_hint(hint))
    };
    if let Err(why) = traffic::check(&request.bandwidth) {
        return refuse(&why);
    }
    if let Err(why) = settings.slot_of(&request.addresses) {
        return refuse(&why);
    }
    if let Some(mac) = &request.mac
        && settings::parse_hardware(mac).is_none()
    {
        return refuse(&format!("{mac:?} is no hardware address of one device"));
    }
    if request.infiniband.is_some() {
        return refuse("the embedded network has no InfiniBand");
    }
    let v6 = |port: &&Port| port.address.is_some_and(|a| a.is_ipv6());
    match request.ports.iter().find(v6) {
        Some(port) if settings.v6.is_none() => refuse(&format!(
            "port {port} is of IPv6, which the embedded network does not have here"
        )),
        _ => Ok(()),
    }
}

/// The number of our table; none if there is none.
fn table_number(netfilter: &mut Socket, table: &str) -> Result<Option<u64>> {
    let mut found = None;
    let mut batch = netfilter.batch();
    nft::get_table(&mut batch, table);
    match netfilter.ask(batch, |_, body| found = nft::parse_table(body)) {
        Ok(()) => Ok(found),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error
            .context("cannot use nf_tables")
            .with_hint("the kernel needs CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET")),
    }
}

impl Desk<'_> {
    /// `turn`: nobody else takes ports until it is known that these are taken.
    fn add(&mut self, request: &Request<'_>, turn: Option<Turn>) -> Result<Outcome> {
        let mut leases = self.place.leases()?;
        if let Some(at) = leases.iter().position(|lease| lease.key == request.key) {
            let lease = leases.remove(at);
            if lease.state == State::Ready {
                return Err(Error::new(
                    ErrorKind::Exists,
                    format!("it is connected already (slot {})", lease.slot),
                ));
            }
            self.undo(&lease)?;
        }
        self.ports_free(&request.ports)?;
        let made = self.prepare(&leases)?;
        let used: BTreeSet<u32> = leases.iter().map(|lease| lease.slot).collect();
        let slot = self.slot(&used, &request.addresses)?;
        let outcome = links::plan(self.settings, &made, slot, request);
        let lease = Lease {
            slot,
            state: State::Begun,
            ports: !request.ports.is_empty(),
            key: request.key.clone(),
        };
        let record = Record::new(request.ports.clone(), outcome);
        self.place.begin(&lease, &record)?;
        // The record says it from now on.
        drop(turn);
        let done = self.carry_out(&made, &lease, request, &record);
        if let Err(error) = done {
            // The first error is the one to tell; what this leaves is undone by `remove`.
            let _ = self.undo(&lease);
            return Err(error);
        }
        Ok(record.outcome)
    }

    /// The slot of an address that is asked for, or any.
    fn slot(&self, used: &BTreeSet<u32>, addresses: &[IpAddr]) -> Result<u32> {
        match self.settings.slot_of(addresses).map_err(Error::invalid)? {
            Some(slot) if used.contains(&slot) => {
                let address = self.settings.addresses(slot)[0].address;
                let why = format!("address {address} is taken by another container");
                Err(Error::new(ErrorKind::Exists, why))
            }
            Some(slot) => Ok(slot),
            None => {
                let highest = self.settings.last_slot();
                leases::choose(used, self.place.last(), highest).ok_or_else(|| {
                    let why = format!("all {} addresses are taken", highest - 1);
                    Error::new(ErrorKind::Exhausted, why).with_hint("choose a larger network")
                })
            }
        }
    }

    fn carry_out(
        &mut self,
        made: &Made,
        lease: &Lease,
        request: &Request<'_>,
        record: &Record,
    ) -> Result<()> {
        let (settings, slot) = (self.settings, lease.slot);
        let outcome = &record.outcome;
        links::connect(&mut self.routing, settings, made, slot, request, outcome)?;
        if lease.ports {
            let mut changes = Transaction::new(self.netfilter.batch(), &settings.table);
            rules::add(&mut changes, &mapped(lease, record));
            if self.transact(changes)?.is_err() {
                self.rewrite(made.clone(), None)?;
            }
            self.forget_datagrams(&record.ports)?;
        }
        self.place.mark(lease, State::Ready).map(|_| ())
    }

    /// Clients that go on sending to a port find who has it now.
    fn forget_datagrams(&mut self, ports: &[Port]) -> Result<()> {
        for port in ports.iter().filter(|port| port.protocol == Protocol::Udp) {
            for family in [2, 10] {
                let mut batch = self.netfilter.batch();
                conntrack::forget_port(&mut batch, family, port.protocol.number(), port.host);
                batch.acknowledged();
                // A kernel that cannot: such clients wait until the kernel forgets by itself.
                let _ = self.netfilter.carry_out(batch)?;
            }
        }
        Ok(())
    }

    /// Makes bridge and table, or finds them as they were left.
    fn prepare(&mut self, leases: &[Lease]) -> Result<Made> {
        let known: Option<Made> = self.place.host();
        let in_use = !leases.is_empty();
        let table = known.as_ref().map_or(0, |made| made.table);
        let owner = self.place.owner();
        let (made, changed) = host::bridge(
            &mut self.routing,
            self.settings,
            &owner,
            known.as_ref(),
            in_use,
        )?;
        let present = table_number(&mut self.netfilter, &self.settings.table)?;
        match !changed && table != 0 && present == Some(table) {
            true => Ok(made),
            false => self.rewrite(made, None),
        }
    }

    /// Writes the whole table, from the records, but for one that goes.
    fn rewrite(&mut self, mut made: Made, but: Option<&Lease>) -> Result<Made> {
        let mut known = Vec::new();
        let counts = |lease: &Lease| lease.has_ports() && Some(lease) != but;
        for lease in self.place.leases()?.into_iter().filter(counts) {
            // A record that is damaged costs its ports, not those of others.
            if let Ok(record) = self.place.read(&lease) {
                known.push((lease, record));
            }
        }
        let all: Vec<_> = known.iter().map(|(l, r)| mapped(l, r)).collect();
        let mut changes = Transaction::new(self.netfilter.batch(), &self.settings.table);
        rules::whole(&mut changes, self.settings, &all);
        self.transact(changes)?
            .map_err(|refused| Error::from(refused.errno))
            .context(|| format!("cannot write table {} of nf_tables", self.settings.table))?;
        let table = table_number(&mut self.netfilter, &self.settings.table)?;
        made.table = table.unwrap_or_default();
        self.place.set_host(&made)?;
        Ok(made)
    }

    fn transact(&mut self, changes: Transaction<'_>) -> Result<Result<(), Refused>> {
        match changes.is_empty() {
            true => Ok(Ok(())),
            false => self.netfilter.carry_out(changes.finish()),
        }
    }

    /// Removes the table; none is as good.
    fn drop_table(&mut self) -> Result<()> {
        let mut changes = Transaction::new(self.netfilter.batch(), &self.settings.table);
        changes.delete_table();
        match self.transact(changes)? {
            Ok(())
            | Err(Refused {
                errno: Errno::NOENT,
                ..
            }) => Ok(()),
            Err(refused) => Err(refused.errno)
                .context(|| format!("cannot remove table {} of nf_tables", self.settings.table)),
        }
    }

    /// Removes what no record speaks of.
    fn sweep(&mut self) -> Result<()> {
        self.place.sweep()?;
        let Some(made) = self.place.host::<Made>() else {
            return Ok(());
        };
        let leases = self.place.leases()?;
        let mut strays = Vec::new();
        let mut batch = self.routing.batch();
        route::get_ports(&mut batch, made.index);
        self.routing.ask(batch, |_, body| {
            strays.extend(route::Link::parse(body).filter(|link| {
                let slot = links::slot_of(self.settings, &link.name);
                let known = |slot| leases.iter().any(|lease| lease.slot == slot);
                link.master == Some(made.index) && slot.is_some_and(|slot| !known(slot))
            }));
        })?;
        for stray in strays {
            host::delete(&mut self.routing, &stray.name)?;
        }
        match leases.is_empty() {
            true => self.drop_table(),
            false => self.rewrite(made, None).map(|_| ()),
        }
    }

    /// Refuses ports that another attachment or a program of the host has.
    fn ports_free(&self, ports: &[Port]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        if let Some((port, key)) = self.place.holder(ports)? {
            return Err(self.holder.refuse(&port, &key));
        }
        match ports.iter().find(|port| listens(port)) {
            Some(port) => {
                let why =
                    format!("port {port} of the host is taken by a program that listens there");
                Err(Error::new(ErrorKind::Exists, why).with_hint("`ss -lntup` shows which one"))
            }
            None => Ok(()),
        }
    }

    fn check(&mut self, request: &Request<'_>) -> Result<()> {
        let wrong = |why: &str| Err(Error::new(ErrorKind::FailedPrecondition, why));
        let leases = self.place.leases()?;
        let Some(lease) = leases.iter().find(|lease| lease.key == request.key) else {
            return Err(Error::new(ErrorKind::NotFound, "it is not connected"));
        };
        if lease.state != State::Ready {
            return wrong("it was connected by half only");
        }
        let record = self.place.read(lease)?;
        let Some(made) = self.place.host::<Made>() else {
            return wrong("nothing is known of the bridge");
        };
        if table_number(&mut self.netfilter, &self.settings.table)? != Some(made.table) {
            return wrong("its table of nf_tables is gone");
        }
        let (settings, outcome) = (self.settings, &record.outcome);
        links::check(
            &mut self.routing,
            settings,
            &made,
            lease.slot,
            request,
            outcome,
        )
    }
}

fn mapped<'a>(lease: &'a Lease, record: &'a Record) -> Mapped<'a> {
    Mapped {
        id: lease.key.id(),
        ports: &record.ports,
        outcome: &record.outcome,
    }
}

/// Whether a program listens at a port of the host: then it cannot be bound. Of SCTP that is not asked.
pub(crate) fn listens(port: &Port) -> bool {
    let address = port
        .address
        .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
    let at = std::net::SocketAddr::new(address, port.host);
    let bound = match port.protocol {
        Protocol::Tcp => std::net::TcpListener::bind(at).map(|_| ()),
        Protocol::Udp => std::net::UdpSocket::bind(at).map(|_| ()),
        Protocol::Sctp => Ok(()),
    };
    bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}
