//! `rcrun build`: the flags of `docker build`, and what it has besides.

use rcrun_image::platform::Platform;
use rcrun_runtime::error::{Error, Result};

use super::{Count, Verb};
use crate::build::{job, step};
use crate::settings::Settings;

pub(super) const VERB: Verb =
    Verb::people::<Build>("build", Count::Exactly(1), USAGE).fails_as("", 1);

/// The process of one step.
pub(super) const STEP: Verb =
    Verb::new::<step::BuildStep>("build-step", Count::Exactly(1), "<directory>")
        .enters_container()
        .hidden();

const USAGE: &str = "CONTEXT

CONTEXT is a directory, the URL of a git repository (#REF:SUBDIRECTORY may follow) or
of a tar archive, or - for a Dockerfile or an archive on standard input.";

/// build an image from a Dockerfile
#[derive(Debug, Default, clap::Parser)]
#[command(name = "build", disable_help_flag = true)]
pub(crate) struct Build {
    /// the Dockerfile (default: Dockerfile in the context; - for standard input)
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// name of the image
    #[arg(long, short, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// stage to build (default: the last)
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// build for these platforms: OS/ARCHITECTURE[/VARIANT][,...]
    #[arg(long, value_name = "PLATFORMS", value_delimiter = ',')]
    pub(crate) platform: Vec<Platform>,
    /// value of an ARG; without one it is taken from rcrun's own environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// what a name means in FROM and --from: NAME=DIRECTORY, =docker-image://IMAGE, =oci-layout://DIR, =target:STAGE
    #[arg(long, value_name = "NAME=CONTEXT")]
    pub(crate) build_context: Vec<String>,
    /// label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// annotation: of each manifest, or of what is said: manifest[PLATFORM]:, manifest-descriptor:, index:
    #[arg(long, value_name = "[PLACE:]NAME=VALUE")]
    pub(crate) annotation: Vec<String>,

    /// secret for RUN --mount=type=secret: id=ID[,src=FILE|,env=NAME]
    #[arg(long, value_name = "id=ID,...")]
    pub(crate) secret: Vec<String>,
    /// SSH agent for RUN --mount=type=ssh, or private keys: ID[=SOCKET|KEY,...]
    #[arg(long, value_name = "ID[=SOCKET|KEY,...]")]
    pub(crate) ssh: Vec<String>,
    /// allow steps more: network.host, security.insecure, device[=NAME]
    #[arg(long, value_name = "ENTITLEMENT")]
    pub(crate) allow: Vec<String>,
    /// network of RUN: host (the default), or none
    #[arg(long, visible_alias = "net", value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
    /// name server of /etc/resolv.conf
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<String>,
    /// resource limit of RUN
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// size of /dev/shm (default 64m)
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,
    /// limit of memory of each RUN
    #[arg(long, short, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// limit of memory and swap together; -1: none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// number of CPUs of each RUN
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<String>,
    /// weight among others (1024 is normal)
    #[arg(long, short = 'c', value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<u64>,
    /// microseconds of a CPU period
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,
    /// microseconds of CPU time in a period
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// CPUs that may be used
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// parent of the cgroups of RUN
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,
    /// give RUN a capability
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_add: Vec<String>,
    /// take a capability from RUN
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_drop: Vec<String>,
    /// seccomp=FILE|unconfined, apparmor=PROFILE, label=...
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,

    /// do every step anew
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// do the steps of these stages anew
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// ask registries for newer base images
    #[arg(long)]
    pub(crate) pull: bool,
    /// take steps from the cache of another machine: REFERENCE, or type=registry|local,ref=...|src=...
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_from: Vec<String>,
    /// keep steps for other machines: type=registry|local|inline,ref=...|dest=...[,mode=min|max][,cache-mounts=true]
    #[arg(long, value_name = "CACHE")]
    pub(crate) cache_to: Vec<String>,
    /// afterwards the cache has no more than this: what was not used for longest goes
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_limit: Option<String>,
    /// open a shell in the files of a step that fails
    #[arg(long)]
    pub(crate) debug: bool,
    /// say why steps are done instead of taken from the cache
    #[arg(long)]
    pub(crate) explain: bool,

    /// where the result goes: DIRECTORY, -, or type=image|oci|docker|tar|local|registry,dest=...
    #[arg(long, short, value_name = "DEST")]
    pub(crate) output: Vec<String>,
    /// push the image to the registry of its name
    #[arg(long)]
    pub(crate) push: bool,
    /// keep the image in the store (the default)
    #[arg(long)]
    pub(crate) load: bool,
    /// attest what the image was made from: true, or mode=min|max,builder-id=...,times=true (default: not)
    #[arg(long, value_name = "FIELDS")]
    pub(crate) provenance: Option<String>,
    /// attest which packages the image has
    #[arg(long, value_name = "BOOL")]
    pub(crate) sbom: Option<String>,
    /// the same in other words: type=provenance,... or type=sbom
    #[arg(long, value_name = "type=TYPE,...")]
    pub(crate) attest: Vec<String>,
    /// make one layer of all that this build adds to its base
    #[arg(long)]
    pub(crate) squash: bool,
    /// media types of the image: oci (the default) or docker
    #[arg(long, value_name = "FORMAT", value_parser = ["oci", "docker"])]
    pub(crate) format: Option<String>,
    /// latest time of files and of the image, seconds since 1970 (default: SOURCE_DATE_EPOCH, or that of the base image)
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) timestamp: Option<i64>,
    /// write the image's identifier to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<String>,
    /// write what was built to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<String>,
    /// take credentials from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<String>,

    /// say what is odd about the Dockerfile, and build nothing
    #[arg(long)]
    pub(crate) check: bool,
    /// ask about the Dockerfile: check, outline, targets, describe, or build (the default)
    #[arg(long, value_name = "METHOD[,format=json]")]
    pub(crate) call: Option<String>,
    /// print what the Dockerfile says, as JSON: ast, outline, targets or lint
    #[arg(long, value_name = "WHAT")]
    pub(crate) print: Option<String>,

    /// auto (the default), plain, tty, rawjson or quiet
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    pub(crate) progress: String,
    /// print nothing but the image's identifier
    #[arg(long, short)]
    pub(crate) quiet: bool,

    /// docker's: means nothing here
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) rm: Option<String>,
    /// docker's: means nothing here
    #[arg(long, hide = true)]
    pub(crate) force_rm: bool,
    /// docker's: the builder reads what it needs
    #[arg(long, hide = true)]
    pub(crate) compress: bool,

    #[arg(required = true)]
    pub(crate) context: String,
}

impl super::Run for Build {
    fn run(self, settings: &Settings) -> Result<u8> {
        if self.quiet && self.progress != "auto" {
            return Err(Error::invalid("--quiet and --progress exclude each other"));
        }
        job::build(&self, settings)
    }
}
