//! `rcrun port`, and ports as other verbs show them.

use std::fmt::Write as _;

use rcrun_network::{Port, Protocol};
use rcrun_runtime::error::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::{get_with_record, not_running};
use crate::containers::{Record, Status, network};
use crate::output;
use crate::settings::Settings;

pub(crate) const USAGE: &str = "CONTAINER [PORT[/PROTOCOL]]

Shows which ports of the host lead to those of a container that runs. With a port of
the container only its own: an error if it is not published.";

/// show the ports of the host that lead to a container
#[derive(Debug, clap::Parser)]
#[command(name = "port", disable_help_flag = true)]
pub(crate) struct Ports {
    name: String,
    port: Option<String>,
}

impl crate::verbs::Run for Ports {
    fn run(self, settings: &Settings) -> Result<u8> {
        let (_, container, record) = get_with_record(settings, &self.name)?;
        if container.status(&record)?.pid().is_none() {
            return Err(not_running(&self.name));
        }
        let mut ports = match network::attached(&record)? {
            Some(attached) => attached.ports,
            None => Vec::new(),
        };
        ports.sort_by_key(|port| (port.container, port.protocol, port.host));
        let mut text = String::new();
        match &self.port {
            None => {
                for port in &ports {
                    let (number, name) = (port.container, port.protocol.name());
                    let _ = writeln!(text, "{number}/{name} -> {}", network::at(port));
                }
            }
            Some(wanted) => {
                ports.retain(|port| is(wanted, port.container, port.protocol));
                if ports.is_empty() {
                    let why = format!("container {} has no public port {wanted}", self.name);
                    return Err(Error::new(ErrorKind::NotFound, why));
                }
                for port in &ports {
                    let _ = writeln!(text, "{}", network::at(port));
                }
            }
        }
        output::print(&text)?;
        Ok(0)
    }
}

/// Whether a port is the one that is meant by `PORT[-PORT][/PROTOCOL]`; without a protocol TCP is.
pub(super) fn is(text: &str, number: u16, protocol: Protocol) -> bool {
    let (ports, name) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let within = match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&number),
        _ => false,
    };
    within && name.eq_ignore_ascii_case(protocol.name())
}

/// Ports in a line of `ps`, those that follow one another as ranges.
pub(super) fn summary(ports: &[Port]) -> String {
    let mut sorted = ports.to_vec();
    sorted.sort_by_key(|port| (port.protocol, port.address, port.container, port.host));
    let mut ranges: Vec<(Port, Port)> = Vec::new();
    for port in sorted {
        match ranges.last_mut() {
            Some((_, last))
                if (last.protocol, last.address) == (port.protocol, port.address)
                    && last.container.checked_add(1) == Some(port.container)
                    && last.host.checked_add(1) == Some(port.host) =>
            {
                *last = port;
            }
            _ => ranges.push((port, port)),
        }
    }
    let range = |first: String, last: u16, same: bool| match same {
        true => first,
        false => format!("{first}-{last}"),
    };
    let one = |(first, last): &(Port, Port)| {
        let same = first == last;
        let host = range(network::at(first), last.host, same);
        let inner = range(first.container.to_string(), last.container, same);
        format!("{host}->{inner}/{}", first.protocol.name())
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `HostConfig.PortBindings`: what was asked for.
pub(super) fn bindings(record: &Record) -> Value {
    let mut all = Map::new();
    for one in record.network.iter().flat_map(|network| &network.ports) {
        let host = match one.host {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let address = one.address.map(|address| address.to_string());
        let binding = json!({"HostIp": address.unwrap_or_default(), "HostPort": host});
        put(&mut all, one.container, one.protocol, binding);
    }
    Value::Object(all)
}

fn put(all: &mut Map<String, Value>, port: u16, protocol: Protocol, binding: Value) {
    let list = all.entry(format!("{port}/{}", protocol.name()));
    if let Some(list) = list.or_insert_with(|| json!([])).as_array_mut() {
        list.push(binding);
    }
}

/// `NetworkSettings`: what it has at this moment.
pub(super) fn settings(record: &Record, status: &Status) -> Result<Value> {
    let attached = match status.pid() {
        Some(_) => network::attached(record)?,
        None => None,
    };
    let Some(attached) = attached else {
        return Ok(json!({"Networks": {}, "Ports": {}, "IPAddress": "", "Gateway": ""}));
    };
    let mut ports = Map::new();
    for port in &attached.ports {
        let address = port
            .address
            .map_or("0.0.0.0".to_owned(), |address| address.to_string());
        let binding = json!({"HostIp": address, "HostPort": port.host.to_string()});
        put(&mut ports, port.container, port.protocol, binding);
    }
    let outcome = &attached.outcome;
    let mac = (outcome
        .interfaces
        .iter()
        .find(|device| !device.sandbox.is_empty()))
    .map_or("", |device| device.mac.as_str());
    let of = |v6: bool| {
        let mut ips = outcome.ips.iter();
        let ip = ips.find(|ip| ip.address.address.is_ipv6() == v6);
        let gateway = ip
            .and_then(|ip| ip.gateway)
            .map(|gateway| gateway.to_string());
        let address = ip.map(|ip| ip.address.address.to_string());
        let prefix = ip.map_or(0, |ip| ip.address.prefix);
        (
            address.unwrap_or_default(),
            prefix,
            gateway.unwrap_or_default(),
        )
    };
    let ((v4, bits4, gateway4), (v6, bits6, gateway6)) = (of(false), of(true));
    let mut shown = json!({
        "IPAddress": v4,
        "IPPrefixLen": bits4,
        "Gateway": gateway4,
        "GlobalIPv6Address": v6,
        "GlobalIPv6PrefixLen": bits6,
        "IPv6Gateway": gateway6,
        "MacAddress": mac,
    });
    let bridge = shown.clone();
    shown["Ports"] = Value::Object(ports);
    shown["Networks"] = json!({"bridge": bridge});
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host: u16, container: u16, address: Option<&str>) -> Port {
        Port {
            host,
            container,
            protocol: Protocol::Tcp,
            address: address.map(|text| text.parse().unwrap()),
        }
    }

    #[test]
    fn lines_of_ps() {
        for (ports, want) in [
            (vec![], ""),
            (vec![port(8080, 80, None)], "0.0.0.0:8080->80/tcp"),
            (
                vec![
                    port(8001, 81, None),
                    port(8000, 80, None),
                    port(9, 90, None),
                ],
                "0.0.0.0:8000-8001->80-81/tcp, 0.0.0.0:9->90/tcp",
            ),
            (
                vec![
                    port(8080, 80, Some("::1")),
                    port(8080, 80, Some("127.0.0.1")),
                ],
                "127.0.0.1:8080->80/tcp, [::1]:8080->80/tcp",
            ),
        ] {
            assert_eq!(summary(&ports), want);
        }
    }

    #[test]
    fn ports_that_are_meant() {
        for (text, want) in [
            ("80", true),
            ("80/tcp", true),
            ("80/TCP", true),
            ("79-81", true),
            ("80/udp", false),
            ("81", false),
            ("", false),
            ("http", false),
        ] {
            assert_eq!(is(text, 80, Protocol::Tcp), want, "{text}");
        }
    }
}
