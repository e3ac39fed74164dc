//! The flags of `build`, understood.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rcrun_builder::context::credentials::Credentials;
use rcrun_builder::graph::{SOURCE_DATE_EPOCH, Wanted};
use rcrun_builder::runner::Limits;
use rcrun_builder::solve;
use rcrun_image::platform::Platform;
use rcrun_image::reference::Reference;
use rcrun_image::transport;
use rcrun_runtime::error::{Context, Error, Result};

use super::annotations::Annotations;
use super::destination::{self, How, Output};
use super::repository::{self, Wishes};
use super::{agents, arguments, attest, caches, outputs};
use crate::verbs::build::Build;

/// The name of the machine that steps see. BuildKit's, for Dockerfiles that depend on it.
const HOSTNAME: &str = "buildkitsandbox";
/// What `RUN --mount=type=cache` is counted in, unless the build says otherwise.
const NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// The flags, understood.
pub(super) struct Asked {
    pub(super) wanted: Wanted,
    pub(super) contexts: BTreeMap<String, String>,
    pub(super) settings: solve::Settings,
    /// What answers steps that want an SSH agent.
    pub(super) agents: agents::Known,
    pub(super) outputs: Vec<(Output, How)>,
    pub(super) names: Vec<Reference>,
    pub(super) docker: bool,
    pub(super) annotations: Annotations,
    pub(super) platforms: Vec<Platform>,
    pub(super) cache_from: Vec<transport::Location>,
    pub(super) cache_to: Vec<caches::To>,
    pub(super) attest: attest::Wanted,
    /// What is known of the repository that a local context lies in.
    pub(super) repository: BTreeMap<String, String>,
    /// An index is wanted, also of one platform.
    pub(super) several: bool,
}

impl Asked {
    pub(super) fn read(flags: &Build) -> Result<Self> {
        let arguments = given(flags)?;
        let mut settings = solve::Settings {
            epoch: flags.timestamp,
            explain: flags.explain,
            debug: flags.debug,
            limits: limits(flags),
            ..solve::Settings::default()
        };
        if let Some(name) = arguments.get("BUILDKIT_SANDBOX_HOSTNAME") {
            settings.limits.hostname.clone_from(name);
        }
        settings.git.keep_git_dir = is_set(&arguments, "BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        let several = is_set(&arguments, "BUILDKIT_MULTI_PLATFORM");
        let mut known = agents::Known::new();
        grant(flags, &mut settings, &mut known)?;
        let mut outputs = Vec::new();
        for text in &flags.output {
            outputs.push(destination::output(text).context(|| format!("--output {text}"))?);
        }
        let names = flags.tag.iter().map(|tag| tag.parse::<Reference>());
        let names = names.collect::<Result<Vec<_>>>().context(|| "--tag")?;
        adjust(flags, &names, &mut outputs)?;
        let (annotations, attest) = about(flags, &arguments)?;
        let docker = flags.format.as_deref() == Some("docker");
        let images: Vec<bool> = outputs
            .iter()
            .filter(|(output, _)| outputs::is_image(output))
            .map(|(_, how)| how.docker.unwrap_or(docker))
            .collect();
        let places = outputs
            .iter()
            .any(|(output, _)| outputs::has_statements(output));
        attest::check(&attest, places, images.contains(&true))?;
        let cache_to = each("--cache-to", &flags.cache_to, caches::to)?;
        if flags.squash && caches::inline(&cache_to) {
            return Err(Error::invalid(
                "--squash and --cache-to type=inline exclude each other: there are no layers of steps",
            )
            .with_hint("use type=registry or type=local"));
        }
        let none = |_: &str| None;
        let mut platforms: Vec<Platform> = Vec::new();
        for platform in &flags.platform {
            if !platforms.contains(platform) {
                platforms.push(platform.clone());
            }
        }
        let contexts = arguments::pairs(&flags.build_context, &none);
        let contexts = contexts.context(|| "--build-context")?;
        let wishes = Wishes::read(&|name| std::env::var(name).ok())?;
        let wishes = wishes.heard(attest.any() || flags.metadata_file.is_some());
        let told = repository::told(wishes, &flags.context, flags.file.as_deref(), &contexts);
        let mut labels = told.labels;
        labels.extend(arguments::pairs(&flags.label, &none).context(|| "--label")?);
        Ok(Self {
            wanted: Wanted {
                target: flags.target.clone(),
                cache_namespace: arguments.get(NAMESPACE).cloned().unwrap_or_default(),
                arguments,
                labels,
                no_cache: flags.no_cache,
                no_cache_filter: flags.no_cache_filter.clone(),
                ..Wanted::default()
            },
            contexts,
            settings,
            agents: known,
            outputs,
            names,
            docker,
            annotations,
            platforms,
            cache_from: each("--cache-from", &flags.cache_from, caches::from)?,
            cache_to,
            attest,
            repository: told.hints,
            several,
        })
    }
}

impl Asked {
    /// The agent that git asks, at a socket in this directory: the one that is called `default`.
    pub(super) fn agent_of_git(
        &self,
        directory: &Path,
    ) -> Result<(agents::Agents, Option<PathBuf>)> {
        match self.agents.get(Path::new(agents::DEFAULT)) {
            Some(agent) => agents::Agents::of_git(agent, directory),
            None => Ok((agents::Agents::new()?, None)),
        }
    }
}

/// `--build-arg`, and what a variable of ours says for one that everybody means the same by.
fn given(flags: &Build) -> Result<BTreeMap<String, String>> {
    let variable = |name: &str| std::env::var(name).ok();
    let mut all = arguments::pairs(&flags.build_arg, &variable).context(|| "--build-arg")?;
    let own = variable(SOURCE_DATE_EPOCH).filter(|text| !text.is_empty());
    if let Some(text) = own {
        all.entry(SOURCE_DATE_EPOCH.to_owned()).or_insert(text);
    }
    Ok(all)
}

/// Whether an argument says yes, in one of the ways that Go takes for that.
fn is_set(arguments: &BTreeMap<String, String>, name: &str) -> bool {
    let value = arguments.get(name).map(String::as_str);
    matches!(value, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// What steps get that is not for all: secrets, agents, entitlements, the network.
fn grant(flags: &Build, settings: &mut solve::Settings, known: &mut agents::Known) -> Result<()> {
    for text in &flags.secret {
        let (id, secret) = arguments::secret(text).context(|| format!("--secret {text}"))?;
        settings.secrets.insert(id, secret);
    }
    let secrets = settings.secrets.iter();
    let credentials = secrets.map(|(id, secret)| (id.as_str(), secret.0.as_slice()));
    settings.git.credentials = Credentials::among(credentials);
    for text in &flags.ssh {
        let (id, agent) = agents::asked(text).context(|| format!("--ssh {text}"))?;
        let path = PathBuf::from(&id);
        if known.insert(path.clone(), agent).is_some() {
            return Err(Error::invalid(format!(
                "--ssh {text}: there is another {id:?}"
            )));
        }
        settings.agents.insert(id, path);
    }
    for text in &flags.allow {
        match text.split_once('=').unwrap_or((text, "")) {
            ("network.host", "") => settings.allow_network = true,
            ("security.insecure", "") => settings.allow_insecure = true,
            ("device", name) => settings.allow_devices.push(name.to_owned()),
            _ => {
                let text = format!("unknown entitlement {text:?} for --allow");
                return Err(
                    Error::invalid(text).with_hint("use network.host, security.insecure or device")
                );
            }
        }
    }
    match flags.network.as_deref() {
        None | Some("default" | "host") => {}
        Some("none") => settings.no_network = true,
        Some(other) => {
            let text = format!("invalid value {other:?} for --network");
            return Err(Error::invalid(text).with_hint("use host or none"));
        }
    }
    Ok(())
}

/// What is said about the image.
fn about(
    flags: &Build,
    arguments: &BTreeMap<String, String>,
) -> Result<(Annotations, attest::Wanted)> {
    let mut annotations = Annotations::default();
    for text in &flags.annotation {
        let added = annotations.flag(text);
        added.context(|| format!("--annotation {text}"))?;
    }
    let mut attest = attest::Wanted::default();
    attest.arguments(arguments)?;
    for text in &flags.attest {
        attest.flag(text).context(|| format!("--attest {text}"))?;
    }
    if let Some(text) = &flags.provenance {
        let read = attest.provenance(text);
        read.context(|| format!("--provenance {text}"))?;
    }
    if let Some(text) = &flags.sbom {
        attest.sbom(text).context(|| format!("--sbom {text}"))?;
    }
    Ok((annotations, attest))
}

/// What `--push` and `--load` mean for outputs; nothing said means the store. Two images cannot have one
/// name.
fn adjust(flags: &Build, names: &[Reference], outputs: &mut Vec<(Output, How)>) -> Result<()> {
    let is_image = |output: &Output| matches!(output, Output::Image { .. });
    let has_image = outputs.iter().any(|(output, _)| is_image(output));
    if !has_image && (outputs.is_empty() || flags.load || flags.push) {
        let image = Output::Image {
            names: Vec::new(),
            push: false,
            by_digest: false,
        };
        outputs.push((image, How::default()));
    }
    let mut seen: Vec<(Reference, usize)> = Vec::new();
    for (index, (output, _)) in outputs.iter_mut().enumerate() {
        let Output::Image {
            names: own,
            push,
            by_digest,
        } = output
        else {
            continue;
        };
        *push |= flags.push;
        let own: Vec<Reference> = match own.as_slice() {
            [] => names.to_vec(),
            own => own
                .iter()
                .map(|name| name.parse())
                .collect::<Result<_>>()
                .context(|| "the name of an output")?,
        };
        if *push && own.is_empty() {
            return Err(Error::invalid("a push needs a name").with_hint("give --tag NAME"));
        }
        if *by_digest {
            continue;
        }
        for name in own {
            if seen.iter().any(|(other, _)| *other == name) {
                return Err(Error::invalid(format!(
                    "two outputs of type image would both be {name}"
                ))
                .with_hint("give each its name=NAME"));
            }
            seen.push((name, index));
        }
    }
    Ok(())
}

/// A flag that may be given several times.
fn each<T>(flag: &str, all: &[String], read: fn(&str) -> Result<T>) -> Result<Vec<T>> {
    let one = |text: &String| read(text).context(|| format!("{flag} {text}"));
    all.iter().map(one).collect()
}

fn limits(flags: &Build) -> Limits {
    Limits {
        hosts: flags
            .add_host
            .iter()
            .map(|line| line.replacen('=', ":", 1))
            .collect(),
        shm_size: flags.shm_size.clone(),
        ulimits: flags.ulimit.clone(),
        memory: flags.memory.clone(),
        memory_swap: flags.memory_swap.clone(),
        cpus: flags.cpus.clone(),
        cpu_shares: flags.cpu_shares,
        cpu_period: flags.cpu_period,
        cpu_quota: flags.cpu_quota,
        cpuset_cpus: flags.cpuset_cpus.clone(),
        cpuset_mems: flags.cpuset_mems.clone(),
        cgroup_parent: flags.cgroup_parent.clone(),
        hostname: HOSTNAME.to_owned(),
        dns: flags.dns.clone(),
        cap_add: flags.cap_add.clone(),
        cap_drop: flags.cap_drop.clone(),
        security_opt: flags.security_opt.clone(),
    }
}
