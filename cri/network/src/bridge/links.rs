//! A pod's two devices: one end a port of the bridge, the other in the pod, with addresses and routes.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::host::{self, Made};
use super::settings::{Settings, Subnet, hardware, parse_hardware};
use super::traffic;
use crate::netlink::message::Batch;
use crate::netlink::route::{self, Pair};
use crate::netlink::{Refused, Socket, inside};
use crate::outcome::{Address, Interface, Outcome, Prefixed, Route};
use crate::request::Request;
use crate::{Context, Error, ErrorKind, Result};

/// The number of the loopback device in every namespace.
const LOOPBACK: u32 = 1;

/// The name of a slot's device on the host.
pub(super) fn host_name(settings: &Settings, slot: u32) -> String {
    format!("{}v{slot}", settings.name)
}

/// Whether a device is named as one of ours, and for which slot.
pub(super) fn slot_of(settings: &Settings, name: &str) -> Option<u32> {
    let slot = name.strip_prefix(&*settings.name)?.strip_prefix('v')?;
    slot.parse().ok()
}

/// What a slot gets, decided before anything is made.
pub(super) fn plan(settings: &Settings, made: &Made, slot: u32, request: &Request<'_>) -> Outcome {
    let addresses = settings.addresses(slot);
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let given = request.mac.as_deref().and_then(parse_hardware);
    let mac = addresses.first().map(|a| hardware(a.address));
    let mac = given.or(mac).map(text);
    let device = |name: &str, sandbox: &str, mac: Option<String>| Interface {
        name: name.to_owned(),
        mac: mac.unwrap_or_default(),
        mtu: Some(made.mtu),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    };
    let sandbox = request.namespace.path().to_string_lossy();
    let bridge = text(hardware(settings.v4.gateway()));
    let gateways: Vec<IpAddr> = settings.subnets().map(Subnet::gateway).collect();
    let ips = addresses.iter().zip(&gateways);
    let everything = |gateway: &IpAddr| Prefixed {
        address: if gateway.is_ipv4() {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        },
        prefix: 0,
    };
    Outcome {
        interfaces: vec![
            device(&settings.name, "", Some(bridge)),
            device(&host_name(settings, slot), "", None),
            device(request.key.interface(), &sandbox, mac),
        ],
        ips: ips
            .map(|(address, gateway)| Address {
                address: *address,
                gateway: Some(*gateway),
                interface: Some(2),
            })
            .collect(),
        routes: gateways
            .iter()
            .map(|gateway| Route {
                dst: everything(gateway),
                gw: Some(*gateway),
                mtu: None,
                priority: None,
                table: None,
            })
            .collect(),
        ..Outcome::default()
    }
}

/// Makes what was planned.
pub(super) fn connect(
    socket: &mut Socket,
    settings: &Settings,
    made: &Made,
    slot: u32,
    request: &Request<'_>,
    outcome: &Outcome,
) -> Result<()> {
    let host = host_name(settings, slot);
    let inner = request.key.interface();
    let first = outcome.ips.first().map(|ip| ip.address.address);
    let pair = Pair {
        host: &host,
        bridge: made.index,
        inner,
        mac: (request.mac.as_deref().and_then(parse_hardware))
            .unwrap_or_else(|| hardware(first.unwrap_or_else(|| settings.v4.gateway()))),
        namespace: request.namespace.file().as_raw_fd(),
        mtu: made.mtu,
    };
    let alias = format!("{} {inner}", request.key.id());
    let build = |batch: &mut Batch| {
        route::create_pair(batch, &pair);
        route::ready_port(batch, &host, &alias);
        batch.acknowledged();
    };
    let mut carried = carry(socket, build)?;
    if matches!(
        carried,
        Err(Refused {
            message: 0,
            errno: Errno::EXIST
        })
    ) {
        // Nobody has this slot: what has its name was left by somebody who was killed.
        host::delete(socket, &host)?;
        carried = carry(socket, build)?;
    }
    match carried {
        Ok(()) => {}
        Err(Refused {
            message: 0,
            errno: Errno::EXIST,
        }) => {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("cannot make {inner}: the container's network namespace has one"),
            ));
        }
        Err(refused) => {
            let what = ["make the devices", "make its device a port"];
            let what = what.get(refused.message).copied().unwrap_or_default();
            return Err(refused.errno).context(|| format!("cannot {what} {host} and {inner}"));
        }
    }
    let limits = &request.bandwidth;
    // What goes to the container leaves the host by the host's end, and the other way round.
    traffic::limit(socket, &host, limits.ingress, made.mtu)?;
    inside(request.namespace.file(), || {
        configure(inner, outcome)?;
        match limits.egress {
            None => Ok(()),
            egress => traffic::limit(&mut Socket::routing()?, inner, egress, made.mtu),
        }
    })
    .context(|| format!("cannot configure {inner}"))
}

fn carry(socket: &mut Socket, build: impl FnOnce(&mut Batch)) -> Result<Result<(), Refused>> {
    let mut batch = socket.batch();
    build(&mut batch);
    socket.carry_out(batch)
}

/// In the pod's namespace.
fn configure(name: &str, outcome: &Outcome) -> Result<()> {
    let mut socket = Socket::routing()?;
    let missing = || Error::new(ErrorKind::Internal, format!("device {name} is missing"));
    let link = host::link(&mut socket, name)?.ok_or_else(missing)?;
    // Other pods are no routers.
    host::set(&format!("ipv6/conf/{name}/accept_ra"), "0", false)?;
    let v6 = outcome.ips.iter().any(|ip| ip.address.address.is_ipv6());
    if v6 {
        host::set(&format!("ipv6/conf/{name}/disable_ipv6"), "0", true)?;
    }
    let mut batch = socket.batch();
    route::set_up(&mut batch, LOOPBACK);
    for ip in &outcome.ips {
        route::add_address(
            &mut batch,
            link.index,
            ip.address.address,
            ip.address.prefix,
        );
    }
    route::set_up(&mut batch, link.index);
    for gateway in outcome.routes.iter().filter_map(|route| route.gw) {
        route::add_default_route(&mut batch, link.index, gateway);
    }
    batch.acknowledged();
    socket.carry_out(batch)?.map_err(|refused| {
        let addresses = outcome.ips.len();
        let what = match refused.message {
            0 => "set lo up".to_owned(),
            n if n <= addresses => format!("add address {}", outcome.ips[n - 1].address),
            n if n == addresses + 1 => "set it up".to_owned(),
            _ => "add the default route".to_owned(),
        };
        Error::from(refused.errno).context(what)
    })
}

/// Sets the loopback device of a namespace up.
pub(crate) fn loopback(namespace: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    let mut socket = inside(namespace, Socket::routing)?;
    let mut batch = socket.batch();
    route::set_up(&mut batch, LOOPBACK);
    batch.acknowledged();
    socket.change(batch).context(|| "cannot set lo up")
}

/// Whether both devices are there, with what was given to them.
pub(super) fn check(
    socket: &mut Socket,
    settings: &Settings,
    made: &Made,
    slot: u32,
    request: &Request<'_>,
    outcome: &Outcome,
) -> Result<()> {
    let wrong = |why: String| Err(Error::new(ErrorKind::FailedPrecondition, why));
    let host = host_name(settings, slot);
    match host::link(socket, &host)? {
        Some(link) if link.master == Some(made.index) && link.up => {}
        Some(_) => return wrong(format!("{host} is down or no port of {}", settings.name)),
        None => return wrong(format!("device {host} is gone")),
    }
    let name = request.key.interface();
    let mut socket = inside(request.namespace.file(), Socket::routing)?;
    let index = match host::link(&mut socket, name)? {
        Some(link) if link.up => link.index,
        Some(_) => return wrong(format!("{name} is down")),
        None => return wrong(format!("device {name} is gone")),
    };
    let mut found = Vec::new();
    let mut batch = socket.batch();
    route::get_addresses(&mut batch);
    socket.ask(batch, |_, body| found.extend(route::parse_address(body)))?;
    let present = |ip: &&Address| !found.contains(&(index, ip.address.address));
    match outcome.ips.iter().find(present) {
        Some(ip) => wrong(format!("{name} has lost address {}", ip.address)),
        None => Ok(()),
    }
}
