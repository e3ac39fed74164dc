//! `--network`, what is published, and the files that say who is where.

use std::net::IpAddr;

use rcrun_runtime::error::{Context, Error, Result};
use rcrun_runtime::template::files::{self, Resolver};

use super::super::ports::{self, Publish};
use super::super::words::Problems;
use super::{Asked, Place, place};
use crate::containers::flags::ContainerFlags;

/// Docker's word for the address by which containers reach the host.
const GATEWAY: &str = "host-gateway";

/// What is true of the machine's networks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Networks {
    /// What a container gets that asks for none.
    pub(crate) default: Place,
    /// Whether bridges can be made: not by ordinary users.
    pub(crate) bridge: bool,
    /// The host's addresses on the bridge.
    pub(crate) gateways: Vec<IpAddr>,
}

impl Asked {
    pub(super) fn network(
        &mut self,
        flags: &ContainerFlags,
        networks: &Networks,
        problems: &mut Problems,
    ) {
        self.network = networks.default.clone();
        let read = |text: &str| network(text, networks);
        for place in problems.all("--network", &flags.network, read) {
            self.network = place;
        }
        self.hostname = problems.one("--hostname", flags.hostname.as_deref(), hostname);
        self.domainname = problems.one("--domainname", flags.domainname.as_deref(), hostname);
        let host = |text: &str| self.host(text, networks);
        self.hosts = problems.all("--add-host", &flags.add_host, host);
        let address = |text: &str| {
            let wrong = |_| Error::invalid(format!("{text:?} is no address"));
            text.parse::<IpAddr>().map_err(wrong)
        };
        self.resolver = Resolver {
            servers: problems.all("--dns", &flags.dns, address),
            search: problems.all("--dns-search", &flags.dns_search, files::resolver_word),
            options: problems.all("--dns-option", &flags.dns_option, files::resolver_word),
        };
        let family = |text: &str, v6: bool| match address(text)? {
            found if found.is_ipv6() == v6 => Ok(found),
            other => Err(Error::invalid(format!("{other} is of the other family"))),
        };
        let v4 = problems.one("--ip", flags.ip.as_deref(), |text| family(text, false));
        let v6 = problems.one("--ip6", flags.ip6.as_deref(), |text| family(text, true));
        self.addresses = v4.into_iter().chain(v6).collect();
        self.mac = flags.mac_address.clone();
        let published = problems.all("--publish", &flags.publish, ports::publish);
        self.published = published.concat();
        self.publish_all = flags.publish_all;
        self.check_network(flags, networks, problems);
    }

    /// Flags that only mean something on the bridge.
    fn check_network(&self, flags: &ContainerFlags, networks: &Networks, problems: &mut Problems) {
        if self.network == Place::Bridge {
            return;
        }
        if !flags.publish.is_empty() || self.publish_all {
            problems.tell(match &self.network {
                Place::Host => "--publish: with --network host the program's ports are the host's",
                Place::Container(_) => {
                    "--publish: the network is another container's: publish that one's ports"
                }
                _ if networks.bridge => "--publish: takes --network bridge",
                _ => {
                    "--publish: an ordinary user has no bridge to publish ports of: with --network host the \
                     program's ports are the host's"
                }
            });
        }
        for (flag, given) in [
            ("--ip", flags.ip.is_some()),
            ("--ip6", flags.ip6.is_some()),
            ("--mac-address", flags.mac_address.is_some()),
        ] {
            if given {
                problems.tell(format!("{flag}: takes --network bridge"));
            }
        }
    }

    fn host(&self, text: &str, networks: &Networks) -> Result<(String, IpAddr)> {
        let gateway = text.strip_suffix(GATEWAY);
        let Some(name) = gateway.and_then(|name| name.strip_suffix([':', '='])) else {
            return files::host(text);
        };
        match (&self.network, networks.gateways.first()) {
            (Place::Bridge, Some(gateway)) => files::host(&format!("{name}={gateway}")),
            _ => Err(Error::unsupported(
                "host-gateway: there is no network to reach the host by: it takes --network bridge",
            )),
        }
    }

    /// Takes in what only the image says: ports that are published because it exposes them.
    pub(crate) fn complete_ports(&mut self, exposed: &[String]) -> Result<()> {
        let wanted = match self.publish_all {
            true => exposed,
            false => &[],
        };
        let failed = || "the image's ExposedPorts";
        let read: Result<Vec<_>> = wanted.iter().map(|text| ports::exposed(text)).collect();
        let exposed = read.context(failed)?.concat();
        let published = std::mem::take(&mut self.published);
        self.published = ports::all(published, &exposed).context(|| "--publish")?;
        Ok(())
    }

    /// Whether it gets a network of its own with a way out.
    pub(crate) fn is_bridged(&self) -> bool {
        self.network == Place::Bridge
    }

    /// What is published.
    pub(crate) fn published(&self) -> &[Publish] {
        &self.published
    }

    /// Addresses that were asked for.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The hardware address that was asked for.
    pub(crate) fn mac(&self) -> Option<&str> {
        self.mac.as_deref()
    }
}

fn network(text: &str, networks: &Networks) -> Result<Place> {
    match text {
        "default" => Ok(networks.default.clone()),
        "bridge" | "private" if networks.bridge => Ok(Place::Bridge),
        "bridge" | "private" => Err(Error::unsupported(format!(
            "{text} takes rights over the host's network, which an ordinary user has not: use host or none"
        ))),
        "pasta" | "slirp4netns" => Err(Error::unsupported(format!(
            "{text} is no part of this program: use bridge (root), host or none"
        ))),
        _ => place(text, true, true).map_err(|_| {
            Error::invalid(format!(
                "{text:?} is none of bridge, none, host, container:NAME"
            ))
        }),
    }
}

fn hostname(text: &str) -> Result<String> {
    match files::is_host(text) {
        true => Ok(text.to_owned()),
        false => Err(Error::invalid(format!("{text:?} is no host name"))),
    }
}
