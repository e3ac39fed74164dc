//! The `cri` section of the settings file.
//!
//! Owns what can be set, the defaults and the limits. What concerns pulls, but for `parallel_pulls`, counts
//! from the next pull on, or from SIGHUP; everything else from the start of the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use rcrun_image::reference::Reference;
use serde::{Deserialize, Serialize};

pub use crate::nri::settings::Nri;
use crate::{Context, Error, Result};

/// Most pulls at a time: each has a few threads.
const MAX_PARALLEL_PULLS: usize = 64;
/// Longest time without progress that can be asked for: a day.
const MAX_PROGRESS_TIMEOUT: u64 = 86_400;
/// Longest time that an idle session is kept: a year.
const MAX_IDLE_TIMEOUT: u64 = 365 * 86_400;

/// The section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The socket: `unix:///PATH`, or the path.
    pub listen: String,
    /// Who makes cgroups; the kubelet asks, and does the same.
    pub cgroup_driver: CgroupDriver,
    /// Images that the kubelet is told to leave when it makes room.
    pub pinned: Vec<String>,
    /// File of credentials for pulls that come without, as docker's config.json or podman's auth.json.
    pub auth_file: Option<PathBuf>,
    /// Pulls at a time; others wait.
    pub parallel_pulls: usize,
    /// Seconds without a byte from the registry after which a pull fails.
    pub pull_progress_timeout: u64,
    /// Who connects pods.
    pub network: NetworkKind,
    /// The directory of CNI configurations, of which the first counts.
    pub cni_config: PathBuf,
    /// Directories of CNI plugins.
    pub cni_plugins: Vec<PathBuf>,
    /// The embedded network.
    pub bridge: rcrun_network::bridge::Settings,
    /// Where metrics of the server are told to Prometheus: `ADDRESS:PORT`; empty: nowhere.
    pub metrics_address: String,
    /// That may be another address than a loopback one: everybody who reaches it can read them.
    pub metrics_beyond_loopback: bool,
    /// Where exec, attach and port-forward are served; the kubelet must reach it.
    pub stream_address: IpAddr,
    /// The port for that; 0 is any that is free.
    pub stream_port: u16,
    /// Certificate and key for that; none: without TLS.
    pub stream_tls: Option<StreamTls>,
    /// Seconds without a byte in either direction after which such a session ends.
    pub stream_idle_timeout: u64,
    /// The criu that saves and restores containers; none: the one in the PATH.
    pub criu: Option<PathBuf>,
    /// Containers may go on from checkpoints. criu, as root, reads what those say.
    pub restore: bool,
    /// Plugins that see and adjust pods and containers.
    pub nri: Nri,
    /// Pods may use all ports without a capability.
    pub unprivileged_ports: bool,
    /// Pods may ping without a capability.
    pub unprivileged_icmp: bool,
}

/// Who connects pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// Plugins of a CNI configuration.
    Cni,
    /// The embedded network, with which nothing else need be installed.
    Bridge,
    /// Plugins where there is a configuration when the server starts, else the embedded network.
    Auto,
}

/// Files with which exec, attach and port-forward are served over TLS. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StreamTls {
    /// The certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// The key of the certificate, PEM; nobody else may read it.
    pub key: PathBuf,
    /// The host of the URLs, where the certificate is not for `stream_address`.
    #[serde(default)]
    pub host: Option<String>,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it runs with cgroup v2, else files.
    Auto,
    /// We do, by files.
    Cgroupfs,
    /// systemd, by its bus.
    Systemd,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "unix:///run/rcrun/cri.sock".to_owned(),
            cgroup_driver: CgroupDriver::Auto,
            pinned: Vec::new(),
            auth_file: None,
            parallel_pulls: 8,
            pull_progress_timeout: 300,
            network: NetworkKind::Cni,
            cni_config: rcrun_network::cni::CONFIGURATIONS.into(),
            cni_plugins: vec![rcrun_network::cni::PROGRAMS.into()],
            bridge: rcrun_network::bridge::Settings::default(),
            stream_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            stream_port: 0,
            stream_tls: None,
            stream_idle_timeout: 4 * 60 * 60,
            criu: None,
            restore: false,
            nri: Nri::default(),
            metrics_address: String::new(),
            metrics_beyond_loopback: false,
            unprivileged_ports: true,
            unprivileged_icmp: true,
        }
    }
}

impl Settings {
    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<()> {
        self.socket()?;
        self.pinned()?;
        self.metrics()?;
        let wrong = |what: &str, most: u64| {
            Err(Error::invalid(format!(
                "the setting cri.{what} is not in 1..={most}"
            )))
        };
        if !(1..=MAX_PARALLEL_PULLS).contains(&self.parallel_pulls) {
            return wrong("parallel_pulls", MAX_PARALLEL_PULLS as u64);
        }
        self.bridge.check().context(|| "the setting cri.bridge")?;
        self.nri.check().context(|| "the setting cri.nri")?;
        for path in self.cni_plugins.iter().chain([&self.cni_config]) {
            if !path.is_absolute() {
                let text = format!("the settings cri.cni_*: {} is not absolute", path.display());
                return Err(Error::invalid(text));
            }
        }
        if self.criu.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(Error::invalid("the setting cri.criu is no absolute path"));
        }
        if !(1..=MAX_PROGRESS_TIMEOUT).contains(&self.pull_progress_timeout) {
            return wrong("pull_progress_timeout", MAX_PROGRESS_TIMEOUT);
        }
        if !(1..=MAX_IDLE_TIMEOUT).contains(&self.stream_idle_timeout) {
            return wrong("stream_idle_timeout", MAX_IDLE_TIMEOUT);
        }
        if self.stream_address.is_unspecified() || self.stream_address.is_multicast() {
            return Err(Error::invalid(format!(
                "the setting cri.stream_address: {} is no address that a kubelet can reach: name one",
                self.stream_address
            )));
        }
        if let Some(tls) = &self.stream_tls
            && !(tls.certificate.is_absolute() && tls.key.is_absolute())
        {
            return Err(Error::invalid(
                "the setting cri.stream_tls: write both files as absolute paths",
            ));
        }
        Ok(())
    }

    /// Whether certificate and key for streams can be used, as they are now.
    pub(crate) fn check_stream_tls(&self) -> Result<()> {
        let streaming = self.streaming();
        let Some(tls) = &streaming.tls else {
            return Ok(());
        };
        tls.check(streaming.host.as_deref(), streaming.address)
            .context(|| "the setting cri.stream_tls")
    }

    /// What the server of streams is told.
    pub(crate) fn streaming(&self) -> rcrun_streaming::Settings {
        let tls = self.stream_tls.as_ref();
        rcrun_streaming::Settings {
            address: SocketAddr::new(self.stream_address, self.stream_port),
            host: tls.and_then(|tls| tls.host.clone()),
            tls: tls.map(|tls| rcrun_streaming::Tls {
                certificate: tls.certificate.clone(),
                key: tls.key.clone(),
            }),
            idle_timeout: Duration::from_secs(self.stream_idle_timeout),
            ..Default::default()
        }
    }

    /// The path of the socket.
    pub fn socket(&self) -> Result<PathBuf> {
        let path = self.listen.strip_prefix("unix://").unwrap_or(&self.listen);
        if !path.starts_with('/') || path.contains('\0') || path.ends_with('/') {
            return Err(Error::invalid(format!(
                "cannot listen on {:?}: write unix:///PATH, or an absolute path",
                self.listen
            )));
        }
        Ok(PathBuf::from(path))
    }

    /// Where metrics are told.
    pub fn metrics(&self) -> Result<Option<SocketAddr>> {
        if self.metrics_address.is_empty() {
            return Ok(None);
        }
        let refused = |why: &str| {
            let text = format!(
                "the setting cri.metrics_address: cannot use {:?}: {why}",
                self.metrics_address
            );
            Err(Error::invalid(text))
        };
        let Ok(address) = self.metrics_address.parse::<SocketAddr>() else {
            return refused("write ADDRESS:PORT, as 127.0.0.1:9710 or [::1]:9710");
        };
        if address.port() == 0 {
            return refused("nobody would know the port");
        }
        if !address.ip().to_canonical().is_loopback() && !self.metrics_beyond_loopback {
            return refused(
                "others could read the metrics there; if they may, set cri.metrics_beyond_loopback",
            );
        }
        Ok(Some(address))
    }

    /// The names of pinned images, in full.
    pub fn pinned(&self) -> Result<Vec<Reference>> {
        let parse = |text: &String| {
            let reference = text.parse();
            reference.context(|| "the setting cri.pinned has a wrong name")
        };
        self.pinned.iter().map(parse).collect()
    }
}

impl CgroupDriver {
    /// What `auto` means on this machine.
    pub fn resolved(self) -> Self {
        let there = |path: &str| std::path::Path::new(path).exists();
        match self {
            Self::Auto
                if there("/run/systemd/system") && there("/sys/fs/cgroup/cgroup.controllers") =>
            {
                Self::Systemd
            }
            Self::Auto => Self::Cgroupfs,
            chosen => chosen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let settings: Settings = serde_json::from_str(text).map_err(|e| e.to_string())?;
        settings.check().map_err(|e| e.chain().to_string())?;
        Ok(settings)
    }

    #[test]
    fn defaults_hold_and_are_shown() {
        let shown = serde_json::to_string(&Settings::default()).unwrap();
        assert_eq!(read(&shown).unwrap(), Settings::default());
        assert_eq!(read("{}").unwrap(), Settings::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, words) in [
            (r#"{"listens":"/x"}"#, "unknown field"),
            (r#"{"listen":"tcp://127.0.0.1:1"}"#, "unix:///PATH"),
            (r#"{"listen":"cri.sock"}"#, "unix:///PATH"),
            (r#"{"listen":"unix://"}"#, "unix:///PATH"),
            (r#"{"listen":"/run/"}"#, "unix:///PATH"),
            (r#"{"pinned":["A B"]}"#, "cri.pinned"),
            (r#"{"cgroup_driver":"v1"}"#, "unknown variant"),
            (r#"{"parallel_pulls":0}"#, "cri.parallel_pulls"),
            (r#"{"parallel_pulls":65}"#, "cri.parallel_pulls"),
            (r#"{"metrics_address":"9710"}"#, "write ADDRESS:PORT"),
            (r#"{"metrics_address":"localhost:1"}"#, "write ADDRESS:PORT"),
            (r#"{"metrics_address":"127.0.0.1:0"}"#, "the port"),
            (
                r#"{"metrics_address":"0.0.0.0:9710"}"#,
                "metrics_beyond_loopback",
            ),
            (
                r#"{"metrics_address":"[::ffff:10.0.0.1]:9710"}"#,
                "metrics_beyond_loopback",
            ),
            (
                r#"{"pull_progress_timeout":0}"#,
                "cri.pull_progress_timeout",
            ),
            (r#"{"stream_idle_timeout":0}"#, "cri.stream_idle_timeout"),
            (
                r#"{"stream_idle_timeout":31536001}"#,
                "cri.stream_idle_timeout",
            ),
            (r#"{"stream_address":"localhost"}"#, "invalid IP address"),
            (r#"{"stream_address":"0.0.0.0"}"#, "cri.stream_address"),
            (r#"{"stream_address":"::"}"#, "cri.stream_address"),
            (r#"{"stream_port":65536}"#, "u16"),
            (r#"{"stream_tls":true}"#, "expected struct"),
            (r#"{"stream_tls":{"certificate":"/c"}}"#, "missing field"),
            (
                r#"{"stream_tls":{"certificate":"/c","key":"/k","ca":"/a"}}"#,
                "unknown field",
            ),
            (
                r#"{"stream_tls":{"certificate":"c","key":"/k"}}"#,
                "cri.stream_tls",
            ),
            (
                r#"{"stream_tls":{"certificate":"/c","key":"k"}}"#,
                "cri.stream_tls",
            ),
            (r#"{"criu":"criu"}"#, "cri.criu"),
            (r#"{"nri":{"enabled":true}}"#, "unknown field"),
            (r#"{"nri":{"socket":"nri.sock"}}"#, "cri.nri"),
            (r#"{"nri":{"request_timeout":0}}"#, "cri.nri"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        for (text, expected) in [
            ("{}", None),
            (r#"{"metrics_address":"127.1.2.3:1"}"#, Some("127.1.2.3:1")),
            (r#"{"metrics_address":"[::1]:9710"}"#, Some("[::1]:9710")),
            (
                r#"{"metrics_address":"10.0.0.1:9710","metrics_beyond_loopback":true}"#,
                Some("10.0.0.1:9710"),
            ),
        ] {
            let found = read(text).unwrap().metrics().unwrap();
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{text}");
        }
        let settings = read(r#"{"listen":"/run/a.sock","pinned":["pause:3"]}"#).unwrap();
        assert_eq!(settings.socket().unwrap(), PathBuf::from("/run/a.sock"));
        let pinned = settings.pinned().unwrap();
        assert_eq!(pinned[0].to_string(), "docker.io/library/pause:3");
    }
}
