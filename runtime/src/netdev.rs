//! `linux.netDevices`: moves network devices of the host into the container's namespace.
//!
//! Runtime specification, config-linux.md, "Network Devices". Owns the checks of names and the move:
//! read the addresses, set the device down, move and rename it in one request, add its permanent
//! addresses of global scope again (the kernel drops them), set it up. Runs in the parent, in the
//! host's namespace. The namespace's own socket is made by this thread, which enters the namespace for
//! the one call and leaves it again: a namespace is a property of the thread, so nothing else notices.
//! A failure half-way leaves the device where it then is; the error says which step failed.

mod message;

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Context, Error, ErrorKind, Result};
use message::{Address, Answer, Request};

/// Bytes of an interface's name, without the terminator (`IFNAMSIZ - 1`).
const NAME_MAX: usize = 15;

/// Checks `linux.netDevices` before anything is made. `devices`: host name and name in the container,
/// an empty one meaning the same.
pub fn validate(devices: &[(String, String)], own_netns: bool, rootless: bool) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    if !own_netns {
        return Err(Error::invalid(
            "unable to move network devices without a NET namespace",
        ));
    }
    if rootless {
        return Err(Error::invalid(
            "network devices are not supported for rootless containers",
        ));
    }
    for (i, device) in devices.iter().enumerate() {
        for name in [&device.0, new_name(device)] {
            if !valid_name(name) {
                return Err(Error::invalid(format!(
                    "invalid network device name {name:?}"
                )));
            }
        }
        let name = new_name(device);
        if devices[..i].iter().any(|d| new_name(d) == name) {
            return Err(Error::invalid(format!(
                "network device name {name:?} is used twice"
            )));
        }
    }
    Ok(())
}

fn new_name(device: &(String, String)) -> &String {
    if device.1.is_empty() {
        &device.0
    } else {
        &device.1
    }
}

/// As the kernel's `dev_valid_name`; `%` would make it a pattern.
fn valid_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | ':' | '%' | '\0') || c.is_ascii_whitespace())
}

/// Moves `devices` into the namespace behind `netns`.
pub fn move_devices(devices: &[(String, String)], netns: BorrowedFd<'_>) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let mut here = Channel::open()?;
    let mut there = Channel::open_in(netns)?;
    for device in devices {
        let (host, name) = (&device.0, new_name(device));
        move_device(&mut here, &mut there, host, name, netns).context(|| {
            format!("cannot move network device {host} to the container's network namespace")
        })?;
    }
    Ok(())
}

fn move_device(
    here: &mut Channel,
    there: &mut Channel,
    host: &str,
    name: &str,
    netns: BorrowedFd<'_>,
) -> Result<()> {
    let index = here.index(host)?;
    // The kernel would move the device first and refuse the rename then.
    if there.index(name).is_ok() {
        return Err(Error::new(
            ErrorKind::Exists,
            format!("name {name} is taken there"),
        ));
    }
    // Before the device is down: IPv6 addresses do not survive that.
    let addresses = here.addresses(index)?;
    here.change(|n| Request::set_up(n, index, false))
        .context(|| format!("set {host} down"))?;
    here.change(|n| Request::move_link(n, index, name, netns.as_raw_fd()))
        .context(|| format!("move {host} as {name}"))?;
    let index = there.index(name)?;
    for address in addresses.iter().filter(|a| a.permanent && a.global) {
        there
            .change(|n| Request::add_address(n, index, address))
            .context(|| format!("add address {address} to {name}"))?;
    }
    there
        .change(|n| Request::set_up(n, index, true))
        .context(|| format!("set {name} up"))
}

/// A conversation with the routing part of one namespace.
#[derive(Debug)]
struct Channel {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    fn open() -> Result<Self> {
        let kind = SocketType::RAW;
        let socket = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, None)
            .context(|| "open a netlink socket")?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; 64 * 1024],
        })
    }

    fn open_in(netns: BorrowedFd<'_>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
            .context(|| "open /proc/thread-self/ns/net")?;
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(netns, network)
            .context(|| "enter the container's network namespace")?;
        let channel = Self::open();
        // Whoever goes on in the wrong namespace does harm: this error is never swallowed.
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&own), network)
            .context(|| "return to the host's network namespace")?;
        channel
    }

    /// Sends a request and hands every answer to `take` until that returns something.
    fn ask<T>(
        &mut self,
        request: impl FnOnce(u32) -> Request,
        mut take: impl FnMut(Answer) -> Option<Result<T, Errno>>,
    ) -> Result<T> {
        self.sequence += 1;
        let bytes = request(self.sequence).finish();
        send(&self.socket, &bytes, SendFlags::empty()).context(|| "send to netlink")?;
        loop {
            let (_, len) = match recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => continue,
                other => other.context(|| "receive from netlink")?,
            };
            let answers = self
                .buffer
                .get(..len)
                .and_then(|d| message::parse(d, self.sequence));
            let answers = answers.ok_or_else(|| {
                Error::new(ErrorKind::Internal, "netlink's answer cannot be understood")
            })?;
            for answer in answers {
                if let Some(result) = take(answer) {
                    return Ok(result?);
                }
            }
        }
    }

    fn change(&mut self, request: impl FnOnce(u32) -> Request) -> Result<()> {
        self.ask(request, |answer| match answer {
            Answer::Result(0) => Some(Ok(())),
            Answer::Result(code) => Some(Err(Errno::from_raw_os_error(code))),
            _ => None,
        })
    }

    fn index(&mut self, name: &str) -> Result<u32> {
        self.ask(
            |n| Request::get_link(n, name),
            |answer| match answer {
                Answer::Link(index) => Some(Ok(index)),
                Answer::Result(0) => Some(Err(Errno::NODEV)),
                Answer::Result(code) => Some(Err(Errno::from_raw_os_error(code))),
                _ => None,
            },
        )
        .context(|| format!("find network device {name}"))
    }

    /// The addresses of one interface. A list that changes while it is read is read again, but not
    /// for ever: on a host with that many changes an incomplete list is as good as any.
    fn addresses(&mut self, interface: u32) -> Result<Vec<Address>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (mut found, mut whole) = (Vec::new(), true);
            self.ask(Request::get_addresses, |answer| match answer {
                Answer::Address(a) if a.interface == interface => {
                    found.push(a);
                    None
                }
                Answer::Interrupted => {
                    whole = false;
                    None
                }
                Answer::Done => Some(Ok(())),
                Answer::Result(0) => None,
                Answer::Result(code) => Some(Err(Errno::from_raw_os_error(code))),
                _ => None,
            })
            .context(|| "list network addresses")?;
            if whole || tries == 10 {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests;
