//! What a test needs: a world of its own (`Env`), bundles, containers, the runtime under test, and the leak check.
//!
//! It owns isolation, time limits and clean-up. It knows nothing of what a container should do: that is `oci/`.

pub(crate) mod attack;
pub(crate) mod builds;
pub(crate) mod bundle;
pub(crate) mod caller;
pub(crate) mod cgroup;
pub(crate) mod container;
pub(crate) mod cri;
pub(crate) mod criu;
pub(crate) mod env;
pub(crate) mod faults;
pub(crate) mod leaks;
pub(crate) mod modules;
pub(crate) mod monitor;
pub(crate) mod nri;
pub(crate) mod people;
pub(crate) mod pods;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod runtime;
pub(crate) mod selftest;
pub(crate) mod sockets;
pub(crate) mod spec;
pub(crate) mod stage;
pub(crate) mod store;
pub(crate) mod streaming;
pub(crate) mod suite;
pub(crate) mod tree;
pub(crate) mod users;
pub(crate) mod whole;

pub(crate) use bundle::Bundle;
pub(crate) use container::Container;
pub(crate) use env::{Env, full};
pub(crate) use runtime::Output;
pub(crate) use store::Shelf;

use std::time::Duration;

/// What the machine must offer for a test to mean anything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// A cgroup v1 hierarchy with this controller.
    V1(&'static str),
    /// A kernel in which AppArmor is enabled.
    AppArmor,
    /// systemd with cgroup v2 alone. It knows processes by the machine's pids, so that such a test has no pid
    /// namespace.
    Systemd,
    /// A kernel in which SELinux is enabled, with a policy.
    SeLinux,
    /// A program on the PATH.
    Program(&'static str),
    /// The runtime under test lists this under a dotted path of `features` as true or non-empty.
    Feature(&'static str),
}

/// One test: a function, and the conditions under which it may run.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) body: fn(&Env),
    pub(crate) only_rcrun: Option<&'static str>,
    pub(crate) needs: Vec<Need>,
    pub(crate) timeout: Duration,
    /// Its verbs on images are an ordinary user's ([`users`]).
    pub(crate) user: bool,
    /// Why it cannot be an ordinary user's.
    pub(crate) root: Option<&'static str>,
}

impl Test {
    pub(crate) fn new(module: &str, name: &str, body: fn(&Env)) -> Self {
        let module = module.rsplit("::").next().unwrap_or(module);
        Self {
            name: format!("{module}::{name}"),
            body,
            only_rcrun: None,
            needs: Vec::new(),
            timeout: Duration::from_secs(60),
            user: false,
            root: None,
        }
    }

    /// The expectation is deliberately stricter than what runc does; the reason is printed when skipped.
    pub(crate) fn only_rcrun(mut self, reason: &'static str) -> Self {
        self.only_rcrun = Some(reason);
        self
    }

    pub(crate) fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// The same for an ordinary user.
    pub(crate) fn by_user(mut self) -> Self {
        self.user = true;
        self
    }

    /// For root only, also where `RCRUN_TEST_USER=1` asks for ordinary users.
    pub(crate) fn root(mut self, reason: &'static str) -> Self {
        self.root = Some(reason);
        self
    }

    pub(crate) fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }
}

/// `test!(function)`: the function's own name, prefixed with its module's.
macro_rules! test {
    ($body:ident) => {
        $crate::harness::Test::new(module_path!(), stringify!($body), $body)
    };
}
pub(crate) use test;
