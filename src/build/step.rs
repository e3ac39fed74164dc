//! `rcrun build-step DIRECTORY`: the process of one `RUN` step. Started by builds, not by people.
//!
//! It reads what to do from its standard input, takes a mount namespace of its own, mounts what the step
//! needs below its directory, and runs a container whose root is the layer being made. Its mounts go with
//! it, however it ends.

mod mounts;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rcrun_builder::runner::RunStep;
use rcrun_image::accounts::accounts;
use rcrun_image::document::Config;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::snapshot::{Mounting, Stack};
use rcrun_overlay::store::Store;
use rcrun_runtime::container::{CgroupDriver, CreateOptions};
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rcrun_runtime::template::capabilities::of_mask;
use rcrun_runtime::template::{cdi, machine};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::stubs::Stubs;
use crate::containers::flags::ContainerFlags;
use crate::containers::make::{self, DEEP_READ_ONLY};
use crate::containers::spec::{self, Around, Asked, Facts, Networks, Place};
use crate::settings::Settings;
use crate::verbs::Run;

/// The file that says how it ended.
pub(super) const RESULT: &str = "result.json";
/// The longest description of a step: its secrets are in it.
const STEP_LIMIT: u64 = 256 << 20;

/// run one step of a build
#[derive(Debug, clap::Parser)]
#[command(name = "build-step", disable_help_flag = true)]
pub(crate) struct BuildStep {
    /// descriptor from which the step is read (default: standard input)
    #[arg(long)]
    step_fd: Option<i32>,
    directory: PathBuf,
}

/// How it ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The program ran.
    Ended {
        /// Its exit code.
        code: i32,
        /// The kernel killed something in it for lack of memory.
        out_of_memory: bool,
    },
    /// It could not be run.
    Failed {
        /// Why.
        text: String,
        /// What to do.
        hint: Option<String>,
    },
}

impl Run for BuildStep {
    fn run(self, settings: &Settings) -> Result<u8> {
        let directory = std::path::absolute(&self.directory)
            .context(|| format!("cannot resolve {}", self.directory.display()))?;
        let outcome = match (Worker {
            settings,
            directory: &directory,
            step_fd: self.step_fd,
        })
        .run()
        {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed {
                text: error.chain().to_string(),
                hint: error.hint().map(str::to_owned),
            },
        };
        let text = serde_json::to_vec(&outcome)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
        let path = directory.join(RESULT);
        let temporary = directory.join("result.new");
        let written =
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path));
        written.context(|| format!("cannot write {}", path.display()))?;
        Ok(0)
    }
}

struct Worker<'a> {
    settings: &'a Settings,
    directory: &'a Path,
    step_fd: Option<i32>,
}

impl Worker<'_> {
    fn run(&self) -> Result<Outcome> {
        let (step, lifeline) = receive(self.step_fd)?;
        apart()?;
        // Only now: overlayfs takes layers from the mount namespace of who asks.
        let store = Store::open(&step.store)?;
        store.trust_unsynced();
        let how = Mounting {
            volatile: true,
            ..Mounting::default()
        };
        let layers = Layers::new(&store)?;
        let root = layers.mount_built(&step.layer, &step.below, step.marks(), &how)?;
        let mounts = self.mounts(&store, &step)?;
        let config = self.config(&store, &step, mounts)?;
        let targets: Vec<String> = destinations(&config);
        let stubs = Stubs::note(root.as_fd(), targets.iter().map(String::as_str));
        self.write(
            "config.json",
            &serde_json::to_vec(&config).unwrap_or_default(),
        )?;
        self.make("rootfs")?;
        let id = self
            .directory
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let root = Arc::new(root);
        let options = CreateOptions {
            bundle: self.directory.to_owned(),
            root: Some(Arc::clone(&root)),
            lifeline: Some(Arc::new(lifeline)),
            keep: true,
            ..CreateOptions::default()
        };
        let runtime = &self.settings.runtime;
        let ran = runtime.run(id, &options);
        let out_of_memory = runtime
            .oom_kills(id)
            .is_ok_and(|kills| kills.is_some_and(|kills| kills > 0));
        let deleted = runtime.delete(id, true);
        stubs.clean(root.as_fd());
        let code = ran?;
        deleted?;
        Ok(Outcome::Ended {
            code,
            out_of_memory,
        })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        std::fs::write(&path, bytes).context(|| format!("cannot write {}", path.display()))
    }

    fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::create_dir(&path).context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    fn config(&self, store: &Store, step: &RunStep, mounts: Vec<Value>) -> Result<Value> {
        let cwd = std::env::current_dir().context(|| "cannot read the current directory")?;
        let cdi: Vec<&Path> = cdi::DIRECTORIES.iter().map(Path::new).collect();
        let around = Around {
            cwd: &cwd,
            variable: &|_| None,
            swap: make::limits_swap(),
            cdi: &cdi,
            networks: &Networks {
                default: Place::Nothing,
                ..Networks::default()
            },
        };
        let asked = Asked::read(&flags(step), &step.args, &around)?;
        let kernel = machine::kernel();
        let rootless = crate::rootless::facts()?;
        let stack = Stack::open(store, &step.below, step.marks())?;
        let facts = Facts {
            id: self
                .directory
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            name: "build".to_owned(),
            hostname: step.limits.hostname.clone(),
            capabilities: of_mask(machine::own_capabilities()?),
            kernel,
            cgroup2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            systemd: self.settings.runtime.cgroup_driver == CgroupDriver::Systemd,
            deep_read_only: kernel >= DEEP_READ_ONLY,
            accounts: accounts(&stack.lowers(), step.marks())
                .context(|| "cannot read its accounts")?,
            directory: self.directory.to_owned(),
            apparmor: make::default_profile(rootless.is_some()),
            rootless,
            ..Facts::default()
        };
        let of_host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let files = spec::file_texts(
            &asked,
            &facts,
            &of_host("/etc/hosts"),
            &of_host("/etc/resolv.conf"),
        );
        let mut hosts = files.hosts;
        let hostname = &step.limits.hostname;
        if !hosts.split_whitespace().any(|word| word == hostname) {
            // Programs look their machine's name up, also where it has the host's network.
            hosts.push_str(&format!("127.0.0.1\t{hostname}\n"));
        }
        for (name, text) in [
            ("hostname", files.hostname),
            ("hosts", hosts),
            ("resolv.conf", files.resolv_conf),
        ] {
            self.write(name, text.as_bytes())?;
            let path = self.directory.join(name);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
                .context(|| format!("cannot set the mode of {}", path.display()))?;
        }
        let mut config = spec::config(&asked, &facts, &Config::default())?;
        config["process"]["env"] = json!(step.env);
        if let Some(all) = config["mounts"].as_array_mut() {
            all.extend(mounts);
        }
        Ok(config)
    }
}

/// The step as flags of `run`.
fn flags(step: &RunStep) -> ContainerFlags {
    let limits = &step.limits;
    let hostname = Some(limits.hostname.clone()).filter(|name| !name.is_empty());
    ContainerFlags {
        tty: step.terminal,
        user: Some(step.user.clone()).filter(|user| !user.is_empty()),
        workdir: Some(step.directory.clone()),
        network: vec![if step.network { "host" } else { "none" }.to_owned()],
        hostname,
        uts: Some("private".to_owned()),
        add_host: limits.hosts.clone(),
        dns: limits.dns.clone(),
        shm_size: limits.shm_size.clone(),
        ulimit: limits.ulimits.clone(),
        memory: limits.memory.clone(),
        memory_swap: limits.memory_swap.clone(),
        cpus: limits.cpus.clone(),
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        cgroup_parent: limits.cgroup_parent.clone(),
        cap_add: limits.cap_add.clone(),
        cap_drop: limits.cap_drop.clone(),
        security_opt: limits.security_opt.clone(),
        privileged: step.insecure,
        device: step.devices.clone(),
        ..ContainerFlags::default()
    }
}

fn destinations(config: &Value) -> Vec<String> {
    let mounts = config["mounts"].as_array();
    let all = mounts.into_iter().flatten();
    let mut all: Vec<String> = all
        .filter_map(|mount| Some(mount.get("destination")?.as_str()?.to_owned()))
        .collect();
    all.push("/dev".to_owned());
    all
}

/// The step, and a descriptor that hangs up when it is called off.
fn receive(fd: Option<i32>) -> Result<(RunStep, OwnedFd)> {
    let context = || "cannot read the step";
    let input = match fd {
        None => rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3).context(context)?,
        Some(fd) => {
            // By its name: what the number stands for is the caller's word.
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let path = format!("/proc/self/fd/{fd}");
            rustix::fs::open(&*path, flags, Mode::empty()).context(context)?
        }
    };
    let mut stream = File::from(input.try_clone().context(context)?);
    let mut length = [0; 8];
    stream.read_exact(&mut length).context(context)?;
    let length = u64::from_le_bytes(length);
    if length > STEP_LIMIT {
        return Err(Error::invalid(format!(
            "the step takes more than {STEP_LIMIT} bytes"
        )))
        .context(context);
    }
    let mut text = Vec::new();
    (&mut stream)
        .take(length)
        .read_to_end(&mut text)
        .context(context)?;
    let step = serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(e.to_string()))
        .context(context)?;
    if fd.is_some() {
        return Ok((step, input));
    }
    // The container gets nothing to read.
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).context(|| "cannot close standard input")?;
    Ok((step, input))
}

/// Takes a mount namespace of our own, from which nothing comes back.
fn apart() -> Result<()> {
    let context = || "cannot make a mount namespace";
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context(context)?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context(context)
}
