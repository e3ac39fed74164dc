//! What is set on the host: the bridge, and sysctls of networks.
//!
//! Forwarding is switched on only if it is off, of IPv6 only if the network has that; it stays on, since
//! others may count on it by then. A host that takes its IPv6 routes from routers would stop doing so as
//! soon as it forwards: where `accept_ra` is 1 it becomes 2 (ip-sysctl.rst of the kernel). The bridge itself
//! takes no routes from anybody: pods are no routers (CVE-2020-10749).

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::settings::{Settings, hardware};
use crate::netlink::message::Batch;
use crate::netlink::route::{self, Link, Way};
use crate::netlink::{Refused, Socket};
use crate::{Context, Error, ErrorKind, Result};

/// Where everybody's way out leads: addresses that belong to nobody (RFC 5737, RFC 3849).
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
];
const DEFAULT_MTU: u32 = 1500;

/// What was made, and for which settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) settings: Settings,
    pub(super) index: u32,
    pub(super) mtu: u32,
    /// The number of the table; 0: there is none.
    pub(super) table: u64,
}

/// Asks for one device; none if there is none.
pub(super) fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    one_link(socket, |batch| route::get_link(batch, name))
        .context(|| format!("cannot look for device {name}"))
}

fn one_link(socket: &mut Socket, ask: impl FnOnce(&mut Batch)) -> Result<Option<Link>> {
    let mut found = None;
    let mut batch = socket.batch();
    ask(&mut batch);
    match socket.ask(batch, |_, body| found = Link::parse(body)) {
        Ok(()) => Ok(found),
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the bridge, or makes it whole. `made`: what is known of it; `owner`: whose it is, which it says
/// itself, so that nobody writes rules for the containers of others.
pub(super) fn bridge(
    socket: &mut Socket,
    settings: &Settings,
    owner: &str,
    made: Option<&Made>,
    in_use: bool,
) -> Result<(Made, bool)> {
    let name = &settings.name;
    let present = link(socket, name)?;
    if let (Some(link), Some(made)) = (&present, made)
        && (link.index, link.up) == (made.index, true)
        && made.settings == *settings
    {
        return Ok((made.clone(), false));
    }
    if let Some(made) = made
        && in_use
        && made.settings != *settings
    {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!("cannot change the network of {name} while containers are connected to it"),
        )
        .with_hint("remove them first, or use the former settings"));
    }
    let stranger = |why: String| Error::new(ErrorKind::Exists, why);
    let fresh = match &present {
        Some(link) if link.kind != "bridge" => {
            return Err(stranger(format!(
                "cannot make bridge {name}: a device has that name"
            )));
        }
        Some(link) if !link.alias.is_empty() && link.alias != owner => {
            let why = format!("cannot use bridge {name}: it is that of {}", link.alias);
            return Err(stranger(why).with_hint(
                "choose another name, table and network for the bridge in the settings",
            ));
        }
        // A bridge of other settings has the wrong addresses.
        Some(_) if made.is_some_and(|made| made.settings != *settings) => {
            delete(socket, name)?;
            None
        }
        Some(link) => Some(link.clone()),
        None => None,
    };
    if fresh.is_none() {
        apart(socket, settings)?;
    }
    let mtu = match settings.mtu {
        Some(mtu) => mtu,
        None => uplink_mtu(socket)?,
    };
    let made = make(socket, settings, owner, fresh, mtu)
        .context(|| format!("cannot make bridge {name}"))?;
    sysctls(settings)?;
    Ok((made, true))
}

fn make(
    socket: &mut Socket,
    settings: &Settings,
    owner: &str,
    old: Option<Link>,
    mtu: u32,
) -> Result<Made> {
    let name = &settings.name;
    let created = old.is_none();
    let link = match old {
        Some(link) => link,
        None => {
            let mut batch = socket.batch();
            route::create_bridge(&mut batch, name, hardware(settings.v4.gateway()), mtu);
            batch.acknowledged();
            socket.change(batch)?;
            let missing = || Error::new(ErrorKind::Busy, "somebody removed it at once");
            link(socket, name)?.ok_or_else(missing)?
        }
    };
    // Before it is up: from then on it would ask routers.
    set(&format!("ipv6/conf/{name}/accept_ra"), "0", false)?;
    if settings.v6.is_some() {
        set(&format!("ipv6/conf/{name}/disable_ipv6"), "0", true)?;
    }
    for address in settings.addresses(1) {
        let mut batch = socket.batch();
        route::add_address(&mut batch, link.index, address.address, address.prefix);
        batch.acknowledged();
        match socket.carry_out(batch)? {
            Ok(()) => {}
            Err(Refused { errno, .. }) if errno == Errno::EXIST && !created => {}
            Err(refused) => {
                return Err(refused.errno).context(|| format!("add address {address}"));
            }
        }
    }
    let mut batch = socket.batch();
    route::set_alias(&mut batch, link.index, owner);
    route::set_up(&mut batch, link.index);
    batch.acknowledged();
    socket.change(batch).context(|| "set it up")?;
    Ok(Made {
        settings: settings.clone(),
        index: link.index,
        mtu,
        table: 0,
    })
}

/// Removes a device; none is as good.
pub(super) fn delete(socket: &mut Socket, name: &str) -> Result<()> {
    let mut batch = socket.batch();
    route::delete_link(&mut batch, name);
    carry_out_removal(socket, batch, name)
}

/// The same by its number.
pub(super) fn delete_at(socket: &mut Socket, index: u32) -> Result<()> {
    let mut batch = socket.batch();
    route::delete_link_at(&mut batch, index);
    carry_out_removal(socket, batch, &index.to_string())
}

fn carry_out_removal(socket: &mut Socket, mut batch: Batch, device: &str) -> Result<()> {
    batch.acknowledged();
    match socket.carry_out(batch)? {
        Ok(())
        | Err(Refused {
            errno: Errno::NODEV,
            ..
        }) => Ok(()),
        Err(refused) => Err(refused.errno).context(|| format!("cannot remove device {device}")),
    }
}

/// What leads to an address; none if nothing does.
fn way(socket: &mut Socket, to: IpAddr) -> Option<Way> {
    let mut found = None;
    let mut batch = socket.batch();
    route::get_route(&mut batch, to);
    socket
        .ask(batch, |_, body| found = route::parse_route(body))
        .ok()?;
    found
}

/// Refuses a network that the host reaches by another way than everything else.
fn apart(socket: &mut Socket, settings: &Settings) -> Result<()> {
    for subnet in settings.subnets() {
        let gateway = subnet.gateway();
        let outside = OUTSIDE[usize::from(gateway.is_ipv6())];
        let Some(there) = way(socket, gateway) else {
            continue;
        };
        if way(socket, outside).as_ref() == Some(&there) {
            continue;
        }
        let at = one_link(socket, |batch| route::get_link_at(batch, there.device))?;
        let device = at.map_or_else(|| there.device.to_string(), |link| link.name);
        let network = subnet.address(0);
        return Err(Error::new(
            ErrorKind::Exists,
            format!("cannot use network {network}: {device} leads there already"),
        )
        .with_hint("choose another network in the settings"));
    }
    Ok(())
}

fn uplink_mtu(socket: &mut Socket) -> Result<u32> {
    let mut least = None;
    for outside in OUTSIDE {
        let Some(way) = way(socket, outside) else {
            continue;
        };
        let link = one_link(socket, |batch| route::get_link_at(batch, way.device))?;
        // Loopback leads nowhere, and its packets may be of any length.
        let mtu = link.map_or(DEFAULT_MTU, |link| link.mtu).min(65_535);
        least = Some(least.unwrap_or(mtu).min(mtu));
    }
    Ok(least.unwrap_or(DEFAULT_MTU).max(1280))
}

fn sysctls(settings: &Settings) -> Result<()> {
    let name = &settings.name;
    set("ipv4/ip_forward", "1", true)?;
    set(&format!("ipv4/conf/{name}/route_localnet"), "1", true)?;
    if settings.v6.is_some() && get("ipv6/conf/all/forwarding").as_deref() != Some("1") {
        keep_routers()?;
        set("ipv6/conf/all/forwarding", "1", true)?;
    }
    Ok(())
}

/// Devices that listen to routers go on doing so.
fn keep_routers() -> Result<()> {
    let Ok(devices) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else {
        return Ok(());
    };
    for device in devices.flatten() {
        let device = device.file_name().to_string_lossy().into_owned();
        let key = format!("ipv6/conf/{device}/accept_ra");
        if device != "all" && get(&key).as_deref() == Some("1") {
            set(&key, "2", false)?;
        }
    }
    Ok(())
}

fn get(key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{key}")).ok()?;
    Some(text.trim().to_owned())
}

/// Writes a sysctl of the thread's network namespace, if it has another value. One that is not
/// `needed` may be missing.
pub(super) fn set(key: &str, value: &str, needed: bool) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    match get(key) {
        Some(old) if old == value => return Ok(()),
        None if !needed => return Ok(()),
        _ => {}
    }
    let write = || -> Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).open(&path)?;
        Ok(file.write_all(value.as_bytes())?)
    };
    write().context(|| format!("cannot write {value} to {path}"))
}
