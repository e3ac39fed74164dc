//! Networks of pods and containers: who gets which devices, addresses and ports.
//!
//! A container's network namespace exists when this is called, given by descriptor (and by a path, for
//! programs). Two ways to connect it: the plugins of a CNI configuration ([`cni`]), or a bridge of our
//! own ([`bridge`]), for which nothing else need be installed. [`Network`] is either. What is asked for
//! is a [`Request`], what came of it an [`Outcome`]. All calls block and act in the network namespace
//! of the calling thread, which is the host's for everybody but tests.

#![forbid(unsafe_code)]

pub mod bridge;
pub mod cni;
#[cfg(test)]
mod lab;
mod netlink;
pub mod outcome;
mod ports;
pub mod request;

pub use bridge::Bridge;
pub use cni::Plugins;
pub use outcome::Outcome;
pub use ports::Ports;
pub use rcrun_error::{Context, Error, ErrorKind, Result};
pub use request::{Key, Namespace, Port, Protocol, Request};

/// Whether pods can be connected, in the words of a node's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether they can.
    pub ready: bool,
    /// One word, as kubelet shows it; empty if ready.
    pub reason: String,
    /// What is missing; empty if ready.
    pub message: String,
}

impl Readiness {
    /// Pods can be connected.
    pub fn ready() -> Self {
        let (reason, message) = (String::new(), String::new());
        Self {
            ready: true,
            reason,
            message,
        }
    }

    /// They cannot, because of this.
    pub fn missing(why: &Error) -> Self {
        Self {
            ready: false,
            reason: "NetworkPluginNotReady".into(),
            message: format!("Network plugin returns error: {}", why.chain()),
        }
    }
}

/// One of the two ways.
#[derive(Debug)]
pub enum Network {
    /// Plugins, as a configuration says.
    Plugins(Plugins),
    /// Our own bridge.
    Bridge(Bridge),
}

impl Network {
    /// Connects a namespace. After an error [`Network::remove`] must still be called (or this again).
    pub fn add(&self, request: &Request<'_>) -> Result<Outcome> {
        match self {
            Self::Plugins(plugins) => plugins.add(request),
            Self::Bridge(bridge) => bridge.add(request),
        }
    }

    /// Whether everything still is as [`Network::add`] left it.
    pub fn check(&self, request: &Request<'_>) -> Result<()> {
        match self {
            Self::Plugins(plugins) => plugins.check(request),
            Self::Bridge(bridge) => bridge.check(request),
        }
    }

    /// Undoes [`Network::add`], however far it got, also when the namespace is gone. What was never
    /// added is removed without an error.
    pub fn remove(&self, key: &Key, namespace: Option<&Namespace<'_>>) -> Result<()> {
        match self {
            Self::Plugins(plugins) => plugins.remove(key, namespace),
            Self::Bridge(bridge) => bridge.remove(key),
        }
    }

    /// Removes everything that belongs to none of `valid`.
    pub fn collect(&self, valid: &[Key]) -> Result<()> {
        match self {
            Self::Plugins(plugins) => plugins.collect(valid),
            Self::Bridge(bridge) => bridge.collect(valid),
        }
    }

    /// Whether pods can be connected.
    pub fn readiness(&self) -> Readiness {
        match self {
            Self::Plugins(plugins) => plugins.readiness(),
            Self::Bridge(bridge) => bridge.readiness(),
        }
    }
}
