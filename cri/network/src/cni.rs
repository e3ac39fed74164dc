//! Networks by CNI plugins, [version 1.1] and those since 0.3.0.
//!
//! Owns the execution of network configurations: which one (`config`), what plugins are told (`arguments`),
//! running them (`invoke`, `orphans`), what is remembered of an attachment until it is removed (`cache`), and
//! whether there is a network at all (`watch`). Loopback is brought up here, not by a plugin. What a configuration has
//! no capability for (ports, say) is not passed on: that is for the configuration to say.
//!
//! [version 1.1]: https://github.com/containernetworking/cni/blob/main/SPEC.md

mod arguments;
mod cache;
mod config;
mod invoke;
mod orphans;
#[cfg(test)]
pub(crate) mod tests;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::bridge::links::loopback;
use crate::bridge::listens;
use crate::ports::Ports;
use crate::request::{Key, Namespace, Request};
use crate::{Context, Error, ErrorKind, Outcome, Readiness, Result};
use cache::{Attachment, Cache};
pub use config::Configuration;
use invoke::{Call, Command};
pub use watch::Watch;

/// Where configurations are by default.
pub const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// Where plugins are by default.
pub const PROGRAMS: &str = "/opt/cni/bin";
/// How long one call of one plugin may take.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Plugins, and where all that they need is.
#[derive(Debug)]
pub struct Plugins {
    configurations: PathBuf,
    programs: Vec<PathBuf>,
    cache: Cache,
    ports: Option<Ports>,
    patience: Duration,
}

impl Plugins {
    /// `configurations`: the directory of which the first configuration counts. `programs`: where plugins
    /// are looked for. `cache`: what is remembered of attachments, on a disk that outlives the machine's
    /// next start, since what plugins remember does.
    pub fn new(configurations: &Path, programs: &[PathBuf], cache: &Path) -> Self {
        Self {
            configurations: configurations.to_owned(),
            programs: programs.to_vec(),
            cache: Cache::new(cache),
            ports: None,
            patience: PATIENCE,
        }
    }

    /// With another limit of one call of one plugin.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Ports of the host are had once by all whom this knows.
    #[must_use]
    pub fn sharing(mut self, ports: Ports) -> Self {
        self.ports = Some(ports);
        self
    }

    /// The configuration that counts now.
    pub fn configuration(&self) -> Result<Configuration> {
        Configuration::first(&self.configurations)
    }

    /// Tells when configurations may have changed.
    pub fn watch(&self) -> Result<Watch> {
        Watch::new(&self.configurations)
    }

    /// The versions that a plugin says it speaks.
    pub fn versions(&self, plugin: &str) -> Result<Vec<String>> {
        let told = json!({"cniVersion": config::NEWEST});
        let answer = self.run(plugin, Command::Version, &[], &told)?;
        let list = answer.get("supportedVersions").and_then(Value::as_array);
        let list = list.ok_or_else(|| {
            Error::invalid(format!(
                "plugin {plugin} does not say which versions it speaks"
            ))
        })?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(list.iter().filter_map(text).collect())
    }

    /// Connects a namespace: every plugin in turn, each told what the former did.
    pub fn add(&self, request: &Request<'_>) -> Result<Outcome> {
        request.check_ports()?;
        let configuration = self.configuration()?;
        let cannot = || format!("cannot connect {} to {}", request.key, configuration.name);
        let _shared = self.cache.enter(false).context(cannot)?;
        loopback(request.namespace.file()).context(cannot)?;
        if configuration.plugins.iter().any(config::maps_ports) {
            self.claim(request).context(cannot)?;
        }
        let attachment = Attachment::new(request, configuration.clone());
        // Known before anything is made, so that it can be removed whatever happens now.
        self.cache.remember(&attachment).context(cannot)?;
        let mut result = None;
        for plugin in &attachment.configuration.plugins {
            let done = self.attached(&attachment, plugin, Command::Add, result.as_ref(), None);
            result = Some(done.context(cannot)?);
        }
        let result = result.unwrap_or_default();
        self.cache
            .remember_result(&request.key, &result)
            .context(cannot)?;
        outcome(&result).context(cannot)
    }

    /// Takes the ports that plugins will lead to it. What programs of the host lose by that is said, and not
    /// refused: it is how pods of all runtimes with plugins have it.
    fn claim(&self, request: &Request<'_>) -> Result<()> {
        let Some(ports) = self.ports.as_ref().filter(|_| !request.ports.is_empty()) else {
            return Ok(());
        };
        ports.claim(&request.key, &request.ports)?;
        for port in request.ports.iter().filter(|port| listens(port)) {
            tracing::warn!(
                "port {port} of the host leads to {} now: a program that listens there gets nothing any more",
                request.key.id()
            );
        }
        Ok(())
    }

    /// Asks every plugin whether everything still is as it left it.
    pub fn check(&self, request: &Request<'_>) -> Result<()> {
        let cannot = || format!("cannot confirm the network of {}", request.key);
        let _shared = self.cache.enter(false).context(cannot)?;
        let attachment = self
            .cache
            .recall(&request.key)
            .context(cannot)?
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("{}: it is not connected", cannot()),
                )
            })?;
        let list = &attachment.configuration;
        if list.disable_check || !list.speaks("0.4.0") {
            return Ok(());
        }
        let result = self.cache.result(&request.key);
        for plugin in &list.plugins {
            self.attached(&attachment, plugin, Command::Check, result.as_ref(), None)
                .context(cannot)?;
        }
        Ok(())
    }

    /// Undoes [`Plugins::add`] with the configuration of that time, plugins in reverse.
    pub fn remove(&self, key: &Key, namespace: Option<&Namespace<'_>>) -> Result<()> {
        let _shared = self.cache.enter(false)?;
        self.detach(key, namespace)
    }

    fn detach(&self, key: &Key, namespace: Option<&Namespace<'_>>) -> Result<()> {
        let cannot = || format!("cannot disconnect {key}");
        let attachment = match self.cache.recall(key).context(cannot)? {
            Some(attachment) => attachment,
            // Nothing is known of it; if there is a network, its plugins may.
            None => match self.configuration() {
                Ok(configuration) => Attachment::unknown(key, configuration),
                Err(_) => return Ok(()),
            },
        };
        let path = match namespace {
            Some(namespace) => namespace.path().to_owned(),
            None => attachment.namespace_if_there(),
        };
        let list = &attachment.configuration;
        let result = self.cache.result(key);
        if result.is_none() {
            orphans::end(key).context(cannot)?;
        }
        let result = result.filter(|_| list.speaks("0.4.0"));
        for plugin in list.plugins.iter().rev() {
            let done = self.attached(
                &attachment,
                plugin,
                Command::Del,
                result.as_ref(),
                Some(&path),
            );
            match done {
                Ok(_) => {}
                // The plugin says that there is nothing to remove.
                Err(error) if invoke::is_unknown_container(&error) => {}
                Err(error) => return Err(error).context(cannot),
            }
        }
        if let Some(ports) = &self.ports {
            ports.release(key).context(cannot)?;
        }
        self.cache.forget(key).context(cannot)
    }

    /// Removes what belongs to none of `valid`, and tells plugins which are valid. Nothing is added or
    /// removed meanwhile.
    pub fn collect(&self, valid: &[Key]) -> Result<()> {
        let _alone = self.cache.enter(true)?;
        let mut first = Ok(());
        for key in self.cache.keys()? {
            if !valid.contains(&key) {
                let done = self.detach(&key, None);
                first = first.and(done);
            }
        }
        if let Some(ports) = &self.ports {
            // Claims of those whose attachment was never remembered.
            let mut known = self.cache.keys()?;
            known.extend_from_slice(valid);
            first = first.and(ports.retain(&known));
        }
        let Ok(list) = self.configuration() else {
            return first;
        };
        if list.disable_gc || !list.speaks("1.1.0") {
            return first;
        }
        let name = |key: &Key| json!({"containerID": key.id(), "ifname": key.interface()});
        let valid: Value = valid.iter().map(name).collect();
        for plugin in &list.plugins {
            let mut told = list.told(plugin);
            told.insert("cni.dev/valid-attachments".into(), valid.clone());
            // The first plugins with GC read it by this name.
            told.insert("cni.dev/attachments".into(), valid.clone());
            let done = self.run(config::kind(plugin), Command::Gc, &[], &Value::Object(told));
            first = first.and(done.map(|_| ()));
        }
        first.context(|| format!("cannot clean up network {}", list.name))
    }

    /// Whether there is a configuration, its plugins exist, and they say that they are ready.
    pub fn readiness(&self) -> Readiness {
        match self.status() {
            Ok(()) => Readiness::ready(),
            Err(error) => Readiness::missing(&error),
        }
    }

    /// The same as an error. What kubelet and people look for stands in its words.
    pub fn status(&self) -> Result<()> {
        let list = self
            .configuration()
            .context(|| "cni plugin not initialized")?;
        for plugin in &list.plugins {
            let kind = config::kind(plugin);
            invoke::find(&self.programs, kind)?;
            if list.speaks("1.1.0") {
                let told = Value::Object(list.told(plugin));
                self.run(kind, Command::Status, &[], &told)?;
            }
        }
        Ok(())
    }

    /// One plugin, about one attachment.
    fn attached(
        &self,
        attachment: &Attachment,
        plugin: &Map<String, Value>,
        command: Command,
        previous: Option<&Value>,
        namespace: Option<&Path>,
    ) -> Result<Value> {
        let told = arguments::told(attachment, plugin, previous);
        let environment = arguments::environment(attachment, namespace);
        self.run(config::kind(plugin), command, &environment, &told)
    }

    fn run(
        &self,
        plugin: &str,
        command: Command,
        environment: &[(&str, String)],
        told: &Value,
    ) -> Result<Value> {
        let call = Call {
            programs: &self.programs,
            plugin,
            command,
            environment,
            patience: self.patience,
        };
        call.run(told.to_string().as_bytes())
    }
}

/// What plugins say they did.
fn outcome(result: &Value) -> Result<Outcome> {
    if !result.is_object() {
        return Err(Error::invalid(
            "cannot understand the plugins' result: it is no object",
        ));
    }
    serde_json::from_value(result.clone())
        .map_err(|error| Error::invalid(format!("cannot understand the plugins' result: {error}")))
}
